# SPDX-License-Identifier: Apache-2.0
"""Going into the background: the command returns when the TPM can be used, or when it cannot.

The fork comes first, before there is an event loop or a thread. The first process waits for the
second one's word; what the second one says on standard error until then, is seen.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn, Self

from daemons.runtime.errors import ExitCode
from daemons.tpmfront.compat.heldsignals import HeldSignals

_DONE = b"+"


class Background:
    """The second process's side."""

    def __init__(self, pipe: int | None) -> None:
        """Use `enter` or `stay`."""
        self._pipe = pipe

    @classmethod
    def stay(cls) -> Self:
        """Return one for a process that stays where it is."""
        return cls(None)

    @classmethod
    def enter(cls, held: HeldSignals) -> Self:
        """Return in a process of a session of its own; the first one ends when that is done.

        Args:
            held: since before there was anything to undo.
        """
        # Else nobody could wait for the second process.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        heard, said = os.pipe2(os.O_CLOEXEC)
        second = os.fork()
        if second:
            _wait(heard, said, second, held)
        os.close(heard)
        os.setsid()
        return cls(said)

    def done(self) -> None:
        """Let the first process end well; standard streams and folder are let go."""
        if self._pipe is None:
            return
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for stream in range(3):
            os.dup2(null, stream)
        os.close(null)
        os.write(self._pipe, _DONE)
        os.close(self._pipe)
        self._pipe = None


def _wait(heard: int, said: int, second: int, held: HeldSignals) -> NoReturn:
    """End as the second process said: well when it is done, else with its exit code.

    A signal gives the start up: the second process is told to stop, and when it has, this one ends
    by that signal. Whatever comes, nothing is raised here: what the callers would undo then is the
    second process's now.
    """
    code: int = ExitCode.FAILED
    stopped_by: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped_by.append(number)
        # A second one does not wait.
        signal.signal(number, signal.SIG_DFL)
        os.kill(second, signal.SIGTERM)

    try:
        os.close(said)
        held.give_to(stop)
        if os.read(heard, 1) == _DONE:
            code = ExitCode.OK
        else:
            # Not reaped: until this process ends, its number is nobody else's.
            ended = os.waitid(os.P_PID, second, os.WEXITED | os.WNOWAIT)
            if ended is not None and ended.si_code == os.CLD_EXITED:
                code = ended.si_status or ExitCode.FAILED
        if stopped_by:
            signal.raise_signal(stopped_by[0])
    finally:
        os._exit(code)
