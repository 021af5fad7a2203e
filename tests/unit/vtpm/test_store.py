# SPDX-License-Identifier: Apache-2.0
"""Commits and loads: whatever happens, what was acknowledged is there and nothing is replaced."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.files import StateFolder
from daemons.runtime.host import PersistOutcome
from daemons.vtpm.image import Content, seal_image
from daemons.vtpm.store import ImageStore
from tests.faulty_disk import Aftermath, FaultyDisk, PowerCut, power_cuts
from tests.unit.vtpm.fakes import (
    GUEST,
    OTHER_GUEST,
    CountingRandom,
    FakeKeeper,
    Fault,
    Lines,
    Vault,
)

FOLDER = Path("/state")
SLOT0 = FOLDER / "slot0"
SLOT1 = FOLDER / "slot1"
SAVED = PersistOutcome.SAVED
NOT_SAVED = PersistOutcome.NOT_SAVED


@dataclass
class Machine:
    """A disk and a manager; processes come and go on it."""

    disk: FaultyDisk = field(default_factory=FaultyDisk)
    vault: Vault = field(default_factory=Vault)
    lines: Lines = field(default_factory=Lines)
    seeds: Iterator[int] = field(default_factory=lambda: iter(range(1000)))
    statuses: list[str] = field(default_factory=list)

    def process(self, keeper: FakeKeeper | None = None) -> ImageStore:
        """Start one."""
        return ImageStore(
            StateFolder(FOLDER, self.disk),
            GUEST,
            FakeKeeper(self.vault) if keeper is None else keeper,
            CountingRandom(next(self.seeds).to_bytes(4, "big")),
            self.lines.log(),
            self.statuses.append,
        )

    def save_all(self, *states: bytes) -> None:
        """Run one process that saves these states, one after the other."""

        async def main() -> None:
            store = self.process()
            await store.load()
            for state in states:
                assert await store.save(state) is SAVED

        trio.run(main)

    def found(self) -> bytes | None:
        """Start a process and return what it goes on from."""
        return trio.run(self.process().load)

    def after(self, disk: FaultyDisk) -> Machine:
        """Return this machine with the disk that a power cut left."""
        return Machine(disk, Vault(self.vault.data), self.lines, self.seeds)


def test_a_new_vtpm_is_registered_before_anything_is_written() -> None:
    machine = Machine()
    assert machine.found() is None
    assert machine.vault.data == bytes(64)
    assert machine.disk.contents() == {}


def test_what_was_saved_last_is_found() -> None:
    machine = Machine()
    machine.save_all(b"one", b"two", b"three")
    assert machine.found() == b"three"


def test_saves_alternate_between_the_slots() -> None:
    machine = Machine()
    machine.save_all(b"one")
    first = machine.disk.contents()
    machine.save_all(b"two")
    second = machine.disk.contents()
    assert set(first) == {SLOT0}
    assert second[SLOT0] == first[SLOT0]
    machine.save_all(b"three")
    third = machine.disk.contents()
    assert third[SLOT1] == second[SLOT1]
    assert third[SLOT0] != second[SLOT0]


def test_the_image_on_the_disk_does_not_show_the_state() -> None:
    machine = Machine()
    machine.save_all(b"the owner's secret" * 10)
    assert b"secret" not in machine.disk.contents()[SLOT0]
    assert not any("secret" in line for line in machine.lines.lines)


# --- power cuts ---


@pytest.mark.parametrize("acknowledged", [[], [b"one"], [b"one", b"two"], [b"one", b"two", b"3"]])
def test_a_power_cut_at_any_step_leaves_the_state_before_or_after(
    acknowledged: list[bytes],
) -> None:
    before = Machine()
    before.save_all(*acknowledged)
    last = acknowledged[-1] if acknowledged else None
    seen = set()
    vault = Vault()

    def commit(disk: FaultyDisk) -> None:
        vault.data = before.vault.data
        Machine(disk, vault, seeds=before.seeds).save_all(b"new")

    for case in power_cuts(before.disk, commit):
        machine = Machine(case.disk, Vault(vault.data), seeds=before.seeds)
        found = machine.found()
        assert found in ({b"new"} if case.completed else {last}), case
        seen.add(found)
        machine.save_all(b"later")
        assert machine.found() == b"later", case
    assert seen == {last, b"new"}


@pytest.mark.parametrize("aftermath", list(Aftermath))
@pytest.mark.parametrize("acknowledged", [[], [b"one"], [b"one", b"two"]])
@pytest.mark.parametrize(
    ("fault", "is_new"), [(Fault.POWER_CUT_BEFORE, False), (Fault.POWER_CUT_AFTER, True)]
)
def test_a_power_cut_while_the_manager_commits_is_decided_by_the_manager(
    acknowledged: list[bytes], fault: Fault, is_new: bool, aftermath: Aftermath
) -> None:
    machine = Machine()
    machine.save_all(*acknowledged)

    async def main() -> None:
        store = machine.process(FakeKeeper(machine.vault, on_save=deque([fault])))
        await store.load()
        await store.save(b"new")

    with pytest.raises(PowerCut):
        trio.run(main)
    machine = machine.after(machine.disk.crash(aftermath))
    last = acknowledged[-1] if acknowledged else None
    assert machine.found() == (b"new" if is_new else last)


@pytest.mark.parametrize("fault", [Fault.POWER_CUT_BEFORE, Fault.POWER_CUT_AFTER])
def test_a_power_cut_while_the_uuid_is_registered_leaves_a_new_vtpm(fault: Fault) -> None:
    machine = Machine()
    with pytest.raises(PowerCut):
        trio.run(machine.process(FakeKeeper(machine.vault, on_save=deque([fault]))).load)
    assert machine.found() is None
    machine.save_all(b"one")
    assert machine.found() == b"one"


# --- the manager ---


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.LATE])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_save_whose_answer_is_lost_ends_up_saved(
    fault: Fault, times: int, autojump_clock: MockClock
) -> None:
    machine = Machine()
    keeper = FakeKeeper(machine.vault)
    store = machine.process(keeper)
    await store.load()
    assert await store.save(b"one") is SAVED
    keeper.on_save.extend([fault] * times)
    assert await store.save(b"two") is SAVED
    assert await store.save(b"three") is SAVED
    assert await machine.process().load() == b"three"


async def test_nothing_is_executed_until_the_manager_has_told_which_image_is_current(
    autojump_clock: MockClock,
) -> None:
    machine = Machine()
    keeper = FakeKeeper(machine.vault)
    store = machine.process(keeper)
    await store.load()
    keeper.calls.clear()
    keeper.on_save.append(Fault.LOST_AFTER)
    keeper.on_load.extend([Fault.LOST_BEFORE, 31, Fault.LOST_BEFORE])
    assert await store.save(b"one") is SAVED
    assert keeper.calls == ["save", "load", "load", "load", "load"]


async def test_a_save_that_the_manager_refuses_leaves_the_state_before(
    autojump_clock: MockClock,
) -> None:
    machine = Machine()
    keeper = FakeKeeper(machine.vault)
    store = machine.process(keeper)
    await store.load()
    keeper.on_save.append(31)
    assert await store.save(b"never") is NOT_SAVED
    assert await store.save(b"one") is SAVED
    keeper.on_save.append(31)
    assert await store.save(b"never") is NOT_SAVED
    assert await machine.process().load() == b"one"
    assert await store.save(b"two") is SAVED
    assert await machine.process().load() == b"two"


async def test_an_error_of_the_manager_after_its_commit_is_not_taken_for_a_failure() -> None:
    machine = Machine()

    class Confused(FakeKeeper):
        async def save_hash_key(self, data: bytes) -> None:
            await super().save_hash_key(data)
            if any(data):
                self.on_save.append(9)
                self._meet(self.on_save, None)

    store = machine.process(Confused(machine.vault))
    await store.load()
    assert await store.save(b"one") is SAVED
    assert await machine.process().load() == b"one"


@pytest.mark.parametrize("record", [None, bytes(64), bytes(range(64))])
async def test_a_manager_that_suddenly_has_another_record_ends_the_vtpm(
    record: bytes | None,
) -> None:
    machine = Machine()
    keeper = FakeKeeper(machine.vault)
    store = machine.process(keeper)
    await store.load()
    assert await store.save(b"one") is SAVED
    disk = machine.disk.contents()
    machine.vault.data = record
    with pytest.raises(RefusedToStart, match=str(GUEST)):
        await store.check(keeper)
    keeper.on_save.append(31)
    with pytest.raises(RefusedToStart):
        await store.save(b"two")
    assert machine.vault.data == record
    assert machine.disk.contents()[SLOT0] == disk[SLOT0]


async def test_a_reconnected_manager_with_our_record_is_the_same_manager() -> None:
    machine = Machine()
    keeper = FakeKeeper(machine.vault)
    store = machine.process(keeper)
    await store.check(keeper)
    assert keeper.calls == []
    await store.load()
    await store.check(keeper)
    assert await store.save(b"one") is SAVED
    await store.check(keeper)
    assert await store.save(b"two") is SAVED


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER])
async def test_a_registration_whose_answer_is_lost_is_looked_at_before_it_is_repeated(
    fault: Fault, autojump_clock: MockClock
) -> None:
    machine = Machine()
    keeper = FakeKeeper(machine.vault, on_save=deque([fault]))
    assert await machine.process(keeper).load() is None
    assert machine.vault.data == bytes(64)
    repeated = ["save"] if fault is Fault.LOST_BEFORE else []
    assert keeper.calls == ["load", "save", "load", *repeated]


async def test_a_manager_that_cannot_register_now_is_waited_for(autojump_clock: MockClock) -> None:
    # TPM_IOERROR: its hardware TPM does not answer; TPM_FAIL: its disk is full.
    machine = Machine()
    keeper = FakeKeeper(machine.vault, on_save=deque([31, 9]))
    assert await machine.process(keeper).load() is None
    assert machine.vault.data == bytes(64)
    assert "waiting for the manager to register this vTPM" in machine.statuses
    assert machine.statuses[-1] == ""


async def test_a_manager_that_will_not_register_it_is_a_refusal() -> None:
    machine = Machine()
    keeper = FakeKeeper(machine.vault, on_save=deque([3]))
    with pytest.raises(RefusedToStart, match="does not register"):
        await machine.process(keeper).load()
    assert machine.vault.data is None


async def test_a_manager_that_cannot_answer_at_start_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    machine = Machine()
    store = machine.process()
    await store.load()
    assert await store.save(b"one") is SAVED
    keeper = FakeKeeper(machine.vault, on_load=deque([Fault.LOST_BEFORE, 31, 9, 0x800]))
    assert await machine.process(keeper).load() == b"one"
    assert "waiting for the manager to tell the current image" in machine.statuses
    assert machine.statuses[-1] == ""


async def test_a_vtpm_that_is_open_elsewhere_is_waited_for_a_moment_and_then_refused(
    autojump_clock: MockClock,
) -> None:
    machine = Machine()
    keeper = FakeKeeper(machine.vault, on_load=deque([7, 7, None]))
    assert await machine.process(keeper).load() is None
    keeper = FakeKeeper(machine.vault, on_load=deque([7] * 1000))
    started = trio.current_time()
    with pytest.raises(RefusedToStart, match="open"):
        await machine.process(keeper).load()
    assert 5 <= trio.current_time() - started < 10


async def test_a_stop_does_not_wait_for_ever_and_the_next_start_tells(
    autojump_clock: MockClock,
) -> None:
    machine = Machine()
    keeper = FakeKeeper(machine.vault)
    store = machine.process(keeper)
    await store.load()
    assert await store.save(b"one") is SAVED
    keeper.on_save.append(Fault.LOST_AFTER)
    keeper.on_load.extend([Fault.LOST_BEFORE] * 10000)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.shield = True
            scope.cancel()
            nursery.start_soon(_save_until_stopped, store)
            await trio.sleep(100)
            store.stop_waiting(5)
    assert await machine.process().load() == b"two"


async def _save_until_stopped(store: ImageStore) -> None:
    started = trio.current_time()
    with pytest.raises(DaemonError, match="next start"):
        await store.save(b"two")
    assert trio.current_time() - started == pytest.approx(105)


async def test_a_save_that_begins_after_the_stop_is_limited_as_well(
    autojump_clock: MockClock,
) -> None:
    machine = Machine()
    keeper = FakeKeeper(machine.vault)
    store = machine.process(keeper)
    await store.load()
    store.stop_waiting(5)
    keeper.on_save.append(Fault.LOST_BEFORE)
    keeper.on_load.extend([Fault.LOST_BEFORE] * 10000)
    with pytest.raises(DaemonError, match="next start"):
        await store.save(b"one")


async def test_a_cancelled_client_does_not_tear_a_commit_apart() -> None:
    machine = Machine()
    store = machine.process()
    await store.load()
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await store.save(b"one") is SAVED
    assert await machine.process().load() == b"one"


# --- a full disk ---


@pytest.mark.parametrize("error_number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("acknowledged", [[b"one"], [b"one", b"two"]])
async def test_a_disk_that_fails_at_any_step_fails_the_save_and_keeps_the_state_before(
    acknowledged: list[bytes], error_number: int
) -> None:
    step = 0
    while True:
        step += 1
        machine = Machine()
        store = machine.process()
        await store.load()
        for state in acknowledged:
            assert await store.save(state) is SAVED
        done = machine.disk.steps
        machine.disk.fail_at(step, error_number, stays=True)
        if await store.save(b"new") is SAVED:
            assert machine.disk.steps - done < step
            break
        assert await machine.process().load() == acknowledged[-1]
        machine.disk.mend()
        assert await store.save(b"later") is SAVED
        assert await machine.process().load() == b"later"
    assert step > 2


# --- what does not belong together ---


def _sealed(state: bytes, sequence: int, seed: bytes = b"elsewhere") -> bytes:
    return seal_image(Content(state), GUEST, sequence, CountingRandom(seed))[0]


def _refused(machine: Machine) -> str:
    disk, data = machine.disk.contents(), machine.vault.data
    with pytest.raises(RefusedToStart) as raised:
        machine.found()
    assert machine.disk.contents() == disk
    assert machine.vault.data == data
    return str(raised.value)


def test_a_tampered_image_is_refused() -> None:
    machine = Machine()
    machine.save_all(b"one", b"two")
    slot = bytearray(machine.disk.contents()[SLOT1])
    slot[60] ^= 1
    machine.disk.put(SLOT1, bytes(slot))
    message = _refused(machine)
    assert "slot1 is image 2 of this vTPM, changed or not the last one" in message
    assert "SHA-256" in message


def test_an_older_image_is_refused() -> None:
    machine = Machine()
    machine.save_all(b"one", b"two")
    backup = machine.disk.contents()
    machine.save_all(b"three", b"four")
    for path, content in backup.items():
        machine.disk.put(path, content)
    message = _refused(machine)
    assert "slot0 is image 1" in message
    assert "slot1 is image 2" in message
    assert "not the last one" in message


def test_a_truncated_image_is_refused() -> None:
    machine = Machine()
    machine.save_all(b"one")
    machine.disk.put(SLOT0, machine.disk.contents()[SLOT0][:-1])
    assert "truncated" in _refused(machine)
    machine.disk.put(SLOT0, b"")
    assert "0 bytes" in _refused(machine)


def test_another_guests_image_is_refused() -> None:
    machine = Machine()
    machine.save_all(b"one")
    foreign, _ = seal_image(Content(b"other"), OTHER_GUEST, 1, CountingRandom())
    machine.disk.put(SLOT0, foreign)
    assert f"slot0 belongs to vTPM {OTHER_GUEST}" in _refused(machine)


def test_another_guests_image_is_refused_also_if_the_manager_swapped_the_records() -> None:
    machine = Machine()
    foreign, record = seal_image(Content(b"other"), OTHER_GUEST, 1, CountingRandom())
    machine.disk.put(SLOT0, foreign)
    machine.vault.data = record.encode()
    assert str(OTHER_GUEST) in _refused(machine)


def test_a_key_that_does_not_open_the_image_is_refused() -> None:
    machine = Machine()
    machine.save_all(b"one")
    assert machine.vault.data is not None
    machine.vault.data = machine.vault.data[:32] + bytes(range(32))
    assert "key does not open" in _refused(machine)


def test_an_image_that_is_missing_is_refused() -> None:
    machine = Machine()
    machine.save_all(b"one")
    machine.disk = FaultyDisk()
    assert "slot0 is missing; slot1 is missing" in _refused(machine)


def test_images_of_a_vtpm_that_the_manager_does_not_know_are_refused() -> None:
    machine = Machine()
    machine.save_all(b"one")
    machine.vault.data = None
    message = _refused(machine)
    assert "does not know this uuid" in message
    assert "slot0 is image 1" in message


@pytest.mark.parametrize("slots", [{SLOT0: 2}, {SLOT0: 1, SLOT1: 2}, {SLOT1: 2}, {SLOT1: 1}])
def test_images_that_were_acknowledged_are_not_replaced_when_the_manager_lost_their_key(
    slots: dict[Path, int],
) -> None:
    machine = Machine(vault=Vault(bytes(64)))
    for path, sequence in slots.items():
        machine.disk.put(path, _sealed(b"x", sequence))
    assert "no key for them" in _refused(machine)


def test_another_guests_image_is_not_taken_for_our_own_crash() -> None:
    machine = Machine(vault=Vault(bytes(64)))
    machine.disk.put(SLOT0, seal_image(Content(b"other"), OTHER_GUEST, 1, CountingRandom())[0])
    assert f"belongs to vTPM {OTHER_GUEST}" in _refused(machine)


def test_the_first_image_that_nobody_was_told_of_is_replaced() -> None:
    machine = Machine(vault=Vault(bytes(64)))
    machine.disk.put(SLOT0, _sealed(b"never acknowledged", 1))
    assert machine.found() is None
    machine.save_all(b"one")
    assert machine.found() == b"one"


async def test_a_slot_that_cannot_be_read_does_not_keep_the_other_one_from_being_tried() -> None:
    machine = Machine()
    store = machine.process()
    await store.load()
    assert await store.save(b"one") is SAVED
    assert await store.save(b"two") is SAVED

    class BadSector(FaultyDisk):
        def read(self, path: Path, limit_bytes: int) -> bytes:
            if path == SLOT0:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(path, limit_bytes)

    machine.disk = BadSector.holding(machine.disk.contents())
    assert await machine.process().load() == b"two"
    machine.disk.put(SLOT1, b"")
    with pytest.raises(RefusedToStart, match=r"slot0 cannot be read \(Input/output error\)"):
        await machine.process().load()


def test_a_slot_beyond_any_image_is_refused_without_being_read_whole() -> None:
    machine = Machine()
    machine.save_all(b"one")
    machine.disk.put(SLOT0, bytes((1 << 20) + 1000))
    assert "slot0 cannot be read" in _refused(machine)


async def test_two_saves_at_once_are_a_bug_that_shows() -> None:
    machine = Machine()
    may_go_on = trio.Event()

    class Slow(FakeKeeper):
        async def save_hash_key(self, data: bytes) -> None:
            if any(data):
                await may_go_on.wait()
            await super().save_hash_key(data)

    store = machine.process(Slow(machine.vault))
    with pytest.raises(AssertionError):
        await store.save(b"before load")
    await store.load()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.save, b"one")
        await wait_all_tasks_blocked()
        with pytest.raises(AssertionError):
            await store.save(b"two")
        may_go_on.set()
    assert await machine.process().load() == b"one"
