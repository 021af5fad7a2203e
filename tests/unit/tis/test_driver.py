# SPDX-License-Identifier: Apache-2.0
"""The driver against chips that misbehave, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from protocol.tis.driver import Relinquish, TisDriver, TisError, TisOptions
from protocol.tis.machine import State
from protocol.tis.registers import Register
from tests.unit.tis.scripted_chip import (
    LOCALITY,
    STS,
    ScriptedChip,
    command,
    obliging_tpm,
    response,
    status,
)

PCR_READ = command(21, bytes(4))  # short: 1 s
ANSWER = response((21).to_bytes(4, "big"))
READY, GO, RETRY = 0x40, 0x20, 0x02


DEFAULTS = TisOptions()


@asynccontextmanager
async def opened(
    options: TisOptions = DEFAULTS,
) -> AsyncIterator[tuple[ScriptedChip, TisDriver]]:
    async with trio.open_nursery() as nursery:
        chip = ScriptedChip(nursery)
        driver = TisDriver(chip.connect, options)
        await driver.connect()
        try:
            yield chip, driver
        finally:
            driver.close()
            nursery.cancel_scope.cancel()


async def refused(driver: TisDriver, message: bytes = PCR_READ) -> TisError:
    with pytest.raises(TisError) as caught:
        await driver.transact(message)
    return caught.value


# --- a chip that behaves --------------------------------------------------------------------------


async def test_a_command_is_executed_and_the_locality_given_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        assert await driver.transact(PCR_READ) == ANSWER
        await trio.testing.wait_all_tasks_blocked()
        assert chip.commands == [PCR_READ]
        assert chip.device.active is None
        assert chip.device.state is State.IDLE


@pytest.mark.parametrize("size", [10, 11, 255, 256, 257, 510, 1000, 4096])
async def test_sizes_around_the_burst_count_go_both_ways(
    autojump_clock: trio.testing.MockClock, size: int
) -> None:
    message = command(21, bytes(i & 0xFF for i in range(size - 10)))
    async with opened() as (chip, driver):
        chip.tpm = lambda received: response(received[10:])
        assert await driver.transact(message) == response(message[10:])
        assert chip.commands == [message]


async def test_no_burst_moves_more_than_the_burst_count_that_was_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.reads[STS] = lambda data: bytes([data[0], 7 if data[1] else 0, 0, 0])
        bursts: list[int] = []
        chip.on_fifo = lambda data: bursts.append(len(data))
        chip.tpm = lambda message: response(bytes(50))
        assert await driver.transact(command(21, bytes(30))) == response(bytes(50))
        assert sum(bursts) == 40
        assert max(bursts) <= 7


async def test_timeouts_and_durations_are_those_of_the_chip(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (_, driver):
        timeouts = driver.timeouts
        found = (timeouts.a_s, timeouts.b_s, timeouts.c_s, timeouts.d_s)
        assert found == pytest.approx((0.1, 0.2, 0.3, 0.4))
        durations = driver.durations
        assert (durations.short_s, durations.medium_s, durations.long_s) == (1.0, 2.0, 3.0)
        assert driver.info.vendor_id == 0x1014


@pytest.mark.parametrize("interrupts", [True, False])
async def test_a_command_that_takes_time_is_waited_for(
    autojump_clock: trio.testing.MockClock, interrupts: bool
) -> None:
    async with opened(TisOptions(interrupts=interrupts)) as (chip, driver):
        chip.tpm = lambda message: None
        async with trio.open_nursery() as nursery:

            async def finish_later() -> None:
                await chip.started.wait()
                await trio.sleep(0.9)
                chip.finish(ANSWER)

            nursery.start_soon(finish_later)
            assert await driver.transact(PCR_READ) == ANSWER


async def test_an_interrupt_ends_the_wait_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as (chip, driver):
        chip.tpm = lambda message: None
        async with trio.open_nursery() as nursery:

            async def finish_later() -> None:
                await chip.started.wait()
                await trio.sleep(0.1)
                chip.finish(ANSWER)

            nursery.start_soon(finish_later)
            begun = trio.current_time()
            await driver.transact(PCR_READ)
            assert trio.current_time() - begun == pytest.approx(0.1, abs=1e-6)


async def test_a_lost_interrupt_costs_time_and_not_the_command(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.on_write = lambda offset, data: None
        chip.tpm = lambda message: None
        async with trio.open_nursery() as nursery:

            async def finish_silently() -> None:
                await chip.started.wait()
                await trio.sleep(0.1)
                chip.device.command_finished(ANSWER)
                chip.device.take_effects()

            nursery.start_soon(finish_silently)
            assert await driver.transact(PCR_READ) == ANSWER


async def test_commands_of_two_tasks_queue(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as (_, driver):
        answers: dict[int, bytes] = {}

        async def ask(ordinal: int) -> None:
            answers[ordinal] = await driver.transact(command(ordinal))

        async with trio.open_nursery() as nursery:
            for ordinal in (20, 21, 70):
                nursery.start_soon(ask, ordinal)
        assert answers == {n: response(n.to_bytes(4, "big")) for n in (20, 21, 70)}


async def test_locality_is_kept_between_commands_if_so_told_until_another_asks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened(TisOptions(relinquish=Relinquish.IF_REQUESTED)) as (chip, driver):
        await driver.transact(PCR_READ)
        assert chip.device.active == LOCALITY
        chip.device.write(0, Register.ACCESS, b"\x02")
        await driver.transact(PCR_READ)
        await trio.testing.wait_all_tasks_blocked()
        assert chip.device.active == 0


async def test_a_chip_that_nobody_started_is_started(
    autojump_clock: trio.testing.MockClock,
) -> None:
    started = False

    def tpm(message: bytes) -> bytes | None:
        nonlocal started
        if message == bytes.fromhex("00c10000000c000000990001"):  # TPM_Startup(ST_CLEAR)
            started = True
            return response()
        return obliging_tpm(message) if started else response(code=38)

    async with trio.open_nursery() as nursery:
        chip = ScriptedChip(nursery)
        chip.tpm = tpm
        driver = TisDriver(chip.connect, TisOptions())
        await driver.connect()
        assert started
        assert driver.timeouts.a_s == pytest.approx(0.1)
        driver.close()


@pytest.mark.parametrize("size", [0, 5, 9, 4097])
async def test_a_command_whose_length_is_wrong_is_refused_without_touching_the_chip(
    autojump_clock: trio.testing.MockClock,
    size: int,
) -> None:
    async with opened() as (chip, driver):
        error = await refused(driver, PCR_READ[:2] + size.to_bytes(4, "big") + PCR_READ[6:])
        assert error.certain
        assert chip.commands == []


# --- busy codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x800, 0x802])
async def test_a_busy_chip_is_asked_again(
    autojump_clock: trio.testing.MockClock, code: int
) -> None:
    async with opened() as (chip, driver):
        chip.tpm = lambda message: response(code=code) if len(chip.commands) < 3 else ANSWER
        assert await driver.transact(PCR_READ) == ANSWER
        assert chip.commands == [PCR_READ] * 4


async def test_a_chip_that_stays_busy_has_the_last_word(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened(TisOptions(busy_wait_s=5.0)) as (chip, driver):
        chip.tpm = lambda message: response(code=0x800)
        begun = trio.current_time()
        assert await driver.transact(PCR_READ) == response(code=0x800)
        assert trio.current_time() - begun <= 5.0


async def test_other_errors_are_not_repeated(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as (chip, driver):
        chip.tpm = lambda message: response(code=0x801)  # NEEDS_SELFTEST
        assert await driver.transact(PCR_READ) == response(code=0x801)
        assert len(chip.commands) == 1


# --- chips that do not come up --------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"\x00", b"\x01", b"\xff"])
async def test_a_chip_that_is_never_valid_is_given_up(
    autojump_clock: trio.testing.MockClock, value: bytes
) -> None:
    async with trio.open_nursery() as nursery:
        chip = ScriptedChip(nursery)
        chip.reads[Register.ACCESS] = lambda data: value
        driver = TisDriver(chip.connect, TisOptions(reconnect_s=3.0))
        with pytest.raises(TisError, match="never valid") as caught:
            await driver.connect()
        assert caught.value.certain
        assert trio.current_time() < 10
        nursery.cancel_scope.cancel()


async def test_a_chip_that_nobody_serves_is_given_up_after_the_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        chip = ScriptedChip(nursery)
        chip.refuse = True
        driver = TisDriver(chip.connect, TisOptions(reconnect_s=3.0))
        with pytest.raises(TisError) as caught:
            await driver.connect()
        assert caught.value.certain
        assert 2 < trio.current_time() < 4


async def test_no_device_behind_the_registers_is_noticed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        chip = ScriptedChip(nursery)
        chip.reads[Register.DID_VID] = lambda data: b"\xff\xff\xff\xff"
        driver = TisDriver(chip.connect, TisOptions(reconnect_s=1.0))
        with pytest.raises(TisError, match="no device"):
            await driver.connect()
        nursery.cancel_scope.cancel()


async def test_a_chip_that_does_not_answer_reads_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.say = lambda message: None  # type: ignore[method-assign]
        error = await refused(driver)
        assert error.certain
        assert "not answered" in error.reason


# --- locality -------------------------------------------------------------------------------------


async def test_the_driver_waits_for_its_turn(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as (chip, driver):
        await trio.testing.wait_all_tasks_blocked()
        chip.device.write(4, Register.ACCESS, b"\x02")
        async with trio.open_nursery() as nursery:

            async def relinquish_later() -> None:
                await trio.sleep(10)
                assert chip.commands == []
                chip.device.write(4, Register.ACCESS, b"\x20")
                chip._settle()

            nursery.start_soon(relinquish_later)
            assert await driver.transact(PCR_READ) == ANSWER


async def test_a_locality_that_is_never_granted_is_an_error_and_the_request_is_withdrawn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened(TisOptions(locality_wait_s=2.0)) as (chip, driver):
        await trio.testing.wait_all_tasks_blocked()
        chip.device.write(4, Register.ACCESS, b"\x02")
        error = await refused(driver)
        assert error.certain
        await trio.testing.wait_all_tasks_blocked()
        assert chip.device.requests == [False] * 5


async def test_a_command_whose_locality_is_seized_before_go_is_sent_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        seized = False

        def seize(data: bytes) -> None:
            nonlocal seized
            if not seized:
                seized = True
                chip.device.write(3, Register.ACCESS, b"\x08")
                chip.device.write(3, Register.ACCESS, b"\x20")

        chip.on_fifo = seize
        assert await driver.transact(PCR_READ) == ANSWER
        assert chip.commands == [PCR_READ]


async def test_a_seize_during_execution_is_an_uncertain_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.tpm = lambda message: None
        async with trio.open_nursery() as nursery:

            async def seize() -> None:
                await chip.started.wait()
                chip.device.write(3, Register.ACCESS, b"\x08")
                chip.finish(ANSWER)

            nursery.start_soon(seize)
            error = await refused(driver)
        assert not error.certain
        assert "locality lost" in error.reason


# --- sending --------------------------------------------------------------------------------------


async def test_a_chip_that_never_gets_ready_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.reads[STS] = status(0x00)
        begun = trio.current_time()
        error = await refused(driver)
        assert error.certain
        assert "commandReady" in error.reason
        assert trio.current_time() - begun < 1


async def test_a_burst_count_that_stays_zero_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.reads[STS] = lambda data: data[:1] + b"\0\0\0"
        error = await refused(driver)
        assert error.certain
        assert "burstCount" in error.reason
        assert chip.commands == []


async def test_expect_that_does_not_fall_is_an_error_before_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.reads[STS] = lambda data: (b"\x88" if data[0] == 0x80 else data[:1]) + data[1:]
        error = await refused(driver)
        assert error.certain
        assert "expects more" in error.reason
        assert chip.commands == []


async def test_expect_that_falls_too_early_is_an_error_before_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.reads[STS] = lambda data: (b"\x80" if data[0] == 0x88 else data[:1]) + data[1:]
        error = await refused(driver)
        assert error.certain
        assert "wants no more" in error.reason
        assert chip.commands == []


async def test_sts_valid_that_does_not_come_is_an_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.reads[STS] = lambda data: bytes([data[0] & 0x7F]) + data[1:]
        error = await refused(driver)
        assert error.certain
        assert "stsValid" in error.reason


async def test_a_glitch_while_sending_is_cured_by_sending_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        glitches = iter([b"\x80"])
        chip.reads[STS] = lambda data: (
            (next(glitches, data[:1]) if data[0] == 0x88 else data[:1]) + data[1:]
        )
        assert await driver.transact(PCR_READ) == ANSWER
        assert chip.commands == [PCR_READ]


# --- executing ------------------------------------------------------------------------------------


async def test_a_command_that_takes_longer_than_its_duration_is_aborted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.tpm = lambda message: None
        begun = trio.current_time()
        error = await refused(driver)
        assert not error.certain
        assert 1.0 <= trio.current_time() - begun < 1.5
        await chip.cancelled.wait()
        chip.finish(ANSWER)
        chip.tpm = obliging_tpm
        assert await driver.transact(command(20)) == response((20).to_bytes(4, "big"))


async def test_a_command_that_somebody_cancelled_is_an_uncertain_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.tpm = lambda message: None
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await chip.started.wait()
                chip.device.write(LOCALITY, Register.STS, b"\x40")
                chip.finish(ANSWER)

            nursery.start_soon(cancel)
            error = await refused(driver)
        assert not error.certain
        assert "cancelled" in error.reason


async def test_cancelling_aborts_and_gives_the_locality_up_before_the_next_command(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.tpm = lambda message: None
        with trio.move_on_after(0.5) as scope:
            await driver.transact(PCR_READ)
        assert scope.cancelled_caught
        await chip.cancelled.wait()
        async with trio.open_nursery() as nursery:

            async def finish_late() -> None:
                # Longer than timeout B, shorter than the command's duration.
                await trio.sleep(0.8)
                chip.tpm = obliging_tpm
                chip.finish(response(b"of the command that was given up"))

            nursery.start_soon(finish_late)
            assert await driver.transact(command(20)) == response((20).to_bytes(4, "big"))


# --- receiving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 9, 13, 15, 4097, 0xFFFFFFFF])
async def test_a_response_whose_length_lies_is_refused_after_retries(
    autojump_clock: trio.testing.MockClock, size: int
) -> None:
    async with opened() as (chip, driver):
        chip.tpm = lambda message: ANSWER[:2] + size.to_bytes(4, "big") + ANSWER[6:]
        retries = 0

        def count(offset: int, data: bytes) -> None:
            nonlocal retries
            retries += (offset, data) == (STS, bytes([RETRY]))

        chip.on_write = count
        error = await refused(driver)
        assert not error.certain
        assert retries == 2
        chip.tpm = obliging_tpm
        assert await driver.transact(PCR_READ) == ANSWER


async def test_a_response_read_wrongly_once_is_read_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        glitches = iter([b"\xff" * len(ANSWER)])
        chip.burst = lambda data: next(glitches, data)
        assert await driver.transact(PCR_READ) == ANSWER
        assert chip.commands == [PCR_READ]


async def test_a_response_longer_than_its_header_says_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.tpm = lambda message: ANSWER + b"tail"
        assert not (await refused(driver)).certain


# --- a chip that goes away ------------------------------------------------------------------------


async def test_a_chip_lost_during_execution_is_an_uncertain_end_and_found_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        generation = driver.generation

        def die(message: bytes) -> bytes | None:
            chip.tpm = obliging_tpm
            chip.hang_up()
            return None

        chip.tpm = die
        error = await refused(driver)
        assert not error.certain
        assert await driver.transact(PCR_READ) == ANSWER
        assert driver.generation > generation
        assert chip.connections == 2


async def test_a_chip_lost_before_go_is_waited_for_and_the_command_runs_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened(TisOptions(reconnect_s=10.0)) as (chip, driver):

        def die(data: bytes) -> None:
            chip.on_fifo = lambda data: None
            chip.refuse = True
            chip.hang_up()

        chip.on_fifo = die
        async with trio.open_nursery() as nursery:

            async def come_back() -> None:
                await trio.sleep(5)
                chip.refuse = False

            nursery.start_soon(come_back)
            assert await driver.transact(PCR_READ) == ANSWER
        assert chip.commands == [PCR_READ]
        assert driver.generation == 2


async def test_a_chip_that_does_not_come_back_is_an_error_that_says_nothing_ran(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened(TisOptions(reconnect_s=3.0)) as (chip, driver):
        chip.refuse = True
        chip.hang_up()
        assert (await refused(driver)).certain
        chip.refuse = False
        assert await driver.transact(PCR_READ) == ANSWER


async def test_a_reset_of_the_registers_while_idle_is_not_even_noticed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (chip, driver):
        chip.device.reset()
        chip.device.initialised()
        assert await driver.transact(PCR_READ) == ANSWER


@pytest.mark.parametrize(
    "garbage",
    [b"\x81", b"\x81\x04\x00\x00abcd", b"\x77\x00\x00\x00", b"\x8f\x05\x00\x00", bytes(300)],
)
async def test_a_chip_that_breaks_the_protocol_is_connected_to_anew(
    autojump_clock: trio.testing.MockClock, garbage: bytes
) -> None:
    async with opened() as (chip, driver):
        chip.say(garbage)
        assert await driver.transact(PCR_READ) == ANSWER
        assert driver.generation == 2


async def test_unasked_interrupts_do_no_harm(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as (chip, driver):
        for _ in range(20):
            chip.say(b"\x8f\x00\x00\x00")
        assert await driver.transact(PCR_READ) == ANSWER
        assert driver.generation == 1


async def test_a_response_that_is_complete_is_returned_although_the_chip_died_then(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened(TisOptions(relinquish=Relinquish.IF_REQUESTED)) as (chip, driver):

        def die(data: bytes) -> bytes:
            chip.hang_up()
            return data

        chip.on_write = lambda offset, data: (
            chip.reads.update({Register.ACCESS: die})
            if (offset, data, chip.device.state) == (STS, bytes([READY]), State.DRAINED)
            else None
        )
        assert await driver.transact(PCR_READ) == ANSWER
