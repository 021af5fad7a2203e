# SPDX-License-Identifier: Apache-2.0
"""A supervisor's store of descriptors, for tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from daemons.runtime.notify import Notifier


class Supervisor:
    """Keeps what it is asked to keep."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.notifier = Notifier(str(path))
        self.kept: dict[str, int] = {}

    def take(self) -> Mapping[str, list[int]]:
        """Return copies of what is kept, for the next process."""
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            except BlockingIOError:
                break
            fields = dict(line.split("=", 1) for line in message.decode().splitlines())
            if "FDSTORE" in fields:
                (self.kept[fields["FDNAME"]],) = fds
            elif "FDSTOREREMOVE" in fields:
                os.close(self.kept.pop(fields["FDNAME"]))
        return {name: [os.dup(fd)] for name, fd in self.kept.items()}

    def close(self) -> None:
        """Let everything go."""
        for fds in self.take().values():
            os.close(fds[0])
        for fd in self.kept.values():
            os.close(fd)
        self._socket.close()
