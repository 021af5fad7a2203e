# SPDX-License-Identifier: Apache-2.0
"""Where a TPM is served over TCP: `[ADDRESS:]PORT[=LOCALITY]`, on command lines and in files alike.

Whoever reaches such a place may use the TPM: TCP tells nobody's user, and nothing of it is
encrypted. So an address outside of the loopback interface must be asked for twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

LOOPBACK: Final = IPv4Address("127.0.0.1")
MAX_LOCALITY: Final = 4
MAX_ENDPOINTS: Final = 8

IpAddress = IPv4Address | IPv6Address

_ENDPOINT: Final = re.compile(
    r"(?:(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+)):)?(?P<port>[0-9]{1,5})"
    r"(?:=(?P<locality>[0-9]))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A listening TCP socket and the locality of every command that comes through it.

    Attributes:
        address: of the interface; 0.0.0.0 and :: are all of them.
        port: 1 to 65535.
        locality: 0 to 4.
    """

    address: IpAddress
    port: int
    locality: int = 0

    @property
    def place(self) -> str:
        """Address and port as they are written, an IPv6 address in brackets."""
        return place_of(self.address, self.port)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.address.is_loopback

    def __str__(self) -> str:
        """The whole endpoint, as `parse_endpoint` takes it."""
        return f"{self.place}={self.locality}" if self.locality else self.place


def place_of(address: IpAddress, port: int) -> str:
    """Return an address with a port as they are written together."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def parse_endpoint(text: str) -> TcpEndpoint:
    """Return the endpoint that a text names; without an address it is 127.0.0.1.

    Raises:
        ValueError: it names none. A host's name is none: who would answer is not ours to decide.
    """
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not [ADDRESS:]PORT[=LOCALITY], with an IPv6 ADDRESS in []")
    try:
        address = ip_address(match["six"] or match["four"] or str(LOOPBACK))
    except ValueError:
        raise ValueError(f"{text!r}: not an IP address before the port") from None
    port, locality = int(match["port"]), int(match["locality"] or 0)
    if not 1 <= port <= 0xFFFF:
        raise ValueError(f"{text!r}: the port must be 1 to 65535")
    if locality > MAX_LOCALITY:
        raise ValueError(f"{text!r}: the locality must be 0 to {MAX_LOCALITY}")
    return TcpEndpoint(address, port, locality)


def check_endpoints(endpoints: tuple[TcpEndpoint, ...], *, any_address: bool) -> None:
    """See that these may be served together.

    Args:
        endpoints: all of one guest.
        any_address: whether others than loopback ones are asked for.

    Raises:
        ValueError: two are the same place, there are too many, or one is for other machines and
            that was not asked for.
    """
    if len(endpoints) > MAX_ENDPOINTS:
        raise ValueError(f"{len(endpoints)} TCP sockets, at most {MAX_ENDPOINTS}")
    places = [endpoint.place for endpoint in endpoints]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"{place} stands twice")
    for endpoint in endpoints:
        if not endpoint.is_loopback and not any_address:
            raise ValueError(
                f"{endpoint.place} is open to other machines, unauthenticated and unencrypted; "
                "who wants that says so (--tcp-any-address, tcp_any_address = true)"
            )
