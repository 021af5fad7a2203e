# SPDX-License-Identifier: Apache-2.0
"""Admin ownership (Part 3, chapter 6) and what clearing the owner means (Part 1, 4.14 of the engine
reference)."""

from __future__ import annotations

from typing import Annotated, Final

from protocol.tpm12.constants import (
    COUNT_ID_NULL,
    NV_INDEX_D_BIT,
    AuthDataUsage,
    EncScheme,
    KeyFlags,
    KeyUsage,
    NvAttributes,
    NvIndex,
    Ordinal,
    ProtocolId,
    ReservedHandle,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import Key
from protocol.tpm12.records import record
from protocol.tpm12.wire import SIZED, U16, Structure
from tpmcore.engine import Duration
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH1, NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import OIAP_ONLY, Context, Entity
from tpmcore.tpm12.keyblob import create_key
from tpmcore.tpm12.rsa import RsaError
from tpmcore.tpm12.state import (
    ZERO_DIGEST,
    EndorsementKey,
    EntityKind,
    NvArea,
)
from tpmcore.tpm12.tpm import Tpm

SECRET_BYTES: Final = 20
SRK_BITS: Final = 2048


@record(repr=False)
class TakeOwnershipRequest(Structure):
    """protocolID u16, encOwnerAuth sized, encSrkAuth sized, srkParams TPM_KEY or TPM_KEY12."""

    protocol_id: Annotated[int, U16]
    enc_owner_auth: Annotated[bytes, SIZED]
    enc_srk_auth: Annotated[bytes, SIZED]
    srk_params: Key


@record
class TakeOwnershipResponse(Structure):
    """srkPub, of the same version as srkParams, with empty encData."""

    srk_pub: Key


def take_ownership(ctx: Context, request: TakeOwnershipRequest) -> TakeOwnershipResponse:
    """Install an owner and make a storage root key (6.1); the request is keyed with the new
    secret."""
    tpm = ctx.tpm
    permanent = tpm.permanent
    if tpm.is_owned:
        raise TpmError(ReturnCode.OWNER_SET)
    if not permanent.flags.ownership:
        raise TpmError(ReturnCode.INSTALL_DISABLED)
    if permanent.ek is None:
        raise TpmError(ReturnCode.NO_ENDORSEMENT)
    session = tpm.stany.sessions.get(ctx.auths[0].handle)
    if session is None:
        raise TpmError(ReturnCode.INVALID_AUTHHANDLE)
    if session.protocol != ProtocolId.OIAP:
        raise TpmError(ReturnCode.BAD_MODE)
    if request.protocol_id != ProtocolId.OWNER:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    owner_auth = _decrypt_secret(permanent.ek, request.enc_owner_auth)
    ctx.authorize(0, Entity(EntityKind.OWNER, owner_auth), OIAP_ONLY)
    check_srk(request.srk_params, fips=permanent.flags.fips)
    srk_auth = _decrypt_secret(permanent.ek, request.enc_srk_auth)
    # A new owner period: blobs and contexts of the one before must not load (6.1, 12-14).
    tpm_proof = tpm.random(20)
    srk = create_key(tpm, request.srk_params, usage_auth=srk_auth, migration_auth=tpm_proof)
    permanent.tpm_proof = tpm_proof
    permanent.context_key = tpm.random(16)
    permanent.delegate_key = tpm.random(16)
    permanent.srk = srk
    permanent.owner_auth = owner_auth
    permanent.flags.read_pubek = False
    return TakeOwnershipResponse(srk.public)


def _decrypt_secret(ek: EndorsementKey, encrypted: bytes) -> bytes:
    try:
        secret = ek.private.decrypt_oaep(encrypted)
    except RsaError:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from None
    if len(secret) != SECRET_BYTES:
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)
    return secret


def check_srk(params: Key, *, fips: bool) -> None:
    """Check what an SRK must be (6.1, 8 and 9).

    Raises:
        TpmError: INVALID_KEYUSAGE, BAD_KEY_PROPERTY, NOTFIPS.
    """
    if params.key_usage != KeyUsage.STORAGE or params.key_flags & KeyFlags.MIGRATABLE:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    parms = params.algorithm_parms
    if (
        parms.enc_scheme != EncScheme.RSAESOAEP_SHA1_MGF1
        or parms.sig_scheme != SigScheme.NONE
        or parms.algorithm_id != 1
        or parms.rsa.key_length != SRK_BITS
        or parms.rsa.exponent
    ):
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)
    if fips and params.auth_data_usage == AuthDataUsage.NEVER:
        raise TpmError(ReturnCode.NOTFIPS)


def owner_clear(ctx: Context, _request: Nothing) -> Nothing:
    """Remove the owner with the owner's secret (6.2)."""
    ctx.authorize_owner()
    if ctx.tpm.permanent.flags.disable_owner_clear:
        raise TpmError(ReturnCode.CLEAR_DISABLED)
    ctx.end_session(0)
    clear(ctx.tpm)
    return NOTHING


def force_clear(ctx: Context, _request: Nothing) -> Nothing:
    """Remove the owner with physical presence (6.3)."""
    ctx.require_presence()
    if ctx.tpm.stclear.flags.disable_force_clear:
        raise TpmError(ReturnCode.CLEAR_DISABLED)
    clear(ctx.tpm)
    return NOTHING


def disable_owner_clear(ctx: Context, _request: Nothing) -> Nothing:
    """Refuse OwnerClear until the next clear (6.4)."""
    ctx.authorize_owner()
    ctx.tpm.permanent.flags.disable_owner_clear = True
    return NOTHING


def disable_force_clear(ctx: Context, _request: Nothing) -> Nothing:
    """Refuse ForceClear until the next Startup(CLEAR) (6.5)."""
    ctx.tpm.stclear.flags.disable_force_clear = True
    return NOTHING


_OWNER_ACCESS: Final = int(NvAttributes.OWNERREAD | NvAttributes.OWNERWRITE)


def clear(tpm: Tpm, *, d_bit_areas: bool = False) -> None:
    """Do what OwnerClear, ForceClear and RevokeTrust have in common: end the owner period.

    Args:
        d_bit_areas: also delete NV areas with the D bit (RevokeTrust).
    """
    permanent, stclear = tpm.permanent, tpm.stclear
    stclear.keys.clear()
    permanent.owner_evict_keys.clear()
    permanent.owner_auth = None
    permanent.srk = None
    permanent.tpm_proof = tpm.random(20)
    permanent.context_key = tpm.random(16)
    permanent.delegate_key = tpm.random(16)
    permanent.operator_auth = ZERO_DIGEST
    permanent.no_owner_nv_write = 0
    permanent.restrict_delegate = 0
    permanent.audit_status.clear()
    permanent.families.clear()
    permanent.delegate_rows.clear()
    tpm.end_all_sessions()
    tpm.lockout.reset()
    stclear.context_nonce_key = ZERO_DIGEST
    stclear.count_id = COUNT_ID_NULL
    stclear.deferred_physical_presence = 0
    stclear.owner_reference = ReservedHandle.OWNER
    tpm.stany.audit_digest = ZERO_DIGEST
    flags = permanent.flags
    flags.disable = True
    flags.deactivated = True
    flags.read_pubek = True
    flags.disable_owner_clear = False
    flags.disable_full_da_logic_info = False
    flags.allow_maintenance = True
    flags.read_srk_pub = False
    flags.ownership = True
    flags.operator = False
    flags.maintenance_done = False
    permanent.counters = [counter.released() for counter in permanent.counters]
    for index, area in list(permanent.nv.items()):
        if index == NvIndex.GPIO_FIRST or _dies_with_owner(index, area, d_bit_areas=d_bit_areas):
            del permanent.nv[index]


def _dies_with_owner(index: int, area: NvArea, *, d_bit_areas: bool) -> bool:
    if index & NV_INDEX_D_BIT:
        return d_bit_areas
    return bool(area.public.permission.attributes & _OWNER_ACCESS)


COMMANDS = (
    Command(
        Ordinal.TAKE_OWNERSHIP,
        source="3:6.1",
        auth_blocks=AUTH1,
        gate=Gate.ENABLED,
        request=TakeOwnershipRequest,
        response=TakeOwnershipResponse,
        handler=take_ownership,
        duration=Duration.LONG,
        persists=True,
        audited=True,
    ),
    Command(
        Ordinal.OWNER_CLEAR,
        source="3:6.2",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=Nothing,
        response=Nothing,
        handler=owner_clear,
        persists=True,
        owner_bit=16,
        audited=True,
    ),
    Command(
        Ordinal.FORCE_CLEAR,
        source="3:6.3",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=Nothing,
        response=Nothing,
        handler=force_clear,
        persists=True,
        audited=True,
    ),
    Command(
        Ordinal.DISABLE_OWNER_CLEAR,
        source="3:6.4",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=Nothing,
        response=Nothing,
        handler=disable_owner_clear,
        persists=True,
        owner_bit=15,
        audited=True,
    ),
    Command(
        Ordinal.DISABLE_FORCE_CLEAR,
        source="3:6.5",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=Nothing,
        response=Nothing,
        handler=disable_force_clear,
        audited=True,
    ),
)
