# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl status`: what whoever runs the daemons says of them, and each daemon of itself.

The result is one object, of which the tables and the JSON are two views; the JSON's members are
documented in docs/operating.md and held against it by a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from daemons.runtime.control import Fields, Json, control_request
from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.site import Daemon, Kind, ProcessFacts, Site, guests_of, process_facts

SCHEMA_VERSION: Final = 1
"""Of the JSON: members may be added, a member that changes or goes makes it one more."""

_TIMEOUT_S: Final = 5.0
_SERVING: Final = "serving"


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """One daemon.

    Attributes:
        daemon: as its site knows it.
        process: as the kernel knows it; None without a process.
        detail: its own answer; None if it has none to give.
        error: why there is no answer; "" if there is one, or nobody to ask.
    """

    daemon: Daemon
    process: ProcessFacts | None
    detail: Fields | None
    error: str

    @property
    def is_serving(self) -> bool:
        """It is ready and says that it serves."""
        return self.daemon.is_ready and (self.detail or {}).get("state") == _SERVING

    @property
    def note(self) -> str:
        """What an operator should know of it."""
        return self.error or self.daemon.note

    def get(self, *names: str) -> Json:
        """Return a member of its answer, None if it is not there."""
        found: Json = dict(self.detail) if self.detail is not None else None
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found


@dataclass(frozen=True, slots=True)
class GuestStatus:
    """One guest: its two daemons, either of which may be missing."""

    name: str
    vtpm: DaemonStatus | None
    front: DaemonStatus | None

    @property
    def is_serving(self) -> bool:
        """Its TPM answers, and what it changes can be saved."""
        return (
            self.vtpm is not None
            and self.vtpm.is_serving
            and self.vtpm.get("manager_connected") is True
            and self.front is not None
            and self.front.is_serving
        )

    @property
    def state(self) -> str:
        """In words: "serving", or the first thing that is in the way."""
        if self.vtpm is None:
            return "has no vtpm"
        if not self.vtpm.is_serving:
            waiting = self.vtpm.get("waiting_for")
            if self.vtpm.daemon.is_ready and self.vtpm.detail is not None:
                phase = str(self.vtpm.get("state"))
                return f"{phase}: {waiting}" if waiting else phase
            return f"vtpm {self.vtpm.daemon.state}"
        if self.vtpm.get("manager_connected") is not True:
            return "no manager"
        if self.front is None:
            return "has no tpmfront"
        if not self.front.is_serving:
            told = self.front.get("state")
            return str(told) if told else f"tpmfront {self.front.daemon.state}"
        return _SERVING

    @property
    def bank(self) -> Mapping[str, Json]:
        """Its first bank of PCRs as the vtpm tells it; empty if it does not."""
        banks = None if self.vtpm is None else self.vtpm.get("tpm", "banks")
        first = banks[0] if isinstance(banks, list) and banks else {}
        return first if isinstance(first, dict) else {}


@dataclass(frozen=True, slots=True)
class Status:
    """A whole suite at one moment."""

    where: str
    daemons: tuple[DaemonStatus, ...]
    guests: tuple[GuestStatus, ...]

    @property
    def is_serving(self) -> bool:
        """Every daemon and every guest is."""
        return all(one.is_serving for one in self.daemons) and all(
            guest.is_serving for guest in self.guests
        )

    def first(self, kind: Kind) -> DaemonStatus | None:
        """Return the daemon of a kind of which there is one."""
        return next((one for one in self.daemons if one.daemon.kind is kind), None)


async def gather_status(site: Site) -> Status:
    """Ask a site and all its daemons.

    Raises:
        DaemonError: the site does not tell which daemons there are.
    """
    daemons = await site.daemons()
    answers: dict[str, DaemonStatus] = {}
    async with trio.open_nursery() as nursery:
        for daemon in daemons:
            nursery.start_soon(_ask, daemon, answers)
    found = tuple([answers[daemon.name] for daemon in daemons])
    guests = [
        GuestStatus(name, _of(found, name, Kind.VTPM), _of(found, name, Kind.FRONT))
        for name in guests_of(daemons)
    ]
    return Status(site.where, found, tuple(guests))


async def _ask(daemon: Daemon, answers: dict[str, DaemonStatus]) -> None:
    detail, error, process = None, "", None
    if daemon.pid is not None:
        process = process_facts(daemon.pid)
        if daemon.control is not None:
            try:
                detail = await control_request(daemon.control, "status", timeout_s=_TIMEOUT_S)
            except DaemonError as failure:
                error = str(failure)
    answers[daemon.name] = DaemonStatus(daemon, process, detail, error)


def _of(daemons: Sequence[DaemonStatus], guest: str, kind: Kind) -> DaemonStatus | None:
    for one in daemons:
        if one.daemon.guest == guest and one.daemon.kind is kind:
            return one
    return None


def status_json(status: Status) -> dict[str, Json]:
    """Return the documented object."""
    return {
        "version": SCHEMA_VERSION,
        "where": status.where,
        "serving": status.is_serving,
        "daemons": [_daemon_json(one) for one in status.daemons],
        "guests": [_guest_json(one) for one in status.guests],
        "hardware": _hardware_json(status),
        "manager": _manager_json(status),
    }


def _daemon_json(one: DaemonStatus) -> dict[str, Json]:
    daemon, process = one.daemon, one.process
    return {
        "daemon": daemon.name,
        "kind": daemon.kind.value,
        "guest": daemon.guest,
        "uuid": daemon.uuid,
        "state": daemon.state,
        "serving": one.is_serving,
        "pid": daemon.pid,
        "uptime_s": None if process is None else round(process.uptime_s, 2),
        "memory_bytes": None if process is None else process.memory_bytes,
        "restarts": daemon.restarts,
        "note": daemon.note,
        "error": one.error,
        "control": None if daemon.control is None else str(daemon.control),
        "detail": None if one.detail is None else dict(one.detail),
    }


def _guest_json(guest: GuestStatus) -> dict[str, Json]:
    vtpm, front, bank = guest.vtpm, guest.front, guest.bank
    return {
        "name": guest.name,
        "uuid": guest_uuid(guest),
        "state": guest.state,
        "serving": guest.is_serving,
        "clients": front.get("clients") if front else None,
        "owned": vtpm.get("tpm", "owned") if vtpm else None,
        "flags": vtpm.get("tpm", "flags") if vtpm else None,
        "pcr_algorithm": bank.get("algorithm"),
        "pcr_values": bank.get("values"),
        "pcrs_changed": bank.get("changed"),
        "pcr_boot_digest": bank.get("boot_digest"),
        "last_save": vtpm.get("last_save") if vtpm else None,
        "commands": vtpm.get("commands") if vtpm else None,
        "latency": vtpm.get("command_latency") if vtpm else None,
        "key_pool": vtpm.get("key_pool") if vtpm else None,
    }


def guest_uuid(guest: GuestStatus) -> str | None:
    """Return the uuid of a guest's vTPM, from whoever knows it."""
    for one in (guest.vtpm, guest.front):
        if one is not None:
            told = one.daemon.uuid or one.get("uuid")
            if isinstance(told, str):
                return told
    return None


def _hardware_json(status: Status) -> dict[str, Json]:
    chip, manager = status.first(Kind.HWTPM), status.first(Kind.MANAGER)
    return {
        "state": None if chip is None else str(chip.get("state") or chip.daemon.state),
        "answers_manager": manager.get("hardware_answers") if manager else None,
        "active_locality": chip.get("active_locality") if chip else None,
        "commands": chip.get("commands") if chip else None,
        "latency": chip.get("command_latency") if chip else None,
        "key_pool": chip.get("key_pool") if chip else None,
    }


def _manager_json(status: Status) -> dict[str, Json]:
    manager = status.first(Kind.MANAGER)
    names = (
        *("state", "connections", "sequence", "bound_sequence", "commits", "saves"),
        *("waiting_saves", "commit_latency"),
    )
    return {name: manager.get(name) if manager else None for name in names}
