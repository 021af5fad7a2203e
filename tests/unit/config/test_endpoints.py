# SPDX-License-Identifier: Apache-2.0
"""Where a TPM may be served over TCP, as it is written."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from daemons.runtime.config.endpoints import TcpEndpoint, check_endpoints, parse_endpoint


@pytest.mark.parametrize(
    ("text", "address", "port", "locality"),
    [
        ("6545", "127.0.0.1", 6545, 0),
        ("6545=2", "127.0.0.1", 6545, 2),
        ("127.0.0.9:1", "127.0.0.9", 1, 0),
        ("[::1]:65535=4", "::1", 65535, 4),
        ("192.0.2.1:6545", "192.0.2.1", 6545, 0),
    ],
)
def test_an_endpoint_is_address_port_and_locality(
    text: str, address: str, port: int, locality: int
) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint == TcpEndpoint(ip_address(address), port, locality)
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "localhost:6545", ":6545", "0", "65536", "6545=5", "6545=", "6545=-1", "-1"),
        *("::1:6545", "[::1]", "[127.0.0.1:6545", "127.0.0.256:1", "[zz]:1", "1.2.3:1", "6545=12"),
        *("6545 ", "٦٥٤٥", "127.0.0.1:6545\n"),
    ],
)
def test_nothing_else_is_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"TCP|ADDRESS|port|locality|IP address"):
        parse_endpoint(text)


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]", "192.0.2.1", "[2001:db8::1]", "10.0.0.1"])
def test_what_other_machines_reach_is_asked_for_twice(address: str) -> None:
    endpoints = (parse_endpoint(f"{address}:6545"),)
    with pytest.raises(ValueError, match="is open to other machines"):
        check_endpoints(endpoints, any_address=False)
    check_endpoints(endpoints, any_address=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.255.254", "[::1]"])
def test_the_loopback_network_is_of_this_machine(address: str) -> None:
    check_endpoints((parse_endpoint(f"{address}:6545"),), any_address=False)


def test_one_place_has_one_locality() -> None:
    endpoints = (parse_endpoint("6545"), parse_endpoint("127.0.0.1:6545=2"))
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:6545 stands twice"):
        check_endpoints(endpoints, any_address=False)
