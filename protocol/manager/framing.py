# SPDX-License-Identifier: Apache-2.0
"""Header of a message: both directions, both sides.

The manager's side (`parse_request`, `success_response`, `error_response`) never trusts a length:
paramSize must be the number of bytes received, which Xen leaves unchecked. The vTPM's side
(`encode_request`, `decode_response`) turns a refusal into `ManagerRefused`, so that a forgotten
check cannot pass for a success.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from protocol.errors import WireError
from protocol.manager.constants import (
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    RSP_COMMAND,
    ManagerCode,
    ManagerTag,
)

_HEADER: Final = struct.Struct(">HII")


class ManagerRefused(Exception):
    """The manager answered with an error.

    Args:
        code: return code, not 0; a `ManagerCode` or a code of the hardware TPM.
    """

    def __init__(self, code: int) -> None:
        try:
            name = ManagerCode(code).name
        except ValueError:
            name = "hardware TPM code"
        super().__init__(f"manager refused: {name} ({code:#x})")
        self.code = code


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose header is consistent.

    Attributes:
        tag: any u16; the dispatcher judges it.
        ordinal: any u32.
        body: what follows the header.
    """

    tag: int
    ordinal: int
    body: bytes

    @property
    def size_bytes(self) -> int:
        """Length of the whole message."""
        return HEADER_BYTES + len(self.body)

    def __repr__(self) -> str:
        body = f"<{len(self.body)} bytes>"
        return f"Request(tag={self.tag:#06x}, ordinal={self.ordinal:#x}, body={body})"


def parse_request(message: bytes) -> Request:
    """Return the request in a message.

    Raises:
        WireError: shorter than a header, or paramSize is not the length received.
    """
    if len(message) < HEADER_BYTES:
        raise WireError("header", 0, f"{len(message)} bytes, a header has {HEADER_BYTES}")
    tag, size_bytes, ordinal = _HEADER.unpack_from(message)
    if size_bytes != len(message):
        raise WireError("paramSize", 2, f"{size_bytes} declared, {len(message)} bytes received")
    return Request(tag, ordinal, message[HEADER_BYTES:])


def error_tag(message: bytes) -> int:
    """Return the tag of an error found before a command ran: request tag + 3, or 0x00C4."""
    if len(message) < HEADER_BYTES:
        return RSP_COMMAND
    return (int.from_bytes(message[:2], "big") + 3) & 0xFFFF


def error_response(code: int, tag: int = ManagerTag.RSP) -> bytes:
    """Return the 10-byte response that carries only a return code."""
    return _HEADER.pack(tag, HEADER_BYTES, code)


def success_response(body: bytes = b"", *, limit_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    """Return a response with code 0.

    Args:
        limit_bytes: longest message that gets through; by default what the shared page carries.

    Raises:
        ValueError: longer than that; a bug of the caller, who must page or refuse.
    """
    size_bytes = HEADER_BYTES + len(body)
    if size_bytes > limit_bytes:
        raise ValueError(f"response of {size_bytes} bytes, at most {limit_bytes} get through")
    return _HEADER.pack(ManagerTag.RSP, size_bytes, ManagerCode.SUCCESS) + body


def encode_request(tag: ManagerTag, ordinal: int, body: bytes = b"") -> bytes:
    """Return a whole request."""
    return _HEADER.pack(tag, HEADER_BYTES + len(body), ordinal) + body


def decode_response(response: bytes, request_tag: ManagerTag = ManagerTag.REQ) -> bytes:
    """Return the body of a successful response.

    Args:
        response: as received.
        request_tag: tag of the request that it answers.

    Raises:
        ManagerRefused: the return code is not 0.
        WireError: not a response to that request: short, lying paramSize, foreign tag, error with a
            body.
    """
    if len(response) < HEADER_BYTES:
        raise WireError("header", 0, f"{len(response)} bytes, a header has {HEADER_BYTES}")
    tag, size_bytes, code = _HEADER.unpack_from(response)
    if size_bytes != len(response):
        raise WireError("paramSize", 2, f"{size_bytes} declared, {len(response)} bytes received")
    early_error = code != ManagerCode.SUCCESS and tag == request_tag + 3
    if tag != ManagerTag.RSP and not early_error:
        raise WireError("tag", 0, f"{tag:#06x} does not answer {request_tag:#06x}")
    if code != ManagerCode.SUCCESS:
        if size_bytes != HEADER_BYTES:
            raise WireError(
                "paramSize", 2, f"error response of {size_bytes} bytes, it has {HEADER_BYTES}"
            )
        raise ManagerRefused(code)
    return response[HEADER_BYTES:]
