# SPDX-License-Identifier: Apache-2.0
"""Becomes a vtpm that inherits descriptors as sd_listen_fds(3) has them.

    python -m daemons.tpmfront.compat.vtpm_start NAME=FD[,NAME=FD...] [option of vtpm]...

LISTEN_PID is the id of the process, which its parent cannot know before it exists.
"""

from __future__ import annotations

import fcntl
import os
import runpy
import sys

from daemons.runtime.inherited import FIRST_FD

MODULE = "daemons.vtpm"


def main() -> None:
    """Take the descriptors, then be the vtpm."""
    named = [pair.split("=") for pair in sys.argv[1].split(",")]
    # Out of the way first: a place may be another one's number.
    beyond = FIRST_FD + len(named)
    copies = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, beyond) for _name, fd in named]
    for place, copy in enumerate(copies, start=FIRST_FD):
        os.dup2(copy, place)
        os.close(copy)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(named))
    os.environ["LISTEN_FDNAMES"] = ":".join([name for name, _fd in named])
    sys.argv = ["vtpm", *sys.argv[2:]]
    runpy.run_module(MODULE, run_name="__main__")


if __name__ == "__main__":
    main()
