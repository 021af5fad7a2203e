# SPDX-License-Identifier: Apache-2.0
"""Enabling, activating, and physical presence."""

from __future__ import annotations

import pytest

from protocol.tpm12.constants import PhysicalPresenceFlags as Pp
from protocol.tpm12.constants import ReturnCode, SetCapabilityArea
from tests.unit.tpm12.world import OWNER_AUTH, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import HashEnd, HashStart


def test_a_new_chip_is_enabled_and_activated_and_asserts_no_presence() -> None:
    chip = make_chip()
    flags = chip.run(tss12.permanent_flags())
    assert not flags.disable
    assert not flags.deactivated
    assert chip.code(tss12.physical_enable()) == ReturnCode.BAD_PRESENCE


def test_the_owner_disables_and_enables_while_disabled() -> None:
    chip = make_owned_chip()
    chip.run(tss12.owner_set_disable(True, owner_auth=OWNER_AUTH, random=chip.client_random))
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.DISABLED
    chip.run(tss12.owner_set_disable(False, owner_auth=OWNER_AUTH, random=chip.client_random))
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.SUCCESS


def test_deactivation_takes_effect_at_the_next_start() -> None:
    chip = make_chip()
    chip.assert_presence()
    chip.run(tss12.physical_set_deactivated(True))
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.SUCCESS
    chip.power_cycle()
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.DEACTIVATED


def test_temporary_deactivation_lasts_until_the_next_start() -> None:
    chip = make_chip()
    assert chip.code(tss12.set_temp_deactivated()) == ReturnCode.BAD_PRESENCE
    chip.assert_presence()
    chip.run(tss12.set_temp_deactivated())
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.DEACTIVATED
    chip.power_cycle()
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.SUCCESS


def test_the_operator_deactivates_with_a_secret() -> None:
    chip = make_chip()
    operator = b"operator-secret-test"
    wrong = b"not-the-operators-!!"
    chip.assert_presence()
    random = chip.client_random
    code = chip.code(tss12.set_temp_deactivated(operator_auth=operator, random=random))
    assert code == ReturnCode.NOOPERATOR
    chip.run(tss12.set_operator_auth(operator))
    code = chip.code(tss12.set_temp_deactivated(operator_auth=wrong, random=random))
    assert code == ReturnCode.AUTHFAIL
    chip.run(tss12.set_temp_deactivated(operator_auth=operator, random=random))
    assert chip.run(tss12.stclear_flags()).deactivated


@pytest.mark.parametrize(
    "bits",
    [
        0,
        0x0001,
        0xFC00,
        Pp.CMD_ENABLE | Pp.PRESENT,
        Pp.CMD_ENABLE | Pp.CMD_DISABLE,
        Pp.HW_ENABLE | Pp.HW_DISABLE,
        Pp.PRESENT,
        Pp.CMD_ENABLE | 0x0001,
        Pp.CMD_ENABLE | 0x8000,
        Pp.HW_ENABLE | Pp.LIFETIME_LOCK | 0x0400,
    ],
)
def test_contradictory_or_unknown_presence_bits_are_refused_on_a_new_chip(bits: int) -> None:
    chip = make_chip()
    before = chip.engine.permanent_state()
    assert chip.code(tss12.tsc_physical_presence(bits)) == ReturnCode.BAD_PARAMETER
    assert chip.engine.permanent_state() == before


@pytest.mark.parametrize(
    "bits", [Pp.PRESENT | Pp.LOCK, Pp.PRESENT | Pp.NOTPRESENT, Pp.PRESENT | 0x8000]
)
def test_contradictory_assertions_are_refused(bits: int) -> None:
    chip = make_chip()
    chip.run(tss12.tsc_physical_presence(Pp.CMD_ENABLE))
    assert chip.code(tss12.tsc_physical_presence(bits)) == ReturnCode.BAD_PARAMETER


def test_presence_is_asserted_withdrawn_and_locked_until_the_next_start() -> None:
    chip = make_chip()
    chip.assert_presence()
    assert chip.code(tss12.physical_enable()) == ReturnCode.SUCCESS
    chip.run(tss12.tsc_physical_presence(Pp.NOTPRESENT | Pp.LOCK))
    assert chip.code(tss12.physical_enable()) == ReturnCode.BAD_PRESENCE
    assert chip.code(tss12.tsc_physical_presence(Pp.PRESENT)) == ReturnCode.BAD_PARAMETER
    chip.power_cycle()
    assert chip.code(tss12.tsc_physical_presence(Pp.PRESENT)) == ReturnCode.SUCCESS


def test_the_lifetime_lock_is_for_ever() -> None:
    chip = make_chip()
    chip.run(tss12.tsc_physical_presence(Pp.CMD_ENABLE | Pp.LIFETIME_LOCK))
    chip.power_cycle()
    assert chip.code(tss12.tsc_physical_presence(Pp.HW_ENABLE)) == ReturnCode.BAD_PARAMETER
    assert chip.code(tss12.tsc_physical_presence(Pp.PRESENT)) == ReturnCode.SUCCESS


@pytest.mark.parametrize(("locality", "code"), [(0, 61), (2, 61), (3, 0), (4, 0)])
def test_the_establishment_bit_is_reset_from_localities_3_and_4_only(
    locality: int, code: int
) -> None:
    assert make_chip().code(tss12.tsc_reset_establishment_bit(), locality=locality) == code


def test_a_launch_sets_the_establishment_bit_until_it_is_reset() -> None:
    chip = make_chip()
    assert chip.handle(HashStart()) == ReturnCode.SUCCESS
    assert chip.handle(HashEnd()) == ReturnCode.SUCCESS
    chip.power_cycle()
    assert chip.run(tss12.permanent_flags()).tpm_established
    assert chip.code(tss12.tsc_reset_establishment_bit(), locality=2) == ReturnCode.BAD_LOCALITY
    assert chip.run(tss12.permanent_flags()).tpm_established
    chip.run(tss12.tsc_reset_establishment_bit(), locality=3)
    assert not chip.run(tss12.permanent_flags()).tpm_established
    chip.power_cycle()
    assert not chip.run(tss12.permanent_flags()).tpm_established


def test_the_establishment_bit_is_reset_as_a_capability_too() -> None:
    chip = make_chip()
    chip.handle(HashStart())
    chip.handle(HashEnd())
    reset = tss12.set_capability(SetCapabilityArea.PERM_FLAGS, 18, b"\0")
    assert chip.code(reset) == ReturnCode.BAD_LOCALITY
    chip.run(tss12.set_capability(SetCapabilityArea.PERM_FLAGS, 18, b"\0"), locality=4)
    assert not chip.run(tss12.permanent_flags()).tpm_established
