# SPDX-License-Identifier: Apache-2.0
"""Session and key management (Part 3, chapter 21): owner-evict keys, saving and loading contexts.

The four deprecated commands that trousers swaps with (chapter 27) are here too.
"""

from __future__ import annotations

from typing import Annotated, Final

from protocol.tpm12.constants import KeyFlags, KeyUsage, Ordinal, ResourceType, ReturnCode
from protocol.tpm12.keys import PubKey
from protocol.tpm12.records import record
from protocol.tpm12.resources import ContextBlob
from protocol.tpm12.wire import BOOL, SIZED, U32, FixedBytes, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12 import context_blobs
from tpmcore.tpm12.command import AUTH1, NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.state import LoadedKey, Session
from tpmcore.tpm12.tpm import Tpm

OWNER_EVICT: Final = 1
"""TPM_KEY_CONTROL_OWNER_EVICT, the only bitName there is (Part 2, 4.1)."""

SLOTS_FOR_OTHERS: Final = 2
"""Key slots that owner-evict keys must leave free (21.1)."""

_CONTROLLABLE_USAGES: Final = frozenset(
    {KeyUsage.SIGNING, KeyUsage.STORAGE, KeyUsage.IDENTITY, KeyUsage.BIND, KeyUsage.LEGACY}
)
_SAVABLE: Final = frozenset(
    {ResourceType.KEY, ResourceType.AUTH, ResourceType.TRANS, ResourceType.DAA_TPM}
)


@record
class KeyControlOwnerRequest(Structure):
    """keyHandle u32, pubKey TPM_PUBKEY, bitName u32, bitValue bool."""

    key_handle: Annotated[int, U32]
    pub_key: PubKey
    bit_name: Annotated[int, U32]
    bit_value: Annotated[bool, BOOL]


def key_control_owner(ctx: Context, request: KeyControlOwnerRequest) -> Nothing:
    """Pin a loaded key so that it survives power-off, or unpin it (21.1)."""
    tpm = ctx.tpm
    ctx.authorize_owner()
    key = ctx.find_loaded(request.key_handle)
    if key.body.public.key_usage not in _CONTROLLABLE_USAGES:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    if request.pub_key != key.body.public.public_key:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    if request.bit_name != OWNER_EVICT:
        raise TpmError(ReturnCode.BAD_MODE)
    pinned = tpm.permanent.owner_evict_keys
    if not request.bit_value:
        pinned.pop(key.handle, None)
        key.owner_evict = False
    elif not key.owner_evict:
        if len(pinned) >= _max_owner_evict(tpm):
            raise TpmError(ReturnCode.NOSPACE)
        if key.parent_pcr_status or key.body.public.key_flags & KeyFlags.IS_VOLATILE:
            raise TpmError(ReturnCode.BAD_PARAMETER)
        key.owner_evict = True
        pinned[key.handle] = key
    return NOTHING


def _max_owner_evict(tpm: Tpm) -> int:
    return min(tpm.profile.max_keys // 2, tpm.profile.max_keys - SLOTS_FOR_OTHERS)


@record
class SaveContextRequest(Structure):
    """handle u32, resourceType u32, label 16."""

    handle: Annotated[int, U32]
    resource_type: Annotated[int, U32]
    label: Annotated[bytes, FixedBytes(context_blobs.LABEL_BYTES)]


@record
class BlobResponse(Structure):
    """contextBlob sized."""

    context_blob: Annotated[bytes, SIZED]


def save_context(ctx: Context, request: SaveContextRequest) -> BlobResponse:
    """Give out a key or session as an encrypted blob; a session leaves the TPM (21.2)."""
    tpm = ctx.tpm
    if request.resource_type == ResourceType.KEY:
        key = tpm.stclear.keys.get(request.handle)
        if key is None:
            raise TpmError(ReturnCode.INVALID_RESOURCE)
        _require_evictable(key)
        return BlobResponse(context_blobs.save_key(tpm, key, request.label))
    if request.resource_type == ResourceType.AUTH:
        session = tpm.stany.sessions.get(request.handle)
        if session is not None:
            return BlobResponse(context_blobs.save_session(tpm, session, request.label))
    if request.resource_type == ResourceType.TRANS:
        transport = tpm.stany.transports.get(request.handle)
        if transport is not None:
            return BlobResponse(context_blobs.save_transport(tpm, transport, request.label))
    if request.resource_type == ResourceType.DAA_TPM:
        daa_session = tpm.stany.daa_sessions.get(request.handle)
        if daa_session is not None:
            return BlobResponse(context_blobs.save_daa_session(tpm, daa_session, request.label))
    raise TpmError(ReturnCode.INVALID_RESOURCE)


def _require_evictable(key: LoadedKey) -> None:
    if key.owner_evict:
        raise TpmError(ReturnCode.OWNER_CONTROL)


@record
class LoadContextRequest(Structure):
    """entityHandle u32, keepHandle bool, contextBlob sized."""

    entity_handle: Annotated[int, U32]
    keep_handle: Annotated[bool, BOOL]
    context_blob: Annotated[bytes, SIZED]


@record
class HandleResponse(Structure):
    """handle u32."""

    handle: Annotated[int, U32]


def load_context(ctx: Context, request: LoadContextRequest) -> HandleResponse:
    """Take a key or session in again (21.3)."""
    tpm = ctx.tpm
    blob = context_blobs.decode_blob(request.context_blob)
    if blob.resource_type not in _SAVABLE:
        raise TpmError(ReturnCode.INVALID_RESOURCE)
    if blob.resource_type == ResourceType.KEY:
        key = context_blobs.open_key(tpm, blob)
        if request.keep_handle and key.handle in tpm.stclear.keys:
            raise TpmError(ReturnCode.BAD_HANDLE)
        if tpm.free_key_slots <= 0:
            raise TpmError(ReturnCode.NOSPACE)
        return HandleResponse(context_blobs.load_key(tpm, key))
    if blob.resource_type == ResourceType.DAA_TPM:
        return _load_daa_session(tpm, blob, keep_handle=request.keep_handle)
    if blob.resource_type == ResourceType.TRANS:
        return _load_transport(tpm, blob, keep_handle=request.keep_handle)
    session = context_blobs.open_session(tpm, blob)
    context_blobs.check_entity(tpm, session, request.entity_handle)
    context_blobs.check_outstanding(tpm, blob)
    if request.keep_handle and tpm.is_session(session.handle):
        raise TpmError(ReturnCode.BAD_HANDLE)
    return _load_session(tpm, session, blob)


def _load_daa_session(tpm: Tpm, blob: ContextBlob, *, keep_handle: bool) -> HandleResponse:
    session = context_blobs.open_daa_session(tpm, blob)
    context_blobs.check_outstanding(tpm, blob)
    if keep_handle and session.handle in tpm.stany.daa_sessions:
        raise TpmError(ReturnCode.BAD_HANDLE)
    if tpm.free_daa_slots <= 0:
        raise TpmError(ReturnCode.RESOURCES)
    return HandleResponse(context_blobs.load_daa_session(tpm, session, blob))


def _load_transport(tpm: Tpm, blob: ContextBlob, *, keep_handle: bool) -> HandleResponse:
    transport = context_blobs.open_transport(tpm, blob)
    context_blobs.check_outstanding(tpm, blob)
    if keep_handle and tpm.is_session(transport.handle):
        raise TpmError(ReturnCode.BAD_HANDLE)
    if tpm.free_transport_slots <= 0:
        raise TpmError(ReturnCode.RESOURCES)
    return HandleResponse(context_blobs.load_transport(tpm, transport, blob))


def _load_session(tpm: Tpm, session: Session, blob: ContextBlob) -> HandleResponse:
    if tpm.free_session_slots <= 0:
        raise TpmError(ReturnCode.RESOURCES)
    return HandleResponse(context_blobs.load_session(tpm, session, blob))


@record
class SaveOneRequest(Structure):
    """handle u32."""

    handle: Annotated[int, U32]


@record
class LoadOneRequest(Structure):
    """contextBlob sized."""

    context_blob: Annotated[bytes, SIZED]


def save_key_context(ctx: Context, request: SaveOneRequest) -> BlobResponse:
    """Move a key out of the TPM; its sessions stay (27.8.1)."""
    key = ctx.find_loaded(request.handle)
    _require_evictable(key)
    blob = context_blobs.save_key(ctx.tpm, key, deprecated=True)
    del ctx.tpm.stclear.keys[key.handle]
    return BlobResponse(blob)


def load_key_context(ctx: Context, request: LoadOneRequest) -> HandleResponse:
    """Take a key in again that moved out in this boot (27.8.2)."""
    tpm = ctx.tpm
    blob = context_blobs.decode_blob(request.context_blob)
    if blob.resource_type != ResourceType.KEY:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    key = context_blobs.open_key(tpm, blob, of_this_boot=True)
    if tpm.free_key_slots <= 0:
        raise TpmError(ReturnCode.RESOURCES)
    return HandleResponse(context_blobs.load_key(tpm, key))


def save_auth_context(ctx: Context, request: SaveOneRequest) -> BlobResponse:
    """Move a session out of the TPM (27.8.3)."""
    session = ctx.tpm.stany.sessions.get(request.handle)
    if session is None:
        raise TpmError(ReturnCode.INVALID_AUTHHANDLE)
    return BlobResponse(context_blobs.save_session(ctx.tpm, session, deprecated=True))


def load_auth_context(ctx: Context, request: LoadOneRequest) -> HandleResponse:
    """Take a session in again; what it is bound to is found by its digest (27.8.4)."""
    tpm = ctx.tpm
    blob = context_blobs.decode_blob(request.context_blob)
    if blob.resource_type != ResourceType.AUTH:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    session = context_blobs.open_session(tpm, blob)
    context_blobs.check_outstanding(tpm, blob)
    context_blobs.check_entity_anywhere(tpm, session)
    return _load_session(tpm, session, blob)


COMMANDS = (
    Command(
        Ordinal.KEY_CONTROL_OWNER,
        source="3:21.1",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=KeyControlOwnerRequest,
        response=Nothing,
        handler=key_control_owner,
        handles_in=4,
        persists=True,
        owner_bit=31,
    ),
    Command(
        Ordinal.SAVE_CONTEXT,
        source="3:21.2",
        auth_blocks=NO_AUTH,
        gate=Gate.OPERATIONAL,
        request=SaveContextRequest,
        response=BlobResponse,
        handler=save_context,
        handles_in=4,
    ),
    Command(
        Ordinal.LOAD_CONTEXT,
        source="3:21.3",
        auth_blocks=NO_AUTH,
        gate=Gate.OPERATIONAL,
        request=LoadContextRequest,
        response=HandleResponse,
        handler=load_context,
        handles_in=4,
        handles_out=4,
    ),
    Command(
        Ordinal.SAVE_KEY_CONTEXT,
        source="3:27.8.1",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=SaveOneRequest,
        response=BlobResponse,
        handler=save_key_context,
        handles_in=4,
    ),
    Command(
        Ordinal.LOAD_KEY_CONTEXT,
        source="3:27.8.2",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=LoadOneRequest,
        response=HandleResponse,
        handler=load_key_context,
        handles_out=4,
    ),
    Command(
        Ordinal.SAVE_AUTH_CONTEXT,
        source="3:27.8.3",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=SaveOneRequest,
        response=BlobResponse,
        handler=save_auth_context,
        handles_in=4,
    ),
    Command(
        Ordinal.LOAD_AUTH_CONTEXT,
        source="3:27.8.4",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=LoadOneRequest,
        response=HandleResponse,
        handler=load_auth_context,
        handles_out=4,
    ),
)
