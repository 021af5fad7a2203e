# SPDX-License-Identifier: Apache-2.0
"""Hostile and dying backends over real sockets: `FrontendDevice` answers with its own errors."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from protocol.tpmif.errors import BackendLost, BackendRefused, RequestCancelled, TpmifError
from protocol.tpmif.messages import NOTIFICATION, Grant, encode
from protocol.tpmif.unix import FrontendDevice, open_frontend
from protocol.tpmif.xenbus import XenbusState
from tests.integration.tpmif_peers import (
    DEADLINE_S,
    GOOD,
    REQUEST,
    RESPONSE,
    RawListener,
    RawPeer,
    memfd,
    no_descriptor_left,
)

Script = Callable[[RawPeer], Awaitable[None]]


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    with no_descriptor_left():
        yield


@pytest.fixture
def listener(run_dir: Path) -> Iterator[RawListener]:
    place = RawListener(run_dir / "back")
    yield place
    place.close()


@asynccontextmanager
async def scripted(listener: RawListener, script: Script) -> AsyncIterator[FrontendDevice]:
    """A device whose backend, once connected, is played by `script`; both are ended afterwards."""

    async def play() -> None:
        peer = await listener.accept()
        try:
            await peer.accept_grant()
            await script(peer)
        finally:
            peer.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(play)
        with trio.fail_after(DEADLINE_S):
            async with open_frontend(listener.path, uuid=GOOD) as device:
                yield device
        nursery.cancel_scope.cancel()


async def open_against(listener: RawListener, script: Script) -> None:
    """Open a device whose backend is played by `script` from the first datagram on."""

    async def play() -> None:
        peer = await listener.accept()
        try:
            await script(peer)
        finally:
            peer.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(play)
        with trio.fail_after(DEADLINE_S):
            async with open_frontend(listener.path, uuid=GOOD):
                pass


async def silence(peer: RawPeer) -> None:
    """No more answers; only the shutdown is answered, so that the test need not wait for it."""
    await peer.hear_state(XenbusState.CLOSED)
    peer.state(2)
    await peer.hear_end()


# Responses


@pytest.mark.parametrize("length", [0, 1, 9, 11, 4089, 2**31, 2**32 - 1])
async def test_a_response_whose_length_lies_ends_the_device(
    listener: RawListener, length: int
) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.wait_request()
        peer.respond(length=length)
        await silence(peer)

    async with scripted(listener, script) as device:
        with pytest.raises(BackendLost, match="broke the protocol") as caught:
            await device.transact(REQUEST, 0)
        assert caught.value.submitted
        assert not device.alive()
        with pytest.raises(BackendLost) as caught:
            await device.transact(REQUEST, 0)
        assert not caught.value.submitted


async def test_a_response_that_is_changed_while_it_is_copied_is_taken_as_it_was(
    listener: RawListener,
) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.wait_request()
        peer.respond()
        await trio.testing.wait_all_tasks_blocked()
        peer.memory[0:4096] = b"\xff" * 4096
        await silence(peer)

    async with scripted(listener, script) as device:
        assert await device.transact(REQUEST, 0) == RESPONSE


@pytest.mark.parametrize("state", [1, 3, 4, 255])
async def test_a_state_that_a_backend_may_not_write_is_waited_over(
    listener: RawListener, state: int
) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.wait_request()
        peer.respond(state)
        await trio.testing.wait_all_tasks_blocked()
        peer.respond(2)
        await silence(peer)

    async with scripted(listener, script) as device:
        assert await device.transact(REQUEST, 0) == RESPONSE


async def test_finish_without_submit_is_not_the_next_response(listener: RawListener) -> None:
    async def script(peer: RawPeer) -> None:
        for _ in range(10):
            peer.respond(packet=bytes.fromhex("00c4 0000000a 00000026"))
        await peer.wait_request()
        peer.respond()
        await silence(peer)

    async with scripted(listener, script) as device:
        await trio.testing.wait_all_tasks_blocked()
        assert await device.transact(REQUEST, 0) == RESPONSE


async def test_idle_without_cancel_is_a_cancelled_request_and_the_device_goes_on(
    listener: RawListener,
) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.wait_request()
        peer.respond(0)
        await peer.wait_request()
        peer.respond()
        await silence(peer)

    async with scripted(listener, script) as device:
        with pytest.raises(RequestCancelled):
            await device.transact(REQUEST, 0)
        assert await device.transact(REQUEST, 0) == RESPONSE


async def test_silence_is_ended_by_the_callers_deadline_with_a_cancel(
    listener: RawListener, autojump_clock: trio.testing.MockClock
) -> None:
    cancelled = trio.Event()

    async def script(peer: RawPeer) -> None:
        await peer.wait_request()
        await peer.wait_state(3)
        cancelled.set()
        # Only now, and too late for the first caller.
        await trio.testing.wait_all_tasks_blocked()
        peer.respond(packet=bytes.fromhex("00c4 0000000a 00000026"))
        await peer.wait_request()
        peer.respond()
        await silence(peer)

    async with scripted(listener, script) as device:
        with trio.move_on_after(0.02) as scope:
            await device.transact(REQUEST, 0)
        assert scope.cancelled_caught
        await cancelled.wait()
        assert await device.transact(REQUEST, 0) == RESPONSE


async def test_notifications_that_are_not_read_do_not_stop_the_frontend(
    listener: RawListener,
) -> None:
    async def script(peer: RawPeer) -> None:
        while True:
            while peer.memory[4] != 1:
                await trio.lowlevel.checkpoint()
            peer.respond()

    async with scripted(listener, script) as device:
        for _ in range(1000):
            assert await device.transact(REQUEST, 0) == RESPONSE


async def test_a_storm_of_notifications_ends_at_the_callers_deadline(
    listener: RawListener,
) -> None:
    async def script(peer: RawPeer) -> None:
        while True:
            with suppress(BlockingIOError):
                while True:
                    peer.notify()
            await trio.lowlevel.checkpoint()

    async with scripted(listener, script) as device:
        with trio.move_on_after(0.05) as scope:
            await device.transact(REQUEST, 0)
        assert scope.cancelled_caught


@pytest.mark.parametrize(
    "datagram", [b"\0", b"NN", b"W", b"x" * 5000, encode(Grant(1)), b"Wuuid\x001\0"]
)
async def test_garbage_ends_the_device(listener: RawListener, datagram: bytes) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.wait_request()
        peer.say(datagram)
        await silence(peer)

    async with scripted(listener, script) as device:
        with pytest.raises(BackendLost, match="broke the protocol"):
            await device.transact(REQUEST, 0)


async def test_descriptors_from_a_backend_are_not_kept(listener: RawListener) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.wait_request()
        descriptor = memfd()
        for _ in range(10):
            peer.say(NOTIFICATION, [descriptor] * 20)
        os.close(descriptor)
        peer.respond()
        await silence(peer)

    async with scripted(listener, script) as device:
        assert await device.transact(REQUEST, 0) == RESPONSE


# Death


async def test_a_backend_that_dies_with_a_request_says_that_it_was_handed_over(
    listener: RawListener,
) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.wait_request()

    async with scripted(listener, script) as device:
        with pytest.raises(BackendLost) as caught:
            await device.transact(REQUEST, 0)
        assert caught.value.submitted


async def test_a_backend_that_died_before_surely_did_not_execute_the_request(
    listener: RawListener,
) -> None:
    died = trio.Event()

    async def script(peer: RawPeer) -> None:
        peer.close()
        died.set()

    async with scripted(listener, script) as device:
        await died.wait()
        assert not device.alive()
        with pytest.raises(BackendLost) as caught:
            await device.transact(REQUEST, 0)
        assert not caught.value.submitted


@pytest.mark.parametrize("state", [5, 6])
async def test_a_backend_that_closes_in_order_is_lost(listener: RawListener, state: int) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.wait_request()
        peer.state(state)
        await silence(peer)

    async with scripted(listener, script) as device:
        with pytest.raises(BackendLost, match=XenbusState(state).name):
            await device.transact(REQUEST, 0)


@pytest.mark.parametrize("steps", range(4))
async def test_a_backend_that_dies_during_the_handshake_is_lost(
    listener: RawListener, steps: int
) -> None:
    async def script(peer: RawPeer) -> None:
        if steps > 0:
            await peer.hear_state(1)
        if steps > 1:
            peer.write(feature_protocol_v2=1, state=XenbusState.INIT_WAIT)
        if steps > 2:
            await peer.hear_state(3)

    with pytest.raises(ExceptionGroup) as caught:
        await open_against(listener, script)
    assert caught.group_contains(BackendLost)
    assert not caught.group_contains(BackendRefused)


async def test_a_refusal_is_told_in_the_words_of_the_backend(listener: RawListener) -> None:
    async def script(peer: RawPeer) -> None:
        # Closes with the first datagram unread, so that the words have to outlive a reset.
        peer.write(error="uuid is not in the table", state=XenbusState.CLOSED)

    with pytest.raises(ExceptionGroup) as caught:
        await open_against(listener, script)
    assert caught.group_contains(BackendRefused, match="uuid is not in the table")


async def test_a_handshake_that_stalls_ends_at_the_callers_deadline(
    listener: RawListener,
) -> None:
    with trio.move_on_after(0.02) as scope:
        async with open_frontend(listener.path, uuid=GOOD):
            pytest.fail("nobody answered")
    assert scope.cancelled_caught


async def test_a_place_that_is_full_is_waited_for(run_dir: Path) -> None:
    listener = RawListener(run_dir / "full")
    opened = trio.Event()

    async def open_one() -> None:
        async with open_frontend(listener.path, uuid=GOOD):
            opened.set()

    async with trio.open_nursery() as nursery:
        for _ in range(8):  # more than its backlog holds
            nursery.start_soon(open_one)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(8):
            peer = await listener.accept()
            nursery.start_soon(answer_and_close, peer)
        with trio.fail_after(DEADLINE_S):
            await opened.wait()
    listener.close()


async def test_nobody_there_is_an_oserror(run_dir: Path) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            async with open_frontend(run_dir / "nobody", uuid=GOOD):
                pytest.fail("nobody is there")


# Calls


async def test_a_call_that_cannot_be_made_leaves_the_device_usable(listener: RawListener) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.wait_request()
        peer.respond()
        await silence(peer)

    async with scripted(listener, script) as device:
        with pytest.raises(TpmifError, match="4089 bytes, limit 4088"):
            await device.transact(bytes(4089), 0)
        with pytest.raises(TpmifError, match="locality 256"):
            await device.transact(REQUEST, 256)
        device.cancel_nowait()
        assert await device.transact(REQUEST, 0) == RESPONSE


async def test_two_calls_at_once_are_refused(listener: RawListener) -> None:
    async with scripted(listener, silence) as device, trio.open_nursery() as nursery:

        async def call() -> None:
            with suppress(BackendLost):
                await device.transact(REQUEST, 0)

        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await device.transact(REQUEST, 0)
        nursery.cancel_scope.cancel()


async def answer_and_close(peer: RawPeer) -> None:
    await peer.accept_grant()
    await peer.hear_state(XenbusState.CLOSED)
    peer.state(2)
    await peer.hear_end()
    peer.close()
