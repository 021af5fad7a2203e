# SPDX-License-Identifier: Apache-2.0
"""The life of a daemon process: how it stops, and what its exit code says."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = """
import sys, trio
from daemons.runtime.daemon import run_daemon
from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier
async def main():
    {}
async def serve():
    try:
        sys.stdout.write("up\\n")
        sys.stdout.flush()
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
            sys.stdout.write("saved\\n")
            sys.stdout.flush()
async def fail(error):
    raise error
run_daemon(
    main,
    log=Log("test"),
    notifier=Notifier.from_environ(),
    inherited={"supervisor": [int(fd) for fd in sys.argv[1:]]},
)
"""
LIMIT_S = 30


def start(code: str, *fds: int, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("{}", code), *map(str, fds)],
        env={**os.environ, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=fds,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    with process:
        out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it_in_order_with_exit_code_0(number: signal.Signals) -> None:
    process = start("await serve()")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    assert finish(process) == (0, "saved\n", "")


def test_a_background_job_of_a_script_stops_on_sigint_too() -> None:
    """A shell starts it with SIGINT ignored; the process takes that back."""
    code = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    program = PROGRAM.replace("{}", "await serve()")
    program = program.replace("async def main", f"{code}\nasync def main")
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal\n" + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert finish(process) == (0, "saved\n", "")


def test_the_end_of_the_supervisor_stops_it_in_order() -> None:
    reader, writer = os.pipe()
    process = start("await serve()", reader)
    os.close(reader)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    os.close(writer)
    assert finish(process) == (0, "saved\n", "")


def test_it_ends_by_itself_with_exit_code_0() -> None:
    assert finish(start("pass")) == (0, "", "")


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        ('DaemonError("no socket")', 1, 'failed reason="no socket"'),
        ('RefusedToStart("tampered")', 3, "refused to start reason=tampered"),
        ('OSError(28, "full", "f")', 1, "failed reason=\"[Errno 28] full: 'f'\""),
    ],
)
def test_what_is_expected_to_go_wrong_is_one_line(error: str, exit_code: int, line: str) -> None:
    assert finish(start(f"await fail({error})")) == (exit_code, "", f"test error: {line}\n")


def test_a_refusal_inside_a_nursery_is_still_a_refusal() -> None:
    code = """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(fail, RefusedToStart("tampered"))
        nursery.start_soon(fail, DaemonError("and more"))
"""
    exit_code, _out, err = finish(start(code))
    assert exit_code == 3
    assert "test error: refused to start reason=tampered\n" in err
    assert "Traceback" not in err


def test_a_bug_is_shown_with_its_traceback() -> None:
    exit_code, _out, err = finish(start("1 / 0"))
    assert exit_code == 1
    assert "ZeroDivisionError" in err
    assert "Traceback" in err


def test_its_memory_reaches_no_core_file_and_no_debugger() -> None:
    code = """
    import ctypes, os, resource
    print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
    print(oct(os.umask(0)))
"""
    assert finish(start(code)) == (0, "(0, 0) 0\n0o77\n", "")


def test_it_may_open_as_many_descriptors_as_the_system_grants() -> None:
    code = """
    import resource
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    script = ["sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh", sys.executable, "-c"]
    command = [*script, PROGRAM.replace("{}", code)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert (found.stdout, found.stderr) == (f"{hard}\n", "")


def test_a_stop_before_it_has_begun_to_serve_is_not_lost() -> None:
    # The signal comes while main runs without a checkpoint; it stops at the next one.
    code = """
    import os, signal
    os.kill(os.getpid(), signal.SIGTERM)
    await serve()
"""
    exit_code, out, _err = finish(start(code))
    assert exit_code == 0
    assert out == "up\nsaved\n"


@contextmanager
def supervising(run_dir: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(run_dir / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(LIMIT_S)
        manager.bind(path)
        yield manager, path


def test_the_supervisor_hears_that_the_loop_turns_until_the_last_save_is_done(
    run_dir: Path,
) -> None:
    """Also while a stop is under way, which may take longer than the watchdog allows."""
    code = """
    sys.stdout.write("up\\n")
    sys.stdout.flush()
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            sys.stdout.write("saving\\n")
            sys.stdout.flush()
            await trio.to_thread.run_sync(sys.stdin.read)
"""
    with supervising(run_dir) as (manager, path):
        process = start(code, NOTIFY_SOCKET=path, WATCHDOG_USEC="100000")
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        for _ in range(3):
            assert manager.recv(4096) == b"WATCHDOG=1"
        process.terminate()
        assert process.stdout.readline() == "saving\n"
        for _ in range(5):
            assert manager.recv(4096) == b"WATCHDOG=1"
        assert finish(process) == (0, "", "")


def test_a_watchdog_for_another_process_is_not_ours(run_dir: Path) -> None:
    with supervising(run_dir) as (manager, path):
        process = start("pass", NOTIFY_SOCKET=path, WATCHDOG_USEC="100000", WATCHDOG_PID="1")
        assert finish(process) == (0, "", "")
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(4096)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ('await fail(RefusedToStart("image does not match"))', "refused: image does not match"),
        ('await fail(DaemonError("no socket"))', "failed: no socket"),
        ('await fail(ValueError("secret"))', "failed: unexpected ValueError"),
    ],
)
def test_why_it_ended_is_its_last_status(run_dir: Path, code: str, status: str) -> None:
    with supervising(run_dir) as (manager, path):
        finish(start(code, NOTIFY_SOCKET=path))
        assert manager.recv(4096) == b"STATUS=" + status.encode()
