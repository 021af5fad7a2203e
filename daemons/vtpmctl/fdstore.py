# SPDX-License-Identifier: Apache-2.0
"""What a daemon has the supervisor keep for its next start: the store of sd_notify(3)."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, Sequence
from typing import Final

from daemons.runtime.daemon import SUPERVISOR
from daemons.runtime.inherited import VOLATILE
from daemons.vtpmctl.forkserver import FD_LIMIT

_OURS: Final = frozenset({SUPERVISOR, VOLATILE})
"""Descriptors that a daemon has from us in any case."""


class FdStore:
    """Descriptors of one daemon, by name; one for each."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        # Names of those that are dropped once their peer has hung up.
        self._watched: set[str] = set()

    def take(self, fields: Mapping[str, str], fds: Sequence[int]) -> None:
        """Do what a notification says.

        Args:
            fields: FDSTORE, FDSTOREREMOVE, FDNAME, FDPOLL; others do not matter.
            fds: what came along; ours from now on.
        """
        name = fields.get("FDNAME", "stored")
        if fields.get("FDSTOREREMOVE") == "1":
            self._drop(name)
        wanted = fields.get("FDSTORE") == "1" and name not in _OURS
        for fd in fds:
            if wanted and len(self._fds) < FD_LIMIT - len(_OURS):
                self._drop(name)
                self._fds[name] = fd
                if fields.get("FDPOLL", "1") == "1":
                    self._watched.add(name)
            else:
                os.close(fd)

    def fds(self) -> Mapping[str, int]:
        """Return what is to be handed over, without what has become of no use."""
        poll = select.poll()
        watched = {self._fds[name]: name for name in self._watched}
        for fd in watched:
            poll.register(fd, 0)  # POLLHUP and POLLERR are always told
        for fd, _events in poll.poll(0):
            self._drop(watched[fd])
        return self._fds

    def close(self) -> None:
        """Let everything go: the daemon is not started again."""
        for name in list(self._fds):
            self._drop(name)

    def _drop(self, name: str) -> None:
        fd = self._fds.pop(name, None)
        self._watched.discard(name)
        if fd is not None:
            os.close(fd)
