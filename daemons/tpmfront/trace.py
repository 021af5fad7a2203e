# SPDX-License-Identifier: Apache-2.0
"""Telling those who watch a guest's TPM whose its commands are.

A front sees the bytes of every command and looks at none: of a command it tells whose it was, and
between which two moments the vTPM had it. What the command was the vTPM tells, without its secrets.
While nobody watches, `VtpmLink.observer` is None.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from daemons.runtime.audience import Audience, Seat
from daemons.runtime.control import Fields
from daemons.runtime.errors import DaemonError
from daemons.runtime.tracing import BATCH, DROPPED, ClientSpan
from daemons.tpmfront.clients import Clients
from daemons.tpmfront.link import Submission, VtpmLink


class FrontTrace:
    """All watchers of one front."""

    def __init__(self, link: VtpmLink, clients: Clients) -> None:
        """Args:
        link: has one command at a time.
        clients: whose the commands are.
        """
        self._link = link
        self._clients = clients
        self._audience: Audience[ClientSpan] = Audience(self._changed)
        # When the last command had its response, or watching began.
        self._after_ns = 0

    def open(self, args: Fields) -> FrontTraceStream:
        """Begin a stream; the verb "trace".

        Raises:
            DaemonError: there are too many watchers, or arguments.
        """
        if args:
            raise DaemonError(f"unknown arguments: {', '.join(sorted(args))}")
        return FrontTraceStream(self._audience.join())

    def _changed(self, is_watched: bool) -> None:
        self._after_ns = time.monotonic_ns()
        self._link.observer = self._answered if is_watched else None

    def _answered(self, submission: Submission) -> None:
        until_ns = time.monotonic_ns()
        client = self._clients.identity_of(submission)
        self._audience.tell(ClientSpan(client, self._after_ns, until_ns))
        self._after_ns = until_ns


class FrontTraceStream:
    """What one watcher is sent (`daemons.runtime.control.Stream`)."""

    def __init__(self, seat: Seat[ClientSpan]) -> None:
        self._seat = seat

    @property
    def result(self) -> Fields:
        """The process, which the vTPM knows as its front."""
        return {"pid": os.getpid()}

    async def next(self) -> Sequence[Fields]:
        """Wait for commands."""
        spans, missed = await self._seat.next(BATCH)
        lines = [span.fields() for span in spans]
        return [*lines, {DROPPED: missed}] if missed else lines

    def close(self) -> None:
        """Watch no more."""
        self._seat.leave()
