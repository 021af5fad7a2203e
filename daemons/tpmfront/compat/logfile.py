# SPDX-License-Identifier: Apache-2.0
"""The log of a process with swtpm's command line: to the file of --log, each line with its
prefix."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from daemons.runtime.ending import log_end
from daemons.runtime.errors import RefusedToStart
from daemons.runtime.log import Level, Log
from daemons.tpmfront.compat.errors import BadLine
from daemons.tpmfront.compat.options import LogPlace

NAME: Final = "swtpm"
_STDERR: Final = 2
_DEBUG_LEVEL: Final = 5
_FILE_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class LogFile:
    """Where lines go.

    Attributes:
        log: of this process.
        emit: writes a line of the vtpm.
        is_stderr: what is said on standard error is in it.
    """

    log: Log
    emit: Callable[[bytes], None]
    is_stderr: bool

    def refuse(self, error: Exception) -> None:
        """Log why the process ends, as `run_daemon` does; on standard error it is said besides."""
        if not self.is_stderr:
            log_end(self.log, str(error), is_refusal=isinstance(error, RefusedToStart))


def open_log(place: LogPlace) -> LogFile:
    """Open the log.

    Without --log only what is wrong is told, to standard error, as swtpm does.

    Raises:
        BadLine: it cannot be opened.
    """
    if place.is_off:
        nothing = Log(NAME, level=Level.ERROR, sink=lambda _line: None)
        return LogFile(nothing, lambda _line: None, False)
    level = Level.WARNING
    if place.level:
        level = Level.DEBUG if place.level >= _DEBUG_LEVEL else Level.INFO
    output = _descriptor(place)
    target = _STDERR if output is None else output
    prefix = place.prefix.encode("utf-8", "backslashreplace")

    def emit(line: bytes) -> None:
        # One call for a line; a disk that is full, or a reader that has gone, loses it.
        with contextlib.suppress(OSError):
            os.write(target, prefix + line)

    def write(line: str) -> None:
        emit(line.encode("utf-8", "backslashreplace"))

    return LogFile(Log(NAME, level=level, sink=write), emit, _is_stderr(target))


def _is_stderr(fd: int) -> bool:
    if fd == _STDERR:
        return True
    with contextlib.suppress(OSError):  # it may be closed
        return os.path.sameopenfile(fd, _STDERR)
    return False


def _descriptor(place: LogPlace) -> int | None:
    if place.file is not None:
        flags = os.O_TRUNC if place.truncates else os.O_APPEND
        return _open(os.fspath(place.file), flags)
    if place.fd is None:
        return None
    try:
        os.fstat(place.fd)
    except OSError as error:
        raise BadLine(f"Could not access logfile using fd {place.fd}: {error.strerror}") from None
    return place.fd


def _open(path: str, flags: int) -> int:
    flags |= os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags, _FILE_MODE)
    except OSError as error:
        raise BadLine(f"Could not open logfile for writing: {error.strerror}") from None
