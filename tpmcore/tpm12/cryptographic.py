# SPDX-License-Identifier: Apache-2.0
"""Cryptographic functions (Part 3, chapter 13) without the certification of keys."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from protocol.tpm12.attestation import SignInfo
from protocol.tpm12.constants import KeyUsage, Ordinal, ReturnCode, SigScheme
from protocol.tpm12.framing import HEADER_BYTES
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, DIGEST_BYTES, SIZED, U32, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH0_OR_1, NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.pcrs import ExtendRequest, extend
from tpmcore.tpm12.rsa import RsaError
from tpmcore.tpm12.tpm import Tpm

SHA1_BLOCK_BYTES: Final = 64
_SIZED_OVERHEAD_BYTES: Final = HEADER_BYTES + 4
_SIGNING_USAGES: Final = frozenset({KeyUsage.SIGNING, KeyUsage.LEGACY})
_FIXED_SIGN: Final = b"SIGN"


def _max_sha1_bytes(tpm: Tpm) -> int:
    """Return the most that one SHA1Update takes: whole blocks, and a header fits beside them."""
    blocks = (tpm.profile.input_buffer_bytes - _SIZED_OVERHEAD_BYTES) // SHA1_BLOCK_BYTES
    return blocks * SHA1_BLOCK_BYTES


@record
class Sha1StartResponse(Structure):
    """maxNumBytes u32."""

    max_num_bytes: Annotated[int, U32]


def sha1_start(ctx: Context, _request: Nothing) -> Sha1StartResponse:
    """Begin to hash (13.1); every ordinal but the next three ends the thread again."""
    ctx.tpm.sha1_thread = hashlib.sha1()
    ctx.tpm.sha1_transport = ctx.transport
    return Sha1StartResponse(_max_sha1_bytes(ctx.tpm))


@record
class Sha1DataRequest(Structure):
    """hashData sized."""

    hash_data: Annotated[bytes, SIZED]


def sha1_update(ctx: Context, request: Sha1DataRequest) -> Nothing:
    """Hash whole blocks (13.2)."""
    tpm = ctx.tpm
    thread = tpm.sha1_thread
    if thread is None:
        raise TpmError(ReturnCode.SHA_THREAD)
    size_bytes = len(request.hash_data)
    if size_bytes % SHA1_BLOCK_BYTES or size_bytes > _max_sha1_bytes(tpm):
        tpm.sha1_thread = None
        raise TpmError(ReturnCode.SHA_ERROR)
    thread.update(request.hash_data)
    return NOTHING


@record
class Sha1CompleteResponse(Structure):
    """hashValue 20."""

    hash_value: Annotated[bytes, DIGEST]


def sha1_complete(ctx: Context, request: Sha1DataRequest) -> Sha1CompleteResponse:
    """Hash what is left and give the digest (13.3)."""
    return Sha1CompleteResponse(_finish_sha1(ctx.tpm, request.hash_data))


def _finish_sha1(tpm: Tpm, data: bytes) -> bytes:
    """End the thread, in any case, and return the digest."""
    thread, tpm.sha1_thread = tpm.sha1_thread, None
    if len(data) > SHA1_BLOCK_BYTES:
        raise TpmError(ReturnCode.SHA_ERROR)
    if thread is None:
        raise TpmError(ReturnCode.SHA_THREAD)
    thread.update(data)
    return thread.digest()


@record
class Sha1CompleteExtendRequest(Structure):
    """pcrNum u32, hashData sized."""

    pcr_num: Annotated[int, U32]
    hash_data: Annotated[bytes, SIZED]


@record
class Sha1CompleteExtendResponse(Structure):
    """hashValue 20, outDigest 20."""

    hash_value: Annotated[bytes, DIGEST]
    out_digest: Annotated[bytes, DIGEST]


def sha1_complete_extend(
    ctx: Context, request: Sha1CompleteExtendRequest
) -> Sha1CompleteExtendResponse:
    """Hash what is left and fold the digest into a PCR (13.4)."""
    digest = _finish_sha1(ctx.tpm, request.hash_data)
    value = extend(ctx, ExtendRequest(request.pcr_num, digest))
    return Sha1CompleteExtendResponse(digest, value.out_digest)


@record
class SignRequest(Structure):
    """keyHandle u32, areaToSign sized."""

    key_handle: Annotated[int, U32]
    area_to_sign: Annotated[bytes, SIZED]


@record
class SignResponse(Structure):
    """sig sized."""

    sig: Annotated[bytes, SIZED]


def sign(ctx: Context, request: SignRequest) -> SignResponse:
    """Sign as the key's scheme says (13.5)."""
    key = ctx.key(request.key_handle)
    has_auth = ctx.auth_count == 1
    ctx.authorize_key_if_present(0, key, present=has_auth)
    area = request.area_to_sign
    if not area:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    if key.public.key_usage not in _SIGNING_USAGES:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    scheme = key.public.algorithm_parms.sig_scheme
    if scheme == SigScheme.RSASSAPKCS1V15_SHA1:
        if len(area) != DIGEST_BYTES:
            raise TpmError(ReturnCode.BAD_PARAMETER)
        return SignResponse(key.private.sign_sha1_digest(area))
    if scheme == SigScheme.RSASSAPKCS1V15_DER:
        try:
            return SignResponse(key.private.sign_der(area))
        except RsaError as error:
            raise TpmError(ReturnCode.BAD_PARAMETER) from error
    if scheme == SigScheme.RSASSAPKCS1V15_INFO:
        if not has_auth:
            # The nonce that the signature is to contain is in the authorization block.
            raise TpmError(ReturnCode.BAD_PARAMETER)
        info = SignInfo(_FIXED_SIGN, ctx.auths[0].nonce_odd, area).encode()
        return SignResponse(key.private.sign_sha1_digest(hashlib.sha1(info).digest()))
    raise TpmError(ReturnCode.INVALID_KEYUSAGE)


@record
class GetRandomRequest(Structure):
    """bytesRequested u32."""

    bytes_requested: Annotated[int, U32]


@record(repr=False)
class GetRandomResponse(Structure):
    """randomBytes sized."""

    random_bytes: Annotated[bytes, SIZED]


def get_random(ctx: Context, request: GetRandomRequest) -> GetRandomResponse:
    """Give random bytes, no more than fit in a response (13.6)."""
    tpm = ctx.tpm
    most = tpm.profile.input_buffer_bytes - _SIZED_OVERHEAD_BYTES
    return GetRandomResponse(tpm.random(min(request.bytes_requested, most)))


@record(repr=False)
class StirRandomRequest(Structure):
    """inData sized."""

    in_data: Annotated[bytes, SIZED]


def stir_random(ctx: Context, request: StirRandomRequest) -> Nothing:
    """Mix the caller's data into the generator (13.7); of any length, as libtpms has it."""
    ctx.tpm.world.random.stir(request.in_data)
    return NOTHING


COMMANDS: Final = (
    Command(
        Ordinal.SHA1_START,
        source="3:13.1",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=Nothing,
        response=Sha1StartResponse,
        handler=sha1_start,
        volatile=False,
    ),
    Command(
        Ordinal.SHA1_UPDATE,
        source="3:13.2",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=Sha1DataRequest,
        response=Nothing,
        handler=sha1_update,
        volatile=False,
    ),
    Command(
        Ordinal.SHA1_COMPLETE,
        source="3:13.3",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=Sha1DataRequest,
        response=Sha1CompleteResponse,
        handler=sha1_complete,
        volatile=False,
    ),
    Command(
        Ordinal.SHA1_COMPLETE_EXTEND,
        source="3:13.4",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=Sha1CompleteExtendRequest,
        response=Sha1CompleteExtendResponse,
        handler=sha1_complete_extend,
    ),
    Command(
        Ordinal.SIGN,
        source="3:13.5",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=SignRequest,
        response=SignResponse,
        handler=sign,
        handles_in=4,
        volatile=False,
        key_bit=14,
    ),
    Command(
        Ordinal.GET_RANDOM,
        source="3:13.6",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=GetRandomRequest,
        response=GetRandomResponse,
        handler=get_random,
        volatile=False,
    ),
    Command(
        Ordinal.STIR_RANDOM,
        source="3:13.7",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=StirRandomRequest,
        response=Nothing,
        handler=stir_random,
        volatile=False,
    ),
)
