# SPDX-License-Identifier: Apache-2.0
"""Talking to a guest's TPM through its raw stream socket, as the guest's own software does."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import trio

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.packetstream import HungUp, PacketStream
from protocol.errors import WireError
from protocol.tpm12.constants import ReturnCode
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tss12 import Conversation

T = TypeVar("T")

ANSWER_LIMIT_S: Final = 180.0
"""A new key, or a quote by a slow hardware TPM behind other guests."""
_RESPONSE_LIMIT_BYTES: Final = 4096


class GuestTpm:
    """A connection to a guest's TPM."""

    def __init__(self, stream: trio.abc.Stream, path: Path) -> None:
        self._packets = PacketStream(
            stream, path, limit_bytes=_RESPONSE_LIMIT_BYTES, limit_s=ANSWER_LIMIT_S
        )
        self._path = path

    async def run(self, what: str, conversation: Conversation[T]) -> T:
        """Run a conversation.

        Args:
            what: is done, for the message.

        Raises:
            TpmRefused: with the TPM's return code.
            DaemonError: no answer, or not of this protocol.
        """
        try:
            return await tss12.converse(self._transact, conversation)
        except TpmError as error:
            raise TpmRefused(what, error.code) from error
        except (WireError, tss12.ResponseError) as error:
            raise DaemonError(f"{self._path}: {what}: {error}") from error

    async def _transact(self, command: bytes) -> bytes:
        try:
            return await self._packets.transact(command)
        except HungUp as error:
            raise DaemonError(f"{self._path}: the TPM hung up") from error


class TpmRefused(DaemonError):
    """A guest's TPM answered with a return code.

    Args:
        what: was to be done.
        code: of the TPM, or of its manager.
    """

    def __init__(self, what: str, code: int) -> None:
        try:
            name = ReturnCode(code).name
        except ValueError:
            name = "return code"
        super().__init__(f"the guest's TPM refuses to {what}: {name} ({code:#x})")
        self.code = code


@asynccontextmanager
async def open_tpm(path: Path) -> AsyncIterator[GuestTpm]:
    """Give a connection to the TPM behind a raw stream socket.

    Raises:
        DaemonError: nobody listens.
    """
    try:
        stream = await trio.open_unix_socket(os.fspath(path))
    except OSError as error:
        raise DaemonError(f"{path}: no TPM there ({error.strerror})") from error
    async with stream:
        yield GuestTpm(stream, path)
