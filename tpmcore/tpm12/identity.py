# SPDX-License-Identifier: Apache-2.0
"""Identity creation and activation (Part 3, chapter 15)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Final

from protocol.tpm12.attestation import (
    AsymCaContents,
    EkBlob,
    EkBlobActivate,
    IdentityContents,
    SymmetricKey,
)
from protocol.tpm12.constants import (
    EkType,
    KeyFlags,
    KeyUsage,
    Ordinal,
    ReservedHandle,
    ReturnCode,
    StructureTag,
)
from protocol.tpm12.keys import Key
from protocol.tpm12.pcr import PcrInfoShort
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, SIZED, U32, Structure
from tpmcore.engine import Duration
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH1_OR_2, Command, Gate
from tpmcore.tpm12.context import OSAP_ONLY, Context, key_entity
from tpmcore.tpm12.keyblob import check_key_properties, create_key, wrapped
from tpmcore.tpm12.parsing import decode_plaintext
from tpmcore.tpm12.rsa import RsaError

IDENTITY_BITS: Final = 2048
_EK_BLOB_TAG: Final = StructureTag.EK_BLOB.to_bytes(2, "big")


@record
class MakeIdentityRequest(Structure):
    """identityAuth 20, labelPrivCADigest 20, idKeyParams TPM_KEY or TPM_KEY12."""

    identity_auth: Annotated[bytes, DIGEST]
    label_priv_ca_digest: Annotated[bytes, DIGEST]
    id_key_params: Key


@record
class MakeIdentityResponse(Structure):
    """idKey, identityBinding sized."""

    id_key: Key
    identity_binding: Annotated[bytes, SIZED]


def make_identity(ctx: Context, request: MakeIdentityRequest) -> MakeIdentityResponse:
    """Make an identity key and have it sign whom it was made for (15.1)."""
    tpm = ctx.tpm
    template = request.id_key_params
    check_key_properties(template, fips=tpm.permanent.flags.fips)
    if template.algorithm_parms.rsa.key_length != IDENTITY_BITS:
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)
    has_srk_auth = ctx.auth_count == 2
    owner_index = ctx.auth_count - 1
    ctx.authorize_owner(owner_index, OSAP_ONLY)
    srk = ctx.key(ReservedHandle.SRK)
    ctx.authorize_key_if_present(0, srk, present=has_srk_auth)
    if template.key_usage != KeyUsage.IDENTITY or template.key_flags & KeyFlags.MIGRATABLE:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    body = create_key(
        tpm,
        template,
        usage_auth=ctx.decrypt_secret(owner_index, request.identity_auth),
        migration_auth=tpm.permanent.tpm_proof,
    )
    contents = IdentityContents(
        Ordinal.MAKE_IDENTITY, request.label_priv_ca_digest, body.public.public_key
    )
    binding = body.private.sign_sha1_digest(hashlib.sha1(contents.encode()).digest())
    for index in range(ctx.auth_count):
        ctx.end_session(index)
    return MakeIdentityResponse(wrapped(srk, body), binding)


@record
class ActivateIdentityRequest(Structure):
    """idKeyHandle u32, blob sized."""

    id_key_handle: Annotated[int, U32]
    blob: Annotated[bytes, SIZED]


@record(repr=False)
class ActivateIdentityResponse(Structure):
    """symmetricKey TPM_SYMMETRIC_KEY."""

    symmetric_key: SymmetricKey


def activate_identity(ctx: Context, request: ActivateIdentityRequest) -> ActivateIdentityResponse:
    """Decrypt what a privacy CA made for one identity of this TPM (15.2)."""
    tpm = ctx.tpm
    has_key_auth = ctx.auth_count == 2
    # The owner is the second session but the first to be judged, and the codes follow that.
    ctx.authorize(ctx.auth_count - 1, tpm.owner_entity(), failure=ReturnCode.AUTHFAIL)
    key = ctx.key(request.id_key_handle)
    if has_key_auth:
        ctx.authorize(0, key_entity(key), failure=ReturnCode.AUTH2FAIL)
    else:
        ctx.authorize_key_if_present(0, key, present=False)
    if key.public.key_usage != KeyUsage.IDENTITY:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    id_digest, session_key, release = _decrypt_blob(ctx, request.blob)
    if not hmac.compare_digest(id_digest, key.public.public_key_digest()):
        raise TpmError(ReturnCode.BAD_PARAMETER)
    if release is not None:
        ctx.check_release(release)
    return ActivateIdentityResponse(session_key)


def _decrypt_blob(ctx: Context, blob: bytes) -> tuple[bytes, SymmetricKey, PcrInfoShort | None]:
    """Return idDigest, sessionKey and, of the newer form, the release condition.

    Raises:
        TpmError: NO_ENDORSEMENT, DECRYPT_ERROR, BAD_TYPE, BAD_PARAM_SIZE, INVALID_STRUCTURE.
    """
    ek = ctx.tpm.permanent.ek
    if ek is None:
        raise TpmError(ReturnCode.NO_ENDORSEMENT)
    try:
        plain = ek.private.decrypt_oaep(blob)
    except RsaError as error:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from error
    if not plain.startswith(_EK_BLOB_TAG):
        contents = decode_plaintext(AsymCaContents, plain)
        return contents.id_digest, contents.session_key, None
    ek_blob = decode_plaintext(EkBlob, plain)
    if ek_blob.ek_type != EkType.ACTIVATE:
        raise TpmError(ReturnCode.BAD_TYPE)
    activate = decode_plaintext(EkBlobActivate, ek_blob.blob)
    return activate.id_digest, activate.session_key, activate.pcr_info


COMMANDS: Final = (
    Command(
        Ordinal.MAKE_IDENTITY,
        source="3:15.1",
        auth_blocks=AUTH1_OR_2,
        gate=Gate.OPERATIONAL,
        request=MakeIdentityRequest,
        response=MakeIdentityResponse,
        handler=make_identity,
        duration=Duration.LONG,
        owner_bit=11,
        key_bit=17,
        audited=True,
    ),
    Command(
        Ordinal.ACTIVATE_IDENTITY,
        source="3:15.2",
        auth_blocks=AUTH1_OR_2,
        gate=Gate.OPERATIONAL,
        request=ActivateIdentityRequest,
        response=ActivateIdentityResponse,
        handler=activate_identity,
        handles_in=4,
        owner_bit=10,
        key_bit=16,
        audited=True,
    ),
)
