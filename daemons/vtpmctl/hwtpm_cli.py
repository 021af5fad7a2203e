# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl hwtpm`: the hardware TPM of a stack."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from daemons.runtime.control import control_request
from daemons.vtpmctl.options import ask, dir_option, layout_of

EXAMPLE = """\b
Example:
  vtpmctl hwtpm power-cycle --dir /srv/vtpm
"""


@click.group("hwtpm", epilog=EXAMPLE)
def hwtpm_group() -> None:
    """Handle the hardware TPM."""


@hwtpm_group.command("power-cycle", epilog=EXAMPLE)
@dir_option
def power_cycle_command(root: Path | None) -> None:
    """Switch the chip off and on: its PCRs and sessions are lost, what is permanent stays."""
    ask(partial(control_request, layout_of(root).hwtpm_control_socket, "power-cycle"))
