# SPDX-License-Identifier: Apache-2.0
"""Time to the first answer, and memory of each further guest."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

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
from tpmcore import tss12

STARTS = 5
GUESTS = 5
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def _first_answer_s(path: Path, started: float) -> float:
    peer = Peer("", connect(path))
    with peer.connection:
        peer.run(tss12.manufacturer())
        return time.perf_counter() - started


def start_times() -> dict[str, float]:
    """Return milliseconds from the start of the command to the first answer, medians in turns."""
    first: list[float] = []
    again: list[float] = []
    theirs: list[float] = []
    for _ in range(STARTS):
        with temporary_folder() as folder:
            for samples in (first, again):
                started = time.perf_counter()
                with our_stack(folder, None) as process:
                    samples.append(_first_answer_s(our_socket(folder), started))
                    wait_ready(process)
            started = time.perf_counter()
            with swtpm(folder, None):
                theirs.append(_first_answer_s(swtpm_socket(folder), started))
    return {
        "vtpmctl up to first answer, new folder (ms)": statistics.median(first) * 1e3,
        "vtpmctl up to first answer, second start (ms)": statistics.median(again) * 1e3,
        "swtpm to first answer (ms)": statistics.median(theirs) * 1e3,
    }


def memory() -> dict[str, float]:
    """Return proportional set sizes in MiB: of a stack, of each further guest, of one swtpm."""
    sizes = {}
    for number in (1, GUESTS):
        names = [f"g{i}" for i in range(1, number + 1)]
        with temporary_folder() as folder, our_stack(folder, None, names) as process:
            wait_ready(process)
            for name in names:
                _first_answer_s(our_socket(folder, name), 0.0)
            sizes[number] = sum(_pss_mib(pid) for pid in [process.pid, *_daemon_pids(folder)])
    with temporary_folder() as folder, swtpm(folder, None) as process:
        _first_answer_s(swtpm_socket(folder), 0.0)
        theirs = _pss_mib(process.pid)
    return {
        "memory of a stack with one guest, PSS (MiB)": sizes[1],
        "memory of each further guest, PSS (MiB)": (sizes[GUESTS] - sizes[1]) / (GUESTS - 1),
        "memory of one swtpm, PSS (MiB)": theirs,
    }


def _daemon_pids(folder: Path) -> list[int]:
    status = subprocess.run(
        [sys.executable, "-m", "daemons.vtpmctl", "status", "--json", "--dir", os.fspath(folder)],
        stdout=subprocess.PIPE,
        check=True,
    )
    return [row["pid"] for row in json.loads(status.stdout)["daemons"]]


def _pss_mib(pid: int) -> float:
    found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    return int(found[1]) / 1024 if found else 0.0
