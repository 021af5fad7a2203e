# SPDX-License-Identifier: Apache-2.0
"""A cursor over bytes, and the errors that reading has beside WireError itself."""

from __future__ import annotations

import struct
from typing import Any

from protocol.errors import WireError

__all__ = [
    "BadBool",
    "BadKeyProperty",
    "BadPcrSelection",
    "BadTag",
    "BadVersion",
    "Reader",
    "WireError",
]

_U16 = struct.Struct(">H").unpack_from
_U32 = struct.Struct(">I").unpack_from
_U64 = struct.Struct(">Q").unpack_from


class Reader:
    """A cursor over `data`; every getter raises WireError rather than run past the end.

    Args:
        data: the bytes to read.
        start: offset of the first byte to read.
        end: offset behind the last byte to read; the default is the end of `data`.
    """

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = start
        self.end = len(data) if end is None else end

    def _short(self, size: int, field: str) -> WireError:
        left = self.end - self.position
        return WireError(field, self.position, f"{size} bytes wanted, {left} left")

    @property
    def remaining(self) -> int:
        """Number of bytes not yet read."""
        return self.end - self.position

    def u8(self, field: str = "u8") -> int:
        """Read one byte."""
        position = self.position
        if position + 1 > self.end:
            raise self._short(1, field)
        self.position = position + 1
        return self.data[position]

    def u16(self, field: str = "u16") -> int:
        """Read two bytes, big-endian."""
        position = self.position
        if position + 2 > self.end:
            raise self._short(2, field)
        self.position = position + 2
        return int(_U16(self.data, position)[0])

    def u32(self, field: str = "u32") -> int:
        """Read four bytes, big-endian."""
        position = self.position
        if position + 4 > self.end:
            raise self._short(4, field)
        self.position = position + 4
        return int(_U32(self.data, position)[0])

    def u64(self, field: str = "u64") -> int:
        """Read eight bytes, big-endian."""
        position = self.position
        if position + 8 > self.end:
            raise self._short(8, field)
        self.position = position + 8
        return int(_U64(self.data, position)[0])

    def boolean(self, field: str = "bool") -> bool:
        """Read one byte that must be 0 or 1 (else BadBool, which is TPM_BAD_PARAMETER)."""
        value = self.u8(field)
        if value > 1:
            raise BadBool(field, self.position - 1, f"boolean is {value:#04x}")
        return value == 1

    def unpack(self, layout: struct.Struct, field: str) -> tuple[Any, ...]:
        """Read several numbers or bytes of fixed size at once."""
        position = self.position
        if position + layout.size > self.end:
            raise self._short(layout.size, field)
        self.position = position + layout.size
        return layout.unpack_from(self.data, position)

    def take(self, size: int, field: str = "bytes") -> bytes:
        """Read exactly `size` bytes."""
        position = self.position
        if size < 0 or position + size > self.end:
            raise self._short(size, field)
        self.position = position + size
        return self.data[position : position + size]

    def sized(self, field: str = "sized") -> bytes:
        """Read a u32 length and that many bytes."""
        position = self.position
        start = position + 4
        if start > self.end:
            raise self._short(4, field)
        size = int(_U32(self.data, position)[0])
        self.position = start
        end = start + size
        if end > self.end:
            raise self._short(size, field)
        self.position = end
        return self.data[start:end]

    def rest(self) -> bytes:
        """Read everything that is left."""
        position = self.position
        self.position = self.end
        return self.data[position : self.end]

    def since(self, start: int) -> bytes:
        """Return the bytes consumed from offset `start` to here."""
        return self.data[start : self.position]

    def finish(self, field: str = "end") -> None:
        """Check that nothing is left."""
        if self.position != self.end:
            raise WireError(field, self.position, f"{self.end - self.position} trailing bytes")


class BadBool(WireError):
    """A boolean byte other than 0 and 1 (TPM_BAD_PARAMETER)."""


class BadTag(WireError):
    """A structure that does not begin with its tag (TPM_INVALID_STRUCTURE)."""


class BadVersion(WireError):
    """A version word that is not 1.1 (TPM_BAD_VERSION)."""


class BadPcrSelection(WireError):
    """A PCR selection longer than three bytes (TPM_INVALID_PCR_INFO)."""


class BadKeyProperty(WireError):
    """An unknown algorithm or unknown flags in a key (TPM_BAD_KEY_PROPERTY)."""
