# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl` with the real daemons: what it promises to who types it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.integration.stack import (
    VTPMCTL,
    Stack,
    StackError,
    running_stack,
    transact,
)
from tests.integration.waiting import wait_until

NOBODY = 65534
LIMIT_S = 60

# tag, size, ordinal, parameters
GET_RANDOM = bytes.fromhex("00c1 0000000e 00000046 00000014")
PCR_READ_10 = bytes.fromhex("00c1 0000000e 00000015 0000000a")
EXTEND_10 = bytes.fromhex("00c1 00000022 00000014 0000000a") + b"\x11" * 20
READ_PUBEK = bytes.fromhex("00c1 0000001e 0000007c") + bytes(20)
OK = bytes.fromhex("00000000")
EXTENDED_ONCE = hashlib.sha1(bytes(20) + b"\x11" * 20).digest()


def pcr_10(stack: Stack, guest: str) -> bytes:
    response = stack.transact(guest, PCR_READ_10)
    assert response[6:10] == OK
    return response[10:]


def extend_10(stack: Stack, guest: str) -> None:
    assert stack.transact(guest, EXTEND_10)[6:10] == OK


def endorsement_key(stack: Stack, guest: str) -> bytes:
    response = stack.transact(guest, READ_PUBEK)
    assert response[6:10] == OK
    return response[10:-20]  # without the checksum over the nonce


def wait_gone(pids: list[int]) -> None:
    """Wait until processes that are not our children have ended."""
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ready, _, _ = select.select([pidfd], [], [], LIMIT_S)
        os.close(pidfd)
        assert ready, f"process {pid} lives on"


def test_every_guest_has_a_tpm_of_its_own_and_keeps_it(run_dir: Path) -> None:
    guests = ("g1", "g2")
    with running_stack(run_dir, guests) as stack:
        assert stack.wait_ready().startswith("ready: 2 of 2 guests")
        assert all(str(stack.tpm_socket(guest)) in stack.ready_text for guest in guests)
        keys = [endorsement_key(stack, guest) for guest in guests]
        assert keys[0] != keys[1]
        extend_10(stack, "g1")
        assert pcr_10(stack, "g1") == EXTENDED_ONCE
        assert pcr_10(stack, "g2") == bytes(20)
    with running_stack(run_dir, guests) as stack:
        assert [endorsement_key(stack, guest) for guest in guests] == keys
        assert pcr_10(stack, "g1") == bytes(20)


def test_a_folder_of_a_release_without_configuration_starts_with_the_same_tpms(
    run_dir: Path,
) -> None:
    guests = ("g1", "g2")
    with running_stack(run_dir, guests) as stack:
        keys = [endorsement_key(stack, guest) for guest in guests]
        uuids = [stack.daemon(f"vtpm-{guest}")["uuid"] for guest in guests]
    # What such a release left: a uuid beside each image, and a table that it wrote at each start.
    for guest, uuid in zip(guests, uuids, strict=True):
        path = run_dir / "state/guests" / guest / "uuid"
        path.write_text(f"{uuid}\n")
        path.chmod(0o600)
    (run_dir / "state/clients.toml").write_text(
        "".join(
            f'\n[[client]]\nuuid = "{uuid}"\nuid = {os.geteuid()}\nlabel = "{guest}"\n'
            "group = 0\nadmin = false\n"
            for guest, uuid in zip(guests, uuids, strict=True)
        )
    )
    shutil.rmtree(run_dir / "state/etc")
    for named in (guests, ()):  # the second start finds what the first made, and all guests
        with running_stack(run_dir, named) as stack:
            assert [stack.daemon(f"vtpm-{guest}")["uuid"] for guest in guests] == uuids
            assert [endorsement_key(stack, guest) for guest in guests] == keys
        left = [path.name for path in (run_dir / "state").iterdir()]
        assert "clients.toml" not in left
        assert not list((run_dir / "state").rglob("uuid"))


def test_other_users_reach_the_front_sockets_and_nothing_else(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        for path in [run_dir / "state", *(run_dir / "state").rglob("*")]:
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path
        open_to_all = {
            path.relative_to(run_dir).as_posix()
            for path in (run_dir / "run").rglob("*")
            if not path.is_dir() and path.stat().st_mode & 0o006
        }
        assert open_to_all == {"run/guests/g1/tpm.sock", "run/guests/g1/ctrl.sock"}
        program = (
            "import socket, sys\n"
            "client = socket.socket(socket.AF_UNIX)\n"
            "client.connect(sys.argv[1])\n"
            "client.sendall(bytes.fromhex(sys.argv[2]))\n"
            "sys.stdout.write(client.recv(4096).hex())\n"
        )
        done = subprocess.run(
            ["/usr/bin/python3", "-c", program, str(stack.tpm_socket("g1")), GET_RANDOM.hex()],
            user=NOBODY if os.geteuid() == 0 else None,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert bytes.fromhex(done.stdout)[6:10] == OK, done.stderr


@pytest.mark.parametrize("daemon", ["hwtpm", "vtpmmgr", "vtpm-g1", "tpmfront-g1"])
def test_a_daemon_that_is_killed_comes_back_and_the_guest_has_not_rebooted(
    run_dir: Path, daemon: str
) -> None:
    with running_stack(run_dir) as stack:
        extend_10(stack, "g1")
        key = endorsement_key(stack, "g1")
        killed = stack.pid(daemon)
        os.kill(killed, signal.SIGKILL)
        wait_gone([killed])
        stack.wait_daemon_replaced(daemon, killed)
        assert stack.pid(daemon) != killed
        assert pcr_10(stack, "g1") == EXTENDED_ONCE
        assert endorsement_key(stack, "g1") == key
        extend_10(stack, "g1")
        assert stack.daemon(daemon)["restarts"] == 1
        others = [row for row in stack.status()["daemons"] if row["daemon"] != daemon]
        assert [row["restarts"] for row in others] == [0, 0, 0]


def test_a_daemon_that_hangs_is_replaced_and_the_guest_has_not_rebooted(run_dir: Path) -> None:
    daemons = ("vtpm-g1", "tpmfront-g1", "vtpmmgr", "hwtpm")
    with running_stack(run_dir, options=("--watchdog", "3")) as stack:
        extend_10(stack, "g1")
        hung = {daemon: stack.pid(daemon) for daemon in daemons}
        for pid in hung.values():
            os.kill(pid, signal.SIGSTOP)
        wait_gone(list(hung.values()))
        for daemon, pid in hung.items():
            stack.wait_daemon_replaced(daemon, pid)
            assert stack.pid(daemon) != hung[daemon]
        assert pcr_10(stack, "g1") == EXTENDED_ONCE


def test_a_guest_whose_image_does_not_verify_is_refused_and_the_other_is_served(
    run_dir: Path,
) -> None:
    with running_stack(run_dir, ("g1", "g2")):
        pass
    slots = [
        path for path in (run_dir / "state/guests/g1").iterdir() if path.name.startswith("slot")
    ]
    assert slots
    for slot in slots:
        content = bytearray(slot.read_bytes())
        content[len(content) // 2] ^= 1
        slot.write_bytes(content)
    before = {slot: slot.read_bytes() for slot in slots}
    with running_stack(run_dir, ("g1", "g2")) as stack:
        assert stack.wait_ready().startswith("ready: 1 of 2 guests")
        assert "g1 (vtpm-g1 refused)" in stack.ready_text
        assert stack.transact("g2", GET_RANDOM)[6:10] == OK
        assert stack.daemon("vtpm-g1")["state"] == "refused to start"
        assert stack.daemon("vtpm-g1")["restarts"] == 0
        # The front of a vTPM that refuses is stopped for it, which nobody waited for.
        wait_until(lambda: not stack.tpm_socket("g1").exists(), "the front of g1 stopped")
        with pytest.raises(OSError, match=r"No such file|refused"):
            stack.connect("g1")
    assert {slot: slot.read_bytes() for slot in slots} == before


def test_a_stack_whose_hardware_does_not_verify_ends_with_exit_code_3(run_dir: Path) -> None:
    with running_stack(run_dir):
        pass
    files = [path for path in (run_dir / "state/hwtpm").iterdir() if path.stat().st_size]
    assert files
    for path in files:
        path.write_bytes(b"garbage")
    stack = Stack(run_dir)
    with pytest.raises(StackError, match="exit code 3"):
        stack.wait_ready()
    assert "cannot serve g1 (hwtpm refused)" in stack.stderr()
    assert [path.read_bytes() for path in files] == [b"garbage"] * len(files)


def test_a_second_start_on_a_folder_in_use_is_refused_and_harms_nothing(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        second = Stack(run_dir)
        with pytest.raises(StackError, match="exit code 3"):
            second.wait_ready()
        assert "in use by another process" in stack.stderr()
        assert stack.transact("g1", GET_RANDOM)[6:10] == OK


def test_after_the_supervisor_was_killed_all_ends_and_starts_again(run_dir: Path) -> None:
    stack = Stack(run_dir)
    stack.wait_ready()
    key = endorsement_key(stack, "g1")
    pids = [row["pid"] for row in stack.status()["daemons"]]
    stack.kill()
    # At once: it waits for what is left of the first.
    with running_stack(run_dir) as again:
        assert endorsement_key(again, "g1") == key
        wait_gone(pids)


def test_a_stop_during_the_start_is_orderly(run_dir: Path) -> None:
    stack = Stack(run_dir, options=("--loglevel", "debug"))
    # The first word on standard error: the daemons are on their way, none is ready.
    while "started" not in stack.stderr() and stack.process.poll() is None:
        os.sched_yield()
    assert stack.stop() == 0
    with running_stack(run_dir) as again:
        assert again.transact("g1", GET_RANDOM)[6:10] == OK


def test_a_client_that_never_reads_does_not_hold_up_the_stop(run_dir: Path) -> None:
    with running_stack(run_dir) as stack, socket.socket(socket.AF_UNIX) as flood:
        flood.connect(os.fspath(stack.tpm_socket("g1")))
        flood.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                flood.send(GET_RANDOM * 100)
        assert stack.transact("g1", GET_RANDOM)[6:10] == OK
        # In time by its own clock: a daemon that had to be killed is an error.
        assert stack.stop() == 0


def test_a_guest_reset_clears_its_pcrs_and_no_others(run_dir: Path) -> None:
    with running_stack(run_dir, ("g1", "g2")) as stack:
        extend_10(stack, "g1")
        extend_10(stack, "g2")
        stack.vtpmctl("guest", "reset", "g1")
        assert pcr_10(stack, "g1") == bytes(20)
        assert pcr_10(stack, "g2") == EXTENDED_ONCE
        with pytest.raises(StackError, match="there is no guest other"):
            stack.vtpmctl("guest", "reset", "other")


def test_a_power_cycle_of_the_chip_does_not_touch_the_guests(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        extend_10(stack, "g1")
        stack.vtpmctl("hwtpm", "power-cycle")
        assert pcr_10(stack, "g1") == EXTENDED_ONCE
        with stack.connect("g1") as client:
            assert transact(client, GET_RANDOM)[6:10] == OK


def test_status_shows_every_daemon_with_its_guest(run_dir: Path) -> None:
    with running_stack(run_dir, ("g1",)) as stack:
        rows = stack.status()["daemons"]
        table = stack.vtpmctl("status").splitlines()
    assert [row["daemon"] for row in rows] == ["hwtpm", "vtpmmgr", "vtpm-g1", "tpmfront-g1"]
    assert {row["state"] for row in rows} == {"ready"}
    assert len({row["pid"] for row in rows}) == 4
    uuid = tomllib.loads((run_dir / "state/etc/guests.d/g1.toml").read_text())["uuid"]
    assert [row["uuid"] for row in rows] == [None, None, uuid, uuid]
    assert all(row["serving"] and not row["error"] for row in rows)
    columns = ["DAEMON", "PID", "STATE", "UPTIME", "RESTARTS", "MEMORY", "NOTE"]
    assert table[0].split() == columns
    assert all(str(row["pid"]) in line for row, line in zip(rows, table[1:5], strict=True))


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["status"], 1, "nobody answers"),
        (["hwtpm", "power-cycle"], 1, "nobody answers"),
        (["up", "--guest", "../g"], 2, "no guest name"),
        (["up", "--guest", "g1", "--guest", "g1"], 2, "named twice"),
        (["up", "--owner-auth", "hunter2"], 2, "well-known"),
        (["up", "--guest", "g" * 33], 2, "no guest name"),
        (["guest", "reset", "/"], 2, "no guest name"),
        (["guest", "reset", "g1"], 1, "there is no guest g1"),
        (["guest", "add", "g1"], 1, "has no stack yet: start it with vtpmctl up"),
        (["guest", "remove", "g1", "--yes", "g1"], 1, "there is no guest g1"),
    ],
)
def test_what_cannot_be_done_is_said_and_makes_nothing(
    run_dir: Path, arguments: list[str], exit_code: int, says: str
) -> None:
    done = subprocess.run(
        [*VTPMCTL, *arguments, "--dir", str(run_dir)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == exit_code
    assert says in done.stderr
    assert "hunter2" not in done.stderr
    assert list(run_dir.iterdir()) == []


def test_a_folder_too_deep_for_sockets_is_refused_before_anything_is_made(run_dir: Path) -> None:
    deep = run_dir / ("d" * 80)
    done = subprocess.run(
        [*VTPMCTL, "up", "--dir", str(deep)], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 1
    assert "too long a path" in done.stderr
    assert not deep.exists()
