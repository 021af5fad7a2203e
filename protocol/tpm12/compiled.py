# SPDX-License-Identifier: Apache-2.0
"""Two functions made of a layout, the way dataclasses makes `__init__` of fields.

Every command is read and every response written by them; a loop that asks each wire type in turn
takes twice as long. They know the way of well-formed bytes only. Whatever is not, they leave to a
slower function, which begins anew and can name the error.

Of a tag, a locality, 20 bytes, a sized field and an inner structure of one u32 they are:

    def read(reader):
        data, at, end = reader.data, reader.position, reader.end
        start = at
        if at + 27 > end:
            return again(reader, start)
        found, v__locality, v__digest, size, = unpack3(data, at)
        at += 27
        if not (found == prefix2 and 1 <= v__locality <= 31):
            return again(reader, start)
        stop = at + size
        if stop > end:
            return again(reader, start)
        v__blob = data[at:stop]
        at = stop
        if at + 4 > end:
            return again(reader, start)
        v__inner__count, = unpack4(data, at)
        at += 4
        v__inner = make5(v__inner__count)
        v = make6(v__locality, v__digest, v__blob, v__inner)
        reader.position = at
        return v

    def write(value):
        v_digest = value.digest
        if len(v_digest) != 20:
            raise wrong_length('digest', 20, v_digest)
        v_blob = value.blob
        return b''.join((pack0(prefix, value.locality, v_digest, len(v_blob)), v_blob,
                         give1(value.inner)))
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from protocol.tpm12.reader import Reader

BOOLEAN: Final = "?"
SIZED: Final = "I*"
"""Format of bytes behind a u32, their length."""
SIZED_U16: Final = "H*"

_AGAIN: Final = "    return again(reader, start)"

Read: TypeAlias = Callable[[Reader], Any]
Write: TypeAlias = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a layout.

    Attributes:
        format: what `struct` calls it: a number, BOOLEAN, or bytes of fixed size such as "20s"; or
            SIZED, SIZED_U16; or empty, then `take` and `give` are asked.
        take: reads it from a cursor, given its name.
        give: returns its bytes.
        bounds: least and greatest number or length; beyond them `take` would raise. None if all
            that fit the format are allowed.
        inner: layout of a structure that is read in place.
    """

    name: str
    format: str
    take: Callable[[Reader, str], Any]
    give: Callable[[Any], bytes]
    bounds: tuple[int, int] | None = None
    inner: Layout | None = None

    @property
    def is_sized(self) -> bool:
        """Whether its length stands before it."""
        return self.format.endswith("*")

    @property
    def is_fixed(self) -> bool:
        """Whether it always has the same size."""
        return bool(self.format) and not self.is_sized


@dataclass(frozen=True, slots=True)
class Layout:
    """A structure.

    Attributes:
        make: gets the values of all fields.
        prefix: what stands before them, or nothing.
        keep_as: attribute of the structure for the bytes that it was read from, if they are kept.
    """

    make: Callable[..., Any]
    prefix: bytes
    fields: Sequence[Field]
    keep_as: str = ""


@dataclass(frozen=True, slots=True)
class _Stroke:
    """Fields of fixed size that stand beside each other, read and written together.

    Attributes:
        last: the field behind them; if it is a sized one its length belongs to them.
    """

    prefix: bytes
    fixed: Sequence[Field]
    last: Field | None = None

    @property
    def sized(self) -> Field | None:
        """The last field if it is a sized one."""
        return self.last if self.last is not None and self.last.is_sized else None

    @property
    def other(self) -> Field | None:
        """The last field if it is not a sized one."""
        return self.last if self.sized is None else None

    def struct(self) -> struct.Struct:
        """Return what packs the prefix, the fixed fields and the length of a sized one."""
        formats = [f"{len(self.prefix)}s"] if self.prefix else []
        formats += [field.format for field in self.fixed]
        if self.sized:
            formats.append(self.sized.format[:-1])
        # A boolean as a number: struct would take any byte for one.
        return struct.Struct(">" + "".join(formats).replace(BOOLEAN, "B"))


def _strokes(layout: Layout) -> list[_Stroke]:
    """Cut a layout behind each field that has no fixed size."""
    strokes: list[_Stroke] = []
    prefix, fixed = layout.prefix, list[Field]()
    for field in layout.fields:
        if field.is_fixed:
            fixed.append(field)
        else:
            strokes.append(_Stroke(prefix, fixed, field))
            prefix, fixed = b"", []
    return [*strokes, _Stroke(prefix, fixed)] if prefix or fixed else strokes


def compile_read(layout: Layout, again: Callable[[Reader, int], Any]) -> Read:
    """Return a function that takes a structure from a cursor.

    Args:
        again: reads the structure at an offset, and raises what is wrong with it.
    """
    code = _ReadCode(again)
    code.lines += ["data, at, end = reader.data, reader.position, reader.end", "start = at"]
    code.add_structure("v", layout)
    code.lines += ["reader.position = at", "return v"]
    return cast("Read", _function("read(reader)", code.lines, code.names))


class _ReadCode:
    """The body of a function that reads, and what it refers to."""

    def __init__(self, again: Callable[[Reader, int], Any]) -> None:
        # Past the guard of frozen dataclasses, for what is no field.
        self.names: dict[str, Any] = {"again": again, "set_attribute": object.__setattr__}
        self.lines: list[str] = []

    def add_structure(self, variable: str, layout: Layout) -> None:
        """Add what reads a structure into a variable."""
        if layout.keep_as:
            self.lines.append(f"start_{variable} = at")
        for stroke in _strokes(layout):
            self._add_stroke(variable, stroke)
            if stroke.sized:
                self.lines += ["stop = at + size", "if stop > end:", _AGAIN]
                self.lines += [f"{variable}__{stroke.sized.name} = data[at:stop]", "at = stop"]
            elif stroke.other:
                self._add_other(f"{variable}__{stroke.other.name}", stroke.other)
        values = [
            f"{variable}__{field.name}" + (" == 1" if field.format == BOOLEAN else "")
            for field in layout.fields
        ]
        self.lines.append(f"{variable} = {self._name('make', layout.make)}({', '.join(values)})")
        if layout.keep_as:
            kept = f"data[start_{variable}:at]"
            self.lines.append(f"set_attribute({variable}, {layout.keep_as!r}, {kept})")

    def _add_stroke(self, variable: str, stroke: _Stroke) -> None:
        targets = ["found"] if stroke.prefix else []
        wanted = [f"found == {self._name('prefix', stroke.prefix)}"] if stroke.prefix else []
        for field in stroke.fixed:
            targets.append(f"{variable}__{field.name}")
            wanted += _wanted(targets[-1], (0, 1) if field.format == BOOLEAN else field.bounds)
        if stroke.sized:
            targets.append("size")
            wanted += _wanted("size", stroke.sized.bounds)
        if not targets:
            return
        layout = stroke.struct()
        unpack = self._name("unpack", layout.unpack_from)
        self.lines += [f"if at + {layout.size} > end:", _AGAIN]
        self.lines += [f"{', '.join(targets)}, = {unpack}(data, at)", f"at += {layout.size}"]
        if wanted:
            self.lines += [f"if not ({' and '.join(wanted)}):", _AGAIN]

    def _add_other(self, variable: str, field: Field) -> None:
        if field.inner:
            self.add_structure(variable, field.inner)
            return
        take = self._name("take", field.take)
        self.lines += ["reader.position = at", f"{variable} = {take}(reader, {field.name!r})"]
        self.lines.append("at = reader.position")

    def _name(self, kind: str, value: object) -> str:
        name = f"{kind}{len(self.names)}"
        self.names[name] = value
        return name


def _wanted(variable: str, bounds: tuple[int, int] | None) -> list[str]:
    return [] if bounds is None else [f"{bounds[0]} <= {variable} <= {bounds[1]}"]


def compile_write(layout: Layout) -> Write:
    """Return a function that gives the bytes of a structure.

    It raises ValueError if bytes of fixed size have another one: a bug of the caller.
    """
    names: dict[str, Any] = {"prefix": layout.prefix, "wrong_length": _wrong_length}
    lines: list[str] = []
    parts: list[str] = []
    for number, stroke in enumerate(_strokes(layout)):
        values = ["prefix"] if stroke.prefix else []
        for field in stroke.fixed:
            name = field.name
            if not field.format.endswith("s"):
                values.append(f"value.{name}")
                continue
            size = int(field.format[:-1])
            values.append(f"v_{name}")
            lines += [f"v_{name} = value.{name}", f"if len(v_{name}) != {size}:"]
            lines.append(f"    raise wrong_length({name!r}, {size}, v_{name})")
        if stroke.sized:
            name = stroke.sized.name
            lines.append(f"v_{name} = value.{name}")
            values.append(f"len(v_{name})")
        if values:
            names[f"pack{number}"] = stroke.struct().pack
            parts.append(f"pack{number}({', '.join(values)})")
        if stroke.sized:
            parts.append(f"v_{stroke.sized.name}")
        elif stroke.other:
            names[f"give{number}"] = stroke.other.give
            parts.append(f"give{number}(value.{stroke.other.name})")
    whole = parts[0] if len(parts) == 1 else f"b''.join(({', '.join(parts)}))"
    if not parts:
        whole = "b''"
    return cast("Write", _function("write(value)", [*lines, f"return {whole}"], names))


def _wrong_length(name: str, size: int, value: bytes) -> ValueError:
    return ValueError(f"{name} has {len(value)} bytes, {size} wanted")


def _function(head: str, lines: Sequence[str], names: dict[str, Any]) -> object:
    """Return the function with this head and body, which sees `names` only."""
    code = "\n    ".join([f"def {head}:", *lines])
    exec(code, names)
    return names[head.partition("(")[0]]
