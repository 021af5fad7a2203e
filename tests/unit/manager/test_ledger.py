# SPDX-License-Identifier: Apache-2.0
"""Transactions: what they show, what they forget, what a commit keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from daemons.runtime.secret import Secret
from daemons.vtpmmgr.hashtree import EMPTY_ROOT
from daemons.vtpmmgr.keyring import KeyRing
from daemons.vtpmmgr.ledger import Ledger
from daemons.vtpmmgr.records import GroupRecord, VtpmRecord
from daemons.vtpmmgr.sealing import RootSecret
from daemons.vtpmmgr.store import Store

A, B, MANAGER = (UUID(int=n) for n in (1, 2, 3))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    keys = KeyRing(RootSecret(MANAGER, Secret(32), 5, Secret(20)))
    store = Store.create(tmp_path / "manager.db")
    yield Ledger.found(store, keys, [keys.new_group(0)])
    store.close()


def vtpm(uuid: UUID, flags: int = 0) -> VtpmRecord:
    return VtpmRecord(uuid, MANAGER, flags, b"data")


def put(ledger: Ledger, *records: VtpmRecord | GroupRecord) -> None:
    transaction = ledger.transaction()
    with transaction.attempt():
        for record in records:
            transaction.put(record)
    ledger.commit(transaction)


def test_each_commit_names_the_root_before_it(ledger: Ledger) -> None:
    first = ledger.newest
    assert (first.sequence, first.predecessor) == (1, EMPTY_ROOT)
    put(ledger, vtpm(A))
    assert ledger.newest.sequence == 2
    assert ledger.newest.predecessor == first.root != ledger.newest.root


def test_a_transaction_sees_its_own_changes_and_the_ledger_only_after_commit(
    ledger: Ledger,
) -> None:
    put(ledger, vtpm(A), vtpm(B))
    transaction = ledger.transaction()
    assert not transaction
    with transaction.attempt():
        transaction.put(vtpm(A, flags=1))
        transaction.delete(VtpmRecord, B.bytes)
        assert transaction.get(VtpmRecord, A.bytes) == vtpm(A, flags=1)
        assert transaction.get(VtpmRecord, B.bytes) is None
    assert ledger.get(VtpmRecord, A.bytes) == vtpm(A)
    assert ledger.get(VtpmRecord, B.bytes) == vtpm(B)
    ledger.commit(transaction)
    assert ledger.get(VtpmRecord, A.bytes) == vtpm(A, flags=1)
    assert ledger.get(VtpmRecord, B.bytes) is None


def test_a_failed_attempt_is_forgotten_and_earlier_ones_are_not(ledger: Ledger) -> None:
    transaction = ledger.transaction()
    with transaction.attempt():
        transaction.put(vtpm(A))

    def fail() -> None:
        with transaction.attempt():
            transaction.put(vtpm(A, flags=9))
            transaction.put(vtpm(B))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert transaction.get(VtpmRecord, A.bytes) == vtpm(A)
    assert transaction.get(VtpmRecord, B.bytes) is None
    ledger.commit(transaction)
    assert ledger.get(VtpmRecord, A.bytes) == vtpm(A)
    assert ledger.get(VtpmRecord, B.bytes) is None


def test_a_change_and_its_undoing_give_the_same_root(ledger: Ledger) -> None:
    root = ledger.newest.root
    put(ledger, vtpm(A))
    transaction = ledger.transaction()
    with transaction.attempt():
        transaction.delete(VtpmRecord, A.bytes)
    ledger.commit(transaction)
    assert ledger.newest.root == root
    assert ledger.newest.sequence == 3


def test_groups_are_found_by_number_in_and_outside_a_transaction(ledger: Ledger) -> None:
    zero = ledger.group(0)
    assert zero is not None
    one = ledger.keys.new_group(1)
    transaction = ledger.transaction()
    assert transaction.group(0) == zero
    with transaction.attempt():
        transaction.put(one)
        assert transaction.group(1) == one
        assert transaction.group(0) == zero
        assert ledger.group(1) is None
        # As GROUP_DEL of group 0 will: later groups move down.
        moved = dataclasses.replace(one, number=0)
        transaction.delete(GroupRecord, zero.uuid.bytes)
        transaction.put(moved)
        assert transaction.group(0) == moved
        assert transaction.group(1) is None
    ledger.commit(transaction)
    assert ledger.group(0) == moved
    assert ledger.group(1) is None


def test_what_was_committed_is_loaded_and_verified_again(tmp_path: Path, ledger: Ledger) -> None:
    put(ledger, vtpm(A), vtpm(B))
    ledger.abandon()
    store = Store.open(tmp_path / "manager.db")
    assert store is not None
    again = Ledger.load(store, ledger.keys)
    assert again.newest == ledger.newest
    assert again.get(VtpmRecord, A.bytes) == vtpm(A)
    again.close()
