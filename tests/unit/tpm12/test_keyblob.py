# SPDX-License-Identifier: Apache-2.0
"""What a key of each usage may be: the table of the specification, tried from outside."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from protocol.tpm12.constants import Algorithm, EncScheme, KeyUsage, ReturnCode, SigScheme
from protocol.tpm12.keys import Key, KeyParms, RsaKeyParms
from tpmcore.errors import TpmError
from tpmcore.tpm12.keyblob import check_key_properties

NONE, OAEP, PKCS1 = EncScheme.NONE, EncScheme.RSAESOAEP_SHA1_MGF1, EncScheme.RSAESPKCSV15
NO_SIG, SHA1 = SigScheme.NONE, SigScheme.RSASSAPKCS1V15_SHA1
DER, INFO = SigScheme.RSASSAPKCS1V15_DER, SigScheme.RSASSAPKCS1V15_INFO

ALLOWED = {
    KeyUsage.SIGNING: {(NONE, SHA1), (NONE, DER), (NONE, INFO)},
    KeyUsage.STORAGE: {(OAEP, NO_SIG)},
    KeyUsage.IDENTITY: {(NONE, SHA1)},
    KeyUsage.AUTHCHANGE: {(OAEP, NO_SIG)},
    KeyUsage.BIND: {(OAEP, NO_SIG), (PKCS1, NO_SIG)},
    KeyUsage.LEGACY: {(OAEP, SHA1), (OAEP, DER), (PKCS1, SHA1), (PKCS1, DER)},
    KeyUsage.MIGRATE: {(OAEP, NO_SIG)},
}
ONLY_2048 = {KeyUsage.STORAGE, KeyUsage.IDENTITY, KeyUsage.MIGRATE}


def _key(
    usage: int,
    enc_scheme: int,
    sig_scheme: int,
    *,
    bits: int = 2048,
    exponent: bytes = b"",
    primes: int = 2,
    algorithm: int = Algorithm.RSA,
    auth_data_usage: int = 1,
) -> Key:
    parms = RsaKeyParms(bits, primes, exponent).encode()
    return Key(
        False,
        usage,
        0,
        auth_data_usage,
        KeyParms(algorithm, enc_scheme, sig_scheme, parms),
    )


def _code(key: Key, *, fips: bool = False) -> int:
    try:
        check_key_properties(key, fips=fips)
    except TpmError as error:
        return error.code
    return ReturnCode.SUCCESS


def _legal() -> Iterator[tuple[KeyUsage, EncScheme, SigScheme]]:
    for usage, schemes in ALLOWED.items():
        yield usage, *sorted(schemes)[0]


@pytest.mark.parametrize("usage", [*KeyUsage, 0, 0x17])
def test_each_usage_has_its_schemes_and_no_others(usage: int) -> None:
    for enc_scheme, sig_scheme in itertools.product(range(7), range(7)):
        known = usage in KeyUsage.__members__.values()
        legal = known and (enc_scheme, sig_scheme) in ALLOWED[KeyUsage(usage)]
        expected = ReturnCode.SUCCESS if legal else ReturnCode.BAD_KEY_PROPERTY
        assert _code(_key(usage, enc_scheme, sig_scheme)) == expected, (enc_scheme, sig_scheme)


@pytest.mark.parametrize(("usage", "enc_scheme", "sig_scheme"), list(_legal()))
def test_each_usage_has_its_lengths(
    usage: KeyUsage, enc_scheme: EncScheme, sig_scheme: SigScheme
) -> None:
    for bits in (0, 256, 496, 504, 511, 512, 520, 528, 1024, 1032, 2032, 2048, 2064, 4096):
        legal = bits in (512, 528, 1024, 2032, 2048) and (bits == 2048 or usage not in ONLY_2048)
        expected = ReturnCode.SUCCESS if legal else ReturnCode.BAD_KEY_PROPERTY
        assert _code(_key(usage, enc_scheme, sig_scheme, bits=bits)) == expected, bits


@pytest.mark.parametrize(("usage", "enc_scheme", "sig_scheme"), list(_legal()))
def test_each_usage_has_its_exponents(
    usage: KeyUsage, enc_scheme: EncScheme, sig_scheme: SigScheme
) -> None:
    for exponent in ("", "010001", "03", "05", "07", "11", "0101", "01", "02", "0b", "010002"):
        default = exponent in ("", "010001")
        other = exponent in ("03", "05", "07", "11", "0101") and usage not in ONLY_2048
        expected = ReturnCode.SUCCESS if default or other else ReturnCode.BAD_KEY_PROPERTY
        key = _key(usage, enc_scheme, sig_scheme, exponent=bytes.fromhex(exponent))
        assert _code(key) == expected, exponent


@pytest.mark.parametrize("primes", [0, 1, 3])
def test_keys_have_two_primes(primes: int) -> None:
    key = _key(KeyUsage.SIGNING, NONE, SHA1, primes=primes)
    assert _code(key) == ReturnCode.BAD_KEY_PROPERTY


@pytest.mark.parametrize("algorithm", [a for a in Algorithm if a != Algorithm.RSA])
def test_keys_are_rsa(algorithm: Algorithm) -> None:
    key = _key(KeyUsage.SIGNING, NONE, SHA1, algorithm=algorithm)
    assert _code(key) == ReturnCode.BAD_KEY_PROPERTY


def test_fips_wants_authorization_1024_bits_and_no_legacy_keys() -> None:
    signing = _key(KeyUsage.SIGNING, NONE, SHA1, bits=1024)
    assert _code(signing, fips=True) == ReturnCode.SUCCESS
    for key in (
        _key(KeyUsage.SIGNING, NONE, SHA1, auth_data_usage=0),
        _key(KeyUsage.SIGNING, NONE, SHA1, bits=1008),
        _key(KeyUsage.LEGACY, OAEP, SHA1),
    ):
        assert _code(key) == ReturnCode.SUCCESS
        assert _code(key, fips=True) == ReturnCode.NOTFIPS
