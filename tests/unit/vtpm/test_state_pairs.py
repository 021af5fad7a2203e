# SPDX-License-Identifier: Apache-2.0
"""A permanent and a volatile state that came in belong together, or no TPM runs on them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from daemons.vtpm.stateblob import Blob
from protocol.tpm12 import Ordinal, ReturnCode
from protocol.vtpm.control import ControlOrdinal, GetState, PowerOn, StateType
from tests.unit.vtpm.fakes import GUEST
from tests.unit.vtpm.test_machine import STARTUP, ZEROS, FakeKeys, Guest, Vtpm

PERMANENT, VOLATILE = StateType.PERMANENT, StateType.VOLATILE
GOLDEN = Path(__file__).parents[2] / "golden"
GOLDEN_PCR_4 = bytes.fromhex("c3b965579859bda977d8b3f39e3ae4de744ea033")
Pair = tuple[bytes, bytes]


async def change_permanent(vtpm: Vtpm) -> None:
    """Have the TPM change its permanent state, as a client's command does."""
    before = vtpm.host.engine.permanent_state()
    for installable in (b"\0", b"\1"):
        if vtpm.host.engine.permanent_state() == before:
            await vtpm.command(Ordinal.SET_OWNER_INSTALL, installable)
    assert vtpm.host.engine.permanent_state() != before


async def fetch(vtpm: Vtpm) -> Pair:
    return await vtpm.fetch(PERMANENT), await vtpm.fetch(VOLATILE)


async def put_both(vtpm: Vtpm, permanent: bytes, volatile: bytes) -> None:
    """Send both halves, the permanent one first; each is taken in."""
    assert await vtpm.put(PERMANENT, permanent) == 0
    assert await vtpm.put(VOLATILE, volatile) == 0


async def two_times(source: Guest) -> tuple[Pair, bytes, Pair, bytes]:
    """Return the state of a TPM at two times, and the value of PCR 4 at each."""
    vtpm = await source.start()
    first_value = await vtpm.extend(4)
    first = await fetch(vtpm)
    await change_permanent(vtpm)
    value = await vtpm.extend(4)
    return first, first_value, await fetch(vtpm), value


async def stopped(source: Guest) -> tuple[Guest, Vtpm]:
    target = Guest(keys=source.keys, name="target")
    vtpm = await target.start()
    await vtpm.do(ControlOrdinal.POWER_OFF)
    return target, vtpm


async def init(vtpm: Vtpm) -> int:
    code, _ = await vtpm.ask(ControlOrdinal.POWER_ON, PowerOn(1))
    return code


@pytest.mark.parametrize("order", [(PERMANENT, VOLATILE), (VOLATILE, PERMANENT)])
async def test_states_of_two_times_are_not_run_on_and_nothing_changes(
    order: tuple[StateType, StateType],
) -> None:
    source = Guest()
    (permanent, _), _, (right, volatile), value = await two_times(source)
    target, vtpm = await stopped(source)
    blobs = {PERMANENT: permanent, VOLATILE: volatile}
    for kind in order:
        assert await vtpm.put(kind, blobs[kind]) == 0
    image, disk, memory = vtpm.store.sequence, target.disk.contents(), vtpm.memory.load()
    for _ in range(2):
        assert await init(vtpm) == ReturnCode.BAD_PARAMETER
        assert "taken with another permanent state" in target.lines.lines[-1]
        assert not vtpm.machine.is_running
        assert (vtpm.store.sequence, vtpm.memory.load()) == (image, memory)
        assert target.disk.contents() == disk
    # What belongs to it makes it whole.
    assert await vtpm.put(PERMANENT, right) == 0
    assert await init(vtpm) == 0
    assert await vtpm.pcr(4) == value


async def test_the_volatile_state_of_the_permanent_one_takes_the_place_of_another() -> None:
    source = Guest()
    (permanent, right), value, (_, volatile), _ = await two_times(source)
    _, vtpm = await stopped(source)
    await put_both(vtpm, permanent, volatile)
    assert await vtpm.put(VOLATILE, right) == 0
    assert await init(vtpm) == 0
    assert await vtpm.pcr(4) == value


async def test_a_pair_that_was_whole_is_not_any_more_when_one_half_is_replaced() -> None:
    source = Guest()
    first, _, second, value = await two_times(source)
    _, vtpm = await stopped(source)
    await put_both(vtpm, *second)
    assert await vtpm.put(PERMANENT, first[0]) == 0
    assert await init(vtpm) == ReturnCode.BAD_PARAMETER
    assert await vtpm.put(PERMANENT, second[0]) == 0
    assert await init(vtpm) == 0
    assert await vtpm.pcr(4) == value


async def test_a_volatile_state_alone_goes_on_beside_the_permanent_one_it_was_taken_with() -> None:
    guest = Guest()
    vtpm = await guest.start()
    value = await vtpm.extend(4)
    blob = await vtpm.fetch(VOLATILE)
    await vtpm.do(ControlOrdinal.POWER_OFF)
    assert await vtpm.put(VOLATILE, blob) == 0
    assert await init(vtpm) == 0
    assert await vtpm.pcr(4) == value
    await change_permanent(vtpm)
    await vtpm.do(ControlOrdinal.POWER_OFF)
    assert await vtpm.put(VOLATILE, blob) == 0
    assert await init(vtpm) == ReturnCode.BAD_PARAMETER


async def test_a_pair_of_which_the_daemon_saw_one_half_each_is_whole() -> None:
    source = Guest()
    (permanent, volatile), value, _, _ = await two_times(source)
    pair = (PERMANENT, permanent), (VOLATILE, volatile)
    for order in (pair, pair[::-1]):
        target, vtpm = await stopped(source)
        for kind, blob in order:
            assert await vtpm.put(kind, blob) == 0
            vtpm = await target.start(vtpm.memory.load())
        assert await init(vtpm) == 0
        assert await vtpm.pcr(4) == value


@pytest.mark.parametrize("order", [(PERMANENT, VOLATILE), (VOLATILE, PERMANENT)])
async def test_that_they_do_not_belong_together_outlives_the_daemon(
    order: tuple[StateType, StateType],
) -> None:
    source = Guest()
    (permanent, _), _, (right, volatile), value = await two_times(source)
    target, vtpm = await stopped(source)
    blobs = {PERMANENT: permanent, VOLATILE: volatile}
    for kind in order:
        vtpm = await target.start(vtpm.memory.load())
        assert await vtpm.put(kind, blobs[kind]) == 0
    vtpm = await target.start(vtpm.memory.load())
    assert await init(vtpm) == ReturnCode.BAD_PARAMETER
    vtpm = await target.start(vtpm.memory.load())
    assert await vtpm.put(PERMANENT, right) == 0
    vtpm = await target.start(vtpm.memory.load())
    assert await init(vtpm) == 0
    assert await vtpm.pcr(4) == value


async def test_a_machine_that_was_off_starts_afresh_beside_a_state_of_another_time() -> None:
    source = Guest()
    (permanent, _), _, (_, volatile), _ = await two_times(source)
    target, vtpm = await stopped(source)
    await put_both(vtpm, permanent, volatile)
    vtpm = await target.start(None)  # nothing but the image is left
    assert await vtpm.pcr(4) == ZEROS
    await change_permanent(vtpm)  # and it is still not of this one
    assert await init(vtpm) == ReturnCode.BAD_PARAMETER
    assert await vtpm.pcr(4) == ZEROS


async def test_a_new_permanent_state_or_a_reset_by_the_operator_ends_it() -> None:
    source = Guest()
    (permanent, _), _, (_, volatile), _ = await two_times(source)
    for is_reset in (False, True):
        _, vtpm = await stopped(source)
        await put_both(vtpm, permanent, volatile)
        assert await init(vtpm) == ReturnCode.BAD_PARAMETER
        if is_reset:
            await vtpm.machine.reset({})
            assert vtpm.machine.is_running
        else:
            await vtpm.do(ControlOrdinal.POWER_OFF)  # begins anew
            assert await vtpm.put(PERMANENT, permanent) == 0
        assert vtpm.store.kept_volatile is None
        assert await init(vtpm) == 0
        await vtpm.send(STARTUP)
        assert await vtpm.pcr(4) == ZEROS


async def test_states_between_whose_fetching_the_tpm_changed_are_not_given_out() -> None:
    guest = Guest()
    vtpm = await guest.start()
    await vtpm.fetch(PERMANENT)
    await change_permanent(vtpm)
    answer = await vtpm.ask(ControlOrdinal.GET_STATE, GetState(VOLATILE, 0))
    assert answer == (ReturnCode.FAIL, b"")
    assert "changed since it was given out" in guest.lines.lines[-1]
    # Who asks for both again gets both, and so does who wants this one only.
    await vtpm.fetch(VOLATILE)
    permanent, volatile = await fetch(vtpm)
    await vtpm.do(ControlOrdinal.POWER_OFF)
    await put_both(vtpm, permanent, volatile)
    assert await init(vtpm) == 0


async def test_a_volatile_blob_says_under_its_tag_with_which_permanent_state_it_was_taken() -> None:
    vtpm = await Guest().start()
    keys = FakeKeys()
    vtpm.machine._keys = keys
    permanent, volatile = [Blob.parse(blob) for blob in await fetch(vtpm)]
    state = vtpm.host.engine.permanent_state()
    opened = [blob.open(keys.given[blob.descriptor]) for blob in (permanent, volatile)]
    assert opened[0].state == state
    assert opened[1].state.startswith(b"VTPM12VS")
    assert [each.taken_with for each in opened] == [None, hashlib.sha256(state).digest()]
    assert permanent.uuid == volatile.uuid == GUEST


# --- the format before ---------------------------------------------------------------------------


def golden(version: str, keys: FakeKeys) -> Pair:
    """Return a pair of blobs of a format version, whose keys the manager has."""
    for descriptor in (b"descriptor 0", b"descriptor 1"):
        keys.given[descriptor] = hashlib.sha256(descriptor).digest()
    folder = GOLDEN / f"blob-{version}"
    return (folder / "permanent").read_bytes(), (folder / "volatile").read_bytes()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_blobs_of_every_version_are_taken_in(version: str) -> None:
    guest = Guest(name="target")
    permanent, volatile = golden(version, guest.keys)
    vtpm = await guest.start()
    await vtpm.do(ControlOrdinal.POWER_OFF)
    await put_both(vtpm, permanent, volatile)
    assert await init(vtpm) == 0
    assert await vtpm.pcr(4) == GOLDEN_PCR_4


async def test_a_volatile_blob_of_before_follows_a_permanent_one_of_before_only() -> None:
    guest = Guest(name="target")
    permanent, volatile = golden("1.0", guest.keys)
    vtpm = await guest.start()
    newer = await vtpm.fetch(PERMANENT)
    await vtpm.do(ControlOrdinal.POWER_OFF)
    before = vtpm.store.sequence
    assert await vtpm.put(VOLATILE, volatile) == ReturnCode.BAD_PARAMETER
    assert "format 1.0" in guest.lines.lines[-1]
    assert vtpm.store.sequence == before
    assert await vtpm.put(PERMANENT, newer) == 0
    assert await vtpm.put(VOLATILE, volatile) == ReturnCode.BAD_PARAMETER
    await put_both(vtpm, permanent, volatile)
    # from here on it is bound to that one
    assert await vtpm.put(PERMANENT, newer) == 0
    assert await init(vtpm) == ReturnCode.BAD_PARAMETER


@pytest.mark.parametrize("way", ["the host was started again", "guest reset"])
async def test_a_pair_that_came_in_is_given_up_when_the_tpm_runs_on_without_it(way: str) -> None:
    source = Guest()
    first, value, _, _ = await two_times(source)
    target, vtpm = await stopped(source)
    await put_both(vtpm, *first)
    if way == "guest reset":
        await vtpm.machine.reset({})
    else:
        vtpm = await target.start(None)
    assert await vtpm.pcr(4) == ZEROS
    await change_permanent(vtpm)
    changed = vtpm.host.engine.permanent_state()
    assert await init(vtpm) == 0
    assert vtpm.host.engine.permanent_state() == changed
    await vtpm.send(STARTUP)
    assert await vtpm.pcr(4) == ZEROS != value


async def test_a_pair_that_came_in_outlives_a_restart_after_which_nothing_changed() -> None:
    source = Guest()
    first, value, _, _ = await two_times(source)
    target, vtpm = await stopped(source)
    await put_both(vtpm, *first)
    vtpm = await target.start(None)
    assert await vtpm.pcr(4) == ZEROS
    assert await init(vtpm) == 0
    assert await vtpm.pcr(4) == value
