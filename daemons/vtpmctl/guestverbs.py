# SPDX-License-Identifier: Apache-2.0
"""The supervisor's verbs that start and stop single guests while the others go on.

The files of a guest are made by whoever asks (`vtpmctl guest add`); here its daemons are started
from them, as they are at the start of the stack.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from daemons.runtime.config.folder import load_guest
from daemons.runtime.config.options import Guest as ConfiguredGuest
from daemons.runtime.config.values import check_guest_name
from daemons.runtime.control import Fields, Handler
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.vtpmctl.host_supervisor import START_GUEST, START_LIMIT_S, STOP_GUEST
from daemons.vtpmctl.plan import Guest, UpConfig, plan_guest
from daemons.vtpmctl.stackconfig import check_ours
from daemons.vtpmctl.supervisor import Probe, Supervisor

WaitUnlocked = Callable[[Sequence[Guest]], Awaitable[None]]
"""Returns when no daemon of another supervisor holds the state of these guests."""


class GuestVerbs:
    """What the control socket can do with guests."""

    def __init__(
        self,
        config: UpConfig,
        supervisor: Supervisor,
        probe: Probe,
        wait_unlocked: WaitUnlocked,
        log: Log,
    ) -> None:
        """Args:
        config: of the stack.
        supervisor: what runs the daemons.
        probe: waits for a guest's TPM.
        wait_unlocked: waits for what an earlier run has left.
        log: of the supervisor.
        """
        self._config = config
        self._supervisor = supervisor
        self._probe = probe
        self._wait_unlocked = wait_unlocked
        self._log = log
        # One at a time: a guest that is being stopped cannot be started yet.
        self._lock = trio.Lock()

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """By verb."""
        return {START_GUEST: self._start, STOP_GUEST: self._stop}

    async def _start(self, args: Fields) -> Fields:
        name = _name(args)
        async with self._lock:
            if self._supervisor.is_known(name) and not self._supervisor.has_refused(name):
                return {}
            configured = await trio.to_thread.run_sync(load_guest, self._config.layout.etc, name)
            guest = prepare_guest(self._config, configured)
            await self._wait_unlocked([guest])
            # What is left of one that refused; it gets another attempt.
            await self._supervisor.remove(name)
            self._supervisor.add(plan_guest(self._config, guest))
            self._log.info("guest started", guest=name)
            with trio.move_on_after(START_LIMIT_S):
                outcome = await self._supervisor.wait_outcome([guest], self._probe)
                if guest in outcome.refused:
                    raise DaemonError(
                        f"{outcome.refused[guest]} refused to start; its reason is in the log of "
                        "vtpmctl up"
                    )
                return {}
            raise DaemonError(f"guest {name} does not serve after {START_LIMIT_S:g} s")

    async def _stop(self, args: Fields) -> Fields:
        name = _name(args)
        async with self._lock:
            if self._supervisor.is_known(name):
                await self._supervisor.remove(name)
                self._log.info("guest stopped", guest=name)
        return {}


def prepare_guest(config: UpConfig, configured: ConfiguredGuest) -> Guest:
    """Make the folder of a guest's sockets and return the guest.

    Raises:
        DaemonError: it cannot run in this stack.
        OSError: the folder cannot be made.
    """
    check_ours(config.layout, configured)
    config.layout.check_lengths([configured.name])
    config.layout.prepare_guest(configured.name)
    front = configured.front
    return Guest(configured.name, configured.identity.uuid, front.stream, front.control)


def _name(args: Fields) -> str:
    name = args.get("name")
    if set(args) != {"name"} or not isinstance(name, str):
        raise DaemonError("the argument is name (text)")
    try:
        return check_guest_name(name)
    except ValueError as error:
        raise DaemonError(str(error)) from error
