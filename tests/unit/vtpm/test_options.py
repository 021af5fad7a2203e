# SPDX-License-Identifier: Apache-2.0
"""The command line of `vtpm`: what is refused, what the help shows."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from daemons.vtpm.cli import main

REQUIRED = ["--state", "/s", "--socket", "/b.sock", "--manager", "/m.sock", "--uuid"]
UUID_TEXT = "8a3f6a52-5c1f-4f0e-9d7c-0a3b1c2d4e5f"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([*REQUIRED, UUID_TEXT, "--hwinitpcr", "0-24"], "PCR 24"),
        ([*REQUIRED, UUID_TEXT, "--locality", "x"], "<label>=<n>"),
        ([*REQUIRED, UUID_TEXT, "--startup", "state"], "--startup"),
        ([*REQUIRED, UUID_TEXT, "--maintcmds", "2"], "--maintcmds"),
        ([*REQUIRED, "no-uuid"], "--uuid"),
        (REQUIRED[:-1], "either --uuid, or --config and --guest"),
        ([*REQUIRED, UUID_TEXT, "--guest", "g1"], "--guest needs --config"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error_that_names_the_option(
    arguments: list[str], complaint: str
) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert complaint in result.output


OPTIONS = (
    *("--state", "--socket", "--manager", "--uuid", "--name", "--control", "--front-uid"),
    *("--startup", "--hwinitpcr", "--maintcmds", "--locality", "--ek", "--nvlock"),
    *("--optin", "--loglevel", "--config", "--guest"),
)


def test_the_help_shows_every_option_and_an_example() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    for option in OPTIONS:
        assert option in output
    assert "Example:" in output
