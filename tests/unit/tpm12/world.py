# SPDX-License-Identifier: Apache-2.0
"""A deterministic world for engines under test, and a chip in it that tests talk to.

`make_chip()` gives a chip that is manufactured and started up; `make_owned_chip()` one with an
owner. `chip.run(conversation)` runs a conversation of `tpmcore.tss12`, `chip.send(bytes)` one raw
command. Persisting is done at once, into `chip.durable`; `chip.power_cycle()` and `chip.restart()`
bring the chip back from what was stored.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import gmpy2  # type: ignore[import-untyped]

from protocol.tpm12.constants import PhysicalPresenceFlags, ReturnCode, StartupType
from tests.unit.tpm12.plain_state import plain_permanent
from tests.unit.tpm12.shown import check_description
from tpmcore import tss12
from tpmcore.engine import (
    Done,
    EffectResult,
    Event,
    EventDone,
    Failed,
    ParentQuote,
    Persist,
    Step,
)
from tpmcore.errors import TpmError
from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.world import Profile, World
from tpmcore.tss12 import Conversation

T = TypeVar("T")

OWNER_AUTH: Final = b"owner-secret-of-test"
SRK_AUTH: Final = b"srk-secret-of-tests!"


class SeededRandom:
    """A RandomSource that gives the same bytes for the same seed: SHA-256 in counter mode."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self._counter = 0
        self.stirred = b""

    def random(self, size_bytes: int) -> bytes:
        """Return the next bytes."""
        data = b""
        while len(data) < size_bytes:
            self._counter += 1
            data += hashlib.sha256(self._seed + self._counter.to_bytes(8, "big")).digest()
        return data[:size_bytes]

    def stir(self, data: bytes) -> None:
        """Remember what was stirred in."""
        self.stirred += data


class ManualTicks:
    """A TickSource that a test moves."""

    def __init__(self, now_us: int = 1_000_000) -> None:
        self.now_us = now_us

    def ticks_us(self) -> int:
        """Return what the test set."""
        return self.now_us

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_us += int(seconds * 1_000_000)


@functools.cache
def _prime(label: str, bits: int) -> int:
    stream = b"".join(
        hashlib.sha256(f"{label}/{block}".encode()).digest() for block in range(bits // 256 + 1)
    )
    start = int.from_bytes(stream, "big") >> (len(stream) * 8 - bits)
    # With both upper bits set the product of two such primes has exactly twice as many bits.
    return int(gmpy2.next_prime(start | 3 << (bits - 2)))


@functools.cache
def key_pair(serial: int, bits: int, exponent: int) -> tuple[int, int]:
    """Return the primes of the test key with this serial number; always the same ones."""
    primes: list[int] = []
    attempt = 0
    while len(primes) < 2:
        prime = _prime(f"{serial}/{bits}/{attempt}", bits // 2)
        attempt += 1
        if gmpy2.gcd(prime - 1, exponent) == 1:
            primes.append(prime)
    return primes[0], primes[1]


class FixedKeys:
    """A KeySource that hands out test keys in order; each costs its primes once per test run."""

    def __init__(self) -> None:
        self.made = 0

    def generate(self, bits: int, exponent: int) -> tuple[int, int]:
        """Return the primes of the next key."""
        self.made += 1
        return key_pair(self.made, bits, exponent)


@dataclass(slots=True)
class Chip:
    """An engine in a test world, with a memory that survives its power.

    Attributes:
        durable: what was persisted last.
        persist_result: what the next Persist effects end in.
        persisted: number of successful Persist effects.
        parent: answers ParentQuote effects.
        log: every command and response, in order.
    """

    random: SeededRandom
    ticks: ManualTicks
    keys: FixedKeys
    profile: Profile
    engine: Tpm12Engine
    durable: bytes
    persist_result: EffectResult = field(default_factory=Done)
    persisted: int = 0
    parent: Callable[[ParentQuote], EffectResult] = lambda _: Failed()
    locality: int = 0
    log: list[tuple[bytes, bytes]] = field(default_factory=list)
    client_random: SeededRandom = field(default_factory=lambda: SeededRandom("client"))

    def send(self, command: bytes) -> bytes:
        """Execute one command at `locality` and perform its effects.

        Every command of every test is held against what the engine promises of its two states: no
        permanent change without a Persist, no volatile one without a new version, and no secret in
        its description.
        """
        version, volatile = self.engine.volatile_version, self.engine.volatile_state()
        step = self.engine.execute(command, self.locality)
        while isinstance(step, Persist | ParentQuote):
            if isinstance(step, Persist):
                step = self._persist(step)
            else:
                step = self.engine.resume(self.parent(step))
        assert isinstance(step, bytes)
        assert self.engine.permanent_state() == self.durable
        assert plain_permanent(self.engine._tpm.permanent) == self.durable
        if self.engine.volatile_version == version:
            assert self.engine.volatile_state() == volatile
        check_description(self.engine.describe(command, step), command, step)
        self.log.append((command, step))
        return step

    def handle(self, event: Event) -> int:
        """Give the engine an event and return the code that it ends in."""
        step = self.engine.handle(event)
        while isinstance(step, Persist):
            step = self._persist(step)
        assert isinstance(step, EventDone)
        return step.code

    def _persist(self, step: Persist) -> Step:
        if isinstance(self.persist_result, Failed):
            return self.engine.resume(self.persist_result)
        self.durable = step.state
        self.persisted += 1
        return self.engine.resume(self.persist_result)

    def run(self, conversation: Conversation[T], *, locality: int | None = None) -> T:
        """Run a conversation, at another locality if one is given."""
        before = self.locality
        if locality is not None:
            self.locality = locality
        try:
            return tss12.run_sync(self.send, conversation)
        finally:
            self.locality = before

    def code(self, conversation: Conversation[T], *, locality: int | None = None) -> int:
        """Return the return code that a conversation ends in: 0, or that of its TpmError."""
        try:
            self.run(conversation, locality=locality)
        except TpmError as error:
            return error.code
        return ReturnCode.SUCCESS

    def power_cycle(self, startup: StartupType | None = StartupType.CLEAR) -> None:
        """Cut the power: a new engine from what was persisted, started up unless None."""
        self.engine = Tpm12Engine.restore(self._world(), self.profile, self.durable)
        if startup is not None:
            self.run(tss12.startup(startup))

    def restart(self) -> None:
        """Kill and restart the daemon: permanent and volatile state are taken up again."""
        self.engine = self.restored(self.engine.volatile_state())

    def restored(self, volatile: bytes) -> Tpm12Engine:
        """Return the engine of what was persisted and of a volatile state."""
        return Tpm12Engine.restore(self._world(), self.profile, self.durable, volatile)

    def assert_presence(self) -> None:
        """Enable physical presence by command, and assert it."""
        self.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.CMD_ENABLE))
        self.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.PRESENT))

    def _world(self) -> World:
        return World(self.random, self.ticks, self.keys)


def make_chip(
    profile: Profile | None = None,
    *,
    seed: str = "chip",
    startup: StartupType | None = StartupType.CLEAR,
) -> Chip:
    """Manufacture a chip and start it up."""
    profile = profile or Profile()
    random, ticks, keys = SeededRandom(seed), ManualTicks(), FixedKeys()
    engine = Tpm12Engine.manufacture(World(random, ticks, keys), profile)
    chip = Chip(random, ticks, keys, profile, engine, engine.permanent_state())
    if startup is not None:
        chip.run(tss12.startup(startup))
    return chip


def make_owned_chip(profile: Profile | None = None, *, seed: str = "chip") -> Chip:
    """Manufacture a chip whose owner has OWNER_AUTH and whose SRK has SRK_AUTH."""
    chip = make_chip(profile, seed=seed)
    chip.run(
        tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=chip.client_random)
    )
    return chip
