# SPDX-License-Identifier: Apache-2.0
"""The command with options of its own and subcommands beside them."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner, Result

from daemons.tpmfront.cli import FrontCommand


@pytest.fixture
def command() -> click.Command:
    """A command that says what it was called with, with the subcommand `proxy`."""

    @click.group(cls=FrontCommand, invoke_without_command=True)
    @click.option("--tpm", required=True)
    def main(tpm: str) -> None:
        click.echo(f"front {tpm}")

    @main.command("proxy")
    @click.option("--backend", required=True)
    def proxy(backend: str) -> None:
        click.echo(f"proxy {backend}")

    return main


def _run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_options_alone_are_the_command_itself(command: click.Command) -> None:
    assert _run(command, "--tpm", "a").output == "front a\n"


def test_a_subcommand_needs_none_of_the_commands_options_and_runs_alone(
    command: click.Command,
) -> None:
    assert _run(command, "proxy", "--backend", "b").output == "proxy b\n"


def test_the_value_of_an_option_is_no_subcommand(command: click.Command) -> None:
    assert _run(command, "--tpm", "proxy").output == "front proxy\n"


@pytest.mark.parametrize("arguments", [(), ("other",), ("--tpm", "a", "other"), ("proxy",)])
def test_what_is_neither_is_a_mistake_of_usage(
    command: click.Command, arguments: tuple[str, ...]
) -> None:
    result = _run(command, *arguments)
    assert result.exit_code == 2
    assert "front" not in result.output
