# SPDX-License-Identifier: Apache-2.0
"""RSA: paddings, limits, and keys made of one factor, against the library's own verification."""

from __future__ import annotations

import pytest

from tests.unit.tpm12 import keychain
from tests.unit.tpm12.world import SeededRandom, key_pair
from tpmcore.tpm12 import rsa, smallrsa
from tpmcore.tpm12.rsa import PrivateKey, RsaError

BITS = 1024
E = 65537
DIGEST = bytes(range(20))


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    p, q = key_pair(800, BITS, E)
    return PrivateKey(p, q, E)


def test_signature_over_a_digest_verifies_with_the_library(key: PrivateKey) -> None:
    signature = key.sign_sha1_digest(DIGEST)
    assert len(signature) == BITS // 8
    assert keychain.verifies(key.modulus, DIGEST, signature)
    assert not keychain.verifies(key.modulus, bytes(20), signature)


def test_der_signature_is_the_area_as_it_is_under_padding_of_type_1(key: PrivateKey) -> None:
    area = b"\x30\x03\x01\x01\xff"
    signature = key.sign_der(area)
    block = pow(int.from_bytes(signature, "big"), E, key.n).to_bytes(BITS // 8, "big")
    assert block == b"\x00\x01" + b"\xff" * (BITS // 8 - 3 - len(area)) + b"\x00" + area


def test_der_area_may_be_11_bytes_shorter_than_the_modulus_and_no_longer(key: PrivateKey) -> None:
    longest = b"a" * (BITS // 8 - rsa.PKCS1_OVERHEAD_BYTES)
    assert keychain.signed_block(key.modulus, key.sign_der(longest)) == longest
    with pytest.raises(RsaError):
        key.sign_der(longest + b"a")


def test_digest_of_another_length_is_not_signed(key: PrivateKey) -> None:
    with pytest.raises(RsaError):
        key.sign_sha1_digest(DIGEST + b"\x00")


def test_what_the_library_encrypts_decrypts(key: PrivateKey) -> None:
    assert key.decrypt_oaep(keychain.encrypt_oaep(key.modulus, b"secret")) == b"secret"
    assert key.decrypt_pkcs1v15(keychain.encrypt_pkcs1v15(key.modulus, b"secret")) == b"secret"
    assert key.decrypt_pkcs1v15(keychain.encrypt_pkcs1v15(key.modulus, b"")) == b""


def test_what_is_encrypted_here_decrypts(key: PrivateKey) -> None:
    assert key.decrypt_oaep(key.encrypt_oaep(b"secret")) == b"secret"
    assert key.decrypt_oaep(rsa.encrypt_oaep(key.n, E, b"secret")) == b"secret"
    assert key.decrypt_pkcs1v15(rsa.encrypt_pkcs1v15(key.n, E, b"secret")) == b"secret"


def test_longest_plaintexts_are_the_modulus_less_the_padding(key: PrivateKey) -> None:
    size = BITS // 8
    oaep = b"o" * (size - rsa.OAEP_OVERHEAD_BYTES)
    pkcs1 = b"p" * (size - rsa.PKCS1_OVERHEAD_BYTES)
    assert key.decrypt_oaep(key.encrypt_oaep(oaep)) == oaep
    assert key.decrypt_pkcs1v15(rsa.encrypt_pkcs1v15(key.n, E, pkcs1)) == pkcs1
    with pytest.raises(RsaError):
        key.encrypt_oaep(oaep + b"o")
    with pytest.raises(RsaError):
        rsa.encrypt_pkcs1v15(key.n, E, pkcs1 + b"p")


@pytest.mark.parametrize(
    "ciphertext",
    [
        b"",
        b"\x01" * (BITS // 8),
        bytes(BITS // 8),
        b"\xff" * (BITS // 8),
        b"\x01" * (BITS // 8 - 1),
        b"\x01" * (BITS // 8 + 1),
    ],
    ids=["empty", "garbage", "zero", "above modulus", "short", "long"],
)
def test_ciphertext_that_does_not_decode_is_an_error_in_both_paddings(
    key: PrivateKey, ciphertext: bytes
) -> None:
    with pytest.raises(RsaError):
        key.decrypt_oaep(ciphertext)
    with pytest.raises(RsaError):
        key.decrypt_pkcs1v15(ciphertext)


@pytest.mark.parametrize(
    "block",
    [
        # type 1 instead of 2
        b"\x00\x01" + b"\xff" * 100 + b"\x00" + b"a" * 25,
        # first byte not zero is impossible below the modulus; type 0
        b"\x00\x00" + b"\xff" * 100 + b"\x00" + b"a" * 25,
        # seven bytes of padding, one too few
        b"\x00\x02" + b"\xff" * 7 + b"\x00" + b"a" * 118,
        # no separator
        b"\x00\x02" + b"\xff" * 126,
    ],
)
def test_pkcs1_block_of_another_shape_is_an_error(key: PrivateKey, block: bytes) -> None:
    assert len(block) == BITS // 8
    ciphertext = pow(int.from_bytes(block, "big"), E, key.n).to_bytes(BITS // 8, "big")
    with pytest.raises(RsaError):
        key.decrypt_pkcs1v15(ciphertext)


def test_pkcs1_block_with_eight_bytes_of_padding_decodes(key: PrivateKey) -> None:
    block = b"\x00\x02" + b"\xff" * 8 + b"\x00" + b"a" * 117
    ciphertext = pow(int.from_bytes(block, "big"), E, key.n).to_bytes(BITS // 8, "big")
    assert key.decrypt_pkcs1v15(ciphertext) == b"a" * 117


def test_verification_takes_the_right_signature_only(key: PrivateKey) -> None:
    signature = key.sign_sha1_digest(DIGEST)
    rsa.verify_sha1(key.n, E, DIGEST, signature)
    for digest, wrong in ((bytes(20), signature), (DIGEST, bytes(128)), (DIGEST, b"")):
        with pytest.raises(RsaError):
            rsa.verify_sha1(key.n, E, digest, wrong)


@pytest.mark.parametrize("modulus", [0, 1, 2, 1 << 1023])
def test_numbers_that_are_no_public_key_are_an_error(modulus: int) -> None:
    with pytest.raises(RsaError):
        rsa.encrypt_oaep(modulus, E, b"a")


def test_either_factor_makes_the_key(key: PrivateKey) -> None:
    for factor in (key.p, key.q):
        again = PrivateKey.from_factor(key.n, factor, E)
        assert keychain.verifies(key.modulus, DIGEST, again.sign_sha1_digest(DIGEST))


def test_factors_that_make_no_key_are_refused(key: PrivateKey) -> None:
    short, _ = key_pair(801, 768, E)
    for n, p in (
        (key.n, key.p + 2),
        (key.n, 0),
        (key.n, 1),
        (key.n, key.n),
        (key.p * key.p, key.p),
        (key.p * short, key.p),
        (key.p * (key.p - 1), key.p),
        (0, 3),
        (key.p, 3),
    ):
        with pytest.raises(RsaError):
            PrivateKey.from_factor(n, p, E)


def test_factors_with_a_common_divisor_are_refused() -> None:
    # Equally long, odd and different, but no inverse of one modulo the other exists.
    small, _ = key_pair(802, 512, E)
    a, b = key_pair(803, 512, E)
    with pytest.raises(RsaError):
        PrivateKey.from_factor(small * a * small * b, small * a, E)


@pytest.mark.parametrize("exponent", [0, 1, 2, 65536])
def test_exponent_that_has_no_inverse_is_refused(key: PrivateKey, exponent: int) -> None:
    with pytest.raises(RsaError):
        PrivateKey.from_factor(key.n, key.p, exponent)


def test_composite_factors_fail_or_work_but_never_break_anything_else() -> None:
    # Anybody can wrap such a key for a known parent.
    a, b = key_pair(804, 512, E)
    c, d = key_pair(805, 512, E)
    p, q = a * b, c * d
    crafted = PrivateKey.from_factor(p * q, p, E)
    assert len(crafted.sign_sha1_digest(DIGEST)) == 128
    with pytest.raises(RsaError):
        crafted.decrypt_oaep(b"\x01" * 128)
    with pytest.raises(RsaError):
        crafted.decrypt_pkcs1v15(b"\x01" * 128)


def test_prime_is_half_as_long_as_the_modulus(key: PrivateKey) -> None:
    assert len(key.prime) == BITS // 16
    assert int.from_bytes(key.prime, "big") == key.p


def test_repr_shows_the_length_only(key: PrivateKey) -> None:
    assert repr(key) == "PrivateKey(<1024 bits>)"


@pytest.mark.parametrize(("bits", "exponent"), [(512, 3), (528, 5), (768, 17), (1008, 257)])
def test_made_primes_are_a_key_of_exactly_these_bits_that_works(bits: int, exponent: int) -> None:
    p, q = smallrsa.generate_primes(bits, exponent, SeededRandom("primes"))
    key = PrivateKey.from_factor(p * q, p, exponent)
    assert key.n.bit_length() == bits
    assert key.decrypt_oaep(key.encrypt_oaep(b"secret")) == b"secret"
    assert key.decrypt_pkcs1v15(rsa.encrypt_pkcs1v15(key.n, exponent, b"secret")) == b"secret"
    rsa.verify_sha1(key.n, exponent, DIGEST, key.sign_sha1_digest(DIGEST))


def test_made_primes_depend_on_nothing_but_the_random_source() -> None:
    one = smallrsa.generate_primes(512, 3, SeededRandom("a"))
    assert smallrsa.generate_primes(512, 3, SeededRandom("a")) == one
    assert smallrsa.generate_primes(512, 3, SeededRandom("b")) != one
