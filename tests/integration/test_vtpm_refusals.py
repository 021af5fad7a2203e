# SPDX-License-Identifier: Apache-2.0
"""What a vtpm does not start from, and what does not stop it: tampering, a full disk, strangers."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from protocol.tpm12 import Ordinal, Tag, build_message, parse_header
from protocol.tpm12.constants import NvAttributes
from protocol.tpmif.errors import BackendRefused
from protocol.tpmif.unix import open_frontend
from tests.integration.vtpm_lab import READY_LIMIT_S, Lab, Vtpm, open_lab
from tpmcore import tss12
from tpmcore.errors import TpmError

NV_INDEX = 0x10000
PCR_READ = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, bytes(4))


@pytest.fixture
async def lab(run_dir: Path) -> AsyncIterator[Lab]:
    """A running chip and manager."""
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        yield lab


async def _two_images(lab: Lab, guest: str = "g1") -> None:
    """Leave a guest with both slots in use."""
    async with lab.vtpm(guest) as vtpm:
        await vtpm.run(tss12.nv_define_space(NV_INDEX, 4, NvAttributes.PPWRITE))
        await vtpm.run(tss12.nv_write_value(NV_INDEX, b"good"))
    assert len(vtpm.slots()) == 2


def _flip(slot: bytes) -> bytes:
    return slot[:100] + bytes([slot[100] ^ 1]) + slot[101:]


async def test_damaged_images_are_refused_and_left_as_they_are(lab: Lab) -> None:
    damages: list[tuple[Callable[[bytes], bytes], str]] = [
        (_flip, "changed or not the last one"),
        (lambda slot: slot[:-1], "truncated"),
        (lambda slot: slot + b"x", "too long"),
        (lambda slot: b"", "0 bytes"),
        (lambda slot: b"garbage" * 100, "magic"),
    ]
    await _two_images(lab)
    vtpm = lab.new_vtpm()
    good = vtpm.slots()
    for damage, complaint in damages:
        bad = {name: damage(slot) for name, slot in good.items()}
        for name, slot in bad.items():
            (vtpm.guest_folder / name).write_bytes(slot)
        said = await lab.refused()
        assert complaint in said
        assert str(vtpm.uuid) in said
        assert vtpm.slots() == bad
    for name, slot in good.items():
        (vtpm.guest_folder / name).write_bytes(slot)
    async with lab.vtpm() as vtpm:
        assert await vtpm.run(tss12.nv_read_value(NV_INDEX, 4)) == b"good"


async def test_older_images_are_refused(lab: Lab) -> None:
    await _two_images(lab)
    old = lab.new_vtpm().slots()
    async with lab.vtpm() as vtpm:
        await vtpm.run(tss12.nv_write_value(NV_INDEX, b"new1"))
        await vtpm.run(tss12.nv_write_value(NV_INDEX, b"new2"))
    for name, slot in old.items():
        (vtpm.guest_folder / name).write_bytes(slot)
    assert "not the last one" in await lab.refused()
    assert vtpm.slots() == old


async def test_the_images_of_another_guest_are_refused(lab: Lab) -> None:
    await _two_images(lab, "g1")
    await _two_images(lab, "g2")
    for name, slot in lab.new_vtpm("g2").slots().items():
        (lab.state("g1") / name).write_bytes(slot)
    said = await lab.refused("g1")
    assert f"belongs to vTPM {lab.uuid('g2')}" in said


async def test_images_that_the_manager_does_not_know_are_refused(lab: Lab) -> None:
    await _two_images(lab, "g1")
    shutil.copytree(lab.state("g1"), lab.state("g3"))
    said = await lab.refused("g3")
    assert "does not know this uuid" in said
    assert len(lab.new_vtpm("g3").slots()) == 2


async def test_a_guest_whose_images_are_gone_is_not_replaced_by_a_fresh_one(lab: Lab) -> None:
    await _two_images(lab)
    for path in lab.state("g1").glob("slot*"):
        path.unlink()
    assert "slot0 is missing; slot1 is missing" in await lab.refused()
    assert lab.new_vtpm().slots() == {}


async def test_a_state_folder_is_used_by_one_process(lab: Lab) -> None:
    async with lab.vtpm():
        assert "in use by another process" in await lab.refused()


async def test_a_vtpm_that_is_open_is_not_opened_again(lab: Lab) -> None:
    async with lab.vtpm() as vtpm:
        shutil.copytree(lab.state("g1"), lab.root / "copy", ignore=shutil.ignore_patterns(".lock"))
        copy = ("--state", str(lab.root / "copy"), "--socket", str(lab.run / "copy.sock"))
        said = await lab.refused("g1", *copy, "--control", str(lab.run / "copy.ctl"))
        assert "open" in said
        assert parse_header(await vtpm.send(PCR_READ)).code == 0


async def test_a_uuid_that_is_not_ours_is_not_served_by_the_manager(lab: Lab) -> None:
    stranger = "99999999-9999-4999-8999-999999999999"
    assert "does not admit" in await lab.refused("g1", "--uuid", stranger)
    assert lab.new_vtpm().slots() == {}


async def test_a_front_that_asks_for_another_vtpm_is_refused(lab: Lab) -> None:
    async with lab.vtpm() as vtpm:
        socket_path = lab.run / "g1.sock"
        with pytest.raises(BackendRefused):
            async with open_frontend(socket_path, uuid=lab.uuid("g2")):
                pass
        assert parse_header(await vtpm.send(PCR_READ)).code == 0


async def test_a_full_disk_fails_the_command_and_nothing_else(lab: Lab) -> None:
    async with lab.vtpm() as vtpm:
        await vtpm.run(tss12.nv_define_space(NV_INDEX, 4, NvAttributes.PPWRITE))
        await vtpm.run(tss12.nv_write_value(NV_INDEX, b"good"))
        _limit_files(vtpm, 100)
        for _ in range(3):
            with pytest.raises(TpmError):
                await vtpm.run(tss12.nv_write_value(NV_INDEX, b"bad!"))
            assert await vtpm.run(tss12.nv_read_value(NV_INDEX, 4)) == b"good"
            value = await vtpm.run(tss12.extend(4, b"\x11" * 20))
        _limit_files(vtpm, resource.RLIM_INFINITY)
        assert await vtpm.run(tss12.pcr_read(4)) == value
        await vtpm.run(tss12.nv_write_value(NV_INDEX, b"next"))
    async with lab.vtpm() as vtpm:
        assert await vtpm.run(tss12.nv_read_value(NV_INDEX, 4)) == b"next"


def _limit_files(vtpm: Vtpm, size_bytes: int) -> None:
    """Let no file of a process grow beyond a size: as a full disk, but for this process only."""
    hard = resource.prlimit(vtpm.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(vtpm.pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


async def test_localities_are_held_to_the_mask(lab: Lab) -> None:
    async with lab.vtpm("g1", "--locality", f"uid:{os.geteuid()}=0,2") as vtpm:
        assert parse_header(await vtpm.send(PCR_READ, 2)).code == 0
        assert parse_header(await vtpm.send(PCR_READ, 1)).code == 9


REQUESTS = {
    "": 0x19,
    "00c1": 0x19,
    "00c1 ffffffff 00000015 00000000": 0x19,
    "00c1 0000000e 00000015 00000018": 2,  # PCR 24
    "00c1 0000000a 0000002c": 10,  # maintenance, off
    "01c1 0000000e 00000015 00000011": 0,  # PCR 17 of the hardware TPM
    "01c1 0000000a 00000002": 8,  # not LOADHASHKEY: an ordinal that does not pass
    "01c2 0000000a 02000101": 1,  # GROUP_LIST without the right
}


async def test_what_a_guest_may_send_is_answered(lab: Lab) -> None:
    async with lab.vtpm() as vtpm:
        for command, code in REQUESTS.items():
            response = await vtpm.send(bytes.fromhex(command))
            assert parse_header(response).code == code, command
        assert parse_header(await vtpm.send(PCR_READ)).code == 0


async def test_a_flooding_front_does_not_starve_another_one(lab: Lab) -> None:
    async with lab.vtpm() as vtpm, trio.open_nursery() as nursery:
        nursery.start_soon(_flood, vtpm)
        nursery.start_soon(_flood, vtpm)
        async with vtpm.front() as device:
            with trio.fail_after(READY_LIMIT_S):
                for _ in range(50):
                    assert parse_header(await device.transact(PCR_READ, 0)).code == 0
        nursery.cancel_scope.cancel()


async def _flood(vtpm: Vtpm) -> None:
    async with vtpm.front() as device:
        while True:
            await device.transact(PCR_READ, 0)
