# SPDX-License-Identifier: Apache-2.0
"""Sealing, unbinding, and the keys below the storage root key (Part 3, 10)."""

from __future__ import annotations

from protocol.tpm12.constants import AdipScheme, Ordinal
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong
from protocol.tpm12.stored import StoredData
from protocol.tpm12.wire import SIZED, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tpm12.primitives import mgf1
from tpmcore.tss12.conversation import Conversation, Session, execute
from tpmcore.tss12.sessions import (
    encrypt_secret,
    oiap,
    osap_key,
    pair,
    prove,
    with_optional_secret,
    with_secret,
    with_secrets,
)


def _encoded(info: PcrInfo | PcrInfoLong | None) -> bytes:
    return SIZED.write(b"" if info is None else info.encode())


def seal(
    parent_handle: int,
    *,
    parent_auth: bytes,
    blob_auth: bytes,
    data: bytes,
    pcr_info: PcrInfo | PcrInfoLong | None,
    random: RandomSource,
) -> Conversation[StoredData]:
    """Encrypt data so that only this TPM gives it back (10.1).

    Args:
        parent_handle: a storage key that is not migratable, or the SRK.
        blob_auth: secret that Unseal will want, 20 bytes.
        data: 1 to 149 bytes with a 2048-bit parent.
        pcr_info: what must hold at Unseal; None for nothing.
    """
    session = yield from osap_key(parent_handle, parent_auth, random=random)
    return (
        yield from execute(
            Ordinal.SEAL,
            StoredData.read,
            handles=U32.write(parent_handle),
            parameters=encrypt_secret(session, blob_auth) + _encoded(pcr_info) + SIZED.write(data),
            auths=(prove(session, random),),
        )
    )


def _mask(session: Session, nonce_even: bytes, nonce_odd: bytes, data: bytes) -> bytes:
    """Mask sealx data under an XOR session (Part 1, 4.3.3)."""
    pad = mgf1(nonce_even + nonce_odd + b"XOR" + session.shared_secret, len(data))
    return bytes(a ^ b for a, b in zip(data, pad, strict=True))


def sealx(
    parent_handle: int,
    *,
    parent_auth: bytes,
    blob_auth: bytes,
    data: bytes,
    pcr_info: PcrInfoLong | None,
    random: RandomSource,
) -> Conversation[StoredData]:
    """As seal, with the data encrypted on its way to the TPM and back (10.7)."""
    session = yield from osap_key(parent_handle, parent_auth, random=random)
    authorization = prove(session, random)
    masked = _mask(session, session.nonce_even, authorization.nonce_odd, data)
    return (
        yield from execute(
            Ordinal.SEALX,
            StoredData.read,
            handles=U32.write(parent_handle),
            parameters=encrypt_secret(session, blob_auth)
            + _encoded(pcr_info)
            + SIZED.write(masked),
            auths=(authorization,),
        )
    )


def unseal(
    parent_handle: int,
    blob: StoredData,
    *,
    parent_auth: bytes | None,
    blob_auth: bytes,
    random: RandomSource,
) -> Conversation[bytes]:
    """Return sealed data (10.2); a blob of sealx is handled too.

    Args:
        parent_auth: None if the parent needs none.

    Raises:
        TpmError: WRONGPCRVAL, BAD_LOCALITY, NOTSEALED_BLOB, AUTHFAIL, AUTH2FAIL ...
        ValueError: a blob of sealx without the parent's secret.
    """
    handles = U32.write(parent_handle)
    parameters = blob.encode()
    if parent_auth is None:
        if blob.entity_type:
            raise ValueError("a blob of sealx needs the parent's secret")
        return (
            yield from with_secret(
                Ordinal.UNSEAL,
                Reader.sized,
                blob_auth,
                random=random,
                handles=handles,
                parameters=parameters,
            )
        )
    if not blob.entity_type:
        return (
            yield from with_secrets(
                Ordinal.UNSEAL,
                Reader.sized,
                (parent_auth, blob_auth),
                random=random,
                handles=handles,
                parameters=parameters,
            )
        )
    if blob.entity_type >> 8 != AdipScheme.XOR:
        raise ValueError("only blobs sealed under an XOR session are supported")
    parent, entity = yield from pair(osap_key(parent_handle, parent_auth, random=random), oiap())
    authorization = prove(parent, random)
    nonce_even = parent.nonce_even
    masked = yield from execute(
        Ordinal.UNSEAL,
        Reader.sized,
        handles=handles,
        parameters=parameters,
        auths=(authorization, prove(entity, random, secret=blob_auth)),
    )
    return _mask(parent, nonce_even, authorization.nonce_odd, masked)


def unbind(
    key_handle: int,
    data: bytes,
    *,
    key_auth: bytes | None,
    random: RandomSource | None = None,
) -> Conversation[bytes]:
    """Decrypt what was encrypted with a binding key's public part (10.3)."""
    return with_optional_secret(
        Ordinal.UNBIND,
        Reader.sized,
        key_auth,
        random=random,
        handles=U32.write(key_handle),
        parameters=SIZED.write(data),
    )


def create_wrap_key(
    parent_handle: int,
    key_info: Key,
    *,
    parent_auth: bytes,
    usage_auth: bytes,
    migration_auth: bytes = bytes(20),
    random: RandomSource,
) -> Conversation[Key]:
    """Make a key below a storage key (10.4); it is returned wrapped and is not loaded.

    Args:
        key_info: what to make, see Key.template.
        usage_auth: secret to use it, 20 bytes.
        migration_auth: secret to migrate it; ignored by the TPM if it is not migratable.
    """
    session = yield from osap_key(parent_handle, parent_auth, random=random)
    authorization = prove(session, random)
    return (
        yield from execute(
            Ordinal.CREATE_WRAP_KEY,
            Key.read,
            handles=U32.write(parent_handle),
            parameters=encrypt_secret(session, usage_auth)
            + encrypt_secret(session, migration_auth, nonce=authorization.nonce_odd)
            + key_info.encode(),
            auths=(authorization,),
        )
    )


def load_key2(
    parent_handle: int,
    key: Key,
    *,
    parent_auth: bytes | None,
    random: RandomSource | None = None,
    session: Session | None = None,
) -> Conversation[int]:
    """Load a wrapped key and return its handle (10.5).

    Args:
        parent_auth: None if the parent needs none.
    """
    return with_optional_secret(
        Ordinal.LOAD_KEY2,
        Reader.u32,
        parent_auth,
        random=random,
        session=session,
        handles=U32.write(parent_handle),
        parameters=key.encode(),
        handles_out=4,
    )


def get_pub_key(
    key_handle: int,
    *,
    key_auth: bytes | None,
    random: RandomSource | None = None,
) -> Conversation[PubKey]:
    """Return the public part of a loaded key (10.6)."""
    return with_optional_secret(
        Ordinal.GET_PUB_KEY,
        PubKey.read,
        key_auth,
        random=random,
        handles=U32.write(key_handle),
    )
