# SPDX-License-Identifier: Apache-2.0
"""The backend on a Unix socket: one task per device, for as many as the limits allow.

    serve_backend(listener: trio.socket.SocketType, *,
                  admit: Callable[[PeerCredentials, UUID], None], handler: Handler,
                  limits: BackendLimits = BackendLimits(), linger: bool = True,
                  on_end: Callable[[PeerCredentials, UUID | None, str], None] | None = None,
                  task_status=trio.TASK_STATUS_IGNORED) -> NoReturn                      (async)

Order of calls for one device: `admit`, `opened`, any number of `request` (one at a time, `cancel`
during it), `closed`. A frontend that closes and reconnects on the same connection stays the same
device and causes no call. An exception of the handler, except `Refused` from `admit` and `opened`,
ends `serve_backend`: what it means for the daemon is the daemon's business.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import coroutine
from typing import Any, Final, NoReturn, Protocol, TypeVar, assert_never
from uuid import UUID

import trio

from protocol.errors import WireError
from protocol.tpmif.backend import (
    Admit,
    Backend,
    Cancel,
    Events,
    Execute,
    Free,
    Map,
    Send,
    Unmap,
)
from protocol.tpmif.errors import Refused
from protocol.tpmif.messages import NOTIFY, encode
from protocol.tpmif.unix.channel import (
    Channel,
    ChannelClosedError,
    PeerCredentials,
    close_descriptors,
    peer_credentials,
)
from protocol.tpmif.unix.grant import Mapping, map_grant

_T = TypeVar("_T")

# What accept() says when the process or the system is out of something that comes back; every
# other error means that the listener itself is broken. The same set as trio.serve_listeners.
_ACCEPT_CAPACITY_ERRNOS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
)
_ACCEPT_RETRY_S: Final = 0.1
_CLOSED_DEADLINE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class BackendLimits:
    """What frontends can make a backend spend.

    Args:
        connections: open at a time. When all are taken, a new one takes the place of the oldest
            that has not finished its handshake; if all have, the new one is closed.
        extra_pages: 0 to 255 that one device may grant (4 KiB each).
        handshake_s: seconds from accept to Connected, with `admit` and `opened` in it.
    """

    connections: int = 64
    extra_pages: int = 15
    handshake_s: float = 10.0


class BackendDevice:
    """One connection, as the handler sees it."""

    def __init__(self, channel: Channel, peer: PeerCredentials, uuid: UUID, serial: int) -> None:
        self._channel = channel
        self.peer = peer
        self.uuid = uuid
        # Different for each connection of this process' life, growing.
        self.serial = serial

    def hung_up(self) -> bool:
        """True if the frontend is gone, even if its task has not come to notice it yet."""
        return self._channel.hung_up()

    def disconnect_nowait(self) -> None:
        """End the connection. `cancel` follows if a request is running, then `closed`."""
        self._channel.shutdown()


class Handler(Protocol):
    """What a user of `serve_backend` provides."""

    async def opened(self, device: BackendDevice) -> None:
        """A device was admitted; it is answered when this returns. May raise `Refused`.

        `closed` follows exactly if this returns: not after an exception, nor if it was cancelled
        because the handshake took too long or the backend stops.
        """

    async def request(self, device: BackendDevice, request: bytes, locality: int) -> bytes | None:
        """Execute a request; None if it was cancelled and has no response.

        `request` is a copy of what the frontend wrote, 0 bytes to the capacity of the page, not
        checked any further; `locality` is 0 to 255. Runs to its end even if the frontend goes.
        If it never suspends, the response leaves without a round through the event loop.
        """

    async def closed(self, device: BackendDevice) -> None:
        """The device is gone; no request of it is running. Shielded, 5 s at most."""

    def cancel(self, device: BackendDevice) -> None:
        """The response to the request that is running (it has suspended) is not wanted any more."""


async def serve_backend(
    listener: trio.socket.SocketType,
    *,
    admit: Callable[[PeerCredentials, UUID], None],
    handler: Handler,
    limits: BackendLimits = BackendLimits(),
    linger: bool = True,
    finish_s: float = 0.0,
    on_end: Callable[[PeerCredentials, UUID | None, str], None] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Accept and serve frontends until cancelled.

    Args:
        listener: listening SOCK_SEQPACKET socket; stays the caller's.
        admit: raises `Refused` if this peer may not have this uuid.
        handler: see there.
        limits: see there.
        linger: whether to keep the event loop busy for up to 0.15 ms while requests come quickly,
            as long as one device is connected. For a backend with many devices: False.
        finish_s: how long a backend that is cancelled may still take for what was submitted before.
            A frontend then knows of each request whether it was executed: it has the response, or
            could not submit. The handler has to work while everything around it is cancelled.
        on_end: told once for each connection who it was and why it ended, for the log; the uuid
            is None if none was admitted.
        task_status: started once frontends are accepted.
    """
    server = _Server(admit, handler, limits, linger, finish_s > 0, on_end)
    async with trio.open_nursery() as nursery:
        task_status.started()
        try:
            while True:
                try:
                    accepted, _ = await listener.accept()
                except OSError as error:
                    if error.errno not in _ACCEPT_CAPACITY_ERRNOS:
                        raise
                    await trio.sleep(_ACCEPT_RETRY_S)
                    continue
                connection = socket.socket(fileno=accepted.detach())
                if server.make_room():
                    nursery.start_soon(server.serve, connection)
                else:
                    connection.close()
        finally:
            server.stop(finish_s)


class _Server:
    """What the connections of one `serve_backend` share."""

    def __init__(
        self,
        admit: Callable[[PeerCredentials, UUID], None],
        handler: Handler,
        limits: BackendLimits,
        linger: bool,
        finishes: bool,
        on_end: Callable[[PeerCredentials, UUID | None, str], None] | None,
    ) -> None:
        self.admit = admit
        self.handler = handler
        self.on_end = on_end
        self.limits = limits
        self.finishes = finishes
        self._is_stopped = False
        self._linger = linger
        self._serial = 0
        # All connections, oldest first.
        self._connections: dict[_Connection, None] = {}

    def make_room(self) -> bool:
        """Return whether one more connection may be served; ends a stalled one for it."""
        if len(self._connections) < self.limits.connections:
            return True
        for connection in self._connections:
            if not connection.ready:
                connection.drop()
                del self._connections[connection]
                return True
        return False

    def stop(self, finish_s: float) -> None:
        """Have every connection end, those that may finish after what was submitted."""
        self._is_stopped = True
        for connection in self._connections:
            connection.stop(finish_s)

    async def serve(self, accepted: socket.socket) -> None:
        """Serve one connection to its end."""
        if self._is_stopped:
            accepted.close()
            return
        self._serial += 1
        connection = _Connection(self, accepted, self._serial)
        self._connections[connection] = None
        self.balance()
        try:
            with connection.scope:
                await connection.run()
        finally:
            self._connections.pop(connection, None)
            self.balance()

    def balance(self) -> None:
        """Linger only while there is nobody else to serve."""
        linger = self._linger and len(self._connections) == 1
        for connection in self._connections:
            connection.channel.wait.spin = linger


class _Connection:
    """One device: its half, its channel, its mapping, and the request that runs."""

    def __init__(self, server: _Server, accepted: socket.socket, serial: int) -> None:
        self.channel = Channel(accepted, linger=False)
        self._server = server
        self._half = Backend(max_extra_pages=server.limits.extra_pages)
        self._peer = peer_credentials(accepted)
        self._serial = serial
        # The handshake is done; once True, the connection is not ended to make room.
        self.ready = False
        self._deadline = trio.CancelScope(deadline=trio.current_time() + server.limits.handshake_s)
        # Cancelled by `stop` alone, where requests are to be finished.
        self.scope = trio.CancelScope(shield=server.finishes)
        # Nothing more is to come from the frontend: what is there is finished, then it is over.
        self._stopping = False
        self._drained = False
        # Set exactly while `opened` has returned and `closed` has not been called.
        self._device: BackendDevice | None = None
        self._grant: int | None = None
        self._mapping: Mapping | None = None
        # The connection is over, and why.
        self._gone = False
        self._end_reason = ""
        # Ticket of the request that the handler has, and the one to take up after it: a frontend
        # that reconnects may submit while the request of its former life still runs.
        self._running: int | None = None
        self._next: Execute | None = None
        # Set while the handler is suspended in a request.
        self._reader: _Reader | None = None

    def drop(self) -> None:
        """End a connection whose handshake is not done."""
        self._deadline.cancel()

    def stop(self, finish_s: float) -> None:
        """Take nothing more, and end after what was taken, within so many seconds."""
        if not self.ready:
            self.scope.cancel()
            return
        self._stopping = True
        self.scope.deadline = trio.current_time() + finish_s
        self.channel.stop_receiving()

    async def run(self) -> None:
        """Serve until the end of the connection, then clean up in any case."""
        try:
            with self._deadline:
                while not self.ready and not self._gone:
                    await self._receive(descriptors=True)
            async with trio.open_nursery() as nursery:
                while self.ready and not self._gone:
                    if self._drained and self._next is None:
                        break
                    if self._next is not None:
                        await self._execute(nursery)
                    else:
                        await self._receive(descriptors=self._half.descriptors_expected)
        finally:
            await self._clean_up()

    async def read_on(self) -> None:
        """Serve everything but requests, while one is running."""
        while not self._gone and not self._drained:
            await self._receive(descriptors=self._half.descriptors_expected)

    async def _receive(self, *, descriptors: bool) -> None:
        """Wait for one datagram and do what it asks for."""
        received: list[int] = []
        if descriptors:
            datagram, received = await self.channel.receive_with_descriptors()
        else:
            datagram = await self.channel.receive()
        try:
            if not datagram:
                if self._stopping:
                    self._drained = True
                else:
                    self._end("end of connection")
                return
            events = self._half.receive(datagram, len(received))
            if received:
                # The half accepts descriptors only with a grant, and then exactly one.
                self._take_grant(received.pop())
            admit = self._perform(events)
            if admit is not None:
                self._perform(await self._admit(admit.uuid))
            if not events and self._mapping is not None:
                # A datagram for nothing. Whoever sends many of them waits for the others.
                await self.channel.wait.checkpoint()
        except (WireError, ChannelClosedError) as error:
            self._end(str(error))
        finally:
            close_descriptors(received)

    def _perform(self, events: Events) -> Admit | None:
        """Carry out events; the one that may have to wait is given back, and is the last."""
        for event in events:
            match event:
                case Execute():
                    self._next = event
                case Send(message):
                    if message is NOTIFY:
                        self.channel.notify()
                    else:
                        self.channel.send(encode(message))
                case Cancel(ticket):
                    self._cancel(ticket)
                case Map(pages):
                    self._perform(self._map(pages))
                case Unmap():
                    self._unmap()
                case Free(reason):
                    self._over(reason)
                case Admit():
                    return event
                case _:
                    assert_never(event)
        return None

    async def _admit(self, uuid: UUID) -> Events:
        device = BackendDevice(self.channel, self._peer, uuid, self._serial)
        try:
            self._server.admit(self._peer, uuid)
            await self._server.handler.opened(device)
        except Refused as refusal:
            return self._half.refused(refusal.reason)
        self._device = device
        return self._half.admitted()

    def _take_grant(self, descriptor: int) -> None:
        if self._grant is not None:
            os.close(self._grant)
        self._grant = descriptor

    def _map(self, pages: int) -> Events:
        descriptor, self._grant = self._grant, None
        if descriptor is None:  # pragma: no cover - the half has seen a grant
            return self._half.unmappable("no grant")
        try:
            self._mapping = map_grant(descriptor, pages)
        except WireError as error:
            return self._half.unmappable(str(error))
        finally:
            os.close(descriptor)
        self.ready = True
        self._deadline.deadline = float("inf")
        return self._half.mapped(self._mapping.memory())

    def _unmap(self) -> None:
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None

    def _end(self, reason: str) -> None:
        self._over(reason)
        with suppress(ChannelClosedError):
            self._perform(self._half.end(reason))

    def _over(self, reason: str) -> None:
        if not self._gone:
            self._gone = True
            self._end_reason = reason
            self.channel.shutdown()

    def _cancel(self, ticket: int) -> None:
        if self._next is not None and self._next.ticket == ticket:
            # Not started: it never will be. Late if the half has let go of the page.
            self._next = None
            self._perform(self._half.finish(ticket, None))
        elif self._running == ticket and self._device is not None:
            self._server.handler.cancel(self._device)

    async def _execute(self, nursery: trio.Nursery) -> None:
        """Run the next request, with a reader beside it only if it suspends."""
        execute, self._next = self._next, None
        device = self._device
        if execute is None or device is None:  # pragma: no cover - the loop has looked
            return
        self._running = execute.ticket
        try:
            response = await _run_until_suspended(
                self._server.handler.request(device, execute.request, execute.locality),
                partial(self._start_reader, nursery),
            )
        finally:
            self._running = None
            if self._reader is not None:
                await self._reader.stop()
                self._reader = None
        if self._gone:
            return
        try:
            self._perform(self._half.finish(execute.ticket, response))
        except (WireError, ChannelClosedError) as error:
            self._end(str(error))

    def _start_reader(self, nursery: trio.Nursery) -> None:
        self._reader = _Reader(self)
        nursery.start_soon(self._reader.run)

    async def _clean_up(self) -> None:
        timed_out = self._deadline.cancelled_caught
        self._end("handshake not finished" if timed_out else "backend stops")
        if self._grant is not None:
            os.close(self._grant)
        self.channel.close()
        device, self._device = self._device, None
        if self._server.on_end is not None:
            uuid = None if device is None else device.uuid
            self._server.on_end(self._peer, uuid, self._end_reason)
        if device is not None:
            with trio.move_on_after(_CLOSED_DEADLINE_S) as scope:
                scope.shield = True
                await self._server.handler.closed(device)


class _Reader:
    """Reads the connection while the handler is suspended in a request."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    async def run(self) -> None:
        try:
            with self._scope:
                await self._connection.read_on()
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Wait until the connection may be read by somebody else."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._stopped.wait()


@coroutine
def _run_until_suspended(
    work: Coroutine[Any, Any, _T], suspended: Callable[[], object]
) -> Generator[Any, Any, _T]:
    """Run a coroutine in this task; call `suspended` before it waits for the first time.

    That is how a request which needs no waiting costs no second task: `suspended` starts one, and
    is never called if the coroutine just returns. What the coroutine yields are the event loop's
    own requests, which are handed on as they are.
    """
    try:
        trap = work.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    suspended()
    while True:
        try:
            answer = yield trap
        except BaseException as error:
            resume = partial(work.throw, error)
        else:
            resume = partial(work.send, answer)
        try:
            trap = resume()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
