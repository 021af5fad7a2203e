# SPDX-License-Identifier: Apache-2.0
"""The manager under load: saves per second, the time of one save, and a start with many records.

    python -m bench.manager

Real hwtpm and vtpmmgr processes; the clients are tasks of this one, each a vTPM that saves again as
soon as its save was acknowledged. Figures of the modes are compared with each other: what a save
takes in mode `none` is what it takes without the hardware TPM.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

import trio

from bench.peers import BenchError, temporary_folder
from bench.report import facts_table, percentile
from daemons.runtime.config.options import ManagerOptions
from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.log import Level, Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.commits import Committer, Exclusive
from daemons.vtpmmgr.ledger import Transaction
from daemons.vtpmmgr.records import VtpmRecord
from daemons.vtpmmgr.startup import StartOptions, start
from daemons.vtpmmgr.tpm12hardware import Tpm12Hardware
from protocol.manager.constants import ManagementOrdinal
from protocol.manager.management import VtpmList, VtpmsListed, decode_answer, encode_management
from protocol.manager.messages import decode_save_hash_key_response, encode_save_hash_key
from protocol.tis.driver import TisOptions, open_tis
from protocol.tpmif.unix import open_frontend

CONCURRENT: Final = (1, 16, 200)
RECORDS: Final = 20_000
START_PROMISE_S: Final = 2.0
SAVE_PROMISE_MS: Final = 5.0
STARTS: Final = 5

_MEASURE_S: Final = 3.0
_WARM_UP: Final = 5
_READY_LIMIT_S: Final = 60.0
_RSS: Final = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)


def _uuid(number: int) -> UUID:
    return uuid.uuid5(uuid.NAMESPACE_DNS, f"vtpm {number}")


class _Machine:
    """A folder with a chip that runs, and a manager that is started and stopped."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tis = root / "tis"
        self.tis.mkdir()
        self.socket = root / "m.sock"
        self.admin = root / "admin.sock"
        guests = root / "etc" / "guests.d"
        guests.mkdir(parents=True)
        (root / "etc" / "vtpm.toml").write_text("[manager]\nshared_uid = true\n")
        for number in range(max(CONCURRENT)):
            text = f'uuid = "{_uuid(number)}"\nuid = {os.geteuid()}\n'
            (guests / f"g{number}.toml").write_text(text)

    @contextlib.contextmanager
    def chip(self) -> Iterator[None]:
        """Run hwtpm."""
        arguments = ("--state", str(self.root / "chip"), "--run", str(self.tis))
        with self._daemon("hwtpm", *arguments, "--key-pool", "0"):
            yield

    @contextlib.contextmanager
    def manager(self, mode: FreshnessMode) -> Iterator[tuple[int, float]]:
        """Run vtpmmgr; gives its process id and the seconds until it was ready."""
        with self._daemon(
            "vtpmmgr",
            *("--state", str(self.root / "mgr"), "--socket", str(self.socket)),
            *("--admin", str(self.admin), "--tis", str(self.tis)),
            *("--config", str(self.root / "etc"), "--freshness", mode.value),
        ) as found:
            yield found

    @contextlib.contextmanager
    def _daemon(self, name: str, *arguments: str) -> Iterator[tuple[int, float]]:
        path = self.root / f"{name}.notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(os.fspath(path))
            notify.settimeout(_READY_LIMIT_S)
            with (self.root / f"{name}.log").open("ab") as log:
                started = time.perf_counter()
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-c"),
                        f"from daemons.{name}.cli import main; main()",
                        *(*arguments, "--loglevel", "error"),
                    ],
                    stdin=subprocess.DEVNULL,
                    stderr=log,
                    env={**os.environ, "NOTIFY_SOCKET": os.fspath(path)},
                )
            try:
                try:
                    while b"READY=1" not in notify.recv(4096):
                        pass
                except TimeoutError as error:
                    raise BenchError(f"{name} does not get ready") from error
                yield process.pid, time.perf_counter() - started
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()


@dataclass(frozen=True, slots=True)
class _Saves:
    """What some vTPMs measured that saved at once."""

    per_s: float
    samples_ms: Sequence[float]


async def _measure_saves(path: Path, vtpms: int) -> _Saves:
    samples_ms: list[float] = []
    request = encode_save_hash_key(os.urandom(64))
    begin, finish = trio.Event(), [0.0]

    async def client(number: int, task_status: trio.TaskStatus[None]) -> None:
        async with open_frontend(path, uuid=_uuid(number)) as device:
            for _ in range(_WARM_UP):
                decode_save_hash_key_response(await device.transact(request, 0))
            task_status.started()
            await begin.wait()
            while (now := time.perf_counter()) < finish[0]:
                decode_save_hash_key_response(await device.transact(request, 0))
                samples_ms.append((time.perf_counter() - now) * 1e3)

    async with trio.open_nursery() as nursery:
        for number in range(vtpms):
            await nursery.start(client, number)
        finish[0] = time.perf_counter() + _MEASURE_S
        begin.set()
    return _Saves(len(samples_ms) / _MEASURE_S, samples_ms)


async def _list_all(path: Path) -> int:
    """Ask for the whole list over the admin socket; gives its length."""
    found = 0
    async with await trio.open_unix_socket(os.fspath(path)) as stream:
        while True:
            request = encode_management(ManagementOrdinal.VTPM_LIST, VtpmList(0, found))
            await stream.send_all(request)
            answer = b""
            while len(answer) < 6 or len(answer) < int.from_bytes(answer[2:6], "big"):
                answer += await stream.receive_some(65536)
            page = decode_answer(answer, VtpmsListed)
            if not page.uuids:
                return found
            found += len(page.uuids)


async def _fill(machine: _Machine) -> None:
    """Register many vTPMs, without a manager that serves."""
    well_known = Secret(20)
    defaults = ManagerOptions()
    log = Log("bench", level=Level.ERROR)
    state = machine.root / "mgr"
    state.mkdir(mode=0o700)
    async with open_tis(machine.tis, defaults.locality, TisOptions()) as driver:
        hardware = Tpm12Hardware(
            driver, locality=defaults.locality, owner_auth=well_known, srk_auth=well_known
        )
        options = StartOptions(
            state / "manager.db", tuple(sorted(defaults.seal_pcrs)), defaults.nv_index
        )
        started = await start(options, hardware, log)
        committer = Committer(started.ledger, started.freshness, hardware, log)

        def register(transaction: Transaction) -> None:
            group = transaction.group(0)
            if group is None:
                raise BenchError("no group 0")
            for uuid_ in map(_uuid, range(RECORDS)):
                data = transaction.keys.wrap_data(group, uuid_, bytes(64))
                transaction.put(VtpmRecord(uuid_, group.uuid, 0, data))

        async def fill(alone: Exclusive) -> None:
            await alone.commit(register)

        async with trio.open_nursery() as nursery:
            await nursery.start(committer.run)
            await committer.exclusively(fill)
            nursery.cancel_scope.cancel()
        started.ledger.close()


def _processor_s(pid: int) -> float:
    """Return the processor time of a process so far, which a busy machine changes little."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mib(pid: int, which: re.Pattern[str]) -> float:
    found = which.search(Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def saves_and_starts() -> tuple[str, dict[str, float]]:
    """Return the table of saves and the figures of a manager with many records."""
    lines = [
        "| freshness | vTPMs at once | saves per second | median ms | p99 ms |",
        "|---|---:|---:|---:|---:|",
    ]
    alone: dict[FreshnessMode, float] = {}
    facts: dict[str, float] = {}
    with temporary_folder() as folder:
        machine = _Machine(folder)
        with machine.chip(), machine.manager(FreshnessMode.NV) as (pid, started_s):
            facts["first start of vtpmmgr, which takes ownership (ms)"] = started_s * 1e3
            facts["processor time of it (ms)"] = _processor_s(pid) * 1e3
            facts["memory of vtpmmgr, no records, RSS (MiB)"] = _memory_mib(pid, _RSS)
    with temporary_folder() as folder:
        machine = _Machine(folder)
        with machine.chip():
            trio.run(_fill, machine)
            starts, used = [], []
            for _ in range(STARTS):
                with machine.manager(FreshnessMode.NV) as (pid, started_s):
                    starts.append(started_s)
                    used.append(_processor_s(pid))
                    size_mib = _memory_mib(pid, _RSS)
                    begun = time.perf_counter()
                    listed = trio.run(_list_all, machine.admin)
                    listing_s = time.perf_counter() - begun
                    if listed != RECORDS:
                        raise BenchError(f"{listed} vTPMs listed")
            median_s = statistics.median(starts)
            facts[f"start of vtpmmgr, {RECORDS} records (ms), promised {START_PROMISE_S:g} s"] = (
                median_s * 1e3
            )
            facts[f"processor time of it, {RECORDS} records (ms)"] = statistics.median(used) * 1e3
            facts[f"memory of vtpmmgr, {RECORDS} records, RSS (MiB)"] = size_mib
            facts[f"list of {RECORDS} vTPMs (ms)"] = listing_s * 1e3
            for mode in FreshnessMode:
                with machine.manager(mode) as (pid, _):
                    for vtpms in CONCURRENT:
                        saves = trio.run(partial(_measure_saves, machine.socket, vtpms))
                        median = statistics.median(saves.samples_ms)
                        alone.setdefault(mode, median)
                        lines.append(
                            f"| {mode.value} | {vtpms} | {saves.per_s:.0f} | {median:.1f} "
                            f"| {percentile(saves.samples_ms, 0.99):.1f} |"
                        )
                    facts[f"memory of vtpmmgr after the saves, mode {mode.value}, RSS (MiB)"] = (
                        _memory_mib(pid, _RSS)
                    )
    beyond = f"a single save beyond the hardware's time (ms), promised {SAVE_PROMISE_MS:g} ms"
    facts[beyond] = alone[FreshnessMode.NONE]
    facts["the hardware's time in a single save, mode nv (ms)"] = (
        alone[FreshnessMode.NV] - alone[FreshnessMode.NONE]
    )
    return "\n".join(lines), facts


def main() -> None:
    """Print it."""
    table, facts = saves_and_starts()
    print(f"{table}\n\n{facts_table(facts)}")


if __name__ == "__main__":
    main()
