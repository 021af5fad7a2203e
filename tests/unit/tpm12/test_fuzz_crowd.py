# SPDX-License-Identifier: Apache-2.0
"""What is noticed of workers that fuzz: one that hangs, one that dies, ordinals never reached."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.fuzz import crowd
from tests.fuzz.campaign import Tally
from tests.fuzz.corpus import ROWS
from tests.fuzz.crowd import JUDGED_COMMANDS, Report, Watch, fuzz_engine
from tests.fuzz.steps import Kind, Step, read_steps, send
from tests.fuzz.trail import Trail, path_of

_STEPS = [Step(Kind.CHIP, 0, b"owned"), send(b"\x00\xc1", 3)]
_SILENCE_S = 5.0
"""More than it takes to end a process on a busy machine."""


def _leave_trail(worker: int, seed: str, folder: Path) -> None:
    trail = Trail(path_of(folder, seed, worker))
    trail.note(send(b"of the run before"))
    trail.begin()
    for step in _STEPS:
        trail.note(step)


def _hang_in_one(
    worker: int, seed: str, commands: int, folder: Path, reports: Queue[Report]
) -> None:
    """Worker 0 sleeps in a command, and no report of it comes any more; the other is done."""
    if worker == 0:
        _leave_trail(worker, seed, folder)
        reports.put((worker, Tally(), "", 0))
        threading.Event().wait()
    reports.put((worker, Tally(commands), "", 0))


def _die_in_one(
    worker: int, seed: str, commands: int, folder: Path, reports: Queue[Report]
) -> None:
    if worker == 0:
        _leave_trail(worker, seed, folder)
        os.kill(os.getpid(), signal.SIGKILL)
    reports.put((worker, Tally(commands), "", 0))


def test_a_worker_that_sleeps_in_a_command_is_told_with_its_steps(tmp_path: Path) -> None:
    (found,) = fuzz_engine("seed", 200, 2, tmp_path, work=_hang_in_one, silence_s=_SILENCE_S)
    assert found.endswith("worker 0 hangs, last step: send 3 00c1")
    assert read_steps((tmp_path / "seed-0-lost.txt").read_text()) == _STEPS
    assert not list(tmp_path.glob("*.trail"))


def test_a_worker_that_dies_is_told_with_its_steps(tmp_path: Path) -> None:
    (found,) = fuzz_engine("seed", 200, 2, tmp_path, work=_die_in_one)
    assert found.endswith("worker 0 ended with -9, last step: send 3 00c1")
    assert read_steps((tmp_path / "seed-0-lost.txt").read_text()) == _STEPS


def test_an_ordinal_that_never_succeeds_in_a_long_run_is_a_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _judge(JUDGED_COMMANDS) == ["never successful: OIAP"]
    assert _judge(JUDGED_COMMANDS - 1) == []
    monkeypatch.setattr(crowd, "MAY_FAIL_ALWAYS", {Ordinal.OIAP: "for this test"})
    assert _judge(JUDGED_COMMANDS) == []


def _judge(commands: int) -> list[str]:
    """Return what is found of a run in which Sign succeeds in transport sessions only, OIAP never,
    and all others do."""
    reached = ROWS.keys() - {Ordinal.OIAP, Ordinal.SIGN}
    outcomes = Counter({(ordinal, int(ReturnCode.SUCCESS)): 1 for ordinal in reached})
    outcomes[Ordinal.OIAP, ReturnCode.RESOURCES] = 1
    wrapped = Counter({(int(Ordinal.SIGN), int(ReturnCode.SUCCESS)): 1})
    watch = Watch(1, commands)
    watch.take((0, Tally(commands, outcomes, wrapped), "", 0))
    watch.finish()
    return watch.found
