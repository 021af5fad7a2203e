# SPDX-License-Identifier: Apache-2.0
"""The corpus in tests/corpus: one file of seeds per ordinal, and findings.

A line of a seed file has a return code and the command that got it in a unit test, in hex. What a
finding is, see `tests.fuzz.steps`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.framing import parse_header
from tests.fuzz.steps import Step, read_steps
from tpmcore.tpm12.command import Command
from tpmcore.tpm12.table import EVERYTHING

ROWS: Final[Mapping[int, Command]] = EVERYTHING
FOLDER: Final = Path(__file__).parent.parent / "corpus"
SEEDS: Final = FOLDER / "seeds"
FINDINGS: Final = FOLDER / "findings"
MAX_SEED_BYTES: Final = 2048
"""Longer commands make no better seeds; the limit of the input buffer is tried by mutation."""


def read_seeds() -> dict[int, list[tuple[int, bytes]]]:
    """Return (return code, command) of all seeds by ordinal, always in the same order."""
    seeds: dict[int, list[tuple[int, bytes]]] = {}
    for path in sorted(SEEDS.glob("*.txt")):
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                code, text = line.split()
                command = bytes.fromhex(text)
                seeds.setdefault(parse_header(command).code, []).append((int(code), command))
    return seeds


def write_seeds(seeds: Mapping[int, list[tuple[int, bytes]]]) -> None:
    """Write the seed files of the ordinals that are given."""
    SEEDS.mkdir(parents=True, exist_ok=True)
    for ordinal, vectors in seeds.items():
        lines: list[str] = []
        for code, command in sorted(vectors, key=lambda v: (v[0], len(v[1]), v[1])):
            lines += (f"# {code_name(code)}\n", f"{code} {command.hex()}\n")
        (SEEDS / f"{Ordinal(ordinal).name.lower()}.txt").write_text("".join(lines))


def code_name(code: int) -> str:
    """Return the name of a return code, or its number."""
    try:
        return ReturnCode(code).name
    except ValueError:
        return f"{code:#x}"


def findings() -> Iterator[tuple[str, list[Step]]]:
    """Yield name and steps of everything that was found and repaired."""
    for path in sorted(FINDINGS.glob("*.txt")):
        yield path.stem, read_steps(path.read_text())
