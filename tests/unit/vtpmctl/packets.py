# SPDX-License-Identifier: Apache-2.0
"""Reads a capture file as its specification says, without the code that wrote it.

Source: draft-ietf-opsawg-pcapng; RFC 791, RFC 9293, RFC 1071.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Packet:
    """A TCP segment."""

    time_us: int
    source: tuple[str, int]
    target: tuple[str, int]
    sequence: int
    acknowledged: int
    payload: bytes
    comment: str


def read_capture(data: bytes) -> tuple[str, list[Packet]]:
    """Return the name of the only interface, and all packets; anything wrong is an assertion."""
    blocks = list(_blocks(data))
    (section, section_body), (interface, interface_body) = blocks[:2]
    assert (section, interface) == (0x0A0D0D0A, 1)
    assert section_body[:8] == struct.pack("<IHH", 0x1A2B3C4D, 1, 0)
    assert section_body[8:16] == b"\xff" * 8
    link_type, reserved, limit = struct.unpack_from("<HHI", interface_body)
    assert (link_type, reserved, limit) == (228, 0, 0)
    options = _options(interface_body[8:])
    assert 9 not in options, "microseconds"
    packets = []
    for kind, body in blocks[2:]:
        assert kind == 6
        number, high, low, captured, original = struct.unpack_from("<5I", body)
        assert (number, captured) == (0, original)
        end = 20 + captured + -captured % 4
        comment = _options(body[end:])[1].decode()
        packets.append(_packet(high << 32 | low, body[20 : 20 + captured], comment))
    return options[2].decode(), packets


def _blocks(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        kind, size = struct.unpack_from("<II", data)
        assert size % 4 == 0
        assert struct.unpack_from("<I", data, size - 4) == (size,)
        found.append((kind, data[8 : size - 4]))
        data = data[size:]
    return found


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while True:
        code, size = struct.unpack_from("<HH", data)
        if code == 0:
            assert (size, len(data)) == (0, 4)
            return found
        assert code not in found
        found[code] = data[4 : 4 + size]
        data = data[4 + size + -size % 4 :]


def _packet(time_us: int, data: bytes, comment: str) -> Packet:
    assert data[0] == 0x45
    assert int.from_bytes(data[2:4], "big") == len(data)
    assert data[9] == 6, "TCP"
    assert _sum(data[:20]) == 0xFFFF
    tcp = data[20:]
    pseudo = data[12:20] + struct.pack(">HH", 6, len(tcp))
    assert _sum(pseudo + tcp) == 0xFFFF
    source_port, target_port, sequence, acknowledged, flags = struct.unpack_from(">HHIIH", tcp)
    assert flags == 0x5018, "five words, PSH and ACK"
    return Packet(
        time_us,
        (".".join(map(str, data[12:16])), source_port),
        (".".join(map(str, data[16:20])), target_port),
        sequence,
        acknowledged,
        tcp[20:],
        comment,
    )


def _sum(data: bytes) -> int:
    """Return the ones' complement sum, which is all ones over what has a right checksum."""
    total = 0
    for index, value in enumerate(data):
        total += value << (0 if index % 2 else 8)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
