# SPDX-License-Identifier: Apache-2.0
"""One end of a connection: datagrams that never block, and a receive that is quick when it pays.

Sending never waits. A notification that finds the queue full is dropped: something of ours that
the peer has not read yet is in the queue, and a peer looks at the page after every datagram. Any
other message that finds it full ends the connection. The kernel's send buffer is the bounded
queue; it is set to hold some tens of small datagrams.

Receiving. Waiting through trio costs a round through its scheduler and three more system calls,
some 15 us on top of the 5 us that the wake-up itself takes. While answers come quickly, `receive`
therefore sleeps in the kernel for up to `LINGER_S` first. That stops the whole event loop, so it
is done only while it pays (each miss costs credit, each quick datagram gives some back; an idle
connection has none), and there is a checkpoint at least every `BURST_S`, so that other tasks run
and cancellation is seen. select() does the sleeping: it wakes within 0.1 ms of the limit, while
SO_RCVTIMEO counts in ticks of the kernel (4 ms at 250 Hz, measured: 8 ms until a miss returns).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from array import array
from dataclasses import dataclass
from struct import Struct
from time import monotonic
from typing import Final

import trio

from protocol.tpmif.messages import DATAGRAM_LIMIT, NOTIFICATION

LINGER_S: Final = 0.0004
BURST_S: Final = 0.001
CREDIT: Final = 4  # misses in a row until lingering stops
_SELECT_LIMIT: Final = 1024  # FD_SETSIZE
_SEND_BUFFER_BYTES: Final = 16384  # the kernel doubles it; a small datagram takes about 800
_DESCRIPTORS: Final = 4  # received at most, so that more than the allowed one is noticed
_DONTWAIT: Final = socket.MSG_DONTWAIT
_SO_PEERSEC: Final = 31  # Linux; the socket module has no name for it
_UCRED: Final = Struct("iII")


class ChannelClosedError(Exception):
    """The peer is gone, or does not read its control messages."""


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """Who is at the other end, from the kernel, as of its connect().

    `label` is the security label where the system has a security module, else None; it stands in
    for the XSM label of a Xen domain.
    """

    pid: int
    uid: int
    gid: int
    label: str | None


def peer_credentials(connection: socket.socket) -> PeerCredentials:
    """Return the credentials of the peer of a Unix socket."""
    ucred = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(ucred)
    label: str | None = None
    with contextlib.suppress(OSError):  # no security module that labels sockets
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERSEC, 1024)
        label = raw.rstrip(b"\0").decode("ascii", "backslashreplace") or None
    return PeerCredentials(pid, uid, gid, label)


class Channel:
    """A connected SOCK_SEQPACKET socket. One task receives at a time.

    Args:
        connection: becomes the channel's, in blocking mode; all calls here say what they want.
        linger: whether `receive` may stop the event loop for up to `LINGER_S`.
    """

    __slots__ = ("_connection", "_credit", "_descriptor", "_yielded_at", "linger")

    def __init__(self, connection: socket.socket, *, linger: bool) -> None:
        connection.setblocking(True)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._connection = connection
        self._descriptor = connection.fileno()
        self.linger = linger
        # Misses that are still allowed. Earned by a quick datagram, so none at the start.
        self._credit = 0
        # When the task last gave others a chance to run.
        self._yielded_at = 0.0

    def notify(self) -> None:
        """Send a notification, unless one of our datagrams is waiting to be read anyway.

        Raises:
            ChannelClosedError: the peer is gone.
        """
        try:
            self._connection.send(NOTIFICATION, _DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise ChannelClosedError(error.strerror) from None

    def send(self, datagram: bytes, descriptor: int | None = None) -> None:
        """Send a control message, with a descriptor if one is given (it stays the caller's).

        Raises:
            ChannelClosedError: the peer is gone or has not read the messages before.
        """
        try:
            if descriptor is None:
                self._connection.send(datagram, _DONTWAIT)
            else:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))
                self._connection.sendmsg([datagram], [rights], _DONTWAIT)
        except BlockingIOError:
            raise ChannelClosedError("control messages are not read") from None
        except OSError as error:
            raise ChannelClosedError(error.strerror) from None

    async def receive(self) -> bytes:
        """Return the next datagram, b"" at the end; one byte over the limit if it was longer.

        Descriptors that came with it are dropped by the kernel. A checkpoint only if it had to
        wait for long, or if the last one is `BURST_S` ago.
        """
        started_at = monotonic()
        if started_at - self._yielded_at > BURST_S:
            await self.checkpoint()
        try:
            if self.linger and self._credit > 0:
                if select.select((self._descriptor,), (), (), LINGER_S)[0]:
                    self._credit = CREDIT
                    return self._connection.recv(DATAGRAM_LIMIT + 1, _DONTWAIT)
                self._credit -= 1
            else:
                with contextlib.suppress(BlockingIOError):
                    return self._connection.recv(DATAGRAM_LIMIT + 1, _DONTWAIT)
            await self._wait_readable()
            if self._yielded_at - started_at < LINGER_S:
                self._credit = CREDIT
            return self._connection.recv(DATAGRAM_LIMIT + 1, _DONTWAIT)
        except ConnectionResetError:  # closed by the peer with something of ours unread
            return b""

    async def receive_with_descriptors(self) -> tuple[bytes, list[int]]:
        """Like `receive`, with the descriptors that came along, which become the caller's.

        Never lingers. One more than is ever allowed is noticed; the kernel closes the rest.
        """
        await self._wait_readable()
        size = socket.CMSG_SPACE(_DESCRIPTORS * array("i").itemsize)
        try:
            datagram, ancillary, _, _ = self._connection.recvmsg(
                DATAGRAM_LIMIT + 1, size, _DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return b"", []
        descriptors = array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        return datagram, descriptors.tolist()

    async def checkpoint(self) -> None:
        """Let other tasks run, and see cancellation."""
        await trio.lowlevel.checkpoint()
        self._yielded_at = monotonic()

    def hung_up(self) -> bool:
        """True if the peer has closed and nothing that it sent before is left to be read."""
        try:
            return self._connection.recv(1, _DONTWAIT | socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def shutdown(self) -> None:
        """End the connection; whoever receives on it at either side sees the end."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. Nobody may be receiving."""
        self._connection.close()

    async def _wait_readable(self) -> None:
        await trio.lowlevel.wait_readable(self._connection)
        self._yielded_at = monotonic()


def close_descriptors(descriptors: list[int]) -> None:
    """Close what a peer sent and nobody wants."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
