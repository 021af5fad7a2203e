# SPDX-License-Identifier: Apache-2.0
"""A raw register script at the locality sockets of the real `hwtpm`, through every transition."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from daemons.hwtpm.server import CONNECTIONS_PER_LOCALITY
from protocol.tis.framing import Read, encode_request
from protocol.tis.registers import Register
from tests.integration.hwtpm_process import (
    ChipProcess,
    Page,
    command,
    extend,
    pcr_read,
    pcr_reset,
    return_code,
)
from tests.integration.waiting import wait_until

ACCESS, STS, FIFO = Register.ACCESS, Register.STS, Register.DATA_FIFO
REQUEST, SEIZE, CLEAR_SEIZED, RELINQUISH = 0x02, 0x08, 0x10, 0x20
READY, GO, RETRY = 0x40, 0x20, 0x02
BAD_LOCALITY, NOT_LOCAL = 0x3D, 0x33

PCR_READ = command(0x15, bytes(4))
PCR_READ_SIZE = 30
# Makes the chip write its memory: for a millisecond or so it executes, and everybody sees it.
SAVE_STATE = command(0x98)


@pytest.fixture(scope="module")
def process(module_dir: Path) -> Iterator[ChipProcess]:
    """One process for all: each test finds it as after a power cycle."""
    with ChipProcess(module_dir) as process:
        yield process


@pytest.fixture
def chip(process: ChipProcess) -> ChipProcess:
    """The chip, just powered on and never launched."""
    assert process.control("power-cycle")["ok"]
    assert process.control("reset-establishment", locality=4)["result"]["code"] == 0
    return process


@pytest.fixture
def page(chip: ChipProcess) -> Iterator[Page]:
    """Locality 0."""
    with chip.page(0) as page:
        yield page


def make_ready(page: Page) -> None:
    page.w(ACCESS, REQUEST)
    page.w(STS, READY)
    assert page.sts() == 0x40


def complete(page: Page) -> None:
    make_ready(page)
    page.put(PCR_READ)
    page.w(STS, GO)
    page.wait_sts(0x90)


def execute(page: Page) -> None:
    """Leave the chip executing; what is sent next arrives while it does."""
    make_ready(page)
    page.put(SAVE_STATE)
    page.w(STS, GO)


# --- the page -------------------------------------------------------------------------------------


def test_constant_registers_are_read_without_holding_a_locality(chip: ChipProcess) -> None:
    for locality in range(5):
        with chip.page(locality) as page:
            assert page.access() == 0x81
            assert page.r(Register.DID_VID, 4) == 0x00011014
            assert page.r(Register.DID_VID, 2) == 0x1014
            assert page.r(Register.RID) == 0x01
            assert page.r(Register.INTF_CAPABILITY, 4) == 0x97
            assert page.r(Register.INT_ENABLE, 4) == 0x08
            assert page.r(STS, 4) == 0xFFFFFFFF
            assert page.r(0xF80, 4) == 0xFFFFFFFF


def test_sockets_are_for_their_owner_unless_told_otherwise(run_dir: Path) -> None:
    with ChipProcess(run_dir, "--socket-mode", "2=660", "--socket-mode", "0=666") as chip:
        modes = [stat.S_IMODE((chip.run / f"locality{n}.sock").stat().st_mode) for n in range(5)]
        assert modes == [0o666, 0o600, 0o660, 0o600, 0o600]
        assert stat.S_IMODE((chip.run / "control.sock").stat().st_mode) == 0o600


# --- one locality through the command machine -----------------------------------------------------


def test_a_command_goes_through_every_state(page: Page) -> None:
    assert page.access() == 0x81
    page.w(ACCESS, REQUEST)
    assert page.access() == 0xA1
    assert page.sts() == 0x00  # Idle
    page.w(STS, READY)
    assert page.sts() == 0x40  # Ready
    assert (page.r(STS + 1), page.r(STS + 2)) == (0xFF, 0x00)
    for byte in PCR_READ[:-1]:
        page.w(FIFO, byte)
        assert page.sts() == 0x88  # Reception, Expect
    page.w(FIFO, PCR_READ[-1])
    assert page.sts() == 0x80  # Reception, complete
    page.w(STS, GO)
    page.wait_sts(0x90)  # Completion
    assert page.r(STS, 4) == PCR_READ_SIZE << 8 | 0x90
    header = bytes(page.r(FIFO) for _ in range(10))
    assert header.hex() == "00c40000001e00000000"
    assert page.r(STS + 1) == 20
    assert page.get() == bytes(20)
    assert page.sts() == 0x80  # Completion, all read
    assert page.r(FIFO) == 0xFF
    page.w(STS, RETRY)
    assert page.sts() == 0x90
    assert page.get() == header + bytes(20)
    page.w(STS, READY)
    assert page.sts() == 0x40
    page.w(ACCESS, RELINQUISH)
    assert page.access() == 0x81
    assert page.sts() == 0xFF


def test_nothing_but_command_ready_leaves_idle(page: Page) -> None:
    page.w(ACCESS, REQUEST)
    page.put(PCR_READ)
    page.w(STS, GO)
    page.w(STS, RETRY)
    assert page.sts() == 0x00
    assert page.r(FIFO, 4) == 0xFFFFFFFF
    page.w(STS, READY)
    assert page.sts() == 0x40


def test_go_and_retry_do_nothing_in_ready(page: Page) -> None:
    make_ready(page)
    page.w(STS, GO)
    page.w(STS, RETRY)
    page.w(STS, READY)
    assert page.sts() == 0x40
    assert page.get() == b""


def test_go_before_the_last_byte_is_ignored(page: Page) -> None:
    make_ready(page)
    page.put(PCR_READ[:-1])
    page.w(STS, GO)
    assert page.sts() == 0x88
    page.put(PCR_READ[-1:])
    assert page.sts() == 0x80


def test_bytes_after_the_last_are_dropped(page: Page) -> None:
    make_ready(page)
    page.put(PCR_READ + b"\xff" * 20)
    page.w(STS, GO)
    page.wait_sts(0x90)
    assert len(page.get()) == PCR_READ_SIZE


def test_command_ready_in_reception_aborts(page: Page) -> None:
    make_ready(page)
    page.put(PCR_READ[:7])
    page.w(STS, READY)
    assert page.sts() == 0x40
    page.put(PCR_READ)
    assert page.sts() == 0x80
    page.w(STS, READY)
    assert page.sts() == 0x40


def test_status_writes_with_several_actions_are_ignored(page: Page) -> None:
    make_ready(page)
    page.put(PCR_READ)
    for value in (READY | GO, GO | RETRY, 0x62, 0x00):
        page.w(STS, value)
        assert page.sts() == 0x80


def test_an_aborted_execution_ends_in_ready_and_its_response_is_never_seen(page: Page) -> None:
    for _ in range(20):
        execute(page)
        page.w(STS, READY)
        status = page.sts()
        assert status in (0x00, 0x40)
        page.wait_sts(0x40)
        page.w(STS, RETRY)
        assert page.get() == b""
        assert page.sts() == 0x40


def test_registers_are_answered_while_a_command_is_executed(chip: ChipProcess, page: Page) -> None:
    seen = set()
    for _ in range(50):
        make_ready(page)
        page.put(SAVE_STATE)
        # The chip finds the read behind the start of the command, however late it comes to either.
        chip.process.send_signal(signal.SIGSTOP)
        try:
            page.w(STS, GO)
            page.send(Read(1, STS, 4))
        finally:
            chip.process.send_signal(signal.SIGCONT)
        seen.add(page.value())
        page.wait_sts(0x90)
        assert return_code(page.get()) == 0
    assert 0x00000000 in seen  # Execution: nothing valid, no burst


def test_command_ready_after_completion_drops_the_response(page: Page) -> None:
    complete(page)
    page.w(STS, READY)
    assert page.sts() == 0x40
    page.w(STS, RETRY)
    assert page.sts() == 0x40
    assert page.get() == b""


@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_length_that_is_exceeded_at_once_gets_an_error_of_the_tpm(page: Page, size: int) -> None:
    make_ready(page)
    page.put(b"\x00\xc1" + size.to_bytes(4, "big") + bytes(8))
    assert page.sts() == 0x80
    page.w(STS, GO)
    page.wait_sts(0x90)
    response = page.get()
    assert response[:6].hex() == "00c40000000a"
    assert return_code(response) != 0


def test_a_length_beyond_the_buffer_gets_an_error_of_the_tpm(page: Page) -> None:
    make_ready(page)
    page.put(b"\x00\xc1\xff\xff\xff\xff" + bytes(4089))
    assert page.sts() == 0x88
    page.put(bytes(300))
    assert page.sts() == 0x80
    page.w(STS, GO)
    page.wait_sts(0x90)
    assert return_code(page.get()) != 0
    page.w(ACCESS, RELINQUISH)
    assert return_code(page.run(PCR_READ)) == 0


def test_a_tpm_2_command_gets_an_error_as_the_linux_probe_wants_it(page: Page) -> None:
    probe = bytes.fromhex("8001000000160000017a000000060000010000000001")
    response = page.run(probe)
    assert response[:6].hex() == "00c40000000a"
    assert return_code(response) in (0x1E, 0x0A)


# --- localities -----------------------------------------------------------------------------------


def test_requests_wait_and_the_highest_gets_the_chip(chip: ChipProcess) -> None:
    with ExitStack() as stack:
        pages = [stack.enter_context(chip.page(n)) for n in range(5)]
        pages[1].w(ACCESS, REQUEST)
        assert pages[1].access() == 0xA1
        pages[0].w(ACCESS, REQUEST)
        assert pages[0].access() == 0x83
        pages[3].w(ACCESS, REQUEST)
        assert pages[3].access() == 0x87
        assert pages[1].access() == 0xA5
        pages[1].w(ACCESS, RELINQUISH)
        assert pages[1].access() == 0x85
        assert pages[3].access() == 0xA5
        pages[0].w(ACCESS, RELINQUISH)  # withdraws
        assert pages[0].access() == 0x81
        assert pages[3].access() == 0xA1


def test_a_locality_that_is_not_active_reads_ones_and_changes_nothing(chip: ChipProcess) -> None:
    with chip.page(0) as holder, chip.page(1) as other:
        complete(holder)
        for value in (READY, GO, RETRY):
            other.w(STS, value)
        other.put(b"\xff" * 10)
        other.w(Register.INT_ENABLE, 0x80000087, 4)
        assert other.r(STS, 4) == 0xFFFFFFFF
        assert other.r(FIFO, 4) == 0xFFFFFFFF
        assert other.get() == b""
        assert other.r(Register.INT_ENABLE, 4) == 0x08
        assert len(holder.get()) == PCR_READ_SIZE


def test_seize_takes_the_chip_from_below_and_not_from_above(chip: ChipProcess) -> None:
    with chip.page(1) as low, chip.page(3) as high:
        complete(low)
        high.w(ACCESS, SEIZE)
        assert high.access() == 0xA1
        assert low.access() == 0x91
        assert high.sts() == 0x00
        high.w(STS, RETRY)
        assert high.get() == b""
        low.w(ACCESS, SEIZE)
        assert high.access() == 0xA1
        low.w(ACCESS, CLEAR_SEIZED)
        assert low.access() == 0x81


def test_seize_during_execution_takes_effect_at_its_end_and_drops_the_response(
    chip: ChipProcess,
) -> None:
    with chip.page(0) as low, chip.page(2) as high:
        for _ in range(20):
            execute(low)
            high.w(ACCESS, SEIZE)
            while high.access() & 0x20 == 0:
                pass
            assert low.access() & 0x30 == 0x10
            assert high.sts() == 0x00
            high.w(STS, RETRY)
            assert high.get() == b""
            high.w(ACCESS, RELINQUISH)
            assert high.access() == 0x81
            low.w(ACCESS, CLEAR_SEIZED)


def test_relinquish_during_execution_hands_over_at_its_end(chip: ChipProcess) -> None:
    with chip.page(0) as waiter, chip.page(2) as holder:
        for _ in range(20):
            execute(holder)
            waiter.w(ACCESS, REQUEST)
            holder.w(ACCESS, RELINQUISH)
            while waiter.access() & 0x20 == 0:
                pass
            assert waiter.sts() == 0x00
            assert waiter.get() == b""
            waiter.w(ACCESS, RELINQUISH)
            assert waiter.access() == 0x81


def test_access_writes_with_several_actions_are_ignored(chip: ChipProcess) -> None:
    with chip.page(2) as page:
        for value in (REQUEST | SEIZE, REQUEST | RELINQUISH, 0x2A):
            page.w(ACCESS, value)
            assert page.access() == 0x81


def test_the_tpm_sees_the_locality_of_the_socket(chip: ChipProcess) -> None:
    digest = bytes(range(20))
    assert return_code(chip.tpm(extend(20, digest), locality=0)) == BAD_LOCALITY
    assert pcr_read(chip, 20) == b"\xff" * 20
    assert return_code(chip.tpm(extend(20, digest), locality=2)) == 0
    assert pcr_read(chip, 20) == hashlib.sha1(b"\xff" * 20 + digest).digest()
    assert return_code(chip.tpm(pcr_reset(20), locality=1)) == NOT_LOCAL
    assert return_code(chip.tpm(pcr_reset(20), locality=2)) == 0


def test_several_connections_to_a_locality_see_the_same_registers(chip: ChipProcess) -> None:
    with chip.page(0) as first, chip.page(0) as second:
        make_ready(first)
        assert second.access() == 0xA1
        second.put(PCR_READ[:5])
        assert second.sts() == 0x88
        first.put(PCR_READ[5:])
        assert first.sts() == 0x80
        second.w(STS, GO)
        first.wait_sts(0x90)
        assert first.get(10) + second.get() == bytes.fromhex("00c40000001e00000000") + bytes(20)


# --- interrupts -----------------------------------------------------------------------------------


def test_interrupts_go_to_every_connection_of_every_locality(chip: ChipProcess) -> None:
    with ExitStack() as stack:
        pages = [stack.enter_context(chip.page(n)) for n in (0, 0, 1, 4)]
        # connect(2) returns before the chip has accepted; what is answered has been.
        assert [page.access() for page in pages] == [0x81, 0x81, 0x81, 0x81]
        page = pages[0]
        page.w(ACCESS, REQUEST)
        page.w(Register.INT_ENABLE, 0x80000001, 4)
        complete(page)
        assert page.interrupts == 1
        assert [other.wait_interrupt() for other in pages[1:]] == [0, 0, 0]
        assert page.r(Register.INT_STATUS) & 0x01
        page.w(Register.INT_STATUS, 0x01)
        assert page.r(Register.INT_STATUS) & 0x01 == 0


def test_whoever_does_not_react_gets_no_second_interrupt(chip: ChipProcess) -> None:
    with chip.page(0) as page, chip.page(1) as idle:
        assert idle.access() == 0x81
        page.w(ACCESS, REQUEST)
        page.w(Register.INT_ENABLE, 0x80000001, 4)
        for _ in range(10):
            complete(page)
            page.w(Register.INT_STATUS, 0x87)
        assert page.interrupts == 10
        idle.wait_interrupt()
        assert idle.no_message()
        idle.access()
        complete(page)
        assert idle.wait_interrupt() == 0


def test_no_interrupt_message_while_the_global_bit_is_off(chip: ChipProcess) -> None:
    with chip.page(0) as page:
        page.w(ACCESS, REQUEST)
        page.w(Register.INT_ENABLE, 0x00000087, 4)
        complete(page)
        assert page.interrupts == 0
        assert page.r(Register.INT_STATUS) == 0x83
        page.w(Register.INT_ENABLE, 0x80000087, 4)
        assert page.wait_interrupt() == 0


def test_a_granted_request_raises_locality_change(chip: ChipProcess) -> None:
    with chip.page(1) as holder, chip.page(2) as waiter:
        waiter.w(ACCESS, REQUEST)
        waiter.w(Register.INT_ENABLE, 0x80000004, 4)
        waiter.w(ACCESS, RELINQUISH)
        assert waiter.access() == 0x81
        holder.w(ACCESS, REQUEST)
        assert holder.access() == 0xA1
        waiter.w(ACCESS, REQUEST)
        assert waiter.access() == 0x83
        holder.w(ACCESS, RELINQUISH)
        assert waiter.wait_interrupt() == 2
        assert waiter.r(Register.INT_STATUS) == 0x04


# --- the hash sequence of locality 4 --------------------------------------------------------------


def launch(page: Page, data: bytes) -> None:
    page.w(Register.HASH_START, 0)
    page.put(data)
    page.w(Register.HASH_END, 0)
    while page.access() & 0x20:
        pass


def test_a_hash_sequence_measures_into_pcr_17_and_is_remembered(chip: ChipProcess) -> None:
    data = bytes(i & 0xFF for i in range(1000))
    with chip.page(4) as page:
        launch(page, data)
        assert page.access() == 0x80
    measured = hashlib.sha1(bytes(20) + hashlib.sha1(data).digest()).digest()
    assert pcr_read(chip, 17) == measured
    assert pcr_read(chip, 18) == bytes(20)
    assert pcr_read(chip, 16) == bytes(20)
    chip.control("power-cycle")
    with chip.page(0) as page:
        assert page.access() == 0x80
    assert pcr_read(chip, 17) == b"\xff" * 20


def test_a_hash_sequence_without_data_measures_nothing(chip: ChipProcess) -> None:
    with chip.page(4) as page:
        launch(page, b"")
    assert pcr_read(chip, 17) == hashlib.sha1(bytes(20) + hashlib.sha1().digest()).digest()


def test_a_hash_sequence_while_another_locality_is_active_is_ignored(chip: ChipProcess) -> None:
    with chip.page(2) as holder, chip.page(4) as page:
        holder.w(ACCESS, REQUEST)
        assert holder.access() == 0xA1
        launch(page, b"x")
        assert page.access() == 0x81
        holder.w(ACCESS, RELINQUISH)
        assert holder.access() == 0x81
    assert pcr_read(chip, 17) == b"\xff" * 20


def test_a_hash_sequence_of_locality_4_waits_for_the_command_that_it_aborts(
    chip: ChipProcess,
) -> None:
    with chip.page(4) as page:
        execute(page)
        launch(page, b"x")
        assert page.access() == 0x80
    assert pcr_read(chip, 17) == hashlib.sha1(bytes(20) + hashlib.sha1(b"x").digest()).digest()


def test_hash_end_without_start_is_a_failure_until_the_next_reset(chip: ChipProcess) -> None:
    with chip.page(4) as page:
        page.w(Register.HASH_END, 0)
        assert page.access() == 0x81
    assert return_code(chip.tpm(PCR_READ)) == 0x1C  # FAILEDSELFTEST
    chip.control("power-cycle")
    assert return_code(chip.tpm(PCR_READ)) == 0


def test_the_established_flag_is_reset_out_of_band_at_locality_3_or_4_only(
    chip: ChipProcess,
) -> None:
    with chip.page(4) as page:
        launch(page, b"x")
    with chip.page(0) as page:
        assert page.access() == 0x80
        reply = chip.control("reset-establishment", locality=2)
        assert reply["result"]["code"] == BAD_LOCALITY
        assert page.access() == 0x80
        assert chip.control("reset-establishment", locality=3)["result"]["code"] == 0
        assert page.access() == 0x81


# --- peers that misbehave -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"\x01",
        b"\x00" * 6,
        b"\x01\x03\x00\x00\x18\x00",
        b"\x01\x04\x00\x00\xff\x0f",
        b"\x04\xff\x00\x00\x24\x00",
        b"\xff" * 300,
        b"\xff" * 70_000,
    ],
)
def test_a_malformed_message_ends_its_connection_and_no_other(
    chip: ChipProcess, message: bytes
) -> None:
    with chip.page(0) as good, chip.page(0) as bad:
        complete(good)
        bad.send_raw(message)
        assert bad.is_disconnected()
        assert len(good.get()) == PCR_READ_SIZE


def test_a_peer_that_does_not_read_is_disconnected_and_others_are_served(
    chip: ChipProcess,
) -> None:
    with chip.page(1) as bad, chip.page(0) as good:
        assert bad.flood(encode_request(Read(1, STS, 4)), times=100_000)
        assert return_code(good.run(PCR_READ)) == 0


def test_a_flood_of_writes_does_not_keep_others_from_the_chip(chip: ChipProcess) -> None:
    with chip.page(1) as bad, chip.page(0) as good:
        for _ in range(20):
            assert not bad.flood(b"\x02\x01\x00\x00\x18\x00\x40", times=300)
            assert return_code(good.run(PCR_READ)) == 0


def test_connections_to_a_locality_are_limited(chip: ChipProcess) -> None:
    with ExitStack() as stack:
        pages = [stack.enter_context(chip.page(1)) for _ in range(CONNECTIONS_PER_LOCALITY)]
        assert [page.access() for page in pages] == [0x81] * len(pages)
        with chip.page(1) as one_too_many, chip.page(0) as other:
            assert one_too_many.is_disconnected()
            assert other.access() == 0x81
        pages.pop().close()

        def is_served_again() -> bool:
            with chip.page(1) as again, suppress(OSError, AssertionError):
                return again.access() == 0x81
            return False

        wait_until(is_served_again, "the place that was left is given to another")


def test_a_peer_that_dies_does_not_keep_the_locality(chip: ChipProcess) -> None:
    with chip.page(0) as survivor:
        for script in (make_ready, execute, complete):
            with chip.page(2) as dying:
                script(dying)
            survivor.w(ACCESS, REQUEST)
            while survivor.access() & 0x20 == 0:
                pass
            survivor.w(ACCESS, RELINQUISH)
            assert survivor.access() == 0x81


def test_a_thousand_connections_leave_no_descriptor_behind(chip: ChipProcess) -> None:
    folder = Path(f"/proc/{chip.process.pid}/fd")
    with chip.page(0) as page:
        page.access()
        before = len(os.listdir(folder))
        for _ in range(1000):
            with chip.page(1) as short_lived:
                short_lived.access()
        page.access()
        wait_until(lambda: len(os.listdir(folder)) <= before + 1, "no descriptor left")
