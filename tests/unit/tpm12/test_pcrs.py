# SPDX-License-Identifier: Apache-2.0
"""PCRs: who may extend and reset which, and to what (PC Client attributes)."""

from __future__ import annotations

import hashlib

import pytest

from protocol.tpm12.constants import ReturnCode
from tests.unit.tpm12.world import make_chip
from tpmcore import tss12
from tpmcore.engine import HashEnd, HashStart

ZERO, ONES = bytes(20), b"\xff" * 20

# PCR: localities that may reset, localities that may extend (TIS 1.2, PC Client 1.2).
EXPECTED = {
    **{i: (set(), {0, 1, 2, 3, 4}) for i in range(16)},
    16: ({0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}),
    17: ({4}, {2, 3, 4}),
    18: ({4}, {2, 3, 4}),
    19: ({4}, {2, 3}),
    20: ({2, 4}, {1, 2, 3}),
    21: ({2}, {2}),
    22: ({2}, {2}),
    23: ({0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}),
}


def test_a_new_chip_has_zero_pcrs_and_ones_where_a_dynamic_launch_would_measure() -> None:
    chip = make_chip()
    values = [chip.run(tss12.pcr_read(i)) for i in range(24)]
    assert values == [ZERO] * 17 + [ONES] * 6 + [ZERO]


def test_extend_folds_the_digest_in_and_gives_the_new_value() -> None:
    chip = make_chip()
    value = chip.run(tss12.extend(9, b"a" * 20))
    assert value == hashlib.sha1(ZERO + b"a" * 20).digest()
    assert chip.run(tss12.extend(9, b"b" * 20)) == hashlib.sha1(value + b"b" * 20).digest()
    assert chip.run(tss12.pcr_read(9)) == hashlib.sha1(value + b"b" * 20).digest()


@pytest.mark.parametrize("index", range(24))
@pytest.mark.parametrize("locality", range(5))
def test_extend_is_allowed_from_the_pcrs_localities_only(index: int, locality: int) -> None:
    chip = make_chip()
    before = chip.run(tss12.pcr_read(index))
    code = chip.code(tss12.extend(index, b"e" * 20), locality=locality)
    if locality in EXPECTED[index][1]:
        assert code == ReturnCode.SUCCESS
        assert chip.run(tss12.pcr_read(index)) == hashlib.sha1(before + b"e" * 20).digest()
    else:
        assert code == ReturnCode.BAD_LOCALITY
        assert chip.run(tss12.pcr_read(index)) == before


@pytest.mark.parametrize("index", range(24))
@pytest.mark.parametrize("locality", range(5))
def test_reset_is_allowed_from_the_pcrs_localities_only(index: int, locality: int) -> None:
    chip = make_chip()
    code = chip.code(tss12.pcr_reset([index]), locality=locality)
    resetters = EXPECTED[index][0]
    if not resetters:
        assert code == ReturnCode.NOTRESETABLE
    elif locality in resetters:
        assert code == ReturnCode.SUCCESS
    else:
        assert code == ReturnCode.NOTLOCAL


def test_reset_gives_ones_in_launch_pcrs_until_a_dynamic_launch_and_zero_after_it() -> None:
    chip = make_chip()
    chip.run(tss12.extend(21, b"q" * 20), locality=2)
    chip.run(tss12.pcr_reset([21]), locality=2)
    assert chip.run(tss12.pcr_read(21)) == ONES
    assert chip.handle(HashStart()) == 0
    assert chip.handle(HashEnd()) == 0
    chip.run(tss12.extend(21, b"q" * 20), locality=2)
    chip.run(tss12.pcr_reset([21]), locality=2)
    assert chip.run(tss12.pcr_read(21)) == ZERO


def test_reset_of_several_changes_none_if_one_is_refused() -> None:
    chip = make_chip()
    value = chip.run(tss12.extend(16, b"z" * 20))
    assert chip.code(tss12.pcr_reset([16, 15])) == ReturnCode.NOTRESETABLE
    assert chip.code(tss12.pcr_reset([16, 17])) == ReturnCode.NOTLOCAL
    assert chip.run(tss12.pcr_read(16)) == value


def test_reset_of_nothing_is_invalid_pcr_info() -> None:
    assert make_chip().code(tss12.pcr_reset([])) == ReturnCode.INVALID_PCR_INFO


@pytest.mark.parametrize("index", [24, 0xFFFFFFFF])
def test_a_pcr_that_does_not_exist_is_badindex(index: int) -> None:
    chip = make_chip()
    assert chip.code(tss12.pcr_read(index)) == ReturnCode.BADINDEX
    assert chip.code(tss12.extend(index, ZERO)) == ReturnCode.BADINDEX


def test_right_after_hash_start_pcr_17_belongs_to_locality_4() -> None:
    chip = make_chip()
    chip.handle(HashStart())
    assert chip.code(tss12.extend(17, ZERO), locality=2) == ReturnCode.BAD_LOCALITY
    chip.handle(HashEnd())
    assert chip.code(tss12.extend(17, ZERO), locality=2) == ReturnCode.SUCCESS


def test_a_deactivated_chip_extends_and_does_not_tell_the_value() -> None:
    chip = make_chip()
    chip.assert_presence()
    chip.run(tss12.set_temp_deactivated())
    assert chip.run(tss12.extend(2, b"h" * 20)) == ZERO
    assert chip.code(tss12.pcr_read(2)) == ReturnCode.DEACTIVATED
    chip.restart()
    stored = chip.engine.volatile_state()
    assert hashlib.sha1(ZERO + b"h" * 20).digest() in stored
