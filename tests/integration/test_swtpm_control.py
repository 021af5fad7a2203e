# SPDX-License-Identifier: Apache-2.0
"""The control channel of a real stack: as QEMU uses it over a machine's life, over restarts of the
daemons, with peers that misbehave, and command for command beside swtpm."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.vtpm import control
from tests.integration.control_channel import Control, connected, is_quiet, running_swtpm
from tests.integration.stack import Stack, running_stack, transact
from tests.integration.test_front_restarts import replace, wait_gone, wait_kept, wait_read

FRONT, VTPM = "tpmfront-g1", "vtpm-g1"
OK = "00000000"
FAIL = "00c40000000a00000009"
ZEROS, ONES = bytes(20), b"\xff" * 20

# tag, size, ordinal, parameters
READ_CLOCK = bytes.fromhex("8001 0000000a 00000181")  # TPM 2.0
GET_TICKS = bytes.fromhex("00c1 0000000a 000000f1")
STARTUP = bytes.fromhex("00c1 0000000c 00000099 0001")
SAVE_STATE = bytes.fromhex("00c1 0000000a 00000098")
EXTEND = bytes.fromhex("00c1 00000022 00000014 0000000a") + b"\x11" * 20
PCR_10 = bytes.fromhex("00c1 0000000e 00000015 0000000a")
PCR_17 = bytes.fromhex("00c1 0000000e 00000015 00000011")
PCR_20_RESET = bytes.fromhex("00c1 0000000f 000000c8 0003 000010")
INIT, INIT_DELETING = "00000002 00000000", "00000002 00000001"


@pytest.fixture(scope="module")
def shared(module_dir: Path) -> Iterator[Stack]:
    with running_stack(module_dir) as running:
        yield running


@pytest.fixture
def stack(run_dir: Path) -> Iterator[Stack]:
    """For tests that end daemons."""
    with running_stack(run_dir) as running:
        yield running


@pytest.fixture
def qemu(shared: Stack) -> Iterator[Control]:
    """A control client whose TPM was just switched on, from locality 0."""
    with Control(ctrl_path(shared)) as client:
        assert client.ask("00000005 00") == OK
        assert client.ask(INIT_DELETING) == OK
        yield client


def ctrl_path(stack: Stack) -> Path:
    return stack.tpm_socket("g1").with_name("ctrl.sock")


def pcr(client: socket.socket, command: bytes = PCR_10) -> bytes:
    answer = transact(client, command)
    assert answer[6:10] == bytes(4), answer.hex()
    return answer[10:]


def test_a_machines_life_as_qemu_has_it(qemu: Control) -> None:
    assert qemu.ask("0000000e") == OK
    data = qemu.open_data()
    # It finds out by the tags which version the TPM has, before INIT.
    assert transact(data, READ_CLOCK).hex() == FAIL
    assert transact(data, GET_TICKS).hex() == FAIL
    assert int(qemu.ask("00000001", 8), 16) & 0x3FFF == 0x3FFF
    # A reset of the machine.
    assert qemu.ask("0000000e") == OK
    in_use = int(qemu.ask("00000011 00000000", 16)[8:16], 16)
    assert qemu.ask("0000000e") == OK
    assert qemu.ask(f"00000011 {in_use:08x}", 16)[8:16] == f"{in_use:08x}"
    assert qemu.ask(INIT) == OK
    assert qemu.ask("00000004", 8) == 16 * "0"
    # Firmware and system, each command behind a locality of four bytes.
    assert qemu.ask("00000005 00000000") == OK
    assert transact(data, PCR_10)[6:10].hex() == "00000026"
    assert transact(data, STARTUP)[6:10] == bytes(4)
    transact(data, EXTEND)
    value = pcr(data)
    assert value != ZEROS
    # Suspended: the blobs go into the file of the machine, and come back without TPM_Startup.
    blobs = {kind: state(qemu, kind) for kind in (1, 2, 3)}
    assert blobs[3] == b""
    assert qemu.ask("00000013 0000012c") == OK
    transact(data, EXTEND)
    assert pcr(data) != value
    assert qemu.ask("0000000e") == OK
    for kind in (1, 2):
        header = bytes.fromhex(f"0000000d 00000002 {kind:08x}") + len(blobs[kind]).to_bytes(
            4, "big"
        )
        qemu.socket.sendall(header)
        assert qemu.ask(blobs[kind]) == OK
    assert qemu.ask(INIT_DELETING) == OK
    assert pcr(data) == value
    # A reset of the resumed machine is one.
    assert qemu.ask("0000000e") == OK
    assert qemu.ask(INIT) == OK
    assert transact(data, STARTUP)[6:10] == bytes(4)
    assert pcr(data) == ZEROS
    assert qemu.ask("00000003") == OK
    assert qemu.ended()
    assert data.recv(1) == b""


def state(client: Control, kind: int) -> bytes:
    """Return a state blob; QEMU insists on what is checked here."""
    client.socket.sendall(bytes.fromhex(f"0000000c 00000001 {kind:08x} 00000000"))
    head = _receive(client.socket, 16)
    result, flags, total, length = (int.from_bytes(head[i : i + 4], "big") for i in (0, 4, 8, 12))
    assert total == length
    if result:
        assert (result, length) == (0x800, 0)
        return b""
    assert flags == 2
    return _receive(client.socket, length)


def _receive(connection: socket.socket, size: int) -> bytes:
    """Return so many bytes; a socket with a limit of time does not wait for all of them."""
    received = b""
    while len(received) < size:
        chunk = connection.recv(size - len(received))
        assert chunk, f"hung up after {len(received)} of {size} bytes"
        received += chunk
    return received


def test_localities_reach_the_tpm(qemu: Control) -> None:
    data = qemu.open_data()
    transact(data, STARTUP)
    assert pcr(data, PCR_17) == ONES
    for request in ("00000006", "00000007 00000003 616263", "00000008"):
        assert qemu.ask(request) == OK
    assert pcr(data, PCR_17) not in (ONES, ZEROS)
    # PCR 20 is for locality 2 to reset.
    assert transact(data, PCR_20_RESET)[6:10].hex() == "00000033"  # TPM_NOTLOCAL
    assert qemu.ask("00000005 02") == OK
    assert transact(data, PCR_20_RESET)[6:10] == bytes(4)
    assert qemu.ask("00000005 00") == OK
    assert transact(data, PCR_20_RESET)[6:10].hex() == "00000033"


def test_a_command_that_runs_is_cancelled_while_its_vtpm_stands_still(
    shared: Stack, qemu: Control
) -> None:
    data = qemu.open_data()
    transact(data, STARTUP)
    pid = shared.pid(VTPM)
    os.kill(pid, signal.SIGSTOP)
    try:
        data.sendall(PCR_10)
        wait_read(data)
        # Long before the front gives the vtpm up (COMMAND_DEADLINE_S).
        assert qemu.ask("00000009") == OK
        assert is_quiet(data, 0.05)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert data.recv(10, socket.MSG_WAITALL).hex() == FAIL
    # What was cancelled leaves nothing behind.
    assert pcr(data) == ZEROS
    assert qemu.ask("00000009") == OK


def test_stream_clients_see_the_power_and_cannot_touch_it(shared: Stack, qemu: Control) -> None:
    with shared.connect("g1") as stream:
        for client in (stream, qemu.open_data()):
            for ordinal in control.ControlOrdinal:
                answer = transact(client, control.encode_request(ordinal))
                assert answer.hex() == "00c40000000a0000001e"
        transact(stream, STARTUP)
        assert pcr(stream) == ZEROS
        assert qemu.ask("0000000e") == OK
        assert transact(stream, PCR_10).hex() == FAIL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_machine_does_not_notice_that_its_front_is_replaced(
    stack: Stack, number: signal.Signals
) -> None:
    with Control(ctrl_path(stack)) as qemu:
        data = qemu.open_data()
        assert qemu.ask(INIT) == OK
        transact(data, STARTUP)
        transact(data, EXTEND)
        value = pcr(data)
        assert qemu.ask("00000005 02") == OK
        wait_kept(stack, 2)
        for _ in range(2):
            replace(stack, number)
            detail = stack.daemon(FRONT)["detail"]["control_channel"]
            assert detail == {"client": True, "data": True, "locality": 2, "powered_off": False}
            assert pcr(data) == value
            # Locality and data channel are still those of this client.
            assert transact(data, bytes.fromhex("00c1 0000000f 000000c8 0003 000010"))[
                6:10
            ] == bytes(4)
            assert int(qemu.ask("00000001", 8), 16) == 0x17FFF
        # An answer leaves just before the front has noted that it did; then it tells its status.
        wait_kept(stack, 2)
        pid, vtpm = stack.pid(FRONT), stack.pid(VTPM)
        # Sent while there is no front.
        os.kill(pid, signal.SIGSTOP)
        qemu.socket.sendall(bytes.fromhex("0000000e"))
        data.sendall(PCR_10)
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        assert qemu.socket.recv(4).hex() == OK
        assert data.recv(10, socket.MSG_WAITALL)[:2] == b"\x00\xc4"
        assert stack.pid(VTPM) == vtpm


def test_an_orderly_stop_waits_for_a_request_that_is_under_way(stack: Stack) -> None:
    front, vtpm = stack.pid(FRONT), stack.pid(VTPM)
    with Control(ctrl_path(stack)) as qemu:
        assert qemu.ask(INIT) == OK
        os.kill(vtpm, signal.SIGSTOP)
        qemu.socket.sendall(bytes.fromhex("0000000e"))
        wait_read(qemu.socket)
        os.kill(front, signal.SIGTERM)
        os.kill(vtpm, signal.SIGCONT)
        assert qemu.socket.recv(4).hex() == OK
        wait_gone(front)
        stack.wait_daemon_ready(FRONT)
        assert qemu.ask("00000004", 8)[:8] == "0000000a"  # it is off
        assert qemu.ask(INIT) == OK


def test_a_stopped_tpm_stays_so_when_its_daemon_is_replaced(stack: Stack) -> None:
    with Control(ctrl_path(stack)) as qemu:
        data = qemu.open_data()
        assert qemu.ask("0000000e") == OK
        pid = stack.pid(VTPM)
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        assert transact(data, GET_TICKS).hex() == FAIL
        assert qemu.ask(INIT) == OK
        assert transact(data, STARTUP)[6:10] == bytes(4)


def test_the_status_tells_of_the_machine(shared: Stack, qemu: Control) -> None:
    qemu.open_data()
    assert qemu.ask("0000000e") == OK
    row = shared.daemon(FRONT)
    assert row["detail"]["control_channel"]["client"] is True
    while "control client connected, powered off" not in row["note"]:
        row = shared.daemon(FRONT)


def test_the_status_does_not_show_the_pcrs_of_a_tpm_that_is_off(
    shared: Stack, qemu: Control
) -> None:
    def guest() -> dict[str, object]:
        (found,) = shared.status()["guests"]
        return {name: found[name] for name in ("flags", "pcr_values", "owned")}

    assert guest()["pcr_values"]
    assert qemu.ask("0000000e") == OK
    assert guest() == {"flags": ["switched off"], "pcr_values": None, "owned": False}


def test_floods_and_half_requests_hold_up_nobody_for_long(shared: Stack) -> None:
    path = ctrl_path(shared)
    others = [Control(path) for _ in range(20)]
    try:
        for number, other in enumerate(others):
            # Half a request, one that ends it, garbage, data that does not come.
            other.socket.sendall(
                [b"\0\0", b"\0\0\0\2\0\0", b"\xff" * 9000, bytes.fromhex("0000000e")][number % 4]
            )
            if number % 4 > 1:
                other.socket.shutdown(socket.SHUT_WR)
        with Control(path) as last:
            assert last.ask(INIT) == OK
            assert len(last.ask("00000001", 8)) == 16
    finally:
        for other in others:
            other.socket.close()
    with shared.connect("g1") as stream:
        transact(stream, STARTUP)
        assert pcr(stream) == ZEROS


STEPS: list[tuple[str, str, int]] = [
    # what, request, size of the answer
    ("unknown command", "00000063", 4),
    ("STORE_VOLATILE, stopped", "0000000a", 4),
    ("HASH_START, stopped", "00000006", 4),
    ("HASH_DATA, stopped", "00000007 00000003 616263", 4),
    ("HASH_END, stopped", "00000008", 4),
    ("CANCEL, stopped", "00000009", 4),
    ("RESET_TPMESTABLISHED, stopped", "0000000b 03", 4),
    ("GET_STATEBLOB, stopped", "0000000c 00000001 00000001 00000000", 16),
    ("GET_INFO", "00000012 0000000000000001 00000000 00000000", 12 + 3072),
    ("GET_INFO from an offset on", "00000012 0000000000000001 00000010 00000000", 12 + 3072),
    ("GET_INFO behind the end", "00000012 0000000000000001 00001000 00000000", 4),
    ("SET_LOCALITY 5", "00000005 05", 4),
    ("SET_LOCALITY 4, four bytes", "00000005 04000000", 4),
    ("SET_LOCALITY 0", "00000005 00", 4),
    ("STOP with a body", "0000000e 00", 4),
    ("STOP", "0000000e", 4),
    ("INIT with five bytes", "00000002 00000000 00", 4),
    ("INIT", "00000002 00000000", 4),
    ("GET_TPMESTABLISHED", "00000004", 8),
    ("GET_STATEBLOB of what there is not", "0000000c 00000001 00000003 00000000", 16),
    ("SET_STATEBLOB, running", "0000000d 00000002 00000001 00000004 00000000", 4),
    ("SET_BUFFERSIZE, running", "00000011 00000c80", 4),
    ("Startup", STARTUP.hex(), 10),
    ("RESET_TPMESTABLISHED, locality 2", "0000000b 02", 4),
    ("RESET_TPMESTABLISHED, locality 3", "0000000b 03", 4),
    ("RESET_TPMESTABLISHED, locality 5", "0000000b 05", 4),
    ("GET_TPMESTABLISHED", "00000004", 8),
    ("HASH_DATA without a start", "00000007 00000003 616263", 4),
    ("HASH_END without a start", "00000008", 4),
    ("HASH_START", "00000006", 4),
    ("HASH_DATA", "00000007 00000003 616263", 4),
    ("HASH_END", "00000008", 4),
    ("GET_TPMESTABLISHED after a launch", "00000004", 8),
    ("PCR 17", PCR_17.hex(), 30),
    ("STORE_VOLATILE", "0000000a", 4),
    ("STOP", "0000000e", 4),
    ("INIT that resumes", "00000002 00000000", 4),
    ("PCR 17, resumed", PCR_17.hex(), 30),
    ("GET_TPMESTABLISHED, resumed", "00000004", 8),
    ("INIT that resets", "00000002 00000001", 4),
    ("PCR 17 before Startup", PCR_17.hex(), 10),
    ("STOP", "0000000e", 4),
    ("SET_STATEBLOB of garbage", "0000000d 00000000 00000001 00000004 aaaaaaaa", 4),
    ("SET_STATEBLOB of no type", "0000000d 00000000 00000007 00000004 aaaaaaaa", 4),
    ("INIT", "00000002 00000000", 4),
    ("HASH_START before Startup", "00000006", 4),
    ("Startup, in failure mode", STARTUP.hex(), 10),
    ("PCR 17, in failure mode", PCR_17.hex(), 10),
]


def test_command_for_command_it_is_as_swtpm(shared: Stack, run_dir: Path) -> None:
    with running_swtpm(run_dir) as swtpm:
        theirs = _answers(swtpm.ctrl_socket, swtpm.tpm_socket)
    with Control(ctrl_path(shared)) as qemu:  # as swtpm starts: switched off, nothing volatile kept
        assert qemu.ask("00000005 00") == OK
        assert qemu.ask(INIT_DELETING) == OK
        assert transact(qemu.open_data(), STARTUP)[6:10] == bytes(4)
        assert qemu.ask("0000000b 03") == OK
        assert qemu.ask("0000000e") == OK
    ours = _answers(ctrl_path(shared), shared.tpm_socket("g1"))
    found = {
        f"{number} {what}": (mine, other)
        for number, ((what, _, _), mine, other) in enumerate(zip(STEPS, ours, theirs, strict=True))
        if mine != other
    }
    assert found == {}


def _answers(ctrl: Path, tpm: Path) -> list[str]:
    with Control(ctrl) as client, connected(tpm) as stream:
        return [_answer(client, stream, text, size) for _, text, size in STEPS]


def _answer(client: Control, tpm: socket.socket, text: str, size: int) -> str:
    if text.startswith("00c1"):
        return transact(tpm, bytes.fromhex(text)).hex()
    client.socket.sendall(bytes.fromhex(text))
    return client.socket.recv(size).hex()
