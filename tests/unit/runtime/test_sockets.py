# SPDX-License-Identifier: Apache-2.0
"""Listening sockets, control sockets, readiness and inherited descriptors."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing
from trio.socket import SocketType

from daemons.runtime.control import LINE_LIMIT_BYTES, Fields, control_request, serve_control
from daemons.runtime.errors import DaemonError
from daemons.runtime.inherited import FIRST_FD, inherited_fds
from daemons.runtime.log import Level, Log
from daemons.runtime.notify import STATUS_PERIOD_S, Notifier, StatusLine
from daemons.runtime.sockets import Listeners, accept, listen_unix
from protocol.tpmif.unix import peer_credentials

QUIET = Log("test", sink=lambda _line: None)


async def test_a_stale_socket_file_is_replaced_and_removed_at_the_end(run_dir: Path) -> None:
    path = run_dir / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    with listen_unix(path) as listener:
        async with await trio.open_unix_socket(path):
            peer, _ = await listener.accept()
            peer.close()
    assert not path.exists()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
async def test_a_socket_that_somebody_listens_to_is_left_to_him(run_dir: Path, kind: int) -> None:
    path = run_dir / "s"
    with listen_unix(path, kind=kind):
        before = path.stat().st_ino
        for other in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            with pytest.raises(DaemonError, match="in use"), listen_unix(path, kind=other):
                pass
        assert path.stat().st_ino == before


async def test_a_file_that_is_no_socket_is_left_alone(run_dir: Path) -> None:
    path = run_dir / "s"
    path.write_text("mine")
    with pytest.raises(DaemonError, match="not a socket"), listen_unix(path):
        pass
    assert path.read_text() == "mine"


async def test_the_socket_of_a_successor_survives_the_end_of_its_predecessor(run_dir: Path) -> None:
    path = run_dir / "s"
    with listen_unix(path):
        path.unlink()
        with listen_unix(path):
            successor = path.stat().st_ino
            path.rename(run_dir / "kept")
            (run_dir / "kept").rename(path)
            assert path.stat().st_ino == successor
            with pytest.raises(DaemonError, match="in use"), listen_unix(path):
                pass
            assert path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o666])
@pytest.mark.parametrize("umask", [0, 0o077])
async def test_a_socket_has_the_mode_asked_for_whatever_the_umask(
    run_dir: Path, mode: int, umask: int
) -> None:
    old = os.umask(umask)
    try:
        with listen_unix(run_dir / "s", mode=mode):
            assert stat.S_IMODE((run_dir / "s").stat().st_mode) == mode
    finally:
        os.umask(old)


async def test_a_path_too_long_for_a_socket_is_named_with_the_limit(run_dir: Path) -> None:
    with (
        pytest.raises(DaemonError, match="longer than 107 bytes"),
        listen_unix(run_dir / ("x" * 107)),
    ):
        pass


async def test_the_peer_is_who_the_kernel_says(run_dir: Path) -> None:
    with listen_unix(run_dir / "s") as listener:
        async with await trio.open_unix_socket(run_dir / "s"):
            peer, _ = await listener.accept()
            with peer:
                found = peer_credentials(peer)
    assert (found.pid, found.uid, found.gid) == (os.getpid(), os.geteuid(), os.getegid())


# --- listeners that the supervisor made ---


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
async def test_an_inherited_listener_is_served_and_its_file_stays(run_dir: Path, kind: int) -> None:
    path, unused = run_dir / "theirs", run_dir / "ours"
    with socket.socket(socket.AF_UNIX, kind) as supervisors:
        supervisors.bind(str(path))
        supervisors.listen()
        # Who connects before we are there waits.
        with socket.socket(socket.AF_UNIX, kind) as early:
            early.connect(str(path))
            listeners = Listeners({"backend": [os.dup(supervisors.fileno())]})
            with listeners.listen("backend", unused, kind=kind) as listener:
                peer, _ = await listener.accept()
                peer.close()
                assert not unused.exists()
        assert path.exists()
        with socket.socket(socket.AF_UNIX, kind) as late:
            late.connect(str(path))


async def test_without_an_inherited_listener_of_that_name_we_listen_ourselves(
    run_dir: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as supervisors:
        supervisors.bind(str(run_dir / "theirs"))
        supervisors.listen()
        listeners = Listeners({"control": [os.dup(supervisors.fileno())]})
        with listeners.listen("tpm", run_dir / "ours", mode=0o666):
            assert stat.S_IMODE((run_dir / "ours").stat().st_mode) == 0o666
        assert not (run_dir / "ours").exists()
        with listeners.listen("control", run_dir / "ours"):
            assert not (run_dir / "ours").exists()
        # It can be had once.
        with listeners.listen("control", run_dir / "ours"):
            assert (run_dir / "ours").exists()


def _pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def _internet() -> int:
    with socket.socket(socket.AF_INET) as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        return made.detach()


def _not_listening() -> int:
    return socket.socket(socket.AF_UNIX).detach()


def _of_datagrams() -> int:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_pipe, "is not a socket"),
        (_internet, "is AF_INET SOCK_STREAM, should be AF_UNIX SOCK_STREAM"),
        (_of_datagrams, "is AF_UNIX SOCK_DGRAM, should be AF_UNIX SOCK_STREAM"),
        (_not_listening, "does not listen"),
    ],
)
def test_an_inherited_descriptor_that_is_no_such_listener_is_refused(
    run_dir: Path, make: Callable[[], int], reason: str
) -> None:
    fd = make()
    with (
        pytest.raises(DaemonError, match=f"inherited .* control {reason}"),
        Listeners({"control": [fd]}).listen("control", run_dir / "s"),
    ):
        pass
    with contextlib.suppress(OSError):
        os.close(fd)


async def test_a_control_socket_is_served_at_an_inherited_listener(run_dir: Path) -> None:
    path = run_dir / "theirs"

    async def status(_args: Fields) -> Fields:
        return {"state": "serving"}

    with socket.socket(socket.AF_UNIX) as supervisors:
        supervisors.bind(str(path))
        supervisors.listen()
        listeners = Listeners({"control": [os.dup(supervisors.fileno())]})
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(
                    serve_control,
                    run_dir / "ours",
                    {"status": status},
                    log=QUIET,
                    listeners=listeners,
                )
            )
            assert await control_request(path, "status") == {"state": "serving"}
            nursery.cancel_scope.cancel()
    assert path.exists()


class Exhausted:
    """A listener in a process that has no descriptor left, three times."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0

    async def accept(self) -> tuple[str, None]:
        await trio.lowlevel.checkpoint()
        self.calls += 1
        if self.calls <= 3:
            raise OSError(self.number, os.strerror(self.number))
        return "connection", None


async def test_a_lack_of_descriptors_is_waited_out(autojump_clock: trio.testing.MockClock) -> None:
    lines: list[str] = []
    listener = cast(SocketType, Exhausted(errno.EMFILE))
    assert str(await accept(listener, Log("test", sink=lines.append))) == "connection"
    assert len(lines) == 3
    assert trio.current_time() == pytest.approx(0.3)
    assert autojump_clock.rate == 0


async def test_a_broken_listener_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        await accept(cast(SocketType, Exhausted(errno.EBADF)), QUIET)


# --- control ---


async def _echo(args: Fields) -> Fields:
    return args


async def _refuse(_args: Fields) -> Fields:
    raise DaemonError("not now")


async def _fault(_args: Fields) -> Fields:
    raise ZeroDivisionError("a bug with a secret in it")


@asynccontextmanager
async def controlled(path: Path, log: Log = QUIET) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        handlers = {"echo": _echo, "refuse": _refuse, "fault": _fault}

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            await serve_control(path, handlers, log=log, task_status=task_status)

        await nursery.start(serve)
        yield
        nursery.cancel_scope.cancel()


async def test_a_control_request_reaches_its_handler_and_its_answer_comes_back(
    run_dir: Path,
) -> None:
    async with controlled(run_dir / "c"):
        assert await control_request(run_dir / "c", "echo", a=1, b=["x", None]) == {
            "a": 1,
            "b": ["x", None],
        }
        assert await control_request(run_dir / "c", "echo") == {}


async def test_what_goes_wrong_in_a_daemon_is_told_to_who_asked(run_dir: Path) -> None:
    async with controlled(run_dir / "c"):
        with pytest.raises(DaemonError, match=r"^not now$"):
            await control_request(run_dir / "c", "refuse")
        with pytest.raises(
            DaemonError, match="no such verb: 'other'; there are echo, fault, refuse"
        ):
            await control_request(run_dir / "c", "other")


async def test_a_bug_in_a_handler_costs_the_request_and_not_the_daemon(run_dir: Path) -> None:
    lines: list[str] = []
    async with controlled(run_dir / "c", Log("test", sink=lines.append)):
        with pytest.raises(DaemonError, match=r"^internal error: ZeroDivisionError$"):
            await control_request(run_dir / "c", "fault")
        assert await control_request(run_dir / "c", "echo") == {}
    assert any("control request failed" in line for line in lines)


@pytest.mark.parametrize(
    "sent",
    [
        b"\n",
        b"nonsense\n",
        b"[]\n",
        b'{"verb": 1}\n',
        b'{"verb": "echo", "args": []}\n',
        b'{"verb": "echo", "more": 1}\n',
        b"\xff\xfe\n",
        b"[" * 60000 + b"\n",
        b"9" * 60000 + b"\n",
        b"x" * (LINE_LIMIT_BYTES + 1),
        b"half a line",
        b"",
    ],
)
async def test_no_request_harms_the_daemon(run_dir: Path, sent: bytes) -> None:
    async with controlled(run_dir / "c"):
        async with await trio.open_unix_socket(run_dir / "c") as stream:
            try:
                await stream.send_all(sent)
                await stream.send_eof()
                answer = await stream.receive_some(LINE_LIMIT_BYTES)
            except trio.BrokenResourceError:
                answer = b""
            assert answer == b"" or json.loads(answer)["ok"] is False
        assert await control_request(run_dir / "c", "echo", still=True) == {"still": True}


async def test_a_peer_that_says_nothing_is_hung_up_on(
    run_dir: Path, autojump_clock: trio.testing.MockClock
) -> None:
    lines: list[str] = []
    log = Log("test", level=Level.DEBUG, sink=lines.append)
    async with (
        controlled(run_dir / "c", log),
        await trio.open_unix_socket(run_dir / "c") as stream,
    ):
        assert await stream.receive_some(1) == b""
    assert autojump_clock.current_time() >= 10
    assert any("TooSlow" in line for line in lines)


async def test_asking_where_nobody_listens_is_an_error_that_names_the_place(run_dir: Path) -> None:
    with pytest.raises(DaemonError, match=f"{run_dir}/c: nobody answers"):
        await control_request(run_dir / "c", "status")


# --- readiness ---


@pytest.mark.parametrize("abstract", [False, True])
def test_notifications_arrive_as_the_service_manager_expects_them(
    run_dir: Path, abstract: bool
) -> None:
    name = f"{run_dir}/n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        environ = {"NOTIFY_SOCKET": "@" + name if abstract else name, "OTHER": "x"}
        notifier = Notifier.from_environ(environ)
        assert environ == {"OTHER": "x"}
        notifier.ready()
        notifier.status("two\nlines")
        notifier.stopping()
        notifier.remove_fd("volatile")
        said = [manager.recv(4096) for _ in range(4)]
        assert said == [
            b"READY=1",
            b"STATUS=two lines",
            b"STOPPING=1",
            b"FDSTOREREMOVE=1\nFDNAME=volatile",
        ]
        reader, writer = os.pipe()
        notifier.store_fd("volatile", writer)
        os.close(writer)
        message, fds, _flags, _address = socket.recv_fds(manager, 4096, 4)
        assert message == b"FDSTORE=1\nFDNAME=volatile\nFDPOLL=0"
        os.write(fds[0], b"same pipe")
        assert os.read(reader, 100) == b"same pipe"
        for fd in (reader, *fds):
            os.close(fd)


def test_a_reload_is_told_with_the_time_at_which_it_begins(run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(run_dir / "n"))
        before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        Notifier(str(run_dir / "n")).reloading()
        after_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        word, when = manager.recv(4096).decode().split("\n")
    assert word == "RELOADING=1"
    name, _, value = when.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before_us <= int(value) <= after_us


def test_notifying_nobody_or_somebody_gone_is_harmless(run_dir: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": f"{run_dir}/gone"}, {"NOTIFY_SOCKET": "vsock:2:1"}):
        notifier = Notifier.from_environ(dict(environ))
        notifier.ready()
        notifier.store_fd("volatile", 0)
    with pytest.raises(ValueError, match="no name"):
        Notifier(None).store_fd("a:b", 0)


def test_a_supervisor_that_does_not_read_stops_nobody(run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(run_dir / "n"))
        notifier = Notifier(str(run_dir / "n"))
        for number in range(2000):
            notifier.status(f"waiting {number}")
        assert manager.recv(4096) == b"STATUS=waiting 0"


async def test_a_status_line_that_changes_without_end_is_sent_now_and_then(
    run_dir: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(run_dir / "n"))
        manager.setblocking(False)
        clients = 0
        line = StatusLine(Notifier(str(run_dir / "n")), lambda: f"{clients} clients")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.run)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(1000):
                clients += 1
                line.changed()
                await trio.sleep(STATUS_PERIOD_S / 1000)
            await trio.sleep(STATUS_PERIOD_S)
            line.changed()
            await trio.sleep(2 * STATUS_PERIOD_S)
            nursery.cancel_scope.cancel()
        sent = []
        with contextlib.suppress(BlockingIOError):
            while True:
                sent.append(manager.recv(4096))
    assert len(sent) <= 4
    assert (sent[0], sent[-1]) == (b"STATUS=0 clients", b"STATUS=1000 clients")
    assert len(set(sent)) == len(sent)


# --- inherited descriptors ---


def _listen(
    count: int | str, names: str | None = None, pid: int | str | None = None
) -> dict[str, str]:
    environ = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(count), "OTHER": "x"}
    return environ if names is None else {**environ, "LISTEN_FDNAMES": names}


def test_without_descriptors_there_are_none() -> None:
    assert inherited_fds({}) == {}
    assert inherited_fds(_listen(0)) == {}


def test_descriptors_for_another_process_are_not_ours() -> None:
    environ = _listen(1, "volatile", pid=1)
    assert inherited_fds(environ) == {}
    assert environ == {"OTHER": "x"}


@pytest.mark.parametrize(
    ("count", "names"), [("x", None), ("-1", None), ("100000", None), (2, "one"), (1, "a:b")]
)
def test_variables_that_contradict_each_other_are_refused(count: str, names: str | None) -> None:
    with pytest.raises(DaemonError, match="LISTEN_FDS"):
        inherited_fds(_listen(count, names))


def test_descriptors_come_by_name_in_order_and_are_not_passed_on() -> None:
    pid = os.fork()
    if pid == 0:
        # A process of its own, where numbers 3 to 5 are ours to give.
        code = 1
        try:
            for fd in range(FIRST_FD, FIRST_FD + 3):
                os.dup2(0, fd, inheritable=True)
            found = inherited_fds(_listen(3, "volatile:socket:socket"))
            right = found == {"volatile": [3], "socket": [4, 5]}
            if right and not any(os.get_inheritable(fd) for fd in (3, 4, 5)):
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
