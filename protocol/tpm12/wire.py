# SPDX-License-Identifier: Apache-2.0
"""Big-endian reading and declared layouts, the way TPM 1.2 packs everything.

`Reader` is a cursor over immutable bytes: it checks each length before it takes anything and
remembers where it is, so that digests are computed over exactly the bytes that were parsed.
`Structure` is the base of every dataclass whose fields name their wire type in an annotation; it
gives `read`, `decode` and `encode`.

Precompiled `struct` is used rather than construct because these run on the guest's path (one Extend
has a budget of ten microseconds; construct alone takes that).
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import struct
from collections.abc import Callable, Iterable
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from protocol.errors import WireError

__all__ = [
    "BOOL",
    "DIGEST",
    "REST",
    "SIZED",
    "U8",
    "U16",
    "U32",
    "U64",
    "VERSION_1_1",
    "BadBool",
    "BadKeyProperty",
    "BadPcrSelection",
    "BadTag",
    "BadVersion",
    "FixedBytes",
    "ListOf",
    "Nested",
    "Prefix",
    "Reader",
    "SizedStruct",
    "Structure",
    "WireError",
    "WireType",
    "tag_prefix",
]

DIGEST_BYTES = 20

_U16 = struct.Struct(">H").unpack_from
_U32 = struct.Struct(">I").unpack_from
_U64 = struct.Struct(">Q").unpack_from
_PACK_U16 = struct.Struct(">H").pack
_PACK_U32 = struct.Struct(">I").pack
_PACK_U64 = struct.Struct(">Q").pack


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
        return self.take(self.u32(field), field)

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


class Prefix:
    """Constant bytes at the head of a structure.

    Args:
        value: what is written.
        compared: how many of the first bytes must be equal on input; the rest is read and ignored.
        error: what a difference is.
    """

    __slots__ = ("_compared", "_error", "value")

    def __init__(self, value: bytes, compared: int, error: type[WireError]) -> None:
        self.value = value
        self._compared = compared
        self._error = error

    def check(self, reader: Reader, field: str) -> None:
        """Take the prefix and compare it."""
        start = reader.position
        # The usual case, without a copy.
        end = start + len(self.value)
        if end <= reader.end and reader.data.startswith(self.value, start):
            reader.position = end
            return
        found = reader.take(len(self.value), field)
        if found[: self._compared] != self.value[: self._compared]:
            raise self._error(field, start, f"{self.value.hex()} wanted, found {found.hex()}")


def tag_prefix(tag: int, fixed: bytes = b"") -> Prefix:
    """Return the prefix of a structure with a u16 tag, and constant bytes behind it."""
    value = _PACK_U16(tag) + fixed
    return Prefix(value, len(value), BadTag)


VERSION_1_1 = Prefix(b"\x01\x01\x00\x00", 2, BadVersion)
"""TPM_STRUCT_VER 1.1.0.0; on input only major and minor count (Part 2, 5.1)."""


T = TypeVar("T")


class WireType(Protocol[T]):
    """How one field is laid out."""

    def read(self, reader: Reader, field: str) -> T:
        """Take the field from the cursor."""

    def write(self, value: T) -> bytes:
        """Give the bytes of the field."""


class _Scalar(Generic[T]):
    """A wire type made of a getter of Reader and a packer."""

    __slots__ = ("read", "write")

    def __init__(self, read: Callable[[Reader, str], T], write: Callable[[T], bytes]) -> None:
        self.read = read
        self.write = write


def _pack_u8(value: int) -> bytes:
    return value.to_bytes(1, "big")


def _pack_bool(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _pack_sized(value: bytes) -> bytes:
    return _PACK_U32(len(value)) + value


class FixedBytes:
    """Exactly `size` bytes."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, reader: Reader, field: str) -> bytes:
        """Take `size` bytes."""
        return reader.take(self.size, field)

    def write(self, value: bytes) -> bytes:
        """Give the bytes; a wrong length is a bug of the caller."""
        if len(value) != self.size:
            raise ValueError(f"{self.size} bytes wanted, got {len(value)}")
        return value


U8: WireType[int] = _Scalar(Reader.u8, _pack_u8)
U16: WireType[int] = _Scalar(Reader.u16, _PACK_U16)
U32: WireType[int] = _Scalar(Reader.u32, _PACK_U32)
U64: WireType[int] = _Scalar(Reader.u64, _PACK_U64)
BOOL: WireType[bool] = _Scalar(Reader.boolean, _pack_bool)
DIGEST = FixedBytes(DIGEST_BYTES)
SIZED: WireType[bytes] = _Scalar(Reader.sized, _pack_sized)
REST: WireType[bytes] = _Scalar(lambda reader, _field: reader.rest(), bytes)


class _Stroke:
    """Reads and writes fields of fixed size that stand beside each other, all at once.

    A third of the time that the fields cost one by one; what does not fit or is no boolean is left
    to those, who know how to name the error.
    """

    __slots__ = ("_booleans", "_fields", "_lengths", "_pack", "_size", "_unpack", "_values")

    def __init__(self, fields: list[tuple[str, WireType[Any]]]) -> None:
        packer = struct.Struct(">" + "".join([_format_of(wire) or "" for _, wire in fields]))
        self._fields = fields
        self._pack = packer.pack
        self._unpack = packer.unpack_from
        self._size = packer.size
        self._values = operator.attrgetter(*[name for name, _ in fields])
        sized = [(i, w.size) for i, (_, w) in enumerate(fields) if isinstance(w, FixedBytes)]
        self._lengths = tuple(sized)
        self._booleans = tuple([i for i, (_, wire) in enumerate(fields) if wire is BOOL])

    def read(self, reader: Reader) -> tuple[Any, ...] | list[Any]:
        """Take the values."""
        end = reader.position + self._size
        if end > reader.end:
            return self._read_each(reader)
        values = self._unpack(reader.data, reader.position)
        if self._booleans:
            several = list(values)
            for i in self._booleans:
                if several[i] > 1:
                    return self._read_each(reader)
                several[i] = several[i] == 1
            values = tuple(several)
        reader.position = end
        return values

    def _read_each(self, reader: Reader) -> list[Any]:
        return [wire.read(reader, name) for name, wire in self._fields]

    def write(self, value: Structure) -> bytes:
        """Give the bytes of the fields."""
        values = self._values(value)
        for i, size in self._lengths:
            if len(values[i]) != size:
                raise ValueError(f"{size} bytes wanted, got {len(values[i])}")
        return self._pack(*values)


_Part: TypeAlias = tuple[str, "WireType[Any]", _Stroke | None]
"""A field by name and wire type; or a stroke, with the name and type of its first field."""


def _parts_of(fields: Iterable[tuple[str, WireType[Any]]]) -> tuple[_Part, ...]:
    """Join neighbours of fixed size, so that they are read and written together."""
    parts: list[_Part] = []
    for fixed, group in itertools.groupby(fields, lambda field: bool(_format_of(field[1]))):
        neighbours = list(group)
        if fixed and len(neighbours) > 1:
            parts.append((*neighbours[0], _Stroke(neighbours)))
        else:
            parts += [(name, wire, None) for name, wire in neighbours]
    return tuple(parts)


def _format_of(wire: WireType[Any]) -> str | None:
    """Return the letter of `struct` for a wire type, or None if its size is not fixed."""
    if isinstance(wire, FixedBytes):
        return f"{wire.size}s"
    for scalar, letter in ((U8, "B"), (BOOL, "B"), (U16, "H"), (U32, "I"), (U64, "Q")):
        if wire is scalar:
            return letter
    return None


class Structure:
    """Base of the dataclasses that have a wire layout.

    Each field is `Annotated[python_type, wire_type]`, or a type that is itself a Structure. Fields
    are laid out in the order of their declaration, without padding, behind `prefix` if there is
    one.
    """

    __slots__ = ("_encoded",)
    _encoded: bytes
    prefix: ClassVar[Prefix | None] = None
    is_exact: ClassVar[bool] = False
    """Whether what is read is byte for byte what would be written: it is kept as the encoding."""
    _layouts: ClassVar[dict[type[Structure], tuple[tuple[str, WireType[Any]], ...]]] = {}
    _parts: ClassVar[dict[type[Structure], tuple[_Part, ...]]] = {}

    @classmethod
    def layout(cls) -> tuple[tuple[str, WireType[Any]], ...]:
        """Return (field name, wire type) in wire order."""
        known = Structure._layouts.get(cls)
        if known is None:
            known = Structure._layouts[cls] = _layout_of(cls)
        return known

    @classmethod
    def is_frozen(cls) -> bool:
        """Whether its fields cannot be set."""
        return bool(cls.__dataclass_params__.frozen)  # type: ignore[attr-defined]

    @classmethod
    def _compiled(cls) -> tuple[_Part, ...]:
        try:
            return Structure._parts[cls]
        except KeyError:
            parts = Structure._parts[cls] = _parts_of(cls.layout())
            return parts

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take one structure from a cursor.

        Raises:
            WireError: the bytes do not form one.
        """
        start = reader.position
        if cls.prefix is not None:
            cls.prefix.check(reader, cls.__name__)
        values: list[Any] = []
        for name, wire, stroke in cls._compiled():
            if stroke is None:
                values.append(wire.read(reader, name))
            else:
                values += stroke.read(reader)
        value = cls(*values)
        if cls.is_exact:
            object.__setattr__(value, "_encoded", reader.since(start))
        return value

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a structure that is all of `data`.

        Raises:
            WireError: the bytes do not form one, or some are left over.
        """
        reader = Reader(data)
        value = cls.read(reader)
        reader.finish(cls.__name__)
        return value

    def encode(self) -> bytes:
        """Return the wire form."""
        written = [] if self.prefix is None else [self.prefix.value]
        for name, wire, stroke in self._compiled():
            written.append(
                wire.write(getattr(self, name)) if stroke is None else stroke.write(self)
            )
        return b"".join(written)

    def encode_once(self) -> bytes:
        """Return the wire form, which is kept from the first call on.

        Only a frozen structure has this: it cannot change, so what is kept cannot become wrong.
        """
        try:
            return self._encoded
        except AttributeError:
            if not self.is_frozen():
                raise TypeError(f"{type(self).__name__} can change") from None
            object.__setattr__(self, "_encoded", self.encode())
            return self._encoded


S = TypeVar("S", bound=Structure)


class Nested(Generic[S]):
    """A structure as a field of another; if it is frozen it keeps its encoding, since the outer one
    is often encoded again with something else changed."""

    __slots__ = ("_encode", "kind")

    def __init__(self, kind: type[S]) -> None:
        self.kind = kind
        self._encode = kind.encode_once if kind.is_frozen() else kind.encode

    def read(self, reader: Reader, field: str) -> S:
        """Take the structure."""
        return self.kind.read(reader)

    def write(self, value: S) -> bytes:
        """Give its bytes."""
        return self._encode(value)


class SizedStruct(Generic[S]):
    """A structure behind a u32 length that it must fill exactly; None if the length is 0."""

    __slots__ = ("kind",)

    def __init__(self, kind: type[S]) -> None:
        self.kind = kind

    def read(self, reader: Reader, field: str) -> S | None:
        """Take the length and the structure."""
        data = reader.sized(field)
        return self.kind.decode(data) if data else None

    def write(self, value: S | None) -> bytes:
        """Give length and bytes."""
        return _pack_sized(b"" if value is None else value.encode())


class ListOf(Generic[T]):
    """A count (u16 or u32) and that many elements of one wire type."""

    __slots__ = ("count", "element", "limit")

    def __init__(self, element: WireType[T], count: WireType[int], limit: int) -> None:
        self.element = element
        self.count = count
        self.limit = limit

    def read(self, reader: Reader, field: str) -> tuple[T, ...]:
        """Take count and elements; more than `limit` are refused before anything is allocated."""
        start = reader.position
        number = self.count.read(reader, field)
        if number > self.limit:
            raise WireError(field, start, f"{number} elements, at most {self.limit}")
        return tuple([self.element.read(reader, field) for _ in range(number)])

    def write(self, value: tuple[T, ...]) -> bytes:
        """Give count and elements."""
        return self.count.write(len(value)) + b"".join([self.element.write(v) for v in value])


def _layout_of(cls: type[Structure]) -> tuple[tuple[str, WireType[Any]], ...]:
    hints = get_type_hints(cls, include_extras=True)
    layout: list[tuple[str, WireType[Any]]] = []
    # Structure itself is no dataclass, only everything derived from it is.
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name, hint = field.name, hints[field.name]
        if get_origin(hint) is Annotated:
            layout.append((name, get_args(hint)[1]))
        elif isinstance(hint, type) and issubclass(hint, Structure):
            layout.append((name, Nested(hint)))
        else:
            raise TypeError(f"{cls.__name__}.{name} has no wire type")
    return tuple(layout)
