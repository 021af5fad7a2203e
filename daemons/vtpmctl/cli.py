# SPDX-License-Identifier: Apache-2.0
"""Command line of `vtpmctl`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from daemons.runtime.command_line import level_of, loglevel_option
from daemons.runtime.config.values import EndorsementKey, check_guest_name, parse_pcrs
from daemons.runtime.control import control_request
from daemons.runtime.daemon import run_daemon
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Level, Log
from daemons.runtime.secret import WELL_KNOWN, parse_auth
from daemons.vtpmctl.aik_cli import aik_group
from daemons.vtpmctl.attest_cli import attest_command, prove_ek_command
from daemons.vtpmctl.ca_cli import ca_group
from daemons.vtpmctl.config_cli import config_group, reload_command
from daemons.vtpmctl.doctor.cli import doctor_command
from daemons.vtpmctl.group_cli import group_group
from daemons.vtpmctl.guest_cli import guest_group
from daemons.vtpmctl.manager_cli import manager_group
from daemons.vtpmctl.manufacture_cli import manufacture_command
from daemons.vtpmctl.migrate_cli import migrate_to_command
from daemons.vtpmctl.move_cli import (
    MOVE_COMMANDS,
    approve_move_command,
    transport_key_command,
)
from daemons.vtpmctl.options import ask, dir_option, layout_of
from daemons.vtpmctl.plan import MODULES, UpConfig
from daemons.vtpmctl.process import ForkServer
from daemons.vtpmctl.saa_cli import saa_group
from daemons.vtpmctl.status_cli import status_command
from daemons.vtpmctl.trace_cli import trace_command
from daemons.vtpmctl.up import up
from daemons.vtpmctl.verify_cli import verify_command
from daemons.vtpmctl.vtpm_cli import vtpm_group

EXAMPLE = """\b
Example:
  vtpmctl up --dir /srv/vtpm --guest g1
  vtpmctl guest add g2 --dir /srv/vtpm
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


@click.group(epilog=EXAMPLE)
@click.version_option(package_name="vtpm-suite")
def main() -> None:
    """Run a vTPM stack and look after it."""


@main.command("up", epilog=UP_EXAMPLE)
@dir_option
@click.option(
    "--guest",
    "guests",
    multiple=True,
    metavar="NAME",
    help="A guest; may be repeated.  [default: all that the folder has, or guest1]",
)
@click.option(
    "--hwinitpcr",
    "hw_init_pcrs",
    multiple=True,
    metavar="LIST",
    help="PCRs that each vTPM takes over from the hardware TPM: all, none, N, X-Y, comma lists. "
    "This and what follows counts before DIR/state/etc.",
)
@click.option(
    "--ek",
    type=click.Choice([kind.value for kind in EndorsementKey]),
    show_default=EndorsementKey.CREATE.value,
    help="Whether a new vTPM gets its endorsement key at once.",
)
@click.option(
    "--owner-auth",
    show_default=WELL_KNOWN,
    metavar="AUTH",
    help="Owner of the hardware TPM: well-known, hash:HEX, text:PASSPHRASE or file:PATH.",
)
@click.option(
    "--srk-auth",
    show_default=WELL_KNOWN,
    metavar="AUTH",
    help="Storage root key of the hardware TPM, in the same forms.",
)
@click.option(
    "--watchdog",
    "watchdog_s",
    type=click.FloatRange(1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="A daemon that gives no sign of life for so long hangs: it is killed and started again.",
)
@loglevel_option
def up_command(
    root: Path | None,
    guests: tuple[str, ...],
    hw_init_pcrs: tuple[str, ...],
    ek: str | None,
    owner_auth: str | None,
    srk_auth: str | None,
    watchdog_s: float,
    loglevel: str | None,
) -> None:
    """Run hwtpm, vtpmmgr and a vTPM with its front for each guest, in the foreground.

    Prints a line beginning "ready" once every guest's TPM answers. Stops with everything saved on
    SIGINT or SIGTERM.
    """
    try:
        for name in guests:
            check_guest_name(name)
        parse_pcrs(hw_init_pcrs)
        for secret in (owner_auth, srk_auth):
            parse_auth(WELL_KNOWN if secret is None else secret)
    except (DaemonError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if len(set(guests)) != len(guests):
        raise click.UsageError("a guest is named twice")
    config = UpConfig(
        layout=layout_of(root),
        guests=guests,
        hw_init_pcrs=hw_init_pcrs,
        ek=ek,
        owner_auth=owner_auth,
        srk_auth=srk_auth,
        loglevel=loglevel,
        watchdog_s=watchdog_s,
    )
    log = Log.of_process("vtpmctl", level=level_of(loglevel, Level.INFO))
    # Before the event loop, and before this process closes itself to debuggers and core files,
    # which every daemon does for itself.
    with ForkServer.start(MODULES) as forkserver:
        run_daemon(partial(up, config, forkserver, log=log, report=click.echo), log=log)


main.add_command(status_command)
main.add_command(doctor_command)
main.add_command(trace_command)


@main.group("hwtpm", epilog=HWTPM_EXAMPLE)
def hwtpm_group() -> None:
    """Handle the hardware TPM."""


@hwtpm_group.command("power-cycle", epilog=HWTPM_EXAMPLE)
@dir_option
def power_cycle_command(root: Path | None) -> None:
    """Switch the chip off and on: its PCRs and sessions are lost, what is permanent stays."""
    ask(partial(control_request, layout_of(root).hwtpm_control_socket, "power-cycle"))


manager_group.add_command(transport_key_command)
saa_group.add_command(approve_move_command)
for _command in MOVE_COMMANDS:
    vtpm_group.add_command(_command)
vtpm_group.add_command(migrate_to_command)
main.add_command(guest_group)
main.add_command(group_group)
main.add_command(vtpm_group)
main.add_command(manager_group)
main.add_command(saa_group)
main.add_command(ca_group)
main.add_command(aik_group)
main.add_command(attest_command)
main.add_command(prove_ek_command)
main.add_command(manufacture_command)
main.add_command(verify_command)
main.add_command(config_group)
main.add_command(reload_command)
