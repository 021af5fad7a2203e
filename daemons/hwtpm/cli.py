# SPDX-License-Identifier: Apache-2.0
"""The command `hwtpm`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from daemons.hwtpm.daemon import Config, run
from daemons.runtime.command_line import config_option, level_of, loglevel_option
from daemons.runtime.config.folder import load_machine
from daemons.runtime.config.options import MAX_KEY_POOL, HwtpmOptions
from daemons.runtime.config.values import ChipStartup, parse_mode
from daemons.runtime.daemon import end_before_start, run_daemon
from daemons.runtime.errors import DaemonError
from daemons.runtime.inherited import inherited_fds
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier
from daemons.runtime.reload import Reloads
from protocol.tis.registers import LOCALITIES


def default_folder(variable: str, fallback: str) -> Path:
    """Return `vtpm/<...>/hwtpm` under a folder of the XDG specification."""
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / fallback) / "vtpm"


class _ModeParameter(click.ParamType[tuple[int, int]]):
    name = "locality=mode"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        locality_text, _, mode_text = str(value).partition("=")
        try:
            locality, mode = int(locality_text), parse_mode(mode_text)
        except ValueError:
            self.fail(f"{value!r} is not LOCALITY=MODE, such as 2=660", param, ctx)
        if not 0 <= locality < LOCALITIES:
            self.fail(f"{value!r}: the localities are 0 to {LOCALITIES - 1}", param, ctx)
        return locality, mode


EXAMPLE = """\b
Example:
  hwtpm --state /var/lib/vtpm/hwtpm --run /run/vtpm/hwtpm \\
        --socket-mode 2=660 --config /etc/vtpm
"""


@click.command(epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@config_option
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: default_folder("XDG_STATE_HOME", ".local/state") / "state" / "hwtpm",
    show_default="$XDG_STATE_HOME/vtpm/state/hwtpm",
    help="Folder of the chip's own memory; made at the first start, mode 0700.",
)
@click.option(
    "--run",
    "run_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: default_folder("XDG_STATE_HOME", ".local/state") / "run" / "hwtpm",
    show_default="$XDG_STATE_HOME/vtpm/run/hwtpm",
    help="Folder of locality0.sock to locality4.sock and control.sock.",
)
@click.option(
    "--startup",
    type=click.Choice([kind.value for kind in ChipStartup]),
    show_default=ChipStartup.CLEAR.value,
    help="What firmware tells the TPM after power-on.",
)
@click.option(
    "--socket-mode",
    "modes",
    type=_ModeParameter(),
    multiple=True,
    help="Permissions of a locality's socket, such as 2=660; 600 where none is given. Who may"
    " open the file may use the locality.",
)
@click.option(
    "--key-pool",
    type=click.IntRange(0, MAX_KEY_POOL),
    show_default=str(HwtpmOptions().key_pool),
    help="How many RSA keys are made ahead of time.",
)
@loglevel_option
@click.version_option(package_name="vtpm-suite")
def main(
    config_folder: Path | None,
    state: Path,
    run_dir: Path,
    startup: str | None,
    modes: tuple[tuple[int, int], ...],
    key_pool: int | None,
    loglevel: str | None,
) -> None:
    """The machine's hardware TPM: an emulated TPM 1.2 chip with a TIS register interface.

    Every locality is a socket. The chip's state survives a kill at any moment; a power cycle is
    `vtpmctl hwtpm power-cycle`. Exit codes: 0 stopped in order, 1 failed, 2 usage, 3 refused to
    start because its state does not verify or is in use.
    """

    def resolve() -> Config:
        configured = HwtpmOptions() if config_folder is None else load_machine(config_folder).hwtpm
        return Config(
            state=state,
            run=run_dir,
            startup=configured.startup if startup is None else ChipStartup(startup),
            modes=dict(modes),
            key_pool=configured.key_pool if key_pool is None else key_pool,
            level=level_of(loglevel, configured.loglevel),
        )

    log = Log.of_process("hwtpm")
    try:
        config = resolve()
        inherited = inherited_fds()
    except DaemonError as error:
        end_before_start(error, log)
    log.level = config.level
    notifier = Notifier.from_environ()
    reloads = None if config_folder is None else Reloads(resolve, notifier, log)
    run_daemon(
        partial(run, config, inherited=inherited, notifier=notifier, log=log, reloads=reloads),
        log=log,
        notifier=notifier,
        inherited=inherited,
        on_hangup=None if reloads is None else reloads.request,
    )
