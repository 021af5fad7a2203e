# SPDX-License-Identifier: Apache-2.0
"""A manager that keeps keys and loses answers, and what else the daemon's parts are given."""

from __future__ import annotations

import enum
import hashlib
from collections import deque
from dataclasses import dataclass, field
from uuid import UUID

from daemons.runtime.log import Level, Log
from daemons.vtpm.image import HashKey
from daemons.vtpm.selection import Blank, Record
from daemons.vtpm.store import ManagerLost
from protocol.manager.framing import ManagerRefused
from tests.faulty_disk import PowerCut

GUEST = UUID("8a3f6a52-5c1f-4f0e-9d7c-0a3b1c2d4e5f")
OTHER_GUEST = UUID("11111111-2222-4333-8444-555555555555")


class CountingRandom:
    """Bytes that never repeat and are the same in every run."""

    def __init__(self, seed: bytes = b"") -> None:
        self._seed = seed
        self._count = 0

    def random(self, size_bytes: int) -> bytes:
        """Return the next bytes."""
        self._count += 1
        return hashlib.shake_128(self._seed + self._count.to_bytes(8, "big")).digest(size_bytes)

    def stir(self, data: bytes) -> None:
        """Mix in."""
        self._seed += data


@dataclass
class Lines:
    """Where a log goes."""

    lines: list[str] = field(default_factory=list)

    def log(self) -> Log:
        """Return a log that writes here."""
        return Log("vtpm", level=Level.DEBUG, sink=self.lines.append)


class Fault(enum.Enum):
    """What goes wrong with one command of the manager."""

    LOST_BEFORE = "the connection ended before the manager did anything"
    LOST_AFTER = "the manager committed, and its answer was lost"
    LATE = "the connection ended, and the manager commits only after it was asked what it has"
    POWER_CUT_BEFORE = "the machine went off before the manager committed"
    POWER_CUT_AFTER = "the machine went off after it"


@dataclass
class Vault:
    """What the manager has for one vTPM. Survives everything."""

    data: bytes | None = None
    """None: the uuid is unknown."""

    @property
    def record(self) -> Record:
        """What LOADHASHKEY says."""
        if self.data is None:
            return Blank.UNKNOWN
        return HashKey.decode(self.data) or Blank.NO_IMAGE


@dataclass
class FakeKeeper:
    """The manager's two commands, with faults in the order in which commands come."""

    vault: Vault = field(default_factory=Vault)
    on_save: deque[Fault | int | None] = field(default_factory=deque)
    """What the next SAVEHASHKEYs meet: a fault, a return code, or None for success."""
    on_load: deque[Fault | int | None] = field(default_factory=deque)
    calls: list[str] = field(default_factory=list)
    late: bytes | None = None

    async def load_hash_key(self) -> Record:
        """LOADHASHKEY."""
        self.calls.append("load")
        self._meet(self.on_load, None)
        record = self.vault.record
        if self.late is not None:
            self.vault.data, self.late = self.late, None
        return record

    async def save_hash_key(self, data: bytes) -> None:
        """SAVEHASHKEY."""
        self.calls.append("save")
        self._meet(self.on_save, data)

    def _meet(self, faults: deque[Fault | int | None], data: bytes | None) -> None:
        fault = faults.popleft() if faults else None
        match fault:
            case int():
                raise ManagerRefused(fault)
            case Fault.LOST_BEFORE:
                raise ManagerLost("gone", submitted=True)
            case Fault.LATE:
                self.late = data
                raise ManagerLost("gone", submitted=True)
            case Fault.POWER_CUT_BEFORE:
                raise PowerCut
            case Fault.LOST_AFTER | Fault.POWER_CUT_AFTER | None:
                pass
        if data is not None:
            self.vault.data = data
        if fault is Fault.LOST_AFTER:
            raise ManagerLost("gone", submitted=True)
        if fault is Fault.POWER_CUT_AFTER:
            raise PowerCut
