# SPDX-License-Identifier: Apache-2.0
"""Clients that misbehave at the front socket, while a well-behaved one works beside them.

Whatever they do gets a TPM error or ends their connection; nobody else waits, hangs or is lost.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from daemons.runtime.control import Json, control_request
from daemons.vtpmctl.layout import Layout
from protocol.tpm12.constants import Ordinal, ReturnCode, Tag
from protocol.tpm12.framing import build_message, error_response
from tests.integration.stack import Stack, running_stack, transact
from tests.unit.tpm12.world import SeededRandom

PCR_READ_0 = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, bytes(4))
PCR_0 = build_message(Tag.RSP_COMMAND, 0, bytes(20))
PROMPT_S = 30.0
"""What is no hang, on a busy machine too; a light command takes a tenth of a millisecond."""
FLOOD = 10_000


@pytest.fixture(scope="module")
def stack(module_dir: Path) -> Iterator[Stack]:
    """Two guests, shared by these tests: each leaves them as they were, which is the point."""
    with running_stack(module_dir, ("g1", "g2")) as running:
        yield running


@pytest.fixture(autouse=True)
def _others_are_served(stack: Stack) -> Iterator[None]:
    """Hold a connection of a well-behaved client across each test; no daemon may die meanwhile."""
    before = _pids(stack)
    with stack.connect("g1") as client:
        _promptly(client)
        yield
        _promptly(client)
    for guest in ("g1", "g2"):
        with stack.connect(guest) as client:
            _promptly(client)
    assert _pids(stack) == before


def _pids(stack: Stack) -> list[Json]:
    """Process ids of all daemons, from the supervisor's socket."""
    ask = partial(control_request, Layout(stack.root).control_socket, "status")
    daemons = trio.run(ask)["daemons"]
    assert isinstance(daemons, list)
    return [row["pid"] for row in daemons if isinstance(row, dict)]


def _promptly(client: socket.socket) -> None:
    started = time.monotonic()
    assert transact(client, PCR_READ_0) == PCR_0
    assert time.monotonic() - started < PROMPT_S


def _until_end(client: socket.socket) -> bytes:
    """Read until the peer hangs up."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(4096):
            received += chunk
    return received


@pytest.mark.parametrize("size", [0, 5, 9, 4089, 2**31, 2**32 - 1])
def test_a_length_that_lies_is_answered_once_and_ends_the_connection(
    stack: Stack, size: int
) -> None:
    with stack.connect("g1") as client:
        head = Tag.RQU_COMMAND.to_bytes(2, "big") + size.to_bytes(4, "big")
        client.sendall(head + Ordinal.PCR_READ.to_bytes(4, "big") + bytes(4))
        assert _until_end(client) == error_response(ReturnCode.BAD_PARAM_SIZE)


def test_a_length_that_is_too_small_for_the_command_is_a_tpm_error(stack: Stack) -> None:
    with stack.connect("g1") as client:
        short = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ)
        assert transact(client, short) == error_response(ReturnCode.BAD_PARAM_SIZE)
        _promptly(client)


@pytest.mark.parametrize("number", range(20))
def test_garbage_gets_tpm_errors_or_the_end_of_the_connection(stack: Stack, number: int) -> None:
    garbage = SeededRandom(f"garbage {number}").random(600)
    with stack.connect("g1") as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
        answer = _until_end(client)
    while answer:
        assert answer[:6] == bytes.fromhex("00c4 0000000a")
        assert int.from_bytes(answer[6:10], "big") != ReturnCode.SUCCESS
        answer = answer[10:]


def test_well_framed_garbage_is_answered_command_by_command(stack: Stack) -> None:
    random = SeededRandom("framed garbage")
    with stack.connect("g1") as client:
        for _ in range(200):
            body = random.random(int.from_bytes(random.random(1), "big"))
            tag = 0x00C1 + body[0] % 3 if body else 0x00C1
            response = transact(client, build_message(tag, 0x7F00_0000 + len(body), body))
            assert response == error_response(ReturnCode.BAD_ORDINAL)
        _promptly(client)


def test_half_a_command_holds_up_nobody(stack: Stack) -> None:
    with stack.connect("g1") as half, stack.connect("g1") as other:
        half.sendall(PCR_READ_0[:7])
        for _ in range(50):
            _promptly(other)
        half.sendall(PCR_READ_0[7:])
        assert half.recv(4096) == PCR_0


def test_a_command_that_comes_byte_by_byte_is_a_command(stack: Stack) -> None:
    with stack.connect("g1") as client:
        for byte in PCR_READ_0:
            client.sendall(bytes([byte]))
        assert client.recv(4096) == PCR_0


def test_commands_sent_together_are_answered_in_order(stack: Stack) -> None:
    random_4 = build_message(Tag.RQU_COMMAND, Ordinal.GET_RANDOM, (4).to_bytes(4, "big"))
    with stack.connect("g1") as client:
        client.sendall((PCR_READ_0 + random_4) * 40)
        for _ in range(40):
            assert _read(client, len(PCR_0)) == PCR_0
            assert _read(client, 18)[:14] == bytes.fromhex("00c4 00000012 00000000 00000004")


def _read(client: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += client.recv(size - len(received))
    return received


def test_ten_thousand_commands_without_reading_starve_nobody(stack: Stack) -> None:
    with stack.connect("g1") as flooder, stack.connect("g1") as other:
        flooder.setblocking(False)
        flood = memoryview(PCR_READ_0 * FLOOD)
        sent = 0
        answered = 0
        started = time.monotonic()
        while sent < len(flood) and time.monotonic() - started < PROMPT_S:
            try:
                sent += flooder.send(flood[sent : sent + 65536])
            except BlockingIOError:
                # The front takes no more: it waits for us to read, and only we wait for it.
                _promptly(other)
                answered += 1
                if answered > 100:
                    break
        for _ in range(100):
            _promptly(other)
        with stack.connect("g2") as neighbour:
            _promptly(neighbour)
        flooder.setblocking(True)
        flooder.settimeout(PROMPT_S)
        for _ in range(200):
            assert _read(flooder, len(PCR_0)) == PCR_0


def test_a_client_that_vanishes_in_the_middle_of_a_long_command_takes_nothing_along(
    stack: Stack,
) -> None:
    self_test = build_message(Tag.RQU_COMMAND, Ordinal.SELF_TEST_FULL)
    for _ in range(10):
        with stack.connect("g1") as client:
            client.sendall(self_test + self_test[:8])
        with stack.connect("g1") as other:
            _promptly(other)


def test_a_client_that_closes_its_sending_side_still_gets_its_answers(stack: Stack) -> None:
    with stack.connect("g1") as client:
        client.sendall(PCR_READ_0 * 3)
        client.shutdown(socket.SHUT_WR)
        assert _until_end(client) == PCR_0 * 3


def test_two_hundred_idle_clients_cost_the_others_nothing(stack: Stack) -> None:
    with contextlib.ExitStack() as idle:
        clients = [idle.enter_context(stack.connect("g1")) for _ in range(200)]
        with stack.connect("g1") as other:
            for _ in range(50):
                _promptly(other)
        for client in clients[::40]:
            _promptly(client)


def test_one_user_cannot_take_every_place(stack: Stack) -> None:
    """The limit is per user; at the limit a new connection is closed, and freed places return."""
    with contextlib.ExitStack() as crowd:
        closed = 0
        for _ in range(300):
            client = crowd.enter_context(stack.connect("g1"))
            client.settimeout(PROMPT_S)
            try:
                client.sendall(PCR_READ_0)
                closed += not client.recv(4096)
            except (BrokenPipeError, ConnectionResetError):
                closed += 1
        assert 0 < closed < 100
