# SPDX-License-Identifier: Apache-2.0
"""Serving the control channel of swtpm: QEMU, swtpm_ioctl and others that know it.

One client at a time; the others wait in the backlog. A request has to be whole soon after its first
byte, what it announces (a state blob, data to hash) may take longer. A client that goes leaves
everything as it is: the TPM runs on, and so does the data channel.

QEMU connects once and never again. So a control client does not notice that this process is
replaced by another, no more than `clients` do: a stop finishes the request that is under way, and
leaves the connection open.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio
from trio.socket import SocketType

from daemons.runtime.log import Log
from daemons.runtime.sockets import accept
from daemons.tpmfront import descriptors
from daemons.tpmfront.clients import STOP_GRACE_S, send_all
from daemons.tpmfront.controlcommands import ControlCommands
from daemons.tpmfront.datachannel import DataChannel
from daemons.tpmfront.handover import DATA_LIMIT_BYTES, Handover, Kept, Role, Slot, end
from protocol.swtpm import missing_bytes, parse_request
from protocol.tpm12 import ReturnCode
from protocol.tpmif.unix import PeerCredentials, peer_credentials

REQUEST_S: Final = 0.5
"""From the first byte of a request to its last, without what it announces; as swtpm."""
STALLED_DATA_S: Final = 30.0
"""A client that announced data and sends none for so long is disconnected."""
REQUEST_LIMIT_BYTES: Final = 4096
"""Most that is taken as one request; what is announced may be longer and is read as it comes."""
BACKLOG: Final = 64
"""Clients that may wait."""


class _Connection:
    """A client and its request. A `Source` of `ControlCommands`."""

    def __init__(
        self,
        raw: socket.socket,
        slot: Slot | None,
        peer: PeerCredentials,
        open_data: Callable[[int, PeerCredentials], ReturnCode],
        pending: bytes = b"",
    ) -> None:
        self.raw = raw
        # None: it ends with this process.
        self.slot = slot
        self.peer = peer
        # What was read and not answered, of the last process.
        self.pending = pending
        # Waits for a request.
        self.is_idle = True
        # It is to be left alone as soon as nothing is under way.
        self.is_stopping = False
        # SHUTDOWN is done, whether or not somebody waited for the answer.
        self.is_shut_down = False
        # The whole request that is being executed, as it came; None: the next process could not go
        # on from that.
        self.request: bytes | None = None
        # Shielded, so that a stop tears no request apart.
        self.scope = trio.CancelScope(shield=True)
        self._open_data = open_data
        # The descriptor that came with the request.
        self._fd: int | None = None
        self._is_submitted = False

    @property
    def is_submitted(self) -> bool:
        """The vTPM may have had some of the request."""
        return self._is_submitted

    @is_submitted.setter
    def is_submitted(self, value: bool) -> None:
        self._is_submitted = self._is_submitted or value

    @property
    def can_be_left(self) -> bool:
        """The next process can go on from what is known now."""
        return self.slot is not None and (
            self.is_idle or (self.request is not None and not self._is_submitted)
        )

    async def receive_request(self) -> bytes | None:
        """Return all that can be read at once of a request, of which nothing is missing.

        Returns: None at the end of the stream, or if there is to be no more.

        Raises:
            OSError: the connection is broken.
            trio.TooSlowError: the rest of the request does not come.
        """
        received = self.pending
        if not received:
            if self.slot is not None:
                self.slot.rest(b"")
            self.is_idle = True
            if not self.is_stopping:
                await trio.lowlevel.wait_readable(self.raw)
        if self.is_stopping:
            return None
        self.is_idle = False
        self.pending = b""
        if self.slot is not None:
            self.slot.busy()
        with trio.fail_after(REQUEST_S):
            while missing_bytes(received):
                data = await self._receive(REQUEST_LIMIT_BYTES)
                if not data:
                    return None
                received += data
        return received + self._drain(REQUEST_LIMIT_BYTES - len(received))

    def begin(self, request: bytes) -> None:
        """A request is to be executed."""
        is_plain = self._fd is None and len(request) <= DATA_LIMIT_BYTES
        self.request = request if is_plain else None
        self._is_submitted = False

    def finish(self) -> None:
        """It is answered."""
        self.request = None
        self._drop_fd()

    def leave(self) -> None:
        """Write down what the next process has to know."""
        if self.slot is not None:
            self.slot.rest(self.pending if self.is_idle else self.request or b"")

    async def more(self, limit_bytes: int) -> bytes:
        """As `Source.more`."""
        self.request = None
        with trio.fail_after(STALLED_DATA_S):
            return await self._receive(limit_bytes)

    def open_data_channel(self) -> ReturnCode:
        """As `Source.open_data_channel`."""
        fd, self._fd = self._fd, None
        return ReturnCode.BAD_PARAMETER if fd is None else self._open_data(fd, self.peer)

    def close(self) -> None:
        """Let go of a descriptor that nobody took."""
        self._drop_fd()

    def _drain(self, limit_bytes: int) -> bytes:
        if limit_bytes <= 0:
            return b""
        try:
            return self._take(limit_bytes)
        except BlockingIOError:
            return b""

    async def _receive(self, limit_bytes: int) -> bytes:
        while True:
            try:
                return self._take(limit_bytes)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.raw)

    def _take(self, limit_bytes: int) -> bytes:
        data, fds = descriptors.receive(self.raw, limit_bytes)
        if fds and self._fd is None:
            self._fd = fds.pop(0)
        descriptors.close_all(fds)
        return data

    def _drop_fd(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            descriptors.close_all([fd])


class ControlChannel:
    """The control channel of one guest.

    Args:
        commands: what requests do.
        data: the data channel.
        handover: to the next process.
        log: for clients that come and go.
    """

    def __init__(
        self, commands: ControlCommands, data: DataChannel, handover: Handover, log: Log
    ) -> None:
        self._commands = commands
        self._data = data
        self._handover = handover
        self._log = log
        # None: no client is served.
        self._connection: _Connection | None = None
        self._is_stopping = False
        self.on_change: Callable[[], None] = lambda: None
        """Called when `has_client` changes."""
        self.on_shutdown: Callable[[], None] = lambda: None
        """Called when SHUTDOWN is done: the process may end."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when a client is gone without that."""

    @property
    def has_client(self) -> bool:
        """True if somebody is connected."""
        return self._connection is not None

    async def serve(self, listener: SocketType, kept: Sequence[Kept]) -> None:
        """Serve clients until cancelled; then it goes on until `stop` has the last one left alone.

        Args:
            listener: for clients.
            kept: connections of the last process, of the roles DATA and CONTROL.
        """
        async with trio.open_nursery() as nursery:
            open_data = partial(self._open_data, nursery)
            ours = {one.role: one for one in kept}
            client, passed = ours.get(Role.CONTROL), ours.get(Role.DATA)
            peer = None if client is None else peer_credentials(client.connection)
            if passed is not None:
                self._data.resume(passed, peer, nursery)
            if client is not None and peer is not None:
                self._data.set_locality(client.locality)
                await self._serve_one(
                    _Connection(client.connection, client.slot, peer, open_data, client.data)
                )
            while True:
                accepted = await accept(listener, self._log)
                # The raw one, for descriptors that come along; trio's wrapper is not needed.
                raw = socket.socket(fileno=accepted.detach())
                slot = self._handover.take(raw, self._data.locality, Role.CONTROL)
                await self._serve_one(_Connection(raw, slot, peer_credentials(raw), open_data))

    async def serve_connection(self, raw: socket.socket) -> None:
        """Serve the one client that there is, until it goes; the socket is closed then."""
        async with trio.open_nursery() as nursery:
            slot = self._handover.take(raw, self._data.locality, Role.CONTROL)
            open_data = partial(self._open_data, nursery)
            await self._serve_one(_Connection(raw, slot, peer_credentials(raw), open_data))

    def _open_data(self, nursery: trio.Nursery, fd: int, peer: PeerCredentials) -> ReturnCode:
        return self._data.open(fd, peer, nursery)

    def stop(self) -> None:
        """Have the client left alone as soon as no request of it is under way."""
        self._is_stopping = True
        connection = self._connection
        if connection is None:
            return
        connection.is_stopping = True
        if connection.is_idle or connection.can_be_left:
            connection.scope.cancel()
        else:
            connection.scope.deadline = trio.current_time() + STOP_GRACE_S

    async def _serve_one(self, connection: _Connection) -> None:
        peer = connection.peer
        connection.raw.setblocking(False)
        self._connection = connection
        if self._is_stopping:  # it came at the last moment
            self.stop()
        self.on_change()
        self._log.debug("control client connected", pid=peer.pid, uid=peer.uid)
        is_left_alone = False
        try:
            with connection.scope:
                await self._converse(connection)
            # It returns early only when it is stopped.
            is_left_alone = (
                self._is_stopping and not connection.is_shut_down and connection.can_be_left
            )
        except trio.TooSlowError:
            self._log.warning("control client disconnected", pid=peer.pid, reason="too slow")
        except OSError as error:
            self._log.debug("control client lost", pid=peer.pid, reason=error)
        finally:
            self._connection = None
            connection.close()
            self._part(connection, is_left_alone=is_left_alone)
            self.on_change()
        if connection.is_shut_down:
            self._data.close()
            self.on_shutdown()
        elif not is_left_alone:
            self._log.debug("control client gone", pid=peer.pid)
            if not self._is_stopping:
                self.on_lost()

    def _part(self, connection: _Connection, *, is_left_alone: bool) -> None:
        slot = connection.slot
        if slot is not None and is_left_alone:
            connection.leave()
            self._handover.leave(slot)
            connection.raw.close()
            return
        if slot is not None:
            self._handover.release(slot)
        end(connection.raw)

    async def _converse(self, connection: _Connection) -> None:
        """Answer requests until the client goes, is to be left alone, or shuts the TPM down.

        Raises:
            OSError: the client is gone.
            trio.TooSlowError: it sends half a request, or does not read.
        """
        while True:
            request = await connection.receive_request()
            if request is None:
                return
            connection.begin(request)
            answer = await self._commands.execute(parse_request(request), connection)
            if connection.slot is not None:
                connection.slot.set_locality(self._data.locality)
            # What is answered only in part must not be executed by the next process.
            connection.finish()
            connection.is_shut_down = answer.is_last
            await send_all(connection.raw, answer.data)
            if answer.is_last:
                return
            if connection.is_stopping:
                connection.is_idle = True
                return
