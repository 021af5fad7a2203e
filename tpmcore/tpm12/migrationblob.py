# SPDX-License-Identifier: Apache-2.0
"""The form that a private key has on its way from one TPM to another (4.9.2 of the engine
reference).

Two wrappers: outside RSA with the public key of whoever gets it, inside an OAEP block masked with
random bytes that travel separately, so that the receiver of the outer one alone learns nothing.
"""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import PayloadType, ReturnCode
from protocol.tpm12.keys import StoreAsymKey
from protocol.tpm12.migration import MigrateAsymKey
from protocol.tpm12.wire import DIGEST_BYTES, SIZED, Reader, WireError
from tpmcore.errors import TpmError
from tpmcore.tpm12 import oaep
from tpmcore.tpm12.oaep import OaepBlock
from tpmcore.tpm12.parsing import decode_plaintext, parse_code
from tpmcore.tpm12.primitives import xor
from tpmcore.tpm12.rsa import RsaError
from tpmcore.tpm12.state import KeyBody

_SEED_BYTES: Final = DIGEST_BYTES


def unwrap_store(parent: KeyBody, enc_data: bytes) -> StoreAsymKey:
    """Decrypt the private part of a key whose public part is not at hand.

    Raises:
        TpmError: DECRYPT_ERROR, BAD_PARAM_SIZE.
    """
    try:
        plain = parent.private.decrypt_oaep(enc_data)
    except RsaError as error:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from error
    return decode_plaintext(StoreAsymKey, plain)


def encode_inner(store: StoreAsymKey, payload: PayloadType, p_hash: bytes) -> bytes:
    """Return o1, the OAEP block of a key, not masked yet: 198 bytes for a 2048-bit key.

    Args:
        store: the key; its payload and migrationAuth are not carried.
        p_hash: 20 bytes that stand for the hash of the OAEP parameters.
    """
    private = SIZED.write(store.private_key)
    message = MigrateAsymKey(
        payload, store.usage_auth, store.pub_data_digest, private[_SEED_BYTES:]
    )
    return oaep.encode(OaepBlock(private[:_SEED_BYTES], p_hash, message.encode()))


def decode_inner(inner: bytes) -> StoreAsymKey:
    """Undo `encode_inner`.

    Returns:
        The key with the payload type of the blob, and with pHash as migrationAuth.

    Raises:
        TpmError: DECRYPT_ERROR, BAD_PARAM_SIZE.
    """
    try:
        block = oaep.decode(inner)
    except RsaError as error:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from error
    message = decode_plaintext(MigrateAsymKey, block.message)
    reader = Reader(block.seed + message.part_priv_key)
    try:
        private = reader.sized("privKey")
        reader.finish("privKey")
    except WireError as error:
        raise TpmError(parse_code(error)) from error
    return StoreAsymKey(
        message.payload, message.usage_auth, block.p_hash, message.pub_data_digest, private
    )


def open_blob(parent: KeyBody, blob: bytes, random: bytes) -> StoreAsymKey:
    """Decrypt and unmask what came for a storage key of this TPM; as `decode_inner` otherwise.

    Raises:
        TpmError: DECRYPT_ERROR, BAD_PARAMETER if the mask has another length, BAD_PARAM_SIZE.
    """
    try:
        masked = parent.private.decrypt_oaep(blob)
    except RsaError as error:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from error
    if len(masked) != len(random):
        raise TpmError(ReturnCode.BAD_PARAMETER)
    return decode_inner(xor(masked, random))
