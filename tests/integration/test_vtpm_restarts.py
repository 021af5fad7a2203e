# SPDX-License-Identifier: Apache-2.0
"""A vtpm that is killed, stopped, reset, and whose manager dies: what its guest still finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from daemons.vtpm.volatility import CAP_DIGEST
from protocol.tpm12.constants import NvAttributes, ResourceType
from tests.integration.log_search import SEARCH
from tests.integration.vtpm_lab import READY_LIMIT_S, Vtpm, kept_memory, open_lab
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12

DIGEST = b"\x11" * 20
NV_INDEX = 0x10000
ZEROS = bytes(20)
OWNER_AUTH = SEARCH.secret(b"owner-secret-of-test")


async def _define(vtpm: Vtpm, size_bytes: int = 32, owner_auth: bytes | None = None) -> None:
    random = SeededRandom("define")
    conversation = tss12.nv_define_space(
        NV_INDEX, size_bytes, NvAttributes.PPWRITE, owner_auth=owner_auth, random=random
    )
    await vtpm.run(conversation)


async def _write(vtpm: Vtpm, data: bytes) -> None:
    await vtpm.run(tss12.nv_write_value(NV_INDEX, data))


async def _read(vtpm: Vtpm, size_bytes: int = 32) -> bytes:
    return await vtpm.run(tss12.nv_read_value(NV_INDEX, size_bytes))


async def test_a_killed_vtpm_goes_on_where_it_was(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        with kept_memory() as memory:
            async with lab.vtpm(memory=memory) as vtpm:
                await _define(vtpm)
                await _write(vtpm, b"a" * 32)
                value = await vtpm.run(tss12.extend(4, DIGEST))
                session = await vtpm.run(tss12.oiap())
                await vtpm.kill()
            async with lab.vtpm(memory=memory) as vtpm:
                assert await vtpm.run(tss12.pcr_read(4)) == value
                assert await _read(vtpm) == b"a" * 32
                assert session.handle in await vtpm.run(tss12.handles(ResourceType.AUTH))
                assert (await vtpm.control("status"))["origin"] == "resumed"


async def test_a_killed_vtpm_whose_memory_is_gone_shows_it_in_pcrs_0_to_7(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with lab.vtpm() as vtpm:
            await _define(vtpm)
            await _write(vtpm, b"a" * 32)
            await vtpm.run(tss12.extend(4, DIGEST))
            await vtpm.kill()
        async with lab.vtpm() as vtpm:
            expected = await _extended_once(vtpm)
            for index in range(8):
                assert await vtpm.run(tss12.pcr_read(index)) == expected
            assert await _read(vtpm) == b"a" * 32
        async with lab.vtpm() as vtpm:
            # An orderly stop and a start are a reboot of the guest.
            assert await vtpm.run(tss12.pcr_read(4)) == ZEROS


async def _extended_once(vtpm: Vtpm) -> bytes:
    """Return what a PCR holds that was extended with nothing but the capping digest."""
    return await vtpm.run(tss12.extend(16, CAP_DIGEST))


async def test_a_stopped_vtpm_starts_with_fresh_pcrs_and_everything_else(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with lab.vtpm() as vtpm:
            await _define(vtpm)
            await _write(vtpm, b"a" * 32)
            await vtpm.run(tss12.extend(4, DIGEST))
        async with lab.vtpm() as vtpm:
            assert await vtpm.run(tss12.pcr_read(4)) == ZEROS
            assert await _read(vtpm) == b"a" * 32


async def test_a_reset_of_the_guest_resets_its_pcrs_only(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with lab.vtpm("g1") as one, lab.vtpm("g2") as two:
            await one.run(tss12.extend(4, DIGEST))
            value = await two.run(tss12.extend(4, DIGEST))
            assert await one.control("reset") == {}
            assert await one.run(tss12.pcr_read(4)) == ZEROS
            assert await two.run(tss12.pcr_read(4)) == value


async def test_a_manager_that_dies_is_waited_for_and_nothing_is_lost(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with lab.vtpm() as vtpm:
            await _define(vtpm)
            await _write(vtpm, b"a" * 32)
            value = await vtpm.run(tss12.extend(4, DIGEST))
            await lab.manager.kill()
            # What needs no manager goes on ...
            assert await vtpm.run(tss12.pcr_read(4)) == value
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_write, vtpm, b"b" * 32)
                with trio.fail_after(READY_LIMIT_S):
                    await vtpm.wait_notified("waiting for the manager")
                # ... and what does waits.
                await lab.manager.start()
                await lab.manager.wait_ready()
            assert await _read(vtpm) == b"b" * 32
            await vtpm.kill()
        async with lab.vtpm() as vtpm:
            assert await _read(vtpm) == b"b" * 32


async def test_a_vtpm_waits_for_a_manager_that_comes_later(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        vtpm = lab.new_vtpm()
        await vtpm.start()
        with trio.fail_after(READY_LIMIT_S):
            await vtpm.wait_notified("waiting for the manager")
        assert (await vtpm.control("status"))["state"] == "starting"
        await lab.start_machine()
        await vtpm.wait_ready()
        assert await vtpm.run(tss12.pcr_read(4)) == ZEROS
        assert await vtpm.stop() == 0


async def test_a_stop_while_the_manager_is_away_ends_in_time(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with lab.vtpm() as vtpm:
            await _define(vtpm)
            await _write(vtpm, b"a" * 32)
            await lab.manager.kill()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_write_in_vain, vtpm)
                with trio.fail_after(READY_LIMIT_S):
                    await vtpm.wait_notified("waiting for the manager")
                    await vtpm.stop()
                nursery.cancel_scope.cancel()
        await lab.manager.start()
        await lab.manager.wait_ready()
        async with lab.vtpm() as vtpm:
            assert await _read(vtpm) in (b"a" * 32, b"b" * 32)


async def _write_in_vain(vtpm: Vtpm) -> None:
    with pytest.raises(Exception, match=r".*"):
        await _write(vtpm, b"b" * 32)


async def test_hardware_pcrs_are_taken_over_at_power_on(run_dir: Path) -> None:
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        async with lab.vtpm("g1", "--hwinitpcr", "19-17,16") as vtpm:
            assert await vtpm.run(tss12.pcr_read(17)) == b"\xff" * 20
            assert await vtpm.run(tss12.pcr_read(16)) == ZEROS


async def test_kills_at_random_moments_lose_nothing_that_was_acknowledged(run_dir: Path) -> None:
    random = SeededRandom("moments")
    async with open_lab(run_dir) as lab:
        await lab.start_machine()
        with kept_memory() as memory:
            async with lab.vtpm("g1", "--ek", "create", memory=memory) as vtpm:
                # Without an owner a TPM takes 64 NV writes in its life.
                owned = tss12.take_ownership(
                    owner_auth=OWNER_AUTH, srk_auth=OWNER_AUTH, random=random
                )
                await vtpm.run(owned)
                await _define(vtpm, 4, OWNER_AUTH)
                await _write(vtpm, bytes(4))
                await vtpm.kill()
            acknowledged = 0
            value = ZEROS
            for _ in range(8):
                async with lab.vtpm(memory=memory) as vtpm:
                    found = int.from_bytes(await _read(vtpm, 4), "big")
                    assert found in (acknowledged, acknowledged + 1)
                    acknowledged = found
                    assert await vtpm.run(tss12.pcr_read(4)) == value
                    value = await vtpm.run(tss12.extend(4, DIGEST))
                    async with trio.open_nursery() as nursery:
                        counted = _Count(acknowledged)
                        nursery.start_soon(_count, vtpm, counted)
                        await trio.sleep(0.05 + random.random(1)[0] / 1000)
                        os.kill(vtpm.pid, 9)
                        nursery.cancel_scope.cancel()
                    acknowledged = counted.value
                    await vtpm.kill()


class _Count:
    def __init__(self, value: int) -> None:
        self.value = value


async def _count(vtpm: Vtpm, count: _Count) -> None:
    async with vtpm.front() as device:

        async def send(command: bytes) -> bytes:
            return await device.transact(command, 0)

        while True:
            data = (count.value + 1).to_bytes(4, "big")
            await tss12.converse(send, tss12.nv_write_value(NV_INDEX, data))
            count.value += 1
