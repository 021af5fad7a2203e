# SPDX-License-Identifier: Apache-2.0
"""Whole lines out of a socket, each awaited no longer than until a deadline."""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class LineReader:
    """What came in over a socket, line by line.

    Attributes:
        source: connected; not owned.
    """

    source: socket.socket
    _received: bytearray = field(default_factory=bytearray)

    def read(self, deadline: float) -> bytes:
        r"""Return the next line, without its `\n`.

        Args:
            deadline: when to give up, as `time.monotonic` counts.

        Raises:
            TimeoutError: no whole line came until then.
            EOFError: the other side has hung up.
        """
        while b"\n" not in self._received:
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([self.source], [], [], left_s)[0]:
                raise TimeoutError
            try:
                chunk = self.source.recv(65536)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                raise EOFError
            self._received += chunk
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        return line
