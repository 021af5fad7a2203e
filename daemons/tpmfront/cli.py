# SPDX-License-Identifier: Apache-2.0
"""The command `tpmfront`: options into one `Config`, then the daemon."""

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
from daemons.runtime.config.endpoints import parse_endpoint
from daemons.runtime.config.folder import load_guest_defaults
from daemons.runtime.config.options import FrontOptions
from daemons.runtime.config.values import parse_mode
from daemons.runtime.daemon import end_before_start, run_daemon
from daemons.runtime.errors import DaemonError
from daemons.runtime.inherited import inherited_fds
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier
from daemons.runtime.reload import Reloads
from daemons.runtime.subcommands import DeferringGroup
from daemons.tpmfront.compat.link import NAME
from daemons.tpmfront.daemon import serve
from daemons.tpmfront.options import Config, CtrlSocket, parse_front_socket

EXAMPLE = """\b
Example:
  tpmfront --config /etc/vtpm --guest g1 \\
           --backend /run/vtpm/guests/g1/tpmback.sock \\
           --tpm /run/vtpm/guests/g1/tpm.sock --ctrl /run/vtpm/guests/g1/ctrl.sock
"""


class FrontCommand(DeferringGroup):
    """A command with options of its own, as which units call it, that has subcommands beside them.

    What does not begin with the name of a subcommand is the command itself.
    """

    # As for any command; a group would take the rest of its line for a subcommand.
    allow_extra_args = False
    allow_interspersed_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse this command's options, or leave all to a subcommand: none of what is required here
        is required there."""
        if args and args[0] in self.commands:
            ctx.args = args
            return args
        return click.Command.parse_args(self, ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run this command or the subcommand, never both."""
        if not ctx.args:
            return super().invoke(ctx)
        name, command, rest = self.resolve_command(ctx, ctx.args)
        assert command is not None  # else it had been no name of one
        ctx.invoked_subcommand = name
        with ctx, command.make_context(name, rest, parent=ctx) as below:
            return command.invoke(below)


@click.group(
    cls=FrontCommand,
    invoke_without_command=True,
    subcommand_metavar="| COMMAND [ARGS]...",
    epilog=EXAMPLE,
    context_settings={"max_content_width": 100},
)
@config_option
@guest_option
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
    show_default=f"{FrontOptions().stream_mode:04o}",
    metavar="OCTAL",
    help="Permissions of the --tpm sockets; who may write may use the TPM.",
)
@click.option(
    "--ctrl",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Control channel as swtpm has it, for QEMU and swtpm_ioctl.",
)
@click.option(
    "--ctrl-mode",
    show_default=f"{FrontOptions().control_mode:04o}",
    metavar="OCTAL",
    help="Permissions of the --ctrl socket; who may write may use the TPM from any locality, "
    "power it off and take its state, encrypted.",
)
@click.option(
    "--tcp",
    "endpoints",
    multiple=True,
    metavar="[ADDRESS:]PORT[=LOCALITY]",
    help="Raw TPM byte stream over TCP, at 127.0.0.1 by default; every program of the machine may "
    "use it. May be given several times.  [default: none]",
)
@click.option(
    "--tcp-any-address",
    is_flag=True,
    help="Let --tcp be at addresses that other machines reach: whoever does may use the TPM, and "
    "nothing is encrypted.",
)
@click.option(
    "--backend",
    type=click.Path(path_type=Path),
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
    "--control",
    type=click.Path(path_type=Path),
    help="Control socket for vtpmctl.  [default: front-control.sock beside --backend]",
)
@loglevel_option
@click.version_option(package_name="vtpm-suite")
def main(
    config_folder: Path | None,
    guest: str | None,
    sockets: tuple[str, ...],
    socket_mode: str | None,
    ctrl: Path | None,
    ctrl_mode: str | None,
    endpoints: tuple[str, ...],
    tcp_any_address: bool,
    backend: Path,
    uuid: UUID | None,
    name: str | None,
    control: Path | None,
    loglevel: str | None,
) -> None:
    """Give a guest's TPM software a socket that leads to the guest's vtpm.

    The shim keeps no secret and no state: commands of all clients go to the vtpm one after the
    other, and a vtpm that restarts is picked up again.
    """
    check_guest_option(config_folder, guest)
    try:
        fronts = tuple([parse_front_socket(text) for text in sockets])
        tcp = tuple([parse_endpoint(text) for text in endpoints])
        mode = None if socket_mode is None else parse_mode(socket_mode)
        of_ctrl = None if ctrl_mode is None else parse_mode(ctrl_mode)
    except (DaemonError, ValueError) as error:
        raise click.UsageError(str(error)) from error

    def resolve() -> Config:
        defaults = load_guest_defaults(config_folder, guest)
        identity = uuid or defaults.uuid
        if identity is None:
            raise click.UsageError("either --uuid, or --config and --guest")
        return Config(
            sockets=fronts if defaults.front.stream else (),
            socket_mode=defaults.front.stream_mode if mode is None else mode,
            ctrl=None
            if ctrl is None or not defaults.front.control
            else CtrlSocket(ctrl, defaults.front.control_mode if of_ctrl is None else of_ctrl),
            tcp=tcp or defaults.front.tcp,
            tcp_any_address=tcp_any_address or defaults.front.tcp_any_address,
            backend=backend,
            control=backend.with_name("front-control.sock") if control is None else control,
            uuid=identity,
            name=name or defaults.name or str(identity),
            level=level_of(loglevel, defaults.vtpm.loglevel),
        )

    log = Log.of_process("tpmfront", guest=name or guest or str(uuid))
    try:
        config = resolve()
        inherited = inherited_fds()
    except DaemonError as error:
        end_before_start(error, log)
    log.level = config.level
    log.add_to_journal(uuid=config.uuid)
    notifier = Notifier.from_environ()
    reloads = None if config_folder is None else Reloads(resolve, notifier, log)
    run_daemon(
        partial(serve, config, inherited, notifier, log, reloads),
        log=log,
        notifier=notifier,
        inherited=inherited,
        on_hangup=None if reloads is None else reloads.request,
    )


main.defer(
    "daemons.tpmfront",
    {
        "vtpm-proxy": (
            "proxy_cli:vtpm_proxy",
            "Make the guest's vtpm a TPM device of this kernel, /dev/tpmN, for containers and "
            "hosts.",
        ),
        NAME: (
            "compat.cli:compat_group",
            "Run a TPM by swtpm's command line, for programs that start swtpm.",
        ),
    },
)
