# SPDX-License-Identifier: Apache-2.0
"""The long run: millions of commands against engines on all cores, then the front socket.

    python -m tests.fuzz --commands 5000000
    python -m tests.fuzz --replay build/fuzz/SOME.txt

The seed is printed; the same seed decides the same, but for the padding of what clients encrypt,
which the library chooses. Findings are files of steps in the folder of `--findings`; one that is
repaired is kept under a name of its own, with the code that its last command is answered with, in
tests/corpus/findings, which `make test` replays. A client's check that failed is not replayed: its
file says what it was.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import click

from tests.fuzz import front
from tests.fuzz.campaign import replay
from tests.fuzz.chips import prepare
from tests.fuzz.crowd import fuzz_engine
from tests.fuzz.steps import read_steps


@click.command()
@click.option("--commands", default=5_000_000, show_default=True, help="At the engine.")
@click.option("--front", "front_commands", default=50_000, show_default=True, help="At the socket.")
@click.option("--workers", default=os.cpu_count() or 1, show_default=True)
@click.option("--seed", default="", help="Any text; the default is a new one.")
@click.option(
    "--findings",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/fuzz"),
    show_default=True,
)
@click.option("--replay", "replayed", type=click.Path(path_type=Path, exists=True))
def main(
    commands: int,
    front_commands: int,
    workers: int,
    seed: str,
    findings: Path,
    replayed: Path | None,
) -> None:
    """Fuzz the engine and the front socket; exit code 1 if anything is found."""
    if replayed is not None:
        replay(read_steps(replayed.read_text()), prepare())
        click.echo("holds")
        return
    seed = seed or secrets.token_hex(4)
    click.echo(f"seed {seed}, {workers} workers")
    found = fuzz_engine(seed, commands, workers, findings) if commands else []
    if front_commands:
        found += front.fuzz_front(seed, front_commands, findings)
    for finding in found:
        click.echo(f"FOUND {finding}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
