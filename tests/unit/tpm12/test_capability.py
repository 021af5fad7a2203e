# SPDX-License-Identifier: Apache-2.0
"""What the TPM says of itself, byte for byte where clients use fixed offsets."""

from __future__ import annotations

import pytest

from protocol.tpm12.constants import (
    CapabilityArea,
    CapabilityProperty,
    Ordinal,
    ResourceType,
    ReturnCode,
    SetCapabilityArea,
    StartupType,
    Tag,
)
from protocol.tpm12.framing import build_message
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.table import TABLE
from tpmcore.tpm12.world import Profile


def _ask(chip: Chip, area: int, sub_cap: str = "") -> bytes:
    sub = bytes.fromhex(sub_cap)
    body = area.to_bytes(4, "big") + len(sub).to_bytes(4, "big") + sub
    return chip.send(build_message(Tag.RQU_COMMAND, Ordinal.GET_CAPABILITY, body))


def _code(response: bytes) -> int:
    return int.from_bytes(response[6:10], "big")


@pytest.mark.parametrize(
    ("area", "sub_cap", "answer"),
    [
        (0x01, "00000015", "01"),  # ORD PcrRead
        (0x01, "00000097", "00"),  # ORD Init is no command
        (0x02, "00000001", "01"),  # ALG RSA
        (0x02, "00000004", "00"),  # ALG SHA is not asymmetric
        (0x03, "0002", "01"),  # PID OSAP
        (0x05, "00000101", "00000018"),  # 24 PCRs
        (0x05, "00000102", "00000001"),  # one DIR
        (0x05, "00000111", "00"),  # no owner, one byte
        (0x05, "00000115", "000b71b0 001e8480 000b71b0 000b71b0"),  # timeouts in us
        (0x05, "00000120", "002dc6c0 002dc6c0 11e1a300"),  # durations in us
        (0x05, "00000124", "00001000"),  # input buffer
        (0x06, "", "01010000"),  # VERSION
        (0x06, "00000000", "01010000"),  # its subCap is ignored
        (0x07, "", "0000"),  # no keys loaded
        (0x0D, "", ""),  # no NV areas
        (0x14, "00000001", "0000"),  # no key handles
        (0x17, "0000000a", "01"),  # ADIP by XOR
        (0x18, "01020003", "01"),  # three selection bytes
        (0x18, "01020004", "00"),
        (0x18, "01010003", "00"),  # version 1.1 had 16 PCRs
        (0x1A, "", "0030 0102 0100 0002 03 5654504d 0000"),  # CAP_VERSION_INFO
    ],
)
def test_answers_of_a_new_chip(area: int, sub_cap: str, answer: str) -> None:
    expected = bytes.fromhex(answer)
    response = _ask(make_chip(), area, sub_cap)
    assert response[:10] == build_message(Tag.RSP_COMMAND, 0, bytes(4 + len(expected)))[:10]
    assert response[10:14] == len(expected).to_bytes(4, "big")
    assert response[14:] == expected


def test_permanent_flags_are_22_bytes_as_firmware_and_linux_expect() -> None:
    response = _ask(make_chip(), CapabilityArea.FLAG, "00000108")
    assert len(response) == 36
    assert response[14:16] == bytes.fromhex("001f")
    assert len(_ask(make_chip(), CapabilityArea.FLAG, "00000109")) == 14 + 7


@pytest.mark.parametrize(
    ("area", "sub_cap"),
    [
        (0x00, ""),
        (0x99, ""),
        (0x05, "00000100"),
        (0x05, "0101"),
        (0x05, ""),
        (0x04, "00000107"),
        (0x03, "00000002"),
        (0x10, "00000020"),
        (0x08, ""),
        (0x08, "00"),
        (0x08, "00000001000300010000000c0000080000000002000000"),  # RSA parameters cut
        (0x08, "00000001000300010000000c00000800000000020000000000"),  # and with a tail
    ],
)
def test_an_unknown_area_or_sub_cap_is_bad_mode(area: int, sub_cap: str) -> None:
    assert _code(_ask(make_chip(), area, sub_cap)) == ReturnCode.BAD_MODE


@pytest.mark.parametrize(
    ("area", "sub_cap", "code"),
    [
        (0x0C, "00001234", ReturnCode.INVALID_KEYHANDLE),
        (0x11, "00001234", ReturnCode.BADINDEX),
        (0x14, "00000003", ReturnCode.BAD_PARAMETER),
        (0x18, "02020003", ReturnCode.BAD_PARAMETER),
        (0x08, "0000000b0003000100000000", ReturnCode.BAD_KEY_PROPERTY),
    ],
)
def test_things_that_do_not_exist_have_their_own_codes(area: int, sub_cap: str, code: int) -> None:
    assert _code(_ask(make_chip(), area, sub_cap)) == code


@pytest.mark.parametrize("sub_cap", ["", "0115", "000001150000", "00000101"])
def test_in_failure_mode_a_property_is_told_only_if_it_is_asked_for_rightly(sub_cap: str) -> None:
    chip = make_chip(startup=None)
    assert chip.code(tss12.startup(StartupType.STATE)) == ReturnCode.FAILEDSELFTEST
    property_area = CapabilityArea.PROPERTY
    assert _code(_ask(chip, property_area, "00000115")) == ReturnCode.SUCCESS
    assert _code(_ask(chip, property_area, sub_cap)) == ReturnCode.FAILEDSELFTEST


def test_free_slots_follow_what_is_open() -> None:
    chip = make_chip()
    free = chip.run(tss12.get_property(CapabilityProperty.AUTHSESS))
    session = chip.run(tss12.oiap())
    assert chip.run(tss12.get_property(CapabilityProperty.AUTHSESS)) == free - 1
    assert chip.run(tss12.handles(ResourceType.AUTH)) == [session.handle]


def test_ordinals_are_reported_exactly_as_the_table_has_them() -> None:
    chip = make_chip()
    reported = {o for o in range(0x100) if chip.run(tss12.is_implemented(o))}
    assert reported == {o for o in TABLE if o < 0x100}


def test_a_vtpm_reports_the_buffer_that_one_shared_page_carries() -> None:
    chip = make_chip(Profile(input_buffer_bytes=4088))
    assert chip.run(tss12.input_buffer()) == 4088


def test_the_owner_gets_all_flags_as_words() -> None:
    chip = make_owned_chip()
    answer = chip.run(tss12.get_capability_owner(owner_auth=OWNER_AUTH, random=chip.client_random))
    # ownership (bit 1), allowMaintenance (bit 5); readPubek (bit 3) went with TakeOwnership
    assert answer.non_volatile_flags == 0b100010
    assert answer.volatile_flags == 0


@pytest.mark.parametrize(
    ("area", "field", "value", "code"),
    [
        (1, 4, "01", ReturnCode.AUTHFAIL),  # readPubek wants the owner
        (1, 2, "00", ReturnCode.AUTHFAIL),  # ownership wants presence
        (1, 18, "00", ReturnCode.BAD_LOCALITY),  # tpmEstablished
        (1, 7, "01", ReturnCode.BAD_PARAMETER),  # presence lock is not for this command
        (1, 1, "02", ReturnCode.AUTHFAIL),  # who may set it is judged before what to
        (3, 2, "02", ReturnCode.BAD_PARAMETER),
        (1, 1, "0001", ReturnCode.BAD_PARAMETER),
        (2, 23, "01", ReturnCode.BAD_PARAMETER),  # a u32 is wanted
        (3, 2, "00", ReturnCode.BAD_PARAMETER),  # disableForceClear can only be set
        (6, 1, "00000000", ReturnCode.BAD_PARAMETER),
        (9, 1, "00", ReturnCode.BAD_PARAMETER),
    ],
)
def test_fields_that_may_not_be_set_so(area: int, field: int, value: str, code: int) -> None:
    chip = make_chip()
    before = chip.engine.permanent_state()
    data = bytes.fromhex(value)
    body = area.to_bytes(4, "big") + b"\0\0\0\4" + field.to_bytes(4, "big")
    body += len(data).to_bytes(4, "big") + data
    response = chip.send(build_message(Tag.RQU_COMMAND, Ordinal.SET_CAPABILITY, body))
    assert _code(response) == code
    assert chip.engine.permanent_state() == before


@pytest.mark.parametrize(
    ("area", "field", "value", "code"),
    [
        (1, 4, "01", ReturnCode.AUTHFAIL),  # readPubek wants the owner
        (1, 2, "00", ReturnCode.OWNER_SET),  # ownership, with an owner
        (1, 3, "00", ReturnCode.AUTHFAIL),  # deactivated wants presence
        (2, 23, "00000001", ReturnCode.AUTHFAIL),
        (5, 4, "00", ReturnCode.BAD_LOCALITY),
        (3, 2, "01", ReturnCode.DISABLED),
    ],
)
def test_who_asks_is_judged_before_whether_the_chip_is_disabled(
    area: int, field: int, value: str, code: int
) -> None:
    chip = make_owned_chip()
    chip.run(tss12.owner_set_disable(True, owner_auth=OWNER_AUTH, random=chip.client_random))
    set_it = tss12.set_capability(SetCapabilityArea(area), field, bytes.fromhex(value))
    assert chip.code(set_it) == code


@pytest.mark.parametrize(("field", "value"), [(5, "00"), (6, "01")])
def test_a_value_that_may_not_be_set_is_found_before_whether_the_chip_is_disabled(
    field: int, value: str
) -> None:
    chip = make_owned_chip()
    chip.run(tss12.owner_set_disable(True, owner_auth=OWNER_AUTH, random=chip.client_random))
    set_it = tss12.set_capability(
        SetCapabilityArea.PERM_FLAGS,
        field,
        bytes.fromhex(value),
        owner_auth=OWNER_AUTH,
        random=chip.client_random,
    )
    assert chip.code(set_it) == ReturnCode.BAD_PARAMETER


def test_the_owner_sets_a_permanent_flag() -> None:
    chip = make_owned_chip()
    chip.run(
        tss12.set_capability(
            SetCapabilityArea.PERM_FLAGS,
            17,
            b"\x01",
            owner_auth=OWNER_AUTH,
            random=chip.client_random,
        )
    )
    assert chip.run(tss12.permanent_flags()).read_srk_pub


def test_anybody_forbids_force_clear() -> None:
    chip = make_chip()
    chip.run(tss12.set_capability(SetCapabilityArea.STCLEAR_FLAGS, 2, b"\x01"))
    assert chip.run(tss12.stclear_flags()).disable_force_clear


def test_da_logic_tells_the_threshold_and_the_seconds_left() -> None:
    chip = make_owned_chip()
    for _ in range(6):
        chip.code(tss12.owner_set_disable(True, owner_auth=b"?" * 20, random=chip.client_random))
    info = _ask(chip, CapabilityArea.DA_LOGIC, "0002")[14:]
    # tag, active, count 6, threshold 5, action TIMEOUT, one second, no vendor data
    assert info == bytes.fromhex("0037 01 0006 0005 0039 00000001 00000001 00000000")
