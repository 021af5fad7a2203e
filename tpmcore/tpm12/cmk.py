# SPDX-License-Identifier: Apache-2.0
"""Certified migratable keys (Part 3, 11.5 to 11.10): keys that leave a TPM only where one of a list
of migration authorities, accepted by the owner, lets them go.

Approvals and tickets are HMACs with tpmProof: this TPM's notes to itself, which a client keeps.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Final

from protocol.tpm12.constants import (
    Algorithm,
    EncScheme,
    KeyFlags,
    MigrationScheme,
    Ordinal,
    PayloadType,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import Key, PubKey, StoreAsymKey
from protocol.tpm12.migration import (
    CmkAuth,
    CmkMaApproval,
    CmkMigAuth,
    CmkSigTicket,
    MigrationKeyAuth,
    MsaComposite,
)
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, DIGEST_BYTES, SIZED, U16, U32, Reader, Structure
from tpmcore.engine import Duration
from tpmcore.errors import TpmError
from tpmcore.tpm12 import foreignkeys
from tpmcore.tpm12.command import AUTH1, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import OSAP_ONLY, Context
from tpmcore.tpm12.keyblob import check_key_properties, check_rsa_parms, create_key, wrapped
from tpmcore.tpm12.migration import (
    MigrationBlobResponse,
    OutDataResponse,
    check_permission,
    migration_blob,
)
from tpmcore.tpm12.migrationblob import open_blob, unwrap_store
from tpmcore.tpm12.parsing import decode_plaintext
from tpmcore.tpm12.primitives import hmac_sha1
from tpmcore.tpm12.rsa import PrivateKey, RsaError
from tpmcore.tpm12.state import KeyBody
from tpmcore.tpm12.storage import MADE_OTHERWISE, require_storage_key
from tpmcore.tpm12.tpm import Tpm

_CMK_PAYLOADS: Final = frozenset({PayloadType.MIGRATE_RESTRICTED, PayloadType.MIGRATE_EXTERNAL})


def _note(tpm: Tpm, statement: Structure) -> bytes:
    """Return what proves that this TPM, under this owner, made a statement."""
    return hmac_sha1(tpm.permanent.tpm_proof, statement.encode())


def _require_note(tpm: Tpm, statement: Structure, note: bytes) -> None:
    if not hmac.compare_digest(_note(tpm, statement), note):
        raise TpmError(ReturnCode.MA_AUTHORITY)


def _require_ticket(tpm: Tpm, authorities: MsaComposite, signed: bytes, ticket: bytes) -> None:
    """Require that this TPM saw the signature of one of the authorities.

    Raises:
        TpmError: MA_AUTHORITY.
    """
    notes = [_note(tpm, CmkSigTicket(digest, signed)) for digest in authorities.digests]
    if not any(hmac.compare_digest(note, ticket) for note in notes):
        raise TpmError(ReturnCode.MA_AUTHORITY)


def _require_fixed_storage_key(key: KeyBody) -> None:
    require_storage_key(key)
    if key.is_migratable:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)


@record
class CmkSetRestrictionsRequest(Structure):
    """restriction u32."""

    restriction: Annotated[int, U32]


def cmk_set_restrictions(ctx: Context, request: CmkSetRestrictionsRequest) -> Nothing:
    """Say for which usages a certified migratable key may be delegated (11.5)."""
    ctx.authorize_owner()
    ctx.tpm.permanent.restrict_delegate = request.restriction
    return NOTHING


@record
class CmkApproveMaRequest(Structure):
    """migrationAuthorityDigest 20."""

    migration_authority_digest: Annotated[bytes, DIGEST]


@record
class DigestResponse(Structure):
    """outData 20."""

    out_data: Annotated[bytes, DIGEST]


def cmk_approve_ma(ctx: Context, request: CmkApproveMaRequest) -> DigestResponse:
    """Have the owner accept a list of migration authorities (11.6)."""
    ctx.authorize_owner()
    return DigestResponse(_note(ctx.tpm, CmkMaApproval(request.migration_authority_digest)))


@record
class CmkCreateKeyRequest(Structure):
    """parentHandle u32, dataUsageAuth 20, keyInfo TPM_KEY12, migrationAuthorityApproval 20,
    migrationAuthorityDigest 20."""

    parent_handle: Annotated[int, U32]
    data_usage_auth: Annotated[bytes, DIGEST]
    key_info: Key
    migration_authority_approval: Annotated[bytes, DIGEST]
    migration_authority_digest: Annotated[bytes, DIGEST]


@record
class CmkCreateKeyResponse(Structure):
    """wrappedKey."""

    wrapped_key: Key


def cmk_create_key(ctx: Context, request: CmkCreateKeyRequest) -> CmkCreateKeyResponse:
    """Make a key whose migration a list of authorities controls (11.7)."""
    tpm = ctx.tpm
    template = request.key_info
    parent = ctx.key(request.parent_handle)
    ctx.authorize_key(0, parent, OSAP_ONLY)
    check_key_properties(template, fips=tpm.permanent.flags.fips)
    _require_fixed_storage_key(parent)
    _require_cmk_flags(template)
    authorities = request.migration_authority_digest
    _require_note(tpm, CmkMaApproval(authorities), request.migration_authority_approval)
    if template.key_usage in MADE_OTHERWISE:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    if not template.is_key12:
        raise TpmError(ReturnCode.INVALID_STRUCTURE)
    usage_auth = ctx.decrypt_secret(0, request.data_usage_auth)
    body = create_key(
        tpm,
        template,
        usage_auth=usage_auth,
        migration_auth=b"",
        payload=PayloadType.MIGRATE_RESTRICTED,
    )
    body.migration_auth = _migration_auth(tpm, authorities, body.public.public_key_digest())
    ctx.end_session(0)
    return CmkCreateKeyResponse(wrapped(parent, body))


_CMK_FLAGS: Final = int(KeyFlags.MIGRATABLE | KeyFlags.MIGRATE_AUTHORITY)


def _require_cmk_flags(key: Key) -> None:
    if key.key_flags & _CMK_FLAGS != _CMK_FLAGS:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)


def _migration_auth(tpm: Tpm, authorities_digest: bytes, key_digest: bytes) -> bytes:
    """Return migrationAuth of a certified migratable key, which binds it to its authorities."""
    return _note(tpm, CmkMigAuth(authorities_digest, key_digest))


@record
class CmkCreateTicketRequest(Structure):
    """verificationKey TPM_PUBKEY, signedData 20, signatureValue sized."""

    verification_key: PubKey
    signed_data: Annotated[bytes, DIGEST]
    signature_value: Annotated[bytes, SIZED]


def cmk_create_ticket(ctx: Context, request: CmkCreateTicketRequest) -> DigestResponse:
    """Verify a signature and note that it was seen (11.8)."""
    ctx.authorize_owner()
    key = request.verification_key
    parms = key.algorithm_parms
    if parms.algorithm_id != Algorithm.RSA:
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)
    if parms.enc_scheme != EncScheme.NONE:
        raise TpmError(ReturnCode.INAPPROPRIATE_ENC)
    if parms.sig_scheme not in foreignkeys.SIGNATURE_SCHEMES:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    foreignkeys.verify(key, request.signed_data, request.signature_value)
    return DigestResponse(_note(ctx.tpm, CmkSigTicket(key.digest(), request.signed_data)))


class _SizedMsaComposite:
    """A u32 length and a TPM_MSA_COMPOSITE that fills it."""

    def read(self, reader: Reader, field: str) -> MsaComposite:
        """Take length and structure."""
        return MsaComposite.decode(reader.sized(field))

    def write(self, value: MsaComposite) -> bytes:
        """Give length and bytes."""
        return SIZED.write(value.encode())


_MSA_LIST: Final = _SizedMsaComposite()


@record
class CmkCreateBlobRequest(Structure):
    """parentHandle u32, migrationType u16, migrationKeyAuth, pubSourceKeyDigest 20, msaList sized,
    restrictTicket sized, sigTicket sized, encData sized.

    migrationType is ignored: what the owner permitted, in migrationKeyAuth, decides.
    """

    parent_handle: Annotated[int, U32]
    migration_type: Annotated[int, U16]
    migration_key_auth: MigrationKeyAuth
    pub_source_key_digest: Annotated[bytes, DIGEST]
    msa_list: Annotated[MsaComposite, _MSA_LIST]
    restrict_ticket: Annotated[bytes, SIZED]
    sig_ticket: Annotated[bytes, SIZED]
    enc_data: Annotated[bytes, SIZED]


def cmk_create_blob(ctx: Context, request: CmkCreateBlobRequest) -> MigrationBlobResponse:
    """Give out a certified migratable key, to an authority or to where one lets it go (11.9)."""
    tpm = ctx.tpm
    parent = ctx.key(request.parent_handle)
    ctx.authorize_key(0, parent)
    _require_fixed_storage_key(parent)
    store = unwrap_store(parent, request.enc_data)
    permission = request.migration_key_auth
    check_permission(tpm, permission)
    if store.payload not in _CMK_PAYLOADS:
        raise TpmError(ReturnCode.INVALID_STRUCTURE)
    authorities = request.msa_list.digest()
    source = request.pub_source_key_digest
    _require_note(tpm, CmkMigAuth(authorities, source), store.migration_auth)
    if permission.migration_scheme == MigrationScheme.RESTRICT_MIGRATE:
        _check_authority(request)
    elif permission.migration_scheme == MigrationScheme.RESTRICT_APPROVE:
        _check_approval(tpm, request)
    else:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    p_hash = _blob_hash(authorities, source)
    return migration_blob(tpm, permission.migration_key, store, PayloadType.CMK_MIGRATE, p_hash)


def _blob_hash(authorities_digest: bytes, key_digest: bytes) -> bytes:
    """Return pHash of the inner block, which tells the receiver who controls the key."""
    return hashlib.sha1(authorities_digest + key_digest).digest()


def _check_authority(request: CmkCreateBlobRequest) -> None:
    """Require that the destination is itself one of the authorities (11.9, 8).

    That it is an RSA key for OAEP was seen when the owner permitted it.
    """
    key = request.migration_key_auth.migration_key
    if key.digest() not in request.msa_list.digests:
        raise TpmError(ReturnCode.MA_AUTHORITY)
    if key.algorithm_parms.sig_scheme != SigScheme.NONE:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    if request.restrict_ticket or request.sig_ticket:
        raise TpmError(ReturnCode.BAD_PARAMETER)


def _check_approval(tpm: Tpm, request: CmkCreateBlobRequest) -> None:
    """Require that an authority lets this key go to this destination (11.9, 9)."""
    if len(request.sig_ticket) != DIGEST_BYTES:
        raise TpmError(ReturnCode.BAD_PARAM_SIZE)
    signed = hashlib.sha1(request.restrict_ticket).digest()
    _require_ticket(tpm, request.msa_list, signed, request.sig_ticket)
    restrict = decode_plaintext(CmkAuth, request.restrict_ticket)
    destination = request.migration_key_auth.migration_key.digest()
    if not hmac.compare_digest(restrict.destination_key_digest, destination):
        raise TpmError(ReturnCode.MA_DESTINATION)
    if not hmac.compare_digest(restrict.source_key_digest, request.pub_source_key_digest):
        raise TpmError(ReturnCode.MA_SOURCE)


@record
class CmkConvertMigrationRequest(Structure):
    """parentHandle u32, restrictTicket TPM_CMK_AUTH, sigTicket 20, migratedKey TPM_KEY12, msaList
    sized, random sized."""

    parent_handle: Annotated[int, U32]
    restrict_ticket: CmkAuth
    sig_ticket: Annotated[bytes, DIGEST]
    migrated_key: Key
    msa_list: Annotated[MsaComposite, _MSA_LIST]
    random: Annotated[bytes, SIZED]


def cmk_convert_migration(ctx: Context, request: CmkConvertMigrationRequest) -> OutDataResponse:
    """Take in a certified migratable key that an authority let go to this parent (11.10)."""
    tpm = ctx.tpm
    parent = ctx.key(request.parent_handle)
    ctx.authorize_key(0, parent)
    require_storage_key(parent)
    migrated = request.migrated_key
    store = open_blob(parent, migrated.enc_data, request.random)
    authorities = request.msa_list.digest()
    source = migrated.public_key_digest()
    # 11.10, 6 names no code; libtpms' comparison gives this one.
    if not hmac.compare_digest(store.migration_auth, _blob_hash(authorities, source)):
        raise TpmError(ReturnCode.AUTHFAIL)
    if parent.is_migratable:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    if store.payload != PayloadType.CMK_MIGRATE:
        raise TpmError(ReturnCode.BAD_MIGRATION)
    restrict = request.restrict_ticket
    _require_ticket(tpm, request.msa_list, restrict.digest(), request.sig_ticket)
    destination = parent.public.public_key_digest()
    if not hmac.compare_digest(restrict.destination_key_digest, destination):
        raise TpmError(ReturnCode.MA_DESTINATION)
    _check_private(migrated, store)
    _require_cmk_flags(migrated)
    if not hmac.compare_digest(restrict.source_key_digest, source):
        raise TpmError(ReturnCode.MA_SOURCE)
    loadable = StoreAsymKey(
        PayloadType.MIGRATE_EXTERNAL,
        store.usage_auth,
        _migration_auth(tpm, authorities, source),
        store.pub_data_digest,
        store.private_key,
    )
    # It is shorter than the blob that this key decrypted, so it fits.
    return OutDataResponse(parent.private.encrypt_oaep(loadable.encode()))


def _check_private(key: Key, store: StoreAsymKey) -> None:
    """Require that a private part belongs to a public one, as LoadKey2 does.

    Raises:
        TpmError: BAD_KEY_PROPERTY, BAD_PARAMETER.
    """
    rsa = check_rsa_parms(key.algorithm_parms)
    modulus = int.from_bytes(key.pub_key, "big")
    factor = int.from_bytes(store.private_key, "big")
    try:
        PrivateKey.from_factor(modulus, factor, rsa.exponent_value)
    except RsaError as error:
        raise TpmError(ReturnCode.BAD_PARAMETER) from error


COMMANDS: Final = (
    Command(
        # No delegation bit: only the owner may widen what can be delegated.
        Ordinal.CMK_SET_RESTRICTIONS,
        source="3:11.5",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CmkSetRestrictionsRequest,
        response=Nothing,
        handler=cmk_set_restrictions,
        persists=True,
    ),
    Command(
        Ordinal.CMK_APPROVE_MA,
        source="3:11.6",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CmkApproveMaRequest,
        response=DigestResponse,
        handler=cmk_approve_ma,
        owner_bit=28,
    ),
    Command(
        Ordinal.CMK_CREATE_KEY,
        source="3:11.7",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CmkCreateKeyRequest,
        response=CmkCreateKeyResponse,
        handler=cmk_create_key,
        handles_in=4,
        duration=Duration.LONG,
        key_bit=24,
    ),
    Command(
        Ordinal.CMK_CREATE_TICKET,
        source="3:11.8",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CmkCreateTicketRequest,
        response=DigestResponse,
        handler=cmk_create_ticket,
        owner_bit=26,
    ),
    Command(
        Ordinal.CMK_CREATE_BLOB,
        source="3:11.9",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CmkCreateBlobRequest,
        response=MigrationBlobResponse,
        handler=cmk_create_blob,
        handles_in=4,
        key_bit=10,
    ),
    Command(
        Ordinal.CMK_CONVERT_MIGRATION,
        source="3:11.10",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CmkConvertMigrationRequest,
        response=OutDataResponse,
        handler=cmk_convert_migration,
        handles_in=4,
        key_bit=28,
    ),
)
