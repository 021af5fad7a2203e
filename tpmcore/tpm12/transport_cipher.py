# SPDX-License-Identifier: Apache-2.0
"""Encryption of what transport sessions carry (Part 3, 24.2; Part 1, chapter on transport)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocol.tpm12.constants import Algorithm, EncScheme
from protocol.tpm12.transport import TransportPublic
from tpmcore.tpm12.primitives import aes128_ctr, mgf1, xor

REQUEST: Final = b"in"
RESPONSE: Final = b"out"

SCHEMES: Final[Mapping[int, frozenset[EncScheme]]] = {
    Algorithm.MGF1: frozenset({EncScheme.NONE}),
    Algorithm.AES128: frozenset({EncScheme.SYM_CTR, EncScheme.SYM_OFB}),
}
"""Algorithms, and the schemes of each."""

_BLOCK_BYTES: Final = 16


def crypt(
    public: TransportPublic, auth_data: bytes, nonces: bytes, direction: bytes, data: bytes
) -> bytes:
    """Encrypt or decrypt parameters; the two are the same.

    Args:
        public: of the session; one of SCHEMES.
        auth_data: secret of the session, 20 bytes.
        nonces: transNonceEven (the last one for a request, the new one for a response) and
            transNonceOdd, 40 bytes.
        direction: REQUEST or RESPONSE.
    """
    if not data:
        return b""
    if public.alg_id == Algorithm.MGF1:
        return xor(data, mgf1(nonces + direction + auth_data, len(data)))
    key, start = auth_data[:_BLOCK_BYTES], mgf1(nonces + direction, _BLOCK_BYTES)
    if public.enc_scheme == EncScheme.SYM_CTR:
        return aes128_ctr(key, start, data)
    return _aes128_ofb(key, start, data)


def _aes128_ofb(key: bytes, start: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt in output feedback mode, whose key stream is CBC over zeros; the library
    is about to drop the mode itself."""
    cipher = Cipher(algorithms.AES(key), modes.CBC(start)).encryptor()
    pad = cipher.update(bytes(-(-len(data) // _BLOCK_BYTES) * _BLOCK_BYTES))
    return xor(data, pad[: len(data)])
