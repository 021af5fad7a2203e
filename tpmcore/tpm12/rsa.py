# SPDX-License-Identifier: Apache-2.0
"""RSA as TPM 1.2 uses it, through `cryptography` wherever that does what TPM 1.2 asks.

The one operation it does not offer, a PKCS#1 v1.5 decryption that says when it failed, is in
`tpmcore.tpm12.smallrsa`.
"""

from __future__ import annotations

import functools
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from tpmcore.engine import KeySource
from tpmcore.tpm12 import smallrsa
from tpmcore.tpm12.smallrsa import RsaError

__all__ = [
    "MIN_KEY_BITS",
    "OAEP_LABEL",
    "OAEP_OVERHEAD_BYTES",
    "PKCS1_OVERHEAD_BYTES",
    "PrivateKey",
    "RsaError",
    "encrypt_oaep",
    "encrypt_pkcs1v15",
    "verify_sha1",
]

OAEP_LABEL: Final = b"TCPA"
"""Encoding parameter of every OAEP in TPM 1.2 (Part 1, 31.1.1)."""
OAEP_OVERHEAD_BYTES: Final = 42
"""What OAEP with SHA-1 takes of a block: two digests and two bytes."""
PKCS1_OVERHEAD_BYTES: Final = 11
"""What PKCS#1 v1.5 padding takes of a block at least."""
MIN_KEY_BITS: Final = 512
"""Shortest modulus; the specification asks for nothing shorter and the library refuses it."""

_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), OAEP_LABEL)
_PKCS1: Final = padding.PKCS1v15()
_SHA1_DIGEST: Final = utils.Prehashed(hashes.SHA1())
_NO_DIGEST_INFO: Final = utils.NoDigestInfo()


class PrivateKey:
    """An RSA key pair made of two primes.

    Args:
        p: a prime factor; the other one is `modulus / p`.
        q: the other prime factor.
        exponent: public exponent.

    Attributes:
        n: the modulus.
        size_bytes: length of the modulus.
    """

    __slots__ = ("_key", "exponent", "n", "p", "q", "size_bytes")

    def __init__(self, p: int, q: int, exponent: int) -> None:
        self.p = p
        self.q = q
        self.n = p * q
        self.size_bytes = (self.n.bit_length() + 7) // 8
        self.exponent = exponent
        self._key: rsa.RSAPrivateKey | None = None

    @classmethod
    def generate(cls, keys: KeySource, bits: int, exponent: int) -> PrivateKey:
        """Take a new pair from the key source."""
        p, q = keys.generate(bits, exponent)
        return cls(p, q, exponent)

    @classmethod
    def from_factor(cls, n: int, p: int, exponent: int) -> PrivateKey:
        """Make the pair of a modulus of which one factor is known.

        The factors may come from a blob that anybody could encrypt for a public key. They are
        checked to be odd, different, of equal length and of product `n`, so that all later
        operations end; that they are prime is not, which only hurts the maker of the blob.

        Args:
            n: the modulus.
            p: one prime factor of it.
            exponent: public exponent.

        Raises:
            RsaError: no key can be made of these.
        """
        bits = n.bit_length()
        if bits < MIN_KEY_BITS or p < 3 or bits % 2:
            raise RsaError("no modulus or no factor")
        q, rest = divmod(n, p)
        if rest:
            raise RsaError("the factor does not belong to the modulus")
        half = bits // 2
        if p == q or not p & q & 1 or p.bit_length() != half or q.bit_length() != half:
            raise RsaError("the factors are not two odd numbers of half the length")
        if exponent < 3 or not smallrsa.is_invertible(exponent, p, q):
            raise RsaError("the exponent does not fit the factors")
        if not smallrsa.are_coprime(p, q):
            raise RsaError("the factors have a common divisor")
        return cls(p, q, exponent)

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
            d, dmp1, dmq1, iqmp = smallrsa.private_numbers(self.p, self.q, self.exponent)
            numbers = rsa.RSAPrivateNumbers(
                p=self.p,
                q=self.q,
                d=d,
                dmp1=dmp1,
                dmq1=dmq1,
                iqmp=iqmp,
                public_numbers=rsa.RSAPublicNumbers(self.exponent, self.n),
            )
            # The library's validation repeats a primality test of 40 ms; the primes are ours or
            # come from a blob whose factors from_factor judged.
            self._key = numbers.private_key(unsafe_skip_rsa_key_validation=True)
        return self._key

    def decrypt_oaep(self, ciphertext: bytes) -> bytes:
        """Decrypt RSAES-OAEP with SHA-1, MGF1 and the label TCPA.

        Raises:
            RsaError: it does not decode.
        """
        try:
            return self._loaded().decrypt(ciphertext, _OAEP)
        except ValueError as error:
            raise RsaError("OAEP ciphertext does not decode") from error

    def decrypt_pkcs1v15(self, ciphertext: bytes) -> bytes:
        """Decrypt RSAES-PKCS1-v1_5.

        Not with the library: since OpenSSL 3.2 it answers a ciphertext that does not decode with
        made-up plaintext, where a TPM has to say TPM_DECRYPT_ERROR.

        Raises:
            RsaError: it does not decode.
        """
        return smallrsa.decrypt_pkcs1v15(self.p, self.q, self.exponent, ciphertext)

    def encrypt_oaep(self, data: bytes) -> bytes:
        """Encrypt for this key's owner, as `encrypt_oaep` of this module.

        Raises:
            RsaError: the data is too long for the key.
        """
        return encrypt_oaep(self.n, self.exponent, data)

    def sign_sha1_digest(self, digest: bytes) -> bytes:
        """Sign a digest of 20 bytes: RSASSA-PKCS1-v1_5 with the DigestInfo of SHA-1 (4.8.6).

        Returns:
            The signature, as long as the modulus.

        Raises:
            RsaError: the key is too short.
        """
        try:
            return self._loaded().sign(digest, _PKCS1, _SHA1_DIGEST)
        except ValueError as error:
            raise RsaError("digest does not fit the key") from error

    def sign_der(self, area: bytes) -> bytes:
        """Sign `area` under padding of type 1, without adding a DigestInfo (4.8.6).

        Raises:
            RsaError: the area is longer than the modulus less 11 bytes.
        """
        try:
            return self._loaded().sign(area, _PKCS1, _NO_DIGEST_INFO)
        except ValueError as error:
            raise RsaError("area does not fit the key") from error

    def __repr__(self) -> str:
        return f"PrivateKey(<{self.n.bit_length()} bits>)"


def _encrypt(key: rsa.RSAPublicKey, data: bytes, how: padding.AsymmetricPadding) -> bytes:
    try:
        return key.encrypt(data, how)
    except ValueError as error:
        raise RsaError(f"{len(data)} bytes do not fit the key") from error


@functools.lru_cache(maxsize=32)
def _public_key(n: int, exponent: int) -> rsa.RSAPublicKey:
    """Build a public key of numbers that may have come from a client.

    Those that were used last are kept: a storage key gets many children, an authority many keys,
    and the first use of a public key costs as much again as half of the operation.
    """
    try:
        return rsa.RSAPublicNumbers(exponent, n).public_key()
    except ValueError as error:
        raise RsaError("no public key") from error


def encrypt_oaep(n: int, exponent: int, data: bytes) -> bytes:
    """Encrypt with RSAES-OAEP, SHA-1, MGF1, label TCPA.

    Args:
        n: modulus.
        exponent: public exponent.
        data: at most the length of the modulus less 42 bytes.

    Raises:
        RsaError: the data is too long, or the numbers are no key.
    """
    return _encrypt(_public_key(n, exponent), data, _OAEP)


def encrypt_pkcs1v15(n: int, exponent: int, data: bytes) -> bytes:
    """Encrypt with RSAES-PKCS1-v1_5; at most the length of the modulus less 11 bytes.

    Raises:
        RsaError: the data is too long, or the numbers are no key.
    """
    return _encrypt(_public_key(n, exponent), data, _PKCS1)


def verify_sha1(n: int, exponent: int, digest: bytes, signature: bytes) -> None:
    """Check a signature made as `PrivateKey.sign_sha1_digest` makes it.

    Raises:
        RsaError: the signature is wrong, or the numbers are no key.
    """
    try:
        _public_key(n, exponent).verify(signature, digest, _PKCS1, _SHA1_DIGEST)
    except (InvalidSignature, ValueError) as error:
        raise RsaError("signature does not verify") from error
