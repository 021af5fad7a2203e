# SPDX-License-Identifier: Apache-2.0
"""The frontend half against every liberty that a backend can take."""

from __future__ import annotations

import pytest

from protocol.errors import WireError
from protocol.tpmif.errors import TpmifError
from protocol.tpmif.frontend import Cancelled, Connected, Lost, Released, Response
from protocol.tpmif.messages import NOTIFICATION, Grant, encode
from protocol.tpmif.xenbus import XenbusState
from tests.unit.tpmif.link import REQUEST, RESPONSE, UUID_1, FrontendBench, state, write

OFFER = write(ring_ref=0, event_channel=0, feature_protocol_v2=1, state=XenbusState.INITIALISED)


def connected(*, extra_pages: int = 0) -> FrontendBench:
    bench = FrontendBench(extra_pages=extra_pages)
    bench.connect()
    assert bench.half.state is XenbusState.CONNECTED
    return bench


def waiting(*, extra_pages: int = 0) -> FrontendBench:
    bench = connected(extra_pages=extra_pages)
    bench.half.submit(REQUEST, 0)
    return bench


def test_the_handshake_says_what_it_should_in_order() -> None:
    bench = FrontendBench()
    bench.perform(bench.half.start())
    assert bench.take_sent() == [write(uuid=UUID_1, state=XenbusState.INITIALISING)]
    bench.send(write(feature_protocol_v2=1, state=XenbusState.INIT_WAIT))
    assert bench.take_sent() == [encode(Grant(1)), OFFER]
    bench.send(write(ready=1, state=XenbusState.CONNECTED))
    assert bench.take_sent() == [state(4)]
    assert bench.take_events() == [Connected()]


def test_a_backend_without_protocol_2_is_refused() -> None:
    bench = FrontendBench()
    bench.send(state(2))
    with pytest.raises(WireError, match="vTPM protocol 2 required"):
        bench.send(state(4))


def test_the_feature_key_may_come_after_init_wait() -> None:
    bench = FrontendBench()
    bench.send(state(2))
    bench.send(write(feature_protocol_v2=1))
    bench.send(state(4))
    assert bench.take_events() == [Connected()]


@pytest.mark.parametrize("closing", [5, 6])
@pytest.mark.parametrize("stage", ["initialising", "initialised", "connected"])
def test_a_backend_that_closes_at_any_stage_is_lost(stage: str, closing: int) -> None:
    bench = FrontendBench()
    if stage != "initialising":
        bench.send(state(2))
    if stage == "connected":
        bench.send(write(feature_protocol_v2=1, state=XenbusState.CONNECTED))
    bench.take_events()
    bench.send(state(closing))
    name = XenbusState(closing).name
    assert bench.take_events() == [Lost(f"backend is {name}", refused=False)]
    with pytest.raises(WireError):
        bench.send(state(2))


def test_a_refusal_is_told_in_the_words_of_the_backend() -> None:
    bench = FrontendBench()
    bench.send(write(error="uuid is not in the table", state=XenbusState.CLOSED))
    assert bench.take_events() == [Lost("uuid is not in the table", refused=True)]


@pytest.mark.parametrize(
    "datagram",
    [
        state(4),  # before anything was granted
        state(3),
        state(7),
        write(uuid=UUID_1),
        write(ring_ref=0),
        encode(Grant(1)),
        b"",
        b"Nx",
    ],
)
def test_what_a_backend_never_says_first_is_refused(datagram: bytes) -> None:
    bench = FrontendBench()
    with pytest.raises(WireError):
        bench.send(datagram)


def test_a_request_is_put_on_the_page_and_its_response_taken() -> None:
    bench = connected()
    bench.half.submit(REQUEST, 2)
    assert bench.memory[:22].hex() == "0e000000" + "01020000" + REQUEST.hex()
    assert bench.half.busy
    bench.answer(2)
    bench.notify()
    assert bench.take_events() == [Response(RESPONSE)]
    assert not bench.half.busy


def test_the_response_is_a_copy() -> None:
    bench = waiting()
    bench.answer(2)
    bench.notify()
    bench.memory[8:18] = bytes(10)
    assert bench.take_events() == [Response(RESPONSE)]


def test_requests_and_responses_use_the_extra_pages() -> None:
    bench = connected(extra_pages=1)
    assert bench.half.capacity_bytes == 8180
    request = bytes(range(256)) * 31
    bench.half.submit(request, 0)
    assert bench.memory[7] == 1
    assert bench.memory[8:12] == bytes.fromhex("01000000")
    assert bench.memory[12 : 12 + len(request)] == request
    response = bytes.fromhex("00c4 00001ff4 00000000") + bytes(8170)
    bench.answer(2, response)
    bench.notify()
    assert bench.take_events() == [Response(response)]


def test_the_place_of_the_response_is_not_the_backends_to_choose() -> None:
    bench = waiting()
    bench.answer(2)
    bench.memory[7] = 255
    bench.notify()
    assert bench.take_events() == [Response(RESPONSE)]


@pytest.mark.parametrize("length", [0, 1, 9, 11, 14, 4089, 2**31, 2**32 - 1])
def test_a_response_whose_length_lies_is_a_breach(length: int) -> None:
    bench = waiting()
    bench.answer(2)
    bench.memory[0:4] = length.to_bytes(4, "little")
    with pytest.raises(WireError):
        bench.notify()
    assert not bench.take_events()


@pytest.mark.parametrize("page_state", [1, 3, 4, 255])
def test_a_state_that_a_backend_may_not_write_is_ignored(page_state: int) -> None:
    bench = waiting()
    bench.answer(page_state)
    bench.notify()
    assert not bench.take_events()
    assert bench.half.busy
    bench.answer(2)
    bench.notify()
    assert bench.take_events() == [Response(RESPONSE)]


@pytest.mark.parametrize("page_state", range(4))
def test_nothing_is_taken_that_was_not_asked_for(page_state: int) -> None:
    bench = connected()
    bench.answer(page_state)
    bench.notify()
    assert not bench.take_events()


def test_idle_without_a_cancel_is_a_cancelled_request() -> None:
    bench = waiting()
    bench.memory[4] = 0
    bench.notify()
    assert bench.take_events() == [Cancelled()]
    bench.half.submit(REQUEST, 0)


def test_cancel_is_written_once_and_only_over_submit() -> None:
    bench = connected()
    assert not bench.half.cancel()
    bench.half.submit(REQUEST, 0)
    assert bench.half.cancel()
    assert bench.memory[4] == 3
    assert not bench.half.cancel()
    bench.memory[4] = 0
    bench.notify()
    assert bench.take_events() == [Cancelled()]


def test_cancel_does_not_erase_a_response_that_is_there() -> None:
    bench = waiting()
    bench.answer(2)
    assert not bench.half.cancel()
    assert bench.memory[4] == 2
    bench.notify()
    assert bench.take_events() == [Response(RESPONSE)]


def test_a_cancelled_request_may_be_answered_all_the_same() -> None:
    bench = waiting()
    bench.half.cancel()
    bench.answer(2)
    bench.notify()
    assert bench.take_events() == [Response(RESPONSE)]


def test_nothing_is_submitted_before_the_former_request_is_over() -> None:
    bench = waiting()
    bench.half.cancel()
    before = bytes(bench.memory)
    with pytest.raises(TpmifError):
        bench.half.submit(REQUEST, 0)
    assert bytes(bench.memory) == before


@pytest.mark.parametrize(("length", "locality"), [(4089, 0), (14, 256), (14, -1)])
def test_a_request_that_does_not_fit_changes_nothing(length: int, locality: int) -> None:
    bench = connected()
    with pytest.raises(TpmifError):
        bench.half.submit(bytes(length), locality)
    assert not any(bench.memory)
    assert not bench.half.busy


def test_nothing_is_submitted_before_the_backend_is_connected() -> None:
    bench = FrontendBench()
    with pytest.raises(TpmifError):
        bench.half.submit(REQUEST, 0)


def test_a_control_message_makes_the_frontend_look_too() -> None:
    bench = waiting()
    bench.answer(2)
    bench.send(write(ready=1))
    assert bench.take_events() == [Response(RESPONSE)]


def test_the_end_of_the_connection_is_reported_once() -> None:
    bench = waiting()
    bench.perform(bench.half.end("end of connection"))
    bench.perform(bench.half.end("again"))
    assert bench.take_events() == [Lost("end of connection", refused=False)]
    bench.answer(2)
    bench.notify()
    assert not bench.take_events()


@pytest.mark.parametrize("answer", [2, 6])
def test_closing_in_order_waits_until_the_backend_has_unmapped(answer: int) -> None:
    bench = connected()
    bench.perform(bench.half.close())
    assert bench.take_sent() == [state(5), state(6)]
    bench.send(state(5))
    assert not bench.take_events()
    bench.send(state(answer))
    assert bench.take_events() == [Released()]
    assert bench.take_sent() == [state(1)]


def test_a_device_may_be_opened_again_on_the_same_connection() -> None:
    bench = connected()
    bench.perform(bench.half.close())
    bench.send(state(5))
    bench.send(state(2))
    bench.take_sent()
    bench.take_events()
    bench.memory = bytearray(2 * 4096)
    bench.perform(bench.half.reopen(memoryview(bench.memory)))
    assert bench.take_sent() == [encode(Grant(2)), OFFER]
    bench.send(state(4))
    assert bench.take_events() == [Connected()]
    assert bench.half.capacity_bytes == 8180


def test_a_device_that_is_in_use_cannot_be_opened_again() -> None:
    bench = connected()
    with pytest.raises(TpmifError):
        bench.half.reopen(memoryview(bytearray(4096)))


def test_a_device_that_was_never_offered_cannot_be_closed() -> None:
    with pytest.raises(TpmifError):
        FrontendBench().half.close()


def test_notifications_before_the_handshake_is_done_mean_nothing() -> None:
    bench = FrontendBench()
    bench.memory[4] = 2
    bench.send(NOTIFICATION)
    assert not bench.take_events()
