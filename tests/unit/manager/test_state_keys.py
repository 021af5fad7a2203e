# SPDX-License-Identifier: Apache-2.0
"""Keys of a vTPM's state: who gets one, who gets it again, and who does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import apsw
import pytest
import trio

from daemons.vtpmmgr.records import RECORD_TYPES
from daemons.vtpmmgr.staterecords import StateSecretRecord, StateTargetRecord
from daemons.vtpmmgr.store import DiskFull, Store
from protocol.manager.constants import HEADER_BYTES, ManagementOrdinal, ManagerCode, ManagerTag
from protocol.manager.descriptors import (
    NO_UUID,
    LocalDescriptor,
    StatePackage,
    StateTarget,
    StateTargetShown,
    decode_descriptor,
)
from protocol.manager.framing import ManagerRefused, encode_request
from protocol.manager.management import GroupNumber, Nothing, VtpmName, VtpmNew, encode_management
from protocol.manager.moving import ANY_VTPM, MoveApproval, TransportKey
from protocol.manager.statekeys import DESCRIPTOR_MAX_BYTES
from protocol.tpm12 import ReturnCode
from protocol.tpm12.pcr import PcrSelection
from tests.unit.manager.agent import Agent, Operator
from tests.unit.manager.fakes import Chip, FakeHardware
from tests.unit.manager.harness import A, B, Guest, Managed, client, managed, options
from tests.unit.manager.moves import KEY, Pair, Running, transport_key
from tests.unit.manager.test_moving import refused

O = ManagementOrdinal  # noqa: E741 - the ordinals, once a line
AUTHFAIL, BAD_PARAMETER = int(ManagerCode.AUTHFAIL), int(ManagerCode.BAD_PARAMETER)
IN_ONE = UUID(int=0xE)
CLIENTS = (client(A), client(B), client(IN_ONE, group=1))
BOOT = PcrSelection.of(range(8))


async def bound(manager: Managed, vtpm: UUID) -> Guest:
    """Return a vTPM that has saved on this connection."""
    guest = await manager.guest(vtpm)
    await guest.save(KEY)
    return guest


async def not_new(guest: Guest) -> int:
    """Return the code with which a guest gets no new key."""
    with pytest.raises(ManagerRefused) as caught:
        await guest.new_state_key()
    return caught.value.code


async def not_opened(guest: Guest, descriptor: bytes) -> int:
    """Return the code with which a guest does not get the key of a descriptor."""
    with pytest.raises(ManagerRefused) as caught:
        await guest.open_state_key(descriptor)
    return caught.value.code


def told(manager: Managed, event: str) -> list[str]:
    """Return the lines of an event."""
    return [line for line in manager.lines.lines if event in line]


# --- at one manager ------------------------------------------------------------------------------


async def test_a_vtpm_gets_its_key_again_now_and_later(tmp_path: Path) -> None:
    chip = Chip()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        guest = await bound(manager, A)
        made = await guest.new_state_key()
        assert await guest.open_state_key(made.descriptor) == made.key
        again = await guest.new_state_key()
        assert again.key != made.key
        assert again.descriptor != made.descriptor
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        guest = await bound(manager, A)
        assert await guest.open_state_key(made.descriptor) == made.key
        assert await guest.open_state_key(again.descriptor) == again.key
        newest = manager.started.ledger.newest.sequence
        await guest.new_state_key()
        # only the first key of a group takes a commit
        assert manager.started.ledger.newest.sequence == newest


@pytest.mark.parametrize(
    "request_body", [(O.GROUP_REKEY, GroupNumber(0)), (O.MANAGER_REKEY, Nothing())]
)
async def test_after_a_change_of_keys_what_was_saved_opens(
    tmp_path: Path, request_body: tuple[ManagementOrdinal, Nothing | GroupNumber]
) -> None:
    chip = Chip()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        guest = await bound(manager, A)
        made = await guest.new_state_key()
        before = manager.started.ledger.get(StateSecretRecord, group_of(manager))
        await Operator(manager.parts.management).send(*request_body)
        assert await guest.open_state_key(made.descriptor) == made.key
        after = manager.started.ledger.get(StateSecretRecord, group_of(manager))
        # the envelope is another one if the key around it is
        assert (before != after) is (request_body[0] is O.GROUP_REKEY)
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        assert await (await bound(manager, A)).open_state_key(made.descriptor) == made.key


def group_of(manager: Managed, number: int = 0) -> bytes:
    group = manager.started.ledger.group(number)
    assert group is not None
    return group.uuid.bytes


async def two_groups(manager: Managed, agent: Agent) -> tuple[Guest, Guest]:
    """Return a guest of group 0 and one of group 1."""
    op = Operator(manager.parts.management)
    for _ in range(2):
        await op.new_group(agent)
    await op.send(O.VTPM_NEW, VtpmNew(1, IN_ONE))
    return await bound(manager, A), await bound(manager, IN_ONE)


async def test_another_group_does_not_get_it(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        guest, other = await two_groups(manager, Agent())
        made = await guest.new_state_key()
        # before that group has a secret, and after
        assert await not_opened(other, made.descriptor) == AUTHFAIL
        await other.new_state_key()
        assert await not_opened(other, made.descriptor) == AUTHFAIL
        descriptor = LocalDescriptor.decode(made.descriptor)
        moved = replace(descriptor, group=UUID(bytes=group_of(manager, 1)))
        assert await not_opened(other, moved.encode()) == AUTHFAIL
        assert len(told(manager, "state key refused")) == 2
        await guest.close()
        await other.close()
        await Operator(manager.parts.management).send(O.GROUP_DEL, GroupNumber(1))
        secrets = manager.started.ledger.get(StateSecretRecord, moved.group.bytes)
        assert secrets is None


async def test_another_manager_does_not_get_it(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    await pair.provision(A)
    async with pair.running() as (source, target):
        guest, other = await bound(source.manager, A), await bound(target.manager, A)
        made = await guest.new_state_key()
        assert await not_opened(other, made.descriptor) == AUTHFAIL
        assert told(target.manager, "the state is of another manager")


async def test_no_changed_bit_opens_a_descriptor(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await bound(manager, A)
        descriptor = (await guest.new_state_key()).descriptor
        for bit in range(8 * len(descriptor)):
            assert await not_opened(guest, flipped(descriptor, bit)) in (AUTHFAIL, BAD_PARAMETER)
        await guest.open_state_key(descriptor)
        # a guest that insists does not fill the log
        assert len(told(manager, "refused")) <= 5


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


async def test_what_is_no_descriptor_is_a_bad_parameter(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await bound(manager, A)
        descriptor = (await guest.new_state_key()).descriptor
        for wrong in (descriptor[:-1], descriptor + b"\0", b"x", bytes(DESCRIPTOR_MAX_BYTES)):
            assert await not_opened(guest, wrong) == BAD_PARAMETER
        for size_bytes in (0, DESCRIPTOR_MAX_BYTES + 1):
            request = encode_request(ManagerTag.REQ, 6, bytes(size_bytes))
            assert code_in(await guest.send(request)) == BAD_PARAMETER
        assert code_in(await guest.send(encode_request(ManagerTag.REQ, 5, b"\0"))) == BAD_PARAMETER


def code_in(response: bytes) -> int:
    assert len(response) == HEADER_BYTES
    return int.from_bytes(response[6:], "big")


async def test_who_has_no_vtpm_open_gets_no_key(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await bound(manager, A)
        descriptor = (await guest.new_state_key()).descriptor
        second = await manager.guest(A)
        assert await not_new(second) == ManagerCode.DISABLED
        assert await not_opened(second, descriptor) == ManagerCode.DISABLED
        assert manager.started.ledger.get(StateSecretRecord, group_of(manager)) is not None


async def test_the_members_of_a_closed_group_get_no_key(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        _, other = await two_groups(manager, agent)
        made = await other.new_state_key()
        group = UUID(bytes=group_of(manager, 1))
        approved = [(PcrSelection.of([16]), chip.composite(PcrSelection.of([16])))]
        update = agent.sign_list(group, approved, number=1)
        await Operator(manager.parts.management).send(O.GROUP_UPDATE, update)
        assert await other.open_state_key(made.descriptor) == made.key
    chip.extend(16, bytes(20))
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        other = await manager.guest(IN_ONE)
        with pytest.raises(ManagerRefused) as caught:
            await other.load()
        assert caught.value.code == AUTHFAIL
        assert await not_opened(other, made.descriptor) == ManagerCode.DISABLED


async def test_a_full_disk_gives_no_key_that_could_not_be_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskFull("no space left")

    chip = Chip()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        guest = await bound(manager, A)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "write", full)
            assert await not_new(guest) == ManagerCode.FAIL
        made = await guest.new_state_key()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        assert await (await bound(manager, A)).open_state_key(made.descriptor) == made.key


async def test_each_key_has_a_line_in_the_log_and_none_is_in_it(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await bound(manager, A)
        made = await guest.new_state_key()
        await guest.open_state_key(made.descriptor)
        identifier = str(LocalDescriptor.decode(made.descriptor).identifier)
        (out,) = told(manager, "state key made")
        (back,) = told(manager, "state key given again")
        assert identifier in out
        assert identifier in back
        assert str(A) in out
        assert str(A) in back
        assert made.key.hex() not in "".join(manager.lines.lines)


# --- for another manager -------------------------------------------------------------------------


async def set_target(
    source: Running, key: TransportKey, approval: MoveApproval, vtpm: UUID = A
) -> None:
    await source.operator.send(O.STATE_TARGET_SET, StateTarget(vtpm, key, approval))


async def shown(source: Running, vtpm: UUID = A) -> StateTargetShown:
    return await source.operator.ask(O.STATE_TARGET_SHOW, VtpmName(vtpm), StateTargetShown)


async def test_with_a_target_the_key_is_for_the_same_vtpm_there_only(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        await set_target(source, key, approval)
        guest, twin = await bound(source.manager, A), await bound(target.manager, A)
        made = await guest.new_state_key()
        assert isinstance(decode_descriptor(made.descriptor), StatePackage)
        assert len(made.descriptor) <= DESCRIPTOR_MAX_BYTES
        assert await twin.open_state_key(made.descriptor) == made.key
        # not here, and not for another guest of the same group there
        assert await not_opened(guest, made.descriptor) == AUTHFAIL
        other = await bound(target.manager, B)
        assert await not_opened(other, made.descriptor) == AUTHFAIL
        for manager, event in (
            (source.manager, "state key made for another manager"),
            (target.manager, "state key of another manager opened"),
        ):
            (line,) = told(manager, event)
            assert str(decode_descriptor(made.descriptor).identifier) in line
            assert made.key.hex() not in "".join(manager.lines.lines)
    # all of it is still so after a start
    async with pair.running() as (source, target):
        assert await (await bound(target.manager, A)).open_state_key(made.descriptor) == made.key
        again = await (await bound(source.manager, A)).new_state_key()
        assert isinstance(decode_descriptor(again.descriptor), StatePackage)
        assert again.key != made.key


async def test_a_target_can_be_seen_and_taken_back(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, _):
        assert await shown(source) == StateTargetShown(NO_UUID, 0, False)
        await set_target(source, key, approval)
        assert await shown(source) == StateTargetShown(key.manager, 0, True)
        await source.operator.send(O.STATE_TARGET_CLEAR, VtpmName(A))
        # a second time is no mistake
        await source.operator.send(O.STATE_TARGET_CLEAR, VtpmName(A))
        assert (await shown(source)).manager == NO_UUID
        guest = await bound(source.manager, A)
        made = await guest.new_state_key()
        assert await guest.open_state_key(made.descriptor) == made.key


async def test_a_newer_list_revokes_the_approval_and_no_local_key_takes_its_place(
    tmp_path: Path,
) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, _):
        await set_target(source, key, approval)
        guest = await bound(source.manager, A)
        await guest.new_state_key()
        group = (await source.operator.show()).uuid
        now = [(BOOT, pair.source.chip.composite(BOOT))]
        await source.operator.send(O.GROUP_UPDATE, pair.agent.sign_list(group, now, sequence=5))
        assert await not_new(guest) == AUTHFAIL
        assert await shown(source) == StateTargetShown(key.manager, 0, False)
        assert told(source.manager, "a list is in force that is newer")
        own = await source.transport_key()
        await set_target(source, key, pair.agent.approve(own, key, vtpm=A, sequence=5))
        assert isinstance(decode_descriptor((await guest.new_state_key()).descriptor), StatePackage)


async def test_a_target_is_forgotten_with_its_vtpm_and_when_that_leaves(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, _):
        await set_target(source, key, approval)
        await source.export(A, key, approval)
        await source.cancel(A)
        assert (await shown(source)).manager == NO_UUID
        await set_target(source, key, approval)
        await source.operator.send(O.VTPM_DEL, VtpmName(A))
        await source.operator.send(O.VTPM_NEW, VtpmNew(0, A))
        assert (await shown(source)).manager == NO_UUID
        ledger = source.manager.started.ledger
        assert ledger.get(StateTargetRecord, A.bytes) is None


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
    "change",
    [_other_source, _other_source_key, _other_target, _other_target_key, _other_vtpm],
)
async def test_an_approval_of_another_way_sets_no_target(
    tmp_path: Path, change: Callable[[MoveApproval], MoveApproval]
) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, _):
        other = pair.agent.sign_approval(change(approval))
        assert await refused(set_target(source, key, other)) == AUTHFAIL
        # and one that nobody signed so
        assert await refused(set_target(source, key, change(approval))) == ManagerCode.DECRYPT_ERROR
        foreign = Agent(9).sign_approval(approval)
        assert await refused(set_target(source, key, foreign)) != 0
        assert (await shown(source)).manager == NO_UUID


async def test_what_is_no_target_is_refused(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, _):
        own = await source.transport_key()
        here = pair.agent.approve(own, own, vtpm=A)
        assert await refused(set_target(source, own, here)) == BAD_PARAMETER
        soft = replace(key, signature=bytes(256))
        assert await refused(set_target(source, soft, approval)) == BAD_PARAMETER
        assert await refused(set_target(source, key, approval, vtpm=B)) == ManagerCode.FAIL
        clear = source.operator.refused(O.STATE_TARGET_CLEAR, VtpmName(B))
        assert await clear == ManagerCode.FAIL
        assert await source.operator.refused(O.STATE_TARGET_SHOW, VtpmName(B)) == ManagerCode.FAIL


async def test_a_group_without_agent_sends_nothing_out(tmp_path: Path) -> None:
    target = await transport_key(Chip(b"another"))
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        await bound(manager, A)
        approval = Agent().approve(target, target)
        running = Running(manager, Operator(manager.parts.management))
        assert await refused(set_target(running, target, approval)) == ManagerCode.FAIL


async def test_a_guest_with_the_admin_right_sets_no_target(tmp_path: Path) -> None:
    admin = (client(A, admin=True),)
    async with managed(options(tmp_path), FakeHardware(Chip()), admin) as manager:
        guest = await bound(manager, A)
        assert code_in(await guest.send(encode_management(O.STATE_TARGET_CLEAR, VtpmName(A)))) == (
            ManagerCode.BAD_ORDINAL
        )


async def test_an_approval_of_the_whole_group_covers_its_members(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, _ = await pair.provision(A)
    async with pair.running() as (source, target):
        approval = pair.agent.approve(await source.transport_key(), key, vtpm=ANY_VTPM)
        guest = await bound(source.manager, B)
        await set_target(source, key, approval, vtpm=B)
        made = await guest.new_state_key()
        assert await (await bound(target.manager, B)).open_state_key(made.descriptor) == made.key


# --- what arrives --------------------------------------------------------------------------------


async def test_no_changed_bit_opens_a_package(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        await set_target(source, key, approval)
        made = await (await bound(source.manager, A)).new_state_key()
        twin = await bound(target.manager, A)
        for at in range(len(made.descriptor)):
            changed = flipped(made.descriptor, 8 * at + at % 8)
            assert await not_opened(twin, changed) in (AUTHFAIL, BAD_PARAMETER)
        assert await twin.open_state_key(made.descriptor) == made.key


async def test_a_package_of_a_source_that_was_not_approved_is_not_opened(tmp_path: Path) -> None:
    """Another machine of the same agent makes a package under somebody else's approval."""
    pair = Pair.new(tmp_path / "one")
    key, approval = await pair.provision(A)
    other = Pair.new(tmp_path / "two")
    await other.provision(A)
    async with pair.running() as (source, target), other.source.running() as intruder:
        await set_target(source, key, approval)
        genuine = StatePackage.decode(
            (await (await bound(source.manager, A)).new_state_key()).descriptor
        )
        own = await intruder.transport_key()
        await set_target(intruder, key, other.agent.approve(own, key, vtpm=A))
        forged = StatePackage.decode(
            (await (await bound(intruder.manager, A)).new_state_key()).descriptor
        )
        twin = await bound(target.manager, A)
        for package in (
            replace(forged, approval=genuine.approval),
            replace(genuine, wrapped_key=forged.wrapped_key),
            replace(genuine, vtpm=B),
            replace(genuine, composite=forged.composite, signature=forged.signature),
        ):
            assert await not_opened(twin, package.encode()) == AUTHFAIL
        # the same agent approved that machine too: it may
        assert await twin.open_state_key(forged.encode())


async def test_a_package_of_another_agent_is_not_opened(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, _ = await pair.provision(A)
    stranger = Agent(9)
    async with pair.source.running() as source:
        own = await source.transport_key()
    async with pair.running() as (source, target):
        await set_target(source, key, pair.agent.approve(own, key, vtpm=A))
        made = StatePackage.decode(
            (await (await bound(source.manager, A)).new_state_key()).descriptor
        )
        twin = await bound(target.manager, A)
        forged = replace(made, approval=stranger.sign_approval(made.approval))
        assert await not_opened(twin, forged.encode()) == AUTHFAIL


async def test_a_package_is_opened_in_the_configuration_of_its_key_only(tmp_path: Path) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        await set_target(source, key, approval)
        made = await (await bound(source.manager, A)).new_state_key()
        twin = await bound(target.manager, A)
        before = dict(pair.target.chip.pcrs)
        pair.target.chip.extend(1, bytes(20))
        assert await not_opened(twin, made.descriptor) == ReturnCode.WRONGPCRVAL
        pair.target.chip.pcrs = before
        assert await twin.open_state_key(made.descriptor) == made.key


async def test_a_chip_that_does_not_answer_is_an_io_error(tmp_path: Path) -> None:
    chips = Chip(b"source"), Chip(b"target")
    folders = [tmp_path / name for name in ("source", "target")]
    for folder in folders:
        folder.mkdir()
    hardware = [FakeHardware(chip) for chip in chips]
    agent = Agent()
    async with (
        managed(options(folders[0]), hardware[0]) as one,
        managed(options(folders[1]), hardware[1]) as two,
    ):
        source, target = (Running(each, Operator(each.parts.management)) for each in (one, two))
        for each in (source, target):
            await each.operator.new_group(agent)
        guest, twin = await bound(one, A), await bound(two, A)
        key = await target.transport_key()
        await set_target(source, key, agent.approve(await source.transport_key(), key))
        hardware[0].unreachable = True
        assert await not_new(guest) == ManagerCode.IOERROR
        hardware[0].unreachable = False
        made = await guest.new_state_key()
        # the chip signs in the guest's turn, so that its front can take the command back
        assert guest.device.serial in hardware[0].quotes_for
        hardware[1].unreachable = True
        assert await not_opened(twin, made.descriptor) == ManagerCode.IOERROR
        hardware[1].unreachable = False
        assert await twin.open_state_key(made.descriptor) == made.key


async def test_a_key_of_a_move_opens_no_state_and_the_other_way_round(tmp_path: Path) -> None:
    """What one command makes is of no use to the other, though both are encrypted to one key."""
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        await set_target(source, key, approval)
        guest = await bound(source.manager, A)
        state = StatePackage.decode((await guest.new_state_key()).descriptor)
        await guest.close()
        package = await source.export(A, key, approval)
        twin = await bound(target.manager, A)
        crossed = replace(
            state,
            wrapped_key=package.wrapped_key,
            composite=package.composite,
            signature=package.signature,
        )
        assert await not_opened(twin, crossed.encode()) == AUTHFAIL
        await twin.close()
        await target.operator.send(O.VTPM_DEL, VtpmName(A))
        wrong = replace(
            package,
            wrapped_key=state.wrapped_key,
            composite=state.composite,
            signature=state.signature,
        )
        assert await refused(target.take_in(wrong)) == AUTHFAIL


# --- databases -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_an_older_database_gives_keys(tmp_path: Path, version: int) -> None:
    chip = Chip()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        await bound(manager, A)
        await trio.to_thread.run_sync(manager.started.ledger.checkpoint)
    connection = apsw.Connection(str(tmp_path / "manager.db"))
    for kind in RECORD_TYPES:
        if kind.TABLE.since > version:
            connection.execute(f"DROP TABLE {kind.TABLE.name}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        guest = await manager.guest(A)
        assert await guest.load() == KEY
        made = await guest.new_state_key()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        assert await (await bound(manager, A)).open_state_key(made.descriptor) == made.key
