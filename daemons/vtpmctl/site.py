# SPDX-License-Identifier: Apache-2.0
"""Where a suite runs: under `vtpmctl up` in a folder, or as systemd's units.

Everything that looks at daemons (`status`, `doctor`) sees a `Site` and not who runs them. The two
are `daemons.vtpmctl.stack` and `daemons.vtpmctl.units`.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
_START_TIME_FIELD: Final = 22 - 3
"""Index of starttime in /proc/PID/stat (proc(5)) behind the name, which ends with a parenthesis."""


class Kind(enum.Enum):
    """The commands that run as daemons."""

    HWTPM = "hwtpm"
    MANAGER = "vtpmmgr"
    VTPM = "vtpm"
    FRONT = "tpmfront"


@dataclass(frozen=True, slots=True)
class Daemon:
    """One daemon, as whoever runs it knows it.

    Attributes:
        name: unique: "vtpm-g1", or the name of the unit.
        kind: which command it is.
        state: in words, such as "ready" or "refused to start".
        is_ready: it has said so, and still runs.
        pid: of its process; None if there is none.
        restarts: how often it was started again.
        note: what it says of itself, or why it ended.
        guest: name of the guest that it is for; None is for all.
        uuid: of that guest's vTPM, if it is known.
        control: where it answers; None: nowhere.
    """

    name: str
    kind: Kind
    state: str
    is_ready: bool
    pid: int | None
    restarts: int
    note: str
    guest: str | None
    uuid: str | None
    control: Path | None


@dataclass(frozen=True, slots=True)
class FolderRule:
    """What a folder or file has to be.

    Attributes:
        path: where.
        forbidden: bits of its mode that must not be set.
        owner: user that it must belong to; None leaves that to `uid`.
        uid: the same as a number; None and no owner: any.
        must_be_there: it is missing only if something is wrong.
        secret: there are secrets in it.
    """

    path: Path
    forbidden: int
    owner: str | None = None
    uid: int | None = None
    must_be_there: bool = True
    secret: bool = False


@dataclass(frozen=True, slots=True)
class SocketRule:
    """What a socket has to be while its daemon is ready.

    Attributes:
        path: where.
        daemon: name of the daemon that listens.
        forbidden: bits of its mode that must not be set.
        is_stream: SOCK_STREAM; else SOCK_SEQPACKET.
    """

    path: Path
    daemon: str
    forbidden: int
    is_stream: bool


@dataclass(frozen=True, slots=True)
class Premises:
    """What a site consists of besides its processes.

    Attributes:
        folders: what must be as it must be.
        sockets: of all daemons.
        locks: the lock file of each state folder, with the daemon that may hold it.
        state: the folder whose file system everything is kept in.
        configuration: the folder of `vtpm.toml`.
        tis: folder of the chip's locality sockets.
        locality: at which the manager uses the chip.
        fronts: raw TPM stream of each guest that has one.
        users: that must exist.
        groups: that must exist.
        units: what systemd says of each unit, by name; empty without systemd.
    """

    folders: tuple[FolderRule, ...]
    sockets: tuple[SocketRule, ...]
    locks: tuple[tuple[Path, str], ...]
    state: Path
    configuration: Path
    tis: Path
    locality: int
    fronts: tuple[tuple[str, Path], ...]
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    units: tuple[UnitState, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd says of a unit; values are those of `systemctl show`."""

    name: str
    load: str
    active: str
    file_state: str
    result: str
    exit_status: int


class Site(Protocol):
    """A running suite, or one that could run."""

    @property
    def where(self) -> str:
        """Say where it is."""

    async def daemons(self) -> tuple[Daemon, ...]:
        """Return its daemons, in the order in which people think of them.

        Raises:
            DaemonError: whoever runs them does not tell.
        """

    async def premises(self) -> Premises:
        """Return what it consists of besides.

        Raises:
            DaemonError: as above.
        """


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What the kernel says of a process.

    Attributes:
        uptime_s: since it was started.
        memory_bytes: resident, what it shares with others included (VmRSS).
    """

    uptime_s: float
    memory_bytes: int


def process_facts(pid: int) -> ProcessFacts | None:
    """Return what /proc says of a process; None if it has ended or may not be looked at."""
    try:
        folder = Path("/proc", str(pid))
        stat = (folder / "stat").read_text()
        status = (folder / "status").read_text()
        since_boot_s = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return None
    resident = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    if resident is None:
        return None  # a zombie has no memory
    started_ticks = int(stat.rpartition(")")[2].split()[_START_TIME_FIELD])
    uptime_s = max(0.0, since_boot_s - started_ticks / _CLOCK_TICKS)
    return ProcessFacts(uptime_s, int(resident[1]) * 1024)


def guests_of(daemons: tuple[Daemon, ...]) -> Iterator[str]:
    """Give the name of each guest once."""
    yield from dict.fromkeys(daemon.guest for daemon in daemons if daemon.guest is not None)
