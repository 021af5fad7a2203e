# SPDX-License-Identifier: Apache-2.0
"""How a vTPM process comes to its TPM: anew, from an image, from what the last process left."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from daemons.runtime.config.values import EndorsementKey, StartupKind
from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.files import StateFolder
from daemons.runtime.host import EngineHost, PersistOutcome
from daemons.runtime.notify import Notifier
from daemons.runtime.volatile import VolatileMemory
from daemons.vtpm.factory import Tpm12Maker
from daemons.vtpm.manager_client import ManagerCommands
from daemons.vtpm.options import Config
from daemons.vtpm.startup import (
    Origin,
    Remains,
    read_hardware_pcrs,
    read_seed,
    reset,
    start_up,
    wake,
)
from daemons.vtpm.store import ImageStore, ManagerLost
from daemons.vtpm.volatility import CAP_DIGEST, CAP_TEXT, take_memory
from protocol.tpm12 import Ordinal, Tag, build_message, parse_header
from protocol.tpm12.constants import CapabilityArea
from protocol.tpm12.wire import U32
from tests.faulty_disk import FaultyDisk
from tests.unit.tpm12.world import SeededRandom
from tests.unit.vtpm.fakes import GUEST, CountingRandom, FakeKeeper, Lines, Vault
from tpmcore.engine import Engine, Event, EventDone

FOLDER = Path("/state")
FRESH = Remains(None, was_killed=False)
ZEROS = bytes(20)


class NoKeys:
    """A key source that is not to be asked."""

    def generate(self, bits: int, exponent: int) -> tuple[int, int]:
        raise AssertionError((bits, exponent))


def make_maker(seed: str, *, opted_in: bool = True) -> Tpm12Maker:
    """Return what makes real engines, without an endorsement key for speed."""
    nowhere = Path("/nowhere")
    config = Config(
        *(nowhere, nowhere, nowhere, nowhere, GUEST, "g1"),
        front_uid=0,
        ek=EndorsementKey.NONE,
        opted_in=opted_in,
    )
    return Tpm12Maker(config, SeededRandom(seed), NoKeys())


@pytest.mark.parametrize("opted_in", [True, False])
def test_a_new_tpm_comes_enabled_and_activated_or_neither(opted_in: bool) -> None:
    flags = make_maker("new", opted_in=opted_in).manufacture().snapshot().flags
    assert ("enabled" in flags, "activated" in flags) == (opted_in, opted_in)
    assert "NV locked" in flags


@dataclass
class Started:
    """A TPM that was started up."""

    host: EngineHost
    engine: Engine
    origin: Origin

    async def send(self, ordinal: Ordinal, body: bytes = b"") -> bytes:
        """Run a command; its response must be a success."""
        response = await self.host.execute(build_message(Tag.RQU_COMMAND, ordinal, body), 0)
        assert parse_header(response).code == 0
        return response[10:]

    async def pcr(self, index: int) -> bytes:
        """Read a PCR."""
        return await self.send(Ordinal.PCR_READ, index.to_bytes(4, "big"))

    async def extend(self, index: int, digest: bytes) -> bytes:
        """Extend a PCR; its new value."""
        return await self.send(Ordinal.EXTEND, index.to_bytes(4, "big") + digest)


@dataclass
class Guest:
    """A disk and a manager, on which processes come and go."""

    disk: FaultyDisk = field(default_factory=FaultyDisk)
    vault: Vault = field(default_factory=Vault)
    lines: Lines = field(default_factory=Lines)
    count: int = 0

    async def start(
        self,
        remains: Remains = FRESH,
        kind: StartupKind = StartupKind.CLEAR,
        pcrs: dict[int, bytes] | None = None,
    ) -> Started:
        """Start a process."""
        self.count += 1
        log = self.lines.log()
        store = ImageStore(
            StateFolder(FOLDER, self.disk),
            GUEST,
            FakeKeeper(self.vault),
            CountingRandom(self.count.to_bytes(4, "big")),
            log,
            lambda _: None,
        )
        waking = await wake(GUEST, store, make_maker(f"process {self.count}"), remains, log)
        host = EngineHost(waking.engine, persist=store.save, volatile=None, log=log)
        await start_up(host, waking.origin, kind, pcrs or {}, log)
        return Started(host, waking.engine, waking.origin)


async def test_a_new_tpm_is_as_xens_is() -> None:
    started = await Guest().start()
    flag = U32.write(CapabilityArea.FLAG) + U32.write(4)
    permanent = await started.send(Ordinal.GET_CAPABILITY, flag + bytes.fromhex("00000108"))
    assert permanent[4:] == bytes.fromhex(
        "001f"
        "00 01 00 01"  # enabled, ownership allowed, activated, readPubek
        "00 01"  # maintenance allowed
        "00 00 01"  # presence by command
        "00 00 00 00 00"
        "01"  # enableRevokeEK: this one has no EK yet
        "01"  # nvLocked: permissions of NV areas count from the first command on
        "00 00 00 00"
    )
    volatile = await started.send(Ordinal.GET_CAPABILITY, flag + bytes.fromhex("00000109"))
    assert volatile[4:] == bytes.fromhex("0020 00 00 01 00 00")  # presence asserted


class WatchedHost(EngineHost):
    """Notes what a kill would leave in the memory, before and after each step."""

    def __init__(self, engine: Engine, memory: VolatileMemory, lines: Lines) -> None:
        async def save(_state: bytes) -> PersistOutcome:
            await trio.lowlevel.checkpoint()
            return PersistOutcome.SAVED

        super().__init__(engine, persist=save, volatile=memory, log=lines.log())
        self._memory = memory
        self.left: list[bytes | None] = []

    async def execute(self, command: bytes, locality: int) -> bytes:
        self.left.append(self._memory.load())
        response = await super().execute(command, locality)
        self.left.append(self._memory.load())
        return response

    async def handle(self, event: Event) -> EventDone:
        self.left.append(self._memory.load())
        done = await super().handle(event)
        self.left.append(self._memory.load())
        return done


def _extended(value: bytes, digest: bytes) -> bytes:
    return hashlib.sha1(value + digest).digest()


async def test_a_new_tpm_is_saved_before_it_serves() -> None:
    guest = Guest()
    first = await guest.start()
    assert first.origin is Origin.NEW
    assert len(guest.disk.contents()) >= 1
    assert (await guest.start()).origin is Origin.POWERED_ON
    assert await first.pcr(0) == ZEROS


async def test_a_first_image_that_cannot_be_saved_is_no_start() -> None:
    guest = Guest()
    guest.disk.fail_at(1, 28, stays=True)
    with pytest.raises(DaemonError, match="first image"):
        await guest.start()
    guest.disk.mend()
    assert (await guest.start()).origin is Origin.NEW


async def test_a_power_on_resets_the_pcrs_and_a_resume_does_not() -> None:
    guest = Guest()
    before = await guest.start()
    value = await before.extend(4, b"\x11" * 20)
    resumed = await guest.start(Remains(before.engine.volatile_state(), was_killed=True))
    assert resumed.origin is Origin.RESUMED
    assert await resumed.pcr(4) == value
    assert (await guest.start()).origin is Origin.POWERED_ON
    assert await (await guest.start()).pcr(4) == ZEROS


async def test_a_resumed_tpm_is_not_started_up_again() -> None:
    guest = Guest()
    before = await guest.start()
    resumed = await guest.start(
        Remains(before.engine.volatile_state(), was_killed=False), pcrs={3: b"\x33" * 20}
    )
    command = build_message(Tag.RQU_COMMAND, Ordinal.STARTUP, b"\x00\x01")
    assert parse_header(await resumed.host.execute(command, 0)).code == 38
    assert await resumed.pcr(3) == ZEROS


async def test_when_the_memory_is_gone_pcrs_0_to_7_are_capped_and_no_others() -> None:
    guest = Guest()
    await guest.start()
    capped = await guest.start(Remains(None, was_killed=True), pcrs={8: b"\x88" * 20})
    assert capped.origin is Origin.CAPPED
    for index in range(8):
        assert await capped.pcr(index) == _extended(ZEROS, CAP_DIGEST)
    for index in range(8, 16):
        assert await capped.pcr(index) == ZEROS


@pytest.mark.parametrize("origin", [Origin.NEW, Origin.POWERED_ON, Origin.CAPPED])
async def test_a_process_killed_during_its_start_leaves_nothing_to_resume(origin: Origin) -> None:
    memory, lines = VolatileMemory.create("test"), Lines()
    host = WatchedHost(make_maker("seed").manufacture(), memory, lines)
    await start_up(host, origin, StartupKind.CLEAR, {3: b"\x33" * 20}, lines.log())
    assert len(host.left) >= 4
    assert set(host.left) == {None}
    assert memory.load() is not None


async def test_a_process_killed_during_a_reset_has_not_reset_the_tpm() -> None:
    memory, lines = VolatileMemory.create("test"), Lines()
    host = WatchedHost(make_maker("seed").manufacture(), memory, lines)
    await start_up(host, Origin.NEW, StartupKind.CLEAR, {}, lines.log())
    before = memory.load()
    host.left.clear()
    await reset(host, {3: b"\x33" * 20}, lines.log())
    assert len(host.left) >= 4
    assert set(host.left) == {before}
    assert memory.load() != before


async def test_a_volatile_state_that_cannot_be_read_is_capped_too() -> None:
    guest = Guest()
    await guest.start()
    capped = await guest.start(Remains(b"from another version", was_killed=False))
    assert capped.origin is Origin.CAPPED
    assert await capped.pcr(0) == _extended(ZEROS, CAP_DIGEST)


async def test_a_new_tpm_with_the_memory_of_another_one_is_capped_too() -> None:
    guest = Guest()
    other = await Guest().start()
    capped = await guest.start(Remains(other.engine.volatile_state(), was_killed=False))
    assert capped.origin is Origin.CAPPED
    assert await capped.pcr(7) == _extended(ZEROS, CAP_DIGEST)


def test_the_capping_digest_is_the_documented_one() -> None:
    assert hashlib.sha1(CAP_TEXT).digest() == CAP_DIGEST
    assert CAP_DIGEST.hex() == "ba5b9a99e775c114af7b1a6dca6be2968a466cd7"


async def test_an_authentic_image_that_this_version_cannot_read_is_refused() -> None:
    guest = Guest()
    log = guest.lines.log()
    store = ImageStore(
        StateFolder(FOLDER, guest.disk),
        GUEST,
        FakeKeeper(guest.vault),
        CountingRandom(),
        log,
        lambda _: None,
    )
    await store.load()
    await store.save(b"a state of the future")
    disk, data = guest.disk.contents(), guest.vault.data
    with pytest.raises(RefusedToStart, match="cannot read the state"):
        await guest.start()
    assert (guest.disk.contents(), guest.vault.data) == (disk, data)


async def test_hardware_pcrs_are_copied_over_the_vtpms_after_a_power_on() -> None:
    guest = Guest()
    values = {index: bytes([index]) * 20 for index in (0, 7, 23)}
    started = await guest.start(pcrs=values)
    for index, value in values.items():
        assert await started.pcr(index) == value
    assert await started.pcr(1) == ZEROS
    again = await guest.start(pcrs=values)
    assert await again.pcr(7) == values[7]


async def test_a_reset_of_the_guest_is_a_power_on_with_startup() -> None:
    guest = Guest()
    started = await guest.start()
    await started.extend(4, b"\x11" * 20)
    await reset(started.host, {5: b"\x55" * 20}, guest.lines.log())
    assert await started.pcr(4) == ZEROS
    assert await started.pcr(5) == b"\x55" * 20


async def test_startup_save_takes_up_what_the_guest_saved() -> None:
    guest = Guest()
    before = await guest.start()
    value = await before.extend(4, b"\x11" * 20)
    await before.send(Ordinal.SAVE_STATE)
    started = await guest.start(kind=StartupKind.SAVE)
    assert await started.pcr(4) == value


@pytest.mark.parametrize("is_new", [True, False])
async def test_startup_save_without_a_saved_state_is_clear(is_new: bool) -> None:
    guest = Guest()
    if not is_new:
        await guest.start()
    started = await guest.start(kind=StartupKind.SAVE)
    assert await started.pcr(4) == ZEROS
    await started.extend(4, b"\x11" * 20)


async def test_startup_deactivated_does_not_lose_the_image() -> None:
    guest = Guest()
    before = await guest.start()
    stored = before.engine.permanent_state()
    started = await guest.start(kind=StartupKind.DEACTIVATED)
    extend = build_message(Tag.RQU_COMMAND, Ordinal.GET_RANDOM, b"\x00\x00\x00\x04")
    assert parse_header(await started.host.execute(extend, 0)).code == 6  # TPM_DEACTIVATED
    again = await guest.start()
    assert again.engine.permanent_state() == stored
    await again.send(Ordinal.GET_RANDOM, b"\x00\x00\x00\x04")


async def test_physical_presence_is_asserted_until_the_guest_takes_it_back() -> None:
    guest = Guest()
    await guest.start()
    started = await guest.start()
    await started.send(Ordinal.TSC_PHYSICAL_PRESENCE, b"\x00\x14")  # not present, lock
    refused = await started.host.execute(build_message(Tag.RQU_COMMAND, Ordinal.FORCE_CLEAR), 0)
    assert parse_header(refused).code == 45  # TPM_BAD_PRESENCE
    await (await guest.start()).send(Ordinal.FORCE_CLEAR)


# --- what comes from the hardware ---


def _manager(answer: Callable[[bytes], Awaitable[bytes]]) -> ManagerCommands:
    return ManagerCommands(answer)


async def test_a_busy_hardware_tpm_is_waited_for(autojump_clock: MockClock) -> None:
    outcomes: Iterator[object] = iter(
        [
            ManagerLost("gone", submitted=True),
            bytes.fromhex("00c4 0000000a 00000800"),  # TPM_RETRY
            bytes.fromhex("00c4 0000000a 0000001f"),  # TPM_IOERROR
            bytes.fromhex("00c4 0000002e 00000000 00000020") + b"\x5e" * 32,
        ]
    )

    async def answer(request: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        assert isinstance(outcome, bytes)
        return outcome

    assert await read_seed(_manager(answer), Lines().log()) == b"\x5e" * 32


async def test_a_manager_that_gives_no_pcrs_ends_the_start() -> None:
    async def answer(request: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return bytes.fromhex("00c4 0000000a 00000008")  # TPM_DISABLED_CMD

    with pytest.raises(DaemonError, match="PCR 3"):
        await read_hardware_pcrs(_manager(answer), {3}, Lines().log())


async def test_every_pcr_that_was_asked_for_is_read() -> None:
    async def answer(request: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return bytes.fromhex("00c4 0000001e 00000000") + request[-1:] * 20

    found = await read_hardware_pcrs(_manager(answer), {9, 2}, Lines().log())
    assert found == {2: b"\x02" * 20, 9: b"\x09" * 20}


# --- what tells a restart from a power-on ---


@contextmanager
def _memory(inherited: dict[str, list[int]]) -> Iterator[VolatileMemory]:
    memory = take_memory(inherited, Notifier(None), Lines().log())
    try:
        yield memory
    finally:
        memory.close()


def test_the_inherited_memory_is_taken_up_with_what_it_holds() -> None:
    with _memory({}) as first:
        assert first.load() is None
        first.store(b"volatile")
        kept = os.dup(first.fd)
    with _memory({"volatile": [kept]}) as second:
        assert second.load() == b"volatile"


def test_a_descriptor_that_is_no_memory_is_put_aside_for_a_new_one() -> None:
    read_end, write_end = os.pipe()
    with _memory({"volatile": [read_end, write_end]}) as memory:
        assert memory.load() is None
        memory.store(b"x")
    for fd in (read_end, write_end):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
