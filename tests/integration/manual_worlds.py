# SPDX-License-Identifier: Apache-2.0
"""Where the commands of the manual are typed, as they stand there.

| world       | what it is                                                                        |
|-------------|-----------------------------------------------------------------------------------|
| up          | this machine, with /srv, tcsd's configuration and its store for ourselves alone,   |
|             | and the commands of the checkout on the path                                      |
| systemd     | a machine with the suite installed and enabled, no guest yet                      |
| new-machine | a machine on which the suite was never started                                    |

The one thing that is not as on the reader's machine is the port of tcsd, since others may use it.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.integration.manual_blocks import ROOT, Block, Typed
from tests.integration.ports import free_port
from tests.integration.suite_machine import suite_machine

LIMIT_S: Final = 120.0
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_UP: Final = """
set -e
mount -t tmpfs -o mode=755 tmpfs /srv
mount -t tmpfs -o mode=700,uid=$(id -u tss),gid=$(id -g tss) tmpfs /var/lib/tpm
mount --bind "$1" /etc/tcsd.conf
mkdir /srv/home
echo ready
exec cat > /dev/null
"""


class _Kept:
    """A command in the foreground of a terminal."""

    def __init__(self, world: World, block: Block, typed: Typed) -> None:
        self.block = block
        self.typed = typed
        self._log = world.folder / f"kept-{len(world.kept)}.log"
        # A terminal, where programs do not keep back what they print.
        self._terminal, screen = pty.openpty()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # In a process group of its own, to which a terminal's interrupt goes; nsenter stays
                # outside, for it would die at once and nobody would know when the command ends.
                world.words(block, typed.command, "setsid"),
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=subprocess.STDOUT if "stderr" in block.flags else log,
            )
        os.close(screen)
        try:
            self._wait_shown()
        except BaseException:
            self.kill()
            raise

    def _wait_shown(self) -> None:
        shown = ""
        deadline = time.monotonic() + LIMIT_S
        while not self.typed.accepts(shown):
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._terminal], [], [], left)
            try:
                chunk = os.read(self._terminal, 4096) if readable else b""
            except OSError:  # how Linux says that the other side of a terminal is closed
                chunk = b""
            assert chunk, f"{self.block.where}: {self.typed.command}\n{shown}\n{self.log()}"
            shown += chunk.decode().replace("\r\n", "\n")

    def log(self) -> str:
        """Return what it has written to standard error."""
        return self._log.read_text(errors="replace")

    def interrupt(self) -> None:
        """Press Ctrl-C and wait for its end."""
        for group in self._groups():
            os.killpg(group, signal.SIGINT)
        self._process.wait(LIMIT_S)
        self._close()
        assert "error" not in self.log(), self.log()

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            for group in self._groups():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        self._close()

    def _groups(self) -> list[int]:
        """Return the process group of the command: the one child of nsenter leads it."""
        nsenter = self._process.pid
        children = Path(f"/proc/{nsenter}/task/{nsenter}/children").read_text()
        return [int(child) for child in children.split()]

    def _close(self) -> None:
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1


@dataclass
class World:
    """Somewhere to type.

    Attributes:
        folder: of the host, for logs.
        enter: words that run a command there.
        environment: of commands.
        checkout: where the suite's folder is there.
        home: where commands run otherwise.
        kept: what is in the foreground of other terminals.
    """

    folder: Path
    enter: tuple[str, ...]
    environment: dict[str, str]
    checkout: str
    home: str
    kept: list[_Kept] = field(default_factory=list)

    def words(self, block: Block, command: str, *by: str) -> list[str]:
        """Return what runs a command of a block, by another command that is there."""
        where = self.checkout if block.keys.get("in") == "checkout" else self.home
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        script = 'cd "$1" && eval "$2"'
        shell = ["bash", "-c", script, "bash", where, command]
        return [*self.enter, *by, "env", "-i", *variables, *shell]

    def type(self, block: Block) -> None:
        """Type the commands of a block and look at what they print.

        Raises:
            AssertionError: it is something else, or a command fails that is not to.
        """
        if "again" in block.flags:
            kept = list(self.kept)
            self.interrupt()
            self.kept = [_Kept(self, one.block, one.typed) for one in kept]
        commands = block.commands
        if "keep" in block.flags:
            (typed,) = commands
            self.kept.append(_Kept(self, block, typed))
            return
        for typed in commands:
            fails = "fails" in block.flags and typed is commands[-1]
            shown = self._run(block, typed, fails=fails)
            wanted = "\n".join(typed.output)
            assert typed.accepts(shown), (
                f"{block.where}\n$ {typed.command}\n{shown}--- instead of\n{wanted}"
            )

    def _run(self, block: Block, typed: Typed, *, fails: bool = False) -> str:
        done = subprocess.run(
            self.words(block, typed.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # Not looked at, unless it is shown: Debian 12's tpm_version writes stray memory there.
            stderr=subprocess.STDOUT if "stderr" in block.flags else subprocess.PIPE,
            timeout=LIMIT_S,
        )
        shown = done.stdout.decode(errors="replace")
        what = f"{block.where}\n$ {typed.command}\n{shown}"
        errors = (done.stderr or b"").decode(errors="replace")
        assert bool(done.returncode) == fails, f"{what}{errors}exit code {done.returncode}"
        return shown

    def run(self, command: str, *, fails: bool = False) -> str:
        """Type a command that is on no page; return what it prints.

        Raises:
            AssertionError: it fails, or does not where it is to.
        """
        block = Block("typed by the test", "console", {}, frozenset({"stderr"}), "")
        return self._run(block, Typed(command, ()), fails=fails)

    def interrupt(self) -> None:
        """End what is kept, the newest first, each with Ctrl-C."""
        while self.kept:
            self.kept[-1].interrupt()
            self.kept.pop()

    def kill(self) -> None:
        """End what is kept after a failure."""
        for one in self.kept:
            one.kill()


@contextlib.contextmanager
def _up(folder: Path) -> Iterator[World]:
    port = free_port()
    config = folder / "tcsd.conf"
    config.write_text(f"port = {port}\n")
    shutil.chown(config, "root", "tss")
    config.chmod(0o640)
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    launcher = subprocess.Popen(
        [*words, "bash", "-c", _UP, "bash", str(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    with launcher.stdin, launcher.stdout:
        try:
            assert launcher.stdout.readline() == b"ready\n"
            children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
            yield World(
                folder,
                ("nsenter", "-t", children.strip(), "--mount", "--pid"),
                {
                    "PATH": f"{ROOT}/.venv/bin:{SYSTEM_PATH}",
                    "HOME": "/srv/home",
                    "TSS_TCSD_PORT": str(port),
                },
                str(ROOT),
                "/srv/home",
            )
        finally:
            launcher.kill()  # takes along everything in its namespace
            launcher.wait()


@contextlib.contextmanager
def _machine(folder: Path, installed: Path, *, new: bool) -> Iterator[World]:
    port = free_port()
    config = f"port = {port}\n"
    with suite_machine(folder, installed, (), etc={"tcsd.conf": config}) as suite:
        suite.run("chown", "root:tss", "/etc/tcsd.conf")
        suite.run("chmod", "640", "/etc/tcsd.conf")
        suite.run("mkdir", "/tmp/home")
        if new:
            suite.run("make", "-s", "-C", "/mnt/source", "uninstall")
        else:
            suite.start()
        yield World(
            folder,
            ("nsenter", "-t", str(suite.machine.pid), "-a"),
            {"PATH": SYSTEM_PATH, "HOME": "/tmp/home", "TSS_TCSD_PORT": str(port)},
            "/mnt/source",
            "/tmp/home",
        )


WORLDS: Final = ("up", "systemd", "new-machine")


@contextlib.contextmanager
def world(name: str, folder: Path, installed: Path) -> Iterator[World]:
    """Give a world; everything in it ends with it.

    Args:
        name: one of WORLDS.
        folder: an empty one of the host.
        installed: what `make install DESTDIR=` made.
    """
    folder.chmod(0o755)
    made = _up(folder) if name == "up" else _machine(folder, installed, new=name == "new-machine")
    with made as found:
        try:
            yield found
            found.interrupt()
        finally:
            found.kill()


def type_page(there: World, blocks: Sequence[Block]) -> None:
    """Type the blocks of a page one after the other."""
    for block in blocks:
        there.type(block)
