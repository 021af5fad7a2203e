# SPDX-License-Identifier: Apache-2.0
"""A guest's TPM moves between two stacks, to and fro, while the managers are killed.

What the guest sealed before the first move is unsealed after each; the side that it left refuses
its uuid. `make soak` does more rounds.
"""

from __future__ import annotations

import json
import os
import random  # noqa: TID251 - moments of a kill, no secrets
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import pytest
import trio

from protocol.manager.constants import ManagerCode
from protocol.manager.framing import ManagerRefused
from protocol.manager.messages import decode_load_hash_key_response, encode_load_hash_key
from protocol.tpm12.constants import NvAttributes, ReservedHandle
from protocol.tpm12.stored import StoredData
from protocol.tpmif.unix import open_frontend
from tests.integration.stack import VTPMCTL, Stack, StackError, running_stack
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12
from tpmcore.tss12 import Conversation

T = TypeVar("T")

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "3"))
GUEST = "m1"
OWNER = b"owner of a traveller"
SRK = bytes(20)
AREA = 0x10041
SECRET = b"sealed before the first move"
LIMIT_S = 120.0


class Machine:
    """A stack, and what its operator does until it works."""

    def __init__(self, stack: Stack, files: Path) -> None:
        self.stack = stack
        self.files = files
        self.kills = 0
        self._killed = 0

    def insist(self, *arguments: str) -> str:
        """Run a command again until it succeeds, as one whose manager is killed has to be."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                return self.stack.vtpmctl(*arguments)
            except StackError:
                if time.monotonic() > deadline:
                    raise

    async def kill_manager(self, after_s: float, done: trio.Event) -> None:
        """Kill the manager after a while, or when what is done meanwhile is done."""
        with trio.move_on_after(after_s):
            await done.wait()
        with suppress(StackError, ProcessLookupError):
            self._killed = await trio.to_thread.run_sync(self.stack.pid, "vtpmmgr")
            os.kill(self._killed, signal.SIGKILL)
            self.kills += 1

    async def insist_while_killed(self, moments: random.Random, *arguments: str) -> None:
        """Run a command until it succeeds, with a kill of its manager at some moment."""
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.kill_manager, moments.random() * 1.5, done)
            await trio.to_thread.run_sync(self.insist, *arguments)
            done.set()
        replaced = self.stack.wait_daemon_replaced
        await trio.to_thread.run_sync(replaced, "vtpmmgr", self._killed)

    def run(self, conversation: Conversation[T]) -> T:
        """Run a conversation with the guest's TPM."""
        return tss12.run_sync(lambda command: self.stack.transact(GUEST, command), conversation)

    def moves(self) -> dict[str, str]:
        """Return the state of each move, by vTPM."""
        rows = json.loads(self.insist("vtpm", "moves", "--json"))["moves"]
        return {row["uuid"]: row["state"] for row in rows}

    async def loaded(self, uuid: UUID) -> int:
        """Ask the manager for the key data as the guest's vTPM does; gives the return code."""
        socket = self.stack.root / "run/vtpmmgr.sock"
        async with open_frontend(socket, uuid=uuid) as device:
            try:
                decode_load_hash_key_response(await device.transact(encode_load_hash_key(), 0))
            except ManagerRefused as refusal:
                return refusal.code
        return 0


def saa(*arguments: str) -> None:
    """Act as the agent."""
    done = subprocess.run(
        [*VTPMCTL, "saa", *arguments], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert not done.returncode, done.stderr


def provision(machines: list[Machine], files: Path) -> None:
    """Give group 0 of both managers the same agent."""
    saa("keygen", "--out", str(files / "agent.pem"))
    saa("pubkey", "--key", str(files / "agent.pem"), "--out", str(files / "agent.pub"))
    for number, machine in enumerate(machines):
        machine.insist(
            *("group", "new", "--agent-pub", str(files / "agent.pub"), "--label", "moves"),
            *("--out", str(files / f"group{number}")),
        )
        machine.insist("manager", "transport-key", "--out", str(files / f"{number}.key"))
    for source, target in ((0, 1), (1, 0)):
        saa(
            *("approve-move", "--key", str(files / "agent.pem"), "--sequence", "0"),
            *("--source", str(files / f"{source}.key"), "--target", str(files / f"{target}.key")),
            *("--out", str(files / f"{source}.approval")),
        )


def settle(machine: Machine) -> StoredData:
    """Take ownership of the guest's TPM, seal something and make an area."""
    randoms = SeededRandom("guest")
    machine.run(tss12.take_ownership(owner_auth=OWNER, srk_auth=SRK, random=randoms))
    machine.run(
        tss12.nv_define_space(
            AREA,
            4,
            NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD,
            owner_auth=OWNER,
            area_auth=SRK,
            random=randoms,
        )
    )
    return machine.run(
        tss12.seal(
            ReservedHandle.SRK,
            parent_auth=SRK,
            blob_auth=SRK,
            data=SECRET,
            pcr_info=None,
            random=randoms,
        )
    )


def look(machine: Machine, sealed: StoredData, number: int) -> None:
    """See that everything of the guest is there, and leave something for the next time."""
    randoms = SeededRandom(f"round {number}")
    opened = machine.run(
        tss12.unseal(ReservedHandle.SRK, sealed, parent_auth=SRK, blob_auth=SRK, random=randoms)
    )
    assert opened == SECRET
    if number:
        left = machine.run(tss12.nv_read_value(AREA, 4, owner_auth=OWNER, random=randoms))
        assert int.from_bytes(left, "big") == number - 1
    data = number.to_bytes(4, "big")
    machine.run(tss12.nv_write_value(AREA, data, owner_auth=OWNER, random=randoms))


async def move(source: Machine, target: Machine, number: int, moments: random.Random) -> None:
    """Move the guest, with a kill of either manager somewhere in it."""
    files = source.files
    rows = json.loads(source.insist("guest", "list", "--json"))["guests"]
    (name,) = (row["uuid"] for row in rows if row["guest"] == GUEST)
    source.insist("guest", "stop", GUEST)
    old, new = str(number % 2), str((number + 1) % 2)
    package, receipt, release = (str(files / f"{number}.{k}") for k in ("move", "rcpt", "rlse"))
    export = "vtpm", "export", name, "--to", str(files / f"{new}.key")
    approval = str(files / f"{old}.approval")
    steps: tuple[tuple[Machine, tuple[str, ...]], ...] = (
        (source, (*export, "--approval", approval, "--out", package)),
        (target, ("vtpm", "import", package, "--guest", GUEST, "--out", receipt)),
        (source, ("vtpm", "release", receipt, "--out", release)),
        (target, ("vtpm", "activate", release)),
    )
    victim = moments.randrange(len(steps))
    for index, (machine, command) in enumerate(steps):
        if index == victim:
            await machine.insist_while_killed(moments, *command)
        else:
            machine.insist(*command)
        assert await source.loaded(UUID(name)) == ManagerCode.DISABLED
    assert source.moves()[name] == "gone"
    assert target.moves()[name] == "arrived"
    source.insist("guest", "remove", GUEST, "--delete-state", "--yes", GUEST)
    target.insist("guest", "add", GUEST, "--uuid", name)


@pytest.mark.timeout(180 + 120 * ROUNDS)
async def test_a_guest_moves_to_and_fro_while_managers_are_killed(run_dir: Path) -> None:
    moments = random.Random("moments of a move")
    folders = [run_dir / "a", run_dir / "b", run_dir / "f"]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stacks:
        machines = [
            Machine(stacks.enter_context(running_stack(folders[0], (GUEST,))), folders[2]),
            Machine(stacks.enter_context(running_stack(folders[1], ("other",))), folders[2]),
        ]
        provision(machines, folders[2])
        sealed = settle(machines[0])
        look(machines[0], sealed, 0)
        for number in range(ROUNDS):
            source, target = machines[number % 2], machines[(number + 1) % 2]
            await move(source, target, number, moments)
            look(target, sealed, number + 1)
        assert sum(machine.kills for machine in machines) > ROUNDS // 2
