# SPDX-License-Identifier: Apache-2.0
"""The control extension of the split driver: a machine's wires to its TPM, as messages.

A request travels on the page of the same connection as TPM commands do, in turn with them, and is
told from them by its tag; the page's locality is that of the request. Only the front makes these:
it refuses whatever its clients send that begins with `TAG_REQUEST`.

    request     u16 tag 0x02C1, u32 size, u32 ordinal, body
    response    u16 tag 0x02C4, u32 size, u32 code, body; none if the code is not 0

Codes are those of TPM 1.2, and `NO_SUCH_STATE`. A vTPM is *running* or *stopped*. It runs when
its daemon has started; stopped it answers every TPM command with TPM_FAIL.

Everything here is ours. It carries what swtpm's control channel needs (`protocol.swtpm`).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Annotated, Final

from protocol.errors import WireError
from protocol.tpm12.wire import REST, U8, U32, U64, Structure

TAG_REQUEST: Final = 0x02C1
TAG_RESPONSE: Final = 0x02C4
REQUEST_PREFIX: Final = TAG_REQUEST.to_bytes(2, "big")
"""What a front looks for in what its clients send."""

HEADER_BYTES: Final = 10
CHUNK_BYTES: Final = 4000
"""Most that one message carries of something longer."""
MAX_BLOB_BYTES: Final = 512 * 1024
"""Largest state blob."""
NO_SUCH_STATE: Final = 0x800
"""TPM_RETRY: there is no blob of this type."""

_HEADER: Final = struct.Struct(">HII")


class ControlOrdinal(enum.IntEnum):
    """What can be asked. Bodies of request and response are named; - is none."""

    POWER_ON = 1
    """`PowerOn` / -. A power cycle: whatever runs ends, and the TPM begins from its stored state.
    It awaits TPM_Startup, unless stored volatile state had it go on."""
    POWER_OFF = 2
    """- / -. Stopped; always succeeds."""
    GET_ESTABLISHED = 3
    """- / `Established`. Running only."""
    RESET_ESTABLISHED = 4
    """- / -, from locality 3 or 4. Running only."""
    HASH_START = 5
    """- / -. Running only, as the next two."""
    HASH_DATA = 6
    """`Data` / -."""
    HASH_END = 7
    """- / -."""
    STORE_VOLATILE = 8
    """- / -. Keeps the volatile state beside the permanent one, for the next POWER_ON. Running
    only."""
    GET_STATE = 9
    """`GetState` / `StateChunk`. Offset 0 takes the state, others go on with what was taken.
    Running only."""
    SET_STATE = 10
    """`SetState` / -. Chunks in order from offset 0; the last one checks and stores the whole.
    Counts from the next POWER_ON. Stopped only."""
    BUFFER_SIZE = 11
    """`BufferSize` / `BufferSizes`. 0 only asks; others are brought within the limits, when
    stopped."""
    GET_CONFIG = 12
    """- / `Config`."""
    GET_INFO = 13
    """`GetInfo` / `InfoChunk`."""
    LOCK_STATE = 14
    """- / -. The TPM whose state was taken goes on after all."""


class StateType(enum.IntEnum):
    """Parts of a TPM's state, numbered as swtpm does."""

    PERMANENT = 1
    VOLATILE = 2
    SAVED = 3
    """What TPM_SaveState kept: part of PERMANENT here, so there is no such blob."""


class StateFlags(enum.IntFlag):
    """Of a state blob, as swtpm has them."""

    DECRYPTED = 1
    """Wish of who asks; never granted."""
    ENCRYPTED = 2
    """The blob is encrypted; every blob is."""


@dataclass(frozen=True, slots=True)
class PowerOn(Structure):
    """POWER_ON's request.

    Attributes:
        delete_volatile: 1 if stored volatile state serves this start only; else 0.
    """

    delete_volatile: Annotated[int, U8]


@dataclass(frozen=True, slots=True)
class Established(Structure):
    """GET_ESTABLISHED's answer.

    Attributes:
        value: 1 if there was a dynamic launch since the flag was reset; else 0.
    """

    value: Annotated[int, U8]


@dataclass(frozen=True, slots=True)
class Data(Structure):
    """HASH_DATA's request: at most `CHUNK_BYTES`."""

    data: Annotated[bytes, REST]


@dataclass(frozen=True, slots=True)
class GetState(Structure):
    """GET_STATE's request.

    Attributes:
        kind: a `StateType`.
        offset: in the blob; at most its length.
    """

    kind: Annotated[int, U32]
    offset: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class StateChunk(Structure):
    """GET_STATE's answer.

    Attributes:
        flags: `StateFlags`.
        total: length of the blob.
        data: from the offset on, at most `CHUNK_BYTES`; empty at the end.
    """

    flags: Annotated[int, U32]
    total: Annotated[int, U32]
    data: Annotated[bytes, REST]


@dataclass(frozen=True, slots=True)
class SetState(Structure):
    """SET_STATE's request.

    Attributes:
        flags: `StateFlags`, which some clients leave out: a blob says itself what it is.
        kind: a `StateType`.
        total: length of the blob, 1 to `MAX_BLOB_BYTES`.
        offset: how much of it was sent before.
        data: 1 to `CHUNK_BYTES`.
    """

    flags: Annotated[int, U32]
    kind: Annotated[int, U32]
    total: Annotated[int, U32]
    offset: Annotated[int, U32]
    data: Annotated[bytes, REST]


@dataclass(frozen=True, slots=True)
class BufferSize(Structure):
    """BUFFER_SIZE's request: bytes of the largest command and response, 0 to ask."""

    wanted: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class BufferSizes(Structure):
    """BUFFER_SIZE's answer: what is in use, and the limits."""

    size: Annotated[int, U32]
    least: Annotated[int, U32]
    most: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class Config(Structure):
    """GET_CONFIG's answer.

    Attributes:
        flags: as swtpm: 1 the state file is encrypted, 2 state blobs are.
    """

    flags: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class GetInfo(Structure):
    """GET_INFO's request.

    Attributes:
        flags: as swtpm: 1 specification, 2 attributes, 4 features, 8 algorithms, 0x10 commands,
            0x20 active profile, 0x40 profiles, 0x80 runtime attributes.
        offset: in the text.
    """

    flags: Annotated[int, U64]
    offset: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class InfoChunk(Structure):
    """GET_INFO's answer.

    Attributes:
        total: length of the text.
        data: JSON in UTF-8 from the offset on, at most 3000 bytes, without a final NUL.
    """

    total: Annotated[int, U32]
    data: Annotated[bytes, REST]


def is_request(message: bytes) -> bool:
    """Say whether a message is one of these, whatever it is worth."""
    return message[:2] == REQUEST_PREFIX


def encode_request(ordinal: ControlOrdinal, body: Structure | None = None) -> bytes:
    """Return a request."""
    data = b"" if body is None else body.encode()
    return _HEADER.pack(TAG_REQUEST, HEADER_BYTES + len(data), ordinal) + data


def decode_request(message: bytes) -> tuple[int, bytes]:
    """Return ordinal and body of a request whose header is consistent.

    Raises:
        WireError: it is not.
    """
    return _decode(message, TAG_REQUEST)


def encode_response(code: int, body: Structure | None = None) -> bytes:
    """Return a response."""
    data = b"" if body is None else body.encode()
    return _HEADER.pack(TAG_RESPONSE, HEADER_BYTES + len(data), code) + data


def decode_response(message: bytes) -> tuple[int, bytes]:
    """Return code and body of a response.

    Raises:
        WireError: not one, or an error with a body.
    """
    code, body = _decode(message, TAG_RESPONSE)
    if code and body:
        raise WireError("body", HEADER_BYTES, f"{len(body)} bytes behind an error")
    return code, body


def _decode(message: bytes, expected: int) -> tuple[int, bytes]:
    if len(message) < HEADER_BYTES:
        raise WireError("header", 0, f"{len(message)} bytes, a header has {HEADER_BYTES}")
    tag, size, number = _HEADER.unpack_from(message)
    if tag != expected:
        raise WireError("tag", 0, f"{tag:#06x}, must be {expected:#06x}")
    if size != len(message):
        raise WireError("paramSize", 2, f"{size} declared, {len(message)} bytes received")
    return number, message[HEADER_BYTES:]
