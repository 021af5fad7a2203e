# SPDX-License-Identifier: Apache-2.0
"""What a client does with a TPM's public keys: encrypt for them, verify their signatures."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from protocol.tpm12.constants import PayloadType
from protocol.tpm12.keys import PubKey
from protocol.tpm12.stored import BoundData
from tpmcore.tss12.errors import ResponseError

_OAEP_LABEL: Final = b"TCPA"


def _library_key(key: PubKey) -> rsa.RSAPublicKey:
    numbers = rsa.RSAPublicNumbers(
        key.algorithm_parms.rsa.exponent_value, int.from_bytes(key.key, "big")
    )
    return numbers.public_key()


def encrypt_oaep(key: PubKey, data: bytes) -> bytes:
    """Encrypt with RSAES-OAEP, SHA-1, MGF1 and the label TCPA (Part 1, 31.1.1).

    Raises:
        ValueError: the data is too long for the key.
    """
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), _OAEP_LABEL)
    return _library_key(key).encrypt(data, oaep)


def bind(key: PubKey, data: bytes) -> bytes:
    """Encrypt data for TPM_UnBind with a key whose encryption scheme is OAEP."""
    return encrypt_oaep(key, BoundData(PayloadType.BIND, data).encode())


def verify_signature(key: PubKey, digest: bytes, signature: bytes) -> None:
    """Verify RSASSA-PKCS1-v1_5 over a SHA-1 digest (signature schemes SHA1 and INFO).

    Args:
        digest: 20 bytes.

    Raises:
        ResponseError: the signature is not one of this key over this digest.
    """
    try:
        _library_key(key).verify(
            signature, digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1())
        )
    except InvalidSignature as error:
        raise ResponseError("signature does not verify") from error
