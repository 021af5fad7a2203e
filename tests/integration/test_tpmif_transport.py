# SPDX-License-Identifier: Apache-2.0
"""The split driver over real sockets between two that behave."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from protocol.tpmif.errors import BackendLost, BackendRefused, RequestCancelled
from protocol.tpmif.unix import (
    BackendDevice,
    open_frontend,
    peer_credentials,
    serve_backend,
    waiting,
)
from protocol.tpmif.unix.waiting import QuickWait
from tests.integration.tpmif_peers import (
    BAD,
    DEADLINE_S,
    GOOD,
    REQUEST,
    STRANGER,
    Scripted,
    echo,
    no_descriptor_left,
    raw_frontend,
    serving,
)


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    with no_descriptor_left():
        yield


@pytest.mark.parametrize("linger", [True, False])
async def test_requests_of_every_size_are_answered(run_dir: Path, *, linger: bool) -> None:
    async with (
        serving(run_dir, linger=linger) as server,
        open_frontend(server.path, uuid=GOOD, linger=linger) as device,
    ):
        assert device.capacity_bytes == 4088
        for size in (0, 1, 10, 100, 1000, 4077):
            request = bytes(size)
            assert await device.transact(request, 4) == echo(request, 4)
        # The echo of the longest request is longer than a page.
        response = await device.transact(bytes(4088), 0)
        assert response == bytes.fromhex("00c4 0000000a 00000017")


async def test_extra_pages_carry_what_one_page_cannot(run_dir: Path) -> None:
    async with (
        serving(run_dir) as server,
        open_frontend(server.path, uuid=GOOD, extra_pages=15) as device,
    ):
        assert device.capacity_bytes == 65468
        request = os.urandom(65468 - 11)
        assert await device.transact(request, 1) == echo(request, 1)


async def test_more_extra_pages_than_the_limit_are_refused_with_a_reason(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        with pytest.raises(BackendRefused, match="16 extra pages, limit 15"):
            async with open_frontend(server.path, uuid=GOOD, extra_pages=16):
                pytest.fail("too many")
        await server.serves()


async def test_a_refusal_reaches_the_caller_in_the_words_of_the_backend(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        with pytest.raises(BackendRefused, match="uuid is open already"):
            async with open_frontend(server.path, uuid=STRANGER):
                pytest.fail("not ours")


async def test_the_backend_is_told_who_the_kernel_says_it_is(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        await server.serves()
        (peer,) = server.peers
        assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())
        (device,) = server.handler.opened_devices
        assert device.peer == peer
        assert device.uuid == GOOD


async def test_a_device_that_closes_in_order_is_closed_once(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        await server.serves()
        with trio.fail_after(DEADLINE_S):
            await server.handler.wait_closed(1)
        assert server.handler.closed_devices == server.handler.opened_devices
        assert await server.wait_ends(1) == ["end of connection"]


async def test_cancel_reaches_the_handler_and_raises_in_the_caller(run_dir: Path) -> None:
    async with serving(run_dir) as server, open_frontend(server.path, uuid=BAD) as device:
        server.handler.hold = True

        async def cancel() -> None:
            await server.handler.wait_running()
            device.cancel_nowait()
            device.cancel_nowait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            with pytest.raises(RequestCancelled):
                await device.transact(REQUEST, 0)
        assert len(server.handler.cancelled_devices) == 1
        server.handler.hold = False
        assert await device.transact(REQUEST, 0) == echo(REQUEST)


async def test_a_caller_that_gives_up_leaves_the_device_usable(run_dir: Path) -> None:
    async with serving(run_dir) as server, open_frontend(server.path, uuid=BAD) as device:
        server.handler.hold = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.transact, REQUEST, 0)
            await server.handler.wait_running()
            nursery.cancel_scope.cancel()
        server.handler.hold = False
        with trio.fail_after(DEADLINE_S):
            assert await device.transact(REQUEST, 2) == echo(REQUEST, 2)
        assert len(server.handler.cancelled_devices) == 1


async def test_a_backend_may_see_at_once_that_a_frontend_is_gone(run_dir: Path) -> None:
    async with serving(run_dir) as server:
        with raw_frontend(server.path) as peer:
            await peer.connect()
            (seen,) = server.handler.opened_devices
            assert not seen.hung_up()
            peer.notify()  # still unread when it goes
        # The backend's task has had no chance to run.
        assert seen.hung_up()
        with trio.fail_after(DEADLINE_S):
            await server.handler.wait_closed(1)
        assert seen.hung_up()


async def test_a_backend_may_end_a_device(run_dir: Path) -> None:
    async with serving(run_dir) as server, open_frontend(server.path, uuid=GOOD) as device:
        await device.transact(REQUEST, 0)
        (seen,) = server.handler.opened_devices
        seen.disconnect_nowait()
        with trio.fail_after(DEADLINE_S):
            await server.handler.wait_closed(1)
        assert not device.alive()
        seen.disconnect_nowait()  # harmless afterwards


async def test_a_backend_that_stops_finishes_what_runs(run_dir: Path) -> None:
    async with serving(run_dir, finish_s=DEADLINE_S) as server:
        server.handler.hold = True
        server.handler.give_up = False
        async with open_frontend(server.path, uuid=BAD) as device:
            responses = []

            async def ask() -> None:
                responses.append(await device.transact(REQUEST, 1))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await server.handler.wait_running()
                server.stop()
                await trio.testing.wait_all_tasks_blocked()
                server.handler.go()
            assert responses == [echo(REQUEST, 1)]
            with pytest.raises(BackendLost) as caught:
                await device.transact(REQUEST, 1)
            assert not caught.value.submitted
        with trio.fail_after(DEADLINE_S):
            await server.ended.wait()
    assert server.handler.cancelled_devices == []


async def test_after_its_time_a_backend_that_stops_waits_no_more(run_dir: Path) -> None:
    async with serving(run_dir, finish_s=0.05) as server:
        server.handler.hold = True
        server.handler.give_up = False
        async with (
            open_frontend(server.path, uuid=BAD) as device,
            trio.open_nursery() as nursery,
        ):

            async def ask() -> None:
                with pytest.raises(BackendLost) as caught:
                    await device.transact(REQUEST, 1)
                assert caught.value.submitted

            nursery.start_soon(ask)
            await server.handler.wait_running()
            server.stop()
        with trio.fail_after(DEADLINE_S):
            await server.ended.wait()


async def test_a_handshake_does_not_hold_up_a_stop(run_dir: Path) -> None:
    async with serving(run_dir, finish_s=DEADLINE_S) as server:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as silent:
            silent.connect(str(server.path))
            await trio.testing.wait_all_tasks_blocked()
            server.stop()
            with trio.fail_after(DEADLINE_S / 2):
                await server.ended.wait()


@pytest.mark.parametrize("round_", range(40))
async def test_a_stop_at_any_moment_leaves_no_request_in_doubt(run_dir: Path, round_: int) -> None:
    """The frontend is in another thread, so the stop falls where it falls."""
    stopping = threading.Event()

    def ask_until_lost() -> tuple[int, bool]:
        async def ask() -> tuple[int, bool]:
            count = 0
            try:
                async with open_frontend(path, uuid=BAD) as device:
                    while True:
                        assert await device.transact(REQUEST, 0) == echo(REQUEST)
                        count += 1
                        if count == 5 + round_:
                            stopping.set()
            except BackendLost as error:
                return count, error.submitted

        return trio.run(ask)

    async with serving(run_dir, finish_s=DEADLINE_S) as server:
        path = server.path
        found = []

        async def ask() -> None:
            found.append(await trio.to_thread.run_sync(ask_until_lost))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not stopping.is_set():
                await trio.lowlevel.checkpoint()
            server.stop()
            await server.ended.wait()
    ((answered, in_doubt),) = found
    assert not in_doubt
    assert answered == len(server.handler.requests)


async def test_many_devices_are_served_beside_each_other(run_dir: Path) -> None:
    async with serving(run_dir) as server:

        async def client(number: int) -> None:
            async with open_frontend(server.path, uuid=GOOD) as device:
                for count in range(20):
                    request = bytes([number, count])
                    assert await device.transact(request, 0) == echo(request)

        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(client, number)


async def test_a_handler_that_fails_ends_the_backend_with_its_error(run_dir: Path) -> None:
    class Failing(Scripted):
        async def request(
            self, device: BackendDevice, request: bytes, locality: int
        ) -> bytes | None:
            raise RuntimeError("broken engine")

    async def run() -> None:
        async with (
            serving(run_dir, handler=Failing()) as server,
            open_frontend(server.path, uuid=GOOD) as device,
        ):
            await device.transact(REQUEST, 0)

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert caught.group_contains(RuntimeError, match="broken engine")


async def test_accept_without_free_descriptors_is_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Exhausted:
        """A listener that is out of descriptors twice and then broken."""

        def __init__(self) -> None:
            self.errors = [errno.EMFILE, errno.ENFILE, errno.EBADF]

        async def accept(self) -> object:
            await trio.lowlevel.checkpoint()
            raise OSError(self.errors.pop(0), "accept")

    listener = Exhausted()
    began_at = trio.current_time()
    with pytest.raises(ExceptionGroup) as caught:
        await serve_backend(
            cast(trio.socket.SocketType, listener), admit=lambda *_: None, handler=Scripted()
        )
    assert caught.group_contains(OSError)
    assert not listener.errors
    assert trio.current_time() - began_at == pytest.approx(0.2)


async def test_a_request_that_never_waits_starts_no_task(run_dir: Path) -> None:
    async with serving(run_dir) as server, open_frontend(server.path, uuid=GOOD) as device:
        await device.transact(REQUEST, 0)

        class Count(trio.abc.Instrument):
            spawned = 0

            def task_spawned(self, task: trio.lowlevel.Task) -> None:
                self.spawned += 1

        count = Count()
        trio.lowlevel.add_instrument(count)
        for _ in range(50):
            await device.transact(REQUEST, 0)
        trio.lowlevel.remove_instrument(count)
        assert count.spawned == 0


def test_the_credentials_of_a_socket_pair_are_ones_own() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        assert peer_credentials(here).uid == os.getuid()
        assert peer_credentials(here).pid == os.getpid()


# Waiting


async def test_waiting_lets_others_run_even_if_there_is_always_something_to_read() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.send(b"unread")
        wait = QuickWait(here, spin=True)
        ran = 0

        async def other() -> None:
            nonlocal ran
            while True:
                ran += 1
                await trio.lowlevel.checkpoint()

        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other)
                while ran < 5:
                    await wait.wait_readable()
                nursery.cancel_scope.cancel()


async def test_waiting_sees_cancellation_even_if_there_is_always_something_to_read() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.send(b"unread")
        wait = QuickWait(here, spin=True)
        with trio.move_on_after(0.01) as scope:
            while True:
                await wait.wait_readable()
        assert scope.cancelled_caught


class SpunClock:
    """Stands still but for sched_yield, so that every arrival is quick on any machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.yields = 0
        self.on_yield: Callable[[], object] = lambda: None
        monkeypatch.setattr(waiting, "monotonic", lambda: self.yields * 0.00005)
        monkeypatch.setattr(os, "sched_yield", self.sched_yield)

    def sched_yield(self) -> None:
        self.yields += 1
        self.on_yield()


async def earn_credit(wait: QuickWait, here: socket.socket, there: socket.socket) -> None:
    """Let data arrive soon after going to sleep."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait.wait_readable)
        await trio.testing.wait_all_tasks_blocked()
        there.send(b"x")
    here.recv(1)


async def test_data_that_comes_while_spinning_costs_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SpunClock(monkeypatch)
    here, there = socket.socketpair()
    with here, there:
        wait = QuickWait(here, spin=True)
        await earn_credit(wait, here, there)
        clock.on_yield = lambda: there.send(b"y")
        with trio.testing.assert_no_checkpoints():
            await wait.wait_readable()
        assert here.recv(1) == b"y"
        assert clock.yields == 1


async def test_an_idle_connection_is_not_spun_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SpunClock(monkeypatch)
    here, there = socket.socketpair()
    with here, there:
        wait = QuickWait(here, spin=True)

        async def idle() -> int:
            before = clock.yields
            with trio.move_on_after(0.001):
                await wait.wait_readable()
            return clock.yields - before

        assert await idle() == 0
        await earn_credit(wait, here, there)
        spent = [await idle() for _ in range(10)]
        assert spent == [3, 3, 3, 3, 0, 0, 0, 0, 0, 0]
        # Lost without a single arrival in time: the second time it takes two to earn it again.
        await earn_credit(wait, here, there)
        assert await idle() == 0
        await earn_credit(wait, here, there)
        assert await idle() == 3


async def test_a_wait_that_may_not_spin_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SpunClock(monkeypatch)
    here, there = socket.socketpair()
    with here, there:
        wait = QuickWait(here, spin=False)
        for _ in range(3):
            await earn_credit(wait, here, there)
        assert clock.yields == 0
