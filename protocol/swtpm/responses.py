# SPDX-License-Identifier: Apache-2.0
"""Answers of the control channel: a u32 result, 0 for success, and what the command gives.

An error is the result alone, with two exceptions that QEMU needs, as it always reads the whole
answer: GET_TPMESTABLISHED, and GET_STATEBLOB of a TPM that runs.
"""

from __future__ import annotations

import struct

from protocol.swtpm.constants import MAX_INFO_BYTES, Capability, ConfigFlag

_RESULT = struct.Struct(">I")
_WORD = struct.Struct(">II")
_ESTABLISHED = struct.Struct(">IB3x")
_STATE = struct.Struct(">IIII")
_BUFFER_SIZE = struct.Struct(">IIII")
_INFO = struct.Struct(">III")


def result(code: int) -> bytes:
    """Return 4 bytes: how a command went that gives nothing, or an error."""
    return _RESULT.pack(code)


def capability(bits: Capability) -> bytes:
    """Return 8 bytes; read as a u64, as old clients do, they are the bits as well."""
    return _WORD.pack(0, bits)


def established(code: int, *, is_established: bool) -> bytes:
    """Return 8 bytes, also for an error."""
    return _ESTABLISHED.pack(code, is_established)


def state_blob(code: int, flags: int, data: bytes) -> bytes:
    """Return 16 bytes and the data.

    Args:
        code: result.
        flags: 2 if it is encrypted.
        data: from the offset that was asked for to the end; its length is given twice, since QEMU
            takes nothing else.
    """
    return _STATE.pack(code, flags, len(data), len(data)) + data


def config(flags: ConfigFlag | int) -> bytes:
    """Return 8 bytes."""
    return _WORD.pack(0, flags)


def buffer_size(size: int, least: int, most: int) -> bytes:
    """Return 16 bytes: what is in use, and the limits."""
    return _BUFFER_SIZE.pack(0, size, least, most)


def info(text: bytes, offset: int) -> bytes | None:
    """Return 12 bytes and some of the text; None if there is nothing at the offset.

    Args:
        text: without the final NUL, which is added and counted.
        offset: of the first byte that is wanted.
    """
    if offset >= len(text):
        return None
    whole = text + b"\0"
    part = whole[offset : offset + MAX_INFO_BYTES]
    return _INFO.pack(0, len(whole), len(part)) + part
