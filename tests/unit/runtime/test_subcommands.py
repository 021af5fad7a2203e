# SPDX-License-Identifier: Apache-2.0
"""Subcommands that are imported when they are called: what is shown of them before is true."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from daemons.runtime.subcommands import Deferred, subcommands
from docs.manpages import PAGES

Words = tuple[str, ...]


def _groups(command: click.Command, words: Words) -> Iterator[tuple[Words, click.Group]]:
    if isinstance(command, click.Group):
        yield words, command
    for name, below in subcommands(command).items():
        yield from _groups(below, (*words, name))


GROUPS = dict(each for name, page in PAGES.items() for each in _groups(page.command, (name,)))
DEFERRED = {
    (*words, name): command
    for words, group in GROUPS.items()
    for name, command in group.commands.items()
    if isinstance(command, Deferred)
}


@pytest.mark.parametrize("words", sorted(DEFERRED), ids=" ".join)
def test_a_deferred_command_is_what_its_group_says(words: Words) -> None:
    shown = DEFERRED[words]
    itself = shown.load()
    assert (itself.name, itself.hidden, itself.deprecated) == (shown.name, False, False)
    # cut at the width of the terminal, so in full, and as narrow as it gets
    for limit in (1000, 50, 20):
        assert shown.get_short_help_str(limit) == itself.get_short_help_str(limit)


@pytest.mark.parametrize("words", sorted(GROUPS), ids=" ".join)
def test_the_help_of_a_group_is_that_of_the_commands_themselves(words: Words) -> None:
    group = GROUPS[words]
    context = click.Context(group, info_name=" ".join(words))
    of_themselves = click.HelpFormatter(width=80)
    click.Group(commands=subcommands(group)).format_commands(context, of_themselves)
    shown = click.HelpFormatter(width=80)
    group.format_commands(context, shown)
    assert shown.getvalue() == of_themselves.getvalue()


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_vtpmctl_imports_no_subcommand_to_tell_of_itself(word: str) -> None:
    script = (
        "import sys\n"
        "from daemons.vtpmctl.cli import main\n"
        f"main([{word!r}], 'vtpmctl', standalone_mode=False)\n"
        "print([m for m in sys.modules if m.endswith('_cli') or m in ('trio', 'tpmcore')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_front_does_not_import_what_another_kind_of_front_needs() -> None:
    script = (
        "import sys, daemons.tpmfront.cli\n"
        "print([m for m in sys.modules if 'proxy' in m or m.endswith('compat.cli')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_a_mistyped_subcommand_is_told_what_was_meant() -> None:
    result = CliRunner().invoke(PAGES["vtpmctl"].command, ["statsu"], prog_name="vtpmctl")
    assert result.exit_code == 2
    assert "Did you mean 'status'?" in result.output
