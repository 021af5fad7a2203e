# SPDX-License-Identifier: Apache-2.0
"""One hardware TPM from its state folder to its sockets.

| volatile memory                  | marker of this boot | the TPM                                |
|----------------------------------|---------------------|----------------------------------------|
| inherited, filled                | any                 | goes on exactly where it was           |
| inherited, empty                 | any                 | is powered on: the supervisor says so  |
| none inherited                   | absent              | is powered on                          |
| none inherited                   | present             | is powered on, and PCRs 0-7 are capped |
| does not decode                  | any                 | is powered on, and PCRs 0-7 are capped |

In the last two rows what had been measured is gone although the machine was not reset.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio

from daemons.hwtpm.chip import Chip
from daemons.hwtpm.filenames import STATE_NAME
from daemons.hwtpm.server import PageServer
from daemons.hwtpm.store import ChipStore
from daemons.runtime.clock import MonotonicTicks
from daemons.runtime.config.values import ChipStartup
from daemons.runtime.control import Fields, Handler, serve_control
from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.files import Files, StateFolder
from daemons.runtime.host import EngineHost
from daemons.runtime.inherited import VOLATILE
from daemons.runtime.keypool import KeyPool
from daemons.runtime.log import Level, Log
from daemons.runtime.marker import RunMarker, read_boot_id
from daemons.runtime.notify import Notifier
from daemons.runtime.observation import observe
from daemons.runtime.random import SeededRandom
from daemons.runtime.reload import Reloads, changed_fields
from daemons.runtime.sockets import Listeners
from daemons.runtime.volatile import VolatileMemory
from protocol.errors import WireError
from protocol.tis.registers import BUFFER_SIZE, LOCALITIES
from tpmcore.tpm12 import Profile, Tpm12Engine, World

CONTROL_NAME: Final = "control.sock"
_LIVE: Final = frozenset({"level"})
"""What of the configuration a reload makes count; the rest belongs to a chip that is switched on.
"""


@dataclass(frozen=True, slots=True)
class Config:
    """What the command line says.

    Attributes:
        state: the chip's folder.
        run: folder of the sockets.
        startup: what firmware does at power-on.
        modes: permissions of a locality's socket file where they are not 0600.
        key_pool: how many RSA keys are made ahead of time.
        level: of the log.
    """

    state: Path
    run: Path
    startup: ChipStartup = ChipStartup.CLEAR
    modes: Mapping[int, int] = field(default_factory=dict)
    key_pool: int = 2
    level: Level = Level.INFO


async def run(
    config: Config,
    *,
    inherited: Mapping[str, Sequence[int]],
    notifier: Notifier,
    log: Log,
    files: Files | None = None,
    reloads: Reloads[Config] | None = None,
) -> None:
    """Be the chip until cancelled.

    Raises:
        RefusedToStart: the state does not verify or is in use; it is left as it is.
        DaemonError, OSError: a socket cannot be made, or a save may or may not have happened.
    """
    config.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with StateFolder(config.state, files).lock() as folder:
        marker = RunMarker(folder, read_boot_id(), log)
        with marker.removed_by_stop():
            store = ChipStore(folder, log)
            await _run_locked(config, store, marker, inherited, notifier, log, reloads)


async def _run_locked(
    config: Config,
    store: ChipStore,
    marker: RunMarker,
    inherited: Mapping[str, Sequence[int]],
    notifier: Notifier,
    log: Log,
    reloads: Reloads[Config] | None,
) -> None:
    def apply(new: Config) -> Sequence[str]:
        log.level = new.level
        return changed_fields(config, new, _LIVE)

    pool = KeyPool(size=config.key_pool)
    world = World(SeededRandom(b"hwtpm"), MonotonicTicks(), pool)
    volatile, was_inherited = _take_memory(inherited, log)
    was_killed = not was_inherited and marker.is_left_over()
    engine, origin = _make_engine(store, world, volatile, was_killed=was_killed, log=log)
    host = EngineHost(engine, persist=store.persist, volatile=volatile, log=log)
    chip = Chip(host, engine, config.startup, log)
    listeners = Listeners(inherited)
    server = PageServer(chip, listeners, config.run, config.modes, log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.wait_broken)
        await nursery.start(pool.run)
        match origin:
            case _Origin.RUNNING:
                await chip.resume()
            case _Origin.POWERED_OFF:
                await chip.power_on()
            case _Origin.MEMORY_LOST:
                log.warning("volatile memory is gone: PCRs 0-7 are capped")
                await chip.power_on_capped()
        # Only now: a chip killed before it was ready has measured nothing.
        marker.set()
        if not was_inherited:
            notifier.store_fd(VOLATILE, volatile.fd)
        nursery.start_soon(chip.run)
        await nursery.start(server.serve)
        await nursery.start(
            _serve_control,
            config,
            chip,
            server,
            partial(observe, host, pool),
            listeners,
            log,
            reloads,
        )
        log.info(
            "ready", state=config.state, origin=origin.value, established=engine.is_established
        )
        notifier.status(f"serving, {origin.value}")
        notifier.ready()
        if reloads is not None:
            nursery.start_soon(reloads.serve, apply)
        try:
            await trio.sleep_forever()
        finally:
            notifier.stopping()


def _take_memory(inherited: Mapping[str, Sequence[int]], log: Log) -> tuple[VolatileMemory, bool]:
    """Return the volatile memory, and whether it came from the supervisor."""
    for fd in inherited.get(VOLATILE, ()):
        try:
            return VolatileMemory.adopt(fd), True
        except DaemonError as error:
            log.error("volatile memory cannot be used", reason=str(error))
            os.close(fd)
    return VolatileMemory.create("hwtpm"), False


class _Origin(enum.Enum):
    """Where the TPM comes from, which decides what firmware does with it."""

    POWERED_OFF = "powered off"
    RUNNING = "goes on"
    MEMORY_LOST = "memory lost"


def _make_engine(
    store: ChipStore, world: World, volatile: VolatileMemory, *, was_killed: bool, log: Log
) -> tuple[Tpm12Engine, _Origin]:
    """Return the TPM of the state folder."""
    profile = Profile(input_buffer_bytes=BUFFER_SIZE)
    permanent = store.load()
    memory = volatile.load()
    if permanent is None:
        if memory is not None:
            raise RefusedToStart(
                f"{STATE_NAME} is missing, but there is volatile memory of a chip that is running"
            )
        engine = Tpm12Engine.manufacture(world, profile)
        store.save_first(engine.permanent_state())
        log.info("chip made")
        return engine, _Origin.POWERED_OFF
    try:
        engine = Tpm12Engine.restore(world, profile, permanent)
    except WireError as error:
        raise RefusedToStart(f"{STATE_NAME}: the state does not decode: {error}") from error
    if memory is None:
        return engine, _Origin.MEMORY_LOST if was_killed else _Origin.POWERED_OFF
    try:
        return Tpm12Engine.restore(world, profile, permanent, memory), _Origin.RUNNING
    except WireError as error:
        log.error("volatile memory does not decode", reason=str(error))
        return engine, _Origin.MEMORY_LOST


async def _serve_control(
    config: Config,
    chip: Chip,
    server: PageServer,
    observe_tpm: Callable[[], Fields],
    listeners: Listeners,
    log: Log,
    reloads: Reloads[Config] | None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    async def status(args: Fields) -> Fields:
        _expect(args, ())
        device = chip.device
        return {
            "state": "serving" if device.valid else "initialising",
            "active_locality": device.active,
            "command": device.state.value,
            "established": device.established,
            "connections": list(server.connections()),
            **observe_tpm(),
        }

    async def power_cycle(args: Fields) -> Fields:
        _expect(args, ())
        await chip.power_cycle(server.disconnect)
        return {}

    async def physical_presence(args: Fields) -> Fields:
        _expect(args, ("asserted",))
        asserted = args["asserted"]
        if not isinstance(asserted, bool):
            raise DaemonError("asserted is true or false")
        return {"code": await chip.set_physical_presence(asserted=asserted)}

    async def reset_establishment(args: Fields) -> Fields:
        _expect(args, ("locality",))
        locality = args["locality"]
        if not isinstance(locality, int) or not 0 <= locality < LOCALITIES:
            raise DaemonError(f"locality is a number from 0 to {LOCALITIES - 1}")
        return {"code": await chip.reset_establishment(locality)}

    handlers: dict[str, Handler] = {
        "status": status,
        "power-cycle": power_cycle,
        "physical-presence": physical_presence,
        "reset-establishment": reset_establishment,
    }
    if reloads is not None:
        handlers["reload"] = reloads.verb
    await serve_control(
        config.run / CONTROL_NAME,
        handlers,
        log=log,
        listeners=listeners,
        task_status=task_status,
    )


def _expect(args: Fields, names: Sequence[str]) -> None:
    if set(args) != set(names):
        raise DaemonError(f"arguments are {sorted(args)}, should be {sorted(names)}")
