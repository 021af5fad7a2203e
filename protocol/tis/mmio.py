# SPDX-License-Identifier: Apache-2.0
"""The client's end of a locality page: posted writes and reads over one SOCK_SEQPACKET connection.

Requests go out without waiting and replies come back in order, so a driver may put several accesses
on their way before it looks at the first reply; that, not fewer register accesses, is what keeps a
command cheap.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from pathlib import Path
from typing import Final

import trio

from protocol.errors import WireError
from protocol.tis.framing import (
    MAX_REPLY,
    REQUEST_HEADER,
    Burst,
    InterruptMessage,
    Operation,
    Value,
    decode_reply,
)
from protocol.tis.registers import LOCALITIES, Register
from protocol.tpmif.unix.waiting import QuickWait

_WIDTH_FORMAT: Final = {1: struct.Struct("<B"), 2: struct.Struct("<H"), 4: struct.Struct("<I")}
_FIFO: Final = int(Register.DATA_FIFO)


class BusLost(Exception):
    """The connection to the chip is gone, or the chip does not speak this protocol; it cannot be
    used any more."""


def locality_socket(run_dir: Path, locality: int) -> Path:
    """Return the socket path of a locality page in the run folder of a chip."""
    if not 0 <= locality < LOCALITIES:
        raise ValueError(f"locality {locality}, allowed are 0 to {LOCALITIES - 1}")
    return run_dir / f"locality{locality}.sock"


class MmioBus:
    """One connection to one locality page; used by one task at a time.

    Every method raises `BusLost` when the connection ended or the chip broke the protocol. Writes
    and read requests never wait: a chip that lets hundreds of small messages lie is as good as
    gone.
    """

    def __init__(self, sock: socket.socket, *, spin: bool = True) -> None:
        """Take over a connected socket.

        Args:
            sock: closed by `close`.
            spin: whether a read may keep the event loop busy for a moment, see `QuickWait`.
        """
        sock.setblocking(False)
        self._sock = sock
        # A processor stalls on a register read; to stall a little is here, too, the cheapest way.
        self._wait = QuickWait(sock, spin=spin)
        self._tag = 0
        self._outstanding: deque[tuple[int, int, bool]] = deque()
        """(tag, size, is a burst) of every read whose reply has not come, oldest first."""
        self._wanted: dict[int, bytes | None] = {}
        """Replies somebody will ask for by tag; a read that is not in it was abandoned."""
        self.interrupted = False
        """An interrupt message came since this was last set to False."""

    @classmethod
    async def connect(cls, path: Path) -> MmioBus:
        """Connect to the socket of a locality page.

        Raises:
            OSError: nobody listens, or the file may not be used by us.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            async_sock = trio.socket.from_stdlib_socket(sock)
            try:
                await async_sock.connect(str(path))
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
        except BaseException:
            sock.close()
            raise
        return cls(socket.socket(fileno=async_sock.detach()))

    def close(self) -> None:
        """Give the connection up; idempotent."""
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()

    def write(self, offset: int, value: int, width: int = 1) -> None:
        """Post a register write; `width` is 1, 2 or 4 bytes."""
        self._send(
            REQUEST_HEADER.pack(Operation.WRITE, width, 0, offset)
            + _WIDTH_FORMAT[width].pack(value)
        )

    def write_fifo(self, data: bytes) -> None:
        """Post 1 to 255 bytes to the FIFO; the caller keeps to the burstCount that he read."""
        self._send(REQUEST_HEADER.pack(Operation.BURST_WRITE, len(data), 0, _FIFO) + data)

    def request_read(self, offset: int, width: int = 1) -> int:
        """Put a register read on its way and return the tag to ask for its value with."""
        return self._request(Operation.READ, offset, width)

    def request_fifo(self, size: int) -> int:
        """Put a FIFO read of 1 to 255 bytes on its way and return its tag."""
        return self._request(Operation.BURST_READ, _FIFO, size)

    async def value(self, tag: int) -> int:
        """Wait for a register read and return its value."""
        return int.from_bytes(await self.data(tag), "little")

    async def data(self, tag: int) -> bytes:
        """Wait for a read and return its bytes."""
        while (data := self._wanted[tag]) is None:
            self._take(await self._receive())
        del self._wanted[tag]
        return data

    async def read(self, offset: int, width: int = 1) -> int:
        """Read one register; a whole round trip."""
        return await self.value(self.request_read(offset, width))

    async def wait_interrupt(self) -> None:
        """Wait until an interrupt message has come since `interrupted` was last reset."""
        while not self.interrupted:
            self._take(await self._receive())

    def abandon_reads(self) -> None:
        """Forget every read on its way: nobody will ask for the replies."""
        self._wanted.clear()

    def _request(self, operation: Operation, offset: int, size: int) -> int:
        self._tag = tag = (self._tag + 1) & 0xFFFF
        self._send(REQUEST_HEADER.pack(operation, size, tag, offset))
        self._outstanding.append((tag, size, operation is Operation.BURST_READ))
        self._wanted[tag] = None
        return tag

    def _send(self, message: bytes) -> None:
        try:
            self._sock.send(message, socket.MSG_NOSIGNAL)
        except BlockingIOError as error:
            raise BusLost("the chip does not take messages") from error
        except OSError as error:
            raise BusLost(f"connection to the chip: {error}") from error

    async def _receive(self) -> bytes:
        while True:
            try:
                # One byte more than the longest message, so that a longer one is seen as too long.
                message = self._sock.recv(MAX_REPLY + 1)
            except BlockingIOError:
                try:
                    await self._wait.wait_readable()
                except trio.ClosedResourceError as error:
                    raise BusLost("connection closed") from error
            except OSError as error:
                raise BusLost(f"connection to the chip: {error}") from error
            else:
                if not message:
                    raise BusLost("the chip hung up")
                return message

    def _take(self, message: bytes) -> None:
        try:
            reply = decode_reply(message)
        except WireError as error:
            raise BusLost(f"the chip broke the protocol: {error}") from error
        if isinstance(reply, InterruptMessage):
            self.interrupted = True
            return
        if not self._outstanding:
            raise BusLost("the chip broke the protocol: a reply that nobody asked for")
        tag, size, is_burst = self._outstanding.popleft()
        if reply.tag != tag:
            raise BusLost(f"the chip broke the protocol: reply to {reply.tag}, {tag} was next")
        fits = (
            isinstance(reply, Burst) and len(reply.data) <= size
            if is_burst
            else isinstance(reply, Value) and len(reply.data) == size
        )
        if not fits:
            raise BusLost(f"the chip broke the protocol: {len(reply.data)} bytes, asked for {size}")
        if tag in self._wanted:
            self._wanted[tag] = reply.data
