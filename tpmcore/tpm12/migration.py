# SPDX-License-Identifier: Apache-2.0
"""Migration (Part 3, 11.1 to 11.4): taking a key to another TPM with the consent of the TPM's owner
and of whoever knows the key's migration secret."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Annotated, Final

from protocol.tpm12.constants import (
    EncScheme,
    KeyUsage,
    MigrationScheme,
    Ordinal,
    PayloadType,
    ReturnCode,
)
from protocol.tpm12.keys import PubKey, StoreAsymKey
from protocol.tpm12.migration import MigrationKeyAuth
from protocol.tpm12.records import record
from protocol.tpm12.wire import SIZED, U16, U32, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12 import foreignkeys
from tpmcore.tpm12.command import AUTH0_OR_1, AUTH1, AUTH1_OR_2, Command, Gate
from tpmcore.tpm12.context import OIAP_ONLY, Context, Entity
from tpmcore.tpm12.migrationblob import encode_inner, open_blob, unwrap_store
from tpmcore.tpm12.primitives import xor
from tpmcore.tpm12.rsa import RsaError
from tpmcore.tpm12.state import EntityKind
from tpmcore.tpm12.storage import require_storage_key
from tpmcore.tpm12.tpm import Tpm


def _permission_digest(tpm: Tpm, key: PubKey, scheme: int) -> bytes:
    """Return the digest of a TPM_MIGRATIONKEYAUTH of this TPM and owner."""
    return hashlib.sha1(key.encode() + U16.write(scheme) + tpm.permanent.tpm_proof).digest()


def check_permission(tpm: Tpm, permission: MigrationKeyAuth) -> None:
    """Require that the owner made a TPM_MIGRATIONKEYAUTH.

    Raises:
        TpmError: MIGRATEFAIL.
    """
    expected = _permission_digest(tpm, permission.migration_key, permission.migration_scheme)
    if not hmac.compare_digest(expected, permission.digest):
        raise TpmError(ReturnCode.MIGRATEFAIL)


@record
class MigrationBlobResponse(Structure):
    """random sized, outData sized."""

    random: Annotated[bytes, SIZED]
    out_data: Annotated[bytes, SIZED]


def migration_blob(
    tpm: Tpm, key: PubKey, store: StoreAsymKey, payload: PayloadType, p_hash: bytes
) -> MigrationBlobResponse:
    """Mask a key and encrypt it for a public key (4.9.2 of the engine reference).

    Raises:
        TpmError: ENCRYPT_ERROR and the others of `foreignkeys.encrypt`.
    """
    inner = encode_inner(store, payload, p_hash)
    random = tpm.random(len(inner))
    return MigrationBlobResponse(random, foreignkeys.encrypt(key, xor(inner, random)))


@record
class CreateMigrationBlobRequest(Structure):
    """parentHandle u32, migrationType u16, migrationKeyAuth, encData sized."""

    parent_handle: Annotated[int, U32]
    migration_type: Annotated[int, U16]
    migration_key_auth: MigrationKeyAuth
    enc_data: Annotated[bytes, SIZED]


def create_migration_blob(
    ctx: Context, request: CreateMigrationBlobRequest
) -> MigrationBlobResponse:
    """Give out a key for another TPM, or encrypt it for another parent (11.1).

    A key that is not migratable does not pass: its migration secret is tpmProof, which nobody
    knows.
    """
    parent = ctx.key(request.parent_handle)
    ctx.authorize_key_if_present(0, parent, present=ctx.auth_count == 2)
    require_storage_key(parent)
    store = unwrap_store(parent, request.enc_data)
    if store.payload != PayloadType.ASYM:
        raise TpmError(ReturnCode.BAD_MIGRATION)
    entity = Entity(EntityKind.DATA, store.migration_auth)
    ctx.authorize(ctx.auth_count - 1, entity, OIAP_ONLY)
    permission = request.migration_key_auth
    check_permission(ctx.tpm, permission)
    destination = permission.migration_key
    if request.migration_type == MigrationScheme.MIGRATE:
        return migration_blob(
            ctx.tpm, destination, store, PayloadType.MIGRATE, store.migration_auth
        )
    if request.migration_type == MigrationScheme.REWRAP:
        return MigrationBlobResponse(b"", foreignkeys.encrypt(destination, store.encode()))
    raise TpmError(ReturnCode.BAD_PARAMETER)


@record
class ConvertMigrationBlobRequest(Structure):
    """parentHandle u32, inData sized, random sized."""

    parent_handle: Annotated[int, U32]
    in_data: Annotated[bytes, SIZED]
    random: Annotated[bytes, SIZED]


@record
class OutDataResponse(Structure):
    """outData sized."""

    out_data: Annotated[bytes, SIZED]


def convert_migration_blob(ctx: Context, request: ConvertMigrationBlobRequest) -> OutDataResponse:
    """Make of an arrived key one that can be loaded below a storage key of this TPM (11.2)."""
    parent = ctx.key(request.parent_handle)
    ctx.authorize_key_if_present(0, parent, present=ctx.auth_count == 1)
    require_storage_key(parent)
    store = open_blob(parent, request.in_data, request.random)
    if store.payload != PayloadType.MIGRATE:
        raise TpmError(ReturnCode.BAD_MIGRATION)
    # pHash is the migration secret that the key had where it came from.
    loadable = replace(store, payload=PayloadType.ASYM)
    # It is shorter than the blob that this key decrypted, so it fits.
    return OutDataResponse(parent.private.encrypt_oaep(loadable.encode()))


@record
class AuthorizeMigrationKeyRequest(Structure):
    """migrationScheme u16, migrationKey TPM_PUBKEY."""

    migration_scheme: Annotated[int, U16]
    migration_key: PubKey


@record
class AuthorizeMigrationKeyResponse(Structure):
    """outData TPM_MIGRATIONKEYAUTH."""

    out_data: MigrationKeyAuth


def authorize_migration_key(
    ctx: Context, request: AuthorizeMigrationKeyRequest
) -> AuthorizeMigrationKeyResponse:
    """Have the owner say that keys may migrate to a public key (11.3)."""
    key = request.migration_key
    foreignkeys.check_strength(key)
    ctx.authorize_owner()
    if key.algorithm_parms.enc_scheme != EncScheme.RSAESOAEP_SHA1_MGF1:
        raise TpmError(ReturnCode.INAPPROPRIATE_ENC)
    scheme = request.migration_scheme
    digest = _permission_digest(ctx.tpm, key, scheme)
    return AuthorizeMigrationKeyResponse(MigrationKeyAuth(key, scheme, digest))


@record
class MigrateKeyRequest(Structure):
    """maKeyHandle u32, pubKey TPM_PUBKEY, inData sized."""

    ma_key_handle: Annotated[int, U32]
    pub_key: PubKey
    in_data: Annotated[bytes, SIZED]


def migrate_key(ctx: Context, request: MigrateKeyRequest) -> OutDataResponse:
    """Pass a migration blob on, as a migration authority: only the outer wrapper changes (11.4).

    That the authority's key encrypts with OAEP needs no check: no other key of this usage loads.
    """
    authority = ctx.key(request.ma_key_handle)
    ctx.authorize_key_if_present(0, authority, present=ctx.auth_count == 1)
    if authority.public.key_usage != KeyUsage.MIGRATE:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    try:
        masked = authority.private.decrypt_oaep(request.in_data)
    except RsaError as error:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from error
    return OutDataResponse(foreignkeys.encrypt(request.pub_key, masked))


COMMANDS: Final = (
    Command(
        Ordinal.CREATE_MIGRATION_BLOB,
        source="3:11.1",
        auth_blocks=AUTH1_OR_2,
        gate=Gate.OPERATIONAL,
        request=CreateMigrationBlobRequest,
        response=MigrationBlobResponse,
        handler=create_migration_blob,
        handles_in=4,
        key_bit=9,
        audited=True,
    ),
    Command(
        Ordinal.CONVERT_MIGRATION_BLOB,
        source="3:11.2",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=ConvertMigrationBlobRequest,
        response=OutDataResponse,
        handler=convert_migration_blob,
        handles_in=4,
        volatile=False,
        key_bit=8,
        audited=True,
    ),
    Command(
        Ordinal.AUTHORIZE_MIGRATION_KEY,
        source="3:11.3",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=AuthorizeMigrationKeyRequest,
        response=AuthorizeMigrationKeyResponse,
        handler=authorize_migration_key,
        owner_bit=22,
        audited=True,
    ),
    Command(
        Ordinal.MIGRATE_KEY,
        source="3:11.4",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=MigrateKeyRequest,
        response=OutDataResponse,
        handler=migrate_key,
        handles_in=4,
        volatile=False,
        key_bit=23,
    ),
)
