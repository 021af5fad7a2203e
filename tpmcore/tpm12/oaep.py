# SPDX-License-Identifier: Apache-2.0
"""OAEP as an encoding of its own, with the seed and the hash of the parameters given.

Migration blobs hide 20 bytes of a private key in the seed and a secret in pHash (Part 1, 4.9.2 of
the engine reference), which no library offers: they draw the seed and hash a label. The encoding is
EME-OAEP of PKCS#1 with SHA-1 and MGF1, without the leading zero byte: nothing is encrypted with it.
"""

from __future__ import annotations

from typing import Final

from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST_BYTES
from tpmcore.tpm12.primitives import mgf1, xor
from tpmcore.tpm12.rsa import RsaError

_SEPARATOR: Final = b"\x01"
OVERHEAD_BYTES: Final = 2 * DIGEST_BYTES + len(_SEPARATOR)
"""What a block has beside its message: seed, pHash, separator."""


@record(repr=False)
class OaepBlock:
    """What an OAEP block is made of.

    Attributes:
        seed: 20 bytes.
        p_hash: 20 bytes.
    """

    seed: bytes
    p_hash: bytes
    message: bytes


def encode(block: OaepBlock) -> bytes:
    """Return maskedSeed and maskedDB, 41 bytes more than the message: there is no zero padding."""
    data = block.p_hash + _SEPARATOR + block.message
    masked_data = xor(data, mgf1(block.seed, len(data)))
    return xor(block.seed, mgf1(masked_data, DIGEST_BYTES)) + masked_data


def decode(encoded: bytes) -> OaepBlock:
    """Undo `encode`; zero padding before the separator is accepted.

    Raises:
        RsaError: too short, or the padding is not zeros and a one.
    """
    if len(encoded) < OVERHEAD_BYTES:
        raise RsaError(f"{len(encoded)} bytes are no OAEP block")
    masked_data = encoded[DIGEST_BYTES:]
    seed = xor(encoded[:DIGEST_BYTES], mgf1(masked_data, DIGEST_BYTES))
    data = xor(masked_data, mgf1(seed, len(masked_data)))
    padded = data[DIGEST_BYTES:].lstrip(b"\0")
    if not padded.startswith(_SEPARATOR):
        raise RsaError("OAEP block does not decode")
    return OaepBlock(seed, data[:DIGEST_BYTES], padded[1:])
