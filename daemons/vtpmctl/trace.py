# SPDX-License-Identifier: Apache-2.0
"""Following what a guest's TPM is asked: the streams of its vtpm and its front, as one.

Both daemons may go and come back; then this waits and goes on. What happened meanwhile nobody has
told, so it is said that there is a gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from daemons.runtime.control import Fields, NobodyAnswers, open_control_stream
from daemons.runtime.errors import DaemonError
from daemons.runtime.tracing import DROPPED, TRACE, ClientSpan, TracedCommand
from daemons.vtpmctl.attribution import Attributed, Attribution

RETRY_FIRST_S: Final = 0.05
RETRY_LAST_S: Final = 1.0
FRONT_WAIT_S: Final = 2.0
"""How long a command waits for the front to say whose it was."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The vtpm tells of its commands from now on."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The vtpm is gone, and what it does from now on is not known; it is waited for."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """So many commands are missing here, since they were not taken fast enough."""

    count: int


Entry = Attributed | Connected | Lost | Dropped
"""What there is to be shown, in order. Closed set; end a match over it with assert_never."""


@dataclass(frozen=True, slots=True)
class _FrontBegins:
    pid: int


@dataclass(frozen=True, slots=True)
class _FrontEnds:
    pass


_Heard = TracedCommand | ClientSpan | Connected | Lost | Dropped | _FrontBegins | _FrontEnds


async def follow(vtpm: Path, front: Path, out: trio.MemorySendChannel[Entry]) -> None:
    """Send everything that happens, until cancelled.

    Args:
        vtpm: control socket of the guest's vtpm.
        front: of its tpmfront. It need not be there: then nobody knows the clients.
        out: how fast it is taken is how fast the daemons are heard; what is too much they drop.

    Raises:
        DaemonError: a daemon does not want to tell.
    """
    # Of no length: as long as nobody takes what was heard, nothing more is.
    send, heard = trio.open_memory_channel[_Heard](0)
    async with trio.open_nursery() as nursery:
        attribution = Attribution()
        # The front first, so that the clients of the first commands are known.
        asked_front = trio.Event()
        nursery.start_soon(_hear_front, front, send, asked_front)
        nursery.start_soon(_hear_vtpm, vtpm, send, asked_front)
        # How long the first command that waits for the front still may. Time in which nobody takes
        # what is shown does not count: then the front is not heard either.
        left_s = FRONT_WAIT_S
        while True:
            entries: Iterator[Entry] | None = None
            began_s = trio.current_time()
            with trio.move_on_after(left_s if attribution.is_waiting else math.inf):
                one = await heard.receive()
                left_s = max(0.0, left_s - (trio.current_time() - began_s))
                entries = _entries(attribution, one)
            was_waiting = attribution.is_waiting
            has_shown = False
            for entry in attribution.give_up() if entries is None else entries:
                has_shown = True
                await out.send(entry)
            if has_shown or not was_waiting:
                left_s = FRONT_WAIT_S


def _entries(attribution: Attribution, heard: _Heard) -> Iterator[Entry]:
    """Give what there is to be shown once something was heard."""
    match heard:
        case TracedCommand():
            yield from attribution.add_command(heard)
        case ClientSpan():
            yield from attribution.add_span(heard)
        case _FrontBegins():
            attribution.front_begins(heard.pid)
        case _FrontEnds():
            yield from attribution.front_ends()
        case Connected() | Lost() | Dropped():
            # What came before them stays before them.
            yield from attribution.give_up()
            yield heard


async def _hear_vtpm(
    path: Path, send: trio.MemorySendChannel[_Heard], asked_front: trio.Event
) -> None:
    with trio.move_on_after(FRONT_WAIT_S):
        await asked_front.wait()
    delay_s = RETRY_FIRST_S
    while True:
        is_connected = False
        try:
            async with open_control_stream(path, TRACE) as stream:
                is_connected, delay_s = True, RETRY_FIRST_S
                await send.send(Connected())
                while True:
                    line = await stream.receive()
                    await send.send(_dropped(line) or TracedCommand.parse(line))
        except NobodyAnswers:
            if is_connected:
                await send.send(Lost())
        await trio.sleep(delay_s)
        delay_s = min(2 * delay_s, RETRY_LAST_S)


async def _hear_front(path: Path, send: trio.MemorySendChannel[_Heard], asked: trio.Event) -> None:
    """Hear a front as long as it tells. Who does not is no front that knows clients, such as the
    one of a kernel's device; then nobody is named."""
    delay_s = RETRY_FIRST_S
    while True:
        is_connected = False
        try:
            async with open_control_stream(path, TRACE) as stream:
                pid = stream.result.get("pid")
                if not isinstance(pid, int):
                    raise DaemonError(f"{path}: the answer is not of this protocol")
                is_connected, delay_s = True, RETRY_FIRST_S
                await send.send(_FrontBegins(pid))
                asked.set()
                while True:
                    line = await stream.receive()
                    if _dropped(line) is None:
                        await send.send(ClientSpan.parse(line))
        except DaemonError:
            if is_connected:
                await send.send(_FrontEnds())
        asked.set()
        await trio.sleep(delay_s)
        delay_s = min(2 * delay_s, RETRY_LAST_S)


def _dropped(line: Fields) -> Dropped | None:
    count = line.get(DROPPED)
    return Dropped(count) if isinstance(count, int) else None
