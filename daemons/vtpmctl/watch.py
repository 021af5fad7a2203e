# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl status --watch`: the same lines again and again, redrawn in place on a terminal.

Four control sequences that every terminal since the VT100 knows do it, so that it works over ssh
and on a serial console; into a pipe the views follow each other.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

_HOME: Final = "\x1b[H"
_CLEAR_SCREEN: Final = "\x1b[2J"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_BELOW: Final = "\x1b[J"
_HIDE_CURSOR: Final = "\x1b[?25l"
_SHOW_CURSOR: Final = "\x1b[?25h"

Look = Callable[[], Awaitable[Sequence[str]]]
"""Returns the lines to be shown now."""


async def watch(
    look: Look, interval_s: float, write: Callable[[str], None], *, is_terminal: bool
) -> None:
    """Show what there is to be seen every `interval_s`, until cancelled."""
    if is_terminal:
        write(_CLEAR_SCREEN + _HIDE_CURSOR)
    try:
        while True:
            began = trio.current_time()
            lines = await look()
            if is_terminal:
                write(_screen(lines, interval_s))
            else:
                write("\n".join([*lines, "", ""]))
            await trio.sleep_until(began + interval_s)
    finally:
        if is_terminal:
            write(_SHOW_CURSOR)


def _screen(lines: Sequence[str], interval_s: float) -> str:
    """Return one redrawing: what does not fit is cut, as a line that wraps moves all below it."""
    columns, rows = shutil.get_terminal_size()
    head = f"every {interval_s:g} s, Ctrl-C ends   {time.strftime('%Y-%m-%d %H:%M:%S')}"
    shown = [head, "", *lines]
    if len(shown) > rows:
        shown = [*shown[: rows - 1], f"... {len(shown) - rows + 1} more lines"]
    drawn = [line[: columns - 1] + _CLEAR_LINE for line in shown]
    return _HOME + "\n".join(drawn) + _CLEAR_BELOW
