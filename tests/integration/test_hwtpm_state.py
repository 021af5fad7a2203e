# SPDX-License-Identifier: Apache-2.0
"""What the real `hwtpm` keeps over kills, stops and power cycles, and what it refuses."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemons.hwtpm.filenames import STATE_NAME
from daemons.hwtpm.firmware import LOST_MEMORY_DIGEST
from daemons.hwtpm.store import encode_record
from daemons.runtime.volatile import VolatileMemory
from protocol.tis.driver import TisError, TisOptions, open_tis
from protocol.tis.registers import Register
from tests.integration.hwtpm_process import (
    ChipProcess,
    command,
    extend,
    nv_define,
    nv_read,
    nv_write,
    pcr_read,
    return_code,
    volatile_memory,
)

DIGEST = hashlib.sha1(b"measured").digest()
ZERO = bytes(20)
EXTENDED = hashlib.sha1(ZERO + DIGEST).digest()
CAPPED = hashlib.sha1(ZERO + LOST_MEMORY_DIGEST).digest()
OIAP = command(0x0A)
REFUSED = 3
NV_INDEX = 0x00010000
INVALID_POSTINIT, DEACTIVATED, FAILED_SELF_TEST = 0x26, 0x06, 0x1C


def terminate(handle: bytes) -> bytes:
    """Return TPM_Terminate_Handle, which succeeds once for a session that is there."""
    return command(0x96, handle)


@pytest.fixture
def memory() -> Iterator[int]:
    """What a supervisor keeps for the chip."""
    fd = volatile_memory()
    yield fd
    os.close(fd)


# --- kills, stops, power cycles -------------------------------------------------------------------


def test_a_killed_chip_goes_on_exactly_where_it_was(run_dir: Path, memory: int) -> None:
    with ChipProcess(run_dir, memory=memory) as chip:
        assert return_code(chip.tpm(extend(10, DIGEST))) == 0
        session = chip.tpm(OIAP)
        assert return_code(session) == 0
        chip.kill()
    with ChipProcess(run_dir, memory=memory) as chip:
        assert pcr_read(chip, 10) == EXTENDED
        assert pcr_read(chip, 0) == ZERO
        assert return_code(chip.tpm(terminate(session[10:14]))) == 0
        assert return_code(chip.tpm(terminate(session[10:14]))) != 0


def test_a_chip_killed_without_anybody_keeping_its_memory_caps_the_pcrs(run_dir: Path) -> None:
    with ChipProcess(run_dir) as chip:
        chip.tpm(extend(10, DIGEST))
        chip.kill()
    with ChipProcess(run_dir) as chip:
        assert [pcr_read(chip, index) for index in (0, 7, 8, 10)] == [CAPPED, CAPPED, ZERO, ZERO]
        assert "capped" in chip.stderr()
        chip.control("power-cycle")
        assert pcr_read(chip, 0) == ZERO


def test_an_orderly_stop_is_a_power_off(run_dir: Path) -> None:
    with ChipProcess(run_dir) as chip:
        chip.tpm(extend(10, DIGEST))
        assert chip.stop() == 0
    with ChipProcess(run_dir) as chip:
        assert [pcr_read(chip, index) for index in (0, 10)] == [ZERO, ZERO]


def test_an_empty_memory_from_the_supervisor_is_a_power_on(run_dir: Path, memory: int) -> None:
    with ChipProcess(run_dir) as chip:
        chip.kill()
    with ChipProcess(run_dir, memory=memory) as chip:
        assert pcr_read(chip, 0) == ZERO


def test_a_memory_that_does_not_decode_is_a_lost_one(run_dir: Path, memory: int) -> None:
    with ChipProcess(run_dir) as chip:
        assert chip.stop() == 0
    VolatileMemory.adopt(os.dup(memory)).store(b"no volatile state")
    with ChipProcess(run_dir, memory=memory) as chip:
        assert pcr_read(chip, 0) == CAPPED
        assert "does not decode" in chip.stderr()


def test_a_descriptor_that_is_no_memory_is_not_used(run_dir: Path) -> None:
    with (run_dir / "file").open("wb") as file, ChipProcess(run_dir, memory=file.fileno()) as chip:
        assert pcr_read(chip, 0) == ZERO
        assert "cannot be used" in chip.stderr()


def test_a_power_cycle_resets_pcrs_and_sessions_and_keeps_nv(run_dir: Path, memory: int) -> None:
    with ChipProcess(run_dir, memory=memory) as chip:
        chip.tpm(extend(10, DIGEST))
        session = chip.tpm(OIAP)
        assert return_code(chip.tpm(nv_define(NV_INDEX, 8))) == 0
        assert return_code(chip.tpm(nv_write(NV_INDEX, b"keep me!"))) == 0
        with chip.page(2) as page:
            page.w(Register.ACCESS, 0x02)
            assert page.access() == 0xA1
            assert chip.control("power-cycle") == {"ok": True, "result": {}}
            assert page.is_disconnected()
        assert chip.control("status")["result"]["active_locality"] is None
        assert pcr_read(chip, 10) == ZERO
        assert return_code(chip.tpm(terminate(session[10:14]))) != 0
        assert chip.tpm(nv_read(NV_INDEX, 8))[14:] == b"keep me!"
        chip.kill()
    with ChipProcess(run_dir, memory=memory) as chip:
        assert pcr_read(chip, 10) == ZERO


def test_nothing_acknowledged_is_lost_by_kills_at_any_moment(run_dir: Path, memory: int) -> None:
    """The kill comes right behind tpmGo and a number of further accesses, a new one each round."""
    with ChipProcess(run_dir, memory=memory) as chip:
        assert return_code(chip.tpm(nv_define(NV_INDEX, 4))) == 0
        assert return_code(chip.tpm(nv_write(NV_INDEX, bytes(4)))) == 0
        chip.kill()
    value, pcr = 0, ZERO
    for round_number in range(12):
        with ChipProcess(run_dir, memory=memory) as chip:
            held = int.from_bytes(chip.tpm(nv_read(NV_INDEX, 4))[14:], "big")
            assert held in (value, value + 1)
            value = held
            next_pcr = hashlib.sha1(pcr + DIGEST).digest()
            found = pcr_read(chip, 10)
            assert found in (pcr, next_pcr)
            pcr = found
            with chip.page(0) as page:
                for _ in range(round_number % 3):
                    value += 1
                    assert return_code(page.run(nv_write(NV_INDEX, value.to_bytes(4, "big")))) == 0
                    assert return_code(page.run(extend(10, DIGEST))) == 0
                    pcr = hashlib.sha1(pcr + DIGEST).digest()
                # Odd rounds die in an NV write, even ones in an Extend.
                last = (
                    nv_write(NV_INDEX, (value + 1).to_bytes(4, "big"))
                    if round_number % 2
                    else extend(10, DIGEST)
                )
                page.w(Register.ACCESS, 0x02)
                page.w(Register.STS, 0x40)
                page.put(last)
                page.w(Register.STS, 0x20)
                for _ in range(round_number):
                    page.sts()
                chip.kill()


def test_the_chip_is_the_same_after_a_restart(run_dir: Path) -> None:
    def read_pubek(chip: ChipProcess) -> bytes:
        response = chip.tpm(command(0x7C, bytes(20)))
        assert return_code(response) == 0
        return response[10:-20]  # without the checksum

    with ChipProcess(run_dir) as chip:
        first = read_pubek(chip)
        chip.stop()
    with ChipProcess(run_dir) as chip:
        assert read_pubek(chip) == first
        assert len(first) > 256


@pytest.fixture(scope="module")
def whole_state(module_dir: Path) -> bytes:
    """The state file of a chip that was stopped in order."""
    with ChipProcess(module_dir) as chip:
        assert chip.stop() == 0
    return (module_dir / "state" / STATE_NAME).read_bytes()


# --- refusals -------------------------------------------------------------------------------------


def _flip(offset: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[offset] ^= 0x80
        return bytes(changed)

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: b"", "truncated"),
        (lambda data: data[:20], "truncated"),
        (lambda data: data[:-1], "length does not match"),
        (lambda data: data + b"\0", "length does not match"),
        (_flip(0), "magic does not match"),
        (_flip(8), "format version"),
        (_flip(13), "length does not match"),
        (_flip(20), "digest of the state does not match"),
        (_flip(60), "digest of the state does not match"),
        (lambda data: encode_record(data[48:-2]), "the state does not decode"),
        (lambda data: encode_record(b""), "the state does not decode"),
    ],
)
def test_a_state_that_does_not_verify_is_refused_and_left_as_it_is(
    run_dir: Path, whole_state: bytes, change: Callable[[bytes], bytes], named: str
) -> None:
    path = run_dir / "state" / STATE_NAME
    path.parent.mkdir()
    damaged = change(whole_state)
    path.write_bytes(damaged)
    with ChipProcess(run_dir, expect_ready=False) as chip:
        assert chip.process.returncode == REFUSED
        assert named in chip.stderr()
        assert path.read_bytes() == damaged
        assert sorted(os.listdir(path.parent)) == [".lock", STATE_NAME]


def test_a_missing_state_beside_a_running_memory_is_refused(run_dir: Path, memory: int) -> None:
    with ChipProcess(run_dir, memory=memory) as chip:
        chip.kill()
    path = run_dir / "state" / STATE_NAME
    path.unlink()
    with ChipProcess(run_dir, memory=memory, expect_ready=False) as chip:
        assert chip.process.returncode == REFUSED
        assert "is missing" in chip.stderr()
    assert not path.exists()


def test_a_second_process_on_the_same_chip_is_refused_and_the_first_goes_on(
    run_dir: Path,
) -> None:
    with ChipProcess(run_dir) as first:
        with ChipProcess(run_dir, "--run", str(run_dir / "b"), expect_ready=False) as second:
            assert second.process.returncode == REFUSED
            assert "in use by another process" in second.stderr()
        assert return_code(first.tpm(command(0x15, bytes(4)))) == 0


# --- options --------------------------------------------------------------------------------------


def test_startup_none_leaves_the_tpm_to_its_software(run_dir: Path) -> None:
    with ChipProcess(run_dir, "--startup", "none") as chip:
        assert return_code(chip.tpm(command(0x15, bytes(4)))) == INVALID_POSTINIT
        assert return_code(chip.tpm(command(0x99, b"\x00\x01"))) == 0
        assert pcr_read(chip, 0) == ZERO


def test_startup_deactivated_deactivates(run_dir: Path) -> None:
    with ChipProcess(run_dir, "--startup", "deactivated") as chip:
        assert return_code(chip.tpm(command(0x46, bytes(4)))) == DEACTIVATED  # GetRandom


def test_startup_state_brings_back_what_was_saved(run_dir: Path) -> None:
    with ChipProcess(run_dir) as chip:
        chip.tpm(extend(10, DIGEST))
        assert return_code(chip.tpm(command(0x98))) == 0  # TPM_SaveState
        chip.stop()
    with ChipProcess(run_dir, "--startup", "state") as chip:
        assert pcr_read(chip, 10) == EXTENDED
        assert pcr_read(chip, 17) == b"\xff" * 20


def test_startup_state_without_a_saved_state_is_a_failure_that_software_can_see(
    run_dir: Path,
) -> None:
    with ChipProcess(run_dir, "--startup", "state") as chip:
        assert "did not start" in chip.stderr()
        assert return_code(chip.tpm(command(0x15, bytes(4)))) == FAILED_SELF_TEST


def test_physical_presence_is_a_signal_of_the_platform(run_dir: Path) -> None:
    with ChipProcess(run_dir) as chip:
        physical_disable = command(0x70)
        assert return_code(chip.tpm(physical_disable)) != 0
        reply = chip.control("physical-presence", asserted=True)
        assert reply == {"ok": True, "result": {"code": 0}}


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("format-disk", {}),
        ("power-cycle", {"now": True}),
        ("reset-establishment", {}),
        ("reset-establishment", {"locality": 5}),
        ("reset-establishment", {"locality": "4"}),
        ("physical-presence", {"asserted": 1}),
    ],
)
def test_a_control_request_that_makes_no_sense_is_refused(
    run_dir: Path, verb: str, args: dict[str, object]
) -> None:
    with ChipProcess(run_dir) as chip:
        chip.tpm(extend(10, DIGEST))
        assert chip.control(verb, **args)["ok"] is False
        assert pcr_read(chip, 10) == EXTENDED


def test_help_names_the_options_and_a_wrong_option_is_a_usage_error() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "daemons.hwtpm", *arguments], capture_output=True, text=True
        )

    shown = run("--help")
    assert shown.returncode == 0
    for option in ("--state", "--run", "--startup", "--socket-mode", "--loglevel"):
        assert option in shown.stdout
    assert run("--socket-mode", "5=600").returncode == 2
    assert run("--startup", "maybe").returncode == 2


# --- the driver against the real chip -------------------------------------------------------------


async def test_the_driver_finds_a_chip_that_was_killed_and_came_back(
    run_dir: Path, memory: int
) -> None:
    chip = ChipProcess(run_dir, memory=memory)
    try:
        async with open_tis(run_dir / "run", 2, TisOptions(reconnect_s=60)) as driver:
            generation = driver.generation
            assert return_code(await driver.transact(extend(10, DIGEST))) == 0
            chip.kill()
            chip = ChipProcess(run_dir, memory=memory)
            response = await driver.transact(command(0x15, (10).to_bytes(4, "big")))
            assert response[10:] == EXTENDED
            assert driver.generation > generation
    finally:
        chip.kill()


async def test_the_driver_notices_a_power_cycle(run_dir: Path) -> None:
    with ChipProcess(run_dir) as chip:
        async with open_tis(run_dir / "run", 2) as driver:
            generation = driver.generation
            await driver.transact(extend(10, DIGEST))
            chip.control("power-cycle")
            response = await driver.transact(command(0x15, (10).to_bytes(4, "big")))
            assert response[10:] == ZERO
            assert driver.generation == generation + 1


async def test_two_drivers_at_two_localities_share_the_chip(run_dir: Path) -> None:
    with ChipProcess(run_dir):
        async with (
            open_tis(run_dir / "run", 0) as low,
            open_tis(run_dir / "run", 2) as high,
        ):
            for _ in range(20):
                assert return_code(await low.transact(extend(16, DIGEST))) == 0
                assert return_code(await high.transact(extend(20, DIGEST))) == 0


async def test_the_driver_starts_a_chip_that_nobody_started(run_dir: Path) -> None:
    with ChipProcess(run_dir, "--startup", "none"):
        async with open_tis(run_dir / "run", 0) as driver:
            assert driver.timeouts.b_s == 2.0
            assert return_code(await driver.transact(extend(10, DIGEST))) == 0


async def test_a_chip_that_is_gone_is_an_error_that_says_that_nothing_ran(run_dir: Path) -> None:
    with ChipProcess(run_dir) as chip:
        async with open_tis(run_dir / "run", 2, TisOptions(reconnect_s=0.2)) as driver:
            chip.kill()
            with pytest.raises(TisError) as caught:
                await driver.transact(extend(10, DIGEST))
            assert caught.value.certain
