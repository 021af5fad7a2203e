# SPDX-License-Identifier: Apache-2.0
"""docs/operating.md lists every event that a daemon logs, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPERATING = (ROOT / "docs/operating.md").read_text()
LEVELS = {"debug", "info", "warning", "error"}
SHARED = "every daemon"


@dataclass
class Event:
    """What is known of one event of one daemon."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Give every call of a log's method in a module, with the level."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    called = {id(node.func): node for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr in LEVELS:
            receiver = ast.unparse(node.value).rpartition(".")[2].lstrip("_")
            if receiver == "log":
                # Under another name its events would not be found here.
                assert id(node) in called, f"{path.name}:{node.lineno}: not called at once"
                yield node.attr, called[id(node)]


def _in_the_code() -> dict[tuple[str, str], Event]:
    found: dict[tuple[str, str], Event] = {}
    for path in sorted((ROOT / "daemons").rglob("*.py")):
        folder = path.relative_to(ROOT / "daemons").parts[0]
        daemon = SHARED if folder == "runtime" else folder
        for level, call in _calls(path):
            where = f"{path.name}:{call.lineno}"
            name = call.args[0]
            # An event is a constant: what varies is in fields, where it can be searched for.
            assert isinstance(name, ast.Constant), where
            assert isinstance(name.value, str), where
            event = found.setdefault((daemon, name.value), Event())
            event.levels.add(level)
            for keyword in call.keywords:
                assert keyword.arg is not None, f"{where}: fields that cannot be seen"
                event.fields.add(keyword.arg)
    return found


def _in_the_documentation() -> dict[tuple[str, str], Event]:
    found: dict[tuple[str, str], Event] = {}
    for chapter in OPERATING.split("\n### Events of ")[1:]:
        daemon, _, rest = chapter.partition("\n")
        table = rest.partition("\n## ")[0]
        for row in re.findall(r"^\| (.*) \|$", table, re.MULTILINE)[1:]:
            cells = [cell.strip() for cell in row.split("|")]
            if set(cells[0]) == {"-"}:
                continue
            name, levels, fields, _meaning = cells
            assert (daemon, name) not in found, f"{name} stands twice"
            found[daemon, name] = Event(
                {level for level in levels.split(", ") if level},
                {one for one in fields.split(", ") if one},
            )
    return found


def test_every_event_is_in_the_table_with_its_level_and_fields_and_no_others_are() -> None:
    assert _in_the_documentation() == _in_the_code()


def test_the_tables_are_not_empty() -> None:
    daemons = {daemon for daemon, _ in _in_the_documentation()}
    assert daemons == {SHARED, "hwtpm", "vtpmmgr", "vtpm", "tpmfront", "vtpmctl"}
