# SPDX-License-Identifier: Apache-2.0
"""The chip's work on its TPM: order, aborts, held accesses, power cycles."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio
import trio.testing

from daemons.hwtpm.chip import Chip
from daemons.runtime.config.values import ChipStartup
from daemons.runtime.log import Level, Log
from protocol.tis.machine import State
from protocol.tis.registers import Register
from tpmcore.engine import CapPcrs, Event, EventDone, HashData, HashEnd, HashStart, PowerOn

LOG = Log("hwtpm", level=Level.ERROR, sink=lambda line: None)
OK = bytes.fromhex("00c40000000a00000000")
SLOW = bytes.fromhex("00c10000000a00000001")
LIGHT = bytes.fromhex("00c10000000a00000002")


class FakeTpm:
    """Answers at once, but SLOW only when told to; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[bytes | Event] = []
        self.cancels = 0
        self.go_on = trio.Event()
        self.is_established = False
        # What was given in each `indivisible`.
        self.groups: list[list[bytes | Event]] = []
        self.busy = False

    async def execute(self, command: bytes, locality: int) -> bytes:
        assert not self.busy
        self.given.append(command)
        if command == SLOW:
            self.busy = True
            await self.go_on.wait()
            self.busy = False
        return OK

    async def handle(self, event: Event) -> EventDone:
        assert not self.busy
        self.given.append(event)
        self.is_established |= isinstance(event, HashStart)
        return EventDone(0)

    @contextmanager
    def indivisible(self) -> Iterator[None]:
        start = len(self.given)
        yield
        self.groups.append(self.given[start:])

    def cancel(self) -> None:
        self.cancels += 1


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Chip, FakeTpm]]:
    tpm = FakeTpm()
    chip = Chip(tpm, tpm, ChipStartup.CLEAR, LOG)
    await chip.power_on()
    tpm.given.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chip.run)
        yield chip, tpm
        nursery.cancel_scope.cancel()


def go(chip: Chip, locality: int, command: bytes) -> None:
    chip.write(locality, Register.ACCESS, b"\x02")
    chip.write(locality, Register.STS, b"\x40")
    chip.write_fifo(locality, command)
    chip.write(locality, Register.STS, b"\x20")


def sts(chip: Chip, locality: int) -> int:
    return chip.read(locality, Register.STS, 1)[0]


async def nothing() -> None:
    await trio.lowlevel.checkpoint()


async def test_registers_are_closed_until_the_firmware_is_through() -> None:
    tpm = FakeTpm()
    chip = Chip(tpm, tpm, ChipStartup.CLEAR, LOG)
    assert chip.read(0, Register.ACCESS, 1) == b"\x01"
    await chip.power_on()
    assert chip.read(0, Register.ACCESS, 1) == b"\x81"
    # First TPM_Startup with ST_CLEAR, then TPM_ContinueSelfTest.
    assert [bytes(c).hex() for c in tpm.given if isinstance(c, bytes)] == [
        "00c10000000c000000990001",
        "00c10000000a00000053",
    ]


async def test_without_startup_the_tpm_is_left_alone() -> None:
    tpm = FakeTpm()
    chip = Chip(tpm, tpm, ChipStartup.NONE, LOG)
    await chip.power_on()
    assert tpm.given == []
    assert chip.read(0, Register.ACCESS, 1) == b"\x81"


async def test_a_command_is_executed_and_its_response_shown() -> None:
    async with running() as (chip, tpm):
        go(chip, 1, LIGHT)
        await trio.testing.wait_all_tasks_blocked()
        assert tpm.given == [LIGHT]
        assert chip.read_fifo(1, 255) == OK


async def test_registers_are_answered_and_the_command_is_cancelled_while_it_runs() -> None:
    async with running() as (chip, tpm):
        go(chip, 1, SLOW)
        await trio.testing.wait_all_tasks_blocked()
        assert sts(chip, 1) == 0x00
        chip.write(1, Register.STS, b"\x40")
        assert tpm.cancels == 1
        assert sts(chip, 1) == 0x00
        tpm.go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sts(chip, 1) == 0x40
        assert chip.read_fifo(1, 255) == b""


async def test_a_command_aborted_before_the_tpm_saw_it_is_not_executed() -> None:
    async with running() as (chip, tpm):
        go(chip, 1, LIGHT)
        chip.write(1, Register.STS, b"\x40")
        await trio.testing.wait_all_tasks_blocked()
        assert tpm.given == []
        assert tpm.cancels == 0
        assert sts(chip, 1) == 0x40
        go(chip, 1, LIGHT)
        await trio.testing.wait_all_tasks_blocked()
        assert tpm.given == [LIGHT]


async def test_a_held_hash_command_goes_on_when_the_tpm_is_free() -> None:
    async with running() as (chip, tpm):
        go(chip, 4, SLOW)
        await trio.testing.wait_all_tasks_blocked()
        assert not chip.write(4, Register.HASH_START, b"\0")
        tpm.go_on.set()
        await chip.wait_idle()
        for offset, data in (
            (Register.HASH_START, b"\0"),
            (Register.DATA_FIFO, b"abc"),
            (Register.HASH_END, b"\0"),
        ):
            while not chip.write(4, offset, data):
                await chip.wait_idle()
        await chip.wait_idle()
        assert tpm.given == [SLOW, HashStart(), HashData(b"abc"), HashEnd()]
        assert chip.read(0, Register.ACCESS, 1) == b"\x80"


async def test_a_power_cycle_waits_for_the_tpm_and_resets_everything() -> None:
    async with running() as (chip, tpm):
        go(chip, 1, SLOW)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chip.power_cycle, nothing)
            await trio.testing.wait_all_tasks_blocked()
            assert tpm.cancels == 1
            assert chip.read(0, Register.ACCESS, 1) == b"\x01"
            chip.write(0, Register.ACCESS, b"\x02")
            tpm.go_on.set()
        assert tpm.given[:2] == [SLOW, PowerOn()]
        assert chip.device.state is State.IDLE
        assert chip.read(0, Register.ACCESS, 1) == b"\x81"
        go(chip, 1, LIGHT)
        await trio.testing.wait_all_tasks_blocked()
        assert chip.read_fifo(1, 255) == OK


async def test_a_command_given_just_before_a_power_cycle_is_void() -> None:
    async with running() as (chip, tpm):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chip.power_cycle, nothing)
            go(chip, 1, LIGHT)
        await trio.testing.wait_all_tasks_blocked()
        assert not tpm.given.count(LIGHT) or tpm.given.index(LIGHT) < tpm.given.index(PowerOn())
        assert chip.device.state is State.IDLE


async def test_power_cycles_wait_for_each_other() -> None:
    async with running() as (chip, tpm):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chip.power_cycle, nothing)
            nursery.start_soon(chip.power_cycle, nothing)
        assert tpm.given.count(PowerOn()) == 2
        assert chip.read(0, Register.ACCESS, 1) == b"\x81"


async def test_a_capped_power_on_starts_the_tpm_itself_so_that_nobody_can_undo_it() -> None:
    tpm = FakeTpm()
    chip = Chip(tpm, tpm, ChipStartup.NONE, LOG)
    await chip.power_on_capped()
    assert tpm.given[0] == bytes.fromhex("00c10000000c000000990001")
    assert isinstance(tpm.given[-1], CapPcrs)


async def test_a_chip_killed_while_it_powers_on_has_not_begun() -> None:
    for startup in (ChipStartup.CLEAR, ChipStartup.NONE):
        tpm = FakeTpm()
        await Chip(tpm, tpm, startup, LOG).power_on_capped()
        assert tpm.groups == [tpm.given]
    async with running() as (chip, tpm):
        tpm.groups.clear()
        await chip.power_cycle(nothing)
        assert tpm.groups == [tpm.given]
        assert isinstance(tpm.given[0], PowerOn)
