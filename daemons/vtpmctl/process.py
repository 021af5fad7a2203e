# SPDX-License-Identifier: Apache-2.0
"""The supervisor's view of the fork server and of the processes that it starts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import trio

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.forkserver import FD_LIMIT, MESSAGE_LIMIT_BYTES, SpawnRequest, serve

_ENDED = "the process that starts the daemons has ended"


class ChildProcess:
    """A running child in a process group of its own."""

    def __init__(self, pid: int, pidfd: int) -> None:
        """Made by `ForkServer.spawn`."""
        self.pid = pid
        self._pidfd: int | None = pidfd  # None once it has ended
        self._code = 0
        self._ended = trio.Event()

    async def wait(self) -> int:
        """Wait for its end and return the exit code; -N is death by signal N."""
        await self._ended.wait()
        return self._code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        if self._pidfd is not None:
            # It may have ended without our having been told yet.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def note_end(self, code: int) -> None:
        """Take note that it has ended."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self._code = code
        self._ended.set()


class ForkServer:
    """Starts processes; `run` must be running meanwhile."""

    def __init__(self, server: socket.socket) -> None:
        """Take the supervisor's end of the pair; see `start`."""
        server.setblocking(False)
        self._socket = server
        # wait_writable is for one task at a time.
        self._sending = trio.Lock()
        # Who waits for "started", in the order of the requests.
        self._asked: deque[tuple[trio.Event, list[ChildProcess]]] = deque()
        self._running: dict[int, ChildProcess] = {}

    @classmethod
    @contextlib.contextmanager
    def start(cls, modules: Sequence[str]) -> Iterator[Self]:
        """Fork the server off this process, which must have no threads and run no event loop yet.

        Args:
            modules: what the daemons will be started from; the server imports them at once.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            # Nothing of the caller's stack may run twice, whatever happens.
            try:
                ours.close()
                serve(theirs, modules)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        theirs.close()
        try:
            with ours:
                yield cls(ours)
        finally:
            # It ends at the end of file.
            os.waitpid(pid, 0)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take what the server says, until cancelled.

        Raises:
            DaemonError: the server has ended, so no daemon can be started again.
        """
        task_status.started()
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            message, fds, _flags, _address = socket.recv_fds(
                self._socket, MESSAGE_LIMIT_BYTES, FD_LIMIT
            )
            if not message:
                for answered, _place in self._asked:
                    answered.set()
                raise DaemonError(_ENDED)
            match json.loads(message):
                case {"started": int(pid)}:
                    process = ChildProcess(pid, fds[0])
                    self._running[pid] = process
                    answered, place = self._asked.popleft()
                    place.append(process)
                    answered.set()
                case {"exited": int(pid), "code": int(code)}:
                    self._running.pop(pid).note_end(code)

    async def spawn(
        self,
        *,
        name: str,
        module: str,
        args: Sequence[str],
        fds: Mapping[str, int],
        notify: Path,
        watchdog_s: float,
    ) -> ChildProcess:
        """Start a daemon.

        Args:
            name: for the process list.
            module: a module with a click command `main`.
            args: its command line.
            fds: descriptors that it inherits, by the names it finds them under.
            notify: where it reports that it is ready.
            watchdog_s: how long it may be silent there.

        Raises:
            DaemonError: the server has ended.
        """
        request = SpawnRequest(
            name, module, tuple(args), tuple(fds), str(notify), round(watchdog_s * 1e6)
        ).encode()
        answered = trio.Event()
        place: list[ChildProcess] = []
        # Shielded: a process that nobody knows of could not be stopped.
        with trio.CancelScope(shield=True):
            async with self._sending:
                await self._send(request, list(fds.values()))
                # No checkpoint since it was sent: answers come in the order of requests.
                self._asked.append((answered, place))
            await answered.wait()
        if not place:
            raise DaemonError(_ENDED)
        return place[0]

    async def _send(self, request: bytes, fds: list[int]) -> None:
        while True:
            # Many guests at once are more than the socket holds while the server still imports.
            await trio.lowlevel.wait_writable(self._socket)
            try:
                socket.send_fds(self._socket, [request], fds)
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise DaemonError(_ENDED) from error
            return
