# SPDX-License-Identifier: Apache-2.0
"""Whose command the hardware TPM executes next.

The chip takes one command at a time. Waiting commands stand in one line for each source (a vTPM's
device); the lines take turns, so a client that asks without pause costs the others one command
each. The manager's own commands have a lane of their own that alternates with all clients together:
a commit, for which many vTPMs wait, is never behind more than one command or quote of a client, and
clients are never shut out by commits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Final

import trio

OWN: Final = "manager"
"""The source of the manager's own commands."""


class Withdrawn(Exception):
    """The command was taken out of the line before its turn came; it was not executed."""


class _Waiting:
    __slots__ = ("turn", "withdrawn")

    def __init__(self) -> None:
        self.turn = trio.Event()
        self.withdrawn = False


class Turns:
    """Serializes commands to the chip.

    Args:
        transact: has the chip execute one command.
    """

    def __init__(self, transact: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._transact = transact
        self._busy = False
        # Invariant: no line is empty; while nobody is busy, nobody waits.
        self._lines: OrderedDict[Hashable, deque[_Waiting]] = OrderedDict()
        self._own_last = False

    async def transact(self, command: bytes, source: Hashable) -> bytes:
        """Have the chip execute a command when it is this source's turn.

        Raises:
            Withdrawn: see `withdraw`. Besides, whatever the chip's driver raises.
        """
        await self._wait_turn(source)
        try:
            return await self._transact(command)
        finally:
            self._next()

    @asynccontextmanager
    async def hold(self, source: Hashable) -> AsyncIterator[Callable[[bytes], Awaitable[bytes]]]:
        """Have the chip for several commands in this source's turn, none of another between them.

        Gives what has one command executed. For sequences that others could falsify, such as
        setting PCRs and quoting them; a commit waits for the whole of it.

        Raises:
            Withdrawn: see `withdraw`.
        """
        await self._wait_turn(source)
        try:
            yield self._transact
        finally:
            self._next()

    def withdraw(self, source: Hashable) -> None:
        """Take what a source has waiting out of the line; a command that is running goes on."""
        for waiting in self._lines.pop(source, ()):
            waiting.withdrawn = True
            waiting.turn.set()

    @property
    def waiting(self) -> int:
        """How many commands wait."""
        return sum(len(line) for line in self._lines.values())

    async def _wait_turn(self, source: Hashable) -> None:
        if not self._busy:
            self._busy = True
            self._own_last = source == OWN
            return
        waiting = _Waiting()
        self._lines.setdefault(source, deque()).append(waiting)
        try:
            await waiting.turn.wait()
        except trio.Cancelled:
            if not waiting.turn.is_set():
                self._forget(source, waiting)
            elif not waiting.withdrawn:
                self._next()
            raise
        if waiting.withdrawn:
            raise Withdrawn

    def _next(self) -> None:
        """Hand the turn to whoever is next, or leave the chip idle."""
        source = self._choose()
        if source is None:
            self._busy = False
            return
        line = self._lines.pop(source)
        waiting = line.popleft()
        if line:
            # to the end of the round
            self._lines[source] = line
        self._own_last = source == OWN
        waiting.turn.set()

    def _choose(self) -> Hashable | None:
        if OWN in self._lines and not self._own_last:
            return OWN
        for source in self._lines:
            if source != OWN:
                return source
        return OWN if OWN in self._lines else None

    def _forget(self, source: Hashable, waiting: _Waiting) -> None:
        line = self._lines[source]
        line.remove(waiting)
        if not line:
            del self._lines[source]
