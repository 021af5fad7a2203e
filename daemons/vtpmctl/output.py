# SPDX-License-Identifier: Apache-2.0
"""Writing to somebody who may stop reading: it waits as everything here does, and can be given up.

A write that blocks would block the event loop with it, and so the signals that are to end the
process. But what standard output leads to is shared, a terminal with the shell that waits for us,
and must not become non-blocking for the others. So it is opened once more, where that can be done.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections.abc import Iterator
from typing import Final, Protocol, Self

import trio

GRACE_S: Final = 0.5
"""How long a reader still has for what was begun, once nothing more is to be written."""


class Sink(Protocol):
    """Takes bytes."""

    async def write(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            OSError: it cannot be written.
        """


class Output:
    """A descriptor as a sink, for one task."""

    def __init__(self, fd: int, *, waits: bool) -> None:
        """Use `of`.

        Args:
            fd: to write to.
            waits: it may block, so it is written to when the kernel says that there is room.
        """
        self._fd = fd
        self._waits = waits
        # Of what is being written: what is still to be.
        self._rest = memoryview(b"")

    @classmethod
    @contextlib.contextmanager
    def of(cls, fd: int) -> Iterator[Self]:
        """Give a sink that writes to what a descriptor leads to; the descriptor stays as it is."""
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            # A file never waits for anybody. Of a socket there is no second description; what the
            # kernel calls room is always enough for a piece there.
            yield cls(fd, waits=stat.S_ISSOCK(mode))
            return
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            own = os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:  # not ours to open, or nobody reads: the write will say so
            yield cls(fd, waits=True)
            return
        try:
            yield cls(own, waits=False)
        finally:
            os.close(own)

    async def write(self, data: bytes) -> None:
        """Write all of it; if cancelled meanwhile, only if it is read within `GRACE_S`.

        Raises:
            OSError: it cannot be written.
        """
        self._rest = memoryview(data)
        try:
            await self._write_rest()
        except trio.Cancelled:
            with trio.move_on_after(GRACE_S, shield=True):
                await self._write_rest()
            raise

    async def _write_rest(self) -> None:
        while self._rest:
            if self._waits:
                await trio.lowlevel.wait_writable(self._fd)
            try:
                # More than a piece may block though there is room.
                count = os.write(self._fd, self._rest[: select.PIPE_BUF])
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._fd)
            else:
                self._rest = self._rest[count:]
