# SPDX-License-Identifier: Apache-2.0
"""The rules of the project that no linter knows, as tests over its own files."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {"__pycache__", "build", "dist", "results"}
LOCK_ENTRY = re.compile(r"^([a-z0-9-]+)==[^ ]+ ", re.MULTILINE)


def _files() -> list[Path]:
    """Every file that we wrote: what is generated lies in folders of its own."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in GENERATED and (name == ".ci" or not name.startswith("."))
            if not name.endswith(".egg-info")
        ]
        found += [Path(folder, name) for name in names if not name.endswith(".pyc")]
    return sorted(found)


def _python_files() -> list[Path]:
    return [path for path in _files() if path.suffix == ".py"]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_no_file_names_a_place_of_one_machine() -> None:
    # Built from parts, so that this file does not find itself.
    places = "|".join(("/" + "work/", "/" + "root/", "/" + "home/", "pythonhosted" + r"\.org"))
    places += "|" + "|".join(("py" + r"pi\.org", "index" + "-url [^=]*:/", "file:" + "///"))
    found = [
        f"{_name(path)}: {line.strip()[:80]}"
        for path in _files()
        for line in path.read_text(errors="replace").splitlines()
        if re.search(places, line)
    ]
    assert found == []


def test_every_module_names_its_licence_and_says_what_it_is_for() -> None:
    def is_complete(path: Path) -> bool:
        text = path.read_text()
        return text.startswith("# SPDX-License-Identifier: Apache-2.0\n") and bool(
            ast.get_docstring(ast.parse(text))
        )

    assert [_name(path) for path in _python_files() if not is_complete(path)] == []


def test_no_module_is_a_drawer_for_things_without_a_place() -> None:
    drawers = {"utils", "util", "misc", "common", "helpers", "helper"}
    found = [
        _name(path)
        for path in _python_files()
        if drawers & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    ]
    assert found == []


def test_no_test_is_skipped_or_expected_to_fail() -> None:
    excuse = re.compile(r"\b(skipif|xfail|importorskip)\b|pytest\.(mark\.)?" + "skip")
    tests = [path for path in _python_files() if path.is_relative_to(ROOT / "tests")]
    excused = [
        _name(path) for path in tests if path != Path(__file__) and excuse.search(path.read_text())
    ]
    assert excused == []


def test_nothing_is_left_unwritten() -> None:
    unwritten = "NotImplemented" + "Error"
    assert [_name(path) for path in _python_files() if unwritten in path.read_text()] == []


def test_each_package_of_protocol_is_below_or_beside_tpmcore_in_the_import_contract(
    project: dict[str, Any],
) -> None:
    contracts = {entry["id"]: entry for entry in project["tool"]["importlinter"]["contracts"]}
    decided = set(re.findall(r"protocol\.\w+", " ".join(contracts["tpmcore-protocol"]["layers"])))
    present = {
        "protocol." + path.name.removesuffix(".py")
        for path in (ROOT / "protocol").iterdir()
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__")
    }
    assert present - decided == set()


def test_the_lock_file_pins_every_dependency_with_hashes(project: dict[str, Any]) -> None:
    metadata = project["project"]
    wanted = metadata["dependencies"] + metadata["optional-dependencies"]["dev"]
    names = {re.split(r"[<>=!~ ]", requirement)[0] for requirement in wanted}
    lock = (ROOT / "requirements.lock").read_text()
    assert names - set(LOCK_ENTRY.findall(lock)) == set()
    entries = [entry for entry in re.split(r"\n(?=\S)", lock) if "==" in entry.split("\n")[0]]
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_every_dependency_has_its_reason_in_the_documentation(project: dict[str, Any]) -> None:
    reasons = (ROOT / "docs/dependencies.md").read_text()
    metadata = project["project"]
    wanted = metadata["dependencies"] + metadata["optional-dependencies"]["dev"]
    names = {re.split(r"[<>=!~ ]", requirement)[0] for requirement in wanted}
    assert {name for name in names if not re.search(rf"\b{name}\b", reasons)} == set()


def test_links_between_the_pages_lead_somewhere() -> None:
    broken = [
        f"{_name(page)} -> {target}"
        for page in _files()
        if page.suffix == ".md"
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_a_decision_is_dated_and_fits_in_twelve_lines() -> None:
    decisions = re.split(r"^## ", (ROOT / "docs/decisions.md").read_text(), flags=re.MULTILINE)[1:]
    assert decisions
    for decision in decisions:
        assert re.match(r"\d{4}-\d\d-\d\d: ", decision), decision
        assert len(decision.strip().splitlines()) <= 12, decision
