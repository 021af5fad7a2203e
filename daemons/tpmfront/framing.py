# SPDX-License-Identifier: Apache-2.0
"""Cutting a raw TPM byte stream into commands, without I/O.

A TPM stream has no framing but the paramSize in each header (Part 3, 1). A length that cannot be
true leaves no way to find the next command, so the stream ends there.
"""

from __future__ import annotations

from typing import Final

from protocol.errors import WireError

HEADER_BYTES: Final = 10
_SIZE_FIELD: Final = slice(2, 6)


class CommandStream:
    """Takes bytes as they come and gives whole commands.

    Args:
        limit_bytes: largest command; what the split driver carries.
    """

    __slots__ = ("_buffer", "_limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._buffer = b""
        self._limit_bytes = limit_bytes

    def feed(self, data: bytes) -> None:
        """Take bytes; the caller feeds again only when `next_command` gave None."""
        self._buffer = self._buffer + data if self._buffer else data

    @property
    def rest(self) -> bytes:
        """What was fed and is not part of a command that was given out."""
        return self._buffer

    def next_command(self) -> bytes | None:
        """Return the next whole command, None if bytes are missing.

        Raises:
            WireError: the length is below 10 or above the limit; the stream is of no use any more.
        """
        buffer = self._buffer
        if len(buffer) < HEADER_BYTES:
            return None
        size = int.from_bytes(buffer[_SIZE_FIELD], "big")
        if not HEADER_BYTES <= size <= self._limit_bytes:
            limits = f"{HEADER_BYTES} to {self._limit_bytes}"
            raise WireError("paramSize", 2, f"{size}, must be {limits}")
        if len(buffer) < size:
            return None
        if len(buffer) == size:  # what clients that wait for answers always send
            self._buffer = b""
            return buffer
        self._buffer = buffer[size:]
        return buffer[:size]
