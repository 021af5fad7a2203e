# SPDX-License-Identifier: Apache-2.0
"""Whether the database is the newest, at the start, and bringing the hardware TPM up to it.

    database          anchor               what it means                      what is done
    ----------------  -------------------  ---------------------------------  --------------------
    sequence 1        none, nor one under  died in the first start            define, write a mark
                      the other index
    sequence 1        never written        died in the first start            write a mark
    sequence n        mark n, its root     orderly                            serve
    sequence n+1      mark n, root of its  died between database and chip     write the mark n+1
                      predecessor
    sequence n        mark m > n           an older copy of the database      refuse
    sequence n        mark <= n, another   a fork, or an older state of the   refuse
                      root                 chip
    sequence n > 1    none, or never       the area was removed               refuse
                      written
    sequence 1        none, but one under  an older copy; the area in force   refuse
                      the other index      is another's
    names value c     counter c            orderly                            serve
    names value c+1   counter c            died between database and chip     increment, serve
    names value < c   counter c            older than the last binding        refuse
    names value > c+1 counter c            an older state of the chip         refuse
    anything          nothing is wanted    somebody chose `none`              serve, and say so

Only then the mode may change, to the one that is configured: the new one is made complete before
the anchor names it, and the anchor is one write. What the former mode needed goes last. A crash in
between leaves the former mode in force, and at most a counter too many, which the next one that is
made replaces.

An operator may take an older copy on purpose (`accept`). That removes the area and makes it anew,
which takes the owner's secret.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, assert_never

import trio

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.control import Fields, Json
from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.log import Log
from daemons.runtime.secret import AUTH_BYTES, Secret
from daemons.vtpmmgr.freshness import (
    NV_BYTES,
    Anchor,
    BadAnchor,
    CounterAnchor,
    CounterFreshness,
    Freshness,
    Mark,
    NoAnchor,
    NoFreshness,
    NvFreshness,
    encode_anchor,
    read_anchor,
)
from daemons.vtpmmgr.hardware import Hardware, NvArea
from daemons.vtpmmgr.ledger import Ledger
from daemons.vtpmmgr.records import COUNTER_KEY, CounterRecord
from daemons.vtpmmgr.sealing import nv_indices
from daemons.vtpmmgr.store import DiskFull
from protocol.tpm12 import ReturnCode
from tpmcore.errors import TpmError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Bound:
    """A ledger that is the newest, and the area that says so."""

    ledger: Ledger
    hardware: Hardware
    area: NvArea
    where: str
    log: Log


async def bind(ledger: Ledger, mode: FreshnessMode, hardware: Hardware, log: Log) -> Freshness:
    """Accept a ledger as the newest, in the mode that is in force, and change to `mode`.

    Raises:
        RefusedToStart: it is not the newest; nothing was written.
        TpmError, DaemonError: the chip or the disk fails.
    """
    root = ledger.keys.root
    where = f"NV area {root.nv_index:#x} of the hardware TPM"
    area_bytes = await hardware.nv_area_size(root.nv_index)
    if area_bytes is None:
        # Beside an area under the other index this is no first start, but a copy from before an
        # NV_REKEY. What is there vouches for a database, whose anchor must not be removed for it.
        moved = await hardware.nv_area_size(nv_indices(root.nv_index)[1]) is not None
        if ledger.newest.sequence != 1 or moved:
            raise RefusedToStart(
                f"{where} is gone; it must name sequence {ledger.newest.sequence}: without it "
                "nobody can tell whether this database is the newest"
            )
        await hardware.nv_define(root.nv_index, NV_BYTES, root.nv_auth)
        area_bytes = NV_BYTES
    if area_bytes != NV_BYTES:
        raise RefusedToStart(f"{where} has {area_bytes} bytes, not {NV_BYTES}: it is not ours")
    area = hardware.nv_area(root.nv_index, NV_BYTES, root.nv_auth)
    bound = _Bound(ledger, hardware, area, where, log)
    anchor = await _read(area, where)
    await _accept_newest(bound, anchor)
    await _remove_former_area(bound)
    return await _in_mode(bound, anchor, mode)


async def examine(ledger: Ledger, hardware: Hardware) -> Fields:
    """Say what a ledger and the hardware TPM have, which an operator has to compare.

    Returns:
        "database": sequence, and value of its counter if it names one. "chip": mode, and sequence
        in mode nv, value in mode counter; mode None if no area tells. "agree": whether the ledger
        is what the chip knows as the newest.

    Raises:
        TpmError, DaemonError: the chip fails.
    """
    root, newest = ledger.keys.root, ledger.newest
    record = await _in_thread(partial(ledger.get, CounterRecord, COUNTER_KEY))
    anchor: Anchor | None = None
    if await hardware.nv_area_size(root.nv_index) is not None:
        # an area that is not this manager's tells as little as none
        with contextlib.suppress(RefusedToStart):
            area = hardware.nv_area(root.nv_index, NV_BYTES, root.nv_auth)
            anchor = await _read(area, "")
    chip: dict[str, Json] = {"mode": None, "sequence": None, "value": None}
    agree = False
    match anchor:
        case Mark():
            chip |= {"mode": FreshnessMode.NV.value, "sequence": anchor.sequence}
            agree = anchor == Mark.of(newest)
        case CounterAnchor():
            value = await hardware.read_counter(anchor.count_id)
            chip |= {"mode": FreshnessMode.COUNTER.value, "value": value}
            agree = record is not None and (record.count_id, record.value) == (
                anchor.count_id,
                value,
            )
        case NoAnchor():
            chip["mode"] = FreshnessMode.NONE.value
            agree = True
        case None:
            pass
        case _:
            assert_never(anchor)
    return {
        "database": {
            "sequence": newest.sequence,
            "value": None if record is None else record.value,
        },
        "chip": chip,
        "agree": agree,
    }


async def accept(ledger: Ledger, hardware: Hardware, log: Log) -> None:
    """Make a ledger the newest, whatever the hardware TPM says; by order of its owner.

    Raises:
        TpmError: AUTHFAIL if the owner's secret is another one; nothing changed then.
        DaemonError: the chip fails.
    """
    root = ledger.keys.root
    where = f"NV area {root.nv_index:#x} of the hardware TPM"
    known = "no area"
    if await hardware.nv_area_size(root.nv_index) is not None:
        try:
            known = str(await _read(hardware.nv_area(root.nv_index, NV_BYTES, root.nv_auth), where))
        except RefusedToStart as error:
            known = str(error)
        await hardware.nv_delete(root.nv_index)
    await hardware.nv_define(root.nv_index, NV_BYTES, root.nv_auth)
    # A commit of its own: else the state that is given up could follow on the accepted one.
    try:
        await _in_thread(lambda: ledger.commit(ledger.transaction()))
    except DiskFull as error:
        raise DaemonError(str(error)) from error
    area = hardware.nv_area(root.nv_index, NV_BYTES, root.nv_auth)
    await area.write(encode_anchor(Mark.of(ledger.newest)))
    log.warning("rollback accepted", sequence=ledger.newest.sequence, chip_had=known)


async def _remove_former_area(bound: _Bound) -> None:
    """Finish a change of the area's secret that a crash cut short: only one area may count."""
    _, former = nv_indices(bound.ledger.keys.root.nv_index)
    if await bound.hardware.nv_area_size(former) == NV_BYTES:
        await bound.hardware.nv_delete(former)
        bound.log.info("former NV area removed", index=former)


async def _read(area: NvArea, where: str) -> Anchor | None:
    try:
        return await read_anchor(area)
    except TpmError as error:
        if error.code != ReturnCode.AUTHFAIL:
            raise
        raise RefusedToStart(f"{where} belongs to another manager: {error}") from error
    except BadAnchor as error:
        raise RefusedToStart(f"{where} holds no mark of a manager: {error}") from error


# --- is it the newest? ---------------------------------------------------------------------------


async def _accept_newest(bound: _Bound, anchor: Anchor | None) -> None:
    match anchor:
        case None | Mark():
            await _accept_mark(bound, anchor)
        case CounterAnchor():
            await _accept_counter(bound, anchor)
        case NoAnchor():
            pass
        case _:
            assert_never(anchor)


async def _accept_mark(bound: _Bound, mark: Mark | None) -> None:
    newest = bound.ledger.newest
    if mark == Mark.of(newest):
        return
    _check_behind_by_one(bound.ledger, mark, bound.where)
    await _in_thread(bound.ledger.make_durable)
    await bound.area.write(encode_anchor(Mark.of(newest)))
    bound.log.info("brought the hardware TPM up to the database", sequence=newest.sequence)


def _check_behind_by_one(ledger: Ledger, mark: Mark | None, where: str) -> None:
    newest = ledger.newest
    if mark is None:
        if newest.sequence != 1:
            raise RefusedToStart(f"{where} was never written; the database has {newest.sequence}")
        return
    if mark.sequence > newest.sequence:
        raise RefusedToStart(
            f"the database is an older copy: it has sequence {newest.sequence}, "
            f"{where} has {mark.sequence}"
        )
    if mark.sequence == newest.sequence:
        raise RefusedToStart(
            f"the database is a fork: {where} has another state with sequence {mark.sequence}"
        )
    if mark.sequence + 1 != newest.sequence or mark.root != newest.predecessor:
        raise RefusedToStart(
            f"the database has sequence {newest.sequence} and does not follow on sequence "
            f"{mark.sequence} in {where}"
        )


async def _accept_counter(bound: _Bound, anchor: CounterAnchor) -> None:
    sequence = bound.ledger.newest.sequence
    record = await _in_thread(partial(bound.ledger.get, CounterRecord, COUNTER_KEY))
    if record is None or record.count_id != anchor.count_id:
        raise RefusedToStart(
            f"the database (sequence {sequence}) names no counter, or another one than "
            f"{bound.where} does ({anchor.count_id}): it is older than the change of mode"
        )
    value = await bound.hardware.read_counter(anchor.count_id)
    counter = f"counter {anchor.count_id} of the hardware TPM"
    if value is None:
        raise RefusedToStart(f"{counter} is gone; the database must be bound to {record.value}")
    if value > record.value:
        raise RefusedToStart(
            f"the database is an older copy: with sequence {sequence} it is bound to value "
            f"{record.value}, {counter} has {value}"
        )
    if value + 1 < record.value:
        raise RefusedToStart(
            f"the database (sequence {sequence}) is bound to value {record.value}, {counter} has "
            f"only {value}: an older state of the chip"
        )
    if value < record.value:
        await _in_thread(bound.ledger.make_durable)
        auth = bound.ledger.keys.unwrap_counter_auth(record)
        await bound.hardware.increment_counter(anchor.count_id, auth)
        bound.log.info("brought the hardware TPM up to the database", sequence=sequence)


# --- the mode that is wanted ---------------------------------------------------------------------


async def _in_mode(bound: _Bound, anchor: Anchor | None, mode: FreshnessMode) -> Freshness:
    match mode:
        case FreshnessMode.NV:
            if not isinstance(anchor, Mark | None):
                await _in_thread(bound.ledger.make_durable)
                await bound.area.write(encode_anchor(Mark.of(bound.ledger.newest)))
                bound.log.info("freshness changed", mode=mode.value)
                await _forget_counter(bound, anchor)
            return NvFreshness(bound.area)
        case FreshnessMode.COUNTER:
            return await _with_counter(bound, anchor)
        case FreshnessMode.NONE:
            if not isinstance(anchor, NoAnchor):
                await bound.area.write(encode_anchor(NoAnchor()))
                bound.log.info("freshness changed", mode=mode.value)
                await _forget_counter(bound, anchor)
            bound.log.warning("freshness is off: an older copy of the database is not noticed")
            return NoFreshness()
        case _:
            assert_never(mode)


async def _with_counter(bound: _Bound, anchor: Anchor | None) -> Freshness:
    """Bind the database to the counter's next value, which is this start's increment."""
    ledger = bound.ledger
    record = await _in_thread(partial(ledger.get, CounterRecord, COUNTER_KEY))
    value = None if record is None else await bound.hardware.read_counter(record.count_id)
    if record is not None and value is not None and not await _may_replace(bound, record):
        try:
            return await _increment(bound, anchor, record.at(value))
        except TpmError as error:
            # Another counter of this number, where the record is from a counter that was given
            # back. One that is in force was looked at before.
            if error.code != ReturnCode.AUTHFAIL or isinstance(anchor, CounterAnchor):
                raise
    auth = Secret(os.urandom(AUTH_BYTES))
    count_id, value = await bound.hardware.create_counter(auth)
    return await _increment(bound, anchor, ledger.keys.counter_record(count_id, auth, value))


async def _may_replace(bound: _Bound, record: CounterRecord) -> bool:
    """Say whether the counter is to be replaced, and the chip lets another one be incremented."""
    return bool(record.retired) and await bound.hardware.active_counter() is None


async def _increment(bound: _Bound, anchor: Anchor | None, record: CounterRecord) -> Freshness:
    """Write a commit that names the next value, increment, and have the anchor say so."""
    ledger = bound.ledger
    freshness = CounterFreshness(bound.hardware, ledger.keys, record, time.monotonic)
    newest = await _in_thread(partial(_stamped, ledger, freshness))
    if isinstance(anchor, Mark | None):
        # the mark stays in force until the anchor names the counter
        await bound.area.write(encode_anchor(newest))
    try:
        await freshness.bind(newest)
    except TpmError as error:
        if error.code != ReturnCode.BAD_COUNTER:
            raise
        raise RefusedToStart(
            "the hardware TPM increments another counter until it is reset: it allows one for "
            "each of its starts"
        ) from error
    if anchor != CounterAnchor(record.count_id):
        await bound.area.write(encode_anchor(CounterAnchor(record.count_id)))
        bound.log.info("freshness changed", mode=FreshnessMode.COUNTER.value)
    return freshness


def _stamped(ledger: Ledger, freshness: Freshness) -> Mark:
    """Write a commit that names the next value (in a thread)."""
    transaction = ledger.transaction()
    with transaction.attempt():
        freshness.stamp(transaction, last=True)
    try:
        return Mark.of(ledger.commit(transaction))
    except DiskFull as error:
        raise DaemonError(str(error)) from error


async def _forget_counter(bound: _Bound, anchor: Anchor | None) -> None:
    """Give back the counter of the mode that was; it is only a place of the chip."""
    if isinstance(anchor, CounterAnchor):
        record = await _in_thread(partial(bound.ledger.get, CounterRecord, COUNTER_KEY))
        if record is not None:
            auth = bound.ledger.keys.unwrap_counter_auth(record)
            try:
                await bound.hardware.release_counter(anchor.count_id, auth)
            except TpmError as error:
                bound.log.warning("counter not given back", counter=anchor.count_id, reason=error)


async def _in_thread(function: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(function)
