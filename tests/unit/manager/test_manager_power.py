# SPDX-License-Identifier: Apache-2.0
"""The power goes at step n, for every n: what was acknowledged is there, and whole."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
import trio

from daemons.runtime.config.values import FreshnessMode
from daemons.vtpmmgr.store import CommitUncertain
from protocol.manager.framing import ManagerRefused
from tests.unit.manager.fakes import Chip, Died, FakeHardware, Loss, Power, faulty_disk
from tests.unit.manager.harness import A, B, C, Managed, managed, options

NV, COUNTER, NONE = FreshnessMode.NV, FreshnessMode.COUNTER, FreshnessMode.NONE


class Witness:
    """What guests were told."""

    def __init__(self) -> None:
        self.told: dict[UUID, bytes] = {}
        self.tried: dict[UUID, list[bytes]] = {}

    async def save(self, manager: Managed, uuid: UUID, mark: bytes) -> None:
        data = mark.ljust(64, b".")
        guest = await manager.guest(uuid)
        try:
            self.tried.setdefault(uuid, []).append(data)
            await guest.save(data)
            self.told[uuid] = data
            self.tried[uuid] = []
        finally:
            await guest.close()


async def life(
    folder: Path,
    chip: Chip,
    power: Power,
    witness: Witness,
    modes: tuple[FreshnessMode, ...] = (NV,),
) -> None:
    """First start, single saves, saves together, a copy of the log, and one more save.

    In the last of the modes; one save in each before it.
    """
    with faulty_disk(power) as disk:
        hardware = FakeHardware(chip, power)
        *earlier, mode = modes
        for each in earlier:
            async with managed(options(folder, vfs=disk.name, freshness=each), hardware) as manager:
                await witness.save(manager, A, each.value.encode())
        last = options(folder, vfs=disk.name, freshness=mode)
        async with managed(last, hardware) as manager:
            await witness.save(manager, A, b"A1")
            await witness.save(manager, A, b"A2")
            async with trio.open_nursery() as nursery:
                for uuid in (A, B, C):
                    nursery.start_soon(witness.save, manager, uuid, b"together")
            await trio.to_thread.run_sync(manager.started.ledger.checkpoint)
            await witness.save(manager, B, b"B2")


async def steps_of_a_life(folder: Path, modes: tuple[FreshnessMode, ...] = (NV,)) -> int:
    folder.mkdir()
    power = Power()
    witness = Witness()
    await life(folder, Chip(), power, witness, modes)
    assert not any(witness.tried.values())
    return power.steps


async def check_after(folder: Path, chip: Chip, witness: Witness, mode: FreshnessMode = NV) -> None:
    """Start again on what is left and compare with what guests were told."""
    async with managed(options(folder, freshness=mode), FakeHardware(chip)) as manager:
        for uuid in (A, B, C):
            guest = await manager.guest(uuid)
            try:
                found: bytes | None = await guest.load()
            except ManagerRefused:
                found = None
            allowed = [witness.told.get(uuid), *witness.tried.get(uuid, [])]
            assert found in allowed, uuid
            await guest.save(b"afterwards".ljust(64, b"."))
            assert await guest.load() == b"afterwards".ljust(64, b".")


@pytest.mark.parametrize(
    ("loss", "seed"), [(Loss.NONE, 0), (Loss.ALL, 0), *((Loss.SOME, n) for n in range(2))]
)
async def test_whenever_the_power_goes_every_acknowledged_save_is_there(
    tmp_path: Path, loss: Loss, seed: int
) -> None:
    total = await steps_of_a_life(tmp_path / "whole")
    assert total > 50
    for limit in range(1, total + 1):
        folder = tmp_path / f"cut{limit}"
        folder.mkdir()
        chip, witness = Chip(), Witness()
        with pytest.RaisesGroup(Died, allow_unwrapped=True, flatten_subgroups=True):
            await life(folder, chip, Power(limit, loss, seed * 1000 + limit), witness)
        await check_after(folder, chip, witness)


@pytest.mark.parametrize(
    "modes",
    [
        (COUNTER,),
        (NONE,),
        (NV, COUNTER),
        (COUNTER, NV),
        (COUNTER, NONE, COUNTER),
        (NONE, NV),
    ],
    ids=lambda modes: "-".join(mode.value for mode in modes),
)
async def test_in_every_mode_and_change_of_mode_too(
    tmp_path: Path, modes: tuple[FreshnessMode, ...]
) -> None:
    total = await steps_of_a_life(tmp_path / "whole", modes)
    for limit in range(1, total + 1):
        folder = tmp_path / f"cut{limit}"
        folder.mkdir()
        chip, witness = Chip(), Witness()
        died = False
        try:
            await life(folder, chip, Power(limit, Loss.SOME, limit), witness, modes)
        except* Died:  # several, where the last binding fails too
            died = True
        assert died
        await check_after(folder, chip, witness, modes[-1])


async def test_a_second_cut_while_coming_up_loses_nothing_either(tmp_path: Path) -> None:
    """Cut in the middle of a save, then at each step of the start that follows."""
    total = await steps_of_a_life(tmp_path / "whole")
    for limit in range(total // 2, total, 9):
        for second in range(1, 40):
            folder = tmp_path / f"cut{limit}-{second}"
            folder.mkdir()
            chip, witness = Chip(), Witness()
            with pytest.RaisesGroup(Died, allow_unwrapped=True, flatten_subgroups=True):
                await life(folder, chip, Power(limit, Loss.SOME, limit), witness)
            power = Power(second, Loss.SOME, limit + second)
            came_up = False
            with faulty_disk(power) as disk:
                try:
                    async with managed(options(folder, vfs=disk.name), FakeHardware(chip, power)):
                        came_up = True
                except Died:
                    pass
            await check_after(folder, chip, witness)
            if came_up:
                break


async def test_a_full_disk_refuses_the_save_and_leaves_what_was_there(tmp_path: Path) -> None:
    chip, power = Chip(), Power()
    with faulty_disk(power) as disk:
        async with managed(options(tmp_path, vfs=disk.name), FakeHardware(chip, power)) as manager:
            guest = await manager.guest(A)
            await guest.save(b"before".ljust(64, b"."))
            for ahead in range(1, 8):
                disk.full_from = power.steps + ahead
                try:
                    await guest.save(b"too much".ljust(64, b"."))
                except ManagerRefused as refusal:
                    assert refusal.code == 9  # noqa: PT017 - TPM_FAIL
                else:
                    break
                assert await guest.load() == b"before".ljust(64, b".")
            assert ahead > 1
            disk.full_from = None
            await guest.save(b"room again".ljust(64, b"."))
            assert await guest.load() == b"room again".ljust(64, b".")
    await reopen_and_expect(tmp_path, chip, b"room again")


async def reopen_and_expect(folder: Path, chip: Chip, mark: bytes) -> None:
    async with managed(options(folder), FakeHardware(chip)) as manager:
        assert await (await manager.guest(A)).load() == mark.ljust(64, b".")


async def test_a_disk_error_in_a_commit_ends_the_manager_without_an_answer(
    tmp_path: Path,
) -> None:
    chip = Chip()
    with (
        faulty_disk(Power()) as disk,
        pytest.RaisesGroup(CommitUncertain, flatten_subgroups=True),
    ):
        async with managed(options(tmp_path, vfs=disk.name), FakeHardware(chip)) as manager:
            guest = await manager.guest(A)
            await guest.save(b"before".ljust(64, b"."))
            disk.broken = True
            await guest.save(b"lost".ljust(64, b"."))
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        found = await (await manager.guest(A)).load()
        assert found in (b"before".ljust(64, b"."), b"lost".ljust(64, b"."))


async def test_the_chip_is_never_brought_ahead_of_the_disk(tmp_path: Path) -> None:
    """A flush fails, the manager dies and returns, and then the power goes.

    What the failed flush was about is in the system's cache when the manager returns, and nowhere
    else; a later flush does not write it again.
    """
    chip, power = Chip(), Power(loss=Loss.ALL)
    with faulty_disk(power) as disk:
        start_options = options(tmp_path, vfs=disk.name)
        with pytest.RaisesGroup(CommitUncertain, flatten_subgroups=True):
            async with managed(start_options, FakeHardware(chip)) as manager:
                guest = await manager.guest(A)
                await guest.save(b"before".ljust(64, b"."))
                disk.broken = True
                await guest.save(b"doubtful".ljust(64, b"."))
        disk.broken = False
        async with managed(start_options, FakeHardware(chip)) as manager:
            told = await (await manager.guest(A)).load()
        disk.cut()
    assert told == b"doubtful".ljust(64, b".")
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        assert await (await manager.guest(A)).load() == told
