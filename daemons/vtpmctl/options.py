# SPDX-License-Identifier: Apache-2.0
"""What the subcommands of `vtpmctl` share: which suite is meant, and how a question is asked."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
import trio

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.host import Host
from daemons.vtpmctl.host_supervisor import SupervisorHost
from daemons.vtpmctl.host_systemd import SystemdHost
from daemons.vtpmctl.layout import Layout, default_root
from daemons.vtpmctl.progress import with_progress
from daemons.vtpmctl.site import Site
from daemons.vtpmctl.stack import StackSite
from daemons.vtpmctl.units import UnitsSite

_T = TypeVar("_T")

dir_option = click.option(
    "--dir",
    "root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the stack.  [default: vtpm under $XDG_STATE_HOME]",
)
system_option = click.option(
    "--system",
    is_flag=True,
    help="The units of systemd. Without --dir they are meant too if no stack runs in the default "
    "folder.",
)


def layout_of(root: Path | None) -> Layout:
    """Return the layout of a --dir, or of the default one."""
    # Absolute, but with the links that the user typed: they may be there to make paths short.
    return Layout(Path(os.path.abspath(root or default_root(os.environ))))


async def find_site(root: Path | None, *, system: bool) -> Site:
    """Return the suite that is meant, for looking at it; see `_means_units`.

    Raises:
        click.UsageError: --dir and --system were both given.
    """
    return UnitsSite() if await _means_units(root, system=system) else StackSite(layout_of(root))


async def find_host(root: Path | None, *, system: bool) -> Host:
    """Return where the guests are that are meant, for changing them; see `_means_units`.

    Raises:
        click.UsageError: --dir and --system were both given.
    """
    if await _means_units(root, system=system):
        return SystemdHost()
    return SupervisorHost(layout_of(root))


async def _means_units(root: Path | None, *, system: bool) -> bool:
    """Whether the units of systemd are meant.

    Without a choice: the stack in the default folder if it runs, else the units if systemd knows
    them, else the stack that does not run.
    """
    if system and root is not None:
        raise click.UsageError("--dir and --system exclude each other")
    if system or root is not None:
        return system
    if await trio.Path(layout_of(None).control_socket).exists():
        return False
    return await SystemdHost().is_installed()


def ask(question: Callable[[], Awaitable[_T]], what: Callable[[], str] | None = None) -> _T:
    """Run a question; what takes longer than a second says on a terminal what it waits for.

    Raises:
        click.ClickException: there is no answer.
    """

    async def run() -> _T:
        return await with_progress(what or (lambda: "waiting for an answer"), question)

    try:
        return trio.run(run)
    except (DaemonError, OSError) as error:
        raise click.ClickException(str(error)) from error
