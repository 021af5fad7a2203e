# SPDX-License-Identifier: Apache-2.0
"""Redrawing in place, and the line that says what is waited for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.progress import CLEAR_LINE, DELAY_S, PERIOD_S, with_progress
from daemons.vtpmctl.watch import watch


@pytest.fixture(autouse=True)
def _terminal_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "6")


async def watched(views: list[list[str]], *, is_terminal: bool) -> list[str]:
    """Return what was written until the views are used up."""
    written: list[str] = []
    left = iter(views)
    with trio.CancelScope() as scope:

        async def look() -> Sequence[str]:
            try:
                return next(left)
            except StopIteration:
                scope.cancel()
                await trio.sleep_forever()

        await watch(look, 1.0, written.append, is_terminal=is_terminal)
    return written


async def test_a_terminal_is_redrawn_in_place_and_gets_its_cursor_back(
    autojump_clock: MockClock,
) -> None:
    first, *views, last = await watched([["one"], ["two"]], is_terminal=True)
    assert first == "\x1b[2J\x1b[?25l"
    assert last == "\x1b[?25h"
    assert [view.startswith("\x1b[H") and view.endswith("\x1b[J") for view in views] == [True] * 2
    assert "one\x1b[K" in views[0]
    assert "one" not in views[1]


async def test_what_does_not_fit_is_cut_and_never_wraps_or_scrolls(
    autojump_clock: MockClock,
) -> None:
    views = await watched([[f"{number} " + "x" * 50 for number in range(9)]], is_terminal=True)
    lines = views[1].removeprefix("\x1b[H").removesuffix("\x1b[J").split("\n")
    assert len(lines) == 6
    assert all(len(line.removesuffix("\x1b[K")) < 20 for line in lines)
    assert lines[-1] == "... 6 more lines\x1b[K"


async def test_into_a_pipe_the_views_follow_each_other(autojump_clock: MockClock) -> None:
    assert await watched([["a", "b"], ["c"]], is_terminal=False) == ["a\nb\n\n", "c\n\n"]


async def test_the_pause_includes_the_time_of_looking(autojump_clock: MockClock) -> None:
    moments: list[float] = []

    async def look() -> Sequence[str]:
        moments.append(trio.current_time())
        await trio.sleep(0.6)
        return []

    with trio.move_on_after(2.5):
        await watch(look, 1.0, lambda _text: None, is_terminal=False)
    assert [moment - moments[0] for moment in moments] == pytest.approx([0, 1, 2])


async def waited(seconds: float, *, is_shown: bool) -> list[str]:
    written: list[str] = []

    async def run() -> str:
        await trio.sleep(seconds)
        return "done"

    result = await with_progress(
        lambda: "waiting for guest g1", run, is_shown=is_shown, write=written.append
    )
    assert result == "done"
    return written


async def test_what_is_quick_or_not_on_a_terminal_shows_nothing(autojump_clock: MockClock) -> None:
    assert await waited(DELAY_S * 0.9, is_shown=True) == []
    assert await waited(DELAY_S * 60, is_shown=False) == []


async def test_what_takes_longer_says_so_and_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    written = await waited(DELAY_S + 1.5 * PERIOD_S, is_shown=True)
    # Cut to the width, and with the cursor at the beginning again.
    assert written == [f"{CLEAR_LINE}waiting for guest g\r"] * 2 + [CLEAR_LINE]


@pytest.mark.parametrize("seconds", [0.0, 5.0])
async def test_an_error_comes_through_as_it_is(seconds: float, autojump_clock: MockClock) -> None:
    async def run() -> None:
        await trio.sleep(seconds)
        raise DaemonError("nobody answers")

    with pytest.raises(DaemonError, match="nobody answers"):
        await with_progress(lambda: "x", run, is_shown=True, write=lambda _text: None)
