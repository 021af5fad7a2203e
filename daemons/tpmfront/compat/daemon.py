# SPDX-License-Identifier: Apache-2.0
"""The process that serves one TPM behind swtpm's command line.

Up, once the folder is locked and the sockets listen: the manager admits us; a vtpm runs; the TPM is
on or off, as --flags wants it; then it is told that the TPM can be used. Who connects before waits.
Down: clients, the vtpm; then the sockets, and the lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import trio

from daemons.runtime.log import Level, Log
from daemons.runtime.notify import Notifier
from daemons.tpmfront.clients import Clients
from daemons.tpmfront.compat.capabilities import STATE_NAME
from daemons.tpmfront.compat.device import open_device, serve_device
from daemons.tpmfront.compat.errors import Refusal
from daemons.tpmfront.compat.localitycommand import LocalityCommand
from daemons.tpmfront.compat.options import CompatOptions, PidPlace, Startup
from daemons.tpmfront.compat.places import Channels, Opened, remove_own
from daemons.tpmfront.compat.startup import find_identity, make_run_folder, wait_image_free
from daemons.tpmfront.compat.vtpm_process import VtpmProcess
from daemons.tpmfront.controlchannel import ControlChannel
from daemons.tpmfront.controlcommands import ControlCommands
from daemons.tpmfront.daemon import stop_when_cancelled
from daemons.tpmfront.datachannel import DataChannel
from daemons.tpmfront.handover import Handover
from daemons.tpmfront.link import VtpmLink
from protocol.errors import WireError
from protocol.swtpm import MAX_LOCALITY
from protocol.vtpm.control import ControlOrdinal, PowerOn, decode_response, encode_request

_PID_MODE: Final = 0o644
_STARTUPS: Final = {
    Startup.NONE: "clear",  # it is switched off again before anybody is served
    Startup.CLEAR: "clear",
    Startup.STATE: "save",
    Startup.DEACTIVATED: "deactivated",
}
"""--startup of vtpm."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process finds or was given beside its options.

    Attributes:
        manager: socket of vtpmmgr.
        lock: descriptor of the folder's lock.
        notifier: the supervisor.
        log: of this process.
        emit: writes a line of the vtpm.
        when_ready: called when the TPM can be used.
    """

    manager: Path
    lock: int
    notifier: Notifier
    log: Log
    emit: Callable[[bytes], None]
    when_ready: Callable[[], None]


class _Submission:
    """Of a request that is ours, not a client's."""

    is_submitted = False


async def serve(options: CompatOptions, channels: Channels, surroundings: Surroundings) -> None:
    """Serve until cancelled, or until a client ends that was to end it.

    Args:
        options: of the command line.
        channels: its sockets.
        surroundings: see there.

    Raises:
        Refusal: it cannot be started.
    """
    log = surroundings.log
    with contextlib.ExitStack() as stack:
        device = None
        if options.device is not None:
            device = stack.enter_context(open_device(options.device))
        await wait_image_free(options.state / STATE_NAME)
        uuid = await find_identity(options.state, surroundings.manager, log)
        run = make_run_folder(surroundings.lock)
        stack.callback(shutil.rmtree, run, ignore_errors=True)
        if options.keys:
            names = ", ".join([f"--{name}" for name, _key in options.keys])
            log.info("keys are not used, the manager seals the state", options=names)
        for option in options.without_effect:
            log.info("option has no effect", option=option)
        vtpm = VtpmProcess(
            _vtpm_args(options, surroundings, uuid, run), run, surroundings.emit, log
        )
        link = VtpmLink(run / "tpmback.sock", uuid, log)
        async with trio.open_nursery() as nursery:
            # Both outlive the clients: a stop waits for the last responses.
            living = await nursery.start(vtpm.run_shielded)
            linking = None
            try:
                await vtpm.ready.wait()
                linking = await nursery.start(link.run_shielded)
                await _set_power(link, options)
                await _serve_clients(options, surroundings, link, channels, device)
            finally:
                # First: swtpm_setup kills who takes longer than half a second to end.
                shutil.rmtree(run, ignore_errors=True)
                if linking is not None:
                    linking.cancel()
                living.cancel()


def _vtpm_args(
    options: CompatOptions, surroundings: Surroundings, uuid: UUID, run: Path
) -> list[str]:
    level = surroundings.log.level
    return [
        f"--state={options.state.absolute() / STATE_NAME}",
        f"--socket={run / 'tpmback.sock'}",
        f"--manager={surroundings.manager.absolute()}",
        f"--uuid={uuid}",
        f"--startup={_STARTUPS[options.startup]}",
        # As with swtpm, whoever sets the TPM up makes it.
        "--ek=none",
        "--nvlock=0",
        f"--loglevel={Level(level).name.lower()}",
    ]


async def _set_power(link: VtpmLink, options: CompatOptions) -> None:
    """Bring the TPM to where --flags wants it; it has been started."""
    if options.startup is not Startup.NONE:
        return
    await _control(link, encode_request(ControlOrdinal.POWER_OFF), "switched off")
    if not options.needs_init:
        request = encode_request(ControlOrdinal.POWER_ON, PowerOn(delete_volatile=0))
        await _control(link, request, "switched on")


async def _control(link: VtpmLink, request: bytes, what: str) -> None:
    answer = await link.transact(request, 0, _Submission())
    try:
        code, _body = decode_response(answer)
    except WireError as error:
        raise Refusal(f"the TPM could not be {what}: {error}") from None
    if code:
        raise Refusal(f"the TPM could not be {what}: {code:#x}")


async def _serve_clients(
    options: CompatOptions,
    surroundings: Surroundings,
    link: VtpmLink,
    channels: Channels,
    device: int | None,
) -> None:
    """Serve until a client has ended it."""
    log = surroundings.log
    handover, _kept = Handover.open({}, Notifier(None), log)
    clients = Clients(link, handover, log)
    passed = DataChannel(clients, link, log)
    max_locality = MAX_LOCALITY - int(options.rejects_locality_4)
    commands = ControlCommands(link, passed, log, max_locality=max_locality)
    control = ControlChannel(commands, passed, handover, log)
    # One locality for all that send commands, as with swtpm.
    passed.on_locality = clients.set_common_locality
    vendor = LocalityCommand(
        passed.set_locality, max_locality, is_allowed=options.allows_set_locality
    )
    clients.answer_here = vendor.answer
    ended = trio.Event()
    control.on_shutdown = ended.set
    if options.control is not None and options.control.terminates:
        control.on_lost = ended.set
    if options.terminates:
        clients.on_change = _when_gone(clients, ended)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_when_cancelled, [control.stop, clients.stop])
        if channels.data is not None and options.data is not None:
            one_command = options.data.disconnects
            nursery.start_soon(_serve_data, clients, channels.data, one_command)
        if channels.control is not None:
            nursery.start_soon(_serve_control, control, channels.control)
        if device is not None:
            nursery.start_soon(_serve_device, device, link, passed, vendor, ended)
        with _pid_file(options.pid):
            log.info("TPM can be used", state=options.state, pid=os.getpid())
            surroundings.when_ready()
            surroundings.notifier.ready()
            await ended.wait()
        log.info("ended by a client")
        nursery.cancel_scope.cancel()


async def _serve_data(clients: Clients, opened: Opened, one_command: bool) -> None:
    if opened.is_listening:
        listener = trio.socket.from_stdlib_socket(opened.socket)
        await clients.serve(listener, 0, one_command=one_command)
    else:
        raw = socket.socket(fileno=opened.socket.detach())
        await clients.serve_connection(raw, 0, one_command)


async def _serve_control(control: ControlChannel, opened: Opened) -> None:
    if opened.is_listening:
        await control.serve(trio.socket.from_stdlib_socket(opened.socket), ())
    else:
        await control.serve_connection(socket.socket(fileno=opened.socket.detach()))


async def _serve_device(
    fd: int, link: VtpmLink, passed: DataChannel, vendor: LocalityCommand, ended: trio.Event
) -> None:
    await serve_device(fd, link, lambda: passed.locality, vendor.answer)
    ended.set()


def _when_gone(clients: Clients, ended: trio.Event) -> Callable[[], None]:
    """Return what notices that there was a client and is none any more."""
    count = 0

    def changed() -> None:
        nonlocal count
        if count and not clients.count:
            ended.set()
        count = clients.count

    return changed


@contextlib.contextmanager
def _pid_file(place: PidPlace | None) -> Iterator[None]:
    """Write the process id; on leaving the file is removed.

    Raises:
        Refusal: it cannot be written.
    """
    if place is None:
        yield
        return
    # Absolute, since a process in the background is elsewhere when it ends.
    path = None if place.file is None else place.file.absolute()
    with contextlib.ExitStack() as stack:
        try:
            if path is None:
                assert place.fd is not None
                fd = place.fd
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(path, flags, _PID_MODE)
                stack.callback(remove_own, path, os.fstat(fd))
                os.fchmod(fd, _PID_MODE)
            try:
                os.write(fd, str(os.getpid()).encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise Refusal(f"Could not write to pidfile: {error.strerror}") from None
        yield
