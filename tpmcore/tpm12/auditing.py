# SPDX-License-Identifier: Apache-2.0
"""Auditing (Part 3, chapter 8): what is audited, and the digest of it."""

from __future__ import annotations

import hashlib
import struct
from typing import Annotated, Final

from protocol.tpm12.attestation import SignInfo
from protocol.tpm12.constants import KeyUsage, Ordinal, ReturnCode, SigScheme
from protocol.tpm12.records import record
from protocol.tpm12.resources import CounterValue
from protocol.tpm12.wire import BOOL, DIGEST, SIZED, U32, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12 import audit_trail
from tpmcore.tpm12.command import AUTH0_OR_1, AUTH1, NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.state import ZERO_DIGEST

_FIXED: Final = b"ADIG"
_USAGES: Final = frozenset({KeyUsage.SIGNING, KeyUsage.IDENTITY, KeyUsage.LEGACY})
_SCHEMES: Final = frozenset({SigScheme.RSASSAPKCS1V15_SHA1, SigScheme.RSASSAPKCS1V15_INFO})


@record
class GetAuditDigestRequest(Structure):
    """startOrdinal u32."""

    start_ordinal: Annotated[int, U32]


@record
class GetAuditDigestResponse(Structure):
    """counterValue 10, auditDigest 20, more bool, ordList sized: u32 each."""

    counter_value: CounterValue
    audit_digest: Annotated[bytes, DIGEST]
    more: Annotated[bool, BOOL]
    ord_list: Annotated[bytes, SIZED]


def get_audit_digest(ctx: Context, request: GetAuditDigestRequest) -> GetAuditDigestResponse:
    """Tell the digest, and what is audited from one ordinal on (8.3); the list is never cut."""
    tpm = ctx.tpm
    return GetAuditDigestResponse(
        audit_trail.counter_value(tpm),
        tpm.stany.audit_digest,
        False,
        _audited_ordinals(ctx, request.start_ordinal),
    )


def _audited_ordinals(ctx: Context, start: int = 0) -> bytes:
    """Return the audited ordinals in ascending order, u32 each."""
    rows = ctx.dispatcher.rows()
    ordinals = sorted([row.ordinal for row in rows if audit_trail.is_audited(ctx.tpm, row)])
    listed = [ordinal for ordinal in ordinals if ordinal >= start]
    return struct.pack(f">{len(listed)}I", *listed)


@record
class GetAuditDigestSignedRequest(Structure):
    """keyHandle u32, closeAudit bool, antiReplay 20."""

    key_handle: Annotated[int, U32]
    close_audit: Annotated[bool, BOOL]
    anti_replay: Annotated[bytes, DIGEST]


@record
class GetAuditDigestSignedResponse(Structure):
    """counterValue 10, auditDigest 20, ordinalDigest 20, sig sized."""

    counter_value: CounterValue
    audit_digest: Annotated[bytes, DIGEST]
    ordinal_digest: Annotated[bytes, DIGEST]
    sig: Annotated[bytes, SIZED]


def get_audit_digest_signed(
    ctx: Context, request: GetAuditDigestSignedRequest
) -> GetAuditDigestSignedResponse:
    """Sign digest, counter and what is audited; an identity key may end the chain (8.4)."""
    tpm = ctx.tpm
    key = ctx.key(request.key_handle)
    ctx.authorize_key_if_present(0, key, present=bool(ctx.auths))
    usage = key.public.key_usage
    if (
        usage not in _USAGES
        or key.public.algorithm_parms.sig_scheme not in _SCHEMES
        or (request.close_audit and usage != KeyUsage.IDENTITY)
    ):
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    counter, digest = audit_trail.counter_value(tpm), tpm.stany.audit_digest
    ordinal_digest = hashlib.sha1(_audited_ordinals(ctx)).digest()
    info = SignInfo(_FIXED, request.anti_replay, digest + counter.encode() + ordinal_digest)
    sig = key.private.sign_sha1_digest(hashlib.sha1(info.encode()).digest())
    if request.close_audit:
        tpm.stany.audit_digest = ZERO_DIGEST
    return GetAuditDigestSignedResponse(counter, digest, ordinal_digest, sig)


@record
class SetOrdinalAuditStatusRequest(Structure):
    """ordinalToAudit u32, auditState bool."""

    ordinal_to_audit: Annotated[int, U32]
    audit_state: Annotated[bool, BOOL]


def set_ordinal_audit_status(ctx: Context, request: SetOrdinalAuditStatusRequest) -> Nothing:
    """Have an ordinal audited or not (8.5)."""
    ctx.authorize_owner()
    row = ctx.dispatcher.row_of(request.ordinal_to_audit)
    if row is None:
        raise TpmError(ReturnCode.BADINDEX)
    if row.audited is None and request.audit_state:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    status = ctx.tpm.permanent.audit_status
    if request.audit_state == bool(row.audited):
        status.pop(row.ordinal, None)
    else:
        status[int(row.ordinal)] = request.audit_state
    return NOTHING


COMMANDS: Final = (
    Command(
        Ordinal.GET_AUDIT_DIGEST,
        source="3:8.3",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=GetAuditDigestRequest,
        response=GetAuditDigestResponse,
        handler=get_audit_digest,
        volatile=False,
        audited=None,
    ),
    Command(
        Ordinal.GET_AUDIT_DIGEST_SIGNED,
        source="3:8.4",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=GetAuditDigestSignedRequest,
        response=GetAuditDigestSignedResponse,
        handler=get_audit_digest_signed,
        handles_in=4,
        key_bit=15,
        audited=None,
    ),
    Command(
        Ordinal.SET_ORDINAL_AUDIT_STATUS,
        source="3:8.5",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=SetOrdinalAuditStatusRequest,
        response=Nothing,
        handler=set_ordinal_audit_status,
        persists=True,
        owner_bit=30,
        audited=True,
    ),
)
