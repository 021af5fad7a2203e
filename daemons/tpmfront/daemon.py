# SPDX-License-Identifier: Apache-2.0
"""The tpmfront process: one nursery with the link, the sockets and the control socket."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from daemons.runtime.control import Fields, Handler, Json, serve_control
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier, StatusLine
from daemons.runtime.reload import Reloads, changed_fields
from daemons.runtime.sockets import Listeners
from daemons.runtime.tracing import TRACE
from daemons.tpmfront.clients import Clients
from daemons.tpmfront.controlchannel import BACKLOG as CTRL_BACKLOG
from daemons.tpmfront.controlchannel import ControlChannel
from daemons.tpmfront.controlcommands import ControlCommands
from daemons.tpmfront.datachannel import DataChannel
from daemons.tpmfront.handover import Handover, Role, end
from daemons.tpmfront.link import VtpmLink
from daemons.tpmfront.options import Config, CtrlSocket
from daemons.tpmfront.tcp import LISTENER, listen_tcp
from daemons.tpmfront.trace import FrontTrace

CTRL: Final = "ctrl"
"""Name of the inherited listener of the control channel."""
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
    ctrl = None if config.ctrl is None else Ctrl(config.ctrl, link, clients, handover, log)

    def describe() -> str:
        state = "serving guest" if link.is_connected else "waiting for the vtpm of guest"
        number = f"{clients.count} client{'' if clients.count == 1 else 's'}"
        return f"{state} {config.name}, {number}{'' if ctrl is None else ctrl.describe()}"

    line = StatusLine(notifier, describe)
    link.on_change = clients.on_change = line.changed
    if ctrl is not None:
        ctrl.channel.on_change = ctrl.data.on_change = line.changed

    places: list[Json] = []

    async def status(_args: Fields) -> Fields:
        return {
            "state": "serving" if link.is_connected else "waiting for the vtpm",
            "pid": os.getpid(),
            "guest": config.name,
            "uuid": str(config.uuid),
            "tcp": places,
            "clients": clients.count,
            "control_channel": None if ctrl is None else dict(ctrl.fields()),
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
        ctrl_listener = None
        if config.ctrl is not None:
            ctrl_listener = stack.enter_context(
                listeners.listen(
                    CTRL, config.ctrl.path, mode=config.ctrl.mode, backlog=CTRL_BACKLOG
                )
            )
        over_tcp = listen_tcp(
            listeners.take(LISTENER),
            config.tcp,
            stack,
            log,
            any_address=config.tcp_any_address,
            backlog=BACKLOG,
        )
        bound += [(one, endpoint.locality) for one, endpoint in over_tcp]
        places.extend([endpoint.place for _, endpoint in over_tcp])
        async with trio.open_nursery() as nursery:
            # It outlives the clients: a stop waits for the last responses.
            going = await nursery.start(link.run_shielded)
            try:
                async with trio.open_nursery() as serving:
                    stops = [clients.stop] if ctrl is None else [ctrl.channel.stop, clients.stop]
                    serving.start_soon(stop_when_cancelled, stops)
                    serving.start_soon(handover.run)
                    serving.start_soon(line.run)
                    await serving.start(
                        partial(
                            serve_control,
                            config.control,
                            verbs,
                            log=log,
                            listeners=listeners,
                            streams={TRACE: FrontTrace(link, clients).open},
                        )
                    )
                    for one in kept:
                        if one.role is Role.STREAM:
                            serving.start_soon(clients.resume, one)
                        elif ctrl is None:
                            handover.release(one.slot)
                            end(one.connection)
                    if ctrl is not None and ctrl_listener is not None:
                        ctrl.end_by(serving.cancel_scope.cancel)
                        others = [one for one in kept if one.role is not Role.STREAM]
                        serving.start_soon(ctrl.channel.serve, ctrl_listener, others)
                    for bound_socket, locality in bound:
                        serving.start_soon(clients.serve, bound_socket, locality)
                    log.info("listening", sockets=len(bound))
                    for _, endpoint in over_tcp:
                        log.info(
                            "listening over TCP",
                            address=endpoint.place,
                            locality=endpoint.locality,
                        )
                    notifier.ready()
                    if reloads is not None:
                        serving.start_soon(reloads.serve, apply)
            finally:
                going.cancel()


async def stop_when_cancelled(stops: Sequence[Callable[[], None]]) -> None:
    """Have a stop finish what is under way, and no more, by calling these."""
    try:
        await trio.sleep_forever()
    finally:
        for stop in stops:
            stop()


class Ctrl:
    """What belongs to the swtpm control channel."""

    def __init__(
        self, options: CtrlSocket, link: VtpmLink, clients: Clients, handover: Handover, log: Log
    ) -> None:
        self._options = options
        self.data = DataChannel(clients, link, log)
        self._commands = ControlCommands(link, self.data, log, max_locality=options.max_locality)
        self.channel = ControlChannel(self._commands, self.data, handover, log)

    def end_by(self, stop: Callable[[], None]) -> None:
        """Have the process ended as the options say."""
        if self._options.ends_on_shutdown:
            self.channel.on_shutdown = stop
        if self._options.ends_with_client:
            self.channel.on_lost = stop

    def describe(self) -> str:
        """Return the end of the status line."""
        client = ", control client connected" if self.channel.has_client else ""
        return client + (", powered off" if self._commands.is_stopped else "")

    def fields(self) -> Fields:
        """Return the member "control_channel" of a status."""
        return {
            "client": self.channel.has_client,
            "data": self.data.is_open,
            "locality": self.data.locality,
            "powered_off": self._commands.is_stopped,
        }
