# SPDX-License-Identifier: Apache-2.0
"""What TAB does: the files in completions/, tried in the shells that they are for."""

from __future__ import annotations

import os
import shlex
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from docs.completions import FOLDER, files

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
FILES = [
    name for command in COMMANDS for name in (f"{command}.bash", f"_{command}", f"{command}.fish")
]

SUBCOMMANDS = [
    *("aik", "attest", "ca", "config", "doctor", "group", "guest", "hwtpm", "manager"),
    *("manufacture", "prove-ek", "reload", "saa", "status", "trace", "up", "verify", "vtpm"),
]
SHELL = {"bash": ("bash", "--norc", "-n"), "zsh": ("zsh", "-f", "-n"), "fish": ("fish", "-n")}


def _shell(name: str) -> str:
    return "zsh" if name.startswith("_") else name.rpartition(".")[2]


def _run(*command: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(environ or {})},
    )
    assert done.stderr == ""
    return done.stdout


def bash(*words: str, cwd: Path | None = None, **environ: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    script = f"source {shlex.quote(str(FOLDER / (words[0] + '.bash')))}\n"
    script += f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
    script += f"_{words[0]} 2>/dev/null\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    return sorted(_run("bash", "--norc", "-c", script, cwd=cwd, environ=environ).split())


def fish(line: str, home: Path, **environ: str) -> list[str]:
    """Return what fish offers at the end of a line."""
    script = f"source {FOLDER}/{line.split()[0]}.fish; complete -C {shlex.quote(line)}"
    told = _run("fish", "--no-config", "-c", script, environ={"HOME": str(home), **environ})
    return sorted(row.partition("\t")[0] for row in told.splitlines())


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """The folder of a stack with two guests."""
    guests = tmp_path / "vtpm/state/etc/guests.d"
    guests.mkdir(parents=True)
    for guest in ("g1", "web-2"):
        (guests / f"{guest}.toml").touch()
    return tmp_path / "vtpm"


def test_the_files_are_what_make_completions_writes() -> None:
    written = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert sorted(written) == sorted(FILES)
    assert written == files(), "run make completions"


@pytest.mark.parametrize("name", FILES)
def test_each_shell_reads_its_file(name: str) -> None:
    _run(*SHELL[_shell(name)], str(FOLDER / name))


@pytest.mark.parametrize("name", FILES)
def test_no_python_is_started(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert not [line for line in text.splitlines() if "python" in line and line[0] != "#"]


def test_bash_completes_subcommands_and_options() -> None:
    assert bash("vtpmctl", "") == SUBCOMMANDS
    assert bash("vtpmctl", "s") == ["saa", "status"]
    assert bash("vtpmctl", "hwtpm", "") == ["power-cycle"]
    assert bash("vtpmctl", "status", "--w") == ["--watch"]
    assert bash("vtpmctl", "hwtpm", "-") == ["--help"]
    assert "--socket-mode" in bash("tpmfront", "--so")


def test_bash_completes_values() -> None:
    assert bash("vtpmctl", "up", "--ek", "") == ["create", "none"]
    assert bash("vtpmctl", "up", "--ek", "=", "cr") == ["create"]
    assert bash("vtpmctl", "up", "--ek", "=") == ["create", "none"]
    assert bash("vtpmctl", "up", "--hwinitpcr", "") == []
    # The value of an option is no subcommand.
    assert bash("vtpmctl", "up", "--dir", "status", "--loglevel", "d") == ["debug"]


def test_bash_completes_folders_and_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert bash("vtpmctl", "status", "--dir", "f", cwd=tmp_path) == ["folder"]
    assert bash("vtpm", "--socket", "f", cwd=tmp_path) == ["file", "folder"]


def test_bash_completes_the_guests_that_there_are(stack: Path) -> None:
    named = ("vtpmctl", "guest", "reset", "--dir", str(stack))
    assert bash(*named, "") == ["g1", "web-2"]
    assert bash(*named, "w") == ["web-2"]
    assert bash("vtpmctl", "guest", "reset", "", XDG_STATE_HOME=str(stack.parent)) == [
        "g1",
        "web-2",
    ]
    assert bash("vtpmctl", "up", "--dir", str(stack), "--guest", "") == ["g1", "web-2"]
    # One guest only.
    assert bash(*named, "g1", "") == []


def test_fish_completes_subcommands_options_values_and_guests(stack: Path) -> None:
    assert fish("vtpmctl ", stack) == SUBCOMMANDS
    assert fish("vtpmctl status --w", stack) == ["--watch"]
    assert fish("vtpmctl up --ek ", stack) == ["create", "none"]
    assert fish("vtpmctl guest re", stack) == ["remove", "reset", "restart"]
    by_default = fish("vtpmctl guest reset ", stack, XDG_STATE_HOME=str(stack.parent))
    assert by_default == ["g1", "web-2"]
    assert fish(f"vtpmctl guest reset --dir {stack} w", stack) == ["web-2"]
    assert fish(f"vtpmctl trace --dir {stack} --guest w", stack) == ["web-2"]


@pytest.mark.parametrize("command", COMMANDS)
def test_zsh_finds_the_completion_of_each_command(command: str, tmp_path: Path) -> None:
    script = (
        f"fpath=({FOLDER} $fpath); autoload -Uz compinit; compinit -u -D -d {tmp_path}/dump\n"
        f"print $_comps[{command}]; autoload +X _{command} && print loaded"
    )
    assert _run("zsh", "-f", "-c", script).split() == [f"_{command}", "loaded"]
