# SPDX-License-Identifier: Apache-2.0
"""QEMU's machine protocol: JSON lines, one answer for each command, events in between.

Source: QEMU, docs/interop/qmp-spec.
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tests.integration.guest.linereader import LineReader

COMMAND_LIMIT_S = 30.0


class QmpError(AssertionError):
    """QEMU refused a command, or has hung up."""


@dataclass(slots=True)
class Qmp:
    """A monitor.

    Attributes:
        monitor: connected to QEMU's monitor in mode `control`; owned.
    """

    monitor: socket.socket
    _lines: LineReader = field(init=False)
    _events: deque[dict[str, Any]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._lines = LineReader(self.monitor)

    def negotiate(self) -> None:
        """Leave the mode in which QEMU takes no commands but this one."""
        if "QMP" not in self._message(time.monotonic() + COMMAND_LIMIT_S):
            raise QmpError("QEMU does not greet")
        self.execute("qmp_capabilities")

    def close(self) -> None:
        """Hang up."""
        self.monitor.close()

    def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """Give a command and return its answer.

        Raises:
            QmpError: QEMU refused it, did not answer, or has hung up.
        """
        deadline = time.monotonic() + COMMAND_LIMIT_S
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        request = json.dumps({"execute": command, "arguments": named})
        self.monitor.settimeout(COMMAND_LIMIT_S)
        try:
            self.monitor.sendall(request.encode())
        except OSError as error:
            raise QmpError(f"{command}: {error}") from error
        while True:
            message = self._message(deadline)
            if "error" in message:
                raise QmpError(f"{command}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]
            self._events.append(message)

    def wait_event(self, name: str, limit_s: float, **data: object) -> dict[str, Any]:
        """Wait for an event and return its data; those before it are forgotten.

        Args:
            data: what must be in it, too.

        Raises:
            QmpError: it did not come.
        """
        deadline = time.monotonic() + limit_s
        while True:
            event = self._events.popleft() if self._events else self._message(deadline)
            found: dict[str, Any] = event.get("data", {})
            if event.get("event") == name and data.items() <= found.items():
                return found

    def _message(self, deadline: float) -> dict[str, Any]:
        try:
            message: dict[str, Any] = json.loads(self._lines.read(deadline))
        except TimeoutError as error:
            raise QmpError("QEMU is silent") from error
        except EOFError as error:
            raise QmpError("QEMU has hung up") from error
        return message
