# SPDX-License-Identifier: Apache-2.0
"""Verbs of a control socket that go on telling."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.socket import SocketType

from daemons.runtime.control import (
    ControlStream,
    Fields,
    NobodyAnswers,
    control_request,
    open_control_stream,
    serve_control,
)
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.runtime.sockets import listen_unix

QUIET = Log("test", sink=lambda _line: None)


class Counting:
    """A stream that counts as long as it is allowed to."""

    def __init__(self) -> None:
        self.may_go_on = trio.Semaphore(3)
        self.closed = trio.Event()
        self._count = 0

    @property
    def result(self) -> Fields:
        return {"begins": True}

    async def next(self) -> Sequence[Fields]:
        await self.may_go_on.acquire()
        self._count += 2
        return [{"count": self._count - 1}, {"count": self._count}]

    def close(self) -> None:
        self.closed.set()


@asynccontextmanager
async def serving(
    path: Path, stream: Counting, log: Log = QUIET
) -> AsyncIterator[trio.CancelScope]:
    """Serve a stream at a socket."""

    def opened(args: Fields) -> Counting:
        if args:
            raise DaemonError("no arguments please")
        return stream

    async def status(_args: Fields) -> Fields:
        return {"state": "serving"}

    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve_control, path, {"status": status}, log=log, streams={"count": opened})
        )
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()


async def _read_to_the_end(watched: ControlStream) -> None:
    while True:
        await watched.receive()


async def test_lines_follow_the_reply_until_the_peer_hangs_up(run_dir: Path) -> None:
    path, stream = run_dir / "c", Counting()
    async with serving(path, stream):
        async with open_control_stream(path, "count") as watched:
            assert watched.result == {"begins": True}
            lines = [await watched.receive() for _ in range(4)]
            assert lines == [{"count": number} for number in (1, 2, 3, 4)]
            assert not stream.closed.is_set()
        with trio.fail_after(30):
            await stream.closed.wait()
        # The socket serves on.
        assert await control_request(path, "status") == {"state": "serving"}


async def test_who_watches_and_says_nothing_is_noticed_when_it_goes(run_dir: Path) -> None:
    path, stream = run_dir / "c", Counting()
    stream.may_go_on = trio.Semaphore(0)
    async with serving(path, stream):
        async with open_control_stream(path, "count"):
            pass
        with trio.fail_after(30):
            await stream.closed.wait()


async def test_a_stream_that_is_refused_is_an_error(run_dir: Path) -> None:
    path = run_dir / "c"
    async with serving(path, Counting()):
        with pytest.raises(DaemonError, match="no arguments please"):
            await control_request(path, "count", how="fast")
        with pytest.raises(DaemonError, match="no such verb: 'other'; there are count, status"):
            await control_request(path, "other")


async def test_the_end_of_the_daemon_is_told_from_an_error(run_dir: Path) -> None:
    path = run_dir / "c"
    with pytest.raises(NobodyAnswers):
        async with open_control_stream(path, "count"):
            pass
    async with serving(path, Counting()) as scope, open_control_stream(path, "count") as watched:
        await watched.receive()
        scope.cancel()
        with trio.CancelScope(shield=True), pytest.raises(NobodyAnswers):
            await _read_to_the_end(watched)


async def test_a_fault_of_a_stream_ends_the_stream_and_not_the_daemon(run_dir: Path) -> None:
    class Faulty(Counting):
        async def next(self) -> Sequence[Fields]:
            if self.may_go_on.value == 0:
                raise ZeroDivisionError("a secret that was divided")
            return await super().next()

    path, stream, lines = run_dir / "c", Faulty(), list[str]()
    async with serving(path, stream, Log("test", sink=lines.append)):
        async with open_control_stream(path, "count") as watched:
            with pytest.raises(NobodyAnswers):
                await _read_to_the_end(watched)
        assert stream.closed.is_set()
        assert await control_request(path, "status") == {"state": "serving"}
    (line,) = lines
    assert "control stream failed" in line
    assert "ZeroDivisionError" in line
    assert "secret" not in line


async def test_who_may_not_ask_is_told_so_instead_of_waiting_for_ever(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(path: Path) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        raise PermissionError(13, "Permission denied", str(path))

    # Root is never refused by the system, and tests run as root.
    monkeypatch.setattr(trio, "open_unix_socket", refused)
    with pytest.raises(DaemonError, match="only root and the daemon's own user") as raised:
        async with open_control_stream(run_dir / "c", "count"):
            pass
    assert not isinstance(raised.value, NobodyAnswers)


@pytest.mark.parametrize("line", [b"{]\n", b"[]\n", b'"x"\n'])
async def test_what_is_no_line_of_this_protocol_is_an_error(run_dir: Path, line: bytes) -> None:
    path = run_dir / "c"

    async def answer(listener: SocketType) -> None:
        connected, _ = await listener.accept()
        with connected:
            await connected.send(json.dumps({"ok": True, "result": {}}).encode() + b"\n" + line)

    with listen_unix(path) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, listener)
            async with open_control_stream(path, "count") as watched:
                with pytest.raises(DaemonError, match="the answer is not"):
                    await watched.receive()
