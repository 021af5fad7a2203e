# SPDX-License-Identifier: Apache-2.0
"""The self tests: known answers of every algorithm that the engine builds on.

Vectors: FIPS 180-4 (SHA-1 of "abc"), RFC 2202 case 2 (HMAC), SP 800-38A F.5.1 (AES-128-CTR); MGF1
as commonly published for the seed "bar"; the RSA signature and the OAEP ciphertext were made with
the command line of OpenSSL 3.0 for a key made there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

from tpmcore.tpm12.primitives import aes128_ctr, hmac_sha1, mgf1
from tpmcore.tpm12.rsa import PrivateKey, RsaError
from tpmcore.tpm12.state import SelfTest
from tpmcore.tpm12.tpm import Tpm

_P: Final = int(
    "d0f58f0113b60ca5754e46afa7a21e7b4cd4ad2283995bd36237120edfed10d7"
    "04157fde17cb78bfe01168e78874ae4f5cb6ae3b4be5940cc906f0538d30f349",
    16,
)
_Q: Final = int(
    "c6d3dd2f06b8024c2c4608cc9d00025b2a244ec098cf58daa69c4c627c3a5bb6"
    "dddf683d8eb37c728c04f52b69f1b63abc87151fb2d87e6b4ff248857a22cca5",
    16,
)
_EXPONENT: Final = 65537
_MESSAGE: Final = b"abc"
_SIGNATURE: Final = bytes.fromhex(
    "65a824f6444818cbeaec9591812d846c6be2a6a561acb36779f62e9537d5f60a"
    "6febfde0bb8fae0f95fad027bbc6f4fdf45f820462644defb472aaf977eb3544"
    "e502839b1f6530eb8e47d444557d531a963350c4a3a814b4ec474a9970cb629c"
    "6bf62b4c8f2d97f8e81560d59b2f3fa45357c7e3b16007cf3ad550f2d3a338e7"
)
_OAEP_CIPHERTEXT: Final = bytes.fromhex(
    "61699a59def6aca8aefd205061f917ed74a755ebc0f4d9a5b3d28fa559701966"
    "fefdc4471445f6284fcab6efded8d6406fdbbc405d9ebc920e6d79fe4a834ff0"
    "362423f3935598c8d663e49d8c8ff3ec214e89ba3eca8c75fdc8be3eb6a926e8"
    "926e2b43a6df0455cf723ce0bd4cdb84683abb253fae8de13cf1a8b7088af649"
)
_RANDOM_BYTES: Final = 20


def _sha1(_tpm: Tpm) -> bool:
    return hashlib.sha1(_MESSAGE).hexdigest() == "a9993e364706816aba3e25717850c26c9cd0d89d"


def _hmac(_tpm: Tpm) -> bool:
    digest = hmac_sha1(b"Jefe", b"what do ya want for nothing?")
    return digest.hex() == "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"


def _aes(_tpm: Tpm) -> bool:
    ciphertext = aes128_ctr(
        bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"),
        bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"),
        bytes.fromhex("6bc1bee22e409f96e93d7e117393172a"),
    )
    return ciphertext.hex() == "874d6191b620e3261bef6864990db6ce"


def _mgf1(_tpm: Tpm) -> bool:
    return mgf1(b"bar", 25).hex() == "bc0c655e016bc2931d85a2e675181adcef7f581f76df2739da"


def _rsa(_tpm: Tpm) -> bool:
    key = PrivateKey(_P, _Q, _EXPONENT)
    try:
        signature = key.sign_sha1_digest(hashlib.sha1(_MESSAGE).digest())
        return signature == _SIGNATURE and key.decrypt_oaep(_OAEP_CIPHERTEXT) == _MESSAGE
    except RsaError:
        return False


def _random(tpm: Tpm) -> bool:
    """A generator that is stuck gives the same bytes twice."""
    return tpm.random(_RANDOM_BYTES) != tpm.random(_RANDOM_BYTES)


TESTS: Final[Mapping[str, Callable[[Tpm], bool]]] = {
    "SHA-1": _sha1,
    "HMAC": _hmac,
    "AES": _aes,
    "MGF1": _mgf1,
    "RSA": _rsa,
    "random": _random,
}


def run_all(tpm: Tpm, tests: Mapping[str, Callable[[Tpm], bool]] = TESTS) -> bool:
    """Run every test; a failure puts the TPM into failure mode until TPM_Init (4.16).

    Returns: whether all passed.
    """
    passed = all(test(tpm) for test in tests.values())
    tpm.self_test = SelfTest.FULL if passed else SelfTest.FAILED
    return passed
