# SPDX-License-Identifier: Apache-2.0
"""The frontend of a device on a Unix socket.

    open_frontend(path: str | os.PathLike[str], *, uuid: UUID, extra_pages: int = 0,
                  linger: bool = True) -> async context manager of FrontendDevice
    FrontendDevice.transact(request: bytes, locality: int) -> bytes      (async)
    FrontendDevice.cancel_nowait() -> None
    FrontendDevice.alive() -> bool
    FrontendDevice.capacity_bytes: int

Deadlines are the caller's: a backend that stays silent is waited for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import trio

from protocol.errors import WireError
from protocol.tpmif.errors import BackendLost, BackendRefused, RequestCancelled, TpmifError
from protocol.tpmif.frontend import (
    Cancelled,
    Connected,
    Event,
    Events,
    Frontend,
    Lost,
    Released,
    Response,
    Send,
)
from protocol.tpmif.messages import Grant, encode
from protocol.tpmif.unix.channel import Channel, ChannelClosedError
from protocol.tpmif.unix.grant import make_grant

_CLOSE_DEADLINE_S = 1.0
_BACKLOG_RETRY_S = 0.01


@asynccontextmanager
async def open_frontend(
    path: str | os.PathLike[str], *, uuid: UUID, extra_pages: int = 0, linger: bool = True
) -> AsyncIterator[FrontendDevice]:
    """Connect to a backend and give the device, connected.

    Args:
        path: socket of the backend.
        uuid: identity of the vTPM that is asked for.
        extra_pages: 0 to 255 pages behind the shared one, for packets above 4088 bytes.
        linger: whether to keep the event loop busy for up to 0.15 ms while answers come quickly.

    Raises:
        OSError: nobody listens there.
        BackendRefused: the backend does not serve this uuid to this process.
        BackendLost: the backend died during the handshake or broke the protocol.
    """
    connection = await _connect(path)
    channel = Channel(connection, linger=linger)
    try:
        descriptor, mapping = make_grant(extra_pages)
    except BaseException:
        channel.close()
        raise
    half = Frontend(uuid, mapping.memory())
    try:
        try:
            device = FrontendDevice(channel, half, descriptor)
            await device._handshake()
        finally:
            # The backend has its own by now; the mapping does not need it.
            os.close(descriptor)
        try:
            yield device
        finally:
            await device._close_in_order()
    finally:
        channel.close()
        half.release()
        mapping.close()


class FrontendDevice:
    """A connected device. Made by `open_frontend`; one request at a time."""

    def __init__(self, channel: Channel, half: Frontend, descriptor: int) -> None:
        self._channel = channel
        self._half = half
        # The grant, passed with the `Grant` message of the handshake.
        self._descriptor = descriptor
        # Why the device is of no use any more.
        self._lost: Lost | None = None
        # A task is in `transact`.
        self._in_use = False

    @property
    def capacity_bytes(self) -> int:
        """Size of the largest request and response: 4088 without extra pages."""
        return self._half.capacity_bytes

    async def transact(self, request: bytes, locality: int) -> bytes:
        """Send a request and return the response, 10 bytes or more.

        If the caller is cancelled, the backend is asked to give the request up, and the next
        call first waits until it has.

        Args:
            request: at most `capacity_bytes`.
            locality: 0 to 255.

        Raises:
            RequestCancelled: `cancel_nowait` was called, or the backend aborted the request.
            BackendLost: see there; the device is of no use afterwards.
            TpmifError: request or locality cannot be put on the page; nothing was sent.
            trio.BusyResourceError: another task's call is under way.
        """
        if self._in_use:
            raise trio.BusyResourceError("another task is using this device")
        half = self._half
        self._in_use = True
        submitted = False
        try:
            while half.busy:  # what an earlier, cancelled call left behind
                await self._next_event()
            if self._lost is not None:
                raise _error(self._lost)
            half.submit(request, locality)
            try:
                self._channel.notify()
            except ChannelClosedError as error:
                raise self._lose(str(error)) from None
            submitted = True
            while True:
                event = await self._next_event()
                if type(event) is Response:
                    return event.packet
                if type(event) is Cancelled:
                    raise RequestCancelled("the backend gave the request up")
        except BackendLost as error:
            error.submitted = submitted
            raise
        except BaseException:
            self.cancel_nowait()
            raise
        finally:
            self._in_use = False

    def cancel_nowait(self) -> None:
        """Ask the backend to give up the request that is under way, if there is one.

        `transact` then raises `RequestCancelled`, or returns the response if it came all the same.
        """
        if self._lost is None and self._half.cancel():
            try:
                self._channel.notify()
            except ChannelClosedError:
                return  # seen by whoever receives

    def alive(self) -> bool:
        """False once the device is lost, or the backend has hung up (looked at now)."""
        return self._lost is None and not self._channel.hung_up()

    async def _next_event(self) -> Event | None:
        """Wait for one datagram; return what follows for a request, if anything does."""
        if self._lost is not None:
            raise _error(self._lost)
        datagram = await self._channel.receive()
        if not datagram:
            raise self._lose("end of connection")
        try:
            return self._perform(self._half.receive(datagram))
        except WireError as error:
            raise self._lose(f"backend broke the protocol: {error}") from error
        except ChannelClosedError as error:
            raise self._lose(str(error)) from None

    def _perform(self, events: Events) -> Event | None:
        result: Event | None = None
        for event in events:
            if isinstance(event, Send):
                grant = isinstance(event.message, Grant)
                self._channel.send(encode(event.message), self._descriptor if grant else None)
            elif isinstance(event, Lost):
                self._lost = event
                self._channel.shutdown()
                raise _error(event)
            else:
                result = event
        return result

    def _lose(self, reason: str) -> BackendLost:
        self._half.end(reason)
        self._channel.shutdown()
        if self._lost is None:
            self._lost = Lost(reason, refused=False)
        return _error(self._lost)

    async def _handshake(self) -> None:
        try:
            self._perform(self._half.start())
        except ChannelClosedError as error:
            raise self._lose(str(error)) from None
        while not isinstance(await self._next_event(), Connected):
            pass

    async def _close_in_order(self) -> None:
        if self._lost is not None:
            return
        # Bounded, because a backend that is stuck must not keep us; end of file does the rest.
        with trio.move_on_after(_CLOSE_DEADLINE_S) as scope:
            scope.shield = True
            try:
                self._perform(self._half.close())
                while not isinstance(await self._next_event(), Released):
                    pass
            except (BackendLost, ChannelClosedError, TpmifError):
                return


def _error(lost: Lost) -> BackendLost:
    return BackendRefused(lost.reason) if lost.refused else BackendLost(lost.reason)


async def _connect(path: str | os.PathLike[str]) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.setblocking(False)
        while True:
            try:
                connection.connect(os.fspath(path))
            except BlockingIOError:
                # The backlog is full. There is no event for a free place, so ask again.
                await trio.sleep(_BACKLOG_RETRY_S)
            else:
                return connection
    except BaseException:
        connection.close()
        raise
