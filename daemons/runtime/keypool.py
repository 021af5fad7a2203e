# SPDX-License-Identifier: Apache-2.0
"""RSA keys made ahead of time, so that TPM_CreateWrapKey costs a client no prime search.

A 2048-bit key takes 25-100 ms to find and is handed out in microseconds. The refill runs in one
worker thread for the life of the daemon, at the lowest scheduling priority: on a busy machine it
gets what is left over. The library releases the interpreter lock during the search (the longest
stop of another thread was 0.2 ms over ten keys), so commands need not pause it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque

import trio
from cryptography.hazmat.primitives.asymmetric import rsa

from daemons.runtime.random import OsRandom
from tpmcore.engine import RandomSource
from tpmcore.tpm12.smallrsa import generate_primes

EXPONENT = 65537
"""Public exponent of the keys in the pool; TPM 1.2's default (Part 2, 10.4.1)."""

_LIBRARY_EXPONENTS = frozenset({3, 65537})
_LIBRARY_MIN_BITS = 1024
_LOWEST_PRIORITY = 19


class KeyPool:
    """A `KeySource` with a stock of keys of one size."""

    def __init__(
        self, bits: int = 2048, size: int = 4, *, random: RandomSource | None = None
    ) -> None:
        """Args:
        bits: modulus length of the keys in stock.
        size: how many are kept; a refill starts when half of them are gone.
        random: for keys that the library does not make (short ones, odd exponents); by default the
            kernel. The library's own keys come from OpenSSL's generator, seeded by the kernel.
        """
        self._bits = bits
        self._size = size
        self._low = size // 2
        self._random: RandomSource = OsRandom() if random is None else random
        # Appended by the refill thread, taken by any thread: deque's operations are atomic.
        self._keys: deque[tuple[int, int]] = deque()
        self._wanted = threading.Event()
        self._stopping = False

    @property
    def stock(self) -> int:
        """How many keys wait."""
        return len(self._keys)

    @property
    def size(self) -> int:
        """How many are to be kept."""
        return self._size

    def generate(self, bits: int, exponent: int) -> tuple[int, int]:
        """Return two primes for a key of `bits` bits: from stock if there is one, else made now.

        May be called from any thread.
        """
        if bits != self._bits or exponent != EXPONENT:
            return make_primes(bits, exponent, self._random)
        try:
            key = self._keys.popleft()
        except IndexError:
            key = None
        if len(self._keys) <= self._low:
            self._wanted.set()
        return make_primes(bits, exponent, self._random) if key is None else key

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the stock up until cancelled; `started` is called at once, with the stock still
        empty."""
        task_status.started()
        self._stopping = False
        self._wanted.set()
        try:
            # Its own limiter: it holds its thread for ever and must not take one of the shared
            # ones. Abandoned on cancel: a stop need not wait for a search to end.
            await trio.to_thread.run_sync(
                self._refill, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
            )
        finally:
            self._stopping = True
            self._wanted.set()

    def _refill(self) -> None:
        tid = threading.get_native_id()
        normal = os.getpriority(os.PRIO_PROCESS, tid)
        os.setpriority(os.PRIO_PROCESS, tid, _LOWEST_PRIORITY)
        while not self._stopping:
            self._wanted.wait()
            self._wanted.clear()
            while len(self._keys) < self._size and not self._stopping:
                self._keys.append(make_primes(self._bits, EXPONENT, self._random))
        # Trio may use the thread again. Without privileges it stays as it is, but then the process
        # is about to end.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, tid, normal)


def make_primes(bits: int, exponent: int, random: RandomSource) -> tuple[int, int]:
    """Search two primes now; see `tpmcore.engine.KeySource`."""
    if bits < _LIBRARY_MIN_BITS or exponent not in _LIBRARY_EXPONENTS:
        return generate_primes(bits, exponent, random)
    numbers = rsa.generate_private_key(exponent, bits).private_numbers()
    return numbers.p, numbers.q
