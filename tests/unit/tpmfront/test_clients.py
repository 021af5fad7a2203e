# SPDX-License-Identifier: Apache-2.0
"""Who gets a place among the clients, and whose it was."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import cast

import pytest
import trio
import trio.testing

from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier
from daemons.tpmfront.clients import Clients
from daemons.tpmfront.handover import Handover
from daemons.tpmfront.link import Submission, VtpmLink
from daemons.tpmfront.peers import (
    MAX_CLIENTS,
    MAX_CLIENTS_PER_UID,
    MAX_TCP_CLIENTS,
    MAX_TCP_CLIENTS_PER_ADDRESS,
    Places,
    TcpPeer,
    peer_of,
    prepare,
)
from protocol.tpm12.framing import build_message
from protocol.tpmif.unix import PeerCredentials

COMMAND = build_message(0x00C1, 0x46, (4).to_bytes(4, "big"))
RESPONSE = build_message(0x00C4, 0, bytes(8))


def tcp(address: str) -> TcpPeer:
    return TcpPeer(ip_address(address), 40000)


def fill(places: Places, peer: TcpPeer | PeerCredentials) -> int:
    """Take places of a peer until there is none; how many there were."""
    taken = 0
    while not places.is_full(peer):
        places.take(peer)
        taken += 1
    return taken


def test_all_tcp_clients_together_and_those_of_one_address_have_so_many_places() -> None:
    places = Places()
    assert fill(places, tcp("192.0.2.1")) == MAX_TCP_CLIENTS_PER_ADDRESS
    assert fill(places, tcp("127.0.0.1")) == MAX_TCP_CLIENTS - MAX_TCP_CLIENTS_PER_ADDRESS
    assert fill(places, tcp("192.0.2.2")) == 0
    places.give_back(tcp("192.0.2.1"))
    assert fill(places, tcp("192.0.2.2")) == 1
    # Users have theirs as before.
    assert fill(places, PeerCredentials(1, 1000, 100, None)) == MAX_CLIENTS_PER_UID


def test_addresses_of_the_loopback_network_are_one() -> None:
    places = Places()
    for number in range(MAX_TCP_CLIENTS_PER_ADDRESS):
        places.take(tcp(f"127.0.{number}.1"))
    assert places.is_full(tcp("127.9.9.9"))
    assert places.is_full(tcp("::1"))
    assert not places.is_full(tcp("192.0.2.1"))


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "::ffff:127.8.8.8"])
def test_a_socket_of_both_kinds_of_addresses_knows_the_loopback_network(address: str) -> None:
    assert tcp(address).origin == tcp("127.0.0.1").origin


def test_an_ipv4_client_is_the_same_at_a_socket_of_both_kinds_of_addresses() -> None:
    assert tcp("::ffff:192.0.2.1").origin == tcp("192.0.2.1").origin
    assert tcp("::ffff:192.0.2.1").place == tcp("192.0.2.1").place


def test_all_addresses_of_an_ipv6_network_are_one() -> None:
    # Whoever has one of them has all.
    places = Places()
    for number in range(MAX_TCP_CLIENTS_PER_ADDRESS):
        places.take(tcp(f"2001:db8:0:1::{number:x}"))
    assert places.is_full(tcp("2001:db8:0:1:ffff::1"))
    assert not places.is_full(tcp("2001:db8:0:2::1"))


def test_nobody_has_more_than_all_places() -> None:
    places = Places()
    taken = sum(fill(places, PeerCredentials(1, uid, 100, None)) for uid in range(10))
    assert taken == MAX_CLIENTS


def test_the_address_of_an_ipv4_client_at_a_socket_of_both_kinds_is_an_ipv4_address() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        client = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
        connection, _ = listener.accept()
        with client, connection:
            peer = peer_of(connection)
            assert isinstance(peer, TcpPeer)
            assert peer.place == f"127.0.0.1:{client.getsockname()[1]}"
            assert peer.origin == "loopback"


def test_peers_are_told_by_user_or_by_address() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert isinstance(peer_of(ours), PeerCredentials)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, address = listener.accept()
        with client, connection:
            peer = peer_of(connection)
            assert isinstance(peer, TcpPeer)
            assert peer.place == "{}:{}".format(*address)
            prepare(connection)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


class SlowLink:
    """A vTPM that answers when it is told to."""

    def __init__(self) -> None:
        self.may_answer = trio.Event()
        self.executing = 0

    async def transact(self, command: bytes, locality: int, submission: Submission) -> bytes:
        submission.is_submitted = True
        self.executing += 1
        await self.may_answer.wait()
        return RESPONSE


class Front:
    """Clients of a TCP socket."""

    def __init__(self, address: tuple[str, int], clients: Clients, link: SlowLink) -> None:
        self._address = address
        self.clients = clients
        self.link = link
        self.lines: list[str] = []
        self.streams: list[trio.SocketStream] = []

    async def connect(self) -> trio.SocketStream:
        """Return a connection that the front has."""
        stream = await trio.open_tcp_stream(*self._address)
        self.streams.append(stream)
        await trio.testing.wait_all_tasks_blocked(0.01)
        return stream


@asynccontextmanager
async def serving() -> AsyncIterator[Front]:
    link = SlowLink()
    lines: list[str] = []
    log = Log("test", sink=lines.append)
    handover, _ = Handover.open({}, Notifier(None), log)
    clients = Clients(cast("VtpmLink", link), handover, log)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Of each connection: little is on its way to a client that does not read.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        front = Front(listener.getsockname(), clients, link)
        front.lines = lines
        async with trio.open_nursery() as nursery:
            trio_listener = trio.socket.from_stdlib_socket(listener)
            nursery.start_soon(clients.serve, trio_listener, 0)
            try:
                yield front
            finally:
                nursery.cancel_scope.cancel()
                for stream in front.streams:
                    stream.socket.close()
                link.may_answer.set()
                clients.stop()


async def test_a_connection_with_a_command_does_not_give_way_and_the_new_one_is_refused() -> None:
    async with serving() as front:
        busy = [await front.connect() for _ in range(MAX_TCP_CLIENTS_PER_ADDRESS)]
        for stream in busy:
            await stream.send_all(COMMAND)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert front.link.executing == len(busy)
        refused = await front.connect()
        assert await refused.receive_some() == b""
        assert "too many clients" in front.lines[-1]
        front.link.may_answer.set()
        for stream in busy:
            assert await stream.receive_some() == RESPONSE


async def test_the_one_that_has_waited_longest_gives_way() -> None:
    async with serving() as front:
        front.link.may_answer.set()
        idle = [await front.connect() for _ in range(MAX_TCP_CLIENTS_PER_ADDRESS)]
        await idle[0].send_all(COMMAND)
        assert await idle[0].receive_some() == RESPONSE
        new = await front.connect()
        await new.send_all(COMMAND)
        assert await new.receive_some() == RESPONSE
        assert await idle[1].receive_some() == b""
        assert front.clients.count == MAX_TCP_CLIENTS_PER_ADDRESS
        assert "idle client gives way" in front.lines[-1]
        for stream in (idle[0], idle[2], idle[-1]):
            await stream.send_all(COMMAND)
            assert await stream.receive_some() == RESPONSE


@pytest.mark.parametrize("size", [1, len(COMMAND) - 1])
async def test_half_a_command_is_no_reason_to_keep_a_place(size: int) -> None:
    async with serving() as front:
        idle = [await front.connect() for _ in range(MAX_TCP_CLIENTS_PER_ADDRESS)]
        for stream in idle:
            await stream.send_all(COMMAND[:size])
        await trio.testing.wait_all_tasks_blocked(0.01)
        front.link.may_answer.set()
        new = await front.connect()
        await new.send_all(COMMAND)
        assert await new.receive_some() == RESPONSE


async def test_who_takes_no_responses_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemons.tpmfront.peers.MAX_TCP_CLIENTS_PER_ADDRESS", 1)
    async with serving() as front:
        front.link.may_answer.set()
        stalled = await front.connect()
        with trio.move_on_after(60) as limit:
            while not limit.cancelled_caught:
                # Longer than a busy machine stands still: nothing is taken any more.
                with trio.move_on_after(2) as sending:
                    await stalled.send_all(COMMAND * 500)
                if sending.cancelled_caught:
                    break
        new = await front.connect()
        await new.send_all(COMMAND)
        assert await new.receive_some() == RESPONSE
        assert "client that does not read gives way" in front.lines[-1]
