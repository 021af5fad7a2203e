# SPDX-License-Identifier: Apache-2.0
"""Hostile frontends over real sockets: each is answered or dropped, and others are served.

The list is that of the split driver's specification (spec of the frontend that is hostile), plus
what Unix sockets and memfds add to it.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import UUID

import pytest
import trio
import trio.testing

from protocol.tpmif.messages import NOTIFICATION, Grant, Key, encode
from protocol.tpmif.unix import BackendLimits, open_frontend
from protocol.tpmif.xenbus import XenbusState
from tests.integration.tpmif_peers import (
    BAD,
    DEADLINE_S,
    GOOD,
    REQUEST,
    SEALS,
    RawPeer,
    Server,
    echo,
    memfd,
    no_descriptor_left,
    raw_frontend,
    serving,
)

TPM_SIZE = bytes.fromhex("00c4 0000000a 00000017")
SHRINK, GROW, SEAL = fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    with no_descriptor_left():
        yield


# The page


@pytest.mark.parametrize("length", [4089, 2**31, 2**32 - 1])
async def test_a_length_over_the_page_gets_tpm_size_and_the_device_goes_on(
    run_dir: Path, length: int
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            peer.put(1, length=length)
            peer.notify()
            await peer.wait_state(2)
            assert peer.packet() == TPM_SIZE
            assert not server.handler.requests
            await server.serves()
            await peer.round_trip()


@pytest.mark.parametrize("length", range(10))
async def test_a_length_under_a_header_reaches_the_engine_and_nobody_else(
    run_dir: Path, length: int
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            peer.put(1, length=length)
            peer.notify()
            await peer.wait_state(2)
            assert peer.packet() == echo(REQUEST[:length])
            await server.serves()


@pytest.mark.parametrize("state", [0, 2, 4, 128, 255])
async def test_a_state_that_a_frontend_may_not_write_starts_nothing(
    run_dir: Path, state: int
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            peer.put(state)
            peer.notify()
            await server.serves()
            assert not server.handler.requests
            assert peer.memory[4] == state
            await peer.round_trip()


@pytest.mark.parametrize("state", [0, 2, 4, 255])
async def test_a_state_written_into_a_running_request_does_not_end_it(
    run_dir: Path, state: int
) -> None:
    async with serving(run_dir) as server:
        server.handler.hold = True
        with raw_frontend(server.path) as peer:
            await peer.connect()
            peer.put(1)
            peer.notify()
            await server.handler.wait_running()
            peer.memory[4] = state
            peer.notify()
            await server.serves()
            server.handler.go()
            await hear_notification(peer)
            assert peer.memory[4] == 2
            assert not server.handler.cancelled_devices


async def test_every_locality_byte_is_passed_on_as_it_is(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            for locality in (0, 4, 5, 8, 255):
                peer.put(1, locality=locality)
                peer.notify()
                await peer.wait_state(2)
                assert peer.packet() == echo(REQUEST, locality)


async def test_submit_while_busy_is_not_a_second_request(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        server.handler.hold = True
        with raw_frontend(server.path) as peer:
            await peer.connect()
            peer.put(1)
            peer.notify()
            await server.handler.wait_running()
            for _ in range(5):
                peer.put(1, length=3)
                peer.notify()
            await server.serves()
            server.handler.go()
            await peer.wait_state(2)
            assert server.handler.requests == [REQUEST]
            assert peer.packet() == echo(REQUEST)


async def test_a_request_that_is_rewritten_while_it_runs_is_executed_as_it_was(
    run_dir: Path,
) -> None:
    async with serving(run_dir) as server:
        server.handler.hold = True
        with raw_frontend(server.path) as peer:
            await peer.connect()
            peer.put(1, locality=2)
            peer.notify()
            await server.handler.wait_running()
            peer.memory[8:4096] = b"\xff" * 4088
            peer.memory[0:4] = b"\xff" * 4
            peer.memory[5] = 4
            server.handler.go()
            await peer.wait_state(2)
            assert peer.packet() == echo(REQUEST, 2)


async def test_extra_pages_that_change_during_a_request_end_the_device(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        server.handler.hold = True
        with raw_frontend(server.path) as peer:
            await peer.introduce()
            await peer.offer(pages=2)
            peer.put(1)
            peer.notify()
            await server.handler.wait_running()
            peer.memory[7] = 1
            server.handler.go()
            await peer.hear_end()
            assert "nr_extra_pages" in (await server.wait_ends(1))[0]
            assert peer.memory[4] == 1
            await server.serves()


@pytest.mark.parametrize("extra_pages", [1, 2, 255])
async def test_extra_pages_that_were_not_granted_end_the_device(
    run_dir: Path, extra_pages: int
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            peer.put(1)
            peer.memory[7] = extra_pages
            peer.notify()
            await peer.hear_end()
            assert not server.handler.requests
            await server.serves()


# The grant


@pytest.mark.parametrize(
    ("size", "pages", "seals"),
    [
        pytest.param(4096, 1, 0, id="no seals"),
        pytest.param(4096, 1, SHRINK, id="shrink only"),
        pytest.param(4096, 1, GROW, id="grow only"),
        pytest.param(4096, 1, SEAL, id="seal only"),
        pytest.param(4096, 1, SHRINK | GROW, id="not sealed against seals"),
        pytest.param(4096, 1, SHRINK | SEAL, id="may grow"),
        pytest.param(4096, 1, GROW | SEAL, id="may shrink"),
        pytest.param(4096, 1, SEALS | fcntl.F_SEAL_WRITE, id="sealed against writing"),
        pytest.param(0, 1, SEALS, id="empty"),
        pytest.param(4095, 1, SEALS, id="a byte short"),
        pytest.param(4097, 1, SEALS, id="a byte long"),
        pytest.param(8192, 1, SEALS, id="a page long"),
        pytest.param(4096, 2, SEALS, id="a page short"),
        pytest.param(2**40, 1, SEALS, id="a terabyte"),
        pytest.param(17 * 4096, 17, SEALS, id="more pages than the limit"),
    ],
)
async def test_a_memfd_that_is_not_sealed_and_sized_is_not_mapped(
    run_dir: Path, size: int, pages: int, seals: int
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.introduce()
            descriptor = memfd(size, seals)
            peer.grant(descriptor, pages)
            os.close(descriptor)
            peer.offer_keys()
            nodes = await peer.hear_write()
            assert nodes[Key.STATE] == XenbusState.CLOSED
            assert Key.ERROR in nodes
            await server.serves()
            # The same connection may try again with a proper one.
            await peer.offer()
            await peer.round_trip()


@pytest.mark.parametrize("kind", ["pipe", "device", "file", "folder", "socket", "read-only"])
async def test_a_descriptor_that_is_no_writable_memfd_is_not_mapped(
    run_dir: Path, kind: str
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.introduce()
            descriptor = descriptor_of(kind, run_dir)
            peer.grant(descriptor)
            os.close(descriptor)
            peer.offer_keys()
            nodes = await peer.hear_write()
            assert nodes[Key.STATE] == XenbusState.CLOSED
            await server.serves()


@pytest.mark.parametrize("count", [0, 2, 3, 4, 5, 200])
async def test_a_grant_with_other_than_one_descriptor_ends_the_connection_and_leaks_none(
    run_dir: Path, count: int
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.introduce()
            descriptor = memfd()
            peer.say(encode(Grant(1)), [descriptor] * count)
            os.close(descriptor)
            await peer.hear_end()
            await server.serves()


async def test_descriptors_that_nobody_asked_for_are_not_kept(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            descriptor = memfd()
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                peer.say(NOTIFICATION, [descriptor] * 10)
            os.close(descriptor)
            await peer.round_trip()
            assert len(os.listdir("/proc/self/fd")) == before - 1
            await server.serves()


async def test_grants_that_are_replaced_are_closed(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.introduce()
            before = len(os.listdir("/proc/self/fd"))
            descriptor = memfd(8192)
            for _ in range(30):
                peer.grant(descriptor)
            os.close(descriptor)
            await peer.offer()
            # The page of this peer is mapped twice, here and there, each with a descriptor.
            assert len(os.listdir("/proc/self/fd")) == before + 2
            await peer.round_trip()


# Cancel and disconnect in each state

Step = Callable[[Server, RawPeer], Awaitable[None]]


async def after_connect(server: Server, peer: RawPeer) -> None:
    await peer.connect()


async def while_running(server: Server, peer: RawPeer) -> None:
    server.handler.hold = True
    await peer.connect()
    peer.put(1)
    peer.notify()
    await server.handler.wait_running()


async def while_cancelled(server: Server, peer: RawPeer) -> None:
    server.handler.give_up = False
    await while_running(server, peer)
    peer.memory[4] = 3
    peer.notify()
    await server.serves()
    assert len(server.handler.cancelled_devices) == 1


async def after_finish(server: Server, peer: RawPeer) -> None:
    await peer.connect()
    await peer.round_trip()


async def after_introduction(server: Server, peer: RawPeer) -> None:
    await peer.introduce()


async def after_grant(server: Server, peer: RawPeer) -> None:
    await peer.introduce()
    descriptor = memfd()
    peer.grant(descriptor)
    os.close(descriptor)


async def after_closing(server: Server, peer: RawPeer) -> None:
    await peer.connect()
    peer.state(5)
    await peer.hear_state(5)


async def after_closed(server: Server, peer: RawPeer) -> None:
    await after_closing(server, peer)
    peer.state(6)
    await peer.hear_state(2)


async def before_anything(server: Server, peer: RawPeer) -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("step", [after_connect, after_finish])
async def test_cancel_without_a_request_is_acknowledged_with_idle(
    run_dir: Path, step: Step
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await step(server, peer)
            peer.memory[4] = 3
            peer.notify()
            await peer.wait_state(0)
            assert not server.handler.cancelled_devices
            await server.serves()
            await peer.round_trip()


async def test_cancel_of_a_running_request_reaches_the_handler_and_ends_in_idle(
    run_dir: Path,
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await while_running(server, peer)
            peer.memory[4] = 3
            peer.notify()
            await peer.wait_state(0)
            assert [device.uuid for device in server.handler.cancelled_devices] == [BAD]
            server.handler.hold = False
            await server.serves()
            await peer.round_trip()


async def test_cancel_repeated_is_told_once_and_the_response_may_come_all_the_same(
    run_dir: Path,
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await while_cancelled(server, peer)
            for _ in range(5):
                peer.notify()
            await server.serves()
            server.handler.go()
            await peer.wait_state(2)
            assert peer.packet() == echo(REQUEST)
            assert len(server.handler.cancelled_devices) == 1


@pytest.mark.parametrize(
    "step",
    [
        before_anything,
        after_introduction,
        after_grant,
        after_connect,
        while_running,
        while_cancelled,
        after_finish,
        after_closing,
        after_closed,
    ],
)
async def test_a_frontend_that_vanishes_is_cleaned_up_and_may_return(
    run_dir: Path, step: Step
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await step(server, peer)
        if step in (while_running, while_cancelled):
            server.handler.go()
            await server.serves()
        else:
            await server.serves()
        opened = len(server.handler.opened_devices)
        with trio.fail_after(DEADLINE_S):
            await server.handler.wait_closed(opened)
        server.handler.hold = False
        for _ in range(3):
            with raw_frontend(server.path) as peer:
                await peer.connect()
                await peer.round_trip()
        serials = [device.serial for device in server.handler.opened_devices]
        assert serials == sorted(set(serials))


async def test_a_frontend_that_vanishes_cancels_its_request_which_runs_to_its_end(
    run_dir: Path,
) -> None:
    async with serving(run_dir) as server:
        server.handler.give_up = False
        with raw_frontend(server.path) as peer:
            await while_running(server, peer)
        await server.serves()
        closed = server.handler.closed_devices
        assert [device.uuid for device in server.handler.cancelled_devices] == [BAD]
        # Not closed while its request is with the handler.
        assert BAD not in [device.uuid for device in closed]
        server.handler.go()
        with trio.fail_after(DEADLINE_S):
            await server.handler.wait_closed(2)
        assert closed[-1].uuid == BAD


async def test_a_reconnect_while_the_old_request_runs_gets_only_its_own_response(
    run_dir: Path,
) -> None:
    async with serving(run_dir) as server:
        server.handler.give_up = False
        with raw_frontend(server.path) as peer:
            await while_running(server, peer)
            peer.state(6)
            await peer.hear_state(2)
            assert len(server.handler.cancelled_devices) == 1
            await peer.offer()
            assert not any(peer.memory[:])
            # Submitted before the old request is done: taken up after it.
            peer.put(1, locality=3)
            peer.notify()
            await server.serves()
            assert peer.memory[4] == 1
            assert len(server.handler.requests) == 1
            server.handler.go()
            await server.handler.wait_running(2)
            assert peer.memory[4] == 1
            server.handler.go()
            await peer.wait_state(2)
            assert peer.packet() == echo(REQUEST, 3)
            assert len(server.handler.opened_devices) == 2  # this one and GOOD's


async def test_a_request_that_waits_for_an_old_one_is_cancelled_without_being_started(
    run_dir: Path,
) -> None:
    async with serving(run_dir) as server:
        server.handler.give_up = False
        with raw_frontend(server.path) as peer:
            await while_running(server, peer)
            peer.state(6)
            await peer.hear_state(2)
            await peer.offer()
            peer.put(1)
            peer.notify()
            await server.serves()
            peer.memory[4] = 3
            peer.notify()
            await peer.wait_state(0)
            server.handler.go()
            server.handler.hold = False
            await peer.round_trip()
            assert len(server.handler.requests) == 2


# Floods, silence, garbage


async def test_a_storm_of_notifications_does_not_keep_others_from_being_served(
    run_dir: Path,
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(storm, peer, NOTIFICATION)
                for _ in range(5):
                    await server.serves()
                nursery.cancel_scope.cancel()
            await peer.round_trip()


async def test_a_storm_of_cancels_does_not_keep_others_from_being_served(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()

            async def cancel_storm() -> None:
                while True:
                    peer.memory[4] = 3
                    with suppress(BlockingIOError):
                        peer.notify()
                    await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_storm)
                for _ in range(5):
                    await server.serves()
                nursery.cancel_scope.cancel()


async def test_a_frontend_that_never_reads_its_notifications_is_served_by_polling(
    run_dir: Path,
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            for count in range(1000):
                peer.put(1, locality=count % 256)
                peer.notify()
                with trio.fail_after(DEADLINE_S):
                    while peer.memory[4] != 2:
                        await trio.lowlevel.checkpoint()
                assert peer.packet() == echo(REQUEST, count % 256)
            await server.serves()


async def test_a_frontend_that_never_reads_control_messages_is_disconnected(
    run_dir: Path,
) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            with trio.fail_after(DEADLINE_S):
                while not server.ends:
                    for value in (5, 6):
                        with suppress(BlockingIOError, BrokenPipeError):
                            peer.state(value)
                    await trio.lowlevel.checkpoint()
            assert server.ends == ["control messages are not read"]
            await server.serves()


async def test_a_handshake_that_stalls_is_dropped_at_the_deadline(
    run_dir: Path, autojump_clock: trio.testing.MockClock
) -> None:
    steps = [before_anything, after_introduction, after_grant]
    async with serving(run_dir, limits=BackendLimits(handshake_s=0.05)) as server:
        for step in steps:
            with raw_frontend(server.path) as peer:
                await step(server, peer)
                await peer.hear_end()
        assert await server.wait_ends(3) == ["handshake not finished"] * 3
        await server.serves()


async def test_a_failed_connect_does_not_stop_the_deadline(
    run_dir: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(run_dir, limits=BackendLimits(handshake_s=0.05)) as server:
        with raw_frontend(server.path) as peer:
            await peer.introduce()
            peer.offer_keys()
            await peer.hear_end()
        assert await server.wait_ends(1) == ["handshake not finished"]


async def test_stalled_handshakes_make_room_for_others(run_dir: Path) -> None:
    async with serving(run_dir, limits=BackendLimits(connections=3)) as server:
        with ExitStack() as stack:
            peers = [stack.enter_context(raw_frontend(server.path)) for _ in range(10)]
            await peers[9].introduce()
            await server.serves()
            for peer in peers[:7]:
                await peer.hear_end()


async def test_devices_in_use_are_not_ended_for_a_newcomer(run_dir: Path) -> None:
    async with serving(run_dir, limits=BackendLimits(connections=1)) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            with raw_frontend(server.path) as newcomer:
                await newcomer.hear_end()
            await peer.round_trip()
        with trio.fail_after(DEADLINE_S):
            await server.handler.wait_closed(1)
        await server.serves()


async def test_garbage_of_every_length_ends_only_the_connection_that_sent_it(
    run_dir: Path,
) -> None:
    async with serving(run_dir) as server:
        for length in (*range(1, 70), 127, 128, 511, 512, 513, 4096, 16000):
            for kind in (b"\0", b"N", b"W", b"G", b"\xff"):
                garbage = (kind * length)[:length]
                if garbage == NOTIFICATION:
                    continue
                with raw_frontend(server.path) as peer:
                    peer.say(garbage)
                    await peer.hear_end()
        with raw_frontend(server.path) as peer:
            await peer.connect()
            peer.say(b"N" * 4096)
            await peer.hear_end()
        await server.serves()


async def test_an_empty_datagram_counts_as_the_end(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            peer.say(b"")
            await peer.hear_end()
        await server.serves()


@pytest.mark.parametrize("state", [2, 7, 8])
async def test_a_state_that_means_nothing_ends_the_connection(run_dir: Path, state: int) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            peer.state(state)
            await peer.hear_end()
            assert "is not expected" in (await server.wait_ends(1))[0]
            await server.serves()


async def test_uuids_that_are_not_served_are_told_so(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        for uuid, reason in (
            (UUID(int=0), "uuid is not in the table"),  # by `admit`
            (UUID("00000000-0000-4000-8000-000000000003"), "uuid is open already"),  # by `opened`
        ):
            with raw_frontend(server.path) as peer:
                peer.write(uuid=uuid, state=XenbusState.INITIALISING)
                assert await peer.hear_write() == {Key.ERROR: reason, Key.STATE: XenbusState.CLOSED}
                await peer.hear_end()
        assert not server.handler.opened_devices
        await server.serves()


async def test_thousand_frontends_come_and_go_beside_one_that_stays(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        async with open_frontend(server.path, uuid=GOOD) as device:
            for count in range(1000):
                with raw_frontend(server.path) as peer:
                    if count % 3:
                        peer.write(uuid=BAD, state=XenbusState.INITIALISING)
                    if count % 3 == 2:
                        peer.say(b"garbage")
                # A full backlog would stop this test's thread, and the backend with it.
                await trio.testing.wait_all_tasks_blocked()
                if count % 50 == 0:
                    with trio.fail_after(DEADLINE_S):
                        assert await device.transact(REQUEST, 1) == echo(REQUEST, 1)
        await server.serves()


# Tools


def descriptor_of(kind: str, run_dir: Path) -> int:
    if kind == "pipe":
        reading, writing = os.pipe()
        os.close(writing)
        return reading
    if kind == "socket":
        return socket.socket(socket.AF_UNIX).detach()
    if kind == "read-only":
        sealed = memfd()
        try:
            return os.open(f"/proc/self/fd/{sealed}", os.O_RDONLY)
        finally:
            os.close(sealed)
    if kind == "file":
        path = run_dir / "file"
        path.write_bytes(bytes(4096))
        return os.open(path, os.O_RDWR)
    return os.open("/dev/zero" if kind == "device" else run_dir, os.O_RDONLY)


async def hear_notification(peer: RawPeer) -> None:
    while await peer.hear() != NOTIFICATION:
        pass


async def storm(peer: RawPeer, datagram: bytes) -> None:
    """Keep the backend's queue full."""
    while True:
        with suppress(BlockingIOError):
            while True:
                peer.say(datagram)
        await trio.lowlevel.checkpoint()
