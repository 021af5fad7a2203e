# SPDX-License-Identifier: Apache-2.0
"""Eviction (Part 3, chapter 22), and its deprecated forms EvictKey, Terminate_Handle and Reset."""

from __future__ import annotations

from typing import Annotated

from protocol.tpm12.constants import Ordinal, ResourceType, ReturnCode
from protocol.tpm12.records import record
from protocol.tpm12.wire import U32, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12 import context_blobs
from tpmcore.tpm12.command import NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.state import LoadedKey
from tpmcore.tpm12.tpm import Tpm


@record
class FlushSpecificRequest(Structure):
    """handle u32, resourceType u32."""

    handle: Annotated[int, U32]
    resource_type: Annotated[int, U32]


def flush_specific(ctx: Context, request: FlushSpecificRequest) -> Nothing:
    """Remove a key or session, or make a saved session context useless (22.1)."""
    tpm, handle = ctx.tpm, request.handle
    match request.resource_type:
        case ResourceType.KEY:
            key = tpm.stclear.keys.get(handle)
            if key is None:
                raise TpmError(ReturnCode.BAD_PARAMETER)
            _unload(tpm, key)
        case ResourceType.AUTH:
            _end_session(tpm, handle)
        case ResourceType.TRANS:
            # The answer of libtpms for a transport session that is not there.
            if tpm.end_transport(handle) is None:
                raise TpmError(ReturnCode.INVALID_AUTHHANDLE)
        case ResourceType.DAA_TPM:
            if tpm.stany.daa_sessions.pop(handle, None) is None:
                raise TpmError(ReturnCode.BAD_PARAMETER)
        case ResourceType.CONTEXT:
            if tpm.stany.context_list.pop(handle, None) is None:
                raise TpmError(ReturnCode.BAD_PARAMETER)
        case _:
            raise TpmError(ReturnCode.INVALID_RESOURCE)
    return NOTHING


def _unload(tpm: Tpm, key: LoadedKey) -> None:
    if key.owner_evict:
        raise TpmError(ReturnCode.KEY_OWNER_CONTROL)
    tpm.unload_key(key)


def _end_session(tpm: Tpm, handle: int) -> None:
    if tpm.stany.sessions.pop(handle, None) is None:
        raise TpmError(ReturnCode.INVALID_AUTHHANDLE)


@record
class HandleRequest(Structure):
    """handle u32."""

    handle: Annotated[int, U32]


def evict_key(ctx: Context, request: HandleRequest) -> Nothing:
    """Remove a key (27.6)."""
    _unload(ctx.tpm, ctx.find_loaded(request.handle))
    return NOTHING


def terminate_handle(ctx: Context, request: HandleRequest) -> Nothing:
    """End a session (27.7)."""
    _end_session(ctx.tpm, request.handle)
    return NOTHING


def reset(ctx: Context, _request: Nothing) -> Nothing:
    """End all authorization sessions, and with them what the deprecated commands have saved; the
    contexts of SaveContext stay good (27.9)."""
    ctx.tpm.stany.sessions.clear()
    context_blobs.forget_deprecated(ctx.tpm)
    return NOTHING


COMMANDS = (
    Command(
        Ordinal.FLUSH_SPECIFIC,
        source="3:22.1",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=FlushSpecificRequest,
        response=Nothing,
        handler=flush_specific,
        handles_in=4,
    ),
    Command(
        Ordinal.EVICT_KEY,
        source="3:27.6",
        auth_blocks=NO_AUTH,
        gate=Gate.OPERATIONAL,
        request=HandleRequest,
        response=Nothing,
        handler=evict_key,
        handles_in=4,
    ),
    Command(
        Ordinal.TERMINATE_HANDLE,
        source="3:27.7",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=HandleRequest,
        response=Nothing,
        handler=terminate_handle,
        handles_in=4,
    ),
    Command(
        Ordinal.RESET,
        source="3:27.9",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=Nothing,
        response=Nothing,
        handler=reset,
    ),
)
