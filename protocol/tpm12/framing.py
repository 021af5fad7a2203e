# SPDX-License-Identifier: Apache-2.0
"""The ten-byte header of requests and responses (Part 3, 1 and Part 2, 6)."""

from __future__ import annotations

import struct

from protocol.errors import WireError
from protocol.tpm12.constants import ReturnCode, Tag
from protocol.tpm12.records import record

HEADER_BYTES = 10
_HEADER = struct.Struct(">HII")


@record
class Header:
    """Head of a request or response.

    Attributes:
        tag: u16, see Tag; not checked here.
        size: u32 paramSize, the whole length with these ten bytes; not checked here.
        code: u32 ordinal of a request, return code of a response.
    """

    tag: int
    size: int
    code: int


def parse_header(data: bytes) -> Header:
    """Read the first ten bytes.

    Raises:
        WireError: there are fewer than ten.
    """
    if len(data) < HEADER_BYTES:
        raise WireError("header", 0, f"{HEADER_BYTES} bytes wanted, {len(data)} left")
    return Header(*_HEADER.unpack_from(data))


def build_message(tag: int, code: int, body: bytes = b"") -> bytes:
    """Return header and body with the right paramSize."""
    return _HEADER.pack(tag, HEADER_BYTES + len(body), code) + body


def error_response(code: ReturnCode | int) -> bytes:
    """Return the ten bytes that answer a command with an error; the tag is always RSP_COMMAND."""
    return _HEADER.pack(Tag.RSP_COMMAND, HEADER_BYTES, code)
