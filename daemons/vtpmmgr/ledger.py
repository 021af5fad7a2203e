# SPDX-License-Identifier: Apache-2.0
"""The verified view of the database: nothing in it that the hash tree does not cover.

`Ledger.load` reads every row once, builds the tree and compares; afterwards a row that is read
again must still have the digest that the tree holds, so a file changed under a running manager is
noticed as well.

Changes are collected in a `Transaction`, an overlay in memory that later readers of the same
transaction see, and written by `Ledger.commit` as one SQLite transaction. The tree is immutable, so
a commit that fails leaves the ledger as it was.

Everything here blocks and must be called from one thread at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar
from uuid import UUID

import apsw

from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.vtpmmgr import envelope
from daemons.vtpmmgr.hashtree import EMPTY_ROOT, HashTree
from daemons.vtpmmgr.keyring import KeyRing
from daemons.vtpmmgr.records import (
    RECORD_TYPES,
    GroupRecord,
    MoveRecord,
    SealRecord,
    VtpmRecord,
)
from daemons.vtpmmgr.rows import BadRow, Record, SqlValue, describe, encode_row, tree_key
from daemons.vtpmmgr.staterecords import LocalTargetRecord
from daemons.vtpmmgr.store import CommitRow, RowChange, Store

R = TypeVar("R", bound=Record)

_COMMIT: Final = struct.Struct(">Q32s32s")
_NAMED_ROWS: Final = 5
"""A refusal names at most so many rows."""

_Slot = tuple[type[Record], bytes]


class Tampered(DaemonError):
    """A row changed in the file while the manager ran."""


class Ledger:
    """All records of one manager, at one commit.

    Args:
        store: the database.
        keys: of the manager.
        commit: the newest commit, verified.
        tree: over all rows; its root is the commit's.
    """

    def __init__(self, store: Store, keys: KeyRing, commit: CommitRow, tree: HashTree) -> None:
        self._store = store
        self.keys = keys
        self.newest = commit
        self._tree = tree
        # groups by number; few, read at each save
        self._groups: dict[int, GroupRecord] | None = None
        # the vTPMs of a group that was listed, until one comes or goes; a list is asked for page by
        # page, and finding its members reads every row
        self._members: dict[UUID, list[bytes]] = {}

    @classmethod
    def found(cls, store: Store, keys: KeyRing, records: Iterable[Record]) -> Ledger:
        """Write the first commit (sequence 1) of a new database, with its first records.

        Raises:
            DiskFull, CommitUncertain: as `Store.write`.
        """
        ledger = cls(store, keys, CommitRow(0, EMPTY_ROOT, EMPTY_ROOT, b""), HashTree())
        transaction = ledger.transaction()
        with transaction.attempt():
            for record in records:
                transaction.put(record)
        ledger.commit(transaction)
        return ledger

    @classmethod
    def load(cls, store: Store, keys: KeyRing) -> Ledger:
        """Verify every row of a database against its commit record.

        Raises:
            RefusedToStart: the commit record or a row is not as this manager wrote it; the message
                names which.
        """
        commit = store.commit_row()
        try:
            envelope.check_mac(keys.commit_key, _encode_commit(commit), commit.mac)
        except envelope.NotAuthentic:
            raise RefusedToStart(
                f"database {store.path}: the commit record (sequence {commit.sequence}) was not "
                f"written by manager {keys.manager}"
            ) from None
        try:
            tree = HashTree.build(_digests(store))
            difference = "" if tree.root == commit.root else _what_differs(store, keys, commit)
        except (BadRow, ValueError, apsw.Error) as error:
            raise RefusedToStart(f"database {store.path} is damaged: {error}") from error
        if difference:
            raise RefusedToStart(difference)
        return cls(store, keys, commit, tree)

    def get(self, kind: type[R], key: bytes) -> R | None:
        """Return the committed record with a primary key; None if there is none.

        Raises:
            Tampered: the row is not the one that was committed.
        """
        table = kind.TABLE
        expected = self._tree.get(tree_key(table, key))
        if expected is None:
            return None
        row = self._store.find(table, key)
        if row is None or hashlib.sha256(encode_row(table, row)).digest() != expected:
            raise Tampered(
                f"database {self._store.path}: {describe(table, key)} was changed from outside"
            )
        return kind.from_row(row)

    def group(self, number: int) -> GroupRecord | None:
        """Return the group with a number."""
        if self._groups is None:
            keys = [_key(row) for row, _ in self._store.scan(GroupRecord.TABLE)]
            found = [group for key in keys if (group := self.get(GroupRecord, key)) is not None]
            self._groups = {group.number: group for group in found}
        return self._groups.get(number)

    def groups(self) -> list[GroupRecord]:
        """Return all groups in the order of their numbers."""
        self.group(0)  # reads them all
        return [group for _, group in sorted((self._groups or {}).items())]

    def seals_of(self, scope: UUID) -> list[SealRecord]:
        """Return the seals of the root secret (scope: the manager) or of a group."""
        keys = self._store.keys_where(SealRecord.TABLE, "scope", scope.bytes)
        return [seal for key in keys if (seal := self.get(SealRecord, key)) is not None]

    def vtpms_of(self, group: UUID, page: slice = slice(None)) -> list[UUID]:
        """Return the uuids of a group's vTPMs, ascending; of a page of them."""
        return [UUID(bytes=key) for key in self._members_of(group)[page]]

    def number_of_vtpms(self, group: UUID) -> int:
        """Return how many vTPMs a group has."""
        return len(self._members_of(group))

    def _members_of(self, group: UUID) -> list[bytes]:
        found = self._members.get(group)
        if found is None:
            found = self._store.keys_where(VtpmRecord.TABLE, "group_uuid", group.bytes)
            self._members[group] = found
        return found

    def moves(self) -> list[UUID]:
        """Return the uuids of all vTPMs of which a move is noted, ascending."""
        return sorted([UUID(bytes=_key(row)) for row, _ in self._store.scan(MoveRecord.TABLE)])

    def local_targets(self) -> list[UUID]:
        """Return the uuids of all vTPMs whose state may go to another one here, ascending."""
        rows = self._store.scan(LocalTargetRecord.TABLE)
        return sorted([UUID(bytes=_key(row)) for row, _ in rows])

    @property
    def log_pages(self) -> int:
        """Pages in the database's log, waiting to be copied into its main file."""
        return self._store.log_pages

    def checkpoint(self, *, keep_room: bool = False) -> None:
        """Copy the log into the main file; DaemonError if that failed, nothing is lost then."""
        self._store.checkpoint(keep_room=keep_room)

    def make_durable(self) -> None:
        """Make sure that the newest commit is on disk, also if the flush of it once failed."""
        self._store.make_durable()

    def close(self) -> None:
        """Close the database; the log is copied first if the disk lets us."""
        with contextlib.suppress(DaemonError):
            self._store.checkpoint()
        self._store.close()

    def abandon(self) -> None:
        """Close the database and leave its files as they are."""
        self._store.close()

    def _with_new_macs(self, ring: KeyRing) -> Iterator[RowChange]:
        """Return every row as it is, with a MAC of other keys."""
        for kind in RECORD_TYPES:
            for row, _mac in list(self._store.scan(kind.TABLE)):
                key = _key(row)
                if self.get(kind, key) is not None:
                    new = envelope.mac(ring.row_key, encode_row(kind.TABLE, row))
                    yield RowChange(kind.TABLE, key, row, new)

    def transaction(self) -> Transaction:
        """Return an empty transaction on the newest commit."""
        return Transaction(self)

    def commit(self, transaction: Transaction, keys: KeyRing | None = None) -> CommitRow:
        """Make a transaction durable and the newest commit; all of it or nothing.

        Args:
            keys: new ones, from this commit on; every row then gets a new MAC.

        Raises:
            DiskFull: nothing changed, the ledger included.
            CommitUncertain: the process must end.
        """
        changes: list[RowChange] = []
        digests: dict[bytes, bytes | None] = {}
        ring = self.keys if keys is None else keys
        if ring.row_key != self.keys.row_key:
            changes += self._with_new_macs(ring)
        for (kind, key), record in transaction.changes():
            table, leaf = kind.TABLE, tree_key(kind.TABLE, key)
            if kind is VtpmRecord and (record is None or self._tree.get(leaf) is None):
                self._members.clear()
            if record is None:
                changes.append(RowChange(table, key, None))
                digests[leaf] = None
                continue
            row = record.row()
            encoded = encode_row(table, row)
            changes.append(RowChange(table, key, row, envelope.mac(ring.row_key, encoded)))
            digests[leaf] = hashlib.sha256(encoded).digest()
        tree = self._tree.with_changes(digests)
        unsigned = CommitRow(self.newest.sequence + 1, tree.root, self.newest.root, b"")
        mac = envelope.mac(ring.commit_key, _encode_commit(unsigned))
        commit = CommitRow(unsigned.sequence, unsigned.root, unsigned.predecessor, mac)
        self._store.write(changes, commit)
        self._tree, self.newest, self.keys = tree, commit, ring
        if any(change.table is GroupRecord.TABLE for change in changes):
            self._groups = None
        return commit


class Transaction:
    """Changes on top of a ledger, in memory until committed.

    Args:
        ledger: what lies below.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._overlay: dict[_Slot, Record | None] = {}
        # What the attempt under way changed, on top of the overlay.
        self._attempt: dict[_Slot, Record | None] = {}
        # A change of a group was at least attempted; false on the path of every save.
        self._groups_changed = False

    def __bool__(self) -> bool:
        return bool(self._overlay or self._attempt)

    @property
    def keys(self) -> KeyRing:
        """The manager's keys, for envelopes."""
        return self._ledger.keys

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Surround changes that are forgotten together if one of them raises."""
        try:
            yield
            self._overlay.update(self._attempt)
        finally:
            self._attempt = {}

    def get(self, kind: type[R], key: bytes) -> R | None:
        """Return a record as this transaction leaves it."""
        slot = kind, key
        for changed in (self._attempt, self._overlay):
            if slot in changed:
                record = changed[slot]
                return record if isinstance(record, kind) else None
        return self._ledger.get(kind, key)

    def group(self, number: int) -> GroupRecord | None:
        """Return the group with a number."""
        if not self._groups_changed:
            return self._ledger.group(number)
        changed = {key: record for (kind, key), record in self.changes() if kind is GroupRecord}
        for record in changed.values():
            if isinstance(record, GroupRecord) and record.number == number:
                return record
        group = self._ledger.group(number)
        return group if group is not None and group.uuid.bytes not in changed else None

    def groups(self) -> list[GroupRecord]:
        """Return all groups in the order of their numbers."""
        found = {group.uuid.bytes: group for group in self._ledger.groups()}
        for (kind, key), record in self.changes():
            if kind is GroupRecord:
                found.pop(key, None)
                if isinstance(record, GroupRecord):
                    found[key] = record
        return sorted(found.values(), key=lambda group: group.number)

    def seals_of(self, scope: UUID) -> list[SealRecord]:
        """Return the seals of the root secret (scope: the manager) or of a group."""
        found = {seal.identifier.bytes: seal for seal in self._ledger.seals_of(scope)}
        for (kind, key), record in self.changes():
            if kind is SealRecord:
                found.pop(key, None)
                if isinstance(record, SealRecord) and record.scope == scope:
                    found[key] = record
        return list(found.values())

    def vtpms_of(self, group: UUID) -> list[UUID]:
        """Return the uuids of a group's vTPMs, ascending."""
        found = set(self._ledger.vtpms_of(group))
        for (kind, key), record in self.changes():
            if kind is VtpmRecord:
                found.discard(UUID(bytes=key))
                if isinstance(record, VtpmRecord) and record.group == group:
                    found.add(record.uuid)
        return sorted(found)

    def moves(self) -> list[MoveRecord]:
        """Return the moves that are noted."""
        found = dict.fromkeys(uuid.bytes for uuid in self._ledger.moves())
        found.update((key, None) for (kind, key), _ in self.changes() if kind is MoveRecord)
        return [move for key in found if (move := self.get(MoveRecord, key)) is not None]

    def local_targets(self) -> list[LocalTargetRecord]:
        """Return which vTPMs' state may go to another one here."""
        found = dict.fromkeys(uuid.bytes for uuid in self._ledger.local_targets())
        found.update((key, None) for (kind, key), _ in self.changes() if kind is LocalTargetRecord)
        return [way for key in found if (way := self.get(LocalTargetRecord, key)) is not None]

    def put(self, record: Record) -> None:
        """Insert a record or replace the one with its key."""
        self._groups_changed |= isinstance(record, GroupRecord)
        self._attempt[type(record), _key(record.row())] = record

    def delete(self, kind: type[Record], key: bytes) -> None:
        """Remove a record."""
        self._groups_changed |= kind is GroupRecord
        self._attempt[kind, key] = None

    def changes(self) -> Iterator[tuple[_Slot, Record | None]]:
        """Return what changed, by kind and key; the attempt under way included."""
        yield from {**self._overlay, **self._attempt}.items()


def _encode_commit(commit: CommitRow) -> bytes:
    return _COMMIT.pack(commit.sequence, commit.root, commit.predecessor)


def _key(row: tuple[SqlValue, ...]) -> bytes:
    if not isinstance(row[0], bytes):
        raise BadRow("a primary key is not bytes")
    return row[0]


def _digests(store: Store) -> Iterator[tuple[bytes, bytes]]:
    for kind in RECORD_TYPES:
        for row, _ in store.scan(kind.TABLE):
            digest = hashlib.sha256(encode_row(kind.TABLE, row)).digest()
            yield tree_key(kind.TABLE, _key(row)), digest


def _what_differs(store: Store, keys: KeyRing, commit: CommitRow) -> str:
    """Name the rows that are not as written; if all are, say that their set is not."""
    foreign: list[str] = []
    for kind in RECORD_TYPES:
        for row, mac in store.scan(kind.TABLE):
            try:
                envelope.check_mac(keys.row_key, encode_row(kind.TABLE, row), mac)
            except envelope.NotAuthentic:
                foreign.append(describe(kind.TABLE, _key(row)))
    head = f"database {store.path} does not match its commit record (sequence {commit.sequence}): "
    if not foreign:
        return head + "rows are missing or come from an older copy"
    more = f" and {len(foreign) - _NAMED_ROWS} more" if len(foreign) > _NAMED_ROWS else ""
    return head + "changed: " + ", ".join(foreign[:_NAMED_ROWS]) + more
