# SPDX-License-Identifier: Apache-2.0
"""The shared page, byte for byte."""

from __future__ import annotations

import pytest

from protocol.errors import WireError
from protocol.tpmif.page import PageState, Request, SharedPage, capacity_bytes, memory_size
from tests.unit.tpmif.link import REQUEST, RESPONSE


@pytest.mark.parametrize(
    ("extra_pages", "capacity"), [(0, 4088), (1, 8180), (2, 12272), (255, 1047548)]
)
def test_capacity_is_what_header_and_grant_list_leave(extra_pages: int, capacity: int) -> None:
    assert capacity_bytes(extra_pages) == capacity


def test_a_request_is_laid_out_as_the_header_says() -> None:
    memory = bytearray(4096)
    SharedPage(memoryview(memory)).put_request(REQUEST, 3, 0)
    assert memory[:22].hex(" ") == (
        "0e 00 00 00 "  # length 14, little-endian
        "01 "  # SUBMIT
        "03 "  # locality
        "00 "  # pad
        "00 "  # no extra pages
        "00 c1 00 00 00 0e 00 00 00 46 00 00 00 14"  # the packet, big-endian
    )
    assert not any(memory[22:])


def test_a_request_with_extra_pages_lists_them_before_the_packet() -> None:
    memory = bytearray(3 * 4096)
    SharedPage(memoryview(memory)).put_request(REQUEST, 0, 2)
    assert memory[:30].hex(" ") == (
        "0e 00 00 00 01 00 00 02 "
        "01 00 00 00 "  # first extra page: page 1 of the grant
        "02 00 00 00 "  # second: page 2
        "00 c1 00 00 00 0e 00 00 00 46 00 00 00 14"
    )


def test_a_packet_continues_in_the_extra_pages() -> None:
    memory = bytearray(2 * 4096)
    page = SharedPage(memoryview(memory))
    packet = bytes(range(256)) * 31 + bytes(244)
    assert len(packet) == capacity_bytes(1)
    page.put_request(packet, 0, 1)
    assert memory[12:] == packet
    assert page.copy_packet(len(packet), 1) == packet


def test_a_response_is_laid_out_as_the_header_says_and_leaves_the_frontends_fields() -> None:
    memory = bytearray(4096)
    page = SharedPage(memoryview(memory))
    page.put_request(REQUEST, 4, 0)
    page.put_response(RESPONSE, 0)
    assert memory[:18].hex(" ") == "0a 00 00 00 02 04 00 00 00 c4 00 00 00 0a 00 00 00 00"
    assert page.response_length() == 10


def test_a_request_is_taken_with_the_length_that_was_claimed() -> None:
    memory = bytearray(4096)
    memory[:8] = bytes.fromhex("ffffffff 01 ff 00 00")
    assert SharedPage(memoryview(memory)).take_request() == Request(0xFFFFFFFF, 255, 0)


def test_more_extra_pages_than_granted_are_refused() -> None:
    memory = bytearray(2 * 4096)
    memory[:8] = bytes.fromhex("0e000000 01 00 00 02")
    with pytest.raises(WireError, match="2 pages used, 1 granted"):
        SharedPage(memoryview(memory)).take_request()


@pytest.mark.parametrize("reference", [0, 2, 3, 0xFFFFFFFF])
def test_a_grant_reference_that_is_not_the_next_page_is_refused(reference: int) -> None:
    memory = bytearray(2 * 4096)
    memory[:12] = bytes.fromhex("0e000000 01 00 00 01") + reference.to_bytes(4, "little")
    with pytest.raises(WireError, match="extra_pages"):
        SharedPage(memoryview(memory)).take_request()


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 257 * 4096])
def test_memory_that_is_not_whole_pages_is_refused(size: int) -> None:
    with pytest.raises(WireError, match="grant"):
        SharedPage(memoryview(bytearray(size)))


def test_read_only_memory_is_refused() -> None:
    with pytest.raises(WireError, match="read-only"):
        SharedPage(memoryview(bytes(4096)))


def test_the_state_byte_is_given_as_it_is() -> None:
    memory = bytearray(memory_size(0))
    page = SharedPage(memoryview(memory))
    for value in range(256):
        memory[4] = value
        assert page.state == value
    page.state = PageState.CANCEL
    assert memory[:8].hex() == "0000000003000000"
