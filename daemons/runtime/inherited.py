# SPDX-License-Identifier: Apache-2.0
"""Descriptors that the supervisor hands over at exec: sd_listen_fds(3), by systemd or `vtpmctl up`.

They begin at 3, LISTEN_FDS of them, named in order by LISTEN_FDNAMES (colons between), and are
meant for the process whose id is LISTEN_PID. Names in use: "volatile" (a memfd for
`VolatileMemory.adopt`), "supervisor" (a pipe whose end of file means: shut down), and the names
under which `Listeners.listen` is asked for a socket that listens already: "control" in every
daemon, "locality0" to "locality4" in hwtpm, "backend" in vtpmmgr and vtpm, "admin" in vtpmmgr,
"tpm", "ctrl" and "tcp" in tpmfront.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence

from daemons.runtime.errors import DaemonError

FIRST_FD = 3
VOLATILE = "volatile"
BACKEND = "backend"
"""A listener of the split driver."""
ADMIN = "admin"
"""The listener for management commands, in vtpmmgr."""
UNNAMED = "unknown"
"""What sd_listen_fds_with_names(3) calls a descriptor without a name."""

_LIMIT = 1024


def inherited_fds(environ: MutableMapping[str, str] | None = None) -> Mapping[str, Sequence[int]]:
    """Return the descriptors meant for this process, by name; several may share one.

    The variables are removed, and the descriptors are not passed on to children of ours. Call it
    once, first thing.

    Raises:
        DaemonError: the variables contradict each other or name descriptors that are not open.
    """
    variables = os.environ if environ is None else environ
    pid = variables.pop("LISTEN_PID", None)
    count_text = variables.pop("LISTEN_FDS", None)
    names_text = variables.pop("LISTEN_FDNAMES", None)
    if pid is None or count_text is None or pid != str(os.getpid()):
        return {}
    count = int(count_text) if count_text.isdecimal() else -1
    if not 0 <= count <= _LIMIT:
        raise DaemonError(f"LISTEN_FDS={count_text!r} is no number of descriptors")
    names = names_text.split(":") if names_text else [UNNAMED] * count
    if len(names) != count:
        raise DaemonError(f"LISTEN_FDS={count}, but LISTEN_FDNAMES has {len(names)} names")
    found: dict[str, list[int]] = {}
    for fd, name in enumerate(names, start=FIRST_FD):
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            raise DaemonError(f"inherited descriptor {fd} ({name}) is not open") from error
        found.setdefault(name, []).append(fd)
    return found
