# SPDX-License-Identifier: Apache-2.0
"""Serving whoever connects to a raw stream socket, Unix or TCP, and what a control client passes.

Each client has one task, and at most one command at the vTPM; the link takes turns in the order in
which commands came, so a client that sends ten thousand commands at once is served one, then the
others. A client that does not read its responses keeps only its own task waiting; nothing more is
read from it meanwhile. Nothing is held for a client that sent half a command but that half.

What asks a vTPM for more than TPM commands (`protocol.vtpm.control`) is only the control channel's
to send: a client that begins a command so is answered as a TPM does that does not know its tag.

TCP clients cannot be told from each other, and one that has vanished looks like one that waits. So
when their places are full, the connection that has been idle for longest gives way to a new one, or
if none is idle one that takes none of its response: whoever connects for each command, as tcsd
does, is served whatever others leave open.

Clients do not notice that this process is replaced by another (`handover`): a stop finishes the
commands that are under way and leaves the connections open.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Final

import trio
from trio.socket import SocketType

from daemons.runtime.log import Log
from daemons.runtime.sockets import accept
from daemons.runtime.tracing import ClientIdentity
from daemons.tpmfront.framing import CommandStream
from daemons.tpmfront.handover import Handover, Kept, Role, Slot, end
from daemons.tpmfront.link import Submission, VtpmLink
from daemons.tpmfront.peers import Peer, Places, TcpPeer, peer_of, prepare
from protocol.errors import WireError
from protocol.tpm12 import ReturnCode, error_response
from protocol.tpmif.page import capacity_bytes
from protocol.tpmif.unix import PeerCredentials
from protocol.tpmif.unix.waiting import QuickWait
from protocol.vtpm.control import REQUEST_PREFIX

RECEIVE_BYTES: Final = 4096
STALLED_READER_S: Final = 60.0
"""A client that takes none of a response for so long is disconnected."""
STOP_GRACE_S: Final = 5.0
"""How long a stop waits for the response to a command; who has none by then is disconnected."""
_DONTWAIT: Final = socket.MSG_DONTWAIT
_NO_SUCH_TAG: Final = error_response(ReturnCode.BADTAG)


class Client:
    """One connection.

    Attributes:
        raw: to the client.
        locality: of its commands from now on.
        slot: what the next process will know of it; None: it ends with this one.
        command: what is being answered; None: nothing.
        identity: for those who watch; None: it is not served yet.
    """

    __slots__ = (
        "command",
        "identity",
        "idle_since",
        "is_dismissed",
        "is_for_one_command",
        "is_idle",
        "is_stalled",
        "is_submitted",
        "locality",
        "raw",
        "scope",
        "slot",
        "stream",
        "wait",
    )

    def __init__(
        self, raw: socket.socket, locality: int, slot: Slot | None, data: bytes = b""
    ) -> None:
        self.raw = raw
        self.locality = locality
        self.identity: ClientIdentity | None = None
        self.slot = slot
        self.stream = CommandStream(capacity_bytes(0))
        self.stream.feed(data)
        self.wait = QuickWait(raw, spin=False)
        # Waits for more from the client.
        self.is_idle = True
        # Since which of all the times that a client began to wait.
        self.idle_since = 0
        # It ends with the first response.
        self.is_for_one_command = False
        self.command: bytes | None = None
        # As others see it: it has a response and does not take it.
        self.is_stalled = False
        # The vTPM may have it: a stop waits for the answer. Set by the link.
        self.is_submitted = False
        # Shielded, so that a stop tears no command apart; ended by `Clients.stop`.
        self.scope = trio.CancelScope(shield=True)
        # The next process is not to go on with it.
        self.is_dismissed = False

    def dismiss(self) -> None:
        """End the connection, whatever is under way."""
        self.is_dismissed = True
        self.scope.cancel()

    def set_locality(self, locality: int) -> None:
        """Have every later command come from this locality."""
        self.locality = locality
        if self.slot is not None:
            self.slot.set_locality(locality)


class Clients:
    """All clients of one guest, at however many sockets.

    Args:
        link: to the vTPM.
        handover: to the next process.
        log: for refusals and disconnects.
    """

    def __init__(self, link: VtpmLink, handover: Handover, log: Log) -> None:
        self._link = link
        self._handover = handover
        self._log = log
        self._places = Places()
        # How often a client began to wait.
        self._waits = 0
        self._commands = 0
        self._connections = 0
        self._clients: dict[Client, Peer] = {}
        self._is_stopping = False
        # Of all clients, whatever their socket's is; None: there is none.
        self._common_locality: int | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called when `count` changes."""
        self.answer_here: Callable[[bytes], bytes | None] | None = None
        """Gives the response to a command that is not for the vTPM, None for any other."""

    @property
    def count(self) -> int:
        """Connected clients."""
        return len(self._clients)

    @property
    def commands(self) -> int:
        """Commands answered so far."""
        return self._commands

    def identity_of(self, submission: Submission) -> ClientIdentity | None:
        """Return whose command it is; None: of no client."""
        return submission.identity if isinstance(submission, Client) else None

    def set_common_locality(self, locality: int) -> None:
        """Have every later command of any client come from this locality."""
        self._common_locality = locality
        for client in self._clients:
            client.set_locality(locality)

    async def serve(
        self, listener: SocketType, locality: int, *, one_command: bool = False
    ) -> None:
        """Accept clients of one socket until cancelled; their commands have this locality.

        Then it goes on until `stop` has ended those that there are.

        Args:
            listener: the socket.
            locality: of commands.
            one_command: whether a connection ends after one response.
        """
        async with trio.open_nursery() as nursery:
            while True:
                connection = await accept(listener, self._log)
                # trio's wrapper makes a scheduler round of every call; the raw socket does not.
                raw = socket.socket(fileno=connection.detach())
                nursery.start_soon(self.serve_connection, raw, locality, one_command)

    async def serve_connection(
        self, raw: socket.socket, locality: int, one_command: bool = False
    ) -> None:
        """Serve a client that is connected, until it goes or `stop` ends it; the socket is closed
        then."""
        peer = peer_of(raw)
        if self._is_full(peer):
            raw.close()
            return
        prepare(raw)
        if self._common_locality is not None:
            locality = self._common_locality
        client = Client(raw, locality, self._handover.take(raw, locality))
        client.is_for_one_command = one_command
        await self.serve_client(client, peer)

    def _is_full(self, peer: Peer) -> bool:
        """Whether there is no place for one more of a peer, nor can be made."""
        if not self._places.is_full(peer) or self._make_place(peer):
            return False
        if isinstance(peer, TcpPeer):
            self._log.warning("too many clients", address=peer.place, clients=self.count)
        else:
            self._log.warning("too many clients", uid=peer.uid, clients=self.count)
        return True

    def _make_place(self, peer: Peer) -> bool:
        """Whether a TCP client that is idle or does not read could give its place to a new one."""
        if not isinstance(peer, TcpPeer):
            return False
        origin = peer.origin if self._places.is_origin_full(peer) else None
        some = [
            (client, other)
            for client, other in self._clients.items()
            if isinstance(other, TcpPeer)
            and origin in (None, other.origin)
            and (client.is_stalled or _is_idle(client))
        ]
        if not some:
            return False
        client, other = min(some, key=lambda one: (one[0].is_stalled, one[0].idle_since))
        client.dismiss()
        self._forget(client)
        if client.is_stalled:
            self._log.info(
                "client that does not read gives way", address=other.place, to=peer.place
            )
        else:
            self._log.info("idle client gives way", address=other.place, to=peer.place)
        return True

    def _forget(self, client: Client) -> None:
        """Count a client no more."""
        peer = self._clients.pop(client, None)
        if peer is not None:
            self._places.give_back(peer)

    async def resume(self, kept: Kept) -> None:
        """Serve a client of the last process."""
        await self.serve_client(client_of(kept), peer_of(kept.connection))

    def admit_passed(
        self, raw: socket.socket, locality: int, peer: PeerCredentials
    ) -> Client | None:
        """Return the client at the other end of a connection that a peer passed to us.

        `serve_client` is to be called with it.

        Args:
            raw: any connected stream socket; the client's if there is one.
            locality: of its commands.
            peer: who passed it, and is held to the limits.
        Returns: None if there are too many.
        """
        if self._is_full(peer):
            return None
        return Client(raw, locality, self._handover.take(raw, locality, Role.DATA))

    def stop(self) -> None:
        """Have every client left alone as soon as no command of it is under way."""
        self._is_stopping = True
        for client in self._clients:
            if client.is_idle or not client.is_submitted:
                client.scope.cancel()
            else:
                client.scope.deadline = trio.current_time() + STOP_GRACE_S

    async def serve_client(self, client: Client, peer: Peer) -> None:
        """Answer a client until it goes, or `stop` has it left alone."""
        self._places.take(peer)
        self._connections += 1
        client.identity = identity_of(peer, self._connections)
        self._clients[client] = peer
        self._choose_spinner()
        self.on_change()
        is_left_alone = False
        try:
            with client.scope:
                is_left_alone = await self._converse(client)
            if client.scope.cancelled_caught and not client.is_dismissed:
                is_left_alone = _put_back(client)
        except WireError as error:
            self._tell_disconnected(peer, error)
        except (OSError, trio.TooSlowError) as error:
            self._tell_lost(peer, error)
        finally:
            self._forget(client)
            self._choose_spinner()
            self._part(client, is_left_alone=is_left_alone)
            self.on_change()

    def _tell_disconnected(self, peer: Peer, reason: WireError) -> None:
        if isinstance(peer, TcpPeer):
            self._log.warning("client disconnected", address=peer.place, reason=reason)
        else:
            self._log.warning("client disconnected", pid=peer.pid, uid=peer.uid, reason=reason)

    def _tell_lost(self, peer: Peer, reason: Exception) -> None:
        if isinstance(peer, TcpPeer):
            self._log.debug("client lost", address=peer.place, reason=reason)
        else:
            self._log.debug("client lost", pid=peer.pid, reason=reason)

    def _part(self, client: Client, *, is_left_alone: bool) -> None:
        """Close our side of a connection; the client's as well, unless the next process goes on."""
        if client.slot is not None and is_left_alone:
            self._handover.leave(client.slot)
            client.raw.close()
            return
        if client.slot is not None:
            self._handover.release(client.slot)
        end(client.raw)

    def _choose_spinner(self) -> None:
        # Of all clients; spinning would keep the others waiting, so only a single one may.
        alone = len(self._clients) == 1
        for client in self._clients:
            client.wait.spin = alone

    async def _converse(self, client: Client) -> bool:
        """Answer commands until the client goes (False) or is to be left alone (True).

        Raises:
            WireError: a length that cannot be true; the client was told.
            OSError: the client is gone.
        """
        raw, slot, stream = client.raw, client.slot, client.stream
        raw.setblocking(False)
        while True:
            if self._is_stopping:
                if slot is not None:
                    slot.rest(stream.rest)
                return True
            try:
                command = stream.next_command()
            except WireError:
                _tell(raw, error_response(ReturnCode.BAD_PARAM_SIZE))
                raise
            if command is None:
                data = await self._receive(client)
                if data == b"":
                    return False
                stream.feed(data or b"")
                continue
            if slot is not None:
                slot.busy()
            client.command = command
            if command.startswith(REQUEST_PREFIX):
                response = _NO_SUCH_TAG
            elif self.answer_here is not None and (answer := self.answer_here(command)):
                response = answer
            else:
                response = await self._link.transact(command, client.locality, client)
            client.is_submitted = True  # answered, which is as good
            self._commands += 1
            client.is_stalled = True
            await send_all(raw, response)
            client.is_stalled = False
            client.command = None
            client.is_submitted = False
            if client.is_for_one_command:
                return False

    async def _receive(self, client: Client) -> bytes | None:
        """Return what is there, waiting for the first byte; b"" at the end of the stream, None if
        there is to be no more."""
        slot = client.slot
        while True:
            if slot is not None:
                slot.rest(client.stream.rest)
            client.is_idle = True
            self._waits += 1
            client.idle_since = self._waits
            await client.wait.wait_readable()
            if self._is_stopping:
                return None
            client.is_idle = False
            if slot is not None:
                slot.busy()
            try:
                return client.raw.recv(RECEIVE_BYTES, _DONTWAIT)
            except BlockingIOError:
                continue


def identity_of(peer: Peer, connection: int) -> ClientIdentity:
    """Return who a client is, for those who watch."""
    if isinstance(peer, TcpPeer):
        return ClientIdentity(connection, None, None, peer.place)
    return ClientIdentity(connection, peer.pid, peer.uid, None)


def client_of(kept: Kept) -> Client:
    """Return a client of the last process."""
    return Client(kept.connection, kept.locality, kept.slot, kept.data)


def _is_idle(client: Client) -> bool:
    """Whether nothing is lost with a client's connection but the connection."""
    if not client.is_idle:
        return False
    poll = select.poll()
    poll.register(client.raw, select.POLLIN)
    return not poll.poll(0)  # else it has sent a command, or ends by itself


def _put_back(client: Client) -> bool:
    """Leave to the next process what surely nobody has executed; whether that is all of it."""
    if client.is_submitted:
        return False
    if client.slot is not None:
        client.slot.rest((client.command or b"") + client.stream.rest)
    return True


async def send_all(raw: socket.socket, data: bytes) -> None:
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
