# SPDX-License-Identifier: Apache-2.0
"""The datagrams of a connection: strict, bounded, to the last byte."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.errors import WireError
from protocol.tpmif.messages import (
    DATAGRAM_LIMIT,
    ERROR_LIMIT,
    NOTIFY,
    Grant,
    Key,
    Message,
    Value,
    Write,
    decode,
    encode,
    error_text,
)
from protocol.tpmif.xenbus import XenbusState
from tests.unit.tpmif.link import UUID_1

GOLDEN: list[tuple[bytes, Message]] = [
    (b"N", NOTIFY),
    (b"G\x01\x00\x00\x00", Grant(1)),
    (b"G\x00\x01\x00\x00", Grant(256)),
    (
        b"Wuuid\x0012345678-9abc-def0-1234-56789abcdef0\0state\x001\0",
        Write({Key.UUID: UUID_1, Key.STATE: XenbusState.INITIALISING}),
    ),
    (
        b"Wring-ref\x000\0event-channel\x004294967295\0feature-protocol-v2\x001\0state\x003\0",
        Write(
            {
                Key.RING_REF: 0,
                Key.EVENT_CHANNEL: 0xFFFFFFFF,
                Key.FEATURE_PROTOCOL_V2: 1,
                Key.STATE: XenbusState.INITIALISED,
            }
        ),
    ),
    (
        b"Wready\x001\0state\x004\0",
        Write({Key.READY: 1, Key.STATE: XenbusState.CONNECTED}),
    ),
    (
        b"Werror\x00uuid is not ours\0state\x006\0",
        Write({Key.ERROR: "uuid is not ours", Key.STATE: XenbusState.CLOSED}),
    ),
]


@pytest.mark.parametrize(("datagram", "message"), GOLDEN)
def test_messages_have_these_bytes(datagram: bytes, message: Message) -> None:
    assert encode(message) == datagram
    assert decode(datagram) == message


@pytest.mark.parametrize("datagram", [datagram for datagram, _ in GOLDEN])
def test_a_message_cut_short_or_with_a_tail_is_refused(datagram: bytes) -> None:
    for end in range(len(datagram)):
        # A transaction may be cut between two pairs: that is a shorter transaction.
        part = datagram[:end]
        if part[:1] == b"W" and part[-1:] == b"\0" and part.count(b"\0") % 2 == 0:
            continue
        with pytest.raises(WireError):
            decode(datagram[:end])
    for tail in (b"\0", b"N", b"\0\0\0", b"x\0"):
        with pytest.raises(WireError):
            decode(datagram + tail)


@pytest.mark.parametrize(
    "pair",
    [
        b"uuid\x0012345678-9abc-def0-1234-56789abcdef\0",  # 35 characters
        b"uuid\x0012345678-9abc-def0-1234-56789abcdef01\0",  # 37
        b"uuid\x00{12345678-9abc-def0-1234-56789abcde}\0",
        b"uuid\x00123456789abcdef0123456789abcdef0\0",
        b"uuid\x00g2345678-9abc-def0-1234-56789abcdef0\0",
        b"uuid\x00urn:uuid:12345678-9abc-def0-1234-56789abcdef0\0",
        b"ring-ref\x00\0",
        b"ring-ref\x00-1\0",
        b"ring-ref\x00+1\0",
        b"ring-ref\x0001\0",
        b"ring-ref\x001 \0",
        b"ring-ref\x001_0\0",
        b"ring-ref\x000x1\0",
        b"ring-ref\x00\xd9\xa1\0",  # ARABIC-INDIC DIGIT ONE
        b"ring-ref\x004294967296\0",
        b"event-channel\x0099999999999999999999\0",
        b"feature-protocol-v2\x002\0",
        b"feature-protocol-v2\x0001\0",
        b"feature-protocol-v2\x00\0",
        b"ready\x000\0",
        b"state\x009\0",
        b"state\x00-1\0",
        b"state\x0010\0",
        b"state\x00\0",
        b"state\x001\x0a\0",
        b"error\x00\0",
        b"error\x00" + b"x" * (ERROR_LIMIT + 1) + b"\0",
        b"error\x00line\x0a\0",
        b"error\x00\xff\0",
        b"State\x001\0",
        b"\x001\0",
        b"frontend\x00/local/domain/1\0",
        b"state\x001\0state\x001\0",
    ],
)
def test_a_value_that_is_not_exactly_what_the_key_takes_is_refused(pair: bytes) -> None:
    with pytest.raises(WireError):
        decode(b"W" + pair)


def test_a_uuid_may_be_in_capitals() -> None:
    message = decode(b"Wuuid\x0012345678-9ABC-DEF0-1234-56789ABCDEF0\0")
    assert message == Write({Key.UUID: UUID_1})


@pytest.mark.parametrize("pages", [0, 257, 0xFFFFFFFF])
def test_a_grant_of_no_or_too_many_pages_is_refused(pages: int) -> None:
    with pytest.raises(WireError, match="grant"):
        decode(b"G" + pages.to_bytes(4, "little"))


def test_a_datagram_over_the_limit_is_refused_before_it_is_taken_apart() -> None:
    with pytest.raises(WireError, match=f"limit {DATAGRAM_LIMIT}"):
        decode(b"W" + b"state\x001\0" * 80)


def test_every_key_has_room_in_one_transaction() -> None:
    nodes: dict[Key, Value] = dict.fromkeys(Key, 1)
    nodes |= {Key.UUID: UUID_1, Key.STATE: XenbusState.CLOSED, Key.ERROR: "x" * ERROR_LIMIT}
    assert decode(encode(Write(nodes))) == Write(nodes)


@pytest.mark.parametrize(
    ("reason", "text"),
    [("plain", "plain"), ("", "refused"), ("two\nlines\0", "two?lines?"), ("Ü" * 300, "?" * 200)],
)
def test_a_reason_is_made_fit_for_the_error_key(reason: str, text: str) -> None:
    assert error_text(reason) == text
    assert decode(encode(Write({Key.ERROR: text}))) == Write({Key.ERROR: text})


@given(st.binary(max_size=DATAGRAM_LIMIT + 8))
@example(b"W\0\0")
@example(b"W" + b"\0" * 511)
@example(b"W\xff\0\xff\0")
def test_any_bytes_are_a_message_or_the_one_error(datagram: bytes) -> None:
    try:
        message = decode(datagram)
    except WireError:
        return
    assert decode(encode(message)) == message


@given(
    st.lists(
        st.tuples(
            st.sampled_from([key.value.encode() for key in Key] + [b"", b"x"]),
            st.one_of(
                st.binary(max_size=12), st.sampled_from([b"1", b"0", str(UUID(int=7)).encode()])
            ),
        ),
        max_size=8,
    ),
    st.sampled_from([b"", b"\0", b"\0\0"]),
)
def test_any_pairs_are_a_transaction_or_the_one_error(
    pairs: list[tuple[bytes, bytes]], tail: bytes
) -> None:
    datagram = b"W" + b"".join(key + b"\0" + value + b"\0" for key, value in pairs) + tail
    try:
        message = decode(datagram)
    except WireError:
        return
    assert isinstance(message, Write)
    assert not tail
    assert len(message.nodes) == len(pairs)
