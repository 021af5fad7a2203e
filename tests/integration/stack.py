# SPDX-License-Identifier: Apache-2.0
"""A whole stack for a test: `vtpmctl up` in a folder of its own, as a user starts it.

    def test_something(run_dir: Path) -> None:
        with running_stack(run_dir, guests=("g1", "g2")) as stack:
            stack.transact("g1", command)
            os.kill(stack.pid("vtpm-g1"), signal.SIGKILL)

What the stack wrote to standard error is shown when the test fails. `run_dir` is the fixture of
tests/conftest.py; a second stack on the same folder finds the state of the first.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from daemons.vtpmctl.layout import Layout
from tests.integration.waiting import wait_until
from tests.integration.warm import run, start

START_LIMIT_S = 60.0
STOP_LIMIT_S = 45.0
ANSWER_LIMIT_S = 60.0

_HEADER = struct.Struct(">HII")
_SHOWN_BYTES = 16 * 1024
VTPMCTL = (sys.executable, "-m", "daemons.vtpmctl")


class StackError(AssertionError):
    """The stack did not do what it promises."""


class Stack:
    """A `vtpmctl up` process; made by `running_stack`, or by hand to look at a start that fails."""

    def __init__(
        self, root: Path, guests: Sequence[str] = ("g1",), options: Sequence[str] = ()
    ) -> None:
        """Start it; `wait_ready` waits for its answer.

        Args:
            root: its --dir.
            guests: names.
            options: further options of `vtpmctl up`.
        """
        self.root = root
        self.guests = tuple(guests)
        self.stderr_path = root / "stderr.log"
        self.ready_text = ""
        self._started = time.monotonic()
        named = [word for guest in guests for word in ("--guest", guest)]
        with self.stderr_path.open("ab") as stderr:
            self.process = start(
                "vtpmctl",
                ["up", "--dir", str(root), *named, *options],
                stdout=subprocess.PIPE,
                stderr=stderr.fileno(),
            )

    def wait_ready(self, limit_s: float = START_LIMIT_S) -> str:
        """Wait for the line that begins with "ready" and return it.

        Raises:
            StackError: it ended, or took longer.
        """
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + limit_s
        while "\n" not in self.ready_text:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise StackError(f"not ready after {limit_s:g} s")
            chunk = os.read(fd, 4096).decode()
            if not chunk:
                code = self.process.wait()
                self.close()
                raise StackError(f"ended with exit code {code} before it was ready")
            self.ready_text += chunk
        line = self.ready_text.partition("\n")[0]
        if not line.startswith("ready"):
            raise StackError(f"it says {line!r} and not that it is ready")
        return line

    def tpm_socket(self, guest: str) -> Path:
        """The raw TPM byte stream of a guest."""
        return self.root / "run" / "guests" / guest / "tpm.sock"

    def control_socket(self, guest: str) -> Path:
        """The swtpm control channel of a guest, for QEMU."""
        return self.tpm_socket(guest).with_name("ctrl.sock")

    def connect(self, guest: str) -> socket.socket:
        """Return a connection to the raw stream of a guest, with a timeout set."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(ANSWER_LIMIT_S)
        try:
            client.connect(os.fspath(self.tpm_socket(guest)))
        except OSError:
            client.close()
            raise
        return client

    def transact(self, guest: str, command: bytes) -> bytes:
        """Send one command over a connection of its own and return the response."""
        with self.connect(guest) as client:
            return transact(client, command)

    def status(self) -> dict[str, Any]:
        """Return what `vtpmctl status --json` says, whether everything serves (exit code 0) or not
        (1).

        Raises:
            StackError: it says nothing.
        """
        done = self._run_vtpmctl("status", "--json")
        if done.returncode not in (0, 1) or not done.stdout:
            raise StackError(f"vtpmctl status: {done.stderr}")
        status: dict[str, Any] = json.loads(done.stdout)
        assert status["serving"] == (done.returncode == 0)
        return status

    def daemon(self, name: str) -> dict[str, Any]:
        """Return the status of one daemon: "hwtpm", "vtpmmgr", "vtpm-NAME", "tpmfront-NAME"."""
        row: dict[str, Any]
        (row,) = (row for row in self.status()["daemons"] if row["daemon"] == name)
        return row

    def wait_daemon_ready(self, name: str, limit_s: float = START_LIMIT_S) -> None:
        """Wait until a daemon is ready (again).

        Raises:
            AssertionError: it took longer.
        """
        wait_until(lambda: self.supervised(name)["state"] == "ready", f"{name} ready", limit_s)

    def wait_daemon_replaced(self, name: str, pid: int) -> None:
        """Wait until a daemon has another process, and that is ready.

        Raises:
            AssertionError: it took longer.
        """

        def is_replaced() -> bool:
            row = self.supervised(name)
            return row["pid"] not in (None, pid) and row["state"] == "ready"

        wait_until(is_replaced, f"{name} with another process than {pid}", START_LIMIT_S)

    def supervised(self, name: str) -> dict[str, Any]:
        """Return what the supervisor itself knows of a daemon: "pid", "state", "restarts".

        Other than `daemon` this asks no daemon, which may hang or be stopped.

        Raises:
            StackError: the supervisor does not answer.
        """
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(ANSWER_LIMIT_S)
                client.connect(os.fspath(Layout(self.root).control_socket))
                client.sendall(b'{"verb": "status"}\n')
                with client.makefile("rb") as lines:
                    reply = json.loads(lines.readline())
        except (OSError, ValueError) as error:
            raise StackError(f"the supervisor does not answer: {error}") from error
        row: dict[str, Any]
        (row,) = (row for row in reply["result"]["daemons"] if row["daemon"] == name)
        return row

    def pid(self, daemon: str) -> int:
        """Return the process id of a daemon, for signals.

        Raises:
            StackError: it has no process at the moment.
        """
        pid = self.supervised(daemon)["pid"]
        if not isinstance(pid, int):
            raise StackError(f"{daemon} has no process")
        return pid

    def vtpmctl(self, *arguments: str) -> str:
        """Run a `vtpmctl` command on this stack and return its output.

        Raises:
            StackError: it failed.
        """
        done = self._run_vtpmctl(*arguments)
        if done.returncode:
            raise StackError(f"vtpmctl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def _run_vtpmctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run("vtpmctl", [*arguments, "--dir", str(self.root)], timeout=ANSWER_LIMIT_S)

    def stderr(self) -> str:
        """Return what the stack has logged so far."""
        return self.stderr_path.read_text(errors="replace")

    def stop(self, limit_s: float = STOP_LIMIT_S) -> int:
        """End it by SIGTERM and return its exit code; -9 if it had to be killed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self.close()

    def kill(self) -> None:
        """End the supervisor by SIGKILL, as a crash does; its daemons end by themselves soon
        after."""
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Give up its standard output; it has ended."""
        if self.process.stdout is not None:
            self.process.stdout.close()


def transact(client: socket.socket, command: bytes) -> bytes:
    """Send one command over a connection and return the response.

    Raises:
        StackError: the peer hung up.
    """
    client.sendall(command)
    head = _receive(client, _HEADER.size)
    return head + _receive(client, _HEADER.unpack(head)[1] - _HEADER.size)


def _receive(client: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = client.recv(size - len(received))
        if not chunk:
            raise StackError(f"hung up after {len(received)} of {size} bytes")
        received += chunk
    return received


@contextlib.contextmanager
def running_stack(
    root: Path, guests: Sequence[str] = ("g1",), options: Sequence[str] = ()
) -> Iterator[Stack]:
    """Give a stack that is ready, and end it in order.

    Raises:
        StackError: it does not get ready, or does not end with exit code 0. A test that stopped or
            killed it itself is not asked.
    """
    stack = Stack(root, guests, options)
    try:
        stack.wait_ready()
        yield stack
        ended = stack.process.poll()
        if ended is None:
            code = stack.stop()
            if code:
                raise StackError(f"exit code {code} on SIGTERM")
    except BaseException:
        _show(stack)
        raise
    finally:
        if stack.process.poll() is None:
            stack.stop()
        stack.close()


def _show(stack: Stack) -> None:
    text = stack.stderr()
    if len(text) > _SHOWN_BYTES:
        text = "...\n" + text[-_SHOWN_BYTES:]
    sys.stderr.write(f"--- standard error of the stack in {stack.root} ---\n{text}---\n")
