# SPDX-License-Identifier: Apache-2.0
"""What `vtpmctl status` shows people: a table of daemons, one of guests, and all else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from daemons.runtime.control import Json
from daemons.vtpmctl.site import Kind
from daemons.vtpmctl.status import DaemonStatus, GuestStatus, Status, guest_uuid

NOTHING: Final = "-"
DIGEST_DIGITS: Final = 8
"""Of the digest over PCRs 0-7: enough to see whether two boots were the same."""

_DAEMONS: Final = ("DAEMON", "PID", "STATE", "UPTIME", "RESTARTS", "MEMORY", "NOTE")
_GUESTS: Final = (
    *("GUEST", "UUID", "STATE", "CLIENTS", "OWNER", "PCR0-7", "CHANGED", "SAVED"),
    *("COMMANDS", "MEDIAN", "P99", "KEYS"),
)


def status_lines(status: Status) -> list[str]:
    """Return the lines of a status."""
    lines = _aligned([_DAEMONS, *[_daemon_cells(one) for one in status.daemons]])
    if status.guests:
        lines += ["", *_aligned([_GUESTS, *[_guest_cells(one) for one in status.guests]])]
    return [*lines, "", *_background(status)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _daemon_cells(one: DaemonStatus) -> Sequence[str]:
    daemon, process = one.daemon, one.process
    return (
        daemon.name,
        NOTHING if daemon.pid is None else str(daemon.pid),
        daemon.state,
        NOTHING if process is None else duration(process.uptime_s),
        str(daemon.restarts),
        NOTHING if process is None else f"{process.memory_bytes / 2**20:.0f}M",
        _line(one.note) or NOTHING,
    )


def _guest_cells(guest: GuestStatus) -> Sequence[str]:
    vtpm, front, bank = guest.vtpm, guest.front, guest.bank
    owned = vtpm.get("tpm", "owned") if vtpm else None
    latency = _object(vtpm.get("command_latency") if vtpm else None)
    digest = bank.get("boot_digest")
    changed = bank.get("changed")
    return (
        guest.name,
        guest_uuid(guest) or NOTHING,
        _line(guest.state),
        _cell(front.get("clients") if front else None),
        {True: "yes", False: "no"}.get(owned, NOTHING) if isinstance(owned, bool) else NOTHING,
        digest[:DIGEST_DIGITS] if isinstance(digest, str) else NOTHING,
        ranges(changed) if isinstance(changed, list) else NOTHING,
        _saved(_object(vtpm.get("last_save") if vtpm else None)),
        _cell(vtpm.get("commands") if vtpm else None),
        _microseconds(latency.get("median_us"), latency),
        _microseconds(latency.get("p99_us"), latency),
        _stock(_object(vtpm.get("key_pool") if vtpm else None)),
    )


def _background(status: Status) -> Iterable[str]:
    chip, manager = status.first(Kind.HWTPM), status.first(Kind.MANAGER)
    if chip is not None:
        words = [f"hardware TPM: {chip.get('state') or chip.daemon.state}"]
        answers = manager.get("hardware_answers") if manager else None
        if answers is not None:
            words.append("answers the manager" if answers else "DOES NOT ANSWER THE MANAGER")
        words += _latency_words(_object(chip.get("command_latency")), "commands")
        stock = _object(chip.get("key_pool"))
        if stock:
            words.append(f"keys {_stock(stock)}")
        yield ", ".join(words)
    if manager is not None:
        words = [f"manager: {manager.get('state') or manager.daemon.state}"]
        sequence, bound = manager.get("sequence"), manager.get("bound_sequence")
        if sequence is not None:
            fresh = "bound" if sequence == bound else f"NOT BOUND, the hardware TPM has {bound}"
            words.append(f"sequence {sequence} {fresh}")
            words.append(f"{manager.get('commits')} commits of {manager.get('saves')} saves")
            words.append(f"{manager.get('waiting_saves')} waiting")
        words += _latency_words(_object(manager.get("commit_latency")), "commits")
        yield ", ".join(words)


def _latency_words(latency: Mapping[str, Json], what: str) -> list[str]:
    samples = latency.get("samples")
    if not samples:
        return []
    median = _microseconds(latency.get("median_us"), latency)
    p99 = _microseconds(latency.get("p99_us"), latency)
    return [f"median {median} p99 {p99} over {samples} {what}"]


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: "3d4h", "5m02s", "12s"."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{whole % 60:02}s" if minutes else f"{whole}s"


def ranges(numbers: Sequence[Json]) -> str:
    """Return ascending numbers as ranges: "0-7,10", "none" for no number."""
    parts: list[list[int]] = []
    for number in numbers:
        if not isinstance(number, int):
            continue
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts) or "none"


def _saved(save: Mapping[str, Json]) -> str:
    unix_time, slot = save.get("unix_time"), save.get("slot")
    if not isinstance(unix_time, int | float):
        return NOTHING
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_time))
    return f"{moment} {slot}"


def _microseconds(value: Json, latency: Mapping[str, Json]) -> str:
    if not isinstance(value, int | float) or not latency.get("samples"):
        return NOTHING
    return f"{value:.0f}us" if value < 1000 else f"{value / 1000:.3g}ms"


def _stock(pool: Mapping[str, Json]) -> str:
    return f"{pool['stock']}/{pool['size']}" if pool.keys() >= {"stock", "size"} else NOTHING


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _cell(value: Json) -> str:
    return NOTHING if value is None else str(value)


def _line(text: str) -> str:
    """A note may quote what somebody else said: it must not redraw the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
