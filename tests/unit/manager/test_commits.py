# SPDX-License-Identifier: Apache-2.0
"""The order of a commit, many at once, and what is answered when something is missing."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.hardware import NvArea
from protocol.manager.framing import ManagerRefused
from protocol.tpm12 import ReturnCode
from tests.unit.manager.fakes import Chip, FakeHardware
from tests.unit.manager.harness import (
    NV_INDEX,
    A,
    B,
    Guest,
    Managed,
    client,
    managed,
    options,
)
from tpmcore.errors import TpmError

MANY = [UUID(int=n) for n in range(1, 101)]
OLD, NEW = b"old".ljust(64, b"."), b"new".ljust(64, b".")


class SlowHardware(FakeHardware):
    """A chip whose NV writes wait until they are let, or are refused some times."""

    def __init__(self, chip: Chip) -> None:
        super().__init__(chip)
        self.gate: trio.Event | None = None
        self.at_gate = trio.Event()
        self.busy = 0

    def nv_area(self, index: int, size_bytes: int, auth: Secret) -> NvArea:
        return SlowArea(self, super().nv_area(index, size_bytes, auth))


class SlowArea:
    def __init__(self, hardware: SlowHardware, area: NvArea) -> None:
        self._hardware = hardware
        self._area = area

    async def read(self) -> bytes:
        return await self._area.read()

    async def write(self, data: bytes) -> None:
        if self._hardware.gate is not None:
            self._hardware.at_gate.set()
            await self._hardware.gate.wait()
        if self._hardware.busy:
            self._hardware.busy -= 1
            raise TpmError(ReturnCode.RETRY)
        await self._area.write(data)


async def save_all(manager: Managed, guests: list[Guest]) -> None:
    async with trio.open_nursery() as nursery:
        for guest in guests:
            nursery.start_soon(guest.save, NEW)


async def test_saves_that_arrive_together_share_commits(tmp_path: Path) -> None:
    hardware = FakeHardware(Chip())
    clients = [client(uuid) for uuid in MANY]
    async with managed(options(tmp_path), hardware, clients) as manager:
        guests = [await manager.guest(uuid) for uuid in MANY]
        writes = hardware.writes
        await save_all(manager, guests)
        statistics = manager.committer.statistics()
        assert statistics.mutations == len(MANY)
        assert statistics.commits == hardware.writes - writes <= 3
        assert statistics.waiting == 0
        assert [await guest.load() for guest in guests] == [NEW] * len(MANY)


async def test_nothing_is_answered_before_the_chip_has_the_mark(tmp_path: Path) -> None:
    hardware = SlowHardware(Chip())
    async with managed(options(tmp_path), hardware) as manager:
        guest = await manager.guest(A)
        await guest.save(OLD)
        hardware.gate = trio.Event()
        answered = trio.Event()

        async def save() -> None:
            await guest.save(NEW)
            answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(save)
            await hardware.at_gate.wait()
            await wait_all_tasks_blocked()
            assert manager.started.ledger.newest.sequence == 3
            assert not answered.is_set()
            under_way = manager.committer.statistics()
            assert (under_way.sequence, under_way.bound) == (3, 2)
            hardware.gate.set()
        assert answered.is_set()
        settled = manager.committer.statistics()
        assert (settled.sequence, settled.bound) == (3, 3)
        assert settled.latencies.samples == settled.commits == 2


async def test_a_load_after_a_lost_connection_waits_for_the_save_under_way(tmp_path: Path) -> None:
    hardware = SlowHardware(Chip())
    async with managed(options(tmp_path), hardware) as manager:
        first = await manager.guest(A)
        await first.save(OLD)
        hardware.gate = trio.Event()
        loaded: list[bytes] = []

        async def load(guest: Guest) -> None:
            loaded.append(await guest.load())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.save, NEW)
            await hardware.at_gate.wait()
            first.device.gone = True
            nursery.start_soon(load, await manager.guest(A))
            await wait_all_tasks_blocked()
            # A load that did not wait would have been read before this one.
            await manager.committer.read(B, lambda ledger: None)
            await wait_all_tasks_blocked()
            loaded_early = list(loaded)
            hardware.gate.set()
        assert loaded_early == []
        assert loaded == [NEW]


async def test_a_lost_answer_of_the_chip_is_no_error_of_the_save(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hardware = FakeHardware(Chip())
    async with managed(options(tmp_path), hardware) as manager:
        guest = await manager.guest(A)
        hardware.lose_answers = 3
        await guest.save(NEW)
        assert hardware.lose_answers == 0
        assert "not in the hardware TPM yet" in str(manager.lines)
        assert await guest.load() == NEW


async def test_a_chip_that_is_away_refuses_the_save_before_anything_is_written(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hardware = FakeHardware(Chip())
    async with managed(options(tmp_path), hardware) as manager:
        guest = await manager.guest(A)
        await guest.save(OLD)
        hardware.unreachable = True
        with pytest.raises(ManagerRefused, match="IOERROR"):
            await guest.save(NEW)
        assert manager.started.ledger.newest.sequence == 2
        hardware.unreachable = False
        assert await guest.load() == OLD
        await guest.save(NEW)
        assert await guest.load() == NEW


async def test_a_chip_that_comes_back_in_time_makes_the_save_late_and_no_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hardware = FakeHardware(Chip())
    async with managed(options(tmp_path), hardware) as manager:
        guest = await manager.guest(A)
        hardware.unreachable = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guest.save, NEW)
            await trio.sleep(3)
            hardware.unreachable = False
        assert await guest.load() == NEW


async def test_a_chip_that_goes_after_the_transaction_is_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hardware = SlowHardware(Chip())
    async with managed(options(tmp_path), hardware) as manager:
        guest = await manager.guest(A)
        hardware.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guest.save, NEW)
            await hardware.at_gate.wait()
            hardware.unreachable = True
            hardware.gate.set()
            await trio.sleep(600)
            assert manager.committer.statistics().waiting == 1
            hardware.unreachable = False
        assert await guest.load() == NEW


async def test_a_chip_that_refuses_the_mark_ends_the_manager_without_an_answer(
    tmp_path: Path,
) -> None:
    chip = Chip()
    with pytest.RaisesGroup(DaemonError, flatten_subgroups=True):
        async with managed(options(tmp_path), FakeHardware(chip)) as manager:
            guest = await manager.guest(A)
            await guest.save(OLD)
            area = chip.areas.pop(NV_INDEX)
            await guest.save(NEW)
    chip.areas[NV_INDEX] = area
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        assert await (await manager.guest(A)).load() == NEW


async def test_a_busy_chip_is_asked_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    hardware = SlowHardware(Chip())
    async with managed(options(tmp_path), hardware) as manager:
        guest = await manager.guest(A)
        hardware.busy = 5
        await guest.save(NEW)
        assert hardware.busy == 0
        assert await guest.load() == NEW


async def test_the_end_of_the_daemon_waits_for_the_commit_under_way(tmp_path: Path) -> None:
    chip = Chip()
    hardware = SlowHardware(chip)
    told: list[str] = []
    async with managed(options(tmp_path), hardware) as manager:
        guest = await manager.guest(A)
        hardware.gate = trio.Event()

        async def save() -> None:
            await guest.save(NEW)
            told.append("saved")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(save)
            await hardware.at_gate.wait()
            nursery.cancel_scope.cancel()
            hardware.gate.set()
    assert told == ["saved"]
    assert chip.areas[NV_INDEX].data[4:12] == (2).to_bytes(8, "big")


async def test_the_log_is_copied_into_the_main_file_now_and_then(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await manager.guest(A)
        sizes = []
        for n in range(550):
            await guest.save(n.to_bytes(64, "big"))
            sizes.append((tmp_path / "manager.db-wal").stat().st_size)
        # Reused from its beginning: 1,000 pages and one commit more.
        assert sizes[-1] == max(sizes) < 1010 * 4120
        assert await guest.load() == (549).to_bytes(64, "big")
