# SPDX-License-Identifier: Apache-2.0
"""The command `vtpmctl status`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import trio

from daemons.runtime.errors import DaemonError, ExitCode
from daemons.vtpmctl.options import ask, dir_option, find_site, system_option
from daemons.vtpmctl.progress import is_terminal
from daemons.vtpmctl.status import Status, gather_status, status_json
from daemons.vtpmctl.tables import status_lines
from daemons.vtpmctl.watch import watch

EXAMPLE = """\b
Example:
  vtpmctl status
  vtpmctl status --watch --interval 5
  vtpmctl status --system --json | jq '.guests[] | {name, serving}'
"""


@click.command("status", epilog=EXAMPLE)
@dir_option
@system_option
@click.option("--json", "as_json", is_flag=True, help="Everything that is known, as JSON.")
@click.option("--watch", "is_watching", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often --watch looks.",
)
def status_command(
    root: Path | None, system: bool, as_json: bool, is_watching: bool, interval_s: float
) -> None:
    """Show the daemons and the guests of a running suite.

    Without --dir and --system: the stack in the default folder if it runs, else the units of
    systemd. The exit code is 0 if everything serves, else 1. Looking executes no command in any
    TPM.
    """

    async def look() -> Status:
        return await gather_status(await find_site(root, system=system))

    if is_watching:
        _watch(root, interval_s, system=system, as_json=as_json)
        return
    status = ask(look, lambda: "waiting for the daemons' answers")
    if as_json:
        click.echo(json.dumps(status_json(status), indent=2))
    else:
        click.echo("\n".join(status_lines(status)))
    _leave(status)


def _watch(root: Path | None, interval_s: float, *, system: bool, as_json: bool) -> None:
    seen: Status | None = None

    async def lines() -> Sequence[str]:
        nonlocal seen
        try:
            seen = await gather_status(await find_site(root, system=system))
        except DaemonError as error:
            # It may be about to start, or to come back.
            seen = None
            return [json.dumps({"error": str(error)}) if as_json else str(error)]
        return [json.dumps(status_json(seen))] if as_json else status_lines(seen)

    def write(text: str) -> None:
        # One line of JSON per look.
        click.echo(text.strip() if as_json else text, nl=as_json)

    redraws = is_terminal(sys.stdout) and not as_json
    try:
        trio.run(lambda: watch(lines, interval_s, write, is_terminal=redraws))
    except KeyboardInterrupt:
        click.echo()
    _leave(seen)


def _leave(status: Status | None) -> None:
    if status is None or not status.is_serving:
        raise click.exceptions.Exit(ExitCode.FAILED)
