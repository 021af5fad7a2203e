# SPDX-License-Identifier: Apache-2.0
"""Waiting for a socket in a way that is quick while that pays.

Waiting through trio costs a round through its scheduler and three more system calls, some 15 us on
top of the 5 us that the wake-up itself takes. While traffic comes quickly, `wait` therefore sleeps
in the kernel for up to `LINGER_S` first. That stops the whole event loop, so it is done only while
it pays (each miss costs credit, each quick wake-up gives it back; an idle connection has none), and
there is a checkpoint at least every `BURST_S`, so that other tasks run and cancellation is seen.

select() does the sleeping: it wakes within 0.1 ms of the limit, while SO_RCVTIMEO counts in ticks
of the kernel (4 ms at 250 Hz, measured: 8 ms until a miss returns).
"""

from __future__ import annotations

import select
import socket
from time import monotonic
from typing import Final

import trio

LINGER_S: Final = 0.0004
BURST_S: Final = 0.001
CREDIT: Final = 4  # misses in a row until lingering stops
_SELECT_LIMIT: Final = 1024  # FD_SETSIZE


class Linger:
    """Waits for one socket; one task at a time.

    Args:
        connection: any socket; its blocking mode does not matter.

    Attributes:
        enabled: False while stopping the event loop would keep others waiting.
    """

    __slots__ = ("_connection", "_credit", "_may_linger", "_readable", "_yielded_at", "enabled")

    def __init__(self, connection: socket.socket, *, enabled: bool = True) -> None:
        self._connection = connection
        self._readable = (connection.fileno(),)
        # select() takes only small descriptors.
        self._may_linger = connection.fileno() < _SELECT_LIMIT
        self.enabled = enabled
        # Misses that are still allowed. Earned by a quick wake-up, so none at the start.
        self._credit = 0
        # When the task last gave others a chance to run.
        self._yielded_at = 0.0

    @property
    def is_keen(self) -> bool:
        """True if the next wait begins in the kernel: trying to read before it is a waste."""
        return bool(self._credit) and self.enabled

    async def yield_if_due(self) -> None:
        """Let other tasks run, and see cancellation, if the last time is `BURST_S` ago."""
        if monotonic() - self._yielded_at > BURST_S:
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Let other tasks run, and see cancellation."""
        await trio.lowlevel.checkpoint()
        self._yielded_at = monotonic()

    async def wait(self) -> None:
        """Return when the socket is readable; not a checkpoint if that was soon."""
        if self._credit and self.enabled:
            if select.select(self._readable, (), (), LINGER_S)[0]:
                self._credit = CREDIT
                return
            self._credit -= 1
        started_at = monotonic()
        await trio.lowlevel.wait_readable(self._connection)
        self._yielded_at = monotonic()
        if self._yielded_at - started_at < LINGER_S and self._may_linger:
            self._credit = CREDIT
