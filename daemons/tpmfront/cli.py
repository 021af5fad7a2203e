# SPDX-License-Identifier: Apache-2.0
"""The command `tpmfront`: options into one `Config`, then the daemon."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from uuid import UUID

import click

from daemons.runtime.daemon import run_daemon
from daemons.runtime.errors import DaemonError
from daemons.runtime.inherited import inherited_fds
from daemons.runtime.log import Level, Log
from daemons.runtime.notify import Notifier
from daemons.runtime.sockets import Listeners
from daemons.tpmfront.daemon import serve
from daemons.tpmfront.options import Config, parse_front_socket, parse_mode

EXAMPLE = """\b
Example:
  tpmfront --name g1 --uuid 8a3f6a52-5c1f-4f0e-9d7c-0a3b1c2d4e5f \\
           --backend /run/vtpm/guests/g1/tpmback.sock \\
           --tpm /run/vtpm/guests/g1/tpm.sock
"""


@click.command(epilog=EXAMPLE, context_settings={"max_content_width": 100})
@click.option(
    "--tpm",
    "sockets",
    multiple=True,
    required=True,
    metavar="PATH[=LOCALITY]",
    help="Raw TPM byte stream; every command that comes through it has this locality "
    "[default: 0]. May be given several times.",
)
@click.option(
    "--socket-mode",
    default="0600",
    show_default=True,
    metavar="OCTAL",
    help="Permissions of the --tpm sockets; who may write may use the TPM.",
)
@click.option(
    "--backend",
    type=click.Path(path_type=Path),
    required=True,
    help="Socket of the guest's vtpm (split driver).",
)
@click.option("--uuid", type=click.UUID, required=True, help="Which vTPM to ask for.")
@click.option("--name", default="", help="Name of the guest in the log.  [default: the uuid]")
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    help="Control socket for vtpmctl.  [default: front-control.sock beside --backend]",
)
@click.option(
    "--loglevel",
    type=click.Choice(["error", "info", "debug"]),
    default="info",
    show_default=True,
)
def main(
    sockets: tuple[str, ...],
    socket_mode: str,
    backend: Path,
    uuid: UUID,
    name: str,
    control: Path | None,
    loglevel: str,
) -> None:
    """Give a guest's TPM software a socket that leads to the guest's vtpm.

    The shim keeps no secret and no state: commands of all clients go to the vtpm one after the
    other, and a vtpm that restarts is picked up again.
    """
    try:
        config = Config(
            sockets=tuple([parse_front_socket(text) for text in sockets]),
            socket_mode=parse_mode(socket_mode),
            backend=backend,
            control=backend.with_name("front-control.sock") if control is None else control,
            uuid=uuid,
            name=name or str(uuid),
            level=Level.named(loglevel),
        )
    except DaemonError as error:
        raise click.UsageError(str(error)) from error
    log = Log("tpmfront", level=config.level, guest=config.name)
    try:
        inherited = inherited_fds()
    except DaemonError as error:
        raise click.ClickException(str(error)) from error
    notifier = Notifier.from_environ()
    run_daemon(
        partial(serve, config, Listeners(inherited), notifier, log),
        log=log,
        notifier=notifier,
        inherited=inherited,
    )
