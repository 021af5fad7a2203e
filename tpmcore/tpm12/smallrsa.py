# SPDX-License-Identifier: Apache-2.0
"""What `cryptography` does not do of TPM 1.2's RSA, on gmpy2.

Two things: decrypting PKCS#1 v1.5 so that a failure shows, and making keys of lengths and public
exponents that the library does not generate (it knows 3 and 65537, from 1024 bits on; TPM 1.2 also
has 5, 7, 17 and 257, from 512 bits on).
"""

from __future__ import annotations

import math
from typing import Final

import gmpy2  # type: ignore[import-untyped]  # it comes without type stubs

from tpmcore.engine import RandomSource

_MILLER_RABIN_ROUNDS: Final = 40
_MIN_DISTANCE_BITS: Final = 100
"""|p - q| must be above 2^(bits/2 - 100) (FIPS 186-4, B.3.1)."""
_PKCS1_MIN_PADDING: Final = 8


class RsaError(Exception):
    """A ciphertext or signature that does not decode, or data too long for the key."""


def decrypt_pkcs1v15(p: int, q: int, exponent: int, ciphertext: bytes) -> bytes:
    """Decrypt RSAES-PKCS1-v1_5 with the primes of the key.

    The exponentiations take a time that does not depend on the numbers.

    Raises:
        RsaError: wrong length, or the plaintext is not padded as type 2.
    """
    n = p * q
    size_bytes = (n.bit_length() + 7) // 8
    value = int.from_bytes(ciphertext, "big")
    if len(ciphertext) != size_bytes or value >= n:
        raise RsaError("ciphertext is no number below the modulus")
    padded = _private_operation(p, q, exponent, value).to_bytes(size_bytes, "big")
    separator = padded.find(b"\0", 2)
    if padded[:2] != b"\x00\x02" or separator < 2 + _PKCS1_MIN_PADDING:
        raise RsaError("PKCS#1 v1.5 ciphertext does not decode")
    return padded[separator + 1 :]


def _private_operation(p: int, q: int, exponent: int, value: int) -> int:
    """Return value ** d mod p * q by the Chinese remainder theorem."""
    _, dp, dq, q_inverse = private_numbers(p, q, exponent)
    m1 = int(gmpy2.powmod_sec(value % p, dp, p))
    m2 = int(gmpy2.powmod_sec(value % q, dq, q))
    return m2 + q * (q_inverse * (m1 - m2) % p)


def private_numbers(p: int, q: int, exponent: int) -> tuple[int, int, int, int]:
    """Return d, d mod p - 1, d mod q - 1 and the inverse of q modulo p.

    gmpy2 inverts in a twentieth of the time of pow(), where it was half the cost of building a key.
    """
    d = int(gmpy2.invert(exponent, (p - 1) * (q - 1)))
    return d, d % (p - 1), d % (q - 1), int(gmpy2.invert(q, p))


def is_invertible(exponent: int, p: int, q: int) -> bool:
    """Whether an exponent has an inverse modulo (p - 1) * (q - 1).

    Each factor is reduced first, so that what is left is as small as the exponent.
    """
    return all(math.gcd(exponent, (prime - 1) % exponent) == 1 for prime in (p, q))


def are_coprime(a: int, b: int) -> bool:
    """Whether two numbers have no common divisor; ten times as fast as math.gcd on primes."""
    return bool(gmpy2.gcd(a, b) == 1)


def generate_primes(bits: int, exponent: int, random: RandomSource) -> tuple[int, int]:
    """Return two primes for an RSA key, as KeySource.generate promises.

    Deterministic for a deterministic source.

    Args:
        bits: length of the modulus, an even number.
        exponent: public exponent, odd.
    """
    p = _prime(bits // 2, exponent, random)
    while True:
        q = _prime(bits // 2, exponent, random)
        if abs(p - q).bit_length() > bits // 2 - _MIN_DISTANCE_BITS:
            return p, q


def _prime(bits: int, exponent: int, random: RandomSource) -> int:
    """Return a prime whose two top bits are set, so that a product of two has all its bits."""
    while True:
        value = int.from_bytes(random.random((bits + 7) // 8), "big") & ((1 << bits) - 1)
        candidate = int(gmpy2.next_prime(value | 3 << bits - 2))
        if (
            candidate.bit_length() == bits
            and gmpy2.gcd(exponent, candidate - 1) == 1
            and gmpy2.is_prime(candidate, _MILLER_RABIN_ROUNDS)
        ):
            return candidate
