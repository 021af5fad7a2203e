# SPDX-License-Identifier: Apache-2.0
"""Opening authorization sessions (Part 3, chapter 18)."""

from __future__ import annotations

from typing import Annotated, Final

from protocol.tpm12.constants import (
    AdipScheme,
    EntityType,
    Ordinal,
    ProtocolId,
    ReservedHandle,
    ReturnCode,
)
from protocol.tpm12.delegation import DelegatePublic
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, U16, U32, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import NO_AUTH, Command, Gate, Nothing
from tpmcore.tpm12.context import Context, Entity
from tpmcore.tpm12.delegation_table import check_current, find_row
from tpmcore.tpm12.primitives import hmac_sha1
from tpmcore.tpm12.state import EntityKind, Session
from tpmcore.tpm12.tpm import Tpm

_OWNERLESS_ENTITIES: Final = frozenset({EntityType.NV, EntityType.COUNTER})


@record
class OiapResponse(Structure):
    """authHandle u32, nonceEven 20."""

    auth_handle: Annotated[int, U32]
    nonce_even: Annotated[bytes, DIGEST]


def oiap(ctx: Context, _request: Nothing) -> OiapResponse:
    """Open a session that works with any entity (18.1)."""
    tpm = ctx.tpm
    session = tpm.open_session(Session(0, ProtocolId.OIAP, tpm.new_nonce()))
    return OiapResponse(session.handle, session.nonce_even)


@record
class OsapRequest(Structure):
    """entityType u16, entityValue u32, nonceOddOSAP 20."""

    entity_type: Annotated[int, U16]
    entity_value: Annotated[int, U32]
    nonce_odd_osap: Annotated[bytes, DIGEST]


@record
class OsapResponse(Structure):
    """authHandle u32, nonceEven 20, nonceEvenOSAP 20."""

    auth_handle: Annotated[int, U32]
    nonce_even: Annotated[bytes, DIGEST]
    nonce_even_osap: Annotated[bytes, DIGEST]


def osap(ctx: Context, request: OsapRequest) -> OsapResponse:
    """Open a session bound to one entity (18.2)."""
    tpm = ctx.tpm
    entity_type = request.entity_type & 0xFF
    # Key, owner and SRK need an owner; NV areas and counters may exist without one.
    if not tpm.is_owned and entity_type not in _OWNERLESS_ENTITIES:
        raise TpmError(ReturnCode.NOSRK)
    if tpm.free_session_slots <= 0:
        raise TpmError(ReturnCode.RESOURCES)
    adip = adip_scheme(tpm, request.entity_type)
    entity = _entity(ctx, entity_type, request.entity_value)
    delegation: DelegatePublic | None = None
    reference = tpm.stclear.owner_reference
    if entity_type == EntityType.OWNER and reference != ReservedHandle.OWNER:
        # 18.2: as DSAP on the row that the owner pointer names.
        row = find_row(tpm, reference)
        check_current(tpm, row.public)
        entity = Entity(EntityKind.OWNER, row.auth_value, entity.digest)
        delegation = row.public
    nonce_even_osap = tpm.new_nonce()
    shared_secret = hmac_sha1(entity.secret, nonce_even_osap + request.nonce_odd_osap)
    assert entity.digest is not None
    session = tpm.open_session(
        Session(
            0,
            ProtocolId.OSAP if delegation is None else ProtocolId.DSAP,
            tpm.new_nonce(),
            shared_secret,
            entity.kind,
            entity.digest,
            adip,
            delegation,
        )
    )
    return OsapResponse(session.handle, session.nonce_even, nonce_even_osap)


def adip_scheme(tpm: Tpm, entity_type: int) -> AdipScheme:
    """Return the ADIP scheme in the high byte of an entity type.

    Raises:
        TpmError: INAPPROPRIATE_ENC if it is unknown, or is XOR under FIPS.
    """
    try:
        adip = AdipScheme(entity_type >> 8)
    except ValueError:
        raise TpmError(ReturnCode.INAPPROPRIATE_ENC) from None
    if adip is AdipScheme.XOR and tpm.permanent.flags.fips:
        raise TpmError(ReturnCode.INAPPROPRIATE_ENC)
    return adip


def _entity(ctx: Context, entity_type: int, value: int) -> Entity:
    """Find what a session is to be bound to; PCR bindings are looked at when it is used."""
    tpm = ctx.tpm
    if entity_type == EntityType.NV:
        area = tpm.permanent.nv.get(value)
        if area is None:
            raise TpmError(ReturnCode.BADINDEX)
        return Entity(EntityKind.NV, area.auth_value, area.entity_digest)
    if entity_type == EntityType.COUNTER:
        counters = tpm.permanent.counters
        if value >= len(counters) or not counters[value].valid:
            raise TpmError(ReturnCode.BAD_COUNTER)
        return Entity(EntityKind.COUNTER, counters[value].auth, counters[value].entity_digest)
    if entity_type == EntityType.OWNER:
        return tpm.owner_entity()
    if entity_type == EntityType.SRK:
        value = ReservedHandle.SRK
    elif entity_type != EntityType.KEYHANDLE:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    elif value == ReservedHandle.OPERATOR:
        raise TpmError(ReturnCode.BAD_HANDLE)
    key = ctx.find_key(value)
    return Entity(EntityKind.KEY, key.usage_auth, key.digest)


COMMANDS = (
    Command(
        Ordinal.OIAP,
        source="3:18.1",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=Nothing,
        response=OiapResponse,
        handler=oiap,
        handles_out=24,
    ),
    Command(
        Ordinal.OSAP,
        source="3:18.2",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=OsapRequest,
        response=OsapResponse,
        handler=osap,
        handles_in=26,
        handles_out=44,
    ),
)
