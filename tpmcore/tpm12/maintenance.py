# SPDX-License-Identifier: Apache-2.0
"""Maintenance (Part 3, chapter 12; optional, off unless the profile has it): moving all that a TPM
protects to another one of the same manufacturer, by way of the manufacturer.

LoadMaintenanceArchive has the parameters that a vendor gives it. Ours are those of the Berlios
emulator: the archive is only taken with the manufacturer's signature, as the specification demands.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Final

from protocol.tpm12.constants import (
    EncScheme,
    Ordinal,
    PayloadType,
    ReservedHandle,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import Key, PubKey, StoreAsymKey
from protocol.tpm12.records import record
from protocol.tpm12.wire import BOOL, DIGEST, SIZED, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12 import foreignkeys
from tpmcore.tpm12.command import AUTH1, NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.migrationblob import decode_inner, encode_inner
from tpmcore.tpm12.ownership import check_srk, clear
from tpmcore.tpm12.parsing import decode_plaintext
from tpmcore.tpm12.primitives import mgf1, xor
from tpmcore.tpm12.rsa import PrivateKey, RsaError
from tpmcore.tpm12.state import KeyBody
from tpmcore.tpm12.tpm import Tpm


def _manufacturer_key(tpm: Tpm) -> PubKey:
    key = tpm.permanent.manu_maint_pub
    if key is None:
        raise TpmError(ReturnCode.KEYNOTFOUND)
    return key


def _require_maintenance(tpm: Tpm) -> None:
    if not tpm.permanent.flags.allow_maintenance:
        raise TpmError(ReturnCode.DISABLED_CMD)


@record
class CreateMaintenanceArchiveRequest(Structure):
    """generateRandom bool."""

    generate_random: Annotated[bool, BOOL]


@record
class CreateMaintenanceArchiveResponse(Structure):
    """random sized, archive sized."""

    random: Annotated[bytes, SIZED]
    archive: Annotated[bytes, SIZED]


def create_maintenance_archive(
    ctx: Context, request: CreateMaintenanceArchiveRequest
) -> CreateMaintenanceArchiveResponse:
    """Give the SRK, tpmProof and the owner's secret to the manufacturer, masked (12.1).

    The mask is random and told to the owner, or made of the owner's secret; the manufacturer has
    neither.
    """
    tpm = ctx.tpm
    permanent = tpm.permanent
    _require_maintenance(tpm)
    ctx.authorize_owner()
    manufacturer = _manufacturer_key(tpm)
    srk = ctx.find_key(ReservedHandle.SRK)
    owner_auth = tpm.owner_entity().secret
    store = StoreAsymKey(
        PayloadType.MAINT, permanent.tpm_proof, owner_auth, srk.digest, srk.private.prime
    )
    inner = encode_inner(store, PayloadType.MAINT, owner_auth)
    random = tpm.random(len(inner)) if request.generate_random else b""
    masked = xor(inner, random or mgf1(owner_auth, len(inner)))
    archive = srk.public.with_private(foreignkeys.encrypt(manufacturer, masked))
    permanent.flags.maintenance_done = True
    return CreateMaintenanceArchiveResponse(random, archive.encode())


@record
class LoadMaintenanceArchiveRequest(Structure):
    """archive sized, signature sized, random sized.

    Attributes:
        archive: TPM_KEY or TPM_KEY12 of the SRK to be, encData encrypted for the SRK of now.
        signature: of the manufacturer over SHA-1 of the archive.
        random: the mask, or empty if it is made of the secret of the owner of now.
    """

    archive: Annotated[bytes, SIZED]
    signature: Annotated[bytes, SIZED]
    random: Annotated[bytes, SIZED]


def load_maintenance_archive(ctx: Context, request: LoadMaintenanceArchiveRequest) -> Nothing:
    """Become the TPM that an archive is of (12.2): clear, then take over SRK, proof and owner."""
    tpm = ctx.tpm
    permanent = tpm.permanent
    manufacturer = _manufacturer_key(tpm)
    _require_maintenance(tpm)
    ctx.authorize_owner()
    digest = hashlib.sha1(request.archive).digest()
    foreignkeys.verify(manufacturer, digest, request.signature)
    archive = decode_plaintext(Key, request.archive)
    check_srk(archive, fips=permanent.flags.fips)
    if archive.pcr_info is not None:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    store = _open_archive(ctx, archive, request.random)
    owner_auth, tpm_proof = store.migration_auth, store.usage_auth
    srk = _root_key(archive.with_private(b""), store)
    ctx.end_session(0)
    clear(tpm)
    permanent.tpm_proof = srk.migration_auth = tpm_proof
    permanent.owner_auth = srk.usage_auth = owner_auth
    permanent.srk = srk
    permanent.flags.maintenance_done = True
    return NOTHING


def _open_archive(ctx: Context, archive: Key, random: bytes) -> StoreAsymKey:
    try:
        masked = ctx.find_key(ReservedHandle.SRK).private.decrypt_oaep(archive.enc_data)
    except RsaError as error:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from error
    mask = random or mgf1(ctx.tpm.owner_entity().secret, len(masked))
    if len(mask) != len(masked):
        raise TpmError(ReturnCode.BAD_PARAMETER)
    store = decode_inner(xor(masked, mask))
    if store.payload != PayloadType.MAINT:
        raise TpmError(ReturnCode.BAD_MIGRATION)
    return store


def _root_key(public: Key, store: StoreAsymKey) -> KeyBody:
    """Join both parts of the new SRK, which must fit as in LoadKey2."""
    modulus = int.from_bytes(public.pub_key, "big")
    factor = int.from_bytes(store.private_key, "big")
    rsa = public.algorithm_parms.rsa
    try:
        private = PrivateKey.from_factor(modulus, factor, rsa.exponent_value)
    except RsaError as error:
        raise TpmError(ReturnCode.BAD_PARAMETER) from error
    if private.modulus != public.pub_key or len(public.pub_key) * 8 != rsa.key_length:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    digest = public.public_digest()
    if not hmac.compare_digest(digest, store.pub_data_digest):
        raise TpmError(ReturnCode.AUTHFAIL)
    return KeyBody(public, PayloadType.ASYM, b"", b"", private, digest)


def kill_maintenance_feature(ctx: Context, _request: Nothing) -> Nothing:
    """Refuse archives until there is another owner (12.3)."""
    ctx.authorize_owner()
    ctx.tpm.permanent.flags.allow_maintenance = False
    return NOTHING


@record
class LoadManuMaintPubRequest(Structure):
    """antiReplay 20, pubKey TPM_PUBKEY."""

    anti_replay: Annotated[bytes, DIGEST]
    pub_key: PubKey


@record
class ReadManuMaintPubRequest(Structure):
    """antiReplay 20."""

    anti_replay: Annotated[bytes, DIGEST]


@record
class ChecksumResponse(Structure):
    """checksum 20: SHA-1 over the key and antiReplay."""

    checksum: Annotated[bytes, DIGEST]


def _checksum(key: PubKey, anti_replay: bytes) -> ChecksumResponse:
    return ChecksumResponse(hashlib.sha1(key.encode() + anti_replay).digest())


def load_manu_maint_pub(ctx: Context, request: LoadManuMaintPubRequest) -> ChecksumResponse:
    """Store the manufacturer's key, once in the life of the chip (12.4)."""
    permanent = ctx.tpm.permanent
    if permanent.manu_maint_pub is not None:
        raise TpmError(ReturnCode.DISABLED_CMD)
    key = request.pub_key
    foreignkeys.check_strength(key)
    parms = key.algorithm_parms
    if parms.enc_scheme != EncScheme.RSAESOAEP_SHA1_MGF1 or parms.sig_scheme != SigScheme.NONE:
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)
    permanent.manu_maint_pub = key
    return _checksum(key, request.anti_replay)


def read_manu_maint_pub(ctx: Context, request: ReadManuMaintPubRequest) -> ChecksumResponse:
    """Tell which key of the manufacturer is stored (12.5)."""
    return _checksum(_manufacturer_key(ctx.tpm), request.anti_replay)


COMMANDS: Final = (
    Command(
        Ordinal.CREATE_MAINTENANCE_ARCHIVE,
        source="3:12.1",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CreateMaintenanceArchiveRequest,
        response=CreateMaintenanceArchiveResponse,
        handler=create_maintenance_archive,
        persists=True,
        owner_bit=21,
        audited=True,
    ),
    Command(
        Ordinal.LOAD_MAINTENANCE_ARCHIVE,
        source="3:12.2",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=LoadMaintenanceArchiveRequest,
        response=Nothing,
        handler=load_maintenance_archive,
        persists=True,
        owner_bit=20,
        audited=True,
    ),
    Command(
        Ordinal.KILL_MAINTENANCE_FEATURE,
        source="3:12.3",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=Nothing,
        response=Nothing,
        handler=kill_maintenance_feature,
        persists=True,
        owner_bit=19,
        audited=True,
    ),
    Command(
        Ordinal.LOAD_MANU_MAINT_PUB,
        source="3:12.4",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=LoadManuMaintPubRequest,
        response=ChecksumResponse,
        handler=load_manu_maint_pub,
        persists=True,
        audited=True,
    ),
    Command(
        Ordinal.READ_MANU_MAINT_PUB,
        source="3:12.5",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=ReadManuMaintPubRequest,
        response=ChecksumResponse,
        handler=read_manu_maint_pub,
        volatile=False,
        audited=True,
    ),
)
