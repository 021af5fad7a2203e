# SPDX-License-Identifier: Apache-2.0
"""The control channel of swtpm, as QEMU and swtpm_ioctl speak it to a software TPM.

Without I/O; imports `protocol.errors` and `protocol.tpm12`. `requests` tells when a request is
whole and what it asks, `responses` builds the answers.
"""

from protocol.swtpm.constants import (
    CAPABILITIES,
    MAX_BLOB_BYTES,
    MAX_INFO_BYTES,
    MAX_LOCALITY,
    Capability,
    Command,
    ConfigFlag,
    InitFlag,
)
from protocol.swtpm.requests import (
    GetInfo,
    GetStateBlob,
    HashData,
    Init,
    LockStorage,
    Malformed,
    Plain,
    Request,
    ResetEstablished,
    SetBufferSize,
    SetLocality,
    SetStateBlob,
    Unknown,
    missing_bytes,
    parse_request,
)

__all__ = [
    "CAPABILITIES",
    "MAX_BLOB_BYTES",
    "MAX_INFO_BYTES",
    "MAX_LOCALITY",
    "Capability",
    "Command",
    "ConfigFlag",
    "GetInfo",
    "GetStateBlob",
    "HashData",
    "Init",
    "InitFlag",
    "LockStorage",
    "Malformed",
    "Plain",
    "Request",
    "ResetEstablished",
    "SetBufferSize",
    "SetLocality",
    "SetStateBlob",
    "Unknown",
    "missing_bytes",
    "parse_request",
]
