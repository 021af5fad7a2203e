# SPDX-License-Identifier: Apache-2.0
"""What a row of the manager's database is: its bytes, and taking it apart.

A record's row is what SQLite stores and what the hash tree covers: its digest is SHA-256 over the
table's name and all values in column order, each with type and length, so no two different rows
have one encoding.

Rows come from a file that somebody may have changed: what takes a row apart checks type and size of
each value and raises BadRow.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, Self
from uuid import UUID

SqlValue = int | bytes

UUID_BYTES: Final = 16

_SIZE: Final = struct.Struct(">I")
_INTEGER: Final = struct.Struct(">q")


class BadRow(Exception):
    """A row whose values cannot be those of its table."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the database.

    Attributes:
        name: as in SQL.
        columns: (name, SQL type) in order; the first is the primary key, a BLOB.
        since: format version of the database that first has it.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    since: int = 1


class Record(Protocol):
    """One row, decoded."""

    TABLE: ClassVar[Table]

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order."""

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record that a row holds; BadRow if it cannot be one."""


def tree_key(table: Table, key: bytes) -> bytes:
    """Return the key in the hash tree of the row with primary key `key`."""
    return hashlib.sha256(_prefixed(table.name.encode()) + key).digest()


def encode_row(table: Table, row: tuple[SqlValue, ...]) -> bytes:
    """Return the canonical bytes of a row, over which its digest and MAC are taken.

    Raises:
        BadRow: a value is neither integer nor bytes; the file can hold such, we never write one.
    """
    parts = [_prefixed(table.name.encode())]
    for value in row:
        if isinstance(value, int):
            parts.append(b"i" + _INTEGER.pack(value))
        elif isinstance(value, bytes):
            parts.append(b"b" + _prefixed(value))
        else:
            raise BadRow(f"{table.name}: a value of type {type(value).__name__}")
    return b"".join(parts)


def describe(table: Table, key: bytes) -> str:
    """Return how messages name a row."""
    name = str(UUID(bytes=key)) if len(key) == UUID_BYTES else key.hex()
    return f"row {name} of table {table.name}"


def _prefixed(data: bytes) -> bytes:
    return _SIZE.pack(len(data)) + data


def columns_of(table: Table, row: tuple[SqlValue, ...]) -> tuple[SqlValue, ...]:
    """Return the values of a row; BadRow if it has not as many as the table has columns."""
    if len(row) != len(table.columns):
        raise BadRow(f"{table.name}: {len(row)} values, {len(table.columns)} columns")
    return row


def as_blob(value: SqlValue, size_bytes: int | None = None) -> bytes:
    """Return a value that is bytes, so many if that is said; BadRow if it is not."""
    if not isinstance(value, bytes) or size_bytes not in (None, len(value)):
        raise BadRow(f"a value is not {size_bytes or 'any number of'} bytes")
    return value


def as_uuid(value: SqlValue) -> UUID:
    """Return a value that is a uuid's bytes; BadRow if it is not."""
    return UUID(bytes=as_blob(value, UUID_BYTES))


def as_integer(value: SqlValue) -> int:
    """Return a value that is a number; BadRow if it is not."""
    if not isinstance(value, int):
        raise BadRow("a value is not an integer")
    return value
