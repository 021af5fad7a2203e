# SPDX-License-Identifier: Apache-2.0
"""Real hwtpm, vtpmmgr and vtpm processes under a test's own hand: killed, starved, tampered with.

    async def test_something(run_dir: Path) -> None:
        async with open_lab(run_dir) as lab:
            await lab.start_machine()
            async with lab.vtpm() as vtpm:          # ready; ended in order at the end
                await vtpm.run(tss12.extend(4, digest))
                await vtpm.kill()

Unlike a stack of `vtpmctl up` nothing is restarted here, and a test decides who keeps the memory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import trio

from daemons.runtime.control import Fields, control_request
from protocol.tpmif.unix import FrontendDevice, open_frontend
from tests.integration.warm import WarmProcess, start
from tpmcore.tss12 import Conversation, converse

T = TypeVar("T")

READY_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0


class Daemon:
    """One process of the suite."""

    def __init__(self, name: str, folder: Path, arguments: tuple[str, ...]) -> None:
        self.name = name
        self._arguments = arguments
        self._stderr_path = folder / f"{name}.stderr"
        self._notify_path = folder / f"{name}.notify"
        self._notify: socket.socket | None = None
        self._notified: deque[str] = deque()
        self._process: WarmProcess | None = None
        self.pid = 0

    async def start(self, fds: Mapping[str, int] | None = None) -> None:
        """Start it; `wait_ready` waits."""
        assert self._process is None
        self._notify_path.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._notify.setblocking(False)
        self._notify.bind(str(self._notify_path))
        self._notified.clear()
        log = os.open(
            self._stderr_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            self._process = start(
                self.name.partition("-")[0],
                self._arguments,
                stderr=log,
                environment={**os.environ, "NOTIFY_SOCKET": str(self._notify_path)},
                fds=fds,
            )
        finally:
            os.close(log)
        self.pid = self._process.pid

    async def wait_ready(self) -> None:
        """Return when it has said READY=1."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fail_when_it_ends)
            with trio.fail_after(READY_LIMIT_S):
                await self.wait_notified("READY=1")
            nursery.cancel_scope.cancel()

    async def wait_notified(self, word: str) -> None:
        """Return when a notification contains `word`."""
        while word not in await self.notification():
            pass

    async def notification(self) -> str:
        """Return the next thing that it says to its supervisor."""
        while not self._notified:
            assert self._notify is not None
            await trio.lowlevel.wait_readable(self._notify)
            self._take_notifications()
        return self._notified.popleft()

    def _take_notifications(self) -> None:
        """Take what it has said: the kernel keeps only some of it, and drops the rest."""
        with contextlib.suppress(BlockingIOError):
            while self._notify is not None:
                self._notified.append(self._notify.recv(4096).decode())

    async def reload(self) -> None:
        """Have it read its configuration again, by SIGHUP, and return when it has."""
        self.signal(signal.SIGHUP)
        with trio.fail_after(READY_LIMIT_S):
            await self.wait_notified("RELOADING=1")
            await self.wait_notified("READY=1")

    async def _fail_when_it_ends(self) -> None:
        code = await self._wait()
        raise AssertionError(f"{self.name} ended with {code}:\n{self.stderr()}")

    async def wait_end(self) -> int:
        """Return its exit code when it has ended by itself."""
        with trio.fail_after(READY_LIMIT_S):
            return await self._wait()
        raise AssertionError("unreachable")

    async def stop(self) -> int:
        """End it by SIGTERM and return its exit code."""
        self.signal(signal.SIGTERM)
        with trio.move_on_after(STOP_LIMIT_S):
            return await self._wait()
        await self.kill()
        raise AssertionError(f"{self.name} does not end:\n{self.stderr()}")

    async def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            await self._wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._take_notifications()
        self._process.send_signal(number)

    @property
    def is_running(self) -> bool:
        """Whether it has been started and nobody has seen its end."""
        return self._process is not None

    async def _wait(self) -> int:
        """Wait for its end; exit code, or minus the signal."""
        process = self._process
        assert process is not None
        if process.returncode is None:
            await trio.lowlevel.wait_readable(process)
        code = process.wait()
        self._process = None
        if self._notify is not None:
            self._notify.close()
            self._notify = None
        return code

    def stderr(self) -> str:
        """Return what it has logged."""
        return self._stderr_path.read_text(errors="replace") if self._stderr_path.exists() else ""


class Vtpm(Daemon):
    """A vtpm process and its one front, which is the test."""

    def __init__(self, lab: Lab, guest: str, *options: str) -> None:
        self.guest_folder = lab.state(guest)
        self.uuid = lab.uuid(guest)
        self._back = lab.run / f"{guest}.sock"
        self._control = lab.run / f"{guest}.ctl"
        super().__init__(
            f"vtpm-{guest}",
            lab.run,
            (
                *("--state", str(self.guest_folder), "--socket", str(self._back)),
                *("--control", str(self._control), "--manager", str(lab.manager_socket)),
                *("--uuid", str(self.uuid), "--name", guest, "--ek", "none"),
                *("--loglevel", "debug", *options),
            ),
        )

    @asynccontextmanager
    async def front(self) -> AsyncIterator[FrontendDevice]:
        """Give a connected front."""
        self._take_notifications()
        async with open_frontend(self._back, uuid=self.uuid) as device:
            yield device

    async def send(self, command: bytes, locality: int = 0) -> bytes:
        """Send one command over a connection of its own."""
        with trio.fail_after(READY_LIMIT_S):
            async with self.front() as device:
                return await device.transact(command, locality)
        raise AssertionError("unreachable")

    async def run(self, conversation: Conversation[T]) -> T:
        """Run a conversation."""
        with trio.fail_after(READY_LIMIT_S):
            async with self.front() as device:

                async def send(command: bytes) -> bytes:
                    return await device.transact(command, 0)

                return await converse(send, conversation)
        raise AssertionError("unreachable")

    async def control(self, verb: str) -> Fields:
        """Ask it over its control socket."""
        return await control_request(self._control, verb)

    def slots(self) -> dict[str, bytes]:
        """Return what is in its slot files."""
        found = self.guest_folder.glob("slot*")
        return {path.name: path.read_bytes() for path in found}


class Lab:
    """A folder with a machine in it: one chip, one manager, guests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "run"
        self.run.mkdir()
        self.manager_socket = self.run / "m.sock"
        self.tis = root / "tis"
        self.hwtpm = Daemon(
            "hwtpm",
            self.run,
            ("--state", str(root / "hwtpm"), "--run", str(self.tis), "--key-pool", "0"),
        )
        self.etc = root / "etc"
        (self.etc / "guests.d").mkdir(parents=True)
        (self.etc / "vtpm.toml").write_text("[manager]\nshared_uid = true\n")
        for number in range(1, 10):
            self.configure(f"g{number}")
        self.manager = Daemon(
            "vtpmmgr",
            self.run,
            (
                *("--state", str(root / "mgr"), "--socket", str(self.manager_socket)),
                *("--tis", str(self.tis), "--config", str(self.etc), "--loglevel", "debug"),
            ),
        )
        self._daemons = [self.manager, self.hwtpm]

    def configure(self, guest: str, *lines: str) -> None:
        """Write the file of a guest, with further lines of TOML."""
        text = "\n".join([f'uuid = "{self.uuid(guest)}"', f"uid = {os.geteuid()}", *lines, ""])
        (self.etc / "guests.d" / f"{guest}.toml").write_text(text)

    def uuid(self, guest: str) -> UUID:
        """Return the uuid of a guest; "g1" to "g9" are configured."""
        return uuid.uuid5(uuid.NAMESPACE_DNS, guest)

    def state(self, guest: str) -> Path:
        """Return the state folder of a guest."""
        return self.root / guest

    async def start_machine(self) -> None:
        """Start chip and manager."""
        self.tis.mkdir(exist_ok=True)
        await self.hwtpm.start()
        await self.hwtpm.wait_ready()
        await self.manager.start()
        await self.manager.wait_ready()

    def new_vtpm(self, guest: str = "g1", *options: str) -> Vtpm:
        """Return a vtpm that is not started yet."""
        vtpm = Vtpm(self, guest, *options)
        self._daemons.insert(0, vtpm)
        return vtpm

    @asynccontextmanager
    async def vtpm(
        self, guest: str = "g1", *options: str, memory: int | None = None
    ) -> AsyncIterator[Vtpm]:
        """Give a vtpm that is ready and end it in order, unless the test has ended it itself.

        Args:
            guest: "g1" to "g9".
            options: of its command line.
            memory: memfd that it inherits; it stays the test's.
        """
        vtpm = self.new_vtpm(guest, *options)
        await vtpm.start({} if memory is None else {"volatile": memory})
        await vtpm.wait_ready()
        yield vtpm
        if vtpm.is_running:
            code = await vtpm.stop()
            assert code == 0, vtpm.stderr()

    async def refused(self, guest: str = "g1", *options: str) -> str:
        """Start a vtpm that must end with exit code 3; what it said."""
        vtpm = self.new_vtpm(guest, *options)
        before = len(vtpm.stderr())
        await vtpm.start()
        code = await vtpm.wait_end()
        said = vtpm.stderr()[before:]
        assert code == 3, said
        return said

    async def close(self) -> None:
        """End what still runs."""
        for daemon in self._daemons:
            await daemon.kill()


@asynccontextmanager
async def open_lab(root: Path) -> AsyncIterator[Lab]:
    """Give a lab; whatever still runs at the end is killed, and its log shown on failure."""
    lab = Lab(root)
    try:
        yield lab
    except BaseException:
        for daemon in reversed(lab._daemons):
            sys.stderr.write(f"--- {daemon.name} ---\n{daemon.stderr()}")
        raise
    finally:
        with trio.CancelScope(shield=True):
            await lab.close()


@contextmanager
def kept_memory() -> Iterator[int]:
    """Give an empty memfd such as a supervisor keeps for a daemon."""
    fd = os.memfd_create("kept", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
