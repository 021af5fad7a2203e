# SPDX-License-Identifier: Apache-2.0
"""What the commands for groups, vTPMs, manager, agent and CA share: options, how they answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import click

from daemons.runtime.control import Json
from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmctl.adminclient import Admin, open_admin
from daemons.vtpmctl.documents import read_file
from daemons.vtpmctl.options import ask, find_host

T = TypeVar("T")

_FILE_FORM: Final = "file:"

json_option = click.option("--json", "as_json", is_flag=True, help="The answer as JSON.")
yes_option = click.option(
    "--yes", "confirmed", metavar="WORD", help="What it asks to be typed, instead of asking."
)
group_argument = click.argument("number", metavar="N", type=click.IntRange(0, (1 << 32) - 1))


def out_option(help_text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option --out of a file that is to be made."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        required=True,
        help=f"{help_text} Made with mode 0600; one that is there is not replaced.",
    )


def file_option(name: str, help_text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option of a file that is read."""
    return click.option(
        name, type=click.Path(path_type=Path, dir_okay=False), required=True, help=help_text
    )


def _passphrase_path(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> Path | None:
    if text is None:
        return None
    if not text.startswith(_FILE_FORM):
        raise click.BadParameter("must be file:PATH")
    return Path(text.removeprefix(_FILE_FORM))


def read_passphrase(path: Path | None) -> Secret | None:
    """Return the passphrase in a file: its one line.

    Raises:
        DaemonError: there is none.
    """
    if path is None:
        return None
    line = read_file(path)
    if not line.strip():
        raise DaemonError(f"{path}: no passphrase in it")
    return Secret(line.removesuffix(b"\n").removesuffix(b"\r"))


passphrase_option = click.option(
    "--passphrase",
    metavar="file:PATH",
    callback=_passphrase_path,
    help="Of the key's file: one line.",
)


def example(*lines: str) -> str:
    """Return the epilog that shows lines as an example."""
    return "\b\nExample:\n" + "".join([f"  {line}\n" for line in lines])


def ask_manager(root: Path | None, system: bool, question: Callable[[Admin], Awaitable[T]]) -> T:
    """Ask the manager that is meant, over its admin socket.

    Raises:
        click.ClickException: it refuses or does not answer.
    """

    async def run() -> T:
        host = await find_host(root, system=system)
        async with open_admin(host.admin_socket) as admin:
            return await question(admin)

    return ask(run)


def confirm(warning: str, word: str, confirmed: str | None) -> None:
    """Go on only if somebody types a word.

    Raises:
        click.UsageError: another one was typed, or there is nobody to ask.
    """
    if confirmed is None:
        if not sys.stdin.isatty():
            raise click.UsageError(f"not asking on no terminal: say --yes {word}")
        confirmed = click.prompt(f"{warning}\nType {word}")
    if confirmed != word:
        raise click.UsageError(f"{confirmed!r} is not {word!r}: nothing was done")


def tell(answer: Mapping[str, Json], as_json: bool, *lines: str) -> None:
    """Show an answer: as JSON, or in these lines."""
    click.echo(json.dumps(answer, indent=2) if as_json else "\n".join(lines))


def table(columns: Sequence[str], rows: Iterable[Mapping[str, Json]]) -> str:
    """Return a table of the fields that are columns, one line for each row."""
    cells = [[column.upper().replace("_", " ") for column in columns]]
    cells += [[cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def cell(value: Json) -> str:
    """Return what stands for a value in a table."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return " ".join([cell(one) for one in value]) or "-"
        case _:
            return str(value)


@contextmanager
def told() -> Iterator[None]:
    """Turn what is wrong with files and arguments into a line for the operator."""
    try:
        yield
    except (DaemonError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
