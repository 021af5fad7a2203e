# SPDX-License-Identifier: Apache-2.0
"""The data integrity register of TPM 1.1."""

from __future__ import annotations

from protocol.tpm12.constants import NvIndex, Ordinal, ReturnCode, Tag
from protocol.tpm12.framing import build_message, parse_header
from tests.unit.tpm12.keychain import WRONG_AUTH
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12

VALUE = b"value of a register."


def _write(chip: Chip, value: bytes = VALUE, *, auth: bytes = OWNER_AUTH, index: int = 0) -> int:
    return chip.code(
        tss12.dir_write_auth(value, owner_auth=auth, random=chip.client_random, index=index)
    )


def test_the_register_is_zero_at_first_and_keeps_what_the_owner_writes() -> None:
    chip = make_owned_chip()
    assert chip.run(tss12.dir_read()) == bytes(20)
    assert _write(chip) == ReturnCode.SUCCESS
    assert chip.run(tss12.dir_read()) == VALUE
    chip.power_cycle()
    assert chip.run(tss12.dir_read()) == VALUE


def test_the_register_is_an_nv_index_too() -> None:
    chip = make_owned_chip()
    _write(chip)
    assert chip.run(tss12.nv_read_value(NvIndex.DIR, 20)) == VALUE


def test_there_is_one_register() -> None:
    chip = make_owned_chip()
    assert chip.code(tss12.dir_read(1)) == ReturnCode.BADINDEX
    assert chip.code(tss12.dir_read(0xFFFFFFFF)) == ReturnCode.BADINDEX
    assert _write(chip, index=1) == ReturnCode.BADINDEX
    assert chip.run(tss12.dir_read()) == bytes(20)


def test_only_the_owner_writes_it() -> None:
    chip = make_owned_chip()
    # The secret is judged before the index.
    assert _write(chip, auth=WRONG_AUTH, index=1) == ReturnCode.AUTHFAIL
    assert _write(chip, auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert chip.run(tss12.dir_read()) == bytes(20)


def test_without_an_owner_it_can_be_read_and_not_written() -> None:
    chip = make_chip()
    assert chip.run(tss12.dir_read()) == bytes(20)
    assert _write(chip) == ReturnCode.AUTHFAIL


def test_a_session_that_is_not_there_is_found_before_that_there_is_no_owner() -> None:
    chip = make_chip()
    block = b"\0\0\0\1" + bytes(20) + b"\1" + bytes(20)
    command = build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.DIR_WRITE_AUTH, bytes(24) + block)
    assert parse_header(chip.send(command)).code == ReturnCode.INVALID_AUTHHANDLE


def test_it_is_closed_while_the_tpm_is_disabled() -> None:
    chip = make_owned_chip()
    chip.run(tss12.owner_set_disable(True, owner_auth=OWNER_AUTH, random=chip.client_random))
    assert chip.code(tss12.dir_read()) == ReturnCode.DISABLED
    assert _write(chip) == ReturnCode.DISABLED


def test_it_outlives_the_owner() -> None:
    chip = make_owned_chip()
    _write(chip)
    chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    chip.assert_presence()
    chip.run(tss12.physical_enable())
    assert chip.run(tss12.dir_read()) == VALUE
