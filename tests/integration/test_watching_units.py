# SPDX-License-Identifier: Apache-2.0
"""Watching the units in a real systemd: their journal has fields, and `vtpmctl` sees them all."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.machine import Machine
from tests.integration.test_systemd import GUESTS, INSTANCES, machine, start_all

__all__ = ["machine"]  # the fixture

VTPMCTL = "/opt/vtpm-suite/bin/vtpmctl"


def entries(machine: Machine, *matches: str) -> list[dict[str, Any]]:
    machine.run("journalctl", "--sync")
    told = machine.run("journalctl", "--no-pager", "-o", "json", *matches)
    return [json.loads(line) for line in told.splitlines()]


def test_lines_of_the_daemons_have_fields_in_the_journal(machine: Machine) -> None:
    start_all(machine)
    found = entries(machine, "VTPM_GUEST=g1", "VTPM_EVENT=TPM started")
    assert len(found) == 1
    (entry,) = found
    assert entry["MESSAGE"] == '[guest=g1] TPM started origin="made anew"'
    assert entry["PRIORITY"] == "6"
    assert entry["SYSLOG_IDENTIFIER"] == "vtpm"
    assert entry["VTPM_UUID"] == str(GUESTS["g1"])
    assert entry["VTPM_ORIGIN"] == "made anew"
    assert entry["_SYSTEMD_UNIT"] == "vtpm@g1.service"
    assert entry["_TRANSPORT"] == "journal"
    # Every daemon speaks so, and none of its lines came by standard error as well.
    speakers = {one["SYSLOG_IDENTIFIER"] for one in entries(machine, "_TRANSPORT=journal")}
    assert speakers >= {"hwtpm", "vtpmmgr", "vtpm", "tpmfront"}
    assert [
        one["MESSAGE"]
        for unit in INSTANCES
        for one in entries(machine, "_TRANSPORT=stdout", f"_SYSTEMD_UNIT={unit}")
    ] == []


def test_status_shows_the_units_and_their_guests(machine: Machine) -> None:
    start_all(machine)
    status = json.loads(machine.run(VTPMCTL, "status", "--json"))
    assert (status["where"], status["serving"]) == ("systemd", True)
    assert {one["daemon"] for one in status["daemons"]} == set(INSTANCES)
    assert {one["name"]: one["uuid"] for one in status["guests"]} == {
        name: str(uuid) for name, uuid in GUESTS.items()
    }
    machine.run("systemctl", "stop", "vtpmmgr.service")
    status = json.loads(machine.run(VTPMCTL, "status", "--system", "--json", check=False))
    assert not status["serving"]
    assert {one["state"] for one in status["guests"]} == {"no manager"}


def test_the_doctor_finds_nothing_wrong_with_units_as_they_are_installed_and_what_is_broken(
    machine: Machine,
) -> None:
    start_all(machine)
    report = json.loads(machine.run(VTPMCTL, "doctor", "--json", check=False))
    assert [one for one in report["findings"] if one["verdict"] == "fail"] == []
    assert report["healthy"]
    machine.run("chmod", "755", "/var/lib/vtpm/guests/g1")
    machine.run("systemctl", "stop", "tpmfront@g2.service")
    machine.run("systemctl", "disable", "hwtpm.service")
    report = json.loads(machine.run(VTPMCTL, "doctor", "--json", check=False))
    said = {one["what"].partition(" has")[0] for one in report["findings"]}
    assert not report["healthy"]
    assert {"/var/lib/vtpm/guests/g1", "hwtpm.service is disabled"} <= said
    assert any(what.startswith("tpmfront@g2.service is stopped") for what in said)
