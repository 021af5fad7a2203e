# SPDX-License-Identifier: Apache-2.0
"""A line on the terminal for what takes longer than a second: what is waited for, and how long.

Only on a terminal: in a script's log it would be noise. The cursor stays at the beginning of the
line, so that a line of a log that comes in between is written over it and not behind it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from typing import Final, TextIO, TypeVar

import trio

from daemons.runtime.log import write_to_stderr

_T = TypeVar("_T")

DELAY_S: Final = 1.0
PERIOD_S: Final = 0.5

CLEAR_LINE: Final = "\r\x1b[K"


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at it, through something that knows how to redraw a line."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


async def with_progress(
    what: Callable[[], str],
    run: Callable[[], Awaitable[_T]],
    *,
    is_shown: bool | None = None,
    write: Callable[[str], None] = write_to_stderr,
) -> _T:
    """Return what `run` returns; meanwhile show `what` once it has taken a second.

    Args:
        what: what is waited for, asked again for each redrawing.
        run: the work; what it raises comes through as it is.
        is_shown: by default whether standard error is a terminal.
        write: takes what is to be shown; must not block.
    """
    if not (is_terminal(sys.stderr) if is_shown is None else is_shown):
        return await run()
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_show, what, write)
        try:
            result = await run()
        except Exception as error:
            # Not through the nursery, which would make a group of it.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _show(what: Callable[[], str], write: Callable[[str], None]) -> None:
    began = trio.current_time()
    await trio.sleep(DELAY_S)
    try:
        while True:
            elapsed_s = trio.current_time() - began
            text = f"{what()} ... {elapsed_s:.0f} s"
            columns = shutil.get_terminal_size().columns
            write(f"{CLEAR_LINE}{text[: columns - 1]}\r")
            await trio.sleep(PERIOD_S)
    finally:
        write(CLEAR_LINE)
