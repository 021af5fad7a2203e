# SPDX-License-Identifier: Apache-2.0
"""Envelopes open in the row for which they were made and nowhere else."""

from __future__ import annotations

import dataclasses
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.runtime.secret import Secret
from daemons.vtpmmgr import envelope
from daemons.vtpmmgr.keyring import KeyRing
from daemons.vtpmmgr.records import GroupRecord, SealRecord, VtpmRecord
from daemons.vtpmmgr.rows import BadRow, encode_row
from daemons.vtpmmgr.sealing import NotARootSecret, RootSecret

KEY = Secret(b"k" * 32)
A, B, MANAGER = (UUID(int=n) for n in (1, 2, 3))
DATA = b"d" * 64


def ring_of(manager: UUID, key: Secret) -> KeyRing:
    return KeyRing(RootSecret(manager, key, 5, Secret(20)))


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_an_envelope_gives_back_what_was_put_in(plaintext: bytes, identity: bytes) -> None:
    sealed = envelope.wrap(KEY, identity, plaintext)
    assert len(sealed) == len(plaintext) + 45
    assert envelope.unwrap(KEY, identity, sealed) == plaintext
    assert envelope.wrap(KEY, identity, plaintext) != sealed


def test_any_changed_bit_or_other_length_is_not_authentic() -> None:
    sealed = envelope.wrap(KEY, b"row", DATA)
    for offset in range(len(sealed)):
        changed = sealed[:offset] + bytes([sealed[offset] ^ 1]) + sealed[offset + 1 :]
        with pytest.raises(envelope.NotAuthentic):
            envelope.unwrap(KEY, b"row", changed)
    for size in range(len(sealed)):
        with pytest.raises(envelope.NotAuthentic):
            envelope.unwrap(KEY, b"row", sealed[:size])


def test_data_opens_only_for_its_vtpm_its_group_and_its_manager() -> None:
    ring = ring_of(MANAGER, KEY)
    group, other_group = ring.new_group(0), ring.new_group(1)
    record = VtpmRecord(A, group.uuid, 0, ring.wrap_data(group, A, DATA))
    assert ring.unwrap_data(group, record) == DATA
    with pytest.raises(envelope.NotAuthentic):
        ring.unwrap_data(group, dataclasses.replace(record, uuid=B))
    with pytest.raises(envelope.NotAuthentic):
        ring.unwrap_data(other_group, record)
    for stranger in (ring_of(B, KEY), ring_of(MANAGER, Secret(b"x" * 32))):
        with pytest.raises(envelope.NotAuthentic):
            stranger.unwrap_data(group, record)
    moved = GroupRecord(other_group.uuid, 0, group.wrapped_key)
    with pytest.raises(envelope.NotAuthentic):
        ring_of(MANAGER, KEY).unwrap_data(moved, record)


def test_no_key_shows_itself() -> None:
    root = RootSecret.new(5)
    ring = KeyRing(root)
    text = repr(root) + repr(ring) + repr(root.encode()) + str(root.manager_key)
    for secret in (root.manager_key, root.nv_auth, ring.row_key, ring.commit_key):
        assert bytes(secret).hex() not in text
        assert repr(bytes(secret)) not in text


def test_a_root_secret_comes_back_and_nothing_else_is_one() -> None:
    root = RootSecret.new(0x15654)
    packed = root.encode()
    assert len(packed) == 76
    assert RootSecret.decode(packed) == root
    for wrong in (b"", packed[:-1], packed + b"\0", b"XXXX" + packed[4:]):
        with pytest.raises(NotARootSecret):
            RootSecret.decode(wrong)


def test_rows_come_back_as_records() -> None:
    seal = SealRecord(A, B, 2, ((0, b"0" * 20), (23, b"1" * 20)), b"blob")
    vtpm = VtpmRecord(A, B, 7, b"data")
    assert SealRecord.from_row(seal.row()) == seal
    assert VtpmRecord.from_row(vtpm.row()) == vtpm


@pytest.mark.parametrize(
    "row",
    [
        (b"short", b"b" * 16, 0, b""),
        (b"a" * 16, 5, 0, b""),
        (b"a" * 16, b"b" * 16, b"", b""),
        (b"a" * 16, b"b" * 16, 0, 0),
        (b"a" * 16, b"b" * 16, 0),
    ],
)
def test_a_row_of_other_types_is_bad(row: tuple[int | bytes, ...]) -> None:
    with pytest.raises(BadRow):
        VtpmRecord.from_row(row)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=9), min_size=1, max_size=4).map(
        tuple
    ),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=9), min_size=1, max_size=4).map(
        tuple
    ),
)
def test_different_rows_have_different_encodings(
    one: tuple[int | bytes, ...], other: tuple[int | bytes, ...]
) -> None:
    same = encode_row(VtpmRecord.TABLE, one) == encode_row(VtpmRecord.TABLE, other)
    assert same == (one == other)
    assert encode_row(VtpmRecord.TABLE, one) != encode_row(GroupRecord.TABLE, one)


def test_a_value_that_sqlite_can_hold_and_we_never_write_is_bad() -> None:
    with pytest.raises(BadRow, match="str"):
        encode_row(VtpmRecord.TABLE, ("text",))  # type: ignore[arg-type]
