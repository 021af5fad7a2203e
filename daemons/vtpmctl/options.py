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


async def find_host(root: Path | None, *, system: bool) -> Host:
    """Return where the guests are that are meant.

    Without a choice: the stack in the default folder if it runs, else the units if systemd knows
    them, else the stack that does not run.

    Raises:
        click.UsageError: both were chosen.
    """
    if system:
        if root is not None:
            raise click.UsageError("--dir and --system exclude each other")
        return SystemdHost()
    layout = layout_of(root)
    if root is None and not layout.control_socket.exists():
        units = SystemdHost()
        if await units.is_installed():
            return units
    return SupervisorHost(layout)


def ask(question: Callable[[], Awaitable[_T]]) -> _T:
    """Run a question.

    Raises:
        click.ClickException: there is no answer.
    """
    try:
        return trio.run(question)
    except (DaemonError, OSError) as error:
        raise click.ClickException(str(error)) from error
