# SPDX-License-Identifier: Apache-2.0
"""Taking keys to another TPM (Part 3, 11.1 to 11.4)."""

from __future__ import annotations

from protocol.tpm12.constants import MigrationScheme, Ordinal
from protocol.tpm12.keys import PubKey
from protocol.tpm12.migration import MigrationKeyAuth
from protocol.tpm12.records import record
from protocol.tpm12.wire import SIZED, U16, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation
from tpmcore.tss12.sessions import with_optional_secret, with_secret, with_secrets


@record(repr=False)
class MigrationBlob:
    """A key on its way.

    Attributes:
        random: what masks it; to be sent apart from the blob. Empty if it was rewrapped.
        data: encrypted for the destination or the migration authority.
    """

    random: bytes
    data: bytes


def read_blob(reader: Reader) -> MigrationBlob:
    """Parse the response parameters of the commands that make a blob."""
    return MigrationBlob(reader.sized(), reader.sized())


def authorize_migration_key(
    scheme: MigrationScheme, key: PubKey, *, owner_auth: bytes, random: RandomSource
) -> Conversation[MigrationKeyAuth]:
    """Have the owner permit migration to a public key (11.3)."""
    return with_secret(
        Ordinal.AUTHORIZE_MIGRATION_KEY,
        MigrationKeyAuth.read,
        owner_auth,
        random=random,
        parameters=U16.write(scheme) + key.encode(),
    )


def create_migration_blob(
    parent_handle: int,
    enc_data: bytes,
    *,
    scheme: MigrationScheme,
    permission: MigrationKeyAuth,
    parent_auth: bytes | None,
    migration_auth: bytes,
    random: RandomSource,
) -> Conversation[MigrationBlob]:
    """Give out a wrapped key (11.1).

    Args:
        enc_data: encData of the key, which needs not be loaded.
        scheme: MIGRATE, or REWRAP for encData that loads below the destination as it is.
        parent_auth: None if the parent needs none.
    """
    handles = U32.write(parent_handle)
    parameters = U16.write(scheme) + permission.encode() + SIZED.write(enc_data)
    ordinal = Ordinal.CREATE_MIGRATION_BLOB
    if parent_auth is None:
        return with_secret(
            ordinal,
            read_blob,
            migration_auth,
            random=random,
            handles=handles,
            parameters=parameters,
        )
    return with_secrets(
        ordinal,
        read_blob,
        (parent_auth, migration_auth),
        random=random,
        handles=handles,
        parameters=parameters,
    )


def convert_migration_blob(
    parent_handle: int,
    blob: MigrationBlob,
    *,
    parent_auth: bytes | None,
    random: RandomSource | None = None,
) -> Conversation[bytes]:
    """Take in a key that came for a storage key of this TPM (11.2).

    Returns: encData for the key's public part.
    """
    return with_optional_secret(
        Ordinal.CONVERT_MIGRATION_BLOB,
        Reader.sized,
        parent_auth,
        random=random,
        handles=U32.write(parent_handle),
        parameters=SIZED.write(blob.data) + SIZED.write(blob.random),
    )


def migrate_key(
    authority_handle: int,
    destination: PubKey,
    data: bytes,
    *,
    authority_auth: bytes | None,
    random: RandomSource | None = None,
) -> Conversation[bytes]:
    """Pass a blob on to its destination with the key of a migration authority (11.4).

    Args:
        data: of a MigrationBlob, encrypted for the authority.

    Returns: the same, encrypted for the destination.
    """
    return with_optional_secret(
        Ordinal.MIGRATE_KEY,
        Reader.sized,
        authority_auth,
        random=random,
        handles=U32.write(authority_handle),
        parameters=destination.encode() + SIZED.write(data),
    )
