# SPDX-License-Identifier: Apache-2.0
"""The engine alone, in this process: what one command costs without any way to it.

Promised are: PCRRead and Extend at most 10 us; a command with RSA private operations at most 1.3
times the cost of those; every other one at most 60 us. The cost of RSA is measured beside it, with
the library that the engine uses and keys of the same length; public operations are not the
engine's either, so theirs is added to the 60 us.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from bench.peers import KernelRandom
from daemons.runtime.clock import MonotonicTicks
from protocol.tpm12.constants import (
    CapabilityProperty,
    EncScheme,
    KeyUsage,
    NvAttributes,
    Ordinal,
    ReservedHandle,
    ResourceType,
    SigScheme,
)
from protocol.tpm12.keys import Key
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.stored import StoredData
from tpmcore import tss12
from tpmcore.engine import Done
from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.smallrsa import generate_primes
from tpmcore.tpm12.world import Profile, World
from tpmcore.tss12 import Conversation

T = TypeVar("T")

LIGHT_US: Final = 10.0
OTHERS_US: Final = 60.0
PRIVATE_RATIO: Final = 1.3

_SECRET: Final = bytes(20)
_PCR: Final = 16
_SIGNED: Final = bytes(range(20))
_AREA: Final = 0x10050
_EXPONENT: Final = 65537
_BITS: Final = 2048
_WARM_UP: Final = 20


class _KeptKeys:
    """A KeySource that searches once: key generation is not what is measured."""

    def __init__(self) -> None:
        self._pairs = [generate_primes(_BITS, _EXPONENT, KernelRandom()) for _ in range(3)]
        self._next = 0

    def generate(self, _bits: int, _exponent: int) -> tuple[int, int]:
        """Return one of three pairs of primes."""
        self._next += 1
        return self._pairs[self._next % 3]


class InProcess:
    """An engine and its client in one process; persisting costs nothing here.

    Attributes:
        samples_us: time of each command by ordinal.
    """

    def __init__(self) -> None:
        self.random = KernelRandom()
        world = World(self.random, MonotonicTicks(), _KeptKeys())
        self._engine = Tpm12Engine.manufacture(world, Profile())
        self.samples_us: dict[int, list[float]] = defaultdict(list)
        self.run(tss12.startup())

    def send(self, command: bytes) -> bytes:
        """Execute one command and note its time."""
        engine = self._engine
        started = time.perf_counter()
        step = engine.execute(command, 0)
        while not isinstance(step, bytes):
            step = engine.resume(Done())
        elapsed_us = (time.perf_counter() - started) * 1e6
        self.samples_us[int.from_bytes(command[6:10], "big")].append(elapsed_us)
        return step

    def run(self, conversation: Conversation[T]) -> T:
        """Run a conversation."""
        return tss12.run_sync(self.send, conversation)


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: a command, what it took, and what it may take.

    Attributes:
        rsa_us: RSA work in it.
    """

    name: str
    median_us: float
    rsa_us: float
    limit_us: float
    promise: str

    @property
    def kept(self) -> bool:
        """Whether it is within its limit."""
        return self.median_us <= self.limit_us


@dataclass(frozen=True, slots=True)
class _Floor:
    """What the library takes, microseconds."""

    sign_us: float
    decrypt_us: float
    encrypt_us: float


@dataclass(frozen=True, slots=True)
class _Case:
    """A command that is measured, and how many RSA operations of each kind it has."""

    ordinal: Ordinal
    run: Callable[[], object]
    limit_us: float = OTHERS_US
    sign: int = 0
    decrypt: int = 0
    encrypt: int = 0


def _median_us(run: Callable[[], object], rounds: int) -> float:
    samples = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        samples.append((time.perf_counter() - started) * 1e6)
    return statistics.median(samples)


def _floor(rounds: int) -> _Floor:
    key = rsa.generate_private_key(_EXPONENT, _BITS)
    public = key.public_key()
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), b"TCPA")
    prehashed = utils.Prehashed(hashes.SHA1())
    ciphertext = public.encrypt(bytes(60), oaep)
    return _Floor(
        _median_us(lambda: key.sign(_SECRET, padding.PKCS1v15(), prehashed), rounds),
        _median_us(lambda: key.decrypt(ciphertext, oaep), rounds),
        _median_us(lambda: public.encrypt(bytes(60), oaep), rounds),
    )


def _key(usage: KeyUsage) -> Key:
    signing = usage == KeyUsage.SIGNING
    return Key.template(
        usage,
        enc_scheme=EncScheme.NONE if signing else EncScheme.RSAESOAEP_SHA1_MGF1,
        sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1 if signing else SigScheme.NONE,
        bits=_BITS,
    )


def _cases(chip: InProcess) -> Sequence[_Case]:
    """Provision a chip and return what is measured on it."""
    random, run = chip.random, chip.run
    srk = ReservedHandle.SRK
    run(tss12.take_ownership(owner_auth=_SECRET, srk_auth=_SECRET, random=random))
    attributes = NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD
    run(
        tss12.nv_define_space(
            _AREA, 32, attributes, owner_auth=_SECRET, area_auth=_SECRET, random=random
        )
    )

    def create() -> Key:
        return run(
            tss12.create_wrap_key(
                srk,
                _key(KeyUsage.SIGNING),
                parent_auth=_SECRET,
                usage_auth=_SECRET,
                random=random,
            )
        )

    key = create()
    handle = run(tss12.load_key2(srk, key, parent_auth=_SECRET, random=random))
    counter = run(
        tss12.create_counter(owner_auth=_SECRET, counter_auth=_SECRET, label=b"rate", random=random)
    )

    def seal() -> StoredData:
        return run(
            tss12.seal(
                srk,
                parent_auth=_SECRET,
                blob_auth=_SECRET,
                data=bytes(32),
                pcr_info=None,
                random=random,
            )
        )

    blob = seal()
    numbers = iter(range(1, 1 << 32))

    def oiap() -> None:
        session = run(tss12.oiap())
        run(tss12.flush_specific(session.handle, ResourceType.AUTH))

    def load() -> None:
        again = run(tss12.load_key2(srk, key, parent_auth=_SECRET, random=random))
        run(tss12.flush_specific(again, ResourceType.KEY))

    def quote() -> object:
        return run(
            tss12.quote(
                handle,
                external_data=_SIGNED,
                selection=PcrSelection.of(range(8)),
                key_auth=_SECRET,
                random=random,
            )
        )

    def unseal() -> object:
        return run(tss12.unseal(srk, blob, parent_auth=_SECRET, blob_auth=_SECRET, random=random))

    def write() -> None:
        data = next(numbers).to_bytes(32, "big")
        run(tss12.nv_write_value(_AREA, data, owner_auth=_SECRET, random=random))

    def read() -> object:
        return run(tss12.nv_read_value(_AREA, 32, owner_auth=_SECRET, random=random))

    def context() -> None:
        saved = run(tss12.save_context(handle, ResourceType.KEY))
        run(tss12.flush_specific(run(tss12.load_context(saved)), ResourceType.KEY))

    def osap() -> None:
        session = run(tss12.osap_owner(_SECRET, random=random))
        run(tss12.flush_specific(session.handle, ResourceType.AUTH))

    def increment() -> object:
        return run(tss12.increment_counter(counter.count_id, counter_auth=_SECRET, random=random))

    return (
        _Case(Ordinal.PCR_READ, lambda: run(tss12.pcr_read(_PCR)), LIGHT_US),
        _Case(Ordinal.EXTEND, lambda: run(tss12.extend(_PCR, _SIGNED)), LIGHT_US),
        _Case(Ordinal.GET_RANDOM, lambda: run(tss12.get_random(32))),
        _Case(
            Ordinal.GET_CAPABILITY,
            lambda: run(tss12.get_property(CapabilityProperty.MAX_AUTHSESS)),
        ),
        _Case(Ordinal.GET_TICKS, lambda: run(tss12.get_ticks())),
        _Case(Ordinal.OIAP, oiap),
        _Case(Ordinal.OSAP, osap),
        _Case(Ordinal.READ_COUNTER, lambda: run(tss12.read_counter(counter.count_id))),
        _Case(Ordinal.INCREMENT_COUNTER, increment),
        _Case(Ordinal.NV_READ_VALUE, read),
        _Case(Ordinal.NV_WRITE_VALUE, write),
        _Case(Ordinal.SAVE_CONTEXT, context),
        _Case(Ordinal.LOAD_CONTEXT, context),
        _Case(Ordinal.SEAL, seal, encrypt=1),
        _Case(Ordinal.CREATE_WRAP_KEY, create, encrypt=1),
        _Case(
            Ordinal.SIGN,
            lambda: run(tss12.sign(handle, _SIGNED, key_auth=_SECRET, random=random)),
            sign=1,
        ),
        _Case(Ordinal.QUOTE, quote, sign=1),
        _Case(Ordinal.UNSEAL, unseal, decrypt=1),
        _Case(Ordinal.LOAD_KEY2, load, decrypt=1),
    )


def _figure(case: _Case, median_us: float, floor: _Floor) -> Figure:
    private_us = case.sign * floor.sign_us + case.decrypt * floor.decrypt_us
    name = case.ordinal.name
    if private_us:
        limit_us = PRIVATE_RATIO * private_us
        return Figure(name, median_us, private_us, limit_us, f"<= {PRIVATE_RATIO:g}x RSA")
    public_us = case.encrypt * floor.encrypt_us
    promise = f"<= {case.limit_us:g} us" + (" + RSA" if public_us else "")
    return Figure(name, median_us, public_us, case.limit_us + public_us, promise)


def measure(rounds: int = 400) -> list[Figure]:
    """Measure all cases in turn, a batch of each at a time.

    Args:
        rounds: samples of each command.
    """
    chip = InProcess()
    cases = _cases(chip)
    for case in cases:
        for _ in range(_WARM_UP):
            case.run()
    chip.samples_us.clear()
    for _ in range(rounds // _WARM_UP):
        for case in cases:
            for _ in range(_WARM_UP):
                case.run()
    floor = _floor(rounds)
    return [
        _figure(case, statistics.median(chip.samples_us[case.ordinal]), floor) for case in cases
    ]


def engine_table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| command in process | median us | RSA in it us | limit us | promise |",
        "|---|---:|---:|---:|---|",
    ]
    for figure in figures:
        kept = "kept" if figure.kept else "MISSED"
        lines.append(
            f"| {figure.name} | {figure.median_us:.1f} | {figure.rsa_us:.0f} "
            f"| {figure.limit_us:.0f} | {figure.promise}, {kept} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(engine_table(measure()))
