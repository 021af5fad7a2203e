# SPDX-License-Identifier: Apache-2.0
"""swtpm's own tools at our sockets: each option of swtpm_ioctl and swtpm_bios does what it does
with swtpm, where the two can be compared."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.control_channel import connected, running_swtpm
from tests.integration.stack import Stack, running_stack, transact

LIMIT_S = 60
ZEROS = bytes(20)
ONES = b"\xff" * 20
PCR_17 = bytes.fromhex("00c1 0000000e 00000015 00000011")
SAVE_STATE = bytes.fromhex("00c1 0000000a 00000098")
EXTEND_10 = bytes.fromhex("00c1 00000022 00000014 0000000a") + b"\x22" * 20
PCR_10 = bytes.fromhex("00c1 0000000e 00000015 0000000a")
OK = bytes(4)


@dataclass(frozen=True)
class Machine:
    """A software TPM by its two sockets."""

    ctrl: Path
    tpm: Path

    def ioctl(self, *words: str, data: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run swtpm_ioctl."""
        return run("swtpm_ioctl", "--unix", str(self.ctrl), *words, data=data)

    def bios(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run swtpm_bios."""
        return run("swtpm_bios", "--unix", str(self.tpm), *words)

    def succeed(self, *words: str, data: str | None = None) -> str:
        """Run swtpm_ioctl, which has to succeed, and return what it prints."""
        done = self.ioctl(*words, data=data)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def transact(self, command: bytes) -> bytes:
        """Send one command over a connection of its own."""
        with connected(self.tpm) as client:
            return transact(client, command)


def run(*words: str, data: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, input=data or "")


@pytest.fixture(scope="module")
def stack(module_dir: Path) -> Iterator[Stack]:
    with running_stack(module_dir, ("g1",)) as running:
        yield running


@pytest.fixture
def ours(stack: Stack) -> Machine:
    """Switched on anew, as after INIT."""
    tpm = stack.tpm_socket("g1")
    machine = Machine(tpm.with_name("ctrl.sock"), tpm)
    machine.succeed("-i")
    return machine


@pytest.fixture
def theirs(run_dir: Path) -> Iterator[Machine]:
    with running_swtpm(run_dir) as swtpm:
        machine = Machine(swtpm.ctrl_socket, swtpm.tpm_socket)
        machine.succeed("-i")
        yield machine


def test_the_capabilities_are_all_that_a_tpm_1_2_has(ours: Machine) -> None:
    assert ours.succeed("-c") == "ptm capability is 0x17fff\n"


def test_init_is_a_power_cycle(ours: Machine) -> None:
    assert ours.bios("-c").returncode == 0
    assert ours.transact(EXTEND_10)[6:10] == OK
    assert ours.transact(PCR_10)[10:] != ZEROS
    ours.succeed("-i")
    assert ours.transact(PCR_10).hex() == "00c40000000a00000026"  # TPM_INVALID_POSTINIT
    assert ours.bios("-c").returncode == 0
    assert ours.transact(PCR_10)[10:] == ZEROS


@pytest.mark.parametrize("option", ["--stop", "-s"])
def test_stop_and_shutdown_leave_a_tpm_that_answers_with_tpm_fail(
    ours: Machine, run_dir: Path, option: str
) -> None:
    ours.succeed(option)
    assert ours.transact(PCR_10).hex() == "00c40000000a00000009"
    blob = str(run_dir / "blob")
    needing = (("-e",), ("-r", "3"), ("-v",), ("-h", "x"), ("-C",), ("--save", "volatile", blob))
    for words in needing:
        done = ours.ioctl(*words)
        assert done.returncode == 1
        assert done.stderr.endswith("0xa\n"), words
    ours.succeed("-i")
    assert ours.bios("-c").returncode == 0
    assert ours.transact(PCR_10)[6:10] == OK


def test_a_dynamic_launch(ours: Machine, theirs: Machine) -> None:
    for machine in (ours, theirs):
        assert machine.bios("-c").returncode == 0
        machine.succeed("-r", "3")
        assert machine.succeed("-e") == "tpmEstablished is 0\n"
        assert machine.transact(PCR_17)[10:] == ONES
        machine.succeed("-h", "abc")
        launched = hashlib.sha1(ZEROS + hashlib.sha1(b"abc").digest()).digest()
        assert machine.transact(PCR_17)[10:] == launched
        assert machine.succeed("-e") == "tpmEstablished is 1\n"
        long = "0123456789" * 1000
        machine.succeed("-h", "-", data=long)
        launched = hashlib.sha1(ZEROS + hashlib.sha1(long.encode()).digest()).digest()
        assert machine.transact(PCR_17)[10:] == launched
        machine.succeed("-h", "-", data="")
        launched = hashlib.sha1(ZEROS + hashlib.sha1(b"").digest()).digest()
        assert machine.transact(PCR_17)[10:] == launched
        machine.succeed("-r", "4")
        assert machine.succeed("-e") == "tpmEstablished is 0\n"
        assert machine.ioctl("-r", "2").stderr.endswith("0x3d\n")


def test_localities(ours: Machine, theirs: Machine) -> None:
    for machine in (ours, theirs):
        for locality in range(5):
            machine.succeed("-l", str(locality))
        refused = machine.ioctl("-l", "5")
        assert refused.returncode == 1
    ours.succeed("-l", "0")


def test_cancel_without_a_command_is_a_lost_race(ours: Machine) -> None:
    ours.succeed("-C")
    assert ours.bios("-c").returncode == 0


def test_configuration_buffer_size_and_information(ours: Machine, theirs: Machine) -> None:
    # State file and state blobs are encrypted.
    assert ours.succeed("-g") == "ptm configuration flags: 0x3\n"
    refused = [machine.ioctl("-b", "3500") for machine in (ours, theirs)]
    assert [done.returncode for done in refused] == [1, 1]  # while it runs
    for machine in (ours, theirs):
        machine.succeed("--stop")
    sizes = [re.findall(r"\d+", ours.succeed("-b", size)) for size in ("0", "1", "3500", "9999")]
    assert sizes == [["4088", "3072", "4088"]] + [
        [size, "3072", "4088"] for size in ("3072", "3500", "4088")
    ]
    assert ours.succeed("--info", "1") == theirs.succeed("--info", "1")
    assert ours.succeed("--info", "2") == (
        '{"TPMAttributes":{"manufacturer":"id:5654504D","version":"id:01020100","model":"vtpm"}}\n'
    )


def test_volatile_state_is_stored_and_gone_on_with_at_the_next_init_only(ours: Machine) -> None:
    assert ours.bios("-c").returncode == 0
    assert ours.transact(EXTEND_10)[6:10] == OK
    value = ours.transact(PCR_10)[10:]
    ours.succeed("-v")
    ours.succeed("--stop")
    ours.succeed("-i")
    assert ours.transact(PCR_10)[10:] == value  # without TPM_Startup
    ours.succeed("-i")
    assert ours.transact(PCR_10)[6:10] == bytes.fromhex("00000026")


def test_state_goes_out_and_in_again(ours: Machine, run_dir: Path) -> None:
    names = ("permanent", "volatile", "savestate")
    assert ours.bios("-c").returncode == 0
    assert ours.transact(EXTEND_10)[6:10] == OK
    value = ours.transact(PCR_10)[10:]
    for name in names:
        done = ours.ioctl("--save", name, str(run_dir / name))
        assert done.returncode == 0, done.stderr
    assert (run_dir / "permanent").stat().st_size > 500
    assert (run_dir / "volatile").stat().st_size > 500
    assert (run_dir / "savestate").stat().st_size == 0  # part of the permanent one
    assert ours.transact(EXTEND_10)[6:10] == OK
    running = ours.ioctl("--load", "permanent", str(run_dir / "permanent"))
    assert (running.returncode, running.stderr[-4:]) == (1, "0xa\n")
    ours.succeed("--stop")
    for name in names:
        done = ours.ioctl("--load", name, str(run_dir / name))
        assert done.returncode == 0, (name, done.stderr)
    ours.succeed("-i")
    assert ours.transact(PCR_10)[10:] == value


def test_state_that_is_none_is_refused_and_the_tpm_is_as_it_was(
    ours: Machine, run_dir: Path
) -> None:
    assert ours.bios("-c").returncode == 0
    ours.succeed("--stop")
    garbage = run_dir / "garbage"
    garbage.write_bytes(bytes(range(256)) * 40)
    for name in ("permanent", "volatile", "savestate"):
        assert ours.ioctl("--load", name, str(garbage)).returncode == 1
    ours.succeed("-i")
    assert ours.bios("-c").returncode == 0


BIOS = [
    (),
    ("-c",),
    ("-d",),
    ("-s",),
    ("-n",),
    ("-o",),
    ("-cs",),
    ("-ea",),
    ("-u",),
    ("-n", "-ea"),
    ("-c", "-cs", "-ea", "-u"),
    ("-c", "-o", "-cs"),
]


@pytest.mark.parametrize("words", BIOS, ids=" ".join)
def test_swtpm_bios_does_what_it_does_with_swtpm(
    ours: Machine, theirs: Machine, words: tuple[str, ...]
) -> None:
    """Twice: the second time the TPM has been started up."""
    for _ in range(2):
        ended = [machine.bios(*words) for machine in (ours, theirs)]
        outcomes = [(done.returncode, done.stdout, done.stderr) for done in ended]
        assert outcomes[0] == outcomes[1]


def test_swtpm_bios_resumes_what_was_saved(ours: Machine, theirs: Machine) -> None:
    for machine in (ours, theirs):
        assert machine.bios("-c", "-o").returncode == 0
        assert machine.transact(EXTEND_10)[6:10] == OK
        value = machine.transact(PCR_10)[10:]
        assert machine.transact(SAVE_STATE)[6:10] == OK
        machine.succeed("-i")
        done = machine.bios("-s", "-o")
        assert (done.returncode, done.stderr) == (0, "")
        assert machine.transact(PCR_10)[10:] == value


def test_swtpm_bios_over_tcp(ours: Machine) -> None:
    with relay(ours.tpm) as port:
        done = run("swtpm_bios", "--tcp", f"127.0.0.1:{port}", "-c", "-cs")
    assert (done.returncode, done.stderr) == (0, "")
    assert ours.transact(PCR_10)[6:10] == OK


def test_swtpm_ioctl_over_tcp(ours: Machine) -> None:
    with relay(ours.ctrl) as port:
        done = run("swtpm_ioctl", "--tcp", f"127.0.0.1:{port}", "-c")
    assert done.stdout == "ptm capability is 0x17fff\n"


@contextlib.contextmanager
def relay(path: Path) -> Iterator[int]:
    """Pass TCP connections on to a Unix socket, one after the other; give the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def copy(source: socket.socket, target: socket.socket) -> None:
            while data := source.recv(4096):
                target.sendall(data)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:  # it was shut down
                    return
                with client, connected(path) as tpm:
                    back = threading.Thread(target=copy, args=(tpm, client))  # noqa: TID251
                    back.start()
                    copy(client, tpm)
                    back.join()

        thread = threading.Thread(target=serve)  # noqa: TID251
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
