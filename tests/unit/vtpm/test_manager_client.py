# SPDX-License-Identifier: Apache-2.0
"""The link to the manager: it comes back by itself, and says truly what became of a request."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from daemons.runtime.errors import RefusedToStart
from daemons.vtpm.image import HashKey
from daemons.vtpm.manager_client import (
    ANSWER_DEADLINE_S,
    CONNECT_DEADLINE_S,
    Channel,
    ManagerCommands,
    ManagerLink,
)
from daemons.vtpm.selection import Blank
from daemons.vtpm.store import KeyKeeper, ManagerLost
from protocol.manager.framing import ManagerRefused, success_response
from protocol.tpmif.errors import BackendLost, BackendRefused, RequestCancelled
from tests.unit.vtpm.fakes import Lines

ECHO = bytes.fromhex("01c4 0000000a 00000000")  # an empty successful response


@dataclass
class FakeManager:
    """What is at the other end. One answer function, one connection at a time."""

    answer: Callable[[bytes], Awaitable[bytes]] | None = None
    """Makes the response; the default is an empty success."""
    refusal: Exception | None = None
    """Raised on connecting."""
    hangs_on_connect: bool = False
    connections: int = 0
    received: list[bytes] = field(default_factory=list)
    channel: FakeChannel | None = None

    def open(self) -> AbstractAsyncContextManager[Channel]:
        """Connect."""
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Channel]:
        await trio.lowlevel.checkpoint()
        if self.hangs_on_connect:
            await trio.sleep_forever()
        if self.refusal is not None:
            raise self.refusal
        self.connections += 1
        self.channel = FakeChannel(self)
        # As the real one: whatever leaves it has been through a nursery.
        async with trio.open_nursery():
            yield self.channel

    def die(self) -> None:
        """End the connection."""
        assert self.channel is not None
        self.channel.dead.set()


class FakeChannel:
    """One connection to it."""

    def __init__(self, manager: FakeManager) -> None:
        self._manager = manager
        self.dead = trio.Event()
        self._cancelled = trio.Event()

    def alive(self) -> bool:
        return not self.dead.is_set()

    def cancel_nowait(self) -> None:
        self._cancelled.set()

    async def transact(self, request: bytes, locality: int) -> bytes:
        assert locality == 0
        await trio.lowlevel.checkpoint()
        if self.dead.is_set():
            raise BackendLost("end of connection", submitted=False)
        self._manager.received.append(request)
        self._cancelled = trio.Event()
        outcome: list[bytes | Exception] = []
        async with trio.open_nursery() as nursery:

            async def first(what: Callable[[], Awaitable[bytes | Exception]]) -> None:
                outcome.append(await what())
                nursery.cancel_scope.cancel()

            async def answered() -> bytes | Exception:
                try:
                    return (
                        ECHO
                        if self._manager.answer is None
                        else await self._manager.answer(request)
                    )
                except BackendLost as error:
                    return error

            async def died() -> Exception:
                await self.dead.wait()
                return BackendLost("end of connection", submitted=True)

            async def cancelled() -> Exception:
                await self._cancelled.wait()
                return RequestCancelled("given up")

            for what in (answered, died, cancelled):
                nursery.start_soon(first, what)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]


async def _accept(keeper: KeyKeeper) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def _linked(
    manager: FakeManager, check: Callable[[KeyKeeper], Awaitable[None]] = _accept
) -> AsyncIterator[ManagerLink]:
    link = ManagerLink(manager.open, Lines().log())
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(link.run, check))
        try:
            yield link
        finally:
            link.close()


async def _forever(request: bytes) -> bytes:
    await trio.sleep_forever()


def _up(link: ManagerLink) -> bool:
    return link.is_up


async def test_requests_go_out_in_the_order_in_which_they_came() -> None:
    manager = FakeManager()
    async with _linked(manager) as link, trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(link.transact, bytes([number]))
            await wait_all_tasks_blocked()
    assert manager.received == [bytes([number]) for number in range(5)]
    assert manager.connections == 1


async def test_a_manager_that_is_not_there_yet_is_waited_for(autojump_clock: MockClock) -> None:
    manager = FakeManager(refusal=FileNotFoundError(errno.ENOENT, "no such file"))
    async with _linked(manager) as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.transact, b"early")
        await trio.sleep(100)
        assert not _up(link)
        manager.refusal = None
        await trio.sleep(3)
        assert manager.received == [b"early"]
        assert _up(link)


async def test_a_lost_answer_is_told_and_the_next_request_goes_to_the_next_connection(
    autojump_clock: MockClock,
) -> None:
    manager = FakeManager(answer=_forever)
    async with _linked(manager) as link:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_lost, link)
            await wait_all_tasks_blocked()
            manager.die()
        manager.answer = None
        assert await link.transact(b"again") == ECHO
    assert manager.received == [b"doubtful", b"again"]
    assert manager.connections == 2


async def _expect_lost(link: ManagerLink) -> None:
    with pytest.raises(ManagerLost) as raised:
        await link.transact(b"doubtful")
    assert raised.value.submitted


async def test_a_request_that_was_not_submitted_goes_out_again_by_itself(
    autojump_clock: MockClock,
) -> None:
    manager = FakeManager()
    async with _linked(manager) as link:
        await link.transact(b"one")
        manager.die()
        assert await link.transact(b"two") == ECHO
    assert manager.received == [b"one", b"two"]
    assert manager.connections == 2


async def test_an_idle_link_notices_that_the_manager_is_gone(autojump_clock: MockClock) -> None:
    manager = FakeManager()
    async with _linked(manager) as link:
        await link.wait_up()
        manager.die()
        manager.refusal = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        await trio.sleep(2)
        assert not _up(link)
        manager.refusal = None
        await trio.sleep(3)
        assert _up(link)
    assert manager.connections == 2


async def test_a_manager_that_does_not_answer_in_time_is_given_up(
    autojump_clock: MockClock,
) -> None:
    manager = FakeManager(answer=_forever)
    async with _linked(manager) as link:
        started = trio.current_time()
        await _expect_lost(link)
        assert trio.current_time() - started == pytest.approx(ANSWER_DEADLINE_S, abs=1)
        manager.answer = None
        assert await link.transact(b"again") == ECHO
    assert manager.connections == 2


async def test_a_manager_that_hangs_during_the_handshake_is_tried_again(
    autojump_clock: MockClock,
) -> None:
    manager = FakeManager(hangs_on_connect=True)
    async with _linked(manager) as link:
        await trio.sleep(CONNECT_DEADLINE_S - 1)
        manager.hangs_on_connect = False
        await trio.sleep(3)
        assert _up(link)


async def test_a_request_whose_sender_is_gone_is_cancelled_and_others_go_on() -> None:
    manager = FakeManager(answer=_forever)
    async with _linked(manager) as link:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.transact, b"unwanted")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        manager.answer = None
        assert await link.transact(b"wanted") == ECHO
    assert manager.received == [b"unwanted", b"wanted"]
    assert manager.connections == 1


async def test_a_waiting_request_whose_sender_is_gone_is_never_sent() -> None:
    manager = FakeManager(answer=_forever)
    async with _linked(manager) as link, trio.open_nursery() as outer:
        outer.start_soon(link.transact, b"long")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as inner:
            inner.start_soon(link.transact, b"unwanted")
            await wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
        outer.cancel_scope.cancel()
    assert manager.received == [b"long"]


async def test_an_unsent_request_whose_sender_is_gone_is_not_sent_on_the_next_connection(
    autojump_clock: MockClock,
) -> None:
    manager = FakeManager()
    async with _linked(manager) as link:
        await link.transact(b"one")
        manager.die()
        manager.refusal = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        with trio.move_on_after(5):
            await link.transact(b"unwanted")
        manager.refusal = None
        assert await link.transact(b"wanted") == ECHO
    assert manager.received == [b"one", b"wanted"]


async def test_a_foreign_manager_ends_the_link_before_anything_is_sent_to_it(
    autojump_clock: MockClock,
) -> None:
    async def check(keeper: KeyKeeper) -> None:
        await keeper.load_hash_key()
        raise RefusedToStart("another manager")

    manager = FakeManager(answer=_no_image)
    link = ManagerLink(manager.open, Lines().log())
    with pytest.RaisesGroup(RefusedToStart):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.transact, b"secret")
            nursery.start_soon(partial(link.run, check))
    assert b"secret" not in manager.received


async def _no_image(request: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return success_response(bytes(52))


@pytest.mark.parametrize("error", [ManagerRefused(7), ManagerLost("gone", submitted=True)])
async def test_a_manager_that_does_not_tell_its_record_yet_is_asked_again(
    error: Exception, autojump_clock: MockClock
) -> None:
    errors = [error] * 3

    async def check(keeper: KeyKeeper) -> None:
        await keeper.load_hash_key()
        if errors:
            raise errors.pop()

    manager = FakeManager(answer=_no_image)
    async with _linked(manager, check) as link:
        await link.wait_up()
    assert manager.connections == 4
    assert link.connections == 1


async def test_a_refusal_at_start_ends_the_vtpm_and_a_later_one_does_not(
    autojump_clock: MockClock,
) -> None:
    manager = FakeManager(refusal=BackendRefused("uid 5 may not be this vTPM"))
    link = ManagerLink(manager.open, Lines().log())
    with pytest.raises(RefusedToStart, match="uid 5"):
        await link.run(_accept)
    manager = FakeManager()
    async with _linked(manager) as link:
        await link.wait_up()
        manager.die()
        manager.refusal = BackendRefused("not now")
        await trio.sleep(100)
        manager.refusal = None
        await trio.sleep(3)
        assert _up(link)


async def test_the_link_outlives_a_cancelled_daemon_until_it_is_closed() -> None:
    manager = FakeManager()
    link = ManagerLink(manager.open, Lines().log())
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(link.run, _accept))
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert await link.transact(b"last save") == ECHO
        link.close()


# --- commands ---


def _commands(*responses: str) -> tuple[ManagerCommands, list[bytes]]:
    sent: list[bytes] = []
    left = [bytes.fromhex(response) for response in responses]

    async def transact(request: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        sent.append(request)
        return left.pop(0)

    return ManagerCommands(transact), sent


async def test_load_hash_key_tells_unknown_no_image_and_a_record_apart() -> None:
    commands, sent = _commands(
        "01c4 0000000a 00000003",
        "01c4 0000003e 00000000" + "00" * 52,
        "01c4 0000004a 00000000" + "11" * 32 + "22" * 32,
    )
    assert await commands.load_hash_key() is Blank.UNKNOWN
    assert await commands.load_hash_key() is Blank.NO_IMAGE
    assert await commands.load_hash_key() == HashKey(b"\x11" * 32, b"\x22" * 32)
    assert sent[0] == bytes.fromhex("01c1 0000000a 00000002")


@pytest.mark.parametrize(
    "response", ["", "01c4", "01c4 0000000a 00000000", "01c5 0000000a 00000000", "00" * 74]
)
async def test_an_answer_that_cannot_be_understood_is_no_answer(response: str) -> None:
    commands, _ = _commands(response)
    with pytest.raises(ManagerLost):
        await commands.load_hash_key()


async def test_a_save_that_is_answered_with_something_else_is_in_doubt() -> None:
    commands, sent = _commands("01c4 0000000b 00000000 00")
    with pytest.raises(ManagerLost):
        await commands.save_hash_key(bytes(range(64)))
    assert sent == [bytes.fromhex("01c1 0000004a 00000001") + bytes(range(64))]


async def test_random_bytes_are_collected_until_there_are_enough() -> None:
    commands, sent = _commands(
        "00c4 00000018 00000000 0000000a" + "aa" * 10, "00c4 00000010 00000000 00000002 bbbb"
    )
    assert await commands.get_random(12) == b"\xaa" * 10 + b"\xbb" * 2
    assert sent == [
        bytes.fromhex("00c1 0000000e 00000046 0000000c"),
        bytes.fromhex("00c1 0000000e 00000046 00000002"),
    ]


@pytest.mark.parametrize(
    "response",
    [
        "00c4 0000000e 00000000 00000000",  # nothing
        "00c4 0000000f 00000000 00000002 aa",  # fewer than it says
        "00c4 00000010 00000000 00000001 aaaa",  # more
        "00c4 0000001f 00000000 00000011" + "aa" * 17,  # more than asked for
    ],
)
async def test_random_bytes_that_are_none_are_not_taken(response: str) -> None:
    commands, _ = _commands(response)
    with pytest.raises(ManagerLost):
        await commands.get_random(16)


async def test_a_code_of_the_hardware_tpm_is_a_refusal() -> None:
    commands, _ = _commands("00c4 0000000a 0000001f")
    with pytest.raises(ManagerRefused) as raised:
        await commands.get_random(16)
    assert raised.value.code == 31


async def test_a_hardware_pcr_is_read_through_the_manager() -> None:
    commands, sent = _commands("00c4 0000001e 00000000" + "cc" * 20)
    assert await commands.read_pcr(17) == b"\xcc" * 20
    assert sent == [bytes.fromhex("00c1 0000000e 00000015 00000011")]
