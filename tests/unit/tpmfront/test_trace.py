# SPDX-License-Identifier: Apache-2.0
"""What a front tells those who watch: whose each command was, and nothing of what is in it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from uuid import UUID

import pytest
import trio

from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier
from daemons.runtime.sockets import listen_unix
from daemons.runtime.tracing import ClientIdentity, ClientSpan
from daemons.tpmfront.clients import Clients, identity_of
from daemons.tpmfront.handover import Handover
from daemons.tpmfront.link import VtpmLink
from daemons.tpmfront.peers import TcpPeer
from daemons.tpmfront.trace import FrontTrace
from protocol.tpmif.unix import BackendDevice, PeerCredentials, serve_backend

QUIET = Log("test", sink=lambda _line: None)
UUID_OF_GUEST = UUID(int=7)
COMMAND = bytes.fromhex("00c1 0000000e 00000015 00000001")
SECRET_COMMAND = bytes.fromhex("00c1 00000014 000000ff") + b"secretsecr"


class Backend:
    """A vTPM that answers everything with a success."""

    async def opened(self, device: BackendDevice) -> None:
        pass

    async def request(self, device: BackendDevice, request: bytes, locality: int) -> bytes:
        return bytes.fromhex("00c4 0000000a 00000000")

    async def closed(self, device: BackendDevice) -> None:
        pass

    def cancel(self, device: BackendDevice) -> None:
        pass


@asynccontextmanager
async def front(run_dir: Path) -> AsyncIterator[tuple[FrontTrace, VtpmLink, Path]]:
    """Run a link and a stream socket in front of a backend."""
    back, path = run_dir / "back.sock", run_dir / "tpm.sock"
    inherited: Mapping[str, list[int]] = {}
    handover, _ = Handover.open(inherited, Notifier(None), QUIET)

    def admit(_peer: PeerCredentials, _uuid: UUID) -> None:
        pass

    with (
        listen_unix(back, kind=socket.SOCK_SEQPACKET) as backend,
        listen_unix(path) as listener,
    ):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_backend, backend, admit=admit, handler=Backend()))
            link = VtpmLink(back, UUID_OF_GUEST, QUIET)
            clients = Clients(link, handover, QUIET)
            nursery.start_soon(link.run)
            nursery.start_soon(clients.serve, listener, 0)
            yield FrontTrace(link, clients), link, path
            clients.stop()
            nursery.cancel_scope.cancel()


async def _ask(stream: trio.SocketStream, command: bytes = COMMAND) -> None:
    await stream.send_all(command)
    assert await stream.receive_some(100) == bytes.fromhex("00c4 0000000a 00000000")


async def test_each_command_is_told_with_its_client_and_its_moments(run_dir: Path) -> None:
    async with front(run_dir) as (trace, _, path):
        stream = trace.open({})
        assert stream.result == {"pid": os.getpid()}
        began_ns = time.monotonic_ns()
        async with await trio.open_unix_socket(path) as one:
            await _ask(one)
            async with await trio.open_unix_socket(path) as other:
                await _ask(other, SECRET_COMMAND)
            await _ask(one)
        lines = list(await stream.next())
        while len(lines) < 3:
            lines += await stream.next()
        assert "secret" not in repr(lines)
        assert b"secret".hex() not in repr(lines)
        spans = [ClientSpan.parse(line) for line in lines]
        me = (os.getpid(), os.getuid())
        assert [span.client for span in spans] == [
            ClientIdentity(1, *me, None),
            ClientIdentity(2, *me, None),
            ClientIdentity(1, *me, None),
        ]
        # Without a hole between them: a moment is in one span only.
        assert [span.after_ns for span in spans[1:]] == [span.until_ns for span in spans[:-1]]
        assert spans[0].after_ns <= began_ns < spans[0].until_ns < time.monotonic_ns()


async def test_while_nobody_watches_the_link_tells_nobody(run_dir: Path) -> None:
    async with front(run_dir) as (trace, link, path):
        told = [link.observer]
        stream = trace.open({})
        told.append(link.observer)
        stream.close()
        told.append(link.observer)
        assert [one is None for one in told] == [True, False, True]
        async with await trio.open_unix_socket(path) as one:
            await _ask(one)


async def test_arguments_are_refused(run_dir: Path) -> None:
    async with front(run_dir) as (trace, _, _path):
        with pytest.raises(DaemonError, match="unknown arguments: fast"):
            trace.open({"fast": True})


def test_of_a_client_over_tcp_only_the_address_is_known() -> None:
    peer = TcpPeer(ip_address("127.0.0.1"), 5000)
    assert identity_of(peer, 3) == ClientIdentity(3, None, None, "127.0.0.1:5000")
