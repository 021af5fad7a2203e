# SPDX-License-Identifier: Apache-2.0
"""Register accesses as messages: both directions, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import WireError
from protocol.tis.framing import (
    Burst,
    BurstRead,
    BurstWrite,
    InterruptMessage,
    Read,
    Reply,
    Request,
    Value,
    Write,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

WIDTHS = st.sampled_from([1, 2, 4])
TAGS = st.integers(0, 0xFFFF)
OFFSETS = st.integers(0, 0xFFC)

REQUESTS = st.one_of(
    st.builds(Read, TAGS, OFFSETS, WIDTHS),
    st.builds(Write, OFFSETS, WIDTHS.flatmap(lambda n: st.binary(min_size=n, max_size=n))),
    st.builds(BurstRead, TAGS, st.integers(1, 255)),
    st.builds(BurstWrite, st.binary(min_size=1, max_size=255)),
)
REPLIES = st.one_of(
    st.builds(Value, TAGS, WIDTHS.flatmap(lambda n: st.binary(min_size=n, max_size=n))),
    st.builds(Burst, TAGS, st.binary(max_size=255)),
    st.builds(InterruptMessage, st.integers(0, 4)),
)


@given(REQUESTS)
def test_a_request_survives_its_message(request: Request) -> None:
    assert decode_request(encode_request(request)) == request


@given(REPLIES)
def test_a_reply_survives_its_message(reply: Reply) -> None:
    assert decode_reply(encode_reply(reply)) == reply


@given(REQUESTS)
def test_a_request_cut_short_or_with_a_tail_is_refused(request: Request) -> None:
    message = encode_request(request)
    for size in range(len(message)):
        with pytest.raises(WireError):
            decode_request(message[:size])
    with pytest.raises(WireError):
        decode_request(message + b"\0")


@given(REPLIES)
def test_a_reply_cut_short_or_with_a_tail_is_refused(reply: Reply) -> None:
    message = encode_reply(reply)
    for size in range(len(message)):
        with pytest.raises(WireError):
            decode_reply(message[:size])
    with pytest.raises(WireError):
        decode_reply(message + b"\0")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_the_one_error(message: bytes) -> None:
    try:
        request = decode_request(message)
    except WireError:
        return
    assert encode_request(request) == message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_reply_or_the_one_error(message: bytes) -> None:
    try:
        reply = decode_reply(message)
    except WireError:
        return
    assert encode_reply(reply) == message


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("", "access"),
        ("0104000018", "access"),  # header one byte short
        ("000400001800", "access.operation"),
        ("050400001800", "access.operation"),
        ("010000001800", "access.size"),  # width 0
        ("010300001800", "access.size"),  # width 3
        ("010800001800", "access.size"),  # width 8
        ("01040000fd0f", "access.offset"),  # 4 bytes at 0xFFD
        ("010100000010", "access.offset"),  # the next page
        ("030000002400", "access.size"),  # burst of 0 bytes
        ("030100002500", "access.offset"),  # burst beside the FIFO
        ("02010100180040", "access.tag"),  # a write with a tag
        ("040200002400aa", "access"),  # burst with a byte missing
    ],
)
def test_a_malformed_access_names_its_field(message: str, field: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_request(bytes.fromhex(message))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("8100", "reply"),
        ("81030000aabbcc", "value.size"),
        ("8f050000", "interrupt.locality"),
        ("8f000100", "interrupt.tag"),
        ("8f00000000", "interrupt"),
        ("00000000", "reply.kind"),
    ],
)
def test_a_malformed_reply_names_its_field(message: str, field: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_reply(bytes.fromhex(message))
    assert caught.value.field == field


def test_messages_have_the_documented_bytes() -> None:
    assert encode_request(Read(0x1234, 0x18, 4)).hex() == "010434121800"
    assert encode_request(Write(0x18, b"\x40")).hex() == "02010000180040"
    assert encode_request(BurstRead(1, 22)).hex() == "031601002400"
    assert encode_request(BurstWrite(b"\x00\xc1")).hex() == "04020000240000c1"
    assert encode_reply(Value(0x1234, b"\x90\x16\x00\x00")).hex() == "8104341290160000"
    assert encode_reply(Burst(1, b"\x00\xc4")).hex() == "8302010000c4"
    assert encode_reply(InterruptMessage(2)).hex() == "8f020000"
