# SPDX-License-Identifier: Apache-2.0
"""Certified migratable keys (Part 3, 11.5 to 11.10)."""

from __future__ import annotations

from protocol.tpm12.constants import MigrationScheme, Ordinal
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.migration import CmkAuth, MigrationKeyAuth, MsaComposite
from protocol.tpm12.records import record
from protocol.tpm12.wire import SIZED, U16, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, execute, nothing
from tpmcore.tss12.migration import MigrationBlob, read_blob
from tpmcore.tss12.sessions import encrypt_secret, osap_key, prove, with_secret


def _digest(reader: Reader) -> bytes:
    return reader.take(20, "outData")


def cmk_set_restrictions(
    restriction: int, *, owner_auth: bytes, random: RandomSource
) -> Conversation[None]:
    """Say which certified migratable keys may be delegated (11.5): bits of TPM_CMK_DELEGATE."""
    return with_secret(
        Ordinal.CMK_SET_RESTRICTIONS,
        nothing,
        owner_auth,
        random=random,
        parameters=U32.write(restriction),
    )


def cmk_approve_ma(
    authorities: MsaComposite, *, owner_auth: bytes, random: RandomSource
) -> Conversation[bytes]:
    """Have the owner accept a list of authorities; returns the approval, 20 bytes (11.6)."""
    return with_secret(
        Ordinal.CMK_APPROVE_MA,
        _digest,
        owner_auth,
        random=random,
        parameters=authorities.digest(),
    )


def cmk_create_key(
    parent_handle: int,
    key_info: Key,
    *,
    authorities: MsaComposite,
    approval: bytes,
    parent_auth: bytes,
    usage_auth: bytes,
    random: RandomSource,
) -> Conversation[Key]:
    """Make a key whose migration the authorities control (11.7).

    Args:
        key_info: a TPM_KEY12 with the flags migratable and migrateAuthority.
        approval: what cmk_approve_ma returned for the same authorities.
    """
    session = yield from osap_key(parent_handle, parent_auth, random=random)
    return (
        yield from execute(
            Ordinal.CMK_CREATE_KEY,
            Key.read,
            handles=U32.write(parent_handle),
            parameters=encrypt_secret(session, usage_auth)
            + key_info.encode()
            + approval
            + authorities.digest(),
            auths=(prove(session, random),),
        )
    )


def cmk_create_ticket(
    key: PubKey, digest: bytes, signature: bytes, *, owner_auth: bytes, random: RandomSource
) -> Conversation[bytes]:
    """Show the TPM a signature; returns the ticket that it saw it, 20 bytes (11.8).

    Args:
        digest: what was signed, 20 bytes; of a TPM_CMK_AUTH if the ticket is for a migration.
    """
    return with_secret(
        Ordinal.CMK_CREATE_TICKET,
        _digest,
        owner_auth,
        random=random,
        parameters=key.encode() + digest + SIZED.write(signature),
    )


@record
class Ticket:
    """An authority's word on one migration, and a TPM's that the authority signed it."""

    restrict: CmkAuth
    signature: bytes


def cmk_create_blob(
    parent_handle: int,
    key: Key,
    *,
    permission: MigrationKeyAuth,
    authorities: MsaComposite,
    ticket: Ticket | None,
    parent_auth: bytes,
    random: RandomSource,
) -> Conversation[MigrationBlob]:
    """Give out a certified migratable key (11.9).

    Args:
        permission: for the key of an authority (RESTRICT_MIGRATE), or for the destination that the
            ticket names (RESTRICT_APPROVE).
        ticket: only with RESTRICT_APPROVE.
    """
    if ticket is None:
        tickets = SIZED.write(b"") + SIZED.write(b"")
        scheme = MigrationScheme.RESTRICT_MIGRATE
    else:
        tickets = SIZED.write(ticket.restrict.encode()) + SIZED.write(ticket.signature)
        scheme = MigrationScheme.RESTRICT_APPROVE
    return with_secret(
        Ordinal.CMK_CREATE_BLOB,
        read_blob,
        parent_auth,
        random=random,
        handles=U32.write(parent_handle),
        parameters=U16.write(scheme)
        + permission.encode()
        + key.public_key.digest()
        + SIZED.write(authorities.encode())
        + tickets
        + SIZED.write(key.enc_data),
    )


def cmk_convert_migration(
    parent_handle: int,
    key: Key,
    *,
    mask: bytes,
    authorities: MsaComposite,
    ticket: Ticket,
    parent_auth: bytes,
    random: RandomSource,
) -> Conversation[bytes]:
    """Take in a certified migratable key (11.10).

    Args:
        key: its encData is the data of the migration blob, as encrypted for this parent.
        mask: `random` of the migration blob.
        ticket: made by this TPM.

    Returns: encData for the key's public part.
    """
    return with_secret(
        Ordinal.CMK_CONVERT_MIGRATION,
        Reader.sized,
        parent_auth,
        random=random,
        handles=U32.write(parent_handle),
        parameters=ticket.restrict.encode()
        + ticket.signature
        + key.encode()
        + SIZED.write(authorities.encode())
        + SIZED.write(mask),
    )
