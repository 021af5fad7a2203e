# SPDX-License-Identifier: Apache-2.0
"""Register accesses as messages on the socket of a locality page.

The socket is SOCK_SEQPACKET, one message is one access. Client to chip:

    offset  size  field
    0       1     operation: 1 read, 2 write, 3 burst read, 4 burst write
    1       1     size in bytes: 1, 2 or 4 for a register; 1 to 255 for a burst
    2       2     tag, chosen by the client, little-endian; 0 in writes
    4       2     offset in the locality page, little-endian; 0x24 in bursts
    6       size  bytes to write, in ascending address order (writes only)

Writes are posted: they have no reply, and an access on the same connection sees all earlier ones. A
burst moves FIFO bytes as that many single accesses would, but never more than burstCount allows at
that moment: of a write the chip takes the first burstCount bytes, a read brings at most burstCount.
Chip to client:

    0       1     0x81 value, 0x83 burst, 0x8F interrupt
    1       1     size of the data in bytes; for an interrupt the locality at which it arose
    2       2     tag of the request; 0 in an interrupt
    4       size  bytes read, in ascending address order (empty for an interrupt)

Interrupts stand for one shared line and go to every connection of every locality that the chip has
accepted, as the first answer on it proves: there is none for what arose before. After an interrupt
message none follows on that connection until it has made an access, so that a client which does not
read costs the chip no queue: whoever gets one reads INT_STATUS or STS of his own locality, as a
handler on a shared line does anyway.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final, assert_never

from protocol.errors import WireError
from protocol.tis.registers import LOCALITIES, MAX_BURST, PAGE_SIZE, Register

REQUEST_HEADER: Final = struct.Struct("<BBHH")
REPLY_HEADER: Final = struct.Struct("<BBH")
MAX_REQUEST: Final = REQUEST_HEADER.size + MAX_BURST
MAX_REPLY: Final = REPLY_HEADER.size + MAX_BURST

_WIDTHS: Final = frozenset((1, 2, 4))
_FIFO: Final = int(Register.DATA_FIFO)


class Operation(enum.IntEnum):
    """First byte of a message from client to chip."""

    READ = 1
    WRITE = 2
    BURST_READ = 3
    BURST_WRITE = 4


class ReplyKind(enum.IntEnum):
    """First byte of a message from chip to client."""

    VALUE = 0x81
    BURST = 0x83
    INTERRUPT = 0x8F


@dataclass(frozen=True, slots=True)
class Read:
    """Read `size` (1, 2, 4) bytes at `offset`."""

    tag: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Write:
    """Write `data` (1, 2 or 4 bytes, ascending addresses) at `offset`."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class BurstRead:
    """Read up to `size` (1 to 255) bytes from the FIFO."""

    tag: int
    size: int


@dataclass(frozen=True, slots=True)
class BurstWrite:
    """Write `data` (1 to 255 bytes) to the FIFO."""

    data: bytes


Request = Read | Write | BurstRead | BurstWrite


@dataclass(frozen=True, slots=True)
class Value:
    """Answer to `Read`: exactly the bytes asked for."""

    tag: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Burst:
    """Answer to `BurstRead`: 0 to 255 bytes."""

    tag: int
    data: bytes


@dataclass(frozen=True, slots=True)
class InterruptMessage:
    """The interrupt line was raised on behalf of `locality`."""

    locality: int


Reply = Value | Burst | InterruptMessage


def encode_request(request: Request) -> bytes:
    """Return the message for a register access; the caller vouches for the field ranges."""
    match request:
        case Read(tag, offset, size):
            return REQUEST_HEADER.pack(Operation.READ, size, tag, offset)
        case Write(offset, data):
            return REQUEST_HEADER.pack(Operation.WRITE, len(data), 0, offset) + data
        case BurstRead(tag, size):
            return REQUEST_HEADER.pack(Operation.BURST_READ, size, tag, _FIFO)
        case BurstWrite(data):
            return REQUEST_HEADER.pack(Operation.BURST_WRITE, len(data), 0, _FIFO) + data
        case _:
            assert_never(request)


def decode_request(message: bytes) -> Request:
    """Return the access that a client's message asks for.

    Raises:
        WireError: wrong length, unknown operation, a width other than 1, 2, 4, an access that
        leaves the page, a
            burst of 0 bytes or outside the FIFO, a tag in a write.
    """
    length = len(message)
    if length < REQUEST_HEADER.size:
        raise WireError("access", 0, f"{length} bytes, the header has {REQUEST_HEADER.size}")
    operation, size, tag, offset = REQUEST_HEADER.unpack_from(message)
    if operation == Operation.READ or operation == Operation.WRITE:
        if size not in _WIDTHS:
            raise WireError("access.size", 1, f"width {size}, allowed are 1, 2, 4")
        if offset + size > PAGE_SIZE:
            raise WireError("access.offset", 4, f"{size} bytes at {offset:#x} leave the page")
    elif operation == Operation.BURST_READ or operation == Operation.BURST_WRITE:
        if size == 0:
            raise WireError("access.size", 1, "burst of 0 bytes")
        if offset != _FIFO:
            raise WireError("access.offset", 4, f"burst at {offset:#x}, the FIFO is at {_FIFO:#x}")
    else:
        raise WireError("access.operation", 0, f"unknown operation {operation}")
    expected = REQUEST_HEADER.size
    if operation == Operation.WRITE or operation == Operation.BURST_WRITE:
        expected += size
        if tag != 0:
            raise WireError("access.tag", 2, f"tag {tag} in a write")
    if length != expected:
        raise WireError("access", 0, f"{length} bytes, should be {expected}")
    if operation == Operation.READ:
        return Read(tag, offset, size)
    if operation == Operation.WRITE:
        return Write(offset, message[REQUEST_HEADER.size :])
    if operation == Operation.BURST_READ:
        return BurstRead(tag, size)
    return BurstWrite(message[REQUEST_HEADER.size :])


def encode_reply(reply: Reply) -> bytes:
    """Return the message with which the chip answers or signals."""
    match reply:
        case Value(tag, data):
            return REPLY_HEADER.pack(ReplyKind.VALUE, len(data), tag) + data
        case Burst(tag, data):
            return REPLY_HEADER.pack(ReplyKind.BURST, len(data), tag) + data
        case InterruptMessage(locality):
            return REPLY_HEADER.pack(ReplyKind.INTERRUPT, locality, 0)
        case _:
            assert_never(reply)


def decode_reply(message: bytes) -> Reply:
    """Return what the chip said.

    Raises:
        WireError: wrong length, unknown kind, a value whose size is not 1, 2 or 4, an interrupt
        with a tag or of a
            locality that does not exist.
    """
    length = len(message)
    if length < REPLY_HEADER.size:
        raise WireError("reply", 0, f"{length} bytes, the header has {REPLY_HEADER.size}")
    kind, size, tag = REPLY_HEADER.unpack_from(message)
    if kind == ReplyKind.INTERRUPT:
        if length != REPLY_HEADER.size:
            raise WireError("interrupt", 0, f"{length} bytes, should be {REPLY_HEADER.size}")
        if size >= LOCALITIES:
            raise WireError(
                "interrupt.locality", 1, f"locality {size}, the last is {LOCALITIES - 1}"
            )
        if tag != 0:
            raise WireError("interrupt.tag", 2, f"tag {tag} in an interrupt")
        return InterruptMessage(size)
    if length != REPLY_HEADER.size + size:
        raise WireError("reply", 0, f"{length} bytes, should be {REPLY_HEADER.size + size}")
    data = message[REPLY_HEADER.size :]
    if kind == ReplyKind.VALUE:
        if size not in _WIDTHS:
            raise WireError("value.size", 1, f"width {size}, allowed are 1, 2, 4")
        return Value(tag, data)
    if kind == ReplyKind.BURST:
        return Burst(tag, data)
    raise WireError("reply.kind", 0, f"unknown kind {kind:#x}")
