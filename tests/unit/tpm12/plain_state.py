# SPDX-License-Identifier: Apache-2.0
"""The permanent state as bytes, written down a second time and without keeping anything.

The engine encodes it at each change and keeps the encodings of parts that do not change. This
encoder knows the format only, section by section as in docs/formats.md; every command of every test
is held against it, so a part that was kept too long shows.
"""

from __future__ import annotations

from collections.abc import Iterator

from tpmcore.tpm12.rsa import PrivateKey
from tpmcore.tpm12.state import KeyBody, LoadedKey, NvArea, PermanentState


def plain_permanent(state: PermanentState) -> bytes:
    """Return what the permanent state must be encoded as."""
    data = b"VTPM12PS" + bytes.fromhex("0001 0002")
    for number, section in _sections(state):
        data += _u16(number) + _sized(section)
    return data


def _sections(state: PermanentState) -> Iterator[tuple[int, bytes]]:
    yield 1, state.flags.encode()
    yield 2, _fixed(20, state.tpm_proof) + _fixed(16, state.context_key, state.delegate_key)
    if state.srk is not None:
        assert state.owner_auth is not None
        yield 3, _fixed(20, state.owner_auth) + _key(state.srk)
    if state.ek is not None:
        yield 4, state.ek.parms.encode() + _primes(state.ek.private) + _fixed(20, state.ek_reset)
    numbers = _u32(state.restrict_delegate) + _u32(state.no_owner_nv_write)
    yield 5, _fixed(20, state.operator_auth, state.auth_dir) + numbers
    counters = [
        _bool(c.valid) + _fixed(4, c.label) + _u32(c.value) + _fixed(20, c.auth, c.entity_digest)
        for c in state.counters
    ]
    yield 6, _list(counters)
    yield 7, _list([_area(area) for area in state.nv.values()])
    if state.owner_evict_keys:
        yield 8, _list([_loaded(key) for key in state.owner_evict_keys.values()])
    if state.saved_state:
        yield 9, state.saved_state
    if state.daa is not None:
        yield 10, state.daa.encode()
    if state.manu_maint_pub is not None:
        yield 11, state.manu_maint_pub.encode()
    status = sorted(state.audit_status.items())
    audit = _list([_u32(ordinal) + _bool(audited) for ordinal, audited in status])
    yield 12, _u32(state.audit_counter) + audit
    families = [_u32(row) + family.encode() for row, family in sorted(state.families.items())]
    rows = [
        _u32(number) + row.public.encode() + _fixed(20, row.auth_value)
        for number, row in sorted(state.delegate_rows.items())
    ]
    yield 13, _u32(state.last_family_id) + _list(families) + _list(rows)


def _area(area: NvArea) -> bytes:
    secrets = _fixed(20, area.auth_value, area.entity_digest)
    return area.public.encode() + secrets + _bool(area.write_define_locked) + _sized(area.data)


def _loaded(key: LoadedKey) -> bytes:
    return _u32(key.handle) + _bool(key.parent_pcr_status) + _key(key.body)


def _key(key: KeyBody) -> bytes:
    secrets = _fixed(20, key.usage_auth, key.migration_auth)
    return key.public.encode() + bytes([key.payload]) + secrets + _primes(key.private)


def _primes(private: PrivateKey) -> bytes:
    return b"".join(
        [_sized(n.to_bytes((n.bit_length() + 7) // 8, "big")) for n in (private.p, private.q)]
    )


def _fixed(size_bytes: int, *values: bytes) -> bytes:
    assert all(len(value) == size_bytes for value in values)
    return b"".join(values)


def _list(elements: list[bytes]) -> bytes:
    return _u16(len(elements)) + b"".join(elements)


def _sized(data: bytes) -> bytes:
    return _u32(len(data)) + data


def _bool(value: bool) -> bytes:
    return bytes([value])


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "big")
