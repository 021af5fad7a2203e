# SPDX-License-Identifier: Apache-2.0
"""TPM commands as a capture file (pcapng) that Wireshark's TPM dissector reads.

That dissector looks at TCP segments to and from port 2321, the one of the TPM simulators, and takes
each for one whole command or response. So each client is a TCP connection on the loopback network,
each message a segment, with sequence numbers and checksums as they would be. What the dissector
does not know of TPM 1.2 is said in the comment of each packet.

Source: draft-ietf-opsawg-pcapng; RFC 791, RFC 9293.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

TPM_PORT: Final = 2321
"""Where Wireshark expects TPM commands."""

_SECTION_HEADER: Final = 0x0A0D0D0A
_INTERFACE_DESCRIPTION: Final = 1
_ENHANCED_PACKET: Final = 6
_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_VERSION: Final = (1, 0)
_LENGTH_UNKNOWN: Final = -1
_LINKTYPE_IPV4: Final = 228
_NO_LIMIT: Final = 0
_OPT_END: Final = 0
_OPT_COMMENT: Final = 1
_SHB_USERAPPL: Final = 4
_IF_NAME: Final = 2
_US_PER_S: Final = 10**6
"""Of timestamps, where nothing else is said."""

_TPM_ADDRESS: Final = bytes([127, 0, 0, 1])
_CLIENT_NETWORK: Final = bytes([127, 1])
_FIRST_PORT: Final = 32768
"""Above TPM_PORT: the dissector takes the side with the higher port for the client."""
_PORTS: Final = 28000
_PROTOCOL_TCP: Final = 6
_DONT_FRAGMENT: Final = 0x4000
_TIME_TO_LIVE: Final = 64
_TCP_WORDS: Final = 5
_PSH_ACK: Final = 0x18
_WINDOW: Final = 0xFFFF
_FIRST_SEQUENCE: Final = 1
_COMMENT_LIMIT_BYTES: Final = 8192
FLOWS_LIMIT: Final = 4096
"""Connections that are remembered; a client that comes back later is one more."""


@dataclass(slots=True)
class _Flow:
    """A connection.

    Attributes:
        address, port: of the client.
        client_sequence, tpm_sequence: of the next byte that each will send.
    """

    address: bytes
    port: int
    client_sequence: int = _FIRST_SEQUENCE
    tpm_sequence: int = _FIRST_SEQUENCE


class Capture:
    """A capture file while it grows."""

    def __init__(self, interface: str) -> None:
        """Args:
        interface: name of what is listened to.
        """
        self._interface = interface
        self._flows: dict[Hashable, _Flow] = {}
        # All that there were.
        self._flow_count = 0

    def beginning(self) -> bytes:
        """Return what a capture file begins with."""
        section = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, *_VERSION, _LENGTH_UNKNOWN)
        interface = struct.pack("<HHI", _LINKTYPE_IPV4, 0, _NO_LIMIT)
        return _block(_SECTION_HEADER, section, [(_SHB_USERAPPL, b"vtpmctl trace")]) + _block(
            _INTERFACE_DESCRIPTION, interface, [(_IF_NAME, self._interface.encode())]
        )

    def packets(
        self,
        flow: Hashable,
        command: tuple[bytes, float, str],
        response: tuple[bytes, float, str],
    ) -> bytes:
        """Return what is added for a command and its response.

        Args:
            flow: what tells one client from another.
            command: its bytes, its unix time in seconds, and a comment.
            response: likewise.
        """
        # Taken out and put in behind the others: the first one is that of the longest ago.
        way = self._flows.pop(flow, None)
        if way is None:
            if len(self._flows) >= FLOWS_LIMIT:
                del self._flows[next(iter(self._flows))]
            way = _new_flow(self._flow_count)
            self._flow_count += 1
        self._flows[flow] = way
        sent, answered = command[0], response[0]
        asked = _packet(_to_tpm(way, sent), *command[1:])
        way.client_sequence = (way.client_sequence + len(sent)) % 2**32
        told = _packet(_from_tpm(way, answered), *response[1:])
        way.tpm_sequence = (way.tpm_sequence + len(answered)) % 2**32
        return asked + told


def _packet(packet: bytes, unix_time: float, comment: str) -> bytes:
    time_us = round(unix_time * _US_PER_S)
    head = struct.pack("<IIIII", 0, time_us >> 32, time_us & 0xFFFFFFFF, len(packet), len(packet))
    text = comment.encode()[:_COMMENT_LIMIT_BYTES]
    # A character that is cut in two is none.
    text = text.decode(errors="ignore").encode()
    return _block(_ENHANCED_PACKET, head + _padded(packet), [(_OPT_COMMENT, text)])


def _block(kind: int, body: bytes, options: list[tuple[int, bytes]]) -> bytes:
    written = [struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options]
    content = body + b"".join(written) + struct.pack("<HH", _OPT_END, 0)
    size = struct.pack("<I", 12 + len(content))
    return struct.pack("<I", kind) + size + content + size


def _new_flow(number: int) -> _Flow:
    host = (number // _PORTS + 1) % 2**16
    return _Flow(_CLIENT_NETWORK + host.to_bytes(2, "big"), _FIRST_PORT + number % _PORTS)


def _to_tpm(flow: _Flow, payload: bytes) -> bytes:
    numbers = (flow.port, TPM_PORT, flow.client_sequence, flow.tpm_sequence)
    return _ip_packet(flow.address, _TPM_ADDRESS, numbers, payload)


def _from_tpm(flow: _Flow, payload: bytes) -> bytes:
    numbers = (TPM_PORT, flow.port, flow.tpm_sequence, flow.client_sequence)
    return _ip_packet(_TPM_ADDRESS, flow.address, numbers, payload)


def _ip_packet(
    source: bytes, target: bytes, numbers: tuple[int, int, int, int], payload: bytes
) -> bytes:
    """Return an IPv4 packet with one TCP segment.

    Args:
        numbers: source port, target port, sequence and acknowledgement number.
    """
    flags = _TCP_WORDS << 12 | _PSH_ACK
    tcp = struct.pack(">HHIIHHHH", *numbers, flags, _WINDOW, 0, 0)
    pseudo = source + target + struct.pack(">HH", _PROTOCOL_TCP, len(tcp) + len(payload))
    sum_bytes = _checksum(pseudo + tcp + payload)
    tcp = tcp[:16] + sum_bytes + tcp[18:]
    size = 20 + len(tcp) + len(payload)
    first = (0x45, 0, size, 0, _DONT_FRAGMENT, _TIME_TO_LIVE, _PROTOCOL_TCP)
    ip = struct.pack(">BBHHHBB", *first) + bytes(2) + source + target
    ip = ip[:10] + _checksum(ip) + ip[12:]
    return ip + tcp + payload


def _checksum(data: bytes) -> bytes:
    """Return the ones' complement of the ones' complement sum of all u16 (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total = sum([int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2)])
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (total ^ 0xFFFF).to_bytes(2, "big")


def _padded(data: bytes) -> bytes:
    """Return data filled up to a multiple of four bytes."""
    return data + bytes(-len(data) % 4)
