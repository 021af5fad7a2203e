# SPDX-License-Identifier: Apache-2.0
"""Command line of `vtpmctl`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from daemons.runtime.control import control_request
from daemons.runtime.daemon import run_daemon
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Level, Log
from daemons.runtime.secret import WELL_KNOWN, parse_auth
from daemons.vtpmctl.doctor.cli import doctor_command
from daemons.vtpmctl.layout import check_guest_name
from daemons.vtpmctl.options import ask, dir_option, layout_of
from daemons.vtpmctl.plan import MODULES, UpConfig
from daemons.vtpmctl.process import ForkServer
from daemons.vtpmctl.status_cli import status_command
from daemons.vtpmctl.up import up

DEFAULT_GUEST = "guest1"


MAIN_EXAMPLE = """\b
Example:
  vtpmctl up --dir /srv/vtpm --guest g1 --guest g2
  vtpmctl status --watch
  vtpmctl doctor
"""
UP_EXAMPLE = """\b
Example:
  vtpmctl up
  vtpmctl up --dir /srv/vtpm --guest g1 --guest g2 --hwinitpcr 0-7
  vtpmctl up --owner-auth file:/etc/vtpm/owner --srk-auth well-known
"""
HWTPM_EXAMPLE = """\b
Example:
  vtpmctl hwtpm power-cycle --dir /srv/vtpm
"""
GUEST_EXAMPLE = """\b
Example:
  vtpmctl guest reset g1
"""
RESET_EXAMPLE = """\b
Example:
  vtpmctl guest reset g1 --dir /srv/vtpm
"""


@click.group(epilog=MAIN_EXAMPLE)
def main() -> None:
    """Run a vTPM stack and look after it."""


@main.command("up", epilog=UP_EXAMPLE)
@dir_option
@click.option(
    "--guest", "guests", multiple=True, metavar="NAME", help="A guest; may be repeated.  [guest1]"
)
@click.option(
    "--hwinitpcr",
    "hw_init_pcrs",
    multiple=True,
    metavar="LIST",
    help="PCRs that each vTPM takes over from the hardware TPM: all, none, N, X-Y, comma lists.",
)
@click.option(
    "--ek",
    type=click.Choice(["create", "none"]),
    default="create",
    show_default=True,
    help="Whether a new vTPM gets its endorsement key at once.",
)
@click.option(
    "--owner-auth",
    default=WELL_KNOWN,
    show_default=True,
    metavar="AUTH",
    help="Owner of the hardware TPM: well-known, hash:HEX, text:PASSPHRASE or file:PATH.",
)
@click.option(
    "--srk-auth",
    default=WELL_KNOWN,
    show_default=True,
    metavar="AUTH",
    help="Storage root key of the hardware TPM, in the same forms.",
)
@click.option(
    "--loglevel",
    type=click.Choice(["error", "info", "debug"]),
    default="info",
    show_default=True,
    help="What all daemons log, to standard error.",
)
def up_command(
    root: Path | None,
    guests: tuple[str, ...],
    hw_init_pcrs: tuple[str, ...],
    ek: str,
    owner_auth: str,
    srk_auth: str,
    loglevel: str,
) -> None:
    """Run hwtpm, vtpmmgr and a vTPM with its front for each guest, in the foreground.

    Prints a line beginning "ready" once every guest's TPM answers. Stops with everything saved on
    SIGINT or SIGTERM.
    """
    names = guests or (DEFAULT_GUEST,)
    try:
        for name in names:
            check_guest_name(name)
        parse_auth(owner_auth)
        parse_auth(srk_auth)
    except DaemonError as error:
        raise click.UsageError(str(error)) from error
    if len(set(names)) != len(names):
        raise click.UsageError("a guest is named twice")
    config = UpConfig(
        layout=layout_of(root),
        guests=names,
        hw_init_pcrs=hw_init_pcrs,
        ek=ek,
        owner_auth=owner_auth,
        srk_auth=srk_auth,
        loglevel=loglevel,
    )
    log = Log.of_process("vtpmctl", level=Level.named(loglevel))
    # Before the event loop, and before this process closes itself to debuggers and core files,
    # which every daemon does for itself.
    with ForkServer.start(MODULES) as forkserver:
        run_daemon(partial(up, config, forkserver, log=log, report=click.echo), log=log)


main.add_command(status_command)
main.add_command(doctor_command)


@main.group("hwtpm", epilog=HWTPM_EXAMPLE)
def hwtpm_group() -> None:
    """Handle the hardware TPM."""


@hwtpm_group.command("power-cycle", epilog=HWTPM_EXAMPLE)
@dir_option
def power_cycle_command(root: Path | None) -> None:
    """Switch the chip off and on: its PCRs and sessions are lost, what is permanent stays."""
    ask(partial(control_request, layout_of(root).hwtpm_control_socket, "power-cycle"))


@main.group("guest", epilog=GUEST_EXAMPLE)
def guest_group() -> None:
    """Handle one guest."""


@guest_group.command("reset", epilog=RESET_EXAMPLE)
@click.argument("name")
@dir_option
def reset_command(name: str, root: Path | None) -> None:
    """Reset the TPM of a guest as a reboot of the guest does."""
    try:
        check_guest_name(name)
    except DaemonError as error:
        raise click.UsageError(str(error)) from error
    ask(partial(control_request, layout_of(root).guest(name).control_socket, "reset"))
