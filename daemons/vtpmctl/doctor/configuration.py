# SPDX-License-Identifier: Apache-2.0
"""The configuration: what administrators write, checked by those who read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from daemons.runtime.config.folder import examine
from daemons.vtpmctl.doctor.finding import Finding, fail, ok
from daemons.vtpmctl.site import Daemon


def check_configuration(folder: Path, daemons: Iterable[Daemon]) -> Iterator[Finding]:
    """Judge a configuration as `vtpmctl config check` does, and that each guest is in it."""
    examination = examine(folder)
    for mistake in examination.findings:
        remedy = "correct it: until then neither a start nor a reload takes it"
        yield fail("configuration", str(mistake), remedy)
    guests = examination.configuration.guests
    if not examination.findings:
        yield ok("configuration", f"{folder} is without mistakes, with {len(guests)} guests")
    running = dict.fromkeys(daemon.guest for daemon in daemons if daemon.guest is not None)
    for name in running:
        if name not in guests and name not in examination.excluded:
            remedy = f"vtpmctl guest add {name}, or stop it"
            yield fail("configuration", f"guest {name} runs without being configured", remedy)
