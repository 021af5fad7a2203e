# SPDX-License-Identifier: Apache-2.0
"""The frontend half of one device, without I/O.

Feed it what arrives (`receive`, `end`) and what is wanted (`start`, `submit`, `cancel`, `close`,
`reopen`); the driver carries out the events in order. `receive` raises `WireError` when the backend
broke the protocol; the driver then calls `end` and closes the connection. Whatever the backend
sends or writes into the page, no other exception leaves `receive`: any other is a bug here.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, TypeAlias, assert_never
from uuid import UUID

from protocol.errors import WireError
from protocol.tpmif import exchange, xenbus
from protocol.tpmif.errors import TpmifError
from protocol.tpmif.exchange import Look, Outstanding
from protocol.tpmif.messages import (
    NOTIFICATION,
    Grant,
    Key,
    Message,
    Notify,
    Value,
    Write,
    decode,
)
from protocol.tpmif.page import MAX_LOCALITY, PageState, SharedPage, capacity_bytes
from protocol.tpmif.xenbus import Action, Own, XenbusState

_RESPONSE_HEADER: Final = Struct(">HII")  # tag, paramSize, return code
_BACKEND_KEYS: Final = (Key.FEATURE_PROTOCOL_V2, Key.READY, Key.ERROR)


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the backend; with a `Grant` goes the descriptor of the page."""

    message: Message


@dataclass(frozen=True, slots=True)
class Connected:
    """Requests may be made."""


@dataclass(frozen=True, slots=True)
class Response:
    """The backend answered: at least 10 bytes, as many as their header says."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The backend gave the request up."""


@dataclass(frozen=True, slots=True)
class Released:
    """After `close`: the backend has unmapped the page. `reopen` is possible."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The device is of no use any more: close the connection.

    `refused` is True if the backend said that it does not want this device.
    """

    reason: str
    refused: bool


Event: TypeAlias = Send | Connected | Response | Cancelled | Released | Lost
Events: TypeAlias = tuple[Event, ...]

_CANCELLED: Final[Events] = (Cancelled(),)


class Frontend:
    """State of one device as the frontend sees it.

    Args:
        uuid: identity of the vTPM that is asked for.
        memory: zeroed and writable, one page and its extra pages, the one that is granted.
    """

    __slots__ = (
        "_error",
        "_feature",
        "_outstanding",
        "_page",
        "_peer",
        "_uuid",
        "capacity_bytes",
        "state",
    )

    def __init__(self, uuid: UUID, memory: memoryview) -> None:
        # Own xenbus state; UNKNOWN once the device is lost, after which nothing is accepted.
        self.state = XenbusState.INITIALISING
        # The backend's state node as last written; made with 1 Initialising.
        self._peer = XenbusState.INITIALISING
        self._uuid = uuid
        self._page = SharedPage(memory)
        # Size of the largest request and response.
        self.capacity_bytes = capacity_bytes(self._page.granted_extra_pages)
        self._outstanding = Outstanding.NONE
        # The backend speaks protocol v2: looked at when it is connected, not before.
        self._feature = False
        self._error = ""

    @property
    def busy(self) -> bool:
        """True from `submit` until the backend has answered or given up."""
        return self._outstanding is not Outstanding.NONE

    def start(self) -> Events:
        """Begin the handshake."""
        return (Send(Write({Key.UUID: self._uuid, Key.STATE: self.state})),)

    def receive(self, datagram: bytes) -> Events:
        """Take one datagram. Descriptors are never expected; the driver has dropped them."""
        if datagram == NOTIFICATION:
            return self._look()
        if self.state is XenbusState.UNKNOWN:
            raise WireError("datagram", 0, "device is lost")
        message = decode(datagram)
        match message:
            case Notify():  # pragma: no cover - taken above
                return self._look()
            case Grant():
                raise WireError("grant", 0, "a backend has nothing to grant")
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

    def submit(self, request: bytes, locality: int) -> None:
        """Put a request on the page. The driver notifies the backend afterwards.

        Args:
            request: at most `capacity_bytes`.
            locality: 0 to 255.

        Raises:
            TpmifError: too long, no such locality, not connected, or a request is outstanding.
        """
        if self._outstanding is not Outstanding.NONE or self.state is not XenbusState.CONNECTED:
            outstanding, state = self._outstanding.name, self.state.name
            raise TpmifError(f"cannot submit: outstanding {outstanding}, state {state}")
        if len(request) > self.capacity_bytes:
            raise TpmifError(f"request of {len(request)} bytes, limit {self.capacity_bytes}")
        if not 0 <= locality <= MAX_LOCALITY:
            raise TpmifError(f"locality {locality} is not 0 to {MAX_LOCALITY}")
        # The record first: a backend that answers at once must not find us not waiting.
        self._outstanding = Outstanding.REQUEST
        self._page.put_request(request, locality, self._page.granted_extra_pages)

    def cancel(self) -> bool:
        """Ask the backend to give the request up; True if it has to be notified.

        Does nothing without a request, or when the answer is already there: writing CANCEL over
        FINISH would lose it. If it crosses FINISH all the same, the backend answers IDLE.
        """
        if self._outstanding is not Outstanding.REQUEST:
            return False
        if self._page.state != PageState.SUBMIT:
            return False
        self._outstanding = Outstanding.CANCEL
        self._page.state = PageState.CANCEL
        return True

    def close(self) -> Events:
        """Shut the device down in order; `Released` or `Lost` follows.

        Raises:
            TpmifError: there is nothing to shut down in this state.
        """
        closing = self._advance(Own.CLOSE)
        return closing + self._advance(Own.WITHDRAWN)

    def reopen(self, memory: memoryview) -> Events:
        """After `Released`: offer another page, zeroed, on the same connection.

        Raises:
            TpmifError: the device was not closed in order.
        """
        if self.state is not XenbusState.INITIALISING or self._peer is not XenbusState.INIT_WAIT:
            raise TpmifError(f"cannot reopen in state {self.state!r}")
        self._page.release()
        self._page = SharedPage(memory)
        self.capacity_bytes = capacity_bytes(self._page.granted_extra_pages)
        return self._advance(self._peer)

    def release(self) -> None:
        """Let go of the memory. The last call."""
        self._page.release()

    def _look(self) -> Events:
        if self._outstanding is Outstanding.NONE:  # also when not connected
            return ()
        page = self._page
        self._outstanding, then = exchange.look(exchange.FRONTEND, self._outstanding, page.state)
        if then is Look.TAKE_RESPONSE:
            return (Response(self._take_response(page)),)
        return _CANCELLED if then is Look.CANCELLED else ()

    def _take_response(self, page: SharedPage) -> bytes:
        # After the state, once; the backend may be changing it at this moment.
        length = page.response_length()
        if not _RESPONSE_HEADER.size <= length <= self.capacity_bytes:
            raise WireError("length", 0, f"response of {length} bytes, limit {self.capacity_bytes}")
        packet = page.copy_packet(length, page.granted_extra_pages)
        size = _RESPONSE_HEADER.unpack_from(packet)[1]
        if size != length:
            raise WireError("paramSize", 2, f"{size} in a response of {length} bytes")
        return packet

    def _take_nodes(self, nodes: dict[Key, Value]) -> Events:
        state = nodes.pop(Key.STATE, None)
        for key, value in nodes.items():
            if key not in _BACKEND_KEYS:
                raise WireError(key.value, 0, "not written by a backend")
            if key is Key.FEATURE_PROTOCOL_V2:
                self._feature = True
            elif key is Key.ERROR:
                self._error = str(value)
        if not isinstance(state, XenbusState):
            return ()
        self._peer = state
        return self._advance(state)

    def _advance(self, event: xenbus.Event, reason: str = "") -> Events:
        before = self.state
        self.state, action = xenbus.advance(xenbus.FRONTEND, before, event)
        match action:
            case Action.NONE:
                return self._state_write() if self.state is not before else ()
            case Action.OFFER:
                pages = self._page.granted_extra_pages + 1
                keys: dict[Key, Value] = {
                    Key.RING_REF: 0,
                    Key.EVENT_CHANNEL: 0,
                    Key.FEATURE_PROTOCOL_V2: 1,
                }
                return (Send(Grant(pages)), *self._state_write(keys))
            case Action.USE:
                if not self._feature:
                    raise WireError(Key.FEATURE_PROTOCOL_V2.value, 0, "vTPM protocol 2 required")
                return (*self._state_write(), Connected())
            case Action.RELEASE:
                self._outstanding = Outstanding.NONE
                return (*self._state_write(), Released())
            case Action.LOST:
                self._outstanding = Outstanding.NONE
                refused = bool(self._error)
                return (Lost(self._error or reason or f"backend is {self._peer.name}", refused),)
            case _:  # pragma: no cover - the other actions are in the backend's table only
                raise AssertionError(action)

    def _state_write(self, nodes: dict[Key, Value] | None = None) -> Events:
        return (Send(Write({**(nodes or {}), Key.STATE: self.state})),)
