# SPDX-License-Identifier: Apache-2.0
"""The SQLite database: rows in, rows out, one transaction for each commit.

It knows no keys and verifies nothing. WAL with `synchronous=FULL`: a commit is one flush of the
log. `locking_mode=EXCLUSIVE`: nobody else opens the database while the manager runs, and no
shared-memory file exists. The log is copied into the main file when the manager says so
(`checkpoint`), never inside a commit and never while a database is only being looked at: a database
that is refused stays byte for byte as it was found.

Everything here blocks and must be called from one thread at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, cast

import apsw

from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.vtpmmgr.hashtree import DIGEST_BYTES
from daemons.vtpmmgr.records import RECORD_TYPES
from daemons.vtpmmgr.rows import SqlValue, Table

APPLICATION_ID: Final = 0x76544D4D  # "vTMM"
SCHEMA_VERSION: Final = 4
"""Version 2 added policies of groups, the counter, transport keys and moves, version 3 what keys of
a vTPM's state need, version 4 which other vTPM gets them. An older database is read as one whose
newer tables are empty, and becomes one of this version with its next commit."""
_PAGE_BYTES: Final = 4096

_COMMITS_SQL: Final = (
    "CREATE TABLE commits (id INTEGER PRIMARY KEY CHECK (id = 1), sequence INTEGER NOT NULL, "
    "root BLOB NOT NULL, predecessor BLOB NOT NULL, mac BLOB NOT NULL) STRICT"
)


class DiskFull(Exception):
    """A transaction did not fit; the database surely is as it was before."""


class CommitUncertain(DaemonError):
    """A transaction failed in a way that leaves open whether a later reader sees it.

    Nothing may be answered on it. The manager ends; the next start finds the state before or after.
    """


@dataclass(frozen=True, slots=True)
class CommitRow:
    """The newest commit: which state the tables hold.

    Attributes:
        sequence: number of the commit, from 1.
        root: root of the hash tree over all rows, 32 bytes.
        predecessor: root of the commit before, 32 bytes; zeros for the first.
        mac: over the three, by the manager's commit key.
    """

    sequence: int
    root: bytes
    predecessor: bytes
    mac: bytes


@dataclass(frozen=True, slots=True)
class RowChange:
    """One row to be written, or removed where `row` is None.

    Attributes:
        table: where.
        key: value of the primary key.
        row: values in column order.
        mac: of the row; empty for a removal.
    """

    table: Table
    key: bytes
    row: tuple[SqlValue, ...] | None
    mac: bytes = b""


class Store:
    """An open database.

    Args:
        connection: with the pragmas set.
        path: for messages.
        version: of the format that the file has; 0 while it has no tables.
    """

    def __init__(self, connection: apsw.Connection, path: Path, version: int) -> None:
        self._connection = connection
        self.path = path
        self._version = version
        # pages in the log, told by SQLite after each commit
        self.log_pages = 0
        connection.set_wal_hook(self._note_log_pages)

    @classmethod
    def open(cls, path: Path, vfs: str | None = None) -> Self | None:
        """Open an existing database, changing nothing; None if there is none.

        None also stands for a file without any table, which a crash in `create` leaves.

        Raises:
            RefusedToStart: not a database of this manager, cut short, corrupt, in use, or of a
                newer version.
        """
        if not _there(path):
            return None
        try:
            with contextlib.ExitStack() as on_failure:
                connection = _connect(path, vfs, on_failure)
                schema = set(connection.execute("SELECT type, name, sql FROM sqlite_schema"))
                application = _pragma(connection, "application_id")
                version = _pragma(connection, "user_version")
                if not schema and not application and not version:
                    return None
                _check_shape(connection, path, schema, application, version)
                problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
                if problems != ["ok"]:
                    raise RefusedToStart(f"database {path} is damaged: {'; '.join(problems)}")
                on_failure.pop_all()
                return cls(connection, path, version)
        except apsw.Error as error:
            raise RefusedToStart(f"database {path} cannot be read: {_reason(error)}") from error

    @classmethod
    def create(cls, path: Path, vfs: str | None = None) -> Self:
        """Make a database without tables; the first `write` makes those, in its own transaction.

        A file without tables, left by a crash, is taken over. The file has mode 0600.

        Raises:
            DaemonError: the disk refuses.
        """
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            _sync_folder(path.parent)
            with contextlib.ExitStack() as on_failure:
                connection = _connect(path, vfs, on_failure)
                mode = connection.execute("PRAGMA journal_mode=WAL").fetchall()
                if mode != [("wal",)]:
                    raise DaemonError(f"database {path}: no write-ahead log here ({mode})")
                on_failure.pop_all()
                return cls(connection, path, 0)
        except (apsw.Error, OSError) as error:
            raise DaemonError(f"database {path} cannot be made: {_reason(error)}") from error

    def commit_row(self) -> CommitRow:
        """Return the newest commit.

        Raises:
            RefusedToStart: there is none or it has no sense.
        """
        rows = self._connection.execute("SELECT sequence, root, predecessor, mac FROM commits")
        match rows.fetchall():
            case [(int(sequence), bytes(root), bytes(predecessor), bytes(mac))] if (
                sequence > 0 and {len(root), len(predecessor), len(mac)} == {DIGEST_BYTES}
            ):
                return CommitRow(sequence, root, predecessor, mac)
        raise RefusedToStart(f"database {self.path}: its commit record is damaged")

    def scan(self, table: Table) -> Iterator[tuple[tuple[SqlValue, ...], bytes]]:
        """Return (row, mac) of all rows of a table, in the order of their keys."""
        if table.since > self._version:
            return
        names = ", ".join(name for name, _ in table.columns)
        for values in self._connection.execute(f"SELECT {names}, mac FROM {table.name}"):
            yield values[:-1], values[-1]

    def find(self, table: Table, key: bytes) -> tuple[SqlValue, ...] | None:
        """Return the row with a primary key, unverified; None if there is none.

        Raises:
            DaemonError: the disk refuses.
        """
        if table.since > self._version:
            return None
        names = ", ".join(name for name, _ in table.columns)
        where = table.columns[0][0]
        try:
            found = self._connection.execute(
                f"SELECT {names} FROM {table.name} WHERE {where} = ?", (key,)
            ).fetchall()
        except apsw.Error as error:
            raise DaemonError(f"database {self.path} cannot be read: {_reason(error)}") from error
        return cast(tuple[SqlValue, ...], found[0]) if found else None

    def keys_where(self, table: Table, column: str, value: bytes) -> list[bytes]:
        """Return the primary keys, ascending, of the rows with a value in a column, unverified.

        Raises:
            DaemonError: the disk refuses.
        """
        if table.since > self._version:
            return []
        key = table.columns[0][0]
        try:
            return [
                bytes(cast(bytes, row[0]))
                for row in self._connection.execute(
                    f"SELECT {key} FROM {table.name} WHERE {column} = ? ORDER BY {key}", (value,)
                )
            ]
        except apsw.Error as error:
            raise DaemonError(f"database {self.path} cannot be read: {_reason(error)}") from error

    def write(self, changes: Iterable[RowChange], commit: CommitRow) -> None:
        """Make the changes and the commit row durable, all or none.

        Raises:
            DiskFull: nothing of it happened.
            CommitUncertain: any other failure; the caller must end the process.
        """
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            if self._version < SCHEMA_VERSION:
                _make_tables(connection, self._version)
            for change in changes:
                _apply(connection, change)
            connection.execute(
                "INSERT INTO commits VALUES (1, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                "sequence = excluded.sequence, root = excluded.root, "
                "predecessor = excluded.predecessor, mac = excluded.mac",
                (commit.sequence, commit.root, commit.predecessor, commit.mac),
            )
            connection.execute("COMMIT")
            self._version = SCHEMA_VERSION
        except apsw.FullError as error:
            # Out of space is told before the frame that commits is complete in the log, so no
            # reader, now or after a crash, takes the transaction for a whole one.
            self._roll_back()
            raise DiskFull(f"database {self.path}: no space left") from error
        except apsw.Error as error:
            raise CommitUncertain(f"database {self.path}: {_reason(error)}") from error

    def checkpoint(self, *, keep_room: bool = False) -> None:
        """Copy the log into the main file, flush that, and start the log anew.

        Args:
            keep_room: leave the log its size. It is written again from its beginning, which is
                cheaper to flush than a file that grows, and does not fail for lack of space.

        Raises:
            DaemonError: it failed; nothing is lost, the log still has everything.
        """
        try:
            self._connection.wal_checkpoint(
                mode=apsw.SQLITE_CHECKPOINT_RESTART
                if keep_room
                else apsw.SQLITE_CHECKPOINT_TRUNCATE
            )
        except apsw.Error as error:
            raise DaemonError(
                f"database {self.path}: checkpoint failed: {_reason(error)}"
            ) from error
        self.log_pages = 0

    def make_durable(self) -> None:
        """Make sure that the newest commit is on disk, also if the flush of it once failed.

        After a failed flush the system may show what it will never write, so flushing again proves
        nothing: the pages are written anew, into the main file. And the log on disk may then end
        earlier than the one that is seen, so that playing it back would undo those pages: a new
        log is begun, whose first transaction, which changes nothing, makes the old one void.

        Raises:
            DaemonError: it failed.
        """
        self.checkpoint()
        try:
            for statement in (
                "BEGIN IMMEDIATE",
                "UPDATE commits SET sequence = sequence + 1",
                "UPDATE commits SET sequence = sequence - 1",
                "COMMIT",
            ):
                self._connection.execute(statement)
        except apsw.Error as error:
            raise DaemonError(f"database {self.path}: {_reason(error)}") from error

    def close(self) -> None:
        """Close the database, leaving its files as they are."""
        self._connection.close()

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise CommitUncertain(f"database {self.path}: {_reason(error)}") from error

    def _note_log_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.log_pages = pages
        return apsw.SQLITE_OK


def _there(path: Path) -> bool:
    """Say whether there is a database file worth opening.

    SQLite deletes the log of an empty database and replays any rollback journal that it finds, so
    both are looked for before it gets the file. A journal of ours exists only while `create`
    switches a file of one page to WAL.
    """
    size = _size(path)
    log_size = _size(path.with_name(path.name + "-wal"))
    if not size:
        if log_size:
            raise RefusedToStart(f"database {path} is missing or cut to nothing, its log is there")
        return False
    if _size(path.with_name(path.name + "-journal")) and (size > _PAGE_BYTES or log_size):
        raise RefusedToStart(f"database {path} has a rollback journal, which it never writes")
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise RefusedToStart(f"{path} cannot be read: {error.strerror}") from error


def _connect(path: Path, vfs: str | None, on_failure: contextlib.ExitStack) -> apsw.Connection:
    """Open an existing file; `on_failure` gets what closes it."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    on_failure.callback(connection.close)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    for pragma in (
        f"page_size={_PAGE_BYTES}",
        "locking_mode=EXCLUSIVE",
        "synchronous=FULL",
        "wal_autocheckpoint=0",
        "mmap_size=0",
        "temp_store=MEMORY",
        "cell_size_check=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def _check_shape(
    connection: apsw.Connection,
    path: Path,
    schema: set[tuple[object, ...]],
    application: int,
    version: int,
) -> None:
    if application != APPLICATION_ID:
        raise RefusedToStart(
            f"database {path} is not a manager's (application id {application:#x})"
        )
    if not 1 <= version <= SCHEMA_VERSION:
        raise RefusedToStart(
            f"database {path} has format version {version}, this program knows 1 to "
            f"{SCHEMA_VERSION}"
        )
    # a trigger or a view put in from outside would run inside our transactions
    expected = {("table", "commits", _COMMITS_SQL)}
    expected |= {
        ("table", kind.TABLE.name, _table_sql(kind.TABLE))
        for kind in RECORD_TYPES
        if kind.TABLE.since <= version
    }
    if schema != expected:
        names = sorted({str(row[1]) for row in schema ^ expected})
        raise RefusedToStart(f"database {path}: changed definition of {', '.join(names)}")
    mode = connection.execute("PRAGMA journal_mode").fetchall()
    if mode != [("wal",)]:
        raise RefusedToStart(f"database {path} is not in WAL mode ({mode[0][0]})")


def _table_sql(table: Table) -> str:
    first, *others = table.columns
    columns = [f"{first[0]} {first[1]} PRIMARY KEY"]
    columns += [f"{name} {kind} NOT NULL" for name, kind in others]
    return (
        f"CREATE TABLE {table.name} ({', '.join(columns)}, mac BLOB NOT NULL) STRICT, WITHOUT ROWID"
    )


def _make_tables(connection: apsw.Connection, version: int) -> None:
    """Make the tables that a database of this version lacks; inside the transaction of a write."""
    for kind in RECORD_TYPES:
        if kind.TABLE.since > version:
            connection.execute(_table_sql(kind.TABLE))
    if version == 0:
        connection.execute(_COMMITS_SQL)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _apply(connection: apsw.Connection, change: RowChange) -> None:
    table = change.table
    if change.row is None:
        connection.execute(
            f"DELETE FROM {table.name} WHERE {table.columns[0][0]} = ?", (change.key,)
        )
        return
    marks = ", ".join("?" * (len(table.columns) + 1))
    connection.execute(
        f"INSERT OR REPLACE INTO {table.name} VALUES ({marks})", (*change.row, change.mac)
    )


def _pragma(connection: apsw.Connection, name: str) -> int:
    value = connection.execute(f"PRAGMA {name}").fetchall()[0][0]
    return value if isinstance(value, int) else 0


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__.removesuffix('Error')}: {error}"
