# SPDX-License-Identifier: Apache-2.0
"""The whole stack: all daemons started at once, watched, and stopped in order.

Nothing is started in order: a daemon waits for its peer by itself, so the time to the first answer
is that of the slowest start and not their sum. Stopping goes from who asks to who answers, so that
everybody can still save.

The daemons inherit the read end of a pipe whose write end only this process has: when it dies, also
by SIGKILL, they read end of file and stop.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from daemons.runtime.control import Fields, Json
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.vtpmctl.child import Child, ChildState, RestartPolicy
from daemons.vtpmctl.plan import ChildSpec, Guest, Stage
from daemons.vtpmctl.process import ForkServer
from daemons.vtpmctl.site import Kind

Probe = Callable[[Guest], Awaitable[None]]
"""Returns when the TPM of a guest has answered a command."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the start.

    Attributes:
        serving: guests whose TPM answers.
        refused: guests that will not get one, with the daemon that refused.
    """

    serving: tuple[Guest, ...]
    refused: Mapping[Guest, str]


class Supervisor:
    """The daemons of one stack. `run` starts them and ends when `stop` was called and all are
    gone. Those of single guests may come and go meanwhile."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        forkserver: ForkServer,
        notify: Path,
        log: Log,
        policy: RestartPolicy | None = None,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            specs: the daemons, names all different.
            forkserver: what starts them.
            notify: a private folder for the notify sockets.
            log: where starts, ends and refusals are reported.
            policy: see `RestartPolicy`.
        """
        self._log = log
        self._forkserver = forkserver
        # Made here, after the fork server, so that no other process has the write end.
        self._pipe = os.pipe2(os.O_CLOEXEC)
        self._notify = notify
        self._policy = policy or RestartPolicy()
        self.children = tuple([self._make_child(spec) for spec in specs])
        self._stop = trio.Event()
        # Where the children run; None before `run` and once the stop has begun.
        self._nursery: trio.Nursery | None = None

    def _make_child(self, spec: ChildSpec) -> Child:
        return Child(
            spec,
            forkserver=self._forkserver,
            notify=self._notify,
            supervisor_fd=self._pipe[0],
            log=self._log,
            policy=self._policy,
        )

    def stop(self) -> None:
        """Begin the orderly stop."""
        self._stop.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start everything, watch it until `stop`, then stop stage by stage.

        Raises:
            DaemonError: a daemon did not stop in time and was killed.
        """
        # Only the orderly way leads out: who cancels us calls `stop` first.
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                await nursery.start(self._forkserver.run)
                self._nursery = nursery
                for child in self.children:
                    self._start(child, nursery)
                task_status.started()
                await self._stop.wait()
                self._nursery = None
                await _stop_in_order(self.children)
                nursery.cancel_scope.cancel()
        killed = [child.spec.name for child in self.children if child.killed]
        if killed:
            raise DaemonError(f"had to be killed: {', '.join(killed)}")

    def add(self, specs: Sequence[ChildSpec]) -> None:
        """Start further daemons.

        Raises:
            DaemonError: the stack is being stopped.
        """
        if self._nursery is None:
            raise DaemonError("the stack is being stopped")
        children = [self._make_child(spec) for spec in specs]
        self.children += tuple(children)
        for child in children:
            self._start(child, self._nursery)

    async def remove(self, name: str) -> None:
        """Stop the daemons of a guest, if there are any, and forget them."""
        members = self._daemons_of(name)
        # Daemons that are half stopped are nobody's: what has begun is finished.
        with trio.CancelScope(shield=True):
            await _stop_in_order(members)
        self.children = tuple([child for child in self.children if child not in members])
        for child in members:
            child.close()

    def is_known(self, name: str) -> bool:
        """Whether there are daemons of a guest, running or not."""
        return bool(self._daemons_of(name))

    def has_refused(self, name: str) -> bool:
        """Whether a daemon of a guest has refused to start."""
        return any(child.refused.is_set() for child in self._daemons_of(name))

    def _daemons_of(self, name: str) -> Sequence[Child]:
        return [
            child
            for child in self.children
            if child.spec.guest is not None and child.spec.guest.name == name
        ]

    def _start(self, child: Child, nursery: trio.Nursery) -> None:
        nursery.start_soon(child.run)
        nursery.start_soon(self._stop_without, child)

    async def _stop_without(self, child: Child) -> None:
        """Stop the front of a guest whose vTPM refused: its clients get no connection, not
        silence."""
        await child.refused.wait()
        guest = child.spec.guest
        if guest is None or child.spec.stage is not Stage.VTPM:
            return
        for other in self.children:
            if other.spec.guest == guest and other.spec.stage is Stage.FRONT:
                self._log.warning("stopped, its vTPM refused to start", daemon=other.spec.name)
                other.stop()

    async def wait_outcome(self, guests: Sequence[Guest], probe: Probe) -> Outcome:
        """Wait until each guest's TPM answers or is known never to."""
        refused: dict[Guest, str] = {}

        async def decide(guest: Guest) -> None:
            chain = [child for child in self.children if child.spec.guest in {None, guest}]
            async with trio.open_nursery() as nursery:

                async def give_up_without(child: Child) -> None:
                    # It has refused to start, or somebody has stopped it.
                    await child.ended.wait()
                    # The first one: the front of a vTPM that refuses is stopped for it.
                    refused.setdefault(guest, child.spec.name)
                    nursery.cancel_scope.cancel()

                for child in chain:
                    nursery.start_soon(give_up_without, child)
                for child in chain:
                    if child.spec.stage is Stage.FRONT:
                        await child.ready.wait()
                await probe(guest)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for guest in guests:
                nursery.start_soon(decide, guest)
        serving = tuple(guest for guest in guests if guest not in refused)
        return Outcome(serving, refused)

    def describe(self) -> Fields:
        """Return what `vtpmctl status` shows of the processes."""
        return {"daemons": [_describe(child) for child in self.children]}

    def describe_waiting(self) -> str:
        """Return what somebody who waits for the stack is shown: who is not ready, and why."""
        waiting = [
            f"{child.spec.name} ({child.note or child.state.value})"
            for child in self.children
            if child.state is not ChildState.READY
        ]
        return f"waiting for {', '.join(waiting)}" if waiting else "waiting for the first answers"


_KINDS: Final = {
    Stage.HARDWARE: Kind.HWTPM,
    Stage.MANAGER: Kind.MANAGER,
    Stage.VTPM: Kind.VTPM,
    Stage.FRONT: Kind.FRONT,
}


async def _stop_in_order(children: Sequence[Child]) -> None:
    """Stop daemons, stage by stage."""
    for stage in Stage:
        members = [child for child in children if child.spec.stage is stage]
        for child in members:
            child.stop()
        for child in members:
            await child.ended.wait()


def _describe(child: Child) -> dict[str, Json]:
    guest = child.spec.guest
    return {
        "daemon": child.spec.name,
        "kind": _KINDS[child.spec.stage].value,
        "pid": child.pid,
        "state": child.state.value,
        "restarts": child.restarts,
        "note": child.note,
        "guest": guest.name if guest else None,
        "uuid": str(guest.uuid) if guest else None,
        "control": str(child.spec.control) if child.spec.control else None,
    }
