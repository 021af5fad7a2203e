# SPDX-License-Identifier: Apache-2.0
"""Listening TCP sockets, passed by the supervisor or our own."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from daemons.runtime.config.endpoints import TcpEndpoint, parse_endpoint
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.tpmfront.tcp import listen_tcp


class Listening:
    """What listens, and what was said about it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stack = ExitStack()

    def __call__(
        self,
        inherited: Sequence[socket.socket] = (),
        wanted: Sequence[str] = (),
        *,
        any_address: bool = False,
    ) -> list[TcpEndpoint]:
        """Listen; the sockets passed stay open, as they do in the supervisor."""
        bound = listen_tcp(
            [os.dup(one.fileno()) for one in inherited],
            [parse_endpoint(text) for text in wanted],
            self.stack,
            Log("test", sink=self.lines.append),
            any_address=any_address,
            backlog=8,
        )
        return [endpoint for _, endpoint in bound]


@pytest.fixture
def listening() -> Listening:
    return Listening()


@pytest.fixture(autouse=True)
def _closed(listening: Listening) -> object:
    with listening.stack:
        yield


def place(made: socket.socket) -> str:
    return "{}:{}".format(*made.getsockname())


def test_a_passed_socket_is_the_endpoint_of_its_address(listening: Listening) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        (endpoint,) = listening([passed], [f"{place(passed)}=2"])
        assert (endpoint.place, endpoint.locality) == (place(passed), 2)


def test_a_passed_socket_that_nobody_has_configured_is_served_at_locality_0(
    listening: Listening,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        (endpoint,) = listening([passed])
        assert (endpoint.place, endpoint.locality) == (place(passed), 0)


def test_a_passed_socket_for_other_machines_is_no_consent_of_the_guests_file(
    listening: Listening,
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as passed:
        with pytest.raises(DaemonError, match=r"tcp: 0\.0\.0\.0:\d+ is open to other machines"):
            listening([passed])
        listening([passed], any_address=True)
    (line,) = listening.lines
    assert "warning: other machines may use this TPM" in line


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_passed_socket_that_does_not_listen_is_refused(
    listening: Listening, kind: socket.SocketKind
) -> None:
    with socket.socket(socket.AF_INET, kind) as passed:
        passed.bind(("127.0.0.1", 0))
        with pytest.raises(DaemonError, match="inherited socket tcp is no listening TCP socket"):
            listening([passed])


def test_a_passed_unix_socket_is_refused(listening: Listening) -> None:
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind("")
        passed.listen()
        with pytest.raises(DaemonError, match="inherited socket tcp is no listening TCP socket"):
            listening([passed])


def test_a_passed_file_is_refused(listening: Listening) -> None:
    fd = os.memfd_create("x")
    with pytest.raises(DaemonError, match="inherited descriptor tcp is not a socket"):
        listen_tcp([fd], (), listening.stack, Log("test"), any_address=False, backlog=8)
    os.close(fd)


def test_a_port_that_is_taken_is_named_and_nothing_is_left_open(listening: Listening) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        other = place(free)
        free.close()
        with pytest.raises(DaemonError, match=f"TCP {place(taken)} is in use by another process"):
            listening(wanted=[other, place(taken)])
        listening.stack.close()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(other.rpartition(":")[2]))) != 0


def test_an_address_that_is_not_here_is_named(listening: Listening) -> None:
    with pytest.raises(DaemonError, match=r"TCP 192\.0\.2\.1:6545 cannot be had from here"):
        listening(wanted=["192.0.2.1:6545"], any_address=True)
