# SPDX-License-Identifier: Apache-2.0
"""The vtpm below a process with swtpm's command line: started, started again, ended with it.

It has the end of a pipe that closes with this process, even when that is killed, and stops in order
then. A memfd of this process keeps what a guest's TPM must not forget over a restart of the vtpm,
which is started again if it ends; but not if it has never been ready, or refuses, since what keeps
it from serving would keep it the next time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import trio

from daemons.runtime.daemon import SUPERVISOR
from daemons.runtime.errors import ExitCode
from daemons.runtime.inherited import VOLATILE
from daemons.runtime.log import Log
from daemons.runtime.notify import ENVIRONMENT_NAME, notify_socket
from daemons.tpmfront.compat.errors import Refusal

_START_MODULE: Final = "daemons.tpmfront.compat.vtpm_start"
_NOTIFICATION_LIMIT_BYTES: Final = 4096
_CHUNK_BYTES: Final = 4096
_LINE_LIMIT_BYTES: Final = 16384
STOP_DEADLINE_S: Final = 10.0
"""From SIGTERM to SIGKILL."""
STEADY_S: Final = 1.0
"""A vtpm that was ready for so long did not fail at its start."""
_PAUSE_FIRST_S: Final = 0.1
_PAUSE_LAST_S: Final = 10.0
_KEPT_VARIABLES: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONWARNINGS", "PYTHONPATH")


class VtpmProcess:
    """One vtpm over its restarts; `run` is its life."""

    def __init__(
        self, args: Sequence[str], run: Path, emit: Callable[[bytes], None], log: Log
    ) -> None:
        """Prepare; nothing is started.

        Args:
            args: its command line.
            run: a private folder, for its notify socket.
            emit: takes each line that it logs.
            log: of this process.
        """
        self._args = tuple(args)
        self._notify = run / "notify"
        self._emit = emit
        self._log = log
        self.ready = trio.Event()
        """It has been ready at least once."""

    async def run_shielded(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """As `run`, until the scope is cancelled that this gives, and by nothing else."""
        with trio.CancelScope(shield=True) as scope:
            task_status.started(scope)
            await self.run()

    async def run(self) -> None:
        """Keep it up until cancelled; then it has ended.

        Raises:
            Refusal: it ended before it was ready, or refused to start; its own log says why.
        """
        alive, ours = os.pipe2(os.O_CLOEXEC)
        volatile = os.memfd_create("vtpm", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        pause_s = 0.0
        try:
            while True:
                started = trio.current_time()
                code = await self._run_once({SUPERVISOR: alive, VOLATILE: volatile})
                if not self.ready.is_set() or code in {ExitCode.REFUSED, ExitCode.USAGE}:
                    raise Refusal(f"the TPM could not be started: its vtpm {_ending(code)}")
                if trio.current_time() - started >= STEADY_S:
                    pause_s = 0.0
                self._log.warning("vtpm ended", by=_ending(code), restart_in_s=pause_s)
                await trio.sleep(pause_s)
                pause_s = min(max(2 * pause_s, _PAUSE_FIRST_S), _PAUSE_LAST_S)
        finally:
            for fd in (alive, ours, volatile):
                os.close(fd)

    async def _run_once(self, fds: Mapping[str, int]) -> int:
        """Run one process to its end and return its exit code, -N for signal N."""
        with notify_socket(self._notify) as notifications:
            process = await self._start(fds)
            assert process.stderr is not None
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._heed, notifications)
                    # Whoever waits for the end of our own standard error must not wait for its.
                    await self._pass_on(process.stderr)
                    code = await process.wait()
                    nursery.cancel_scope.cancel()
                return code
            finally:
                with trio.CancelScope(shield=True):
                    async with trio.open_nursery() as ending:
                        ending.start_soon(self._pass_on, process.stderr)
                        await self._end(process)

    async def _start(self, fds: Mapping[str, int]) -> trio.Process:
        named = ",".join([f"{name}={fd}" for name, fd in fds.items()])
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        environment[ENVIRONMENT_NAME] = str(self._notify)
        # -P: modules are ours, not those of the folder in which we were started.
        return await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", _START_MODULE, named, *self._args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            pass_fds=tuple(fds.values()),
            # Ctrl-C is for us; it is told to stop when nobody needs it any more.
            start_new_session=True,
        )

    async def _pass_on(self, stream: trio.abc.ReceiveStream) -> None:
        """Give on what it logs, line by line, until it has closed it."""
        rest = b""
        while chunk := await stream.receive_some(_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._emit(line + b"\n")
            if len(rest) > _LINE_LIMIT_BYTES:
                rest = b""
        if rest:
            self._emit(rest + b"\n")

    async def _heed(self, notifications: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(notifications)
            with contextlib.suppress(BlockingIOError):
                message = notifications.recv(_NOTIFICATION_LIMIT_BYTES)
                if b"READY=1" in message.splitlines():
                    self.ready.set()

    async def _end(self, process: trio.Process) -> None:
        """Have a process end in order, or end it."""
        if process.returncode is not None:
            return
        process.terminate()
        with trio.move_on_after(STOP_DEADLINE_S):
            await process.wait()
            return
        self._log.error("vtpm does not stop, is killed", after_s=STOP_DEADLINE_S)
        process.kill()
        await process.wait()


def _ending(code: int) -> str:
    return f"ended with exit code {code}" if code >= 0 else f"died of {signal.Signals(-code).name}"
