# SPDX-License-Identifier: Apache-2.0
"""The manager as a process: puts the parts together and owns their tasks.

Order: lock the state folder, reach the chip, accept or found the database, then listen. A vTPM that
connects earlier finds no socket and tries again, or waits at the one that the supervisor made.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from daemons.runtime.control import Fields, serve_control
from daemons.runtime.errors import DaemonError
from daemons.runtime.files import StateFolder
from daemons.runtime.inherited import BACKEND
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier, StatusLine
from daemons.runtime.reload import Reloads, changed_fields
from daemons.runtime.sockets import Listeners
from daemons.vtpmmgr.commits import Committer
from daemons.vtpmmgr.config import ManagerConfig
from daemons.vtpmmgr.identity import ClientTable
from daemons.vtpmmgr.service import ManagerService
from daemons.vtpmmgr.startup import StartOptions, start
from daemons.vtpmmgr.tpm12hardware import Tpm12Hardware
from protocol.tis.driver import TisDriver, TisError, TisOptions, open_tis
from protocol.tpmif.unix import BackendLimits, serve_backend
from tpmcore.errors import TpmError

_RECONNECT_S: Final = 10.0
"""How long a command waits for a chip whose process is gone: as long as a save does."""
_CONNECTIONS: Final = 4096
_BACKLOG: Final = 512
"""vTPMs that connect at the same moment, after a restart of the manager."""


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
    options = StartOptions(config.database, config.seal_pcrs, config.nv_index)
    started = await start(options, hardware, log)
    try:
        committer = Committer(started.ledger, started.freshness, hardware, log)
        connected = _Connected(notifier)
        service = ManagerService(loaded.clients, committer, hardware, log, connected.changed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connected.line.run)
            await _serve(config, service, committer, reloads, listeners, notifier, log)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(started.ledger.close)


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
    service: ManagerService,
    committer: Committer,
    reloads: Reloads[Loaded],
    listeners: Listeners,
    notifier: Notifier,
    log: Log,
) -> None:
    def apply(new: Loaded) -> Sequence[str]:
        log.level = new.config.level
        service.set_clients(new.clients)
        return changed_fields(config, new.config, _LIVE)

    async def status(_args: Fields) -> Fields:
        return {"state": "serving", "freshness": "nv", **service.status()}

    async def probe(_args: Fields) -> Fields:
        await service.probe_hardware()
        return {}

    with listeners.listen(
        BACKEND,
        config.socket,
        kind=socket.SOCK_SEQPACKET,
        mode=config.socket_mode,
        backlog=_BACKLOG,
    ) as listener:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(committer.run)
                await nursery.start(
                    partial(
                        serve_backend,
                        listener,
                        admit=service.admit,
                        handler=service,
                        limits=BackendLimits(connections=_CONNECTIONS),
                        linger=False,
                    )
                )
                verbs = {"status": status, "probe-hardware": probe, "reload": reloads.verb}
                await nursery.start(
                    partial(
                        serve_control,
                        config.control,
                        verbs,
                        log=log,
                        listeners=listeners,
                    )
                )
                notifier.ready()
                log.info("serving", socket=config.socket)
                nursery.start_soon(reloads.serve, apply)
        finally:
            notifier.stopping()
