# SPDX-License-Identifier: Apache-2.0
"""A manager with twenty thousand vTPMs; how fast it is says `make bench`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
import trio

from daemons.vtpmmgr.commits import Exclusive
from daemons.vtpmmgr.ledger import Transaction
from daemons.vtpmmgr.records import VtpmRecord
from protocol.manager.constants import ManagementOrdinal
from protocol.manager.management import VtpmList, VtpmName, VtpmNew, VtpmsListed
from tests.unit.manager.agent import Operator
from tests.unit.manager.fakes import Chip, FakeHardware
from tests.unit.manager.harness import Guest, Managed, client, managed, options

VTPMS = 20_000
TOGETHER = 200
SAVED, LATER = (mark.ljust(64, b".") for mark in (b"saved", b"later"))


def uuid_of(number: int) -> UUID:
    """Return a uuid such that the numbers' order is not that of the uuids."""
    return UUID(int=(number * 2654435761 % 2**32) << 96 | number + 1)


def registered(numbers: range) -> Callable[[Transaction], None]:
    """Return the change that registers many vTPMs at once."""

    def change(transaction: Transaction) -> None:
        group = transaction.group(0)
        assert group is not None
        for uuid in map(uuid_of, numbers):
            data = transaction.keys.wrap_data(group, uuid, SAVED)
            transaction.put(VtpmRecord(uuid, group.uuid, 0, data))

    return change


async def listed(op: Operator) -> list[UUID]:
    """Ask for the list page by page."""
    found: list[UUID] = []
    while True:
        request = VtpmList(0, len(found))
        page = await op.ask(ManagementOrdinal.VTPM_LIST, request, VtpmsListed)
        if not page.uuids:
            assert page.total == len(found)
            return found
        found += [UUID(bytes=uuid) for uuid in page.uuids]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Chip]:
    """A database with all of them, and its chip."""
    folder, chip = tmp_path_factory.mktemp("many"), Chip()

    async def make() -> None:
        async with managed(options(folder), FakeHardware(chip)) as manager:

            async def fill(alone: Exclusive) -> None:
                await alone.commit(registered(range(VTPMS)))

            await manager.committer.exclusively(fill)

    trio.run(make)
    return folder, chip


async def test_start_list_save_and_load_with_twenty_thousand(many: tuple[Path, Chip]) -> None:
    folder, chip = many
    some = [uuid_of(number) for number in range(0, VTPMS, 1999)]
    async with managed(options(folder), FakeHardware(chip), map(client, some)) as manager:
        op = Operator(manager.parts.management)
        assert await listed(op) == sorted(map(uuid_of, range(VTPMS)))
        for uuid in some:
            guest = await manager.guest(uuid)
            assert await guest.load() == SAVED
            await guest.save(LATER)
            assert await guest.load() == LATER
            await guest.save(SAVED)
            await guest.close()


async def test_the_list_is_complete_while_vtpms_come_and_go(many: tuple[Path, Chip]) -> None:
    folder, chip = many
    known = {uuid_of(number) for number in range(VTPMS)}
    async with managed(options(folder), FakeHardware(chip)) as manager:
        op = Operator(manager.parts.management)
        await listed(op)
        new = UUID(int=1 << 120)
        await op.send(ManagementOrdinal.VTPM_NEW, VtpmNew(0, new))
        assert await listed(op) == sorted({*known, new})
        await op.send(ManagementOrdinal.VTPM_DEL, VtpmName(new))
        assert await listed(op) == sorted(known)


async def _guests(manager: Managed, numbers: range) -> list[Guest]:
    return [await manager.guest(uuid_of(number)) for number in numbers]


async def test_saves_that_arrive_together_share_commits(many: tuple[Path, Chip]) -> None:
    folder, chip = many
    numbers = range(500, 500 + TOGETHER)
    clients = [client(uuid_of(number)) for number in numbers]
    hardware = FakeHardware(chip)
    async with managed(options(folder), hardware, clients) as manager:
        guests = await _guests(manager, numbers)
        before, writes = manager.committer.statistics(), hardware.writes
        async with trio.open_nursery() as nursery:
            for guest in guests:
                nursery.start_soon(guest.save, SAVED)
        after = manager.committer.statistics()
        commits = after.commits - before.commits
        assert after.mutations - before.mutations == TOGETHER
        # what comes while the first is written waits and goes together
        assert commits <= 3
        assert after.largest >= TOGETHER // 2
        assert hardware.writes - writes == commits
