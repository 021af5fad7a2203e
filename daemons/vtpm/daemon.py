# SPDX-License-Identifier: Apache-2.0
"""What runs in a vTPM process, in which order it comes up, and in which it goes down.

Up: the state folder is locked; the link to the manager; the control socket answers (so that a wait
can be looked into); random numbers of the hardware TPM; the image; the TPM; the guest's socket;
then READY. Down: guests first, then what a commit still needs (the link), then the lock. A save
that is under way at the end gets a few seconds; if the manager is not there to say what became of
it, the next start asks.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from daemons.runtime.control import Fields, Json, serve_control
from daemons.runtime.errors import DaemonError
from daemons.runtime.files import Files, OsFiles, StateFolder
from daemons.runtime.host import EngineHost
from daemons.runtime.inherited import BACKEND
from daemons.runtime.keypool import KeyPool
from daemons.runtime.log import Log
from daemons.runtime.marker import RunMarker, read_boot_id
from daemons.runtime.notify import Notifier, StatusLine
from daemons.runtime.observation import observe
from daemons.runtime.random import SeededRandom
from daemons.runtime.reload import Reloads, changed_fields
from daemons.runtime.sockets import Listeners
from daemons.runtime.tracing import TRACE
from daemons.runtime.volatile import VolatileMemory
from daemons.vtpm.control import ControlService
from daemons.vtpm.factory import Tpm12Maker
from daemons.vtpm.machine import Machine
from daemons.vtpm.manager_client import ManagerCommands, ManagerLink
from daemons.vtpm.options import Config
from daemons.vtpm.parent import ParentQuotes
from daemons.vtpm.service import Admission, GuestService
from daemons.vtpm.startup import (
    Origin,
    Remains,
    read_hardware_pcrs,
    read_seed,
    start_up,
    wake,
)
from daemons.vtpm.store import ImageStore
from daemons.vtpm.trace import Trace
from daemons.vtpm.volatility import take_memory
from protocol.tpmif.unix import open_frontend, serve_backend

STOP_GRACE_S: Final = 5.0
"""How long a stop waits for a save whose outcome only the manager knows, and for the commands that
fronts had given before it."""
_LIVE: Final = frozenset({"locality_rules", "level"})
"""What of the configuration a reload makes count; the rest belongs to a TPM that has started."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What a daemon finds at its start, beside its command line.

    Attributes:
        inherited: descriptors by name.
        notifier: the supervisor.
        log: with the guest's name.
        files: the disk.
        boot_id: of this boot of the machine.
    """

    inherited: Mapping[str, Sequence[int]]
    notifier: Notifier
    log: Log
    files: Files
    boot_id: bytes

    @classmethod
    def of_this_process(
        cls, inherited: Mapping[str, Sequence[int]], notifier: Notifier, log: Log
    ) -> Environment:
        """Return the real one."""
        return cls(inherited, notifier, log, OsFiles(), read_boot_id())


class _Condition:
    """What the daemon says about itself."""

    def __init__(self, guest: str, notifier: Notifier) -> None:
        self._guest = guest
        self.line = StatusLine(notifier, self.describe)
        self.phase = "starting"
        self._manager_is_there = False
        # What the store waits for; "" if nothing.
        self._doubt = ""
        self._fronts = 0

    @property
    def waiting(self) -> str:
        """What is waited for, or would be; "" if nothing."""
        return self._doubt if self._manager_is_there else "no manager"

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.line.changed()

    def manager_changed(self, is_there: bool) -> None:
        self._manager_is_there = is_there
        self.line.changed()

    def doubt(self, what: str) -> None:
        self._doubt = what
        self.line.changed()

    def fronts_changed(self, count: int) -> None:
        self._fronts = count
        self.line.changed()

    def describe(self) -> str:
        waiting = self._doubt if self._manager_is_there else "waiting for the manager"
        what = f"{self.phase} guest {self._guest}"
        if self.phase == "serving":
            what += f", {self._fronts} front{'' if self._fronts == 1 else 's'}"
        return f"{what}; {waiting}" if waiting else what


class VtpmDaemon:
    """One vTPM from start to stop."""

    def __init__(
        self, config: Config, environment: Environment, reloads: Reloads[Config] | None = None
    ) -> None:
        """Args:
        config: the command line and the configuration.
        environment: everything else.
        reloads: of the configuration; None if there is none.
        """
        self._config = config
        self._environment = environment
        self._reloads = reloads
        self._log = environment.log
        self._listeners = Listeners(environment.inherited)
        self._condition = _Condition(config.name, environment.notifier)
        self._link = ManagerLink(
            partial(open_frontend, config.manager, uuid=config.uuid, linger=False),
            self._log,
            self._condition.manager_changed,
        )
        self._manager = ManagerCommands(self._link.transact)
        # Not used before the hardware TPM's numbers are stirred in.
        self._random = SeededRandom(b"")
        self._keys = KeyPool()
        # Set once the TPM is there.
        self._service: GuestService | None = None
        self._host: EngineHost | None = None
        self._machine: Machine | None = None
        self._trace = Trace()
        self._store: ImageStore | None = None
        self._origin = ""

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            RefusedToStart: what is found does not belong together.
            DaemonError, OSError: something is missing or broken.
        """
        environment = self._environment
        folder = StateFolder(self._config.state, environment.files)
        with folder.lock():
            marker = RunMarker(folder, environment.boot_id, self._log)
            memory = take_memory(environment.inherited, environment.notifier, self._log)
            remains = Remains(memory.load(), marker.is_left_over())
            store = ImageStore(
                folder,
                self._config.uuid,
                self._manager,
                self._random,
                self._log,
                self._condition.doubt,
            )
            self._store = store
            with marker.removed_by_stop():
                async with trio.open_nursery() as nursery:
                    await nursery.start(partial(self._link.run, store.check))
                    try:
                        await self._live(store, memory, remains, marker)
                    finally:
                        self._link.close()

    async def _live(
        self, store: ImageStore, memory: VolatileMemory, remains: Remains, marker: RunMarker
    ) -> None:
        config = self._config
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_limit_patience, store)
            nursery.start_soon(self._condition.line.run)
            verbs = {"status": self._status, "reset": self._reset}
            if self._reloads is not None:
                verbs["reload"] = self._reloads.verb
            await nursery.start(
                partial(
                    serve_control,
                    config.control,
                    verbs,
                    log=self._log,
                    listeners=self._listeners,
                    streams={TRACE: self._trace.open},
                )
            )
            await nursery.start(self._keys.run)
            self._condition.enter("starting")
            self._random.stir(await read_seed(self._manager, self._log))
            maker = Tpm12Maker(config, self._random, self._keys)
            waking = await wake(config.uuid, store, maker, remains, self._log)
            self._origin = waking.origin.value
            host = EngineHost(
                waking.engine,
                persist=store.save,
                volatile=memory,
                log=self._log,
                parent=ParentQuotes(self._link, self._manager, self._log).quote,
                effect_deadline_s=math.inf,  # a save waits as long as its outcome is not certain
            )
            self._trace.attach_host(host)
            nursery.start_soon(host.wait_broken)
            nursery.start_soon(_end_quotes, host)
            pcrs = await self._hardware_pcrs()
            await start_up(host, waking.origin, config.startup, pcrs, self._log)
            # After the memory was filled, before anything is measured: see `volatility`.
            await trio.to_thread.run_sync(marker.set)
            machine = Machine(
                host,
                store,
                maker,
                self._manager,
                self._hardware_pcrs,
                uuid=config.uuid,
                random=self._random,
                log=self._log,
                is_running=waking.origin is not Origin.STOPPED,
                pcrs_due=pcrs if waking.origin is Origin.RESUMED else None,
            )
            await self._serve(host, machine, ControlService(machine, maker, self._log))

    async def _serve(self, host: EngineHost, machine: Machine, control: ControlService) -> None:
        config = self._config
        notifier = self._environment.notifier
        service = GuestService(
            host,
            self._link,
            config.locality_rules,
            machine,
            control,
            self._log,
            self._condition.fronts_changed,
        )
        self._trace.attach_service(service)
        admit = Admission(config.front_uid, config.uuid, self._log).admit
        # Other users have to reach the socket if the front is one; `admit` decides.
        mode = 0o600 if config.front_uid == os.geteuid() else 0o666
        try:
            with self._listeners.listen(
                BACKEND, config.socket, kind=socket.SOCK_SEQPACKET, mode=mode
            ) as listener:
                async with trio.open_nursery() as guests:
                    await guests.start(
                        partial(
                            serve_backend,
                            listener,
                            admit=admit,
                            handler=service,
                            finish_s=STOP_GRACE_S,
                        )
                    )
                    self._host, self._machine, self._service = host, machine, service
                    self._condition.enter("serving")
                    notifier.ready()
                    self._log.info("serving", socket=config.socket)
                    if self._reloads is not None:
                        guests.start_soon(self._reloads.serve, partial(self._apply, service))
        finally:
            notifier.stopping()

    def _apply(self, service: GuestService, new: Config) -> Sequence[str]:
        """Make a configuration that was read again count, as far as it can."""
        self._log.level = new.level
        service.set_locality_rules(new.locality_rules)
        return changed_fields(self._config, new, _LIVE)

    async def _hardware_pcrs(self) -> dict[int, bytes]:
        return await read_hardware_pcrs(self._manager, self._config.hw_init_pcrs, self._log)

    async def _status(self, args: Fields) -> Fields:
        """Verb "status": what an operator wants to know of one vTPM."""
        _no_args(args)
        service, store = self._service, self._store
        fields: dict[str, Json] = {
            "name": self._config.name,
            "uuid": str(self._config.uuid),
            "state": self._condition.phase,
            "waiting_for": self._condition.waiting,
            "manager_connected": self._link.is_up,
            "fronts": 0 if service is None else service.fronts,
            "image": 0 if store is None else store.sequence,
            "last_save": None if store is None else _last_save(store),
            "origin": self._origin,
            "machine": "off" if self._machine and not self._machine.is_running else "on",
        }
        if self._host is not None:
            fields |= observe(self._host, self._keys)
            if self._machine is not None and not self._machine.is_running:
                # What the engine holds is from before, and gone.
                owned = self._host.snapshot().owned
                fields["tpm"] = {"owned": owned, "flags": ["switched off"], "banks": []}
        return fields

    async def _reset(self, args: Fields) -> Fields:
        """Verb "reset": the guest's machine was reset."""
        _no_args(args)
        machine, service = self._machine, self._service
        if machine is None or service is None:
            raise DaemonError(f"vTPM {self._config.uuid} does not serve yet")
        pcrs = await self._hardware_pcrs()
        async with service.engine_lock:
            await machine.reset(pcrs)
        return {}


async def _limit_patience(store: ImageStore) -> None:
    """Once the daemon is told to stop, do not wait for the manager for ever."""
    try:
        await trio.sleep_forever()
    finally:
        store.stop_waiting(STOP_GRACE_S)


async def _end_quotes(host: EngineHost) -> None:
    """Once the daemon is told to stop, do not wait for the parent TPM."""
    try:
        await trio.sleep_forever()
    finally:
        host.give_up_quotes()


def _last_save(store: ImageStore) -> dict[str, Json] | None:
    """Say when which slot was written, by the file itself: that outlives this process."""
    slot = store.slot
    if slot is None:
        return None
    try:
        written_s = slot.stat().st_mtime
    except OSError:
        return None  # somebody took it away; the next start will refuse
    return {"slot": slot.name, "sequence": store.sequence, "unix_time": round(written_s, 3)}


def _no_args(args: Fields) -> None:
    if args:
        raise DaemonError(f"unknown arguments: {', '.join(sorted(args))}")
