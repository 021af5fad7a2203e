# SPDX-License-Identifier: Apache-2.0
"""One request of a guest: who may ask what, in which order, and what becomes of a cancelled one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from daemons.runtime.config.values import parse_locality_rules
from daemons.runtime.host import POWERED_OFF, EngineHost, PersistOutcome
from daemons.runtime.volatile import VolatileMemory
from daemons.vtpm.manager_client import ManagerLink
from daemons.vtpm.service import Admission, GuestService, client_label
from daemons.vtpm.store import KeyKeeper
from protocol.tpmif.errors import Refused
from protocol.tpmif.unix import PeerCredentials
from tests.unit.vtpm.fakes import GUEST, OTHER_GUEST, Lines
from tests.unit.vtpm.test_manager_client import FakeManager
from tpmcore.engine import (
    Description,
    Done,
    Duration,
    EffectResult,
    Event,
    EventDone,
    Exchange,
    Persist,
    Snapshot,
    Step,
)

PCR_READ = bytes.fromhex("00c1 0000000e 00000015 00000000")
SAVING = bytes.fromhex("00c1 0000000a 000000ff")  # the fake engine persists for this ordinal
FAIL = bytes.fromhex("00c4 0000000a 00000009")
SVIRT = "system_u:vm_r:vtpm_t"


@dataclass
class FakeEngine:
    """Answers with what it was asked; persists for one ordinal."""

    commands: list[tuple[bytes, int]] = field(default_factory=list)
    cancelled: int = 0
    pending: bytes = b""
    volatile_version: int = 0
    fault: Exception | None = None
    is_established: bool = False
    fails: bool = False

    def execute(self, command: bytes, locality: int) -> Step:
        if self.fails:
            raise RuntimeError("bug")
        self.commands.append((command, locality))
        if command == SAVING:
            self.pending = b"saved"
            return Persist(b"state")
        return b"answer to " + command

    def handle(self, event: Event) -> Step:
        return EventDone(0)

    def resume(self, result: EffectResult) -> Step:
        return self.pending if isinstance(result, Done) else FAIL

    def cancel(self) -> None:
        self.cancelled += 1

    def duration(self, command: bytes) -> Duration:
        return Duration.SHORT

    def permanent_state(self) -> bytes:
        return b""

    def volatile_state(self) -> bytes:
        return b"volatile"

    def snapshot(self) -> Snapshot:
        return Snapshot(False, (), ())

    def describe(self, command: bytes, response: bytes) -> Description:
        return Description(command.hex(), response.hex(), (), (), (), command, response)

    def exchange(self, command: bytes, response: bytes) -> Exchange:
        return Exchange(command.hex(), response.hex(), False)


@dataclass
class FakeMachine:
    """A machine whose firmware has done its work, and its control extension."""

    is_running: bool = True
    awaits_startup: bool = False
    told: list[tuple[bytes, bytes]] = field(default_factory=list)
    allowed: frozenset[int] | None = frozenset()
    on_startup: Callable[[], None] = lambda: None

    async def started_up(self, command: bytes, response: bytes) -> None:
        """Note what was told."""
        self.on_startup()
        self.told.append((command, response))

    async def answer(self, request: bytes, locality: int, allowed: frozenset[int] | None) -> bytes:
        """Answer a control request."""
        self.allowed = allowed
        return b"control %d: " % locality + request


@dataclass
class FakeDevice:
    """A connected front."""

    serial: int = 1
    label: str | None = None
    uid: int = 1000
    uuid: UUID = GUEST

    @property
    def peer(self) -> PeerCredentials:
        """Who it is."""
        return PeerCredentials(pid=1, uid=self.uid, gid=1, label=self.label)


@dataclass
class Bench:
    """A service with everything around it."""

    engine: FakeEngine
    manager: FakeManager
    service: GuestService
    link: ManagerLink
    host: EngineHost
    may_save: trio.Event
    machine: FakeMachine
    memory: VolatileMemory

    async def front(self, serial: int = 1, label: str | None = None) -> FakeDevice:
        """Connect a front."""
        device = FakeDevice(serial, label)
        await self.service.opened(device)
        return device


async def _accept(keeper: KeyKeeper) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def _bench(
    *rules: str, answer: Callable[[bytes], Awaitable[bytes]] | None = None
) -> AsyncIterator[Bench]:
    may_save = trio.Event()

    async def persist(state: bytes) -> PersistOutcome:
        await may_save.wait()
        return PersistOutcome.SAVED

    engine, manager, log = FakeEngine(), FakeManager(answer=answer), Lines().log()
    memory = VolatileMemory.create("test")
    host = EngineHost(engine, persist=persist, volatile=memory, log=log)
    link = ManagerLink(manager.open, log)
    machine = FakeMachine()
    service = GuestService(host, link, parse_locality_rules(rules), machine, machine, log)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(link.run, _accept))
        try:
            yield Bench(engine, manager, service, link, host, may_save, machine, memory)
        finally:
            link.close()


async def _echo(request: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return b"manager: " + request


async def _forever(request: bytes) -> bytes:
    await trio.sleep_forever()


async def test_a_short_command_is_answered_without_suspending() -> None:
    async with _bench() as bench:
        device = await bench.front()
        with assert_no_checkpoints():
            response = await bench.service.request(device, PCR_READ, 3)
        assert response == b"answer to " + PCR_READ
        assert bench.engine.commands == [(PCR_READ, 3)]


@pytest.mark.parametrize("request_", [b"", b"\x00", b"\x01", b"\x00\xc1\x00", b"\xff" * 20])
async def test_garbage_goes_to_the_tpm_which_knows_what_to_say(request_: bytes) -> None:
    async with _bench() as bench:
        device = await bench.front()
        assert await bench.service.request(device, request_, 0) == b"answer to " + request_


async def test_a_control_request_goes_to_the_machine_with_its_locality() -> None:
    async with _bench() as bench:
        device = await bench.front()
        bench.machine.is_running = False  # it is what may be asked then
        request = bytes.fromhex("02c1 0000000a 00000001")
        assert await bench.service.request(device, request, 3) == b"control 3: " + request
        assert (bench.engine.commands, bench.machine.allowed) == ([], None)


async def test_a_control_request_is_no_command_of_its_locality() -> None:
    async with _bench("uid:1000=2,3") as bench:
        device = await bench.front()
        request = bytes.fromhex("02c1 0000000a 00000002")
        assert await bench.service.request(device, request, 0) == b"control 0: " + request
        assert bench.machine.allowed == frozenset({2, 3})


async def test_a_stopped_tpm_fails_every_command_and_does_not_see_it() -> None:
    async with _bench() as bench:
        device = await bench.front()
        bench.machine.is_running = False
        assert await bench.service.request(device, b"command", 0) == FAIL
        assert bench.engine.commands == []


async def test_the_machine_hears_of_commands_while_it_waits_for_startup() -> None:
    async with _bench() as bench:
        device = await bench.front()
        await bench.service.request(device, b"first", 0)
        bench.machine.awaits_startup = True
        await bench.service.request(device, b"second", 0)
        assert bench.machine.told == [(b"second", b"answer to second")]


async def test_who_is_killed_between_startup_and_its_pcrs_has_not_started_up() -> None:
    async with _bench() as bench:
        device = await bench.front()
        bench.host.forget()
        kept: list[bytes | None] = []
        bench.machine.on_startup = lambda: kept.append(bench.memory.load())
        bench.machine.awaits_startup = True
        bench.engine.volatile_version += 1
        await bench.service.request(device, b"startup", 0)
        assert kept == [POWERED_OFF]
        assert bench.memory.load() == b"volatile"


async def test_a_management_request_goes_to_the_manager_as_it_is() -> None:
    async with _bench(answer=_echo) as bench:
        device = await bench.front()
        request = bytes.fromhex("01c2 0000000a 02000101")
        assert await bench.service.request(device, request, 0) == b"manager: " + request
        assert bench.engine.commands == []


async def test_a_guest_cannot_reach_the_managers_own_commands() -> None:
    async with _bench(answer=_echo) as bench:
        device = await bench.front()
        save = bytes.fromhex("01c1 0000004a 00000001") + bytes(64)
        as_hardware_command = bytes.fromhex("00c1") + save[2:]
        response = await bench.service.request(device, save, 0)
        assert response == b"manager: " + as_hardware_command
        assert bench.manager.received == [as_hardware_command]


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (bytes.fromhex("01c1 00000009 000000"), "00c4 0000000a 00000019"),
        (bytes.fromhex("01c2"), "00c4 0000000a 00000019"),
        (bytes.fromhex("01c2 00001000 02000101") + bytes(4086), "01c5 0000000a 00000019"),
    ],
)
async def test_what_the_managers_page_cannot_carry_is_refused_here(
    request_: bytes, response: str
) -> None:
    async with _bench() as bench:
        device = await bench.front()
        assert await bench.service.request(device, request_, 0) == bytes.fromhex(response)
        assert bench.manager.received == []


@pytest.mark.parametrize(
    ("tag", "response"),
    [("01c1", "00c4 0000000a 0000001f"), ("01c2", "01c5 0000000a 0000001f")],
)
async def test_without_a_manager_a_guest_gets_an_io_error_after_a_while(
    tag: str, response: str, autojump_clock: MockClock
) -> None:
    async with _bench() as bench:
        device = await bench.front()
        await bench.link.wait_up()
        bench.manager.refusal = ConnectionRefusedError()
        bench.manager.die()
        await trio.sleep(2)
        request = bytes.fromhex(tag + "0000000a 00000001")
        assert await bench.service.request(device, request, 0) == bytes.fromhex(response)
        assert await bench.service.request(device, PCR_READ, 0) == b"answer to " + PCR_READ


async def test_a_manager_that_dies_over_a_guests_request_is_an_io_error() -> None:
    async with _bench(answer=_forever) as bench, trio.open_nursery() as nursery:
        device = await bench.front()
        responses: list[bytes | None] = []
        request = bytes.fromhex("01c2 0000000a 02000101")
        nursery.start_soon(_collect, bench, device, request, responses)
        await wait_all_tasks_blocked()
        bench.manager.answer = None
        bench.manager.die()
        await wait_all_tasks_blocked()
        assert responses == [bytes.fromhex("01c5 0000000a 0000001f")]


async def _collect(
    bench: Bench, device: FakeDevice, request: bytes, responses: list[bytes | None]
) -> None:
    responses.append(await bench.service.request(device, request, 0))


async def test_what_waits_for_the_manager_does_not_hold_up_the_tpm() -> None:
    async with _bench(answer=_forever) as bench, trio.open_nursery() as nursery:
        one, two = await bench.front(1), await bench.front(2)
        nursery.start_soon(bench.service.request, one, bytes.fromhex("01c2 0000000a 02000101"), 0)
        await wait_all_tasks_blocked()
        assert await bench.service.request(two, PCR_READ, 0) == b"answer to " + PCR_READ
        nursery.cancel_scope.cancel()


async def test_waiting_devices_get_the_tpm_in_the_order_in_which_they_came() -> None:
    async with _bench() as bench:
        fronts = [await bench.front(serial) for serial in range(1, 6)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.service.request, fronts[0], SAVING, 0)
            await wait_all_tasks_blocked()
            for front in fronts[1:]:
                nursery.start_soon(bench.service.request, front, bytes([front.serial]), 0)
                await wait_all_tasks_blocked()
            assert len(bench.engine.commands) == 1
            bench.may_save.set()
        assert [command[0] for command, _ in bench.engine.commands[1:]] == [2, 3, 4, 5]


async def test_a_queued_request_that_is_cancelled_never_runs() -> None:
    async with _bench() as bench, trio.open_nursery() as nursery:
        one, two = await bench.front(1), await bench.front(2)
        nursery.start_soon(bench.service.request, one, SAVING, 0)
        await wait_all_tasks_blocked()
        responses: list[bytes | None] = []
        nursery.start_soon(_collect, bench, two, PCR_READ, responses)
        await wait_all_tasks_blocked()
        bench.service.cancel(two)
        await wait_all_tasks_blocked()
        assert responses == [None]
        assert bench.engine.cancelled == 0
        bench.may_save.set()
        await wait_all_tasks_blocked()
        assert [command for command, _ in bench.engine.commands] == [SAVING]
        assert await bench.service.request(two, PCR_READ, 0) == b"answer to " + PCR_READ


async def test_cancelling_a_running_command_tells_the_tpm_and_its_answer_still_comes() -> None:
    async with _bench() as bench, trio.open_nursery() as nursery:
        device = await bench.front()
        responses: list[bytes | None] = []
        nursery.start_soon(_collect, bench, device, SAVING, responses)
        await wait_all_tasks_blocked()
        bench.service.cancel(device)
        assert bench.engine.cancelled == 1
        bench.may_save.set()
        await wait_all_tasks_blocked()
        assert responses == [b"saved"]


async def test_cancelling_a_forwarded_request_gives_it_up_at_the_manager() -> None:
    async with _bench(answer=_forever) as bench, trio.open_nursery() as nursery:
        device = await bench.front()
        responses: list[bytes | None] = []
        request = bytes.fromhex("01c2 0000000a 02000101")
        nursery.start_soon(_collect, bench, device, request, responses)
        await wait_all_tasks_blocked()
        bench.service.cancel(device)
        await wait_all_tasks_blocked()
        assert responses == [None]
        assert bench.engine.cancelled == 0
        bench.manager.answer = _echo
        assert await bench.service.request(device, request, 0) == b"manager: " + request


async def test_cancel_without_a_request_and_after_the_end_does_nothing() -> None:
    async with _bench() as bench:
        device = await bench.front()
        bench.service.cancel(device)
        await bench.service.closed(device)
        bench.service.cancel(device)
        await bench.service.closed(device)
        assert bench.engine.cancelled == 0
        assert bench.service.fronts == 0


async def test_a_front_that_vanishes_while_it_waits_frees_its_place() -> None:
    async with _bench() as bench, trio.open_nursery() as nursery:
        one, two = await bench.front(1), await bench.front(2)
        nursery.start_soon(bench.service.request, one, SAVING, 0)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as gone:
            gone.start_soon(bench.service.request, two, PCR_READ, 0)
            await wait_all_tasks_blocked()
            gone.cancel_scope.cancel()
        await bench.service.closed(two)
        bench.may_save.set()
        await wait_all_tasks_blocked()
        assert await bench.service.request(one, PCR_READ, 0) == b"answer to " + PCR_READ


async def test_a_broken_engine_gives_no_answer_and_is_fatal() -> None:
    async with _bench() as bench:
        device = await bench.front()
        bench.engine.fails = True
        assert await bench.service.request(device, PCR_READ, 0) is None
        with pytest.raises(Exception, match="RuntimeError in execute"):
            await bench.host.wait_broken()


# --- who may connect ---


def test_a_front_of_the_configured_user_that_asks_for_this_vtpm_is_admitted() -> None:
    Admission(1000, GUEST, Lines().log()).admit(PeerCredentials(1, 1000, 1, None), GUEST)


@pytest.mark.parametrize(
    ("uid", "uuid"), [(1001, GUEST), (0, GUEST), (1000, OTHER_GUEST), (1001, OTHER_GUEST)]
)
def test_anybody_else_is_refused_and_logged(uid: int, uuid: UUID) -> None:
    lines = Lines()
    admission = Admission(1000, GUEST, lines.log())
    with pytest.raises(Refused):
        admission.admit(PeerCredentials(1, uid, 1, None), uuid)
    assert len(lines.lines) == 1


# --- localities ---


async def test_a_locality_outside_the_mask_of_the_label_is_refused_and_reaches_nobody() -> None:
    async with _bench(f"{SVIRT}=0,2", "*:vm_t=255", answer=_echo) as bench:
        device = await bench.front(1, SVIRT)
        assert await bench.service.request(device, PCR_READ, 0) != FAIL
        assert await bench.service.request(device, PCR_READ, 2) != FAIL
        bench.engine.commands.clear()
        for locality in (1, 3, 4, 32, 34, 255):
            assert await bench.service.request(device, PCR_READ, locality) == FAIL
        forwarded = bytes.fromhex("01c2 0000000a 02000101")
        assert await bench.service.request(device, forwarded, 1) == FAIL
        assert bench.engine.commands == []
        assert bench.manager.received == []


async def test_a_label_without_a_rule_may_use_no_locality() -> None:
    async with _bench(f"{SVIRT}=0") as bench:
        device = await bench.front(1, "user_u:user_r:user_t")
        assert await bench.service.request(device, PCR_READ, 0) == FAIL
        assert bench.engine.commands == []


@pytest.mark.parametrize(
    ("label", "expected"),
    [(SVIRT, SVIRT), (None, "uid:1000"), ("unconfined", "uid:1000"), ("", "uid:1000")],
)
def test_a_peer_without_a_context_is_known_by_its_uid(label: str | None, expected: str) -> None:
    assert client_label(PeerCredentials(1, 1000, 1, label)) == expected
