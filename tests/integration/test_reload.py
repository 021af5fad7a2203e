# SPDX-License-Identifier: Apache-2.0
"""Daemons that read their configuration again while their guests work."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from daemons.runtime.control import control_request
from daemons.runtime.errors import DaemonError
from protocol.manager.framing import ManagerRefused
from protocol.manager.messages import (
    decode_load_hash_key_response,
    decode_save_hash_key_response,
    encode_load_hash_key,
    encode_save_hash_key,
)
from protocol.tpm12 import Ordinal, ReturnCode, Tag, build_message, error_response
from protocol.tpmif.errors import BackendLost, BackendRefused
from protocol.tpmif.unix import FrontendDevice, open_frontend
from tests.integration.vtpm_lab import Daemon, Lab, open_lab

LIMIT_S: Final = 60.0
RELOADS: Final = 10
PCR_READ: Final = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, bytes(4))
PCR_VALUE: Final = build_message(Tag.RSP_COMMAND, 0, bytes(20))
SAVED: Final = b"key data".ljust(64, b".")


@asynccontextmanager
async def client(lab: Lab, guest: str) -> AsyncIterator[FrontendDevice]:
    """Give a connection to the manager as a vTPM has it."""
    async with open_frontend(lab.manager_socket, uuid=lab.uuid(guest)) as device:
        yield device


async def save(device: FrontendDevice) -> None:
    with trio.fail_after(LIMIT_S):
        decode_save_hash_key_response(await device.transact(encode_save_hash_key(SAVED), 0))


async def load(device: FrontendDevice) -> bytes:
    with trio.fail_after(LIMIT_S):
        return decode_load_hash_key_response(await device.transact(encode_load_hash_key(), 0))
    raise AssertionError("unreachable")


def guest_file(lab: Lab, guest: str) -> Path:
    return lab.etc / "guests.d" / f"{guest}.toml"


async def test_a_guest_keeps_answering_through_reloads_of_all_its_daemons(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        front = Daemon(
            "tpmfront",
            lab.run,
            (
                *("--config", str(lab.etc), "--guest", "g1", "--loglevel", "debug"),
                *("--tpm", str(lab.run / "tpm.sock"), "--backend", str(lab.run / "g1.sock")),
            ),
        )
        async with lab.vtpm("g1", "--config", str(lab.etc), "--guest", "g1") as vtpm:
            await front.start()
            try:
                await front.wait_ready()
                stream = await trio.open_unix_socket(lab.run / "tpm.sock")
                answered = 0

                async def work() -> None:
                    nonlocal answered
                    while True:
                        await stream.send_all(PCR_READ)
                        response = b""
                        while len(response) < len(PCR_VALUE):
                            response += await stream.receive_some(4096)
                        assert response == PCR_VALUE
                        answered += 1

                async with stream, trio.open_nursery() as nursery:
                    nursery.start_soon(work)
                    for _ in range(RELOADS):
                        for daemon in (lab.manager, vtpm, front):
                            before = answered
                            await daemon.reload()
                            with trio.fail_after(LIMIT_S):
                                while answered == before:
                                    await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
                status = await vtpm.control("status")
                assert status["manager_connected"] is True
            finally:
                assert await front.stop() == 0
        assert lab.manager.stderr().count("vTPM connected") == 1
        assert vtpm.stderr().count("manager connected") == 1
        assert vtpm.stderr().count("front connected") == 1
        for daemon in (lab.manager, vtpm, front):
            assert daemon.stderr().count("configuration read again") == RELOADS


async def test_a_reload_tells_the_supervisor_when_it_begins_and_when_it_is_over(
    run_dir: Path,
) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        lab.manager.signal(signal.SIGHUP)
        with trio.fail_after(LIMIT_S):
            while "RELOADING=1" not in (said := await lab.manager.notification()):
                pass
            assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", said)
            assert await lab.manager.notification() == "READY=1"


async def test_a_guest_that_is_added_is_admitted_and_one_that_is_removed_is_not(
    run_dir: Path,
) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with client(lab, "g1") as stays, client(lab, "g2") as goes:
            await save(stays)
            await save(goes)
            with pytest.raises(BackendRefused, match="may not be vTPM"):
                async with client(lab, "g10"):
                    pass
            lab.configure("g10")
            guest_file(lab, "g2").unlink()
            await lab.manager.reload()
            async with client(lab, "g10") as new:
                await save(new)
                assert await load(new) == SAVED
            with pytest.raises(BackendLost):
                await load(goes)
            with pytest.raises(BackendRefused, match="may not be vTPM"):
                async with client(lab, "g2"):
                    pass
            assert await load(stays) == SAVED
        # Its keys are kept: a guest that returns finds its TPM.
        lab.configure("g2")
        await lab.manager.reload()
        async with client(lab, "g2") as returned:
            assert await load(returned) == SAVED


async def test_a_guest_whose_uid_changes_is_disconnected(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with client(lab, "g1") as device:
            await save(device)
            path = guest_file(lab, "g1")
            path.write_text(re.sub(r"uid = \d+", "uid = 4711", path.read_text()))
            await lab.manager.reload()
            with pytest.raises(BackendLost):
                await load(device)
        assert "client disconnected" in lab.manager.stderr()


async def test_another_group_counts_from_the_next_request_on(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with client(lab, "g1") as device:
            await save(device)
            lab.configure("g1", "group = 7")
            await lab.manager.reload()
            with pytest.raises(ManagerRefused):
                await load(device)
            lab.configure("g1")
            await lab.manager.reload()
            assert await load(device) == SAVED


async def test_files_with_mistakes_change_nothing_and_all_mistakes_are_told(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with client(lab, "g1") as device:
            await save(device)
            lab.configure("g10")
            guest_file(lab, "g1").unlink()
            lab.configure("g2", "gruop = 1", "admin = 1")
            (lab.etc / "vtpm.toml").write_text("[manager]\nshared_uid = true\nlocality = 9\n")
            mistakes = (
                "manager.locality: must be a number from 0 to 4, not 9",
                "gruop: unknown key; did you mean group?",
                "admin: must be true or false, not 1",
            )
            control = lab.run / "control.sock"
            await lab.manager.reload()
            with pytest.raises(DaemonError) as caught:
                await control_request(control, "reload")
            assert len(str(caught.value).splitlines()) == len(mistakes)
            for mistake in mistakes:
                assert mistake in str(caught.value)
                assert lab.manager.stderr().count(mistake) == 2
            assert await load(device) == SAVED
            with pytest.raises(BackendRefused):
                async with client(lab, "g10"):
                    pass
            (lab.etc / "vtpm.toml").write_text("[manager]\nshared_uid = true\nlocality = 3\n")
            lab.configure("g2")
            lab.configure("g1")
            assert await control_request(control, "reload") == {"at_next_start": ["locality"]}
            async with client(lab, "g10"):
                pass
            assert await load(device) == SAVED


async def test_the_manager_starts_without_a_guest_whose_file_has_mistakes(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        lab.configure("g2", "gruop = 1")
        await lab.start_machine()
        assert "guest left out" in lab.manager.stderr()
        assert "gruop: unknown key" in lab.manager.stderr()
        async with client(lab, "g1") as device:
            await save(device)
        with pytest.raises(BackendRefused):
            async with client(lab, "g2"):
                pass


async def test_a_vtpm_takes_up_localities_for_fronts_that_are_connected(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        options = ("--config", str(lab.etc), "--guest", "g1")
        async with lab.vtpm("g1", *options) as vtpm, vtpm.front() as front:
            assert await front.transact(PCR_READ, 3) == PCR_VALUE
            lab.configure("g1", 'localities = ["*=0,1"]', 'startup = "save"')
            await vtpm.reload()
            assert await front.transact(PCR_READ, 3) == error_response(ReturnCode.FAIL)
            assert await front.transact(PCR_READ, 1) == PCR_VALUE
            assert "counts at the next start only keys=startup" in vtpm.stderr()
            lab.configure("g1", 'localities = ["*=oops"]')
            await vtpm.reload()
            assert await front.transact(PCR_READ, 3) == error_response(ReturnCode.FAIL)
            assert "'*=oops' is not <label>=<n>[,<n>...]" in vtpm.stderr()
            lab.configure("g1")
            await vtpm.reload()
            assert await front.transact(PCR_READ, 3) == PCR_VALUE


async def test_what_a_command_line_says_counts_before_the_files_at_a_reload_too(
    run_dir: Path,
) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        lab.configure("g1", 'localities = ["*=0"]')
        options = ("--config", str(lab.etc), "--guest", "g1", "--locality", "*=1")
        async with lab.vtpm("g1", *options) as vtpm, vtpm.front() as front:
            for _ in range(2):
                assert await front.transact(PCR_READ, 0) == error_response(ReturnCode.FAIL)
                assert await front.transact(PCR_READ, 1) == PCR_VALUE
                await vtpm.reload()


async def test_the_level_of_every_log_can_change(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        lab.tis.mkdir()
        hwtpm = Daemon(
            "hwtpm",
            lab.run,
            (*lab.hwtpm._arguments, "--config", str(lab.etc)),
        )
        (lab.etc / "vtpm.toml").write_text('[hwtpm]\nloglevel = "error"\n')
        await hwtpm.start()
        try:
            await hwtpm.wait_ready()
            await hwtpm.reload()
            assert hwtpm.stderr() == ""
            (lab.etc / "vtpm.toml").write_text('[hwtpm]\nloglevel = "info"\n')
            await hwtpm.reload()
            assert "configuration read again" in hwtpm.stderr()
        finally:
            assert await hwtpm.stop() == 0


async def test_daemons_refuse_to_start_with_mistakes_and_say_all_of_them(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        (lab.etc / "vtpm.toml").write_text("[vtpm]\nek = 1\n[hwtpm]\nkey_pool = -1\n")
        lab.configure("g1", "uuidd = 1")
        said = await lab.refused("g1", "--config", str(lab.etc), "--guest", "g1")
        for mistake in ("vtpm.ek: must be", "hwtpm.key_pool: must be", "uuidd: unknown key"):
            assert mistake in said
        for daemon in (
            Daemon("hwtpm", lab.run, (*lab.hwtpm._arguments, "--config", str(lab.etc))),
            Daemon("vtpmmgr", lab.run, lab.manager._arguments),
        ):
            await daemon.start()
            assert await daemon.wait_end() == 3
            assert "vtpm.ek: must be" in daemon.stderr()
        assert not (run_dir / "mgr").exists()


async def test_what_is_asked_of_a_daemon_that_still_starts_is_done_once_it_serves(
    run_dir: Path,
) -> None:
    async with open_lab(run_dir) as lab:
        vtpm = lab.new_vtpm("g1", "--config", str(lab.etc), "--guest", "g1")
        await vtpm.start()
        control = lab.run / "g1.ctl"
        with trio.fail_after(LIMIT_S):
            await vtpm.wait_notified("waiting for the manager")  # it listens, and waits
        assert await control_request(control, "reload") == {"at_next_start": [], "pending": True}
        vtpm.signal(signal.SIGHUP)
        lab.configure("g1", 'localities = ["*=1"]')
        await lab.start_machine()
        await vtpm.wait_ready()
        with trio.fail_after(LIMIT_S):
            await vtpm.wait_notified("RELOADING=1")
            await vtpm.wait_notified("READY=1")
        async with vtpm.front() as front:
            assert await front.transact(PCR_READ, 0) == error_response(ReturnCode.FAIL)
            assert await front.transact(PCR_READ, 1) == PCR_VALUE
        assert await vtpm.stop() == 0
