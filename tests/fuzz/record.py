# SPDX-License-Identifier: Apache-2.0
"""Records seeds: runs the unit tests of the engine and keeps a vector of every outcome they reach.

    python -m tests.fuzz.record

Per ordinal, tag and return code one command is kept, of a success the shortest and the longest.
What is in the corpus already stays, so that a second recording adds only what is new.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.framing import HEADER_BYTES, parse_header
from tests.fuzz.corpus import MAX_SEED_BYTES, read_seeds, write_seeds
from tests.unit.tpm12.world import Chip

TESTS = Path(__file__).parent.parent / "unit" / "tpm12"
_ORDINALS = frozenset(Ordinal)
_Outcome = tuple[int, int, int]


class Recorder:
    """A pytest plugin that sees every command of every chip."""

    def __init__(self) -> None:
        self.best: dict[_Outcome, tuple[bytes, bytes]] = {}

    def note(self, command: bytes, response: bytes) -> None:
        """Keep a command if it is the shortest or longest of its outcome."""
        if not HEADER_BYTES <= len(command) <= MAX_SEED_BYTES:
            return
        header = parse_header(command)
        if header.code not in _ORDINALS:
            return
        outcome = (header.code, header.tag, parse_header(response).code)
        short, long = self.best.get(outcome, (command, command))
        order = (len(command), command)
        if order < (len(short), short):
            short = command
        if order > (len(long), long):
            long = command
        self.best[outcome] = short, long

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """Listen to the chips of one test."""
        plain = Chip.send

        def send(chip: Chip, command: bytes) -> bytes:
            response = plain(chip, command)
            self.note(command, response)
            return response

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Chip, "send", send)
            return (yield)

    def seeds(self) -> dict[int, list[tuple[int, bytes]]]:
        """Return what was recorded, joined with the corpus as it is."""
        known = read_seeds()
        outcomes = {
            (ordinal, parse_header(command).tag, code)
            for ordinal, vectors in known.items()
            for code, command in vectors
        }
        for outcome, (short, long) in sorted(self.best.items()):
            ordinal, _, code = outcome
            if outcome not in outcomes:
                kept = {short, long} if code == ReturnCode.SUCCESS else {short}
                known.setdefault(ordinal, []).extend((code, command) for command in kept)
        return known


def main() -> int:
    """Run the tests and write the seeds."""
    recorder = Recorder()
    # The models try commands at random, and the fuzzer these very seeds; neither is a vector that
    # somebody chose.
    chosen = ["-k", "not test_model and not test_fuzz", str(TESTS)]
    code = pytest.main(["-q", "-p", "no:cacheprovider", *chosen], plugins=[recorder])
    write_seeds(recorder.seeds())
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
