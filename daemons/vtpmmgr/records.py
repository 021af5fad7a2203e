# SPDX-License-Identifier: Apache-2.0
"""What the manager keeps: one dataclass for each table.

A record's row is what SQLite stores and what the hash tree covers: its digest is SHA-256 over the
table's name and all values in column order, each with type and length, so no two different rows
have one encoding. Secrets appear in a record only inside an envelope or a blob sealed by the
hardware TPM.

Rows come from a file that somebody may have changed: `from_row` checks type and size of each value
and raises BadRow.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Protocol, Self
from uuid import UUID

SqlValue = int | bytes

_SIZE: Final = struct.Struct(">I")
_INTEGER: Final = struct.Struct(">q")

UUID_BYTES: Final = 16
MODULUS_BYTES: Final = 256
ADMIN_SUSPENDED: Final = 1
"""Flag of a vTPM that has no ADMIN right, whatever its entry in the configuration says."""
PCR_BYTES: Final = 20
PCR_COUNT: Final = 24


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


@dataclass(frozen=True, slots=True)
class ManagerRecord:
    """The one row that says whose database this is.

    Attributes:
        uuid: of this manager; part of every envelope's identity.
        ek_digest: SHA-256 of the modulus of the hardware TPM's endorsement key; names the chip in
            refusals.
    """

    TABLE: ClassVar[Table] = Table("manager", (("uuid", "BLOB"), ("ek_digest", "BLOB")))

    uuid: UUID
    ek_digest: bytes

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order."""
        return self.uuid.bytes, self.ek_digest

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record; BadRow if the row cannot be one."""
        uuid, ek_digest = _columns(cls.TABLE, row)
        return cls(_uuid(uuid), _blob(ek_digest, hashlib.sha256().digest_size))


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A group of vTPMs.

    Attributes:
        uuid: random.
        number: position by which commands name it; group 0 takes vTPMs that create themselves.
        wrapped_key: envelope of the group key, under the manager key and, once the group's agent
            approved configurations, a secret that the hardware TPM seals to each of them.
    """

    TABLE: ClassVar[Table] = Table(
        "groups", (("uuid", "BLOB"), ("number", "INTEGER"), ("wrapped_key", "BLOB"))
    )

    uuid: UUID
    number: int
    wrapped_key: bytes

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order."""
        return self.uuid.bytes, self.number, self.wrapped_key

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record; BadRow if the row cannot be one."""
        uuid, number, wrapped_key = _columns(cls.TABLE, row)
        return cls(_uuid(uuid), _integer(number), _blob(wrapped_key))


@dataclass(frozen=True, slots=True)
class VtpmRecord:
    """A vTPM.

    Attributes:
        uuid: its name.
        group: uuid of its group.
        flags: ADMIN_SUSPENDED or 0.
        data: envelope of the 64 bytes of key data, under the group key.
    """

    TABLE: ClassVar[Table] = Table(
        "vtpms", (("uuid", "BLOB"), ("group_uuid", "BLOB"), ("flags", "INTEGER"), ("data", "BLOB"))
    )

    uuid: UUID
    group: UUID
    flags: int
    data: bytes

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order."""
        return self.uuid.bytes, self.group.bytes, self.flags, self.data

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record; BadRow if the row cannot be one."""
        uuid, group, flags, data = _columns(cls.TABLE, row)
        return cls(_uuid(uuid), _uuid(group), _integer(flags), _blob(data))


@dataclass(frozen=True, slots=True)
class SealRecord:
    """A secret sealed by the hardware TPM to one platform configuration.

    Attributes:
        identifier: random, 16 bytes.
        scope: uuid of the manager for the root secret, of a group for that group's secret.
        locality: at which the hardware TPM gives it back.
        pcr_values: PCRs it is sealed to and their values, as far as known: of a configuration that
            was approved before it was ever booted only the composite hash is. Only says which PCR
            differs; what binds is in `blob`.
        blob: TPM_STORED_DATA12.
    """

    TABLE: ClassVar[Table] = Table(
        "seals",
        (
            ("identifier", "BLOB"),
            ("scope", "BLOB"),
            ("locality", "INTEGER"),
            ("pcr_values", "BLOB"),
            ("blob", "BLOB"),
        ),
    )

    identifier: UUID
    scope: UUID
    locality: int
    pcr_values: tuple[tuple[int, bytes], ...]
    blob: bytes

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order; a PCR is its index (1 byte) and its value."""
        values = b"".join(bytes([index]) + value for index, value in self.pcr_values)
        return self.identifier.bytes, self.scope.bytes, self.locality, values, self.blob

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record; BadRow if the row cannot be one."""
        identifier, scope, locality, packed, blob = _columns(cls.TABLE, row)
        values = _blob(packed)
        step = 1 + PCR_BYTES
        if len(values) % step or any(index >= PCR_COUNT for index in values[::step]):
            raise BadRow(f"seals: {len(values)} bytes are no list of PCR values")
        pcr_values = tuple(
            (values[at], values[at + 1 : at + step]) for at in range(0, len(values), step)
        )
        return cls(_uuid(identifier), _uuid(scope), _integer(locality), pcr_values, _blob(blob))


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """Who decides about a group, and what was decided. A stub group has none.

    Attributes:
        group: uuid of the group.
        saa_modulus: of the System Approval Agent's RSA key, 256 bytes.
        aik: the group's attestation identity key as the hardware TPM wrapped it (TPM_KEY).
        aik_auth: envelope of the secret to use it, under the group key.
        boot: of the system in which the group was made, 16 bytes; it can be registered in that one
            only.
        registered: 1 once the agent has the group's secret.
        config_list: encoded CFG_LIST in force; sequence 0 is the empty one of the beginning.
        config_signature: of the agent over it; empty for the empty list.
        selections: encoded TPM_PCR_SELECTION of each configuration.
        recovery: for group 0, envelope of the root secret under the group key, so that who recovers
            the group recovers the manager; else empty.
    """

    TABLE: ClassVar[Table] = Table(
        "policies",
        (
            ("group_uuid", "BLOB"),
            ("saa_modulus", "BLOB"),
            ("aik", "BLOB"),
            ("aik_auth", "BLOB"),
            ("boot", "BLOB"),
            ("registered", "INTEGER"),
            ("config_list", "BLOB"),
            ("config_signature", "BLOB"),
            ("selections", "BLOB"),
            ("recovery", "BLOB"),
        ),
        since=2,
    )

    group: UUID
    saa_modulus: bytes
    aik: bytes
    aik_auth: bytes
    boot: bytes
    registered: int
    config_list: bytes
    config_signature: bytes
    selections: bytes
    recovery: bytes

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order."""
        return (
            self.group.bytes,
            self.saa_modulus,
            self.aik,
            self.aik_auth,
            self.boot,
            self.registered,
            self.config_list,
            self.config_signature,
            self.selections,
            self.recovery,
        )

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record; BadRow if the row cannot be one."""
        group, modulus, aik, auth, boot, registered, configs, signature, selections, recovery = (
            _columns(cls.TABLE, row)
        )
        return cls(
            group=_uuid(group),
            saa_modulus=_blob(modulus, MODULUS_BYTES),
            aik=_blob(aik),
            aik_auth=_blob(auth),
            boot=_blob(boot, UUID_BYTES),
            registered=_integer(registered),
            config_list=_blob(configs),
            config_signature=_blob(signature),
            selections=_blob(selections),
            recovery=_blob(recovery),
        )


COUNTER_KEY: Final = b"counter"


@dataclass(frozen=True, slots=True)
class CounterRecord:
    """The one row that binds the database to a monotonic counter of the hardware TPM.

    Attributes:
        count_id: which counter.
        auth: envelope of the secret to increment it, under the manager key.
        value: of the counter, from which on this database counts.
        retired: 1 if another counter is to take its place. A chip increments one in each of its
            starts, so that waits for a start of the manager after a start of the chip.
    """

    TABLE: ClassVar[Table] = Table(
        "counters",
        (
            ("name", "BLOB"),
            ("count_id", "INTEGER"),
            ("auth", "BLOB"),
            ("value", "INTEGER"),
            ("retired", "INTEGER"),
        ),
        since=2,
    )

    count_id: int
    auth: bytes
    value: int
    retired: int = 0

    def at(self, value: int) -> CounterRecord:
        """Return the record with another value."""
        return replace(self, value=value)

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order; the primary key is a constant."""
        return COUNTER_KEY, self.count_id, self.auth, self.value, self.retired

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record; BadRow if the row cannot be one."""
        name, count_id, auth, value, retired = _columns(cls.TABLE, row)
        if name != COUNTER_KEY:
            raise BadRow("counters: another row than the one that is used")
        return cls(_integer(count_id), _blob(auth), _integer(value), _integer(retired))


@dataclass(frozen=True, slots=True)
class TransportKeyRecord:
    """The key to which others encrypt the vTPMs that they move into a group.

    Attributes:
        group: uuid of the group.
        key: as the hardware TPM wrapped it.
        auth: envelope of the secret to use it, under the group key.
        public_key: TPM_PUBKEY.
        aik_modulus: of the group's attestation identity key, 256 bytes.
        release: encoded TPM_PCR_SELECTION and the composite hash with which the key is used.
    """

    TABLE: ClassVar[Table] = Table(
        "transport_keys",
        (
            ("group_uuid", "BLOB"),
            ("key", "BLOB"),
            ("auth", "BLOB"),
            ("public_key", "BLOB"),
            ("aik_modulus", "BLOB"),
            ("release", "BLOB"),
        ),
        since=2,
    )

    group: UUID
    key: bytes
    auth: bytes
    public_key: bytes
    aik_modulus: bytes
    release: bytes

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order."""
        return (
            self.group.bytes,
            self.key,
            self.auth,
            self.public_key,
            self.aik_modulus,
            self.release,
        )

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record; BadRow if the row cannot be one."""
        group, key, auth, public_key, aik_modulus, release = _columns(cls.TABLE, row)
        return cls(
            group=_uuid(group),
            key=_blob(key),
            auth=_blob(auth),
            public_key=_blob(public_key),
            aik_modulus=_blob(aik_modulus, MODULUS_BYTES),
            release=_blob(release),
        )


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """A vTPM that is on its way to another manager or from one, or that once was.

    Attributes:
        uuid: of the vTPM.
        group: uuid of its group here.
        state: number of a MoveState.
        identifier: of the move.
        peer: uuid of the other manager.
        secret: envelope under the group key of the contents of the package and, of one that is
            arriving, the challenge; empty in the other states.
        message: what is said again when it is asked for again: the package of one that is leaving,
            the receipt for which one is gone, and behind it the release.
    """

    TABLE: ClassVar[Table] = Table(
        "moves",
        (
            ("uuid", "BLOB"),
            ("group_uuid", "BLOB"),
            ("state", "INTEGER"),
            ("identifier", "BLOB"),
            ("peer", "BLOB"),
            ("secret", "BLOB"),
            ("message", "BLOB"),
        ),
        since=2,
    )

    uuid: UUID
    group: UUID
    state: int
    identifier: UUID
    peer: UUID
    secret: bytes
    message: bytes

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order."""
        return (
            self.uuid.bytes,
            self.group.bytes,
            self.state,
            self.identifier.bytes,
            self.peer.bytes,
            self.secret,
            self.message,
        )

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record; BadRow if the row cannot be one."""
        uuid, group, state, identifier, peer, secret, message = _columns(cls.TABLE, row)
        return cls(
            uuid=_uuid(uuid),
            group=_uuid(group),
            state=_integer(state),
            identifier=_uuid(identifier),
            peer=_uuid(peer),
            secret=_blob(secret),
            message=_blob(message),
        )


RECORD_TYPES: Final[tuple[type[Record], ...]] = (
    ManagerRecord,
    GroupRecord,
    VtpmRecord,
    SealRecord,
    PolicyRecord,
    CounterRecord,
    TransportKeyRecord,
    MoveRecord,
)
"""All tables that the hash tree covers."""


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


def _columns(table: Table, row: tuple[SqlValue, ...]) -> tuple[SqlValue, ...]:
    if len(row) != len(table.columns):
        raise BadRow(f"{table.name}: {len(row)} values, {len(table.columns)} columns")
    return row


def _blob(value: SqlValue, size_bytes: int | None = None) -> bytes:
    if not isinstance(value, bytes) or size_bytes not in (None, len(value)):
        raise BadRow(f"a value is not {size_bytes or 'any number of'} bytes")
    return value


def _uuid(value: SqlValue) -> UUID:
    return UUID(bytes=_blob(value, UUID_BYTES))


def _integer(value: SqlValue) -> int:
    if not isinstance(value, int):
        raise BadRow("a value is not an integer")
    return value
