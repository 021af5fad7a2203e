# SPDX-License-Identifier: Apache-2.0
"""Two operators at once: what a command read, another may have changed before it commits."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import pytest

from daemons.vtpmmgr.ledger import Ledger
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.exchange import Exchange
from protocol.manager.framing import ManagerRefused
from protocol.manager.management import (
    GroupNumber,
    GroupRecover1,
    GroupRecover2,
    Nothing,
    RecoveryAsked,
    VtpmList,
    VtpmNew,
    VtpmsListed,
)
from protocol.tpm12.pcr import PcrSelection
from tests.unit.manager.agent import Agent, Operator, composite
from tests.unit.manager.fakes import Chip, FakeHardware
from tests.unit.manager.harness import OPTIONS, A, Guest, Managed, client, managed, options
from tpmcore.tss12.identity import identity_template

O = ManagementOrdinal  # noqa: E741 - the ordinals, once a line
IN_ONE = UUID(int=0xE)
CLIENTS = (client(A), client(IN_ONE, group=1))
T = TypeVar("T")


def after_read(
    monkeypatch: pytest.MonkeyPatch,
    manager: Managed,
    number: int,
    action: Callable[[], Awaitable[object]],
) -> None:
    """Have something done just after the read with a number, from 1, that a command does next."""
    committer = manager.committer
    read, reads = committer.read, 0

    async def read_and_act(uuid: UUID, query: Callable[[Ledger], T]) -> T:
        nonlocal reads
        found = await read(uuid, query)
        reads += 1
        if reads == number:
            monkeypatch.setattr(committer, "read", read)
            await action()
        return found

    monkeypatch.setattr(committer, "read", read_and_act)


async def test_a_vtpm_does_not_come_into_the_group_that_got_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        op = Operator(manager.parts.management)
        for number in range(3):
            await op.new_group(Agent(number))
        after_read(monkeypatch, manager, 1, lambda: op.send(O.GROUP_DEL, GroupNumber(1)))
        assert await op.refused(O.VTPM_NEW, VtpmNew(1, IN_ONE)) == ManagerCode.BADINDEX
        listed = await op.ask(O.VTPM_LIST, VtpmList(1, 0), VtpmsListed)
        assert listed == VtpmsListed(0, ())


async def test_a_group_is_not_deleted_with_a_vtpm_that_was_opened_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        op = Operator(manager.parts.management)
        for number in range(2):
            await op.new_group(Agent(number))

        async def register_and_open() -> None:
            await op.send(O.VTPM_NEW, VtpmNew(1, IN_ONE))
            guest = await manager.guest(IN_ONE)
            await guest.load()
            guests.append(guest)

        guests: list[Guest] = []
        after_read(monkeypatch, manager, 2, register_and_open)
        assert await op.refused(O.GROUP_DEL, GroupNumber(1)) == ManagerCode.FAIL
        await guests[0].save(bytes(64))


async def test_a_group_opened_by_its_agent_is_open_whatever_keys_the_manager_got_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip, agent = Chip(), Agent()
    application = PcrSelection.of([16])
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        op = Operator(manager.parts.management)
        await op.new_group(Agent(8))
        group = (await op.new_group(agent)).uuid
        await op.register(agent, group, 1)
        await op.send(O.VTPM_NEW, VtpmNew(1, IN_ONE))
        approved = [(application, composite(application, chip.pcrs))]
        await op.send(O.GROUP_UPDATE, agent.sign_list(group, approved, number=1))
    chip.extend(16, b"closes group 1".ljust(20))
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        op = Operator(manager.parts.management)
        with pytest.raises(ManagerRefused, match="AUTHFAIL"):
            await (await manager.guest(IN_ONE)).load()
        proxy = identity_template()
        chip.identities[proxy.encode()] = bytes(OPTIONS.identity_auth)
        asked = await op.ask(
            O.GROUP_RECOVER1, GroupRecover1(1, proxy, bytes(20), application), RecoveryAsked
        )
        own = Exchange(os.urandom(256))
        answer = GroupRecover2(1, own.public, own.mask(asked.exchange, agent.escrow[group]))
        after_read(monkeypatch, manager, 1, lambda: op.send(O.MANAGER_REKEY, Nothing()))
        await op.send(O.GROUP_RECOVER2, answer)
        await (await manager.guest(IN_ONE)).load()
