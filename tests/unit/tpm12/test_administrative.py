# SPDX-License-Identifier: Apache-2.0
"""ResetLockValue and the lockout that it ends (Part 3, 9.3)."""

from __future__ import annotations

import pytest

from protocol.tpm12.constants import CapabilityArea, ReservedHandle, ReturnCode
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.lockout import THRESHOLD
from tpmcore.tss12 import Conversation

WRONG = bytes(20)


@pytest.fixture
def chip() -> Chip:
    """A chip with an owner."""
    return make_owned_chip()


def guess(chip: Chip, auth: bytes = WRONG) -> int:
    """Try an owner secret and return the code."""
    return chip.code(
        tss12.owner_read_internal_pub(
            ReservedHandle.SRK, owner_auth=auth, random=chip.client_random
        )
    )


def reset(chip: Chip, auth: bytes = OWNER_AUTH) -> Conversation[None]:
    """Forget failures."""
    return tss12.reset_lock_value(owner_auth=auth, random=chip.client_random)


def lock_out(chip: Chip) -> None:
    """Guess until authorized commands are refused."""
    for _ in range(THRESHOLD + 1):
        assert guess(chip) == ReturnCode.AUTHFAIL
    assert guess(chip, OWNER_AUTH) == ReturnCode.DEFEND_LOCK_RUNNING


def test_the_owner_ends_a_lockout(chip: Chip) -> None:
    lock_out(chip)
    chip.run(reset(chip))
    assert guess(chip, OWNER_AUTH) == ReturnCode.SUCCESS
    for _ in range(THRESHOLD):
        guess(chip)
    assert guess(chip, OWNER_AUTH) == ReturnCode.SUCCESS


def test_a_wrong_try_during_a_lockout_closes_the_way_until_it_ends(chip: Chip) -> None:
    lock_out(chip)
    assert chip.code(reset(chip, WRONG)) == ReturnCode.AUTHFAIL
    assert chip.code(reset(chip)) == ReturnCode.AUTHFAIL
    chip.restart()
    assert chip.code(reset(chip)) == ReturnCode.AUTHFAIL
    chip.ticks.advance(3)
    chip.run(reset(chip))
    assert guess(chip, OWNER_AUTH) == ReturnCode.SUCCESS


def test_a_refused_reset_does_not_prolong_the_lockout(chip: Chip) -> None:
    lock_out(chip)
    chip.code(reset(chip, WRONG))
    for _ in range(5):
        assert chip.code(reset(chip)) == ReturnCode.AUTHFAIL
    chip.ticks.advance(2.1)
    assert guess(chip, OWNER_AUTH) == ReturnCode.SUCCESS


def test_a_way_that_was_closed_is_open_in_the_next_lockout(chip: Chip) -> None:
    lock_out(chip)
    assert chip.code(reset(chip, WRONG)) == ReturnCode.AUTHFAIL
    chip.ticks.advance(2)
    # Nobody has looked in between: the next failure locks out anew.
    assert guess(chip) == ReturnCode.AUTHFAIL
    assert guess(chip, OWNER_AUTH) == ReturnCode.DEFEND_LOCK_RUNNING
    chip.run(reset(chip))
    assert guess(chip, OWNER_AUTH) == ReturnCode.SUCCESS


def test_looking_at_a_lockout_that_is_over_changes_no_state(chip: Chip) -> None:
    lock_out(chip)
    chip.code(reset(chip, WRONG))
    chip.ticks.advance(10)
    engine = chip.engine
    version, before = engine.volatile_version, engine.volatile_state()
    chip.run(tss12.get_capability(CapabilityArea.DA_LOGIC, b"\x00\x02"))
    assert (engine.volatile_version, engine.volatile_state()) == (version, before)


def test_a_wrong_try_outside_a_lockout_closes_nothing(chip: Chip) -> None:
    assert chip.code(reset(chip, WRONG)) == ReturnCode.AUTHFAIL
    assert chip.code(reset(chip)) == ReturnCode.SUCCESS


def test_each_failure_doubles_the_lockout(chip: Chip) -> None:
    lock_out(chip)
    for seconds in (1, 2, 4, 8):
        chip.ticks.advance(seconds - 0.1)
        assert guess(chip, OWNER_AUTH) == ReturnCode.DEFEND_LOCK_RUNNING
        chip.ticks.advance(0.2)
        assert guess(chip) == ReturnCode.AUTHFAIL


def test_without_an_owner_there_is_nobody_to_reset() -> None:
    chip = make_chip()
    assert chip.code(reset(chip)) == ReturnCode.NOSRK
