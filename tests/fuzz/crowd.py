# SPDX-License-Identifier: Apache-2.0
"""Several processes that fuzz, and the one that listens to them."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Final

import click

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.fuzz.campaign import Campaign, Failure, Tally, write_finding
from tests.fuzz.chips import prepare
from tests.fuzz.corpus import ROWS, read_seeds
from tests.fuzz.trail import Trail, keep, path_of

REPORT_S: Final = 10.0
SILENCE_S: Final = 120.0
"""A run takes some tenths of a second; a worker that says nothing for so long hangs in one, whether
it computes or sleeps."""
START_S: Final = 120.0
JUDGED_COMMANDS: Final = 1_000_000
"""In so many each ordinal must have succeeded; in a third of them all had."""
MAY_FAIL_ALWAYS: Final[Mapping[Ordinal, str]] = {}
"""Ordinals that need not succeed however long the run is, and why."""
GROWTH_LIMIT_KIB: Final = 32 * 1024
_SETTLED_SHARE: Final = 0.2
"""Of its commands, after which a worker has filled all caches that it may have."""

Report = tuple[int, Tally, str, int]
"""Worker, what its last run did, the finding if there is one, resident memory in KiB."""
Work = Callable[[int, str, int, Path, "Queue[Report]"], None]
"""Worker, seed, number of commands, folder of findings, where reports go."""


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _work(worker: int, seed: str, commands: int, folder: Path, reports: Queue[Report]) -> None:
    """Do runs until so many commands are done."""
    trail = Trail(path_of(folder, seed, worker))
    campaign = Campaign(f"{seed}/{worker}", prepare(), read_seeds(), trail)
    done = number = 0
    while done < commands:
        try:
            tally, found = campaign.run(number), ""
        except Failure as failure:
            path = write_finding(folder, f"{seed}-{worker}-{number}", failure)
            # The commands of a broken run count too, or a run that always breaks never ends.
            tally, found = Tally(commands=len(failure.steps)), f"{path}: {failure}"
        done += tally.commands
        number += 1
        reports.put((worker, tally, found, _resident_kib()))


class Watch:
    """Joins the reports of the workers and judges memory."""

    def __init__(self, workers: int, commands: int) -> None:
        self.total = Tally()
        self.found: list[str] = []
        self._share = commands // workers
        self._done = [0] * workers
        self._settled_kib = [0] * workers
        self.growth_kib = [0] * workers

    def take(self, report: Report) -> None:
        """Add one report."""
        worker, tally, found, resident_kib = report
        self.total.add(tally)
        self._done[worker] += tally.commands
        if found:
            self.found.append(found)
            click.echo(found)
        if self._done[worker] < self._share * _SETTLED_SHARE:
            self._settled_kib[worker] = resident_kib
        else:
            self.growth_kib[worker] = resident_kib - self._settled_kib[worker]

    def finish(self) -> None:
        """Say what came of it all."""
        if max(self.growth_kib) > GROWTH_LIMIT_KIB:
            self.found.append(f"memory grew by {max(self.growth_kib)} KiB")
        click.echo(
            f"{self.total.commands} commands, {len(self.total.outcomes)} outcomes, slowest"
            f" {self.total.slowest_s * 1000:.1f} ms, memory grew by {max(self.growth_kib)} KiB"
        )
        inside = _successful(self.total.wrapped)
        click.echo(
            f"{self.total.wrapped.total()} commands inside of transport sessions, successful"
            f" {len(inside)} ordinals"
        )
        missing = sorted(ROWS.keys() - _successful(self.total.outcomes) - inside)
        names = ", ".join([Ordinal(ordinal).name for ordinal in missing]) or "none"
        click.echo(f"never successful: {names}")
        if self.total.commands >= JUDGED_COMMANDS and set(missing) - MAY_FAIL_ALWAYS.keys():
            self.found.append(f"never successful: {names}")


def _successful(outcomes: Mapping[tuple[int, int], int]) -> set[int]:
    return {ordinal for ordinal, code in outcomes if code == ReturnCode.SUCCESS}


def fuzz_engine(
    seed: str,
    commands: int,
    workers: int,
    folder: Path,
    *,
    work: Work = _work,
    silence_s: float = SILENCE_S,
) -> list[str]:
    """Run workers until they are done and return what they found.

    Args:
        work: what each of them does, in a process of its own.
        silence_s: one that reports nothing for so long is ended, the others go on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    reports: Queue[Report] = spawn.Queue()
    processes = [
        spawn.Process(target=work, args=(n, seed, commands // workers, folder, reports))
        for n in range(workers)
    ]
    watch = Watch(workers, commands)
    for process in processes:
        process.start()
    began = last_report = time.monotonic()
    # Before its first report a worker starts up, which is slower than any run.
    last_words = [began + START_S] * workers
    hanging: set[int] = set()
    # A worker ends after its last report, so what is in the queue then is all there is.
    while any(process.is_alive() for process in processes) or not reports.empty():
        now = time.monotonic()
        try:
            report = reports.get(timeout=min(1, silence_s))
            watch.take(report)
            last_words[report[0]] = now
        except Empty:
            pass
        for worker, process in enumerate(processes):
            if process.is_alive() and now - last_words[worker] > silence_s:
                hanging.add(worker)
                process.kill()
                process.join()
                watch.found.append(_keep_trail(folder, seed, worker, "hangs"))
        if now - last_report > REPORT_S:
            last_report = now
            rate = watch.total.commands / (now - began)
            click.echo(f"{watch.total.commands} commands, {rate:.0f}/s, {len(watch.found)} found")
    for worker, process in enumerate(processes):
        process.join()
        if process.exitcode and worker not in hanging:
            ended = f"ended with {process.exitcode}"
            watch.found.append(_keep_trail(folder, seed, worker, ended))
        path_of(folder, seed, worker).unlink(missing_ok=True)
    watch.finish()
    return watch.found


def _keep_trail(folder: Path, seed: str, worker: int, what: str) -> str:
    """Make a finding of the run that a worker did not come back from."""
    finding = folder / f"{seed}-{worker}-lost.txt"
    last = keep(path_of(folder, seed, worker), finding, f"worker {worker} {what}")
    return f"{finding}: worker {worker} {what}, last step: {last or 'none'}"
