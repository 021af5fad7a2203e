# SPDX-License-Identifier: Apache-2.0
"""Several processes that fuzz, and the one that listens to them."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Final

import click

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.fuzz.campaign import Campaign, Failure, Tally, write_finding
from tests.fuzz.chips import prepare
from tests.fuzz.corpus import ROWS, read_seeds

REPORT_S: Final = 10.0
SILENCE_S: Final = 120.0
"""A run takes some tenths of a second; a worker that says nothing for so long hangs in one."""
GROWTH_LIMIT_KIB: Final = 32 * 1024
_SETTLED_SHARE: Final = 0.2
"""Of its commands, after which a worker has filled all caches that it may have."""

Report = tuple[int, Tally, str, int]
"""Worker, what its last run did, the finding if there is one, resident memory in KiB."""


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _work(worker: int, seed: str, commands: int, folder: Path, reports: Queue[Report]) -> None:
    """Do runs until so many commands are done."""
    campaign = Campaign(f"{seed}/{worker}", prepare(), read_seeds())
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


class _Watch:
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
        successes = {ordinal for ordinal, code in self.total.outcomes if code == ReturnCode.SUCCESS}
        missing = [Ordinal(ordinal).name for ordinal in sorted(ROWS) if ordinal not in successes]
        click.echo(
            f"{self.total.commands} commands, {len(self.total.outcomes)} outcomes, slowest"
            f" {self.total.slowest_s * 1000:.1f} ms, memory grew by {max(self.growth_kib)} KiB"
        )
        inside = {ordinal for ordinal, code in self.total.wrapped if code == ReturnCode.SUCCESS}
        click.echo(
            f"{self.total.wrapped.total()} commands inside of transport sessions, successful"
            f" {len(inside)} ordinals"
        )
        click.echo(f"never successful: {', '.join(missing) or 'none'}")


def fuzz_engine(seed: str, commands: int, workers: int, folder: Path) -> list[str]:
    """Run workers until they are done and return what they found."""
    spawn = multiprocessing.get_context("spawn")
    reports: Queue[Report] = spawn.Queue()
    processes = [
        spawn.Process(target=_work, args=(n, seed, commands // workers, folder, reports))
        for n in range(workers)
    ]
    watch = _Watch(workers, commands)
    for process in processes:
        process.start()
    began = last_report = last_word = time.monotonic()
    # A worker ends after its last report, so what is in the queue then is all there is.
    while any(process.is_alive() for process in processes) or not reports.empty():
        now = time.monotonic()
        try:
            watch.take(reports.get(timeout=1))
            last_word = now
        except Empty:
            if now - last_word > SILENCE_S:
                watch.found.append(f"a worker hangs; seed {seed}, see its last run")
                break
        if now - last_report > REPORT_S:
            last_report = now
            rate = watch.total.commands / (now - began)
            click.echo(f"{watch.total.commands} commands, {rate:.0f}/s, {len(watch.found)} found")
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()
        if process.exitcode:
            watch.found.append(f"a worker ended with {process.exitcode}")
    watch.finish()
    return watch.found
