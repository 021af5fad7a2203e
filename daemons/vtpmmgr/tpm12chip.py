# SPDX-License-Identifier: Apache-2.0
"""The manager's TPM 1.2 as a partner for conversations, each command in its turn (`turns`).

What the conversations are about is in `tpm12hardware`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from daemons.vtpmmgr.hardware import HardwareLost
from daemons.vtpmmgr.turns import OWN, Turns
from protocol.errors import WireError
from protocol.tis.driver import TisError
from protocol.tis.registers import BUFFER_SIZE
from protocol.tpm12 import ReturnCode, error_response
from tpmcore import tss12
from tpmcore.tss12 import Conversation, ResponseError

T = TypeVar("T")


class Transport(Protocol):
    """A way to the chip (`protocol.tis.driver.TisDriver`)."""

    async def transact(self, command: bytes) -> bytes:
        """Return the response; TisError if there is none."""


class Turn:
    """The chip while it is somebody's turn.

    Args:
        transact: has it execute one command.
    """

    def __init__(self, transact: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._transact = transact

    async def converse(self, conversation: Conversation[T]) -> T:
        """Run an operation.

        Raises:
            TpmError: the chip refuses.
            HardwareLost: no answer, or none that could be the chip's.
        """
        try:
            return await tss12.converse(self._transact, conversation)
        except (ResponseError, WireError) as error:
            raise HardwareLost(f"hardware TPM: {error}") from error


class Tpm12Chip:
    """The chip, which executes one command at a time.

    Args:
        transport: to the chip.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._turns = Turns(self._transact)
        self._each_in_turn = Turn(self._own)
        # The last command got no answer.
        self._lost = False

    @property
    def answers(self) -> bool:
        """Whether the chip answered the last command."""
        return not self._lost

    async def converse(self, conversation: Conversation[T]) -> T:
        """Run an operation as the manager, each of its commands in a turn of its own.

        Raises:
            TpmError: the chip refuses.
            HardwareLost: no answer, or none that could be the chip's.
        """
        return await self._each_in_turn.converse(conversation)

    @asynccontextmanager
    async def hold(self, source: Hashable = OWN) -> AsyncIterator[Turn]:
        """Have the chip for several operations, nobody's command coming in between.

        Raises:
            Withdrawn: see `withdraw`.
        """
        async with self._turns.hold(source) as transact:
            yield Turn(transact)

    async def pass_through(self, command: bytes, source: Hashable) -> bytes:
        """Have the chip execute a client's command, in that client's turn."""
        return await self._turns.transact(command, source)

    def withdraw(self, source: Hashable) -> None:
        """Give up a client's command that still waits for its turn."""
        self._turns.withdraw(source)

    async def _own(self, command: bytes) -> bytes:
        return await self._turns.transact(command, OWN)

    async def _transact(self, command: bytes) -> bytes:
        if len(command) > BUFFER_SIZE:
            # Not sent, and no reason to take the chip for lost. An answer of the chip lets the
            # conversation close the sessions that it opened for this command.
            return error_response(ReturnCode.BAD_PARAM_SIZE)
        try:
            response = await self._transport.transact(command)
        except TisError as error:
            self._lost = True
            raise HardwareLost(f"hardware TPM: {error}") from error
        self._lost = False
        return response
