# SPDX-License-Identifier: Apache-2.0
"""Two functions made of a layout, the way dataclasses makes `__init__` of fields.

Every command is read and every response written by them; a loop that asks each wire type in turn
takes nearly twice as long. They know the way of well-formed bytes only. Whatever is not, they leave
to a slower function, which begins anew and can name the error.

Of a tag, a u16, 20 bytes, a sized field and an inner structure they are:

    def read(reader):
        data, at, end = reader.data, reader.position, reader.end
        start = at
        if at + 28 > end:
            return again(reader, start)
        found, v_count, v_digest, size = unpack0(data, at)
        at += 28
        if found != prefix:
            return again(reader, start)
        stop = at + size
        if stop > end:
            return again(reader, start)
        v_blob = data[at:stop]
        at = stop
        reader.position = at
        v_inner = take1(reader, 'inner')
        at = reader.position
        return make(v_count, v_digest, v_blob, v_inner)

    def write(value):
        v_digest = value.digest
        if len(v_digest) != 20:
            raise wrong_length('digest', 20, v_digest)
        v_blob = value.blob
        return b''.join((pack0(prefix, value.count, v_digest, len(v_blob)), v_blob,
                         give1(value.inner)))
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from protocol.tpm12.reader import Reader

SIZED: Final = "sized"
"""Format of bytes behind their length, a u32."""
BOOLEAN: Final = "?"

_LENGTH: Final = "I"
_AGAIN: Final = "    return again(reader, start)"

Read: TypeAlias = Callable[[Reader], Any]
Write: TypeAlias = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a layout.

    Attributes:
        format: what `struct` calls it: a number, BOOLEAN, or bytes of fixed size such as "20s"; or
            SIZED; or empty, then `take` and `give` are asked.
        take: reads it from a cursor, given its name.
        give: returns its bytes.
    """

    name: str
    format: str
    take: Callable[[Reader, str], Any]
    give: Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class _Stroke:
    """Fields of fixed size that stand beside each other, read and written together.

    Attributes:
        sized: the field behind them, if it is a sized one: its length belongs to them.
        other: the field behind them, if it has to be asked.
    """

    fixed: Sequence[Field]
    sized: Field | None = None
    other: Field | None = None


def _strokes(fields: Sequence[Field]) -> list[_Stroke]:
    """Cut a layout behind each field that has no fixed size; there is at least one stroke."""
    strokes: list[_Stroke] = []
    fixed: list[Field] = []
    for field in fields:
        if field.format == SIZED:
            strokes.append(_Stroke(fixed, sized=field))
            fixed = []
        elif not field.format:
            strokes.append(_Stroke(fixed, other=field))
            fixed = []
        else:
            fixed.append(field)
    return [*strokes, _Stroke(fixed)] if fixed or not strokes else strokes


def _layout(prefix: bytes, formats: Sequence[str]) -> struct.Struct:
    mark = f"{len(prefix)}s" if prefix else ""
    return struct.Struct(">" + mark + "".join(formats))


def compile_read(
    make: Callable[..., Any],
    prefix: bytes,
    fields: Sequence[Field],
    again: Callable[[Reader, int], Any],
    keep_as: str = "",
) -> Read:
    """Return a function that takes a structure from a cursor.

    Args:
        make: gets the values of all fields.
        prefix: what stands before them, or nothing.
        again: reads the structure at an offset, and raises what is wrong with it.
        keep_as: attribute of the structure for the bytes that it was read from, if they are kept.
    """
    names: dict[str, Any] = {"make": make, "prefix": prefix, "again": again}
    lines = ["data, at, end = reader.data, reader.position, reader.end", "start = at"]
    for number, stroke in enumerate(_strokes(fields)):
        lines += _read_stroke(stroke, prefix if number == 0 else b"", f"unpack{number}", names)
        if stroke.sized:
            lines += ["stop = at + size", "if stop > end:", _AGAIN]
            lines += [f"v_{stroke.sized.name} = data[at:stop]", "at = stop"]
        if stroke.other:
            name, take = stroke.other.name, f"take{number}"
            names[take] = stroke.other.take
            lines += ["reader.position = at", f"v_{name} = {take}(reader, {name!r})"]
            lines.append("at = reader.position")
    values = [f"v_{f.name} == 1" if f.format == BOOLEAN else f"v_{f.name}" for f in fields]
    lines += ["reader.position = at", f"value = make({', '.join(values)})"]
    if keep_as:
        # Past the guard of a frozen dataclass: it is no field.
        names["set_attribute"] = object.__setattr__
        lines.append(f"set_attribute(value, {keep_as!r}, data[start:at])")
    return cast("Read", _function("read(reader)", [*lines, "return value"], names))


def _read_stroke(stroke: _Stroke, prefix: bytes, unpack: str, names: dict[str, Any]) -> list[str]:
    """Return the code that reads a stroke; nothing if there is nothing to read."""
    # A boolean as a number: struct would let any byte through.
    formats = ["B" if field.format == BOOLEAN else field.format for field in stroke.fixed]
    targets = [f"v_{field.name}" for field in stroke.fixed]
    faults = [f"v_{field.name} > 1" for field in stroke.fixed if field.format == BOOLEAN]
    if prefix:
        targets.insert(0, "found")
        faults.insert(0, "found != prefix")
    if stroke.sized:
        targets.append("size")
        formats.append(_LENGTH)
    if not targets:
        return []
    layout = _layout(prefix, formats)
    names[unpack] = layout.unpack_from
    lines = [
        f"if at + {layout.size} > end:",
        _AGAIN,
        f"{', '.join(targets)}, = {unpack}(data, at)",
        f"at += {layout.size}",
    ]
    return [*lines, f"if {' or '.join(faults)}:", _AGAIN] if faults else lines


def compile_write(prefix: bytes, fields: Sequence[Field]) -> Write:
    """Return a function that gives the bytes of a structure.

    It raises ValueError if bytes of fixed size have another one: a bug of the caller.
    """
    names: dict[str, Any] = {"prefix": prefix, "wrong_length": _wrong_length}
    lines: list[str] = []
    parts: list[str] = []
    for number, stroke in enumerate(_strokes(fields)):
        mark = prefix if number == 0 else b""
        formats = [field.format for field in stroke.fixed]
        values = ["prefix"] if mark else []
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
            formats.append(_LENGTH)
        if values:
            names[f"pack{number}"] = _layout(mark, formats).pack
            parts.append(f"pack{number}({', '.join(values)})")
        if stroke.sized:
            parts.append(f"v_{stroke.sized.name}")
        if stroke.other:
            names[f"give{number}"] = stroke.other.give
            parts.append(f"give{number}(value.{stroke.other.name})")
    whole = parts[0] if len(parts) == 1 else f"b''.join(({', '.join(parts)}))"
    return cast("Write", _function("write(value)", [*lines, f"return {whole}"], names))


def _wrong_length(name: str, size: int, value: bytes) -> ValueError:
    return ValueError(f"{name} has {len(value)} bytes, {size} wanted")


def _function(head: str, lines: Sequence[str], names: dict[str, Any]) -> object:
    """Return the function with this head and body, which sees `names` only."""
    code = "\n    ".join([f"def {head}:", *lines])
    exec(code, names)
    return names[head.partition("(")[0]]
