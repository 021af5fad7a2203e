# SPDX-License-Identifier: Apache-2.0
"""From an image (or none) to a TPM that answers: new, resumed, or powered on.

In order: the image, which the store has loaded; the engine, made anew or restored, with the
volatile state if the last process left it; unless it was resumed, TPM_Startup and then either PCRs
from the hardware (`--hwinitpcr`) or, if measurements were lost, capped PCRs.

Xen's vTPM makes a new TPM whenever something goes wrong here; this one only when the store says
that there is nothing to lose.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol
from uuid import UUID

import trio

from daemons.runtime.config.values import StartupKind
from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.host import POWERED_OFF, EngineHost, PersistOutcome
from daemons.runtime.log import Log
from daemons.vtpm.manager_client import ManagerCommands
from daemons.vtpm.store import ManagerLost
from daemons.vtpm.volatility import CAP_DIGEST
from protocol.errors import WireError
from protocol.manager.constants import ManagerCode
from protocol.manager.framing import ManagerRefused
from protocol.tpm12 import Ordinal, Tag, build_message, parse_header
from protocol.tpm12.constants import PhysicalPresenceFlags, StartupType
from tpmcore.engine import CapPcrs, Engine, Event, PowerOn, SetPcr

SEED_BYTES: Final = 32
_LOCALITY: Final = 0
_STARTUP_ORDINAL: Final = Ordinal.STARTUP.to_bytes(4, "big")
_PAUSE_S: Final = 0.5

_STARTUP_TYPES: Final[Mapping[StartupKind, StartupType]] = {
    StartupKind.CLEAR: StartupType.CLEAR,
    StartupKind.SAVE: StartupType.STATE,
    StartupKind.DEACTIVATED: StartupType.DEACTIVATED,
}


class EngineMaker(Protocol):
    """Makes the TPM; both may take the time of a prime search."""

    def manufacture(self) -> Engine:
        """Return a new TPM as its manufacturer delivers it, as after TPM_Init."""

    def restore(self, permanent: bytes, volatile: bytes | None) -> Engine:
        """Return the TPM of a permanent state, going on from a volatile one if there is one.

        Raises:
            WireError: not states that this version reads.
        """


class Store(Protocol):
    """What a start needs of `daemons.vtpm.store.ImageStore`."""

    async def load(self) -> bytes | None:
        """Return the permanent state; None for a new vTPM."""

    async def save(self, state: bytes) -> PersistOutcome:
        """Make a state durable."""

    def outrun(self) -> None:
        """The TPM runs without the volatile state in the image."""


class Origin(enum.Enum):
    """How this process came to its TPM."""

    NEW = "made anew"
    POWERED_ON = "powered on"
    RESUMED = "resumed"
    STOPPED = "switched off"
    CAPPED = "powered on, PCRs 0-7 capped"


@dataclass(frozen=True, slots=True)
class Remains:
    """What the last process left.

    Attributes:
        volatile: the volatile state, if somebody kept it; `POWERED_OFF` if the machine was off.
        was_killed: it served in this boot and did not end in order.
    """

    volatile: bytes | None
    was_killed: bool


@dataclass(frozen=True, slots=True)
class Waking:
    """An engine that is made and not started up yet.

    Attributes:
        engine: the TPM.
        origin: what `start_up` has to do with it.
    """

    engine: Engine
    origin: Origin


async def wake(uuid: UUID, store: Store, maker: EngineMaker, remains: Remains, log: Log) -> Waking:
    """Load the image, or make a new TPM and save its first image.

    Raises:
        RefusedToStart: from the store; or the image is sound and this version cannot read it.
        DaemonError: the first image cannot be saved.
    """
    permanent = await store.load()
    if permanent is None:
        engine = await trio.to_thread.run_sync(maker.manufacture)
        if await store.save(engine.permanent_state()) is not PersistOutcome.SAVED:
            raise DaemonError(f"vTPM {uuid}: the first image cannot be saved")
        log.info("new TPM made")
        # A memory that is left is of another TPM; what the guest measured there is lost.
        lost = remains.was_killed or remains.volatile is not None
        return Waking(engine, Origin.CAPPED if lost else Origin.NEW)
    if remains.volatile == POWERED_OFF:
        return Waking(await _restore(uuid, maker, permanent), Origin.STOPPED)
    if remains.volatile is not None:
        try:
            engine = await trio.to_thread.run_sync(maker.restore, permanent, remains.volatile)
            return Waking(engine, Origin.RESUMED)
        except WireError as error:
            log.error("volatile state not readable", reason=error)
    engine = await _restore(uuid, maker, permanent)
    store.outrun()
    lost = remains.was_killed or remains.volatile is not None
    return Waking(engine, Origin.CAPPED if lost else Origin.POWERED_ON)


async def _restore(uuid: UUID, maker: EngineMaker, permanent: bytes) -> Engine:
    try:
        return await trio.to_thread.run_sync(maker.restore, permanent, None)
    except WireError as error:
        raise RefusedToStart(
            f"vTPM {uuid}: the image is authentic, but this version cannot read the state in it: "
            f"{error}; nothing was changed"
        ) from error


async def start_up(
    host: EngineHost,
    origin: Origin,
    kind: StartupKind,
    hardware_pcrs: Mapping[int, bytes],
    log: Log,
) -> None:
    """Bring the TPM to where a guest finds it.

    Args:
        host: has the engine.
        origin: see `Origin`; a RESUMED or STOPPED one is left as it is.
        kind: type of TPM_Startup; SAVE becomes CLEAR if the TPM has no saved state.
        hardware_pcrs: values that PCRs are to start with.
        log: for what was done.

    Raises:
        DaemonError: the TPM refuses.
    """
    # A process killed in between must not leave, for the next one to resume, a TPM that is started
    # up and whose PCRs are not capped or set.
    with host.indivisible():
        match origin:
            case Origin.RESUMED:
                pass
            case Origin.STOPPED:
                host.forget()
            case Origin.CAPPED:
                await _startup(host, kind, log)
                await _event(host, CapPcrs(CAP_DIGEST))
            case Origin.NEW:
                # Nothing was saved in a TPM that has just been made.
                await _startup(host, _without_save(kind), log)
                await set_pcrs(host, hardware_pcrs)
            case Origin.POWERED_ON:
                await _startup(host, kind, log)
                await set_pcrs(host, hardware_pcrs)
    log.info("TPM started", origin=origin.value)


async def reset(host: EngineHost, hardware_pcrs: Mapping[int, bytes], log: Log) -> None:
    """Do what a reset of the guest's machine does: power-on and TPM_Startup(ST_CLEAR).

    The caller has the engine for itself. Who is killed meanwhile has not reset it.

    Raises:
        DaemonError: the TPM refuses.
    """
    with host.indivisible():
        await _event(host, PowerOn())
        await _startup(host, StartupKind.CLEAR, log)
        await set_pcrs(host, hardware_pcrs)
    log.info("TPM reset")


async def read_hardware_pcrs(
    manager: ManagerCommands, indices: Iterable[int], log: Log
) -> dict[int, bytes]:
    """Return the values of PCRs of the hardware TPM; waits until the manager delivers them.

    Raises:
        DaemonError: the manager or the hardware refuses for good.
    """
    return {
        index: await _insist(
            partial(manager.read_pcr, index), f"PCR {index} of the hardware TPM", log
        )
        for index in sorted(indices)
    }


async def read_seed(manager: ManagerCommands, log: Log) -> bytes:
    """Return 32 random bytes of the hardware TPM; waits until the manager delivers them.

    Raises:
        DaemonError: as above.
    """
    return await _insist(
        partial(manager.get_random, SEED_BYTES), "random numbers of the hardware TPM", log
    )


async def _insist(ask: Callable[[], Awaitable[bytes]], what: str, log: Log) -> bytes:
    while True:
        try:
            return await ask()
        except (ManagerLost, ManagerRefused) as error:
            _tolerate(error, what, log)
        await trio.sleep(_PAUSE_S)


def _tolerate(error: ManagerLost | ManagerRefused, what: str, log: Log) -> None:
    """Return if another attempt may succeed."""
    if isinstance(error, ManagerRefused) and error.code in (
        ManagerCode.DISABLED_CMD,
        ManagerCode.BAD_PARAMETER,
        ManagerCode.BADINDEX,
        ManagerCode.BADTAG,
    ):
        raise DaemonError(f"the manager does not give {what}: {error}") from error
    log.warning("waiting for the manager", what=what, reason=error)


async def _startup(host: EngineHost, kind: StartupKind, log: Log) -> None:
    code = await _send_startup(host, kind)
    if code and kind is StartupKind.SAVE:
        # Without a saved state the TPM is in failure mode by the specification (Part 3, 3.2).
        log.warning("no saved state, starting clear", code=code)
        await _event(host, PowerOn())
        code = await _send_startup(host, StartupKind.CLEAR)
    if code:
        raise DaemonError(f"TPM_Startup ended in {code:#x}")
    # As Xen's: there is nobody who could press a button. By command, as firmware does it, so that
    # software which runs early can take it back and lock it until the next power-on.
    code = await _send(host, Ordinal.TSC_PHYSICAL_PRESENCE, PhysicalPresenceFlags.PRESENT)
    if code:
        # Switched off for ever by the owner of the TPM: theirs to say.
        log.debug("physical presence not asserted", code=code)


async def _send_startup(host: EngineHost, kind: StartupKind) -> int:
    return await _send(host, Ordinal.STARTUP, _STARTUP_TYPES[kind])


async def _send(host: EngineHost, ordinal: Ordinal, argument: int) -> int:
    """Send a command whose one parameter is a u16; its return code."""
    command = build_message(Tag.RQU_COMMAND, ordinal, argument.to_bytes(2, "big"))
    return parse_header(await host.execute(command, _LOCALITY)).code


def is_startup(command: bytes, response: bytes) -> bool:
    """Say whether a TPM was started up by a command."""
    return command[6:10] == _STARTUP_ORDINAL and response[6:10] == bytes(4)


async def set_pcrs(host: EngineHost, values: Mapping[int, bytes]) -> None:
    """Give PCRs their first values, after TPM_Startup.

    Raises:
        DaemonError: there is no such PCR.
    """
    for index, value in values.items():
        await _event(host, SetPcr(index, value))


async def _event(host: EngineHost, event: Event) -> None:
    done = await host.handle(event)
    if done.code:
        raise DaemonError(f"{type(event).__name__} ended in {done.code:#x}")


def _without_save(kind: StartupKind) -> StartupKind:
    return StartupKind.CLEAR if kind is StartupKind.SAVE else kind
