# SPDX-License-Identifier: Apache-2.0
"""The log of a transport session: a digest over all that it executed (Part 1, transport logging).

transDigest is extended like a PCR, with TPM_TRANSPORT_LOG_IN before a command and
TPM_TRANSPORT_LOG_OUT after it, and signed when the session is released.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import EntityType, Ordinal, ReservedHandle, ResourceType, ReturnCode
from protocol.tpm12.framing import HEADER_BYTES
from protocol.tpm12.resources import CurrentTicks
from protocol.tpm12.transport import TransportLogIn, TransportLogOut
from protocol.tpm12.wire import SIZED
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import Command
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.state import ZERO_DIGEST, TransportSession

_HANDLE_BYTES: Final = 4
_DSAP_KEY_HANDLE_AT: Final = 2

_LOGGED_KEYS: Final[Mapping[int, int]] = {
    # A pointer of the session to be opened and nonces.
    Ordinal.OSAP: 0,
    # Its second handle is that of an ephemeral key, which has no slot.
    Ordinal.CHANGE_AUTH_ASYM_FINISH: 1,
    # Its handle is in the digest of the parameters, and that of a key nevertheless.
    Ordinal.OWNER_READ_INTERNAL_PUB: 1,
    # Handles of something else than a key.
    Ordinal.DAA_JOIN: 0,
    Ordinal.DAA_SIGN: 0,
    Ordinal.TERMINATE_HANDLE: 0,
    Ordinal.SAVE_AUTH_CONTEXT: 0,
    Ordinal.LOAD_CONTEXT: 0,
}
"""Number of leading key handles, where it is not the number of all leading handles."""

_TYPED: Final = frozenset({Ordinal.FLUSH_SPECIFIC, Ordinal.SAVE_CONTEXT})
"""Commands whose handle is that of a key if the resource type behind it says so."""


NO_KEYS: Final = ZERO_DIGEST
"""pubKeyHash of a command that names no key."""


def key_handles(row: Command, command: bytes) -> list[int]:
    """Return the handles whose keys enter the log, of a command in the clear.

    Args:
        row: the row of its ordinal; the command has at least the handles.
    """
    at = HEADER_BYTES
    if row.ordinal == Ordinal.DSAP:
        is_key = command[at + 1] == EntityType.DEL_KEY_BLOB
        at += _DSAP_KEY_HANDLE_AT
        count = 1 if is_key else 0
    elif row.ordinal in _TYPED:
        resource_type = int.from_bytes(command[at + 4 : at + 8], "big")
        count = 1 if resource_type == ResourceType.KEY else 0
    else:
        count = _LOGGED_KEYS.get(row.ordinal, row.handles_in // _HANDLE_BYTES)
    ends = range(at + _HANDLE_BYTES, at + _HANDLE_BYTES * count + 1, _HANDLE_BYTES)
    return [int.from_bytes(command[end - _HANDLE_BYTES : end], "big") for end in ends]


def key_hash(ctx: Context, handles: list[int]) -> bytes:
    """Return pubKeyHash: zeros without keys, else a digest over the digests of their public keys.

    Raises:
        TpmError: INVALID_KEYHANDLE.
    """
    if not handles:
        return NO_KEYS
    digests = [hashlib.sha1(SIZED.write(_modulus(ctx, handle))).digest() for handle in handles]
    return hashlib.sha1(b"".join(digests)).digest()


def _modulus(ctx: Context, handle: int) -> bytes:
    ek = ctx.tpm.permanent.ek
    if handle == ReservedHandle.EK and ek is not None:
        return ek.private.modulus
    try:
        return ctx.find_key(handle).public.pub_key
    except TpmError:
        raise TpmError(ReturnCode.INVALID_KEYHANDLE) from None


def log_in(transport: TransportSession, parameters: bytes, pub_key_hash: bytes) -> None:
    """Log the digest of a request and the keys that it names."""
    _extend(transport, TransportLogIn(parameters, pub_key_hash).encode())


def log_out(
    transport: TransportSession, ticks: CurrentTicks, parameters: bytes, locality: int
) -> None:
    """Log the digest of a response, when it was given, and at which locality."""
    _extend(transport, TransportLogOut(ticks, parameters, locality).encode())


def _extend(transport: TransportSession, entry: bytes) -> None:
    transport.digest = hashlib.sha1(transport.digest + entry).digest()
