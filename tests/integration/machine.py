# SPDX-License-Identifier: Apache-2.0
"""A machine for a test: a real systemd as PID 1 of its own namespaces, with our units in it."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.integration.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
BOOT_LIMIT_S = 60.0
COMMAND_LIMIT_S = 60.0
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Machine:
    """A booted machine.

    Attributes:
        pid: of its systemd, as the host sees it.
    """

    pid: int

    def run(self, *command: str, check: bool = True, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Run a command inside and return what it wrote to standard output.

        Raises:
            AssertionError: it failed and `check` is set; the message has all that it wrote.
        """
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", *command],
            capture_output=True,
            text=True,
            errors="replace",  # tpm-tools write a stray byte now and then
            timeout=limit_s,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def path(self, inside: str) -> Path:
        """Return where the host finds a path of the machine."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def journal(self) -> str:
        """Return everything that the machine has logged until now."""
        # What was written has not been taken up yet; this waits for it.
        self.run("journalctl", "--sync", check=False)
        return self.run("journalctl", "--no-pager", "--output=short-monotonic", check=False)


@contextmanager
def booted(stage: Path) -> Iterator[Machine]:
    """Boot a machine, and end it by the pid of its systemd, which takes everything in it along.

    Args:
        stage: folder with `root`, `sysusers` and `etc`, as `machine.sh` describes.
    """
    assert os.geteuid() == 0, "booting a systemd in namespaces needs root"
    with (
        _cgroup(f"vtpm-suite-{stage.name}") as cgroup,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        # An abstract name: the machine has its own file system, but the host's network.
        notify.bind("\0vtpm-suite-" + stage.name)
        notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        launcher = subprocess.Popen(
            [
                *("bash", "-c", 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"', "bash"),
                *(str(cgroup), "unshare", "--pid", "--fork", "--mount", "--mount-proc", "--uts"),
                *("--ipc", "--cgroup", "--kill-child", str(Path(__file__).with_suffix(".sh"))),
                *(str(stage), str(ROOT)),
            ],
            env=_clean(os.environ) | {"NOTIFY_SOCKET": "@vtpm-suite-" + stage.name},
            stdin=subprocess.DEVNULL,
        )
        pidfd = None
        try:
            pid = _wait_ready(notify, launcher)
            pidfd = os.pidfd_open(pid)
            machine = Machine(pid)
            try:
                yield machine
            finally:
                (stage / "journal").write_text(machine.journal())
        finally:
            launcher.kill()  # unshare takes the systemd along (--kill-child) ...
            launcher.wait()
            if pidfd is not None:
                select.select([pidfd], [], [])  # ... and that everything in its namespaces.
                os.close(pidfd)


def _wait_ready(notify: socket.socket, launcher: subprocess.Popen[bytes]) -> int:
    """Wait until systemd says that it is up; return its pid, which the kernel adds."""
    ended = os.pidfd_open(launcher.pid)
    try:
        while True:
            sources: list[socket.socket | int] = [notify, ended]
            readable, _, _ = select.select(sources, [], [], BOOT_LIMIT_S)
            assert notify in readable, "systemd did not come up" + (" and is gone" * bool(readable))
            data, ancillary, _, _ = notify.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
            if b"READY=1" in data.split(b"\n"):
                pid, _, _ = _CREDENTIALS.unpack(ancillary[0][2])
                return int(pid)
    finally:
        os.close(ended)


@contextmanager
def _cgroup(name: str) -> Iterator[Path]:
    """A control group of its own: systemd takes the one it is started in for the root of all."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    hierarchy = next(Path(fields[1]) for fields in mounts if fields[2] == "cgroup2")
    ours = next(
        line.removeprefix("0::/")
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if line.startswith("0::/")
    )
    group = hierarchy / ours / name
    group.mkdir()
    try:
        yield group
    finally:
        for folder, _, _ in os.walk(group, topdown=False):
            wait_until(partial(_is_removed, Path(folder)), f"{folder} without processes")


def _is_removed(group: Path) -> bool:
    """Remove a control group, unless the kernel still counts a process there that has ended."""
    try:
        group.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """What a machine takes over from us: nothing of the test runner's."""
    return {name: environ[name] for name in ("PATH", "LANG", "TERM") if name in environ}
