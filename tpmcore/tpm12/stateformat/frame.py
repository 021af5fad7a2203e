# SPDX-License-Identifier: Apache-2.0
"""What both formats have: their head and their sections."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from protocol.errors import WireError
from protocol.tpm12.wire import U16, Reader
from tpmcore.tpm12.state import may_be_handle

MAJOR: Final = 1
MINOR: Final = 2

_PACK_SECTION = struct.Struct(">HI").pack
_VERSION_BYTES = struct.pack(">HH", MAJOR, MINOR)
MAX_LIST: Final = 1 << 16
"""More elements than a u16 count can say."""


def head(magic: bytes) -> bytes:
    """Return what a state begins with."""
    return magic + _VERSION_BYTES


def join_sections(sections: list[tuple[int, bytes]]) -> bytes:
    """Return the bytes of sections, which are in ascending order."""
    parts = list[bytes]()
    add = parts.append
    for number, data in sections:
        add(_PACK_SECTION(number, len(data)))
        add(data)
    return b"".join(parts)


def split_sections(
    magic: bytes, data: bytes, known: frozenset[int]
) -> tuple[int, dict[int, bytes]]:
    """Return the minor version of a state, and its sections by number.

    Raises:
        WireError: another format or version, or a section that is not known or out of order.
    """
    reader = Reader(data)
    found = reader.take(len(magic), "magic")
    if found != magic:
        raise WireError("magic", 0, f"{magic!r} wanted, found {found!r}")
    major, minor = reader.u16("major"), reader.u16("minor")
    if major != MAJOR or minor > MINOR:
        raise WireError("version", 8, f"{major}.{minor} is not read by {MAJOR}.{MINOR}")
    sections: dict[int, bytes] = {}
    last = 0
    while reader.remaining:
        start = reader.position
        number = reader.u16("section")
        if number <= last or number not in known:
            raise WireError("section", start, f"{number} is unknown, repeated or out of order")
        sections[number] = reader.sized("section")
        if not sections[number]:
            raise WireError("section", start, f"{number} is there and empty")
        last = number
    return minor, sections


def check_handles(handles: Sequence[int], field: str) -> None:
    """Refuse handles that no loaded resource may have, and one that stands twice.

    Raises:
        WireError: there is one.
    """
    for handle in handles:
        if not may_be_handle(handle):
            raise WireError(field, 0, f"{handle:#x} is not for a loaded resource")
    if len(set(handles)) != len(handles):
        raise WireError(field, 0, "a handle stands twice")


def check_there(elements: Sequence[object], field: str) -> None:
    """Refuse a section that is only written for what is in it, and has nothing.

    Raises:
        WireError: there is nothing.
    """
    if not elements:
        raise WireError(field, 0, "the section is there and lists nothing")


def list_bytes(elements: list[bytes]) -> bytes:
    """Return a u16 count and the elements: what a `ListOf` reads."""
    return U16.write(len(elements)) + b"".join(elements)
