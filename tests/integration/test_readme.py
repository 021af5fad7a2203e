# SPDX-License-Identifier: Apache-2.0
"""The README's quick start, typed as it stands there; only folder and port are the test's own.

Its `console` blocks are: the stack's terminal, tcsd's, the tools', and the tools' after everything
was started again. A line that begins with `$ ` is a command (two blanks continue one that ends in
a backslash), the others are what it prints, `...` being any lines.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.tcsd import Tcsd, running_tcsd

ROOT = Path(__file__).resolve().parents[2]
README_DIR = "/srv/vtpm"
README_SOCKET = f"{README_DIR}/run/guests/guest1/tpm.sock"
ELLIPSIS = "..."
LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Typed:
    """A command and what the README says that it prints."""

    command: str
    output: tuple[str, ...]


def _quick_start() -> list[list[Typed]]:
    """Return the commands of each console block of the README's quick start."""
    text = (ROOT / "README.md").read_text()
    section = re.search(r"^## Quick start\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    blocks = re.findall(r"^```console\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    return [_commands(block) for block in blocks]


def _commands(block: str) -> list[Typed]:
    typed: list[Typed] = []
    # A command goes on where its line ends in a backslash.
    for line in block.replace("\\\n  ", "").splitlines():
        if line.startswith("$ "):
            typed.append(Typed(line[2:], ()))
        else:
            last = typed.pop()
            typed.append(Typed(last.command, (*last.output, line)))
    return typed


def _prints(shown: str, output: Sequence[str]) -> bool:
    """Whether lines that were shown are those of the README."""
    pattern = "".join(
        r"(?:.*\n)*" if line == ELLIPSIS else re.escape(line) + r"\n" for line in output
    )
    return re.fullmatch(pattern, shown) is not None


@contextlib.contextmanager
def _make_up(typed: Typed, root: Path) -> Iterator[None]:
    """Type `make up`, wait for what it prints, and press Ctrl-C in the end."""
    with (root / "stderr.log").open("ab") as stderr:
        process = subprocess.Popen(
            typed.command.replace(README_DIR, os.fspath(root)),
            shell=True,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            # A terminal's interrupt goes to the whole foreground process group.
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        wanted = [line.replace(README_DIR, os.fspath(root)) for line in typed.output]
        shown = ""
        deadline = time.monotonic() + LIMIT_S
        while not _prints(shown, wanted):
            readable, _, _ = select.select([process.stdout], [], [], deadline - time.monotonic())
            chunk = os.read(process.stdout.fileno(), 4096) if readable else b""
            assert chunk, f"{shown}\n{(root / 'stderr.log').read_text(errors='replace')}"
            shown += chunk.decode()
        yield
        os.killpg(process.pid, signal.SIGINT)
        process.wait(LIMIT_S)
        log = (root / "stderr.log").read_text(errors="replace")
        assert "error" not in log, log
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


def _type(tcsd: Tcsd, block: Sequence[Typed]) -> None:
    for typed in block:
        # Standard output only: Debian 12's tpm_version writes stray memory to the other one.
        shown = tcsd.run("bash", "-c", f"exec 2>/dev/null; {typed.command}")
        assert _prints(shown, typed.output), f"$ {typed.command}\n{shown}"


@pytest.mark.timeout(400)
def test_the_quick_start_prints_what_the_readme_says(run_dir: Path) -> None:
    (make_up,), (start_tcsd,), tools, after_restart = _quick_start()
    run_dir.chmod(0o755)
    root, folder = run_dir / "s", run_dir / "t"
    root.mkdir(mode=0o755)
    # What the fixture does with a port and a store of its own is what the README types.
    assert start_tcsd.command == (
        "TCSD_USE_TCP_DEVICE=1 TCSD_TCP_DEVICE_PORT=1 "
        f"TCSD_UN_SOCKET_DEVICE_PATH={README_SOCKET} tcsd -e -f"
    )
    tpm_socket = Path(README_SOCKET.replace(README_DIR, os.fspath(root)))
    with _make_up(make_up, root):
        with running_tcsd(tpm_socket, folder) as tcsd:
            _type(tcsd, tools)
        assert _prints((folder / "tcsd.log").read_text(), start_tcsd.output)
        (folder / "tcsd.log").unlink()
    with _make_up(make_up, root), running_tcsd(tpm_socket, folder) as tcsd:
        _type(tcsd, after_restart)


@pytest.mark.timeout(400)
def test_a_blob_of_the_quick_start_opens_in_no_other_tpm(run_dir: Path) -> None:
    (make_up,), _, tools, after_restart = _quick_start()
    run_dir.chmod(0o755)
    folder = run_dir / "t"
    sockets = []
    for name in ("s", "o"):
        root = run_dir / name
        root.mkdir(mode=0o755)
        tpm_socket = Path(README_SOCKET.replace(README_DIR, os.fspath(root)))
        sockets.append((root, tpm_socket))
    with _make_up(make_up, sockets[0][0]), running_tcsd(sockets[0][1], folder) as tcsd:
        _type(tcsd, tools)
    # The store belongs to the first TPM.
    (folder / "store" / "system.data").unlink()
    with _make_up(make_up, sockets[1][0]), running_tcsd(sockets[1][1], folder) as tcsd:
        tcsd.run("tpm_takeownership", "-y", "-z")
        for typed in after_restart:
            assert "known to this guest only" not in tcsd.run(
                "bash", "-c", typed.command, fails=True
            )
