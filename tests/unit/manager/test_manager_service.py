# SPDX-License-Identifier: Apache-2.0
"""The commands, as a vTPM sees them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from daemons.runtime.errors import DaemonError
from daemons.runtime.latency import LatencyStatistics
from daemons.vtpmmgr.hardware import HardwareLost
from daemons.vtpmmgr.identity import Client
from daemons.vtpmmgr.service import CONNECTIONS_PER_VTPM
from protocol.manager.constants import ManagementOrdinal, ManagerCode, ManagerTag
from protocol.manager.framing import ManagerRefused, encode_request
from protocol.manager.messages import (
    NO_IMAGE,
    decode_get_boot_hash_response,
    encode_get_boot_hash,
    encode_load_hash_key,
    encode_save_hash_key,
)
from protocol.tpm12 import ReturnCode
from protocol.tpmif.errors import Refused
from protocol.tpmif.unix import BackendDevice
from tests.unit.manager.fakes import Chip, FakeHardware
from tests.unit.manager.harness import UID, A, B, client, managed, options
from tpmcore.errors import TpmError

KEY = b"k" * 64
ADMIN, FOREIGN, GROUPED = (UUID(int=n) for n in (0xAD, 0xF0, 0x61))
CLIENTS = (
    client(A),
    client(B),
    client(ADMIN, admin=True),
    client(FOREIGN, uid=UID + 1),
    client(GROUPED, group=7),
)


async def test_a_registered_uuid_creates_itself_with_its_first_save(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await manager.guest(A)
        with pytest.raises(ManagerRefused, match="BAD_PARAMETER"):
            await guest.load()
        await guest.save(NO_IMAGE)
        assert await guest.load() == NO_IMAGE
        await guest.save(KEY)
        assert await guest.load() == KEY


async def test_the_older_form_of_52_bytes_comes_back_as_52(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await manager.guest(A)
        await guest.send(encode_save_hash_key(b"o" * 52))
        response = await guest.send(encode_load_hash_key())
        assert response == bytes.fromhex("01c4 0000003e 00000000") + b"o" * 52


async def test_each_vtpm_has_its_own_data(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        one, other = await manager.guest(A), await manager.guest(B)
        await one.save(b"a" * 64)
        await other.save(b"b" * 64)
        assert (await one.load(), await other.load()) == (b"a" * 64, b"b" * 64)


@pytest.mark.parametrize("size_bytes", [0, 1, 51, 65, 4078])
async def test_key_data_of_another_length_changes_nothing(tmp_path: Path, size_bytes: int) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await manager.guest(A)
        await guest.save(KEY)
        answer = await guest.send(encode_request(ManagerTag.REQ, 1, bytes(size_bytes)))
        assert answer == bytes.fromhex("01c4 0000000a 00000003")
        assert await guest.load() == KEY


@pytest.mark.parametrize(
    ("request_hex", "answer_hex"),
    [
        ("", "00c4 0000000a 00000003"),
        ("01c1 0000000a 0000", "00c4 0000000a 00000003"),
        ("01c1 0000000b 00000002", "01c4 0000000a 00000003"),  # length that lies
        ("01c1 ffffffff 00000002", "01c4 0000000a 00000003"),
        ("01c1 00000000 00000002", "01c4 0000000a 00000003"),
        ("01c1 0000000b 00000002 00", "01c4 0000000a 00000003"),  # trailing byte
        ("01c1 0000000b 00000003 00", "01c4 0000000a 00000003"),
        ("01c1 0000000a 00000000", "01c4 0000000a 0000000a"),  # unknown ordinal
        ("01c1 0000000a 00000004", "01c4 0000000a 00000003"),  # a quote of nothing
        ("01c3 0000000a 00000001", "01c6 0000000a 0000001e"),  # unknown tag
        ("00c4 0000000a 00000000", "00c7 0000000a 0000001e"),
        ("00c1 0000000a 00000046", "00c4 0000000a 00000003"),  # GetRandom of another length
        ("00c1 0000000a 0000000a", "00c4 0000000a 00000008"),  # OIAP
        ("00c2 0000000a 000000ce", "00c5 0000000a 00000008"),
        ("01c2 0000000a 02000101", "01c5 0000000a 00000001"),  # no right
    ],
)
async def test_a_bad_request_gets_its_code_and_the_next_is_served(
    tmp_path: Path, request_hex: str, answer_hex: str
) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await manager.guest(A)
        await guest.save(KEY)
        assert await guest.send(bytes.fromhex(request_hex)) == bytes.fromhex(answer_hex)
        assert await guest.load() == KEY


async def test_management_takes_the_right_and_a_bound_vtpm(tmp_path: Path) -> None:
    request = encode_request(ManagerTag.REQ2, ManagementOrdinal.GROUP_LIST)
    no_right = bytes.fromhex("01c5 0000000a 00000001")
    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        plain, admin = await manager.guest(A), await manager.guest(ADMIN)
        await plain.save(KEY)
        assert await plain.send(request) == no_right
        assert await admin.send(request) == no_right
        await admin.save(KEY)
        assert await admin.send(request) == bytes.fromhex("01c4 0000000e 00000000 00000001")


async def test_a_uuid_that_is_not_the_peers_is_not_admitted(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        for uuid in (FOREIGN, UUID(int=0x999)):
            with pytest.raises(Refused, match=f"uid {UID} may not be vTPM"):
                await manager.guest(uuid)
        await manager.guest(FOREIGN, uid=UID + 1)


async def test_only_group_0_takes_vtpms_that_create_themselves(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        guest = await manager.guest(GROUPED)
        with pytest.raises(ManagerRefused, match="BAD_PARAMETER"):
            await guest.save(KEY)
        with pytest.raises(ManagerRefused, match="BAD_PARAMETER"):
            await guest.load()
        assert manager.started.ledger.newest.sequence == 1


async def test_a_vtpm_of_another_group_than_its_entry_says_is_refused(tmp_path: Path) -> None:
    chip = Chip()
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        await (await manager.guest(A)).save(KEY)
    moved = Client(A, UID, "a:b:c", 7, False)
    async with managed(options(tmp_path), FakeHardware(chip), [moved]) as manager:
        guest = await manager.guest(A)
        for attempt in (guest.load(), guest.save(bytes(64))):
            with pytest.raises(ManagerRefused, match="FAIL"):
                await attempt
    async with managed(options(tmp_path), FakeHardware(chip)) as manager:
        assert await (await manager.guest(A)).load() == KEY


async def test_a_vtpm_is_open_once(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        first, second = await manager.guest(A), await manager.guest(A)
        await first.save(KEY)
        # Also at the second try, where Xen's manager lets it in.
        for _ in range(2):
            with pytest.raises(ManagerRefused, match="DISABLED"):
                await second.load()
            with pytest.raises(ManagerRefused, match="DISABLED"):
                await second.save(bytes(64))
        # The refused one goes, and the vTPM stays open.
        await second.close()
        third = await manager.guest(A)
        with pytest.raises(ManagerRefused, match="DISABLED"):
            await third.load()
        assert await first.load() == KEY
        await first.close()
        assert await third.load() == KEY


async def test_a_holder_that_has_hung_up_does_not_keep_its_successor_out(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        first, second = await manager.guest(A), await manager.guest(A)
        await first.save(KEY)
        first.device.gone = True
        assert await second.load() == KEY
        await first.close()
        third = await manager.guest(A)
        with pytest.raises(ManagerRefused, match="DISABLED"):
            await third.load()


async def test_one_vtpm_does_not_take_the_places_of_all_others(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        taken = [await manager.guest(A) for _ in range(CONNECTIONS_PER_VTPM)]
        with pytest.raises(Refused, match="connections"):
            await manager.guest(A)
        await manager.guest(B)
        taken[0].device.gone = True
        await manager.guest(A)
        with pytest.raises(Refused):
            await manager.guest(A)
        await taken[1].close()
        await manager.guest(A)


async def test_a_refused_client_is_logged_once_for_each_user(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        for uid in (UID + 1, UID + 1, UID + 2):
            with pytest.raises(Refused):
                await manager.guest(A, uid=uid)
        refusals = [line for line in manager.lines.lines if "client refused" in line]
        assert len(refusals) == 2
        assert f"uid={UID + 1} " in refusals[0]
        assert f"uid={UID + 2} " in refusals[1]


async def test_the_boot_hash_is_that_of_the_label_once_bound(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await manager.guest(A)
        assert decode_get_boot_hash_response(await guest.send(encode_get_boot_hash())) == bytes(20)
        await guest.save(KEY)
        boot_hash = decode_get_boot_hash_response(await guest.send(encode_get_boot_hash()))
        assert boot_hash == hashlib.sha1(b"system_u:vm_r:vtpm_t").digest()


async def test_random_bytes_and_pcr_values_of_the_hardware_need_no_binding(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await manager.guest(A)
        answer = await guest.send(bytes.fromhex("00c1 0000000e 00000046 00000004"))
        assert answer == bytes.fromhex("00c4 00000012 00000000 00000004") + b"rand"


async def test_an_unreachable_hardware_is_an_io_error(tmp_path: Path) -> None:
    hardware = FakeHardware(Chip())
    async with managed(options(tmp_path), hardware) as manager:
        guest = await manager.guest(A)
        hardware.unreachable = True
        answer = await guest.send(bytes.fromhex("00c1 0000000e 00000046 00000004"))
        assert answer == bytes.fromhex("00c4 0000000a") + ManagerCode.IOERROR.to_bytes(4, "big")


async def test_a_response_that_the_page_cannot_carry_is_a_size_error(tmp_path: Path) -> None:
    class Talkative(FakeHardware):
        async def pass_through(self, command: bytes, source: object) -> bytes:
            return b"\x00\xc4" + (4089).to_bytes(4, "big") + bytes(4083)

    async with managed(options(tmp_path), Talkative(Chip())) as manager:
        guest = await manager.guest(A)
        answer = await guest.send(bytes.fromhex("00c1 0000000e 00000046 00001000"))
        assert answer == bytes.fromhex("00c4 0000000a 00000017")


async def test_a_client_that_insists_does_not_fill_the_log(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await manager.guest(A)
        before = len(manager.lines.lines)
        for _ in range(100):
            await guest.send(b"garbage of some kind")
        assert len(manager.lines.lines) == before + 1


async def test_status_tells_what_there_is(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        guest = await manager.guest(A)
        await guest.save(KEY)
        status = dict(manager.service.status())
        latency = status.pop("commit_latency")
        assert isinstance(latency, dict)
        assert latency.keys() == LatencyStatistics(0, 0, 0, 0).fields().keys()
        assert status == {
            "connections": 1,
            "open": [str(A)],
            "clients": 3,
            "sequence": 2,
            "commits": 1,
            "saves": 1,
            "largest_commit": 1,
            "waiting_saves": 0,
            "bound_sequence": 2,
            "hardware_answers": True,
        }
        await guest.close()
        assert manager.service.status()["open"] == []
        manager.service.cancel(cast(BackendDevice, guest.device))


async def test_a_probe_says_whether_the_chip_answers_now(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    class Chips(FakeHardware):
        answer: Exception | None = None
        is_silent = False

        async def probe(self) -> None:
            if self.is_silent:
                await trio.sleep_forever()
            if self.answer is not None:
                raise self.answer

    hardware = Chips(Chip())
    async with managed(options(tmp_path), hardware) as manager:
        probe = manager.service.probe_hardware
        await probe()
        for answer, said in (
            (HardwareLost("the chip hung up"), "the chip hung up"),
            (TpmError(ReturnCode.FAILEDSELFTEST), "refuses to tell its version"),
        ):
            hardware.answer = answer
            with pytest.raises(DaemonError, match=said):
                await probe()
        hardware.is_silent = True
        with pytest.raises(DaemonError, match="did not answer within"):
            await probe()
