# SPDX-License-Identifier: Apache-2.0
"""What each freshness mode notices, and what it does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.errors import RefusedToStart
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.freshness import BIND_INTERVAL_S, CounterFreshness, Mark
from daemons.vtpmmgr.keyring import KeyRing
from daemons.vtpmmgr.records import COUNTER_KEY, CounterRecord
from daemons.vtpmmgr.startup import accept_rollback
from protocol.tpm12 import ReturnCode
from tests.unit.manager.fakes import Chip, FakeHardware, Lines
from tests.unit.manager.harness import A, managed, options
from tests.unit.manager.test_tpm12hardware import Wire, hardware_on
from tests.unit.tpm12.world import make_chip
from tpmcore.errors import TpmError

NV, COUNTER, NONE = FreshnessMode.NV, FreshnessMode.COUNTER, FreshnessMode.NONE


async def served(folder: Path, chip: Chip, mark: str, mode: FreshnessMode) -> None:
    """Start a manager, save once, and stop it in order."""
    async with managed(options(folder, freshness=mode), FakeHardware(chip)) as manager:
        guest = await manager.guest(A)
        await guest.save(mark.encode().ljust(64, b"."))


async def found(folder: Path, chip: Chip, mode: FreshnessMode) -> str:
    async with managed(options(folder, freshness=mode), FakeHardware(chip)) as manager:
        data = await (await manager.guest(A)).load()
    return data.rstrip(b".").decode()


def copied(folder: Path, name: str) -> Path:
    return shutil.copytree(folder, folder.with_name(name))


async def expect_refusal(folder: Path, chip: Chip, mode: FreshnessMode, match: str) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RefusedToStart, match=match):
        await found(folder, chip, mode)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "now"
    path.mkdir()
    return path


async def test_nv_mode_refuses_any_older_copy_with_both_sequence_numbers(folder: Path) -> None:
    chip = Chip()
    await served(folder, chip, "one", NV)
    older = copied(folder, "older")
    await served(folder, chip, "two", NV)
    await expect_refusal(older, chip, NV, "older copy: it has sequence 2, .* has 3")
    assert await found(folder, chip, NV) == "two"


async def test_counter_mode_refuses_a_copy_that_is_older_than_the_last_binding(
    folder: Path,
) -> None:
    chip = Chip()
    await served(folder, chip, "one", COUNTER)
    older = copied(folder, "older")
    await served(folder, chip, "two", COUNTER)
    await expect_refusal(older, chip, COUNTER, "older copy: with sequence .* bound to value")
    assert await found(folder, chip, COUNTER) == "two"


async def test_counter_mode_takes_a_copy_from_after_the_last_binding(folder: Path) -> None:
    """What it does not promise: within one run, between two bindings, nothing is noticed."""
    chip = Chip()
    async with managed(options(folder, freshness=COUNTER), FakeHardware(chip)) as manager:
        guest = await manager.guest(A)
        await guest.save(b"one".ljust(64, b"."))
        older = copied(folder, "older")
        await guest.save(b"two".ljust(64, b"."))
        values = dict(chip.counters)
    chip.counters = values  # killed: the binding at the stop did not happen
    assert await found(older, chip, COUNTER) == "one"


async def test_without_freshness_any_copy_is_taken_and_each_start_says_so(folder: Path) -> None:
    chip = Chip()
    await served(folder, chip, "one", NONE)
    older = copied(folder, "older")
    await served(folder, chip, "two", NONE)
    assert await found(older, chip, NONE) == "one"
    for _ in range(2):
        async with managed(options(folder, freshness=NONE), FakeHardware(chip)) as manager:
            assert "freshness is off" in str(manager.lines)


@pytest.mark.parametrize("before", [NV, COUNTER, NONE])
@pytest.mark.parametrize("after", [NV, COUNTER, NONE])
async def test_a_mode_may_change_and_the_older_mode_is_checked_first(
    folder: Path, before: FreshnessMode, after: FreshnessMode
) -> None:
    chip = Chip()
    await served(folder, chip, "one", before)
    older = copied(folder, "older")
    await served(folder, chip, "two", before)
    if before is NONE:
        copied(older, "older still")
    else:
        await expect_refusal(older, chip, after, "older copy")
    await served(folder, chip, "three", after)
    assert await found(folder, chip, after) == "three"
    assert len(chip.counters) == (1 if after is COUNTER else 0)
    if after is NV:
        await expect_refusal(older, chip, after, "older copy")


@pytest.mark.parametrize("after", [NV, NONE])
async def test_a_counter_that_cannot_be_given_back_keeps_no_manager_down(
    folder: Path, after: FreshnessMode
) -> None:
    chip = Chip()
    await served(folder, chip, "one", COUNTER)
    chip.counters = {number: (b"another's", value) for number, (_, value) in chip.counters.items()}
    assert await found(folder, chip, after) == "one"


async def test_a_chip_that_increments_another_counter_is_named(folder: Path) -> None:
    chip = Chip(active_counter=5)
    with pytest.raises(RefusedToStart, match="one for each of its starts"):
        await served(folder, chip, "one", COUNTER)
    assert await found_after_reset(folder, chip) == "one"


async def found_after_reset(folder: Path, chip: Chip) -> str:
    chip.active_counter = None
    await served(folder, chip, "one", COUNTER)
    return await found(folder, chip, COUNTER)


@pytest.mark.parametrize("mode", [NV, COUNTER])
async def test_an_older_copy_is_taken_on_the_owners_order(
    folder: Path, mode: FreshnessMode
) -> None:
    chip, lines = Chip(), Lines()
    await served(folder, chip, "one", mode)
    older = copied(folder, "older")
    await served(folder, chip, "two", mode)
    start_options = options(older, freshness=mode)

    stranger = FakeHardware(chip, owner_auth=Secret(b"x" * 20))
    with pytest.raises(RefusedToStart, match="owner's secret"):
        await accept_rollback(start_options, stranger, lines.log, dry_run=False)
    looked = await accept_rollback(start_options, FakeHardware(chip), lines.log, dry_run=True)
    assert (looked["accepted"], looked["agree"]) == (None, False)
    await expect_refusal(older, chip, mode, "older copy")

    done = await accept_rollback(start_options, FakeHardware(chip), lines.log, dry_run=False)
    assert done == {**looked, "accepted": done["accepted"]}
    assert f"rollback accepted sequence={done['accepted']}" in str(lines)
    assert await found(older, chip, mode) == "one"
    looked = await accept_rollback(start_options, FakeHardware(chip), lines.log, dry_run=True)
    assert looked["agree"] is True
    # what was the newest is now a copy too many
    await expect_refusal(folder, chip, mode, "database")


async def test_the_counter_mode_works_on_a_whole_tpm(folder: Path) -> None:
    chip = make_chip()
    start_options = options(folder, freshness=COUNTER)
    for mark in (b"one", b"two"):
        async with managed(start_options, hardware_on(Wire(chip))) as manager:
            await (await manager.guest(A)).save(mark.ljust(64, b"."))
        chip.power_cycle()
    async with managed(start_options, hardware_on(Wire(chip))) as manager:
        assert await (await manager.guest(A)).load() == b"two".ljust(64, b".")
    async with managed(options(folder, freshness=NV), hardware_on(Wire(chip))) as manager:
        assert await (await manager.guest(A)).load() == b"two".ljust(64, b".")


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Throttled(FakeHardware):
    """A chip that may want to be left alone."""

    throttled = False

    async def increment_counter(self, count_id: int, auth: Secret) -> None:
        if self.throttled:
            raise TpmError(ReturnCode.RETRY)
        await super().increment_counter(count_id, auth)


async def test_increments_keep_the_distance_that_a_chip_wants(folder: Path) -> None:
    chip, clock = Chip(), Clock()
    hardware = Throttled(chip)
    async with managed(options(folder), hardware) as manager:
        ledger = manager.started.ledger
        keys: KeyRing = ledger.keys
        auth = Secret(b"counter's secret....")
        count_id, value = await hardware.create_counter(auth)
        record = keys.counter_record(count_id, auth, value)
        freshness = CounterFreshness(hardware, keys, record, clock)
        mark = Mark.of(ledger.newest)

        async def commit() -> CounterRecord | None:
            transaction = ledger.transaction()
            with transaction.attempt():
                freshness.stamp(transaction)
            await freshness.bind(mark)
            return transaction.get(CounterRecord, COUNTER_KEY)

        assert await commit() is None
        assert freshness.wants_last
        clock.now_s += BIND_INTERVAL_S
        stamped = await commit()
        assert stamped is not None
        assert stamped.value == value + 1 == await hardware.read_counter(count_id)
        assert await commit() is None

        clock.now_s += BIND_INTERVAL_S
        hardware.throttled = True
        again = await commit()
        assert again is not None
        assert again.value == value + 2
        assert await hardware.read_counter(count_id) == value + 1
        hardware.throttled = False
        await commit()  # too early to ask again
        assert await hardware.read_counter(count_id) == value + 1
        clock.now_s += BIND_INTERVAL_S
        await commit()
        assert await hardware.read_counter(count_id) == value + 2
