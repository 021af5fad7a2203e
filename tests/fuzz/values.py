# SPDX-License-Identifier: Apache-2.0
"""Values for fields of structures: plausible, extreme, taken from the chip, or random."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from protocol.tpm12.constants import ReservedHandle
from protocol.tpm12.wire import (
    BOOL,
    REST,
    SIZED,
    U8,
    U16,
    U32,
    U64,
    FixedBytes,
    ListOf,
    Nested,
    SizedStruct,
    Structure,
)
from tests.fuzz.dice import Dice

_WIDTHS: dict[object, int] = {U8: 1, U16: 2, U32: 4, U64: 8}
_INTERESTING = (0, 1, 2, 3, 4, 5, 0x10, 0x11, 0x17, 0x18, 0x20, 0x50, 0xFF, 0x100, 0x400, 0x800,
                0x1000, 0x7FFF, 0xFFFF, 0x10000, 0x10050, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE,
                0xFFFFFFFF, 0x10000001)  # fmt: skip
_RESERVED = tuple(ReservedHandle)


class Values:
    """Makes values for wire types.

    Attributes:
        handles: what lives in the chip just now.
        blobs: what the chip gave out lately.
    """

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.handles: Sequence[int] = ()
        self.blobs: Sequence[bytes] = ()

    def number(self, width: int) -> int:
        """Return a number of `width` bytes."""
        dice = self.dice
        choice = dice.below(10)
        value = dice.pick(_INTERESTING)
        if choice >= 7:
            value = int.from_bytes(dice.bytes(width), "big")
        elif choice >= 4 and width == 4:
            value = self.handle()
        return value & (1 << 8 * width) - 1

    def handle(self) -> int:
        """Return the handle of something, mostly of something that is there."""
        if self.handles and self.dice.chance(70):
            return self.dice.pick(self.handles)
        return int(self.dice.pick(_RESERVED))

    def octets(self) -> bytes:
        """Return bytes of any length, or something that the chip made."""
        dice = self.dice
        choice = dice.below(10)
        if choice < 4 and self.blobs:
            return dice.pick(self.blobs)
        if choice < 8:
            return dice.bytes(dice.pick((0, 1, 16, 20, 32, 64, 128, 256)))
        return dice.bytes(dice.below(700))

    def make(self, wire: object, old: object) -> object:
        """Return a value for a wire type; something like `old` if the type is not known here."""
        dice = self.dice
        if wire in _WIDTHS:
            return self.number(_WIDTHS[wire])
        if wire is BOOL:
            return dice.chance(50)
        if wire is SIZED or wire is REST:
            return self.octets()
        if isinstance(wire, FixedBytes):
            return dice.bytes(wire.size) if dice.chance(70) else bytes(wire.size)
        if isinstance(wire, ListOf):
            number = min(wire.limit, dice.below(5))
            values = tuple([self.make(wire.element, None) for _ in range(number)])
            return old if None in values else values
        if isinstance(wire, (Nested, SizedStruct)) and isinstance(old, Structure):
            if isinstance(wire, SizedStruct) and dice.chance(10):
                return None
            return self.change(old)
        return self.like(old)

    def change(self, value: Structure) -> Structure:
        """Return a structure with one or more fields made anew."""
        # Structure itself is no dataclass, only everything derived from it is.
        names = [field.name for field in dataclasses.fields(value)]  # type: ignore[arg-type]
        if not names:
            return value
        try:
            wires: dict[str, Any] = dict(value.layout())
        except (TypeError, KeyError):
            wires = {}
        changes: dict[str, Any] = {}
        for _ in range(1 + self.dice.below(2)):
            name = self.dice.pick(names)
            old = getattr(value, name)
            changes[name] = self.make(wires[name], old) if name in wires else self.like(old)
        return dataclasses.replace(value, **changes)  # type: ignore[type-var]

    def like(self, old: object) -> object:
        """Return a value of the same Python type, for structures with a layout of their own."""
        match old:
            case bool():
                return not old
            case int():
                # The narrowest such field has one byte.
                return self.dice.pick((0, 1, 2, 3, 4, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0xFF))
            case bytes():
                return self.octets()
            case Structure():
                return self.change(old)
            case _:
                return old

    def blank(self, kind: type[Structure]) -> Structure | None:
        """Return a structure made of nothing, or None if that cannot be."""
        try:
            fields = {name: self.make(wire, None) for name, wire in kind.layout()}
        except (TypeError, KeyError):
            return None
        return None if None in fields.values() else kind(**fields)
