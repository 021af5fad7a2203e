# SPDX-License-Identifier: Apache-2.0
"""The command `hwtpm`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from daemons.hwtpm.daemon import Config, run
from daemons.hwtpm.firmware import StartupType
from daemons.runtime.daemon import run_daemon
from daemons.runtime.inherited import inherited_fds
from daemons.runtime.log import Level, Log
from daemons.runtime.notify import Notifier
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
            locality, mode = int(locality_text), int(mode_text, 8)
        except ValueError:
            self.fail(f"{value!r} is not LOCALITY=MODE, such as 2=660", param, ctx)
        if not 0 <= locality < LOCALITIES or not 0 <= mode <= 0o777:
            self.fail(f"{value!r}: locality 0 to {LOCALITIES - 1}, octal mode to 777", param, ctx)
        return locality, mode


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
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
    type=click.Choice([kind.value for kind in StartupType]),
    default=StartupType.CLEAR.value,
    show_default=True,
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
    type=click.IntRange(0, 64),
    default=2,
    show_default=True,
    help="How many RSA keys are made ahead of time.",
)
@click.option(
    "--loglevel",
    type=click.Choice([level.name.lower() for level in Level], case_sensitive=False),
    default="info",
    show_default=True,
    help="What is written to standard error.",
)
@click.version_option(package_name="vtpm-suite")
def main(
    state: Path,
    run_dir: Path,
    startup: str,
    modes: tuple[tuple[int, int], ...],
    key_pool: int,
    loglevel: str,
) -> None:
    """The machine's hardware TPM: an emulated TPM 1.2 chip with a TIS register interface.

    Every locality is a socket. The chip's state survives a kill at any moment; a power cycle is
    `vtpmctl hwtpm power-cycle`. Exit codes: 0 stopped in order, 1 failed, 2 usage, 3 refused to
    start because its state does not verify or is in use.
    """
    config = Config(
        state=state,
        run=run_dir,
        startup=StartupType(startup),
        modes=dict(modes),
        key_pool=key_pool,
        level=Level.named(loglevel),
    )
    log = Log("hwtpm", level=config.level)
    inherited = inherited_fds()
    notifier = Notifier.from_environ()
    run_daemon(
        partial(run, config, inherited=inherited, notifier=notifier, log=log),
        log=log,
        notifier=notifier,
        inherited=inherited,
    )
