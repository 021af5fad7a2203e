# SPDX-License-Identifier: Apache-2.0
"""Writes the manual pages: `make man`.

Those of the commands come from their own help: options and descriptions are click's, so that page
and `--help` cannot differ; what `--help` has no place for (files, environment, exit status) is
here.
Those of the configuration come from the declared keys, see `formatpages`; the overview and the
files that the daemons keep are prose, see `textpages`.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from daemons.hwtpm.cli import main as hwtpm
from daemons.runtime.subcommands import subcommands
from daemons.tpmfront.cli import main as tpmfront
from daemons.vtpm.cli import main as vtpm
from daemons.vtpmctl.cli import main as vtpmctl
from daemons.vtpmmgr.cli import main as vtpmmgr
from docs.formatpages import FORMAT_PAGES, escape, format_page_text
from docs.textpages import TEXT_PAGES, text_page_text

FOLDER: Final = Path(__file__).resolve().parents[1] / "man"

_STOP: Final = ("0", "Stopped in order, by SIGTERM or SIGINT; without --config also by SIGHUP.")
_FAILED: Final = ("1", "Failed: a socket is taken, a peer or the disk is of no use.")
_USAGE: Final = ("2", "Usage.")
_REFUSED: Final = (
    "3",
    "Refused to start: what it found does not verify or is in use, or the configuration has "
    "mistakes. Nothing was changed.",
)
_SUPERVISION: Final = (
    ("NOTIFY_SOCKET", "Readiness and status are told there, see sd_notify(3)."),
    (
        "LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES",
        'Inherited descriptors, see sd_listen_fds(3): "supervisor", a pipe whose end of file '
        'stops the daemon, and for hwtpm and vtpm "volatile", the memory that keeps PCRs and '
        "sessions while the daemon is dead.",
    ),
)
_CONFIG: Final = (
    ("CONFIG/vtpm.toml", "What holds for the machine, see vtpm.toml(5)."),
    ("CONFIG/guests.d/NAME.toml", "A guest, see vtpm-guest.toml(5)."),
)
_XDG: Final = ("XDG_STATE_HOME", "Where the default folder lies; by default ~/.local/state.")

Items = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A manual page.

    Attributes:
        command: whose help it is made from.
        purpose: behind the name, as apropos(1) shows it.
        files: path and what is in it.
        environment: variable and what it does.
        status: exit codes.
    """

    command: click.Command
    purpose: str
    files: Items
    environment: Items = _SUPERVISION
    status: Items = (_STOP, _FAILED, _USAGE, _REFUSED)


PAGES: Final[Mapping[str, Page]] = {
    "hwtpm": Page(
        hwtpm,
        "emulated hardware TPM with a register interface",
        (
            ("STATE/chip.state", "The chip's permanent state; its secrets are in the clear."),
            ("STATE/running", "Left while it serves; tells a kill from an orderly stop."),
            ("RUN/locality0.sock ... locality4.sock", "Registers, a socket for each locality."),
            ("RUN/control.sock", "For vtpmctl(1)."),
            _CONFIG[0],
        ),
        (_XDG, *_SUPERVISION),
    ),
    "vtpmmgr": Page(
        vtpmmgr,
        "keeper of the keys of all vTPMs of a machine",
        (
            ("STATE/manager.db, manager.db-wal", "The database, SQLite; secrets are encrypted."),
            *_CONFIG,
        ),
    ),
    "vtpm": Page(
        vtpm,
        "virtual TPM of one guest",
        (
            ("STATE/slot0, slot1", "Encrypted images; the manager knows which one counts."),
            ("STATE/running", "Left while it serves; tells a kill from an orderly stop."),
            *_CONFIG,
        ),
    ),
    "tpmfront": Page(
        tpmfront,
        "socket of a guest's TPM software",
        (
            ("--tpm", "Raw TPM byte stream, made at the start and removed at the end."),
            ("--ctrl", "Control channel as swtpm has it, likewise."),
            *_CONFIG,
        ),
    ),
    "vtpmctl": Page(
        vtpmctl,
        "run a stack of vTPMs and look after it",
        (
            ("DIR/state/hwtpm, vtpmmgr, guests/NAME", "What the daemons keep; private."),
            ("DIR/state/etc/vtpm.toml, guests.d", "The stack's configuration; made if missing."),
            ("DIR/run/guests/NAME/tpm.sock", "Raw TPM byte stream of a guest."),
            ("DIR/run/guests/NAME/ctrl.sock", "Its control channel as swtpm has it, for QEMU."),
            ("DIR/run/hwtpm, vtpmmgr.sock", "Sockets between the daemons; private."),
        ),
        (_XDG,),
        (
            ("0", "Done; for up: stopped in order, everything saved."),
            (
                "1",
                "Failed; for up also: a daemon had to be killed at the end; for status: something "
                "does not serve; for doctor: a finding is a failure.",
            ),
            _USAGE,
            ("3", "No guest can be served because a daemon refuses, or DIR is in use."),
        ),
    ),
}


def page_text(name: str) -> str:
    """Return the page of a command as roff (man(7) macros)."""
    page = PAGES[name]
    lines = [
        '.\\" SPDX-License-Identifier: Apache-2.0',
        '.\\" Written by docs/manpages.py from the help of the command.',
        f'.TH {name.upper()} 1 "" "vtpm-suite" "User Commands"',
        ".SH NAME",
        f"{name} \\- {escape(page.purpose)}",
        ".SH SYNOPSIS",
        *_synopsis(name, page.command),
        ".SH DESCRIPTION",
        *_paragraphs(page.command.help or ""),
    ]
    if isinstance(page.command, click.Group) and subcommands(page.command):
        lines += [".SH COMMANDS", *_commands(page.command, name)]
    lines += [".SH OPTIONS", *_options(page.command, name)]
    if page.command.epilog:
        lines += [".SH EXAMPLE", *_paragraphs(page.command.epilog.replace("Example:\n", ""))]
    lines += [".SH FILES", *_items(page.files)]
    lines += [".SH ENVIRONMENT", *_items(page.environment)]
    lines += [".SH EXIT STATUS", *_items(page.status)]
    others = [other for other in _page_names() if other != f"{name}(1)"]
    return "\n".join([*lines, ".SH SEE ALSO", ", ".join(others), ""])


def _page_names() -> list[str]:
    return [
        *(f"{name}({page.section})" for name, page in TEXT_PAGES.items()),
        *(f"{name}(1)" for name in PAGES),
        *(f"{name}(5)" for name in FORMAT_PAGES),
    ]


def all_pages() -> dict[str, str]:
    """Return the text of every page by the name of its file."""
    pages = {f"{name}.1": page_text(name) for name in PAGES}
    for name in FORMAT_PAGES:
        others = [other for other in _page_names() if other != f"{name}(5)"]
        pages[f"{name}.5"] = format_page_text(name, others)
    for name, page in TEXT_PAGES.items():
        others = [other for other in _page_names() if other != f"{name}({page.section})"]
        pages[f"{name}.{page.section}"] = text_page_text(name, others)
    return pages


def _synopsis(name: str, command: click.Command) -> list[str]:
    of_group = [f".B {name}", "command [options]"]
    if isinstance(command, click.Group):
        if not command.invoke_without_command:
            return of_group
        if subcommands(command):
            return [*_own_synopsis(name, command), ".br", *of_group]
    return _own_synopsis(name, command)


def _own_synopsis(name: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=name)
    required = [
        f"\\fB{escape(option.opts[-1])}\\fR {escape(option.make_metavar(context))}"
        for option in command.params
        if isinstance(option, click.Option) and option.required
    ]
    return [f".B {name}", " ".join([*required, "[options]"])]


def _commands(group: click.Group, path: str) -> Iterator[str]:
    context = click.Context(group, info_name=path)
    for name, command in subcommands(group).items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
            continue
        arguments = [
            str(parameter.make_metavar(context))
            for parameter in command.params
            if isinstance(parameter, click.Argument)
        ]
        words = [path, name, *arguments]
        yield f".SS {escape(' '.join(words))}"
        yield from _paragraphs(command.help or "")
        yield from _options(command, f"{path} {name}")
        if command.epilog:
            yield from _paragraphs(command.epilog)


def _options(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command, info_name=path, **command.context_settings)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            names, text = record
            yield ".TP"
            yield f".B {escape(names)}"
            yield escape(" ".join(text.split())) or "\\&"


def _paragraphs(text: str) -> Iterator[str]:
    """Give paragraphs; one that begins with click's \\b mark keeps its lines."""
    for paragraph in text.strip().split("\n\n"):
        yield ".PP"
        mark, *lines = paragraph.strip().splitlines()
        if mark == "\b":
            kept = textwrap.dedent("\n".join(lines)).splitlines()
            yield from (".nf", *[escape(line) for line in kept], ".fi")
        else:
            yield escape(" ".join([line.strip() for line in (mark, *lines)]))


def _items(items: Items) -> Iterator[str]:
    for name, text in items:
        yield from (".TP", f".B {escape(name)}", escape(text))


def main() -> None:
    """Write all pages."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(exist_ok=True)
    for name, text in all_pages().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
