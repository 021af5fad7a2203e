# SPDX-License-Identifier: Apache-2.0
"""Reading the configuration again while the daemon serves: by SIGHUP, or when `vtpmctl` asks.

A configuration with mistakes changes nothing: they are logged, all of them, and the daemon goes on
with what it has. The supervisor is told when a reload begins and when it is over (sd_notify(3)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

import trio

from daemons.runtime.control import Fields
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


def changed_fields(
    old: DataclassInstance, new: DataclassInstance, live: frozenset[str]
) -> Sequence[str]:
    """Return the names of the fields that differ between two of the same class, without those that
    a reload makes count."""
    return [
        item.name
        for item in fields(new)
        if item.name not in live and getattr(old, item.name) != getattr(new, item.name)
    ]


class Reloads(Generic[T]):
    """The reloads of one daemon, one at a time."""

    def __init__(self, load: Callable[[], T], notifier: Notifier, log: Log) -> None:
        """Args:
        load: reads and checks everything, in a worker thread; raises a DaemonError whose lines
            are the mistakes.
        notifier: the supervisor.
        log: for mistakes and successes.
        """
        self._load = load
        self._notifier = notifier
        self._log = log
        self._lock = trio.Lock()
        # Set until the request is taken up; one that comes before `serve` waits for it.
        self._requested = trio.Event()
        # What makes a loaded configuration count; None until the daemon serves.
        self._apply: Callable[[T], Sequence[str]] | None = None

    def request(self) -> None:
        """Ask for a reload as soon as the daemon serves; for SIGHUP."""
        self._requested.set()

    async def serve(
        self,
        apply: Callable[[T], Sequence[str]],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Take up requests until cancelled. To be started once the daemon has said that it is
        ready: a reload says so too.

        Args:
            apply: makes a configuration count, at once and as a whole; gives the keys that differ
                and only count at the next start.
        """
        self._apply = apply
        task_status.started()
        while True:
            await self._requested.wait()
            self._requested = trio.Event()
            try:
                await self._reload(apply)
            except DaemonError:
                continue  # logged; whoever sent the signal is told by the log

    async def verb(self, args: Fields) -> Fields:
        """Verb "reload" of the control socket: reload now, or as soon as the daemon serves; the
        reply's error has the mistakes."""
        if args:
            raise DaemonError(f"unknown arguments: {', '.join(sorted(args))}")
        if self._apply is None:
            self.request()
            return {"at_next_start": [], "pending": True}
        return {"at_next_start": list(await self._reload(self._apply))}

    async def _reload(self, apply: Callable[[T], Sequence[str]]) -> Sequence[str]:
        async with self._lock:
            self._notifier.reloading()
            try:
                loaded = await trio.to_thread.run_sync(self._load)
                waiting = apply(loaded)
            except DaemonError as error:
                for line in str(error).splitlines():
                    self._log.error("configuration not used", reason=line)
                self._notifier.ready()
                raise
            if waiting:
                self._log.warning("counts at the next start only", keys=",".join(waiting))
            self._log.info("configuration read again")
            self._notifier.ready()
            return waiting
