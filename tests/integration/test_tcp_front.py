# SPDX-License-Identifier: Apache-2.0
"""A guest's TPM over TCP: for tcsd, which makes a connection for each command, beside clients that
flood, linger and vanish."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons.runtime.log import FLOOD_LINES, FLOOD_PERIOD_S
from daemons.tpmfront.peers import MAX_TCP_CLIENTS, MAX_TCP_CLIENTS_PER_ADDRESS
from protocol.tpm12.constants import Ordinal, ReturnCode, Tag
from protocol.tpm12.framing import build_message, error_response
from tests.integration.ports import free_port
from tests.integration.stack import ANSWER_LIMIT_S, Stack, running_stack, transact
from tests.integration.tcsd import running_tcsd
from tests.integration.test_front_restarts import replace
from tests.integration.waiting import wait_until

FRONT = "tpmfront-g1"
ZEROS = build_message(Tag.RSP_COMMAND, 0, bytes(20))
PCR_READ = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, bytes(4))
PCR_READ_20 = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, (20).to_bytes(4, "big"))
EXTEND_20 = build_message(Tag.RQU_COMMAND, Ordinal.EXTEND, (20).to_bytes(4, "big") + bytes(20))
OIAP = build_message(Tag.RQU_COMMAND, Ordinal.OIAP)


@pytest.fixture(scope="module")
def ports() -> dict[int, int]:
    """A port for each locality at which the guest is to be served."""
    return {0: free_port(), 2: free_port()}


@pytest.fixture(scope="module")
def stack(module_dir: Path, ports: dict[int, int]) -> Iterator[Stack]:
    """A guest g1 with two TCP sockets, and g0 without any."""
    module_dir.chmod(0o755)  # a tcsd is somebody else
    with running_stack(module_dir, ("g0",)) as running:
        options = ("--tcp", str(ports[0]), "--tcp", f"[::1]:{ports[2]}=2")
        assert "is added and runs" in running.vtpmctl("guest", "add", "g1", *options)
        yield running


@contextlib.contextmanager
def connected(port: int, source: str = "") -> Iterator[socket.socket]:
    with socket.create_connection(
        ("127.0.0.1", port), ANSWER_LIMIT_S, (source, 0) if source else None
    ) as client:
        yield client


def exchange(port: int, command: bytes) -> bytes:
    """Send a command as tcsd does: a connection for it alone, one write, one read."""
    with connected(port) as client:
        client.sendall(command)
        return client.recv(2048)


def hung_up(client: socket.socket) -> bool:
    """Whether the front has ended a connection on which nothing else is to come."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def log_of(stack: Stack, event: str) -> list[str]:
    return [line for line in stack.stderr().splitlines() if event in line]


def test_only_a_guest_that_asked_for_it_is_served_over_tcp(
    stack: Stack, ports: dict[int, int]
) -> None:
    places = [f"127.0.0.1:{ports[0]}", f"[::1]:{ports[2]}"]
    assert stack.daemon(FRONT)["detail"]["tcp"] == places
    assert stack.daemon("tpmfront-g0")["detail"]["tcp"] == []
    assert exchange(ports[0], PCR_READ) == ZEROS
    assert stack.transact("g1", PCR_READ) == ZEROS


def test_sessions_outlive_the_connection_that_opened_them(
    stack: Stack, ports: dict[int, int]
) -> None:
    opened = exchange(ports[0], OIAP)
    assert opened[6:10] == bytes(4)
    handle = opened[10:14]
    flush = build_message(Tag.RQU_COMMAND, Ordinal.FLUSH_SPECIFIC, handle + (2).to_bytes(4, "big"))
    assert exchange(ports[0], flush)[6:10] == bytes(4)
    # Now it is gone, so it was there.
    assert exchange(ports[0], flush)[6:10] != bytes(4)


def test_each_socket_has_its_locality(stack: Stack, ports: dict[int, int]) -> None:
    """PCR 20 may be extended at locality 2, and not at 0."""
    refused = exchange(ports[0], EXTEND_20)
    assert refused == error_response(ReturnCode.BAD_LOCALITY)
    before = exchange(ports[0], PCR_READ_20)
    with socket.create_connection(("::1", ports[2]), ANSWER_LIMIT_S) as client:
        extended = transact(client, EXTEND_20)
    assert extended[6:10] == bytes(4)
    after = exchange(ports[0], PCR_READ_20)
    assert after == build_message(Tag.RSP_COMMAND, 0, extended[10:])
    assert after != before


def test_tcsd_takes_ownership_seals_and_unseals_over_tcp(
    stack: Stack, ports: dict[int, int]
) -> None:
    (stack.root / "secret").write_text("what g1 alone knows")
    with running_tcsd(ports[0], stack.root / "tcs") as tcsd:
        secret, sealed = stack.root / "secret", stack.root / "tcs/sealed"
        before = stack.daemon(FRONT)["detail"]["commands"]
        tcsd.run("tpm_takeownership", "-y", "-z")
        tcsd.run("tpm_sealdata", "-z", "-i", str(secret), "-o", str(sealed), "-p", "0")
        assert tcsd.run("tpm_unsealdata", "-z", "-i", str(sealed)) == "what g1 alone knows"
        # A front that is replaced is one connection that is refused at most, and tcsd makes many.
        pid = stack.pid(FRONT)
        os.kill(pid, signal.SIGKILL)
        stack.wait_daemon_replaced(FRONT, pid)
        assert tcsd.run("tpm_unsealdata", "-z", "-i", str(sealed)) == "what g1 alone knows"
    assert before > 0
    wait_until(lambda: stack.daemon(FRONT)["detail"]["clients"] == 0, "no client left")


def test_a_half_open_connection_does_not_hold_up_the_next_client(
    stack: Stack, ports: dict[int, int]
) -> None:
    with connected(ports[0]) as silent, connected(ports[0]) as half:
        half.sendall(PCR_READ[:9])
        # Until it is complete, which only we can do, the others are served.
        for _ in range(20):
            assert exchange(ports[0], PCR_READ) == ZEROS
        # Neither was ended for it.
        half.sendall(PCR_READ[9:])
        assert transact(silent, PCR_READ) == ZEROS
        assert half.recv(2048) == ZEROS


def test_idle_connections_give_way_to_new_ones_the_oldest_first(
    stack: Stack, ports: dict[int, int]
) -> None:
    with contextlib.ExitStack() as crowd:
        idle = [
            crowd.enter_context(connected(ports[0])) for _ in range(MAX_TCP_CLIENTS_PER_ADDRESS)
        ]
        for client in idle:
            assert transact(client, PCR_READ) == ZEROS
        # The first one has said something since.
        assert transact(idle[0], PCR_READ) == ZEROS
        for _ in range(3):
            assert exchange(ports[0], PCR_READ) == ZEROS
        assert hung_up(idle[1])
        assert transact(idle[0], PCR_READ) == ZEROS
        assert stack.daemon(FRONT)["detail"]["clients"] <= MAX_TCP_CLIENTS_PER_ADDRESS
    assert log_of(stack, "idle client gives way")


def test_a_flood_of_connections_is_bounded_and_tcsd_and_the_unix_socket_are_served(
    stack: Stack, ports: dict[int, int]
) -> None:
    """A source address of one's own in the loopback network is no way to more places."""
    began, before = time.monotonic(), len(log_of(stack, "idle client gives way"))
    with contextlib.ExitStack() as crowd:
        for number in range(3 * MAX_TCP_CLIENTS):
            crowd.enter_context(connected(ports[0], f"127.0.0.{1 + number % 200}"))
            if not number % 16:
                assert exchange(ports[0], PCR_READ) == ZEROS
        assert stack.daemon(FRONT)["detail"]["clients"] <= MAX_TCP_CLIENTS_PER_ADDRESS
        assert stack.transact("g1", PCR_READ) == ZEROS
        # The flood's own lines are bounded too: by the time that it takes.
        periods = 2 + (time.monotonic() - began) // FLOOD_PERIOD_S
        shown = len(log_of(stack, "idle client gives way")) - before
        assert 0 < shown <= FLOOD_LINES * periods


def test_a_length_that_lies_is_answered_and_ends_the_connection(
    stack: Stack, ports: dict[int, int]
) -> None:
    with connected(ports[0]) as client:
        place = "{}:{}".format(*client.getsockname())
        client.sendall(bytes.fromhex("00c1 ffffffff 00000015") + bytes(64))
        assert client.recv(2048) == error_response(ReturnCode.BAD_PARAM_SIZE)
        assert hung_up(client)
    assert any(f"address={place}" in line for line in log_of(stack, "client disconnected"))


def test_a_client_that_resets_its_connection_in_the_middle_takes_nothing_along(
    stack: Stack, ports: dict[int, int]
) -> None:
    pid = stack.pid(FRONT)
    for size in (0, 5, len(PCR_READ)):
        client = socket.create_connection(("127.0.0.1", ports[0]), ANSWER_LIMIT_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(PCR_READ[:size])
        client.close()
    assert exchange(ports[0], PCR_READ) == ZEROS
    assert stack.pid(FRONT) == pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_tcp_client_goes_on_with_the_next_front(
    stack: Stack, ports: dict[int, int], number: signal.Signals
) -> None:
    with connected(ports[0]) as client:
        assert transact(client, PCR_READ) == ZEROS
        wait_until(lambda: stack.daemon(FRONT)["detail"]["kept"] >= 1, "the client kept")
        client.sendall(PCR_READ[:3])
        replace(stack, number)
        client.settimeout(ANSWER_LIMIT_S)
        client.sendall(PCR_READ[3:])
        assert client.recv(2048) == ZEROS


def front(*options: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a front to its end; one that starts is a failure of the test."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "daemons.tpmfront", "--tpm", str(folder / "tpm.sock")),
            *("--backend", str(folder / "none.sock"), *options),
            *("--uuid", "5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]", "192.0.2.1"])
def test_an_address_that_others_reach_is_refused(run_dir: Path, address: str) -> None:
    done = front("--tcp", f"{address}:{free_port()}", folder=run_dir)
    assert done.returncode == 1
    assert "is open to other machines" in done.stderr


def test_a_port_that_is_taken_is_named(run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = front("--tcp", str(port), folder=run_dir)
    assert done.returncode == 1
    assert f"TCP 127.0.0.1:{port} is in use by another process" in done.stderr


def test_an_address_for_other_machines_is_served_when_asked_for_twice_and_is_warned_of(
    stack: Stack,
) -> None:
    port = free_port()
    options = ("--tcp", f"0.0.0.0:{port}", "--tcp-any-address")
    stack.vtpmctl("guest", "add", "g2", *options)
    assert exchange(port, PCR_READ) == ZEROS
    (line,) = log_of(stack, "other machines may use this TPM")
    assert f"address=0.0.0.0:{port}" in line
    stack.vtpmctl("guest", "remove", "g2", "--yes", "g2")


def test_two_guests_cannot_have_the_same_port(stack: Stack, ports: dict[int, int]) -> None:
    with pytest.raises(AssertionError, match=rf"127.0.0.1:{ports[0]} is also that of g"):
        stack.vtpmctl("guest", "add", "g3", "--tcp", str(ports[0]))
    assert exchange(ports[0], PCR_READ) == ZEROS
