# SPDX-License-Identifier: Apache-2.0
"""Older copies of the manager's database, of a guest's image, and of both, brought back by somebody
with the disk in his hands."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from protocol.tpm12.constants import NvAttributes
from tests.integration.operators import configure
from tests.integration.stack import VTPMCTL, running_stack
from tests.integration.test_manager_process import (
    expect_refusal,
    guest_of,
    loaded,
    saved,
    start_manager,
    value,
)
from tests.integration.vtpm_lab import Lab, Vtpm, open_lab
from tpmcore import tss12

NV_INDEX: Final = 0x10000
BIND_INTERVAL_S: Final = 5.0
COUNTER: Final = '[manager]\nshared_uid = true\nfreshness = "counter"\n'


class Disk:
    """The state folders of a lab, and copies of them."""

    def __init__(self, lab: Lab) -> None:
        self._root = lab.root

    def copy(self, folder: str, name: str) -> None:
        """Keep a copy of a folder as it is."""
        shutil.copytree(self._root / folder, self._root / f"copy-{name}")

    def bring(self, folder: str, name: str) -> None:
        """Put a copy in the place of a folder."""
        shutil.rmtree(self._root / folder)
        shutil.copytree(self._root / f"copy-{name}", self._root / folder)


async def write(vtpm: Vtpm, text: bytes) -> None:
    await vtpm.run(tss12.nv_write_value(NV_INDEX, text))


async def read(lab: Lab) -> bytes:
    async with lab.vtpm() as vtpm:
        return await vtpm.run(tss12.nv_read_value(NV_INDEX, 3))


async def test_an_older_database_is_refused_and_the_newest_one_loses_nothing(
    run_dir: Path,
) -> None:
    async with open_lab(run_dir) as lab:
        disk = Disk(lab)
        await lab.start_machine()
        await saved(lab, "one")
        await lab.manager.stop()
        disk.copy("mgr", "one")
        await start_manager(lab)
        await saved(lab, "two")
        await lab.manager.kill()
        disk.copy("mgr", "two")
        disk.bring("mgr", "one")
        await expect_refusal(lab, "the database is an older copy: it has sequence")
        disk.bring("mgr", "two")
        await start_manager(lab)
        assert await loaded(lab) == value("two")


async def test_an_older_image_is_refused_and_the_newest_one_loses_nothing(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        disk = Disk(lab)
        await lab.start_machine()
        async with lab.vtpm() as vtpm:
            await vtpm.run(tss12.nv_define_space(NV_INDEX, 3, NvAttributes.PPWRITE))
            await write(vtpm, b"one")
        disk.copy("g1", "one")
        async with lab.vtpm() as vtpm:
            await write(vtpm, b"two")
            await write(vtpm, b"3rd")
        disk.copy("g1", "3rd")
        disk.bring("g1", "one")
        said = await lab.refused()
        assert "g1" in said
        disk.bring("g1", "3rd")
        assert await read(lab) == b"3rd"


async def test_an_older_database_and_the_older_image_that_fits_it_are_refused(
    run_dir: Path,
) -> None:
    async with open_lab(run_dir) as lab:
        disk = Disk(lab)
        await lab.start_machine()
        async with lab.vtpm() as vtpm:
            await vtpm.run(tss12.nv_define_space(NV_INDEX, 3, NvAttributes.PPWRITE))
            await write(vtpm, b"one")
        await lab.manager.stop()
        for folder in ("mgr", "g1"):
            disk.copy(folder, f"{folder}-one")
        await start_manager(lab)
        async with lab.vtpm() as vtpm:
            await write(vtpm, b"two")
        await lab.manager.stop()
        for folder in ("mgr", "g1"):
            disk.copy(folder, f"{folder}-two")
            disk.bring(folder, f"{folder}-one")
        await expect_refusal(lab, "the database is an older copy")
        for folder in ("mgr", "g1"):
            disk.bring(folder, f"{folder}-two")
        await start_manager(lab)
        assert await read(lab) == b"two"


async def test_two_histories_are_not_both_accepted(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        disk = Disk(lab)
        await lab.start_machine()
        await saved(lab, "base")
        await lab.manager.stop()
        disk.copy("mgr", "base")
        await start_manager(lab)
        await saved(lab, "first")
        await lab.manager.stop()
        disk.copy("mgr", "first")
        # the older copy is refused, so a second history takes the owner's order
        disk.bring("mgr", "base")
        await expect_refusal(lab, "an older copy")
        lab.manager._arguments += ("--accept-rollback",)
        await lab.manager.start()
        assert await lab.manager.wait_end() == 0
        lab.manager._arguments = lab.manager._arguments[:-1]
        await start_manager(lab)
        await saved(lab, "second")
        await lab.manager.stop()
        disk.copy("mgr", "second")
        disk.bring("mgr", "first")
        await expect_refusal(lab, "the database")
        disk.bring("mgr", "second")
        await start_manager(lab)
        assert await loaded(lab) == value("second")


async def test_the_counter_notices_what_is_older_than_the_last_binding(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        (lab.etc / "vtpm.toml").write_text(COUNTER)
        disk = Disk(lab)
        await lab.start_machine()
        await saved(lab, "one")
        await lab.manager.stop()  # binds
        disk.copy("mgr", "one")
        await start_manager(lab)  # binds
        await saved(lab, "two")
        await lab.manager.stop()
        disk.copy("mgr", "two")
        disk.bring("mgr", "one")
        await expect_refusal(lab, "the database is an older copy: with sequence")
        disk.bring("mgr", "two")
        await start_manager(lab)
        assert await loaded(lab) == value("two")


async def test_the_counter_does_not_notice_what_is_younger_than_that(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        (lab.etc / "vtpm.toml").write_text(COUNTER)
        disk = Disk(lab)
        await lab.start_machine()
        for attempt in range(10):
            began = time.monotonic()
            async with guest_of(lab) as guest:
                await guest.save(value("one"))
                disk.copy("mgr", f"snapshot-{attempt}")  # while it runs
                await guest.save(value("two"))
            await lab.manager.kill()
            took_s = time.monotonic() - began
            disk.copy("mgr", f"two-{attempt}")
            disk.bring("mgr", f"snapshot-{attempt}")
            if took_s < BIND_INTERVAL_S:
                break
            # the counter may have been incremented in between: once more
            disk.bring("mgr", f"two-{attempt}")
            await start_manager(lab)
        await start_manager(lab)
        assert await loaded(lab) == value("one")


def test_an_operator_who_lost_the_newest_database_goes_on_with_an_older_one(
    run_dir: Path,
) -> None:
    configure(run_dir, "g1")
    secret = run_dir / "owner"
    secret.write_text(f"hash:{'5a' * 20}\n")
    options = ("--ek", "none", "--owner-auth", f"file:{secret}")
    state = run_dir / "state" / "vtpmmgr"
    with running_stack(run_dir, ("g1",), options) as stack:
        assert "stop vtpmctl up first" in rollback(run_dir, secret, "--yes", "1").stderr
        stack.vtpmctl("vtpm", "new")
    assert "nothing to accept" in rollback(run_dir, secret, "--yes", "1").stderr
    shutil.copytree(state, run_dir / "older")
    with running_stack(run_dir, ("g1",), options) as stack:
        stack.vtpmctl("vtpm", "new")
        newest = json.loads(stack.vtpmctl("manager", "status", "--json"))["sequence"]
    shutil.rmtree(state)
    shutil.copytree(run_dir / "older", state)
    before = {path.name: path.read_bytes() for path in state.iterdir()}

    done = rollback(run_dir, secret)
    assert (done.returncode, "say --yes" in done.stderr) == (2, True)
    sequence = done.stderr.rsplit("--yes ", 1)[1].split()[0]
    assert f"database      {sequence}" in done.stdout
    assert f"hardware TPM  {newest}" in done.stdout
    wrong = run_dir / "wrong"
    wrong.write_text("well-known\n")
    refused = rollback(run_dir, wrong, "--yes", sequence)
    assert (refused.returncode, "the owner's secret is not" in refused.stderr) == (1, True)
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before

    done = rollback(run_dir, secret, "--yes", sequence)
    assert done.returncode == 0, done.stderr
    assert f"rollback accepted sequence={int(sequence) + 1}" in done.stderr
    assert ("5a" * 20) not in done.stdout + done.stderr
    with running_stack(run_dir, ("g1",), options) as stack:
        assert stack.transact("g1", bytes.fromhex("00c1 0000000e 00000015 00000005"))[
            6:10
        ] == bytes(4)
    chip = run_dir / "state" / "hwtpm" / "chip.state"
    chip.write_bytes(chip.read_bytes()[:-1])
    failed = rollback(run_dir, secret, "--yes", sequence)
    assert "daemons.hwtpm ended with 3; the reason is above" in failed.stderr
    assert "Traceback" not in failed.stderr


def rollback(root: Path, secret: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process: it starts daemons of its own."""
    return subprocess.run(
        [
            *(*VTPMCTL, "manager", "accept-rollback", "--dir", str(root)),
            *("--owner-auth", f"file:{secret}", *words),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
