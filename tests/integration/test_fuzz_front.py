# SPDX-License-Identifier: Apache-2.0
"""The short part of fuzzing at the front socket; `make fuzz` has the long one."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.front import fuzz_front


def test_mutated_commands_at_the_front_leave_the_others_served(run_dir: Path) -> None:
    assert fuzz_front("short", 1500, run_dir) == []
