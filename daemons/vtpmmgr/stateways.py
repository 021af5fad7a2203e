# SPDX-License-Identifier: Apache-2.0
"""Where the state of a vTPM may go, beside back to itself: to another manager, or to another vTPM.

One of the two, or neither: the operator says so (`statetargets`), and what gives keys looks here
(`statekeys`). It ends with either of the vTPMs, so that a later one of its uuid inherits nothing.
"""

from __future__ import annotations

from uuid import UUID

from daemons.vtpmmgr.ledger import Ledger, Transaction
from daemons.vtpmmgr.staterecords import LocalTargetRecord, StateTargetRecord


def may_load(ledger: Ledger, vtpm: UUID, source: UUID) -> bool:
    """Say whether a vTPM may load state of `source`, where both are of one group."""
    if vtpm == source:
        return True
    way = ledger.get(LocalTargetRecord, source.bytes)
    return way is not None and way.target == vtpm


def set_way(
    transaction: Transaction, vtpm: UUID, way: StateTargetRecord | LocalTargetRecord | None
) -> None:
    """Note the one way that a vTPM's state may go, or that there is none any more."""
    for kind in (StateTargetRecord, LocalTargetRecord):
        if transaction.get(kind, vtpm.bytes) is not None:
            transaction.delete(kind, vtpm.bytes)
    if way is not None:
        transaction.put(way)


def forget_ways(transaction: Transaction, vtpm: UUID) -> None:
    """Forget where the state of a vTPM may go, and whose may come to it."""
    set_way(transaction, vtpm, None)
    for way in transaction.local_targets():
        if way.target == vtpm:
            transaction.delete(LocalTargetRecord, way.uuid.bytes)
