# SPDX-License-Identifier: Apache-2.0
"""Management commands (tag 0x01C2): from bytes to the handler of an ordinal and back.

They come from a vTPM with the ADMIN right, over the split driver, or from the admin socket. A
handler gets the decoded request and gives a structure or bytes; what it refuses is a
`CommandRefused` with the return code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import trio

from daemons.vtpmmgr.commits import CommandRefused
from daemons.vtpmmgr.hardware import HardwareLost
from daemons.vtpmmgr.keyring import GroupClosed
from protocol.errors import WireError
from protocol.manager.constants import MAX_MESSAGE_BYTES, ManagementOrdinal, ManagerCode
from protocol.manager.framing import Request
from protocol.tpm12.wire import Structure
from tpmcore.errors import TpmError

S = TypeVar("S", bound=Structure)
Answer = Structure | bytes


@dataclass(frozen=True, slots=True)
class Command(Generic[S]):
    """One command.

    Attributes:
        layout: of its request.
        handler: of the decoded request; gives the answer or raises CommandRefused.
    """

    layout: type[S]
    handler: Callable[[S], Awaitable[Answer]]

    async def run(self, body: bytes) -> Answer:
        """Decode a request and answer it; WireError if it has another layout."""
        if len(body) <= MAX_MESSAGE_BYTES:
            request = self.layout.decode(body)
        else:
            # from the admin socket: a list of 36,000 configurations takes 50 ms
            request = await trio.to_thread.run_sync(self.layout.decode, body)
        return await self.handler(request)


class Runnable(Protocol):
    """A `Command` of whatever layout."""

    async def run(self, body: bytes) -> Answer:
        """Decode a request and answer it."""


Commands = Mapping[ManagementOrdinal, Runnable]


class UnknownOrdinal(Exception):
    """A management command that does not exist."""


@contextmanager
def refused_by_hardware() -> Iterator[None]:
    """Turn what the hardware TPM refuses into the command's return code.

    Raises:
        CommandRefused: with the chip's code, or IOERROR where it gave no answer.
    """
    try:
        yield
    except TpmError as error:
        raise CommandRefused(error.code) from error
    except HardwareLost as error:
        raise CommandRefused(ManagerCode.IOERROR) from error


class Management:
    """All management commands of one manager.

    Args:
        families: commands by ordinal; no ordinal twice.
    """

    def __init__(self, *families: Commands) -> None:
        self._commands = {
            ordinal: command for each in families for ordinal, command in each.items()
        }

    async def execute(self, request: Request, limit_bytes: int) -> bytes:
        """Return the body of the response.

        Args:
            limit_bytes: longest body that reaches the caller.

        Raises:
            UnknownOrdinal: there is no such command, or none now.
            CommandRefused: it ended with a return code; SIZE if the answer is too long.
        """
        try:
            command = self._commands[ManagementOrdinal(request.ordinal)]
        except (ValueError, KeyError):
            raise UnknownOrdinal from None
        try:
            answer = await command.run(request.body)
        except WireError as error:
            raise CommandRefused(ManagerCode.BAD_PARAMETER) from error
        except GroupClosed as error:
            raise CommandRefused(ManagerCode.AUTHFAIL) from error
        body = answer if isinstance(answer, bytes) else answer.encode()
        if len(body) > limit_bytes:
            raise CommandRefused(ManagerCode.SIZE)
        return body
