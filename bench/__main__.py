# SPDX-License-Identifier: Apache-2.0
"""Measures the whole chain against swtpm and prints what was promised beside what was found."""

from __future__ import annotations

import os
import select
from pathlib import Path

import click

from bench.engine import engine_table, measure
from bench.guest import guest_boots
from bench.manager import saves_and_starts
from bench.operations import OPERATIONS, Fixture, Operation, provision
from bench.peers import (
    Peer,
    connect,
    our_socket,
    our_stack,
    swtpm,
    swtpm_socket,
    temporary_folder,
    wait_ready,
)
from bench.report import Row, facts_table, make_row, table, write_files
from bench.startup import memory, start_times
from bench.units import measure_units

PLACEMENTS = {
    "client on core 0, daemons on core 1": (0, 1),
    "everything on core 0": (0, 0),
}
PLACEMENT_OF_THE_ENGINE = 1
WARM_UP = 3


def _measure(operation: Operation, peers: dict[str, tuple[Peer, Fixture]], rounds: int) -> None:
    """Let the peers take turns, batch by batch."""
    for peer, fixture in peers.values():
        for _ in range(min(WARM_UP, operation.batch)):
            operation.run(peer, fixture)
    for _ in range(rounds):
        if operation.pause_s:
            select.select([], [], [], operation.pause_s)
        for peer, fixture in peers.values():
            with peer.timing(operation.ordinal, operation.name):
                for _ in range(operation.batch):
                    operation.run(peer, fixture)


def _placement(client_core: int, daemon_core: int, rounds: int) -> list[Row]:
    os.sched_setaffinity(0, {client_core})
    rows = []
    with (
        temporary_folder() as folder,
        our_stack(folder, daemon_core) as process,
        swtpm(folder, daemon_core),
    ):
        wait_ready(process)
        ours = Peer("ours", connect(our_socket(folder)))
        theirs = Peer("swtpm", connect(swtpm_socket(folder)))
        with ours.connection, theirs.connection:
            peers = {peer.name: (peer, provision(peer)) for peer in (ours, theirs)}
            for operation in OPERATIONS:
                _measure(operation, peers, rounds)
                one_core = client_core == daemon_core
                rows.append(
                    make_row(
                        operation.name,
                        ours.samples_us[operation.name],
                        theirs.samples_us[operation.name],
                        operation.target_one_core if one_core else operation.target,
                        operation.limit_ms,
                    )
                )
    return rows


def _engine_alone(results: Path) -> None:
    """Measure every ordinal in this process, on one core, and write the table."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {PLACEMENT_OF_THE_ENGINE})
    alone = engine_table(measure())
    os.sched_setaffinity(0, allowed)
    click.echo(f"\nthe engine alone\n\n{alone}")
    results.mkdir(parents=True, exist_ok=True)
    (results / "engine.md").write_text(f"{alone}\n")


@click.command()
@click.option("--rounds", default=15, show_default=True, help="Turns of each peer per command.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench/results"),
    show_default=True,
    help="Folder for results.md and results.json.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="Leave out the manager under load, booting guests, start-up times and memory.",
)
@click.option(
    "--engine",
    is_flag=True,
    help="Instead: the engine alone. Written to engine.md.",
)
@click.option(
    "--units",
    type=click.IntRange(1),
    metavar="GUESTS",
    help="Instead: so many guests under a systemd of their own; needs root. Written to units.md.",
)
def main(rounds: int, results: Path, quick: bool, engine: bool, units: int | None) -> None:
    """Measure the whole chain and swtpm in one interleaved run.

    Needs two cores and swtpm; nothing else should run on the machine.
    """
    if engine:
        _engine_alone(results)
        click.echo(f"written to {results}")
        return
    if units is not None:
        figures = facts_table(measure_units(units))
        results.mkdir(parents=True, exist_ok=True)
        (results / "units.md").write_text(figures)
        click.echo(f"\n{figures}\nwritten to {results}")
        return
    allowed = os.sched_getaffinity(0)
    placements = {}
    for name, (client_core, daemon_core) in PLACEMENTS.items():
        placements[name] = _placement(client_core, daemon_core, rounds)
        os.sched_setaffinity(0, allowed)
        click.echo(f"\n{name}\n\n{table(placements[name])}")
    _engine_alone(results)
    facts: dict[str, float] = {}
    saves = boots = ""
    if not quick:
        saves, manager = saves_and_starts()
        click.echo(f"\nthe manager\n\n{saves}")
        facts = start_times() | memory() | manager
        boots = guest_boots()
        click.echo(f"\na guest's boot\n\n{boots}")
    click.echo(f"\n{facts_table(facts)}")
    write_files(results, placements, facts)
    if saves:
        (results / "manager.md").write_text(f"{saves}\n")
    if boots:
        (results / "guest.md").write_text(f"{boots}\n")
    click.echo(f"written to {results}")


if __name__ == "__main__":
    main()
