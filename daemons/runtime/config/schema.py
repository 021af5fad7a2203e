# SPDX-License-Identifier: Apache-2.0
"""How keys are declared and read: the fields of a frozen dataclass are the keys of a TOML table.

    @dataclass(frozen=True, slots=True)
    class FrontOptions:
        stream: bool = key(BOOL, default=True, help="Whether ...")

A field carries the kind of its value and its help, so what is read, what is refused and what the
manual page says cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from daemons.runtime.config.findings import Findings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
S = TypeVar("S", bound="DataclassInstance")

_METADATA: Final = "key"


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of value.

    Attributes:
        form: what may be written, for the manual and for refusals ("true or false").
        read: gives the value of what TOML gave; ValueError with the reason if it is not of this
            kind.
        show: gives a value as TOML text.
    """

    form: str
    read: Callable[[object], T]
    show: Callable[[T], str]


@dataclass(frozen=True, slots=True)
class Key:
    """A declared key.

    Attributes:
        name: of the key.
        form: of its value.
        help: one or more sentences.
        default: as TOML text, or in words; None if the key must be there.
        live: whether a reload changes it in a daemon that runs.
    """

    name: str
    form: str
    help: str
    default: str | None
    live: bool


@dataclass(frozen=True, slots=True)
class _Declaration:
    read: Callable[[object], object]
    form: str
    help: str
    default: str | None
    live: bool


def key(
    kind: Kind[T], *, default: T, help: str, live: bool = False, absent: str | None = None
) -> T:
    """Declare a key that may be left out.

    Args:
        kind: of its value.
        default: what counts if it is left out.
        help: for the manual.
        live: whether a reload changes it in a daemon that runs.
        absent: the default in words, where the value itself says nothing.
    """
    shown = kind.show(default) if absent is None else absent
    declaration = _Declaration(kind.read, kind.form, help, shown, live)
    return field(default=default, metadata={_METADATA: declaration})


def required(kind: Kind[T], *, help: str, live: bool = False) -> T:
    """Declare a key that must be there; such fields come first in their class."""
    declared: T = field(metadata={_METADATA: _Declaration(kind.read, kind.form, help, None, live)})
    return declared


def keys_of(options: type[DataclassInstance]) -> Sequence[Key]:
    """Return the keys of a class, in their order."""
    return [
        Key(name, declared.form, declared.help, declared.default, declared.live)
        for name, declared in _declarations(options).items()
    ]


def names_of(options: type[DataclassInstance]) -> Sequence[str]:
    """Return the names of the keys of a class."""
    return list(_declarations(options))


def read_keys(
    options: type[S],
    table: Mapping[str, object],
    findings: Findings,
    *,
    prefix: str = "",
    defaults: S | None = None,
) -> S | None:
    """Read the keys of a class out of a table, which may hold others.

    Args:
        options: the class.
        table: what TOML gave.
        findings: told of each value that is not of its kind and each key that is missing.
        prefix: of the keys in findings ("front.").
        defaults: what counts for keys that are left out; the declared defaults if None.

    Returns: the options, with the default in place of each bad value; None if a key without a
        default is missing or bad.
    """
    values: dict[str, object] = {}
    is_whole = True
    declared_defaults = {item.name: item.default for item in fields(options)}
    for name, declared in _declarations(options).items():
        default = declared_defaults[name] if defaults is None else getattr(defaults, name)
        if name in table:
            try:
                values[name] = declared.read(table[name])
                continue
            except ValueError as error:
                findings.add(f"{prefix}{name}", str(error))
        elif default is MISSING:
            findings.add(f"{prefix}{name}", f"is missing; it must be {declared.form}")
        if default is MISSING:
            is_whole = False
        else:
            values[name] = default
    make: Callable[..., S] = options
    return make(**values) if is_whole else None


def _declarations(options: type[DataclassInstance]) -> dict[str, _Declaration]:
    return {
        item.name: item.metadata[_METADATA]
        for item in fields(options)
        if _METADATA in item.metadata
    }
