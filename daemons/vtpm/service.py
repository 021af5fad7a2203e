# SPDX-License-Identifier: Apache-2.0
"""What happens to one request of a guest: locality mask, management tags, the TPM.

The rules are those of the main loop of Xen's vtpm-stubdom, with its faults left out: an error
carries a response tag, a label that matches no rule is refused, a request that was given up has no
answer.

| request                     | goes to                                                       |
|-----------------------------|---------------------------------------------------------------|
| tag 0x02C1                  | the machine (`control`): power, states, the hash sequence     |
| locality outside the mask   | nobody: TPM_FAIL                                              |
| tag 0x01C2                  | the manager as it is (its ADMIN right decides)                |
| tag 0x01C1                  | the manager with tag 0x00C1: the hardware TPM's pass-through; |
|                             | a guest can not reach the manager's own commands              |
| anything else               | this guest's TPM, with the locality of the request; TPM_FAIL  |
|                             | while the machine is switched off                             |

Commands of several devices are serialized in the order in which they came; a device has at most one
outstanding, so each gets its turn. What goes to the manager does not hold up the TPM.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Final, Protocol
from uuid import UUID

import trio

from daemons.runtime.config.values import LocalityRule, allowed_localities
from daemons.runtime.host import EngineBroken, EngineHost
from daemons.runtime.log import Log
from daemons.runtime.tracing import FrontIdentity
from daemons.vtpm.manager_client import CONNECT_WAIT_S, ManagerLink
from daemons.vtpm.store import ManagerLost
from protocol.manager.constants import HEADER_BYTES, MAX_MESSAGE_BYTES, ManagerTag
from protocol.manager.framing import error_response as manager_error
from protocol.manager.framing import error_tag
from protocol.tpm12 import ReturnCode, Tag, error_response
from protocol.tpmif.errors import Refused, RequestCancelled, TpmifError
from protocol.tpmif.unix import PeerCredentials
from protocol.vtpm.control import REQUEST_PREFIX

_REQ: Final = ManagerTag.REQ.to_bytes(2, "big")
_REQ2: Final = ManagerTag.REQ2.to_bytes(2, "big")
_CONTROL: Final = REQUEST_PREFIX
_RQU_COMMAND: Final = Tag.RQU_COMMAND.to_bytes(2, "big")


class Device(Protocol):
    """A connected front (`protocol.tpmif.unix.BackendDevice`)."""

    @property
    def uuid(self) -> UUID:
        """What it asked for."""

    @property
    def peer(self) -> PeerCredentials:
        """Who it is."""

    @property
    def serial(self) -> int:
        """Number of the connection."""


class Platform(Protocol):
    """Where the TPM sits (`daemons.vtpm.machine.Machine`)."""

    @property
    def is_running(self) -> bool:
        """Whether the TPM takes commands."""

    @property
    def awaits_startup(self) -> bool:
        """Whether `started_up` is to be told of commands."""

    async def started_up(self, command: bytes, response: bytes) -> None:
        """Take note of a command of the guest."""


class Control(Protocol):
    """Answers the control extension (`daemons.vtpm.control.ControlService`)."""

    async def answer(self, request: bytes, locality: int, allowed: frozenset[int] | None) -> bytes:
        """Return the response to a request of any bytes.

        Args:
            request: with its header.
            locality: of the request.
            allowed: the localities that the front may use; None: any.
        """


def client_label(peer: PeerCredentials) -> str:
    """Return what stands in for a client's XSM label in `--locality`.

    The security label of its socket where that is a context as XSM has them (user:role:type), else
    `uid:<number>`: AppArmor, which says "unconfined" of everybody, does not label in that sense.
    """
    if peer.label is not None and peer.label.count(":") >= 2:
        return peer.label
    return f"uid:{peer.uid}"


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may connect: fronts of one user, which ask for this vTPM.

    Attributes:
        uid: of the front, as the kernel reports it.
        uuid: of this vTPM.
        log: for refusals.
    """

    uid: int
    uuid: UUID
    log: Log

    def admit(self, peer: PeerCredentials, uuid: UUID) -> None:
        """Let a peer in.

        Raises:
            Refused: it is somebody else, or means another vTPM.
        """
        if peer.uid != self.uid:
            self.log.warning("front refused", pid=peer.pid, uid=peer.uid)
            raise Refused(f"uid {peer.uid} is not the front of this vTPM")
        if uuid != self.uuid:
            self.log.warning("front refused", pid=peer.pid, uid=peer.uid, claimed=uuid)
            raise Refused(f"this is not vTPM {uuid}")


class _Stage(enum.Enum):
    """Where the one outstanding request of a device is."""

    NONE = "none"
    QUEUED = "queued"
    RUNNING = "running"
    FORWARDED = "forwarded"


class _Front:
    """What is known of one connected device."""

    __slots__ = ("identity", "label", "localities", "stage", "waiting")

    def __init__(
        self, identity: FrontIdentity, label: str, localities: frozenset[int] | None
    ) -> None:
        self.identity = identity
        self.label = label
        # None: any. Decided once for a set of rules, as the label belongs to the connection.
        self.localities = localities
        self.stage = _Stage.NONE
        # Ends the wait of a request that is QUEUED or FORWARDED.
        self.waiting: trio.CancelScope | None = None


Observer = Callable[[bytes, int, bytes, int, FrontIdentity], None]
"""Is told of each request that was answered without this guest's TPM: the request, its locality,
the response, how long it took in nanoseconds, and whose it was."""


class GuestService:
    """Handler of the split driver's backend: all fronts of one vTPM."""

    def __init__(
        self,
        host: EngineHost,
        link: ManagerLink,
        rules: tuple[LocalityRule, ...],
        machine: Platform,
        control: Control,
        log: Log,
        fronts_changed: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """Args:
        host: the TPM.
        link: to the manager.
        rules: locality masks.
        machine: where the TPM sits.
        control: answers what fronts ask of it.
        log: for connections and refusals.
        fronts_changed: told how many devices are connected.
        """
        self._host = host
        self._link = link
        self._rules = rules
        self._machine = machine
        self._control = control
        self._log = log
        self._fronts_changed = fronts_changed
        self._fronts: dict[int, _Front] = {}
        self.observer: Observer | None = None
        """Whoever wants to know; `EngineHost.observer` is told of the others."""
        # Whoever holds it has the engine. Fair: waiters get it in the order in which they came.
        self._engine = trio.Lock()

    @property
    def fronts(self) -> int:
        """How many devices are connected."""
        return len(self._fronts)

    @property
    def engine_lock(self) -> trio.Lock:
        """What to hold for using the engine beside the guest's commands."""
        return self._engine

    def front_at_work(self) -> FrontIdentity | None:
        """Return whose command the TPM executes; None: none of a front."""
        for front in self._fronts.values():
            if front.stage is _Stage.RUNNING:
                return front.identity
        return None

    def set_locality_rules(self, rules: tuple[LocalityRule, ...]) -> None:
        """Have other locality masks count, for fronts that are connected as well, from their next
        request on."""
        self._rules = rules
        for front in self._fronts.values():
            front.localities = allowed_localities(rules, front.label)

    async def opened(self, device: Device) -> None:
        """A front connected."""
        label = client_label(device.peer)
        peer = device.peer
        identity = FrontIdentity(peer.pid, peer.uid, label, device.serial)
        self._fronts[device.serial] = _Front(
            identity, label, allowed_localities(self._rules, label)
        )
        self._fronts_changed(len(self._fronts))
        self._log.info("front connected", device=device.serial, pid=device.peer.pid, label=label)

    async def closed(self, device: Device) -> None:
        """A front is gone; what runs for it may end early."""
        front = self._fronts.pop(device.serial, None)
        if front is not None:
            self._give_up(front)
            self._fronts_changed(len(self._fronts))
            self._log.info("front gone", device=device.serial)

    def cancel(self, device: Device) -> None:
        """A front does not want the answer to its request any more."""
        front = self._fronts.get(device.serial)
        if front is not None:
            self._give_up(front)

    async def request(self, device: Device, request: bytes, locality: int) -> bytes | None:
        """Return the response to a request of any bytes; None if it was given up.

        Does not suspend for a short command while the TPM is idle.
        """
        front = self._fronts[device.serial]
        tag = request[:2]
        if (
            front.localities is not None
            and locality not in front.localities
            # A machine's wires: those that stand for a locality are judged there.
            and tag != _CONTROL
        ):
            self._log.warning("locality refused", device=device.serial, locality=locality)
            return self._refuse(front, request, locality)
        if tag == _REQ2:
            return await self._pass_on(front, request, request, locality)
        if tag == _REQ:
            passed = _RQU_COMMAND + request[2:]
            return await self._pass_on(front, request, passed, locality)
        try:
            self._engine.acquire_nowait()
        except trio.WouldBlock:
            if not await self._wait_engine(front):
                return None
        front.stage = _Stage.RUNNING
        try:
            if tag == _CONTROL:
                return await self._control.answer(request, locality, front.localities)
            if not self._machine.is_running:
                return self._refuse(front, request, locality)
            if not self._machine.awaits_startup:
                return await self._host.execute(request, locality)
            # Who is killed in between must not leave a TPM that is started up without its PCRs.
            with self._host.indivisible():
                response = await self._host.execute(request, locality)
                await self._machine.started_up(request, response)
            return response
        except EngineBroken:
            # Fatal; the daemon's nursery hears of it through `wait_broken`. No response: the
            # connection will end.
            return None
        finally:
            front.stage = _Stage.NONE
            self._engine.release()

    def _refuse(self, front: _Front, request: bytes, locality: int) -> bytes:
        """Answer TPM_FAIL in the place of the TPM, and tell who watches."""
        refusal = error_response(ReturnCode.FAIL)
        if self.observer is not None:
            self.observer(request, locality, refusal, 0, front.identity)
        return refusal

    async def _wait_engine(self, front: _Front) -> bool:
        """Take the engine when it is our turn; False if the request was given up meanwhile."""
        front.stage = _Stage.QUEUED
        with trio.CancelScope() as front.waiting:
            await self._engine.acquire()
        given_up = front.waiting.cancelled_caught
        front.waiting = None
        front.stage = _Stage.NONE
        return not given_up

    async def _pass_on(
        self, front: _Front, request: bytes, passed: bytes, locality: int
    ) -> bytes | None:
        """Have the manager answer a request, and tell who watches.

        Args:
            request: as the guest sent it.
            passed: as the manager gets it.
        """
        started_ns = perf_counter_ns()
        response = await self._forward(front, passed)
        if self.observer is not None and response is not None:
            elapsed_ns = perf_counter_ns() - started_ns
            self.observer(request, locality, response, elapsed_ns, front.identity)
        return response

    async def _forward(self, front: _Front, request: bytes) -> bytes | None:
        """Have the manager answer a request."""
        if not HEADER_BYTES <= len(request) <= MAX_MESSAGE_BYTES:
            return manager_error(ReturnCode.BAD_PARAM_SIZE, error_tag(request))
        front.stage = _Stage.FORWARDED
        try:
            with trio.CancelScope() as front.waiting:
                with trio.move_on_after(CONNECT_WAIT_S):
                    await self._link.wait_up()
                if self._link.is_up:
                    return await self._link.transact(request)
                return manager_error(ReturnCode.IOERROR, error_tag(request))
            return None
        except RequestCancelled:
            return None
        except (ManagerLost, TpmifError) as error:
            self._log.warning("manager did not answer a guest", reason=error)
            return manager_error(ReturnCode.IOERROR, error_tag(request))
        finally:
            front.stage = _Stage.NONE
            front.waiting = None

    def _give_up(self, front: _Front) -> None:
        match front.stage:
            case _Stage.QUEUED | _Stage.FORWARDED:
                if front.waiting is not None:
                    front.waiting.cancel()
            case _Stage.RUNNING:
                self._host.cancel()
            case _Stage.NONE:
                pass
