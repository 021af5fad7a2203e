# SPDX-License-Identifier: Apache-2.0
"""Files that operators, agents and Privacy CAs exchange: JSON objects, read strictly.

    {"format": "vtpm-registration", "version": 1, "group": "...", ...}

Byte strings are hexadecimal. A file is made as a whole, mode 0600, and never replaces one that is
there; a field that is missing or not expected, or another version, is refused.

A kind of file is a frozen dataclass whose annotations say how each field is written:

    @dataclass(frozen=True, slots=True)
    class Registration(Document):
        KIND = "vtpm-registration"
        group: Annotated[UUID, UUID_TEXT]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Self, TypeVar, get_type_hints
from uuid import UUID

from daemons.runtime.config.text import make_file
from daemons.runtime.control import Json
from daemons.runtime.errors import DaemonError
from protocol.errors import WireError

T = TypeVar("T")

VERSION: Final = 1
_LIMIT_BYTES: Final = 4 << 20
_MODE: Final = 0o600


def read_file(path: Path) -> bytes:
    """Return the content of a file, at most 4 MiB.

    Raises:
        DaemonError: it cannot be read, or is longer.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT_BYTES + 1)
    except OSError as error:
        raise DaemonError(f"{path}: {error.strerror}") from error
    if len(data) > _LIMIT_BYTES:
        raise DaemonError(f"{path}: longer than {_LIMIT_BYTES} bytes")
    return data


def write_file(path: Path, content: str | bytes) -> None:
    """Make a file, durably, mode 0600.

    Raises:
        DaemonError: there is one already.
        OSError: it cannot be made.
    """
    if not make_file(path, content, _MODE):
        raise DaemonError(f"{path} is there already; nothing was written")


def check_absent(*paths: Path) -> None:
    """See that files can still be made, before something is done that cannot be done again.

    Raises:
        DaemonError: one is there, or its folder is not.
    """
    for path in paths:
        if path.exists() or path.is_symlink():
            raise DaemonError(f"{path} is there already; nothing was done")
        if not path.parent.is_dir():
            raise DaemonError(f"{path.parent} is not a folder; nothing was done")


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How a value stands in a file.

    Attributes:
        show: gives what is written.
        read: takes it back; ValueError or WireError if it is nothing that `show` gives.
    """

    show: Callable[[T], Json]
    read: Callable[[Json], T]


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def number(bits: int) -> Form[int]:
    """Return the form of whole numbers from 0 on."""

    def read(value: Json) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << bits:
            raise ValueError(f"must be a number from 0 to {(1 << bits) - 1}")
        return value

    return Form(lambda value: value, read)


def data(size_bytes: int | None = None) -> Form[bytes]:
    """Return the form of bytes, of one length if it is given."""

    def read(value: Json) -> bytes:
        found = bytes.fromhex(_text(value))
        if size_bytes is not None and len(found) != size_bytes:
            raise ValueError(f"{len(found)} bytes, must be {size_bytes}")
        return found

    return Form(bytes.hex, read)


def encoded(encode: Callable[[T], bytes], decode: Callable[[bytes], T]) -> Form[T]:
    """Return the form of what has a layout of its own."""
    return Form(lambda value: encode(value).hex(), lambda value: decode(data().read(value)))


def optional(form: Form[T]) -> Form[T | None]:
    """Return the form of what may be missing: null then."""
    return Form(
        lambda value: None if value is None else form.show(value),
        lambda value: None if value is None else form.read(value),
    )


def many(form: Form[T]) -> Form[tuple[T, ...]]:
    """Return the form of a list."""

    def show(values: Sequence[T]) -> Json:
        return [form.show(value) for value in values]

    def read(value: Json) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError("must be a list")
        return tuple(form.read(one) for one in value)

    return Form(show, read)


TEXT: Final[Form[str]] = Form(lambda value: value, _text)
UUID_TEXT: Final[Form[UUID]] = Form(str, lambda value: UUID(_text(value)))


class Document:
    """A kind of file; subclasses are dataclasses as above."""

    __slots__ = ()
    KIND: ClassVar[str]

    @classmethod
    def field_names(cls) -> list[str]:
        """Return the fields of this kind, without format and version."""
        return list(_forms(cls))

    def to_json(self) -> dict[str, Json]:
        """Return what the file says."""
        head: dict[str, Json] = {"format": self.KIND, "version": VERSION}
        return head | {
            name: form.show(getattr(self, name)) for name, form in _forms(type(self)).items()
        }

    def write(self, path: Path) -> None:
        """Make the file; see `write_file`."""
        write_file(path, json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            DaemonError: it is not of this kind, with path and field.
        """
        found = read_object(path)
        try:
            return cls.from_json(found)
        except ValueError as error:
            raise DaemonError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, found: Mapping[str, Json]) -> Self:
        """Take what a file says; ValueError if it is not of this kind."""
        kind, version = found.get("format"), found.get("version")
        if kind != cls.KIND:
            raise ValueError(f"it is {kind!r}, not a {cls.KIND}")
        if version != VERSION or isinstance(version, bool):
            raise ValueError(f"version {version!r}; this program knows {VERSION}")
        forms = _forms(cls)
        if unknown := found.keys() - forms.keys() - {"format", "version"}:
            raise ValueError(f"unknown field {min(unknown)!r}")
        values = {}
        for name, form in forms.items():
            if name not in found:
                raise ValueError(f"{name} is missing")
            try:
                values[name] = form.read(found[name])
            except (ValueError, WireError) as error:
                raise ValueError(f"{name}: {error}") from error
        return cls(**values)


def read_object(path: Path) -> Mapping[str, Json]:
    """Return the JSON object in a file.

    Raises:
        DaemonError: there is none.
    """
    try:
        found = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise DaemonError(f"{path}: not JSON text") from error
    if not isinstance(found, dict):
        raise DaemonError(f"{path}: not a JSON object")
    return found


def _forms(kind: type[Document]) -> Mapping[str, Form[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: hints[each.name].__metadata__[0] for each in fields(kind)}  # type: ignore[arg-type]
