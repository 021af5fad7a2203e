# SPDX-License-Identifier: Apache-2.0
"""An engine and its client in one process, and the time that each command takes there."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection
from typing import Final, TypeVar

from bench.peers import KernelRandom
from daemons.runtime.clock import MonotonicTicks
from protocol.tpm12.constants import EncScheme, KeyUsage, Ordinal, PhysicalPresenceFlags, SigScheme
from protocol.tpm12.framing import HEADER_BYTES
from protocol.tpm12.keys import Key
from tpmcore import tss12
from tpmcore.engine import Done, Event, EventDone, KeySource
from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.smallrsa import generate_primes
from tpmcore.tpm12.world import Profile, World
from tpmcore.tss12 import Conversation

T = TypeVar("T")

SECRET: Final = bytes(20)
"""Of everything that has one."""
BITS: Final = 2048
EXPONENT: Final = 65537

_PAIRS: Final = 8
_NAMES: Final = {ordinal.value: ordinal.name for ordinal in Ordinal}
_STAGED: Final = frozenset({Ordinal.DAA_JOIN, Ordinal.DAA_SIGN})
_STAGE_AT: Final = HEADER_BYTES + 4


class KeptKeys:
    """A KeySource that searches once: key generation is not what is measured."""

    def __init__(self) -> None:
        self._pairs = [generate_primes(BITS, EXPONENT, KernelRandom()) for _ in range(_PAIRS)]
        self._next = 0

    def generate(self, bits: int, exponent: int) -> tuple[int, int]:
        """Return one of the pairs of primes."""
        if (bits, exponent) != (BITS, EXPONENT):
            raise ValueError(f"no kept key has {bits} bits and exponent {exponent}")
        self._next += 1
        return self._pairs[self._next % _PAIRS]


class TimedChip:
    """An engine that is started up, and its client; persisting costs nothing here.

    Attributes:
        locality: where commands are sent.
        client_random: the client's nonces.
        timed: names of the commands whose time is noted, see `name_of`.
        variant: what is added to those names now.
        samples_us: those times by name.
    """

    def __init__(self, keys: KeySource, profile: Profile | None = None) -> None:
        self.client_random = KernelRandom()
        self.locality = 0
        self.timed: Collection[str] = ()
        self.variant = ""
        self.samples_us: dict[str, list[float]] = defaultdict(list)
        self._kept_version = -1
        self._world = World(KernelRandom(), MonotonicTicks(), keys)
        self.renew(profile or Profile(maintenance_commands=True))

    def renew(self, profile: Profile) -> None:
        """Begin anew with another chip."""
        self.engine = Tpm12Engine.manufacture(self._world, profile)
        self.start()

    def start(self) -> None:
        """Let it start up and test itself, which the first command that needs it would do else."""
        self.run(tss12.startup())
        self.run(tss12.continue_self_test())

    def send(self, command: bytes) -> bytes:
        """Execute one command, and note its time if it is one of those that are timed."""
        engine, locality = self.engine, self.locality
        started = time.perf_counter_ns()
        step = engine.execute(command, locality)
        while not isinstance(step, bytes):
            step = engine.resume(Done())
        elapsed_us = (time.perf_counter_ns() - started) / 1000
        self._keep_volatile()
        name = name_of(command) + self.variant
        if name in self.timed:
            self.samples_us[name].append(elapsed_us)
        return step

    def handle(self, event: Event) -> None:
        """Give the engine an event."""
        step = self.engine.handle(event)
        while not isinstance(step, EventDone):
            step = self.engine.resume(Done())
        self._keep_volatile()

    def _keep_volatile(self) -> None:
        """Ask for the volatile state if it may have changed, as the daemons do; not timed."""
        if self.engine.volatile_version != self._kept_version:
            self.engine.volatile_state()
            self._kept_version = self.engine.volatile_version

    def run(self, conversation: Conversation[T]) -> T:
        """Run a conversation."""
        return tss12.run_sync(self.send, conversation)

    def take_ownership(self) -> None:
        """Install an owner."""
        self.run(
            tss12.take_ownership(owner_auth=SECRET, srk_auth=SECRET, random=self.client_random)
        )

    def assert_presence(self) -> None:
        """Enable physical presence by command, and assert it."""
        self.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.CMD_ENABLE))
        self.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.PRESENT))


def name_of(command: bytes) -> str:
    """Return what a command is called in the table: its ordinal, and its stage if it has one."""
    ordinal = int.from_bytes(command[6:10], "big")
    name = _NAMES[ordinal]
    return f"{name} stage {command[_STAGE_AT]}" if ordinal in _STAGED else name


def template(usage: KeyUsage, *, flags: int = 0, is_key12: bool = False) -> Key:
    """Describe a key of 2048 bits with the schemes of its usage."""
    signing = usage in (KeyUsage.SIGNING, KeyUsage.IDENTITY)
    return Key.template(
        usage,
        enc_scheme=EncScheme.NONE if signing else EncScheme.RSAESOAEP_SHA1_MGF1,
        sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1 if signing else SigScheme.NONE,
        bits=BITS,
        flags=flags,
        is_key12=is_key12,
    )
