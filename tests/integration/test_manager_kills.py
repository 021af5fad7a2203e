# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the manager in the middle of what it writes: commands of an operator, changes of keys.

SOAK_ROUNDS says how often; `make soak` says 50.
"""

from __future__ import annotations

import os
import random  # noqa: TID251 - moments of a kill, no secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

import pytest
import trio

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.adminclient import Admin, Refused, open_admin
from daemons.vtpmctl.vtpm_cli import list_vtpms
from protocol.manager.constants import ManagementOrdinal
from protocol.manager.management import (
    GroupCount,
    GroupMade,
    GroupNew,
    GroupNumber,
    GroupShown,
    Nothing,
    VtpmName,
    VtpmNew,
)
from protocol.tpm12.pcr import PcrSelection
from protocol.tpmif.errors import BackendLost
from tests.integration.test_manager_process import guest_of, loaded, start_manager
from tests.integration.vtpm_lab import Lab, open_lab
from tests.unit.manager.agent import LABEL_DIGEST, Agent, composite

O = ManagementOrdinal  # noqa: E741 - the ordinals, once a line
ROUNDS: Final = int(os.environ.get("SOAK_ROUNDS", "5"))
LIMIT_S: Final = 60 + 20 * ROUNDS
GUESTS: Final = ("g1", "g2")
PCRS: Final = PcrSelection.of([0, 4])
NAMESPACE: Final = UUID(int=0x6B)


@dataclass(slots=True)
class Told:
    """What was acknowledged, and what was at most tried.

    Attributes:
        saved: number that each guest has saved last.
        tried: likewise, without the answer.
        made: vTPMs that are there.
        asked: vTPMs that may be there.
        sequence: of the list in force, at least and at most.
        done: commands that were answered.
    """

    saved: dict[str, int] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)
    made: set[UUID] = field(default_factory=set)
    asked: set[UUID] = field(default_factory=set)
    sequence: tuple[int, int] = (0, 0)
    done: int = 0


async def save_until_lost(lab: Lab, guest: str, told: Told) -> None:
    """Save ever greater numbers."""
    try:
        async with guest_of(lab, guest) as device:
            while True:
                told.tried[guest] = told.saved.get(guest, 0) + 1
                await device.save(told.tried[guest].to_bytes(64, "big"))
                told.saved[guest] = told.tried[guest]
    except (BackendLost, OSError):
        pass


async def command_until_lost(
    lab: Lab, told: Told, commands: list[Callable[[Admin], Awaitable[None]]]
) -> None:
    """Send commands in turn."""
    try:
        async with open_admin(lab.run / "admin.sock") as admin:
            for command in (commands[number % len(commands)] for number in count(told.done)):
                await command(admin)
                told.done += 1
    except Refused:
        raise
    except DaemonError:
        pass


async def check(lab: Lab, told: Told, agent: Agent) -> None:
    """See that everything that was told is so, and nothing is there twice."""
    for guest in GUESTS:
        found = int.from_bytes(await loaded(lab, guest), "big")
        assert told.saved[guest] <= found <= told.tried[guest], guest
        told.saved[guest] = found
    async with open_admin(lab.run / "admin.sock") as admin:
        groups = (await admin.ask(O.GROUP_LIST, Nothing(), GroupCount)).groups
        assert groups == 1
        listed = [uuid for _, uuid in await list_vtpms(admin, 0)]
        shown = await admin.ask(O.GROUP_SHOW, GroupNumber(0), GroupShown)
    assert len(listed) == len(set(listed))
    own = {lab.uuid(guest) for guest in GUESTS}
    assert told.made | own <= set(listed) <= told.asked | own
    told.made = set(listed) - own
    least, most = told.sequence
    assert least <= shown.config_list.sequence <= most
    told.sequence = (shown.config_list.sequence, most)
    assert shown.saa_modulus == agent.modulus


async def soak(
    run_dir: Path,
    seed: str,
    longest_s: float,
    commands: Callable[[Told, Agent, UUID], list[Callable[[Admin], Awaitable[None]]]],
) -> None:
    """Kill the manager in the middle of commands, again and again."""
    moments, told, agent = random.Random(seed), Told(), Agent()
    async with open_lab(run_dir) as lab:
        for guest in GUESTS:
            lab.configure(guest, 'label = "system_u:vm_r:vtpm_t"')
        await lab.start_machine()
        async with open_admin(lab.run / "admin.sock") as admin:
            request = GroupNew(LABEL_DIGEST, agent.modulus)
            group = (await admin.ask(O.GROUP_NEW, request, GroupMade)).uuid
        for guest in GUESTS:
            async with guest_of(lab, guest) as device:
                await device.save(bytes(63) + b"\x01")
            told.saved[guest] = told.tried[guest] = 1
        turns = commands(told, agent, group)
        rounds = 0
        # And on until there was enough to be killed in: that is a matter of the machine's speed.
        while rounds < ROUNDS or min(told.saved.values()) <= ROUNDS or not told.done:
            rounds += 1
            async with trio.open_nursery() as nursery:
                for guest in GUESTS:
                    nursery.start_soon(save_until_lost, lab, guest, told)
                nursery.start_soon(command_until_lost, lab, told, turns)
                await trio.sleep(moments.uniform(0.0, longest_s) * (1 + rounds // (ROUNDS + 1)))
                await lab.manager.kill()
            await start_manager(lab)
            await check(lab, told, agent)


def operators_commands(
    told: Told, agent: Agent, group: UUID
) -> list[Callable[[Admin], Awaitable[None]]]:
    numbers = count(1)

    async def make(admin: Admin) -> None:
        uuid = uuid5(NAMESPACE, str(next(numbers)))
        told.asked.add(uuid)
        await admin.ask(O.VTPM_NEW, VtpmNew(0, uuid), VtpmName)
        told.made.add(uuid)

    async def delete(admin: Admin) -> None:
        if told.made:
            uuid = min(told.made)
            told.made.discard(uuid)
            await admin.send(O.VTPM_DEL, VtpmName(uuid))
            told.asked.discard(uuid)

    async def approve(admin: Admin) -> None:
        least, most = told.sequence
        pcrs = {index: await admin.read_pcr(index) for index in PCRS.indices}
        told.sequence = (least, most + 1)
        update = agent.sign_list(group, [(PCRS, composite(PCRS, pcrs))], sequence=most + 1)
        await admin.send(O.GROUP_UPDATE, update)
        told.sequence = (most + 1, most + 1)

    return [make, make, delete, approve]


def changes_of_keys(
    told: Told, agent: Agent, group: UUID
) -> list[Callable[[Admin], Awaitable[None]]]:
    (approve,) = operators_commands(told, agent, group)[-1:]

    async def manager(admin: Admin) -> None:
        await admin.send(O.MANAGER_REKEY, Nothing())

    async def area(admin: Admin) -> None:
        await admin.send(O.NV_REKEY, Nothing())

    async def of_group(admin: Admin) -> None:
        await admin.send(O.GROUP_REKEY, GroupNumber(0))

    return [approve, manager, of_group, area]


@pytest.mark.timeout(LIMIT_S)
async def test_a_kill_among_an_operators_commands_loses_and_doubles_nothing(run_dir: Path) -> None:
    await soak(run_dir, "commands", 0.6, operators_commands)


@pytest.mark.timeout(LIMIT_S)
async def test_a_kill_in_a_change_of_keys_leaves_the_old_or_the_new_ones(run_dir: Path) -> None:
    await soak(run_dir, "keys", 1.0, changes_of_keys)
