# SPDX-License-Identifier: Apache-2.0
"""The register file of the chip, without I/O: accesses go in, bytes and effects come out.

What it does is in the tables of `protocol.tis.machine`; this module has the data behind them (FIFO,
requests, interrupt registers) and decodes addresses.

The TPM behind the registers takes one thing at a time: a command (EXECUTION and the two states in
which it is being aborted) or an event of the hash sequence. Whoever hosts the chip takes the
effects after each call, performs them in order and reports the end with `command_finished` or
`event_finished`; there is never a second one to run before that. No access raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, assert_never

from protocol.tis.machine import (
    ARBITRATION,
    EXECUTING,
    HASH_STATES,
    STATUS_BYTE,
    TRANSITIONS,
    UNSETTLED,
    AccessWrite,
    Action,
    Event,
    Holder,
    Ruling,
    State,
)
from protocol.tis.registers import (
    BUFFER_SIZE,
    BURST_SHIFT,
    DEVICE_ID,
    FIFO_WINDOW,
    HASH_LOCALITY,
    INT_ENABLE_MASK,
    INT_GLOBAL_ENABLE,
    INT_POLARITY_LOW_LEVEL,
    INTERFACE_ID_VALUE,
    INTERRUPT_SOURCES,
    INTF_CAPABILITY_VALUE,
    LOCALITIES,
    MAX_BURST,
    REVISION_ID,
    STS_ACTIONS,
    VENDOR_ID,
    Access,
    Interrupt,
    Register,
    Sts,
)

# --- effects --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunCommand:
    """Have the TPM execute a command (any bytes) and report `command_finished`."""

    command: bytes
    locality: int

    def __repr__(self) -> str:
        return f"RunCommand(<{len(self.command)} bytes>, locality={self.locality})"


@dataclass(frozen=True, slots=True)
class CancelCommand:
    """Ask the TPM to end the command under way early; its response will not be shown."""


@dataclass(frozen=True, slots=True)
class StartHash:
    """TPM_HASH_START; report `event_finished`."""


@dataclass(frozen=True, slots=True)
class HashBytes:
    """TPM_HASH_DATA; report `event_finished`."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndHash:
    """TPM_HASH_END; report `event_finished`."""


@dataclass(frozen=True, slots=True)
class RaiseInterrupt:
    """Raise the interrupt line on behalf of a locality."""

    locality: int


Effect = RunCommand | CancelCommand | StartHash | HashBytes | EndHash | RaiseInterrupt

# As plain integers: combining members of a Flag costs microseconds, and this is the hot path.
_VALID: Final = int(Access.VALID)
_ACTIVE_LOCALITY: Final = int(Access.ACTIVE_LOCALITY)
_BEEN_SEIZED: Final = int(Access.BEEN_SEIZED)
_PENDING_REQUEST: Final = int(Access.PENDING_REQUEST)
_REQUEST_USE: Final = int(Access.REQUEST_USE)
_NOT_ESTABLISHED: Final = int(Access.NOT_ESTABLISHED)
_LOCALITY_CHANGE: Final = int(Interrupt.LOCALITY_CHANGE)
_COMMAND_READY: Final = int(Interrupt.COMMAND_READY)
_STS_VALID: Final = int(Interrupt.STS_VALID)
_RESPONSE_THERE: Final = int(Interrupt.DATA_AVAIL | Interrupt.STS_VALID)

_ACCESS_WRITES: Final[Mapping[int, AccessWrite]] = {
    int(write.value): write for write in AccessWrite
}
_ACCESS_ACTIONS: Final = int(Access.REQUEST_USE | Access.ACTIVE_LOCALITY | Access.SEIZE)
_STS_EVENTS: Final[Mapping[int, Event]] = {
    int(Sts.COMMAND_READY): Event.COMMAND_READY,
    int(Sts.GO): Event.GO,
    int(Sts.RESPONSE_RETRY): Event.RETRY,
}


_REGISTER_SIZES: Final[Mapping[Register, int]] = {
    Register.ACCESS: 1,
    Register.INT_ENABLE: 4,
    Register.INT_VECTOR: 1,
    Register.INT_STATUS: 4,
    Register.INTF_CAPABILITY: 4,
    Register.STS: 4,
    Register.INTERFACE_ID: 4,
    Register.DID_VID: 4,
    Register.RID: 1,
}
_OWNERS: Final[Mapping[int, Register]] = {
    register + index: register
    for register, size in _REGISTER_SIZES.items()
    for index in range(size)
}
_FIFO: Final = int(Register.DATA_FIFO)
_FIFO_END: Final = _FIFO + FIFO_WINDOW
_SIZE_FIELD_END: Final = 6
"""Bytes of a command that must be in before its length is known."""


class TisDevice:
    """The registers of one chip, all five localities. Not bound to any clock or transport."""

    def __init__(self, *, established: bool = False) -> None:
        self.established = established
        """tpmEstablished of the TPM behind: a dynamic launch has happened. Survives `reset`."""
        self.reset()

    # --- what the host of the chip says -----------------------------------------------------------

    def take_effects(self) -> tuple[Effect, ...]:
        """Return what is to be done since the last call, in order."""
        if not self._effects:
            return ()
        effects = tuple(self._effects)
        self._effects.clear()
        return effects

    @property
    def busy(self) -> bool:
        """A command or event was given to the TPM and its end was not reported."""
        return self.state in EXECUTING or self.state in (State.HASH_BUSY, State.HASH_ENDING)

    def command_finished(self, response: bytes) -> None:
        """Take the response to `RunCommand`; it is dropped if the command was aborted."""
        if self.state is State.EXECUTION:
            self._response = response[:BUFFER_SIZE]
        self._step(Event.FINISHED)

    def event_finished(self, *, ok: bool) -> None:
        """Take the end of `StartHash`, `HashBytes` or `EndHash`."""
        self._step(Event.EVENT_DONE if ok else Event.EVENT_FAILED)

    def power_off(self) -> None:
        """Begin a reset: no access has an effect until `initialised`; ask a command to end.

        The host waits until the TPM is free and then calls `reset`.
        """
        self.valid = False
        if self.state in EXECUTING:
            self._effects.append(CancelCommand())

    def reset(self) -> None:
        """Put every register to its value after TPM_Init; the TPM is free at this time."""
        self.valid = False
        """tpmRegValidSts. While it is 0 writes are ignored, and nothing but constants reads
        right."""
        self.state = State.IDLE
        self.active: int | None = None
        """The active locality."""
        self.requests = [False] * LOCALITIES
        """requestUse by locality; never set for the active one."""
        self.seized = [False] * LOCALITIES
        self.seizer: int | None = None
        """Locality that gets the chip when the aborted command has ended; only in SWITCHING."""
        self._int_enable = [INT_POLARITY_LOW_LEVEL] * LOCALITIES
        self._int_status = [0] * LOCALITIES
        self._command = bytearray()
        self._response = b""
        self._position = 0
        self._effects: list[Effect] = []

    def initialised(self) -> None:
        """Set tpmRegValidSts: the TPM behind takes commands."""
        self.valid = True

    # --- accesses ---------------------------------------------------------------------------------

    def read(self, locality: int, offset: int, size: int) -> bytes:
        """Return `size` (1, 2, 4) bytes from `offset` of a locality's page.

        Addresses without a register, and STS and FIFO at a locality that is not active, read ones.
        A FIFO read ends with the four addresses of the FIFO and with the response; what is missing
        reads ones.
        """
        if _FIFO <= offset < _FIFO_END:
            data = self.read_fifo(locality, min(size, _FIFO_END - offset))
            return data + b"\xff" * (size - len(data))
        first = _OWNERS.get(offset)
        if first is not None and offset + size <= first + _REGISTER_SIZES[first]:
            value = self._register(locality, first) >> 8 * (offset - first)
            return (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        return bytes(self._byte(locality, address) for address in range(offset, offset + size))

    def read_fifo(self, locality: int, size: int) -> bytes:
        """Return the next bytes of the response: at most `size`, at most burstCount, maybe none."""
        if not self.valid or locality != self.active:
            return b""
        if self._row(Event.FIFO_READ) is None:
            return b""
        start = self._position
        data = self._response[start : start + min(size, MAX_BURST)]
        self._position = start + len(data)
        self._step(Event.FIFO_READ)
        if self._position == len(self._response):
            self._step(Event.ALL_READ)
        return data

    def write(self, locality: int, offset: int, data: bytes) -> bool:
        """Write 1 to 255 bytes (FIFO) or 1, 2, 4 bytes (registers) at a locality's page.

        Returns:
            False if the access is held by wait states: the host presents it again, unchanged, when
            the TPM has finished what it does. Only hash commands of locality 4 are ever held.
        """
        if not self.valid:
            return True
        if _FIFO <= offset < _FIFO_END:
            return self.write_fifo(locality, data[: _FIFO_END - offset])
        if locality == HASH_LOCALITY and len(data) == 1:
            if offset == Register.HASH_START:
                return self._hash(Event.HASH_START)
            if offset == Register.HASH_END:
                return self._hash(Event.HASH_END)
        if offset == Register.ACCESS:
            self._write_access(locality, data[0])
        elif locality != self.active:
            return True
        elif offset == Register.STS:
            event = _STS_EVENTS.get(data[0] & STS_ACTIONS)
            if event is not None:
                self._step(event)
        elif offset == Register.INT_STATUS:
            self._int_status[locality] &= ~data[0]
            # Events that came meanwhile raise the line again.
            self._signal(locality)
        elif Register.INT_ENABLE <= offset < Register.INT_ENABLE + 4:
            self._write_int_enable(locality, offset - Register.INT_ENABLE, data)
        return True

    def write_fifo(self, locality: int, data: bytes) -> bool:
        """Write FIFO bytes; what exceeds burstCount or the command is dropped. See `write`."""
        if not self.valid:
            return True
        if locality == HASH_LOCALITY and (self.active is None or self.state in HASH_STATES):
            return self._hash(Event.HASH_DATA, data[:MAX_BURST])
        if locality == self.active:
            self._step(Event.FIFO_WRITE, data[:MAX_BURST])
        return True

    # --- registers --------------------------------------------------------------------------------

    def _byte(self, locality: int, address: int) -> int:
        register = _OWNERS.get(address)
        if register is None:
            return 0xFF
        return self._register(locality, register) >> 8 * (address - register) & 0xFF

    def _register(self, locality: int, register: Register) -> int:
        match register:
            case Register.ACCESS:
                return self._access(locality)
            case Register.STS:
                return self._sts(locality)
            case Register.INT_ENABLE:
                return self._int_enable[locality]
            case Register.INT_STATUS:
                return self._int_status[locality]
            case Register.INTF_CAPABILITY:
                return INTF_CAPABILITY_VALUE
            case Register.INTERFACE_ID:
                return INTERFACE_ID_VALUE
            case Register.DID_VID:
                return DEVICE_ID << 16 | VENDOR_ID
            case Register.RID:
                return REVISION_ID
            case Register.INT_VECTOR:
                return 0  # no vector: interrupts are messages
            case Register.DATA_FIFO | Register.HASH_START | Register.HASH_END:
                # The FIFO is decoded before, the others are write only.
                return 0xFF
            case _:
                assert_never(register)

    def _access(self, locality: int) -> int:
        value = 0 if self.established else _NOT_ESTABLISHED
        if not self.valid:
            return value
        value |= _VALID
        if self.active == locality:
            value |= _ACTIVE_LOCALITY
        if self.seized[locality]:
            value |= _BEEN_SEIZED
        requests = sum(self.requests)
        if self.requests[locality]:
            value |= _REQUEST_USE
            requests -= 1
        if requests:
            value |= _PENDING_REQUEST
        return value

    def _sts(self, locality: int) -> int:
        if locality != self.active or not self.valid:
            return 0xFFFF_FFFF
        return self._burst_count() << BURST_SHIFT | STATUS_BYTE[self.state]

    def _burst_count(self) -> int:
        match self.state:
            case State.READY | State.RECEPTION:
                return min(BUFFER_SIZE - len(self._command), MAX_BURST)
            case State.COMPLETION:
                return min(len(self._response) - self._position, MAX_BURST)
            case State.HASHING:
                return MAX_BURST
            case _:
                return 0

    def _write_int_enable(self, locality: int, first: int, data: bytes) -> None:
        value = bytearray(self._int_enable[locality].to_bytes(4, "little"))
        data = data[: 4 - first]
        value[first : first + len(data)] = data
        self._int_enable[locality] = int.from_bytes(value, "little") & INT_ENABLE_MASK
        self._signal(locality)

    # --- interrupts -------------------------------------------------------------------------------

    def _interrupt(self, sources: int) -> None:
        """Record an event at the active locality, also while disabled, as hardware does."""
        if self.active is not None:
            self._int_status[self.active] |= sources
            if self._int_enable[self.active] & sources:
                self._signal(self.active)

    def _signal(self, locality: int) -> None:
        enable = self._int_enable[locality]
        if enable & INT_GLOBAL_ENABLE and enable & self._int_status[locality] & INTERRUPT_SOURCES:
            self._effects.append(RaiseInterrupt(locality))

    # --- localities -------------------------------------------------------------------------------

    def _write_access(self, locality: int, value: int) -> None:
        if value & _BEEN_SEIZED:
            self.seized[locality] = False
        write = _ACCESS_WRITES.get(value & _ACCESS_ACTIONS)
        if write is None:
            return  # none or several: vendor specific, ignored here
        match ARBITRATION[write, self._holder(locality)]:
            case Ruling.NOTHING:
                pass
            case Ruling.GRANT:
                self._activate(locality)
            case Ruling.GRANT_SEIZED:
                self._activate(locality)
                self._interrupt(_LOCALITY_CHANGE)
            case Ruling.QUEUE:
                self.requests[locality] = True
            case Ruling.RELEASE:
                self._release()
            case Ruling.WITHDRAW:
                self._withdraw(locality)
            case Ruling.AIM:
                self._aim(locality)
            case Ruling.PREEMPT:
                self._preempt(locality)

    def _holder(self, locality: int) -> Holder:
        if self.active is None:
            return Holder.NOBODY_YET if self.state in UNSETTLED else Holder.NOBODY
        if self.active == locality:
            return Holder.SELF
        return Holder.LOWER if self.active < locality else Holder.HIGHER

    def _activate(self, locality: int) -> None:
        self.active = locality
        self.requests[locality] = False

    def _release(self) -> None:
        if self._row(Event.LEAVE) is None and self.state is not State.SWITCHING:
            return  # in the hash sequence
        self.active = None
        self._step(Event.LEAVE)
        if self.state is State.IDLE:
            self._grant_next()

    def _withdraw(self, locality: int) -> None:
        self.requests[locality] = False
        if self.seizer == locality:
            self.seizer = None
            if self.active is not None:
                # The holder keeps the chip; its command is lost, which STS = 0x40 will tell it.
                self._step(Event.STAY)

    def _aim(self, locality: int) -> None:
        if self.state is State.SWITCHING:
            self.seizer = max(locality, -1 if self.seizer is None else self.seizer)
        else:
            # The TPM is busy with a hash command, which a seize cannot end: as good as a request.
            self.requests[locality] = True

    def _preempt(self, locality: int) -> None:
        if self.state in EXECUTING:
            self.seizer = max(locality, -1 if self.seizer is None else self.seizer)
            self._step(Event.LEAVE)
        else:
            self._step(Event.LEAVE)
            self._seize(locality)

    def _seize(self, locality: int) -> None:
        if self.active is not None:
            self.seized[self.active] = True
        self._activate(locality)
        self._interrupt(_LOCALITY_CHANGE)

    def _grant_next(self) -> None:
        for locality in reversed(range(LOCALITIES)):
            if self.requests[locality]:
                self._activate(locality)
                self._interrupt(_LOCALITY_CHANGE)
                return

    def _hand_over(self) -> None:
        seizer, self.seizer = self.seizer, None
        if seizer is not None:
            self._seize(seizer)
        else:
            self._grant_next()

    # --- steps of the command machine -------------------------------------------------------------

    def _row(self, event: Event) -> tuple[State, Action] | None:
        return TRANSITIONS.get((self.state, event))

    def _hash(self, event: Event, data: bytes = b"") -> bool:
        """Take a hash command of locality 4; False if it must wait."""
        if self.active not in (None, HASH_LOCALITY):
            return True  # another locality has the chip: the whole sequence is ignored
        row = self._row(event)
        if row is not None and row[1] in (Action.WAIT, Action.ABORT_AND_WAIT):
            self._step(event)
            return False
        self._step(event, data)
        return True

    def _step(self, event: Event, data: bytes = b"") -> None:
        """Do what the table says; nothing if it says nothing."""
        row = self._row(event)
        if row is None:
            return
        self.state, action = row
        match action:
            case Action.NOTHING | Action.TAKE | Action.WAIT:
                pass
            case Action.CLEAR:
                self._clear()
            case Action.BECOME_READY:
                self._clear()
                self._interrupt(_COMMAND_READY)
            case Action.BEGIN_STORE:
                self._interrupt(_STS_VALID)
                self._store(data)
            case Action.STORE:
                self._store(data)
            case Action.RUN:
                self._run()
            case Action.CANCEL | Action.ABORT_AND_WAIT:
                self._effects.append(CancelCommand())
            case Action.DELIVER:
                self._interrupt(_RESPONSE_THERE)
            case Action.SIGNAL_VALID:
                self._interrupt(_STS_VALID)
            case Action.REWIND:
                self._position = 0
            case Action.HAND_OVER:
                self._hand_over()
            case Action.HASH_START:
                self._clear()
                self._activate(HASH_LOCALITY)
                self._effects.append(StartHash())
            case Action.HASH_DATA:
                self._effects.append(HashBytes(data))
            case Action.HASH_END:
                self._clear()
                self._effects.append(EndHash())
            case Action.HASH_RELEASE:
                self.active = None
                self._grant_next()
            case _:
                assert_never(action)

    def _clear(self) -> None:
        self._command.clear()
        self._response = b""
        self._position = 0

    def _store(self, data: bytes) -> None:
        """Take bytes of a command up to its length field, or the end of the buffer."""
        command = self._command
        command += data[: BUFFER_SIZE - len(command)]
        if len(command) < _SIZE_FIELD_END:
            return
        size = int.from_bytes(command[2:_SIZE_FIELD_END], "big")
        # A length that is already exceeded counts as reached with the length field itself.
        size = min(max(size, _SIZE_FIELD_END), BUFFER_SIZE)
        if len(command) >= size:
            del command[size:]
            self._step(Event.ALL_RECEIVED)

    def _run(self) -> None:
        if self.active is None:  # unreachable: only the active locality writes tpmGo
            return
        command = bytes(self._command)
        self._clear()
        self._effects.append(RunCommand(command, self.active))
