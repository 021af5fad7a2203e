# SPDX-License-Identifier: Apache-2.0
"""The backend half of one device, without I/O.

Feed it what arrives (`receive`, `end`) and what became of its events (`admitted`, `refused`,
`mapped`, `unmappable`, `finish`); each call gives the events that the driver carries out in order.
`receive`, `mapped` and `finish` raise `WireError` when the frontend broke the protocol; the driver
then calls `end` and closes the connection. Whatever the frontend sends or writes into the page,
no other exception leaves this class: any other is a bug here.

At most one request is outstanding. Each has a ticket that is never used again, so that the
response to a request of an earlier connection, or to one that was given up, is recognised and
dropped (`finish` returns no events).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never
from uuid import UUID

from protocol.errors import WireError
from protocol.tpmif import exchange, xenbus
from protocol.tpmif.exchange import Look, Outstanding
from protocol.tpmif.messages import (
    NOTIFICATION,
    NOTIFY,
    Grant,
    Key,
    Message,
    Notify,
    Value,
    Write,
    decode,
    error_text,
)
from protocol.tpmif.page import PageState, SharedPage, capacity_bytes
from protocol.tpmif.xenbus import Action, Own, XenbusState

# TPM_TAG_RSP_COMMAND, 10 bytes, TPM_SIZE: what a packet that does not fit is answered with.
TPM_SIZE_RESPONSE: Final = bytes.fromhex("00c4 0000000a 00000017")


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the frontend."""

    message: Message


@dataclass(frozen=True, slots=True)
class Admit:
    """Decide about the uuid, then call `admitted` or `refused`."""

    uuid: UUID


@dataclass(frozen=True, slots=True)
class Map:
    """Map the granted descriptor, which must have `pages` pages; then `mapped` or `unmappable`."""

    pages: int


@dataclass(frozen=True, slots=True)
class Unmap:
    """Undo the mapping: the half has let go of the memory."""


@dataclass(frozen=True, slots=True)
class Execute:
    """Execute a request (0 to `capacity_bytes` bytes, at locality 0 to 255), then call `finish`."""

    ticket: int
    request: bytes
    locality: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """The frontend does not want the response any more. `finish` is still to be called."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Free:
    """The device is gone: close the connection."""

    reason: str


Event: TypeAlias = Send | Admit | Map | Unmap | Execute | Cancel | Free
Events: TypeAlias = tuple[Event, ...]

_NOTIFY_PEER: Final[Events] = (Send(NOTIFY),)
_CONNECTION_KEYS: Final = (Key.RING_REF, Key.EVENT_CHANNEL, Key.FEATURE_PROTOCOL_V2)
# A grant may be offered when nothing is mapped and the frontend was told to go on.
_MAY_GRANT: Final = (XenbusState.INIT_WAIT, XenbusState.CLOSED)


class Backend:
    """State of one device as the backend sees it.

    Args:
        max_extra_pages: 0 to 255; a frontend that grants more is refused. Bounds the memory that
            one device can make the backend map and copy.
    """

    __slots__ = (
        "_granted_pages",
        "_max_extra_pages",
        "_nodes",
        "_outstanding",
        "_page",
        "_peer",
        "_request_extra_pages",
        "_ticket",
        "_uuid",
        "state",
    )

    def __init__(self, *, max_extra_pages: int) -> None:
        # Own xenbus state; UNKNOWN once the device is gone, after which nothing is accepted.
        self.state = XenbusState.INITIALISING
        # The frontend's state node as last written; made with 1 Initialising.
        self._peer = XenbusState.INITIALISING
        self._uuid: UUID | None = None
        # The keys of the connection, forgotten when it is closed.
        self._nodes: dict[Key, Value] = {}
        # Pages of the descriptor last granted, None if none is waiting to be mapped.
        self._granted_pages: int | None = None
        # Mapped exactly in CONNECTED, and in CLOSING if it came from there.
        self._page: SharedPage | None = None
        self._outstanding = Outstanding.NONE
        # Number of the latest request; valid for `finish` only while one is outstanding.
        self._ticket = 0
        # nr_extra_pages of the outstanding request: says where its response goes.
        self._request_extra_pages = 0
        self._max_extra_pages = max_extra_pages

    @property
    def descriptors_expected(self) -> bool:
        """True if the next datagram may be a grant, so that descriptors must be received."""
        return self.state in _MAY_GRANT

    def receive(self, datagram: bytes, descriptors: int = 0) -> Events:
        """Take one datagram and the number of descriptors that came with it."""
        if datagram == NOTIFICATION and not descriptors:
            return self._look()
        self._check_alive()
        message = decode(datagram)
        wanted = 1 if isinstance(message, Grant) else 0
        if descriptors != wanted:
            raise WireError("descriptors", 0, f"{descriptors} received, {wanted} expected")
        match message:
            case Notify():  # pragma: no cover - taken above
                return self._look()
            case Grant(pages):
                if self.state not in _MAY_GRANT:
                    raise WireError("grant", 0, f"not expected in state {self.state.name}")
                self._granted_pages = pages
                return ()
            case Write(nodes):
                # The look is for a notification that was merged into a full queue behind this.
                return self._take_nodes(dict(nodes)) + self._look()
            case _:
                assert_never(message)

    def end(self, reason: str) -> Events:
        """The connection ended, or has to end for a breach. Nothing is accepted afterwards."""
        if self.state is XenbusState.UNKNOWN:
            return ()
        return self._advance(Own.END, reason)

    def admitted(self) -> Events:
        """The uuid may be served."""
        # A frontend that was quicker than the decision is looked at again.
        return self._advance(Own.ADMITTED) + self._advance(self._peer)

    def refused(self, reason: str) -> Events:
        """The uuid may not be served, for a reason that the frontend is told."""
        return self._advance(Own.REFUSED, reason)

    def mapped(self, memory: memoryview) -> Events:
        """The grant is mapped; looks at the page as if a notification had arrived."""
        page = SharedPage(memory)
        events = self._advance(Own.MAPPED)
        self._page = page
        self._granted_pages = None
        return events + self._look()

    def unmappable(self, reason: str) -> Events:
        """The grant could not be mapped; the frontend may offer another."""
        self._granted_pages = None
        return self._advance(Own.MAP_FAILED, reason)

    def finish(self, ticket: int, response: bytes | None) -> Events:
        """Give the response to a request, or None if it was cancelled.

        A response that does not fit becomes TPM_SIZE. Late ones are dropped.
        """
        page = self._page
        if page is None or ticket != self._ticket or self._outstanding is Outstanding.NONE:
            return ()
        # Cleared before the state is written: the frontend may submit again at once.
        self._outstanding = Outstanding.NONE
        if response is None:
            page.state = PageState.IDLE
            return _NOTIFY_PEER
        extra_pages = self._request_extra_pages
        now = page.extra_pages()
        if now != extra_pages:
            raise WireError("nr_extra_pages", 7, f"{now}, was {extra_pages} in the request")
        if len(response) > capacity_bytes(extra_pages):
            response = TPM_SIZE_RESPONSE
        page.put_response(response, extra_pages)
        return _NOTIFY_PEER

    def _check_alive(self) -> None:
        if self.state is XenbusState.UNKNOWN:
            raise WireError("datagram", 0, "device is gone")

    def _look(self) -> Events:
        page = self._page
        if page is None or self.state is not XenbusState.CONNECTED:
            return ()
        outstanding, then = exchange.look(exchange.BACKEND, self._outstanding, page.state)
        if then is Look.TAKE_REQUEST:
            return self._take_request(page)
        self._outstanding = outstanding
        if then is Look.CANCEL_REQUEST:
            return (Cancel(self._ticket),)
        if then is Look.ACKNOWLEDGE:
            page.state = PageState.IDLE
            return _NOTIFY_PEER
        return ()

    def _take_request(self, page: SharedPage) -> Events:
        request = page.take_request()
        self._outstanding = Outstanding.REQUEST
        self._ticket += 1
        self._request_extra_pages = request.extra_pages
        if request.length > capacity_bytes(request.extra_pages):
            return self.finish(self._ticket, TPM_SIZE_RESPONSE)
        packet = page.copy_packet(request.length, request.extra_pages)
        return (Execute(self._ticket, packet, request.locality),)

    def _take_nodes(self, nodes: dict[Key, Value]) -> Events:
        state = nodes.pop(Key.STATE, None)
        uuid = nodes.pop(Key.UUID, None)
        for key, value in nodes.items():
            if key not in _CONNECTION_KEYS:
                raise WireError(key.value, 0, "not written by a frontend")
            self._nodes[key] = value
        if isinstance(state, XenbusState):
            self._peer = state
        if isinstance(uuid, UUID):
            if self._uuid is not None:
                raise WireError(Key.UUID.value, 0, "written twice")
            self._uuid = uuid
        elif self._uuid is None:
            raise WireError(Key.UUID.value, 0, "is not the first key")
        events = () if state is None else self._advance(self._peer)
        if uuid is None or self.state is XenbusState.UNKNOWN:
            return events
        return (*events, Admit(self._uuid))

    def _advance(self, event: xenbus.Event, reason: str = "") -> Events:
        before = self.state
        self.state, action = xenbus.advance(xenbus.BACKEND, before, event)
        match action:
            case Action.NONE:
                return self._state_write() if self.state is not before else ()
            case Action.OPEN:
                return self._state_write({Key.FEATURE_PROTOCOL_V2: 1})
            case Action.READY:
                return self._state_write({Key.READY: 1})
            case Action.FAIL:
                return self._state_write({Key.ERROR: error_text(reason)})
            case Action.CONNECT:
                return self._connect()
            case Action.DISCONNECT:
                return self._let_go() + self._state_write()
            case Action.FREE:
                return (*self._let_go(), Free(reason or "frontend is gone"))
            case Action.REFUSE:
                nodes: dict[Key, Value] = {Key.ERROR: error_text(reason)}
                nodes[Key.STATE] = XenbusState.CLOSED
                return (Send(Write(nodes)), Free(reason))
            case _:  # pragma: no cover - the other actions are in the frontend's table only
                raise AssertionError(action)

    def _state_write(self, nodes: dict[Key, Value] | None = None) -> Events:
        return (Send(Write({**(nodes or {}), Key.STATE: self.state})),)

    def _connect(self) -> Events:
        nodes, pages = self._nodes, self._granted_pages
        missing = [key.value for key in _CONNECTION_KEYS if key not in nodes]
        if missing:
            return self._advance(Own.MAP_FAILED, f"no {missing[0]}")
        if pages is None:
            return self._advance(Own.MAP_FAILED, "no grant")
        if nodes[Key.RING_REF] != 0 or nodes[Key.EVENT_CHANNEL] != 0:
            # The shared page is the first of the grant; the channel is the connection itself.
            return self._advance(Own.MAP_FAILED, "ring-ref and event-channel have to be 0")
        if pages - 1 > self._max_extra_pages:
            limit = self._max_extra_pages
            return self._advance(Own.MAP_FAILED, f"{pages - 1} extra pages, limit {limit}")
        return (Map(pages),)

    def _let_go(self) -> Events:
        """Forget connection, page and request, in the order cancel, unmap."""
        self._nodes.clear()
        self._granted_pages = None
        page, self._page = self._page, None
        cancel: Events = ()
        if self._outstanding is not Outstanding.NONE:
            self._outstanding = Outstanding.NONE
            cancel = (Cancel(self._ticket),)
        if page is None:
            return cancel
        page.release()
        return (*cancel, Unmap())
