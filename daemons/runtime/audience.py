# SPDX-License-Identifier: Apache-2.0
"""Who watches what goes on, each with a bounded queue: a watcher that is slow misses things and is
told how many, and nobody waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import trio

from daemons.runtime.errors import DaemonError

T = TypeVar("T")

QUEUE_LIMIT: Final = 2048
"""Commands with their responses, some hundred bytes each; 16 MiB if all were as long as can be."""
SEATS: Final = 4


class Audience(Generic[T]):
    """All watchers of one thing.

    Args:
        changed: called with whether there is anybody, when that changes.
        limit: of each queue.
    """

    def __init__(self, changed: Callable[[bool], None], limit: int = QUEUE_LIMIT) -> None:
        self._changed = changed
        self._limit = limit
        self._seats: list[Seat[T]] = []

    @property
    def is_there(self) -> bool:
        """Whether anybody watches."""
        return bool(self._seats)

    def tell(self, item: T) -> None:
        """Give something to every watcher; never waits."""
        for seat in self._seats:
            seat.put(item)

    def join(self) -> Seat[T]:
        """Begin to watch; `Seat.leave` ends it.

        Raises:
            DaemonError: there are too many watchers.
        """
        if len(self._seats) >= SEATS:
            raise DaemonError(f"{SEATS} watch already")
        seat = Seat(self._limit, self._leave)
        self._seats.append(seat)
        if len(self._seats) == 1:
            self._changed(True)
        return seat

    def _leave(self, seat: Seat[T]) -> None:
        if seat in self._seats:
            self._seats.remove(seat)
            if not self._seats:
                self._changed(False)


class Seat(Generic[T]):
    """One watcher."""

    def __init__(self, limit: int, left: Callable[[Seat[T]], None]) -> None:
        self._limit = limit
        self._left = left
        self._queue: deque[T] = deque()
        # How many came when the queue was full: behind everything that is in it.
        self._missed = 0
        self._arrived = trio.Event()

    def put(self, item: T) -> None:
        """Queue something, or count it as missed."""
        if len(self._queue) >= self._limit or self._missed:
            # Once something is missing nothing is queued until the watcher knows.
            self._missed += 1
        else:
            self._queue.append(item)
        self._arrived.set()

    async def next(self, at_most: int) -> tuple[list[T], int]:
        """Wait until there is something; return it, and how much was missed after it.

        Args:
            at_most: so many things at once.
        """
        while not self._queue and not self._missed:
            self._arrived = trio.Event()
            await self._arrived.wait()
        items = [self._queue.popleft() for _ in range(min(at_most, len(self._queue)))]
        missed = 0
        if not self._queue:
            missed, self._missed = self._missed, 0
        return items, missed

    def leave(self) -> None:
        """Watch no more."""
        self._left(self)
