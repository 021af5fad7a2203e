# SPDX-License-Identifier: Apache-2.0
"""A link named swtpm to tpmfront, as somebody has it who replaced swtpm by this suite.

link = make_link(folder / "bin", manager_socket)
with link.daemon("socket", "--tpmstate", "dir=D", ..., pid=folder / "pid") as pid:
    ask(path, command)
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from protocol.tpm12.framing import parse_header
from protocol.tpm12.keys import PubKey
from tests.integration.stack import ANSWER_LIMIT_S, transact
from tests.integration.waiting import wait_until
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12
from tpmcore.tss12 import Conversation

T = TypeVar("T")

LIMIT_S = 60.0
STARTED = ("--flags", "not-need-init,startup-clear")
GET_TICKS = bytes.fromhex("00c1 0000000a 000000f1")
STARTUP_CLEAR = bytes.fromhex("00c1 0000000c 00000099 0001")


@dataclass
class Link:
    """The link, and what the programs behind it find in their environment.

    Attributes:
        path: of the link, in a folder of its own.
        manager: socket of the manager.
        environ: more of the environment.
    """

    path: Path
    manager: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment: the link comes before swtpm itself."""
        path = f"{self.path.parent}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "VTPM_MANAGER": str(self.manager), **self.environ}

    def run(
        self, *words: str, fails: bool = False, pass_fds: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, as a command found by its name."""
        done = subprocess.run(
            ["swtpm", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=tuple(pass_fds),
            timeout=LIMIT_S,
        )
        assert done.returncode == int(fails), f"swtpm {words}: {done}"
        return done

    def start(self, *words: str, pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
        """Start it and return the process; what it says goes to standard error."""
        return subprocess.Popen(
            ["swtpm", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr.fileno() if _has_fd(sys.stderr) else None,
            pass_fds=tuple(pass_fds),
        )

    @contextlib.contextmanager
    def of_libvirt(
        self, folder: Path, control: Path, *words: str, pass_fds: Sequence[int] = ()
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Give a process that was started as libvirt starts it, whose socket is there: in the
        foreground, with a log beside the folder. It ends with its machine, or else is ended.

        Args:
            folder: of the TPM.
            control: its control channel.
            words: more of them.
            pass_fds: what they name.
        """
        process = self.start(
            *("socket", "--ctrl", f"type=unixio,path={control},mode=0600"),
            *("--tpmstate", f"dir={folder},mode=0600"),
            *("--log", f"file={folder}.log", "--terminate", *words),
            pass_fds=pass_fds,
        )
        try:
            wait_for(control)
            yield process
            process.terminate()
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def daemon(self, *words: str, pid: Path) -> Iterator[int]:
        """Give the process id of one that was started with --daemon; it is ended in order."""
        self.run(*words, "--daemon", "--pid", f"file={pid}")
        number = int(pid.read_text())
        try:
            yield number
        finally:
            end(number)


def _has_fd(stream: object) -> bool:
    try:
        stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return False
    return True


def make_link(folder: Path, manager: Path) -> Link:
    """Make the link in a folder."""
    folder.mkdir()
    path = folder / "swtpm"
    path.symlink_to(Path(sys.executable).with_name("tpmfront"))
    return Link(path, manager)


def end(pid: int, number: signal.Signals = signal.SIGTERM) -> None:
    """End a process that is no child of ours, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, number)
            wait_gone(pidfd)
        finally:
            os.close(pidfd)


def wait_gone(pidfd: int) -> None:
    """Wait until a process has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(LIMIT_S * 1000), "the process does not end"


def connect(path: Path) -> socket.socket:
    """Return a connection to a Unix socket."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(ANSWER_LIMIT_S)
    client.connect(os.fspath(path))
    return client


def ask(path: Path, command: bytes) -> bytes:
    """Send one command over a connection of its own and return the response."""
    with connect(path) as client:
        return transact(client, command)


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    wait_until(path.exists, str(path))


def talk(path: Path, conversation: Conversation[T]) -> T:
    """Run a conversation with the TPM at a socket."""
    with connect(path) as client:
        return tss12.run_sync(partial(transact, client), conversation)


def code_of(response: bytes) -> int:
    """Return a response's code."""
    return parse_header(response).code


def make_ek(path: Path) -> PubKey:
    """Make the endorsement key of the TPM at a socket."""
    return talk(path, tss12.create_endorsement_key_pair(random=SeededRandom("1")))


def read_ek(path: Path) -> PubKey:
    """Return it."""
    return talk(path, tss12.read_pubek(random=SeededRandom("2")))


def ioctl(control: Path, *words: str, fails: bool = False) -> str:
    """Run swtpm_ioctl at a control channel and return what it says."""
    done = subprocess.run(
        ["swtpm_ioctl", *words, "--unix", str(control)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert bool(done.returncode) == fails, done
    return done.stdout


def configure_localca(folder: Path) -> Path:
    """Return a configuration of swtpm_setup whose CA is in a folder, not the machine's."""
    folder.mkdir()
    (folder / "localca.conf").write_text(
        f"statedir = {folder}\nsigningkey = {folder}/key.pem\n"
        f"issuercert = {folder}/cert.pem\ncertserial = {folder}/serial\n"
    )
    (folder / "options").write_text(
        "--platform-manufacturer A\n--platform-version 1\n--platform-model B\n"
    )
    config = folder / "setup.conf"
    config.write_text(
        "create_certs_tool = /usr/bin/swtpm_localca\n"
        f"create_certs_tool_config = {folder}/localca.conf\n"
        f"create_certs_tool_options = {folder}/options\n"
    )
    return config
