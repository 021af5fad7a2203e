# SPDX-License-Identifier: Apache-2.0
"""A vTPM moves from one manager to another; at no moment is it live with both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import apsw
import pytest
import trio

from daemons.runtime.config.values import FreshnessMode
from daemons.vtpmmgr.commits import CommandRefused
from daemons.vtpmmgr.movestates import (
    TRANSITIONS,
    Event,
    NotNow,
    Standing,
    advance,
    standing_of,
)
from daemons.vtpmmgr.records import RECORD_TYPES
from protocol.manager.constants import ManagementOrdinal, ManagerCode, ManagerTag, VtpmFlag
from protocol.manager.framing import Request
from protocol.manager.management import (
    GroupNumber,
    Nothing,
    VtpmEdit,
    VtpmList,
    VtpmName,
    VtpmNew,
    VtpmShown,
    VtpmsListed,
    encode_management,
)
from protocol.manager.moving import (
    MoveApproval,
    MoveList,
    MovePackage,
    MoveReceipt,
    MoveState,
)
from protocol.manager.transportkey import BadTransportKey, check_transport_key
from protocol.tpm12.constants import KeyFlags
from protocol.tpm12.pcr import PcrSelection
from tests.unit.manager.agent import Agent, Operator
from tests.unit.manager.fakes import FakeHardware
from tests.unit.manager.harness import A, B, client, managed, options
from tests.unit.manager.moves import KEY, Pair, Running

NEW = b"later".ljust(64, b".")
DISABLED = int(ManagerCode.DISABLED)


async def refused(operation: Awaitable[object]) -> int:
    """Return the code with which a command is refused."""
    with pytest.raises(CommandRefused) as caught:
        await operation
    return caught.value.code


# --- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("standing", Standing)
def test_every_event_in_every_standing_is_a_row_or_refused(
    standing: Standing, event: Event
) -> None:
    if (standing, event) in TRANSITIONS:
        after, action = advance(standing, event)
        assert (after, action) == TRANSITIONS[standing, event]
    else:
        with pytest.raises(NotNow):
            advance(standing, event)


def test_every_standing_can_be_reached() -> None:
    reached = {Standing.ABSENT}
    while more := {to for (frm, _), (to, _) in TRANSITIONS.items() if frm in reached} - reached:
        reached |= more
    assert reached == set(Standing)


def test_only_who_serves_exports_and_only_a_release_makes_live() -> None:
    serving = {standing for (standing, event) in TRANSITIONS if event is Event.SERVE}
    assert serving == {Standing.HELD, Standing.ARRIVED}
    into = {
        (standing, event)
        for (standing, event), (after, _) in TRANSITIONS.items()
        if after in serving and standing not in serving
    }
    assert into == {
        (Standing.ABSENT, Event.CREATE),
        (Standing.LEAVING, Event.CANCEL),
        (Standing.ARRIVING, Event.RELEASE),
    }


@pytest.mark.parametrize("state", [None, *MoveState])
@pytest.mark.parametrize("is_held", [True, False])
def test_records_that_contradict_each_other_are_no_standing(
    is_held: bool, state: MoveState | None
) -> None:
    if state is not None and is_held != (state is MoveState.ARRIVED):
        with pytest.raises(ValueError, match="in service"):
            standing_of(is_held=is_held, state=state)
    else:
        assert standing_of(is_held=is_held, state=state) in Standing


LIVE = {Standing.HELD, Standing.ARRIVED}


@dataclass(frozen=True)
class World:
    """Two managers, and the files that were ever made; each can be given again at any time.

    Attributes:
        export: number of the export whose secret the source has.
        arrival: number of the export, and of the import, that the target has.
        imports: so far.
    """

    source: Standing = Standing.HELD
    target: Standing = Standing.ABSENT
    export: int = 0
    arrival: tuple[int, int] = (0, 0)
    packages: frozenset[int] = frozenset()
    receipts: frozenset[tuple[int, int]] = frozenset()
    releases: frozenset[tuple[int, int]] = frozenset()
    imports: int = 0

    def nexts(self) -> Iterator[World]:
        """What can be done next."""
        source, target = self._after(self.source), self._after(self.target)
        if self.source in LIVE and self.export < 2:
            made = self.export + 1
            packages = self.packages | {made}
            yield replace(self, source=source[Event.EXPORT], export=made, packages=packages)
        if Event.CANCEL in source:
            yield replace(self, source=source[Event.CANCEL])
        for receipt in self.receipts:
            # the secret tells receipts of another export
            if self.source is Standing.LEAVING and receipt[0] == self.export:
                releases = self.releases | {receipt}
                yield replace(self, source=source[Event.RECEIPT], releases=releases)
        for package in self.packages if self.imports < 3 else ():
            if Event.IMPORT in target and self.target is not Standing.ARRIVING:
                arrival = (package, self.imports + 1)
                yield replace(
                    self,
                    target=target[Event.IMPORT],
                    arrival=arrival,
                    receipts=self.receipts | {arrival},
                    imports=self.imports + 1,
                )
        if self.target is Standing.ARRIVING and self.arrival in self.releases:
            yield replace(self, target=target[Event.RELEASE])
        if Event.ABANDON in target:
            yield replace(self, target=target[Event.ABANDON])

    def _after(self, standing: Standing) -> dict[Event, Standing]:
        return {event: to for (frm, event), (to, _) in TRANSITIONS.items() if frm is standing}


def test_two_managers_never_serve_together_whatever_is_done_in_whatever_order() -> None:
    seen, todo = {World()}, [World()]
    while todo:
        world = todo.pop()
        assert not (world.source in LIVE and world.target in LIVE), world
        new = set(world.nexts()) - seen
        seen |= new
        todo += new
    assert {world.target for world in seen} >= {Standing.ARRIVED, Standing.ARRIVING}
    assert len(seen) > 30


# --- a move --------------------------------------------------------------------------------------


async def test_a_vtpm_moves_and_only_the_target_serves_it(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        package = await source.export(A, key, approval)
        assert await source.load(A) == await source.save(A) == DISABLED
        receipt = await target.take_in(package)
        assert await target.load(A) == await target.save(A) == DISABLED
        release = await source.release(receipt)
        assert await source.load(A) == await source.save(A) == DISABLED
        assert await target.load(A) == DISABLED
        await target.activate(release)
        assert await target.load(A) == KEY
        assert await source.load(A) == await source.save(A) == DISABLED
        assert await source.moves() == {A: MoveState.GONE}
        assert await target.moves() == {A: MoveState.ARRIVED}
        assert await target.save(A, NEW) == 0
    async with pair.running() as (source, target):
        assert await target.load(A) == NEW
        assert await source.load(A) == await source.save(A) == DISABLED
        code = await source.operator.refused(ManagementOrdinal.VTPM_NEW, VtpmNew(0, A))
        assert code == ManagerCode.FAIL
        listed = await source.operator.ask(ManagementOrdinal.VTPM_LIST, VtpmList(0, 0), VtpmsListed)
        assert listed == VtpmsListed(0, ())


async def test_every_answer_can_be_asked_for_again(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        package = await source.export(A, key, approval)
        assert await source.export(A, key) == package
        receipt = await target.take_in(package)
        assert await target.take_in(package) == receipt
        release = await source.release(receipt)
        assert await source.release(receipt) == release
        await target.activate(release)
        await target.activate(release)
        assert await target.load(A) == KEY


async def test_a_vtpm_comes_back(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        first = await source.export(A, key, approval)
        await target.activate(await source.release(await target.take_in(first)))
        assert await target.save(A, NEW) == 0
        home = await source.transport_key()
        back = pair.agent.approve(await target.transport_key(), home)
        package = await target.export(A, home, back)
        release = await target.release(await source.take_in(package))
        await source.activate(release)
        assert await source.load(A) == NEW
        assert await target.load(A) == DISABLED
        # the packages that were used are worth nothing any more
        old = await target.take_in(first)
        assert await refused(source.release(old)) == ManagerCode.FAIL
        await target.abandon(A)


async def test_the_admin_flag_goes_along(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    clients = (client(A, admin=True),)
    async with pair.running() as (source, target):
        edit = VtpmEdit(A, VtpmFlag.ADMIN, 0)
        await source.operator.send(ManagementOrdinal.VTPM_EDIT, edit)
        package = await source.export(A, key, approval)
        await target.activate(await source.release(await target.take_in(package)))
    start = options(pair.target.folder)
    async with managed(start, FakeHardware(pair.target.chip), clients) as manager:
        shown = await Operator(manager.parts.management).ask(
            ManagementOrdinal.VTPM_SHOW, VtpmName(A), VtpmShown
        )
        assert not shown.flags & VtpmFlag.ADMIN


async def test_a_cancelled_move_never_ends_at_the_target(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        package = await source.export(A, key, approval)
        receipt = await target.take_in(package)
        await source.cancel(A)
        assert await source.load(A) == KEY
        assert await refused(source.release(receipt)) == ManagerCode.FAIL
        await source.export(A, key, approval)
        # the receipt of the move that was cancelled is none of the next one
        assert await refused(source.release(receipt)) == ManagerCode.AUTHFAIL
        assert await target.load(A) == DISABLED
        await target.abandon(A)
        assert await target.moves() == {}


async def test_a_release_makes_one_import_live_once(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        package = await source.export(A, key, approval)
        first = await target.take_in(package)
        release = await source.release(first)
        await target.abandon(A)
        second = await target.take_in(package)
        assert second.challenge != first.challenge
        assert await refused(target.activate(release)) == ManagerCode.AUTHFAIL
        assert await refused(source.release(second)) == ManagerCode.AUTHFAIL
        assert await target.load(A) == DISABLED


async def test_what_is_gone_may_be_forgotten_by_force(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        await target.activate(
            await source.release(await target.take_in(await source.export(A, key, approval)))
        )
        assert await refused(target.abandon(A)) == ManagerCode.FAIL
        await source.abandon(A)
        assert await source.moves() == {}
        assert await source.save(A) == 0


# --- who may -------------------------------------------------------------------------------------


async def test_an_open_vtpm_does_not_leave(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, _):
        guest = await source.manager.guest(A)
        await guest.load()
        assert await refused(source.export(A, key, approval)) == ManagerCode.FAIL
        await guest.save(NEW)
        await guest.close()
        await source.export(A, key, approval)


def _other_source(approval: MoveApproval) -> MoveApproval:
    return replace(approval, source=B)


def _other_source_key(approval: MoveApproval) -> MoveApproval:
    return replace(approval, source_key=bytes(32))


def _other_target(approval: MoveApproval) -> MoveApproval:
    return replace(approval, target=B)


def _other_target_key(approval: MoveApproval) -> MoveApproval:
    return replace(approval, target_key=bytes(32))


def _other_vtpm(approval: MoveApproval) -> MoveApproval:
    return replace(approval, vtpm=B)


@pytest.mark.parametrize(
    "change", [_other_source, _other_source_key, _other_target, _other_target_key, _other_vtpm]
)
async def test_an_approval_counts_for_what_it_names_only(
    tmp_path: Path, change: Callable[[MoveApproval], MoveApproval]
) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    changed = change(approval)
    async with pair.running() as (source, _):
        assert await refused(source.export(A, key, changed)) == ManagerCode.DECRYPT_ERROR
        resigned = pair.agent.sign_approval(changed)
        assert await refused(source.export(A, key, resigned)) == ManagerCode.AUTHFAIL
        assert await refused(source.export(A, key)) == ManagerCode.AUTHFAIL
        stranger = Agent(8).sign_approval(approval)
        assert await refused(source.export(A, key, stranger)) != ManagerCode.SUCCESS
        assert await source.load(A) == KEY


async def test_a_new_list_revokes_older_approvals(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, _):
        selection = PcrSelection.of(range(8))
        here = selection, pair.source.chip.composite(selection)
        group = (await source.operator.show()).uuid
        update = pair.agent.sign_list(group, [here], sequence=4)
        await source.operator.send(ManagementOrdinal.GROUP_UPDATE, update)
        assert await refused(source.export(A, key, approval)) == ManagerCode.AUTHFAIL
        later = pair.agent.sign_approval(replace(approval, sequence=4))
        await source.export(A, key, later)


async def test_only_a_key_that_is_bound_to_hardware_and_pcrs_is_a_target(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, _ = await pair.provision(A)
    check_transport_key(key)
    await _migratable_keys_are_refused(pair)
    for bad in (
        replace(key, nonce=bytes(20)),
        replace(key, aik_modulus=key.public_key.key),
        replace(key, public_key=replace(key.public_key, key=key.aik_modulus)),
        replace(key, signature=bytes(256)),
        replace(key, certificate=key.certificate[:-1]),
        replace(key, certificate=b""),
    ):
        with pytest.raises(BadTransportKey):
            check_transport_key(bad)
        async with pair.source.running() as source:
            own = await source.transport_key()
            approval = pair.agent.approve(own, bad, vtpm=A)
            code = await refused(source.export(A, bad, approval))
            assert code == ManagerCode.BAD_PARAMETER
            assert await source.load(A) == KEY


async def _migratable_keys_are_refused(pair: Pair) -> None:
    (binding,) = pair.target.chip.bindings.values()
    for flag in (KeyFlags.MIGRATABLE, KeyFlags.MIGRATE_AUTHORITY):
        binding.flags = flag
        async with pair.target.running() as target:
            with pytest.raises(BadTransportKey, match="migrate"):
                check_transport_key(await target.transport_key())
    binding.flags = 0
    async with pair.target.running() as target:
        check_transport_key(await target.transport_key())
    selection, binding.selection = binding.selection, PcrSelection.of(())
    async with pair.target.running() as target:
        with pytest.raises(BadTransportKey, match="PCRs"):
            check_transport_key(await target.transport_key())
    binding.selection = selection


async def test_a_package_is_for_one_target_and_of_one_source(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        package = await source.export(A, key, approval)
        assert await refused(source.take_in(package)) == ManagerCode.FAIL
        for changed in (
            replace(package, vtpm=B),
            replace(package, identifier=B),
            replace(package, nonce=bytes(12)),
            replace(package, box=package.box[:-1]),
            replace(package, wrapped_key=bytes(256)),
            replace(package, composite=bytes(20)),
            replace(package, source_aik=key.public_key.key),
            replace(package, approval=pair.agent.sign_approval(replace(approval, target=B))),
        ):
            await refused(target.take_in(changed))
            assert await target.moves() == {}
        await target.take_in(package)


async def test_no_byte_of_a_package_can_be_changed(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        encoded = (await source.export(A, key, approval)).encode()
        assert KEY not in encoded
        for at in range(0, len(encoded), 7):
            changed = bytearray(encoded)
            changed[at] ^= 1
            request = Request(ManagerTag.REQ2, ManagementOrdinal.MOVE_IMPORT, bytes(changed))
            await refused(target.manager.parts.management.execute(request, 1 << 20))
        assert await target.moves() == {}
        receipt = await target.take_in(MovePackage.decode(encoded))
        for at in range(42, len(receipt.encode())):
            forged = bytearray(receipt.encode())
            forged[at] ^= 1
            code = await refused(source.release(MoveReceipt.decode(bytes(forged))))
            assert code == ManagerCode.AUTHFAIL
        await source.release(receipt)


async def test_moves_are_commands_of_the_admin_socket_only(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    await pair.provision(A)
    start = options(pair.source.folder)
    hardware = FakeHardware(pair.source.chip)
    async with managed(start, hardware, (client(A, admin=True),)) as manager:
        guest = await manager.guest(A)
        await guest.load()
        listed = await guest.send(encode_management(ManagementOrdinal.GROUP_LIST, Nothing()))
        assert listed[6:10] == bytes(4)
        for ordinal in (one for one in ManagementOrdinal if one >= 0x02000500):
            request = encode_management(ordinal, MoveList(0))
            answer = await guest.send(request)
            assert answer[6:10] == int(ManagerCode.BAD_ORDINAL).to_bytes(4, "big")


async def test_without_freshness_nothing_moves(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    pair.source.freshness = FreshnessMode.NONE
    async with pair.source.running() as source:
        assert await refused(source.export(A, key, approval)) == ManagerCode.DISABLED_CMD
    pair.source.freshness = FreshnessMode.NV
    async with pair.source.running() as source:
        package = await source.export(A, key, approval)
    pair.target.freshness = FreshnessMode.NONE
    async with pair.target.running() as target:
        assert await refused(target.take_in(package)) == ManagerCode.DISABLED_CMD
    pair.target.freshness = FreshnessMode.NV
    async with pair.target.running() as target:
        receipt = await target.take_in(package)
    pair.source.freshness = FreshnessMode.NONE
    async with pair.source.running() as source:
        assert await refused(source.release(receipt)) == ManagerCode.DISABLED_CMD
        assert await refused(source.cancel(A)) == ManagerCode.DISABLED_CMD
        assert await source.load(A) == DISABLED


async def test_in_counter_mode_a_move_is_bound_at_once(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path, FreshnessMode.COUNTER)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        package = await source.export(A, key, approval)
        assert not source.manager.committer.freshness.wants_last
        await target.activate(await source.release(await target.take_in(package)))
        assert not target.manager.committer.freshness.wants_last
        assert await target.load(A) == KEY


async def test_a_database_of_version_1_can_move_its_vtpms(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    async with pair.source.running() as source:
        assert await source.save(A) == 0
        await trio.to_thread.run_sync(source.manager.started.ledger.checkpoint)
    connection = apsw.Connection(str(pair.source.folder / "manager.db"))
    for kind in RECORD_TYPES:
        if kind.TABLE.since > 1:
            connection.execute(f"DROP TABLE {kind.TABLE.name}")
    connection.execute("PRAGMA user_version = 1")
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()
    async with pair.source.running() as source:
        assert await source.load(A) == KEY
        assert await source.moves() == {}
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        package = await source.export(A, key, approval)
        await target.activate(await source.release(await target.take_in(package)))
        assert await target.load(A) == KEY


async def test_new_keys_of_a_group_take_moves_along(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    rekey = ManagementOrdinal.GROUP_REKEY, GroupNumber(0)
    async with pair.running() as (source, target):
        package = await source.export(A, key, approval)
        await source.operator.send(*rekey)
        await target.operator.send(*rekey)
        receipt = await target.take_in(package)
        await target.operator.send(*rekey)
        await target.operator.send(ManagementOrdinal.MANAGER_REKEY, Nothing())
        release = await source.release(receipt)
        await source.operator.send(*rekey)
        await target.activate(release)
        assert await target.load(A) == KEY


async def test_another_configuration_has_another_key(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, _ = await pair.provision(A)
    selection = PcrSelection.of(range(8))
    async with pair.target.running() as target:
        now = selection, pair.target.chip.composite(selection)
        before = dict(pair.target.chip.pcrs)
        pair.target.chip.extend(1, bytes(20))
        later = selection, pair.target.chip.composite(selection)
        pair.target.chip.pcrs = before
        group = (await target.operator.show()).uuid
        update = pair.agent.sign_list(group, [now, later])
        await target.operator.send(ManagementOrdinal.GROUP_UPDATE, update)
        assert (await target.transport_key()).digest == key.digest
    pair.target.chip.extend(1, bytes(20))
    async with pair.target.running() as target:
        other = await target.transport_key()
        check_transport_key(other)
        assert other.digest != key.digest


async def test_what_leaves_another_group_than_the_first_is_refused_alike(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, _ = await pair.provision(A)
    vtpm = UUID(int=0xD)
    async with pair.source.running() as source:
        await source.operator.new_group(pair.agent)
        await source.operator.send(ManagementOrdinal.VTPM_NEW, VtpmNew(1, vtpm))
        approval = pair.agent.approve(await source.transport_key(1), key)
        await source.export(vtpm, key, approval)
    start = options(pair.source.folder)
    clients = (client(vtpm, group=1),)
    async with managed(start, FakeHardware(pair.source.chip), clients) as manager:
        running = Running(manager, Operator(manager.parts.management))
        assert await running.load(vtpm) == await running.save(vtpm) == DISABLED


async def test_a_group_with_a_move_under_way_is_not_deleted(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    await pair.provision(A)
    async with pair.running() as (source, target):
        await source.operator.new_group(pair.agent)
        vtpm = UUID(int=0xD)
        await source.operator.send(ManagementOrdinal.VTPM_NEW, VtpmNew(1, vtpm))
        key = await target.transport_key()
        approval = pair.agent.approve(await source.transport_key(1), key)
        package = await source.export(vtpm, key, approval)
        deletion = ManagementOrdinal.GROUP_DEL, GroupNumber(1)
        assert await source.operator.refused(*deletion) == ManagerCode.FAIL
        await source.release(await target.take_in(package))
        await source.operator.send(*deletion)
        assert await source.moves() == {vtpm: MoveState.GONE}
