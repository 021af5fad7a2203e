# SPDX-License-Identifier: Apache-2.0
"""Log lines of the daemons: one line per state change or refusal, fields rather than prose, to
standard error, or as fields to the journal if that is where standard error leads.

    vtpm[guest=g1] image saved slot=1 duration_ms=2.1
    vtpm[guest=g1] warning: manager lost attempt=3

The journal gets the first as MESSAGE=[guest=g1] image saved slot=1 duration_ms=2.1, PRIORITY=7,
SYSLOG_IDENTIFIER=vtpm, VTPM_EVENT=image saved, VTPM_GUEST=g1, VTPM_UUID=..., VTPM_SLOT=1,
VTPM_DURATION_MS=2.1. All events are in docs/operating.md.

What a peer can bring about as often as it likes must not fill the disk: of the information and the
warnings with the same event, so many are written in a period and the others counted; errors always
are. Secrets must not be passed at all; as a second line of defence bytes are shown by their length
only.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import re
import select
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Self

from daemons.runtime.journal import Journal

_PLAIN = re.compile(r"[!#-<>-~]+", re.ASCII)  # printable, no blank, no quote, no equals sign


class Level(enum.IntEnum):
    """How much is logged; a line shows if its level is at least the log's."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40

    @classmethod
    def named(cls, name: str) -> Level:
        """Return the level of a `--loglevel` option (any case); KeyError if there is none."""
        return cls[name.upper()]


_PRIORITIES: Final = {Level.DEBUG: "7", Level.INFO: "6", Level.WARNING: "4", Level.ERROR: "3"}
"""Levels as syslog(3) has them."""

_MARKS: Final = {
    Level.DEBUG: "debug: ",
    Level.INFO: "",
    Level.WARNING: "warning: ",
    Level.ERROR: "error: ",
}


def write_to_stderr(line: str) -> None:
    """Write one line in one system call; a reader that is gone or does not read loses it.

    A pager, or a terminal stopped with Ctrl-S, must not stop the TPMs of all guests. The descriptor
    stays blocking, for others have it too, so it is asked first: a pipe that can be written takes
    4096 bytes (pipe(7)).
    """
    data = line.encode("utf-8", "backslashreplace")
    if len(data) > select.PIPE_BUF:
        data = data[: select.PIPE_BUF - 1] + b"\n"
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(0):
            os.write(2, data)


FLOOD_LINES = 30
FLOOD_PERIOD_S = 10.0
_EVENTS_LIMIT = 256
"""Events that are counted at a time; they are constants of the program but for a few."""


class _Flow:
    """How often one event was logged since the period began."""

    __slots__ = ("began_s", "dropped", "written")

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.written = 0
        self.dropped = 0


class Log:
    """A place to log to, with the fields that every line of it carries."""

    def __init__(
        self,
        daemon: str,
        /,
        *,
        level: Level = Level.INFO,
        sink: Callable[[str], None] = write_to_stderr,
        journal: Journal | None = None,
        clock: Callable[[], float] = time.monotonic,
        **fields: object,
    ) -> None:
        """Args:
        daemon: the first word of every line.
        level: what is written.
        sink: takes whole lines.
        journal: takes entries instead; what it does not take goes to the sink.
        clock: seconds, for the flood control.
        fields: that every line carries.
        """
        self.level = level
        self._daemon = daemon
        self._sink = sink
        self._journal = journal
        self._clock = clock
        self._flows: dict[str, _Flow] = {}
        self._fields = fields
        context = _format(fields)
        self._context = f"[{context}] " if context else ""
        self._prefix = f"{daemon}{self._context or ' '}"

    @classmethod
    def of_process(
        cls,
        daemon: str,
        /,
        *,
        level: Level = Level.INFO,
        environ: Mapping[str, str] | None = None,
        **fields: object,
    ) -> Self:
        """Return the log of this process, to the journal if systemd leads standard error there.

        Args:
            daemon: the command's name.
            level: what is written.
            environ: by default that of this process.
            fields: that every line carries.
        """
        constant = {"SYSLOG_IDENTIFIER": daemon}
        journal = Journal.of_stderr(os.environ if environ is None else environ, constant)
        return cls(
            daemon,
            level=level,
            sink=write_to_stderr,
            journal=journal,
            clock=time.monotonic,
            **fields,
        )

    def add_to_journal(self, **fields: object) -> None:
        """Have every entry of the journal carry these fields as well; a line stays short without,
        such as the uuid beside the name of a guest."""
        if self._journal is not None:
            self._journal.add({_journal_name(name): _text(value) for name, value in fields.items()})

    def bind(self, **fields: object) -> Log:
        """Return a log that adds these fields to every line."""
        return Log(
            self._daemon,
            level=self.level,
            sink=self._sink,
            journal=self._journal,
            clock=self._clock,
            **{**self._fields, **fields},
        )

    def debug(self, event: str, /, **fields: object) -> None:
        """Log what only a developer wants to see."""
        if self.level <= Level.DEBUG:
            self._write(Level.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Log what an operator wants in a quiet month."""
        if self.level <= Level.INFO and self._may_write(event, fields):
            self._write(Level.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Log what is wrong and goes on by itself."""
        if self.level <= Level.WARNING and self._may_write(event, fields):
            self._write(Level.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Log what somebody must look at."""
        self._write(Level.ERROR, event, fields)

    def _may_write(self, event: str, fields: dict[str, object]) -> bool:
        """Count an event; the first one after others were dropped says how many."""
        now_s = self._clock()
        flow = self._flows.get(event)
        if flow is None:
            if len(self._flows) >= _EVENTS_LIMIT:
                self._flows.clear()
            flow = self._flows[event] = _Flow(now_s)
        elif now_s - flow.began_s >= FLOOD_PERIOD_S:
            if flow.dropped:
                fields["not_shown"] = flow.dropped
            flow = self._flows[event] = _Flow(now_s)
        if flow.written >= FLOOD_LINES:
            flow.dropped += 1
            return False
        flow.written += 1
        return True

    def _write(self, level: Level, event: str, fields: dict[str, object]) -> None:
        text = _format(fields)
        message = f"{_one_line(event)} {text}" if text else _one_line(event)
        if self._journal is not None and self._journal.send(
            self._entry(level, event, message, fields)
        ):
            return
        self._sink(f"{self._prefix}{_MARKS[level]}{message}\n")

    def _entry(
        self, level: Level, event: str, message: str, fields: Mapping[str, object]
    ) -> Iterator[tuple[str, str]]:
        yield "MESSAGE", self._context + message
        yield "PRIORITY", _PRIORITIES[level]
        yield "VTPM_EVENT", event
        for name, value in {**self._fields, **fields}.items():
            yield _journal_name(name), _text(value)


def _format(fields: dict[str, object]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in fields.items())


def _value(value: object) -> str:
    text = _text(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _text(value: object) -> str:
    match value:
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)}bytes>"
        case float():
            return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
        case enum.Enum():
            return value.name
        case _:
            return str(value)


def _journal_name(name: str) -> str:
    return f"VTPM_{name.upper()}"


def _one_line(event: str) -> str:
    # Events quote peers and exceptions: a line break in them must not forge a second line.
    return event if event.isprintable() else json.dumps(event)
