# SPDX-License-Identifier: Apache-2.0
"""The command `vtpm`: options into one `Config`, then the daemon."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import click

from daemons.runtime.command_line import (
    check_guest_option,
    config_option,
    guest_option,
    level_of,
    loglevel_option,
)
from daemons.runtime.config.folder import load_guest_defaults
from daemons.runtime.config.values import (
    EndorsementKey,
    StartupKind,
    parse_locality_rules,
    parse_pcrs,
)
from daemons.runtime.daemon import end_before_start, run_daemon
from daemons.runtime.errors import DaemonError
from daemons.runtime.inherited import inherited_fds
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier
from daemons.runtime.reload import Reloads
from daemons.vtpm.daemon import Environment, VtpmDaemon
from daemons.vtpm.options import Config

_T = TypeVar("_T")

EXAMPLE = """\b
Example:
  vtpm --config /etc/vtpm --guest g1 \\
       --state /var/lib/vtpm/guests/g1 \\
       --socket /run/vtpm/guests/g1/tpmback.sock \\
       --manager /run/vtpm/vtpmmgr.sock
"""


@click.command(epilog=EXAMPLE, context_settings={"max_content_width": 100})
@config_option
@guest_option
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the encrypted image; made if missing.",
)
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Where the front connects (split driver).",
)
@click.option(
    "--manager",
    type=click.Path(path_type=Path),
    required=True,
    help="Socket of vtpmmgr.",
)
@click.option(
    "--uuid",
    type=click.UUID,
    help="Identity towards the manager and the front; must be given without --guest.",
)
@click.option(
    "--name", help="Name of the guest in the log.  [default: that of --guest, or the uuid]"
)
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    help="Control socket for vtpmctl.  [default: control.sock beside --socket]",
)
@click.option(
    "--front-uid",
    type=click.IntRange(0),
    help="The only user id that may connect to --socket.  [default: this process's own]",
)
@click.option(
    "--startup",
    type=click.Choice([kind.value for kind in StartupKind]),
    show_default=StartupKind.CLEAR.value,
    help="Type of the TPM_Startup that follows power-on. 'save' resumes what TPM_SaveState kept, "
    "and is 'clear' if there is nothing; 'deactivated' leaves the TPM without most commands until "
    "the next power-on.",
)
@click.option(
    "--hwinitpcr",
    multiple=True,
    metavar="LIST",
    help="PCRs that start with the hardware TPM's value: all, none, N, X-Y or a comma list; "
    "'none' takes back what was given before it.",
)
@click.option(
    "--maintcmds",
    type=click.Choice(["0", "1"]),
    show_default="0",
    help="Whether the five maintenance commands answer.",
)
@click.option(
    "--locality",
    multiple=True,
    metavar="LABEL=N[,N...]",
    help="Localities that clients with a label may use (security label of their socket, or "
    "uid:NUMBER on systems without); *SUFFIX matches any label that ends so. The first match "
    "counts, no match is refused. At most 16; without this option all localities are open.",
)
@click.option(
    "--ek",
    type=click.Choice([kind.value for kind in EndorsementKey]),
    show_default=EndorsementKey.CREATE.value,
    help="Whether a new TPM gets its endorsement key at once.",
)
@click.option(
    "--nvlock",
    type=click.Choice(["0", "1"]),
    show_default="1",
    help="Whether a new TPM comes with its NV memory locked, so that permissions of areas count. "
    "With 0 it is open for what a maker stores there, see vtpmctl manufacture.",
)
@click.option(
    "--optin",
    type=click.Choice(["0", "1"]),
    show_default="1",
    help="Whether a new TPM comes enabled and activated. With 0 it is neither, as the "
    "specification has it, until somebody with physical presence opts in.",
)
@loglevel_option
@click.version_option(package_name="vtpm-suite")
def main(
    config_folder: Path | None,
    guest: str | None,
    state: Path,
    socket_path: Path,
    manager: Path,
    uuid: UUID | None,
    name: str | None,
    control: Path | None,
    front_uid: int | None,
    startup: str | None,
    hwinitpcr: tuple[str, ...],
    maintcmds: str | None,
    locality: tuple[str, ...],
    ek: str | None,
    nvlock: str | None,
    optin: str | None,
    loglevel: str | None,
) -> None:
    """Run the virtual TPM of one guest.

    The TPM's permanent state lies in --state, encrypted under a key that changes with every save
    and is kept by the manager. An image that does not fit what the manager knows is refused (exit
    code 3) and left as it is.
    """
    check_guest_option(config_folder, guest)
    pcrs = _parsed("--hwinitpcr", parse_pcrs, hwinitpcr)
    rules = _parsed("--locality", parse_locality_rules, locality)

    def resolve() -> Config:
        defaults = load_guest_defaults(config_folder, guest)
        configured = defaults.vtpm
        identity = uuid or defaults.uuid
        if identity is None:
            raise click.UsageError("either --uuid, or --config and --guest")
        return Config(
            state=state,
            socket=socket_path,
            control=socket_path.with_name("control.sock") if control is None else control,
            manager=manager,
            uuid=identity,
            name=name or defaults.name or str(identity),
            front_uid=os.geteuid() if front_uid is None else front_uid,
            startup=configured.startup if startup is None else StartupKind(startup),
            hw_init_pcrs=pcrs if hwinitpcr else configured.hwinitpcr,
            maintenance_commands=configured.maintcmds if maintcmds is None else maintcmds == "1",
            locality_rules=rules if locality else configured.localities,
            ek=configured.ek if ek is None else EndorsementKey(ek),
            locks_nv=configured.nvlock if nvlock is None else nvlock == "1",
            opted_in=configured.optin if optin is None else optin == "1",
            level=level_of(loglevel, configured.loglevel),
        )

    log = Log.of_process("vtpm", guest=name or guest or str(uuid))
    try:
        config = resolve()
        inherited = inherited_fds()
    except DaemonError as error:
        end_before_start(error, log)
    log.level = config.level
    log.add_to_journal(uuid=config.uuid)
    notifier = Notifier.from_environ()
    reloads = None if config_folder is None else Reloads(resolve, notifier, log)
    environment = Environment.of_this_process(inherited, notifier, log)
    run_daemon(
        VtpmDaemon(config, environment, reloads).run,
        log=log,
        notifier=notifier,
        inherited=inherited,
        on_hangup=None if reloads is None else reloads.request,
    )


def _parsed(option: str, parse: Callable[[tuple[str, ...]], _T], values: tuple[str, ...]) -> _T:
    try:
        return parse(values)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
