# SPDX-License-Identifier: Apache-2.0
"""The steps of the run that is under way, where they outlive a process that hangs or dies."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.steps import Step


class Trail:
    """Writes each step to a file before it is done.

    Args:
        path: in the text form of `tests.fuzz.steps`; begun anew by each run.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer: what is in it dies with the process.
        self._file = path.open("wb", buffering=0)

    def begin(self) -> None:
        """Forget the run before."""
        self._file.seek(0)
        self._file.truncate()

    def note(self, step: Step) -> None:
        """Write a step that is about to be done."""
        self._file.write(f"{step.line}\n".encode())


def path_of(folder: Path, seed: str, worker: int) -> Path:
    """Return where a worker has its trail."""
    return folder / f"{seed}-{worker}.trail"


def keep(path: Path, finding: Path, reason: str) -> str:
    """Make a finding of a trail and return its last step; empty if there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    finding.write_text("\n".join([f"# {reason}", *lines, ""]))
    return lines[-1] if lines else ""
