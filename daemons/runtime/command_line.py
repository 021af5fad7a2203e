# SPDX-License-Identifier: Apache-2.0
"""Options that the commands share.

What a command line says wins over what the configuration says: an option that was not given is
None (or, if it may be repeated, empty), and its default is the configuration's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from daemons.runtime.log import Level

_CONFIG_HELP: Final = (
    "Folder of vtpm.toml and guests.d, see vtpm.toml(5); what an option here says counts before "
    "it, and SIGHUP reads it again."
)

config_option = click.option(
    "--config",
    "config_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help=f"{_CONFIG_HELP}  [default: none]",
)

required_config_option = click.option(
    "--config",
    "config_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    required=True,
    help=_CONFIG_HELP,
)

guest_option = click.option(
    "--guest",
    metavar="NAME",
    help="Which file of guests.d it is, see vtpm-guest.toml(5); needs --config.",
)

loglevel_option = click.option(
    "--loglevel",
    type=click.Choice([level.name.lower() for level in reversed(Level)]),
    show_default="info",
    help="What is logged.",
)


def check_guest_option(config_folder: Path | None, guest: str | None) -> None:
    """Raises:
    click.UsageError: a guest of no configuration.
    """
    if guest is not None and config_folder is None:
        raise click.UsageError("--guest needs --config")


def level_of(option: str | None, configured: Level) -> Level:
    """Return the level that counts."""
    return configured if option is None else Level.named(option)
