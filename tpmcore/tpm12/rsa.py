# SPDX-License-Identifier: Apache-2.0
"""RSA as TPM 1.2 uses it, through `cryptography` wherever that accepts the key.

Keys that it refuses (shorter than 1024 bits, unusual exponents) go through
`tpmcore.tpm12.smallrsa`.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tpmcore.engine import KeySource

OAEP_LABEL: Final = b"TCPA"
"""Encoding parameter of every OAEP in TPM 1.2 (Part 1, 31.1.1)."""


def _oaep() -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), OAEP_LABEL)


class RsaError(Exception):
    """A ciphertext or signature that does not decode, or data too long for the key."""


class PrivateKey:
    """An RSA key pair made of two primes.

    Args:
        p: a prime factor; the other one is `modulus / p`.
        q: the other prime factor.
        exponent: public exponent.
    """

    __slots__ = ("_key", "exponent", "n", "p", "q")

    def __init__(self, p: int, q: int, exponent: int) -> None:
        self.p = p
        self.q = q
        self.n = p * q
        self.exponent = exponent
        self._key: rsa.RSAPrivateKey | None = None

    @classmethod
    def generate(cls, keys: KeySource, bits: int, exponent: int) -> PrivateKey:
        """Take a new pair from the key source."""
        p, q = keys.generate(bits, exponent)
        return cls(p, q, exponent)

    @property
    def size_bytes(self) -> int:
        """Length of the modulus."""
        return (self.n.bit_length() + 7) // 8

    @property
    def modulus(self) -> bytes:
        """The modulus, most significant byte first."""
        return self.n.to_bytes(self.size_bytes, "big")

    @property
    def prime(self) -> bytes:
        """Prime p in half the length of the modulus, as TPM_STORE_PRIVKEY holds it."""
        return self.p.to_bytes(self.size_bytes // 2, "big")

    def _loaded(self) -> rsa.RSAPrivateKey:
        """Build the library's key once; each use of a loaded key then costs only the RSA
        operation."""
        if self._key is None:
            d = pow(self.exponent, -1, (self.p - 1) * (self.q - 1))
            numbers = rsa.RSAPrivateNumbers(
                p=self.p,
                q=self.q,
                d=d,
                dmp1=d % (self.p - 1),
                dmq1=d % (self.q - 1),
                iqmp=pow(self.q, -1, self.p),
                public_numbers=rsa.RSAPublicNumbers(self.exponent, self.n),
            )
            # The library's validation repeats a primality test of 40 ms; the primes are ours or
            # come from a blob whose integrity was checked, and p * q == n was just computed.
            self._key = numbers.private_key(unsafe_skip_rsa_key_validation=True)
        return self._key

    def decrypt_oaep(self, ciphertext: bytes) -> bytes:
        """Decrypt RSAES-OAEP with SHA-1, MGF1 and the label TCPA.

        Raises:
            RsaError: it does not decode.
        """
        try:
            return self._loaded().decrypt(ciphertext, _oaep())
        except ValueError as error:
            raise RsaError("OAEP ciphertext does not decode") from error

    def __repr__(self) -> str:
        return f"PrivateKey(<{self.n.bit_length()} bits>)"
