# SPDX-License-Identifier: Apache-2.0
"""The two TPMs that are compared, each as processes on a chosen core, and a client's view of
one."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tpmcore import tss12
from tpmcore.tss12 import Conversation

T = TypeVar("T")

START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
_RETRY_S = 0.002


class KernelRandom:
    """A RandomSource for the client side."""

    def random(self, size_bytes: int) -> bytes:
        """Return random bytes."""
        return os.urandom(size_bytes)

    def stir(self, data: bytes) -> None:
        """Nothing to stir into."""


class BenchError(Exception):
    """A peer does not start or does not answer."""


@dataclass(slots=True)
class Peer:
    """A TPM under measurement.

    Attributes:
        name: in the table.
        samples_us: round trip of each command that was timed, by the name it was timed under.
    """

    name: str
    connection: socket.socket
    samples_us: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    random: KernelRandom = field(default_factory=KernelRandom)
    _timed: tuple[int, str] | None = None

    def send(self, command: bytes) -> bytes:
        """Send a command, and note its round trip if its ordinal is being timed."""
        started = time.perf_counter()
        self.connection.sendall(command)
        response = self.connection.recv(65536)
        while len(response) < 6 or len(response) < int.from_bytes(response[2:6], "big"):
            chunk = self.connection.recv(65536)
            if not chunk:
                raise BenchError(f"{self.name} hung up")
            response += chunk
        elapsed_us = (time.perf_counter() - started) * 1e6
        if self._timed is not None and command[6:10] == self._timed[0].to_bytes(4, "big"):
            self.samples_us[self._timed[1]].append(elapsed_us)
        return response

    def run(self, conversation: Conversation[T]) -> T:
        """Run a conversation."""
        return tss12.run_sync(self.send, conversation)

    @contextlib.contextmanager
    def timing(self, ordinal: int, name: str) -> Iterator[None]:
        """Note the round trips of the commands with this ordinal under a name."""
        self._timed = (ordinal, name)
        try:
            yield
        finally:
            self._timed = None


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder with a short path, since socket paths end at 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def connect(path: Path) -> socket.socket:
    """Connect to a raw TPM stream, waiting until somebody listens.

    Raises:
        BenchError: nobody does.
    """
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(os.fspath(path))
        except OSError:
            connection.close()
            select.select([], [], [], _RETRY_S)
        else:
            connection.settimeout(START_LIMIT_S)
            return connection
    raise BenchError(f"nobody listens at {path}")


@contextlib.contextmanager
def our_stack(
    folder: Path, core: int | None, guests: Sequence[str] = ("g1",), options: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `vtpmctl up` with all its daemons on one core (None: on any)."""
    named = [word for guest in guests for word in ("--guest", guest)]
    log_path = folder / "stderr.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [
                *_pinned(core),
                *(sys.executable, "-m", "daemons.vtpmctl", "up", "--dir", os.fspath(folder)),
                *named,
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        yield process
    finally:
        _end(process)


def wait_ready(process: subprocess.Popen[bytes]) -> None:
    """Wait for the line of `vtpmctl up` that begins with "ready".

    Raises:
        BenchError: it ended before.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith(b"ready"):
        raise BenchError(f"vtpmctl up says {line!r}")


def our_socket(folder: Path, guest: str = "g1") -> Path:
    """The raw stream of a guest."""
    return folder / "run" / "guests" / guest / "tpm.sock"


@contextlib.contextmanager
def swtpm(folder: Path, core: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run swtpm's TPM 1.2 on one core, started up."""
    state = folder / "swtpm"
    state.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [
            *_pinned(core),
            *("swtpm", "socket", "--tpmstate", f"dir={state}"),
            *("--server", f"type=unixio,path={swtpm_socket(folder)}"),
            *("--flags", "not-need-init,startup-clear"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        _end(process)


def swtpm_socket(folder: Path) -> Path:
    """The raw stream of swtpm."""
    return folder / "swtpm.sock"


def _pinned(core: int | None) -> list[str]:
    return [] if core is None else ["taskset", "-c", str(core)]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
