# SPDX-License-Identifier: Apache-2.0
"""The tpm_tis driver: TPM commands by way of the registers of one locality.

It does what drivers of real chips do: waits for a valid ACCESS, requests the locality, writes by
burstCount and checks Expect, sets tpmGo, waits for the dataAvail interrupt (looking at STS now and
then all the same) as long as the ordinal may take, reads by burstCount, retries a response that
came out wrong, relinquishes. Several accesses are put on the bus before the first reply is awaited
wherever the later ones do no harm if the earlier fail; a command of up to 255 bytes so costs five
round trips.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from protocol.errors import WireError
from protocol.tis.durations import (
    DURATION_PROPERTY,
    TIMEOUT_PROPERTY,
    Durations,
    Timeouts,
    decode_durations,
    decode_timeouts,
)
from protocol.tis.mmio import BusLost, MmioBus, locality_socket
from protocol.tis.registers import (
    BUFFER_SIZE,
    HEADER_SIZE,
    INT_GLOBAL_ENABLE,
    INTERRUPT_SOURCES,
    STS_CANCELLED,
    STS_MUST_BE_ZERO,
    Access,
    Interrupt,
    Register,
    Sts,
)
from protocol.tis.transfer import (
    FIRST_POLL_S,
    LONGEST_POLL_S,
    Hopeless,
    Trouble,
    held,
    read_register,
    read_status,
    receive_response,
    send_command,
    value_within,
)

_HEADER: Final = struct.Struct(">HII")
_CAPABILITY: Final = struct.Struct(">HII III")
_TAG: Final = 0x00C1
_ORD_CONTINUE_SELF_TEST: Final = 83
_ORD_STARTUP: Final = 153
_ORD_GET_CAPABILITY: Final = 101
_CAP_PROPERTY: Final = 5
_INVALID_POSTINIT: Final = 38
_BUSY_CODES: Final = frozenset((0x800, 0x802))  # TPM_RETRY, TPM_DOING_SELFTEST

_STARTUP_CLEAR: Final = struct.pack(">HIIH", _TAG, 12, _ORD_STARTUP, 1)
_CONTINUE_SELF_TEST: Final = _HEADER.pack(_TAG, HEADER_SIZE, _ORD_CONTINUE_SELF_TEST)

# As plain integers: combining members of a Flag costs microseconds, and this is the hot path.
_ACTIVE: Final = int(Access.VALID | Access.ACTIVE_LOCALITY)
_ACTIVE_MASK: Final = _ACTIVE | int(Access.REQUEST_USE)
_RELINQUISH: Final = int(Access.ACTIVE_LOCALITY)
_REQUEST: Final = int(Access.REQUEST_USE)
_COMMAND_READY: Final = int(Sts.COMMAND_READY)
_GO: Final = int(Sts.GO)
_DONE: Final = int(Sts.VALID | Sts.DATA_AVAIL)
_DATA_INTERRUPT: Final = int(Interrupt.DATA_AVAIL)
_INTERRUPTS: Final = int(Interrupt.DATA_AVAIL | Interrupt.LOCALITY_CHANGE)
_STS: Final = int(Register.STS)
_ACCESS: Final = int(Register.ACCESS)

_MISSED_INTERRUPT_S: Final = 0.25
_SEND_ATTEMPTS: Final = 3


class TisError(Exception):
    """The chip gave no response to a command.

    Args:
        reason: what went wrong, for the log.
        certain: True if the command surely was not executed; False if it may have been.
    """

    def __init__(self, reason: str, *, certain: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.certain = certain


class Relinquish(enum.Enum):
    """When the driver gives the locality back after a command."""

    ALWAYS = "always"  # as Linux: other localities get their turn between any two commands
    IF_REQUESTED = "if-requested"  # as mini-os: only when pendingRequest shows that somebody waits


@dataclass(frozen=True, slots=True)
class TisOptions:
    """How a driver behaves; the defaults suit the manager.

    Attributes:
        interrupts: False polls STS instead of waiting for interrupt messages.
        relinquish: when the locality is given back.
        startup: send TPM_Startup(ST_CLEAR) to a chip that nobody started.
        locality_wait_s: how long another locality may keep the chip from us.
        busy_wait_s: how long TPM_RETRY and TPM_DOING_SELFTEST are answered by sending again.
        reconnect_s: how long a chip whose process is gone may take to come back.
    """

    interrupts: bool = True
    relinquish: Relinquish = Relinquish.ALWAYS
    startup: bool = True
    locality_wait_s: float = 30.0
    busy_wait_s: float = 30.0
    reconnect_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ChipInfo:
    """What the identification registers say."""

    vendor_id: int
    device_id: int
    revision: int
    interface_capability: int


Connect = Callable[[], Awaitable[MmioBus]]


@asynccontextmanager
async def open_tis(
    run_dir: Path,
    locality: int,
    options: TisOptions = TisOptions(),
) -> AsyncIterator[TisDriver]:
    """Connect to a chip and initialise it as a driver's probe does.

    Args:
        run_dir: folder of the chip's sockets `locality0.sock` to `locality4.sock`.
        locality: 0 to 4; the socket file's permissions decide whether we may.
        options: see `TisOptions`.

    Yields:
        The driver. Its connection is closed and the locality given up at the end.

    Raises:
        TisError: no chip within `reconnect_s`, or it does not answer as a TPM.
    """
    path = locality_socket(run_dir, locality)
    driver = TisDriver(partial(MmioBus.connect, path), options)
    try:
        await driver.connect()
        yield driver
    finally:
        driver.close()


class TisDriver:
    """One locality of one chip. Commands of several tasks queue in order of arrival."""

    def __init__(self, connect: Connect, options: TisOptions) -> None:
        """Use `open_tis`, but with a transport of one's own.

        Args:
            connect: makes a connection to the locality page; OSError or BusLost if there is none.
            options: see `TisOptions`.
        """
        self._connect = connect
        self._options = options
        self._lock = trio.Lock()
        self._bus: MmioBus | None = None
        self._went = False
        """tpmGo was written for the command under way, so it may have run."""
        self._abandoned_s = 0.0
        """How long the command that was aborted last may still occupy the chip."""
        self._interrupts = False
        self._int_enable = 0
        """INT_ENABLE while no command is waited for."""
        self.generation = 0
        """Grows whenever the connection to the chip was made anew: its sessions and keys may be
        gone."""
        self.timeouts = Timeouts()
        self.durations = Durations()
        self.info = ChipInfo(0, 0, 0, 0)

    async def connect(self) -> None:
        """Make sure that there is a connection to an initialised chip.

        Raises:
            TisError: it did not come up in `reconnect_s`.
        """
        async with self._lock:
            await self._connected()

    def close(self) -> None:
        """Give up locality and connection; idempotent."""
        if self._bus is not None:
            self._abandon()
        self._drop()

    async def transact(self, command: bytes) -> bytes:
        """Have the chip execute a command.

        A chip that is not there yet or lost before tpmGo is waited for; TPM_RETRY and
        TPM_DOING_SELFTEST are answered by sending again. If cancelled, the command is aborted and
        the locality given up: whether it ran is not known.

        Args:
            command: whole TPM command, 10 to 4096 bytes.

        Returns:
            The response, at least 10 bytes; its length is that of its header.

        Raises:
            TisError: no response; `certain` tells whether the command surely did not run.
        """
        size = int.from_bytes(command[2:6], "big")
        if not HEADER_SIZE <= len(command) <= BUFFER_SIZE or size != len(command):
            reason = f"command of {len(command)} bytes whose header says {size}"
            raise TisError(reason, certain=True)
        async with self._lock:
            deadline = trio.current_time() + self._options.busy_wait_s
            pause_s = 0.005
            while True:
                response = await self._once(command)
                code = int.from_bytes(response[6:10], "big")
                if code not in _BUSY_CODES or trio.current_time() + pause_s > deadline:
                    return response
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.5)

    async def _once(self, command: bytes) -> bytes:
        """Execute a command once, over as many connections as it takes until tpmGo."""
        give_up = trio.current_time() + self._options.reconnect_s
        while True:
            bus = await self._connected()
            try:
                return await self._attempts(bus, command)
            except BusLost as error:
                self._drop()
                if self._went:
                    reason = f"chip lost during a command: {error}"
                    raise TisError(reason, certain=False) from error
                if trio.current_time() > give_up:
                    raise TisError(f"chip lost again and again: {error}", certain=True) from error

    async def _attempts(self, bus: MmioBus, command: bytes) -> bytes:
        """Execute a command on this connection; send again what went wrong before tpmGo."""
        attempt = 1
        while True:
            self._went = False
            try:
                return await self._attempt(bus, command)
            except Trouble as trouble:
                self._abandon()
                hopeless = self._went or isinstance(trouble, Hopeless)
                if hopeless or attempt == _SEND_ATTEMPTS:
                    raise TisError(str(trouble), certain=not self._went) from trouble
                attempt += 1
            except BaseException:
                # Cancelled, or the bus broke: nobody waits for this response any more.
                self._abandon()
                raise

    async def _attempt(self, bus: MmioBus, command: bytes) -> bytes:
        sts = await self._take_chip(bus)
        await send_command(bus, self.timeouts, command, sts)
        ordinal = int.from_bytes(command[6:10], "big")
        duration_s = self.durations.of(ordinal)
        self._abandoned_s = duration_s
        self._went = True
        bus.write(_STS, _GO)
        # A light command is done before the next access is looked at.
        sts = await value_within(bus, bus.request_read(_STS, 4), self.timeouts.c_s)
        if held(sts) & _DONE != _DONE:
            sts = await self._wait_done(bus, ordinal, duration_s)
        response = await receive_response(bus, self.timeouts, sts)
        self._abandoned_s = 0.0
        try:
            await self._release(bus)
        except (BusLost, Trouble):
            # The response is here, whatever became of the chip since.
            self._drop()
        return response

    # --- locality and commandReady ---------------------------------------------------------------

    async def _take_chip(self, bus: MmioBus) -> int:
        """Get the locality and bring the chip to Ready; return the 32 bits of STS there."""
        bus.write(_ACCESS, _REQUEST)
        # Ignored by the chip if the locality is not ours at once.
        bus.write(_STS, _COMMAND_READY)
        sts = await value_within(bus, bus.request_read(_STS, 4), self.timeouts.a_s)
        if sts & STS_MUST_BE_ZERO:
            await self._wait_locality(bus)
            bus.write(_STS, _COMMAND_READY)
            sts = await read_status(bus, self.timeouts.b_s)
        if sts & 0xFF == STS_CANCELLED:
            self._abandoned_s = 0.0
            return sts
        return await self._wait_ready(bus)

    async def _wait_locality(self, bus: MmioBus) -> None:
        """Wait for the locality that was requested: valid by timeout A, ours when it is our
        turn."""
        started = trio.current_time()
        valid_until = started + self.timeouts.a_s
        ours_until = started + max(self._options.locality_wait_s, self.timeouts.a_s)
        pause_s = FIRST_POLL_S
        while True:
            access = await read_register(bus, _ACCESS, self.timeouts.a_s)
            if access & _ACTIVE_MASK == _ACTIVE and access != 0xFF:
                return
            now = trio.current_time()
            if not access & Access.VALID or access == 0xFF:
                if now > valid_until:
                    raise Hopeless(f"ACCESS reads {access:#04x}, never valid")
            else:
                if now > ours_until:
                    raise Hopeless(f"locality not granted, ACCESS reads {access:#04x}")
                if access & Access.BEEN_SEIZED:
                    bus.write(_ACCESS, int(Access.BEEN_SEIZED))
                if not access & Access.REQUEST_USE:
                    # It came before the chip was valid, or was lost with a seize or reset.
                    bus.write(_ACCESS, _REQUEST)
            with trio.move_on_after(pause_s):
                await bus.wait_interrupt()
            bus.interrupted = False
            pause_s = min(2 * pause_s, LONGEST_POLL_S)

    async def _wait_ready(self, bus: MmioBus) -> int:
        """Wait for commandReady, longer than timeout B if an aborted command is still being
        executed."""
        deadline = trio.current_time() + max(self.timeouts.b_s, self._abandoned_s)
        pause_s = FIRST_POLL_S
        while True:
            sts = await read_status(bus, self.timeouts.b_s)
            if sts & _COMMAND_READY:
                self._abandoned_s = 0.0
                return sts
            if trio.current_time() > deadline:
                raise Hopeless(f"commandReady does not come, STS reads {sts & 0xFF:#04x}")
            bus.write(_STS, _COMMAND_READY)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_POLL_S)

    async def _release(self, bus: MmioBus) -> None:
        match self._options.relinquish:
            case Relinquish.ALWAYS:
                bus.write(_ACCESS, _RELINQUISH)
            case Relinquish.IF_REQUESTED:
                bus.write(_STS, _COMMAND_READY)
                access = await read_register(bus, _ACCESS, self.timeouts.a_s)
                if access & Access.PENDING_REQUEST:
                    bus.write(_ACCESS, _RELINQUISH)

    # --- execution -------------------------------------------------------------------------------

    async def _wait_done(self, bus: MmioBus, ordinal: int, duration_s: float) -> int:
        """Wait for the response of a command under way; return STS."""
        deadline = trio.current_time() + duration_s
        if self._interrupts:
            # Only now: a command that is done at once costs no interrupt message.
            bus.write(Register.INT_ENABLE, self._int_enable | _DATA_INTERRUPT, 4)
        pause_s = FIRST_POLL_S
        while True:
            if self._interrupts:
                # What is cleared here the STS below shows; what comes later raises the line.
                bus.interrupted = False
                bus.write(Register.INT_STATUS, INTERRUPT_SOURCES)
            sts = await read_status(bus, self.timeouts.c_s)
            if sts & _DONE == _DONE:
                break
            if sts & 0xFF == STS_CANCELLED:
                raise Trouble(f"ordinal {ordinal:#x} was cancelled")
            if trio.current_time() > deadline:
                raise Trouble(f"ordinal {ordinal:#x} takes longer than {duration_s:.1f} s")
            if self._interrupts:
                with trio.move_on_after(min(_MISSED_INTERRUPT_S, duration_s)):
                    await bus.wait_interrupt()
            else:
                await trio.sleep(pause_s)
                pause_s = min(1.5 * pause_s, LONGEST_POLL_S)
        if self._interrupts:
            bus.write(Register.INT_ENABLE, self._int_enable, 4)
        return sts

    # --- connection ------------------------------------------------------------------------------

    def _abandon(self) -> None:
        """Abort what is under way and give up the locality; waits for nothing."""
        bus = self._bus
        if bus is None:
            return
        bus.abandon_reads()
        try:
            bus.write(_STS, _COMMAND_READY)
            bus.write(_ACCESS, _RELINQUISH)
        except BusLost:
            self._drop()

    def _drop(self) -> None:
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    async def _connected(self) -> MmioBus:
        """Return the connection, made anew and initialised if there is none."""
        if self._bus is not None:
            return self._bus
        give_up = trio.current_time() + self._options.reconnect_s
        pause_s = 0.01
        while True:
            try:
                self._bus = await self._connect()
                self.generation += 1
                await self._probe(self._bus)
            except (OSError, BusLost, TisError) as error:
                self._drop()
                if trio.current_time() + pause_s > give_up:
                    raise TisError(f"no chip: {error}", certain=True) from error
            except BaseException:
                self._drop()
                raise
            else:
                return self._bus
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.2)

    async def _probe(self, bus: MmioBus) -> None:
        """Initialise a chip just connected to: identity, interrupts, timeouts, self-test."""
        self.timeouts = Timeouts()
        self.durations = Durations()
        # A predecessor of ours may have left a command.
        self._abandoned_s = self._options.busy_wait_s
        self._interrupts = False
        try:
            bus.write(_ACCESS, _REQUEST)
            await self._wait_locality(bus)
            await self._identify(bus)
        except Trouble as trouble:
            raise TisError(str(trouble), certain=True) from trouble
        await self._ask_times(bus)
        await self._attempts(bus, _CONTINUE_SELF_TEST)

    async def _identify(self, bus: MmioBus) -> None:
        limit_s = self.timeouts.a_s
        identity = await read_register(bus, Register.DID_VID, limit_s, 4)
        revision = await read_register(bus, Register.RID, limit_s)
        capability = await read_register(bus, Register.INTF_CAPABILITY, limit_s, 4)
        if identity & 0xFFFF in (0, 0xFFFF):
            raise Trouble(f"DID_VID reads {identity:#010x}, no device")
        self.info = ChipInfo(identity & 0xFFFF, identity >> 16, revision, capability)
        enable = await read_register(bus, Register.INT_ENABLE, limit_s, 4)
        enable &= ~(INT_GLOBAL_ENABLE | INTERRUPT_SOURCES)
        if self._options.interrupts and capability & _INTERRUPTS == _INTERRUPTS:
            enable |= INT_GLOBAL_ENABLE | Interrupt.LOCALITY_CHANGE
            self._interrupts = True
        self._int_enable = enable
        bus.write(Register.INT_ENABLE, enable, 4)

    async def _ask_times(self, bus: MmioBus) -> None:
        """Read timeouts and durations from the chip; one that nobody started is started first."""
        value, code = await self._property(bus, TIMEOUT_PROPERTY)
        if code == _INVALID_POSTINIT and self._options.startup:
            await self._attempts(bus, _STARTUP_CLEAR)
            value, code = await self._property(bus, TIMEOUT_PROPERTY)
        try:
            if code == 0:
                self.timeouts = decode_timeouts(value)
            value, code = await self._property(bus, DURATION_PROPERTY)
            if code == 0:
                self.durations = decode_durations(value)
        except WireError as error:
            raise TisError(f"capabilities of the chip: {error}", certain=True) from error

    async def _property(self, bus: MmioBus, number: int) -> tuple[bytes, int]:
        command = _CAPABILITY.pack(
            _TAG, _CAPABILITY.size, _ORD_GET_CAPABILITY, _CAP_PROPERTY, 4, number
        )
        response = await self._attempts(bus, command)
        return response[HEADER_SIZE + 4 :], int.from_bytes(response[6:10], "big")
