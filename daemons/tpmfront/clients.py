# SPDX-License-Identifier: Apache-2.0
"""Serving whoever connects to the raw stream socket.

Each client has one task, and at most one command at the vTPM; the link takes turns in the order in
which commands came, so a client that sends ten thousand commands at once is served one, then the
others. A client that does not read its responses keeps only its own task waiting; nothing more is
read from it meanwhile. Nothing is held for a client that sent half a command but that half.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import Final

import trio
from trio.socket import SocketType

from daemons.runtime.log import Log
from daemons.runtime.sockets import accept
from daemons.tpmfront.framing import CommandStream
from daemons.tpmfront.link import VtpmLink
from protocol.errors import WireError
from protocol.tpm12 import ReturnCode, error_response
from protocol.tpmif.page import capacity_bytes
from protocol.tpmif.unix import peer_credentials
from protocol.tpmif.unix.waiting import QuickWait

MAX_CLIENTS: Final = 900
MAX_CLIENTS_PER_UID: Final = 256
"""Below MAX_CLIENTS, so that one user cannot take every place."""
RECEIVE_BYTES: Final = 4096
STALLED_READER_S: Final = 60.0
"""A client that takes none of a response for so long is disconnected."""
_DONTWAIT: Final = socket.MSG_DONTWAIT


class Clients:
    """All clients of one guest, at however many sockets.

    Args:
        link: to the vTPM.
        log: for refusals and disconnects.
    """

    def __init__(self, link: VtpmLink, log: Log) -> None:
        self._link = link
        self._log = log
        self._by_uid: Counter[int] = Counter()
        self._count = 0
        self._commands = 0
        # Of all clients; spinning would keep the others waiting, so only a single one may.
        self._waits: set[QuickWait] = set()
        self.on_change: Callable[[], None] = lambda: None
        """Called when `count` changes."""

    @property
    def count(self) -> int:
        """Connected clients."""
        return self._count

    @property
    def commands(self) -> int:
        """Commands answered so far."""
        return self._commands

    async def serve(self, listener: SocketType, locality: int) -> None:
        """Accept clients of one socket until cancelled; their commands have this locality."""
        async with trio.open_nursery() as nursery:
            while True:
                connection = await accept(listener, self._log)
                nursery.start_soon(self._serve_one, connection, locality)

    async def _serve_one(self, connection: SocketType, locality: int) -> None:
        peer = peer_credentials(connection)
        if self._count >= MAX_CLIENTS or self._by_uid[peer.uid] >= MAX_CLIENTS_PER_UID:
            self._log.warning("too many clients", uid=peer.uid, clients=self._count)
            connection.close()
            return
        # trio's wrapper makes a scheduler round of every call; the raw socket does not.
        raw = socket.socket(fileno=connection.detach())
        wait = QuickWait(raw, spin=False)
        self._count += 1
        self._by_uid[peer.uid] += 1
        self._waits.add(wait)
        self._choose_spinner()
        self.on_change()
        try:
            await self._converse(raw, wait, locality)
        except WireError as error:
            self._log.warning("client disconnected", pid=peer.pid, uid=peer.uid, reason=error)
        except (OSError, trio.TooSlowError) as error:
            self._log.debug("client lost", pid=peer.pid, reason=error)
        finally:
            raw.close()
            self._waits.discard(wait)
            self._choose_spinner()
            self._count -= 1
            self._by_uid[peer.uid] -= 1
            if not self._by_uid[peer.uid]:
                del self._by_uid[peer.uid]
            self.on_change()

    def _choose_spinner(self) -> None:
        alone = len(self._waits) == 1
        for wait in self._waits:
            wait.spin = alone

    async def _converse(self, raw: socket.socket, wait: QuickWait, locality: int) -> None:
        """Answer commands until the client goes.

        Raises:
            WireError: a length that cannot be true; the client was told.
            OSError: the client is gone.
        """
        stream = CommandStream(capacity_bytes(0))
        raw.setblocking(False)
        while True:
            try:
                command = stream.next_command()
            except WireError:
                _tell(raw, error_response(ReturnCode.BAD_PARAM_SIZE))
                raise
            if command is None:
                data = await _receive(raw, wait)
                if not data:
                    return
                stream.feed(data)
                continue
            response = await self._link.transact(command, locality)
            self._commands += 1
            await _send(raw, response)


async def _receive(raw: socket.socket, wait: QuickWait) -> bytes:
    """Return what is there, waiting for the first byte; b"" at the end of the stream."""
    while True:
        await wait.wait_readable()
        try:
            return raw.recv(RECEIVE_BYTES, _DONTWAIT)
        except BlockingIOError:
            continue


async def _send(raw: socket.socket, data: bytes) -> None:
    """Send all of a response.

    Raises:
        trio.TooSlowError: the client does not read.
    """
    while data:
        try:
            data = data[raw.send(data, _DONTWAIT) :]
        except BlockingIOError:
            with trio.fail_after(STALLED_READER_S):
                await trio.lowlevel.wait_writable(raw)


def _tell(raw: socket.socket, data: bytes) -> None:
    """Send a last word if the client has room for it."""
    try:
        raw.send(data, _DONTWAIT)
    except OSError:
        return
