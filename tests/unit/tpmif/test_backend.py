# SPDX-License-Identifier: Apache-2.0
"""The backend half against every liberty that a frontend can take."""

from __future__ import annotations

import pytest

from protocol.errors import WireError
from protocol.tpmif.backend import (
    TPM_SIZE_RESPONSE,
    Admit,
    Backend,
    Cancel,
    Execute,
    Free,
    Map,
    Unmap,
)
from protocol.tpmif.errors import TpmifError
from protocol.tpmif.messages import NOTIFICATION, Grant, Key, Write, encode
from protocol.tpmif.xenbus import XenbusState
from tests.unit.tpmif.link import (
    CONNECTION_KEYS,
    REQUEST,
    RESPONSE,
    UUID_1,
    BackendBench,
    state,
    write,
)

INIT_WAIT = write(feature_protocol_v2=1, state=XenbusState.INIT_WAIT)
READY = write(ready=1, state=XenbusState.CONNECTED)


def connected(*, extra_pages: int = 0, max_extra_pages: int = 15) -> BackendBench:
    bench = BackendBench(extra_pages=extra_pages, max_extra_pages=max_extra_pages)
    bench.connect()
    assert bench.half.state is XenbusState.CONNECTED
    return bench


# Handshake


def test_the_handshake_says_what_it_should_in_order() -> None:
    bench = BackendBench()
    bench.send(write(uuid=UUID_1, state=XenbusState.INITIALISING))
    assert bench.take_events() == [Admit(UUID_1)]
    assert bench.take_sent() == [INIT_WAIT]
    bench.offer()
    assert bench.take_events() == [Map(1)]
    assert bench.take_sent() == [READY]
    bench.send(state(4))
    assert not bench.take_sent()


def test_the_feature_key_is_there_before_the_state_that_announces_it() -> None:
    bench = BackendBench()
    bench.send(write(uuid=UUID_1))
    (datagram,) = bench.take_sent()
    assert datagram.index(b"feature-protocol-v2") < datagram.index(b"state")


def test_a_refused_uuid_is_told_why_and_freed() -> None:
    bench = BackendBench()
    bench.admitted = False
    bench.send(write(uuid=UUID_1, state=XenbusState.INITIALISING))
    assert bench.take_sent() == [write(error="not ours", state=XenbusState.CLOSED)]
    assert bench.take_events() == [Admit(UUID_1), Free("not ours")]
    with pytest.raises(WireError):
        bench.send(state(3))


def test_a_frontend_that_goes_before_it_was_admitted_is_not_asked_about() -> None:
    bench = BackendBench()
    bench.send(write(uuid=UUID_1, state=XenbusState.UNKNOWN))
    assert bench.take_events() == [Free("frontend is gone")]


def test_a_frontend_that_is_too_quick_is_looked_at_after_it_was_admitted() -> None:
    bench = BackendBench()
    half = bench.half
    assert half.receive(write(uuid=UUID_1)) == (Admit(UUID_1),)
    assert half.receive(CONNECTION_KEYS) == ()
    assert half.receive(state(3)) == ()
    bench.perform(half.admitted())
    # No page could be granted before InitWait, so the try fails, and the next one may not.
    assert bench.take_sent() == [INIT_WAIT, write(error="no grant", state=XenbusState.CLOSED)]
    bench.send(encode(Grant(1)), 1)
    bench.send(state(3))
    assert bench.take_sent() == [READY]


@pytest.mark.parametrize("missing", [Key.RING_REF, Key.EVENT_CHANNEL, Key.FEATURE_PROTOCOL_V2])
def test_a_missing_key_closes_the_device_until_it_is_there(missing: Key) -> None:
    nodes = {Key.RING_REF: 0, Key.EVENT_CHANNEL: 0, Key.FEATURE_PROTOCOL_V2: 1}
    value = nodes.pop(missing)
    bench = BackendBench()
    bench.send(write(uuid=UUID_1))
    bench.send(encode(Grant(1)), 1)
    bench.send(encode(Write(dict(nodes))))
    bench.take_sent()
    bench.send(state(3))
    assert bench.take_sent() == [write(error=f"no {missing.value}", state=XenbusState.CLOSED)]
    assert Map(1) not in bench.take_events()
    bench.send(encode(Write({missing: value, Key.STATE: XenbusState.INITIALISED})))
    assert bench.take_sent() == [READY]


def test_a_page_that_cannot_be_mapped_closes_the_device_until_another_is_granted() -> None:
    bench = BackendBench()
    bench.mappable = False
    bench.send(write(uuid=UUID_1))
    bench.take_sent()
    bench.offer()
    assert bench.take_sent() == [write(error="no seals", state=XenbusState.CLOSED)]
    bench.send(state(3))
    assert bench.take_sent() == [write(error="no grant", state=XenbusState.CLOSED)]
    bench.mappable = True
    bench.offer()
    assert bench.take_sent() == [READY]


def test_more_extra_pages_than_the_limit_are_not_mapped() -> None:
    bench = BackendBench(extra_pages=3, max_extra_pages=2)
    bench.send(write(uuid=UUID_1))
    bench.take_events()
    bench.offer()
    assert bench.sent[-1] == write(error="3 extra pages, limit 2", state=XenbusState.CLOSED)
    assert not bench.take_events()


@pytest.mark.parametrize("keys", [{"ring_ref": 1}, {"event_channel": 5}])
def test_references_to_another_page_or_channel_are_refused(keys: dict[str, int]) -> None:
    bench = BackendBench()
    bench.send(write(uuid=UUID_1))
    bench.send(encode(Grant(1)), 1)
    bench.send(write(**{"ring_ref": 0, "event_channel": 0, "feature_protocol_v2": 1, **keys}))
    bench.send(state(3))
    assert bench.half.state is XenbusState.CLOSED


@pytest.mark.parametrize(
    "datagram",
    [
        state(1),  # before the uuid
        CONNECTION_KEYS,
        write(ready=1),
        write(uuid=UUID_1, error="mine"),
        b"",
        b"NN",
        b"\0",
    ],
)
def test_what_a_frontend_never_says_first_is_refused(datagram: bytes) -> None:
    bench = BackendBench()
    with pytest.raises(WireError):
        bench.send(datagram)


def test_a_second_uuid_is_refused() -> None:
    bench = connected()
    with pytest.raises(WireError, match="twice"):
        bench.send(write(uuid=UUID_1))


@pytest.mark.parametrize("descriptors", [0, 2, 4])
def test_a_grant_without_exactly_one_descriptor_is_refused(descriptors: int) -> None:
    bench = BackendBench()
    bench.send(write(uuid=UUID_1))
    with pytest.raises(WireError, match=f"{descriptors} received, 1 expected"):
        bench.send(encode(Grant(1)), descriptors)


@pytest.mark.parametrize("datagram", [NOTIFICATION, state(1), CONNECTION_KEYS])
def test_a_descriptor_where_none_belongs_is_refused(datagram: bytes) -> None:
    bench = BackendBench()
    bench.send(write(uuid=UUID_1))
    with pytest.raises(WireError, match="descriptors"):
        bench.send(datagram, 1)


def test_a_grant_while_connected_is_refused() -> None:
    bench = connected()
    with pytest.raises(WireError, match="grant"):
        bench.send(encode(Grant(1)), 1)


def test_a_request_that_was_there_before_the_page_was_mapped_is_taken() -> None:
    bench = BackendBench()
    bench.put(1, locality=2)
    bench.send(write(uuid=UUID_1))
    bench.offer()
    assert bench.take_events()[-1] == Execute(1, REQUEST, 2)
    assert bench.sent[-1] == READY


# Requests


def test_a_request_is_copied_and_its_response_comes_with_one_notification() -> None:
    bench = connected()
    execute = bench.submit(locality=4)
    assert execute == Execute(1, REQUEST, 4)
    bench.memory[8:22] = bytes(14)
    assert execute.request == REQUEST
    bench.finish(1, RESPONSE)
    assert bench.take_sent() == [NOTIFICATION]
    assert bench.memory[:18].hex(" ") == "0a 00 00 00 02 04 00 00 00 c4 00 00 00 0a 00 00 00 00"


@pytest.mark.parametrize("length", [4089, 4096, 2**31, 2**32 - 8, 2**32 - 1])
def test_a_length_over_the_page_is_answered_with_tpm_size_and_the_next_is_served(
    length: int,
) -> None:
    bench = connected()
    bench.put(1, length=length)
    bench.notify()
    assert not bench.take_events()
    assert bench.take_sent() == [NOTIFICATION]
    assert bench.memory[4] == 2
    assert bench.memory[8:18] == TPM_SIZE_RESPONSE == bytes.fromhex("00c40000000a00000017")
    assert bench.memory[0:4] == bytes.fromhex("0a000000")
    assert bench.submit().request == REQUEST


@pytest.mark.parametrize("length", [0, 1, 9])
def test_a_length_under_a_header_is_for_the_engine_to_answer(length: int) -> None:
    bench = connected()
    bench.put(1, length=length)
    bench.notify()
    assert bench.take_events() == [Execute(1, REQUEST[:length], 0)]


def test_the_longest_request_and_response_fit() -> None:
    bench = connected()
    packet = bytes(range(256)) * 16
    assert bench.submit(packet[:4088]).request == packet[:4088]
    bench.finish(1, packet[8:])
    assert bench.memory[8:] == packet[8:]
    assert bench.memory[4] == 2


def test_a_response_over_the_page_becomes_tpm_size() -> None:
    bench = connected()
    bench.submit()
    bench.finish(1, bytes(4089))
    assert bench.memory[:18].hex() == "0a00000002000000" + TPM_SIZE_RESPONSE.hex()
    assert bench.take_sent() == [NOTIFICATION]


@pytest.mark.parametrize("page_state", [0, 2, 4, 77, 255])
def test_a_state_that_a_frontend_may_not_write_is_ignored(page_state: int) -> None:
    bench = connected()
    bench.put(page_state)
    bench.notify()
    assert not bench.take_events()
    assert not bench.take_sent()
    assert bench.memory[4] == page_state
    bench.submit()
    bench.put(page_state)
    bench.notify()
    assert not bench.take_events()
    bench.finish(1, RESPONSE)
    assert bench.memory[4] == 2


def test_submit_while_busy_starts_nothing() -> None:
    bench = connected()
    bench.submit()
    for _ in range(3):
        bench.put(1, packet=b"other", length=5)
        bench.notify()
    assert not bench.take_events()
    bench.finish(1, RESPONSE)
    assert bench.submit().ticket == 2


def test_notifications_without_a_change_do_nothing() -> None:
    bench = connected()
    for _ in range(1000):
        bench.notify()
    assert not bench.take_events()
    assert not bench.take_sent()


def test_a_control_message_makes_the_backend_look_too() -> None:
    # A notification is left out when the queue holds something unread: it may be this one.
    bench = connected()
    bench.put(1)
    bench.send(state(4))
    assert bench.take_events() == [Execute(1, REQUEST, 0)]


# Cancel


def test_cancel_of_a_running_request_is_told_once_and_idle_ends_it() -> None:
    bench = connected()
    bench.submit()
    bench.memory[4] = 3
    bench.notify()
    bench.notify()
    assert bench.take_events() == [Cancel(1)]
    assert not bench.take_sent()
    bench.finish(1, None)
    assert bench.memory[4] == 0
    assert bench.take_sent() == [NOTIFICATION]


def test_a_cancelled_request_may_finish_all_the_same() -> None:
    bench = connected()
    bench.submit()
    bench.memory[4] = 3
    bench.notify()
    assert bench.take_events() == [Cancel(1)]
    bench.finish(1, RESPONSE)
    assert bench.memory[4] == 2
    assert bench.submit().ticket == 2


def test_cancel_that_crosses_finish_is_acknowledged_with_idle_once() -> None:
    bench = connected()
    bench.submit()
    bench.finish(1, RESPONSE)
    bench.take_sent()
    bench.memory[4] = 3
    bench.notify()
    bench.notify()
    assert bench.memory[4] == 0
    assert bench.take_sent() == [NOTIFICATION]
    assert not bench.take_events()


def test_cancel_before_any_submit_is_acknowledged_with_idle() -> None:
    bench = connected()
    bench.memory[4] = 3
    bench.notify()
    assert bench.memory[4] == 0
    assert bench.take_sent() == [NOTIFICATION]


def test_cancel_and_submit_in_one_notification_is_a_cancel_of_nothing() -> None:
    bench = connected()
    bench.put(1)
    bench.memory[4] = 3
    bench.notify()
    assert not bench.take_events()
    assert bench.memory[4] == 0


def test_the_backend_may_give_up_by_itself() -> None:
    bench = connected()
    bench.submit()
    bench.finish(1, None)
    assert bench.memory[4] == 0
    assert bench.take_sent() == [NOTIFICATION]


# Extra pages


def test_requests_and_responses_use_the_extra_pages() -> None:
    bench = connected(extra_pages=2)
    packet = bytes(range(256)) * 47
    bench.put(1, length=len(packet), extra_pages=2, packet=packet)
    bench.notify()
    assert bench.take_events() == [Execute(1, packet, 0)]
    bench.finish(1, packet[::-1])
    assert bench.memory[16 : 16 + len(packet)] == packet[::-1]


def test_a_request_may_use_fewer_extra_pages_than_were_granted() -> None:
    bench = connected(extra_pages=2)
    bench.put(1, length=8181, extra_pages=1)
    bench.notify()
    assert bench.memory[12:22] == TPM_SIZE_RESPONSE
    bench.put(1, length=8180, extra_pages=1)
    bench.notify()
    (event,) = bench.take_events()
    assert isinstance(event, Execute)
    assert len(event.request) == 8180


def test_a_number_of_extra_pages_that_changes_during_a_request_is_a_breach() -> None:
    bench = connected(extra_pages=1)
    bench.submit()
    bench.memory[7] = 1
    before = bytes(bench.memory)
    with pytest.raises(WireError, match="nr_extra_pages"):
        bench.finish(1, RESPONSE)
    assert bytes(bench.memory) == before


def test_extra_pages_that_were_not_granted_are_a_breach() -> None:
    bench = connected()
    bench.put(1)
    bench.memory[7] = 255
    with pytest.raises(WireError, match="255 pages used, 0 granted"):
        bench.notify()


# Closing, reconnecting, death


def test_closing_keeps_the_page_and_closed_lets_go_of_it() -> None:
    bench = connected()
    bench.send(state(5))
    assert bench.take_sent() == [state(5)]
    assert not bench.take_events()
    bench.send(state(6))
    assert bench.take_sent() == [state(2)]
    assert bench.take_events() == [Unmap()]


def test_a_frontend_that_reconnects_keeps_the_device_and_gets_a_fresh_page() -> None:
    bench = connected()
    bench.send(state(5))
    bench.send(state(6))
    bench.take_events()
    bench.memory = bytearray(4096)
    bench.offer()
    assert bench.sent[-1] == READY
    assert bench.take_events() == [Map(1)]
    assert bench.submit().request == REQUEST


def test_keys_of_the_former_connection_do_not_count_for_the_next() -> None:
    bench = connected()
    bench.send(state(6))
    bench.send(encode(Grant(1)), 1)
    bench.take_sent()
    bench.send(state(3))
    assert bench.take_sent() == [write(error="no ring-ref", state=XenbusState.CLOSED)]


def test_closed_during_a_request_cancels_it_and_drops_its_response() -> None:
    bench = connected()
    execute = bench.submit()
    bench.send(state(6))
    assert bench.take_events() == [Cancel(execute.ticket), Unmap()]
    bench.take_sent()
    before = bytes(bench.memory)
    bench.finish(execute.ticket, RESPONSE)
    assert not bench.take_sent()
    assert bytes(bench.memory) == before


def test_the_response_of_a_former_connection_does_not_reach_the_next_one() -> None:
    bench = connected()
    former = bench.submit()
    bench.send(state(6))
    bench.memory = bytearray(4096)
    bench.offer()
    bench.take_events()
    bench.finish(former.ticket, RESPONSE)
    assert not any(bench.memory)
    current = bench.submit()
    bench.finish(former.ticket, RESPONSE)
    assert bench.memory[4] == 1
    bench.finish(current.ticket, RESPONSE)
    assert bench.memory[4] == 2


def test_a_request_while_closing_is_not_taken() -> None:
    bench = connected()
    bench.send(state(5))
    bench.put(1)
    bench.notify()
    assert not bench.take_events()


def test_a_response_is_given_only_once() -> None:
    bench = connected()
    bench.submit()
    bench.finish(1, RESPONSE)
    bench.take_sent()
    bench.memory[4] = 0
    bench.finish(1, RESPONSE)
    assert not bench.take_sent()
    assert bench.memory[4] == 0


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("ending", ["node", "connection"])
def test_the_end_cancels_unmaps_and_frees_in_this_order(ending: str, *, busy: bool) -> None:
    bench = connected()
    if busy:
        bench.submit()
    if ending == "node":
        bench.send(state(0))
        last = Free("frontend is gone")
    else:
        bench.perform(bench.half.end("end of file"))
        last = Free("end of file")
    assert bench.take_events() == [*([Cancel(1)] if busy else []), Unmap(), last]
    # Nothing more happens, whatever comes.
    bench.finish(1, RESPONSE)
    bench.perform(bench.half.end("again"))
    bench.notify()
    assert not bench.take_events()
    assert not bench.take_sent()
    with pytest.raises(WireError):
        bench.send(state(3))


def test_the_memory_is_let_go_of_when_it_is_unmapped() -> None:
    bench = connected()
    bench.send(state(6))
    bench.memory.append(0)  # a bytearray with a view on it could not grow


def test_calls_of_the_driver_out_of_order_are_its_own_mistake() -> None:
    with pytest.raises(TpmifError):
        Backend(max_extra_pages=0).mapped(memoryview(bytearray(4096)))
