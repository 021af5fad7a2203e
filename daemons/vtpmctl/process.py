# SPDX-License-Identifier: Apache-2.0
"""Starting one child process as a service manager does, and waiting for its end.

posix_spawn and a pidfd instead of trio's own processes, because sd_listen_fds(3) fixes the numbers
of the descriptors that the child inherits, which the subprocess module cannot.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from daemons.runtime.inherited import FIRST_FD

# The child cannot be told its own process id from outside; this shell becomes the daemon.
_SHELL = "/bin/sh"
_SCRIPT = 'export LISTEN_PID=$$; exec "$@"'

_HIGH_FD = 256
"""Sources of the descriptors are moved above all their targets, so that no copy hits a source."""

_RESET_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM)
"""Python ignores the first two, a background shell the third; ignoring would be inherited."""


class ChildProcess:
    """A running child in a process group of its own: Ctrl-C at the terminal reaches only us."""

    def __init__(self, pid: int) -> None:
        """Use `spawn`."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._running = True  # until it is reaped and the pidfd closed

    @classmethod
    def spawn(
        cls, argv: Sequence[str], *, fds: Mapping[str, int], notify: Path | None
    ) -> ChildProcess:
        """Start a program with standard input closed and standard output sent to standard error.

        Args:
            argv: path of the program, and its arguments.
            fds: descriptors that it inherits, by the names it finds them under.
            notify: where it reports that it is ready.

        Raises:
            OSError: the program cannot be started.
        """
        environ = {
            name: value
            for name, value in os.environ.items()
            if name not in {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET"}
        }
        environ["LISTEN_FDS"] = str(len(fds))
        environ["LISTEN_FDNAMES"] = ":".join(fds)
        if notify is not None:
            environ["NOTIFY_SOCKET"] = str(notify)
        with contextlib.ExitStack() as moved:
            actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, 2, 1),
            ]
            for target, fd in enumerate(fds.values(), start=FIRST_FD):
                source = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
                moved.callback(os.close, source)
                actions.append((os.POSIX_SPAWN_DUP2, source, target))
            pid = os.posix_spawn(
                _SHELL,
                [_SHELL, "-c", _SCRIPT, "sh", *argv],
                environ,
                file_actions=actions,
                setpgroup=0,
                setsigmask=(),
                setsigdef=_RESET_SIGNALS,
            )
        return cls(pid)

    async def wait(self) -> int:
        """Wait for its end and return the exit code (-N: death by signal N); for one task."""
        await trio.lowlevel.wait_readable(self._pidfd)
        return self._reap()

    def _reap(self) -> int:
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        assert result is not None  # only WNOHANG makes it None
        self._running = False
        os.close(self._pidfd)
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    async def kill(self) -> None:
        """End it at once, if it has not ended, and wait until it has."""
        if self._running:
            self.send_signal(signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await self.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        if self._running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
