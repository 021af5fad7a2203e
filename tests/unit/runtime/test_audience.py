# SPDX-License-Identifier: Apache-2.0
"""Watchers: each gets everything it is fast enough for, and is told what it missed."""

from __future__ import annotations

import pytest
import trio
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

from daemons.runtime.audience import SEATS, Audience
from daemons.runtime.errors import DaemonError


def _ignore(_is_there: bool) -> None:
    pass


async def test_everything_comes_in_order_and_in_parts() -> None:
    audience: Audience[int] = Audience(_ignore)
    seat = audience.join()
    for number in range(5):
        audience.tell(number)
    assert await seat.next(3) == ([0, 1, 2], 0)
    assert await seat.next(3) == ([3, 4], 0)


async def test_who_is_slow_is_told_where_and_how_many_are_missing() -> None:
    audience: Audience[int] = Audience(_ignore, limit=3)
    slow, fast = audience.join(), audience.join()
    for number in range(10):
        audience.tell(number)
        assert await fast.next(16) == ([number], 0)
    assert await slow.next(2) == ([0, 1], 0)
    # There is room again, but a hole before it: nothing may look as if it followed on.
    audience.tell(10)
    assert await slow.next(2) == ([2], 8)
    audience.tell(11)
    assert await slow.next(2) == ([11], 0)


async def test_telling_never_waits_however_full_a_queue_is() -> None:
    audience: Audience[int] = Audience(_ignore, limit=1)
    audience.join()
    with assert_no_checkpoints():
        for number in range(1000):
            audience.tell(number)


async def test_a_watcher_waits_for_what_comes() -> None:
    audience: Audience[str] = Audience(_ignore)
    seat = audience.join()
    got: list[object] = []

    async def watch() -> None:
        got.append(await seat.next(16))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        assert got == []
        audience.tell("now")
    assert got == [(["now"], 0)]


def test_the_first_and_the_last_watcher_are_told_of() -> None:
    changes: list[bool] = []
    audience: Audience[int] = Audience(changes.append)
    first, second = audience.join(), audience.join()
    assert changes == [True]
    first.leave()
    first.leave()
    assert (changes, audience.is_there) == ([True], True)
    second.leave()
    assert (changes, audience.is_there) == ([True, False], False)


def test_there_are_only_so_many_seats() -> None:
    audience: Audience[int] = Audience(_ignore)
    seats = [audience.join() for _ in range(SEATS)]
    with pytest.raises(DaemonError, match="watch already"):
        audience.join()
    seats[0].leave()
    audience.join()
