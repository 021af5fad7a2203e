# SPDX-License-Identifier: Apache-2.0
"""The register file under any sequence of accesses: always legal, never leaking a response."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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
from protocol.tis.machine import EXECUTING, HASH_STATES, State
from protocol.tis.registers import BUFFER_SIZE, LOCALITIES, MAX_BURST, Register

LOCALITY = st.integers(0, LOCALITIES - 1)
LIKELY = (0x02, 0x08, 0x10, 0x20, 0x40, 0x00, 0xFF, 0x12, 0x60)
COMMAND = bytes.fromhex("00c10000000e0000004600000008")


class RandomAccesses(RuleBasedStateMachine):
    """What software at five localities can do, and a TPM that ends when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.device = TisDevice()
        self.device.initialised()
        self.job: Effect | None = None
        self.serial = 0
        # Owner of the response that may be read, and its bytes.
        self.runner: int | None = None
        self.visible: tuple[int, bytes] | None = None
        self.aborted = False

    def settle(self) -> None:
        for effect in self.device.take_effects():
            match effect:
                case RunCommand(command, locality):
                    assert self.job is None
                    assert self.device.active == locality
                    assert 6 <= len(command) <= BUFFER_SIZE
                    self.job, self.runner, self.aborted = effect, locality, False
                case StartHash() | HashBytes() | EndHash():
                    assert self.job is None
                    self.job = effect
                case CancelCommand():
                    assert isinstance(self.job, RunCommand)
                    self.aborted = True
                case RaiseInterrupt(locality):
                    assert 0 <= locality < LOCALITIES

    def forget_if_gone(self) -> None:
        """The response may be read only by its owner until it leaves Completion."""
        if self.visible is not None and (
            self.device.state not in (State.COMPLETION, State.DRAINED)
            or self.device.active != self.visible[0]
        ):
            self.visible = None

    @rule(locality=LOCALITY, offset=st.integers(0, 0xFFF), data=st.binary(min_size=1, max_size=4))
    def write_anything(self, locality: int, offset: int, data: bytes) -> None:
        self.device.write(locality, offset, data)
        self.settle()
        self.forget_if_gone()

    @rule(
        locality=LOCALITY,
        offset=st.sampled_from([Register.ACCESS, Register.STS, Register.INT_STATUS]),
        value=st.sampled_from(LIKELY),
    )
    def write_a_likely_value(self, locality: int, offset: int, value: int) -> None:
        self.device.write(locality, offset, bytes([value]))
        self.settle()
        self.forget_if_gone()

    @rule(locality=LOCALITY)
    def send_a_command(self, locality: int) -> None:
        self.device.write(locality, Register.ACCESS, b"\x02")
        if self.device.active == locality:
            self.device.write(locality, Register.STS, b"\x40")
            self.device.write_fifo(locality, COMMAND)
            self.device.write(locality, Register.STS, b"\x20")
        self.settle()
        self.forget_if_gone()

    @rule(locality=LOCALITY, data=st.binary(min_size=1, max_size=255))
    def write_fifo(self, locality: int, data: bytes) -> None:
        self.device.write_fifo(locality, data)
        self.settle()
        self.forget_if_gone()

    @rule(step=st.sampled_from([Register.HASH_START, Register.HASH_END]))
    def write_hash_command(self, step: Register) -> None:
        before = (self.device.state, self.device.active)
        taken = self.device.write(4, step, b"\0")
        if not taken:
            assert self.device.busy
            assert before[1] in (None, 4)
        self.settle()
        self.forget_if_gone()

    @rule(locality=LOCALITY, offset=st.integers(0, 0xFFC), size=st.sampled_from([1, 2, 4]))
    def read_anything(self, locality: int, offset: int, size: int) -> None:
        data = self.device.read(locality, offset, size)
        assert len(data) == size
        if Register.DATA_FIFO <= offset < Register.DATA_FIFO + 4:
            self.check_seen(locality, data.rstrip(b"\xff"))
        self.settle()

    @rule(locality=LOCALITY, size=st.integers(1, 255))
    def read_fifo(self, locality: int, size: int) -> None:
        data = self.device.read_fifo(locality, size)
        assert len(data) <= size
        self.check_seen(locality, data)
        self.settle()

    def check_seen(self, locality: int, data: bytes) -> None:
        if data:
            assert self.visible is not None
            assert locality == self.visible[0]
            assert data in self.visible[1]

    @precondition(lambda self: self.job is not None)
    @rule(ok=st.booleans(), size=st.integers(10, 600))
    def tpm_finishes(self, ok: bool, size: int) -> None:
        job, self.job = self.job, None
        if isinstance(job, RunCommand):
            self.serial = self.serial % 200 + 1
            answer = bytes([self.serial]) * size
            shown = not self.aborted
            self.device.command_finished(answer)
            if shown:
                assert self.runner is not None
                assert self.device.state is State.COMPLETION
                self.visible = (self.runner, answer)
            else:
                assert self.device.state in (State.READY, State.IDLE)
        else:
            self.device.event_finished(ok=ok)
        self.settle()
        self.forget_if_gone()

    @rule()
    def power_cycle(self) -> None:
        self.device.power_off()
        if isinstance(self.job, RunCommand):
            assert CancelCommand() in self.device.take_effects()
            self.device.command_finished(b"")
        elif self.job is not None:
            self.device.event_finished(ok=True)
        self.job = None
        self.visible = None
        self.device.reset()
        assert self.device.take_effects() == ()
        self.device.initialised()

    @invariant()
    def busy_is_what_the_tpm_was_given(self) -> None:
        assert self.device.busy == (self.job is not None)

    @invariant()
    def command_states_belong_to_somebody(self) -> None:
        device = self.device
        if device.state in HASH_STATES:
            assert device.active in (None, 4)
        elif device.state is State.SWITCHING:
            assert device.active is None or device.seizer is not None
        elif device.state is not State.IDLE:
            assert device.active is not None
        if device.state is not State.SWITCHING:
            assert device.seizer is None
        assert (device.state in EXECUTING) == isinstance(self.job, RunCommand)

    @invariant()
    def registers_agree_with_each_other(self) -> None:
        access = [self.device.read(n, Register.ACCESS, 1)[0] for n in range(LOCALITIES)]
        active = [n for n in range(LOCALITIES) if access[n] & 0x20]
        requesting = [n for n in range(LOCALITIES) if access[n] & 0x02]
        assert active == ([] if self.device.active is None else [self.device.active])
        assert not set(active) & set(requesting)
        for n in range(LOCALITIES):
            assert access[n] & 0xC9 == 0x81
            assert bool(access[n] & 0x04) == bool(set(requesting) - {n})
            sts = int.from_bytes(self.device.read(n, Register.STS, 4), "little")
            if n not in active:
                assert sts == 0xFFFFFFFF
                continue
            burst, low = sts >> 8, sts & 0xFF
            assert low in (0x00, 0x40, 0x80, 0x88, 0x90)
            assert burst <= MAX_BURST
            if low in (0x88, 0x90, 0x40):
                assert burst > 0

    @invariant()
    def somebody_who_waits_waits_for_somebody(self) -> None:
        device = self.device
        if any(device.requests) and device.active is None:
            assert device.busy or device.state is State.HASHING


RandomAccesses.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestRandomAccesses = RandomAccesses.TestCase
