# SPDX-License-Identifier: Apache-2.0
"""Capture files: read by another reader, they have what was written, as TCP to a TPM's port."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.vtpmctl import pcapng
from daemons.vtpmctl.pcapng import Capture
from tests.unit.vtpmctl.packets import Packet, read_capture

COMMAND = bytes.fromhex("00c1 0000000e 00000015 0000000a")
RESPONSE = bytes.fromhex("00c4 0000001e 00000000") + bytes(20)


def _written(*exchanges: tuple[str, bytes, bytes]) -> tuple[str, list[Packet]]:
    capture = Capture("g1")
    out = capture.beginning()
    for number, (flow, command, response) in enumerate(exchanges):
        out += capture.packets(
            flow,
            (command, 1_764_000_000.25 + number, f"asks {number}"),
            (response, 1_764_000_000.5 + number, f"told {number}"),
        )
    return read_capture(out)


def test_a_command_and_its_response_are_segments_of_a_connection_to_the_tpm() -> None:
    name, (asked, told) = _written(("a", COMMAND, RESPONSE))
    assert name == "g1"
    assert (asked.payload, told.payload) == (COMMAND, RESPONSE)
    assert (asked.comment, told.comment) == ("asks 0", "told 0")
    assert (asked.time_us, told.time_us) == (1764000000250000, 1764000000500000)
    assert asked.target == told.source == ("127.0.0.1", 2321)
    assert asked.source == told.target
    # The dissector takes the higher port for the client's.
    assert asked.source[1] > 2321


def test_sequence_numbers_grow_with_what_was_sent() -> None:
    _, packets = _written(*[("a", COMMAND, RESPONSE)] * 3)
    asked, told = packets[::2], packets[1::2]
    assert [one.sequence for one in asked] == [1, 15, 29]
    assert [one.acknowledged for one in asked] == [1, 31, 61]
    assert [one.sequence for one in told] == [1, 31, 61]
    assert [one.acknowledged for one in told] == [15, 29, 43]


def test_each_client_has_a_connection_of_its_own() -> None:
    _, packets = _written(*[(flow, COMMAND, RESPONSE) for flow in "abab"])
    clients = [one.source for one in packets[::2]]
    assert clients[0] == clients[2] != clients[1] == clients[3]
    assert [one.sequence for one in packets[::2]] == [1, 1, 15, 15]


def test_a_client_of_long_ago_is_a_new_one_and_nobody_has_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pcapng, "FLOWS_LIMIT", 3)
    _, packets = _written(*[(flow, COMMAND, RESPONSE) for flow in "abacdba"])
    clients = [one.source for one in packets[::2]]
    assert len(set(clients)) == 6
    # "b" was forgotten for "d"; "a", which was seen between, was so for the new "b".
    assert clients[0] == clients[2] != clients[6]
    assert [one.sequence for one in packets[::2]] == [1, 1, 15, 1, 1, 1, 1]


def test_more_clients_than_ports_do_not_share_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pcapng, "_PORTS", 3)
    _, packets = _written(*[(flow, COMMAND, RESPONSE) for flow in "abcdefgh"])
    clients = [one.source for one in packets[::2]]
    assert len(set(clients)) == 8
    assert {port for _, port in clients} == {32768, 32769, 32770}


@given(
    messages=st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=5),
    comment=st.text(max_size=5000),
)
def test_whatever_is_written_is_read_again(
    messages: list[tuple[bytes, bytes]], comment: str
) -> None:
    capture = Capture("g\u00e4st")
    out = capture.beginning()
    comment = comment.encode(errors="replace").decode()
    for command, response in messages:
        out += capture.packets("a", (command, 2.0, comment), (response, 3.0, ""))
    name, packets = read_capture(out)
    assert name == "g\u00e4st"
    assert [one.payload for one in packets] == [part for pair in messages for part in pair]
    for one in packets[::2]:
        assert comment.startswith(one.comment)
        assert one.comment == comment or len(one.comment.encode()) > 8000
