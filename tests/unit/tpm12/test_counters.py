# SPDX-License-Identifier: Apache-2.0
"""Monotonic counters (Part 3, 25)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.tpm12.constants import (
    COUNT_ID_ILLEGAL,
    COUNT_ID_NULL,
    EntityType,
    Ordinal,
    ResourceType,
    ReturnCode,
    StartupType,
)
from protocol.tpm12.resources import CounterValue
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import Done, Failed
from tpmcore.tpm12.stateformat import decode_permanent, encode_permanent
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation, NewCounter, Session
from tpmcore.tss12.conversation import nothing

AUTH = b"counter-secret-test!"


@pytest.fixture
def chip() -> Chip:
    """A chip with an owner."""
    return make_owned_chip()


def create(chip: Chip, label: bytes = b"test", auth: bytes = AUTH) -> Conversation[NewCounter]:
    """Make a counter."""
    return tss12.create_counter(
        owner_auth=OWNER_AUTH, counter_auth=auth, label=label, random=chip.client_random
    )


def increment(chip: Chip, count_id: int, auth: bytes = AUTH) -> Conversation[CounterValue]:
    """Add one."""
    return tss12.increment_counter(count_id, counter_auth=auth, random=chip.client_random)


def release(chip: Chip, count_id: int, auth: bytes = AUTH) -> Conversation[None]:
    """Give a counter up with its secret."""
    return tss12.release_counter(count_id, counter_auth=auth, random=chip.client_random)


def release_owner(chip: Chip, count_id: int, auth: bytes = OWNER_AUTH) -> Conversation[None]:
    """Give a counter up as owner."""
    return tss12.release_counter_owner(count_id, owner_auth=auth, random=chip.client_random)


def osap(chip: Chip, count_id: int) -> Session:
    """Open a session on a counter."""
    return chip.run(tss12.osap(EntityType.COUNTER, count_id, AUTH, random=chip.client_random))


def test_a_counter_keeps_label_and_value(chip: Chip) -> None:
    new = chip.run(create(chip, b"abcd"))
    assert new.value == CounterValue(b"abcd", 1)
    assert chip.run(tss12.read_counter(new.count_id)) == CounterValue(b"abcd", 1)
    assert chip.run(increment(chip, new.count_id)) == CounterValue(b"abcd", 2)
    chip.power_cycle()
    assert chip.run(tss12.read_counter(new.count_id)) == CounterValue(b"abcd", 2)


def test_a_new_counter_begins_above_every_value_there_ever_was(chip: Chip) -> None:
    first = chip.run(create(chip)).count_id
    for _ in range(5):
        chip.run(increment(chip, first))
    chip.run(release(chip, first))
    assert chip.run(create(chip)).value.counter == 7
    assert chip.run(create(chip)).value.counter == 8


def test_values_do_not_go_back_when_the_owner_changes(chip: Chip) -> None:
    first = chip.run(create(chip))
    chip.run(increment(chip, first.count_id))
    chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    chip.assert_presence()
    chip.run(tss12.physical_enable())
    assert chip.code(tss12.read_counter(first.count_id)) == ReturnCode.BAD_COUNTER
    chip.run(
        tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=bytes(20), random=chip.client_random)
    )
    assert chip.run(create(chip)).value.counter == 3


def test_only_the_first_incremented_counter_moves_in_a_boot(chip: Chip) -> None:
    one, two = chip.run(create(chip)).count_id, chip.run(create(chip)).count_id
    assert chip.run(tss12.active_counter()) == COUNT_ID_NULL
    chip.run(increment(chip, two))
    assert chip.run(tss12.active_counter()) == two
    assert chip.code(increment(chip, one)) == ReturnCode.BAD_COUNTER
    chip.run(increment(chip, two))
    chip.restart()
    assert chip.code(increment(chip, one)) == ReturnCode.BAD_COUNTER
    chip.run(tss12.save_state())
    chip.power_cycle(StartupType.STATE)
    assert chip.code(increment(chip, one)) == ReturnCode.BAD_COUNTER
    chip.power_cycle()
    chip.run(increment(chip, one))


def test_releasing_the_active_counter_ends_increments_for_this_boot(chip: Chip) -> None:
    one, two = chip.run(create(chip)).count_id, chip.run(create(chip)).count_id
    chip.run(increment(chip, one))
    chip.run(release(chip, one))
    assert chip.run(tss12.active_counter()) == COUNT_ID_NULL
    assert chip.run(create(chip)).count_id == one
    for count_id in (one, two):
        assert chip.code(increment(chip, count_id)) == ReturnCode.BAD_COUNTER
    chip.power_cycle()
    chip.run(increment(chip, two))


def test_a_failed_increment_chooses_no_active_counter(chip: Chip) -> None:
    one, two = chip.run(create(chip)).count_id, chip.run(create(chip)).count_id
    assert chip.code(increment(chip, one, bytes(20))) == ReturnCode.AUTHFAIL
    assert chip.run(tss12.read_counter(one)).counter == 1
    chip.run(increment(chip, two))


def test_an_increment_that_could_not_be_stored_did_not_happen(chip: Chip) -> None:
    one, two = chip.run(create(chip)).count_id, chip.run(create(chip)).count_id
    chip.persist_result = Failed()
    assert chip.code(increment(chip, one)) == ReturnCode.IOERROR
    chip.persist_result = Done()
    assert chip.run(tss12.read_counter(one)).counter == 1
    chip.run(increment(chip, two))


def test_unknown_counters_are_refused(chip: Chip) -> None:
    for count_id in (0, 7, 8, COUNT_ID_NULL, COUNT_ID_ILLEGAL):
        assert chip.code(tss12.read_counter(count_id)) == ReturnCode.BAD_COUNTER
        assert chip.code(increment(chip, count_id)) == ReturnCode.BAD_COUNTER
        assert chip.code(release(chip, count_id)) == ReturnCode.BAD_COUNTER
        assert chip.code(release_owner(chip, count_id)) == ReturnCode.BAD_COUNTER


def test_a_wrong_secret_releases_nothing(chip: Chip) -> None:
    count_id = chip.run(create(chip)).count_id
    assert chip.code(release(chip, count_id, bytes(20))) == ReturnCode.AUTHFAIL
    assert chip.code(release_owner(chip, count_id, bytes(20))) == ReturnCode.AUTHFAIL
    assert chip.run(tss12.read_counter(count_id)).counter == 1
    chip.run(release_owner(chip, count_id))
    assert chip.code(tss12.read_counter(count_id)) == ReturnCode.BAD_COUNTER


def test_the_owner_release_judges_the_secret_before_the_counter(chip: Chip) -> None:
    assert chip.code(release_owner(chip, 0, bytes(20))) == ReturnCode.AUTHFAIL


def test_there_are_as_many_counters_as_the_profile_says() -> None:
    chip = make_owned_chip(Profile(max_counters=4))
    for _ in range(4):
        chip.run(create(chip))
    assert chip.code(create(chip)) == ReturnCode.RESOURCES
    assert chip.run(tss12.handles(ResourceType.COUNTER)) == [0, 1, 2, 3]
    chip.run(release(chip, 2))
    assert chip.run(create(chip)).count_id == 2


def test_creation_needs_an_osap_session_and_ends_it(chip: Chip) -> None:
    session = chip.run(tss12.oiap())
    attempt = tss12.execute(
        Ordinal.CREATE_COUNTER,
        nothing,
        parameters=bytes(24),
        auths=(tss12.prove(session, chip.client_random, secret=OWNER_AUTH),),
    )
    assert chip.code(attempt) == ReturnCode.BAD_MODE
    chip.run(create(chip))
    assert chip.run(tss12.handles(ResourceType.AUTH)) == []


def test_an_osap_session_on_the_counter_increments_and_dies_with_it(chip: Chip) -> None:
    count_id = chip.run(create(chip)).count_id
    session, other = osap(chip, count_id), osap(chip, count_id)
    value = chip.run(
        tss12.increment_counter(
            count_id, counter_auth=b"", random=chip.client_random, session=session
        )
    )
    assert value.counter == 2
    assert session.handle in chip.run(tss12.handles(ResourceType.AUTH))
    released = tss12.execute(
        Ordinal.RELEASE_COUNTER,
        nothing,
        parameters=count_id.to_bytes(4, "big"),
        auths=(tss12.prove(session, chip.client_random, keep=True),),
    )
    chip.run(released)
    assert not session.is_open
    assert chip.run(tss12.handles(ResourceType.AUTH)) == []
    assert other.is_open


def test_an_oiap_session_outlives_the_counter(chip: Chip) -> None:
    count_id = chip.run(create(chip)).count_id
    session = chip.run(tss12.oiap())
    released = tss12.execute(
        Ordinal.RELEASE_COUNTER,
        nothing,
        parameters=count_id.to_bytes(4, "big"),
        auths=(tss12.prove(session, chip.client_random, secret=AUTH, keep=True),),
    )
    chip.run(released)
    assert session.is_open
    assert chip.run(tss12.handles(ResourceType.AUTH)) == [session.handle]


def test_an_osap_session_on_a_counter_does_not_open_its_successor(chip: Chip) -> None:
    count_id = chip.run(create(chip)).count_id
    session = osap(chip, count_id)
    chip.run(release_owner(chip, count_id))
    assert chip.run(create(chip)).count_id == count_id
    attempt = tss12.increment_counter(
        count_id, counter_auth=b"", random=chip.client_random, session=session
    )
    assert chip.code(attempt) == ReturnCode.INVALID_AUTHHANDLE


def test_a_counter_at_its_end_does_not_wrap(chip: Chip) -> None:
    count_id = chip.run(create(chip)).count_id
    state = decode_permanent(chip.durable)
    state.counters[count_id] = replace(state.counters[count_id], value=0xFFFFFFFE)
    chip.durable = encode_permanent(state)
    chip.power_cycle()
    assert chip.run(increment(chip, count_id)).counter == 0xFFFFFFFF
    assert chip.code(increment(chip, count_id)) == ReturnCode.BAD_COUNTER
    assert chip.run(tss12.read_counter(count_id)).counter == 0xFFFFFFFF
    assert chip.code(create(chip)) == ReturnCode.RESOURCES
