# SPDX-License-Identifier: Apache-2.0
"""Timing ticks (Part 3, chapter 23). One tick is a microsecond."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from protocol.tpm12.attestation import SignInfo
from protocol.tpm12.constants import KeyUsage, Ordinal, ReturnCode, SigScheme
from protocol.tpm12.records import record
from protocol.tpm12.resources import CurrentTicks
from protocol.tpm12.wire import DIGEST, SIZED, U32, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH0_OR_1, NO_AUTH, Command, Gate, Nothing
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.tpm import Tpm

TICK_RATE_US: Final = 1

_SIGNING_USAGES: Final = frozenset({KeyUsage.SIGNING, KeyUsage.IDENTITY, KeyUsage.LEGACY})
_DIGEST_SCHEMES: Final = frozenset({SigScheme.RSASSAPKCS1V15_SHA1, SigScheme.RSASSAPKCS1V15_INFO})


def current_ticks(tpm: Tpm) -> CurrentTicks:
    """Return the ticks since the tick session began, which was at TPM_Init (4.12)."""
    elapsed_us = tpm.world.ticks.ticks_us() - tpm.stany.tick_base_us
    return CurrentTicks(elapsed_us // TICK_RATE_US, TICK_RATE_US, tpm.stany.tick_nonce)


@record
class GetTicksResponse(Structure):
    """currentTime TPM_CURRENT_TICKS."""

    current_time: CurrentTicks


def get_ticks(ctx: Context, _request: Nothing) -> GetTicksResponse:
    """Return the tick count (23.1)."""
    return GetTicksResponse(current_ticks(ctx.tpm))


@record
class TickStampBlobRequest(Structure):
    """keyHandle u32, antiReplay 20, digestToStamp 20."""

    key_handle: Annotated[int, U32]
    anti_replay: Annotated[bytes, DIGEST]
    digest_to_stamp: Annotated[bytes, DIGEST]


@record
class TickStampBlobResponse(Structure):
    """currentTicks TPM_CURRENT_TICKS, sig sized."""

    current_ticks: CurrentTicks
    sig: Annotated[bytes, SIZED]


def tick_stamp_blob(ctx: Context, request: TickStampBlobRequest) -> TickStampBlobResponse:
    """Sign a digest together with the tick count (23.2)."""
    key = ctx.key(request.key_handle)
    ctx.authorize_key_if_present(0, key, present=bool(ctx.auths))
    if key.public.key_usage not in _SIGNING_USAGES:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    if key.public.algorithm_parms.sig_scheme not in _DIGEST_SCHEMES:
        raise TpmError(ReturnCode.INAPPROPRIATE_SIG)
    ticks = current_ticks(ctx.tpm)
    info = SignInfo(b"TSTP", request.anti_replay, request.digest_to_stamp + ticks.encode())
    digest = hashlib.sha1(info.encode()).digest()
    return TickStampBlobResponse(ticks, key.private.sign_sha1_digest(digest))


COMMANDS = (
    Command(
        Ordinal.GET_TICKS,
        source="3:23.1",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=Nothing,
        response=GetTicksResponse,
        handler=get_ticks,
        volatile=False,
    ),
    Command(
        Ordinal.TICK_STAMP_BLOB,
        source="3:23.2",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=TickStampBlobRequest,
        response=TickStampBlobResponse,
        handler=tick_stamp_blob,
        handles_in=4,
        volatile=False,
        key_bit=27,
    ),
)
