# SPDX-License-Identifier: Apache-2.0
"""Every row of the register file: ACCESS, arbitration, STS, the command machine, sizes,
interrupts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocol.tis.device import (
    CancelCommand,
    Effect,
    EndHash,
    HashBytes,
    RaiseInterrupt,
    RunCommand,
    StartHash,
    TisDevice,
)
from protocol.tis.machine import State
from protocol.tis.registers import BUFFER_SIZE, MAX_BURST, Register

ACCESS = Register.ACCESS
STS = Register.STS
FIFO = Register.DATA_FIFO

REQUEST = 0x02
SEIZE = 0x08
CLEAR_SEIZED = 0x10
RELINQUISH = 0x20

READY = 0x40
GO = 0x20
RETRY = 0x02

GET_RANDOM = bytes.fromhex(
    "00c1"  # TPM_TAG_RQU_COMMAND
    "0000000e"  # size
    "00000046"  # TPM_ORD_GetRandom
    "00000008"  # 8 bytes
)
ANSWER = bytes.fromhex(
    "00c4"  # TPM_TAG_RSP_COMMAND
    "00000016"  # size
    "00000000"  # success
    "00000008"  # 8 bytes
    "0102030405060708"
)


class Chip:
    """A device with the shorthand of a register script."""

    def __init__(self) -> None:
        self.device = TisDevice()
        self.device.initialised()

    def w(self, locality: int, offset: int, value: int, width: int = 1) -> bool:
        return self.device.write(locality, offset, value.to_bytes(width, "little"))

    def r(self, locality: int, offset: int, width: int = 1) -> int:
        return int.from_bytes(self.device.read(locality, offset, width), "little")

    def sts(self, locality: int) -> int:
        return self.r(locality, STS)

    def burst(self, locality: int) -> int:
        return self.r(locality, STS, 4) >> 8 & 0xFFFF

    def effects(self) -> tuple[Effect, ...]:
        return self.device.take_effects()

    def jobs(self) -> list[Effect]:
        return [e for e in self.effects() if not isinstance(e, RaiseInterrupt)]

    def interrupts(self) -> int:
        return sum(isinstance(e, RaiseInterrupt) for e in self.effects())

    def to_idle(self, locality: int = 0) -> None:
        self.w(locality, ACCESS, REQUEST)

    def to_ready(self, locality: int = 0) -> None:
        self.w(locality, ACCESS, REQUEST)
        self.w(locality, STS, READY)

    def to_reception(self, locality: int = 0) -> None:
        self.to_ready(locality)
        self.device.write_fifo(locality, GET_RANDOM[:7])

    def to_received(self, locality: int = 0) -> None:
        self.to_ready(locality)
        self.device.write_fifo(locality, GET_RANDOM)

    def to_execution(self, locality: int = 0) -> None:
        self.to_received(locality)
        self.w(locality, STS, GO)
        self.effects()

    def to_completion(self, locality: int = 0) -> None:
        self.to_execution(locality)
        self.device.command_finished(ANSWER)
        self.effects()

    def to_drained(self, locality: int = 0) -> None:
        self.to_completion(locality)
        assert self.device.read_fifo(locality, 255) == ANSWER


@pytest.fixture
def chip() -> Chip:
    return Chip()


# --- reset values and constant registers ----------------------------------------------------------


def test_registers_have_their_reset_values(chip: Chip) -> None:
    for locality in range(5):
        assert chip.r(locality, ACCESS) == 0x81
        assert chip.r(locality, Register.INT_ENABLE, 4) == 0x00000008
        assert chip.r(locality, Register.INT_VECTOR) == 0
        assert chip.r(locality, Register.INT_STATUS, 4) == 0
        assert chip.r(locality, Register.INTF_CAPABILITY, 4) == 0x97
        assert chip.r(locality, STS, 4) == 0xFFFFFFFF
        assert chip.r(locality, Register.INTERFACE_ID, 4) == 0xFFFFFFFF
        assert chip.r(locality, Register.DID_VID, 4) == 0x00011014
        assert chip.r(locality, Register.DID_VID, 2) == 0x1014
        assert chip.r(locality, Register.RID) == 0x01


def test_valid_bit_is_clear_and_writes_are_ignored_until_the_chip_is_initialised() -> None:
    chip = Chip()
    chip.device.reset()
    chip.w(0, ACCESS, REQUEST)
    assert chip.r(0, ACCESS) == 0x01
    assert chip.r(0, STS) == 0xFF
    chip.device.initialised()
    assert chip.r(0, ACCESS) == 0x81


def test_vendor_is_none_for_which_drivers_have_special_cases(chip: Chip) -> None:
    vendor = chip.r(0, Register.DID_VID, 2)
    assert vendor not in {0x8086, 0x1114, 0x104A, 0x1050, 0x0000, 0xFFFF}


@pytest.mark.parametrize(
    "offset", [0x001, 0x004, 0x00D, 0x020, 0x028, 0x034, 0x080, 0x0BC, 0xF05, 0xF80, 0xFFC]
)
def test_unknown_and_write_only_registers_read_ones_and_ignore_writes(
    chip: Chip, offset: int
) -> None:
    chip.w(0, offset, 0xFF)
    assert chip.r(0, offset) == 0xFF
    assert chip.device.state is State.IDLE
    assert chip.r(0, ACCESS) == 0x81


def test_an_access_beyond_a_register_reads_ones_for_what_is_no_register(chip: Chip) -> None:
    assert chip.r(0, ACCESS, 4) == 0xFFFFFF81
    assert chip.r(0, 0xF02, 4) == 0xFF010001  # DID, RID, reserved


def test_read_only_registers_ignore_writes_of_the_active_locality(chip: Chip) -> None:
    chip.w(0, ACCESS, REQUEST)
    for offset in (Register.INTF_CAPABILITY, Register.DID_VID, Register.RID, Register.INT_VECTOR):
        before = chip.r(0, offset, 1)
        chip.w(0, offset, before ^ 0xFF)
        assert chip.r(0, offset, 1) == before


# --- ACCESS and arbitration -----------------------------------------------------------------------


def test_request_with_nobody_active_is_granted_at_once_without_interrupt(chip: Chip) -> None:
    chip.w(2, ACCESS, REQUEST)
    assert chip.r(2, ACCESS) == 0xA1
    assert chip.r(0, ACCESS) == 0x81
    assert chip.r(2, Register.INT_STATUS) == 0


def test_request_by_the_active_locality_changes_nothing(chip: Chip) -> None:
    chip.to_reception(2)
    chip.w(2, ACCESS, REQUEST)
    assert chip.r(2, ACCESS) == 0xA1
    assert chip.sts(2) == 0x88


@pytest.mark.parametrize(("holder", "waiter"), [(0, 2), (2, 0)])
def test_request_while_another_is_active_waits_and_shows_as_pending(
    chip: Chip, holder: int, waiter: int
) -> None:
    chip.w(holder, ACCESS, REQUEST)
    chip.w(waiter, ACCESS, REQUEST)
    assert chip.r(holder, ACCESS) == 0xA5
    assert chip.r(waiter, ACCESS) == 0x83
    chip.w(3, ACCESS, REQUEST)
    assert chip.r(waiter, ACCESS) == 0x87


def test_relinquish_gives_the_chip_to_the_highest_requester_with_an_interrupt(chip: Chip) -> None:
    chip.w(1, ACCESS, REQUEST)
    for locality in (0, 3, 2):
        chip.w(locality, ACCESS, REQUEST)
    chip.w(1, ACCESS, RELINQUISH)
    assert [chip.r(n, ACCESS) for n in range(4)] == [0x87, 0x85, 0x87, 0xA5]
    assert chip.r(3, Register.INT_STATUS) == 0x04
    chip.w(3, ACCESS, RELINQUISH)
    assert chip.r(2, ACCESS) == 0xA5


def test_relinquish_without_requests_leaves_nobody_active_and_forgets_the_response(
    chip: Chip,
) -> None:
    chip.to_completion(0)
    chip.w(0, ACCESS, RELINQUISH)
    assert chip.r(0, ACCESS) == 0x81
    assert chip.sts(0) == 0xFF
    chip.w(0, ACCESS, REQUEST)
    assert chip.sts(0) == 0x00
    chip.w(0, STS, RETRY)
    assert chip.device.read_fifo(0, 255) == b""


def test_relinquish_by_an_inactive_locality_withdraws_its_request(chip: Chip) -> None:
    chip.w(0, ACCESS, REQUEST)
    chip.w(2, ACCESS, REQUEST)
    chip.w(2, ACCESS, RELINQUISH)
    assert chip.r(0, ACCESS) == 0xA1
    assert chip.r(2, ACCESS) == 0x81


def test_seize_with_nobody_active_is_granted(chip: Chip) -> None:
    chip.w(1, ACCESS, SEIZE)
    assert chip.r(1, ACCESS) == 0xA1


def test_seize_from_a_lower_locality_takes_the_chip_and_tells_both(chip: Chip) -> None:
    chip.to_reception(0)
    chip.w(3, ACCESS, SEIZE)
    assert chip.r(0, ACCESS) == 0x91
    assert chip.r(3, ACCESS) == 0xA1
    assert chip.r(3, Register.INT_STATUS) == 0x04
    assert chip.sts(0) == 0xFF
    assert chip.sts(3) == 0x00


@pytest.mark.parametrize("seizer", [0, 1, 2])
def test_seize_by_the_same_or_a_lower_locality_is_ignored(chip: Chip, seizer: int) -> None:
    chip.to_reception(2)
    chip.w(seizer, ACCESS, SEIZE)
    assert chip.r(2, ACCESS) == 0xA1
    assert chip.sts(2) == 0x88


def test_been_seized_is_cleared_only_by_writing_it(chip: Chip) -> None:
    chip.w(0, ACCESS, REQUEST)
    chip.w(1, ACCESS, SEIZE)
    chip.w(1, ACCESS, RELINQUISH)
    chip.w(0, ACCESS, REQUEST)
    assert chip.r(0, ACCESS) == 0xB1
    chip.w(0, ACCESS, CLEAR_SEIZED)
    assert chip.r(0, ACCESS) == 0xA1


@pytest.mark.parametrize(
    "value", [REQUEST | RELINQUISH, REQUEST | SEIZE, SEIZE | RELINQUISH, 0x2A, 0x00, 0x85, 0xC0]
)
def test_access_write_without_exactly_one_action_is_ignored(chip: Chip, value: int) -> None:
    chip.w(0, ACCESS, REQUEST)
    chip.w(2, ACCESS, value)
    assert [chip.r(n, ACCESS) for n in (0, 2)] == [0xA1, 0x81]
    chip.w(0, ACCESS, value)
    assert chip.r(0, ACCESS) == 0xA1


def test_clearing_been_seized_may_go_with_another_action(chip: Chip) -> None:
    chip.w(0, ACCESS, REQUEST)
    chip.w(1, ACCESS, SEIZE)
    chip.w(0, ACCESS, CLEAR_SEIZED | REQUEST)
    assert chip.r(0, ACCESS) == 0x83


def test_seize_during_execution_takes_effect_when_the_command_ends(chip: Chip) -> None:
    chip.to_execution(0)
    chip.w(2, ACCESS, SEIZE)
    assert chip.effects() == (CancelCommand(),)
    assert chip.r(0, ACCESS) == 0xA1
    assert chip.r(2, ACCESS) == 0x81
    chip.device.command_finished(ANSWER)
    assert chip.r(0, ACCESS) == 0x91
    assert chip.r(2, ACCESS) == 0xA1
    assert chip.sts(2) == 0x00
    chip.w(2, STS, RETRY)
    assert chip.device.read_fifo(2, 255) == b""


def test_a_higher_seize_replaces_a_lower_one_in_progress_and_not_the_reverse(chip: Chip) -> None:
    chip.to_execution(0)
    for locality in (2, 3, 1):
        chip.w(locality, ACCESS, SEIZE)
    chip.device.command_finished(ANSWER)
    assert [chip.r(n, ACCESS) for n in range(4)] == [0x91, 0x81, 0x81, 0xA1]


def test_a_seize_withdrawn_leaves_the_chip_to_its_holder_whose_command_is_cancelled(
    chip: Chip,
) -> None:
    chip.to_execution(0)
    chip.w(2, ACCESS, SEIZE)
    chip.w(2, ACCESS, RELINQUISH)
    chip.device.command_finished(ANSWER)
    assert chip.r(0, ACCESS) == 0xA1
    assert chip.sts(0) == 0x40
    assert chip.device.read_fifo(0, 255) == b""


def test_relinquish_during_execution_aborts_and_the_next_waits_for_the_end(chip: Chip) -> None:
    chip.to_execution(2)
    chip.w(0, ACCESS, REQUEST)
    chip.w(2, ACCESS, RELINQUISH)
    assert chip.effects() == (CancelCommand(),)
    assert chip.r(2, ACCESS) == 0x85
    assert chip.r(0, ACCESS) == 0x83
    chip.w(2, ACCESS, REQUEST)
    assert chip.r(2, ACCESS) == 0x87  # nobody is active, but the chip is not free yet
    chip.w(2, ACCESS, RELINQUISH)
    chip.device.command_finished(ANSWER)
    assert chip.r(0, ACCESS) == 0xA1
    assert chip.sts(0) == 0x00
    assert chip.device.read_fifo(0, 255) == b""


def test_a_seize_after_relinquish_during_execution_goes_before_requests(chip: Chip) -> None:
    chip.to_execution(2)
    chip.w(4, ACCESS, REQUEST)
    chip.w(2, ACCESS, RELINQUISH)
    chip.w(1, ACCESS, SEIZE)
    chip.device.command_finished(ANSWER)
    assert chip.r(1, ACCESS) == 0xA5
    assert chip.r(2, ACCESS) == 0x85  # gave up by itself: not seized


def test_locality_of_a_command_is_the_one_that_wrote_go(chip: Chip) -> None:
    chip.to_received(3)
    chip.w(3, STS, GO)
    assert chip.jobs() == [RunCommand(GET_RANDOM, 3)]


# --- STS ------------------------------------------------------------------------------------------

REACH: dict[State, Callable[[Chip], None]] = {
    State.IDLE: Chip.to_idle,
    State.READY: Chip.to_ready,
    State.RECEPTION: Chip.to_reception,
    State.RECEIVED: Chip.to_received,
    State.EXECUTION: Chip.to_execution,
    State.COMPLETION: Chip.to_completion,
    State.DRAINED: Chip.to_drained,
}

STATUS = {
    State.IDLE: 0x00,
    State.READY: 0x40,
    State.RECEPTION: 0x88,
    State.RECEIVED: 0x80,
    State.EXECUTION: 0x00,
    State.COMPLETION: 0x90,
    State.DRAINED: 0x80,
}


@pytest.mark.parametrize("state", REACH)
def test_status_byte_of_each_state(chip: Chip, state: State) -> None:
    REACH[state](chip)
    assert chip.device.state is state
    assert chip.sts(0) == STATUS[state]
    assert chip.sts(0) & 0x27 == 0  # what must read 0 on a TPM 1.2
    assert chip.r(0, STS, 4) >> 24 == 0


@pytest.mark.parametrize("state", REACH)
def test_another_locality_sees_and_changes_nothing(chip: Chip, state: State) -> None:
    REACH[state](chip)
    chip.effects()
    for value in (READY, GO, RETRY):
        chip.w(1, STS, value)
    chip.device.write_fifo(1, b"\0" * 10)
    chip.w(1, Register.INT_ENABLE, 0x80000087, 4)
    assert chip.r(1, STS, 4) == 0xFFFFFFFF
    assert chip.r(1, FIFO, 4) == 0xFFFFFFFF
    assert chip.device.read_fifo(1, 255) == b""
    assert chip.r(1, Register.INT_ENABLE, 4) == 0x08
    assert chip.device.state is state
    assert chip.effects() == ()


@pytest.mark.parametrize("state", REACH)
@pytest.mark.parametrize("value", [0, READY | GO, GO | RETRY, READY | RETRY, 0x62, 0x1D, 0x80])
def test_status_write_without_exactly_one_action_is_ignored(
    chip: Chip, state: State, value: int
) -> None:
    REACH[state](chip)
    chip.effects()
    chip.w(0, STS, value)
    assert chip.device.state is state
    assert chip.effects() == ()


COMMAND_READY_LEADS_TO = {
    State.IDLE: State.READY,
    State.READY: State.READY,
    State.RECEPTION: State.READY,
    State.RECEIVED: State.READY,
    State.EXECUTION: State.ABORTING,
    State.COMPLETION: State.READY,
    State.DRAINED: State.READY,
}


@pytest.mark.parametrize("state", REACH)
def test_command_ready_in_each_state(chip: Chip, state: State) -> None:
    REACH[state](chip)
    chip.effects()
    chip.w(0, STS, READY)
    assert chip.device.state is COMMAND_READY_LEADS_TO[state]
    if state is State.EXECUTION:
        assert chip.effects() == (CancelCommand(),)
        assert chip.sts(0) == 0x00
        chip.device.command_finished(ANSWER)
    assert chip.sts(0) == 0x40
    chip.device.write_fifo(0, GET_RANDOM)  # the FIFO is at its start
    assert chip.sts(0) == 0x80


@pytest.mark.parametrize("state", REACH)
def test_fifo_write_in_each_state(chip: Chip, state: State) -> None:
    REACH[state](chip)
    chip.w(0, FIFO, 0x00)
    expected = State.RECEPTION if state in (State.READY, State.RECEPTION) else state
    assert chip.device.state is expected
    if state is State.RECEIVED:
        chip.w(0, STS, GO)
        assert chip.jobs() == [RunCommand(GET_RANDOM, 0)]  # the byte after the last was dropped


@pytest.mark.parametrize("state", REACH)
def test_go_in_each_state(chip: Chip, state: State) -> None:
    REACH[state](chip)
    chip.effects()
    chip.w(0, STS, GO)
    if state is State.RECEIVED:
        assert chip.device.state is State.EXECUTION
        assert chip.jobs() == [RunCommand(GET_RANDOM, 0)]
    else:
        assert chip.device.state is state
        assert chip.effects() == ()


@pytest.mark.parametrize("state", REACH)
def test_response_retry_in_each_state(chip: Chip, state: State) -> None:
    REACH[state](chip)
    chip.w(0, STS, RETRY)
    if state in (State.COMPLETION, State.DRAINED):
        assert chip.sts(0) == 0x90
        assert chip.device.read_fifo(0, 255) == ANSWER
    else:
        assert chip.device.state is state


@pytest.mark.parametrize("state", REACH)
def test_fifo_read_in_each_state(chip: Chip, state: State) -> None:
    REACH[state](chip)
    value = chip.r(0, FIFO)
    if state is State.COMPLETION:
        assert value == ANSWER[0]
    else:
        assert value == 0xFF
        assert chip.device.state is state


@pytest.mark.parametrize("state", REACH)
@pytest.mark.parametrize("leave", [(0, RELINQUISH), (2, SEIZE)])
def test_leaving_in_each_state_ends_in_idle_without_the_response(
    chip: Chip, state: State, leave: tuple[int, int]
) -> None:
    REACH[state](chip)
    chip.effects()
    chip.w(leave[0], ACCESS, leave[1])
    if state is State.EXECUTION:
        assert chip.device.state is State.SWITCHING
        assert chip.jobs() == [CancelCommand()]
        chip.device.command_finished(ANSWER)
    assert chip.device.state is State.IDLE
    chip.w(2, ACCESS, REQUEST)
    chip.w(2, STS, RETRY)
    assert chip.sts(2) == 0x00
    assert chip.device.read_fifo(2, 255) == b""


@pytest.mark.parametrize("state", REACH)
def test_reset_in_each_state_clears_all_but_the_established_flag(chip: Chip, state: State) -> None:
    REACH[state](chip)
    chip.w(2, ACCESS, REQUEST)
    chip.w(0, Register.INT_ENABLE, 0x80000087, 4)
    chip.device.established = True
    chip.device.power_off()
    if chip.device.busy:
        assert CancelCommand() in chip.effects()
        chip.device.command_finished(ANSWER)
    chip.device.reset()
    chip.device.initialised()
    assert chip.device.state is State.IDLE
    assert [chip.r(n, ACCESS) for n in range(5)] == [0x80] * 5
    assert chip.r(0, Register.INT_ENABLE, 4) == 0x08
    assert chip.r(0, Register.INT_STATUS, 4) == 0


def test_command_ready_twice_while_aborting_cancels_once(chip: Chip) -> None:
    chip.to_execution()
    chip.w(0, STS, READY)
    chip.w(0, STS, READY)
    assert chip.jobs() == [CancelCommand()]


def test_response_of_an_aborted_command_is_never_shown(chip: Chip) -> None:
    chip.to_execution()
    chip.w(0, STS, READY)
    chip.device.command_finished(ANSWER)
    chip.w(0, STS, RETRY)
    assert chip.sts(0) == 0x40
    assert chip.r(0, FIFO, 4) == 0xFFFFFFFF


# --- sizes ----------------------------------------------------------------------------------------


def test_expect_falls_exactly_with_the_last_byte(chip: Chip) -> None:
    chip.to_ready()
    for byte in GET_RANDOM[:-1]:
        chip.w(0, FIFO, byte)
        assert chip.sts(0) == 0x88
    chip.w(0, FIFO, GET_RANDOM[-1])
    assert chip.sts(0) == 0x80


@pytest.mark.parametrize("size", range(6))
def test_a_length_below_the_length_field_is_reached_with_it(chip: Chip, size: int) -> None:
    chip.to_ready()
    start = b"\x00\xc1" + size.to_bytes(4, "big")
    for byte in start[:5]:
        chip.w(0, FIFO, byte)
        assert chip.sts(0) == 0x88
    chip.device.write_fifo(0, start[5:] + b"\xaa\xbb")
    assert chip.sts(0) == 0x80
    chip.w(0, STS, GO)
    assert chip.jobs() == [RunCommand(start, 0)]


@pytest.mark.parametrize("size", [BUFFER_SIZE + 1, 0xFFFFFFFF])
def test_a_length_beyond_the_buffer_is_accepted_until_the_buffer_is_full(
    chip: Chip, size: int
) -> None:
    chip.to_ready()
    command = b"\x00\xc1" + size.to_bytes(4, "big") + bytes(BUFFER_SIZE)
    sent = 0
    while chip.sts(0) != 0x80:
        assert chip.burst(0) > 0
        chip.device.write_fifo(0, command[sent : sent + chip.burst(0)])
        sent += 255
        assert sent < BUFFER_SIZE + 255
    chip.w(0, STS, GO)
    assert chip.jobs() == [RunCommand(command[:BUFFER_SIZE], 0)]


def test_a_wide_fifo_access_moves_bytes_in_ascending_order_and_stays_in_its_window(
    chip: Chip,
) -> None:
    chip.to_ready()
    chip.device.write(0, FIFO, GET_RANDOM[:4])
    chip.device.write(0, FIFO + 1, GET_RANDOM[4:7] + b"\xee")  # one byte beyond 0x27
    chip.device.write(0, FIFO + 2, GET_RANDOM[7:9])
    chip.device.write(0, FIFO + 3, GET_RANDOM[9:10] + b"\xee\xee\xee")
    chip.device.write(0, FIFO, GET_RANDOM[10:])
    chip.w(0, STS, GO)
    assert chip.jobs() == [RunCommand(GET_RANDOM, 0)]
    chip.device.command_finished(ANSWER)
    assert chip.device.read(0, FIFO, 4) == ANSWER[:4]
    assert chip.device.read(0, FIFO + 2, 4) == ANSWER[4:6] + b"\xff\xff"
    assert chip.device.read(0, FIFO + 3, 1) == ANSWER[6:7]


def test_a_read_wider_than_what_is_left_yields_ones(chip: Chip) -> None:
    chip.to_completion()
    chip.device.read_fifo(0, len(ANSWER) - 3)
    assert chip.device.read(0, FIFO, 4) == ANSWER[-3:] + b"\xff"
    assert chip.sts(0) == 0x80


def test_data_avail_falls_with_the_last_byte(chip: Chip) -> None:
    chip.to_completion()
    for byte in ANSWER:
        assert chip.sts(0) == 0x90
        assert chip.r(0, FIFO) == byte
    assert chip.sts(0) == 0x80
    assert chip.r(0, FIFO) == 0xFF


def test_a_response_is_limited_by_the_buffer(chip: Chip) -> None:
    chip.to_execution()
    chip.device.command_finished(bytes(BUFFER_SIZE + 10))
    total = 0
    while data := chip.device.read_fifo(0, 255):
        total += len(data)
    assert total == BUFFER_SIZE


# --- burstCount -----------------------------------------------------------------------------------


def test_burst_count_is_one_byte_wide_and_not_zero_where_bytes_may_move(chip: Chip) -> None:
    chip.to_ready()
    assert chip.burst(0) == 0xFF
    assert (chip.r(0, STS + 1), chip.r(0, STS + 2)) == (0xFF, 0x00)
    chip.to_received()
    assert chip.burst(0) == 0
    chip.to_execution()
    assert chip.burst(0) == 0


def test_burst_count_shows_what_is_left_of_the_response(chip: Chip) -> None:
    chip.to_execution()
    chip.device.command_finished(ANSWER + bytes(300))
    assert chip.burst(0) == MAX_BURST
    chip.device.read_fifo(0, 255)
    assert chip.burst(0) == len(ANSWER) + 300 - 255


def test_a_burst_moves_no_more_than_burst_count(chip: Chip) -> None:
    chip.to_execution()
    chip.device.command_finished(bytes(600))
    assert len(chip.device.read_fifo(0, 600)) == MAX_BURST
    chip.w(0, STS, READY)
    chip.device.write_fifo(0, b"\x00\xc1\x00\x00\x04\x00" + bytes(600))
    assert chip.sts(0) == 0x88
    chip.device.write_fifo(0, bytes(1024 - 3 * 255))
    assert chip.sts(0) == 0x88


# --- interrupts -----------------------------------------------------------------------------------

ALL = 0x80000087


def test_int_enable_keeps_its_meaningful_bits_and_merges_bytes(chip: Chip) -> None:
    chip.w(0, ACCESS, REQUEST)
    chip.w(0, Register.INT_ENABLE, 0xFFFFFFFF, 4)
    assert chip.r(0, Register.INT_ENABLE, 4) == 0x8000009F
    chip.w(0, Register.INT_ENABLE + 3, 0x00)
    assert chip.r(0, Register.INT_ENABLE, 4) == 0x0000009F
    chip.w(0, Register.INT_ENABLE, 0x0001, 2)
    assert chip.r(0, Register.INT_ENABLE, 4) == 0x00000001
    chip.w(0, Register.INT_ENABLE + 3, 0x80FF, 2)  # the second byte is INT_VECTOR
    assert chip.r(0, Register.INT_ENABLE, 4) == 0x80000001


def test_end_of_a_command_raises_data_avail_and_sts_valid(chip: Chip) -> None:
    chip.w(0, ACCESS, REQUEST)
    chip.w(0, Register.INT_ENABLE, ALL, 4)
    chip.to_execution()
    chip.w(0, Register.INT_STATUS, 0x87)
    chip.effects()
    chip.device.command_finished(ANSWER)
    assert chip.effects() == (RaiseInterrupt(0),)
    assert chip.r(0, Register.INT_STATUS, 4) == 0x03


def test_command_ready_interrupt_comes_on_reaching_ready_and_not_in_ready(chip: Chip) -> None:
    chip.w(0, ACCESS, REQUEST)
    chip.w(0, Register.INT_ENABLE, 0x80000080, 4)
    chip.w(0, STS, READY)
    assert chip.interrupts() == 1
    assert chip.r(0, Register.INT_STATUS) == 0x80
    chip.w(0, Register.INT_STATUS, 0x80)
    chip.w(0, STS, READY)
    assert chip.interrupts() == 0
    assert chip.r(0, Register.INT_STATUS) == 0x00


def test_sts_valid_is_raised_in_reception_and_after_the_last_byte_of_a_response(
    chip: Chip,
) -> None:
    chip.w(0, ACCESS, REQUEST)
    chip.w(0, Register.INT_ENABLE, 0x80000002, 4)
    chip.w(0, STS, READY)
    assert chip.interrupts() == 0
    chip.device.write_fifo(0, GET_RANDOM)
    assert chip.interrupts() == 1
    chip.w(0, STS, GO)
    chip.device.command_finished(ANSWER)
    chip.effects()
    chip.device.read_fifo(0, len(ANSWER) - 1)
    assert chip.interrupts() == 0
    chip.device.read_fifo(0, 1)
    assert chip.interrupts() == 1


def test_an_event_is_recorded_but_not_signalled_while_disabled(chip: Chip) -> None:
    chip.to_execution()
    chip.device.command_finished(ANSWER)
    assert chip.effects() == ()
    assert chip.r(0, Register.INT_STATUS) & 0x01
    chip.w(0, Register.INT_ENABLE, 0x80000001, 4)
    assert chip.effects() == (RaiseInterrupt(0),)


def test_no_interrupt_without_the_global_bit(chip: Chip) -> None:
    chip.w(0, ACCESS, REQUEST)
    chip.w(0, Register.INT_ENABLE, 0x00000087, 4)
    chip.to_completion()
    assert chip.interrupts() == 0


def test_end_of_interrupt_raises_again_what_came_meanwhile(chip: Chip) -> None:
    chip.w(0, ACCESS, REQUEST)
    chip.w(0, Register.INT_ENABLE, ALL, 4)
    chip.to_completion()
    chip.w(0, Register.INT_STATUS, 0x02)
    assert chip.effects() == (RaiseInterrupt(0),)
    chip.w(0, Register.INT_STATUS, 0x87)
    assert chip.effects() == ()


def test_int_status_is_cleared_only_by_the_active_locality_and_only_by_ones(chip: Chip) -> None:
    chip.to_completion()
    chip.w(1, Register.INT_STATUS, 0x87)
    chip.w(0, Register.INT_STATUS, 0x00)
    assert chip.r(0, Register.INT_STATUS) == 0x83
    chip.w(0, Register.INT_STATUS, 0x01)
    assert chip.r(0, Register.INT_STATUS) == 0x82


def test_locality_change_is_signalled_at_the_new_locality_if_enabled_there(chip: Chip) -> None:
    chip.w(2, ACCESS, REQUEST)
    chip.w(2, Register.INT_ENABLE, 0x80000004, 4)
    chip.w(2, ACCESS, RELINQUISH)
    chip.w(0, ACCESS, REQUEST)
    chip.w(2, ACCESS, REQUEST)
    assert chip.effects() == ()
    chip.w(0, ACCESS, RELINQUISH)
    assert chip.effects() == (RaiseInterrupt(2),)


# --- hash sequence --------------------------------------------------------------------------------

HASH_START = Register.HASH_START
HASH_END = Register.HASH_END


def test_hash_sequence_takes_locality_4_and_gives_it_up_at_the_end(chip: Chip) -> None:
    assert chip.w(4, HASH_START, 0x55)
    assert chip.effects() == (StartHash(),)
    assert chip.r(4, ACCESS) == 0xA1
    chip.device.event_finished(ok=True)
    assert chip.device.write_fifo(4, b"launch")
    assert chip.effects() == (HashBytes(b"launch"),)
    chip.device.event_finished(ok=True)
    assert chip.w(4, HASH_END, 0x55)
    assert chip.effects() == (EndHash(),)
    chip.device.event_finished(ok=True)
    assert chip.r(4, ACCESS) == 0x81
    assert chip.device.state is State.IDLE


def test_hash_data_takes_one_to_four_bytes_at_its_register(chip: Chip) -> None:
    chip.w(4, HASH_START, 0)
    chip.effects()
    chip.device.event_finished(ok=True)
    chip.device.write(4, FIFO + 1, b"\x01\x02\x03\x04")
    assert chip.effects() == (HashBytes(b"\x01\x02\x03"),)


def test_hash_commands_wait_while_the_tpm_is_busy_with_one(chip: Chip) -> None:
    chip.w(4, HASH_START, 0)
    assert not chip.device.write_fifo(4, b"x")
    assert not chip.w(4, HASH_END, 0)
    assert chip.effects() == (StartHash(),)
    chip.device.event_finished(ok=True)
    assert chip.device.write_fifo(4, b"x")


def test_hash_start_aborts_a_command_of_locality_4_and_waits_for_its_end(chip: Chip) -> None:
    chip.to_execution(4)
    assert not chip.w(4, HASH_START, 0)
    assert chip.effects() == (CancelCommand(),)
    chip.device.command_finished(ANSWER)
    assert chip.w(4, HASH_START, 0)
    assert chip.effects() == (StartHash(),)


def test_hash_start_waits_for_the_end_of_a_command_whose_locality_is_gone(chip: Chip) -> None:
    chip.to_execution(2)
    chip.w(2, ACCESS, RELINQUISH)
    chip.effects()
    assert not chip.w(4, HASH_START, 0)
    chip.device.command_finished(ANSWER)
    assert chip.w(4, HASH_START, 0)
    assert chip.effects() == (StartHash(),)


def test_the_whole_hash_sequence_is_ignored_while_another_locality_is_active(chip: Chip) -> None:
    chip.to_reception(2)
    assert chip.w(4, HASH_START, 0)
    assert chip.device.write_fifo(4, b"x")
    assert chip.w(4, HASH_END, 0)
    assert chip.effects() == ()
    assert chip.sts(2) == 0x88


@pytest.mark.parametrize("locality", range(4))
def test_hash_registers_do_nothing_below_locality_4(chip: Chip, locality: int) -> None:
    chip.w(locality, HASH_START, 0)
    chip.device.write_fifo(locality, b"x")
    chip.w(locality, HASH_END, 0)
    assert chip.effects() == ()


@pytest.mark.parametrize(("offset", "width"), [(0x28, 4), (0x29, 1), (0x20, 2), (0x21, 1)])
def test_hash_start_and_end_are_single_bytes_at_their_address(
    chip: Chip, offset: int, width: int
) -> None:
    chip.w(4, offset, 0, width)
    assert chip.effects() == ()


def test_hash_data_without_start_goes_to_the_tpm_which_refuses_it(chip: Chip) -> None:
    assert chip.device.write_fifo(4, b"x")
    assert chip.effects() == (HashBytes(b"x"),)
    chip.w(1, ACCESS, REQUEST)
    assert chip.r(1, ACCESS) == 0x83  # not before the TPM is free
    chip.device.event_finished(ok=False)
    assert chip.r(1, ACCESS) == 0xA1


def test_hash_end_without_start_ends_the_locality(chip: Chip) -> None:
    chip.to_ready(4)
    assert chip.w(4, HASH_END, 0)
    assert chip.effects() == (EndHash(),)
    chip.device.event_finished(ok=False)
    assert chip.r(4, ACCESS) == 0x81


def test_fifo_of_active_locality_4_is_the_command_fifo_outside_a_sequence(chip: Chip) -> None:
    chip.to_received(4)
    chip.w(4, STS, GO)
    assert chip.jobs() == [RunCommand(GET_RANDOM, 4)]


def test_failed_hash_start_releases_the_locality(chip: Chip) -> None:
    chip.w(4, HASH_START, 0)
    chip.w(2, ACCESS, REQUEST)
    chip.device.event_finished(ok=False)
    assert chip.r(4, ACCESS) == 0x81
    assert chip.r(2, ACCESS) == 0xA1


def test_a_hash_sequence_cannot_be_left_or_seized(chip: Chip) -> None:
    chip.w(4, HASH_START, 0)
    chip.device.event_finished(ok=True)
    chip.w(4, ACCESS, RELINQUISH)
    chip.w(3, ACCESS, SEIZE)
    chip.w(4, STS, READY)
    assert chip.r(4, ACCESS) == 0xA1
    assert chip.device.state is State.HASHING


def test_established_shows_inverted_in_every_access_register(chip: Chip) -> None:
    chip.device.established = True
    chip.w(1, ACCESS, REQUEST)
    chip.w(0, ACCESS, REQUEST)
    assert [chip.r(n, ACCESS) for n in range(3)] == [0x82, 0xA4, 0x84]


# --- the example of the interface's description ---------------------------------------------------


def test_get_random_as_a_driver_reads_and_writes_it(chip: Chip) -> None:
    chip.w(2, ACCESS, REQUEST)
    assert chip.r(2, ACCESS) == 0xA1
    assert chip.sts(2) == 0x00
    chip.w(2, STS, READY)
    assert chip.sts(2) == 0x40
    assert (chip.r(2, STS + 1), chip.r(2, STS + 2)) == (0xFF, 0x00)
    for byte in GET_RANDOM[:13]:
        chip.w(2, FIFO, byte)
    assert chip.sts(2) == 0x88
    chip.w(2, FIFO, GET_RANDOM[13])
    assert chip.sts(2) == 0x80
    chip.w(2, STS, GO)
    assert chip.sts(2) == 0x00
    chip.device.command_finished(ANSWER)
    assert chip.sts(2) == 0x90
    assert (chip.r(2, STS + 1), chip.r(2, STS + 2)) == (0x16, 0x00)
    header = bytes(chip.r(2, FIFO) for _ in range(10))
    assert chip.sts(2) == 0x90
    assert chip.r(2, STS + 1) == 0x0C
    body = bytes(chip.r(2, FIFO) for _ in range(12))
    assert chip.sts(2) == 0x80
    chip.w(2, STS, READY)
    chip.w(2, ACCESS, RELINQUISH)
    assert header + body == ANSWER
