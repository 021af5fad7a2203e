# SPDX-License-Identifier: Apache-2.0
"""One daemon over its restarts.

A daemon that ends without having been told to is started again: at once if it had been ready for a
while, else after a pause that doubles. One that refuses to start (exit code 3) or does not
understand its command line (2) is not: that would go on for ever and change nothing. One that is
silent for too long hangs: it is killed, and started again like any other.
"""

from __future__ import annotations

import contextlib
import enum
import math
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from daemons.runtime.daemon import SUPERVISOR
from daemons.runtime.errors import ExitCode
from daemons.runtime.inherited import VOLATILE
from daemons.runtime.log import Log
from daemons.runtime.notify import notify_socket
from daemons.vtpmctl.fdstore import FdStore
from daemons.vtpmctl.plan import ChildSpec
from daemons.vtpmctl.process import ChildProcess, ForkServer

_NOTIFICATION_LIMIT_BYTES = 4096
_FDS_PER_NOTIFICATION = 4


class ChildState(enum.Enum):
    """Where a daemon is in its life."""

    STARTING = "starting"
    READY = "ready"
    PAUSED = "waiting to be started again"
    REFUSED = "refused to start"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How long to wait before starting a daemon again, and how long before killing one.

    Attributes:
        steady_s: a daemon that was ready for so long did not fail at its start.
        first_pause_s: after the second failure in a row; the first is followed by none.
        longest_pause_s: where doubling ends.
        stop_deadline_s: from SIGTERM to SIGKILL.
        watchdog_s: from the last sign of life to SIGKILL.
    """

    steady_s: float = 1.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 10.0
    stop_deadline_s: float = 10.0
    watchdog_s: float = 30.0

    def pause_s(self, failures: int) -> float:
        """Return the pause after so many failures in a row (0 after a daemon that was steady)."""
        if failures <= 1:
            return 0.0
        # The exponent is bounded before the pause is: a float would overflow in the end.
        return min(self.first_pause_s * 2.0 ** min(failures - 2, 32), self.longest_pause_s)


class Child:
    """One daemon; `run` is its life, everything else looks at it or asks it to stop."""

    def __init__(
        self,
        spec: ChildSpec,
        *,
        forkserver: ForkServer,
        notify: Path,
        supervisor_fd: int,
        log: Log,
        policy: RestartPolicy,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            spec: what to start.
            forkserver: what starts it.
            notify: folder for its notify socket.
            supervisor_fd: end of a pipe that closes with this process; the daemon inherits it.
            log: of the supervisor.
            policy: see `RestartPolicy`.
        """
        self.spec = spec
        self._forkserver = forkserver
        self.state = ChildState.STARTING  # see `_enter`
        self.pid: int | None = None  # while a process exists
        self.restarts = 0
        self.note = ""  # its own STATUS= line, or why it ended
        self.killed = False  # it did not end by SIGTERM in time
        self.ready = trio.Event()  # has been ready at least once
        self.refused = trio.Event()
        self.ended = trio.Event()  # `run` is over
        self._stop = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()  # who waits for another state
        self._log = log.bind(daemon=spec.name)
        self._policy = policy
        self._notify_path = notify / spec.name
        self._store = FdStore()
        self._fds: dict[str, int] = {SUPERVISOR: supervisor_fd}
        if spec.volatile:
            # Empty: the daemon's first start is a power-on. What a later start finds in it is what
            # the one before has left.
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            self._fds[VOLATILE] = os.memfd_create(spec.name, flags)

    @property
    def fds(self) -> Mapping[str, int]:
        """What the daemon inherits, by name."""
        return {**self._store.fds(), **self._fds}

    def stop(self) -> None:
        """Ask for an orderly end; `ended` is set when it is over."""
        self._stop.set()

    def close(self) -> None:
        """Let go of the memory that was kept for it; it has ended and is not started again."""
        memory = self._fds.pop(VOLATILE, None)
        if memory is not None:
            os.close(memory)

    async def wait_state(self, state: ChildState) -> None:
        """Return when it is in this state; an intermediate one may be missed."""
        while self.state is not state:
            await self._changed.park()

    def _enter(self, state: ChildState) -> None:
        self.state = state
        self._changed.unpark_all()

    async def run(self) -> None:
        """Start it, and again whenever it ends, until it is to stop or refuses to start."""
        failures = 0
        try:
            while not self._stop.is_set():
                started = trio.current_time()
                code = await self._run_once()
                if self._stop.is_set():
                    break
                steady = self.state is ChildState.READY and (
                    trio.current_time() - started >= self._policy.steady_s
                )
                failures = 0 if steady else failures + 1
                if code in {ExitCode.REFUSED, ExitCode.USAGE}:
                    self._enter(ChildState.REFUSED)
                    # What it said last is the reason, if it came to say anything.
                    self.note = self.note or f"exit code {code}"
                    self._log.error("refused to start, is not tried again", exit_code=code)
                    self.refused.set()
                    return
                pause_s = self._policy.pause_s(failures)
                self._enter(ChildState.PAUSED)
                self.note = f"ended by {describe_exit(code)}"
                self._log.warning("ended", by=describe_exit(code), restart_in_s=pause_s)
                with trio.move_on_after(pause_s):
                    await self._stop.wait()
                self.restarts += 1
            self._enter(ChildState.STOPPED)
        finally:
            self._store.close()
            self.ended.set()

    async def _run_once(self) -> int:
        """Start one process and return how it ended."""
        self._enter(ChildState.STARTING)
        self.note = ""
        with notify_socket(self._notify_path) as notifications:
            process = await self._forkserver.spawn(
                name=self.spec.name,
                module=self.spec.module,
                args=self.spec.args,
                fds=self.fds,
                notify=self._notify_path,
                watchdog_s=self._policy.watchdog_s,
            )
            self.pid = process.pid
            self._log.debug("started", pid=process.pid)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow, notifications, process)
                nursery.start_soon(self._end_when_told, process)
                code = await process.wait()
                nursery.cancel_scope.cancel()
            self._take(notifications)  # its last words
            self.pid = None
        return code

    async def _follow(self, notifications: socket.socket, process: ChildProcess) -> None:
        # Not before the first sign of life: what a daemon does before its event loop has no limit.
        silent_at = math.inf
        while True:
            with trio.move_on_at(silent_at):
                await trio.lowlevel.wait_readable(notifications)
            # Read before judging: when this process was stopped (Ctrl-Z), signs of life lie here
            # although the time for them is over.
            if self._take(notifications):
                silent_at = trio.current_time() + self._policy.watchdog_s
            elif trio.current_time() >= silent_at:
                self._log.error("hangs, is killed", silent_s=self._policy.watchdog_s)
                process.send_signal(signal.SIGKILL)
                return

    def _take(self, notifications: socket.socket) -> bool:
        """Take all that was sent; whether a sign of life was among it."""
        alive = False
        with contextlib.suppress(BlockingIOError):
            while True:
                message, fds, _flags, _address = socket.recv_fds(
                    notifications, _NOTIFICATION_LIMIT_BYTES, _FDS_PER_NOTIFICATION
                )
                lines = message.decode("utf-8", "replace").splitlines()
                self._store.take(dict(line.partition("=")[::2] for line in lines), fds)
                for line in lines:
                    if line == "READY=1" and self.state is ChildState.STARTING:
                        self._enter(ChildState.READY)
                        self.ready.set()
                        self._log.debug("ready")
                    elif line == "WATCHDOG=1":
                        alive = True
                    elif line.startswith("STATUS="):
                        self.note = line.removeprefix("STATUS=")
        return alive

    async def _end_when_told(self, process: ChildProcess) -> None:
        await self._stop.wait()
        self._enter(ChildState.STOPPING)
        process.send_signal(signal.SIGTERM)
        await trio.sleep(self._policy.stop_deadline_s)
        self._log.error("does not stop, is killed", after_s=self._policy.stop_deadline_s)
        self.killed = True
        process.send_signal(signal.SIGKILL)


def describe_exit(code: int) -> str:
    """Say how a process ended: "exit code 1" or "SIGKILL"."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
