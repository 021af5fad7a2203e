# SPDX-License-Identifier: Apache-2.0
"""The real tcsd of trousers on a guest's raw stream socket, and the real tools of tpm-tools on it.

    with running_tcsd(stack.tpm_socket("g1"), folder) as tcsd:
        tcsd.run("tpm_takeownership", "-y", "-z")

tcsd becomes user `tss`, so whoever runs this is root, and the socket's folders must let others
pass. The tools run in the folder, where they leave their files.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.integration.ports import free_port

START_LIMIT_S = 60.0
TOOL_LIMIT_S = 60.0
_POLL_S = 0.02


class ToolError(AssertionError):
    """A tool ended with an exit code other than the expected one."""


@dataclass(frozen=True, slots=True)
class Tcsd:
    """A running tcsd.

    Attributes:
        folder: where the tools run.
        port: of 127.0.0.1, where it listens.
    """

    folder: Path
    port: int

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a tool to its end and return what it printed.

        Args:
            fails: whether it is to end with an exit code other than 0.

        Raises:
            ToolError: it ended the other way.
        """
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TOOL_LIMIT_S,
        )
        if bool(done.returncode) != fails:
            raise ToolError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
        return done.stdout

    def run_typing(self, *command: str, answers: Sequence[str]) -> str:
        """Run a tool that asks for passwords on its terminal, and type them.

        Raises:
            ToolError: it failed, or did not ask as often.
        """
        master, slave = pty.openpty()
        process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command],
            cwd=self.folder,
            env=self._environment(),
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        try:
            shown = _converse(master, list(answers))
            code = process.wait(TOOL_LIMIT_S)
        finally:
            process.kill()
            process.wait()
            os.close(master)
        if code:
            raise ToolError(f"{' '.join(command)}: exit code {code}\n{shown}")
        return shown

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TSS_TCSD_PORT": str(self.port)}


def _converse(terminal: int, answers: list[str]) -> str:
    """Answer each prompt that ends in a colon; return everything that was shown."""
    shown = ""
    unanswered = 0
    deadline = time.monotonic() + TOOL_LIMIT_S
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], deadline - time.monotonic())[0]:
            break
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # EIO: the tool has closed its side
            chunk = b""
        if not chunk:
            if answers:
                raise ToolError(f"{len(answers)} passwords were not asked for\n{shown}")
            return shown
        shown += chunk.decode(errors="replace")
        if shown[unanswered:].rstrip(" ").endswith(":"):
            if not answers:
                raise ToolError(f"asks once too often\n{shown}")
            os.write(terminal, answers.pop(0).encode() + b"\n")
            unanswered = len(shown)
    raise ToolError(f"no end after {TOOL_LIMIT_S:g} s\n{shown}")


@contextlib.contextmanager
def running_tcsd(tpm: Path | int, folder: Path) -> Iterator[Tcsd]:
    """Start tcsd on a TPM and end it in order; its store is in the folder.

    Args:
        tpm: path of its socket, or its TCP port at 127.0.0.1.
        folder: made if it is missing.

    Raises:
        ToolError: it does not come up.
    """
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    store = folder / "store"
    store.mkdir(exist_ok=True)
    store.chmod(0o700)
    shutil.chown(store, "tss", "tss")
    port = free_port()
    config = folder / "tcsd.conf"
    config.write_text(f"port = {port}\nsystem_ps_file = {store}/system.data\n")
    shutil.chown(config, "root", "tss")
    config.chmod(0o640)
    environment = {
        **os.environ,
        # It tries TCP first, then the path; nobody listens on port 1, or at the other path.
        "TCSD_USE_TCP_DEVICE": "1",
        "TCSD_TCP_DEVICE_PORT": str(tpm) if isinstance(tpm, int) else "1",
        "TCSD_UN_SOCKET_DEVICE_PATH": "/nowhere" if isinstance(tpm, int) else os.fspath(tpm),
    }
    log_path = folder / "tcsd.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            ["tcsd", "-e", "-f", "-c", os.fspath(config)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_listening(process, port, log_path)
        yield Tcsd(folder, port)
    finally:
        process.terminate()
        try:
            process.wait(TOOL_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_listening(process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ToolError(f"tcsd ended: {log_path.read_text(errors='replace')}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        # tcsd tells nobody that it listens, so there is no event to wait for.
        select.select([], [], [], _POLL_S)
    raise ToolError(f"tcsd does not listen: {log_path.read_text(errors='replace')}")
