# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl status`: what is asked, what is shown, and when everything serves."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from daemons.runtime.control import Fields, Json
from daemons.vtpmctl.site import Kind, process_facts
from daemons.vtpmctl.status import Status, gather_status, status_json
from daemons.vtpmctl.tables import duration, ranges, status_lines
from tests.unit.vtpmctl.sites import ANSWERS, UUID, FakeSite, answering, daemon

OPERATING = (Path(__file__).resolve().parents[3] / "docs/operating.md").read_text()


async def look(folder: Path, **changed: Fields) -> Status:
    """Ask a suite in which the answers of some daemons are others."""
    answers = {kind: {**answer, **changed.get(kind.value, {})} for kind, answer in ANSWERS.items()}
    async with answering(folder, answers) as rows:
        return await gather_status(FakeSite(rows))


async def test_a_suite_that_serves_is_shown_with_all_that_is_known(run_dir: Path) -> None:
    status = await look(run_dir)
    assert status.is_serving
    lines = status_lines(status)
    guest = next(line for line in lines if line.startswith("g1"))
    cells = guest.split()
    assert cells[:7] == ["g1", UUID, "serving", "2", "yes", "01234567", "0-2,10"]
    assert cells[-5:] == ["slot1", "7", "850us", "12.3ms", "3/4"]
    assert re.search(r"19(70-01-01|69-12-31) \d\d:\d\d:\d\d", guest)
    assert lines[-2] == (
        "hardware TPM: serving, answers the manager, "
        "median 850us p99 12.3ms over 12 commands, keys 1/2"
    )
    assert lines[-1] == (
        "manager: serving, sequence 9 bound, 8 commits of 10 saves, 0 waiting, "
        "median 850us p99 12.3ms over 12 commits"
    )


async def test_columns_are_aligned(run_dir: Path) -> None:
    lines = status_lines(await look(run_dir))
    header, *rows = lines[:5]
    for column in ("PID", "STATE", "UPTIME"):
        at = header.index(column)
        assert all(row[at - 1] == " " and row[at] != " " for row in rows)


async def test_the_kernel_is_asked_about_memory_and_uptime(run_dir: Path) -> None:
    status = await look(run_dir)
    facts = status.daemons[0].process
    assert facts is not None
    assert 2**20 < facts.memory_bytes < 2**32
    assert 0 < facts.uptime_s < 24 * 3600


def test_a_process_that_is_gone_has_no_facts() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert process_facts(pid) is None  # a zombie
    os.waitpid(pid, 0)
    assert process_facts(pid) is None


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"vtpm": {"state": "starting", "waiting_for": "no manager"}}, "starting: no manager"),
        ({"vtpm": {"manager_connected": False}}, "no manager"),
        ({"tpmfront": {"state": "waiting for the vtpm"}}, "waiting for the vtpm"),
    ],
)
async def test_a_guest_that_is_not_served_says_what_is_in_the_way(
    run_dir: Path, changed: dict[str, Fields], state: str
) -> None:
    status = await look(run_dir, **changed)
    assert not status.is_serving
    assert (status.guests[0].is_serving, status.guests[0].state) == (False, state)


async def test_a_daemon_that_does_not_answer_is_not_serving_and_says_why(run_dir: Path) -> None:
    async with answering(run_dir) as rows:
        gone = replace(rows[2], control=run_dir / "nobody.sock")
        status = await gather_status(FakeSite((*rows[:2], gone, rows[3])))
    assert not status.is_serving
    assert "nobody answers" in status.daemons[2].note
    assert status.guests[0].state == "vtpm ready"
    assert status_lines(status)


async def test_a_daemon_without_a_process_is_not_asked(run_dir: Path) -> None:
    refused = daemon(Kind.VTPM, run_dir / "none.sock", guest="g1", state="refused to start")
    status = await gather_status(FakeSite((refused,)))
    assert status.daemons[0].error == ""
    assert status.guests[0].state == "vtpm refused to start"
    assert not status.is_serving


async def test_halves_of_a_guest_may_be_missing(run_dir: Path) -> None:
    async with answering(run_dir) as rows:
        (vtpm,) = (await gather_status(FakeSite((rows[2],)))).guests
        (front,) = (await gather_status(FakeSite((rows[3],)))).guests
    assert (vtpm.state, front.state) == ("has no tpmfront", "has no vtpm")


async def test_what_others_say_cannot_redraw_the_terminal(run_dir: Path) -> None:
    status = await look(run_dir, vtpm={"state": "starting", "waiting_for": "\x1b[2J\nfake"})
    text = "".join(status_lines(status))
    assert "\x1b" not in text
    assert "?[2J?fake" in text


async def test_a_save_that_the_chip_does_not_know_and_a_chip_that_is_away_stand_out(
    run_dir: Path,
) -> None:
    lines = status_lines(
        await look(run_dir, vtpmmgr={"bound_sequence": 8, "hardware_answers": False})
    )
    assert "DOES NOT ANSWER THE MANAGER" in lines[-2]
    assert "sequence 9 NOT BOUND, the hardware TPM has 8" in lines[-1]


def _documented(heading: str) -> set[str]:
    chapter = OPERATING.partition(heading)[2].partition("\n##")[0]
    return set(re.findall(r"^\| `(\w+)` \|", chapter, re.MULTILINE))


def _members(value: Json) -> set[str]:
    assert isinstance(value, Mapping)
    return set(value)


async def test_the_json_has_the_members_that_are_documented(run_dir: Path) -> None:
    told = status_json(await look(run_dir))
    daemons, guests = told["daemons"], told["guests"]
    assert isinstance(daemons, list)
    assert isinstance(guests, list)
    assert _members(told) == _documented("### The JSON of status")
    assert _members(daemons[0]) == _documented("#### A daemon")
    assert _members(guests[0]) == _documented("#### A guest")
    assert _members(told["hardware"]) == _documented("#### Hardware TPM")
    assert _members(told["manager"]) == _documented("#### Manager")


async def test_the_json_says_what_the_tables_say(run_dir: Path) -> None:
    told = status_json(await look(run_dir))
    match told:
        case {
            "version": 1,
            "serving": True,
            "guests": [
                {
                    "name": "g1",
                    "uuid": uuid,
                    "owned": True,
                    "clients": 2,
                    "pcrs_changed": [0, 1, 2, 10],
                }
            ],
            "hardware": {"answers_manager": True},
            "manager": {"sequence": 9, "bound_sequence": 9},
        }:
            assert uuid == UUID
        case _:
            pytest.fail(str(told))


async def test_without_any_answer_the_json_has_the_same_members(run_dir: Path) -> None:
    full = status_json(await look(run_dir))
    rows = tuple(
        daemon(kind, guest="g1" if kind in {Kind.VTPM, Kind.FRONT} else None, state="starting")
        for kind in Kind
    )
    told = status_json(await gather_status(FakeSite(rows)))
    assert told["serving"] is False
    assert _members(told["manager"]) == _members(full["manager"])
    assert _members(told["hardware"]) == _members(full["hardware"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (61, "1m01s"), (3600, "1h00m"), (90000, "1d01h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], "none"), ([3], "3"), ([0, 1, 2, 5, 7, 8], "0-2,5,7-8")],
)
def test_ranges(numbers: list[Json], text: str) -> None:
    assert ranges(numbers) == text
