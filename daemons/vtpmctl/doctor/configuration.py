# SPDX-License-Identifier: Apache-2.0
"""The configuration: what administrators write, checked by those who read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.doctor.finding import Finding, fail, ok
from daemons.vtpmctl.site import Daemon, Premises
from daemons.vtpmmgr.identity import load_clients


def check_configuration(premises: Premises, daemons: Iterable[Daemon]) -> Iterator[Finding]:
    """Judge the manager's table of identities, and that each guest has a uuid."""
    try:
        clients = load_clients(premises.clients)
    except DaemonError as error:
        yield fail("configuration", str(error), "correct it, then restart vtpmmgr")
    else:
        yield ok("configuration", f"{premises.clients} names {len(clients)} vTPMs")
    for guest in dict.fromkeys(one.guest for one in daemons if one.guest and one.uuid is None):
        yield fail(
            "configuration",
            f"guest {guest} has no uuid",
            "give it one, the same as in the clients file",
        )
