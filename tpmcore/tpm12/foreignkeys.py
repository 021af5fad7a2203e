# SPDX-License-Identifier: Apache-2.0
"""Public keys that a client brings: of migration authorities, other TPMs, the manufacturer.

They may be longer than any key of this TPM, and they are whatever the client says.
"""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Algorithm, EncScheme, ReturnCode, SigScheme
from protocol.tpm12.keys import DEFAULT_EXPONENT, PubKey
from tpmcore.errors import TpmError
from tpmcore.tpm12 import rsa
from tpmcore.tpm12.rsa import RsaError

SIGNATURE_SCHEMES: Final = frozenset({SigScheme.RSASSAPKCS1V15_SHA1, SigScheme.RSASSAPKCS1V15_INFO})
"""Schemes under which `verify` is right."""
_STRONG_BITS: Final = 2048
_MAX_EXPONENT_BYTES: Final = 8
"""Bounds the work of one operation to that of 64 squarings; the library does so for long keys."""


def _numbers(key: PubKey) -> tuple[int, int]:
    """Return modulus and exponent.

    Raises:
        TpmError: BAD_KEY_PROPERTY if this is no RSA key, or its exponent is too long.
    """
    parms = key.algorithm_parms
    if parms.algorithm_id != Algorithm.RSA or len(parms.rsa.exponent) > _MAX_EXPONENT_BYTES:
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)
    return int.from_bytes(key.key, "big"), parms.rsa.exponent_value


def check_strength(key: PubKey) -> None:
    """Require what a key must be that is trusted with private keys of this TPM: as strong as a
    storage key.

    Raises:
        TpmError: BAD_KEY_PROPERTY.
    """
    modulus, exponent = _numbers(key)
    key_length = key.algorithm_parms.rsa.key_length
    # The length of the modulus is what counts, keyLength is only what the client says it is.
    if (
        key_length < _STRONG_BITS
        or modulus.bit_length() != key_length
        or exponent != DEFAULT_EXPONENT
    ):
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)


def encrypt(key: PubKey, data: bytes) -> bytes:
    """Encrypt for the owner of a key, by the encryption scheme that the key names.

    Raises:
        TpmError: BAD_KEY_PROPERTY, INAPPROPRIATE_ENC, ENCRYPT_ERROR (the data is too long, or the
            numbers are no key).
    """
    modulus, exponent = _numbers(key)
    scheme = key.algorithm_parms.enc_scheme
    if scheme == EncScheme.RSAESOAEP_SHA1_MGF1:
        encrypt_padded = rsa.encrypt_oaep
    elif scheme == EncScheme.RSAESPKCSV15:
        encrypt_padded = rsa.encrypt_pkcs1v15
    else:
        raise TpmError(ReturnCode.INAPPROPRIATE_ENC)
    try:
        return encrypt_padded(modulus, exponent, data)
    except RsaError as error:
        raise TpmError(ReturnCode.ENCRYPT_ERROR) from error


def verify(key: PubKey, digest: bytes, signature: bytes) -> None:
    """Check a signature over a digest: RSASSA-PKCS1-v1_5 with SHA-1.

    Args:
        digest: 20 bytes.

    Raises:
        TpmError: BAD_KEY_PROPERTY, BAD_SIGNATURE.
    """
    modulus, exponent = _numbers(key)
    try:
        rsa.verify_sha1(modulus, exponent, digest, signature)
    except RsaError as error:
        raise TpmError(ReturnCode.BAD_SIGNATURE) from error
