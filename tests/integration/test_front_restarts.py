# SPDX-License-Identifier: Apache-2.0
"""Clients do not notice that tpmfront is replaced by another: their connections go on, each command
is answered once, and one that may have been executed is not executed again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import signal
import socket
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons.tpmfront.handover import RESERVED, SLOTS
from tests.integration.stack import Stack, running_stack, transact
from tests.integration.waiting import wait_until

FRONT = "tpmfront-g1"
LIMIT_S = 60

# tag, size, ordinal, parameters
PCR_READ = bytes.fromhex("00c1 0000000e 00000015 0000000a")
EXTEND = bytes.fromhex("00c1 00000022 00000014 0000000a") + b"\x11" * 20
GET_RANDOM = bytes.fromhex("00c1 0000000e 00000046 00000014")
OK = bytes(4)
ZEROS = bytes(20)


def extended(value: bytes) -> bytes:
    return hashlib.sha1(value + b"\x11" * 20).digest()


@pytest.fixture
def stack(run_dir: Path) -> Iterator[Stack]:
    with running_stack(run_dir) as stack:
        yield stack


def wait_gone(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], LIMIT_S)[0]
    finally:
        os.close(pidfd)


def wait_kept(stack: Stack, clients: int) -> None:
    """Wait until the supervisor has been asked to keep so many connections."""
    wait_until(lambda: stack.daemon(FRONT)["detail"]["kept"] == clients, f"{clients} clients kept")


def replace(stack: Stack, number: signal.Signals) -> None:
    """End the front by a signal and wait for the next one."""
    pid = stack.pid(FRONT)
    if number == signal.SIGKILL:
        # A client has its answer a moment before the front has noted that. When it answers this
        # here, it has; else the command would count as under way.
        assert stack.daemon(FRONT)["pid"] == pid
    os.kill(pid, number)
    wait_gone(pid)
    stack.wait_daemon_replaced(FRONT, pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_connection_goes_on(stack: Stack, number: signal.Signals) -> None:
    with stack.connect("g1") as first, stack.connect("g1") as second:
        assert transact(first, EXTEND)[6:10] == OK
        assert transact(second, PCR_READ)[10:] == extended(ZEROS)
        wait_kept(stack, 2)
        for _ in range(3):
            replace(stack, number)
            assert transact(first, PCR_READ)[10:] == extended(ZEROS)
            assert transact(second, GET_RANDOM)[6:10] == OK


def test_a_connection_of_the_last_moment_goes_on_after_an_orderly_stop(stack: Stack) -> None:
    with stack.connect("g1") as client:
        assert transact(client, GET_RANDOM)[6:10] == OK
        replace(stack, signal.SIGTERM)
        assert transact(client, GET_RANDOM)[6:10] == OK


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_half_a_command_is_not_lost(stack: Stack, number: signal.Signals) -> None:
    with stack.connect("g1") as client, stack.connect("g1") as other:
        transact(other, GET_RANDOM)
        wait_kept(stack, 2)
        # Answered in turn: when the second is answered, the first half has been read.
        client.sendall(EXTEND[:15])
        transact(other, GET_RANDOM)
        transact(other, GET_RANDOM)
        replace(stack, number)
        client.sendall(EXTEND[15:] + PCR_READ[:3])
        assert client.recv(30, socket.MSG_WAITALL)[6:] == OK + extended(ZEROS)
        replace(stack, number)
        client.sendall(PCR_READ[3:])
        assert client.recv(30, socket.MSG_WAITALL)[6:] == OK + extended(ZEROS)


def test_commands_that_are_sent_meanwhile_are_answered_in_order_and_once(stack: Stack) -> None:
    with stack.connect("g1") as client:
        transact(client, GET_RANDOM)
        wait_kept(stack, 1)
        pid = stack.pid(FRONT)
        os.kill(pid, signal.SIGSTOP)
        client.sendall(EXTEND + PCR_READ + EXTEND)
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        values = [client.recv(30, socket.MSG_WAITALL)[10:] for _ in range(3)]
    once = extended(ZEROS)
    assert values == [once, once, extended(once)]


def test_an_orderly_stop_waits_for_the_response(stack: Stack) -> None:
    vtpm, front = stack.pid("vtpm-g1"), stack.pid(FRONT)
    with stack.connect("g1") as client:
        transact(client, GET_RANDOM)
        os.kill(vtpm, signal.SIGSTOP)
        client.sendall(EXTEND + PCR_READ)
        wait_read(client)
        os.kill(front, signal.SIGTERM)
        os.kill(vtpm, signal.SIGCONT)
        wait_gone(front)
        assert client.recv(30, socket.MSG_WAITALL)[6:] == OK + extended(ZEROS)
        assert client.recv(30, socket.MSG_WAITALL)[6:] == OK + extended(ZEROS)


def test_a_command_that_waits_for_its_vtpm_is_given_to_the_next_front(stack: Stack) -> None:
    """A stop does not wait for it: nobody has executed it."""
    vtpm, front = stack.pid("vtpm-g1"), stack.pid(FRONT)
    with stack.connect("g1") as first, stack.connect("g1") as second:
        for client in (first, second):
            transact(client, GET_RANDOM)
        os.kill(vtpm, signal.SIGSTOP)
        # One is with the vTPM, the other waits for its turn; both are answered.
        first.sendall(EXTEND)
        wait_read(first)
        second.sendall(EXTEND + PCR_READ)
        wait_read(second)
        os.kill(front, signal.SIGTERM)
        os.kill(vtpm, signal.SIGCONT)
        wait_gone(front)
        answers = {client.recv(30, socket.MSG_WAITALL)[10:] for client in (first, second)}
        assert answers == {extended(ZEROS), extended(extended(ZEROS))}
        assert second.recv(30, socket.MSG_WAITALL)[10:] in answers


def wait_read(client: socket.socket) -> None:
    """Wait until the front has taken what was sent: nothing is left in the socket."""
    wait_until(lambda: not client_unread(client), "all that was sent is read")


def client_unread(client: socket.socket) -> int:
    """Return how many bytes of ours the peer has not read (SIOCOUTQ)."""
    (unread,) = struct.unpack("i", fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)))
    return int(unread)


def test_a_command_that_was_under_way_at_a_kill_is_not_executed_twice(stack: Stack) -> None:
    """Its connection is closed; the others go on."""
    vtpm = stack.pid("vtpm-g1")
    with stack.connect("g1") as client, stack.connect("g1") as other:
        assert transact(other, GET_RANDOM)[6:10] == OK
        assert transact(client, GET_RANDOM)[6:10] == OK
        wait_kept(stack, 2)
        os.kill(vtpm, signal.SIGSTOP)
        try:
            client.sendall(EXTEND)
            wait_read(client)
            replace(stack, signal.SIGKILL)
        finally:
            os.kill(vtpm, signal.SIGCONT)
        assert client.recv(1) == b""
        value = transact(other, PCR_READ)[10:]
        assert value in (ZEROS, extended(ZEROS))
        assert transact(other, PCR_READ)[10:] == value


def test_a_client_that_is_disconnected_is_told_although_its_connection_is_kept(
    stack: Stack,
) -> None:
    with stack.connect("g1") as client:
        transact(client, GET_RANDOM)
        wait_kept(stack, 1)
        client.sendall(bytes.fromhex("00c1 ffffffff 00000000"))
        assert client.recv(10, socket.MSG_WAITALL) == bytes.fromhex("00c4 0000000a 00000019")
        assert client.recv(1) == b""


def test_a_client_that_went_while_the_front_was_away_is_forgotten(stack: Stack) -> None:
    front = stack.pid(FRONT)
    with stack.connect("g1") as client:
        transact(client, GET_RANDOM)
        wait_kept(stack, 1)
        os.kill(front, signal.SIGSTOP)
    os.kill(front, signal.SIGKILL)
    wait_gone(front)
    stack.wait_daemon_replaced(FRONT, front)
    wait_until(lambda: stack.daemon(FRONT)["detail"]["clients"] == 0, "the client forgotten")


def goes_on(client: socket.socket) -> bool:
    try:
        client.sendall(GET_RANDOM)
        return client.recv(10, socket.MSG_WAITALL)[6:] == OK
    except ConnectionError:
        return False


def test_more_clients_than_can_be_kept_are_served_and_as_many_as_can_be_go_on(
    stack: Stack,
) -> None:
    clients = [stack.connect("g1") for _ in range(250)]
    try:
        for client in clients:
            assert transact(client, GET_RANDOM)[6:10] == OK
        wait_kept(stack, SLOTS - RESERVED)
        replace(stack, signal.SIGKILL)
        assert sum(goes_on(client) for client in clients) == SLOTS - RESERVED
    finally:
        for client in clients:
            client.close()
