# SPDX-License-Identifier: Apache-2.0
"""Keys as bytes: in both states and in the blobs of SaveContext."""

from __future__ import annotations

from typing import Annotated, Final

from protocol.errors import WireError
from protocol.tpm12.keys import Key
from protocol.tpm12.records import record
from protocol.tpm12.wire import BOOL, DIGEST, SIZED, U8, U16, U32, ListOf, Nested, Reader, Structure
from tpmcore.tpm12.rsa import PrivateKey
from tpmcore.tpm12.state import KeyBody, LoadedKey
from tpmcore.tpm12.stateformat.frame import MAX_LIST, check_handles, check_there, list_bytes


@record(repr=False)
class KeyRecord(Structure):
    """KeyBody: public TPM_KEY or TPM_KEY12, payload type, secrets, both primes."""

    public: Key
    payload: Annotated[int, U8]
    usage_auth: Annotated[bytes, DIGEST]
    migration_auth: Annotated[bytes, DIGEST]
    p: Annotated[bytes, SIZED]
    q: Annotated[bytes, SIZED]


@record(repr=False)
class _LoadedKeyRecord(Structure):
    """LoadedKey: handle, parentPCRStatus, key."""

    handle: Annotated[int, U32]
    parent_pcr_status: Annotated[bool, BOOL]
    body: KeyRecord


_KEYS: Final = ListOf(Nested(_LoadedKeyRecord), U16, MAX_LIST)


def number_bytes(value: int) -> bytes:
    """Return a prime big-endian, without leading zeros."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def private_key(p: bytes, q: bytes, exponent: int) -> PrivateKey:
    """Return the key of two primes.

    Raises:
        WireError: they are not written as `number_bytes` writes them.
    """
    if not p or not q or not p[0] or not q[0]:
        raise WireError("key", 0, "a prime is empty or begins with zeros")
    return PrivateKey(int.from_bytes(p, "big"), int.from_bytes(q, "big"), exponent)


def _key_record(body: KeyBody) -> KeyRecord:
    private = body.private
    return KeyRecord(
        body.public,
        body.payload,
        body.usage_auth,
        body.migration_auth,
        number_bytes(private.p),
        number_bytes(private.q),
    )


def key_bytes(body: KeyBody) -> bytes:
    """Return a KeyRecord of a key that is written at each change of the permanent state."""
    if body.encoded is None:
        record = _key_record(body)
        head = record.public.encode() + U8.write(record.payload)
        body.encoded = (head, SIZED.write(record.p) + SIZED.write(record.q))
    head, tail = body.encoded
    return head + body.usage_auth + body.migration_auth + tail


def key_body(record: KeyRecord) -> KeyBody:
    """Return the key of a record.

    Raises:
        WireError: its parts do not fit together.
    """
    private = private_key(record.p, record.q, record.public.algorithm_parms.rsa.exponent_value)
    if private.modulus != record.public.pub_key:
        raise WireError("key", 0, "the primes do not make the modulus")
    return KeyBody(
        record.public,
        record.payload,
        record.usage_auth,
        record.migration_auth,
        private,
        record.public.public_digest(),
    )


def encode_key(key: LoadedKey) -> bytes:
    """Return a loaded key as bytes; made once per key, since keys do not change while loaded."""
    if key.encoded is None:
        record = _LoadedKeyRecord(key.handle, key.parent_pcr_status, _key_record(key.body))
        key.encoded = record.encode()
    return key.encoded


def decode_key(data: bytes) -> LoadedKey:
    """Read what encode_key wrote.

    Raises:
        WireError: the bytes do not form a key.
    """
    record = _LoadedKeyRecord.decode(data)
    return LoadedKey(record.handle, key_body(record.body), record.parent_pcr_status, encoded=data)


def write_keys(keys: list[LoadedKey]) -> bytes:
    """Return a section of keys."""
    return list_bytes([encode_key(key) for key in keys])


def read_keys(data: bytes, *, owner_evict: bool) -> dict[int, LoadedKey]:
    """Return the keys of a section by handle.

    Raises:
        WireError: the bytes do not form keys.
    """
    reader = Reader(data)
    records = _KEYS.read(reader, "keys")
    reader.finish("keys")
    check_there(records, "keys")
    check_handles([r.handle for r in records], "keys")
    return {
        r.handle: LoadedKey(r.handle, key_body(r.body), r.parent_pcr_status, owner_evict)
        for r in records
    }
