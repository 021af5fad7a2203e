# SPDX-License-Identifier: Apache-2.0
"""A machine with the suite installed, as an operator sees it.

with suite_machine(run_dir, installed, ("g1", "g2")) as suite:
    suite.start()
    suite.exchange("g1", command)
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from tests.integration.machine import COMMAND_LIMIT_S, Machine, booted
from tests.integration.stack import StackError
from tests.integration.stack import transact as transact_over
from tests.integration.waiting import wait_until

ANSWER_LIMIT_S = 60.0
BINDIR = "/opt/vtpm-suite/bin"
SHARED = ("hwtpm.service", "vtpmmgr.service")


def pair(guest: str) -> tuple[str, str]:
    """Return the services of a guest."""
    return f"vtpm@{guest}.service", f"tpmfront@{guest}.service"


def guest_target(guest: str) -> str:
    """Return what an operator starts and stops for a guest."""
    return f"vtpm-guest@{guest}.target"


@dataclass(frozen=True, slots=True)
class SuiteMachine:
    """A booted machine with guests that are configured.

    Attributes:
        machine: the machine.
        uuids: of the guests.
    """

    machine: Machine
    uuids: Mapping[str, UUID]

    @property
    def services(self) -> tuple[str, ...]:
        """All daemons, in the order in which they are started."""
        return (*SHARED, *(unit for guest in self.uuids for unit in pair(guest)))

    def enable(self) -> None:
        """Have everything started with its target."""
        targets = [guest_target(guest) for guest in self.uuids]
        self.run("systemctl", "enable", "--quiet", *SHARED, "vtpm.target", *targets)

    def start(self) -> None:
        """Enable and start everything by its target, and return when all are ready."""
        self.enable()
        self.run("systemctl", "start", "vtpm.target")

    def stop(self, *guests: str, limit_s: float = COMMAND_LIMIT_S) -> None:
        """Stop guests by their targets, or everything, and return when all has ended."""
        # A target is gone before what belongs to it; so wait for what goes last.
        units = [unit for guest in guests for unit in (guest_target(guest), pair(guest)[0])]
        units = units or ["vtpm.target", SHARED[0]]
        self.run("systemctl", "stop", *units, limit_s=limit_s)
        # The sockets of a service are stopped behind it.
        wait_until(lambda: self.show_manager("NJobs") == "0", "no job of systemd left")

    def run(self, *command: str, check: bool = True, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Run a command in the machine; see `Machine.run`."""
        return self.machine.run(*command, check=check, limit_s=limit_s)

    def path(self, inside: str) -> Path:
        """Return where the host finds a path of the machine."""
        return self.machine.path(inside)

    def tpm_socket(self, guest: str) -> Path:
        """Return a guest's TPM byte stream."""
        return self.path(f"/run/vtpm/guests/{guest}/tpm.sock")

    @contextmanager
    def client(self, guest: str) -> Iterator[socket.socket]:
        """Give a connection to a guest's TPM."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(ANSWER_LIMIT_S)
            stream.connect(str(self.tpm_socket(guest)))
            yield stream

    def exchange(self, guest: str, command: bytes) -> bytes:
        """Send one command to a guest's TPM and return the answer."""
        with self.client(guest) as stream:
            return transact(stream, command)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def show_manager(self, name: str) -> str:
        """Return a property of systemd itself."""
        return self.run("systemctl", "show", "--value", "-p", name).strip()

    def pid(self, unit: str) -> str:
        """Return the main process of a unit, as the machine sees it."""
        return self.show(unit, "MainPID")

    def pids(self) -> dict[str, str]:
        """Return the main processes of all daemons."""
        return {unit: self.pid(unit) for unit in self.services}

    def wait_replaced(self, unit: str, before: str) -> None:
        """Return when a unit has a main process other than this one, and is ready."""

        def is_replaced() -> bool:
            if self.pid(unit) not in (before, "0"):
                return self.show(unit, "ActiveState") == "active"
            # While a restart is scheduled or under way, this waits for it; before systemd has
            # noticed the death it returns at once.
            self.run("systemctl", "start", unit)
            return False

        wait_until(is_replaced, f"{unit} with another process than {before}")

    def wait_noted(self, guest: str) -> None:
        """Return when the front has noted that its clients have the answers that they have.

        They have them a moment before, in which a kill of the front would cost them the connection.
        """
        path = self.path(f"/run/vtpm/guests/{guest}/control.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(ANSWER_LIMIT_S)
            control.connect(str(path))
            control.sendall(b'{"verb": "status"}\n')
            with control.makefile("rb") as lines:
                assert json.loads(lines.readline())["ok"]

    def kill(self, unit: str, signal: str = "KILL") -> str:
        """Send a signal to a unit's main process; return its id."""
        before = self.pid(unit)
        self.run("systemctl", "kill", f"--signal={signal}", "--kill-who=main", unit)
        return before

    def drop_in(self, unit: str, text: str) -> None:
        """Change a unit until the machine ends."""
        folder = self.path(f"/run/systemd/system/{unit}.d")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "50-test.conf").write_text(text)
        self.run("systemctl", "daemon-reload")


def transact(stream: socket.socket, command: bytes) -> bytes:
    """Send one command over a connection and return the answer.

    Raises:
        ConnectionError: the connection was closed instead.
    """
    try:
        return transact_over(stream, command)
    except StackError as error:
        raise ConnectionError(str(error)) from error


@contextmanager
def suite_machine(
    stage: Path, installed: Path, guests: Sequence[str], *, etc: Mapping[str, str] | None = None
) -> Iterator[SuiteMachine]:
    """Boot a machine with the suite and guests; nothing is started yet.

    Args:
        stage: an empty folder of the host.
        installed: what `make install DESTDIR=` made.
        guests: names.
        etc: further files below /etc, by their path there; private to root.
    """
    uuids = {guest: uuid4() for guest in guests}
    (stage / "root").symlink_to(installed)
    (stage / "sysusers").write_text("".join(f"u vtpm-{guest} -\n" for guest in guests))
    folder = stage / "etc/vtpm/guests.d"
    folder.mkdir(parents=True)
    for guest, uuid in uuids.items():
        (folder / f"{guest}.toml").write_text(f'uuid = "{uuid}"\nlabel = "{guest}:vm_r:vtpm_t"\n')
    for name, content in (etc or {}).items():
        path = stage / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)
    with booted(stage) as machine:
        yield SuiteMachine(machine, uuids)
