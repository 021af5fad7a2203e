# SPDX-License-Identifier: Apache-2.0
"""The datagrams of one device's connection: notifications, xenstore writes, the grant.

| datagram                           | means                                                    |
|------------------------------------|----------------------------------------------------------|
| `N`                                | event channel: look at the page                          |
| `W`, then (key, 0, value, 0) pairs | xenstore: one transaction on the sender's own directory   |
| `G`, u32 pages little-endian       | the grant; exactly one descriptor travels with it         |

Keys are those of the two xenstore directories of a vTPM device (source: Xen io/tpmif.h and the
drivers that use it), with three differences that the missing toolstack makes: the frontend writes
the `uuid`, the backend may write `error` (Xen has a directory of that name) before it closes, and
nobody writes the paths and domain numbers, which the connection itself replaces. A transaction
has each key at most once, is at most `DATAGRAM_LIMIT` bytes, and its `state`, which the peer
watches, is looked at after all its other keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from types import MappingProxyType
from typing import Final, TypeAlias, assert_never
from uuid import UUID

from protocol.errors import WireError
from protocol.tpmif.page import MAX_EXTRA_PAGES
from protocol.tpmif.xenbus import XenbusState

NOTIFICATION: Final = b"N"
DATAGRAM_LIMIT: Final = 512  # longest: a full transaction with an error text, about 330 bytes
ERROR_LIMIT: Final = 200

_WRITE: Final = b"W"
_GRANT: Final = b"G"
_PAGES: Final = Struct("<cI")


class Key(Enum):
    """Names of xenstore nodes that are written over the connection."""

    UUID = "uuid"
    RING_REF = "ring-ref"
    EVENT_CHANNEL = "event-channel"
    FEATURE_PROTOCOL_V2 = "feature-protocol-v2"
    READY = "ready"
    ERROR = "error"
    STATE = "state"


# What a value is once decoded; the type goes with the key (see `_READERS`).
Value: TypeAlias = UUID | XenbusState | int | str


@dataclass(frozen=True, slots=True)
class Notify:
    """Event channel notification. Carries nothing; may be merged, spurious or early."""


@dataclass(frozen=True, slots=True)
class Write:
    """One xenstore transaction. Values: see `Key` and the table in `decode`."""

    nodes: Mapping[Key, Value]


@dataclass(frozen=True, slots=True)
class Grant:
    """The descriptor that travels with this datagram has `pages` pages (1 to 256)."""

    pages: int


Message: TypeAlias = Notify | Write | Grant

NOTIFY: Final = Notify()


def encode(message: Message) -> bytes:
    """Return the datagram for a message.

    Raises:
        ValueError: the message cannot be written (a bug of the caller).
    """
    match message:
        case Notify():
            return NOTIFICATION
        case Grant(pages):
            return _PAGES.pack(_GRANT, pages)
        case Write(nodes):
            fields = [f"{key.value}\0{_text(value)}\0" for key, value in nodes.items()]
            datagram = _WRITE + "".join(fields).encode("ascii")
            if len(datagram) > DATAGRAM_LIMIT:
                raise ValueError(f"transaction of {len(datagram)} bytes")
            return datagram
        case _:
            assert_never(message)


def decode(datagram: bytes) -> Message:
    """Return the message in a datagram.

    Raises:
        WireError: unknown kind, unknown or repeated key, a value that is not exactly what the key
            takes, anything left over, or more than `DATAGRAM_LIMIT` bytes.
    """
    if datagram == NOTIFICATION:
        return NOTIFY
    if len(datagram) > DATAGRAM_LIMIT:
        raise WireError("datagram", 0, f"{len(datagram)} bytes, limit {DATAGRAM_LIMIT}")
    kind = datagram[:1]
    if kind == _WRITE:
        return Write(_decode_nodes(datagram))
    if kind == _GRANT:
        return _decode_grant(datagram)
    raise WireError("datagram", 0, f"kind {kind!r} of {len(datagram)} bytes is unknown")


def error_text(reason: str) -> str:
    """Return a reason as the `error` key can carry it: printable ASCII, at most 200 characters."""
    text = "".join(char if " " <= char <= "~" else "?" for char in reason)[:ERROR_LIMIT]
    return text or "refused"


def _decode_grant(datagram: bytes) -> Grant:
    if len(datagram) != _PAGES.size:
        raise WireError("grant", 0, f"{len(datagram)} bytes, not {_PAGES.size}")
    pages: int = _PAGES.unpack(datagram)[1]
    if not 1 <= pages <= MAX_EXTRA_PAGES + 1:
        raise WireError("grant.pages", 1, f"{pages} is not 1 to {MAX_EXTRA_PAGES + 1}")
    return Grant(pages)


def _decode_nodes(datagram: bytes) -> Mapping[Key, Value]:
    fields = datagram[1:].split(b"\0")
    # A well-formed transaction ends in a zero byte, so the last field is empty, and the others
    # come in pairs.
    if len(fields) < 3 or fields[-1] or len(fields) % 2 == 0:
        raise WireError("write", 1, f"{len(fields) - 1} fields do not make key and value pairs")
    nodes: dict[Key, Value] = {}
    offset = 1
    for name, value in zip(fields[0:-1:2], fields[1:-1:2], strict=True):
        key = _KEYS.get(name)
        if key is None:
            raise WireError("key", offset, f"{name[:32]!r} is unknown")
        if key in nodes:
            raise WireError(key.value, offset, "written twice in one transaction")
        offset += len(name) + 1
        try:
            text = value.decode("ascii")
        except UnicodeDecodeError:
            raise WireError(key.value, offset, "not ASCII") from None
        nodes[key] = _READERS[key](key, offset, text)
        offset += len(value) + 1
    return nodes


def _text(value: Value) -> str:
    match value:
        case UUID():
            return str(value)
        case int():
            return str(int(value))
        case str():
            return value
        case _:
            assert_never(value)


def _read_uuid(key: Key, offset: int, text: str) -> UUID:
    if _UUID.fullmatch(text) is None:
        raise WireError(key.value, offset, f"{text[:40]!r} is not 8-4-4-4-12 hex digits")
    return UUID(text)


def _read_number(key: Key, offset: int, text: str) -> int:
    if _NUMBER.fullmatch(text) is None or int(text) > 0xFFFFFFFF:
        raise WireError(key.value, offset, f"{text[:16]!r} is not a decimal number below 2^32")
    return int(text)


def _read_one(key: Key, offset: int, text: str) -> int:
    if text != "1":
        raise WireError(key.value, offset, f"{text[:16]!r} is not 1")
    return 1


def _read_state(key: Key, offset: int, text: str) -> XenbusState:
    if len(text) != 1 or text not in "012345678":
        raise WireError(key.value, offset, f"{text[:16]!r} is not a xenbus state")
    return XenbusState(int(text))


def _read_error(key: Key, offset: int, text: str) -> str:
    if not 1 <= len(text) <= ERROR_LIMIT or error_text(text) != text:
        raise WireError(key.value, offset, "not 1 to 200 printable characters")
    return text


_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_KEYS: Final[Mapping[bytes, Key]] = MappingProxyType({key.value.encode(): key for key in Key})
_READERS: Final[Mapping[Key, Callable[[Key, int, str], Value]]] = MappingProxyType(
    {
        Key.UUID: _read_uuid,
        Key.RING_REF: _read_number,
        Key.EVENT_CHANNEL: _read_number,
        Key.FEATURE_PROTOCOL_V2: _read_one,
        Key.READY: _read_one,
        Key.ERROR: _read_error,
        Key.STATE: _read_state,
    }
)
