# SPDX-License-Identifier: Apache-2.0
"""Watching the units in a real systemd: their journal has fields, and `vtpmctl` sees them all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.suite_machine import SuiteMachine, guest_target, pair, suite_machine

GUESTS = ("g1", "g2")
PCR_READ_10 = bytes.fromhex("00c1 0000000e 00000015 0000000a")
LIMIT_S = 60.0


@pytest.fixture
def suite(run_dir: Path, installed: Path) -> Iterator[SuiteMachine]:
    """A machine with two guests, all started."""
    with suite_machine(run_dir, installed, GUESTS) as made:
        made.start()
        yield made


def entries(suite: SuiteMachine, *matches: str) -> list[dict[str, Any]]:
    suite.run("journalctl", "--sync")
    told = suite.run("journalctl", "--no-pager", "-o", "json", *matches)
    return [json.loads(line) for line in told.splitlines()]


def test_lines_of_the_daemons_have_fields_in_the_journal(suite: SuiteMachine) -> None:
    (entry,) = entries(suite, "VTPM_GUEST=g1", "VTPM_EVENT=TPM started")
    assert entry["MESSAGE"] == '[guest=g1] TPM started origin="made anew"'
    assert entry["PRIORITY"] == "6"
    assert entry["SYSLOG_IDENTIFIER"] == "vtpm"
    assert entry["VTPM_UUID"] == str(suite.uuids["g1"])
    assert entry["VTPM_ORIGIN"] == "made anew"
    assert entry["_SYSTEMD_UNIT"] == "vtpm@g1.service"
    assert entry["_TRANSPORT"] == "journal"
    # Every daemon speaks so, and none of its lines came by standard error as well.
    speakers = {one["SYSLOG_IDENTIFIER"] for one in entries(suite, "_TRANSPORT=journal")}
    assert speakers >= {"hwtpm", "vtpmmgr", "vtpm", "tpmfront"}
    assert [
        one["MESSAGE"]
        for unit in suite.services
        for one in entries(suite, "_TRANSPORT=stdout", f"_SYSTEMD_UNIT={unit}")
    ] == []


def test_status_shows_the_units_and_their_guests(suite: SuiteMachine) -> None:
    status = json.loads(suite.run("vtpmctl", "status", "--json"))
    assert (status["where"], status["serving"]) == ("systemd", True)
    assert {one["daemon"] for one in status["daemons"]} == set(suite.services)
    assert {one["name"]: one["uuid"] for one in status["guests"]} == {
        name: str(uuid) for name, uuid in suite.uuids.items()
    }
    suite.run("systemctl", "stop", "vtpmmgr.service", "vtpmmgr.socket")
    # The vTPMs notice it a moment later.
    deadline = time.monotonic() + LIMIT_S
    states = set[str]()
    while states != {"no manager"}:
        assert time.monotonic() < deadline, states
        status = json.loads(suite.run("vtpmctl", "status", "--system", "--json", check=False))
        assert not status["serving"]
        states = {one["state"] for one in status["guests"]}


def test_trace_finds_the_daemons_of_the_units_and_tells_whose_a_command_was(
    suite: SuiteMachine,
) -> None:
    out = suite.path("/var/lib/trace.json")
    suite.run(
        *(
            "systemd-run",
            "--quiet",
            "--unit=watch",
            "-p",
            f"StandardOutput=file:/var/lib/{out.name}",
        ),
        *("vtpmctl", "trace", "--guest", "g1", "--json", "--count", "1"),
    )
    deadline = time.monotonic() + LIMIT_S
    while not (out.exists() and "connected" in out.read_text()):
        assert time.monotonic() < deadline
        suite.run("systemctl", "is-active", "watch.service")
    suite.exchange("g2", PCR_READ_10)
    suite.exchange("g1", PCR_READ_10)
    while not ("PCR_READ" in out.read_text() and out.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        suite.run("systemctl", "is-active", "watch.service", check=False)
    _, told = [json.loads(line) for line in out.read_text().splitlines()]
    assert (told["guest"], told["parameters"]) == ("g1", {"pcrIndex": "10"})
    assert told["front"]["pid"] == int(suite.pid("tpmfront@g1.service"))
    # This process is outside of the machine's namespaces, so it has no number there.
    assert told["client"]["connection"] == 1


def test_the_doctor_finds_nothing_wrong_with_an_install_and_what_is_broken_in_one(
    suite: SuiteMachine,
) -> None:
    report = json.loads(suite.run("vtpmctl", "doctor", "--json", check=False))
    assert [one for one in report["findings"] if one["verdict"] == "fail"] == []
    assert report["healthy"]
    suite.path("/var/lib/vtpm/guests/g1").chmod(0o755)
    suite.run("systemctl", "disable", "--quiet", guest_target("g1"))
    suite.stop("g2")
    report = json.loads(suite.run("vtpmctl", "doctor", "--json", check=False))
    said = [one["what"] for one in report["findings"]]
    assert not report["healthy"]
    assert "/var/lib/vtpm/guests/g1 has mode 0755, others get at it" in said
    assert f"{guest_target('g1')} is disabled" in said
    assert all(any(what.startswith(f"{unit} is ") for what in said) for unit in pair("g2"))
