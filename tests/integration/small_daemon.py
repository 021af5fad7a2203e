# SPDX-License-Identifier: Apache-2.0
"""A daemon as the real ones are to the supervisor, with nothing inside but what a test puts there.

It takes its descriptors, runs the code of its first argument, says that it is ready, and ends on
SIGTERM or when the supervisor is gone; what happens it notes in the file of its second argument.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import NoReturn

from daemons.runtime.inherited import inherited_fds
from daemons.runtime.notify import Notifier


def main(args: list[str], prog_name: str) -> None:
    """Be the daemon; the code sees `note`, `fds`, `notifier` and the modules imported here."""
    code, journal = args
    fds = inherited_fds()
    notifier = Notifier.from_environ()

    def note(line: str) -> None:
        fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{line}\n".encode())
        os.close(fd)

    def stop(*_signal: object) -> NoReturn:
        note(f"stop {prog_name}")
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    exec(
        code,
        {"note": note, "fds": fds, "notifier": notifier, "os": os, "signal": signal, "sys": sys},
    )
    notifier.ready()
    # Again and again, for a signal between two instructions is only seen by the next one of Python:
    # one that comes just before a wait would be seen after it.
    while not select.select(fds["supervisor"], [], [], 0.05)[0]:
        pass
    note(f"orphan {prog_name}")
