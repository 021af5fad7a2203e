# SPDX-License-Identifier: Apache-2.0
"""Delegation (Part 3, 19), and the sessions that use it (18.3, 18.4)."""

from __future__ import annotations

import hmac

from protocol.tpm12.constants import AdipScheme, EntityType, Ordinal, ProtocolId
from protocol.tpm12.delegation import (
    DelegateKeyBlob,
    DelegateOwnerBlob,
    DelegatePublic,
    FamilyOperation,
    FamilyTableEntry,
)
from protocol.tpm12.records import record
from protocol.tpm12.wire import BOOL, SIZED, U16, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, Session, execute, nothing
from tpmcore.tss12.sessions import (
    encrypt_secret,
    osap_key,
    osap_owner,
    prove,
    with_optional_secret,
    with_secret,
)


def dsap(
    entity_type: EntityType,
    value: bytes,
    secret: bytes,
    *,
    random: RandomSource,
    key_handle: int = 0,
    adip: AdipScheme = AdipScheme.XOR,
) -> Conversation[Session]:
    """Open a session with delegated authority (18.3).

    Args:
        entity_type: DEL_ROW, DEL_OWNER_BLOB or DEL_KEY_BLOB.
        value: the blob, or the number of the row as u32.
        secret: of the delegation, 20 bytes.
        key_handle: the key of a key blob.
        adip: as in `osap`.
    """
    nonce_odd = random.random(20)

    def parse(reader: Reader) -> Session:
        handle = reader.u32()
        nonce_even = reader.take(20)
        shared = hmac.digest(secret, reader.take(20) + nonce_odd, "sha1")
        return Session(handle, ProtocolId.DSAP, nonce_even, shared)

    return execute(
        Ordinal.DSAP,
        parse,
        handles=U16.write(adip << 8 | entity_type) + U32.write(key_handle) + nonce_odd,
        parameters=SIZED.write(value),
    )


def dsap_row(row: int, secret: bytes, *, random: RandomSource) -> Conversation[Session]:
    """Open a session with what a row of the delegate table delegates."""
    return dsap(EntityType.DEL_ROW, U32.write(row), secret, random=random)


def set_owner_pointer(entity_type: int, value: int) -> Conversation[None]:
    """Let a delegate row (DEL_ROW, its number) stand for the owner, or the owner again (18.4)."""
    return execute(
        Ordinal.SET_OWNER_POINTER,
        nothing,
        parameters=U16.write(entity_type) + U32.write(value),
    )


def delegate_manage(
    family_id: int,
    operation: int,
    data: bytes,
    *,
    owner_auth: bytes | None = None,
    random: RandomSource | None = None,
    session: Session | None = None,
) -> Conversation[bytes]:
    """Work on a family (19.1); return what the TPM answers.

    Args:
        operation: a FamilyOperation.
        data: one byte: the label of a new family, or a boolean.
        owner_auth: None without an owner.
    """
    return with_optional_secret(
        Ordinal.DELEGATE_MANAGE,
        lambda reader: reader.sized("retData"),
        owner_auth,
        random=random,
        parameters=U32.write(family_id) + U32.write(operation) + SIZED.write(data),
        session=session,
    )


def create_family(
    label: int,
    *,
    owner_auth: bytes | None = None,
    random: RandomSource | None = None,
    enable: bool = True,
) -> Conversation[int]:
    """Make a family and return its id."""
    answer = yield from delegate_manage(
        0, FamilyOperation.CREATE, bytes([label]), owner_auth=owner_auth, random=random
    )
    family_id = Reader(answer).u32("familyID")
    if enable:
        yield from delegate_manage(
            family_id, FamilyOperation.ENABLE, b"\x01", owner_auth=owner_auth, random=random
        )
    return family_id


def create_key_delegation(
    key_handle: int,
    public: DelegatePublic,
    *,
    key_auth: bytes,
    delegate_auth: bytes,
    random: RandomSource,
    session: Session | None = None,
) -> Conversation[DelegateKeyBlob]:
    """Delegate commands of a key (19.2).

    Args:
        delegate_auth: secret of the delegation, 20 bytes.
        session: OSAP or DSAP on the key; None opens one.
    """
    if session is None:
        session = yield from osap_key(key_handle, key_auth, random=random)
    return (
        yield from execute(
            Ordinal.DELEGATE_CREATE_KEY_DELEGATION,
            lambda reader: DelegateKeyBlob.decode(reader.sized("blob")),
            handles=U32.write(key_handle),
            parameters=public.encode() + encrypt_secret(session, delegate_auth),
            auths=(prove(session, random),),
        )
    )


def create_owner_delegation(
    public: DelegatePublic,
    *,
    owner_auth: bytes,
    delegate_auth: bytes,
    random: RandomSource,
    increment: bool = False,
    session: Session | None = None,
) -> Conversation[DelegateOwnerBlob]:
    """Delegate commands of the owner (19.3).

    Args:
        delegate_auth: secret of the delegation, 20 bytes.
        increment: make all older delegations of the family stale.
        session: OSAP or DSAP on the owner; None opens one.
    """
    if session is None:
        session = yield from osap_owner(owner_auth, random=random)
    return (
        yield from execute(
            Ordinal.DELEGATE_CREATE_OWNER_DELEGATION,
            lambda reader: DelegateOwnerBlob.decode(reader.sized("blob")),
            parameters=BOOL.write(increment)
            + public.encode()
            + encrypt_secret(session, delegate_auth),
            auths=(prove(session, random),),
        )
    )


def load_owner_delegation(
    row: int,
    blob: DelegateOwnerBlob,
    *,
    owner_auth: bytes | None = None,
    random: RandomSource | None = None,
    session: Session | None = None,
) -> Conversation[None]:
    """Put an owner delegation into a row (19.4); without an owner its sensitive area is clear."""
    return with_optional_secret(
        Ordinal.DELEGATE_LOAD_OWNER_DELEGATION,
        nothing,
        owner_auth,
        random=random,
        parameters=U32.write(row) + SIZED.write(blob.encode()),
        session=session,
    )


@record
class DelegationTables:
    """What anybody may know of the tables; rows by number."""

    families: tuple[FamilyTableEntry, ...]
    rows: dict[int, DelegatePublic]


def read_delegation_tables() -> Conversation[DelegationTables]:
    """Return both tables (19.5)."""

    def parse(reader: Reader) -> DelegationTables:
        family_reader = Reader(reader.sized("familyTable"))
        families = []
        while family_reader.remaining:
            families.append(FamilyTableEntry.read(family_reader))
        row_reader = Reader(reader.sized("delegateTable"))
        rows = {}
        while row_reader.remaining:
            number = row_reader.u32("row")
            rows[number] = DelegatePublic.read(row_reader)
        return DelegationTables(tuple(families), rows)

    return execute(Ordinal.DELEGATE_READ_TABLE, parse)


def update_verification(
    data: bytes, *, owner_auth: bytes, random: RandomSource, session: Session | None = None
) -> Conversation[bytes]:
    """Bring a blob, or a row (its number as u32), up to its family's count (19.6).

    Returns: the new blob; nothing for a row.
    """
    return with_secret(
        Ordinal.DELEGATE_UPDATE_VERIFICATION,
        lambda reader: reader.sized("outputData"),
        owner_auth,
        random=random,
        parameters=SIZED.write(data),
        session=session,
    )


def verify_delegation(data: bytes) -> Conversation[None]:
    """Ask whether a blob could be used now (19.7)."""
    return execute(Ordinal.DELEGATE_VERIFY_DELEGATION, nothing, parameters=SIZED.write(data))
