# SPDX-License-Identifier: Apache-2.0
"""Groups of commands whose modules are imported when one of them is called.

Whoever asks a command for one thing need not wait for what the others import: that is most of the
time that `vtpmctl` takes to start.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click


class Deferred(click.Command):
    """Stands for a subcommand that nobody has called yet: its name and its line in the help."""

    def __init__(self, name: str, place: str, line: str) -> None:
        """Import nothing.

        Args:
            name: the word that calls it.
            place: "MODULE:NAME" of the command itself.
            line: the first sentence of that one's help.
        """
        super().__init__(name, help=line)
        self._place = place

    def load(self) -> click.Command:
        """Return the command itself."""
        module, _, name = self._place.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


class DeferringGroup(click.Group):
    """A group that may have `Deferred` commands.

    Its `commands` have these as they are; `get_command` gives the commands themselves.
    """

    def defer(self, package: str, commands: Mapping[str, tuple[str, str]]) -> None:
        """Add subcommands that are imported when they are called.

        Args:
            package: where their modules are.
            commands: by the word that calls each: "MODULE:NAME", and the line of the help; see
                `Deferred`.
        """
        for name, (place, line) in commands.items():
            self.add_command(Deferred(name, f"{package}.{place}", line))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the subcommand of this name, after its import."""
        command = super().get_command(ctx, cmd_name)
        return command.load() if isinstance(command, Deferred) else command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands, of which none is imported for that."""
        click.Group(commands=self.commands).format_commands(ctx, formatter)


def subcommands(command: click.Command) -> dict[str, click.Command]:
    """Return all that is below a command, imported, by name in the order of the help; nothing if
    it is no group."""
    if not isinstance(command, click.Group):
        return {}
    context = click.Context(command)
    found = {name: command.get_command(context, name) for name in command.list_commands(context)}
    return {name: below for name, below in found.items() if below is not None}
