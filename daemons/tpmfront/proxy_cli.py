# SPDX-License-Identifier: Apache-2.0
"""The command `tpmfront vtpm-proxy`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from uuid import UUID

import click

from daemons.runtime.command_line import (
    check_guest_option,
    config_option,
    guest_option,
    level_of,
    loglevel_option,
)
from daemons.runtime.config.endpoints import MAX_LOCALITY
from daemons.runtime.config.folder import load_guest_defaults
from daemons.runtime.daemon import end_before_start, run_daemon
from daemons.runtime.errors import DaemonError
from daemons.runtime.inherited import inherited_fds
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier
from daemons.runtime.reload import Reloads
from daemons.tpmfront.privileges import become_user
from daemons.tpmfront.proxy import DEFAULT_LOCALITIES, ProxyConfig, serve_proxy
from daemons.tpmfront.proxydevice import CONTROL_DEVICE, KeptDevice, OpenDevice, open_device

EXAMPLE = """\b
Example:
  tpmfront vtpm-proxy --config /etc/vtpm --guest g1 --user vtpm-g1 \\
           --backend /run/vtpm/vtpms/g1/tpmback.sock
"""


@click.command("vtpm-proxy", epilog=EXAMPLE, context_settings={"max_content_width": 100})
@config_option
@guest_option
@click.option(
    "--backend",
    # It may be closed to root, who is somebody else by the time of the connection.
    type=click.Path(path_type=Path, readable=False),
    required=True,
    help="Socket of the guest's vtpm (split driver).",
)
@click.option(
    "--uuid",
    type=click.UUID,
    help="Which vTPM to ask for; must be given without --guest.",
)
@click.option(
    "--name", help="Name of the guest in the log.  [default: that of --guest, or the uuid]"
)
@click.option(
    "--locality",
    "localities",
    type=click.IntRange(0, MAX_LOCALITY),
    multiple=True,
    metavar="N",
    help="A locality that the kernel may set for its commands; may be given several times.  "
    "[default: 0 to 3]",
)
@click.option(
    "--device",
    type=click.Path(path_type=Path),
    default=CONTROL_DEVICE,
    show_default=True,
    help="The kernel's device that makes TPM devices.",
)
@click.option(
    "--user",
    metavar="USER",
    help="Whom to become once the device is made, which takes root.  [default: stay who we are]",
)
@loglevel_option
@click.pass_obj
def vtpm_proxy(
    open_proxy: OpenDevice | None,
    config_folder: Path | None,
    guest: str | None,
    backend: Path,
    uuid: UUID | None,
    name: str | None,
    localities: tuple[int, ...],
    device: Path,
    user: str | None,
    loglevel: str | None,
) -> None:
    """Make the guest's vtpm a TPM device of this kernel, /dev/tpmN, for containers and hosts.

    Prints the device's name. The kernel's own driver uses it as any TPM, with sysfs, IMA and key
    rings; programs open the device. It takes the module tpm_vtpm_proxy. When the command ends, the
    device is gone; systemd keeps it over a restart.
    """
    check_guest_option(config_folder, guest)

    def resolve() -> ProxyConfig:
        defaults = load_guest_defaults(config_folder, guest)
        identity = uuid or defaults.uuid
        if identity is None:
            raise click.UsageError("either --uuid, or --config and --guest")
        return ProxyConfig(
            localities=frozenset(localities) or DEFAULT_LOCALITIES,
            backend=backend,
            uuid=identity,
            name=name or defaults.name or str(identity),
            level=level_of(loglevel, defaults.vtpm.loglevel),
        )

    log = Log.of_process("tpmfront", guest=name or guest or str(uuid))
    notifier = Notifier.from_environ()
    try:
        config = resolve()
        inherited = inherited_fds()
        kept = KeptDevice.take_over(inherited, notifier)
        if kept is None:
            kept = KeptDevice.make((open_proxy or open_device)(device), notifier)
        if user is not None:
            become_user(user)
    except DaemonError as error:
        end_before_start(error, log, notifier)
    log.level = config.level
    log.add_to_journal(uuid=config.uuid)
    click.echo(kept.device.path)
    reloads = None if config_folder is None else Reloads(resolve, notifier, log)
    run_daemon(
        partial(serve_proxy, config, kept, notifier, log, reloads),
        log=log,
        notifier=notifier,
        inherited=inherited,
        on_hangup=None if reloads is None else reloads.request,
    )
