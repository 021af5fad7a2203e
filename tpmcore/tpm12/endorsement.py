# SPDX-License-Identifier: Apache-2.0
"""Endorsement key handling (Part 3, chapter 14), and the two deprecated readers (chapter 27)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Final

from protocol.tpm12.constants import (
    Algorithm,
    EncScheme,
    Ordinal,
    ReservedHandle,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import KeyParms, PubKey
from protocol.tpm12.records import record
from protocol.tpm12.wire import BOOL, DIGEST, U32, Structure
from tpmcore.engine import Duration
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH1, NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.keyblob import check_rsa_parms
from tpmcore.tpm12.ownership import clear
from tpmcore.tpm12.rsa import PrivateKey
from tpmcore.tpm12.state import EK_BITS, ZERO_DIGEST, EndorsementKey
from tpmcore.tpm12.tpm import Tpm


def make_default_ek(tpm: Tpm) -> None:
    """Make the endorsement key that a chip leaves the factory with; RevokeTrust cannot remove
    it."""
    parms = KeyParms.for_rsa(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1, bits=EK_BITS)
    _make_ek(tpm, parms)
    tpm.permanent.flags.enable_revoke_ek = False


def _make_ek(tpm: Tpm, key_info: KeyParms) -> PubKey:
    """Make the endorsement key (14.1).

    Raises:
        TpmError: DISABLED_CMD if there is one, BAD_KEY_PROPERTY.
    """
    permanent = tpm.permanent
    if permanent.ek is not None:
        raise TpmError(ReturnCode.DISABLED_CMD)
    rsa = check_rsa_parms(key_info)
    if rsa.key_length != EK_BITS or key_info.enc_scheme != EncScheme.RSAESOAEP_SHA1_MGF1:
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)
    private = PrivateKey.generate(tpm.world.keys, EK_BITS, rsa.exponent_value)
    # The exponent stays as it was written, also if it was left out; the key never signs.
    parms = KeyParms(Algorithm.RSA, key_info.enc_scheme, SigScheme.NONE, key_info.parms)
    ek = EndorsementKey(private, parms)
    permanent.ek = ek
    permanent.ek_reset = ZERO_DIGEST
    tpm.fresh_ek = ek.fingerprint()
    tpm.renew_daa_secrets()
    return ek.public_key()


def existing_ek(tpm: Tpm) -> EndorsementKey:
    """Return the endorsement key.

    Raises:
        TpmError: NO_ENDORSEMENT.
    """
    ek = tpm.permanent.ek
    if ek is None:
        raise TpmError(ReturnCode.NO_ENDORSEMENT)
    return ek


def checksum(key: PubKey, anti_replay: bytes) -> bytes:
    """Return what ties the answer to the question: SHA-1 of TPM_PUBKEY and the nonce."""
    return hashlib.sha1(key.encode_once() + anti_replay).digest()


@record
class CreateEndorsementKeyPairRequest(Structure):
    """antiReplay 20, keyInfo."""

    anti_replay: Annotated[bytes, DIGEST]
    key_info: KeyParms


@record
class PubekResponse(Structure):
    """pubEndorsementKey, checksum 20."""

    pub_endorsement_key: PubKey
    checksum: Annotated[bytes, DIGEST]


def create_endorsement_key_pair(
    ctx: Context, request: CreateEndorsementKeyPairRequest
) -> PubekResponse:
    """Make the endorsement key, once in the life of a chip (14.1)."""
    key = _make_ek(ctx.tpm, request.key_info)
    flags = ctx.tpm.permanent.flags
    flags.cekp_used = True
    flags.enable_revoke_ek = False
    return PubekResponse(key, checksum(key, request.anti_replay))


@record(repr=False)
class CreateRevocableEkRequest(Structure):
    """antiReplay 20, keyInfo, generateReset bool, inputEKreset 20."""

    anti_replay: Annotated[bytes, DIGEST]
    key_info: KeyParms
    generate_reset: Annotated[bool, BOOL]
    input_ek_reset: Annotated[bytes, DIGEST]


@record(repr=False)
class CreateRevocableEkResponse(Structure):
    """pubEndorsementKey, checksum 20, outputEKreset 20."""

    pub_endorsement_key: PubKey
    checksum: Annotated[bytes, DIGEST]
    output_ek_reset: Annotated[bytes, DIGEST]


def create_revocable_ek(
    ctx: Context, request: CreateRevocableEkRequest
) -> CreateRevocableEkResponse:
    """Make an endorsement key that whoever holds a secret can remove (14.2)."""
    tpm = ctx.tpm
    key = _make_ek(tpm, request.key_info)
    secret = tpm.new_nonce() if request.generate_reset else request.input_ek_reset
    permanent = tpm.permanent
    permanent.ek_reset = secret
    permanent.flags.cekp_used = True
    permanent.flags.enable_revoke_ek = True
    return CreateRevocableEkResponse(key, checksum(key, request.anti_replay), secret)


@record(repr=False)
class RevokeTrustRequest(Structure):
    """EKReset 20."""

    ek_reset: Annotated[bytes, DIGEST]


def revoke_trust(ctx: Context, request: RevokeTrustRequest) -> Nothing:
    """Remove the endorsement key and everything that hangs on it (14.3)."""
    permanent = ctx.tpm.permanent
    if not permanent.flags.enable_revoke_ek:
        raise TpmError(ReturnCode.PERMANENTEK)
    if not hmac.compare_digest(permanent.ek_reset, request.ek_reset):
        raise TpmError(ReturnCode.AUTHFAIL)
    ctx.require_presence()
    clear(ctx.tpm, d_bit_areas=True)
    permanent.flags.nv_locked = False
    permanent.ek = None
    ctx.tpm.fresh_ek = b""
    permanent.ek_reset = ZERO_DIGEST
    permanent.flags.cekp_used = False
    ctx.tpm.renew_daa_secrets()
    return NOTHING


@record
class ReadPubekRequest(Structure):
    """antiReplay 20."""

    anti_replay: Annotated[bytes, DIGEST]


def read_pubek(ctx: Context, request: ReadPubekRequest) -> PubekResponse:
    """Give the public endorsement key to anybody, while that is allowed (14.4)."""
    if not ctx.tpm.permanent.flags.read_pubek:
        raise TpmError(ReturnCode.DISABLED_CMD)
    key = existing_ek(ctx.tpm).public_key()
    return PubekResponse(key, checksum(key, request.anti_replay))


@record
class OwnerReadInternalPubRequest(Structure):
    """keyHandle u32, which is part of the digest here."""

    key_handle: Annotated[int, U32]


@record
class PubKeyResponse(Structure):
    """publicPortion TPM_PUBKEY."""

    public_portion: PubKey


def owner_read_internal_pub(ctx: Context, request: OwnerReadInternalPubRequest) -> PubKeyResponse:
    """Give the public part of EK or SRK to the owner (14.5)."""
    ctx.authorize_owner()
    srk = ctx.tpm.permanent.srk
    if request.key_handle == ReservedHandle.SRK and srk is not None:
        return PubKeyResponse(srk.public.public_key)
    if request.key_handle == ReservedHandle.EK:
        return PubKeyResponse(existing_ek(ctx.tpm).public_key())
    raise TpmError(ReturnCode.BAD_PARAMETER)


def owner_read_pubek(ctx: Context, _request: Nothing) -> PubKeyResponse:
    """Give the public endorsement key to the owner (27.6)."""
    ctx.authorize_owner()
    return PubKeyResponse(existing_ek(ctx.tpm).public_key())


def disable_pubek_read(ctx: Context, _request: Nothing) -> Nothing:
    """Refuse ReadPubek until the owner is cleared (27.7)."""
    ctx.authorize_owner()
    ctx.tpm.permanent.flags.read_pubek = False
    return NOTHING


COMMANDS: Final = (
    Command(
        Ordinal.CREATE_ENDORSEMENT_KEY_PAIR,
        source="3:14.1",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=CreateEndorsementKeyPairRequest,
        response=PubekResponse,
        handler=create_endorsement_key_pair,
        duration=Duration.LONG,
        persists=True,
    ),
    Command(
        Ordinal.CREATE_REVOCABLE_EK,
        source="3:14.2",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=CreateRevocableEkRequest,
        response=CreateRevocableEkResponse,
        handler=create_revocable_ek,
        duration=Duration.LONG,
        persists=True,
    ),
    Command(
        Ordinal.REVOKE_TRUST,
        source="3:14.3",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=RevokeTrustRequest,
        response=Nothing,
        handler=revoke_trust,
        persists=True,
    ),
    Command(
        Ordinal.READ_PUBEK,
        source="3:14.4",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=ReadPubekRequest,
        response=PubekResponse,
        handler=read_pubek,
        volatile=False,
        audited=True,
    ),
    Command(
        Ordinal.OWNER_READ_INTERNAL_PUB,
        source="3:14.5",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=OwnerReadInternalPubRequest,
        response=PubKeyResponse,
        handler=owner_read_internal_pub,
        owner_bit=18,
    ),
    Command(
        Ordinal.OWNER_READ_PUBEK,
        source="3:27.6",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=Nothing,
        response=PubKeyResponse,
        handler=owner_read_pubek,
        owner_bit=9,
        audited=True,
    ),
    Command(
        Ordinal.DISABLE_PUBEK_READ,
        source="3:27.7",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=Nothing,
        response=Nothing,
        handler=disable_pubek_read,
        persists=True,
        owner_bit=8,
        audited=True,
    ),
)
