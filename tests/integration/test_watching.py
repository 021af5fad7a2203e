# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl status` and `vtpmctl doctor` at a real stack: what they say is so and follows it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.stack import VTPMCTL, Stack, running_stack
from tests.integration.waiting import wait_until

LIMIT_S = 60.0
EXTEND_10 = bytes.fromhex("00c1 00000022 00000014 0000000a" + "11" * 20)


def ask(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*VTPMCTL, *words, "--dir", str(stack.root)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def guest(stack: Stack, name: str = "g1") -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = (one for one in stack.status()["guests"] if one["name"] == name)
    return found


def wait_clients(stack: Stack, count: int) -> dict[str, Any]:
    """Return a guest's status once its front has noticed who came and went."""
    wait_until(lambda: guest(stack)["clients"] == count, f"{count} clients of g1")
    return guest(stack)


def findings(stack: Stack) -> list[dict[str, str]]:
    report = json.loads(ask(stack, "doctor", "--json").stdout)
    found: list[dict[str, str]] = report["findings"]
    assert report["healthy"] == all(one["verdict"] != "fail" for one in found)
    return found


def test_status_follows_what_happens_in_a_guest_without_its_noticing(run_dir: Path) -> None:
    with running_stack(run_dir, ("g1", "g2")) as stack:
        before = wait_clients(stack, 0)
        assert (before["owned"], before["pcrs_changed"]) == (False, [])
        with stack.connect("g1"):
            stack.transact("g1", EXTEND_10)
            after = wait_clients(stack, 1)
            assert after["pcrs_changed"] == [10]
        assert after["commands"] == before["commands"] + 1
        assert after["pcr_boot_digest"] == before["pcr_boot_digest"]
        # Looking is no command.
        assert guest(stack)["commands"] == after["commands"]
        assert guest(stack, "g2")["pcrs_changed"] == []
        slot = run_dir / "state/guests/g1" / after["last_save"]["slot"]
        assert abs(slot.stat().st_mtime - after["last_save"]["unix_time"]) < 0.01
        assert after["latency"]["samples"] == after["commands"]


def test_status_says_that_a_guest_without_its_vtpm_is_not_served(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        pid = stack.pid("vtpm-g1")
        os.kill(pid, signal.SIGSTOP)
        try:
            done = ask(stack, "status")
            assert done.returncode == 1
            assert "no answer within" in done.stdout
        finally:
            os.kill(pid, signal.SIGCONT)
        stack.wait_daemon_ready("vtpm-g1")
        wait_until(lambda: ask(stack, "status").returncode == 0, "everything serving again")


def test_a_stack_without_faults_has_no_failing_finding(run_dir: Path) -> None:
    with running_stack(run_dir, ("g1", "g2")) as stack:
        done = ask(stack, "doctor")
        lines = done.stdout.splitlines()
        assert done.returncode == 0, done.stdout
        assert not [line for line in lines if not re.match(r"\[(ok|warn)\] ", line)]
        assert "[ok]   guests: g2: its TPM answers" in lines


def test_the_doctor_finds_what_is_wrong_and_that_it_was_put_right(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        chip = run_dir / "state/hwtpm/chip.state"
        chip.chmod(0o644)
        done = ask(stack, "doctor")
        assert done.returncode == 1
        assert f"[fail] secrets: {chip} has mode 0644, others get at it -> chmod 600 {chip}" in (
            done.stdout.splitlines()
        )
        chip.chmod(0o600)
        pid = stack.pid("hwtpm")
        os.kill(pid, signal.SIGSTOP)
        try:
            wrong = {one["check"] for one in findings(stack) if one["verdict"] == "fail"}
        finally:
            os.kill(pid, signal.SIGCONT)
        assert wrong >= {"daemons", "hardware TPM", "manager"}
        # The manager may have given the chip up meanwhile, and finds it again.
        wait_until(lambda: ask(stack, "doctor").returncode == 0, "nothing wrong any more")


def test_the_doctor_looks_at_a_stack_that_does_not_run(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        pass
    wrong = [one for one in findings(stack) if one["verdict"] == "fail"]
    assert [one["check"] for one in wrong] == ["daemons"]
    assert "nobody answers" in wrong[0]["what"]


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Give a process, and end it if the test has not."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(LIMIT_S)


def read_until(fd: int, wanted: bytes) -> bytes:
    received = b""
    deadline = time.monotonic() + LIMIT_S
    while wanted not in received:
        assert select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0], received
        received += os.read(fd, 65536)
    return received


def test_watching_redraws_in_place_until_it_is_interrupted(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*VTPMCTL, "status", "--watch", "--interval", "0.1", "--dir", str(stack.root)],
            stdout=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "30"},
        )
        os.close(theirs)
        with ended(process):
            first = read_until(ours, b"\x1b[J")
            assert first.startswith(b"\x1b[2J\x1b[?25l\x1b[H")
            assert b"tpmfront-g1" in first
            stack.transact("g1", EXTEND_10)
            read_until(ours, b" 10 ")  # the column of changed PCRs
            process.send_signal(signal.SIGINT)
            read_until(ours, b"\x1b[?25h")
            assert process.wait(LIMIT_S) == 0
        os.close(ours)


def test_a_start_says_on_a_terminal_what_it_waits_for(run_dir: Path) -> None:
    with running_stack(run_dir):
        pass
    ours, theirs = pty.openpty()
    with (run_dir / "state/hwtpm/.lock").open() as lock:
        # As a daemon of a supervisor that was killed, which has not stopped yet.
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [*VTPMCTL, "up", "--dir", str(run_dir), "--guest", "g1"],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(theirs)
        with ended(process):
            assert process.stdout is not None
            read_until(ours, b"\r\x1b[Kwaiting for the last run's daemons to stop ... ")
            fcntl.flock(lock, fcntl.LOCK_UN)
            # The line goes away, and the stack starts.
            read_until(ours, b"\r\x1b[K")
            assert process.stdout.readline().startswith(b"ready: 1 of 1")
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(OSError):  # the last writer is gone
                while os.read(ours, 65536):
                    pass
            assert process.wait(LIMIT_S) == 0
            process.stdout.close()
    os.close(ours)
