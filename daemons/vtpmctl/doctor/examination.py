# SPDX-License-Identifier: Apache-2.0
"""All checks in order: from the machine up to the guests."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import trio

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.doctor.configuration import check_configuration
from daemons.vtpmctl.doctor.finding import Finding, fail
from daemons.vtpmctl.doctor.host import check_clock, check_kernel, check_python, look_at_disk
from daemons.vtpmctl.doctor.places import (
    check_folders,
    check_locks,
    check_sockets,
    check_users,
    lock_holders,
    newest_state,
)
from daemons.vtpmctl.doctor.reach import check_chip, check_guest, check_manager
from daemons.vtpmctl.doctor.services import check_daemons, check_freshness, check_units
from daemons.vtpmctl.site import Daemon, Kind, Premises, Site
from daemons.vtpmctl.status import Status, gather_status


async def examine(site: Site, tell: Callable[[str], None]) -> list[Finding]:
    """Return what is found, in the order in which it should be read.

    Args:
        site: the suite.
        tell: told what is being looked at.
    """
    return [finding async for finding in _examine(site, tell)]


def _look(premises: Premises, daemons: Sequence[Daemon]) -> list[Finding]:
    """Do what can be done without asking a daemon; may wait for the disk and for sockets."""
    return [
        look_at_disk(premises.state),
        check_clock(time.time(), newest_state(premises), Path(__file__).stat().st_mtime),
        *check_users(premises.users, premises.groups),
        *check_units(premises.units),
        *check_configuration(premises.configuration, daemons),
        *check_folders(premises.folders),
        *check_locks(premises.locks, daemons, lock_holders()),
        *check_sockets(premises.sockets, daemons),
    ]


async def _examine(site: Site, tell: Callable[[str], None]) -> AsyncIterator[Finding]:
    tell("the machine")
    yield check_python(sys.version_info[:3])
    for finding in check_kernel():
        yield finding
    tell("the daemons")
    try:
        premises = await site.premises()
    except DaemonError as error:
        yield fail("daemons", str(error), "start it: vtpmctl up, or systemctl start vtpm.target")
        return
    status = Status(site.where, (), ())
    try:
        status = await gather_status(site)
    except DaemonError as error:
        yield fail("daemons", str(error), "start it: vtpmctl up, or systemctl start vtpm.target")
    daemons = tuple([one.daemon for one in status.daemons])
    for finding in await trio.to_thread.run_sync(_look, premises, daemons):
        yield finding
    if not daemons:
        return
    for finding in (*check_daemons(status), *check_freshness(status)):
        yield finding
    tell("the hardware TPM")
    yield await check_chip(premises.tis, premises.locality)
    manager = status.first(Kind.MANAGER)
    if manager is not None and manager.daemon.control is not None:
        tell("the manager")
        yield await check_manager(manager.daemon.control)
    for guest, path in premises.fronts:
        tell(f"guest {guest}")
        yield await check_guest(guest, path)
