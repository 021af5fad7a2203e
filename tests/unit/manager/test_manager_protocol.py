# SPDX-License-Identifier: Apache-2.0
"""Framing and messages of the manager's protocol, both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import WireError
from protocol.manager import framing, messages, passthrough
from protocol.manager.constants import ManagementOrdinal, ManagerCode, ManagerTag, VtpmOrdinal

SAVE_64 = bytes.fromhex(
    "01c1"  # tag REQ
    "0000004a"  # paramSize 74
    "00000001"  # SAVEHASHKEY
) + bytes(range(1, 65))


def test_a_save_request_is_header_and_key_data() -> None:
    assert messages.encode_save_hash_key(bytes(range(1, 65))) == SAVE_64


@pytest.mark.parametrize("size_bytes", [0, 51, 65])
def test_key_data_of_other_lengths_is_neither_sent_nor_accepted(size_bytes: int) -> None:
    with pytest.raises(ValueError, match="52-64"):
        messages.encode_save_hash_key(bytes(size_bytes))
    with pytest.raises(WireError, match="52-64"):
        messages.decode_save_hash_key(bytes(size_bytes))


def test_the_older_form_is_padded_in_store_and_comes_back_as_it_was() -> None:
    stored = messages.decode_save_hash_key(b"\x07" * 52)
    assert stored == b"\x07" * 52 + bytes(12)
    assert messages.encode_load_hash_key_body(stored) == b"\x07" * 52


def test_a_vtpm_that_never_saved_has_52_zero_bytes_and_reads_as_no_image() -> None:
    body = messages.encode_load_hash_key_body(messages.NO_IMAGE)
    assert body == bytes(52)
    response = framing.success_response(body)
    assert messages.decode_load_hash_key_response(response) == messages.NO_IMAGE


@given(st.binary(min_size=52, max_size=64))
def test_what_is_saved_is_loaded(data: bytes) -> None:
    request = framing.parse_request(messages.encode_save_hash_key(data))
    stored = messages.decode_save_hash_key(request.body)
    response = framing.success_response(messages.encode_load_hash_key_body(stored))
    assert messages.decode_load_hash_key_response(response) == data.ljust(64, b"\0")


@pytest.mark.parametrize("declared", [0, 5, 73, 75, 0xFFFFFFFF])
def test_a_length_that_lies_is_refused(declared: int) -> None:
    with pytest.raises(WireError, match="paramSize"):
        framing.parse_request(SAVE_64[:2] + declared.to_bytes(4, "big") + SAVE_64[6:])


@pytest.mark.parametrize("size_bytes", range(10))
def test_less_than_a_header_is_refused_with_the_plain_tpm_tag(size_bytes: int) -> None:
    message = SAVE_64[:size_bytes]
    with pytest.raises(WireError, match="header"):
        framing.parse_request(message)
    assert framing.error_tag(message) == 0x00C4


@pytest.mark.parametrize(
    ("tag", "answer"),
    [(0x01C1, 0x01C4), (0x01C2, 0x01C5), (0x00C1, 0x00C4), (0x1234, 0x1237), (0xFFFF, 0x0002)],
)
def test_an_early_error_answers_with_the_tag_plus_three(tag: int, answer: int) -> None:
    assert framing.error_tag(tag.to_bytes(2, "big") + bytes(8)) == answer


def test_an_error_response_is_ten_bytes() -> None:
    response = framing.error_response(ManagerCode.DISABLED)
    assert response == bytes.fromhex("01c4 0000000a 00000007")
    with pytest.raises(framing.ManagerRefused) as refused:
        framing.decode_response(response)
    assert refused.value.code == ManagerCode.DISABLED


def test_a_response_longer_than_the_page_is_a_bug_of_the_caller() -> None:
    assert len(framing.success_response(bytes(4078))) == 4088
    with pytest.raises(ValueError, match="4089"):
        framing.success_response(bytes(4079))


@pytest.mark.parametrize(
    "response",
    [
        b"",
        bytes.fromhex("01c4 0000000a 000000"),  # short
        bytes.fromhex("01c4 0000000b 00000000"),  # lying paramSize
        bytes.fromhex("01c4 0000000b 00000009 00"),  # error with a body
        bytes.fromhex("00c4 0000000a 00000000"),  # success of another protocol
        bytes.fromhex("01c5 0000000a 00000000"),  # success with the error tag of REQ2
        bytes.fromhex("01c1 0000000a 00000000"),  # a request
        bytes.fromhex("01c4 0000000b 00000000 00"),  # SAVEHASHKEY has no result
    ],
)
def test_a_malformed_answer_to_a_save_is_no_success(response: bytes) -> None:
    with pytest.raises(WireError):
        messages.decode_save_hash_key_response(response)


@pytest.mark.parametrize("size_bytes", [0, 51, 53, 63, 65])
def test_key_data_of_other_lengths_is_not_taken_from_an_answer(size_bytes: int) -> None:
    with pytest.raises(WireError, match="52 or 64"):
        messages.decode_load_hash_key_response(framing.success_response(bytes(size_bytes)))


def test_management_requests_accept_the_early_error_tag() -> None:
    response = framing.error_response(ManagerCode.AUTHFAIL, ManagerTag.RSP2)
    with pytest.raises(framing.ManagerRefused, match="AUTHFAIL"):
        framing.decode_response(response, ManagerTag.REQ2)
    with pytest.raises(WireError, match="tag"):
        framing.decode_response(response, ManagerTag.REQ)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_a_wire_error(message: bytes) -> None:
    try:
        request = framing.parse_request(message)
    except WireError:
        return
    assert framing.encode_request(ManagerTag.REQ, request.ordinal, request.body)[6:] == message[6:]
    assert request.size_bytes == len(message)


@pytest.mark.parametrize(
    ("hex_request", "code"),
    [
        ("00c1 0000000e 00000046 00000010", ManagerCode.SUCCESS),
        ("00c1 0000000f 00000046 00000010 00", ManagerCode.BAD_PARAMETER),
        ("00c1 0000000a 00000046", ManagerCode.BAD_PARAMETER),
        ("00c1 0000000e 00000015 00000000", ManagerCode.SUCCESS),
        ("00c1 00000022 00000014 00000000" + "00" * 20, ManagerCode.DISABLED_CMD),  # Extend
        ("00c1 0000000a 0000000a", ManagerCode.DISABLED_CMD),  # OIAP
        ("00c2 0000000a 000000ce", ManagerCode.DISABLED_CMD),  # NV_WriteValueAuth
    ],
)
def test_only_random_bytes_and_pcr_values_of_the_hardware_may_be_asked(
    hex_request: str, code: ManagerCode
) -> None:
    request = framing.parse_request(bytes.fromhex(hex_request))
    assert passthrough.judge(request, admin=False) == code


def test_a_request_shows_no_body_in_its_repr() -> None:
    assert "0708" not in repr(framing.Request(0x01C1, 1, b"\x07\x08" * 30))


def test_ordinals_of_the_two_tags_do_not_overlap() -> None:
    assert not {o.value for o in VtpmOrdinal} & {o.value for o in ManagementOrdinal}
    assert sum(o < 0x02000400 for o in ManagementOrdinal) == 21, "Xen's, all of them"


QUOTE = messages.GetQuote(bytes(range(20)), bytes.fromhex("0003 010002"), 9)


def test_a_quote_request_is_data_selection_and_flags() -> None:
    assert QUOTE.encode() == (
        bytes.fromhex("01c1 00000027 00000004")  # REQ, 39 bytes, GET_QUOTE
        + bytes(range(20))  # externData
        + bytes.fromhex("0003 010002")  # PCRs 0 and 17
        + bytes.fromhex("00000009")  # HASH_UUID, GROUP_PUBKEY
    )


@given(st.binary(min_size=20, max_size=20), st.binary(max_size=300), st.integers(0, 0xFFFFFFFF))
def test_a_quote_request_is_read_as_it_was_written(data: bytes, select: bytes, flags: int) -> None:
    quote = messages.GetQuote(data, len(select).to_bytes(2, "big") + select, flags)
    request = framing.parse_request(quote.encode())
    assert (request.tag, request.ordinal) == (ManagerTag.REQ, VtpmOrdinal.GET_QUOTE)
    assert messages.GetQuote.decode(request.body) == quote


@pytest.mark.parametrize("size_bytes", range(29))
def test_a_cut_quote_request_is_refused(size_bytes: int) -> None:
    with pytest.raises(WireError, match="body"):
        messages.GetQuote.decode(QUOTE.encode()[10 : 10 + size_bytes])


def test_a_quote_request_with_a_tail_or_a_lying_selection_is_refused() -> None:
    body = QUOTE.encode()[10:]
    for wrong in (body + b"\0", body[:20] + b"\xff\xff" + body[22:]):
        with pytest.raises(WireError, match="body"):
            messages.GetQuote.decode(wrong)


def test_an_answer_is_a_signature_two_hashes_and_two_pcrs() -> None:
    body = bytes(256 + 4 * 20)
    assert QUOTE.decode_response(framing.success_response(body)) == body
    for wrong in (b"", body[:-20], body[:-1], body + bytes(20)):
        with pytest.raises(WireError, match="336"):
            QUOTE.decode_response(framing.success_response(wrong))
    with pytest.raises(framing.ManagerRefused, match="BAD_ORDINAL"):
        QUOTE.decode_response(framing.error_response(ManagerCode.BAD_ORDINAL))


def test_an_answer_without_hashes_and_pcrs_is_a_signature() -> None:
    quote = messages.GetQuote(bytes(20), bytes(2), 0)
    assert quote.decode_response(framing.success_response(bytes(256))) == bytes(256)
