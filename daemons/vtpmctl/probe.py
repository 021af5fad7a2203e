# SPDX-License-Identifier: Apache-2.0
"""Finding out whether a TPM answers: one harmless command over its raw stream socket."""

from __future__ import annotations

import struct
from pathlib import Path

import trio

from daemons.runtime.log import Log

# TPM_GetCapability(TPM_CAP_PROPERTY, TPM_CAP_PROP_MANUFACTURER): answered by an owned, disabled or
# deactivated TPM alike, and changes nothing (Part 3, 7.1).
GET_MANUFACTURER = bytes.fromhex(
    "00c1 00000016 00000065"  # TPM_TAG_RQU_COMMAND, 22 bytes, TPM_ORD_GetCapability
    "00000005 00000004 00000103"
)

_HEADER = struct.Struct(">HII")  # tag, size, return code
_RESPONSE_LIMIT_BYTES = 4096
_RETRY_S = 0.05


class NoAnswer(Exception):
    """The connection gave no success response; the message says what it gave."""


async def wait_tpm_answers(path: Path, log: Log) -> None:
    """Return when the TPM behind a raw stream socket has executed a command; ask until then.

    There is no deadline: it is the caller's to cancel.
    """
    said = ""
    while True:
        try:
            await transact(path, GET_MANUFACTURER)
        except (OSError, trio.BrokenResourceError, NoAnswer) as error:
            reason = str(error)
            if reason != said:
                said = reason
                log.debug("no answer yet", socket=path, reason=reason)
        else:
            return
        await trio.sleep(_RETRY_S)


async def transact(path: Path, command: bytes) -> bytes:
    """Return the success response to a command over a raw stream socket of its own.

    Raises:
        OSError, trio.BrokenResourceError: there is no connection.
        NoAnswer: it hung up, or its answer is no success.
    """
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(command)
        response = b""
        size = _HEADER.size
        while len(response) < size:
            chunk = await stream.receive_some(_RESPONSE_LIMIT_BYTES)
            if not chunk:
                raise NoAnswer("hung up")
            response += chunk
            if len(response) >= _HEADER.size:
                _tag, size, code = _HEADER.unpack_from(response)
                if not _HEADER.size <= size <= _RESPONSE_LIMIT_BYTES:
                    raise NoAnswer(f"response of {size} bytes")
                if code:
                    raise NoAnswer(f"return code {code:#x}")
    return response
