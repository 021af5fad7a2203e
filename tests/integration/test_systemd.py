# SPDX-License-Identifier: Apache-2.0
"""The units in a real systemd: they verify, start, survive a kill, and a TPM tool gets its
answers."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.integration.machine import ROOT, Machine, booted

UNITS = ROOT / "systemd"
DAEMONS = ("hwtpm", "vtpmmgr", "vtpm", "tpmfront")
GUESTS = {
    "g1": UUID("c2f4a1de-52b7-4b0e-9a55-8d1f2f6f3a01"),
    "g2": UUID("c2f4a1de-52b7-4b0e-9a55-8d1f2f6f3a02"),
}
INSTANCES = [
    "hwtpm.service",
    "vtpmmgr.service",
    *(f"{daemon}@{guest}.service" for guest in GUESTS for daemon in ("vtpm", "tpmfront")),
]
ANSWER_LIMIT_S = 60.0

PCR = 10
EXTEND = bytes.fromhex(
    "00c1"  # tag: no authorization
    "00000022"  # paramSize: 34
    "00000014"  # TPM_ORD_Extend
    "0000000a"  # PCR 10
    "1111111111111111111111111111111111111111"  # inDigest
)
PCR_READ = bytes.fromhex(
    "00c1"  # tag: no authorization
    "0000000e"  # paramSize: 14
    "00000015"  # TPM_ORD_PcrRead
    "0000000a"  # PCR 10
)
SUCCESS_WITH_DIGEST = bytes.fromhex(
    "00c4"  # tag
    "0000001e"  # paramSize: 30
    "00000000"  # TPM_SUCCESS
)


def _install(folder: Path, bindir: str) -> None:
    subprocess.run(
        ["make", "-s", "-C", ROOT, "units", f"UNITS={folder}", f"BINDIR={bindir}"], check=True
    )


@pytest.fixture
def machine(run_dir: Path) -> Iterator[Machine]:
    """A machine with the units installed, and two guests configured, that has started nothing."""
    _install(run_dir / "units", "/opt/vtpm-suite/bin")
    users = (run_dir / "units/vtpm.sysusers").read_text()
    users += "".join(f"u vtpm-{guest} -\n" for guest in GUESTS)
    (run_dir / "sysusers").write_text(users)
    guests = run_dir / "etc/vtpm/guests"
    guests.mkdir(parents=True)
    for guest, uuid in GUESTS.items():
        (guests / f"{guest}.conf").write_text(f"UUID={uuid}\n")
    with booted(run_dir) as machine:
        machine.path("/etc/vtpm/clients.toml").write_text(
            "".join(
                f'[[client]]\nuuid = "{uuid}"\nlabel = "{guest}:vm_r:vtpm_t"\n'
                f"uid = {machine.run('id', '-u', f'vtpm-{guest}')}"
                for guest, uuid in GUESTS.items()
            )
        )
        yield machine
        sys.stderr.write(machine.journal())  # shown if the test failed


def start_all(machine: Machine) -> None:
    """Enable and start everything by its target, and return when all are ready."""
    machine.run("systemctl", "enable", *INSTANCES)
    machine.run("systemctl", "start", "vtpm.target")


def _exchange(machine: Machine, guest: str, command: bytes) -> bytes:
    """Send one command to a guest's front socket and return the answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(ANSWER_LIMIT_S)
        stream.connect(str(machine.path(f"/run/vtpm/guests/{guest}/tpm.sock")))
        stream.sendall(command)
        answer = stream.recv(10, socket.MSG_WAITALL)
        (size,) = struct.unpack_from(">I", answer, 2)
        return answer + stream.recv(size - 10, socket.MSG_WAITALL)


def _property(machine: Machine, unit: str, name: str) -> str:
    return machine.run("systemctl", "show", "--value", "-p", name, unit).strip()


def _kill(machine: Machine, unit: str) -> None:
    """Kill a unit's main process and return when the next one is ready."""
    before = _property(machine, unit, "MainPID")
    machine.run("systemctl", "kill", "--signal=KILL", unit)
    # While a restart is scheduled or under way this waits for it; before systemd has noticed the
    # death it returns at once.
    while _property(machine, unit, "MainPID") in (before, "0"):
        machine.run("systemctl", "start", unit)


def test_the_units_verify(run_dir: Path) -> None:
    _install(run_dir, str(Path(sys.executable).parent))
    (run_dir / "vtpm.sysusers").unlink()
    for template in run_dir.glob("*@.service"):
        template.rename(run_dir / template.name.replace("@", "@g1"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *run_dir.iterdir()],
        capture_output=True,
        text=True,
    )
    ours = [line for line in done.stderr.splitlines() if re.search("vtpm|hwtpm|tpmfront", line)]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("daemon", DAEMONS)
def test_every_option_in_a_unit_is_one_of_its_command(daemon: str) -> None:
    (unit,) = (path for path in UNITS.glob("*.service") if path.stem.rstrip("@") == daemon)
    used = set(re.findall(r" (--[a-z-]+)", unit.read_text()))
    usage = subprocess.run(
        [Path(sys.executable).with_name(daemon), "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert used
    assert {option for option in used if not re.search(rf"^ +.*{option}\b", usage, re.M)} == set()


def test_guests_reach_their_own_tpms_and_a_killed_daemon_forgets_nothing(machine: Machine) -> None:
    start_all(machine)

    extended = _exchange(machine, "g1", EXTEND)
    assert extended[:10] == SUCCESS_WITH_DIGEST
    value = extended[10:]
    assert _exchange(machine, "g1", PCR_READ)[10:] == value
    assert _exchange(machine, "g2", PCR_READ)[10:] == bytes(20)

    for unit in ("vtpm@g1.service", "tpmfront@g1.service", "vtpmmgr.service", "hwtpm.service"):
        _kill(machine, unit)
        assert _exchange(machine, "g1", PCR_READ)[10:] == value, unit

    machine.run("systemctl", "stop", *INSTANCES)
    assert {unit: _property(machine, unit, "Result") for unit in INSTANCES} == dict.fromkeys(
        INSTANCES, "success"
    )


def test_what_belongs_to_a_daemon_is_closed_to_the_users_of_the_others(machine: Machine) -> None:
    start_all(machine)
    owners = {
        "/run/vtpm/vtpms/g1/tpmback.sock": "vtpm-g1",
        "/run/vtpm/vtpmmgr/control.sock": "vtpm-manager",
        "/run/vtpm/hwtpm/locality2.sock": "vtpm-hwtpm",
        "/var/lib/vtpm/guests/g1/.": "vtpm-g1",
        "/var/lib/vtpm/vtpmmgr/.": "vtpm-manager",
        "/var/lib/vtpm/hwtpm/.": "vtpm-hwtpm",
    }
    for user in (*(f"vtpm-{guest}" for guest in GUESTS), "vtpm-manager", "vtpm-hwtpm"):
        reached = {
            path
            for path in owners
            if machine.run(
                "runuser", "-u", user, "--", "sh", "-c", f"test -w {path} && echo yes || :"
            )
        }
        assert reached == {path for path, owner in owners.items() if owner == user}, user


def test_a_vtpm_with_a_broken_image_is_not_retried_and_the_other_guest_runs_on(
    machine: Machine,
) -> None:
    start_all(machine)
    machine.run("systemctl", "stop", "vtpm@g2.service")
    slots = sorted(machine.path("/var/lib/vtpm/guests/g2").glob("slot*"))
    assert slots
    for slot in slots:
        content = bytearray(slot.read_bytes())
        content[-1] ^= 1
        slot.write_bytes(content)

    machine.run("systemctl", "start", "vtpm@g2.service", check=False)

    assert _property(machine, "vtpm@g2.service", "ExecMainStatus") == "3"
    assert _property(machine, "vtpm@g2.service", "ActiveState") == "failed"
    assert _property(machine, "vtpm@g2.service", "NRestarts") == "0"
    assert _exchange(machine, "g1", PCR_READ)[:10] == SUCCESS_WITH_DIGEST


def test_tpm_tools_through_tcsd_reach_the_units_tpm(machine: Machine) -> None:
    start_all(machine)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    config = machine.path("/etc/tcsd-test.conf")
    config.write_text(f"port = {port}\nsystem_ps_file = /var/lib/tpm/system.data\n")
    machine.run("chown", "root:tss", "/etc/tcsd-test.conf")
    machine.run("chmod", "640", "/etc/tcsd-test.conf")
    # tcsd forks once it listens, which is what systemd waits for here.
    machine.run(
        *("systemd-run", "--unit=tcsd-test", "-p", "Type=forking"),
        *("-E", "TCSD_USE_TCP_DEVICE=1", "-E", "TCSD_TCP_DEVICE_PORT=1"),
        *("-E", "TCSD_UN_SOCKET_DEVICE_PATH=/run/vtpm/guests/g1/tpm.sock"),
        *("tcsd", "-e", "-c", "/etc/tcsd-test.conf"),
    )
    tool = ("env", f"TSS_TCSD_PORT={port}")
    assert "Chip Version:" in machine.run(*tool, "tpm_version")
    machine.run(*tool, "tpm_takeownership", "-y", "-z")
    assert "Public Endorsement Key" in machine.run(*tool, "tpm_getpubek", "-z")
