# SPDX-License-Identifier: Apache-2.0
"""Telling those who watch what a guest's TPM is asked and answers.

While nobody watches, nothing of this is on a command's way: `EngineHost.observer` and
`GuestService.observer` are None. While somebody does, a command and its response are kept as they
are until the watcher takes them; only then are they described, and only the description leaves this
process. So who watches costs a command next to nothing, and who is slow costs it nothing more. The
price is that what is secret in a command stays in this process's memory until then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from daemons.runtime.audience import Audience, Seat
from daemons.runtime.control import Fields
from daemons.runtime.errors import DaemonError
from daemons.runtime.host import EngineHost
from daemons.runtime.tracing import BATCH, DROPPED, FrontIdentity, TracedCommand
from daemons.vtpm.service import GuestService
from protocol.manager.constants import ManagementOrdinal, ManagerTag
from tpmcore.engine import HEADER_BYTES, Description, header_only

_TO_MANAGER: Final = frozenset({int(ManagerTag.REQ), int(ManagerTag.REQ2)})


@dataclass(frozen=True, slots=True)
class _Heard:
    """A command as it was."""

    command: bytes = field(repr=False)
    response: bytes = field(repr=False)
    locality: int
    front: FrontIdentity | None
    unix_time: float
    ended_ns: int
    elapsed_ns: int


class Trace:
    """All watchers of one guest's TPM, from before it serves."""

    def __init__(self) -> None:
        self._audience: Audience[_Heard] = Audience(self._changed)
        self._host: EngineHost | None = None
        self._service: GuestService | None = None

    def attach_host(self, host: EngineHost) -> None:
        """Hear of the commands that are executed."""
        self._host = host
        self._changed(self._audience.is_there)

    def attach_service(self, service: GuestService) -> None:
        """Hear of what is answered without the TPM, and whose commands the others are."""
        self._service = service
        self._changed(self._audience.is_there)

    def open(self, args: Fields) -> TraceStream:
        """Begin a stream; the verb "trace".

        Raises:
            DaemonError: there are too many watchers, or arguments.
        """
        if args:
            raise DaemonError(f"unknown arguments: {', '.join(sorted(args))}")
        return TraceStream(self._audience.join(), self._describe)

    def _changed(self, is_watched: bool) -> None:
        if self._host is not None:
            self._host.observer = self._executed if is_watched else None
        if self._service is not None:
            self._service.observer = self._answered if is_watched else None

    def _describe(self, command: bytes, response: bytes) -> Description:
        if self._host is None or int.from_bytes(command[:2], "big") in _TO_MANAGER:
            return describe_for_manager(command, response)
        return self._host.describe(command, response)

    def _executed(self, command: bytes, locality: int, response: bytes, elapsed_ns: int) -> None:
        front = None if self._service is None else self._service.front_at_work()
        self._answered(command, locality, response, elapsed_ns, front)

    def _answered(
        self,
        command: bytes,
        locality: int,
        response: bytes,
        elapsed_ns: int,
        front: FrontIdentity | None,
    ) -> None:
        self._audience.tell(
            _Heard(
                command,
                response,
                locality,
                front,
                time.time(),
                time.monotonic_ns(),
                elapsed_ns,
            )
        )


class TraceStream:
    """What one watcher is sent (`daemons.runtime.control.Stream`)."""

    def __init__(self, seat: Seat[_Heard], describe: Callable[[bytes, bytes], Description]) -> None:
        self._seat = seat
        self._describe = describe

    @property
    def result(self) -> Fields:
        """Nothing."""
        return {}

    async def next(self) -> Sequence[Fields]:
        """Wait for commands."""
        heard, missed = await self._seat.next(BATCH)
        lines = [self._line(one) for one in heard]
        return [*lines, {DROPPED: missed}] if missed else lines

    def close(self) -> None:
        """Watch no more."""
        self._seat.leave()

    def _line(self, heard: _Heard) -> Fields:
        return TracedCommand(
            self._describe(heard.command, heard.response),
            heard.locality,
            heard.front,
            heard.unix_time,
            heard.ended_ns,
            heard.elapsed_ns / 1e3,
        ).fields()


def describe_for_manager(command: bytes, response: bytes) -> Description:
    """Describe what the manager was asked and answered: no more than the headers."""
    tag = int.from_bytes(command[:2], "big")
    ordinal, code = (int.from_bytes(part[6:HEADER_BYTES], "big") for part in (command, response))
    name = f"hardware TPM {ordinal:#x}"
    if tag == ManagerTag.REQ2:
        try:
            name = f"manager {ManagementOrdinal(ordinal).name}"
        except ValueError:
            name = f"manager {ordinal:#x}"
    return Description(
        command=name,
        code="SUCCESS" if code == 0 else f"{code:#x}",
        parameters=(),
        results=(),
        sessions=(),
        shown_command=header_only(command),
        shown_response=header_only(response),
    )
