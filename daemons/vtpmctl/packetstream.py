# SPDX-License-Identifier: Apache-2.0
"""Packets over a stream: each begins with a header that has the length of the whole, as those of a
TPM and of the manager do."""

from __future__ import annotations

from pathlib import Path

import trio

from daemons.runtime.errors import DaemonError
from protocol.tpm12.framing import HEADER_BYTES, parse_header


class HungUp(Exception):
    """The other end hung up.

    Args:
        mid_answer: it had begun to answer.
    """

    def __init__(self, *, mid_answer: bool) -> None:
        super().__init__("in the middle of an answer" if mid_answer else "without an answer")
        self.mid_answer = mid_answer


class PacketStream:
    """A connection to somebody who answers each packet by one.

    Args:
        stream: the connection.
        path: where that is, for the messages.
        limit_bytes: of the longest answer.
        limit_s: how long an answer may take.
    """

    def __init__(
        self, stream: trio.abc.Stream, path: Path, *, limit_bytes: int, limit_s: float
    ) -> None:
        self._stream = stream
        self._path = path
        self._limit_bytes = limit_bytes
        self._limit_s = limit_s

    async def transact(self, packet: bytes) -> bytes:
        """Send a packet and return the answer, whose length is what its header says.

        After any failure the connection is of no use: an answer may still come.

        Raises:
            HungUp: there is nobody any more.
            DaemonError: no answer in time, or none of a length that can be.
        """
        answer = bytearray()
        try:
            with trio.fail_after(self._limit_s):
                await self._stream.send_all(packet)
                await self._receive(answer, HEADER_BYTES)
                size_bytes = parse_header(bytes(answer)).size
                if not HEADER_BYTES <= size_bytes <= self._limit_bytes:
                    raise DaemonError(f"{self._path}: an answer of {size_bytes} bytes")
                await self._receive(answer, size_bytes)
        except trio.TooSlowError as error:
            raise DaemonError(f"{self._path}: no answer in {self._limit_s:g} s") from error
        except trio.BrokenResourceError as error:
            raise HungUp(mid_answer=bool(answer)) from error
        return bytes(answer)

    async def _receive(self, answer: bytearray, size_bytes: int) -> None:
        while len(answer) < size_bytes:
            chunk = await self._stream.receive_some(size_bytes - len(answer))
            if not chunk:
                raise HungUp(mid_answer=bool(answer))
            answer += chunk
