# SPDX-License-Identifier: Apache-2.0
"""The command `vtpmmgr`: options into one `ManagerConfig`, then the daemon."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from daemons.runtime.daemon import run_daemon
from daemons.runtime.errors import DaemonError
from daemons.runtime.inherited import inherited_fds
from daemons.runtime.log import Level, Log
from daemons.runtime.notify import Notifier
from daemons.runtime.secret import WELL_KNOWN, parse_auth
from daemons.runtime.sockets import Listeners
from daemons.vtpmmgr.config import (
    DEFAULT_LOCALITY,
    DEFAULT_NV_INDEX,
    DEFAULT_SEAL_PCRS,
    ManagerConfig,
    parse_nv_index,
    parse_pcrs,
)
from daemons.vtpmmgr.daemon import run

EXAMPLE = """\b
Example:
  vtpmmgr --state /var/lib/vtpm/vtpmmgr --socket /run/vtpm/vtpmmgr.sock \\
          --tis /run/vtpm/hwtpm --clients /etc/vtpm/clients.toml \\
          --owner-auth file:/etc/vtpm/owner --srk-auth well-known
"""

PROBE = "probe"
"""Value of --tpmirq that leaves the choice to the driver."""

_AUTH_FORMS = "well-known, hash:<40 hex digits>, text:<passphrase> or file:<path>"


@click.command(epilog=EXAMPLE, context_settings={"max_content_width": 100})
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the database; made if missing.",
)
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Where vTPMs connect (split driver).",
)
@click.option(
    "--socket-mode",
    default="600",
    show_default=True,
    metavar="OCTAL",
    help="Permissions of that socket. The clients file decides who may be which vTPM.",
)
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    help="Control socket for vtpmctl.  [default: control.sock beside --socket]",
)
@click.option(
    "--tis",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the hardware TPM's locality sockets.",
)
@click.option(
    "--clients",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="TOML file that says which uid may be which vTPM.",
)
@click.option(
    "--owner-auth",
    default=WELL_KNOWN,
    show_default=True,
    help=f"Secret of the hardware TPM's owner: {_AUTH_FORMS}.",
)
@click.option(
    "--srk-auth",
    default=WELL_KNOWN,
    show_default=True,
    help="Secret of its storage root key, in the same forms.",
)
@click.option(
    "--tpmdriver",
    type=click.Choice(["tpm_tis"]),
    default="tpm_tis",
    show_default=True,
    help="Driver of the hardware TPM.",
)
@click.option(
    "--tpmlocality",
    type=click.IntRange(0, 4),
    default=DEFAULT_LOCALITY,
    show_default=True,
    help="Locality at which it is used, and to which the root secret is sealed.",
)
@click.option(
    "--tpmirq",
    default=PROBE,
    show_default=True,
    metavar="NUMBER|probe",
    help="0 polls the chip; a number, or probe, waits for its interrupts if it has any.",
)
@click.option(
    "--seal-pcrs",
    default=DEFAULT_SEAL_PCRS,
    show_default=True,
    metavar="LIST",
    help="PCRs of the hardware TPM to which a new root secret is sealed: none, all, N, N-M, with "
    "commas. Counts at the first start only.",
)
@click.option(
    "--nv-index",
    default=f"{DEFAULT_NV_INDEX:#010x}",
    show_default=True,
    metavar="INDEX",
    help="NV area of the hardware TPM that names the newest state of the database.",
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
    socket_mode: str,
    control: Path | None,
    tis: Path,
    clients: Path,
    owner_auth: str,
    srk_auth: str,
    tpmdriver: str,
    tpmlocality: int,
    tpmirq: str,
    seal_pcrs: str,
    nv_index: str,
    loglevel: str,
) -> None:
    """The manager of all vTPMs of a machine.

    Keeps the keys of their images in a database that only the machine's hardware TPM can open, and
    only in the configuration to which it was sealed. The first start takes ownership of the
    hardware TPM. Exit codes: 0 stopped in order, 1 failed, 2 usage, 3 refused to start because what
    it found does not verify.
    """
    del tpmdriver  # there is one
    try:
        config = ManagerConfig(
            state=state,
            socket=socket_path,
            socket_mode=_octal(socket_mode),
            control=control or socket_path.with_name("control.sock"),
            tis=tis,
            clients=clients,
            owner_auth=parse_auth(owner_auth),
            srk_auth=parse_auth(srk_auth),
            locality=tpmlocality,
            interrupts=tpmirq == PROBE or _number(tpmirq) != 0,
            seal_pcrs=parse_pcrs(seal_pcrs),
            nv_index=parse_nv_index(nv_index),
            level=Level.named(loglevel),
        )
    except DaemonError as error:
        raise click.UsageError(str(error)) from error
    log = Log("vtpmmgr", level=config.level)
    try:
        inherited = inherited_fds()
    except DaemonError as error:
        raise click.ClickException(str(error)) from error
    notifier = Notifier.from_environ()
    run_daemon(
        partial(run, config, Listeners(inherited), notifier, log),
        log=log,
        notifier=notifier,
        inherited=inherited,
    )


def _octal(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        raise DaemonError(f"--socket-mode {text!r} is not octal") from None
    if not 0 <= mode <= 0o777:
        raise DaemonError(f"--socket-mode {text!r} is above 777")
    return mode


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise DaemonError(f"--tpmirq {text!r} is neither a number nor {PROBE}") from None
