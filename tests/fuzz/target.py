# SPDX-License-Identifier: Apache-2.0
"""An engine that is held to its promises at every step.

Promised of each command, whatever its bytes: no exception and no failure mode by a fault; a
response with the right size and tag that its own structure reads to the end; at most 100 ms beyond
key generation; no permanent change without Persist and no volatile one without a new version (the
flags of the row); states that stay small and read back as they were written; a description that has
the shape of the messages, and no byte that they do not have.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from protocol.errors import WireError
from protocol.tpm12.constants import Ordinal, ReturnCode, StartupType, Tag
from protocol.tpm12.framing import HEADER_BYTES, Header, build_message, error_response, parse_header
from protocol.tpm12.wire import Reader, Structure
from tests.fuzz.corpus import ROWS
from tests.fuzz.steps import Kind, Step
from tests.unit.tpm12.world import ManualTicks, SeededRandom, key_pair
from tpmcore.engine import (
    CapPcrs,
    Done,
    EffectResult,
    Event,
    EventDone,
    Failed,
    HashData,
    HashEnd,
    HashStart,
    Persist,
    PhysicalPresence,
    PowerOn,
    SetPcr,
)
from tpmcore.engine import Step as EngineStep
from tpmcore.tpm12.certify import CertifyKey2Response
from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.tpm import Tpm
from tpmcore.tpm12.world import Profile, World

LIMIT_S = 0.1
MAX_PERMANENT_BYTES = 256 * 1024
MAX_VOLATILE_BYTES = 128 * 1024
ROUND_TRIP_EVERY = 32
_AUTH_RESPONSE_BYTES = 41
_FIRST_SERIAL = 3
_KEYS_OF_A_KIND = 4
_EVIDENCE = bytes(256 + 20)
# Of a key that is bound to localities or to PCRs that TPM 1.1 had not, CertifyKey tells the newer
# structure (Part 3, 13.8, 8).
_OTHER_RESPONSES: Mapping[int, type[Structure]] = {Ordinal.CERTIFY_KEY: CertifyKey2Response}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from looking through all of the process's memory meanwhile: where that is a test
    runner's, it takes longer than any command may."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Broken(AssertionError):
    """A promise that a step broke."""


class ReusedKeys:
    """A KeySource with few keys of each kind, that knows how long it took to find them."""

    def __init__(self) -> None:
        self.made = 0
        self.spent_s = 0.0

    def generate(self, bits: int, exponent: int) -> tuple[int, int]:
        """Return the primes of one of four keys."""
        started = time.thread_time()
        self.made += 1
        primes = key_pair(_FIRST_SERIAL + self.made % _KEYS_OF_A_KIND, bits, exponent)
        self.spent_s += time.thread_time() - started
        return primes


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """A prepared chip that runs begin with.

    Attributes:
        secrets: what a client of it knows, by name.
        seeds: what was said to it, (return code, command) by ordinal.
    """

    name: str
    profile: Profile
    permanent: bytes
    volatile: bytes
    ticks_us: int
    secrets: dict[str, bytes] = field(default_factory=dict)
    seeds: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)


class Target:
    """One engine under test.

    Args:
        snapshot: what to begin with.
        seed: of the engine's randomness.

    Attributes:
        slowest_s: longest command so far, without key generation.
    """

    def __init__(self, snapshot: Snapshot, seed: str) -> None:
        self.profile = snapshot.profile
        self.random = SeededRandom(seed)
        self.ticks = ManualTicks(snapshot.ticks_us)
        self.keys = ReusedKeys()
        self.durable = snapshot.permanent
        self.engine = self._restore(snapshot.volatile)
        self.slowest_s = 0.0
        self._volatile = self.engine.volatile_state()
        self._persist_result: EffectResult = Done()
        self._steps = 0
        self._last_code = 0
        events: dict[Kind, Callable[[Step], Event]] = {
            Kind.HASH_START: lambda _: HashStart(),
            Kind.HASH_DATA: lambda step: HashData(step.data),
            Kind.HASH_END: lambda _: HashEnd(),
            Kind.PRESENCE: lambda step: PhysicalPresence(bool(step.number)),
            Kind.CAP_PCRS: lambda step: CapPcrs(step.data),
            Kind.SET_PCR: lambda step: SetPcr(step.number, step.data),
        }
        self._events = events

    @property
    def tpm(self) -> Tpm:
        """The insides, for whoever wants to know handles and nonces without asking."""
        return self.engine._tpm

    def apply(self, step: Step) -> bytes:
        """Do one step and check what is promised.

        Returns:
            The response of a command; empty for everything else.

        Raises:
            Broken: a promise does not hold.
        """
        self._steps += 1
        response = b""
        match step.kind:
            case Kind.SEND:
                response = self._send(step.data, step.number)
                self._last_code = parse_header(response).code
            case Kind.POWER_CYCLE:
                self.engine = self._restore(None)
                self._start(step.number)
            case Kind.POWER_ON:
                self._event(PowerOn())
                self._start(step.number)
            case Kind.RESTART:
                self._round_trip(adopt=True)
            case Kind.FAIL_PERSIST:
                self._persist_result = Failed(step.number or None)
            case Kind.ADVANCE:
                self.ticks.advance(step.number)
                self._volatile = self.engine.volatile_state()
            case Kind.ANSWERED:
                if self._last_code != step.number:
                    raise Broken(f"answered with {self._last_code:#x}, not {step.number:#x}")
            case Kind.CHIP:
                raise ValueError("a chip is chosen before the first step")
            case _:
                self._event(self._events[step.kind](step))
        if self._steps % ROUND_TRIP_EVERY == 0:
            self._round_trip(adopt=False)
        return response

    def _restore(self, volatile: bytes | None) -> Tpm12Engine:
        world = World(self.random, self.ticks, self.keys)
        return Tpm12Engine.restore(world, self.profile, self.durable, volatile)

    def _start(self, startup_type: int) -> None:
        self._volatile = self.engine.volatile_state()
        if startup_type:
            body = StartupType(startup_type).to_bytes(2, "big")
            self._send(build_message(Tag.RQU_COMMAND, Ordinal.STARTUP, body), 0)

    def _send(self, command: bytes, locality: int) -> bytes:
        version, keys_s = self.engine.volatile_version, self.keys.spent_s
        with _no_collection():
            started = time.thread_time()
            step = self.engine.execute(command, locality)
            while not isinstance(step, bytes):
                step = self._perform(step)
            spent_s = time.thread_time() - started - (self.keys.spent_s - keys_s)
        self.slowest_s = max(self.slowest_s, spent_s)
        if spent_s > LIMIT_S:
            raise Broken(f"took {spent_s * 1000:.0f} ms")
        self._check_fault()
        _check_response(command, step, self.profile)
        self._check_states(version)
        description = self.engine.describe(command, step)
        _check_shown(command, description.shown_command)
        _check_shown(step, description.shown_response)
        return step

    def _event(self, event: Event) -> None:
        version = self.engine.volatile_version
        step = self.engine.handle(event)
        while not isinstance(step, EventDone):
            step = self._perform(step)
        self._check_fault()
        self._check_states(version)

    def _perform(self, step: EngineStep) -> EngineStep:
        """Carry an effect out, or fail it if that is due."""
        result, self._persist_result = self._persist_result, Done()
        if isinstance(result, Done):
            if isinstance(step, Persist):
                self.durable = step.state
            else:
                result = Done(_EVIDENCE)
        return self.engine.resume(result)

    def _check_fault(self) -> None:
        fault = self.engine.fault
        if fault is not None:
            raise Broken(f"failure mode by {type(fault).__name__}: {fault}") from fault

    def _check_states(self, version: int) -> None:
        volatile = self.engine.volatile_state()
        if self.engine.volatile_version == version and volatile != self._volatile:
            raise Broken("volatile state changed under the same version")
        self._volatile = volatile
        if self.engine.permanent_state() != self.durable:
            raise Broken("permanent state is not what was made durable")
        if len(self.durable) > MAX_PERMANENT_BYTES or len(volatile) > MAX_VOLATILE_BYTES:
            raise Broken(f"states of {len(self.durable)} and {len(volatile)} bytes")

    def _round_trip(self, *, adopt: bool) -> None:
        """Take both states into a second engine, which must have them as they were."""
        try:
            engine = self._restore(self._volatile)
        except WireError as error:
            raise Broken(f"own state is refused: {error}") from error
        if engine.permanent_state() != self.durable or engine.volatile_state() != self._volatile:
            raise Broken("a state changes by being written and read")
        if adopt:
            self.engine = engine


def _check_shown(message: bytes, shown: bytes) -> None:
    """Check what may be shown of a message: its length, its header, and nothing of others."""
    if len(shown) != len(message):
        raise Broken(f"{len(shown)} bytes are shown of {len(message)}")
    if len(message) >= HEADER_BYTES and shown[:HEADER_BYTES] != message[:HEADER_BYTES]:
        raise Broken("another header is shown")
    if int.from_bytes(shown, "big") & ~int.from_bytes(message, "big"):
        raise Broken("something else is shown")


def _check_response(command: bytes, response: bytes, profile: Profile) -> None:
    """Check header, tag and structure of a response."""
    try:
        header = parse_header(response)
    except WireError as error:
        raise Broken("response without a header") from error
    if header.size != len(response) or len(response) > profile.input_buffer_bytes:
        raise Broken(f"paramSize {header.size}, but {len(response)} bytes")
    if header.code != ReturnCode.SUCCESS:
        if response != error_response(header.code):
            raise Broken("an error of more than a header")
        return
    request = parse_header(command)
    if header.tag - Tag.RSP_COMMAND != request.tag - Tag.RQU_COMMAND:
        raise Broken(f"tag {header.tag:#x} answers {request.tag:#x}")
    _check_body(request, response, header.tag - Tag.RSP_COMMAND)


def _check_body(request: Header, response: bytes, blocks: int) -> None:
    row = ROWS.get(request.code)
    if row is None:
        raise Broken("success of an ordinal without a row")
    end = len(response) - blocks * _AUTH_RESPONSE_BYTES
    try:
        _read_whole(row.response, response, end)
    except WireError as error:
        other = _OTHER_RESPONSES.get(row.ordinal)
        try:
            if other is None:
                raise
            _read_whole(other, response, end)
        except WireError:
            raise Broken(f"response of {row.ordinal.name} does not parse: {error}") from error


def _read_whole(kind: type[Structure], response: bytes, end: int) -> None:
    reader = Reader(response, HEADER_BYTES, end)
    kind.read(reader)
    reader.finish()
