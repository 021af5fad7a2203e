# SPDX-License-Identifier: Apache-2.0
"""What one tpmfront leaves to the next: a connection goes on with what is true of it, or ends."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons.runtime.log import Log
from daemons.tpmfront.handover import (
    DATA_LIMIT_BYTES,
    MEMORY,
    RESERVED,
    SLOTS,
    Handover,
    Kept,
    Role,
    Slot,
)
from tests.unit.tpmfront.supervisor import Supervisor

QUIET = Log("test", sink=lambda _line: None)


@pytest.fixture
def supervisor(run_dir: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(run_dir / "n")
    yield supervisor
    supervisor.close()


def opened(supervisor: Supervisor) -> tuple[Handover, dict[int, Kept]]:
    inherited = supervisor.take()
    handover, kept = Handover.open(inherited, supervisor.notifier, QUIET)
    return handover, {one.slot.number: one for one in kept}


def connected(handover: Handover) -> tuple[socket.socket, int]:
    """Return the client's side of a connection that was left, and its number."""
    client, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    slot = handover.take(ours, 0)
    assert slot is not None
    handover.leave(slot)
    number = slot.number
    ours.close()
    return client, number


@pytest.mark.parametrize("data", [b"", b"\x00\xc1\x00", bytes(range(256)) * 47])
def test_a_connection_goes_on_with_its_locality_and_what_was_read(
    supervisor: Supervisor, data: bytes
) -> None:
    handover, kept = opened(supervisor)
    assert kept == {}
    client, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    slot = handover.take(ours, 3)
    assert slot is not None
    slot.busy()
    slot.rest(b"longer data than what is left in the end" * 9)
    slot.busy()
    slot.rest(data)
    handover.leave(slot)
    ours.close()

    for _ in range(2):
        _, kept = opened(supervisor)
        one = kept[slot.number]
        assert (one.locality, one.data) == (3, data)
        client.sendall(b"x")
        assert one.connection.recv(10) == b"x"
        one.connection.close()
    client.close()


def test_a_connection_that_is_busy_is_ended_and_its_place_is_free_again(
    supervisor: Supervisor,
) -> None:
    handover, _ = opened(supervisor)
    client, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    slot = handover.take(ours, 0)
    assert slot is not None
    handover.leave(slot)
    slot.busy()
    ours.close()
    handover, kept = opened(supervisor)
    assert kept == {}
    assert client.recv(1) == b""
    assert supervisor.take().keys() == {MEMORY}
    client.close()
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    streams = {slot.number for _ in range(SLOTS) if (slot := handover.take(one, 0))}
    assert len(streams) == SLOTS - RESERVED
    single = [handover.take(one, 0, role) for role in (Role.DATA, Role.CONTROL)]
    assert streams | {slot.number for slot in single if slot} == set(range(SLOTS))
    assert handover.take(one, 0, Role.CONTROL) is None
    one.close()
    other.close()


def test_a_connection_goes_on_as_what_it_was(supervisor: Supervisor) -> None:
    handover, _ = opened(supervisor)
    clients, slots = [], dict[Role, Slot]()
    for role in Role:
        client, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        slot = handover.take(ours, 0, role)
        assert slot is not None
        slot.busy()
        slot.set_locality(role + 1)
        slot.rest(role.name.encode())
        handover.leave(slot)
        clients += [client, ours]
        slots[role] = slot
    for _ in range(2):
        _, kept = opened(supervisor)
        for role, slot in slots.items():
            one = kept[slot.number]
            assert (one.role, one.locality, one.data) == (role, role + 1, role.name.encode())
            one.connection.close()
    for end in clients:
        end.close()


def test_of_two_control_connections_one_goes_on(supervisor: Supervisor) -> None:
    """There are never two; but the memory may be anything."""
    handover, _ = opened(supervisor)
    clients = []
    for _ in range(2):
        client, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        slot = handover.take(ours, 0, Role.CONTROL)
        assert slot is not None
        handover.leave(slot)
        ours.close()
        clients.append(client)
    _, kept = opened(supervisor)
    (one,) = kept.values()
    one.connection.sendall(b"x")
    assert sorted(client.recv(1) for client in clients) == [b"", b"x"]
    one.connection.close()
    for client in clients:
        client.close()


def test_a_connection_that_was_released_is_not_kept(supervisor: Supervisor) -> None:
    handover, _ = opened(supervisor)
    client, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    slot = handover.take(ours, 0)
    assert slot is not None
    handover.leave(slot)
    assert supervisor.take().keys() == {MEMORY, slot.name}
    handover.release(slot)
    assert supervisor.take().keys() == {MEMORY}
    ours.close()
    client.close()


def test_without_the_memory_of_the_last_process_its_connections_end(
    supervisor: Supervisor,
) -> None:
    handover, _ = opened(supervisor)
    client, _number = connected(handover)
    supervisor.take()
    os.close(supervisor.kept.pop(MEMORY))
    _, kept = opened(supervisor)
    assert kept == {}
    assert client.recv(1) == b""
    client.close()


def _other_memfd(content: bytes) -> int:
    fd = os.memfd_create("other", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    return fd


@pytest.mark.parametrize("content", [b"", b"vTPMcli1", bytes(4096 + SLOTS * 12288)])
def test_a_memory_that_is_none_is_put_aside(supervisor: Supervisor, content: bytes) -> None:
    handover, _ = opened(supervisor)
    client, _number = connected(handover)
    supervisor.take()
    os.close(supervisor.kept[MEMORY])
    supervisor.kept[MEMORY] = _other_memfd(content)
    handover, kept = opened(supervisor)
    assert kept == {}
    assert client.recv(1) == b""
    client.close()
    # What is kept from now on is a new one, which works.
    client, number = connected(handover)
    _, kept = opened(supervisor)
    assert kept.keys() == {number}
    kept[number].connection.close()
    client.close()


@pytest.mark.parametrize(
    "slot",
    [
        b"\x09\x00\x00\x00\x00\x00\x00\x00",  # no such state
        b"\x31\x00\x00\x00\x00\x00\x00\x00",  # no such role
        b"\x01\x00\x00\x00" + (DATA_LIMIT_BYTES + 1).to_bytes(4, sys.byteorder),  # no such length
        b"\x00\x00\x00\x00\x00\x00\x00\x00",  # free
    ],
)
def test_a_slot_that_says_nothing_that_can_be_true_ends_its_connection(
    supervisor: Supervisor, slot: bytes
) -> None:
    handover, _ = opened(supervisor)
    client, number = connected(handover)
    other, going = connected(handover)
    supervisor.take()
    os.pwrite(supervisor.kept[MEMORY], slot, 4096 + 12288 * number)
    _, kept = opened(supervisor)
    assert kept.keys() == {going}
    assert client.recv(1) == b""
    kept[going].connection.close()
    client.close()
    other.close()
