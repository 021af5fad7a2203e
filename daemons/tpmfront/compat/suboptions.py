# SPDX-License-Identifier: Apache-2.0
"""Values of swtpm's options: `name=value,name,...`, each name declared with the kind of its value.

As swtpm does: a name alone is `name=true`; of a name that is given twice the first counts; there
is no way to write a comma in a value. Stricter than swtpm, whose booleans are false for any word
that is not `true` or `1`: here such words are refused.
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable, Mapping
from typing import Final

from daemons.tpmfront.compat.errors import BadLine

Value = str | int | bool
Kind = Callable[[str], Value]
"""Gives the value of a text; ValueError with the reason if it has none."""

_INT_LAST: Final = 2**31 - 1
_ID_LAST: Final = 2**32 - 2
_MODE_LAST: Final = 0o777
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
_OCTAL: Final = re.compile(r"[0-7]{1,20}", re.ASCII)


def text(value: str) -> str:
    """Any text, at least one character."""
    return value


def integer(value: str) -> int:
    """A decimal number, as C's int has them."""
    if not _NUMBER.fullmatch(value):
        raise ValueError(f"invalid number '{value}'")
    number = int(value)
    if not -_INT_LAST - 1 <= number <= _INT_LAST:
        raise ValueError(f"number {value} outside valid range")
    return number


def boolean(value: str) -> bool:
    """true, 1, false or 0."""
    try:
        return _BOOLEANS[value.lower()]
    except KeyError:
        raise ValueError(f"invalid boolean '{value}': must be true or false") from None


def mode(value: str) -> int:
    """Octal permissions, at most 0777."""
    if not _OCTAL.fullmatch(value):
        raise ValueError(f"invalid mode type '{value}'")
    number = int(value, 8)
    if number > _MODE_LAST:
        raise ValueError(f"mode {value} is invalid")
    return number


def user(value: str) -> int:
    """A user, by number or name."""
    if _DIGITS.fullmatch(value):
        return _identifier("uid", value)
    try:
        return pwd.getpwnam(value).pw_uid
    except KeyError:
        raise ValueError(f"User '{value}' does not exist") from None


def group(value: str) -> int:
    """A group, by number or name."""
    if _DIGITS.fullmatch(value):
        return _identifier("gid", value)
    try:
        return grp.getgrnam(value).gr_gid
    except KeyError:
        raise ValueError(f"Group '{value}' does not exist") from None


def _identifier(what: str, value: str) -> int:
    if int(value) > _ID_LAST:
        raise ValueError(f"{what} {value} outside valid range")
    return int(value)


class Suboptions:
    """What one option's value says."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        """Use `parse`."""
        self._values = values

    def text(self, name: str) -> str | None:
        """Return a text; None if it is not given."""
        value = self._values.get(name)
        assert value is None or isinstance(value, str)
        return value

    def number(self, name: str) -> int | None:
        """Return a number, mode, user or group; None if it is not given."""
        value = self._values.get(name)
        assert value is None or isinstance(value, int)
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean."""
        value = self._values.get(name, default)
        assert isinstance(value, bool)
        return value


def parse(option: str, value: str, kinds: Mapping[str, Kind]) -> Suboptions:
    """Read the value of an option.

    Args:
        option: for the message: "tpmstate".
        value: what was written.
        kinds: of the values, by name.

    Raises:
        BadLine: a name that is not declared, or a value that is not of its kind.
    """
    values: dict[str, Value] = {}
    for token in value.split(","):
        name, separator, given = token.partition("=")
        if name not in kinds or (separator and not given):
            raise BadLine(f"Error parsing {option} options: Unknown option '{token}'")
        try:
            read = kinds[name](given if separator else "true")
        except ValueError as error:
            raise BadLine(f"Error parsing {option} options: {name}: {error}") from None
        values.setdefault(name, read)
    return Suboptions(values)
