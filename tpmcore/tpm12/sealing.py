# SPDX-License-Identifier: Apache-2.0
"""Sealed blobs: making them, opening them, and the encryption of their data on the way (4.3.3).

The commands are in `tpmcore.tpm12.storage`.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from protocol.tpm12.constants import AdipScheme, EntityType, PayloadType, ReturnCode, StructureTag
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong
from protocol.tpm12.stored import SealedData, StoredData
from protocol.tpm12.wire import WireError
from tpmcore.errors import TpmError
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.keyblob import with_creation_values
from tpmcore.tpm12.primitives import aes128_ctr, mgf1, xor
from tpmcore.tpm12.rsa import RsaError
from tpmcore.tpm12.state import KeyBody
from tpmcore.tpm12.tpm import Tpm

_LONG_TAG: Final = StructureTag.PCR_INFO_LONG.to_bytes(2, "big")
_SEALX_ENTITY: Final = {
    # The high byte is the ADIP scheme; the low byte only has to make the value differ from 0.
    AdipScheme.XOR: AdipScheme.XOR << 8 | EntityType.KEY,
    AdipScheme.AES128_CTR: AdipScheme.AES128_CTR << 8,
}


def read_seal_info(data: bytes, *, long_only: bool) -> PcrInfo | PcrInfoLong | None:
    """Read the pcrInfo of Seal and Sealx; the first two bytes tell which structure it is.

    Args:
        data: empty, TPM_PCR_INFO or TPM_PCR_INFO_LONG.
        long_only: a TPM_PCR_INFO is refused.

    Raises:
        TpmError: BADINDEX for anything else.
    """
    if not data:
        return None
    is_long = data[:2] == _LONG_TAG
    if long_only and not is_long:
        raise TpmError(ReturnCode.BADINDEX)
    try:
        return PcrInfoLong.decode(data) if is_long else PcrInfo.decode(data)
    except WireError as error:
        raise TpmError(ReturnCode.BADINDEX) from error


def sealx_entity_type(scheme: AdipScheme) -> int:
    """Return the `et` of a blob whose data came encrypted under a session of that scheme."""
    return _SEALX_ENTITY[scheme]


def seal_blob(
    tpm: Tpm,
    key: KeyBody,
    blob: StoredData,
    auth_data: bytes,
    data: bytes,
) -> StoredData:
    """Seal data under a key to what the public part of a blob says (10.1).

    Args:
        blob: version, entity type and PCRs of the release; creation values are filled in here.
        auth_data: secret of the blob, 20 bytes.

    Raises:
        TpmError: BAD_DATASIZE if the data does not fit the key.
    """
    blob = StoredData(blob.is_12, blob.entity_type, with_creation_values(tpm, blob.seal_info))
    plain = SealedData(
        PayloadType.SEAL, auth_data, tpm.permanent.tpm_proof, blob.stored_digest(), data
    ).encode()
    try:
        enc_data = key.private.encrypt_oaep(plain)
    except RsaError as error:
        raise TpmError(ReturnCode.BAD_DATASIZE) from error
    return StoredData(blob.is_12, blob.entity_type, blob.seal_info, enc_data)


def open_sealed(tpm: Tpm, key: KeyBody, blob: StoredData) -> SealedData:
    """Decrypt a sealed blob and check that this TPM made it and nobody changed it since.

    Whether it may be released now is not judged here.

    Raises:
        TpmError: NOTSEALED_BLOB, whatever is wrong: which it was would help to forge one.
    """
    try:
        sealed = SealedData.decode(key.private.decrypt_oaep(blob.enc_data))
    except (RsaError, WireError) as error:
        raise TpmError(ReturnCode.NOTSEALED_BLOB) from error
    is_ours = hmac.compare_digest(sealed.tpm_proof, tpm.permanent.tpm_proof)
    is_whole = hmac.compare_digest(sealed.stored_digest, blob.stored_digest())
    if sealed.payload != PayloadType.SEAL or not is_ours or not is_whole:
        raise TpmError(ReturnCode.NOTSEALED_BLOB)
    return sealed


def crypt_session_data(ctx: Context, index: int, scheme: int, data: bytes) -> bytes:
    """Encrypt or decrypt data under a verified OSAP or DSAP session, as Sealx and Unseal do.

    Args:
        index: which authorization block names the session.
        scheme: AdipScheme.
    """
    session = ctx.session_of(index)
    nonces = session.nonce_even + ctx.auths[index].nonce_odd
    if scheme == AdipScheme.AES128_CTR:
        counter = hashlib.sha1(nonces).digest()[:16]
        return aes128_ctr(session.shared_secret[:16], counter, data)
    return xor(data, mgf1(nonces + b"XOR" + session.shared_secret, len(data)))
