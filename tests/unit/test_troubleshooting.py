# SPDX-License-Identifier: Apache-2.0
"""docs/troubleshooting.md has an entry for each message that ends a daemon or a command, and for
each warning of the log, and none for what is not said any more.

A message is what stands where its exception is made, what is filled in being `…`. So this holds the
words of each message, not what may be filled in. Exceptions that are made of a text from elsewhere
are listed below.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.unit.test_events import events_in_the_code

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
FILLED: Final = "…"
ROOTS: Final = frozenset({"DaemonError"})
OF_CLICK: Final = frozenset({"UsageError", "BadParameter", "ClickException"})
PASSED_ON: Final = {
    # a whole configuration's mistakes, each in its own words
    "daemons/runtime/config/findings.py: BadConfig(self.found)",
    "daemons/runtime/config/folder.py: BadConfig([*machine_findings.found, *findings.found])",
    "daemons/runtime/config/folder.py: BadConfig(examination.findings)",
    "daemons/runtime/config/folder.py: BadConfig(general)",
    "daemons/vtpmctl/stackconfig.py: BadConfig(findings)",
    "daemons/vtpmctl/stackconfig.py: BadConfig([Finding(path, 'uid', reason)])",
    # what another process, daemon or exception said
    "daemons/runtime/control.py: DaemonError(text)",
    "daemons/vtpmctl/guests.py: DaemonError('\\n'.join(failures))",
    "daemons/vtpmctl/agent.py: DaemonError(str(error))",
    "daemons/vtpmctl/guests.py: DaemonError(str(error))",
    "daemons/vtpmctl/guestverbs.py: DaemonError(str(error))",
    "daemons/vtpmctl/options.py: click.ClickException(str(error))",
    "daemons/vtpmctl/trace_cli.py: click.ClickException(str(error))",
    "daemons/vtpmctl/up.py: RefusedToStart(describe_refusals(outcome))",
    "daemons/vtpmmgr/binding.py: DaemonError(str(error))",
    "daemons/vtpmmgr/startup.py: DaemonError(str(error))",
    "daemons/vtpmmgr/ledger.py: RefusedToStart(difference)",
    # the same words as the literal message a few lines below
    "daemons/vtpmmgr/unsealing.py: RefusedToStart(text)",
    "daemons/vtpmmgr/unsealing.py: NotApproved(text, found)",
    # the return code of a guest's TPM, or of the manager, with what it means for that command
    "daemons/vtpmctl/tpmstream.py: TpmRefused(what, error.code)",
    "daemons/vtpmctl/adminclient.py: Refused(ordinal, refusal.code)",
    # a bug of ours: the log has its traceback
    "daemons/runtime/host.py: EngineBroken(self._reason())",
    "daemons/vtpmctl/process.py: DaemonError(_ENDED)",
    # command lines: click shows them with the option
    "daemons/tpmfront/cli.py: click.UsageError(str(error))",
    "daemons/vtpmctl/answers.py: click.ClickException(str(error))",
    "daemons/vtpmctl/answers.py: click.UsageError(str(error))",
    "daemons/vtpm/cli.py: click.BadParameter(str(error), param_hint=option)",
    "daemons/vtpmctl/up_cli.py: click.UsageError(str(error))",
    "daemons/vtpmctl/guest_cli.py: click.UsageError(str(error))",
    "daemons/vtpmctl/manager_cli.py: click.UsageError(str(error))",
    "daemons/vtpmmgr/cli.py: click.BadParameter(str(error), param_hint=option)",
}
"""Exceptions whose text stands elsewhere."""


@dataclass(frozen=True, slots=True)
class Message:
    """Where a message is made, and what it says; None if that cannot be seen there."""

    where: str
    text: str | None


def _modules() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for path in sorted((ROOT / "daemons").rglob("*.py"))
    }


def _name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _error_classes(modules: dict[str, ast.Module]) -> set[str]:
    """Return the names of all classes below DaemonError."""
    found = set(ROOTS)
    classes = [node for tree in modules.values() for node in ast.walk(tree)]
    before = 0
    while len(found) > before:
        before = len(found)
        for node in classes:
            if isinstance(node, ast.ClassDef) and found & {_name(base) for base in node.bases}:
                found.add(node.name)
    return found


def _template(node: ast.expr) -> str | None:
    """Return what an expression says, with what is filled in as `…`."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            parts = [part.value if isinstance(part, ast.Constant) else FILLED for part in values]
            return "".join(map(str, parts))
        case _:
            return None


def _messages() -> Iterator[Message]:
    modules = _modules()
    classes = _error_classes(modules)
    for path, tree in modules.items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and _name(node.func) in classes | OF_CLICK):
                continue
            assert node.args, f"{path}:{node.lineno}: an error without a message"
            text = _template(node.args[0])
            where = f"{path}: {ast.unparse(node)}" if text is None else f"{path}:{node.lineno}"
            yield Message(where, text)


def _chapters() -> dict[str, list[list[str]]]:
    """Return the rows of the table of each chapter, as cells."""
    found = {}
    for chapter in PAGE.split("\n## ")[1:]:
        heading, _, rest = chapter.partition("\n")
        rows = [row.strip("| ").split(" | ") for row in re.findall(r"^\|.*$", rest, re.M)[2:]]
        found[heading] = rows
    return found


WARNINGS: Final = "Warnings and errors in the log"
FINDINGS: Final = "The configuration"


def _entries() -> list[str]:
    return [
        entry
        for heading, rows in _chapters().items()
        if heading not in (WARNINGS, FINDINGS)
        for row in rows
        for entry in re.findall(r"`([^`]+)`", row[0].partition(" with `")[0])
    ]


def _is_only_passed_on(text: str) -> bool:
    """Whether a message has no word of its own, such as a path and the system's reason."""
    return not re.search("[a-z]", text)


def test_every_message_has_an_entry_and_no_entry_is_without_its_message() -> None:
    said = {
        message.text: message.where
        for message in _messages()
        if message.text is not None and not _is_only_passed_on(message.text)
    }
    entries = set(_entries())
    assert {where: text for text, where in said.items() if text not in entries} == {}
    assert entries - said.keys() == set()


def test_messages_that_are_made_elsewhere_are_known() -> None:
    assert {message.where for message in _messages() if message.text is None} == PASSED_ON


def test_every_row_says_a_cause_and_what_to_do() -> None:
    for heading, rows in _chapters().items():
        width = 2 if heading in (WARNINGS, FINDINGS) else 3
        for row in rows:
            assert len(row) == width, f"{heading}: {row}"
            assert all(cell.strip() for cell in row), f"{heading}: {row}"


def test_every_warning_and_error_of_the_log_has_its_row_and_no_other_event_has() -> None:
    wanted = {
        name
        for (_, name), event in events_in_the_code().items()
        if event.levels & {"warning", "error"}
    }
    rows = [row[0] for row in _chapters()[WARNINGS]]
    assert len(rows) == len(set(rows))
    assert set(rows) == wanted
