# SPDX-License-Identifier: Apache-2.0
"""TPM_DAA_BLOB: what Join leaves with the host for Sign (Part 2, 22.7 and 22.8).

sensitiveData is TPM_DAA_SENSITIVE under AES-128-CTR with daaBlobKey; the initial counter is random
and stands in additionalData. blobIntegrity is an HMAC with daaProof over the blob as it is given
out, with blobIntegrity zeroed.
"""

from __future__ import annotations

import hmac
from typing import Final

from protocol.tpm12.constants import ResourceType, ReturnCode
from protocol.tpm12.daa import DaaBlob, DaaSensitive
from protocol.tpm12.wire import DIGEST_BYTES, WireError
from tpmcore.errors import TpmError
from tpmcore.tpm12.daa_session import DaaSecrets
from tpmcore.tpm12.primitives import hmac_sha1
from tpmcore.tpm12.tpm import Tpm

_LABEL: Final = bytes(16)
_ZEROS: Final = bytes(DIGEST_BYTES)
_COUNTER_BYTES: Final = 16
_INTEGRITY_AT: Final = 2 + 4 + len(_LABEL)
"""Offset of blobIntegrity: behind tag, resourceType and label."""
_INTEGRITY_END: Final = _INTEGRITY_AT + DIGEST_BYTES


def secrets_of(tpm: Tpm) -> DaaSecrets:
    """Return the DAA secrets; a chip of a version without DAA gets its own now."""
    return tpm.permanent.daa or tpm.renew_daa_secrets()


def seal(tpm: Tpm, resource_type: ResourceType, data: bytes) -> bytes:
    """Return an encoded TPM_DAA_BLOB with data in it."""
    secrets = secrets_of(tpm)
    counter = tpm.random(_COUNTER_BYTES)
    encrypted = tpm.blob_cipher.crypt(secrets.blob_key, counter, DaaSensitive(data).encode())
    blob = DaaBlob(resource_type, _LABEL, _ZEROS, counter, encrypted).encode()
    return blob[:_INTEGRITY_AT] + _integrity(secrets, blob) + blob[_INTEGRITY_END:]


def _integrity(secrets: DaaSecrets, blob: bytes) -> bytes:
    """Return the blobIntegrity of an encoded blob, whatever it has in its place."""
    return hmac_sha1(secrets.proof, blob[:_INTEGRITY_AT] + _ZEROS + blob[_INTEGRITY_END:])


def unseal(tpm: Tpm, resource_type: ResourceType, data: bytes) -> bytes:
    """Return what is in an encoded TPM_DAA_BLOB of this TPM.

    Raises:
        TpmError: DAA_INPUT_DATA0 if it is of another type or another TPM, or was changed.
    """
    secrets = tpm.permanent.daa
    if secrets is None:
        raise TpmError(ReturnCode.DAA_INPUT_DATA0)
    try:
        blob = DaaBlob.decode(data)
    except WireError:
        raise TpmError(ReturnCode.DAA_INPUT_DATA0) from None
    if not hmac.compare_digest(_integrity(secrets, data), blob.blob_integrity):
        raise TpmError(ReturnCode.DAA_INPUT_DATA0)
    if blob.resource_type != resource_type:
        raise TpmError(ReturnCode.DAA_INPUT_DATA0)
    plain = tpm.blob_cipher.crypt(secrets.blob_key, blob.additional_data, blob.sensitive_data)
    return DaaSensitive.decode(plain).internal_data
