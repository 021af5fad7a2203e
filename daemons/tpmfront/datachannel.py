# SPDX-License-Identifier: Apache-2.0
"""The data channel: the connection that a control client passed for its TPM commands.

There is at most one, and it outlives its control client: swtpm keeps both apart, and a client that
wants another closes it first. The locality is set from outside, since there is none in a raw TPM
stream; it holds for every later command, also of the next connection.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Final

import trio

from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.tpmfront.clients import Client, Clients, client_of
from daemons.tpmfront.descriptors import adopt_stream
from daemons.tpmfront.handover import Kept
from daemons.tpmfront.link import VtpmLink
from protocol.tpm12 import ReturnCode
from protocol.tpmif.unix import PeerCredentials, peer_credentials

_HUNG_UP: Final = select.POLLHUP | select.POLLERR


class DataChannel:
    """The data channel of one guest.

    Args:
        clients: serve it as one of theirs.
        link: has its commands.
        log: for refusals.
    """

    def __init__(self, clients: Clients, link: VtpmLink, log: Log) -> None:
        self._clients = clients
        self._link = link
        self._log = log
        # None: there is no connection.
        self._client: Client | None = None
        self._locality = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called when `is_open` changes."""
        self.on_locality: Callable[[int], None] = lambda _locality: None
        """Called with a locality that was set."""

    @property
    def is_open(self) -> bool:
        """True if there is a connection."""
        return self._client is not None

    @property
    def locality(self) -> int:
        """Of the commands that come."""
        return self._locality

    def set_locality(self, locality: int) -> None:
        """Have every later command come from this locality."""
        self._locality = locality
        if self._client is not None:
            self._client.set_locality(locality)
        self.on_locality(locality)

    def open(self, fd: int, peer: PeerCredentials, nursery: trio.Nursery) -> ReturnCode:
        """Serve a connection that a peer passed.

        Args:
            fd: ours from now on; closed if it is refused.
            peer: who passed it.
            nursery: to serve it in.
        Returns: SUCCESS; IOERROR if there is a connection already or there are too many clients;
            BAD_PARAMETER if it is no connected stream socket.
        """
        try:
            raw = adopt_stream(fd)
        except DaemonError as error:
            self._log.warning("data connection refused", uid=peer.uid, reason=error)
            return ReturnCode.BAD_PARAMETER
        # A client that was killed is gone before its task has noticed, and its successor is here.
        if self._client is not None and not _is_gone(self._client):
            self._log.warning("data connection refused", uid=peer.uid, reason="there is one")
            raw.close()
            return ReturnCode.IOERROR
        client = self._clients.admit_passed(raw, self._locality, peer)
        if client is None:
            raw.close()
            return ReturnCode.IOERROR
        self._begin(client, peer, nursery)
        return ReturnCode.SUCCESS

    def resume(self, kept: Kept, peer: PeerCredentials | None, nursery: trio.Nursery) -> None:
        """Go on with the connection of the last process.

        Args:
            kept: the connection; its locality is that of the channel.
            peer: who passed it, if that is known.
            nursery: to serve it in.
        """
        self._locality = kept.locality
        self._begin(client_of(kept), peer or peer_credentials(kept.connection), nursery)

    def _begin(self, client: Client, peer: PeerCredentials, nursery: trio.Nursery) -> None:
        self._client = client
        nursery.start_soon(self._serve, client, peer)
        self.on_change()

    async def _serve(self, client: Client, peer: PeerCredentials) -> None:
        try:
            await self._clients.serve_client(client, peer)
        finally:
            if self._client is client:
                self._client = None
                self.on_change()

    def cancel_command(self) -> None:
        """Have the vTPM give up the command that it has from here, if it still has one."""
        if self._client is not None:
            self._link.cancel(self._client)

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._client is not None:
            self._client.dismiss()


def _is_gone(client: Client) -> bool:
    """Whether the other end has closed its connection and waits for nothing."""
    poll = select.poll()
    poll.register(client.raw, 0)  # POLLHUP and POLLERR are always told
    if any(events & _HUNG_UP for _fd, events in poll.poll(0)):
        return True
    if not client.is_idle:
        return False
    try:  # TCP tells no more than that nothing will come
        return not client.raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
