# SPDX-License-Identifier: Apache-2.0
"""Storage functions (Part 3, chapter 10): sealing, binding, creating and loading keys.

Also LoadKey, the deprecated form of LoadKey2 (chapter 27).
"""

from __future__ import annotations

from typing import Annotated, Final

from protocol.tpm12.constants import (
    EncScheme,
    KeyFlags,
    KeyUsage,
    Ordinal,
    ReservedHandle,
    ReturnCode,
)
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.pcr import PcrInfoLong, release_of
from protocol.tpm12.records import record
from protocol.tpm12.stored import BoundData, StoredData
from protocol.tpm12.wire import DIGEST, SIZED, U32, Structure
from tpmcore.engine import Duration
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH0_OR_1, AUTH1, AUTH1_OR_2, Command, Gate
from tpmcore.tpm12.context import OIAP_ONLY, OSAP_ONLY, Context, Entity
from tpmcore.tpm12.keyblob import check_key_properties, check_loadable, create_key, unwrap, wrapped
from tpmcore.tpm12.parsing import decode_plaintext
from tpmcore.tpm12.rsa import RsaError
from tpmcore.tpm12.sealing import (
    crypt_session_data,
    open_sealed,
    read_seal_info,
    seal_blob,
    sealx_entity_type,
)
from tpmcore.tpm12.state import EntityKind, KeyBody, LoadedKey

MADE_OTHERWISE: Final = frozenset({KeyUsage.IDENTITY, KeyUsage.AUTHCHANGE})
"""Usages of keys that have commands of their own."""
_BINDING_USAGES: Final = frozenset({KeyUsage.BIND, KeyUsage.LEGACY})


def require_storage_key(key: KeyBody) -> None:
    """Require that a key may be a parent.

    Raises:
        TpmError: INVALID_KEYUSAGE.
    """
    if key.public.key_usage != KeyUsage.STORAGE:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)


def _require_sealing_key(key: KeyBody) -> None:
    require_storage_key(key)
    if key.is_migratable:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)


@record(repr=False)
class SealRequest(Structure):
    """keyHandle u32, encAuth 20, pcrInfo sized, inData sized."""

    key_handle: Annotated[int, U32]
    enc_auth: Annotated[bytes, DIGEST]
    pcr_info: Annotated[bytes, SIZED]
    in_data: Annotated[bytes, SIZED]


@record
class SealResponse(Structure):
    """sealedData."""

    sealed_data: StoredData


def seal(ctx: Context, request: SealRequest) -> SealResponse:
    """Encrypt data so that only this TPM gives it out, and only in a given state (10.1)."""
    return _seal(ctx, request, encrypted=False)


def sealx(ctx: Context, request: SealRequest) -> SealResponse:
    """Seal data that comes encrypted and will be given out encrypted (10.7)."""
    return _seal(ctx, request, encrypted=True)


def _seal(ctx: Context, request: SealRequest, *, encrypted: bool) -> SealResponse:
    key = ctx.key(request.key_handle)
    ctx.authorize_key(0, key, OSAP_ONLY)
    if not request.in_data:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    _require_sealing_key(key)
    info = read_seal_info(request.pcr_info, long_only=encrypted)
    auth_data = ctx.decrypt_secret(0, request.enc_auth)
    blob = StoredData(isinstance(info, PcrInfoLong), 0, info)
    data = request.in_data
    if encrypted:
        scheme = ctx.session_of(0).adip
        blob = StoredData(True, sealx_entity_type(scheme), info)
        data = crypt_session_data(ctx, 0, scheme, data)
    sealed = seal_blob(ctx.tpm, key, blob, auth_data, data)
    ctx.end_session(0)
    return SealResponse(sealed)


@record
class UnsealRequest(Structure):
    """parentHandle u32, inData."""

    parent_handle: Annotated[int, U32]
    in_data: StoredData


@record(repr=False)
class UnsealResponse(Structure):
    """secret sized."""

    secret: Annotated[bytes, SIZED]


def unseal(ctx: Context, request: UnsealRequest) -> UnsealResponse:
    """Give out sealed data if the TPM is in the state that it was sealed to (10.2)."""
    parent = ctx.key(request.parent_handle)
    has_parent_auth = ctx.auth_count == 2
    ctx.authorize_key_if_present(0, parent, present=has_parent_auth)
    _require_sealing_key(parent)
    blob = request.in_data
    sealed = open_sealed(ctx.tpm, parent, blob)
    if blob.seal_info is not None:
        ctx.check_release(release_of(blob.seal_info))
    data_index = ctx.auth_count - 1
    ctx.authorize(data_index, Entity(EntityKind.DATA, sealed.auth_data), OIAP_ONLY)
    secret = sealed.data
    if blob.entity_type:
        # Made by Sealx: the secret leaves encrypted under the session of the parent.
        if not has_parent_auth:
            raise TpmError(ReturnCode.AUTHFAIL)
        if ctx.session_of(0).protocol not in OSAP_ONLY:
            raise TpmError(ReturnCode.BAD_MODE)
        secret = crypt_session_data(ctx, 0, blob.entity_type >> 8, secret)
        ctx.end_session(0)
    return UnsealResponse(secret)


@record
class UnBindRequest(Structure):
    """keyHandle u32, inData sized."""

    key_handle: Annotated[int, U32]
    in_data: Annotated[bytes, SIZED]


@record(repr=False)
class UnBindResponse(Structure):
    """outData sized."""

    out_data: Annotated[bytes, SIZED]


def unbind(ctx: Context, request: UnBindRequest) -> UnBindResponse:
    """Decrypt what was encrypted for a binding or legacy key (10.3)."""
    if not request.in_data:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    key = ctx.key(request.key_handle)
    ctx.authorize_key_if_present(0, key, present=ctx.auth_count == 1)
    public = key.public
    if public.key_usage not in _BINDING_USAGES:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    is_oaep = public.algorithm_parms.enc_scheme == EncScheme.RSAESOAEP_SHA1_MGF1
    decrypt = key.private.decrypt_oaep if is_oaep else key.private.decrypt_pkcs1v15
    try:
        plain = decrypt(request.in_data)
    except RsaError as error:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from error
    if not is_oaep and public.key_usage == KeyUsage.LEGACY:
        return UnBindResponse(plain)
    bound = decode_plaintext(BoundData, plain)
    if not bound.is_bind:
        raise TpmError(ReturnCode.INVALID_STRUCTURE)
    return UnBindResponse(bound.data)


@record
class CreateWrapKeyRequest(Structure):
    """parentHandle u32, dataUsageAuth 20, dataMigrationAuth 20, keyInfo."""

    parent_handle: Annotated[int, U32]
    data_usage_auth: Annotated[bytes, DIGEST]
    data_migration_auth: Annotated[bytes, DIGEST]
    key_info: Key


@record
class CreateWrapKeyResponse(Structure):
    """wrappedKey."""

    wrapped_key: Key


def create_wrap_key(ctx: Context, request: CreateWrapKeyRequest) -> CreateWrapKeyResponse:
    """Make a key and wrap it for its parent (10.4)."""
    tpm = ctx.tpm
    template = request.key_info
    parent = ctx.key(request.parent_handle)
    ctx.authorize_key(0, parent, OSAP_ONLY)
    check_key_properties(template, fips=tpm.permanent.flags.fips)
    require_storage_key(parent)
    is_migratable = bool(template.key_flags & KeyFlags.MIGRATABLE)
    if (
        (parent.is_migratable and not is_migratable)
        or template.key_usage in MADE_OTHERWISE
        or template.key_flags & KeyFlags.MIGRATE_AUTHORITY
    ):
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    usage_auth = ctx.decrypt_secret(0, request.data_usage_auth)
    migration_auth = tpm.permanent.tpm_proof
    if is_migratable:
        migration_auth = ctx.decrypt_secret(0, request.data_migration_auth, second=True)
    body = create_key(tpm, template, usage_auth=usage_auth, migration_auth=migration_auth)
    ctx.end_session(0)
    return CreateWrapKeyResponse(wrapped(parent, body))


@record
class LoadKeyRequest(Structure):
    """parentHandle u32, inKey."""

    parent_handle: Annotated[int, U32]
    in_key: Key


@record
class LoadKeyResponse(Structure):
    """inkeyHandle u32."""

    inkey_handle: Annotated[int, U32]


def load_key(ctx: Context, request: LoadKeyRequest) -> LoadKeyResponse:
    """Unwrap a key and give it a slot and a handle (10.5, 27.8)."""
    tpm = ctx.tpm
    parent = ctx.key(request.parent_handle)
    ctx.authorize_key_if_present(0, parent, present=ctx.auth_count == 1)
    require_storage_key(parent)
    check_key_properties(request.in_key, fips=tpm.permanent.flags.fips)
    body = unwrap(parent, request.in_key)
    check_loadable(tpm, body)
    if tpm.free_key_slots <= 0:
        raise TpmError(ReturnCode.NOSPACE)
    keys = tpm.stclear.keys
    handle = tpm.new_handle(keys.__contains__)
    keys[handle] = LoadedKey(handle, body, ctx.parent_pcr_status(request.parent_handle))
    return LoadKeyResponse(handle)


@record
class KeyHandleRequest(Structure):
    """keyHandle u32."""

    key_handle: Annotated[int, U32]


@record
class PubKeyResponse(Structure):
    """pubKey TPM_PUBKEY."""

    pub_key: PubKey


def get_pub_key(ctx: Context, request: KeyHandleRequest) -> PubKeyResponse:
    """Give the public part of a loaded key (10.6)."""
    key = ctx.key(request.key_handle, reads_public=True)
    ctx.authorize_key_if_present(0, key, present=ctx.auth_count == 1, reads_public=True)
    is_srk = request.key_handle == ReservedHandle.SRK
    if is_srk and not ctx.tpm.permanent.flags.read_srk_pub:
        raise TpmError(ReturnCode.INVALID_KEYHANDLE)
    return PubKeyResponse(key.public.public_key)


COMMANDS: Final = (
    Command(
        Ordinal.SEAL,
        source="3:10.1",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=SealRequest,
        response=SealResponse,
        handler=seal,
        handles_in=4,
        key_bit=1,
    ),
    Command(
        Ordinal.UNSEAL,
        source="3:10.2",
        auth_blocks=AUTH1_OR_2,
        gate=Gate.OPERATIONAL,
        request=UnsealRequest,
        response=UnsealResponse,
        handler=unseal,
        handles_in=4,
        key_bit=2,
    ),
    Command(
        Ordinal.UNBIND,
        source="3:10.3",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=UnBindRequest,
        response=UnBindResponse,
        handler=unbind,
        handles_in=4,
        duration=Duration.MEDIUM,
        volatile=False,
        key_bit=4,
    ),
    Command(
        Ordinal.CREATE_WRAP_KEY,
        source="3:10.4",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CreateWrapKeyRequest,
        response=CreateWrapKeyResponse,
        handler=create_wrap_key,
        handles_in=4,
        duration=Duration.LONG,
        key_bit=11,
        audited=True,
    ),
    Command(
        Ordinal.LOAD_KEY2,
        source="3:10.5",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=LoadKeyRequest,
        response=LoadKeyResponse,
        handler=load_key,
        handles_in=4,
        handles_out=4,
        key_bit=22,
    ),
    Command(
        # The new handle is digested here, which is why LoadKey2 replaced it.
        Ordinal.LOAD_KEY,
        source="3:27.8",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=LoadKeyRequest,
        response=LoadKeyResponse,
        handler=load_key,
        handles_in=4,
        key_bit=0,
    ),
    Command(
        Ordinal.GET_PUB_KEY,
        source="3:10.6",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=KeyHandleRequest,
        response=PubKeyResponse,
        handler=get_pub_key,
        handles_in=4,
        volatile=False,
        key_bit=5,
    ),
    Command(
        Ordinal.SEALX,
        source="3:10.7",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=SealRequest,
        response=SealResponse,
        handler=sealx,
        handles_in=4,
        key_bit=18,
    ),
)
