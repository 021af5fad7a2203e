# SPDX-License-Identifier: Apache-2.0
"""Processes of the suite that need not import it: forks of one that has.

    process = start("vtpmctl", ["up", "--dir", folder], stderr=log)
    process.wait()

Importing takes a daemon half a second of processor time, which was half of the time of all
integration tests together. `vtpmctl up` forks its daemons like this (`daemons.vtpmctl.forkserver`);
here it is forked itself, and so are the other commands. They are processes of their own in all
other respects. What is seen from outside of a command (its executable, its entry in the process
list, its terminal) is for tests that start it the long way, as the machines with systemd do.

A pytest process has one such server, from the first `start` to its own end:

    test -> server   {"command", "args", "environment", "folder"}, with descriptors: a
                     SOCK_SEQPACKET for the answers, then what is to be the process's 0, 1, 2, 3 ...
    server -> test   {"pid"} with a pidfd, and {"code"} as of subprocess when it has ended
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import click

from daemons.runtime.inherited import FIRST_FD
from daemons.runtime.subcommands import subcommands

COMMANDS = ("hwtpm", "vtpmmgr", "vtpm", "tpmfront", "vtpmctl")
ROOT = Path(__file__).resolve().parents[2]
MESSAGE_LIMIT_BYTES = 128 * 1024
FD_LIMIT = 253
"""What one message carries (unix(7))."""
_HIGH_FD = 256
_GONE = "what starts the tests' processes has ended"
_LOCK = threading.Lock()


class WarmProcess:
    """A process, with what `subprocess.Popen` offers that tests use.

    Attributes:
        pid: of it.
        returncode: when it has ended and somebody has looked; minus the signal if one ended it.
        stdout: to read from, if it was asked for.
    """

    def __init__(self, told: socket.socket, name: str, stdout: int | None) -> None:
        """Made by `start`, once the server has been asked."""
        message, fds, _flags, _address = socket.recv_fds(told, MESSAGE_LIMIT_BYTES, 1)
        if not fds:
            told.close()
            raise AssertionError(_GONE)
        (self._pidfd,) = fds
        self.pid = int(json.loads(message)["pid"])
        self.returncode: int | None = None
        self.stdout = None if stdout is None else os.fdopen(stdout, "rb", buffering=0)
        self._told = told
        self._name = name

    def fileno(self) -> int:
        """Return what is readable when it has ended."""
        return self._told.fileno()

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        if self.returncode is None and self._has_ended(0):
            message = self._told.recv(MESSAGE_LIMIT_BYTES)
            assert message, _GONE
            self.returncode = int(json.loads(message)["code"])
            self._told.close()
            os.close(self._pidfd)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        if self.returncode is None and not self._has_ended(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self._name, timeout)
        code = self.poll()
        assert code is not None
        return code

    def _has_ended(self, timeout: float | None) -> bool:
        # Not select(2): a test with a crowd of connections has descriptors above its limit of 1024.
        poll = select.poll()
        poll.register(self._told, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended."""
        # It may have ended without our having looked, and somebody may wait for that right now.
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    command: str,
    args: Sequence[str],
    *,
    stdout: int | None = None,
    stderr: int | None = None,
    environment: Mapping[str, str] | None = None,
    fds: Mapping[str, int] | None = None,
) -> WarmProcess:
    """Start a command of the suite; nothing is in its standard input.

    Args:
        command: one of COMMANDS.
        args: its command line.
        stdout: where it goes, by default ours; `subprocess.PIPE` to read it.
        stderr: likewise, without a pipe.
        environment: by default ours.
        fds: descriptors from 3 on, by the names that it finds them under, as from systemd.
    """
    fds = fds or {}
    variables = dict(os.environ if environment is None else environment)
    if fds:
        variables |= {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(fds)}
    request = {
        "command": command,
        "args": list(args),
        "environment": variables,
        "folder": os.getcwd(),
    }
    reading = None
    told, teller = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as ours:
        ours.enter_context(teller)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        ours.callback(os.close, null)
        if stdout == subprocess.PIPE:
            reading, stdout = os.pipe()
            ours.callback(os.close, stdout)
        handed = [teller.fileno(), null, _or(stdout, 1), _or(stderr, 2), *fds.values()]
        with _LOCK:
            socket.send_fds(_server(), [json.dumps(request).encode()], handed)
    return WarmProcess(told, command, reading)


def _or(fd: int | None, default: int) -> int:
    return default if fd is None else fd


def run(command: str, args: Sequence[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command of the suite to its end, as `subprocess.run` with its output captured does.

    Raises:
        subprocess.TimeoutExpired: it was killed.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start(command, args, stdout=out.fileno(), stderr=err.fileno())
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(args, code, out.read(), err.read())


@cache
def _server() -> socket.socket:
    """Start the server of this process; it ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.warm", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


def _serve(tests: socket.socket) -> None:
    """Be the server until the tests hang up."""
    os.setpgid(0, 0)  # Ctrl-C at the terminal is for pytest
    for name in COMMANDS:
        _import_all(importlib.import_module(f"daemons.{name}.cli").main)
    # Collections in the processes would write to, and so unshare, pages that only hold modules.
    gc.collect()
    gc.freeze()
    running: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    poll = select.poll()
    poll.register(tests, select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            if fd == tests.fileno():
                message, fds, _flags, _address = socket.recv_fds(
                    tests, MESSAGE_LIMIT_BYTES, FD_LIMIT
                )
                if not message:
                    return
                pid = os.fork()
                if pid == 0:
                    _become(json.loads(message), fds[1:])
                for handed in fds[1:]:
                    os.close(handed)
                teller = socket.socket(fileno=fds[0])
                pidfd = os.pidfd_open(pid)
                socket.send_fds(teller, [json.dumps({"pid": pid}).encode()], [pidfd])
                running[pidfd] = (pid, teller)
                poll.register(pidfd, select.POLLIN)
            else:
                poll.unregister(fd)
                os.close(fd)
                pid, teller = running.pop(fd)
                with teller:
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
                        teller.send(json.dumps({"code": code}).encode())


def _import_all(command: click.Command) -> None:
    for below in subcommands(command).values():
        _import_all(below)


def _become(request: Mapping[str, Any], fds: Sequence[int]) -> NoReturn:
    """Turn this fresh fork into the command; never returns into the server's loop."""
    code = 1
    try:
        # Above their targets first, so that no copy hits a source.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD) for fd in fds]
        for target, fd in enumerate(high):
            os.dup2(fd, target)
        os.closerange(max(len(fds), FIRST_FD), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        if "LISTEN_FDS" in os.environ:
            os.environ["LISTEN_PID"] = str(os.getpid())
        command = request["command"]
        module = importlib.import_module(f"daemons.{command}.cli")
        module.main(args=request["args"], prog_name=command)
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _tests:
        _serve(_tests)
