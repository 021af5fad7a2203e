# SPDX-License-Identifier: Apache-2.0
"""The host's end of the serial port over which the guest's first process runs scripts."""

from __future__ import annotations

import base64
import binascii
import itertools
import socket
import time
from dataclasses import dataclass, field

from tests.integration.guest.linereader import LineReader


class LineError(AssertionError):
    """The guest does not say what it should."""


@dataclass(slots=True)
class Line:
    """Lines of text to and from the guest.

    Attributes:
        port: connected to the guest's second serial port; owned.
    """

    port: socket.socket
    _lines: LineReader = field(init=False)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._lines = LineReader(self.port)

    def close(self) -> None:
        """Hang up."""
        self.port.close()

    def wait_ready(self, limit_s: float) -> float:
        """Wait until the guest's first process runs; gives the guest's uptime then, in seconds.

        Raises:
            LineError: it took longer, QEMU has ended, or the guest says something else.
        """
        words = self._read_line(limit_s).split()
        if len(words) != 2 or words[0] != "ready":
            raise LineError(f"the guest says {words} and not that it is ready")
        return float(words[1])

    def run(self, script: str, limit_s: float) -> tuple[int, bytes]:
        """Run a script for busybox's sh and return its exit code and what it wrote.

        Raises:
            LineError: as `wait_ready`.
        """
        number = self.send(script, limit_s)
        words = self._read_line(limit_s).split()
        try:
            answered, code = map(int, words[:2])
            output = base64.b64decode("".join(words[2:]), validate=True)
        except (ValueError, binascii.Error) as error:
            raise LineError(f"the guest says {words[:2]}, which is no answer") from error
        if answered != number:
            raise LineError(f"an answer to script {answered}, the last was {number}")
        return code, output

    def send(self, script: str, limit_s: float) -> int:
        """Have a script run whose end is not waited for, such as a reboot; gives its number."""
        number = next(self._numbers)
        self.port.settimeout(limit_s)
        try:
            self.port.sendall(b"%d %s\n" % (number, base64.b64encode(script.encode())))
        except OSError as error:
            raise LineError(f"the guest takes no script: {error}") from error
        return number

    def _read_line(self, limit_s: float) -> str:
        try:
            line = self._lines.read(time.monotonic() + limit_s)
        except TimeoutError as error:
            raise LineError(f"no word from the guest within {limit_s:g} s") from error
        except EOFError as error:
            raise LineError("QEMU has hung up") from error
        return line.decode("ascii", errors="replace").strip()
