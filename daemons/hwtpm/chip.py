# SPDX-License-Identifier: Apache-2.0
"""The chip: a register file and the TPM behind it.

Register accesses are answered at once, whatever the TPM does; one task, `Chip.run`, gives the TPM
its commands and hash events one after the other. What lives here and not in the register file is
time: a command that takes long, an access of locality 4 that is held by wait states, a power cycle.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Protocol, assert_never

import trio

from daemons.hwtpm import firmware
from daemons.runtime.config.values import ChipStartup
from daemons.runtime.log import Log
from protocol.tis.device import (
    CancelCommand,
    EndHash,
    HashBytes,
    RaiseInterrupt,
    RunCommand,
    StartHash,
    TisDevice,
)
from protocol.tis.machine import State
from tpmcore.engine import (
    CapPcrs,
    Event,
    EventDone,
    HashData,
    HashEnd,
    HashStart,
    PhysicalPresence,
    PowerOn,
    ResetEstablished,
)

Job = RunCommand | StartHash | HashBytes | EndHash
InterruptSink = Callable[[int], None]
"""Told the locality on whose behalf the interrupt line was raised; must not block or raise."""


class TpmHost(Protocol):
    """What the chip needs of `EngineHost`."""

    async def execute(self, command: bytes, locality: int) -> bytes:
        """Run one command."""

    async def handle(self, event: Event) -> EventDone:
        """Run one event."""

    def indivisible(self) -> AbstractContextManager[None]:
        """Surround commands and events that mean something only together."""

    def cancel(self) -> None:
        """Ask the command under way to end early."""


class TpmView(Protocol):
    """What the chip looks at in the engine (`Tpm12Engine`)."""

    @property
    def is_established(self) -> bool:
        """Whether a dynamic launch has happened (tpmEstablished)."""


class Chip:
    """One TPM with its registers. `run` must be running for anything beyond register reads."""

    def __init__(self, host: TpmHost, view: TpmView, startup: ChipStartup, log: Log) -> None:
        """Args:
        host: the TPM; nobody else uses it.
        view: the same TPM, for looking at.
        startup: what firmware does at power-on.
        log: for power cycles and what goes wrong.
        """
        self._host = host
        self._view = view
        self._startup = startup
        self._log = log
        self._device = TisDevice()
        # Who uses the engine: the task of `run`, or the platform (power cycle, control socket).
        self._engine = trio.Lock()
        # One power cycle at a time.
        self._power = trio.Lock()
        # What the registers gave the TPM to do; the register file never gives a second job before
        # the first is reported as finished.
        self._job: Job | None = None
        self._wake = trio.Event()
        self._running = False
        # Number of the power cycle.
        self._cycle = 0
        self._waiting_for_idle = trio.lowlevel.ParkingLot()
        self._sinks: set[InterruptSink] = set()

    @property
    def device(self) -> TisDevice:
        """The registers, for looking at; accesses go through `read` and `write`."""
        return self._device

    # --- register accesses ------------------------------------------------------------------------

    def read(self, locality: int, offset: int, size: int) -> bytes:
        """Read a register; see `TisDevice.read`."""
        data = self._device.read(locality, offset, size)
        self._settle()
        return data

    def read_fifo(self, locality: int, size: int) -> bytes:
        """Read FIFO bytes; see `TisDevice.read_fifo`."""
        data = self._device.read_fifo(locality, size)
        self._settle()
        return data

    def write(self, locality: int, offset: int, data: bytes) -> bool:
        """Write a register; False if it must be presented again after `wait_idle`."""
        taken = self._device.write(locality, offset, data)
        self._settle()
        return taken

    def write_fifo(self, locality: int, data: bytes) -> bool:
        """Write FIFO bytes; False as in `write`."""
        taken = self._device.write_fifo(locality, data)
        self._settle()
        return taken

    @property
    def job_waits(self) -> bool:
        """The TPM was given something and has not begun: let `run` have its turn."""
        return self._job is not None

    async def wait_idle(self) -> None:
        """Wait until the TPM has finished what it does."""
        while self._device.busy:
            await self._waiting_for_idle.park()

    def add_interrupt_sink(self, sink: InterruptSink) -> None:
        """Have interrupts reported until `remove_interrupt_sink`."""
        self._sinks.add(sink)

    def remove_interrupt_sink(self, sink: InterruptSink) -> None:
        """Undo `add_interrupt_sink`."""
        self._sinks.discard(sink)

    def _settle(self) -> None:
        """Perform what the register file wants done; nothing here waits."""
        for effect in self._device.take_effects():
            match effect:
                case RunCommand() | StartHash() | HashBytes() | EndHash():
                    self._job = effect
                    self._wake.set()
                case CancelCommand():
                    # One that did not begin yet is dropped by `run`; the TPM hears nothing of it.
                    if self._running:
                        self._host.cancel()
                case RaiseInterrupt(locality):
                    for sink in tuple(self._sinks):
                        sink(locality)
                case _:
                    assert_never(effect)

    # --- the TPM ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Give the TPM what the registers give it, for ever."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            job, self._job = self._job, None
            cycle = self._cycle
            await self._lock_engine()
            try:
                # A power cycle may have come first: what was wanted before it is void.
                if job is not None and cycle == self._cycle:
                    await self._perform(job)
                    self._look()
            finally:
                self._engine.release()
            self._settle()
            self._waiting_for_idle.unpark_all()

    async def _lock_engine(self) -> None:
        try:
            # Without the round through the scheduler that `acquire` always makes.
            self._engine.acquire_nowait()
        except trio.WouldBlock:
            await self._engine.acquire()

    async def _perform(self, job: Job) -> None:
        match job:
            case RunCommand(command, locality):
                if self._device.state is not State.EXECUTION:
                    # Aborted before it began.
                    self._device.command_finished(b"")
                    return
                self._running = True
                try:
                    response = await self._host.execute(command, locality)
                finally:
                    self._running = False
                self._device.command_finished(response)
            case StartHash():
                self._finish_event("hash start", await self._host.handle(HashStart()))
            case HashBytes(data):
                self._finish_event("hash data", await self._host.handle(HashData(data)))
            case EndHash():
                self._finish_event("hash end", await self._host.handle(HashEnd()))
            case _:
                assert_never(job)

    def _finish_event(self, name: str, done: EventDone) -> None:
        if done.code:
            self._log.warning("hash sequence failed", step=name, code=hex(done.code))
        self._device.event_finished(ok=done.code == 0)

    async def _as_firmware(self, command: bytes) -> bytes:
        return await self._host.execute(command, 0)

    # --- the platform -----------------------------------------------------------------------------

    async def power_on(self) -> None:
        """Do what firmware does after TPM_Init, then open the registers."""
        async with self._engine:
            with self._host.indivisible():
                await self._start(self._startup)
            self._open()

    async def resume(self) -> None:
        """Open the registers of a TPM that goes on where a predecessor of this process stopped."""
        async with self._engine:
            self._open()

    async def power_on_capped(self) -> None:
        """As `power_on`, but extend PCRs 0-7 with the record that nobody knows any more what was
        measured.

        The TPM is started whatever was configured: TPM_Startup by somebody else would take the
        record away again.
        """
        async with self._engine:
            startup = self._startup
            with self._host.indivisible():
                await self._start(ChipStartup.CLEAR if startup is ChipStartup.NONE else startup)
                await self._host.handle(CapPcrs(firmware.LOST_MEMORY_DIGEST))
            self._open()

    async def power_cycle(self, disconnect: Callable[[], Awaitable[None]]) -> None:
        """Reset the TPM as a power cycle of the machine does.

        Args:
            disconnect: ends every connection to the registers; called when no access has an effect
                any more.
        """
        async with self._power:
            self._device.power_off()
            self._settle()
            await disconnect()
            async with self._engine:
                self._job = None
                self._cycle += 1
                self._device.reset()
                with self._host.indivisible():
                    await self._host.handle(PowerOn())
                    await self._start(self._startup)
                self._open()
            self._waiting_for_idle.unpark_all()
        self._log.info("power cycle", startup=self._startup.value)

    async def set_physical_presence(self, *, asserted: bool) -> int:
        """Set the hardware signal of physical presence; return the TPM's code."""
        async with self._engine:
            return (await self._host.handle(PhysicalPresence(asserted))).code

    async def reset_establishment(self, locality: int) -> int:
        """Clear tpmEstablished as from that locality; return the TPM's code."""
        async with self._engine:
            done = await self._host.handle(ResetEstablished(locality))
            self._look()
            return done.code

    async def _start(self, startup: ChipStartup) -> None:
        try:
            await firmware.power_on(self._as_firmware, startup)
        except firmware.StartupFailed as error:
            # As on a real machine: the chip stays there and tells software what is wrong with it.
            self._log.error("the TPM did not start", reason=str(error))

    def _open(self) -> None:
        self._look()
        self._device.initialised()

    def _look(self) -> None:
        """Take over what the TPM shows besides its responses."""
        self._device.established = self._view.is_established
