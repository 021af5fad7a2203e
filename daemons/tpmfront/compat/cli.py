# SPDX-License-Identifier: Apache-2.0
"""`tpmfront swtpm-compat`, which a link named swtpm to tpmfront is as well.

`daemons.tpmfront.command` goes past this to `process` with the words of an interface, since swtpm's
rules are others than click's. What click is told of an interface and its options is for the help,
the manual and the completions; it serves nothing.
"""

from __future__ import annotations

import sys
from typing import Final

import click

from daemons.runtime.errors import ExitCode
from daemons.tpmfront.compat.capabilities import version
from daemons.tpmfront.compat.grammar import Option, options_of
from daemons.tpmfront.compat.link import NAME
from daemons.tpmfront.compat.options import Interface

_EXAMPLES: Final = {
    Interface.SOCKET: """\b
Example:
  tpmfront swtpm-compat socket --tpmstate dir=state --daemon \\
           --server type=unixio,path=tpm.sock --flags not-need-init,startup-clear
""",
    Interface.CHARDEV: """\b
Example:
  tpmfront swtpm-compat chardev --tpmstate dir=state --fd 3
""",
}


class _Interfaces(click.Group):
    """swtpm's own words before the interface's: -h, -v; and its exit code 1 for what is none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] in {"-v", "--version"}:
            click.echo(version())
            ctx.exit(ExitCode.OK)
        if args and args[0] in {"-h", "--help"}:
            click.echo(ctx.get_help())
            ctx.exit(ExitCode.OK)
        if not args:
            self._refuse(ctx, "Missing TPM interface type.")
        if args[0] not in self.commands:
            self._refuse(ctx, f"Unsupported TPM interface type '{args[0]}'.")
        return super().parse_args(ctx, args)

    def _refuse(self, ctx: click.Context, reason: str) -> None:
        click.echo(f"swtpm: {reason}\n\n{ctx.get_help()}", err=True)
        sys.exit(ExitCode.FAILED)


_HELPS: Final = {
    Interface.SOCKET: "Serve a TPM at sockets, with the options of swtpm socket.",
    Interface.CHARDEV: "Serve a TPM at a character device, with the options of swtpm chardev.",
}


def _description(interface: Interface) -> click.Command:
    return click.Command(
        interface.value,
        params=[_parameter(one) for one in options_of(interface)],
        help=_HELPS[interface],
        epilog=_EXAMPLES[interface],
        add_help_option=False,
    )


def _parameter(option: Option) -> click.Option:
    names = [f"--{option.name}", *([f"-{option.letter}"] if option.letter else [])]
    return click.Option(
        names,
        help=option.help,
        metavar=option.form,
        is_flag=option.form is None,
        expose_value=False,
        callback=_show_help if option.name == "help" else None,
    )


def _show_help(ctx: click.Context, _parameter: click.Parameter, is_given: bool) -> None:
    if is_given and not ctx.resilient_parsing:
        click.echo(ctx.get_help())
        ctx.exit()


@click.group(
    NAME,
    cls=_Interfaces,
    epilog=_EXAMPLES[Interface.SOCKET],
    context_settings={"max_content_width": 100},
)
def compat_group() -> None:
    """Run a TPM by swtpm's command line, for programs that start swtpm.

    A link named swtpm to tpmfront is this command. The TPM is a TPM 1.2 of this suite: a vtpm of
    its own in the folder of --tpmstate, whose keys the manager has. The manager must admit the
    user, see [compat] in vtpm.toml(5); where it is says VTPM_MANAGER in the environment, else
    [compat] of /etc/vtpm/vtpm.toml, or of the folder VTPM_CONFIG. Differences from swtpm are in the
    suite's manual.
    """


for _interface in Interface:
    compat_group.add_command(_description(_interface))


def usage(interface: Interface) -> str:
    """Return the help of an interface's command, as `tpmfront swtpm-compat` shows it."""
    command = compat_group.commands[interface.value]
    name = f"tpmfront {NAME} {interface.value}"
    return click.Context(command, info_name=name, **compat_group.context_settings).get_help()
