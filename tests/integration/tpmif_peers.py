# SPDX-License-Identifier: Apache-2.0
"""Both ends of the split driver for tests: a backend with a scripted handler, and raw peers.

A raw peer is a bare socket and a memfd: it says and writes exactly what the test tells it to.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

import trio

from protocol.tpmif.errors import Refused
from protocol.tpmif.messages import NOTIFICATION, Grant, Key, Message, Value, Write, decode, encode
from protocol.tpmif.unix import (
    BackendDevice,
    BackendLimits,
    PeerCredentials,
    open_frontend,
    serve_backend,
)
from protocol.tpmif.xenbus import XenbusState

GOOD = UUID("600d600d-0000-4000-8000-000000000001")
BAD = UUID("badbadba-0000-4000-8000-000000000002")
STRANGER = UUID("00000000-0000-4000-8000-000000000003")
REQUEST = bytes.fromhex("00c1 0000000e 00000046 00000014")  # TPM_GetRandom of 20 bytes
RESPONSE = bytes.fromhex("00c4 0000000a 00000000")
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
DEADLINE_S = 60.0


def echo(request: bytes, locality: int = 0) -> bytes:
    """Return the response of `Scripted`: a header, the locality, the request."""
    size = 11 + len(request)
    return b"\0\xc4" + size.to_bytes(4, "big") + bytes(4) + bytes([locality]) + request


class Scripted:
    """A handler that answers with `echo`, for `BAD` only when the test lets it."""

    def __init__(self) -> None:
        self.opened_devices: list[BackendDevice] = []
        self.closed_devices: list[BackendDevice] = []
        self.cancelled_devices: list[BackendDevice] = []
        # Requests of BAD, as they came.
        self.requests: list[bytes] = []
        # While set, requests of BAD wait for `go`, or give up when they are cancelled.
        self.hold = False
        self.give_up = True
        self._changed = trio.Condition()
        self._go = trio.Event()
        self._cancelled = trio.Event()

    async def opened(self, device: BackendDevice) -> None:
        if device.uuid == STRANGER:
            raise Refused("uuid is open already")
        self.opened_devices.append(device)

    async def request(self, device: BackendDevice, request: bytes, locality: int) -> bytes | None:
        if device.uuid == BAD:
            self.requests.append(request)
            if self.hold:
                return await self._held(request, locality)
        return echo(request, locality)

    async def _held(self, request: bytes, locality: int) -> bytes | None:
        self._go, self._cancelled = trio.Event(), trio.Event()
        await self._note()
        if not self.give_up:
            await self._go.wait()
            return echo(request, locality)
        async with trio.open_nursery() as nursery:

            async def until(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until, self._go)
            nursery.start_soon(until, self._cancelled)
        return None if self._cancelled.is_set() else echo(request, locality)

    async def closed(self, device: BackendDevice) -> None:
        self.closed_devices.append(device)
        await self._note()

    def cancel(self, device: BackendDevice) -> None:
        self.cancelled_devices.append(device)
        self._cancelled.set()

    def go(self) -> None:
        """Let the request that waits be answered."""
        self._go.set()

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def wait_running(self, count: int = 1) -> None:
        """Wait until BAD's request number `count` (of all so far) is with the handler."""
        async with self._changed:
            while len(self.requests) < count:
                await self._changed.wait()

    async def wait_closed(self, count: int) -> None:
        """Wait until that many devices have been closed."""
        async with self._changed:
            while len(self.closed_devices) < count:
                await self._changed.wait()


class Server:
    """A backend that is being served."""

    def __init__(self, path: Path, handler: Scripted) -> None:
        self.path = path
        self.handler = handler
        # Why connections ended, in order.
        self.ends: list[str] = []
        self._ended = trio.Event()
        self.peers: list[PeerCredentials] = []
        self.scope = trio.CancelScope()
        # The backend has returned after `stop`.
        self.ended = trio.Event()

    def stop(self) -> None:
        """Have the backend stop, as its daemon does at SIGTERM."""
        self.scope.cancel()

    def admit(self, peer: PeerCredentials, uuid: UUID) -> None:
        self.peers.append(peer)
        if uuid not in (GOOD, BAD, STRANGER):
            raise Refused("uuid is not in the table")

    def on_end(self, peer: PeerCredentials, uuid: UUID | None, reason: str) -> None:
        self.ends.append(reason)
        self._ended.set()
        self._ended = trio.Event()

    async def wait_ends(self, count: int) -> list[str]:
        """Wait until that many connections have ended, and return why."""
        with trio.fail_after(DEADLINE_S):
            while len(self.ends) < count:
                await self._ended.wait()
        return self.ends

    async def serves(self) -> None:
        """Assert that a well-behaved client is served now."""
        with trio.fail_after(DEADLINE_S):
            async with open_frontend(self.path, uuid=GOOD) as device:
                for locality in range(3):
                    answer = await device.transact(REQUEST, locality)
                    assert answer == echo(REQUEST, locality)


@asynccontextmanager
async def serving(
    run_dir: Path,
    *,
    handler: Scripted | None = None,
    limits: BackendLimits | None = None,
    linger: bool = True,
    finish_s: float = 0.0,
) -> AsyncIterator[Server]:
    """Serve on a socket in `run_dir` for as long as the context lasts, or to `Server.stop`."""
    server = Server(run_dir / "back", handler or Scripted())
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        await listener.bind(str(server.path))
        listener.listen(64)
        serve = partial(
            serve_backend,
            listener,
            admit=server.admit,
            handler=server.handler,
            limits=limits or BackendLimits(),
            linger=linger,
            finish_s=finish_s,
            on_end=server.on_end,
        )

        async def serve_until_stopped(task_status: trio.TaskStatus[None]) -> None:
            with server.scope:
                await serve(task_status=task_status)
            server.ended.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(serve_until_stopped)
            yield server
            nursery.cancel_scope.cancel()


def memfd(size: int = 4096, seals: int = SEALS) -> int:
    """Return a new memfd with these seals."""
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


class RawPeer:
    """A socket and a page without any rules. Closed by `close`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.page: mmap.mmap | None = None

    @property
    def memory(self) -> mmap.mmap:
        assert self.page is not None
        return self.page

    def say(self, datagram: bytes, descriptors: list[int] | None = None) -> None:
        """Send a datagram; raises BlockingIOError if the peer's queue is full."""
        rights = array("i", descriptors or [])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        self.connection.sendmsg([datagram], ancillary)

    def write(self, **nodes: Value) -> None:
        keys = {Key(name.replace("_", "-")): value for name, value in nodes.items()}
        self.say(encode(Write(keys)))

    def state(self, value: int) -> None:
        self.write(state=XenbusState(value))

    def notify(self) -> None:
        self.say(NOTIFICATION)

    async def hear(self) -> bytes:
        """Return the next datagram, b"" at the end of the connection."""
        with trio.fail_after(DEADLINE_S):
            while True:
                try:
                    return self.connection.recv(1024)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self.connection)
                except ConnectionResetError:
                    continue

    async def hear_message(self) -> Message:
        return decode(await self.hear())

    async def hear_write(self) -> dict[Key, Value]:
        """Return the next transaction; notifications before it are passed over."""
        while True:
            message = await self.hear_message()
            if isinstance(message, Write):
                return dict(message.nodes)

    async def hear_state(self, value: int) -> dict[Key, Value]:
        """Wait for a transaction with this state and return it."""
        while True:
            nodes = await self.hear_write()
            if nodes.get(Key.STATE) == value:
                return nodes

    async def hear_end(self) -> None:
        """Wait for the end of the connection, whatever comes before it."""
        while await self.hear():
            pass

    def grant(self, descriptor: int, pages: int = 1) -> None:
        self.say(encode(Grant(pages)), [descriptor])

    def offer_keys(self) -> None:
        self.write(
            ring_ref=0, event_channel=0, feature_protocol_v2=1, state=XenbusState.INITIALISED
        )

    def close(self) -> None:
        self.connection.close()
        if self.page is not None:
            self.page.close()

    # As a frontend

    async def introduce(self, uuid: UUID = BAD) -> None:
        self.write(uuid=uuid, state=XenbusState.INITIALISING)
        await self.hear_state(XenbusState.INIT_WAIT)

    async def offer(self, pages: int = 1) -> None:
        """Grant proper pages and wait until they are mapped."""
        descriptor = memfd(pages * 4096)
        try:
            if self.page is not None:
                self.page.close()
            self.page = mmap.mmap(descriptor, pages * 4096)
            self.grant(descriptor, pages)
        finally:
            os.close(descriptor)
        self.offer_keys()
        await self.hear_state(XenbusState.CONNECTED)
        self.state(XenbusState.CONNECTED)

    async def connect(self, uuid: UUID = BAD) -> None:
        await self.introduce(uuid)
        await self.offer()

    def put(
        self, state: int, *, length: int = len(REQUEST), locality: int = 0, extra_pages: int = 0
    ) -> None:
        offset = 8 + 4 * extra_pages
        self.memory[offset : offset + len(REQUEST)] = REQUEST
        for index in range(extra_pages):
            self.memory[8 + 4 * index : 12 + 4 * index] = (index + 1).to_bytes(4, "little")
        self.memory[0:4] = length.to_bytes(4, "little")
        self.memory[5] = locality
        self.memory[7] = extra_pages
        self.memory[4] = state

    async def wait_state(self, *values: int) -> None:
        """Wait, by notifications, until the page has one of these states."""
        while self.memory[4] not in values:
            assert await self.hear() == NOTIFICATION

    def packet(self) -> bytes:
        length = int.from_bytes(self.memory[0:4], "little")
        return self.memory[8 : 8 + length]

    async def round_trip(self) -> None:
        """Assert that this peer itself is served now."""
        self.put(1)
        self.notify()
        await self.wait_state(2)
        assert self.packet() == echo(REQUEST)

    # As a backend

    async def accept_grant(self) -> None:
        """Answer a frontend's handshake up to Connected, and map its page."""
        await self.hear_state(XenbusState.INITIALISING)
        self.write(feature_protocol_v2=1, state=XenbusState.INIT_WAIT)
        with trio.fail_after(DEADLINE_S):
            await trio.lowlevel.wait_readable(self.connection)
        datagram, descriptors, _, _ = socket.recv_fds(self.connection, 1024, 4)
        message = decode(datagram)
        assert isinstance(message, Grant)
        (descriptor,) = descriptors
        assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS == SEALS
        assert os.fstat(descriptor).st_size == 4096 * message.pages
        self.page = mmap.mmap(descriptor, 4096 * message.pages)
        os.close(descriptor)
        assert not any(self.page[:])
        await self.hear_state(XenbusState.INITIALISED)
        self.write(ready=1, state=XenbusState.CONNECTED)
        await self.hear_state(XenbusState.CONNECTED)

    async def wait_request(self) -> bytes:
        """Wait for SUBMIT and return the packet."""
        await self.wait_state(1)
        return self.packet()

    def respond(self, state: int = 2, packet: bytes = RESPONSE, length: int | None = None) -> None:
        self.memory[8 : 8 + len(packet)] = packet
        self.memory[0:4] = (len(packet) if length is None else length).to_bytes(4, "little")
        self.memory[4] = state
        self.notify()


@contextmanager
def raw_frontend(path: Path) -> Iterator[RawPeer]:
    """A raw peer connected to a backend."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer = RawPeer(connection)
    try:
        connection.connect(str(path))
        yield peer
    finally:
        peer.close()


class RawListener:
    """A place for frontends to connect to, where the test plays the backend."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(path))
        self._socket.listen(4)
        self._socket.setblocking(False)

    async def accept(self) -> RawPeer:
        with trio.fail_after(DEADLINE_S):
            await trio.lowlevel.wait_readable(self._socket)
        connection, _ = self._socket.accept()
        return RawPeer(connection)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Assert that as many descriptors are open afterwards as before."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before
