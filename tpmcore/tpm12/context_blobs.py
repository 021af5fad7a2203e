# SPDX-License-Identifier: Apache-2.0
"""Keys and sessions as encrypted blobs outside the TPM (Part 1, 21; Part 2, 18).

sensitiveData is TPM_CONTEXT_SENSITIVE under AES-128-CTR with contextKey; the initial counter is
random and stands in additionalData. integrityDigest is an HMAC with tpmProof over the blob with the
digest zeroed and sensitiveData in the clear, and is checked before anything inside is looked at.

A key may be loaded from its blob any number of times. A session's blob has a number, contextCount,
and can be loaded while that number is in contextList.

What the deprecated commands save is the same but for its integrity: the HMAC is also over a nonce
of the TPM's, not in the blob, that TPM_Reset changes. So none of these blobs, and no other, dies
with it. The nonce is lost without power, as TPM 1.1 wants of its key contexts.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final, TypeVar

from protocol.tpm12.constants import KeyFlags, ProtocolId, ReservedHandle, ResourceType, ReturnCode
from protocol.tpm12.resources import ContextBlob, ContextSensitive
from protocol.tpm12.wire import WireError
from tpmcore.errors import TpmError
from tpmcore.tpm12.daa_session import DaaSession
from tpmcore.tpm12.primitives import hmac_sha1
from tpmcore.tpm12.state import ZERO_DIGEST, EntityKind, LoadedKey, Session, TransportSession
from tpmcore.tpm12.stateformat import (
    decode_daa_session,
    decode_key,
    decode_session,
    decode_transport,
    encode_key,
    encode_session,
    encode_transport,
)
from tpmcore.tpm12.tpm import Tpm

T = TypeVar("T")

LABEL_BYTES: Final = 16
MAX_CONTEXT_COUNT: Final = 0xFFFFFFFE
_COUNTER_BYTES: Final = 16


NO_LABEL: Final = bytes(LABEL_BYTES)


def forget_deprecated(tpm: Tpm) -> None:
    """Make everything worthless that the deprecated commands have saved."""
    stany = tpm.stany
    stany.deprecated_nonce = ZERO_DIGEST
    stany.context_list = {count: old for count, old in stany.context_list.items() if not old}


def save_key(
    tpm: Tpm, key: LoadedKey, label: bytes = NO_LABEL, *, deprecated: bool = False
) -> bytes:
    """Return the blob of a loaded key, which stays loaded."""
    if tpm.stclear.context_nonce_key == ZERO_DIGEST:
        tpm.stclear.context_nonce_key = tpm.new_nonce()
    sensitive = ContextSensitive(tpm.stclear.context_nonce_key, encode_key(key))
    return _seal(tpm, ResourceType.KEY, key.handle, label, 0, sensitive, deprecated=deprecated)


def save_session(
    tpm: Tpm, session: Session, label: bytes = NO_LABEL, *, deprecated: bool = False
) -> bytes:
    """Return the blob of a session and take the session out of the TPM.

    Raises:
        TpmError: TOOMANYCONTEXTS, NOCONTEXTSPACE.
    """
    data = encode_session(session)
    blob = _seal_session(tpm, ResourceType.AUTH, session.handle, data, label, deprecated=deprecated)
    del tpm.stany.sessions[session.handle]
    return blob


def save_daa_session(tpm: Tpm, session: DaaSession, label: bytes) -> bytes:
    """Return the blob of a DAA session and take the session out of the TPM.

    Raises:
        TpmError: TOOMANYCONTEXTS, NOCONTEXTSPACE.
    """
    blob = _seal_session(tpm, ResourceType.DAA_TPM, session.handle, session.encode(), label)
    del tpm.stany.daa_sessions[session.handle]
    return blob


def save_transport(tpm: Tpm, transport: TransportSession, label: bytes) -> bytes:
    """Return the blob of a transport session and take the session out of the TPM.

    Raises:
        TpmError: TOOMANYCONTEXTS, NOCONTEXTSPACE.
    """
    data = encode_transport(transport)
    blob = _seal_session(tpm, ResourceType.TRANS, transport.handle, data, label)
    tpm.end_transport(transport.handle)
    return blob


def _seal_session(
    tpm: Tpm,
    resource_type: ResourceType,
    handle: int,
    data: bytes,
    label: bytes,
    *,
    deprecated: bool = False,
) -> bytes:
    """Return a blob that can be loaded once: it has a number, which contextList remembers."""
    stany = tpm.stany
    if stany.context_count > MAX_CONTEXT_COUNT:
        raise TpmError(ReturnCode.TOOMANYCONTEXTS)
    if len(stany.context_list) >= tpm.profile.max_saved_contexts:
        raise TpmError(ReturnCode.NOCONTEXTSPACE)
    if stany.context_nonce_session == ZERO_DIGEST:
        stany.context_nonce_session = tpm.new_nonce()
    stany.context_count += 1
    stany.context_list[stany.context_count] = deprecated
    sensitive = ContextSensitive(stany.context_nonce_session, data)
    return _seal(
        tpm, resource_type, handle, label, stany.context_count, sensitive, deprecated=deprecated
    )


def _seal(
    tpm: Tpm,
    resource_type: ResourceType,
    handle: int,
    label: bytes,
    count: int,
    sensitive: ContextSensitive,
    *,
    deprecated: bool,
) -> bytes:
    nonce = b""
    if deprecated:
        if tpm.stany.deprecated_nonce == ZERO_DIGEST:
            tpm.stany.deprecated_nonce = tpm.new_nonce()
        nonce = tpm.stany.deprecated_nonce
    counter, plain = tpm.random(_COUNTER_BYTES), sensitive.encode()
    clear = ContextBlob(resource_type, handle, label, count, ZERO_DIGEST, counter, plain)
    integrity = _integrity(tpm, clear, nonce)
    data = tpm.blob_cipher.crypt(tpm.permanent.context_key, counter, plain)
    return ContextBlob(resource_type, handle, label, count, integrity, counter, data).encode()


def _integrity(tpm: Tpm, clear: ContextBlob, nonce: bytes) -> bytes:
    return hmac_sha1(tpm.permanent.tpm_proof, clear.encode() + nonce)


def _is_ours(tpm: Tpm, blob: ContextBlob, clear: ContextBlob) -> bool:
    """Whether a blob was made by this TPM in this owner period and has not died since."""
    nonces = [b""]
    if tpm.stany.deprecated_nonce != ZERO_DIGEST:
        nonces.append(tpm.stany.deprecated_nonce)
    return any(
        hmac.compare_digest(_integrity(tpm, clear, nonce), blob.integrity_digest)
        for nonce in nonces
    )


def open_blob(tpm: Tpm, blob: ContextBlob) -> ContextSensitive:
    """Verify and decrypt a blob.

    Raises:
        TpmError: BADCONTEXT if it was not made by this TPM in this owner period, was changed, or
            was ended by TPM_Reset.
    """
    if len(blob.additional_data) != _COUNTER_BYTES:
        raise TpmError(ReturnCode.BADCONTEXT)
    counter = blob.additional_data
    data = tpm.blob_cipher.crypt(tpm.permanent.context_key, counter, blob.sensitive_data)
    clear = ContextBlob(
        blob.resource_type, blob.handle, blob.label, blob.context_count, ZERO_DIGEST, counter, data
    )
    if not _is_ours(tpm, blob, clear):
        raise TpmError(ReturnCode.BADCONTEXT)
    try:
        return ContextSensitive.decode(data)
    except WireError:
        raise TpmError(ReturnCode.BADCONTEXT) from None


def decode_blob(data: bytes) -> ContextBlob:
    """Parse a blob.

    Raises:
        TpmError: BADCONTEXT.
    """
    try:
        return ContextBlob.decode(data)
    except WireError:
        raise TpmError(ReturnCode.BADCONTEXT) from None


def open_key(tpm: Tpm, blob: ContextBlob, *, of_this_boot: bool = False) -> LoadedKey:
    """Return the key in a blob, not yet loaded.

    Args:
        of_this_boot: no key may outlive Startup(CLEAR) in its blob; else those that are tied to
            it by what they are may not.

    Raises:
        TpmError: BADCONTEXT, also if the blob is older than it may be.
    """
    sensitive = open_blob(tpm, blob)
    try:
        key = decode_key(sensitive.internal_data)
    except WireError:
        raise TpmError(ReturnCode.BADCONTEXT) from None
    tied = key.parent_pcr_status or key.body.public.key_flags & KeyFlags.IS_VOLATILE
    if tied or of_this_boot:
        _check_nonce(sensitive, tpm.stclear.context_nonce_key)
    return key


def open_session(tpm: Tpm, blob: ContextBlob) -> Session:
    """Return the session in a blob, not yet loaded.

    Raises:
        TpmError: BADCONTEXT.
    """
    return _open_as(decode_session, tpm, blob)


def open_daa_session(tpm: Tpm, blob: ContextBlob) -> DaaSession:
    """Return the DAA session in a blob, not yet loaded.

    Raises:
        TpmError: BADCONTEXT.
    """
    return _open_as(decode_daa_session, tpm, blob)


def open_transport(tpm: Tpm, blob: ContextBlob) -> TransportSession:
    """Return the transport session in a blob, not yet loaded.

    Raises:
        TpmError: BADCONTEXT.
    """
    return _open_as(decode_transport, tpm, blob)


def _open_as(decode: Callable[[bytes], T], tpm: Tpm, blob: ContextBlob) -> T:
    """Return what is in the blob of a session of some kind."""
    sensitive = open_blob(tpm, blob)
    _check_nonce(sensitive, tpm.stany.context_nonce_session)
    try:
        return decode(sensitive.internal_data)
    except WireError:
        raise TpmError(ReturnCode.BADCONTEXT) from None


def _check_nonce(sensitive: ContextSensitive, current: bytes) -> None:
    if not hmac.compare_digest(sensitive.context_nonce, current):
        raise TpmError(ReturnCode.BADCONTEXT)


def check_outstanding(tpm: Tpm, blob: ContextBlob) -> None:
    """Require that a session's blob was neither loaded nor flushed.

    Raises:
        TpmError: BADCONTEXT.
    """
    if blob.context_count not in tpm.stany.context_list:
        raise TpmError(ReturnCode.BADCONTEXT)


def check_entity(tpm: Tpm, session: Session, entity_handle: int) -> None:
    """Require that what a session is bound to is there, under the handle given.

    Raises:
        TpmError: BAD_HANDLE, NOSRK, RESOURCEMISSING.
    """
    if session.protocol == ProtocolId.OIAP:
        return
    _check_delegation(tpm, session)
    permanent = tpm.permanent
    digest: bytes | None = None
    match session.entity_kind:
        case EntityKind.KEY if entity_handle == ReservedHandle.SRK:
            if permanent.srk is None:
                raise TpmError(ReturnCode.NOSRK)
            digest = permanent.srk.digest
        case EntityKind.KEY:
            key = tpm.stclear.keys.get(entity_handle)
            if key is None:
                raise TpmError(ReturnCode.BAD_HANDLE)
            digest = key.body.digest
        case EntityKind.OWNER:
            digest = permanent.owner_auth
        case EntityKind.COUNTER:
            if entity_handle < len(permanent.counters) and permanent.counters[entity_handle].valid:
                digest = permanent.counters[entity_handle].entity_digest
        case EntityKind.NV:
            area = permanent.nv.get(entity_handle)
            digest = None if area is None else area.entity_digest
    if digest is None or not hmac.compare_digest(digest, session.entity_digest):
        raise TpmError(ReturnCode.RESOURCEMISSING)


def _check_delegation(tpm: Tpm, session: Session) -> None:
    """Require that what a session was opened with still counts: blobs outlive the changes of the
    tables that end the sessions inside."""
    if session.delegation is not None and not tpm.permanent.upholds(session.delegation):
        raise TpmError(ReturnCode.RESOURCEMISSING)


def check_entity_anywhere(tpm: Tpm, session: Session) -> None:
    """Require that what a session is bound to is there, under any handle.

    Raises:
        TpmError: RESOURCEMISSING.
    """
    if session.protocol == ProtocolId.OIAP:
        return
    _check_delegation(tpm, session)
    permanent = tpm.permanent
    digests: list[bytes | None] = []
    match session.entity_kind:
        case EntityKind.KEY:
            digests = [key.body.digest for key in tpm.stclear.keys.values()]
            digests.append(None if permanent.srk is None else permanent.srk.digest)
        case EntityKind.OWNER:
            digests = [permanent.owner_auth]
        case EntityKind.COUNTER:
            digests = [c.entity_digest for c in permanent.counters if c.valid]
        case EntityKind.NV:
            digests = [area.entity_digest for area in permanent.nv.values()]
    if not any(d is not None and hmac.compare_digest(d, session.entity_digest) for d in digests):
        raise TpmError(ReturnCode.RESOURCEMISSING)


def load_key(tpm: Tpm, key: LoadedKey) -> int:
    """Put a key into a slot, under its old handle if that is free; return the handle."""
    if key.handle in tpm.stclear.keys:
        key.handle = tpm.new_handle(tpm.stclear.keys.__contains__)
        key.encoded = None
    tpm.stclear.keys[key.handle] = key
    return key.handle


def load_daa_session(tpm: Tpm, session: DaaSession, blob: ContextBlob) -> int:
    """Put a DAA session into a slot, under its old handle if that is free; its blob is spent."""
    sessions = tpm.stany.daa_sessions
    if session.handle in sessions:
        session.handle = tpm.new_handle(sessions.__contains__)
    del tpm.stany.context_list[blob.context_count]
    sessions[session.handle] = session
    return session.handle


def load_transport(tpm: Tpm, transport: TransportSession, blob: ContextBlob) -> int:
    """Put a transport session into a slot, as load_session does; it is not the exclusive one."""
    if tpm.is_session(transport.handle):
        transport.handle = tpm.new_handle(tpm.is_session)
    del tpm.stany.context_list[blob.context_count]
    tpm.stany.transports[transport.handle] = transport
    return transport.handle


def load_session(tpm: Tpm, session: Session, blob: ContextBlob) -> int:
    """Put a session into a slot, under its old handle if that is free; its blob is spent."""
    if tpm.is_session(session.handle):
        session.handle = tpm.new_handle(tpm.is_session)
    del tpm.stany.context_list[blob.context_count]
    tpm.stany.sessions[session.handle] = session
    return session.handle
