# SPDX-License-Identifier: Apache-2.0
"""Numbers of swtpm's control channel (swtpm's tpm_ioctl.h). Result codes are those of TPM 1.2."""

from __future__ import annotations

import enum
from typing import Final


class Command(enum.IntEnum):
    """What a request begins with, u32."""

    GET_CAPABILITY = 0x01
    INIT = 0x02
    SHUTDOWN = 0x03
    GET_TPMESTABLISHED = 0x04
    SET_LOCALITY = 0x05
    HASH_START = 0x06
    HASH_DATA = 0x07
    HASH_END = 0x08
    CANCEL_TPM_CMD = 0x09
    STORE_VOLATILE = 0x0A
    RESET_TPMESTABLISHED = 0x0B
    GET_STATEBLOB = 0x0C
    SET_STATEBLOB = 0x0D
    STOP = 0x0E
    GET_CONFIG = 0x0F
    SET_DATAFD = 0x10
    SET_BUFFERSIZE = 0x11
    GET_INFO = 0x12
    LOCK_STORAGE = 0x13


class Capability(enum.IntFlag):
    """Bits of GET_CAPABILITY: which commands there are."""

    INIT = 1 << 0
    SHUTDOWN = 1 << 1
    GET_TPMESTABLISHED = 1 << 2
    SET_LOCALITY = 1 << 3
    HASHING = 1 << 4
    CANCEL_TPM_CMD = 1 << 5
    STORE_VOLATILE = 1 << 6
    RESET_TPMESTABLISHED = 1 << 7
    GET_STATEBLOB = 1 << 8
    SET_STATEBLOB = 1 << 9
    STOP = 1 << 10
    GET_CONFIG = 1 << 11
    SET_DATAFD = 1 << 12
    SET_BUFFERSIZE = 1 << 13
    GET_INFO = 1 << 14
    SEND_COMMAND_HEADER = 1 << 15
    """Of TPM 2.0 only."""
    LOCK_STORAGE = 1 << 16


CAPABILITIES: Final = Capability(0x1FFFF) & ~Capability.SEND_COMMAND_HEADER
"""What a TPM 1.2 has: all of them but one."""


class InitFlag(enum.IntFlag):
    """Of INIT."""

    DELETE_VOLATILE = 1
    """Stored volatile state serves this start only."""


class ConfigFlag(enum.IntFlag):
    """Of GET_CONFIG's answer."""

    FILE_KEY = 1
    MIGRATION_KEY = 2


MAX_LOCALITY: Final = 4
MAX_BLOB_BYTES: Final = 512 * 1024
"""Largest state blob that SET_STATEBLOB takes."""
MAX_INFO_BYTES: Final = 3072
"""Most of GET_INFO's text that goes into one answer."""
