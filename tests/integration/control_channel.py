# SPDX-License-Identifier: Apache-2.0
"""A client of swtpm's control channel, and swtpm itself as what ours is compared with."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.integration.stack import StackError, transact

LIMIT_S = 60.0


class Control:
    """A connection to a control channel; a context manager."""

    def __init__(self, path: Path) -> None:
        self.socket = connected(path)
        self._opened: list[socket.socket] = []

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.socket.close()
        for data in self._opened:
            data.close()

    def ask(self, request: str | bytes, size: int = 4) -> str:
        """Send a request and return its answer in hexadecimal, of which nothing may follow.

        Args:
            request: bytes, or hexadecimal.
            size: of the answer; one whose result is not 0 may be shorter.
        """
        self.socket.sendall(bytes.fromhex(request) if isinstance(request, str) else request)
        answer = self.socket.recv(65536)
        while 0 < len(answer) < size and answer[:4] == bytes(4):
            answer += self.socket.recv(65536)
        assert len(answer) <= size, f"{len(answer)} bytes, {size} are asked for"
        return answer.hex()

    def open_data(self) -> socket.socket:
        """Pass one end of a pair as QEMU does, and return the other; closed with this one."""
        ours, theirs = socket.socketpair()
        ours.settimeout(LIMIT_S)
        self._opened.append(ours)
        with theirs:
            socket.send_fds(self.socket, [bytes.fromhex("00000010")], [theirs.fileno()])
        assert self.socket.recv(65536).hex() == "00000000"
        return ours

    def ended(self) -> bool:
        """Whether the other side has closed."""
        return self.socket.recv(1) == b""


def connected(path: Path) -> socket.socket:
    """Connect to a Unix socket."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(LIMIT_S)
    try:
        client.connect(os.fspath(path))
    except OSError:
        client.close()
        raise
    return client


class Swtpm:
    """A swtpm for TPM 1.2 with a control and a data socket."""

    def __init__(self, folder: Path) -> None:
        self.ctrl_socket = folder / "ctrl"
        self.tpm_socket = folder / "tpm"
        state = folder / "state"
        state.mkdir()
        listeners = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for listener, path in zip(listeners, (self.ctrl_socket, self.tpm_socket), strict=True):
            listener.bind(os.fspath(path))
            listener.listen()
        ctrl, data = (listener.fileno() for listener in listeners)
        self.process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpmstate", f"dir={state}"),
                *("--ctrl", f"type=unixio,fd={ctrl}", "--server", f"type=unixio,fd={data}"),
            ],
            pass_fds=(ctrl, data),
            stderr=subprocess.DEVNULL,
        )
        for listener in listeners:
            listener.close()


@contextlib.contextmanager
def running_swtpm(folder: Path) -> Iterator[Swtpm]:
    """Give a swtpm and end it."""
    swtpm = Swtpm(folder)
    try:
        yield swtpm
    finally:
        swtpm.process.terminate()
        swtpm.process.wait()


def is_quiet(client: socket.socket, seconds: float) -> bool:
    """Whether nothing comes for so long."""
    return not select.select([client], [], [], seconds)[0]


__all__ = ["Control", "StackError", "Swtpm", "connected", "is_quiet", "running_swtpm", "transact"]
