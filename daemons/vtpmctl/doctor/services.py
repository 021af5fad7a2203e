# SPDX-License-Identifier: Apache-2.0
"""The daemons: installed, enabled, running, serving, and fresh."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from daemons.vtpmctl.doctor.finding import Finding, fail, ok, warn
from daemons.vtpmctl.site import Kind, UnitState
from daemons.vtpmctl.status import DaemonStatus, Status

_WILL_START: Final = frozenset({"enabled", "enabled-runtime", "static", "linked", "generated"})


def check_units(units: Iterable[UnitState]) -> Iterator[Finding]:
    """Judge what systemd says of the units."""
    right = 0
    for unit in units:
        if unit.load != "loaded":
            remedy = "install the units, then systemctl daemon-reload"
            yield fail("units", f"{unit.name} is {unit.load or 'not there'}", remedy)
        elif unit.active == "failed":
            what = f"{unit.name} failed: {unit.result}, exit code {unit.exit_status}"
            yield fail("units", what, f"journalctl -u {unit.name}, then systemctl start it")
        elif unit.file_state not in _WILL_START:
            what = f"{unit.name} is {unit.file_state or 'not enabled'}"
            remedy = f"systemctl enable {unit.name}, or it is not there after a boot"
            yield warn("units", what, remedy)
        else:
            right += 1
    if right:
        yield ok("units", f"{right} are installed and enabled, none of them has failed")


def check_daemons(status: Status) -> Iterator[Finding]:
    """Judge each daemon by its state and its own word."""
    serving = 0
    for one in status.daemons:
        if one.is_serving:
            serving += 1
        else:
            yield _not_serving(one)
    if serving:
        yield ok("daemons", f"{serving} of {len(status.daemons)} serve")
    for guest in status.guests:
        vtpm, front = guest.vtpm, guest.front
        # What a daemon of its own has said is not said twice.
        if vtpm and front and vtpm.is_serving and front.is_serving and not guest.is_serving:
            remedy = "see what is found about vtpmmgr"
            yield fail("daemons", f"guest {guest.name}: {guest.state}", remedy)


def _not_serving(one: DaemonStatus) -> Finding:
    daemon = one.daemon
    note = f" ({one.note})" if one.note else ""
    if daemon.state == "refused to start":
        remedy = "its log says what does not verify: restore that; nothing was changed"
        return fail("daemons", f"{daemon.name} refused to start{note}", remedy)
    if not daemon.is_ready:
        return fail("daemons", f"{daemon.name} is {daemon.state}{note}", "see its log")
    if one.detail is None:
        remedy = "run vtpmctl doctor as root or as its user; if that does not help, restart it"
        return fail("daemons", f"{daemon.name} does not answer: {one.error}", remedy)
    what = f"{daemon.name} says {one.get('state')}"
    waiting = one.get("waiting_for")
    return fail("daemons", f"{what}: {waiting}" if waiting else what, "see what is found besides")


def check_freshness(status: Status) -> Iterator[Finding]:
    """Judge whether the hardware TPM knows the newest state of the manager's database."""
    manager = status.first(Kind.MANAGER)
    if manager is None or manager.detail is None:
        what = "nobody can tell whether the database is the newest: no manager answers"
        yield fail("freshness", what, "see what is found about vtpmmgr")
        return
    sequence, bound = manager.get("sequence"), manager.get("bound_sequence")
    if sequence != bound:
        what = f"the database is at {sequence}, the hardware TPM at {bound}"
        yield fail("freshness", what, "saves wait for the hardware TPM: see why it does not answer")
    elif manager.get("waiting_saves"):
        what = f"sequence {sequence} is bound, {manager.get('waiting_saves')} saves are under way"
        yield ok("freshness", what)
    else:
        yield ok("freshness", f"sequence {sequence} is bound to the hardware TPM")
