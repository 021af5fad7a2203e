# SPDX-License-Identifier: Apache-2.0
"""Every command shows an example in its --help, and the examples are lines that it takes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from daemons.runtime.subcommands import subcommands
from docs.manpages import PAGES

Path = tuple[str, ...]


def _commands(command: click.Command, path: Path) -> Iterator[tuple[Path, click.Command]]:
    yield path, command
    for name, below in subcommands(command).items():
        yield from _commands(below, (*path, name))


COMMANDS = dict(entry for name, page in PAGES.items() for entry in _commands(page.command, (name,)))


def _examples(command: click.Command) -> list[list[str]]:
    """Return the words of each command in the examples; what follows a pipe is not ours."""
    epilog = (command.epilog or "").replace("\\\n", " ")
    lines = epilog.partition("Example:\n")[2].replace(" && ", "\n").splitlines()
    return [shlex.split(line.partition(" | ")[0]) for line in lines if line.strip()]


def _leads_to(words: list[str]) -> Path:
    """Parse a line as click does, without executing it, and return the command that it is for.

    Raises:
        click.UsageError: it is none.
    """
    command: click.Command = PAGES[words[0]].command
    path: Path = (words[0],)
    context = command.make_context(words[0], words[1:])
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]  # as Group.invoke takes them
        if not rest and command.invoke_without_command:
            break
        name, below, left = command.resolve_command(context, rest)
        assert below is not None
        assert name is not None
        command, path = below, (*path, name)
        context = command.make_context(name, left, parent=context)
    return path


@pytest.fixture(params=sorted(COMMANDS), ids=" ".join)
def path(request: pytest.FixtureRequest) -> Path:
    """Each command in turn, with its words."""
    found: Path = request.param
    return found


def test_the_help_shows_an_example_that_is_not_broken_over_lines(path: Path) -> None:
    shown = CliRunner().invoke(COMMANDS[path[:1]], [*path[1:], "--help"], prog_name=path[0]).output
    assert "Example:\n" in shown
    for line in (COMMANDS[path].epilog or "").splitlines():
        assert line.replace("\b", "").strip() in shown


def test_every_example_is_a_line_that_the_command_takes(path: Path) -> None:
    examples = _examples(COMMANDS[path])
    assert examples
    led_to = [_leads_to(words)[: len(path)] for words in examples]
    assert path in led_to


def test_a_wrong_example_would_be_noticed() -> None:
    right = ["vtpmctl", "hwtpm", "power-cycle"]
    assert _leads_to(right) == tuple(right)
    for wrong in ("vtpmctl status --wathc", "vtpmctl stat", "vtpm --name g1"):
        with pytest.raises(click.UsageError):
            _leads_to(wrong.split())
