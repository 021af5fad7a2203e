# SPDX-License-Identifier: Apache-2.0
"""The TPM 1.2 engine behind the interface of `tpmcore.engine`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import assert_never

from protocol.errors import WireError
from protocol.tpm12.constants import PCR_COUNT, Ordinal, ReturnCode, Tag
from protocol.tpm12.framing import HEADER_BYTES, error_response, parse_header
from protocol.tpm12.records import record
from tpmcore.engine import (
    CapPcrs,
    Description,
    Done,
    Duration,
    EffectResult,
    Event,
    EventDone,
    Exchange,
    Failed,
    HashData,
    HashEnd,
    HashStart,
    ParentQuote,
    PcrBank,
    Persist,
    PhysicalPresence,
    PowerOn,
    ResetEstablished,
    SetPcr,
    Snapshot,
    Step,
)
from tpmcore.errors import EngineFault, TpmError
from tpmcore.tpm12 import endorsement, optin, pcrs, startup
from tpmcore.tpm12.description import code_of, describe
from tpmcore.tpm12.disclosure import code_name, ordinal_name
from tpmcore.tpm12.dispatch import Dispatcher, Suspended
from tpmcore.tpm12.state import ZERO_DIGEST, Counter, PermanentFlags, PermanentState, SelfTest
from tpmcore.tpm12.stateformat import (
    VolatileState,
    decode_permanent,
    decode_volatile,
    encode_permanent,
    encode_volatile,
)
from tpmcore.tpm12.table import EVERYTHING, table_for
from tpmcore.tpm12.tpm import Tpm
from tpmcore.tpm12.world import Profile, World

CAPPED_PCRS = range(8)
_AUTH_BLOCK_BYTES = 45
_REFUSALS = frozenset(
    {
        ReturnCode.AUTHFAIL,
        ReturnCode.AUTH2FAIL,
        ReturnCode.BAD_LOCALITY,
        ReturnCode.NOTLOCAL,
        ReturnCode.DEFEND_LOCK_RUNNING,
    }
)
_OVERLAP = "a step is pending"
_EXECUTE_TRANSPORT = Ordinal.EXECUTE_TRANSPORT.to_bytes(4, "big")


@record(repr=False)
class _Pending:
    """A command or event whose state is being made durable.

    Attributes:
        permanent: the state that is being persisted.
        volatile_before: volatile state to go back to if that fails.
        command: the command, whose sessions end with an error; empty for an event.
    """

    answer: bytes | EventDone
    permanent: bytes
    volatile_before: bytes
    command: bytes


class Tpm12Engine:
    """One TPM 1.2; see `tpmcore.engine.Engine`.

    Attributes:
        fault: the exception that put the engine into failure mode, for the daemon to report.
    """

    def __init__(self, tpm: Tpm, durable: bytes) -> None:
        self._tpm = tpm
        self._table = table_for(tpm.profile)
        self._dispatcher = Dispatcher(tpm, self._table)
        self._durable = durable
        self._pending: _Pending | Suspended | None = None
        self._volatile_version = 0
        # What was encoded last, and of which version that is.
        self._encoded_volatile: tuple[int, bytes] | None = None
        self.fault: Exception | None = None

    @classmethod
    def manufacture(cls, world: World, profile: Profile) -> Tpm12Engine:
        """Make a new chip, as after TPM_Init; the caller makes `permanent_state` durable first."""
        random = world.random.random
        permanent = PermanentState(
            PermanentFlags(disable=not profile.enabled, deactivated=not profile.activated),
            tpm_proof=random(20),
            context_key=random(16),
            delegate_key=random(16),
            counters=[Counter() for _ in range(profile.max_counters)],
        )
        tpm = Tpm(world, profile, permanent)
        if profile.make_ek:
            endorsement.make_default_ek(tpm)
        else:
            tpm.renew_daa_secrets()
        startup.power_on(tpm)
        return cls(tpm, encode_permanent(permanent))

    @classmethod
    def restore(
        cls, world: World, profile: Profile, permanent: bytes, volatile: bytes | None = None
    ) -> Tpm12Engine:
        """Bring a chip back, as after TPM_Init, or going on exactly where `volatile` was taken.

        Raises:
            WireError: the bytes are no state that this version reads, or not one of this profile.
        """
        state = decode_permanent(permanent)
        _check_fits(state, profile)
        tpm = Tpm(world, profile, state)
        startup.power_on(tpm)
        if volatile is not None:
            _adopt(tpm, decode_volatile(volatile, state, world.ticks.ticks_us()))
        return cls(tpm, permanent)

    def execute(self, command: bytes, locality: int) -> Step:
        """Run one command; see `tpmcore.engine.Engine.execute`."""
        if self._pending is not None:
            raise EngineFault(_OVERLAP)
        tpm = self._tpm
        row = self._dispatcher.effective_row(command)
        tested, exclusive = tpm.self_test, tpm.stany.transport_exclusive
        digest = tpm.stany.audit_digest
        persists = row is not None and (
            row.may_persist(tpm.permanent)
            # The first event of an audit chain advances the persistent counter.
            or (digest == ZERO_DIGEST and self._dispatcher.audits(command, row))
        )
        if not persists and not tpm.permanent.saved_state:
            try:
                response = self._dispatcher.run(command, locality)
            except Exception as fault:
                return self._fail(fault)
            if isinstance(response, Suspended):
                return self._suspend(response)
            changes = row is not None and (row.volatile or command[1] != Tag.RQU_COMMAND & 0xFF)
            if (
                changes
                or tpm.self_test is not tested
                or tpm.stany.transport_exclusive != exclusive
                or tpm.stany.audit_digest is not digest
            ):
                self._volatile_version += 1
            return response
        return self._step(lambda: self._dispatcher.run(command, locality), command)

    def handle(self, event: Event) -> Step:
        """Take an event; see `tpmcore.engine.Engine.handle`."""
        if self._pending is not None:
            raise EngineFault(_OVERLAP)
        step = self._step(lambda: self._run_event(event), b"")
        return EventDone(ReturnCode.FAILEDSELFTEST) if isinstance(step, bytes) else step

    def resume(self, result: EffectResult) -> Step:
        """Go on after an effect; see `tpmcore.engine.Engine.resume`."""
        pending = self._pending
        if pending is None:
            raise EngineFault("no effect is pending")
        self._pending = None
        if isinstance(pending, Suspended):
            return self._step(lambda: self._dispatcher.finish(pending, result), pending.command)
        match result:
            case Done():
                self._durable = pending.permanent
                return pending.answer
            case Failed():
                self._roll_back(pending)
                # Nor may a code of 0 make a success of what was undone.
                code = result.code or ReturnCode.IOERROR
                if isinstance(pending.answer, EventDone):
                    return EventDone(code)
                return error_response(code)
            case _:
                assert_never(result)

    def cancel(self) -> None:
        """Do nothing: the longest command is shorter than a client's patience (key generation)."""

    def duration(self, command: bytes) -> Duration:
        """Return the duration class of the command's row; what is refused is short."""
        row = self._dispatcher.effective_row(command)
        return Duration.SHORT if row is None else row.duration

    def permanent_state(self) -> bytes:
        """Return the permanent state; see `tpmcore.tpm12.stateformat`."""
        return encode_permanent(self._tpm.permanent)

    def volatile_state(self) -> bytes:
        """Return the volatile state; see `tpmcore.tpm12.stateformat`."""
        tpm = self._tpm
        state = VolatileState(
            tpm.stclear, tpm.stany, tpm.self_test, tpm.hardware_presence, tpm.fresh_ek
        )
        encoded = encode_volatile(state, tpm.permanent, tpm.world.ticks.ticks_us())
        self._encoded_volatile = (self._volatile_version, encoded)
        return encoded

    def _volatile_before(self) -> bytes:
        """Return the volatile state to go back to: what the daemon asked for after the last change,
        if it did."""
        encoded = self._encoded_volatile
        if encoded is not None and encoded[0] == self._volatile_version:
            return encoded[1]
        return self.volatile_state()

    def snapshot(self) -> Snapshot:
        """Return how the TPM is; see `tpmcore.engine.Engine.snapshot`."""
        tpm = self._tpm
        values = tuple(tpm.stclear.pcrs)
        changed = [
            index
            for index, (value, initial) in enumerate(zip(values, pcrs.initial_pcrs(), strict=True))
            if value != initial
        ]
        return Snapshot(
            tpm.is_owned, (PcrBank("sha1", values, tuple(changed)),), tuple(_flags(tpm))
        )

    def exchange(self, command: bytes, response: bytes) -> Exchange:
        """Name a command and its response; see `tpmcore.engine.Engine.exchange`."""
        ordinal, code = code_of(command), code_of(response)
        return Exchange(ordinal_name(ordinal), code_name(code), code in _REFUSALS)

    def describe(self, command: bytes, response: bytes) -> Description:
        """Describe a command and its response; see `tpmcore.engine.Engine.describe`."""
        return describe(self._table, command, response)

    @property
    def volatile_version(self) -> int:
        """A number that grows whenever `volatile_state` may have changed."""
        return self._volatile_version

    @property
    def is_established(self) -> bool:
        """The tpmEstablished flag, whose inverse is bit 0 of the TIS ACCESS register (TIS 1.3)."""
        return self._tpm.permanent.flags.tpm_established

    def _suspend(self, suspended: Suspended) -> ParentQuote:
        self._pending = suspended
        return suspended.awaiting.effect

    def _step(self, run: Callable[[], bytes | EventDone | Suspended], command: bytes) -> Step:
        """Run something that may change the permanent state, and ask for it to be made durable."""
        before = self._volatile_before()
        self._volatile_version += 1
        try:
            answer = run()
            if isinstance(answer, Suspended):
                return self._suspend(answer)
            permanent = encode_permanent(self._tpm.permanent)
        except Exception as fault:
            return self._fail(fault)
        if permanent == self._durable:
            return answer
        self._pending = _Pending(answer, permanent, before, command)
        return Persist(permanent)

    def _roll_back(self, pending: _Pending) -> None:
        tpm = self._tpm
        tpm.permanent = decode_permanent(self._durable)
        now_us = tpm.world.ticks.ticks_us()
        _adopt(tpm, decode_volatile(pending.volatile_before, tpm.permanent, now_us))
        tpm.sha1_thread = None
        tpm.hash_sequence = None
        for handle in _named_sessions(pending.command):
            tpm.stany.sessions.pop(handle, None)
            tpm.end_transport(handle)
        self._volatile_version += 1

    def _run_event(self, event: Event) -> EventDone:
        tpm = self._tpm
        try:
            match event:
                case PowerOn():
                    startup.power_on(tpm)
                    self.fault = None
                case HashStart():
                    pcrs.hash_start(tpm)
                case HashData():
                    pcrs.hash_data(tpm, event.data)
                case HashEnd():
                    pcrs.hash_end(tpm)
                case ResetEstablished():
                    optin.reset_established(tpm, event.locality)
                case PhysicalPresence():
                    tpm.hardware_presence = event.asserted
                case CapPcrs():
                    for index in CAPPED_PCRS:
                        value = tpm.stclear.pcrs[index] + event.digest
                        tpm.stclear.pcrs[index] = hashlib.sha1(value).digest()
                case SetPcr():
                    if not 0 <= event.index < PCR_COUNT or len(event.value) != 20:
                        raise TpmError(ReturnCode.BADINDEX)
                    tpm.stclear.pcrs[event.index] = event.value
                case _:
                    assert_never(event)
        except TpmError as error:
            return EventDone(error.code)
        return EventDone(ReturnCode.SUCCESS)

    def _fail(self, fault: Exception) -> Step:
        """Go into failure mode; nothing that the broken command did is persisted."""
        self.fault = fault
        tpm = self._tpm
        tpm.permanent = decode_permanent(self._durable)
        tpm.self_test = SelfTest.FAILED
        self._volatile_version += 1
        return error_response(ReturnCode.FAILEDSELFTEST)


def _flags(tpm: Tpm) -> Iterator[str]:
    """Say what is to be said of a TPM's flags (Part 2, 7.1 to 7.3)."""
    permanent = tpm.permanent.flags
    if tpm.self_test is SelfTest.FAILED:
        yield "failure mode"
    if tpm.stany.post_initialise:
        yield "waits for Startup"
    yield "disabled" if permanent.disable else "enabled"
    yield "deactivated" if tpm.stclear.flags.deactivated or permanent.deactivated else "activated"
    if tpm.physical_presence:
        yield "physical presence"
    if permanent.nv_locked:
        yield "NV locked"
    if permanent.tpm_established:
        yield "established"
    if tpm.stany.transport_exclusive:
        yield "exclusive transport"


def _check_fits(state: PermanentState, profile: Profile) -> None:
    """Refuse a state that no TPM of this profile can come to.

    Raises:
        WireError: it has another number of counter slots, or an audit status that is not kept.
    """
    slots = len(state.counters)
    if slots != profile.max_counters:
        raise WireError("counters", 0, f"{slots} slots, this TPM has {profile.max_counters}")
    for ordinal, audited in state.audit_status.items():
        # Of every profile: the maintenance commands can be switched off and on again.
        row = EVERYTHING.get(ordinal)
        if row is None or row.audited is None or row.audited == audited:
            raise WireError("audit", 0, f"ordinal {ordinal:#x} has no status to be kept")


def _adopt(tpm: Tpm, state: VolatileState) -> None:
    tpm.stclear = state.stclear
    tpm.stany = state.stany
    tpm.self_test = state.self_test
    tpm.hardware_presence = state.hardware_presence
    tpm.fresh_ek = state.fresh_ek


def _named_sessions(command: bytes) -> tuple[int, ...]:
    """Return the sessions that a well-formed command names, and the command wrapped in it."""
    handles = _handles_at_the_end(command)
    if command[6:10] == _EXECUTE_TRANSPORT:
        size = int.from_bytes(command[HEADER_BYTES : HEADER_BYTES + 4], "big")
        wrapped = command[HEADER_BYTES + 4 : HEADER_BYTES + 4 + size]
        return handles + _handles_at_the_end(wrapped)
    return handles


def _handles_at_the_end(command: bytes) -> tuple[int, ...]:
    """Return the handles in the authorization blocks of one command."""
    if len(command) < HEADER_BYTES:
        return ()
    header = parse_header(command)
    count = header.tag - Tag.RQU_COMMAND
    if count not in (1, 2) or len(command) < HEADER_BYTES + count * _AUTH_BLOCK_BYTES:
        return ()
    starts = [len(command) - _AUTH_BLOCK_BYTES * n for n in range(1, count + 1)]
    return tuple([int.from_bytes(command[start : start + 4], "big") for start in starts])
