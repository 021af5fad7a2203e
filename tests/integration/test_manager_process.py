# SPDX-License-Identifier: Apache-2.0
"""Real vtpmmgr and hwtpm processes: what survives, what is refused, who is served."""

from __future__ import annotations

import os
import random  # noqa: TID251 - moments of a kill, no secrets
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
import trio

from daemons.runtime.control import control_request
from protocol.manager.framing import ManagerRefused
from protocol.manager.messages import (
    decode_load_hash_key_response,
    decode_save_hash_key_response,
    encode_load_hash_key,
    encode_save_hash_key,
)
from protocol.tis.driver import open_tis
from protocol.tpmif.errors import BackendLost, BackendRefused
from protocol.tpmif.unix import FrontendDevice, open_frontend
from tests.integration.vtpm_lab import Daemon, Lab, kept_memory, open_lab
from tpmcore import tss12

LIMIT_S: Final = 60.0
GUESTS: Final = [f"g{n}" for n in range(1, 10)]
GET_RANDOM: Final = bytes.fromhex("00c1 0000000e 00000046 00000010")


class Guest:
    """A vTPM's side of the manager's socket."""

    def __init__(self, device: FrontendDevice) -> None:
        self.device = device

    async def send(self, request: bytes) -> bytes:
        with trio.fail_after(LIMIT_S):
            return await self.device.transact(request, 0)
        raise AssertionError("unreachable")

    async def save(self, data: bytes) -> None:
        decode_save_hash_key_response(await self.send(encode_save_hash_key(data)))

    async def load(self) -> bytes:
        return decode_load_hash_key_response(await self.send(encode_load_hash_key()))


@asynccontextmanager
async def guest_of(lab: Lab, name: str = "g1") -> AsyncIterator[Guest]:
    async with open_frontend(lab.manager_socket, uuid=lab.uuid(name)) as device:
        yield Guest(device)


def value(text: str) -> bytes:
    return text.encode().ljust(64, b".")


async def saved(lab: Lab, text: str, name: str = "g1") -> None:
    async with guest_of(lab, name) as guest:
        await guest.save(value(text))


async def loaded(lab: Lab, name: str = "g1") -> bytes:
    async with guest_of(lab, name) as guest:
        return await guest.load()


async def start_manager(lab: Lab) -> None:
    await lab.manager.start()
    await lab.manager.wait_ready()


def database_files(lab: Lab) -> dict[str, bytes]:
    """What counts of the state folder: everything but the lock and an empty log."""
    files = {path.name: path.read_bytes() for path in (lab.root / "mgr").iterdir()}
    return {name: data for name, data in files.items() if data}


async def expect_refusal(lab: Lab, *texts: str) -> None:
    """Start the manager, which must end with exit code 3, say why, and change nothing."""
    before, said = database_files(lab), len(lab.manager.stderr())
    await lab.manager.start()
    assert await lab.manager.wait_end() == 3
    reason = lab.manager.stderr()[said:]
    for text in texts:
        assert text in reason
    assert database_files(lab) == before


async def test_what_was_saved_is_there_after_a_stop_and_a_start(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        await saved(lab, "one")
        assert await lab.manager.stop() == 0
        assert not lab.manager_socket.exists()
        assert (run_dir / "mgr").stat().st_mode & 0o777 == 0o700
        for path in (run_dir / "mgr").iterdir():
            assert path.stat().st_mode & 0o777 == 0o600, path
        await start_manager(lab)
        assert await loaded(lab) == value("one")
        assert await lab.hwtpm.stop() == 0
        await lab.hwtpm.start()
        await lab.hwtpm.wait_ready()
        await saved(lab, "two")
        assert await loaded(lab) == value("two")


async def _save_until_lost(
    lab: Lab, name: str, told: dict[str, int], tried: dict[str, int]
) -> None:
    """Save ever greater numbers; `told` has what was acknowledged."""
    try:
        async with guest_of(lab, name) as guest:
            while True:
                tried[name] = told.get(name, 0) + 1
                await guest.save(tried[name].to_bytes(64, "big"))
                told[name] = tried[name]
    except (BackendLost, OSError):
        pass


@pytest.mark.parametrize("victim", ["manager", "hwtpm", "both"])
async def test_a_kill_in_the_middle_of_saves_loses_nothing_acknowledged(
    run_dir: Path, victim: str
) -> None:
    moments = random.Random(victim)
    told: dict[str, int] = {}
    tried: dict[str, int] = {}
    async with open_lab(run_dir) as lab:
        with kept_memory() as memory:
            lab.tis.mkdir()
            await lab.hwtpm.start({"volatile": memory})
            await lab.hwtpm.wait_ready()
            await start_manager(lab)
            # Ten times, and on until every guest has saved enough: how much that is in a round
            # depends on the machine's speed.
            rounds = 0
            while rounds < 10 or min(told.values()) <= 5:
                rounds += 1
                async with trio.open_nursery() as nursery:
                    for name in GUESTS[:4]:
                        nursery.start_soon(_save_until_lost, lab, name, told, tried)
                    await trio.sleep(moments.uniform(0.01, 0.15) * (1 + rounds // 10))
                    if victim in ("hwtpm", "both"):
                        await lab.hwtpm.kill()
                    if victim == "hwtpm":
                        await lab.hwtpm.start({"volatile": memory})
                        await lab.hwtpm.wait_ready()
                        await trio.sleep(moments.uniform(0.01, 0.05))
                    # The guests' tasks end with their connections.
                    await lab.manager.kill()
                if victim == "both":
                    await lab.hwtpm.start({"volatile": memory})
                    await lab.hwtpm.wait_ready()
                await start_manager(lab)
                for name in GUESTS[:4]:
                    try:
                        found = int.from_bytes(await loaded(lab, name), "big")
                    except ManagerRefused:
                        found = 0
                    assert told.get(name, 0) <= found <= tried.get(name, 0), name
                    told[name] = found


async def test_the_chip_may_die_and_return_under_a_running_manager(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with guest_of(lab) as guest:
            await guest.save(value("before"))
            await lab.hwtpm.kill()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(guest.save, value("while it is away"))
                await lab.hwtpm.start()
                await lab.hwtpm.wait_ready()
            assert await guest.load() == value("while it is away")
            await guest.save(value("after"))
            assert (await guest.send(GET_RANDOM))[6:10] == bytes(4)
            assert await guest.load() == value("after")


async def test_an_older_database_is_refused_with_both_sequence_numbers(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        await saved(lab, "one")
        await lab.manager.stop()
        shutil.copytree(run_dir / "mgr", run_dir / "copy")
        await start_manager(lab)
        await saved(lab, "two")
        await saved(lab, "three")
        await lab.manager.stop()
        shutil.move(run_dir / "mgr", run_dir / "newest")
        shutil.move(run_dir / "copy", run_dir / "mgr")
        await expect_refusal(lab, "older copy: it has sequence 2", "has 4")
        shutil.rmtree(run_dir / "mgr")
        shutil.move(run_dir / "newest", run_dir / "mgr")
        await start_manager(lab)
        assert await loaded(lab) == value("three")


async def test_a_tampered_row_is_refused_by_name(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        await saved(lab, "one")
        await lab.manager.stop()
        database = run_dir / "mgr" / "manager.db"
        whole = database.read_bytes()
        # The row begins with the uuid; its key data lies behind group and flags.
        offset = whole.index(lab.uuid("g1").bytes) + 16 + 16 + 1 + 60
        changed = whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :]
        database.write_bytes(changed)
        await expect_refusal(lab, f"changed: row {lab.uuid('g1')} of table vtpms")
        database.write_bytes(whole[:-4096])
        await expect_refusal(lab, "manager.db")
        database.unlink()
        await expect_refusal(lab, "no database", "the hardware TPM is bound to one")
        database.write_bytes(whole)
        await start_manager(lab)
        assert await loaded(lab) == value("one")


async def test_another_hardware_tpm_is_refused(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        await saved(lab, "one")
        await lab.manager.stop()
        await lab.hwtpm.stop()
        shutil.move(run_dir / "hwtpm", run_dir / "mine")
        await lab.hwtpm.start()
        await lab.hwtpm.wait_ready()
        await expect_refusal(lab, "this one has no owner: it is another, or was cleared")
        # The other chip with a manager of its own, whose database then goes away.
        shutil.move(run_dir / "mgr", run_dir / "mine-mgr")
        await start_manager(lab)
        await lab.manager.stop()
        shutil.rmtree(run_dir / "mgr")
        shutil.move(run_dir / "mine-mgr", run_dir / "mgr")
        await expect_refusal(lab, "another hardware TPM: its endorsement key is")
        await lab.hwtpm.stop()
        shutil.rmtree(run_dir / "hwtpm")
        shutil.move(run_dir / "mine", run_dir / "hwtpm")
        await lab.hwtpm.start()
        await lab.hwtpm.wait_ready()
        await start_manager(lab)
        assert await loaded(lab) == value("one")


async def test_a_machine_that_booted_something_else_is_refused_by_pcr(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        await saved(lab, "one")
        await lab.manager.stop()
        async with open_tis(lab.tis, 0) as driver:
            await tss12.converse(driver.transact, tss12.extend(4, b"\x22" * 20))
        await expect_refusal(lab, "the root secret does not unseal: PCR 4 is ")
        await control_request(lab.tis / "control.sock", "power-cycle")
        await start_manager(lab)
        assert await loaded(lab) == value("one")


async def test_a_power_cycle_of_the_chip_does_not_disturb_a_running_manager(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with guest_of(lab) as guest:
            for n in range(5):
                await guest.save(value(f"save {n}"))
                await control_request(lab.tis / "control.sock", "power-cycle")
            assert await guest.load() == value("save 4")
        await lab.manager.stop()
        await start_manager(lab)
        assert await loaded(lab) == value("save 4")


async def test_a_second_manager_on_the_same_folder_is_refused(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        second = Daemon("vtpmmgr", run_dir, lab.manager._arguments)
        await second.start()
        assert await second.wait_end() == 3
        assert "in use by another process" in second.stderr()
        await saved(lab, "served")


async def test_only_configured_guests_are_admitted_each_once(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        with pytest.raises(BackendRefused, match=f"uid {os.geteuid()} may not be vTPM"):
            async with open_frontend(lab.manager_socket, uuid=UUID(int=1)):
                pass
        async with guest_of(lab) as first, guest_of(lab) as second:
            await first.save(value("mine"))
            with pytest.raises(ManagerRefused, match="DISABLED"):
                await second.load()
        assert await loaded(lab) == value("mine")


async def test_a_client_that_floods_neither_starves_others_nor_ends_the_manager(
    run_dir: Path,
) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()

        async def flood(name: str, request: bytes) -> None:
            async with guest_of(lab, name) as guest:
                while True:
                    await guest.send(request)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, "g2", GET_RANDOM)
            nursery.start_soon(flood, "g3", b"\x01\xc1\xff\xff\xff\xff garbage" * 290)
            nursery.start_soon(flood, "g4", b"")
            async with guest_of(lab) as guest:
                for n in range(20):
                    with trio.fail_after(LIMIT_S):
                        await guest.save(value(f"save {n}"))
                assert await guest.load() == value("save 19")
            nursery.cancel_scope.cancel()
        assert lab.manager.stderr().count("request refused") <= 3
        await saved(lab, "still there")


async def test_saves_of_many_vtpms_share_commits_and_status_shows_it(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()

        async with AsyncExitStack() as connected:
            guests = [await connected.enter_async_context(guest_of(lab, name)) for name in GUESTS]
            for n in range(10):
                # All have asked before the manager sees the first, on any machine.
                lab.manager.signal(signal.SIGSTOP)
                async with trio.open_nursery() as nursery:
                    for guest in guests:
                        nursery.start_soon(guest.save, n.to_bytes(64, "big"))
                    await trio.testing.wait_all_tasks_blocked()
                    lab.manager.signal(signal.SIGCONT)
        status = await control_request(lab.run / "control.sock", "status")
        assert status["state"] == "serving"
        assert status["freshness"] == "nv"
        assert status["saves"] == 90
        assert isinstance(status["commits"], int)
        assert 10 <= status["commits"] < 60
        assert status["waiting_saves"] == 0


async def test_usage_and_configuration_mistakes_have_their_exit_codes(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        for change, code, text in (
            (("--seal-pcrs", "24"), 2, "PCR 24: the last one is 23"),
            (("--owner-auth", "secret"), 2, "an authorization value is"),
            (("--config", str(run_dir / "none")), 3, "No such file"),
        ):
            daemon = Daemon("vtpmmgr", run_dir, (*lab.manager._arguments, *change))
            await daemon.start()
            assert await daemon.wait_end() == code
            assert text in daemon.stderr().replace("\n", " ")
            assert "secret" not in daemon.stderr().splitlines()[-1].replace("secret file", "")
