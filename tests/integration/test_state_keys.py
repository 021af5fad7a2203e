# SPDX-License-Identifier: Apache-2.0
"""Keys of a vTPM's state between two stacks: real managers, real chips, the operator's command."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
import trio

from daemons.vtpm.manager_client import ManagerCommands
from protocol.manager.constants import ManagerCode
from protocol.manager.framing import ManagerRefused
from protocol.tpmif.unix import open_frontend
from tests.integration.stack import StackError, running_stack
from tests.integration.test_move import GUEST, Machine, provision


@asynccontextmanager
async def vtpm_of(machine: Machine, uuid: UUID) -> AsyncIterator[ManagerCommands]:
    """Be the vTPM of a guest that is stopped, with its image's key loaded."""
    async with open_frontend(machine.stack.root / "run/vtpmmgr.sock", uuid=uuid) as device:

        async def transact(request: bytes) -> bytes:
            return await device.transact(request, 0)

        commands = ManagerCommands(transact)
        await commands.load_hash_key()
        yield commands


async def refused(commands: ManagerCommands, descriptor: bytes) -> int:
    with pytest.raises(ManagerRefused) as caught:
        await commands.state_key_open(descriptor)
    return caught.value.code


@pytest.mark.timeout(240)
async def test_a_key_goes_to_the_approved_machine_and_to_no_other(run_dir: Path) -> None:
    folders = [run_dir / name for name in ("a", "b", "f")]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stacks:
        machines = [
            Machine(stacks.enter_context(running_stack(folders[0], (GUEST,))), folders[2]),
            Machine(stacks.enter_context(running_stack(folders[1], ("other",))), folders[2]),
        ]
        provision(machines, folders[2])
        source, target = machines
        rows = json.loads(source.insist("guest", "list", "--json"))["guests"]
        (name,) = (row["uuid"] for row in rows if row["guest"] == GUEST)
        uuid = UUID(name)
        target.insist("guest", "add", GUEST, "--uuid", name)
        migrate = "vtpm", "migrate-to", "--guest", GUEST
        way = "--to", str(folders[2] / "1.key"), "--approval", str(folders[2] / "0.approval")

        def shown() -> tuple[str | None, bool | None]:
            row = json.loads(source.insist("vtpm", "show", GUEST, "--json"))
            return row["migrates_to"], row["approved"]

        # while the guest runs, as it does when it migrates
        assert shown() == (None, None)
        assert "goes to manager" in source.insist(*migrate, *way)
        there, approved = shown()
        assert there is not None
        assert approved is True
        assert there in source.insist("vtpm", "show", GUEST)
        back = "--to", str(folders[2] / "0.key"), "--approval", str(folders[2] / "1.approval")
        with pytest.raises(StackError, match="the target is not certified, or is this manager"):
            source.stack.vtpmctl(*migrate, *back)
        with pytest.raises(StackError, match="either --to and --approval, or --to-vtpm"):
            source.stack.vtpmctl(*migrate, *way, "--clear")

        # now the test is the vTPM
        for machine in machines:
            machine.insist("guest", "stop", GUEST)
        async with AsyncExitStack() as vtpms:
            here = await vtpms.enter_async_context(vtpm_of(source, uuid))
            twin = await vtpms.enter_async_context(vtpm_of(target, uuid))
            key, descriptor = await here.state_key_new()
            assert await twin.state_key_open(descriptor) == key
            assert await refused(here, descriptor) == ManagerCode.AUTHFAIL
            changed = bytes([*descriptor[:-1], descriptor[-1] ^ 1])
            assert await refused(twin, changed) == ManagerCode.AUTHFAIL

            answer = json.loads(source.insist(*migrate, "--clear", "--json"))
            assert answer == {"vtpm": name, "target": None}
            assert shown() == (None, None)
            local, tag = await here.state_key_new()
            source.insist("group", "rekey", "0")
            assert await here.state_key_open(tag) == local
            assert await refused(twin, tag) == ManagerCode.AUTHFAIL
        for machine in machines:
            assert "state key" in machine.stack.stderr()
            for secret in (key, local):
                assert secret.hex() not in machine.stack.stderr()


@pytest.mark.timeout(240)
async def test_a_key_is_for_one_vtpm_until_the_operator_names_another(run_dir: Path) -> None:
    with running_stack(run_dir, (GUEST, "other")) as stack:
        machine = Machine(stack, run_dir)
        rows = json.loads(machine.insist("guest", "list", "--json"))["guests"]
        uuids = {row["guest"]: row["uuid"] for row in rows}
        migrate = "vtpm", "migrate-to", "--guest", GUEST

        def shown() -> str | None:
            row: dict[str, str | None] = json.loads(machine.insist("vtpm", "show", GUEST, "--json"))
            return row["migrates_to_vtpm"]

        for each in (GUEST, "other"):
            machine.insist("guest", "stop", each)
        async with AsyncExitStack() as vtpms:
            own, other = [
                await vtpms.enter_async_context(vtpm_of(machine, UUID(uuids[each])))
                for each in (GUEST, "other")
            ]
            key, descriptor = await own.state_key_new()
            assert await refused(other, descriptor) == ManagerCode.AUTHFAIL
            assert shown() is None
            assert "may load the state" in machine.insist(*migrate, "--to-vtpm", "other")
            assert shown() == uuids["other"]
            assert uuids["other"] in machine.insist("vtpm", "show", GUEST)
            assert await other.state_key_open(descriptor) == key
            # it is in the database
            pid = stack.pid("vtpmmgr")
            os.kill(pid, signal.SIGKILL)
            await trio.to_thread.run_sync(stack.wait_daemon_replaced, "vtpmmgr", pid)
            assert shown() == uuids["other"]
        async with vtpm_of(machine, UUID(uuids["other"])) as other:
            assert await other.state_key_open(descriptor) == key
            machine.insist(*migrate, "--clear")
            assert shown() is None
            assert await refused(other, descriptor) == ManagerCode.AUTHFAIL
        with pytest.raises(StackError, match="the two are one, or of different groups"):
            stack.vtpmctl(*migrate, "--to-vtpm", GUEST)
        with pytest.raises(StackError, match="one of the two vTPMs is not here"):
            stack.vtpmctl(*migrate, "--to-vtpm", str(UUID(int=1)))
        told = stack.stderr()
        for event in ("state key refused", "state key given to another vTPM"):
            assert event in told
