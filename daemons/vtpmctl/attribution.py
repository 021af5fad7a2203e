# SPDX-License-Identifier: Apache-2.0
"""Whose a traced command was: what a vtpm tells of commands joined with what its front tells of
clients.

The two come by different sockets, so a command waits a moment for the front's word; it is shown
without a client if that does not come. See `daemons.runtime.tracing` for why a span tells whose a
command is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from daemons.runtime.tracing import ClientIdentity, ClientSpan, TracedCommand

SPANS_LIMIT: Final = 4096
"""More than either daemon keeps for a watcher."""


@dataclass(frozen=True, slots=True)
class Attributed:
    """A command, and whose it was.

    Attributes:
        client: None: not known, or of no client of the front.
    """

    traced: TracedCommand
    client: ClientIdentity | None


class Attribution:
    """Joins two streams; both are in the order of time."""

    def __init__(self) -> None:
        self._front_pid: int | None = None
        self._waiting: deque[TracedCommand] = deque()
        # The last ones; a front that is asked for other things than commands tells of those too.
        self._spans: deque[ClientSpan] = deque(maxlen=SPANS_LIMIT)
        # End of the last span: the front has told of everything before.
        self._told_until_ns = 0

    @property
    def is_waiting(self) -> bool:
        """Whether a command waits for the front's word."""
        return bool(self._waiting)

    def front_begins(self, pid: int) -> None:
        """A front begins to tell."""
        self._front_pid = pid
        self._spans.clear()
        self._told_until_ns = 0

    def front_ends(self) -> Iterator[Attributed]:
        """The front tells no more; give what waited for it."""
        self._front_pid = None
        yield from self.give_up()

    def add_span(self, span: ClientSpan) -> Iterator[Attributed]:
        """Take what the front tells; give the commands that waited for it."""
        self._spans.append(span)
        self._told_until_ns = span.until_ns
        yield from self._ready()

    def add_command(self, traced: TracedCommand) -> Iterator[Attributed]:
        """Take what the vtpm tells; give the commands of which all is known."""
        self._waiting.append(traced)
        yield from self._ready()

    def give_up(self) -> Iterator[Attributed]:
        """Give what waits for the front, without its word."""
        while self._waiting:
            yield Attributed(self._waiting.popleft(), None)

    def _ready(self) -> Iterator[Attributed]:
        while self._waiting:
            traced = self._waiting[0]
            if traced.front is None or traced.front.pid != self._front_pid:
                client = None
            elif traced.ended_ns > self._told_until_ns:
                return
            else:
                client = self._client_at(traced.ended_ns)
            self._waiting.popleft()
            yield Attributed(traced, client)

    def _client_at(self, ended_ns: int) -> ClientIdentity | None:
        """Return whose span a moment is in; spans that end before are of no use any more."""
        while self._spans and self._spans[0].until_ns < ended_ns:
            self._spans.popleft()
        if self._spans and self._spans[0].after_ns < ended_ns:
            return self._spans[0].client
        return None
