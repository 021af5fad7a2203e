# SPDX-License-Identifier: Apache-2.0
"""The installed suite in a real systemd, as an operator uses it: guests' TPMs live through
restarts, kills and hangs of every daemon, and end with their target."""

from __future__ import annotations

import hashlib
import json
import select
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.control_channel import Control
from tests.integration.suite_machine import (
    BINDIR,
    SHARED,
    SuiteMachine,
    guest_target,
    pair,
    suite_machine,
    transact,
)
from tests.integration.waiting import wait_until

GUESTS = ("g1", "g2", "g3")
LIMIT_S = 60

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


def extend(suite: SuiteMachine, guest: str, digest: bytes) -> bytes:
    """Extend PCR 10 and return its value."""
    command = bytes.fromhex(
        "00c1"  # tag: no authorization
        "00000022"  # paramSize: 34
        "00000014"  # TPM_ORD_Extend
        "0000000a"  # PCR 10
    )
    answer = suite.exchange(guest, command + digest)
    assert answer[:10] == SUCCESS_WITH_DIGEST
    return answer[10:]


def pcr(suite: SuiteMachine, guest: str) -> bytes:
    answer = suite.exchange(guest, PCR_READ)
    assert answer[:10] == SUCCESS_WITH_DIGEST
    return answer[10:]


@pytest.fixture(scope="module")
def suite(module_dir: Path, installed: Path) -> Iterator[SuiteMachine]:
    """A machine with three guests, all started. A test leaves them running."""
    with suite_machine(module_dir, installed, GUESTS) as suite:
        suite.start()
        yield suite


def test_every_guest_has_a_tpm_of_its_own(suite: SuiteMachine) -> None:
    before = {guest: pcr(suite, guest) for guest in GUESTS}
    value = extend(suite, "g1", b"\x11" * 20)
    assert value == hashlib.sha1(before["g1"] + b"\x11" * 20).digest()
    assert pcr(suite, "g1") == value
    assert [pcr(suite, guest) for guest in GUESTS[1:]] == [before[guest] for guest in GUESTS[1:]]


@pytest.mark.parametrize("unit", [*pair("g1"), *SHARED])
@pytest.mark.parametrize("how", ["restart", "kill", "hang"])
def test_a_daemon_that_returns_has_forgotten_nothing_and_disturbed_nobody(
    suite: SuiteMachine, unit: str, how: str
) -> None:
    value = extend(suite, "g1", b"\x22" * 20)
    before = suite.pids()
    if how == "restart":
        suite.run("systemctl", "restart", unit)
    elif how == "kill":
        suite.kill(unit)
    else:
        suite.drop_in(unit, "[Service]\nWatchdogSec=4\n")
        suite.run("systemctl", "restart", unit)
        before = suite.pids()
        suite.kill(unit, "STOP")
    suite.wait_replaced(unit, before[unit])

    assert pcr(suite, "g1") == value
    after = suite.pids()
    assert {one for one in before if after[one] != before[one]} == {unit}
    if how == "hang":
        assert f"{unit}: Watchdog timeout" in suite.machine.journal()
        # Not for longer: on a busy machine a daemon may stand still for as long.
        suite.drop_in(unit, "")


def test_who_connects_while_a_daemon_is_away_waits_for_it(suite: SuiteMachine) -> None:
    value = pcr(suite, "g1")
    vtpm, front = pair("g1")
    socket_before = suite.tpm_socket("g1").stat().st_ino
    for unit in (vtpm, front):
        suite.drop_in(unit, "[Service]\nRestartSec=2\n")
    killed = [suite.kill(unit) for unit in (vtpm, front)]
    with suite.client("g1") as client:
        answer = transact(client, PCR_READ)
    assert answer == SUCCESS_WITH_DIGEST + value
    assert [suite.pid(unit) for unit in (vtpm, front)] != killed
    assert suite.tpm_socket("g1").stat().st_ino == socket_before


def test_a_machine_keeps_its_control_channel_when_its_front_is_killed(suite: SuiteMachine) -> None:
    """In the sandbox: descriptors come along, systemd keeps both connections."""
    value = pcr(suite, "g1")
    front = pair("g1")[1]
    with Control(suite.tpm_socket("g1").with_name("ctrl.sock")) as qemu:
        data = qemu.open_data()
        assert qemu.ask("00000005 03") == "00000000"
        assert transact(data, PCR_READ) == SUCCESS_WITH_DIGEST + value
        # The memory is the third.
        wait_until(
            lambda: int(suite.show(front, "NFileDescriptorStore")) >= 3, "both connections kept"
        )
        for _ in range(2):
            suite.wait_noted("g1")
            suite.kill(front)
            assert transact(data, PCR_READ) == SUCCESS_WITH_DIGEST + value
            assert qemu.ask("0000000f", 8) == "0000000000000003"


def test_the_status_line_says_what_a_daemon_is_doing(suite: SuiteMachine) -> None:
    vtpm, front = pair("g2")

    def wait_status(unit: str, text: str) -> None:
        wait_until(lambda: suite.show(unit, "StatusText") == text, f"{unit}: {text}")

    wait_status("vtpmmgr.service", "serving 3 vTPMs")
    wait_status(vtpm, "serving guest g2, 1 front")
    wait_status(front, "serving guest g2, 0 clients")
    with suite.client("g2"), suite.client("g2") as client:
        transact(client, PCR_READ)
        wait_status(front, "serving guest g2, 2 clients")
    wait_status(front, "serving guest g2, 0 clients")
    assert suite.show("hwtpm.service", "StatusText").startswith("serving")


def test_a_guest_follows_its_target_and_the_others_stay(suite: SuiteMachine) -> None:
    value = extend(suite, "g1", b"\x33" * 20)
    others = {unit: pid for unit, pid in suite.pids().items() if unit not in pair("g2")}
    extend(suite, "g2", b"\x33" * 20)

    suite.stop("g2")

    sockets = ("vtpm", "vtpm-control", "tpmfront", "tpmfront-ctrl", "tpmfront-control")
    for unit in (*pair("g2"), *(f"{name}@g2.socket" for name in sockets)):
        assert suite.show(unit, "ActiveState") == "inactive", unit
    for unit in pair("g2"):
        assert suite.show(unit, "Result") == "success"
    assert not suite.tpm_socket("g2").exists()
    assert {unit: suite.pid(unit) for unit in others} == others
    assert pcr(suite, "g1") == value

    suite.run("systemctl", "start", guest_target("g2"))
    assert pcr(suite, "g2") == bytes(20)
    assert {unit: suite.pid(unit) for unit in others} == others


def test_a_restart_of_a_guests_target_is_no_reboot_of_the_guest(suite: SuiteMachine) -> None:
    value = extend(suite, "g3", b"\x44" * 20)
    before = suite.pids()
    suite.run("systemctl", "restart", guest_target("g3"))
    assert pcr(suite, "g3") == value
    after = suite.pids()
    assert {one for one in before if after[one] != before[one]} == set(pair("g3"))


def test_only_who_is_to_reach_a_socket_or_a_folder_can(suite: SuiteMachine) -> None:
    wanted = {
        # path: owner, group, mode
        "/run/vtpm": ("root", "root", 0o755),
        "/run/vtpm/hwtpm": ("root", "vtpm-hwtpm", 0o750),
        **{
            f"/run/vtpm/hwtpm/locality{number}.sock": ("vtpm-hwtpm", "vtpm-hwtpm", mode)
            for number, mode in enumerate((0o600, 0o600, 0o660, 0o600, 0o600))
        },
        "/run/vtpm/hwtpm/control.sock": ("vtpm-hwtpm", "vtpm-hwtpm", 0o600),
        "/run/vtpm/vtpmmgr": ("root", "vtpm", 0o750),
        "/run/vtpm/vtpmmgr/vtpmmgr.sock": ("vtpm-manager", "vtpm", 0o660),
        "/run/vtpm/vtpmmgr/control.sock": ("vtpm-manager", "vtpm", 0o600),
        "/run/vtpm/vtpmmgr/admin.sock": ("vtpm-manager", "vtpm", 0o600),
        "/run/vtpm/vtpms/g1/tpmback.sock": ("vtpm-g1", "vtpm-g1", 0o600),
        "/run/vtpm/vtpms/g1/control.sock": ("vtpm-g1", "vtpm-g1", 0o600),
        "/run/vtpm/guests/g1/tpm.sock": ("vtpm-g1", "vtpm-g1", 0o666),
        "/run/vtpm/guests/g1/ctrl.sock": ("root", "kvm", 0o660),
        "/run/vtpm/guests/g1/control.sock": ("vtpm-g1", "vtpm-g1", 0o600),
        "/var/lib/vtpm/hwtpm": ("vtpm-hwtpm", "vtpm-hwtpm", 0o700),
        "/var/lib/vtpm/vtpmmgr": ("vtpm-manager", "vtpm", 0o700),
        "/var/lib/vtpm/guests/g1": ("vtpm-g1", "vtpm", 0o700),
        "/etc/vtpm/credentials": ("root", "root", 0o700),
    }
    names = suite.run("stat", "-c", "%n %U %G", *wanted)
    found = {}
    for line in names.splitlines():
        path, owner, group = line.split()
        found[path] = (owner, group, stat.S_IMODE(suite.path(path).stat().st_mode))
    assert found == wanted
    state = suite.run("find", "/var/lib/vtpm", "-type", "f", "!", "-perm", "600")
    assert state == ""


def test_a_vtpm_with_a_broken_image_is_refused_once_and_says_why(suite: SuiteMachine) -> None:
    """Its front goes with it, so that clients get no connection rather than silence."""
    vtpm, front = pair("g3")
    others = {unit: pid for unit, pid in suite.pids().items() if unit not in pair("g3")}
    suite.stop("g3")
    slots = sorted(suite.path("/var/lib/vtpm/guests/g3").glob("slot*"))
    assert slots
    kept = [slot.read_bytes() for slot in slots]
    for slot, content in zip(slots, kept, strict=True):
        slot.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    suite.run("systemctl", "start", guest_target("g3"), check=False)

    assert suite.show(vtpm, "ExecMainStatus") == "3"
    assert suite.show(vtpm, "ActiveState") == "failed"
    assert suite.show(vtpm, "NRestarts") == "0"
    assert suite.show(vtpm, "StatusText").startswith("refused: ")
    wait_until(lambda: suite.show(front, "ActiveState") == "inactive", "the front stopped")
    wait_until(lambda: suite.show_manager("NJobs") == "0", "no job of systemd left")
    for unit in ("vtpm@g3.socket", "tpmfront@g3.socket"):
        assert suite.show(unit, "ActiveState") == "inactive", unit
    assert not suite.tpm_socket("g3").exists()
    refusals = suite.machine.journal().count("refused")
    assert {unit: suite.pid(unit) for unit in others} == others
    assert pcr(suite, "g1")

    for slot, content in zip(slots, kept, strict=True):
        slot.write_bytes(content)
    suite.run("systemctl", "start", guest_target("g3"))
    assert pcr(suite, "g3") == bytes(20)
    assert suite.machine.journal().count("refused") == refusals


def test_a_client_that_waits_for_a_vtpm_that_refuses_is_let_go(suite: SuiteMachine) -> None:
    """The front knows nothing of the refusal; that its socket closes tells its clients."""
    vtpm, _front = pair("g3")
    suite.stop("g3")
    (slots := suite.path("/var/lib/vtpm/guests/g3")).rename(slots.with_name("away"))
    suite.run("systemctl", "start", "tpmfront@g3.socket")
    with suite.client("g3") as client:
        assert select.select([client], [], [], LIMIT_S)[0]
        assert client.recv(1) == b""
    assert suite.show(vtpm, "ExecMainStatus") == "3"
    suite.run("rm", "-rf", "/var/lib/vtpm/guests/g3")
    slots.with_name("away").rename(slots)
    suite.run("systemctl", "start", guest_target("g3"))
    assert pcr(suite, "g3") == bytes(20)


def test_everything_stops_with_the_target_and_starts_again_with_its_state(
    suite: SuiteMachine,
) -> None:
    extend(suite, "g1", b"\x55" * 20)
    database = suite.path("/var/lib/vtpm/vtpmmgr/manager.db")
    suite.stop()
    states = {unit: suite.show(unit, "ActiveState") for unit in suite.services}
    assert states == dict.fromkeys(suite.services, "inactive")
    assert {unit: suite.show(unit, "Result") for unit in suite.services} == dict.fromkeys(
        suite.services, "success"
    )
    assert suite.run("find", "/run/vtpm", "-type", "s") == ""
    assert database.exists()

    suite.run("systemctl", "start", "vtpm.target")
    assert [pcr(suite, guest) for guest in GUESTS] == [bytes(20)] * 3


def test_nothing_was_refused_by_the_sandbox(suite: SuiteMachine) -> None:
    """All tests above ran under the units' filters; these are the traces that one would leave."""
    log = suite.machine.journal()
    assert "serving" in log
    for trace in ("Operation not permitted", "Errno 1]", "SIGSYS", "Read-only file system"):
        assert trace not in log
    # The kernel's own account, of every process under the filters.
    for unit in suite.services:
        status = suite.run("cat", f"/proc/{suite.pid(unit)}/status")
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status


def test_the_manager_knows_a_vtpm_by_its_user(suite: SuiteMachine) -> None:
    log = suite.machine.journal()
    for guest in GUESTS:
        uid = suite.run("id", "-u", f"vtpm-{guest}").strip()
        assert f"vTPM connected uuid={suite.uuids[guest]} uid={uid} " in log


def test_the_commands_work_where_they_were_installed(suite: SuiteMachine) -> None:
    script = (
        "import json, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        's.sendall(b\'{"verb": "status"}\\n\'); print(s.makefile().readline())\n'
    )
    answer = suite.run(f"{BINDIR}/python", "-c", script, "/run/vtpm/vtpms/g1/control.sock")
    assert json.loads(answer)["result"]["uuid"] == str(suite.uuids["g1"])
    assert "Usage: vtpmctl" in suite.run("vtpmctl", "--help")
