# SPDX-License-Identifier: Apache-2.0
"""PCR values in files and on command lines, and the configurations that they make.

A file of PCR values has a line for each, as `vtpmctl manager pcrs` and Linux's `pcrs` in sysfs
print them; spaces between digits and empty lines do not count:

    PCR-00: 3a3f780f11a4b49969fcaa80cd6e3957c33b2275
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from daemons.runtime.config.kinds import show_pcrs
from daemons.runtime.config.values import parse_pcrs
from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.documents import read_file
from protocol.tpm12.constants import PCR_COUNT
from protocol.tpm12.pcr import PcrSelection, composite_hash

PcrValues = Mapping[int, bytes]
Configuration = tuple[PcrSelection, bytes]
"""A selection and the composite hash of its PCRs, 20 bytes."""

_DIGEST_BYTES: Final = 20
_LINE: Final = re.compile(r"PCR-(\d{1,2}):([0-9A-Fa-f ]+)", re.ASCII)
_COMPOSITE: Final = "composite:"


def format_pcrs(values: PcrValues) -> str:
    """Return the lines of a file of PCR values."""
    return "\n".join(f"PCR-{index:02}: {value.hex()}" for index, value in sorted(values.items()))


def read_pcrs_file(path: Path) -> PcrValues:
    """Return what a file of PCR values says.

    Raises:
        DaemonError: it cannot be read, or a line is not of that form.
    """
    values: dict[int, bytes] = {}
    text = read_file(path).decode(errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        index = int(match[1]) if match else PCR_COUNT
        value = bytes.fromhex(match[2]) if match and _is_hex(match[2]) else b""
        if index >= PCR_COUNT or len(value) != _DIGEST_BYTES or index in values:
            raise DaemonError(f"{path}: line {number} is not PCR-NN: and 40 hex digits, each once")
        values[index] = value
    return values


def selection_of(text: str) -> PcrSelection:
    """Return the PCRs that a list such as "0-7,17" names; ValueError if there are none."""
    pcrs = parse_pcrs((text,))
    if not pcrs:
        raise ValueError("no PCR is named")
    return PcrSelection.of(pcrs)


def show_selection(selection: PcrSelection) -> str:
    """Return a selection as such a list."""
    return show_pcrs(frozenset(selection.indices))


def composite_of(selection: PcrSelection, values: PcrValues) -> bytes:
    """Return the composite hash of PCRs, 20 bytes.

    Raises:
        ValueError: a value is missing.
    """
    missing = frozenset(selection.indices) - values.keys()
    if missing:
        raise ValueError(f"no value for PCR {show_pcrs(missing)}")
    return composite_hash(selection, [values.get(i, b"") for i in range(PCR_COUNT)])


def configurations(texts: Sequence[str], files: Iterable[Path]) -> list[Configuration]:
    """Return the configurations that options name.

    Args:
        texts: `PCRS=HEX` (the values, ascending, in a row), `PCRS=composite:HEX`, or `PCRS` alone:
            one for each of the files, with its values.
        files: of PCR values.

    Raises:
        DaemonError, ValueError: see above.
    """
    read = [(path, read_pcrs_file(path)) for path in files]
    found: list[Configuration] = []
    for text in texts:
        pcrs, equals, digits = text.partition("=")
        selection = selection_of(pcrs)
        if equals:
            found.append((selection, _given(selection, digits)))
            continue
        if not read:
            raise ValueError(f"{text!r} has no values: give them, or --pcrs-file")
        for path, values in read:
            try:
                found.append((selection, composite_of(selection, values)))
            except ValueError as error:
                raise DaemonError(f"{path}: {error}") from error
    return found


def _given(selection: PcrSelection, digits: str) -> bytes:
    if digits.startswith(_COMPOSITE):
        composite = bytes.fromhex(digits.removeprefix(_COMPOSITE))
        if len(composite) != _DIGEST_BYTES:
            raise ValueError(f"a composite of {len(composite)} bytes, it has {_DIGEST_BYTES}")
        return composite
    data, indices = bytes.fromhex(digits), selection.indices
    if len(data) != _DIGEST_BYTES * len(indices):
        raise ValueError(f"{len(data)} bytes of values for {len(indices)} PCRs of {_DIGEST_BYTES}")
    parts = [data[at : at + _DIGEST_BYTES] for at in range(0, len(data), _DIGEST_BYTES)]
    return composite_of(selection, dict(zip(indices, parts, strict=True)))


def _is_hex(text: str) -> bool:
    try:
        bytes.fromhex(text)
    except ValueError:
        return False
    return True


class SelectionParameter(click.ParamType[PcrSelection]):
    """A list of PCRs on the command line."""

    name = "pcrs"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> PcrSelection:
        """Read it."""
        try:
            return selection_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class HexParameter(click.ParamType[bytes]):
    """Bytes on the command line, in hexadecimal.

    Args:
        size_bytes: how many.
    """

    name = "hex"

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        """Read them."""
        try:
            data = bytes.fromhex(str(value))
        except ValueError:
            data = b""
        if len(data) != self._size_bytes:
            self.fail(f"must be {2 * self._size_bytes} hex digits", param, ctx)
        return data
