# SPDX-License-Identifier: Apache-2.0
"""New keys while vTPMs run: what was saved is there, and what is old opens nothing."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.hardware import HardwareLost
from daemons.vtpmmgr.records import COUNTER_KEY, CounterRecord, GroupRecord, VtpmRecord
from daemons.vtpmmgr.sealing import RootSecret
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.framing import ManagerRefused
from protocol.manager.management import GroupNumber, Nothing, VtpmNew
from protocol.tpm12 import ReturnCode
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.wire import Structure
from tests.unit.manager.agent import Agent, Operator, composite
from tests.unit.manager.fakes import Chip, Died, FakeHardware, Loss, Power, faulty_disk
from tests.unit.manager.harness import NV_INDEX, A, B, Managed, client, managed, options
from tests.unit.manager.test_commits import SlowHardware
from tpmcore.errors import TpmError

O = ManagementOrdinal  # noqa: E741 - the ordinals, once a line
BOOT = PcrSelection.of(range(8))
APPLICATION = PcrSelection.of([16])
IN_ONE = UUID(int=0xE)
CLIENTS = (client(A), client(B), client(IN_ONE, group=1))
NV, COUNTER = FreshnessMode.NV, FreshnessMode.COUNTER
ROTATIONS: tuple[tuple[ManagementOrdinal, Structure], ...] = (
    (O.MANAGER_REKEY, Nothing()),
    (O.GROUP_REKEY, GroupNumber(0)),
    (O.GROUP_REKEY, GroupNumber(1)),
    (O.NV_REKEY, Nothing()),
)


def data(mark: str) -> bytes:
    return mark.encode().ljust(64, b".")


class Stubborn(FakeHardware):
    """A chip that does not say that it removed an area.

    Attributes:
        refusal: what it says the first time instead.
    """

    def __init__(self, chip: Chip, refusal: Exception, *, executed: bool) -> None:
        super().__init__(chip)
        self.refusal: Exception | None = refusal
        self._executed = executed

    async def nv_delete(self, index: int) -> None:
        refusal, self.refusal = self.refusal, None
        if refusal is None or self._executed:
            await super().nv_delete(index)
        if refusal is not None:
            raise refusal


class Sealing(FakeHardware):
    """A chip that seals so slowly that something happens meanwhile.

    Attributes:
        meanwhile: what happens during the next seal.
    """

    def __init__(self, chip: Chip) -> None:
        super().__init__(chip)
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def seal(self, secret: bytes, selection: PcrSelection, composite: bytes) -> bytes:
        action, self.meanwhile = self.meanwhile, None
        if action is not None:
            with trio.fail_after(60):
                await action()
        return await super().seal(secret, selection, composite)


async def furnish(manager: Managed, chip: Chip, agent: Agent) -> None:
    """Give both groups an agent and a list, and each a vTPM that saved."""
    op = Operator(manager.parts.management)
    for number, selection in ((0, BOOT), (1, APPLICATION)):
        group = (await op.new_group(agent)).uuid
        if number:
            await op.send(O.VTPM_NEW, VtpmNew(1, IN_ONE))
        await op.register(agent, group, number)
        approved = [(selection, composite(selection, chip.pcrs))]
        update = agent.sign_list(group, approved, number=number)
        await op.send(O.GROUP_UPDATE, update)
    for uuid in (A, IN_ONE):
        guest = await manager.guest(uuid)
        if uuid == IN_ONE:
            await guest.load()
        await guest.save(data("saved"))
        await guest.close()


async def expect_saved(manager: Managed, mark: str = "saved") -> None:
    for uuid in (A, IN_ONE):
        guest = await manager.guest(uuid)
        assert await guest.load() == data(mark)
        await guest.close()


def roots(manager: Managed) -> RootSecret:
    return manager.started.ledger.keys.root


@pytest.mark.parametrize("mode", [NV, COUNTER])
@pytest.mark.parametrize(("ordinal", "request_body"), ROTATIONS)
async def test_after_a_rotation_all_is_there_now_and_at_the_next_starts(
    tmp_path: Path, mode: FreshnessMode, ordinal: ManagementOrdinal, request_body: Structure
) -> None:
    chip, agent = Chip(), Agent()
    start_options = options(tmp_path, freshness=mode)
    async with managed(start_options, FakeHardware(chip), CLIENTS) as manager:
        await furnish(manager, chip, agent)
        running = await manager.guest(B)
        await running.save(data("running"))
        for _ in range(2):
            await Operator(manager.parts.management).send(ordinal, request_body)
            await expect_saved(manager)
        # one that was open all the time
        await running.save(data("later"))
        assert await running.load() == data("later")
    for _ in range(2):
        async with managed(start_options, FakeHardware(chip), CLIENTS) as manager:
            await expect_saved(manager)
            assert await (await manager.guest(B)).load() == data("later")
    assert len(chip.areas) == 1


async def test_each_rotation_changes_what_it_says(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        await furnish(manager, chip, agent)
        op, ledger = Operator(manager.parts.management), manager.started.ledger
        before = roots(manager)

        await op.send(O.MANAGER_REKEY, Nothing())
        assert roots(manager).manager_key != before.manager_key
        assert roots(manager).nv_auth == before.nv_auth

        await op.send(O.NV_REKEY, Nothing())
        assert roots(manager).nv_index == NV_INDEX ^ 1
        assert roots(manager).nv_auth != before.nv_auth
        assert set(chip.areas) == {NV_INDEX ^ 1}

        group = ledger.group(0)
        record = ledger.get(VtpmRecord, A.bytes)
        assert group is not None
        key = ledger.keys.group_key(group)
        await op.send(O.GROUP_REKEY, GroupNumber(0))
        renewed = ledger.get(GroupRecord, group.uuid.bytes)
        assert renewed is not None
        assert ledger.keys.group_key(renewed) != key
        assert ledger.get(VtpmRecord, A.bytes) != record
        # the agent's copy is of no use any more; it may register again
        await op.register(agent, group.uuid)
        assert agent.escrow[group.uuid] == ledger.keys.group_key(renewed)


async def test_an_older_database_does_not_come_back_through_a_rotation(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    folder = tmp_path / "now"
    folder.mkdir()
    async with managed(options(folder), FakeHardware(chip), CLIENTS) as manager:
        await furnish(manager, chip, agent)
    for ordinal, request in ROTATIONS:
        older = shutil.copytree(folder, tmp_path / f"before {ordinal.name} {request}")
        async with managed(options(folder), FakeHardware(chip), CLIENTS) as manager:
            await Operator(manager.parts.management).send(ordinal, request)
        with pytest.raises(RefusedToStart):
            async with managed(options(older), FakeHardware(chip), CLIENTS):
                pass


async def test_the_first_state_of_all_does_not_come_back_once_the_area_moved(
    tmp_path: Path,
) -> None:
    """With sequence 1 and no area a first start goes on; but here another area is in force."""
    chip = Chip()
    folder = tmp_path / "now"
    folder.mkdir()
    async with managed(options(folder), FakeHardware(chip), CLIENTS):
        pass
    first = shutil.copytree(folder, tmp_path / "first")
    async with managed(options(folder), FakeHardware(chip), CLIENTS) as manager:
        await Operator(manager.parts.management).send(O.NV_REKEY, Nothing())
        await (await manager.guest(A)).save(data("saved"))
    with pytest.raises(RefusedToStart, match="is gone"):
        async with managed(options(first), FakeHardware(chip), CLIENTS):
            pass
    async with managed(options(folder), FakeHardware(chip), CLIENTS) as manager:
        assert await (await manager.guest(A)).load() == data("saved")


@pytest.mark.parametrize(
    ("refusal", "executed"),
    [
        (HardwareLost("no answer"), True),
        (HardwareLost("no answer"), False),
        (TpmError(ReturnCode.RETRY), False),
    ],
)
async def test_no_error_is_told_once_a_new_area_is_in_force(
    tmp_path: Path, refusal: Exception, executed: bool, autojump_clock: MockClock
) -> None:
    """A former area that stayed would vouch for the database as it was, however long ago."""
    chip = Chip()
    hardware = Stubborn(chip, refusal, executed=executed)
    async with managed(options(tmp_path), hardware, CLIENTS) as manager:
        await Operator(manager.parts.management).send(O.NV_REKEY, Nothing())
        assert hardware.refusal is None
        assert set(chip.areas) == {NV_INDEX ^ 1}


async def test_a_chip_that_keeps_the_former_area_ends_the_manager(tmp_path: Path) -> None:
    chip = Chip()
    hardware = Stubborn(chip, TpmError(ReturnCode.AUTHFAIL), executed=False)
    with pytest.RaisesGroup(DaemonError, flatten_subgroups=True):
        async with managed(options(tmp_path), hardware, CLIENTS) as manager:
            await Operator(manager.parts.management).send(O.NV_REKEY, Nothing())
    async with managed(options(tmp_path), hardware, CLIENTS):
        assert set(chip.areas) == {NV_INDEX ^ 1}


async def test_a_closed_group_survives_a_new_manager_key(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        await furnish(manager, chip, agent)
    before = dict(chip.pcrs)
    chip.extend(16, b"closes group 1".ljust(20))
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        op = Operator(manager.parts.management)
        with pytest.raises(ManagerRefused, match="AUTHFAIL"):
            await (await manager.guest(IN_ONE)).load()
        assert await op.refused(O.GROUP_REKEY, GroupNumber(1)) == ManagerCode.AUTHFAIL
        await op.send(O.MANAGER_REKEY, Nothing())
    chip.pcrs = before
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        await expect_saved(manager)


async def test_saves_that_arrive_meanwhile_wait_and_succeed(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        await furnish(manager, chip, agent)
        op = Operator(manager.parts.management)
        guest = await manager.guest(B)

        async def save_many() -> None:
            for n in range(10):
                await guest.save(data(f"save {n}"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(save_many)
            for ordinal, request in ROTATIONS:
                nursery.start_soon(op.send, ordinal, request)
        assert await guest.load() == data("save 9")
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        assert await (await manager.guest(B)).load() == data("save 9")


@pytest.mark.parametrize(("ordinal", "request_body"), ROTATIONS)
async def test_saves_go_on_while_a_rotation_seals(
    tmp_path: Path, ordinal: ManagementOrdinal, request_body: Structure
) -> None:
    """There is a seal for each approved configuration, and a chip takes a while for each."""
    chip, agent = Chip(), Agent()
    hardware = Sealing(chip)
    async with managed(options(tmp_path), hardware, CLIENTS) as manager:
        await furnish(manager, chip, agent)
        guest = await manager.guest(B)
        hardware.meanwhile = lambda: guest.save(data("meanwhile"))
        await Operator(manager.parts.management).send(ordinal, request_body)
        await expect_saved(manager)
    async with managed(options(tmp_path), hardware, CLIENTS) as manager:
        assert await (await manager.guest(B)).load() == data("meanwhile")


@pytest.mark.parametrize(("ordinal", "request_body"), ROTATIONS)
async def test_a_list_that_came_into_force_meanwhile_stays_and_the_rotation_is_refused(
    tmp_path: Path, ordinal: ManagementOrdinal, request_body: Structure
) -> None:
    chip, agent = Chip(), Agent()
    hardware = Sealing(chip)
    number = request_body.group if isinstance(request_body, GroupNumber) else 0
    async with managed(options(tmp_path), hardware, CLIENTS) as manager:
        await furnish(manager, chip, agent)
        op = Operator(manager.parts.management)
        group = (await op.show(number)).uuid
        approved = [(BOOT, composite(BOOT, chip.pcrs))]
        update = agent.sign_list(group, approved, sequence=2, number=number)
        hardware.meanwhile = lambda: op.send(O.GROUP_UPDATE, update)
        assert await op.refused(ordinal, request_body) == ManagerCode.FAIL
        assert (await op.show(number)).config_list == update.config_list
    async with managed(options(tmp_path), hardware, CLIENTS) as manager:
        await expect_saved(manager)


async def test_the_end_of_the_daemon_does_not_wait_for_a_chip_that_went_after_a_rotation(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its commit is made and not answered; the next start binds it."""
    chip = Chip()
    hardware = SlowHardware(chip)
    told: list[bytes] = []
    async with managed(options(tmp_path), hardware, CLIENTS) as manager:
        hardware.gate = trio.Event()  # never opened
        async with trio.open_nursery() as nursery:

            async def rekey() -> None:
                op = Operator(manager.parts.management)
                told.append(await op.send(O.MANAGER_REKEY, Nothing()))

            nursery.start_soon(rekey)
            await hardware.at_gate.wait()
            nursery.cancel_scope.cancel()
    assert not told
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        await (await manager.guest(A)).save(data("saved"))


async def test_a_rotation_under_way_ends_with_the_manager(tmp_path: Path) -> None:
    """Nothing is committed any more once the manager ended, and nothing waits for ever."""
    chip = Chip()

    class Waiting(FakeHardware):
        def __init__(self, chip: Chip) -> None:
            super().__init__(chip)
            self.asked: trio.Event | None = None

        async def nv_define(self, index: int, size_bytes: int, auth: Secret) -> None:
            if self.asked is not None:
                self.asked.set()
                await trio.sleep_forever()
            await super().nv_define(index, size_bytes, auth)

    hardware = Waiting(chip)
    ended: list[str] = []
    async with trio.open_nursery() as outer:

        async def rekey(operator: Operator) -> None:
            try:
                await operator.send(O.NV_REKEY, Nothing())
            except DaemonError as error:
                ended.append(str(error))

        async with managed(options(tmp_path), hardware, CLIENTS) as manager:
            hardware.asked = trio.Event()
            outer.start_soon(rekey, Operator(manager.parts.management))
            await hardware.asked.wait()
    assert ended == ["the manager is ending"]


async def test_a_chip_that_is_away_refuses_a_change_before_it_is_made(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hardware = FakeHardware(Chip())
    start_options = options(tmp_path, freshness=COUNTER)
    async with managed(start_options, hardware) as manager:
        op, before = Operator(manager.parts.management), manager.started.ledger.newest
        hardware.unreachable = True
        assert await op.refused(O.COUNTER_REKEY, Nothing()) == ManagerCode.IOERROR
        assert manager.started.ledger.newest == before
        hardware.unreachable = False


async def test_a_counter_is_replaced_after_a_start_of_the_chip(tmp_path: Path) -> None:
    chip = Chip()
    start_options = options(tmp_path, freshness=COUNTER)

    def secret(manager: Managed) -> bytes:
        ledger = manager.started.ledger
        record = ledger.get(CounterRecord, COUNTER_KEY)
        assert record is not None
        return bytes(ledger.keys.unwrap_counter_auth(record))

    async with managed(start_options, FakeHardware(chip)) as manager:
        first = secret(manager)
        await (await manager.guest(A)).save(data("saved"))
        await Operator(manager.parts.management).send(O.COUNTER_REKEY, Nothing())
    async with managed(start_options, FakeHardware(chip)) as manager:
        assert secret(manager) == first  # the chip did not start anew
    chip.active_counter = None
    async with managed(start_options, FakeHardware(chip)) as manager:
        assert secret(manager) != first
        assert await (await manager.guest(A)).load() == data("saved")
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        op = Operator(manager.parts.management)
        assert await op.refused(O.COUNTER_REKEY, Nothing()) == ManagerCode.FAIL


@pytest.mark.parametrize(("ordinal", "request_body"), ROTATIONS)
async def test_whenever_the_power_goes_in_a_rotation_everything_is_there(
    tmp_path: Path, ordinal: ManagementOrdinal, request_body: Structure
) -> None:
    agent = Agent()
    start = tmp_path / "start"
    start.mkdir()
    first = Chip()
    async with managed(options(start), FakeHardware(first), CLIENTS) as manager:
        await furnish(manager, first, agent)

    async def rotate(folder: Path, chip: Chip, power: Power) -> None:
        with faulty_disk(power) as disk:
            start_options = options(folder, vfs=disk.name)
            async with managed(start_options, FakeHardware(chip, power), CLIENTS) as manager:
                await Operator(manager.parts.management).send(ordinal, request_body)

    power = Power()
    await rotate(shutil.copytree(start, tmp_path / "whole"), copied(first), power)
    for limit in range(1, power.steps + 1):
        folder = shutil.copytree(start, tmp_path / f"cut{limit}")
        chip = copied(first)
        died = False
        try:
            await rotate(folder, chip, Power(limit, Loss.SOME, limit))
        except* Died:
            died = True
        assert died
        async with managed(options(folder), FakeHardware(chip), CLIENTS) as manager:
            await expect_saved(manager)
        assert len(chip.areas) == 1


def copied(chip: Chip) -> Chip:
    """Return another chip with the same contents."""
    other = Chip(**{name: getattr(chip, name) for name in Chip.__dataclass_fields__})
    other.pcrs, other.identities = dict(chip.pcrs), dict(chip.identities)
    other.areas = {
        index: type(area)(area.size, area.auth, area.data) for index, area in chip.areas.items()
    }
    return other
