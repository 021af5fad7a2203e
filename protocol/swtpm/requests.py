# SPDX-License-Identifier: Apache-2.0
"""Requests of the control channel: a u32 command and a body whose size only the command tells.

There is no length field, and a client never sends a request before it has the answer to the last
one. So what can be read at once is the request, as swtpm takes it. That matters for SET_LOCALITY
and RESET_TPMESTABLISHED, whose body has one byte (swtpm_ioctl) or four (QEMU, which sends the
padding of its union). A reader asks `missing_bytes` until nothing is missing, takes what can be
read without waiting on top of that, and gives all of it to `parse_request`.

HASH_DATA and SET_STATEBLOB say how much data follows. `parse_request` wants none of it; what came
along is in the request, and the reader fetches the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from protocol.errors import WireError
from protocol.swtpm.constants import Command

COMMAND_BYTES: Final = 4
_PADDED_LOCALITY_BYTES: Final = 4

_U32: Final = struct.Struct(">I")
_STATE_HEADER: Final = struct.Struct(">III")
_INFO: Final = struct.Struct(">QI4x")


@dataclass(frozen=True, slots=True)
class Plain:
    """A command without a body."""

    command: Command


@dataclass(frozen=True, slots=True)
class Init:
    """INIT.

    Attributes:
        flags: `InitFlag`; bits without a meaning are as sent.
    """

    flags: int


@dataclass(frozen=True, slots=True)
class SetLocality:
    """SET_LOCALITY: 0 to 255, of which `MAX_LOCALITY` is the last that there is."""

    locality: int


@dataclass(frozen=True, slots=True)
class ResetEstablished:
    """RESET_TPMESTABLISHED, from this locality, 0 to 255."""

    locality: int


@dataclass(frozen=True, slots=True)
class HashData:
    """HASH_DATA.

    Attributes:
        length: of all data.
        data: its beginning, as far as it is there.
    """

    length: int
    data: bytes


@dataclass(frozen=True, slots=True)
class GetStateBlob:
    """GET_STATEBLOB.

    Attributes:
        flags: 1 is the wish to have it decrypted.
        kind: 1 permanent, 2 volatile, 3 what TPM_SaveState kept.
        offset: of the first byte that is wanted.
    """

    flags: int
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class SetStateBlob:
    """SET_STATEBLOB.

    Attributes:
        flags: 2 if it is encrypted.
        kind: as in `GetStateBlob`.
        length: of the whole blob; not yet checked.
        data: its beginning, as far as it is there.
    """

    flags: int
    kind: int
    length: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SetBufferSize:
    """SET_BUFFERSIZE: wanted bytes, 0 to ask."""

    size: int


@dataclass(frozen=True, slots=True)
class GetInfo:
    """GET_INFO.

    Attributes:
        flags: what about, 64 bits.
        offset: in the text.
    """

    flags: int
    offset: int


@dataclass(frozen=True, slots=True)
class LockStorage:
    """LOCK_STORAGE: how often to try again, 10 ms apart."""

    retries: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """A body that the command does not have."""

    command: Command
    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """No such command."""

    code: int


Request: TypeAlias = (
    Plain
    | Init
    | SetLocality
    | ResetEstablished
    | HashData
    | GetStateBlob
    | SetStateBlob
    | SetBufferSize
    | GetInfo
    | LockStorage
    | Malformed
    | Unknown
)

_LEAST_BODY: Final[Mapping[int, int]] = {
    Command.INIT: _U32.size,
    Command.SET_LOCALITY: 1,
    Command.RESET_TPMESTABLISHED: 1,
    Command.HASH_DATA: _U32.size,
    Command.GET_STATEBLOB: _STATE_HEADER.size,
    Command.SET_STATEBLOB: _STATE_HEADER.size,
    Command.SET_BUFFERSIZE: _U32.size,
    Command.GET_INFO: _INFO.size,
    Command.LOCK_STORAGE: _U32.size,
}
"""Bytes without which a body cannot be understood; commands that are not here have none."""

_ONE_BYTE_WILL_DO: Final = frozenset({Command.SET_LOCALITY, Command.RESET_TPMESTABLISHED})


def missing_bytes(received: bytes) -> int:
    """Return how many bytes must at least come before `parse_request` can be asked; 0: none.

    Args:
        received: of one request, from its first byte on.
    """
    if len(received) < COMMAND_BYTES:
        return COMMAND_BYTES - len(received)
    code, body_bytes = _U32.unpack_from(received)[0], len(received) - COMMAND_BYTES
    least = _LEAST_BODY.get(code, 0)
    if code in _ONE_BYTE_WILL_DO and body_bytes > 1:  # then it is one with the padding
        least = _PADDED_LOCALITY_BYTES
    return max(0, least - body_bytes)


def parse_request(received: bytes) -> Request:
    """Return the request that these bytes are.

    Args:
        received: everything that can be read at once, of which nothing is missing.

    Raises:
        WireError: something is missing.
    """
    missing = missing_bytes(received)
    if missing:
        raise WireError("request", len(received), f"{missing} bytes are missing")
    code, body = _U32.unpack_from(received)[0], received[COMMAND_BYTES:]
    try:
        command = Command(code)
    except ValueError:
        return Unknown(code)
    if command is Command.GET_CAPABILITY:
        return Plain(command)  # must always succeed, whatever comes with it
    parse = _PARSERS.get(command)
    try:
        if parse is not None:
            return parse(body)
        if body:
            raise WireError("body", COMMAND_BYTES, f"{len(body)} bytes, there is none")
    except WireError as error:
        return Malformed(command, str(error))
    return Plain(command)


def _number(body: bytes) -> int:
    if len(body) != _U32.size:
        raise WireError("body", COMMAND_BYTES, f"{len(body)} bytes, must be {_U32.size}")
    return int(_U32.unpack(body)[0])


def _locality(body: bytes) -> int:
    if len(body) not in (1, _PADDED_LOCALITY_BYTES):
        raise WireError("body", COMMAND_BYTES, f"{len(body)} bytes, must be 1 or 4")
    return body[0]


def _hash_data(body: bytes) -> HashData:
    (length,) = _U32.unpack_from(body)
    return HashData(length, _beginning(body, _U32.size, length))


def _get_state(body: bytes) -> GetStateBlob:
    if len(body) != _STATE_HEADER.size:
        raise WireError("body", COMMAND_BYTES, f"{len(body)} bytes, must be {_STATE_HEADER.size}")
    return GetStateBlob(*_STATE_HEADER.unpack(body))


def _set_state(body: bytes) -> SetStateBlob:
    flags, kind, length = _STATE_HEADER.unpack_from(body)
    return SetStateBlob(flags, kind, length, _beginning(body, _STATE_HEADER.size, length))


def _get_info(body: bytes) -> GetInfo:
    if len(body) != _INFO.size:
        raise WireError("body", COMMAND_BYTES, f"{len(body)} bytes, must be {_INFO.size}")
    return GetInfo(*_INFO.unpack(body))


def _beginning(body: bytes, header_bytes: int, length: int) -> bytes:
    data = body[header_bytes:]
    if len(data) > length:
        raise WireError("data", COMMAND_BYTES + header_bytes, f"{len(data)} of {length} bytes")
    return data


_PARSERS: Final[Mapping[Command, Callable[[bytes], Request]]] = {
    Command.INIT: lambda body: Init(_number(body)),
    Command.SET_LOCALITY: lambda body: SetLocality(_locality(body)),
    Command.RESET_TPMESTABLISHED: lambda body: ResetEstablished(_locality(body)),
    Command.HASH_DATA: _hash_data,
    Command.GET_STATEBLOB: _get_state,
    Command.SET_STATEBLOB: _set_state,
    Command.SET_BUFFERSIZE: lambda body: SetBufferSize(_number(body)),
    Command.GET_INFO: _get_info,
    Command.LOCK_STORAGE: lambda body: LockStorage(_number(body)),
}
