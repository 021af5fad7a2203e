# SPDX-License-Identifier: Apache-2.0
"""Whatever a peer does: the half goes on or raises `WireError`, and never anything else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.errors import WireError
from protocol.tpmif.backend import Cancel, Execute
from protocol.tpmif.frontend import Response
from protocol.tpmif.messages import NOTIFICATION, Grant, encode
from protocol.tpmif.xenbus import XenbusState
from tests.unit.tpmif.link import (
    CONNECTION_KEYS,
    REQUEST,
    RESPONSE,
    UUID_1,
    BackendBench,
    FrontendBench,
    state,
    write,
)

LENGTHS = st.one_of(
    st.integers(0, 14),
    st.sampled_from([4087, 4088, 4089, 2**31, 2**32 - 1]),
    st.integers(0, 2**32 - 1),
)
DATAGRAMS = st.one_of(
    st.just(NOTIFICATION),
    st.just(CONNECTION_KEYS),
    st.builds(state, st.integers(0, 8)),
    st.builds(lambda pages: encode(Grant(pages)), st.integers(1, 256)),
    st.just(write(uuid=UUID_1, state=XenbusState.INITIALISING)),
    st.just(write(ready=1)),
    st.just(write(error="no")),
    st.just(write(feature_protocol_v2=1, state=XenbusState.INIT_WAIT)),
    st.just(write(feature_protocol_v2=1, state=XenbusState.CONNECTED)),
    st.binary(max_size=40),
)


class AnyFrontend(RuleBasedStateMachine):
    """A backend half, and a frontend that writes and sends what it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = BackendBench(extra_pages=1)
        self.running: list[Execute] = []
        self.over = False

    def settle(self) -> None:
        for event in self.bench.take_events():
            if isinstance(event, Execute):
                self.running.append(event)
            elif isinstance(event, Cancel):
                assert event.ticket in [execute.ticket for execute in self.running]

    def breach(self) -> None:
        self.over = True
        self.bench.perform(self.bench.half.end("breach"))
        self.settle()

    @rule(datagram=DATAGRAMS, descriptors=st.sampled_from([0, 0, 0, 1, 2]))
    def send(self, datagram: bytes, descriptors: int) -> None:
        if self.over:
            return
        if datagram[:1] == b"G" and descriptors == 1:
            # What the driver maps has the size that was promised.
            self.bench.mappable = datagram == encode(Grant(2))
        try:
            self.bench.send(datagram, descriptors)
        except WireError:
            self.settle()
            self.breach()
        self.settle()

    @rule()
    def handshake(self) -> None:
        """The proper next steps, so that the deep states are reached often."""
        self.send(write(uuid=UUID_1, state=XenbusState.INITIALISING), 0)
        self.send(encode(Grant(2)), 1)
        self.send(CONNECTION_KEYS, 0)
        self.send(state(3), 0)

    @rule()
    def reconnect(self) -> None:
        self.send(state(6), 0)
        self.send(encode(Grant(2)), 1)
        self.send(CONNECTION_KEYS, 0)
        self.send(state(4), 0)

    @rule(page_state=st.integers(0, 5), length=LENGTHS, extra=st.sampled_from([0, 0, 1, 2, 255]))
    def scribble(self, page_state: int, length: int, extra: int) -> None:
        self.bench.memory[0:8] = length.to_bytes(4, "little") + bytes([page_state, 9, 1, extra])

    @rule(length=LENGTHS)
    def submit(self, length: int) -> None:
        self.bench.put(1, length=length)
        self.send(NOTIFICATION, 0)

    @rule(response=st.sampled_from([None, RESPONSE, bytes(9000)]))
    def finish(self, response: bytes | None) -> None:
        if self.running:
            try:
                self.bench.finish(self.running.pop(0).ticket, response)
            except WireError:
                self.breach()
            self.settle()

    @rule()
    def end(self) -> None:
        if not self.over:
            self.breach()

    @invariant()
    def requests_are_bounded_and_numbered(self) -> None:
        tickets = [execute.ticket for execute in self.running]
        assert tickets == sorted(set(tickets))
        assert all(len(execute.request) <= 8180 for execute in self.running)

    @invariant()
    def nothing_is_mapped_after_the_end(self) -> None:
        if self.over:
            self.bench.memory.append(0)  # impossible with a view left on it
            del self.bench.memory[-1]


class AnyBackend(RuleBasedStateMachine):
    """A frontend half, and a backend that writes and sends what it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = FrontendBench()
        self.bench.perform(self.bench.half.start())
        self.over = False
        self.asked = 0

    @rule(datagram=DATAGRAMS)
    def send(self, datagram: bytes) -> None:
        if self.over:
            return
        try:
            self.bench.send(datagram)
        except WireError:
            self.over = True
            self.bench.perform(self.bench.half.end("breach"))
        for event in self.bench.take_events():
            if isinstance(event, Response):
                assert self.asked == 1
                assert 10 <= len(event.packet) <= 4088
                assert int.from_bytes(event.packet[2:6], "big") == len(event.packet)
        if not self.bench.half.busy:
            self.asked = 0

    @rule()
    def handshake(self) -> None:
        self.send(write(feature_protocol_v2=1, state=XenbusState.INIT_WAIT))
        self.send(write(ready=1, state=XenbusState.CONNECTED))

    @rule()
    def submit(self) -> None:
        half = self.bench.half
        if half.state is XenbusState.CONNECTED and not half.busy:
            half.submit(REQUEST, 0)
            self.asked = 1

    @rule()
    def cancel(self) -> None:
        self.bench.half.cancel()

    @rule(page_state=st.integers(0, 5), length=LENGTHS, size=LENGTHS)
    def scribble(self, page_state: int, length: int, size: int) -> None:
        memory = self.bench.memory
        memory[0:5] = length.to_bytes(4, "little") + bytes([page_state])
        memory[8:18] = b"\0\xc4" + size.to_bytes(4, "big") + bytes(4)
        self.send(NOTIFICATION)

    @rule()
    def answer(self) -> None:
        self.bench.answer(2)
        self.send(NOTIFICATION)


AnyFrontend.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
AnyBackend.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestAnyFrontend = AnyFrontend.TestCase
TestAnyBackend = AnyBackend.TestCase


@given(st.lists(st.tuples(DATAGRAMS, st.integers(0, 2)), max_size=12))
def test_any_first_datagrams_leave_the_backend_alive_or_raise_the_one_error(
    datagrams: list[tuple[bytes, int]],
) -> None:
    bench = BackendBench()
    for datagram, descriptors in datagrams:
        try:
            bench.send(datagram, descriptors)
        except WireError:
            break
    bench.perform(bench.half.end("end"))
    assert bench.half.state is XenbusState.UNKNOWN
