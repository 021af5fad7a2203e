# SPDX-License-Identifier: Apache-2.0
"""The engine alone, in this process: what one command costs without any way to it.

Promised are: PCRRead and Extend at most 10 us; a command with RSA private operations at most 1.3
times the cost of those; every other one at most 60 us. The cost of RSA is measured beside it, in
the same turns, with the library that the engine uses and keys of the same length. Public operations
are not the engine's either, so theirs is added to what is allowed. In DAA the modular
exponentiations count as private operations do. New keys come from stock and cost nothing here; the
state that is to be persisted is made, and is not written anywhere. Between two commands the
volatile state is asked for, untimed, as the daemons do after each change of it (5 us).

An RSA operation that is repeated in a loop has the processor's caches for itself. In a command it
has not: the engine ran before it, or milliseconds of other things and the engine. So each is
measured behind what it stands behind there, see Behind; a public one takes a fifth longer for it,
or more than twice as long.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from bench.ordinals import all_routines
from bench.ordinals.chip import BITS, EXPONENT, SECRET, KeptKeys, TimedChip
from bench.ordinals.routine import Behind, Power, Routine, Rsa, Work
from protocol.tpm12.constants import Ordinal
from tpmcore import tss12

LIGHT_US: Final = 10.0
OTHERS_US: Final = 60.0
PRIVATE_RATIO: Final = 1.3

_LIGHT: Final = frozenset({Ordinal.PCR_READ.name, Ordinal.EXTEND.name})
_BATCH: Final = 20
_DIGEST: Final = bytes(20)
_PLAIN: Final = bytes(60)
_SELF_TEST_BITS: Final = 1024


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: a command, what it took, and what it may take.

    Attributes:
        rsa_us: RSA work in it.
    """

    name: str
    median_us: float
    least_us: float
    rsa_us: float
    limit_us: float
    promise: str

    @property
    def kept(self) -> bool:
        """Whether it is within its limit."""
        return self.median_us <= self.limit_us


class _Floor:
    """What the libraries take, measured in turns with the engine.

    Args:
        routines: what is measured beside it.
        command: sends any command to an engine; see the module on what it is for.
    """

    def __init__(self, routines: Sequence[Routine], command: Callable[[], object]) -> None:
        self._operations = _rsa_operations()
        self._command = command
        self._powers = [
            power for each in routines for work in each.measures.values() for power in work.powers
        ]
        self._kinds = {
            (kind, each.behind)
            for each in routines
            for work in each.measures.values()
            for kind in work.rsa
        }
        self._samples: dict[tuple[Rsa, Behind], list[float]] = defaultdict(list)
        self._power_samples: dict[Power, list[float]] = defaultdict(list)

    def measure(self) -> None:
        """Take a batch of samples of every operation, and a few of every exponentiation."""
        for kind, behind in self._kinds:
            operation, before = self._operations[kind], self._before(behind)
            # All exponentiations together take a tenth of a second.
            count = 1 if behind is Behind.POWERS else _BATCH
            self._samples[kind, behind] += _samples_us(operation, count, before)

    def _before(self, behind: Behind) -> Callable[[], object]:
        earlier: Mapping[Behind, Callable[[], object]] = {
            Behind.COMMAND: self._command,
            Behind.FIRST_USE: self._operations[Rsa.SIGN_WITH_NEW],
            Behind.POWERS: self._measure_powers,
        }

        def before() -> None:
            earlier[behind]()
            self._command()

        return before

    def _measure_powers(self) -> None:
        for power in self._powers:
            self._power_samples[power] += _samples_us(power, 1)

    def private_us(self, work: Work, behind: Behind) -> float:
        """Return the cost of the private operations and exponentiations in a command."""
        rsa_us = self._rsa_us([kind for kind in work.rsa if kind.is_private], behind)
        return rsa_us + sum([statistics.median(self._power_samples[p]) for p in work.powers])

    def public_us(self, work: Work, behind: Behind) -> float:
        """Return the cost of the public operations in a command."""
        return self._rsa_us([kind for kind in work.rsa if not kind.is_private], behind)

    def _rsa_us(self, kinds: Sequence[Rsa], behind: Behind) -> float:
        return sum([statistics.median(self._samples[kind, behind]) for kind in kinds])


def _rsa_operations() -> Mapping[Rsa, Callable[[], object]]:
    key = rsa.generate_private_key(EXPONENT, BITS)
    public = key.public_key()
    small = rsa.generate_private_key(EXPONENT, _SELF_TEST_BITS)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), b"TCPA")
    pkcs1, prehashed = padding.PKCS1v15(), utils.Prehashed(hashes.SHA1())
    ciphertext = public.encrypt(_PLAIN, oaep)
    signature = key.sign(_DIGEST, pkcs1, prehashed)
    new_numbers, small_numbers = key.private_numbers(), small.private_numbers()
    small_ciphertext = small.public_key().encrypt(b"", oaep)

    def new() -> rsa.RSAPrivateKey:
        return new_numbers.private_key(unsafe_skip_rsa_key_validation=True)

    def self_test() -> None:
        built = small_numbers.private_key(unsafe_skip_rsa_key_validation=True)
        built.sign(_DIGEST, pkcs1, prehashed)
        built.decrypt(small_ciphertext, oaep)

    return {
        Rsa.SIGN: lambda: key.sign(_DIGEST, pkcs1, prehashed),
        Rsa.DECRYPT: lambda: key.decrypt(ciphertext, oaep),
        Rsa.SIGN_WITH_NEW: lambda: new().sign(_DIGEST, pkcs1, prehashed),
        Rsa.DECRYPT_WITH_NEW: lambda: new().decrypt(ciphertext, oaep),
        Rsa.ENCRYPT: lambda: public.encrypt(_PLAIN, oaep),
        Rsa.VERIFY: lambda: public.verify(signature, _DIGEST, pkcs1, prehashed),
        Rsa.SELF_TEST: self_test,
    }


def _samples_us(
    run: Callable[[], object], count: int, before: Callable[[], object] = lambda: None
) -> list[float]:
    """Time something, each time behind something else that is not timed."""
    samples = []
    for _ in range(count):
        before()
        started = time.perf_counter_ns()
        run()
        samples.append((time.perf_counter_ns() - started) / 1000)
    return samples


def _take_turn(routine: Routine) -> None:
    """Repeat a routine; the first time, in which the processor's caches still hold what others did,
    does not count."""
    routine.run()
    routine.chip.timed = routine.measures.keys()
    for _ in range(1 if routine.heavy else _BATCH):
        routine.run()
    routine.chip.timed = ()


def _figure(name: str, routine: Routine, floor: _Floor) -> Figure:
    samples_us, work = routine.chip.samples_us[name], routine.measures[name]
    private_us = floor.private_us(work, routine.behind)
    public_us = floor.public_us(work, routine.behind)
    if private_us:
        allowed_us, promise = PRIVATE_RATIO * private_us, f"{PRIVATE_RATIO:g}x private"
    else:
        allowed_us = LIGHT_US if name in _LIGHT else OTHERS_US
        promise = f"{allowed_us:g} us"
    if public_us:
        promise += " + public"
    return Figure(
        name,
        statistics.median(samples_us),
        min(samples_us),
        private_us + public_us,
        allowed_us + public_us,
        f"<= {promise}",
    )


def measure(rounds: int = 20) -> list[Figure]:
    """Measure all routines in turn, a batch of each at a time.

    Args:
        rounds: turns of each; in one are twenty samples of a command, of a heavy one a single one.
    """
    keys = KeptKeys()
    routines, chip = list(all_routines(keys)), TimedChip(keys)
    chip.take_ownership()

    def command() -> object:
        return chip.run(tss12.get_capability_owner(owner_auth=SECRET, random=chip.client_random))

    floor = _Floor(routines, command)
    for _ in range(rounds):
        floor.measure()
        for routine in routines:
            _take_turn(routine)
    return [_figure(name, routine, floor) for routine in routines for name in routine.measures]


def engine_table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| command in process | median us | least us | RSA in it us | limit us | promise |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for figure in figures:
        kept = "kept" if figure.kept else "MISSED"
        lines.append(
            f"| {figure.name} | {figure.median_us:.1f} | {figure.least_us:.1f} "
            f"| {figure.rsa_us:.0f} | {figure.limit_us:.0f} | {figure.promise}, {kept} |"
        )
    return "\n".join(lines)
