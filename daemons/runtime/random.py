# SPDX-License-Identifier: Apache-2.0
"""Randomness for TPM engines.

`OsRandom` asks the kernel each time. `SeededRandom` is a generator in the process, seeded from the
kernel *and* from elsewhere (a vTPM takes its parent TPM's numbers): as good as the better of its
sources, and several times cheaper for the 20-byte requests that every authorized command makes.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from daemons.runtime.errors import DaemonError

_KEY_BYTES = 32
_NONCE = bytes(16)
_BUFFER_BYTES = 2048
_ZEROS = bytes(_KEY_BYTES + _BUFFER_BYTES)


class OsRandom:
    """A `RandomSource` on getrandom(2)."""

    def random(self, size_bytes: int) -> bytes:
        """Return exactly `size_bytes` unpredictable bytes."""
        return os.urandom(size_bytes)

    def stir(self, data: bytes) -> None:
        """Give `data` to the kernel's pool, which credits it no entropy; failing to is harmless."""
        try:
            fd = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            os.write(fd, hashlib.sha256(data).digest())
        finally:
            os.close(fd)


class SeededRandom:
    """A `RandomSource`: ChaCha20 with fast key erasure, mixed with the kernel's numbers at every
    refill.

    Each refill makes one keystream from a key used once; its first 32 bytes become, mixed with
    fresh 32 bytes of the kernel, the next key, the rest is what is handed out, and what was handed
    out is forgotten: who reads the memory learns no earlier output. Not for several threads at
    once; an engine runs one command at a time.
    """

    def __init__(self, seed: bytes) -> None:
        """Args: seed: any number of bytes, of any quality."""
        self._key = hashlib.sha256(b"vtpm seed" + seed).digest()
        self._buffer = b""
        self._used = 0
        self._pid = os.getpid()

    def random(self, size_bytes: int) -> bytes:
        """Return exactly `size_bytes` unpredictable bytes."""
        start = self._used
        end = start + size_bytes
        if end > len(self._buffer):
            return self._random_slow(size_bytes)
        self._used = end
        return self._buffer[start:end]

    def stir(self, data: bytes) -> None:
        """Mix `data` into everything that is handed out from now on."""
        self._key = hmac.digest(self._key, b"stir" + data, "sha256")
        self._buffer = b""
        self._used = 0

    def _random_slow(self, size_bytes: int) -> bytes:
        parts = [self._buffer[self._used :]]
        missing = size_bytes - len(parts[0])
        while missing > 0:
            self._refill()
            parts.append(self._buffer[:missing])
            self._used = len(parts[-1])
            missing -= self._used
        return b"".join(parts)

    def _refill(self) -> None:
        if os.getpid() != self._pid:
            # Two processes with one key would give the same numbers but for the kernel's share.
            raise DaemonError("a random generator was used after fork")
        key = hmac.digest(self._key, b"refill" + os.urandom(_KEY_BYTES), "sha256")
        stream = Cipher(algorithms.ChaCha20(key, _NONCE), mode=None).encryptor().update(_ZEROS)
        self._key = stream[:_KEY_BYTES]
        self._buffer = stream[_KEY_BYTES:]
        self._used = 0
