# SPDX-License-Identifier: Apache-2.0
"""The manager as a process: puts the parts together and owns their tasks.

Order: lock the state folder, reach the chip, accept or found the database, then listen. A vTPM that
connects earlier finds no socket and tries again, or waits at the one that the supervisor made.
Where the platform is in no approved configuration, only the control and admin sockets listen, for
status and recovery.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

import trio

from daemons.runtime.control import Fields, serve_control
from daemons.runtime.errors import DaemonError
from daemons.runtime.files import StateFolder
from daemons.runtime.inherited import ADMIN, BACKEND
from daemons.runtime.log import Log
from daemons.runtime.marker import read_boot_id
from daemons.runtime.notify import Notifier, StatusLine
from daemons.runtime.reload import Reloads, changed_fields
from daemons.runtime.sockets import Listeners
from daemons.vtpmmgr.admin import serve_admin
from daemons.vtpmmgr.config import ManagerConfig
from daemons.vtpmmgr.identity import ClientTable
from daemons.vtpmmgr.management import Management
from daemons.vtpmmgr.manager import ManagementOptions, Manager
from daemons.vtpmmgr.platform import PlatformCommands, proxy_auth
from daemons.vtpmmgr.recovered import RecoveredStart
from daemons.vtpmmgr.recovery import RecoveryCommands
from daemons.vtpmmgr.startup import accept_rollback, start
from daemons.vtpmmgr.tpm12hardware import Tpm12Hardware
from daemons.vtpmmgr.unsealing import NotApproved
from protocol.tis.driver import TisDriver, TisError, TisOptions, open_tis
from protocol.tpmif.unix import BackendLimits, serve_backend
from tpmcore.errors import TpmError

_RECONNECT_S: Final = 10.0
"""How long a command waits for a chip whose process is gone: as long as a save does."""
_CONNECTIONS: Final = 4096
_BACKLOG: Final = 512
"""vTPMs that connect at the same moment, after a restart of the manager."""
_ADMIN_BACKLOG: Final = 16


_LIVE: Final = frozenset({"level"})
"""What of the configuration, beside the clients, a reload makes count."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What options and files say.

    Attributes:
        config: of the manager itself.
        clients: who may be which vTPM.
    """

    config: ManagerConfig
    clients: ClientTable


async def run(
    loaded: Loaded,
    reloads: Reloads[Loaded],
    listeners: Listeners,
    notifier: Notifier,
    log: Log,
) -> None:
    """Serve until cancelled.

    Args:
        loaded: what to begin with.
        reloads: of the same, while it serves.
        listeners: may have inherited ones.
        notifier: the supervisor.
        log: of the daemon.

    Raises:
        RefusedToStart: what is found does not verify.
        DaemonError: the chip, the disk or the configuration fails.
    """
    config = loaded.config
    folder = await trio.to_thread.run_sync(StateFolder, config.state)
    with folder.lock():
        try:
            notifier.status("waiting for the hardware TPM")
            options = TisOptions(interrupts=config.interrupts, reconnect_s=_RECONNECT_S)
            async with open_tis(config.tis, config.locality, options) as driver:
                await _manage(loaded, reloads, driver, listeners, notifier, log)
        except (TisError, TpmError) as error:
            raise DaemonError(f"hardware TPM: {error}") from error


async def _manage(
    loaded: Loaded,
    reloads: Reloads[Loaded],
    driver: TisDriver,
    listeners: Listeners,
    notifier: Notifier,
    log: Log,
) -> None:
    config = loaded.config
    hardware = Tpm12Hardware(
        driver,
        locality=config.locality,
        owner_auth=config.owner_auth,
        srk_auth=config.srk_auth,
    )
    notifier.status("checking the database against the hardware TPM")
    await hardware.prepare(log)
    if config.accept_rollback:
        report = await accept_rollback(config.start_options, hardware, log, dry_run=config.dry_run)
        sys.stdout.write(json.dumps(report) + "\n")
        return
    boot = await trio.to_thread.run_sync(_boot_id)
    options = ManagementOptions(proxy_auth(config.owner_auth), boot, config.xen_lists)
    start_options = config.start_options
    desk = _Desk(config, hardware, reloads, listeners, log)
    connected = _Connected(notifier)
    async with trio.open_nursery() as nursery:
        try:
            started = await start(start_options, hardware, log)
        except NotApproved as refusal:
            log.error("configuration not approved", reason=str(refusal))
            notifier.status(f"recovery only: {refusal}")
            recovered = RecoveredStart(refusal.unverified, start_options, hardware, log)
            desk.show_recovery(recovered, refusal, options)
            await desk.open(nursery)
            notifier.ready()
            started = await recovered.wait_started()
        try:
            manager = Manager(started, loaded.clients, hardware, options, log, connected.changed)
            desk.show_manager(manager)
            nursery.start_soon(connected.line.run)
            await _serve(config, manager, desk, reloads, listeners, notifier, log)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(started.ledger.close)
        nursery.cancel_scope.cancel()


def _boot_id() -> bytes:
    """Return the id of this start of the machine, 16 bytes."""
    return UUID(read_boot_id().decode()).bytes


class _Desk:
    """The control and admin sockets, which answer while the manager recovers and while it serves.

    They stay open from one to the other, so that whoever recovers it gets an answer.
    """

    def __init__(
        self,
        config: ManagerConfig,
        hardware: Tpm12Hardware,
        reloads: Reloads[Loaded],
        listeners: Listeners,
        log: Log,
    ) -> None:
        self._config = config
        self._hardware = hardware
        self._reloads = reloads
        self._listeners = listeners
        self._log = log
        self._is_open = False
        self._management = Management()
        self._status: Callable[[], Fields] = dict
        self._probe: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    def show_recovery(
        self,
        recovered: RecoveredStart,
        refusal: NotApproved,
        options: ManagementOptions,
    ) -> None:
        """Answer what a manager answers whose database is sealed."""
        auth, hardware, log = options.identity_auth, self._hardware, self._log
        self._status = lambda: {"state": "recovery", "reason": str(refusal)}
        self._probe = hardware.probe
        self._management = Management(
            recovered.commands,
            PlatformCommands(hardware, auth, log).identity_commands,
            RecoveryCommands(hardware, auth, recovered.read, recovered.opened, log).commands,
        )

    def show_manager(self, manager: Manager) -> None:
        """Answer everything."""
        self._status = lambda: {
            "state": "serving",
            "freshness": self._config.freshness.value,
            **manager.service.status(),
        }
        self._probe = manager.service.probe_hardware
        self._management = manager.management

    async def open(self, nursery: trio.Nursery) -> None:
        """Listen, if that was not done yet."""
        if self._is_open:
            return
        self._is_open = True
        verbs = {
            "status": self._answer_status,
            "probe-hardware": self._answer_probe,
            "reload": self._reloads.verb,
        }
        await nursery.start(
            partial(
                serve_control,
                self._config.control,
                verbs,
                log=self._log,
                listeners=self._listeners,
            )
        )
        await nursery.start(self._serve_admin)

    async def _answer_status(self, _args: Fields) -> Fields:
        return self._status()

    async def _answer_probe(self, _args: Fields) -> Fields:
        await self._probe()
        return {}

    async def _serve_admin(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with self._listeners.listen(ADMIN, self._config.admin, backlog=_ADMIN_BACKLOG) as listener:
            await serve_admin(
                listener,
                lambda: self._management,
                self._hardware,
                log=self._log,
                task_status=task_status,
            )


class _Connected:
    """How many vTPMs are connected, in the status line."""

    def __init__(self, notifier: Notifier) -> None:
        self._count = 0
        self.line = StatusLine(notifier, self._describe)

    def changed(self, count: int) -> None:
        self._count = count
        self.line.changed()

    def _describe(self) -> str:
        return f"serving {self._count} vTPM{'' if self._count == 1 else 's'}"


async def _serve(
    config: ManagerConfig,
    manager: Manager,
    desk: _Desk,
    reloads: Reloads[Loaded],
    listeners: Listeners,
    notifier: Notifier,
    log: Log,
) -> None:
    def apply(new: Loaded) -> Sequence[str]:
        log.level = new.config.level
        manager.service.set_clients(new.clients)
        return changed_fields(config, new.config, _LIVE)

    with listeners.listen(
        BACKEND,
        config.socket,
        kind=socket.SOCK_SEQPACKET,
        mode=config.socket_mode,
        backlog=_BACKLOG,
    ) as listener:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(manager.committer.run)
                await nursery.start(
                    partial(
                        serve_backend,
                        listener,
                        admit=manager.service.admit,
                        handler=manager.service,
                        limits=BackendLimits(connections=_CONNECTIONS),
                        linger=False,
                    )
                )
                await desk.open(nursery)
                notifier.ready()
                log.info("serving", socket=config.socket)
                nursery.start_soon(reloads.serve, apply)
        finally:
            notifier.stopping()
