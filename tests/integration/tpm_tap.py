# SPDX-License-Identifier: Apache-2.0
"""A socket before a TPM's that notes which commands go through and what they end in.

with tapped(stack.tpm_socket("g1"), folder / "tap.sock") as seen:
    ...
    assert Ordinal.SAVE_AUTH_CONTEXT in seen.ordinals()
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from protocol.tpm12.framing import HEADER_BYTES, parse_header

_MOST_CONNECTIONS: Final = 8


@dataclass
class Seen:
    """What went through, in order."""

    commands: list[tuple[int, int]] = field(default_factory=list)
    """Ordinal and return code."""

    def ordinals(self, code: int = 0) -> list[int]:
        """Return the ordinals that ended in a return code."""
        return [ordinal for ordinal, found in self.commands if found == code]


@contextmanager
def tapped(tpm_socket: Path, path: Path) -> Iterator[Seen]:
    """Listen at a path, for every user, and pass everything on."""
    seen = Seen()
    connections: list[socket.socket] = []
    with (
        ThreadPoolExecutor(_MOST_CONNECTIONS) as threads,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
    ):
        listener.bind(os.fspath(path))
        path.chmod(0o666)
        listener.listen()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    tpm = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    connections.extend((client, tpm))
                    tpm.connect(os.fspath(tpm_socket))
                    threads.submit(_pass_on, client, tpm, seen)

        accepting = threads.submit(accept)
        try:
            yield seen
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.result()
            for connection in connections:
                # Wakes who reads from it; the pool waits for them.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            threads.shutdown()
            for connection in connections:
                connection.close()


def _pass_on(client: socket.socket, tpm: socket.socket, seen: Seen) -> None:
    with contextlib.suppress(OSError):
        while command := _message(client):
            tpm.sendall(command)
            response = _message(tpm)
            if not response:
                break
            seen.commands.append((parse_header(command).code, parse_header(response).code))
            client.sendall(response)


def _message(connection: socket.socket) -> bytes:
    """Return one message; empty at the end of the stream."""
    data = b""
    wanted = HEADER_BYTES
    while len(data) < wanted:
        chunk = connection.recv(wanted - len(data))
        if not chunk:
            return b""
        data += chunk
        if len(data) == HEADER_BYTES:
            wanted = parse_header(data).size
    return data
