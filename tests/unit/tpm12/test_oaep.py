# SPDX-License-Identifier: Apache-2.0
"""The OAEP encoding with a given seed and parameter hash, held against that of a library.

The library only encrypts and decrypts, so a block goes through raw RSA: a ciphertext of the
library is opened by exponentiation and its block decoded here, and a block that was encoded here is
put into a ciphertext that the library decrypts. The parameter hash is that of a label which the
library gets.
"""

from __future__ import annotations

import hashlib
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.unit.tpm12.world import key_pair
from tpmcore.tpm12 import oaep
from tpmcore.tpm12.oaep import OaepBlock
from tpmcore.tpm12.rsa import RsaError

LABEL: Final = b"some label"
LABEL_HASH: Final = hashlib.sha1(LABEL).digest()
SEED: Final = b"twenty bytes of seed"
BITS: Final = 1592
"""Of a modulus in which the 198 bytes of a migrating 2048-bit key are a block without padding."""
LONGEST: Final = BITS // 8 - 42
EXPONENT: Final = 65537


def _library_key() -> rsa.RSAPrivateKey:
    p, q = key_pair(800, BITS, EXPONENT)
    d = pow(EXPONENT, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        p,
        q,
        d,
        d % (p - 1),
        d % (q - 1),
        pow(q, -1, p),
        rsa.RSAPublicNumbers(EXPONENT, p * q),
    ).private_key()


def _scheme() -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), LABEL)


@pytest.mark.parametrize("length", [0, 1, 20, LONGEST - 1, LONGEST])
def test_block_of_the_library_is_decoded(length: int) -> None:
    key = _library_key()
    message = bytes([0, 1] * 80)[:length]
    ciphertext = key.public_key().encrypt(message, _scheme())
    numbers = key.private_numbers()
    value = pow(int.from_bytes(ciphertext), numbers.d, numbers.p * numbers.q)
    block = oaep.decode(value.to_bytes(BITS // 8)[1:])
    assert (block.message, block.p_hash) == (message, LABEL_HASH)
    if length == LONGEST:
        # Without padding the encoding has one form only, the library's.
        assert oaep.encode(block) == value.to_bytes(BITS // 8)[1:]


def test_encoded_block_is_decrypted_by_the_library() -> None:
    key = _library_key()
    message = bytes(range(LONGEST))
    encoded = oaep.encode(OaepBlock(SEED, LABEL_HASH, message))
    assert len(encoded) == BITS // 8 - 1
    public = key.public_key().public_numbers()
    ciphertext = pow(int.from_bytes(encoded), EXPONENT, public.n).to_bytes(BITS // 8)
    assert key.decrypt(ciphertext, _scheme()) == message


@pytest.mark.parametrize("message", [b"", b"\0", b"\x01\x01", b"a" * 157])
def test_seed_and_hash_come_back(message: bytes) -> None:
    block = OaepBlock(SEED, LABEL_HASH, message)
    assert oaep.decode(oaep.encode(block)) == block
    assert len(oaep.encode(block)) == 41 + len(message)


@pytest.mark.parametrize("length", [0, 19, 20, 40])
def test_what_is_too_short_for_a_block_is_refused(length: int) -> None:
    with pytest.raises(RsaError):
        oaep.decode(bytes(length))


def test_block_without_a_separator_is_refused() -> None:
    encoded = oaep.encode(OaepBlock(SEED, LABEL_HASH, b""))
    # The last byte masks the separator itself and the seed; set the seed right again.
    damaged = encoded[20:-1] + bytes([encoded[-1] ^ 1])
    mask = hashlib.sha1(damaged + bytes(4)).digest()
    masked_seed = bytes(a ^ b for a, b in zip(SEED, mask, strict=True))
    with pytest.raises(RsaError):
        oaep.decode(masked_seed + damaged)
