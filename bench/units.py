# SPDX-License-Identifier: Apache-2.0
"""Many guests under systemd: how long until all answer, and the memory of each.

Boots a systemd in namespaces with the installed suite, as the tests do (root is needed).
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.integration.machine import ROOT
from tests.integration.suite_machine import SHARED, SuiteMachine, pair, suite_machine

LIMIT_S = 900.0
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)
_GET_RANDOM = bytes.fromhex("00c1 0000000e 00000046 00000014")
_OK = bytes(4)


def measure_units(guests: int) -> dict[str, float]:
    """Return the figures of a machine with so many guests."""
    names = [f"g{number}" for number in range(1, guests + 1)]
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="b") as folder:
        root = Path(folder) / "installed"
        subprocess.run(["make", "-s", "-C", ROOT, "install", f"DESTDIR={root}"], check=True)
        root.chmod(0o755)
        stage = Path(folder) / "stage"
        stage.mkdir()
        with suite_machine(stage, root, names) as suite:
            suite.enable()
            first_s = _start_s(suite)
            answering = sum(_answers(suite, names))
            sizes = {unit: _pss_mib(suite, unit) for unit in suite.services}
            started = time.perf_counter()
            suite.stop(limit_s=LIMIT_S)
            stopped_s = time.perf_counter() - started
            again_s = _start_s(suite)
            answering = min(answering, sum(_answers(suite, names)))
            restarts = sum(int(suite.show(unit, "NRestarts")) for unit in suite.services)
    of_guests = [sum(sizes[unit] for unit in pair(name)) for name in names]
    return {
        "guests under systemd": guests,
        "of them answering after each start": answering,
        "first start of all, with their keys (s)": first_s,
        "second start of all (s)": again_s,
        "stop of all (s)": stopped_s,
        "memory of a guest (vtpm and tpmfront), median PSS (MiB)": statistics.median(of_guests),
        "memory of manager and chip, PSS (MiB)": sum(sizes[unit] for unit in SHARED),
        "daemons that had to be restarted": restarts,
    }


def _start_s(suite: SuiteMachine) -> float:
    started = time.perf_counter()
    suite.run("systemctl", "start", "vtpm.target", limit_s=LIMIT_S)
    return time.perf_counter() - started


def _answers(suite: SuiteMachine, names: list[str]) -> list[bool]:
    def answers(name: str) -> bool:
        return suite.exchange(name, _GET_RANDOM)[6:10] == _OK

    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(answers, names))


def _pss_mib(suite: SuiteMachine, unit: str) -> float:
    found = _PSS.search(suite.run("cat", f"/proc/{suite.pid(unit)}/smaps_rollup"))
    return int(found[1]) / 1024 if found else 0.0
