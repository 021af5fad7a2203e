# SPDX-License-Identifier: Apache-2.0
"""Waiting for a socket without going to sleep, as long as that pays.

Waiting through trio costs a round through its scheduler, three more system calls and a sleep and
wake-up of the process; on two cores of a virtual machine mostly the last. While data comes
quickly, `QuickWait` therefore asks again and again for up to `SPIN_S`, giving its core away each
time (sched_yield), and goes to sleep only then. It does so only while it pays: each miss costs
credit, each arrival in time restores it, and an idle connection has none. Without credit, arrivals
soon after going to sleep earn some, more of them each time that it was lost again without a single
arrival in time (a peer in the same process answers only while we sleep). There is a checkpoint at
least every `BURST_S`, so that other tasks run and cancellation is seen.

Round trip of a 14-byte request through the split driver and its echo, both processes on one core
and on two (us, 10th percentile, interleaved; two plain blocking sockets alone took 10 and 51):

| wait through                      | one core | two cores | why                              |
|-----------------------------------|----------|-----------|----------------------------------|
| trio                              | 35       | 101       |                                  |
| select() with a limit of 0.4 ms   | 35       | 89        | arming a precise timer is dear   |
| recv() with SO_RCVTIMEO of 0.4 ms | 20       | 74        | counts in ticks: a miss took 8 ms |
| sched_yield() once, then trio     | 20       | 111       |                                  |
| sched_yield() and poll(0), taken  | 21       | 19        | nobody sleeps                    |
"""

from __future__ import annotations

import os
import select
import socket
from time import monotonic
from typing import Final

import trio

SPIN_S: Final = 0.00015  # a light command with its way there and back
QUICK_S: Final = 0.0003  # the same through trio: what comes within that earns credit
BURST_S: Final = 0.001
CREDIT: Final = 4  # misses in a row until spinning stops
PRICE_LIMIT: Final = 64  # quick arrivals that earn credit again, at most


class QuickWait:
    """Waits until one socket can be read. One task at a time.

    Args:
        connection: stays the caller's, who reads it without blocking after `wait_readable`.
        spin: whether the event loop may be kept busy for up to `SPIN_S`; may be changed.
    """

    __slots__ = ("_connection", "_credit", "_missing", "_poll", "_price", "_yielded_at", "spin")

    def __init__(self, connection: socket.socket, *, spin: bool) -> None:
        self._connection = connection
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        self._poll = poll.poll
        self.spin = spin
        # Misses that are still allowed; none at the start.
        self._credit = 0
        # Quick arrivals that earn credit, and how many of them are still missing.
        self._price = 1
        self._missing = 1
        # When the task last gave others a chance to run.
        self._yielded_at = 0.0

    async def wait_readable(self) -> None:
        """Wait for data or the end. A checkpoint only every `BURST_S`, or if it had to sleep."""
        started_at = monotonic()
        if started_at - self._yielded_at > BURST_S:
            await self.checkpoint()
        if self._poll(0):
            return
        if self._credit and self.spin:
            until = started_at + SPIN_S
            while monotonic() < until:
                os.sched_yield()
                if self._poll(0):
                    self._credit = CREDIT
                    self._price = 1
                    return
            self._credit -= 1
            if not self._credit:
                self._price = self._missing = min(2 * self._price, PRICE_LIMIT)
            await self._sleep()
            return
        await self._sleep()
        if self._yielded_at - started_at < QUICK_S:
            self._missing -= 1
            if self._missing <= 0:
                self._credit = CREDIT

    async def checkpoint(self) -> None:
        """Let other tasks run, and see cancellation."""
        await trio.lowlevel.checkpoint()
        self._yielded_at = monotonic()

    async def _sleep(self) -> None:
        await trio.lowlevel.wait_readable(self._connection)
        self._yielded_at = monotonic()
