# SPDX-License-Identifier: Apache-2.0
"""What TPM 1.2 makes of SHA-1 and AES by itself."""

from __future__ import annotations

import struct
from hashlib import sha1
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocol.tpm12.wire import DIGEST_BYTES

_BLOCK_BYTES: Final = 64
"""Of SHA-1."""
_INNER: Final = bytes([byte ^ 0x36 for byte in range(256)])
_OUTER: Final = bytes([byte ^ 0x5C for byte in range(256)])
_MGF1_COUNTERS: Final = tuple([struct.pack(">I", number) for number in range(16)])


def hmac_sha1(key: bytes, data: bytes) -> bytes:
    """Return HMAC-SHA1 (RFC 2104), 20 bytes.

    Twice in every authorized command. That of the standard library, which looks up the algorithm
    and makes its contexts each time, takes 2.9 us; two digests of the standard library take 1.4.

    Args:
        key: at most 64 bytes; a secret has 20.

    Raises:
        ValueError: the key is longer.
    """
    if len(key) > _BLOCK_BYTES:
        raise ValueError(f"key of {len(key)} bytes")
    key = key.ljust(_BLOCK_BYTES, b"\0")
    inner = sha1(key.translate(_INNER) + data).digest()
    return sha1(key.translate(_OUTER) + inner).digest()


def mgf1(seed: bytes, size_bytes: int) -> bytes:
    """Return MGF1-SHA1 of PKCS#1."""
    blocks = -(-size_bytes // DIGEST_BYTES)
    counters = _MGF1_COUNTERS[:blocks]
    if blocks > len(counters):
        counters = tuple([struct.pack(">I", number) for number in range(blocks)])
    return b"".join([sha1(seed + counter).digest() for counter in counters])[:size_bytes]


def xor(left: bytes, right: bytes) -> bytes:
    """Return the exclusive or of two strings of the same length."""
    size_bytes = len(left)
    value = int.from_bytes(left, "big") ^ int.from_bytes(right, "big")
    return value.to_bytes(size_bytes, "big")


def aes128_ctr(key: bytes, counter: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt with AES-128 in counter mode, the whole block being the counter (Part 1,
    4.3.2)."""
    cipher = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    return cipher.update(data) + cipher.finalize()
