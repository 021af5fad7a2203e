# SPDX-License-Identifier: Apache-2.0
"""The command `vtpmctl up`: options into one `UpConfig`, then the supervisor."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from daemons.runtime.command_line import level_of, loglevel_option
from daemons.runtime.config.values import EndorsementKey, check_guest_name, parse_pcrs
from daemons.runtime.daemon import run_daemon
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Level, Log
from daemons.runtime.secret import WELL_KNOWN, parse_auth
from daemons.vtpmctl.options import dir_option, layout_of
from daemons.vtpmctl.plan import MODULES, UpConfig
from daemons.vtpmctl.process import ForkServer
from daemons.vtpmctl.up import up

EXAMPLE = """\b
Example:
  vtpmctl up
  vtpmctl up --dir /srv/vtpm --guest g1 --guest g2 --hwinitpcr 0-7
  vtpmctl up --owner-auth file:/etc/vtpm/owner --srk-auth well-known
"""


@click.command("up", epilog=EXAMPLE)
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
