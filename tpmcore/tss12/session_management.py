# SPDX-License-Identifier: Apache-2.0
"""Swapping resources out and in, and evicting them (Part 3, 21, 22 and 27)."""

from __future__ import annotations

from protocol.tpm12.constants import Ordinal, ResourceType
from protocol.tpm12.keys import PubKey
from protocol.tpm12.wire import BOOL, SIZED, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, execute, nothing
from tpmcore.tss12.sessions import with_secret

_OWNER_EVICT = 1


def key_control_owner(
    handle: int,
    public_key: PubKey,
    owner_evict: bool,
    *,
    owner_auth: bytes,
    random: RandomSource,
) -> Conversation[None]:
    """Pin a loaded key so that it survives power-off, or unpin it (21.1)."""
    return with_secret(
        Ordinal.KEY_CONTROL_OWNER,
        nothing,
        owner_auth,
        random=random,
        handles=U32.write(handle),
        parameters=public_key.encode() + U32.write(_OWNER_EVICT) + BOOL.write(owner_evict),
    )


def save_context(
    handle: int, resource_type: ResourceType, *, label: bytes = bytes(16)
) -> Conversation[bytes]:
    """Return an encrypted copy of a resource (21.2); a session is removed from the TPM.

    Args:
        label: 16 bytes for the caller's own use.

    Returns: encoded TPM_CONTEXT_BLOB.
    """
    return execute(
        Ordinal.SAVE_CONTEXT,
        Reader.sized,
        handles=U32.write(handle),
        parameters=U32.write(resource_type) + label,
    )


def load_context(
    blob: bytes, *, keep_handle: bool = False, entity_handle: int = 0
) -> Conversation[int]:
    """Load a saved resource and return its handle (21.3).

    Args:
        blob: answer of save_context.
        keep_handle: fail rather than give it another handle.
        entity_handle: for an OSAP session on a key the handle that the key has now.
    """
    return execute(
        Ordinal.LOAD_CONTEXT,
        Reader.u32,
        handles=U32.write(entity_handle),
        parameters=BOOL.write(keep_handle) + SIZED.write(blob),
        handles_out=4,
    )


def flush_specific(handle: int, resource_type: ResourceType) -> Conversation[None]:
    """Remove a key or session, or make a saved session context useless (22.1)."""
    return execute(
        Ordinal.FLUSH_SPECIFIC,
        nothing,
        handles=U32.write(handle),
        parameters=U32.write(resource_type),
    )


def evict_key(handle: int) -> Conversation[None]:
    """Remove a key (27.6; deprecated)."""
    return execute(Ordinal.EVICT_KEY, nothing, handles=U32.write(handle))


def terminate_handle(handle: int) -> Conversation[None]:
    """End a session (27.7; deprecated)."""
    return execute(Ordinal.TERMINATE_HANDLE, nothing, handles=U32.write(handle))


def reset() -> Conversation[None]:
    """End all authorization sessions (27.9; deprecated)."""
    return execute(Ordinal.RESET, nothing)


def save_key_context(handle: int) -> Conversation[bytes]:
    """Move a key out of the TPM (27.8; deprecated)."""
    return execute(Ordinal.SAVE_KEY_CONTEXT, Reader.sized, handles=U32.write(handle))


def load_key_context(blob: bytes) -> Conversation[int]:
    """Load what save_key_context returned; gives the handle (27.8; deprecated)."""
    return execute(
        Ordinal.LOAD_KEY_CONTEXT, Reader.u32, parameters=SIZED.write(blob), handles_out=4
    )


def save_auth_context(handle: int) -> Conversation[bytes]:
    """Move a session out of the TPM (27.8; deprecated)."""
    return execute(Ordinal.SAVE_AUTH_CONTEXT, Reader.sized, handles=U32.write(handle))


def load_auth_context(blob: bytes) -> Conversation[int]:
    """Load what save_auth_context returned; gives the handle (27.8; deprecated)."""
    return execute(
        Ordinal.LOAD_AUTH_CONTEXT, Reader.u32, parameters=SIZED.write(blob), handles_out=4
    )
