# SPDX-License-Identifier: Apache-2.0
"""The tpmfront process: one nursery with the link, the sockets and the control socket."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from daemons.runtime.control import Fields, Handler, serve_control
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier, StatusLine
from daemons.runtime.reload import Reloads, changed_fields
from daemons.runtime.sockets import Listeners
from daemons.tpmfront.clients import Clients
from daemons.tpmfront.handover import Handover
from daemons.tpmfront.link import VtpmLink
from daemons.tpmfront.options import Config

BACKLOG: Final = 1024
"""Above MAX_CLIENTS, so that a crowd waits rather than being turned away by the kernel."""


_LIVE: Final = frozenset({"level"})
"""What of the configuration a reload makes count."""


async def serve(
    config: Config,
    inherited: Mapping[str, Sequence[int]],
    notifier: Notifier,
    log: Log,
    reloads: Reloads[Config] | None = None,
) -> None:
    """Serve a guest's TPM software until cancelled.

    Ready as soon as clients can connect: a command waits for a vTPM that is still starting.

    Raises:
        DaemonError: a socket is in use.
        OSError: a socket cannot be made.
    """
    listeners = Listeners(inherited)
    link = VtpmLink(config.backend, config.uuid, log)
    handover, kept = Handover.open(inherited, notifier, log)
    clients = Clients(link, handover, log)

    def describe() -> str:
        state = "serving guest" if link.is_connected else "waiting for the vtpm of guest"
        return f"{state} {config.name}, {clients.count} client{'' if clients.count == 1 else 's'}"

    line = StatusLine(notifier, describe)
    link.on_change = clients.on_change = line.changed

    async def status(_args: Fields) -> Fields:
        return {
            "state": "serving" if link.is_connected else "waiting for the vtpm",
            "pid": os.getpid(),
            "guest": config.name,
            "uuid": str(config.uuid),
            "clients": clients.count,
            "kept": handover.kept,
            "commands": clients.commands,
            "connections": link.connections,
        }

    def apply(new: Config) -> Sequence[str]:
        log.level = new.level
        return changed_fields(config, new, _LIVE)

    verbs: dict[str, Handler] = {"status": status}
    if reloads is not None:
        verbs["reload"] = reloads.verb
    with contextlib.ExitStack() as stack:
        bound = []
        for front in config.sockets:
            listener = listeners.listen(
                front.listener_name, front.path, mode=config.socket_mode, backlog=BACKLOG
            )
            bound.append((stack.enter_context(listener), front.locality))
        async with trio.open_nursery() as nursery:
            # It outlives the clients: a stop waits for the last responses.
            going = await nursery.start(_run_shielded, link.run)
            try:
                async with trio.open_nursery() as serving:
                    serving.start_soon(_stop_when_cancelled, clients)
                    serving.start_soon(handover.run)
                    serving.start_soon(line.run)
                    await serving.start(
                        partial(serve_control, config.control, verbs, log=log, listeners=listeners)
                    )
                    for one in kept:
                        serving.start_soon(clients.resume, one)
                    for bound_socket, locality in bound:
                        serving.start_soon(clients.serve, bound_socket, locality)
                    log.info("listening", sockets=len(bound))
                    notifier.ready()
                    if reloads is not None:
                        serving.start_soon(reloads.serve, apply)
            finally:
                going.cancel()


async def _run_shielded(
    run: Callable[[], Awaitable[None]], task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    with trio.CancelScope(shield=True) as scope:
        task_status.started(scope)
        await run()


async def _stop_when_cancelled(clients: Clients) -> None:
    try:
        await trio.sleep_forever()
    finally:
        clients.stop()
