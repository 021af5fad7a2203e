# SPDX-License-Identifier: Apache-2.0
"""The machine around a vTPM: power, dynamic launch, states that go out and come in."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
import trio

from daemons.runtime.config.values import StartupKind
from daemons.runtime.files import StateFolder
from daemons.runtime.host import POWERED_OFF, EngineHost
from daemons.runtime.secret import Secret
from daemons.runtime.volatile import VolatileMemory
from daemons.vtpm.control import ControlService
from daemons.vtpm.factory import Tpm12Maker
from daemons.vtpm.machine import Machine
from daemons.vtpm.startup import Origin, Remains, start_up, wake
from daemons.vtpm.store import ImageStore, ManagerLost
from protocol.manager.constants import ManagerCode
from protocol.manager.framing import ManagerRefused
from protocol.tpm12 import Ordinal, ReturnCode, Tag, build_message, error_response, parse_header
from protocol.tpm12.wire import Structure
from protocol.vtpm.control import (
    CHUNK_BYTES,
    NO_SUCH_STATE,
    BufferSize,
    BufferSizes,
    Config,
    ControlOrdinal,
    Data,
    Established,
    GetInfo,
    GetState,
    InfoChunk,
    PowerOn,
    SetState,
    StateChunk,
    StateFlags,
    StateType,
    decode_response,
    encode_request,
)
from tests.faulty_disk import FaultyDisk, power_cuts
from tests.unit.vtpm.fakes import GUEST, CountingRandom, FakeKeeper, Lines, Vault
from tests.unit.vtpm.test_startup import FOLDER, make_maker

STARTUP = build_message(Tag.RQU_COMMAND, Ordinal.STARTUP, b"\0\1")
ZEROS = bytes(20)
ONES = b"\xff" * 20
DIGEST = hashlib.sha1(b"measured").digest()


@dataclass
class FakeKeys:
    """A manager that knows the descriptors that it gave."""

    given: dict[bytes, bytes] = field(default_factory=dict)
    error: Exception | None = None

    async def state_key_new(self) -> tuple[Secret, bytes]:
        """Return a fresh key."""
        await self._fail()
        descriptor = b"descriptor %d" % len(self.given)
        self.given[descriptor] = hashlib.sha256(descriptor).digest()
        return Secret(self.given[descriptor]), descriptor

    async def state_key_open(self, descriptor: bytes) -> Secret:
        """Return a key that was given."""
        await self._fail()
        if descriptor not in self.given:
            raise ManagerRefused(ManagerCode.AUTHFAIL)
        return Secret(self.given[descriptor])

    async def _fail(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error


@dataclass
class Vtpm:
    """One vTPM process: its engine in a machine, as the daemon puts them together."""

    host: EngineHost
    machine: Machine
    control: ControlService
    memory: VolatileMemory
    store: ImageStore
    origin: Origin
    maker: Tpm12Maker

    async def ask(
        self,
        ordinal: ControlOrdinal,
        body: Structure | None = None,
        locality: int = 0,
        allowed: frozenset[int] | None = None,
    ) -> tuple[int, bytes]:
        """Send a control request; code and body of its response."""
        request = encode_request(ordinal, body)
        return decode_response(await self.control.answer(request, locality, allowed))

    async def do(self, ordinal: ControlOrdinal, body: Structure | None = None) -> bytes:
        """Send a control request that is carried out."""
        code, answer = await self.ask(ordinal, body)
        assert code == 0
        return answer

    async def power_on(self, *, delete_volatile: bool = False) -> None:
        """Do a power cycle."""
        await self.do(ControlOrdinal.POWER_ON, PowerOn(int(delete_volatile)))

    async def command(self, ordinal: Ordinal, body: bytes = b"", locality: int = 0) -> bytes:
        """Send a command as the service gives it to the TPM; its response must be a success."""
        response = await self.send(build_message(Tag.RQU_COMMAND, ordinal, body), locality)
        assert parse_header(response).code == 0
        return response[10:]

    async def send(self, command: bytes, locality: int = 0) -> bytes:
        """Send a command, as the service does."""
        if not self.machine.is_running:
            return error_response(ReturnCode.FAIL)
        response = await self.host.execute(command, locality)
        if self.machine.awaits_startup:
            await self.machine.started_up(command, response)
        return response

    async def pcr(self, index: int) -> bytes:
        """Read a PCR."""
        return await self.command(Ordinal.PCR_READ, index.to_bytes(4, "big"))

    async def extend(self, index: int) -> bytes:
        """Extend a PCR with `DIGEST`; its new value."""
        return await self.command(Ordinal.EXTEND, index.to_bytes(4, "big") + DIGEST)

    async def fetch(self, kind: StateType) -> bytes:
        """Fetch a whole blob."""
        blob = b""
        while True:
            body = await self.do(ControlOrdinal.GET_STATE, GetState(kind, len(blob)))
            chunk = StateChunk.decode(body)
            assert chunk.flags == StateFlags.ENCRYPTED
            blob += chunk.data
            if len(blob) == chunk.total:
                return blob

    async def put(self, kind: StateType, blob: bytes) -> int:
        """Send a whole blob; the code of the last answer."""
        code = 0
        for offset in range(0, len(blob), CHUNK_BYTES):
            data = blob[offset : offset + CHUNK_BYTES]
            chunk = SetState(StateFlags.ENCRYPTED, kind, len(blob), offset, data)
            code, _ = await self.ask(ControlOrdinal.SET_STATE, chunk)
            if code:
                break
        return code


@dataclass
class Guest:
    """A disk, a manager and a supervisor, with which processes come and go."""

    disk: FaultyDisk = field(default_factory=FaultyDisk)
    vault: Vault = field(default_factory=Vault)
    keys: FakeKeys = field(default_factory=FakeKeys)
    lines: Lines = field(default_factory=Lines)
    pcrs: Mapping[int, bytes] = field(default_factory=dict)
    name: str = "source"
    count: int = 0

    async def start(self, volatile: bytes | None = None) -> Vtpm:
        """Start a process.

        Args:
            volatile: what the memory of the last one holds.
        """
        self.count += 1
        log = self.lines.log()
        store = ImageStore(
            StateFolder(FOLDER, self.disk),
            GUEST,
            FakeKeeper(self.vault),
            CountingRandom(f"{self.name} {self.count}".encode()),
            log,
            lambda _: None,
        )
        maker = make_maker(f"{self.name} {self.count}")
        waking = await wake(GUEST, store, maker, Remains(volatile, was_killed=False), log)
        memory = VolatileMemory.create("test")
        host = EngineHost(waking.engine, persist=store.save, volatile=memory, log=log)
        await start_up(host, waking.origin, StartupKind.CLEAR, {}, log)
        machine = Machine(
            host,
            store,
            maker,
            self.keys,
            self._read_pcrs,
            uuid=GUEST,
            random=CountingRandom(b"nonces"),
            log=log,
            is_running=waking.origin is not Origin.STOPPED,
            pcrs_due=self.pcrs if waking.origin is Origin.RESUMED else None,
        )
        control = ControlService(machine, maker, log)
        return Vtpm(host, machine, control, memory, store, waking.origin, maker)

    async def _read_pcrs(self) -> Mapping[int, bytes]:
        await trio.lowlevel.checkpoint()
        return self.pcrs


async def test_a_power_cycle_resets_pcrs_and_waits_for_startup() -> None:
    vtpm = await Guest().start()
    await vtpm.extend(1)
    await vtpm.power_on()
    waiting = await vtpm.send(build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, bytes(4)))
    assert parse_header(waiting).code == ReturnCode.INVALID_POSTINIT
    await vtpm.send(STARTUP)
    assert await vtpm.pcr(1) == ZEROS


async def test_a_stopped_tpm_stays_stopped_over_a_restart_of_the_daemon() -> None:
    guest = Guest()
    vtpm = await guest.start()
    await vtpm.do(ControlOrdinal.POWER_OFF)
    assert not vtpm.machine.is_running
    assert vtpm.memory.load() == POWERED_OFF
    await vtpm.do(ControlOrdinal.POWER_OFF)  # always succeeds

    again = await guest.start(vtpm.memory.load())
    assert (again.origin, again.machine.is_running) == (Origin.STOPPED, False)
    assert again.memory.load() == POWERED_OFF
    await again.power_on()
    await again.send(STARTUP)
    assert await again.pcr(0) == ZEROS


async def test_after_a_power_cycle_the_memory_has_the_new_state() -> None:
    guest = Guest()
    vtpm = await guest.start()
    await vtpm.power_on()
    await vtpm.send(STARTUP)
    value = await vtpm.extend(3)
    again = await guest.start(vtpm.memory.load())
    assert again.origin is Origin.RESUMED
    assert await again.pcr(3) == value


async def test_pcrs_of_the_hardware_follow_the_firmwares_startup() -> None:
    vtpm = await Guest(pcrs={5: DIGEST}).start()
    await vtpm.power_on()
    await vtpm.send(build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, bytes(4)))  # too early
    await vtpm.send(STARTUP)
    assert await vtpm.pcr(5) == DIGEST
    await vtpm.extend(5)
    await vtpm.send(STARTUP)  # refused, so nothing is set again
    assert await vtpm.pcr(5) != DIGEST


async def test_pcrs_of_the_hardware_are_not_forgotten_by_a_daemon_that_is_replaced() -> None:
    guest = Guest(pcrs={5: DIGEST})
    vtpm = await guest.start()
    await vtpm.power_on()
    again = await guest.start(vtpm.memory.load())
    assert again.origin is Origin.RESUMED
    await again.send(STARTUP)
    assert await again.pcr(5) == DIGEST
    value = await again.extend(5)
    # A TPM that is started up keeps what was measured.
    third = await guest.start(again.memory.load())
    await third.send(STARTUP)
    assert await third.pcr(5) == value


async def test_pcrs_of_the_hardware_are_not_forgotten_by_a_suspended_machine() -> None:
    guest = Guest(pcrs={5: DIGEST})
    vtpm = await guest.start()
    for is_started_up in (False, True):
        await vtpm.power_on()
        if is_started_up:
            await vtpm.send(STARTUP)
            await vtpm.extend(5)
        permanent, volatile = await _suspend(vtpm)
        await vtpm.do(ControlOrdinal.POWER_OFF)
        await vtpm.put(StateType.PERMANENT, permanent)
        await vtpm.put(StateType.VOLATILE, volatile)
        await vtpm.power_on(delete_volatile=True)
        await vtpm.send(STARTUP)
        assert (await vtpm.pcr(5) == DIGEST) is not is_started_up


async def test_a_reset_by_the_operator_starts_a_stopped_tpm() -> None:
    vtpm = await Guest(pcrs={5: DIGEST}).start()
    await vtpm.do(ControlOrdinal.POWER_OFF)
    await vtpm.machine.reset({5: DIGEST})
    assert vtpm.machine.is_running
    assert await vtpm.pcr(5) == DIGEST


async def test_a_dynamic_launch_measures_and_sets_the_established_flag() -> None:
    vtpm = await Guest().start()
    assert await vtpm.do(ControlOrdinal.GET_ESTABLISHED) == Established(0).encode()
    await vtpm.do(ControlOrdinal.HASH_START)
    await vtpm.do(ControlOrdinal.HASH_DATA, Data(b"mea"))
    await vtpm.do(ControlOrdinal.HASH_DATA, Data(b"sured"))
    await vtpm.do(ControlOrdinal.HASH_END)
    assert await vtpm.pcr(17) == hashlib.sha1(ZEROS + DIGEST).digest()
    assert await vtpm.do(ControlOrdinal.GET_ESTABLISHED) == Established(1).encode()


@pytest.mark.parametrize(("locality", "code"), [(0, 61), (2, 61), (3, 0), (4, 0)])
async def test_the_established_flag_is_reset_at_localities_3_and_4(
    locality: int, code: int
) -> None:
    vtpm = await Guest().start()
    for step in (ControlOrdinal.HASH_START, ControlOrdinal.HASH_END):
        await vtpm.do(step)
    answer = await vtpm.ask(ControlOrdinal.RESET_ESTABLISHED, None, locality)
    assert answer == (code, b"")
    assert vtpm.machine.is_established == bool(code)


async def test_the_flag_is_reset_whatever_state_the_tpm_is_in() -> None:
    vtpm = await Guest().start()
    await vtpm.do(ControlOrdinal.HASH_START)
    await vtpm.power_on()  # and no TPM_Startup follows
    assert vtpm.machine.is_established
    assert await vtpm.ask(ControlOrdinal.RESET_ESTABLISHED, None, 3) == (0, b"")
    assert not vtpm.machine.is_established


@pytest.mark.parametrize("step", [ControlOrdinal.HASH_DATA, ControlOrdinal.HASH_END])
async def test_a_hash_sequence_has_a_beginning(step: ControlOrdinal) -> None:
    vtpm = await Guest().start()
    code, _ = await vtpm.ask(step, Data(b"") if step is ControlOrdinal.HASH_DATA else None)
    assert code
    assert not vtpm.machine.is_established


async def test_a_front_uses_no_locality_that_is_not_its_own() -> None:
    vtpm = await Guest().start()
    may = frozenset({0, 3})
    start, reset = ControlOrdinal.HASH_START, ControlOrdinal.RESET_ESTABLISHED
    assert await vtpm.ask(start, None, 0, may) == (ReturnCode.BAD_LOCALITY, b"")
    assert await vtpm.ask(reset, None, 4, may) == (ReturnCode.BAD_LOCALITY, b"")
    assert await vtpm.ask(reset, None, 3, may) == (0, b"")
    assert await vtpm.ask(start, None, 0, may | {4}) == (0, b"")
    assert await vtpm.ask(ControlOrdinal.GET_ESTABLISHED, None, 2, may) == (0, b"\1")


# --- states --------------------------------------------------------------------------------------


async def _suspend(vtpm: Vtpm) -> tuple[bytes, bytes]:
    return await vtpm.fetch(StateType.PERMANENT), await vtpm.fetch(StateType.VOLATILE)


async def test_a_suspended_tpm_goes_on_elsewhere_where_it_was() -> None:
    source = Guest()
    target = Guest(keys=source.keys, name="target")
    vtpm = await source.start()
    value = await vtpm.extend(4)
    session = await vtpm.command(Ordinal.OIAP)
    permanent, volatile = await _suspend(vtpm)

    other = await target.start()
    assert other.host.engine.permanent_state() != vtpm.host.engine.permanent_state()
    await other.do(ControlOrdinal.POWER_OFF)
    assert await other.put(StateType.PERMANENT, permanent) == 0
    assert await other.put(StateType.VOLATILE, volatile) == 0
    await other.power_on(delete_volatile=True)
    assert await other.pcr(4) == value
    await other.command(Ordinal.TERMINATE_HANDLE, session[:4])
    assert other.host.engine.permanent_state() == vtpm.host.engine.permanent_state()

    # What served once does not serve again.
    await other.power_on()
    assert other.store.kept_volatile is None
    await other.send(STARTUP)
    assert await other.pcr(4) == ZEROS


async def test_a_volatile_state_may_come_before_the_permanent_one() -> None:
    source = Guest()
    vtpm = await source.start()
    value = await vtpm.extend(4)
    permanent, volatile = await _suspend(vtpm)
    other = await Guest(keys=source.keys, name="target").start()
    await other.do(ControlOrdinal.POWER_OFF)
    assert await other.put(StateType.VOLATILE, volatile) == 0
    assert await other.put(StateType.PERMANENT, permanent) == 0
    await other.power_on(delete_volatile=True)
    assert await other.pcr(4) == value
    assert other.host.engine.permanent_state() == vtpm.host.engine.permanent_state()


async def test_what_was_stored_does_not_go_on_beside_another_permanent_state() -> None:
    vtpm = await Guest().start()
    permanent, _ = await _suspend(vtpm)
    await vtpm.extend(4)
    await vtpm.do(ControlOrdinal.STORE_VOLATILE)
    await vtpm.do(ControlOrdinal.POWER_OFF)
    assert await vtpm.put(StateType.PERMANENT, permanent) == 0
    assert vtpm.store.kept_volatile is None


async def test_a_state_that_came_in_outlives_the_daemon_before_it_is_used() -> None:
    source = Guest()
    target = Guest(keys=source.keys, name="target")
    vtpm = await source.start()
    value = await vtpm.extend(4)
    permanent, volatile = await _suspend(vtpm)
    other = await target.start()
    await other.do(ControlOrdinal.POWER_OFF)
    await other.put(StateType.PERMANENT, permanent)
    await other.put(StateType.VOLATILE, volatile)

    again = await target.start(other.memory.load())
    await again.power_on(delete_volatile=True)
    assert await again.pcr(4) == value


async def test_a_power_on_that_keeps_the_volatile_state_can_be_repeated() -> None:
    guest = Guest()
    vtpm = await guest.start()
    value = await vtpm.extend(4)
    await vtpm.do(ControlOrdinal.STORE_VOLATILE)
    await vtpm.extend(4)
    for _ in range(2):
        await vtpm.power_on()
        assert await vtpm.pcr(4) == value
        await vtpm.extend(4)
    again = await guest.start(None)  # the machine was off: nothing but the image is left
    assert await again.pcr(4) == ZEROS
    await again.power_on(delete_volatile=True)
    assert await again.pcr(4) == value


async def test_blobs_show_nothing_of_the_state() -> None:
    vtpm = await Guest().start()
    state = vtpm.host.engine.permanent_state()
    blob = await vtpm.fetch(StateType.PERMANENT)
    windows = {state[start : start + 16] for start in range(0, len(state) - 16)}
    telling = {window for window in windows if len(set(window)) > 8}
    assert telling
    assert [window for window in telling if window in blob] == []


async def test_no_one_bit_of_a_blob_can_be_changed() -> None:
    vtpm = await Guest().start()
    blob = await vtpm.fetch(StateType.PERMANENT)
    image = vtpm.store.sequence
    await vtpm.do(ControlOrdinal.POWER_OFF)
    for position in (*range(0, 90), *range(90, len(blob), 97), len(blob) - 1):
        changed = bytearray(blob)
        changed[position] ^= 1
        assert await vtpm.put(StateType.PERMANENT, bytes(changed)) != 0
    for cut in (blob[:-1], blob[:59], blob + b"\0"):
        assert await vtpm.put(StateType.PERMANENT, cut) == ReturnCode.BAD_PARAMETER
    assert vtpm.store.sequence == image


async def test_a_blob_is_taken_as_what_it_is_only() -> None:
    vtpm = await Guest().start()
    permanent, volatile = await _suspend(vtpm)
    await vtpm.do(ControlOrdinal.POWER_OFF)
    assert await vtpm.put(StateType.VOLATILE, permanent) == ReturnCode.BAD_PARAMETER
    assert await vtpm.put(StateType.PERMANENT, volatile) == ReturnCode.BAD_PARAMETER
    assert await vtpm.put(StateType.SAVED, permanent) == ReturnCode.BAD_PARAMETER


async def test_the_log_says_whose_blob_it_was_whose_key_is_refused() -> None:
    guest = Guest()
    vtpm = await guest.start()
    own = await vtpm.fetch(StateType.PERMANENT)
    another = bytearray(own)
    another[16:32] = UUID(int=0xB).bytes
    guest.keys.given.clear()
    await vtpm.do(ControlOrdinal.POWER_OFF)
    for blob, said in (
        (own, "state blob: manager refused"),
        (bytes(another), f"state blob of another vTPM ({UUID(int=0xB)}): manager refused"),
    ):
        assert await vtpm.put(StateType.PERMANENT, blob) == ReturnCode.AUTHFAIL
        assert said in guest.lines.lines[-1]


async def test_a_blob_of_another_manager_is_refused() -> None:
    vtpm = await Guest().start()
    blob = await vtpm.fetch(StateType.PERMANENT)
    other = await Guest(name="other").start()
    before = other.host.engine.permanent_state()
    await other.do(ControlOrdinal.POWER_OFF)
    assert await other.put(StateType.PERMANENT, blob) == ReturnCode.AUTHFAIL
    await other.power_on()
    assert other.host.engine.permanent_state() == before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ManagerRefused(ManagerCode.DISABLED), ManagerCode.DISABLED),
        (ManagerRefused(ManagerCode.BAD_ORDINAL), ReturnCode.FAIL),
        # TPM_RETRY and TPM_DEFEND_LOCK_RUNNING of a hardware TPM: to QEMU they are an empty blob.
        (ManagerRefused(0x800), ReturnCode.FAIL),
        (ManagerRefused(0x803), ReturnCode.FAIL),
        (ManagerLost("gone", submitted=True), ReturnCode.IOERROR),
    ],
)
async def test_without_a_key_there_is_no_blob_and_the_tpm_goes_on(
    error: Exception, code: int
) -> None:
    guest = Guest()
    vtpm = await guest.start()
    guest.keys.error = error
    answer = await vtpm.ask(ControlOrdinal.GET_STATE, GetState(StateType.PERMANENT, 0))
    assert answer == (code, b"")
    assert await vtpm.ask(ControlOrdinal.GET_STATE, GetState(StateType.PERMANENT, 1)) == (3, b"")
    assert await vtpm.pcr(0) == ZEROS


@pytest.mark.parametrize(
    ("kind", "code"), [(StateType.SAVED, NO_SUCH_STATE), (0, 9), (4, 9), (0xFFFFFFFF, 9)]
)
async def test_states_that_there_are_not(kind: int, code: int) -> None:
    vtpm = await Guest().start()
    assert await vtpm.ask(ControlOrdinal.GET_STATE, GetState(kind, 0)) == (code, b"")


async def test_a_state_that_cannot_be_saved_does_not_come_in() -> None:
    guest = Guest()
    vtpm = await guest.start()
    value = await vtpm.extend(4)
    permanent, _ = await _suspend(vtpm)
    await vtpm.do(ControlOrdinal.POWER_OFF)
    before, image = guest.disk.contents(), vtpm.store.sequence
    guest.disk.fail_at(1, errno.ENOSPC, stays=True)
    assert await vtpm.put(StateType.PERMANENT, permanent) == ReturnCode.IOERROR
    guest.disk.mend()
    assert vtpm.store.sequence == image
    current = Path(FOLDER / f"slot{1 - image % 2}")
    assert guest.disk.contents()[current] == before[current]
    await vtpm.power_on()
    await vtpm.send(STARTUP)
    assert await vtpm.pcr(4) == ZEROS != value


def test_a_power_cut_while_a_state_comes_in_leaves_the_old_one_or_the_new_one_whole() -> None:
    source = Guest()

    async def suspended() -> tuple[bytes, bytes, bytes]:
        vtpm = await source.start()
        await vtpm.extend(4)
        return (*await _suspend(vtpm), vtpm.host.engine.permanent_state())

    async def old() -> tuple[Guest, bytes]:
        guest = Guest(keys=source.keys, name="target")
        return guest, (await guest.start()).host.engine.permanent_state()

    async def put(guest: Guest) -> None:
        vtpm = await guest.start()
        await vtpm.do(ControlOrdinal.POWER_OFF)
        assert await vtpm.put(StateType.PERMANENT, permanent) == 0
        assert await vtpm.put(StateType.VOLATILE, volatile) == 0
        await vtpm.power_on(delete_volatile=True)

    permanent, volatile, new_state = trio.run(suspended)
    before, old_state = trio.run(old)
    guests: list[Guest] = []

    def act(disk: FaultyDisk) -> None:
        guests.append(Guest(disk, Vault(before.vault.data), source.keys))
        trio.run(put, guests[-1])

    found = set()
    for case in power_cuts(before.disk, act):
        guest = Guest(case.disk, guests[-1].vault, source.keys)
        vtpm = trio.run(guest.start)
        state = vtpm.host.engine.permanent_state()
        assert state in (old_state, new_state), case
        if case.completed:
            assert (state, vtpm.store.kept_volatile) == (new_state, None)
        found.add((state == new_state, vtpm.store.kept_volatile is not None))
    assert found == {(False, False), (True, False), (True, True)}


# --- requests ------------------------------------------------------------------------------------

RUNNING_ONLY = {
    ControlOrdinal.GET_ESTABLISHED: None,
    ControlOrdinal.RESET_ESTABLISHED: None,
    ControlOrdinal.HASH_START: None,
    ControlOrdinal.HASH_DATA: Data(b"x"),
    ControlOrdinal.HASH_END: None,
    ControlOrdinal.STORE_VOLATILE: None,
    ControlOrdinal.GET_STATE: GetState(1, 0),
}


@pytest.mark.parametrize("ordinal", RUNNING_ONLY)
async def test_what_needs_a_running_tpm_is_refused_while_it_is_stopped(
    ordinal: ControlOrdinal,
) -> None:
    vtpm = await Guest().start()
    await vtpm.do(ControlOrdinal.POWER_OFF)
    answer = await vtpm.ask(ordinal, RUNNING_ONLY[ordinal], locality=4)
    assert answer == (ReturnCode.BAD_ORDINAL, b"")


async def test_what_needs_a_stopped_tpm_is_refused_while_it_runs() -> None:
    vtpm = await Guest().start()
    blob = await vtpm.fetch(StateType.PERMANENT)
    assert await vtpm.put(StateType.PERMANENT, blob) == ReturnCode.BAD_ORDINAL
    answer = await vtpm.ask(ControlOrdinal.BUFFER_SIZE, BufferSize(4000))
    assert answer == (ReturnCode.BAD_ORDINAL, b"")


async def test_the_buffer_is_brought_within_its_limits_and_counts_from_the_next_power_on() -> None:
    vtpm = await Guest().start()
    asked = await vtpm.do(ControlOrdinal.BUFFER_SIZE, BufferSize(0))
    assert BufferSizes.decode(asked) == BufferSizes(4088, 3072, 4088)
    await vtpm.do(ControlOrdinal.POWER_OFF)
    for wanted, size in ((1, 3072), (0xFFFFFFFF, 4088), (3500, 3500), (0, 3500)):
        answer = await vtpm.do(ControlOrdinal.BUFFER_SIZE, BufferSize(wanted))
        assert BufferSizes.decode(answer).size == size
    await vtpm.power_on()
    await vtpm.send(STARTUP)
    prop = bytes.fromhex("00000005 00000004 00000124")
    assert (await vtpm.command(Ordinal.GET_CAPABILITY, prop))[4:] == (3500).to_bytes(4, "big")


async def test_what_is_told_of_the_tpm() -> None:
    vtpm = await Guest().start()
    assert await vtpm.do(ControlOrdinal.GET_CONFIG) == Config(3).encode()
    text = (
        b'{"TPMSpecification":{"family":"1.2","level":2,"revision":116},'
        b'"TPMAttributes":{"manufacturer":"id:5654504D","version":"id:01020100","model":"vtpm"}}'
    )
    answer = await vtpm.do(ControlOrdinal.GET_INFO, GetInfo(0xFF, 0))
    assert InfoChunk.decode(answer) == InfoChunk(len(text), text)
    rest = await vtpm.do(ControlOrdinal.GET_INFO, GetInfo(0xFF, 10))
    assert InfoChunk.decode(rest) == InfoChunk(len(text), text[10:])
    assert await vtpm.do(ControlOrdinal.GET_INFO, GetInfo(4, 0)) == InfoChunk(2, b"{}").encode()
    assert await vtpm.ask(ControlOrdinal.GET_INFO, GetInfo(4, 3)) == (3, b"")
    await vtpm.do(ControlOrdinal.LOCK_STATE)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ("02c1 0000000b 00000001", 3),
        ("02c1 00000009 00000001", 3),
        ("02c1 0000000a 00000001", 3),
        ("02c1 0000000b 00000001 02", 3),
        ("02c1 0000000c 00000001 0000", 3),
        ("02c1 0000000b 00000002 00", 3),
        ("02c1 0000000a 00000000", 10),
        ("02c1 0000000a 0000000f", 10),
        ("02c1 0000000a ffffffff", 10),
        ("02c1", 3),
        ("02c1 0000000e 00000009 00000001", 3),
        ("02c1 0000001b 0000000a 00000002 00000001 00000001 00000000 00", 10),
    ],
)
async def test_a_request_that_is_none_changes_nothing(request_: str, code: int) -> None:
    guest = Guest()
    vtpm = await guest.start()
    value = await vtpm.extend(1)
    response = await vtpm.control.answer(bytes.fromhex(request_), 0, None)
    assert decode_response(response) == (code, b"")
    assert await vtpm.pcr(1) == value
    assert any("control request refused" in line for line in guest.lines.lines)


@pytest.mark.parametrize(
    "chunk",
    [
        SetState(2, 1, 0, 0, b"x"),
        SetState(2, 1, 512 * 1024 + 1, 0, b"x"),
        SetState(2, 1, 10, 0, b""),
        SetState(2, 1, 10, 0, b"01234567890"),
        SetState(2, 1, 10, 1, b"x"),
        SetState(2, 1, 5000, 0, bytes(4001)),
    ],
)
async def test_pieces_that_do_not_fit_are_refused(chunk: SetState) -> None:
    vtpm = await Guest().start()
    await vtpm.do(ControlOrdinal.POWER_OFF)
    assert await vtpm.ask(ControlOrdinal.SET_STATE, chunk) == (3, b"")


async def test_a_piece_out_of_order_ends_the_blob() -> None:
    vtpm = await Guest().start()
    blob = await vtpm.fetch(StateType.PERMANENT)
    await vtpm.do(ControlOrdinal.POWER_OFF)
    first, second = blob[:100], blob[100:200]
    for wrong in (SetState(2, 1, len(blob), 101, second), SetState(2, 2, len(blob), 100, second)):
        await vtpm.do(ControlOrdinal.SET_STATE, SetState(2, 1, len(blob), 0, first))
        assert await vtpm.ask(ControlOrdinal.SET_STATE, wrong) == (3, b"")
        right = SetState(2, 1, len(blob), 100, second)
        assert await vtpm.ask(ControlOrdinal.SET_STATE, right) == (3, b"")
    assert await vtpm.put(StateType.PERMANENT, blob) == 0
