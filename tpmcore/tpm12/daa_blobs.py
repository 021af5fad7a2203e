# SPDX-License-Identifier: Apache-2.0
"""TPM_DAA_BLOB: what Join leaves with the host for Sign (Part 2, 22.7 and 22.8).

| offset | bytes | field          | content |
|--------|-------|----------------|---------|
| 0      | 2     | tag            | TPM_TAG_DAA_BLOB |
| 2      | 4     | resourceType   | what is in it, see `ResourceType` |
| 6      | 16    | label          | zeros |
| 22     | 20    | blobIntegrity  | HMAC with daaProof over the blob with zeros in this place |
| 42     | 4     | additionalSize | 16 |
| 46     | 16    | additionalData | random, the initial counter of AES-128-CTR with daaBlobKey |
| 62     | 4     | sensitiveSize  | s |
| 66     | s     | sensitiveData  | TPM_DAA_SENSITIVE, encrypted: tag (2), size (4), internalData |

A blob is authenticated before anything in it is believed, so one that is accepted has this form:
nobody else knows daaProof.
"""

from __future__ import annotations

import hmac
import struct
from typing import Final

from protocol.tpm12.constants import ResourceType, ReturnCode, StructureTag
from protocol.tpm12.wire import DIGEST_BYTES
from tpmcore.errors import TpmError
from tpmcore.tpm12.daa_session import DaaSecrets
from tpmcore.tpm12.primitives import hmac_sha1
from tpmcore.tpm12.tpm import Tpm

_HEAD: Final = struct.Struct(">HI16x")
_TAIL: Final = struct.Struct(">I16sI")
_SENSITIVE: Final = struct.Struct(">HI")
_BLOB_TAG: Final = int(StructureTag.DAA_BLOB)
_SENSITIVE_TAG: Final = int(StructureTag.DAA_SENSITIVE)
_COUNTER_BYTES: Final = 16

_ZEROS: Final = bytes(DIGEST_BYTES)
_INTEGRITY_AT: Final = _HEAD.size
_INTEGRITY_END: Final = _INTEGRITY_AT + DIGEST_BYTES
_DATA_AT: Final = _INTEGRITY_END + _TAIL.size


def secrets_of(tpm: Tpm) -> DaaSecrets:
    """Return the DAA secrets; a chip of a version without DAA gets its own now."""
    return tpm.permanent.daa or tpm.renew_daa_secrets()


def seal(tpm: Tpm, resource_type: ResourceType, data: bytes) -> bytes:
    """Return an encoded TPM_DAA_BLOB with data in it."""
    secrets = secrets_of(tpm)
    counter = tpm.random(_COUNTER_BYTES)
    plain = _SENSITIVE.pack(_SENSITIVE_TAG, len(data)) + data
    encrypted = tpm.blob_cipher.crypt(secrets.blob_key, counter, plain)
    head = _HEAD.pack(_BLOB_TAG, resource_type)
    tail = _TAIL.pack(_COUNTER_BYTES, counter, len(encrypted)) + encrypted
    return head + hmac_sha1(secrets.proof, head + _ZEROS + tail) + tail


def unseal(tpm: Tpm, resource_type: ResourceType, data: bytes) -> bytes:
    """Return what is in an encoded TPM_DAA_BLOB of this TPM.

    Raises:
        TpmError: DAA_INPUT_DATA0 if it is of another type or another TPM, or was changed.
    """
    secrets = tpm.permanent.daa
    if secrets is None:
        raise TpmError(ReturnCode.DAA_INPUT_DATA0)
    head, tail = data[:_INTEGRITY_AT], data[_INTEGRITY_END:]
    expected = hmac_sha1(secrets.proof, head + _ZEROS + tail)
    if not hmac.compare_digest(expected, data[_INTEGRITY_AT:_INTEGRITY_END]):
        raise TpmError(ReturnCode.DAA_INPUT_DATA0)
    if head != _HEAD.pack(_BLOB_TAG, resource_type):
        raise TpmError(ReturnCode.DAA_INPUT_DATA0)
    _, counter, _ = _TAIL.unpack_from(tail)
    plain = tpm.blob_cipher.crypt(secrets.blob_key, counter, data[_DATA_AT:])
    return plain[_SENSITIVE.size :]
