# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl config check` and `vtpmctl reload`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from daemons.runtime.config.folder import examine
from daemons.runtime.config.options import CONFIG_FOLDER
from daemons.vtpmctl.guests import reload_all
from daemons.vtpmctl.options import ask, dir_option, find_host, layout_of, system_option

CHECK_EXAMPLE = """\b
Example:
  vtpmctl config check && vtpmctl reload
"""


@click.group("config", epilog=CHECK_EXAMPLE)
def config_group() -> None:
    """Look at the configuration."""


@config_group.command("check", epilog=CHECK_EXAMPLE)
@click.option(
    "--config",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder of vtpm.toml and guests.d.  [default: {CONFIG_FOLDER}]",
)
@click.option(
    "--dir",
    "root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of a stack of vtpmctl up, instead.",
)
def check_command(folder: Path | None, root: Path | None) -> None:
    """List everything that is wrong with the configuration.

    Exit code 0 if nothing is, 1 otherwise; each finding is a line with file, key and reason.
    """
    if folder is not None and root is not None:
        raise click.UsageError("--config and --dir exclude each other")
    if folder is None:
        folder = CONFIG_FOLDER if root is None else layout_of(root).etc
    examination = examine(folder)
    for finding in examination.findings:
        click.echo(str(finding))
    if examination.findings:
        sys.exit(1)
    count = len(examination.configuration.guests)
    click.echo(f"{folder}: no mistakes, {count} guest{'' if count == 1 else 's'}")


RELOAD_EXAMPLE = """\b
Example:
  vtpmctl reload
  vtpmctl reload --dir /srv/vtpm
"""


@click.command("reload", epilog=RELOAD_EXAMPLE)
@dir_option
@system_option
def reload_command(root: Path | None, system: bool) -> None:
    """Have all daemons read the configuration again, after a check.

    With mistakes in it nothing is told to anybody and nothing changes. Running guests are not
    disturbed; what counts at a daemon's next start only is listed.
    """

    async def reload() -> dict[str, list[str]]:
        return await reload_all(await find_host(root, system=system))

    waiting = ask(reload)
    click.echo(f"{len(waiting)} daemon{'' if len(waiting) == 1 else 's'} read it again")
    for daemon, names in waiting.items():
        if names:
            click.echo(f"{daemon}: at its next start only: {', '.join(names)}")
