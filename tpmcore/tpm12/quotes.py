# SPDX-License-Identifier: Apache-2.0
"""Quotes (Part 3, 16.3 and 16.4): a key signs what the PCRs are."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from protocol.tpm12.attestation import QuoteInfo, QuoteInfo2
from protocol.tpm12.constants import KeyUsage, Ordinal, ReturnCode, SigScheme
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection, composite_hash
from protocol.tpm12.records import record
from protocol.tpm12.wire import BOOL, DIGEST, SIZED, U32, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12.capability import version_info
from tpmcore.tpm12.command import AUTH0_OR_1, Command, Gate
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.state import KeyBody

_FIXED_QUOTE: Final = b"QUOT"
_SCHEMES: Final = frozenset({SigScheme.RSASSAPKCS1V15_SHA1, SigScheme.RSASSAPKCS1V15_INFO})
_USAGES: Final = frozenset({KeyUsage.SIGNING, KeyUsage.IDENTITY, KeyUsage.LEGACY})


@record
class QuoteRequest(Structure):
    """keyHandle u32, externalData 20, targetPCR."""

    key_handle: Annotated[int, U32]
    external_data: Annotated[bytes, DIGEST]
    target_pcr: PcrSelection


@record
class QuoteResponse(Structure):
    """pcrData TPM_PCR_COMPOSITE (selection, values sized), sig sized."""

    pcr_selection: PcrSelection
    pcr_values: Annotated[bytes, SIZED]
    sig: Annotated[bytes, SIZED]


def quote(ctx: Context, request: QuoteRequest) -> QuoteResponse:
    """Sign the composite of PCR values and a nonce of the caller (16.3)."""
    key = _quoting_key(ctx, request.key_handle)
    selection, pcrs = request.target_pcr, ctx.tpm.stclear.pcrs
    info = QuoteInfo(_FIXED_QUOTE, composite_hash(selection, pcrs), request.external_data)
    sig = key.private.sign_sha1_digest(hashlib.sha1(info.encode()).digest())
    return QuoteResponse(selection, b"".join([pcrs[i] for i in selection.indices]), sig)


def _quoting_key(ctx: Context, handle: int) -> KeyBody:
    """Return the key of a quote once its use is authorized."""
    key = ctx.key(handle)
    ctx.authorize_key_if_present(0, key, present=ctx.auth_count == 1)
    if key.public.algorithm_parms.sig_scheme not in _SCHEMES:
        raise TpmError(ReturnCode.INAPPROPRIATE_SIG)
    if key.public.key_usage not in _USAGES:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    return key


@record
class Quote2Request(Structure):
    """keyHandle u32, externalData 20, targetPCR, addVersion bool."""

    key_handle: Annotated[int, U32]
    external_data: Annotated[bytes, DIGEST]
    target_pcr: PcrSelection
    add_version: Annotated[bool, BOOL]


@record
class Quote2Response(Structure):
    """pcrData TPM_PCR_INFO_SHORT, versionInfo sized, sig sized."""

    pcr_data: PcrInfoShort
    version_info: Annotated[bytes, SIZED]
    sig: Annotated[bytes, SIZED]


def quote2(ctx: Context, request: Quote2Request) -> Quote2Response:
    """Sign PCR values, the locality of the command and, if wanted, the TPM's version (16.4)."""
    tpm = ctx.tpm
    key = _quoting_key(ctx, request.key_handle)
    selection = request.target_pcr
    info = PcrInfoShort(selection, 1 << ctx.locality, composite_hash(selection, tpm.stclear.pcrs))
    version = version_info(tpm).encode() if request.add_version else b""
    signed = QuoteInfo2(request.external_data, info).encode() + version
    sig = key.private.sign_sha1_digest(hashlib.sha1(signed).digest())
    return Quote2Response(info, version, sig)


COMMANDS: Final = (
    Command(
        Ordinal.QUOTE,
        source="3:16.3",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=QuoteRequest,
        response=QuoteResponse,
        handler=quote,
        handles_in=4,
        volatile=False,
        key_bit=3,
    ),
    Command(
        Ordinal.QUOTE2,
        source="3:16.4",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=Quote2Request,
        response=Quote2Response,
        handler=quote2,
        handles_in=4,
        volatile=False,
        key_bit=19,
    ),
)
