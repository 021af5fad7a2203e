# SPDX-License-Identifier: Apache-2.0
"""Following a guest's TPM: what comes of two daemons that come and go."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from daemons.runtime.control import Fields, serve_control
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.runtime.tracing import ClientIdentity, ClientSpan, TracedCommand
from daemons.vtpmctl.attribution import Attributed
from daemons.vtpmctl.trace import Connected, Dropped, Entry, Lost, follow
from tests.unit.vtpmctl.traced import ANN, FRONT, READ

QUIET = Log("test", sink=lambda _line: None)


class Script:
    """A stream of lines, which then waits."""

    def __init__(self, result: Fields, lines: Sequence[Fields]) -> None:
        self.result = result
        self._lines = list(lines)

    async def next(self) -> Sequence[Fields]:
        if not self._lines:
            await trio.sleep_forever()
        return [self._lines.pop(0)]

    def close(self) -> None:
        pass


@asynccontextmanager
async def telling(
    path: Path, lines: Sequence[Fields], result: Fields | None = None
) -> AsyncIterator[None]:
    """Have a daemon tell these lines to each who asks."""

    def opened(_args: Fields) -> Script:
        return Script(result or {}, lines)

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_control, path, {}, log=QUIET, streams={"trace": opened}))
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def following(folder: Path) -> AsyncIterator[trio.MemoryReceiveChannel[Entry]]:
    """Follow the daemons of a folder."""
    send, entries = trio.open_memory_channel[Entry](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, folder / "vtpm", folder / "front", send)
        with trio.fail_after(60):
            yield entries
        nursery.cancel_scope.cancel()


class Endless(Script):
    """A stream that tells its last line again and again."""

    async def next(self) -> Sequence[Fields]:
        if len(self._lines) == 1:
            await trio.sleep(0.01)
            return self._lines
        return await super().next()


async def test_a_command_whose_front_is_silent_waits_no_longer_for_others_that_come(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons.vtpmctl.trace.FRONT_WAIT_S", 0.2)
    another = replace(READ, front=replace(FRONT, pid=FRONT.pid + 1))
    vtpm = partial(
        serve_control,
        run_dir / "vtpm",
        {},
        log=QUIET,
        streams={"trace": lambda _args: Endless({}, [READ.fields(), another.fields()])},
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(vtpm)
        async with (
            telling(run_dir / "front", [], {"pid": FRONT.pid}),
            following(run_dir) as entries,
        ):
            assert await entries.receive() == Connected()
            assert await entries.receive() == Attributed(READ, None)
        nursery.cancel_scope.cancel()


async def test_the_streams_of_both_daemons_become_one(run_dir: Path) -> None:
    spans = [ClientSpan(ANN, 900, 1100).fields(), {"dropped": 2}]
    async with (
        telling(run_dir / "front", spans, {"pid": FRONT.pid}),
        telling(run_dir / "vtpm", [READ.fields(), {"dropped": 3}]),
        following(run_dir) as entries,
    ):
        assert [await entries.receive() for _ in range(3)] == [
            Connected(),
            Attributed(READ, ANN),
            Dropped(3),
        ]


async def test_without_a_front_nobody_knows_the_client(run_dir: Path) -> None:
    async with telling(run_dir / "vtpm", [READ.fields()]), following(run_dir) as entries:
        assert await entries.receive() == Connected()
        assert await entries.receive() == Attributed(READ, None)


@pytest.mark.parametrize("told", [[], [{"client": 3, "after_ns": 1, "until_ns": 2}]])
async def test_a_front_that_cannot_tell_is_no_reason_to_see_nothing(
    run_dir: Path, told: Sequence[Fields]
) -> None:
    async with (
        telling(run_dir / "front", told, {"pid": "x"} if not told else {"pid": FRONT.pid}),
        telling(run_dir / "vtpm", [READ.fields()]),
        following(run_dir) as entries,
    ):
        assert await entries.receive() == Connected()
        assert await entries.receive() == Attributed(READ, None)


async def test_a_front_that_says_nothing_delays_a_command_and_does_not_hide_it(
    run_dir: Path,
) -> None:
    async with (
        telling(run_dir / "front", [], {"pid": FRONT.pid}),
        telling(run_dir / "vtpm", [READ.fields()]),
        following(run_dir) as entries,
    ):
        assert await entries.receive() == Connected()
        assert await entries.receive() == Attributed(READ, None)


async def test_a_vtpm_that_goes_and_comes_back_is_picked_up_again(run_dir: Path) -> None:
    async with following(run_dir) as entries:
        for _ in range(2):
            async with telling(run_dir / "vtpm", [READ.fields()]):
                assert await entries.receive() == Connected()
                assert await entries.receive() == Attributed(READ, None)
            assert await entries.receive() == Lost()


@pytest.mark.parametrize(
    "told",
    [{"command": 1}, {**READ.fields(), "front": 3}, {**READ.fields(), "parameters": {"a": 1}}],
)
async def test_a_daemon_that_tells_something_else_is_of_another_version(
    run_dir: Path, told: Fields
) -> None:
    async def look() -> None:
        async with telling(run_dir / "vtpm", [told]), following(run_dir) as entries:
            await entries.receive()
            await entries.receive()

    with pytest.raises(ExceptionGroup) as raised:
        await look()
    assert raised.value.split(DaemonError)[1] is None
    assert "is of another version" in str(_leaf(raised.value))


def _leaf(error: BaseException) -> BaseException:
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def test_lines_are_read_as_they_were_written() -> None:
    for traced in (READ, replace(READ, front=None)):
        assert TracedCommand.parse(json.loads(json.dumps(traced.fields()))) == traced
    over_tcp = ClientIdentity(3, None, None, "[::1]:5000")
    for span in (ClientSpan(ANN, 1, 2), ClientSpan(over_tcp, 1, 2), ClientSpan(None, 1, 2)):
        assert ClientSpan.parse(json.loads(json.dumps(span.fields()))) == span
