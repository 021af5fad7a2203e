# SPDX-License-Identifier: Apache-2.0
"""Big-endian reading and declared layouts, the way TPM 1.2 packs everything.

`Reader` is a cursor over immutable bytes: it checks each length before it takes anything and
remembers where it is, so that digests are computed over exactly the bytes that were parsed.
`Structure` is the base of every dataclass whose fields name their wire type in an annotation; it
gives `read`, `decode` and `encode`, which `compiled` makes of the layout.

Precompiled `struct` is used rather than construct because these run on the guest's path (one Extend
has a budget of ten microseconds; construct alone takes that).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Protocol,
    Self,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from protocol.tpm12 import compiled
from protocol.tpm12.reader import (
    BadBool,
    BadKeyProperty,
    BadPcrSelection,
    BadTag,
    BadVersion,
    Reader,
    WireError,
)
from protocol.tpm12.records import maker_of

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

_PACK_U16 = struct.Struct(">H").pack
_PACK_U32 = struct.Struct(">I").pack
_PACK_U64 = struct.Struct(">Q").pack


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
    """How one field is laid out.

    One that `compiled` can read and write by itself says how in the attributes `format` and
    `bounds`, which are those of `compiled.Field`; `read` and `write` do the same.
    """

    def read(self, reader: Reader, field: str) -> T:
        """Take the field from the cursor."""

    def write(self, value: T) -> bytes:
        """Give the bytes of the field."""


class _Scalar(Generic[T]):
    """A wire type made of a getter of Reader and a packer."""

    __slots__ = ("format", "read", "write")

    def __init__(
        self, read: Callable[[Reader, str], T], write: Callable[[T], bytes], format: str = ""
    ) -> None:
        self.read = read
        self.write = write
        self.format = format


def _pack_u8(value: int) -> bytes:
    return value.to_bytes(1, "big")


def _pack_bool(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _pack_sized(value: bytes) -> bytes:
    return _PACK_U32(len(value)) + value


class FixedBytes:
    """Exactly `size` bytes."""

    __slots__ = ("format", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.format = f"{size}s"

    def read(self, reader: Reader, field: str) -> bytes:
        """Take `size` bytes."""
        return reader.take(self.size, field)

    def write(self, value: bytes) -> bytes:
        """Give the bytes; a wrong length is a bug of the caller."""
        if len(value) != self.size:
            raise ValueError(f"{self.size} bytes wanted, got {len(value)}")
        return value


U8: WireType[int] = _Scalar(Reader.u8, _pack_u8, "B")
U16: WireType[int] = _Scalar(Reader.u16, _PACK_U16, "H")
U32: WireType[int] = _Scalar(Reader.u32, _PACK_U32, "I")
U64: WireType[int] = _Scalar(Reader.u64, _PACK_U64, "Q")
BOOL: WireType[bool] = _Scalar(Reader.boolean, _pack_bool, compiled.BOOLEAN)
DIGEST = FixedBytes(DIGEST_BYTES)
SIZED: WireType[bytes] = _Scalar(Reader.sized, _pack_sized, compiled.SIZED)
REST: WireType[bytes] = _Scalar(lambda reader, _field: reader.rest(), bytes)


class Structure:
    """Base of the dataclasses that have a wire layout.

    Each field is `Annotated[python_type, wire_type]`, or a type that is itself a Structure. Fields
    are laid out in the order of their declaration, without padding, behind `prefix` if there is
    one. A field that `__init__` does not take (`init=False`) is not part of the layout. Nothing is
    derived from such a class: it would read and write as its base does.
    """

    __slots__ = ("_encoded",)
    _encoded: bytes
    prefix: ClassVar[Prefix | None] = None
    is_exact: ClassVar[bool] = False
    """Whether what is read is byte for byte what would be written: it is kept as the encoding."""
    _layouts: ClassVar[dict[type[Structure], tuple[tuple[str, WireType[Any]], ...]]] = {}

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
    def reads_itself(cls) -> bool:
        """Whether it has a `read` of its own; one that was compiled of the layout is a static
        method."""
        return isinstance(vars(cls).get("read"), classmethod)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take one structure from a cursor.

        The first call gives the class a function of its own, and so does the first `encode`.

        Raises:
            WireError: the bytes do not form one.
        """
        if "read" not in vars(cls):
            read = compiled.compile_read(_compiled_layout(cls), cls.read_each)
            cls.read = staticmethod(read)  # type: ignore[assignment, method-assign]
        return cls.read(reader)

    @classmethod
    def read_each(cls, reader: Reader, start: int) -> Self:
        """Take one structure at an offset, field by field: slower, and names what is wrong."""
        reader.position = start
        if cls.prefix is not None:
            cls.prefix.check(reader, cls.__name__)
        value = cls(*[wire.read(reader, name) for name, wire in cls.layout()])
        if cls.is_exact:
            value.keep_encoding(reader.since(start))
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
        kind = type(self)
        if "encode" not in vars(kind):
            write = compiled.compile_write(_compiled_layout(kind))
            kind.encode = write  # type: ignore[assignment, method-assign]
        return kind.encode(self)

    def encode_once(self) -> bytes:
        """Return the wire form, which is kept from the first call on.

        Only a frozen structure has this: it cannot change, so what is kept cannot become wrong.
        """
        encoded: bytes | None = getattr(self, "_encoded", None)
        if encoded is None:
            if not self.is_frozen():
                raise TypeError(f"{type(self).__name__} can change")
            encoded = self.encode()
            self.keep_encoding(encoded)
        return encoded

    def keep_encoding(self, encoded: bytes) -> None:
        """Keep the wire form of what is frozen, for `encode_once`."""
        # Past the guard of frozen dataclasses: it is no field.
        object.__setattr__(self, "_encoded", encoded)


S = TypeVar("S", bound=Structure)


class Nested(Generic[S]):
    """A structure as a field of another; if it is frozen it keeps its encoding, since the outer one
    is often encoded again with something else changed."""

    __slots__ = ("kind", "write")

    def __init__(self, kind: type[S]) -> None:
        self.kind = kind
        self.write: Callable[[S], bytes] = (
            kind.encode_once if kind.is_frozen() else lambda value: value.encode()
        )

    def read(self, reader: Reader, field: str) -> S:
        """Take the structure."""
        return self.kind.read(reader)


def _compiled_layout(kind: type[Structure]) -> compiled.Layout:
    prefix = b"" if kind.prefix is None else kind.prefix.value
    fields = [_compiled_field(name, wire) for name, wire in kind.layout()]
    return compiled.Layout(
        maker_of(kind), prefix, fields, keep_as="_encoded" if kind.is_exact else ""
    )


def _compiled_field(name: str, wire: WireType[Any]) -> compiled.Field:
    inner: compiled.Layout | None = None
    if isinstance(wire, Nested) and not wire.kind.reads_itself():
        inner = _compiled_layout(wire.kind)
    return compiled.Field(
        name,
        getattr(wire, "format", ""),
        wire.read,
        wire.write,
        getattr(wire, "bounds", None),
        inner,
    )


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
        read = self.element.read
        return tuple([read(reader, field) for _ in range(number)])

    def write(self, value: tuple[T, ...]) -> bytes:
        """Give count and elements."""
        return self.count.write(len(value)) + b"".join([self.element.write(v) for v in value])


def _layout_of(cls: type[Structure]) -> tuple[tuple[str, WireType[Any]], ...]:
    hints = get_type_hints(cls, include_extras=True)
    layout: list[tuple[str, WireType[Any]]] = []
    # Structure itself is no dataclass, only everything derived from it is.
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name, hint = field.name, hints[field.name]
        if not field.init:
            continue
        if get_origin(hint) is Annotated:
            layout.append((name, get_args(hint)[1]))
        elif isinstance(hint, type) and issubclass(hint, Structure):
            layout.append((name, Nested(hint)))
        else:
            raise TypeError(f"{cls.__name__}.{name} has no wire type")
    return tuple(layout)
