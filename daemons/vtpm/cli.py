# SPDX-License-Identifier: Apache-2.0
"""The command `vtpm`: options into one `Config`, then the daemon."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import click

from daemons.runtime.daemon import run_daemon
from daemons.runtime.errors import DaemonError
from daemons.runtime.inherited import inherited_fds
from daemons.runtime.log import Level, Log
from daemons.runtime.notify import Notifier
from daemons.vtpm.daemon import Environment, VtpmDaemon
from daemons.vtpm.options import Config, StartupKind, parse_locality_rules, parse_pcrs

_T = TypeVar("_T")

EXAMPLE = """\b
Example:
  vtpm --name g1 --uuid 8a3f6a52-5c1f-4f0e-9d7c-0a3b1c2d4e5f \\
       --state /var/lib/vtpm/guests/g1 \\
       --socket /run/vtpm/guests/g1/tpmback.sock \\
       --manager /run/vtpm/vtpmmgr.sock --hwinitpcr 0-7
"""


@click.command(epilog=EXAMPLE, context_settings={"max_content_width": 100})
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
    "--uuid", type=click.UUID, required=True, help="Identity towards the manager and the front."
)
@click.option("--name", default="", help="Name of the guest in the log.  [default: the uuid]")
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
    default=StartupKind.CLEAR.value,
    show_default=True,
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
    default="0",
    show_default=True,
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
    type=click.Choice(["create", "none"]),
    default="create",
    show_default=True,
    help="Whether a new TPM gets its endorsement key at once.",
)
@click.option(
    "--loglevel",
    type=click.Choice(["error", "info", "debug"]),
    default="info",
    show_default=True,
)
def main(
    state: Path,
    socket_path: Path,
    manager: Path,
    uuid: UUID,
    name: str,
    control: Path | None,
    front_uid: int | None,
    startup: str,
    hwinitpcr: tuple[str, ...],
    maintcmds: str,
    locality: tuple[str, ...],
    ek: str,
    loglevel: str,
) -> None:
    """Run the virtual TPM of one guest.

    The TPM's permanent state lies in --state, encrypted under a key that changes with every save
    and is kept by the manager. An image that does not fit what the manager knows is refused (exit
    code 3) and left as it is.
    """
    config = Config(
        state=state,
        socket=socket_path,
        control=socket_path.with_name("control.sock") if control is None else control,
        manager=manager,
        uuid=uuid,
        name=name or str(uuid),
        front_uid=os.geteuid() if front_uid is None else front_uid,
        startup=StartupKind(startup),
        hw_init_pcrs=_parsed("--hwinitpcr", parse_pcrs, hwinitpcr),
        maintenance_commands=maintcmds == "1",
        locality_rules=_parsed("--locality", parse_locality_rules, locality),
        make_ek=ek == "create",
        level=Level.named(loglevel),
    )
    log = Log("vtpm", level=config.level, guest=config.name)
    try:
        inherited = inherited_fds()
        notifier = Notifier.from_environ()
        environment = Environment.of_this_process(inherited, notifier, log)
    except DaemonError as error:
        raise click.ClickException(str(error)) from error
    daemon = VtpmDaemon(config, environment)
    run_daemon(daemon.run, log=log, notifier=notifier, inherited=inherited)


def _parsed(option: str, parse: Callable[[tuple[str, ...]], _T], values: tuple[str, ...]) -> _T:
    try:
        return parse(values)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
