# SPDX-License-Identifier: Apache-2.0
"""What the manager keeps: one dataclass for each table; `rows` says what a row is.

Secrets appear in a record only inside an envelope or a blob sealed by the hardware TPM.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self
from uuid import UUID

from daemons.vtpmmgr.rows import (
    UUID_BYTES,
    BadRow,
    Record,
    SqlValue,
    Table,
    as_blob,
    as_integer,
    as_uuid,
    columns_of,
)
from daemons.vtpmmgr.staterecords import (
    LocalTargetRecord,
    StateSecretRecord,
    StateTargetRecord,
)

MODULUS_BYTES: Final = 256
ADMIN_SUSPENDED: Final = 1
"""Flag of a vTPM that has no ADMIN right, whatever its entry in the configuration says."""
PCR_BYTES: Final = 20
PCR_COUNT: Final = 24


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
        uuid, ek_digest = columns_of(cls.TABLE, row)
        return cls(as_uuid(uuid), as_blob(ek_digest, hashlib.sha256().digest_size))


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
        uuid, number, wrapped_key = columns_of(cls.TABLE, row)
        return cls(as_uuid(uuid), as_integer(number), as_blob(wrapped_key))


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
        uuid, group, flags, data = columns_of(cls.TABLE, row)
        return cls(as_uuid(uuid), as_uuid(group), as_integer(flags), as_blob(data))


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
        identifier, scope, locality, packed, blob = columns_of(cls.TABLE, row)
        values = as_blob(packed)
        step = 1 + PCR_BYTES
        if len(values) % step or any(index >= PCR_COUNT for index in values[::step]):
            raise BadRow(f"seals: {len(values)} bytes are no list of PCR values")
        pcr_values = tuple(
            (values[at], values[at + 1 : at + step]) for at in range(0, len(values), step)
        )
        return cls(
            as_uuid(identifier), as_uuid(scope), as_integer(locality), pcr_values, as_blob(blob)
        )


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
            columns_of(cls.TABLE, row)
        )
        return cls(
            group=as_uuid(group),
            saa_modulus=as_blob(modulus, MODULUS_BYTES),
            aik=as_blob(aik),
            aik_auth=as_blob(auth),
            boot=as_blob(boot, UUID_BYTES),
            registered=as_integer(registered),
            config_list=as_blob(configs),
            config_signature=as_blob(signature),
            selections=as_blob(selections),
            recovery=as_blob(recovery),
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
        name, count_id, auth, value, retired = columns_of(cls.TABLE, row)
        if name != COUNTER_KEY:
            raise BadRow("counters: another row than the one that is used")
        return cls(as_integer(count_id), as_blob(auth), as_integer(value), as_integer(retired))


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
        group, key, auth, public_key, aik_modulus, release = columns_of(cls.TABLE, row)
        return cls(
            group=as_uuid(group),
            key=as_blob(key),
            auth=as_blob(auth),
            public_key=as_blob(public_key),
            aik_modulus=as_blob(aik_modulus, MODULUS_BYTES),
            release=as_blob(release),
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
        uuid, group, state, identifier, peer, secret, message = columns_of(cls.TABLE, row)
        return cls(
            uuid=as_uuid(uuid),
            group=as_uuid(group),
            state=as_integer(state),
            identifier=as_uuid(identifier),
            peer=as_uuid(peer),
            secret=as_blob(secret),
            message=as_blob(message),
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
    StateSecretRecord,
    StateTargetRecord,
    LocalTargetRecord,
)
"""All tables that the hash tree covers."""
