# SPDX-License-Identifier: Apache-2.0
"""Requests of swtpm's control channel: whole in any segmentation, and never anything but one of the
known kinds."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.errors import WireError
from protocol.swtpm import (
    CAPABILITIES,
    Command,
    GetInfo,
    GetStateBlob,
    HashData,
    Init,
    LockStorage,
    Malformed,
    Plain,
    Request,
    ResetEstablished,
    SetBufferSize,
    SetLocality,
    SetStateBlob,
    Unknown,
    missing_bytes,
    parse_request,
    responses,
)

WHOLE: list[tuple[str, Request]] = [
    # code, body
    ("00000001", Plain(Command.GET_CAPABILITY)),
    ("00000002 00000001", Init(1)),
    ("00000002 00000000", Init(0)),
    ("00000003", Plain(Command.SHUTDOWN)),
    ("00000004", Plain(Command.GET_TPMESTABLISHED)),
    ("00000005 03", SetLocality(3)),
    ("00000005 03000000", SetLocality(3)),
    ("00000005 ff", SetLocality(255)),
    ("00000006", Plain(Command.HASH_START)),
    ("00000007 00000003 616263", HashData(3, b"abc")),
    ("00000007 00000000", HashData(0, b"")),
    ("00000007 ffffffff", HashData(0xFFFFFFFF, b"")),
    ("00000008", Plain(Command.HASH_END)),
    ("00000009", Plain(Command.CANCEL_TPM_CMD)),
    ("0000000a", Plain(Command.STORE_VOLATILE)),
    ("0000000b 04", ResetEstablished(4)),
    ("0000000b 04aabbcc", ResetEstablished(4)),  # the padding may be anything
    ("0000000c 00000001 00000002 00000003", GetStateBlob(1, 2, 3)),
    ("0000000d 00000002 00000001 00000004 01", SetStateBlob(2, 1, 4, b"\x01")),
    ("0000000e", Plain(Command.STOP)),
    ("0000000f", Plain(Command.GET_CONFIG)),
    ("00000010", Plain(Command.SET_DATAFD)),
    ("00000011 00001000", SetBufferSize(4096)),
    ("00000012 0000000100000002 00000003 ffffffff", GetInfo(0x1_0000_0002, 3)),
    ("00000013 0000012c", LockStorage(300)),
    ("00000000", Unknown(0)),
    ("00000014", Unknown(0x14)),
    ("ffffffff 616263", Unknown(0xFFFFFFFF)),
]
ANNOUNCING = (HashData, SetStateBlob, Unknown)


@pytest.mark.parametrize(("text", "request_"), WHOLE, ids=[text for text, _ in WHOLE])
def test_a_request_is_what_its_bytes_say(text: str, request_: Request) -> None:
    assert parse_request(bytes.fromhex(text)) == request_


@pytest.mark.parametrize(("text", "request_"), WHOLE, ids=[text for text, _ in WHOLE])
def test_nothing_is_missing_only_once_it_is_whole(text: str, request_: Request) -> None:
    """In every prefix as much is missing as the shortest request that begins so still needs."""
    received = bytes.fromhex(text)
    for end in range(len(received)):
        missing = missing_bytes(received[:end])
        if missing:
            assert end + missing <= len(received)
            with pytest.raises(WireError):
                parse_request(received[:end])
        elif isinstance(request_, SetLocality | ResetEstablished):
            assert end == 5  # the one byte, without the padding
        else:
            assert isinstance(request_, ANNOUNCING)  # its data may come later
    assert missing_bytes(received) == 0


@given(st.data())
def test_it_is_read_alike_in_every_segmentation(data: st.DataObject) -> None:
    """A reader that asks what is missing, whatever sizes the bytes come in, ends with the request;
    the padding behind a locality may be told apart only if some of it is there."""
    text, expected = data.draw(st.sampled_from(WHOLE))
    stream = bytes.fromhex(text)
    received = b""
    while missing_bytes(received):
        left = len(stream) - len(received)
        assert left > 0
        size = data.draw(st.integers(1, left))
        received += stream[len(received) : len(received) + size]
    found = parse_request(received)
    if isinstance(expected, HashData):
        assert isinstance(found, HashData)
        assert found.length == expected.length
        assert expected.data.startswith(found.data)
    elif isinstance(expected, SetStateBlob):
        assert isinstance(found, SetStateBlob)
        assert (found.flags, found.kind, found.length) == (2, 1, 4)
        assert expected.data.startswith(found.data)
    else:
        assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "00000002 00000000 00",  # INIT: exactly four bytes
        "00000003 00",
        "00000004 00000000",
        "00000005 0300000000",
        "00000006 00",
        "00000007 00000003 61626364",  # more than was announced
        "00000008 00",
        "00000009 00",
        "0000000a 00",
        "0000000b 0400000000",
        "0000000c 00000001 00000002 00000003 00",
        "0000000d 00000002 00000001 00000001 0102",
        "0000000e 00",
        "0000000f 00",
        "00000010 00",
        "00000011 00001000 00",
        "00000012 0000000000000002 00000003 00000000 00",
        "00000013 0000012c 00",
    ],
)
def test_a_body_that_the_command_does_not_have_is_malformed(text: str) -> None:
    received = bytes.fromhex(text)
    found = parse_request(received)
    assert isinstance(found, Malformed)
    assert found.command == received[3]


def test_the_capabilities_are_given_whatever_comes_with_the_question() -> None:
    assert parse_request(bytes.fromhex("00000001 00112233")) == Plain(Command.GET_CAPABILITY)


@given(st.binary(max_size=40))
@example(b"\0\0\0\x05\1\2\3")
def test_any_bytes_miss_something_or_are_a_request(received: bytes) -> None:
    missing = missing_bytes(received)
    assert 0 <= missing <= 20
    if missing:
        # What is asked for is no more than needed: with one less there is still something missing.
        assert missing_bytes(received + bytes(missing - 1)) > 0
    else:
        parse_request(received)


def test_answers_have_the_sizes_that_clients_read() -> None:
    assert responses.result(61).hex() == "0000003d"
    assert responses.capability(CAPABILITIES).hex() == "0000000000017fff"
    assert responses.established(0, is_established=True).hex() == "0000000001000000"
    assert responses.established(10, is_established=False).hex() == "0000000a00000000"
    assert responses.state_blob(0, 2, b"abc").hex() == "00000000000000020000000300000003616263"
    assert responses.config(3).hex() == "0000000000000003"
    assert responses.buffer_size(4088, 3072, 4088).hex() == "0000000000000ff800000c0000000ff8"


@given(st.binary(min_size=1, max_size=9000))
def test_a_text_is_had_in_pages_with_its_final_nul(text: bytes) -> None:
    collected, total = b"", None
    while total is None or len(collected) < total:
        answer = responses.info(text, len(collected))
        assert answer is not None
        assert answer[:4] == bytes(4)
        total = int.from_bytes(answer[4:8], "big")
        assert int.from_bytes(answer[8:12], "big") == len(answer) - 12 <= 3072
        collected += answer[12:]
    assert collected == text + b"\0"


@pytest.mark.parametrize("offset", [3, 4, 0xFFFFFFFF])
def test_there_is_nothing_at_the_end_of_a_text(offset: int) -> None:
    assert responses.info(b"{}\n", offset) is None
