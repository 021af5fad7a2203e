# SPDX-License-Identifier: Apache-2.0
"""Who clients are, and how many connections each of them may have.

Of a Unix socket's client the kernel tells the user. Of a TCP client there is an address, which says
of this machine's programs nothing and of another machine's only which one it claims to be. So all
TCP clients together have no more places than one user, and those of one address only a part of
them; a network of which whoever has one address may take any other is one address: the loopback
network, and 64 bits of IPv6.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

from daemons.runtime.config.endpoints import IpAddress, place_of
from protocol.tpmif.unix import PeerCredentials, peer_credentials

MAX_CLIENTS: Final = 900
MAX_CLIENTS_PER_UID: Final = 256
"""Below MAX_CLIENTS, so that one user cannot take every place."""
MAX_TCP_CLIENTS: Final = 128
"""Below `handover.SLOTS`: they cannot take all places of connections that outlive a restart."""
MAX_TCP_CLIENTS_PER_ADDRESS: Final = 64

KEEPALIVE_IDLE_S: Final = 60
KEEPALIVE_INTERVAL_S: Final = 10
KEEPALIVE_PROBES: Final = 6
"""A machine that vanished without a word has lost its connections after two minutes."""

_NETWORK_BITS: Final = 64
"""Of an IPv6 address: the rest of it each machine chooses itself (RFC 4291, 2.5.4)."""


@dataclass(frozen=True, slots=True)
class TcpPeer:
    """A client of a TCP socket.

    Attributes:
        address: its own; None if it had gone before it could be asked.
        port: its own.
    """

    address: IpAddress | None
    port: int

    @property
    def _plain_address(self) -> IpAddress | None:
        """The address, IPv4 also where an IPv6 socket took the connection (RFC 4291, 2.5.5.2)."""
        address = self.address
        return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address

    @property
    def place(self) -> str:
        """Address and port, for the log."""
        address = self._plain_address
        return "gone" if address is None else place_of(address, self.port)

    @property
    def origin(self) -> str:
        """What its places are counted by."""
        address = self._plain_address
        if address is None or address.is_loopback:
            return "loopback"
        if isinstance(address, IPv6Address):
            return str(IPv6Network((int(address), _NETWORK_BITS), strict=False))
        return str(address)


Peer = PeerCredentials | TcpPeer
"""Of a Unix socket, as of its connect(2), or over TCP."""


def peer_of(connection: socket.socket) -> Peer:
    """Return who is at the other end of a connection."""
    if connection.family == socket.AF_UNIX:
        return peer_credentials(connection)
    try:
        address, port = connection.getpeername()[:2]
    except OSError:  # it has reset the connection
        return TcpPeer(None, 0)
    # An IPv6 address of a link has the link's name behind it.
    return TcpPeer(ip_address(address.partition("%")[0]), port)


def prepare(connection: socket.socket) -> None:
    """Set what a TCP connection needs: responses leave at once, and a dead peer is noticed."""
    if connection.family == socket.AF_UNIX:
        return
    # One that was reset meanwhile takes no options; reading will tell.
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def _origin(peer: Peer) -> str:
    """Return what the places of a peer are counted by."""
    return peer.origin if isinstance(peer, TcpPeer) else f"uid {peer.uid}"


class Places:
    """How many connections each has."""

    def __init__(self) -> None:
        self._by_origin: Counter[str] = Counter()
        self._taken = 0
        self._taken_by_tcp = 0

    def is_full(self, peer: Peer) -> bool:
        """Whether there is no place for one more of this peer."""
        if self._taken >= MAX_CLIENTS or self.is_origin_full(peer):
            return True
        return isinstance(peer, TcpPeer) and self._taken_by_tcp >= MAX_TCP_CLIENTS

    def is_origin_full(self, peer: Peer) -> bool:
        """Whether it has all places itself that one may have, whoever has others."""
        is_tcp = isinstance(peer, TcpPeer)
        limit = MAX_TCP_CLIENTS_PER_ADDRESS if is_tcp else MAX_CLIENTS_PER_UID
        return self._by_origin[_origin(peer)] >= limit

    def take(self, peer: Peer) -> None:
        """Count one more."""
        self._by_origin[_origin(peer)] += 1
        self._taken += 1
        self._taken_by_tcp += isinstance(peer, TcpPeer)

    def give_back(self, peer: Peer) -> None:
        """Count one less."""
        self._by_origin[_origin(peer)] -= 1
        if not self._by_origin[_origin(peer)]:
            del self._by_origin[_origin(peer)]
        self._taken -= 1
        self._taken_by_tcp -= isinstance(peer, TcpPeer)
