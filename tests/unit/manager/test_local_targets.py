# SPDX-License-Identifier: Apache-2.0
"""Whose state a vTPM may load at one manager: its own, and what the operator said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import apsw
import pytest
import trio

from daemons.vtpmmgr.records import RECORD_TYPES
from daemons.vtpmmgr.staterecords import LocalTargetRecord, StateTargetRecord
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.descriptors import (
    NO_UUID,
    LocalDescriptor,
    LocalTarget,
    StatePackage,
    StateTarget,
    StateTargetShown,
    decode_descriptor,
)
from protocol.manager.management import GroupNumber, VtpmName, VtpmNew
from tests.unit.manager.agent import Agent, Operator
from tests.unit.manager.fakes import Chip, FakeHardware
from tests.unit.manager.harness import A, B, C, Managed, client, managed, options
from tests.unit.manager.moves import KEY, Pair
from tests.unit.manager.test_state_keys import (
    AUTHFAIL,
    BAD_PARAMETER,
    CLIENTS,
    IN_ONE,
    bound,
    not_opened,
    told,
    two_groups,
)

O = ManagementOrdinal  # noqa: E741 - the ordinals, once a line
NOBODY = StateTargetShown(NO_UUID, 0, False, NO_UUID)


def operator(manager: Managed) -> Operator:
    return Operator(manager.parts.management)


async def let(manager: Managed, vtpm: UUID, target: UUID) -> None:
    """Say that the state of one vTPM may go to another."""
    await operator(manager).send(O.STATE_TARGET_LOCAL, LocalTarget(vtpm, target))


async def shown(manager: Managed, vtpm: UUID) -> StateTargetShown:
    return await operator(manager).ask(O.STATE_TARGET_SHOW, VtpmName(vtpm), StateTargetShown)


async def test_another_vtpm_of_the_group_does_not_get_the_key(tmp_path: Path) -> None:
    chip = Chip()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        guest, other = await bound(manager, A), await bound(manager, B)
        made = await guest.new_state_key()
        await other.new_state_key()
        assert await not_opened(other, made.descriptor) == AUTHFAIL
        (line,) = told(manager, "state key refused")
        assert "the state is of another vTPM" in line
        assert str(B) in line
        assert await guest.open_state_key(made.descriptor) == made.key
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        assert await not_opened(await bound(manager, B), made.descriptor) == AUTHFAIL
        assert await (await bound(manager, A)).open_state_key(made.descriptor) == made.key


async def test_a_vtpm_that_names_itself_in_a_descriptor_does_not_get_the_key(
    tmp_path: Path,
) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest, other = await bound(manager, A), await bound(manager, B)
        made = await guest.new_state_key()
        forged = replace(LocalDescriptor.decode(made.descriptor), vtpm=B)
        assert await not_opened(other, forged.encode()) == AUTHFAIL
        assert told(manager, "the descriptor was changed")


async def test_the_vtpm_that_the_operator_named_gets_it_and_no_third_one(tmp_path: Path) -> None:
    chip = Chip()
    clients = (client(A), client(B), client(C))
    async with managed(options(tmp_path), FakeHardware(chip), clients) as manager:
        guest, other, third = [await bound(manager, each) for each in (A, B, C)]
        made = await guest.new_state_key()
        await let(manager, A, B)
        assert await other.open_state_key(made.descriptor) == made.key
        assert await not_opened(third, made.descriptor) == AUTHFAIL
        # the source may have to go on, and may not take anything back
        assert await guest.open_state_key(made.descriptor) == made.key
        theirs = await other.new_state_key()
        assert await not_opened(guest, theirs.descriptor) == AUTHFAIL
        (line,) = told(manager, "state key given to another vTPM")
        for word in (A, B, LocalDescriptor.decode(made.descriptor).identifier):
            assert str(word) in line
        assert len(told(manager, "state key given again")) == 1
        (line,) = told(manager, "local state target set")
        assert str(A) in line
        assert str(B) in line
    async with managed(options(tmp_path), FakeHardware(chip), clients) as manager:
        assert await (await bound(manager, B)).open_state_key(made.descriptor) == made.key


async def test_what_the_operator_named_can_be_seen_changed_and_taken_back(tmp_path: Path) -> None:
    clients = (client(A), client(B), client(C))
    async with managed(options(tmp_path), FakeHardware(Chip()), clients) as manager:
        guest, other, third = [await bound(manager, each) for each in (A, B, C)]
        made = await guest.new_state_key()
        assert await shown(manager, A) == NOBODY
        await let(manager, A, B)
        assert await shown(manager, A) == replace(NOBODY, vtpm=B)
        assert await shown(manager, B) == NOBODY
        await let(manager, A, C)
        assert await shown(manager, A) == replace(NOBODY, vtpm=C)
        assert await not_opened(other, made.descriptor) == AUTHFAIL
        assert await third.open_state_key(made.descriptor) == made.key
        for _ in range(2):  # a second time is no mistake
            await operator(manager).send(O.STATE_TARGET_CLEAR, VtpmName(A))
        assert await shown(manager, A) == NOBODY
        assert await not_opened(third, made.descriptor) == AUTHFAIL
        assert manager.started.ledger.get(LocalTargetRecord, A.bytes) is None


async def test_a_vtpm_of_another_group_and_what_is_none_cannot_be_named(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        await two_groups(manager, Agent())
        op = operator(manager)
        for vtpm, target, code in (
            (A, IN_ONE, BAD_PARAMETER),
            (IN_ONE, A, BAD_PARAMETER),
            (A, A, BAD_PARAMETER),
            (A, C, ManagerCode.FAIL),
            (C, A, ManagerCode.FAIL),
        ):
            assert await op.refused(O.STATE_TARGET_LOCAL, LocalTarget(vtpm, target)) == code
        assert await shown(manager, A) == NOBODY
        assert told(manager, "the second vTPM is of another group")


async def test_one_that_was_named_and_is_of_another_group_now_does_not_get_it(
    tmp_path: Path,
) -> None:
    clients = (*CLIENTS, client(C, group=1))
    async with managed(options(tmp_path), FakeHardware(Chip()), clients) as manager:
        await two_groups(manager, Agent())
        made = await (await bound(manager, B)).new_state_key()
        op = operator(manager)
        await op.send(O.VTPM_NEW, VtpmNew(0, C))
        await let(manager, B, C)
        await op.send(O.VTPM_DEL, VtpmName(C))
        await op.send(O.VTPM_NEW, VtpmNew(1, C))
        assert await not_opened(await bound(manager, C), made.descriptor) == AUTHFAIL


@pytest.mark.parametrize("gone", [A, B])
async def test_with_either_vtpm_the_word_of_the_operator_is_forgotten(
    tmp_path: Path, gone: UUID
) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await bound(manager, A)
        made = await guest.new_state_key()
        op = operator(manager)
        await op.send(O.VTPM_NEW, VtpmNew(0, B))
        await let(manager, A, B)
        await guest.close()
        await op.send(O.VTPM_DEL, VtpmName(gone))
        await op.send(O.VTPM_NEW, VtpmNew(0, gone))
        assert await shown(manager, A) == NOBODY
        assert await not_opened(await bound(manager, B), made.descriptor) == AUTHFAIL


@pytest.mark.parametrize("gone", [A, B])
async def test_and_when_one_leaves_for_another_machine(tmp_path: Path, gone: UUID) -> None:
    pair = Pair.new(tmp_path)
    key, _ = await pair.provision(A)
    async with pair.running() as (source, _):
        await (await bound(source.manager, B)).close()
        await let(source.manager, A, B)
        approval = pair.agent.approve(await source.transport_key(), key, vtpm=gone)
        await source.export(gone, key, approval)
        await source.cancel(gone)
        assert await shown(source.manager, A) == NOBODY


async def test_a_group_that_is_deleted_leaves_nothing(tmp_path: Path) -> None:
    clients = (*CLIENTS, client(C, group=1))
    async with managed(options(tmp_path), FakeHardware(Chip()), clients) as manager:
        _, other = await two_groups(manager, Agent())
        op = operator(manager)
        await op.send(O.VTPM_NEW, VtpmNew(1, C))
        await let(manager, IN_ONE, C)
        await other.close()
        await op.send(O.GROUP_DEL, GroupNumber(1))
        assert manager.started.ledger.get(LocalTargetRecord, IN_ONE.bytes) is None


async def test_state_goes_to_another_manager_or_to_a_vtpm_here_and_not_to_both(
    tmp_path: Path,
) -> None:
    pair = Pair.new(tmp_path)
    key, approval = await pair.provision(A)
    async with pair.running() as (source, target):
        guest, other = await bound(source.manager, A), await bound(source.manager, B)
        far = StateTarget(A, key, approval)
        await source.operator.send(O.STATE_TARGET_SET, far)
        await let(source.manager, A, B)
        assert await shown(source.manager, A) == replace(NOBODY, vtpm=B)
        made = await guest.new_state_key()
        assert isinstance(decode_descriptor(made.descriptor), LocalDescriptor)
        assert await other.open_state_key(made.descriptor) == made.key
        await source.operator.send(O.STATE_TARGET_SET, far)
        assert await shown(source.manager, A) == StateTargetShown(key.manager, 0, True, NO_UUID)
        assert await not_opened(other, made.descriptor) == AUTHFAIL
        made = await guest.new_state_key()
        assert isinstance(decode_descriptor(made.descriptor), StatePackage)
        assert await not_opened(await bound(target.manager, B), made.descriptor) == AUTHFAIL
        ledger = source.manager.started.ledger
        assert ledger.get(LocalTargetRecord, A.bytes) is None
        assert ledger.get(StateTargetRecord, A.bytes) is not None


async def test_an_older_key_of_the_group_is_for_its_own_vtpm_too(tmp_path: Path) -> None:
    """A database of version 3: its keys were for every vTPM of the group."""
    chip = Chip()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        guest = await bound(manager, A)
        await bound(manager, B)
        made = await guest.new_state_key()
        await trio.to_thread.run_sync(manager.started.ledger.checkpoint)
    connection = apsw.Connection(str(tmp_path / "manager.db"))
    for kind in RECORD_TYPES:
        if kind.TABLE.since > 3:
            connection.execute(f"DROP TABLE {kind.TABLE.name}")
    connection.execute("PRAGMA user_version = 3")
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        guest, other = await manager.guest(A), await manager.guest(B)
        assert await guest.load() == KEY
        assert await other.load() == KEY
        assert await shown(manager, A) == NOBODY
        assert await guest.open_state_key(made.descriptor) == made.key
        assert await not_opened(other, made.descriptor) == AUTHFAIL
        await let(manager, A, B)
        assert await other.open_state_key(made.descriptor) == made.key
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        assert await shown(manager, A) == replace(NOBODY, vtpm=B)
