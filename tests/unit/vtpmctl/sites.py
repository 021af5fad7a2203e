# SPDX-License-Identifier: Apache-2.0
"""Suites that do not run: daemons as a test wants them, answering as it wants them to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from daemons.runtime.control import Fields, Handler, Json, serve_control
from daemons.runtime.log import Log
from daemons.vtpmctl.site import Daemon, Kind, Premises

UUID = "c2f4a1de-52b7-4b0e-9a55-8d1f2f6f3a01"
QUIET = Log("test", sink=lambda _line: None)

LATENCY: dict[str, Json] = {
    "samples": 12,
    "median_us": 850.4,
    "p99_us": 12345.6,
    "longest_us": 12345.6,
}
ANSWERS: Mapping[Kind, Fields] = {
    Kind.HWTPM: {
        "state": "serving",
        "active_locality": None,
        "commands": 40,
        "command_latency": LATENCY,
        "key_pool": {"stock": 1, "size": 2},
    },
    Kind.MANAGER: {
        "state": "serving",
        "connections": 1,
        "sequence": 9,
        "bound_sequence": 9,
        "commits": 8,
        "saves": 10,
        "waiting_saves": 0,
        "hardware_answers": True,
        "commit_latency": LATENCY,
    },
    Kind.VTPM: {
        "uuid": UUID,
        "state": "serving",
        "waiting_for": "",
        "manager_connected": True,
        "last_save": {"slot": "slot1", "sequence": 4, "unix_time": 0},
        "commands": 7,
        "command_latency": LATENCY,
        "key_pool": {"stock": 3, "size": 4},
        "tpm": {
            "owned": True,
            "flags": ["enabled", "activated"],
            "banks": [
                {
                    "algorithm": "sha1",
                    "values": ["00" * 20] * 24,
                    "changed": [0, 1, 2, 10],
                    "boot_digest": "0123456789abcdef" * 4,
                }
            ],
        },
    },
    Kind.FRONT: {"state": "serving", "uuid": UUID, "clients": 2},
}


@dataclass(frozen=True, slots=True)
class FakeSite:
    """A site whose daemons are a list."""

    rows: tuple[Daemon, ...]
    held: Premises | None = None

    @property
    def where(self) -> str:
        """The test."""
        return "test"

    async def daemons(self) -> tuple[Daemon, ...]:
        """Return the list."""
        return self.rows

    async def premises(self) -> Premises:
        """Return what the test gave."""
        assert self.held is not None
        return self.held


def daemon(
    kind: Kind,
    control: Path | None = None,
    *,
    guest: str | None = None,
    state: str = "ready",
    note: str = "",
    uuid: str | None = None,
) -> Daemon:
    """Return a daemon of a guest, or of all; its process is that of the test if it is ready."""
    is_ready = state == "ready"
    return Daemon(
        name=kind.value if guest is None else f"{kind.value}-{guest}",
        kind=kind,
        state=state,
        is_ready=is_ready,
        pid=os.getpid() if is_ready else None,
        restarts=0,
        note=note,
        guest=guest,
        uuid=uuid,
        control=control,
    )


@asynccontextmanager
async def answering(
    folder: Path, answers: Mapping[Kind, Fields] = ANSWERS, *, guest: str = "g1"
) -> AsyncIterator[tuple[Daemon, ...]]:
    """Give one daemon of each kind with a control socket that gives its answer."""
    rows = []
    async with trio.open_nursery() as nursery:
        for kind, answer in answers.items():
            path = folder / f"{kind.value}.sock"

            async def status(_args: Fields, answer: Fields = answer) -> Fields:
                return answer

            handlers: dict[str, Handler] = {"status": status, "probe-hardware": status}
            await nursery.start(partial(serve_control, path, handlers, log=QUIET))
            is_guests = kind in {Kind.VTPM, Kind.FRONT}
            rows.append(daemon(kind, path, guest=guest if is_guests else None))
        yield tuple(rows)
        nursery.cancel_scope.cancel()
