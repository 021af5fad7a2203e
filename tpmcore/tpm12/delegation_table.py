# SPDX-License-Identifier: Apache-2.0
"""Families, delegate rows and delegation blobs (Part 1, chapter on delegation; Part 2, 20).

A blob's sensitiveArea is TPM_DELEGATE_SENSITIVE under AES-128-CTR with delegateKey; the initial
counter is random and stands in additionalArea. integrityDigest is an HMAC with tpmProof over the
blob with the digest zeroed and the encrypted area in place.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, TypeAlias

from protocol.tpm12.constants import ReservedHandle, ReturnCode, StructureTag
from protocol.tpm12.delegation import (
    DelegateKeyBlob,
    DelegateOwnerBlob,
    DelegatePublic,
    DelegateSensitive,
    FamilyFlags,
    FamilyTableEntry,
)
from protocol.tpm12.wire import DIGEST_BYTES, SIZED, WireError
from tpmcore.errors import TpmError
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.parsing import parse_code
from tpmcore.tpm12.primitives import hmac_sha1
from tpmcore.tpm12.state import ZERO_DIGEST, DelegateRow, KeyBody
from tpmcore.tpm12.tpm import Tpm

Blob: TypeAlias = DelegateOwnerBlob | DelegateKeyBlob

_COUNTER_BYTES: Final = 16
_OWNER_TAG: Final = StructureTag.DELEGATE_OWNER_BLOB.to_bytes(2, "big")
_KEY_TAG: Final = StructureTag.DELEGATE_KEY_BLOB.to_bytes(2, "big")
_TAG_BYTES: Final = 2


def find_family(tpm: Tpm, family_id: int) -> FamilyTableEntry:
    """Return a family.

    Raises:
        TpmError: BADINDEX.
    """
    family = tpm.permanent.family(family_id)
    if family is None:
        raise TpmError(ReturnCode.BADINDEX)
    return family


def find_enabled_family(tpm: Tpm, family_id: int) -> FamilyTableEntry:
    """Return a family that is enabled.

    Raises:
        TpmError: BADINDEX, DISABLED_CMD.
    """
    family = find_family(tpm, family_id)
    if not family.flags & FamilyFlags.ENABLED:
        raise TpmError(ReturnCode.DISABLED_CMD)
    return family


def check_current(tpm: Tpm, public: DelegatePublic) -> None:
    """Require that a delegation counts, see PermanentState.upholds.

    Raises:
        TpmError: BADINDEX, DISABLED_CMD, FAMILYCOUNT.
    """
    family = find_enabled_family(tpm, public.family_id)
    if family.verification_count != public.verification_count:
        raise TpmError(ReturnCode.FAMILYCOUNT)


def find_row(tpm: Tpm, number: int) -> DelegateRow:
    """Return a row of the delegate table.

    Raises:
        TpmError: BADINDEX.
    """
    row = tpm.permanent.delegate_rows.get(number)
    if row is None:
        raise TpmError(ReturnCode.BADINDEX)
    return row


def store_family(tpm: Tpm, family: FamilyTableEntry) -> None:
    """Put a changed family where the one with its id was."""
    families = tpm.permanent.families
    for number, old in families.items():
        if old.family_id == family.family_id:
            families[number] = family
            return


def tables_changed(ctx: Context) -> None:
    """End what an older state of the tables allowed: sessions with delegated authority, and the
    owner pointer (4.1.6)."""
    tpm = ctx.tpm
    tpm.stclear.owner_reference = ReservedHandle.OWNER
    sessions = tpm.stany.sessions
    for handle, session in list(sessions.items()):
        if session.delegation is not None:
            del sessions[handle]
    for index, block in enumerate(ctx.auths):
        if block.session is not None and block.session.handle not in sessions:
            ctx.end_session(index)


def encrypt_secret(tpm: Tpm, auth_value: bytes) -> tuple[bytes, bytes]:
    """Return additionalArea and sensitiveArea of a new blob for the holder of a secret."""
    counter = tpm.random(_COUNTER_BYTES)
    plain = DelegateSensitive(auth_value).encode()
    return counter, tpm.blob_cipher.crypt(tpm.permanent.delegate_key, counter, plain)


def authenticate(tpm: Tpm, public: DelegatePublic, encoded: bytes) -> bytes:
    """Return the bytes of a blob with the integrity digest that fits the rest of it.

    Args:
        public: its public part, which the digest stands behind.
        encoded: its bytes, with any digest.
    """
    return _with_digest(public, encoded, _integrity(tpm, public, encoded))


def check_integrity(tpm: Tpm, blob: Blob) -> None:
    """Require that this TPM made a blob, in this owner period.

    Raises:
        TpmError: AUTHFAIL.
    """
    expected = _integrity(tpm, blob.public, blob.encode_once())
    if not hmac.compare_digest(expected, blob.integrity_digest):
        raise TpmError(ReturnCode.AUTHFAIL)


def with_public(tpm: Tpm, blob: Blob, public: DelegatePublic) -> bytes:
    """Return the bytes of a blob with another public part, authenticated."""
    encoded = blob.encode_once()
    end = _TAG_BYTES + len(blob.public.encode_once())
    changed = encoded[:_TAG_BYTES] + public.encode_once() + encoded[end:]
    return authenticate(tpm, public, changed)


def _integrity(tpm: Tpm, public: DelegatePublic, encoded: bytes) -> bytes:
    zeroed = _with_digest(public, encoded, ZERO_DIGEST)
    return hmac_sha1(tpm.permanent.tpm_proof, zeroed)


def _with_digest(public: DelegatePublic, encoded: bytes, digest: bytes) -> bytes:
    start = _TAG_BYTES + len(public.encode_once())
    return encoded[:start] + digest + encoded[start + DIGEST_BYTES :]


def unseal(tpm: Tpm, blob: Blob, failure: ReturnCode) -> bytes:
    """Return the secret in a blob whose integrity was checked.

    Raises:
        TpmError: `failure` if there is none.
    """
    if len(blob.additional_area) != _COUNTER_BYTES:
        raise TpmError(failure)
    key = tpm.permanent.delegate_key
    plain = tpm.blob_cipher.crypt(key, blob.additional_area, blob.sensitive_area)
    try:
        return DelegateSensitive.decode(plain).auth_value
    except WireError:
        raise TpmError(failure) from None


def decode_either(data: bytes) -> Blob:
    """Parse a blob of either kind.

    Raises:
        TpmError: BAD_PARAM_SIZE if there is no room for a tag, BAD_PARAMETER if it is neither, else
            the code of what is wrong.
    """
    if len(data) < _TAG_BYTES:
        raise TpmError(ReturnCode.BAD_PARAM_SIZE)
    try:
        if data.startswith(_OWNER_TAG):
            return DelegateOwnerBlob.decode(data)
        if data.startswith(_KEY_TAG):
            return DelegateKeyBlob.decode(data)
    except WireError as error:
        raise TpmError(parse_code(error)) from error
    raise TpmError(ReturnCode.BAD_PARAMETER)


def pub_key_digest(key: KeyBody) -> bytes:
    """Return SHA-1 of a key's TPM_STORE_PUBKEY, which is what a key blob is bound to."""
    return hashlib.sha1(SIZED.write(key.public.pub_key)).digest()
