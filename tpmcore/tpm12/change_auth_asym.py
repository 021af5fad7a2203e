# SPDX-License-Identifier: Apache-2.0
"""ChangeAuthAsymStart and ChangeAuthAsymFinish (Part 3, 27.4; deprecated): a new secret for a key
or sealed data, hidden even from whoever knows the secret of its parent."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Final

from protocol.tpm12.attestation import CertifyInfo
from protocol.tpm12.changeauth import ChangeAuthValidate
from protocol.tpm12.constants import (
    AuthDataUsage,
    EncScheme,
    KeyFlags,
    KeyUsage,
    Ordinal,
    ReservedHandle,
    ReturnCode,
)
from protocol.tpm12.keys import Key, KeyParms
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, SIZED, U16, U32, Structure
from tpmcore.engine import Duration
from tpmcore.errors import TpmError
from tpmcore.tpm12.change_auth import CHANGEABLE, unwrap
from tpmcore.tpm12.command import AUTH0_OR_1, Command, Gate
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.keyblob import check_rsa_parms, create_key
from tpmcore.tpm12.parsing import decode_plaintext
from tpmcore.tpm12.primitives import hmac_sha1
from tpmcore.tpm12.rsa import RsaError
from tpmcore.tpm12.state import KeyBody, LoadedKey
from tpmcore.tpm12.storage import require_storage_key


@record
class ChangeAuthAsymStartRequest(Structure):
    """idHandle u32, antiReplay 20, tempKey TPM_KEY_PARMS."""

    id_handle: Annotated[int, U32]
    anti_replay: Annotated[bytes, DIGEST]
    temp_key: KeyParms


@record
class ChangeAuthAsymStartResponse(Structure):
    """certifyInfo, sig sized, ephHandle u32 (digested), tempKey TPM_KEY with empty encData."""

    certify_info: CertifyInfo
    sig: Annotated[bytes, SIZED]
    eph_handle: Annotated[int, U32]
    temp_key: Key


def change_auth_asym_start(
    ctx: Context, request: ChangeAuthAsymStartRequest
) -> ChangeAuthAsymStartResponse:
    """Make an ephemeral key, and have an identity certify that it is in this TPM (27.4.1)."""
    tpm = ctx.tpm
    identity = ctx.key(request.id_handle)
    if identity.public.key_usage != KeyUsage.IDENTITY:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    ctx.authorize_key_if_present(0, identity, present=ctx.auth_count == 1)
    parms = request.temp_key
    check_rsa_parms(parms)
    if parms.enc_scheme != EncScheme.RSAESOAEP_SHA1_MGF1:
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)
    if tpm.free_key_slots <= 0:
        raise TpmError(ReturnCode.NOSPACE)
    template = Key(False, KeyUsage.AUTHCHANGE, KeyFlags.IS_VOLATILE, AuthDataUsage.NEVER, parms)
    body = create_key(
        tpm, template, usage_auth=tpm.random(20), migration_auth=tpm.permanent.tpm_proof
    )
    info = CertifyInfo(
        KeyUsage.AUTHCHANGE,
        KeyFlags.IS_VOLATILE,
        AuthDataUsage.NEVER,
        parms,
        hashlib.sha1(body.public.pub_key).digest(),
        request.anti_replay,
        False,
        b"",
    )
    signature = identity.private.sign_sha1_digest(hashlib.sha1(info.encode()).digest())
    keys = tpm.stclear.keys
    handle = tpm.new_handle(keys.__contains__)
    keys[handle] = LoadedKey(handle, body, parent_pcr_status=False)
    return ChangeAuthAsymStartResponse(info, signature, handle, body.public)


@record
class ChangeAuthAsymFinishRequest(Structure):
    """parentHandle u32, ephHandle u32, entityType u16, newAuthLink 20, encNewAuth sized, encData
    sized."""

    parent_handle: Annotated[int, U32]
    eph_handle: Annotated[int, U32]
    entity_type: Annotated[int, U16]
    new_auth_link: Annotated[bytes, DIGEST]
    enc_new_auth: Annotated[bytes, SIZED]
    enc_data: Annotated[bytes, SIZED]


@record
class ChangeAuthAsymFinishResponse(Structure):
    """outData sized, saltNonce 20, changeProof 20."""

    out_data: Annotated[bytes, SIZED]
    salt_nonce: Annotated[bytes, DIGEST]
    change_proof: Annotated[bytes, DIGEST]


def change_auth_asym_finish(
    ctx: Context, request: ChangeAuthAsymFinishRequest
) -> ChangeAuthAsymFinishResponse:
    """Put the new secret into a wrapped key or sealed data, and end the ephemeral key (27.4.2)."""
    tpm = ctx.tpm
    parent = ctx.key(request.parent_handle)
    if ctx.auth_count == 1 and request.parent_handle == ReservedHandle.SRK:
        # The text wants the owner's secret here, not the SRK's.
        ctx.authorize_owner()
    else:
        ctx.authorize_key_if_present(0, parent, present=ctx.auth_count == 1)
    if request.entity_type not in CHANGEABLE:
        raise TpmError(ReturnCode.WRONG_ENTITYTYPE)
    require_storage_key(parent)
    wrapped = unwrap(ctx, parent, request.entity_type, request.enc_data)
    ephemeral = ctx.find_key(request.eph_handle)
    if ephemeral.public.key_usage != KeyUsage.AUTHCHANGE:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    change = _decrypt_change(ephemeral, request.enc_new_auth)
    new_auth = change.new_auth_secret
    # The link proves the old secret, so a wrong one is a guess at it: they are counted and slowed
    # down as others are, also where the command came without authorization.
    if tpm.lockout.is_active:
        raise TpmError(ReturnCode.DEFEND_LOCK_RUNNING)
    link = hmac_sha1(wrapped.secret, new_auth)
    if not hmac.compare_digest(link, request.new_auth_link):
        tpm.lockout.record_failure()
        raise TpmError(ReturnCode.AUTHFAIL)
    out_data = wrapped.rewrap(parent, new_auth)
    salt = tpm.new_nonce()
    proof = hmac_sha1(new_auth, salt + change.nonce)
    tpm.unload_key(ctx.find_loaded(request.eph_handle))
    return ChangeAuthAsymFinishResponse(out_data, salt, proof)


def _decrypt_change(ephemeral: KeyBody, encrypted: bytes) -> ChangeAuthValidate:
    try:
        plain = ephemeral.private.decrypt_oaep(encrypted)
    except RsaError as error:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from error
    return decode_plaintext(ChangeAuthValidate, plain)


COMMANDS: Final = (
    Command(
        Ordinal.CHANGE_AUTH_ASYM_START,
        source="3:27.4.1",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=ChangeAuthAsymStartRequest,
        response=ChangeAuthAsymStartResponse,
        handler=change_auth_asym_start,
        handles_in=4,
        duration=Duration.LONG,
        key_bit=26,
    ),
    Command(
        Ordinal.CHANGE_AUTH_ASYM_FINISH,
        source="3:27.4.2",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=ChangeAuthAsymFinishRequest,
        response=ChangeAuthAsymFinishResponse,
        handler=change_auth_asym_finish,
        handles_in=8,
        key_bit=25,
    ),
)
