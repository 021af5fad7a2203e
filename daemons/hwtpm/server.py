# SPDX-License-Identifier: Apache-2.0
"""The locality pages as sockets: who can open the file of a locality may use it.

Every connection has one task, which answers register accesses in the order in which they come. It
keeps no queue: a reply or interrupt that the peer's socket does not take at once, or a message that
is no register access, ends the connection. When the last connection of a locality is gone its page
is nobody's any more and the locality is relinquished, so that a driver that was killed does not
keep the chip from everybody else.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from daemons.hwtpm.chip import Chip
from daemons.runtime.log import Log
from daemons.runtime.sockets import Listeners, accept
from protocol.errors import WireError
from protocol.tis.framing import (
    MAX_REQUEST,
    REPLY_HEADER,
    BurstRead,
    BurstWrite,
    InterruptMessage,
    Read,
    ReplyKind,
    Write,
    decode_request,
    encode_reply,
)
from protocol.tis.mmio import locality_socket
from protocol.tis.registers import LOCALITIES, Access, Register
from protocol.tpmif.unix.waiting import QuickWait

CONNECTIONS_PER_LOCALITY: Final = 32
_TURN: Final = 64
"""Accesses that one connection gets answered before the others have their turn."""

_RELINQUISH: Final = bytes([Access.ACTIVE_LOCALITY])


class PeerLost(Exception):
    """The peer of a connection hung up, broke the protocol or does not read."""


class PageServer:
    """The sockets of all localities of one chip."""

    def __init__(
        self,
        chip: Chip,
        listeners: Listeners,
        run_dir: Path,
        modes: Mapping[int, int],
        log: Log,
    ) -> None:
        """Args:
        chip: whose registers they are.
        listeners: may have inherited ones, named "locality0" to "locality4".
        run_dir: where the others are made.
        modes: permissions of a locality's socket file where they are not 0600.
        log: for connections and refusals.
        """
        self._chip = chip
        self._listeners = listeners
        self._modes = modes
        self._run_dir = run_dir
        self._log = log
        self._connections: dict[int, set[_Connection]] = {n: set() for n in range(LOCALITIES)}

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen at every locality until cancelled.

        Raises:
            OSError: a socket cannot be made.
            DaemonError: one of them is in use.
        """
        with ExitStack() as stack:
            listeners = [
                stack.enter_context(
                    self._listeners.listen(
                        f"locality{locality}",
                        locality_socket(self._run_dir, locality),
                        kind=socket.SOCK_SEQPACKET,
                        mode=self._modes.get(locality, 0o600),
                    )
                )
                for locality in range(LOCALITIES)
            ]
            async with trio.open_nursery() as nursery:
                for locality, listener in enumerate(listeners):
                    nursery.start_soon(self._accept, locality, listener, nursery)
                task_status.started()

    def connections(self) -> tuple[int, ...]:
        """Return the number of connections by locality."""
        return tuple(len(self._connections[locality]) for locality in range(LOCALITIES))

    async def disconnect(self) -> None:
        """End every connection and wait until they are gone."""
        going = [connection for group in self._connections.values() for connection in group]
        for connection in going:
            connection.hang_up()
        for connection in going:
            await connection.gone.wait()

    async def _accept(
        self, locality: int, listener: trio.socket.SocketType, nursery: trio.Nursery
    ) -> None:
        while True:
            peer = await accept(listener, self._log)
            group = self._connections[locality]
            if len(group) >= CONNECTIONS_PER_LOCALITY:
                self._log.warning("too many connections", locality=locality)
                peer.close()
                continue
            connection = _Connection(self._chip, locality, socket.socket(fileno=peer.detach()))
            group.add(connection)
            nursery.start_soon(self._serve_one, connection)

    async def _serve_one(self, connection: _Connection) -> None:
        locality = connection.locality
        group = self._connections[locality]
        self._chip.add_interrupt_sink(connection.interrupt)
        try:
            await connection.serve()
        except PeerLost as error:
            self._log.debug("connection ended", locality=locality, reason=str(error))
        except WireError as error:
            self._log.warning("connection refused", locality=locality, reason=str(error))
        finally:
            self._chip.remove_interrupt_sink(connection.interrupt)
            group.discard(connection)
            connection.close()
            if not group:
                self._chip.write(locality, Register.ACCESS, _RELINQUISH)


class _Connection:
    """One client of one locality page."""

    def __init__(self, chip: Chip, locality: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.locality = locality
        self.gone = trio.Event()
        self._chip = chip
        self._sock = sock
        # No interrupt message follows another before the peer has made an access: see framing.
        self._armed = True

    async def serve(self) -> None:
        """Answer accesses until the peer is lost.

        Raises:
            PeerLost: it hung up or does not read.
            WireError: it sent something that is no access.
        """
        sock, chip = self._sock, self._chip
        wait = QuickWait(sock, spin=True)
        while True:
            await wait.wait_readable()
            for _ in range(_TURN):
                try:
                    # One byte more than the longest, so that a longer message is seen as such.
                    message = sock.recv(MAX_REQUEST + 1)
                except BlockingIOError:
                    break
                except OSError as error:
                    raise PeerLost(str(error)) from error
                if not message:
                    raise PeerLost("hung up")
                self._armed = True
                await self._access(message)
                while chip.job_waits:
                    # A light command is done when the next access is looked at.
                    await wait.checkpoint()
            else:
                await wait.checkpoint()

    async def _access(self, message: bytes) -> None:
        chip, locality = self._chip, self.locality
        match decode_request(message):
            case Read(tag, offset, size):
                self._reply(ReplyKind.VALUE, tag, chip.read(locality, offset, size))
            case BurstRead(tag, size):
                self._reply(ReplyKind.BURST, tag, chip.read_fifo(locality, size))
            case Write(offset, data):
                while not chip.write(locality, offset, data):
                    await chip.wait_idle()
            case BurstWrite(data):
                while not chip.write_fifo(locality, data):
                    await chip.wait_idle()

    def interrupt(self, locality: int) -> None:
        """Tell the peer that the interrupt line was raised, unless it still owes us an access."""
        if self._armed:
            self._armed = False
            try:
                self._send(encode_reply(InterruptMessage(locality)))
            except PeerLost:
                self.hang_up()

    def hang_up(self) -> None:
        """Make `serve` end soon."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is gone already

    def close(self) -> None:
        """Close the socket."""
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        self.gone.set()

    def _reply(self, kind: ReplyKind, tag: int, data: bytes) -> None:
        self._send(REPLY_HEADER.pack(kind, len(data), tag) + data)

    def _send(self, message: bytes) -> None:
        try:
            self._sock.send(message, socket.MSG_NOSIGNAL)
        except OSError as error:
            # Also when it would block: hundreds of replies that the peer has not read.
            raise PeerLost(str(error)) from error
