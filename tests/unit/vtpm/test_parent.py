# SPDX-License-Identifier: Apache-2.0
"""A vTPM's parent quotes by way of the manager: what is asked, and what no answer becomes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from daemons.vtpm.manager_client import CONNECT_WAIT_S, ManagerCommands, ManagerLink
from daemons.vtpm.parent import QUOTE_WAIT_S, ParentQuotes
from daemons.vtpm.store import KeyKeeper
from protocol.manager.framing import error_response, success_response
from protocol.tpmif.errors import BackendLost
from tests.unit.vtpm.fakes import Lines
from tests.unit.vtpm.test_manager_client import FakeManager
from tpmcore.engine import Done, EffectResult, Failed, ParentQuote

EFFECT = ParentQuote(b"data of this vTPM---", bytes.fromhex("0003 010002"), 1)
REQUEST = bytes.fromhex("01c1 00000027 00000004") + (
    b"data of this vTPM---" + bytes.fromhex("0003 010002 00000001")
)
ANSWER = bytes(range(256)) + b"h" * 20 + b"0" * 20 + b"7" * 20


async def _accept(keeper: KeyKeeper) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def _quotes(manager: FakeManager, lines: Lines | None = None) -> AsyncIterator[ParentQuotes]:
    log = (lines or Lines()).log()
    link = ManagerLink(manager.open, log)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(link.run, _accept))
        try:
            yield ParentQuotes(link, ManagerCommands(link.transact), log)
        finally:
            link.close()


def _manager(response: bytes) -> FakeManager:
    async def answer(_request: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return response

    return FakeManager(answer)


async def test_the_answer_of_the_manager_is_that_of_the_parent() -> None:
    manager = _manager(success_response(ANSWER))
    async with _quotes(manager) as quotes:
        assert await quotes.quote(EFFECT) == Done(ANSWER)
    assert manager.received == [REQUEST]


@pytest.mark.parametrize("code", [3, 5, 10, 31, 0x800])
async def test_a_refusal_keeps_its_code(code: int) -> None:
    async with _quotes(_manager(error_response(code))) as quotes:
        assert await quotes.quote(EFFECT) == Failed(code)


@pytest.mark.parametrize(
    "response",
    [
        success_response(),
        success_response(ANSWER[:-20]),
        success_response(ANSWER + bytes(20)),
        success_response(ANSWER)[:-1],
        b"",
    ],
)
async def test_an_answer_of_another_form_is_none(response: bytes) -> None:
    async with _quotes(_manager(response)) as quotes:
        assert await quotes.quote(EFFECT) == Failed()


async def test_a_manager_that_is_not_there_is_not_waited_for_long(
    autojump_clock: MockClock,
) -> None:
    manager = FakeManager(hangs_on_connect=True)
    async with _quotes(manager) as quotes:
        assert await quotes.quote(EFFECT) == Failed()
        assert trio.current_time() == pytest.approx(CONNECT_WAIT_S)
    assert manager.received == []
    assert autojump_clock.rate == 0


async def test_a_manager_that_returns_in_time_is_asked(autojump_clock: MockClock) -> None:
    manager = _manager(success_response(ANSWER))
    manager.refusal = OSError("not there yet")
    async with _quotes(manager) as quotes, trio.open_nursery() as nursery:
        results: list[EffectResult] = []

        async def ask() -> None:
            results.append(await quotes.quote(EFFECT))

        nursery.start_soon(ask)
        await trio.sleep(1)
        manager.refusal = None
    assert results == [Done(ANSWER)]
    assert autojump_clock.rate == 0


async def test_silence_ends_in_a_failure_and_the_request_is_withdrawn(
    autojump_clock: MockClock,
) -> None:
    silent = True

    async def answer(_request: bytes) -> bytes:
        if silent:
            await trio.sleep_forever()
        return success_response(ANSWER)

    lines = Lines()
    async with _quotes(FakeManager(answer), lines) as quotes:
        assert await quotes.quote(EFFECT) == Failed()
        assert trio.current_time() == pytest.approx(QUOTE_WAIT_S)
        silent = False
        # The line is free: the one before was withdrawn at the manager.
        assert await quotes.quote(EFFECT) == Done(ANSWER)
        assert trio.current_time() == pytest.approx(QUOTE_WAIT_S)
    assert any("not within 60 s" in line for line in lines.lines)
    assert autojump_clock.rate == 0


async def test_a_connection_that_ends_meanwhile_is_a_failure() -> None:
    async def answer(_request: bytes) -> bytes:
        raise BackendLost("end of connection", submitted=True)

    async with _quotes(FakeManager(answer)) as quotes:
        assert await quotes.quote(EFFECT) == Failed()
