# SPDX-License-Identifier: Apache-2.0
"""A guest's TPM over TCP under a real systemd: the socket is made outside of the daemon's sandbox,
which stays as it is for all guests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ports import free_port
from tests.integration.suite_machine import SuiteMachine, pair, suite_machine, transact

GET_RANDOM = bytes.fromhex("00c1 0000000e 00000046 00000014")
OK = bytes(4)


@pytest.fixture(scope="module")
def suite(module_dir: Path, installed: Path) -> Iterator[SuiteMachine]:
    with suite_machine(module_dir, installed, ()) as suite:
        suite.start()
        yield suite


@pytest.fixture(scope="module")
def port(suite: SuiteMachine) -> int:
    """Where guest alice is served, with bob beside it who is not."""
    port = free_port()
    suite.run("vtpmctl", "guest", "add", "alice", "--tcp", str(port), "--system")
    suite.run("vtpmctl", "guest", "add", "bob", "--system")
    return port


def connect(port: int) -> socket.socket:
    # The machine has the host's network.
    return socket.create_connection(("127.0.0.1", port), 60)


def works(port: int) -> bool:
    with connect(port) as client:
        return transact(client, GET_RANDOM)[6:10] == OK


def test_the_socket_is_systemds_and_the_daemon_is_as_shut_in_as_without(
    suite: SuiteMachine, port: int
) -> None:
    assert works(port)
    assert suite.exchange("alice", GET_RANDOM)[6:10] == OK
    alice, bob = pair("alice")[1], pair("bob")[1]
    for name in ("RestrictAddressFamilies", "PrivateNetwork", "IPAddressDeny", "SystemCallFilter"):
        assert suite.show(alice, name) == suite.show(bob, name)
    assert suite.show(alice, "PrivateNetwork") == "yes"
    # In a network of its own it has no TCP socket but those that it was given.
    own = f"readlink /proc/{suite.pid(alice)}/ns/net"
    assert suite.run("sh", "-c", own) != suite.run("readlink", "/proc/1/ns/net")


def test_a_client_waits_while_its_front_is_replaced_and_goes_on(
    suite: SuiteMachine, port: int
) -> None:
    front = pair("alice")[1]
    with connect(port) as client:
        assert transact(client, GET_RANDOM)[6:10] == OK
        before = suite.pid(front)
        suite.run("systemctl", "restart", front)
        suite.wait_replaced(front, before)
        assert transact(client, GET_RANDOM)[6:10] == OK
        suite.wait_noted("alice")
        before = suite.kill(front)
        assert works(port)  # also before it is there again
        suite.wait_replaced(front, before)
        assert transact(client, GET_RANDOM)[6:10] == OK


def test_a_stopped_guest_is_not_there_and_a_started_one_is(suite: SuiteMachine, port: int) -> None:
    suite.run("vtpmctl", "guest", "stop", "alice", "--system")
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    suite.run("vtpmctl", "guest", "start", "alice", "--system")
    assert works(port)


def test_a_changed_port_counts_when_the_guest_is_restarted(suite: SuiteMachine, port: int) -> None:
    path = suite.path("/etc/vtpm/guests.d/alice.toml")
    text = path.read_text()
    other = free_port()
    path.write_text(text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{other}=2"))
    suite.run("vtpmctl", "guest", "restart", "alice", "--system")
    assert works(other)
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    path.write_text(text)
    suite.run("vtpmctl", "guest", "restart", "alice", "--system")
    assert works(port)


def test_a_front_that_is_to_bind_itself_says_who_does_it(suite: SuiteMachine, port: int) -> None:
    """Its file was edited, and its units were started without vtpmctl."""
    path = suite.path("/etc/vtpm/guests.d/bob.toml")
    text = path.read_text()
    path.write_text(f"{text}\n[front]\ntcp = [{free_port()}]\n")
    front = pair("bob")[1]
    suite.run("systemctl", "stop", front)
    suite.run("systemctl", "start", front, check=False)
    suite.run("journalctl", "--sync")
    journal = suite.run("journalctl", "-u", front)
    assert "cannot be had from here" in journal
    assert "tpmfront-tcp@NAME.socket makes it" in journal
    path.write_text(text)
    suite.run("vtpmctl", "guest", "restart", "bob", "--system")
    assert suite.exchange("bob", GET_RANDOM)[6:10] == OK


def test_a_removed_guest_leaves_no_socket(suite: SuiteMachine, port: int) -> None:
    suite.run("vtpmctl", "guest", "remove", "alice", "--delete-state", "--yes", "alice", "--system")
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    assert list(suite.path("/etc/systemd/system").glob("tpmfront-tcp@alice*")) == []
    assert list(suite.path("/etc/systemd/system").rglob("tpmfront-tcp@alice*")) == []
