# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of direct anonymous attestation, on gmpy2.

Exponents that are secret go through powmod_sec, whose time depends on the lengths of its operands
only. Moduli come from an issuer that the TPM has no reason to trust, so each is checked here before
anything is computed with it.
"""

from __future__ import annotations

import hashlib
from typing import Final

import gmpy2  # type: ignore[import-untyped]  # it comes without type stubs

from protocol.tpm12.daa import POWER0, POWER1, SIZE_MODULUS
from tpmcore.tpm12.primitives import mgf1

_LOW0: Final = (1 << POWER0) - 1
_LOW1: Final = (1 << POWER1) - 1


def modulus(data: bytes) -> int | None:
    """Return the number that an issuer gave as modulus, or None if one cannot compute with it.

    It must be odd, as every product of odd primes is, above 1 and of at most 256 bytes.
    """
    value = int.from_bytes(data, "big")
    usable = value & 1 and value > 1 and value.bit_length() <= 8 * SIZE_MODULUS
    return value if usable else None


def power(base: int, secret: int, modulus: int) -> int:
    """Return base ** secret mod modulus; the modulus is odd."""
    if not secret:
        return 1
    return int(gmpy2.powmod_sec(base, secret, modulus))


def times_power(factor: int, base: int, secret: int, modulus: int) -> int:
    """Return factor * base ** secret mod modulus."""
    return factor * power(base, secret, modulus) % modulus


def has_order(base: int, order: int, modulus: int) -> bool:
    """Whether base ** order mod modulus is 1; all three are public."""
    return bool(gmpy2.powmod(base, order, modulus) == 1)


def secret_f(rekey: bytes, count: int, q: int) -> int:
    """Return f, the secret that an issuer certifies: of 40 bytes, reduced by q (Part 3, 26.1)."""
    seed = rekey + count.to_bytes(4, "big")
    value = hashlib.sha1(seed + b"\x00").digest() + hashlib.sha1(seed + b"\x01").digest()
    return int.from_bytes(value, "big") % q


def low0(value: int) -> int:
    """Return the low 104 bits: f0 of f."""
    return value & _LOW0


def high0(value: int) -> int:
    """Return what is above the low 104 bits: f1 of f."""
    return value >> POWER0


def low1(value: int) -> int:
    """Return the low 1024 bits."""
    return value & _LOW1


def high1(value: int) -> int:
    """Return what is above the low 1024 bits."""
    return value >> POWER1


def random_r(k: int, size_bytes: int, context_seed: bytes) -> int:
    """Return rk: of one seed all of r0 to r4 are made anew in each stage that wants one."""
    return int.from_bytes(mgf1(b"r%d" % k + context_seed, size_bytes), "big")


def joined_r(r0: int, r1: int, q: int) -> int:
    """Return r0 + 2^104 * r1 mod q: r of E1, which has to fit f of E."""
    return (r0 + (r1 << POWER0)) % q


def response(r: int, challenge: int, secret: int) -> int:
    """Return r + challenge * secret, not reduced: a value of the proof."""
    return r + challenge * secret


def to_bytes(value: int) -> bytes:
    """Return a number without leading zeros, as libtpms gives all that have no fixed length."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
