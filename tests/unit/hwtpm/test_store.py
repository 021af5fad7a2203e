# SPDX-License-Identifier: Apache-2.0
"""The chip's own memory: what is refused, and that no power cut takes what was answered."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest
import trio

from daemons.hwtpm.filenames import STATE_NAME
from daemons.hwtpm.store import ChipStore, decode_record, encode_record
from daemons.runtime.clock import MonotonicTicks
from daemons.runtime.errors import RefusedToStart
from daemons.runtime.files import StateFolder, WriteFailed
from daemons.runtime.host import EngineBroken, EngineHost, PersistOutcome
from daemons.runtime.keypool import KeyPool
from daemons.runtime.log import Level, Log
from daemons.runtime.random import OsRandom
from tests.faulty_disk import Aftermath, FaultyDisk, power_cuts
from tpmcore.tpm12 import Profile, Tpm12Engine, World

FOLDER = Path("/chip")
FILE = FOLDER / STATE_NAME
RECORD = encode_record(b"state of a chip")
LOG = Log("hwtpm", level=Level.ERROR, sink=lambda line: None)

STARTUP = bytes.fromhex("00c10000000c000000990001")
NV_INDEX = 0x00010000
PROFILE = Profile(make_ek=False)


def store_on(disk: FaultyDisk) -> ChipStore:
    return ChipStore(StateFolder(FOLDER, disk).lock(), LOG)


def world() -> World:
    return World(OsRandom(), MonotonicTicks(), KeyPool(size=0))


def command(ordinal: int, body: bytes) -> bytes:
    return struct.pack(">HII", 0x00C1, 10 + len(body), ordinal) + body


def nv_define(size: int) -> bytes:
    pcr_info = b"\x00\x03\x00\x00\x00" + b"\x1f" + bytes(20)
    attributes = b"\x00\x17" + bytes.fromhex("00020002")  # OWNERREAD, OWNERWRITE
    public = (
        b"\x00\x18"
        + NV_INDEX.to_bytes(4, "big")
        + pcr_info * 2
        + attributes
        + bytes(3)
        + size.to_bytes(4, "big")
    )
    return command(0xCC, public + bytes(20))


def nv_write(data: bytes) -> bytes:
    head = NV_INDEX.to_bytes(4, "big") + bytes(4) + len(data).to_bytes(4, "big")
    return command(0xCD, head + data)


def nv_read(size: int) -> bytes:
    return command(0xCF, NV_INDEX.to_bytes(4, "big") + bytes(4) + size.to_bytes(4, "big"))


# --- the file -------------------------------------------------------------------------------------


def test_a_record_gives_the_state_back() -> None:
    assert decode_record(RECORD) == b"state of a chip"
    assert RECORD[:16].hex() == "7654504d63686970" + "0001" + "0000" + "0000000f"


@pytest.mark.parametrize(
    ("offset", "what"),
    [
        (0, "magic"),
        (8, "version"),
        (11, "version"),
        (15, "length"),
        (16, "digest"),
        (47, "digest"),
        (48, "digest"),
        (len(RECORD) - 1, "digest"),
    ],
)
def test_a_changed_byte_is_refused_by_the_name_of_what_does_not_match(
    offset: int, what: str
) -> None:
    changed = bytearray(RECORD)
    changed[offset] ^= 0x01
    with pytest.raises(RefusedToStart, match=what):
        decode_record(bytes(changed))


@pytest.mark.parametrize("size", range(len(RECORD)))
def test_a_truncated_record_is_refused(size: int) -> None:
    with pytest.raises(RefusedToStart, match=r"truncated|length does not match"):
        decode_record(RECORD[:size])


def test_a_record_with_a_tail_is_refused() -> None:
    with pytest.raises(RefusedToStart, match="length does not match"):
        decode_record(RECORD + b"\0")


async def test_a_chip_goes_on_from_no_state_that_a_power_cut_would_take_back() -> None:
    untroubled = FaultyDisk.holding({FILE: RECORD})
    await store_on(untroubled).persist(b"new")
    disk = FaultyDisk.holding({FILE: RECORD})
    # The flush of the folder fails after the rename: the process does not know, and ends.
    disk.fail_at(untroubled.steps, errno.EIO)
    with pytest.raises(WriteFailed):
        await store_on(disk).persist(b"new")
    successor = disk.restarted()
    assert store_on(successor).load() == b"new"
    for aftermath in Aftermath:
        assert store_on(successor.crash(aftermath)).load() == b"new"


def test_a_refused_file_is_left_as_it_is() -> None:
    disk = FaultyDisk.holding({FILE: RECORD[:-1]})
    with pytest.raises(RefusedToStart):
        store_on(disk).load()
    assert disk.contents()[FILE] == RECORD[:-1]


def test_a_chip_that_was_never_made_has_no_state() -> None:
    assert store_on(FaultyDisk()).load() is None


# --- saving ---------------------------------------------------------------------------------------


async def test_a_full_disk_is_not_saved_and_the_old_state_stays() -> None:
    disk = FaultyDisk.holding({FILE: RECORD})
    store = store_on(disk)
    disk.fail_at(1, errno.ENOSPC, stays=True)
    assert await store.persist(b"new") is PersistOutcome.NOT_SAVED
    assert disk.contents()[FILE] == RECORD
    disk.mend()
    assert store.load() == b"state of a chip"
    assert await store.persist(b"new") is PersistOutcome.SAVED
    assert store.load() == b"new"


async def test_a_save_of_which_nobody_knows_whether_it_happened_ends_the_process() -> None:
    disk = FaultyDisk.holding({FILE: RECORD})
    store = store_on(disk)
    disk.fail_at(5, errno.EIO)  # the flush of the folder, after the rename
    with pytest.raises(WriteFailed) as caught:
        await store.persist(b"new")
    assert not caught.value.certain


async def test_a_command_on_a_full_disk_fails_with_a_tpm_error_and_changes_nothing() -> None:
    engine = Tpm12Engine.manufacture(world(), PROFILE)
    disk = FaultyDisk.holding({FILE: encode_record(engine.permanent_state())})
    host = EngineHost(engine, persist=store_on(disk).persist, volatile=None, log=LOG)
    await host.execute(STARTUP, 0)
    await host.execute(nv_define(4), 0)
    await host.execute(nv_write(b"old!"), 0)
    disk.fail_at(1, errno.ENOSPC, stays=True)
    refused = await host.execute(nv_write(b"new!"), 0)
    assert refused[:6].hex() == "00c40000000a"
    assert refused[6:10] != bytes(4)
    assert (await host.execute(nv_read(4), 0)).endswith(b"old!")
    disk.mend()
    assert (await host.execute(nv_write(b"new!"), 0))[6:10] == bytes(4)
    assert (await host.execute(nv_read(4), 0)).endswith(b"new!")


async def test_an_uncertain_save_breaks_the_host_before_the_client_is_told_anything() -> None:
    engine = Tpm12Engine.manufacture(world(), PROFILE)
    disk = FaultyDisk.holding({FILE: encode_record(engine.permanent_state())})
    host = EngineHost(engine, persist=store_on(disk).persist, volatile=None, log=LOG)
    await host.execute(STARTUP, 0)
    disk.fail_at(5, errno.EIO)
    with pytest.raises(EngineBroken):
        await host.execute(nv_define(4), 0)


def test_no_power_cut_takes_what_was_answered() -> None:
    first = Tpm12Engine.manufacture(world(), PROFILE)
    before = FaultyDisk.holding({FILE: encode_record(first.permanent_state())})
    answered: list[bytes] = []

    async def life(disk: FaultyDisk) -> None:
        answered.clear()
        store = store_on(disk)
        state = store.load()
        assert state is not None
        engine = Tpm12Engine.restore(world(), PROFILE, state)
        host = EngineHost(engine, persist=store.persist, volatile=None, log=LOG)
        await host.execute(STARTUP, 0)
        for message in (nv_define(4), nv_write(b"one!"), nv_write(b"two!")):
            response = await host.execute(message, 0)
            assert response[6:10] == bytes(4)
            answered.append(message[-4:])

    async def written(disk: FaultyDisk) -> bytes:
        """What the area holds on this disk; empty if it is not defined."""
        state = store_on(disk).load()
        assert state is not None
        host = EngineHost(
            Tpm12Engine.restore(world(), PROFILE, state),
            persist=store_on(FaultyDisk()).persist,
            volatile=None,
            log=LOG,
        )
        await host.execute(STARTUP, 0)
        response = await host.execute(nv_read(4), 0)
        return response[14:] if response[6:10] == bytes(4) else b""

    steps = [b"", b"\xff\xff\xff\xff", b"one!", b"two!"]
    cases = 0
    for case in power_cuts(before, lambda disk: trio.run(life, disk)):
        cases += 1
        found = trio.run(written, case.disk)
        # What was answered, or the one command whose answer was still out.
        assert found in steps[len(answered) : len(answered) + 2], case
    assert cases > 60


def test_no_power_cut_leaves_half_a_new_chip() -> None:
    for case in power_cuts(FaultyDisk(), lambda disk: store_on(disk).save_first(b"new")):
        found = store_on(case.disk).load()
        assert found == b"new" if case.completed else found in (None, b"new"), case
