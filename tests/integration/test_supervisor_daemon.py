# SPDX-License-Identifier: Apache-2.0
"""The life of a daemon process: how it stops, and what its exit code says."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys, trio
from daemons.runtime.daemon import run_daemon
from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.log import Log
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
run_daemon(main, log=Log("test"), inherited={"supervisor": [int(fd) for fd in sys.argv[1:]]})
"""
LIMIT_S = 30


def start(code: str, *fds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("{}", code), *map(str, fds)],
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
