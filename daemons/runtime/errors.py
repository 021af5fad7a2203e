# SPDX-License-Identifier: Apache-2.0
"""Errors that end a daemon or refuse a request, and the exit codes they become."""

from __future__ import annotations

import enum
import traceback
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """How a daemon ends; the supervisor and the systemd units (RestartPreventExitStatus=) act on
    it."""

    OK = 0
    """Orderly stop, everything saved."""
    FAILED = 1
    """Something broke; starting again may help."""
    USAGE = 2
    """The command line is wrong (click's own code)."""
    REFUSED = 3
    """The daemon refuses to start on what it found; starting again does not help."""


class DaemonError(Exception):
    """A configuration, a peer or a file is not what it must be; the message names it and is for the
    operator."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class RefusedToStart(DaemonError):
    """The daemon leaves everything as it found it and ends (exit code 3).

    For state that does not verify, that is locked by another process, or that belongs to somebody
    else.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.REFUSED


def place(error: BaseException) -> str:
    """Say what was raised where, for the log.

    Not its message: that of an unexpected exception may quote what a command carried.
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where
