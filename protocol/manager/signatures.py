# SPDX-License-Identifier: Apache-2.0
"""Checking what a TPM's identity keys sign: RSA 2048, exponent 65537, PKCS #1 v1.5 with SHA-1.

Managers, agents and verifiers all check here.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from protocol.manager.approval import EXPONENT, is_agent_modulus
from protocol.tpm12.attestation import QuoteInfo


def is_signed(modulus: bytes, signature: bytes, message: bytes) -> bool:
    """Say whether the identity key with this modulus, 256 bytes, signed a message."""
    if not is_agent_modulus(modulus):
        return False
    try:
        key = rsa.RSAPublicNumbers(EXPONENT, int.from_bytes(modulus, "big")).public_key()
        key.verify(signature, message, padding.PKCS1v15(), hashes.SHA1())
    except (InvalidSignature, ValueError):
        return False
    return True


def is_quote(modulus: bytes, signature: bytes, composite: bytes, external_data: bytes) -> bool:
    """Say whether an identity key made this TPM_Quote (TPM Main Part 3, 16.3).

    Args:
        composite: hash of the PCRs that were selected, 20 bytes.
        external_data: 20 bytes.
    """
    return is_signed(modulus, signature, QuoteInfo(b"QUOT", composite, external_data).encode())
