# SPDX-License-Identifier: Apache-2.0
"""Going into the background: the command returns when the TPM can be used, or when it cannot.

The fork comes first, before there is an event loop or a thread. The first process waits for the
second one's word; what the second one says on standard error until then, is seen.
"""

from __future__ import annotations

import os
from typing import NoReturn, Self

from daemons.runtime.errors import ExitCode

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
    def enter(cls) -> Self:
        """Return in a process of a session of its own; the first one ends when that is done."""
        heard, said = os.pipe2(os.O_CLOEXEC)
        first = os.fork()
        if first:
            os.close(said)
            _wait(heard, first)
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


def _wait(heard: int, pid: int) -> NoReturn:
    """End as the second process said: well when it is done, else with its exit code."""
    if os.read(heard, 1) == _DONE:
        os._exit(ExitCode.OK)
    _pid, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code > 0 else ExitCode.FAILED)
