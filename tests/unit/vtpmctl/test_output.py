# SPDX-License-Identifier: Apache-2.0
"""Writing to readers who stop, go on, or go."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from daemons.vtpmctl.output import GRACE_S, Output

LARGE = bytes(range(256)) * 4096
"""More than any of the kernel's buffers here."""

Ends = tuple[int, int]


@contextlib.contextmanager
def pipe() -> Iterator[Ends]:
    yield os.pipe()


@contextlib.contextmanager
def sockets() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    yield theirs.detach(), ours.detach()


@contextlib.contextmanager
def terminal() -> Iterator[Ends]:
    master, slave = pty.openpty()
    yield master, slave


@pytest.fixture(params=[pipe, sockets, terminal], ids=lambda kind: kind.__name__)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Where is read and where is written; blocking, as everything is that a process inherits."""
    with request.param() as (reading, writing):
        yield reading, writing
        for fd in (reading, writing):
            with contextlib.suppress(OSError):  # a test may have closed it
                os.close(fd)


_CLOSED = """
import os
from daemons.runtime.standardstreams import hold_standard_descriptors
hold_standard_descriptors()
is_led_nowhere = all(os.path.samefile(f"/proc/self/fd/{fd}", os.devnull) for fd in (1, 2))
os._exit(0 if is_led_nowhere and os.open("/", os.O_RDONLY) > 2 else 1)
"""


def test_what_is_opened_does_not_get_the_number_of_a_closed_standard_output() -> None:
    shell = ["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, _CLOSED]
    assert subprocess.run(shell, check=False).returncode == 0


def is_blocking(fd: int) -> bool:
    return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


async def read(fd: int, size: int) -> bytes:
    """Read so much, by another thread, as another process would."""

    def read_all() -> bytes:
        found = b""
        while len(found) < size:
            piece = os.read(fd, size - len(found))
            if not piece:
                break
            found += piece
        return found

    return await trio.to_thread.run_sync(read_all)


async def test_all_is_written_and_the_descriptor_stays_as_it_was(ends: Ends) -> None:
    reading, writing = ends
    found = b""
    text = b"a line of text, " * 20_000  # a terminal has its way with other octets

    async def keep() -> None:
        nonlocal found
        found = await read(reading, len(text))

    with Output.of(writing) as output:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep)
            await output.write(text)
            assert is_blocking(writing)
    assert found == text
    assert is_blocking(writing)
    assert os.write(writing, b"x") == 1


async def test_a_write_that_nobody_reads_is_given_up(
    ends: Ends, autojump_clock: trio.testing.MockClock
) -> None:
    _, writing = ends
    with Output.of(writing) as output, trio.move_on_after(3) as scope:
        await output.write(LARGE)
    assert scope.cancelled_caught
    assert trio.current_time() == 3 + GRACE_S


async def test_a_reader_that_was_slow_has_what_was_begun_when_no_more_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("daemons.vtpmctl.output.GRACE_S", 60)  # the machine may be busy
    with pipe() as (reading, writing), open(reading, "rb"):
        found = b""

        async def begin(scope: trio.CancelScope) -> None:
            with open(writing, "wb"), Output.of(writing) as output, scope:
                await output.write(LARGE)
                await output.write(b"more")

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(begin, scope)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            found = await read(reading, len(LARGE))
        assert found == LARGE
        assert os.read(reading, 1) == b""


@pytest.mark.parametrize("kind", [pipe, sockets])
async def test_a_reader_that_is_gone_is_told(
    kind: Callable[[], contextlib.AbstractContextManager[Ends]],
) -> None:
    with kind() as (reading, writing), open(writing, "wb"):
        with Output.of(writing) as output:
            await output.write(b"read by nobody")
            os.close(reading)
            with pytest.raises(BrokenPipeError):
                await output.write(b"nor this")
        with pytest.raises(BrokenPipeError), Output.of(writing) as later:
            await later.write(b"nor this")


async def test_a_file_is_written_to_behind_what_others_write(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb", buffering=0) as shared, Output.of(shared.fileno()) as output:
        shared.write(b"before ")
        await output.write(b"ours ")
        shared.write(b"behind")
    assert path.read_bytes() == b"before ours behind"


async def test_nothing_is_no_reason_to_wait() -> None:
    with open(os.devnull, "wb") as nothing, Output.of(nothing.fileno()) as output:
        await output.write(LARGE)
