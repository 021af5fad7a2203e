# SPDX-License-Identifier: Apache-2.0
"""One end of a connection: datagrams, sent without ever waiting.

A notification that finds the queue full is dropped: something of ours that the peer has not read
yet is in the queue, and a peer looks at the page after every datagram. Any other message that
finds it full ends the connection. The kernel's send buffer is the bounded queue; it is set to hold
some tens of small datagrams.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from array import array
from dataclasses import dataclass
from struct import Struct
from typing import Final

from trio.socket import SocketType

from protocol.tpmif.messages import DATAGRAM_LIMIT, NOTIFICATION
from protocol.tpmif.unix.waiting import QuickWait

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


def peer_credentials(connection: socket.socket | SocketType) -> PeerCredentials:
    """Return who is at the other end of a Unix socket, as the kernel recorded it at connect(2)."""
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
        linger: whether `receive` may keep the event loop busy for a moment (see `QuickWait`).
    """

    __slots__ = ("_connection", "wait")

    def __init__(self, connection: socket.socket, *, linger: bool) -> None:
        connection.setblocking(True)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._connection = connection
        self.wait = QuickWait(connection, spin=linger)

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

        Descriptors that came with it are dropped by the kernel. Not always a checkpoint.
        """
        while True:
            await self.wait.wait_readable()
            try:
                return self._connection.recv(DATAGRAM_LIMIT + 1, _DONTWAIT)
            except (BlockingIOError, ConnectionResetError):
                # Readable no more, or closed by the peer with something of ours unread. The
                # latter is said once; then comes what it sent before, and then the end.
                continue

    async def receive_with_descriptors(self) -> tuple[bytes, list[int]]:
        """Like `receive`, with the descriptors that came along, which become the caller's.

        One more than is ever allowed is noticed; the kernel closes the rest.
        """
        size = socket.CMSG_SPACE(_DESCRIPTORS * array("i").itemsize)
        flags = _DONTWAIT | socket.MSG_CMSG_CLOEXEC
        while True:
            await self.wait.wait_readable()
            try:
                datagram, rights, _, _ = self._connection.recvmsg(DATAGRAM_LIMIT + 1, size, flags)
                break
            except (BlockingIOError, ConnectionResetError):
                continue
        descriptors = array("i")
        for level, kind, data in rights:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        return datagram, descriptors.tolist()

    def hung_up(self) -> bool:
        """True if the peer has closed, even if something that it sent is still unread."""
        if self._connection.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._connection, 0)
        return bool(poll.poll(0))

    def stop_receiving(self) -> None:
        """Take nothing more: what the peer has sent is still received, then the end; what it sends
        from now on fails there."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RD)

    def shutdown(self) -> None:
        """End the connection; whoever receives on it at either side sees the end."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. Nobody may be receiving."""
        self._connection.close()


def close_descriptors(descriptors: list[int]) -> None:
    """Close what a peer sent and nobody wants."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
