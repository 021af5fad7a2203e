# SPDX-License-Identifier: Apache-2.0
"""Sessions with delegated authority (Part 3, 18.3 and 18.4): DSAP and the owner pointer."""

from __future__ import annotations

import hmac
from typing import Annotated, Final

from protocol.tpm12.constants import EntityType, Ordinal, ProtocolId, ReservedHandle, ReturnCode
from protocol.tpm12.delegation import DelegateKeyBlob, DelegateOwnerBlob, DelegatePublic
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, SIZED, U16, U32, Structure, WireError
from tpmcore.errors import TpmError
from tpmcore.tpm12 import delegation_table as table
from tpmcore.tpm12.command import NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context, Entity
from tpmcore.tpm12.primitives import hmac_sha1
from tpmcore.tpm12.sessions import adip_scheme
from tpmcore.tpm12.state import EntityKind, Session
from tpmcore.tpm12.tpm import Tpm


@record(repr=False)
class _Delegated:
    """Who a session acts for, and how far it may go.

    Attributes:
        entity: the secret is the delegate's, the digest that of what was delegated.
    """

    entity: Entity
    public: DelegatePublic


@record
class DsapRequest(Structure):
    """entityType u16, keyHandle u32, nonceOddDSAP 20, entityValue sized."""

    entity_type: Annotated[int, U16]
    key_handle: Annotated[int, U32]
    nonce_odd_dsap: Annotated[bytes, DIGEST]
    entity_value: Annotated[bytes, SIZED]


@record
class DsapResponse(Structure):
    """authHandle u32, nonceEven 20, nonceEvenDSAP 20."""

    auth_handle: Annotated[int, U32]
    nonce_even: Annotated[bytes, DIGEST]
    nonce_even_dsap: Annotated[bytes, DIGEST]


def dsap(ctx: Context, request: DsapRequest) -> DsapResponse:
    """Open a session with what a row or a blob delegates (18.3)."""
    tpm = ctx.tpm
    delegated = _delegated(ctx, request)
    if tpm.free_session_slots <= 0:
        raise TpmError(ReturnCode.RESOURCES)
    adip = adip_scheme(tpm, request.entity_type)
    nonce_even_dsap = tpm.new_nonce()
    entity = delegated.entity
    assert entity.digest is not None
    session = tpm.open_session(
        Session(
            0,
            ProtocolId.DSAP,
            tpm.new_nonce(),
            hmac_sha1(entity.secret, nonce_even_dsap + request.nonce_odd_dsap),
            entity.kind,
            entity.digest,
            adip,
            delegated.public,
        )
    )
    return DsapResponse(session.handle, session.nonce_even, nonce_even_dsap)


def _delegated(ctx: Context, request: DsapRequest) -> _Delegated:
    """Find what is delegated; permissions and PCRs are looked at when the session is used."""
    tpm, value = ctx.tpm, request.entity_value
    # The high byte is the ADIP scheme.
    entity_type = request.entity_type & 0xFF
    try:
        if entity_type == EntityType.DEL_ROW:
            if len(value) != _ROW_NUMBER_BYTES:
                raise TpmError(ReturnCode.BAD_PARAM_SIZE)
            row = table.find_row(tpm, int.from_bytes(value, "big"))
            table.check_current(tpm, row.public)
            return _Delegated(_as_owner(tpm, row.auth_value), row.public)
        if entity_type == EntityType.DEL_OWNER_BLOB:
            owner_blob = DelegateOwnerBlob.decode(value)
            return _Delegated(_as_owner(tpm, _open(tpm, owner_blob)), owner_blob.public)
        if entity_type == EntityType.DEL_KEY_BLOB:
            return _key_blob(ctx, request.key_handle, DelegateKeyBlob.decode(value))
    except WireError:
        raise TpmError(ReturnCode.WRONG_ENTITYTYPE) from None
    raise TpmError(ReturnCode.BAD_PARAMETER)


_ROW_NUMBER_BYTES: Final = 4


def _as_owner(tpm: Tpm, secret: bytes) -> Entity:
    return Entity(EntityKind.OWNER, secret, tpm.permanent.owner_auth)


def _open(tpm: Tpm, blob: DelegateOwnerBlob | DelegateKeyBlob) -> bytes:
    """Return the secret of a blob that counts."""
    table.check_current(tpm, blob.public)
    table.check_integrity(tpm, blob)
    return table.unseal(tpm, blob, ReturnCode.BAD_DELEGATE)


def _key_blob(ctx: Context, handle: int, blob: DelegateKeyBlob) -> _Delegated:
    tpm = ctx.tpm
    table.check_current(tpm, blob.public)
    table.check_integrity(tpm, blob)
    key = ctx.find_key(handle)
    if not hmac.compare_digest(table.pub_key_digest(key), blob.pub_key_digest):
        raise TpmError(ReturnCode.KEYNOTFOUND)
    secret = table.unseal(tpm, blob, ReturnCode.BAD_DELEGATE)
    return _Delegated(Entity(EntityKind.KEY, secret, key.digest), blob.public)


@record
class SetOwnerPointerRequest(Structure):
    """entityType u16, entityValue u32."""

    entity_type: Annotated[int, U16]
    entity_value: Annotated[int, U32]


def set_owner_pointer(ctx: Context, request: SetOwnerPointerRequest) -> Nothing:
    """Let the secret of a delegate row stand for the owner's, or the owner's again (18.4)."""
    tpm = ctx.tpm
    if request.entity_type == EntityType.OWNER:
        tpm.stclear.owner_reference = ReservedHandle.OWNER
    elif request.entity_type == EntityType.DEL_ROW:
        table.check_current(tpm, table.find_row(tpm, request.entity_value).public)
        tpm.stclear.owner_reference = request.entity_value
    else:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    return NOTHING


COMMANDS: Final = (
    Command(
        Ordinal.DSAP,
        source="3:18.3",
        auth_blocks=NO_AUTH,
        gate=Gate.OWNED,
        request=DsapRequest,
        response=DsapResponse,
        handler=dsap,
        handles_in=30,
        handles_out=44,
    ),
    Command(
        Ordinal.SET_OWNER_POINTER,
        source="3:18.4",
        auth_blocks=NO_AUTH,
        gate=Gate.OPERATIONAL,
        request=SetOwnerPointerRequest,
        response=Nothing,
        handler=set_owner_pointer,
    ),
)
