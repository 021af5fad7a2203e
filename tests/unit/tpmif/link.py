# SPDX-License-Identifier: Apache-2.0
"""A frontend and a backend half joined by two lists and a bytearray."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from protocol.tpmif import backend, frontend
from protocol.tpmif.backend import Admit, Backend, Cancel, Execute, Free, Map, Unmap
from protocol.tpmif.frontend import Frontend
from protocol.tpmif.messages import NOTIFICATION, Grant, Key, Value, Write, encode
from protocol.tpmif.page import memory_size
from protocol.tpmif.xenbus import XenbusState

UUID_1 = UUID("12345678-9abc-def0-1234-56789abcdef0")
REQUEST = bytes.fromhex("00c1 0000000e 00000046 00000014")  # TPM_GetRandom of 20 bytes
RESPONSE = bytes.fromhex("00c4 0000000a 00000000")


def write(**nodes: Value) -> bytes:
    """Return the datagram of a transaction; `ring_ref` stands for the key `ring-ref`."""
    return encode(Write({Key(name.replace("_", "-")): value for name, value in nodes.items()}))


def state(value: int) -> bytes:
    return write(state=XenbusState(value))


CONNECTION_KEYS = write(ring_ref=0, event_channel=0, feature_protocol_v2=1)


class BackendBench:
    """A backend half whose frontend is the test: `send` datagrams, touch `memory`."""

    def __init__(self, *, extra_pages: int = 0, max_extra_pages: int = 15) -> None:
        self.memory = bytearray(memory_size(extra_pages))
        self.half = Backend(max_extra_pages=max_extra_pages)
        # What the half asked for, apart from messages, in order.
        self.events: list[backend.Event] = []
        # Datagrams for the frontend, in order.
        self.sent: list[bytes] = []
        self.mappable = True
        self.admitted = True

    def perform(self, events: Iterable[backend.Event]) -> None:
        for event in events:
            match event:
                case backend.Send(message):
                    self.sent.append(encode(message))
                case Admit():
                    self.events.append(event)
                    half = self.half
                    self.perform(half.admitted() if self.admitted else half.refused("not ours"))
                case Map():
                    self.events.append(event)
                    if self.mappable:
                        self.perform(self.half.mapped(memoryview(self.memory)))
                    else:
                        self.perform(self.half.unmappable("no seals"))
                case _:
                    self.events.append(event)

    def send(self, datagram: bytes, descriptors: int = 0) -> None:
        self.perform(self.half.receive(datagram, descriptors))

    def notify(self) -> None:
        self.send(NOTIFICATION)

    def finish(self, ticket: int, response: bytes | None) -> None:
        self.perform(self.half.finish(ticket, response))

    def take_sent(self) -> list[bytes]:
        sent, self.sent = self.sent, []
        return sent

    def take_events(self) -> list[backend.Event]:
        events, self.events = self.events, []
        return events

    def connect(self) -> None:
        """Go through the handshake as a proper frontend does, and forget what it caused."""
        self.send(write(uuid=UUID_1, state=XenbusState.INITIALISING))
        self.offer()
        self.take_sent()
        self.take_events()

    def offer(self) -> None:
        self.send(encode(Grant(len(self.memory) // 4096)), 1)
        self.send(CONNECTION_KEYS)
        self.send(state(3))

    def put(
        self,
        page_state: int,
        *,
        length: int = len(REQUEST),
        locality: int = 0,
        extra_pages: int = 0,
        packet: bytes = REQUEST,
    ) -> None:
        """Write the page as a frontend would, without a notification."""
        offset = 8 + 4 * extra_pages
        self.memory[offset : offset + len(packet)] = packet
        for index in range(extra_pages):
            self.memory[8 + 4 * index : 12 + 4 * index] = (index + 1).to_bytes(4, "little")
        self.memory[0:4] = length.to_bytes(4, "little")
        self.memory[5] = locality
        self.memory[7] = extra_pages
        self.memory[4] = page_state

    def submit(self, packet: bytes = REQUEST, *, locality: int = 0) -> Execute:
        """Submit a request and return how the half wants it executed."""
        self.put(1, length=len(packet), packet=packet, locality=locality)
        self.notify()
        (event,) = self.take_events()
        assert isinstance(event, Execute)
        return event

    def freed(self) -> bool:
        return any(isinstance(event, Free) for event in self.events)


class FrontendBench:
    """A frontend half whose backend is the test."""

    def __init__(self, *, extra_pages: int = 0) -> None:
        self.memory = bytearray(memory_size(extra_pages))
        self.half = Frontend(UUID_1, memoryview(self.memory))
        self.events: list[frontend.Event] = []
        self.sent: list[bytes] = []

    def perform(self, events: Iterable[frontend.Event]) -> None:
        for event in events:
            if isinstance(event, frontend.Send):
                self.sent.append(encode(event.message))
            else:
                self.events.append(event)

    def send(self, datagram: bytes) -> None:
        self.perform(self.half.receive(datagram))

    def notify(self) -> None:
        self.send(NOTIFICATION)

    def take_sent(self) -> list[bytes]:
        sent, self.sent = self.sent, []
        return sent

    def take_events(self) -> list[frontend.Event]:
        events, self.events = self.events, []
        return events

    def connect(self) -> None:
        """Go through the handshake as a proper backend does, and forget what it caused."""
        self.perform(self.half.start())
        self.send(write(feature_protocol_v2=1, state=XenbusState.INIT_WAIT))
        self.send(write(ready=1, state=XenbusState.CONNECTED))
        self.take_sent()
        self.take_events()

    def answer(self, page_state: int, response: bytes = RESPONSE) -> None:
        """Write a response and a state as a backend would, without a notification."""
        offset = 8 + 4 * (len(self.memory) // 4096 - 1)
        self.memory[offset : offset + len(response)] = response
        self.memory[0:4] = len(response).to_bytes(4, "little")
        self.memory[4] = page_state


__all__ = [
    "CONNECTION_KEYS",
    "REQUEST",
    "RESPONSE",
    "UUID_1",
    "BackendBench",
    "Cancel",
    "FrontendBench",
    "Unmap",
    "state",
    "write",
]
