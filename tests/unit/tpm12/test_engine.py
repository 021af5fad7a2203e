# SPDX-License-Identifier: Apache-2.0
"""Steps and effects: an answer comes after its effect, a failed effect leaves no trace."""

from __future__ import annotations

import hashlib
import hmac
import tracemalloc
from collections.abc import Callable

import pytest

from protocol.errors import WireError
from protocol.tpm12.constants import (
    EntityType,
    NvAttributes,
    Ordinal,
    PhysicalPresenceFlags,
    ResourceType,
    ReturnCode,
    StartupType,
)
from protocol.tpm12.framing import build_message, error_response
from tests.unit.tpm12.keychain import make_and_load, signing_key
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import (
    CapPcrs,
    Done,
    EventDone,
    Failed,
    HashData,
    HashEnd,
    HashStart,
    Persist,
    PhysicalPresence,
    PowerOn,
    SetPcr,
)
from tpmcore.errors import EngineFault, TpmError
from tpmcore.tpm12 import pcrs
from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.stateformat import decode_permanent, decode_volatile
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation

ENABLE_PRESENCE = build_message(
    0x00C1, Ordinal.TSC_PHYSICAL_PRESENCE, PhysicalPresenceFlags.CMD_ENABLE.to_bytes(2, "big")
)
EXTEND_0 = bytes.fromhex("00c1 00000022 00000014 00000000") + b"e" * 20
PCR_READ_0 = bytes.fromhex("00c1 0000000e 00000015 00000000")


def test_a_command_that_changes_the_permanent_state_asks_for_it_to_be_persisted_first() -> None:
    chip = make_chip()
    step = chip.engine.execute(ENABLE_PRESENCE, 0)
    assert isinstance(step, Persist)
    assert step.state == chip.engine.permanent_state()
    assert chip.engine.resume(Done()) == error_response(ReturnCode.SUCCESS)


def test_a_command_that_changes_nothing_permanent_asks_for_nothing() -> None:
    chip = make_chip()
    chip.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.CMD_ENABLE))
    before = chip.persisted
    chip.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.CMD_ENABLE))
    chip.run(tss12.extend(5, b"x" * 20))
    assert chip.persisted == before


def test_while_an_effect_is_pending_nothing_else_is_taken() -> None:
    chip = make_chip()
    assert isinstance(chip.engine.execute(ENABLE_PRESENCE, 0), Persist)
    with pytest.raises(EngineFault):
        chip.engine.execute(PCR_READ_0, 0)
    with pytest.raises(EngineFault):
        chip.engine.handle(PowerOn())


def test_resume_without_a_pending_effect_is_a_fault() -> None:
    with pytest.raises(EngineFault):
        make_chip().engine.resume(Done())


def test_a_failed_persist_is_an_error_and_restores_both_states() -> None:
    chip = make_owned_chip()
    chip.run(tss12.extend(3, b"y" * 20))
    permanent, pcr = chip.engine.permanent_state(), chip.run(tss12.pcr_read(3))
    chip.persist_result = Failed()
    code = chip.code(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    assert code == ReturnCode.IOERROR
    assert chip.engine.permanent_state() == permanent
    assert chip.run(tss12.pcr_read(3)) == pcr
    chip.persist_result = Done()
    chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    assert not chip.run(tss12.is_owned())


@pytest.mark.parametrize("daemon_asked", [False, True])
def test_a_failed_persist_goes_back_to_just_before_whether_the_daemon_asked_or_not(
    daemon_asked: bool,
) -> None:
    chip = make_chip()
    engine = chip.engine
    # The state that the engine keeps from here on is not that of the failed command.
    engine.volatile_state()
    engine.execute(EXTEND_0, 0)
    before = engine.execute(PCR_READ_0, 0)
    if daemon_asked:
        engine.volatile_state()
    assert isinstance(engine.execute(ENABLE_PRESENCE, 0), Persist)
    engine.resume(Failed())
    assert engine.execute(PCR_READ_0, 0) == before
    assert before != bytes.fromhex("00c4 0000001e 00000000") + bytes(20)


COUNTER_AUTH = b"counter-secret-test!"
NV_INDEX = 0x00010000


def _owner_clear(chip: Chip) -> Conversation[object]:
    return tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random)


def _create_counter(chip: Chip) -> Conversation[object]:
    return tss12.create_counter(
        owner_auth=OWNER_AUTH, counter_auth=COUNTER_AUTH, label=b"more", random=chip.client_random
    )


def _increment_counter(chip: Chip) -> Conversation[object]:
    return tss12.increment_counter(0, counter_auth=COUNTER_AUTH, random=chip.client_random)


def _release_counter(chip: Chip) -> Conversation[object]:
    return tss12.release_counter(0, counter_auth=COUNTER_AUTH, random=chip.client_random)


def _pin_key(chip: Chip) -> Conversation[object]:
    [key] = decode_volatile(
        chip.engine.volatile_state(), decode_permanent(chip.durable), 0
    ).stclear.keys.values()
    return tss12.key_control_owner(
        key.handle,
        key.body.public.public_key,
        True,
        owner_auth=OWNER_AUTH,
        random=chip.client_random,
    )


def _lock_area(_chip: Chip) -> Conversation[object]:
    return tss12.nv_write_value(NV_INDEX, b"")


def _delete_area(_chip: Chip) -> Conversation[object]:
    return tss12.nv_delete_space(NV_INDEX)


def _force_clear(_chip: Chip) -> Conversation[object]:
    return tss12.force_clear()


@pytest.mark.parametrize(
    "command",
    [
        _owner_clear,
        _create_counter,
        _increment_counter,
        _release_counter,
        _pin_key,
        _lock_area,
        _delete_area,
        _force_clear,
    ],
)
def test_nothing_remains_of_a_command_whose_persist_failed(
    command: Callable[[Chip], Conversation[object]],
) -> None:
    chip = make_owned_chip()
    chip.assert_presence()
    chip.run(_create_counter(chip))
    chip.run(tss12.nv_define_space(NV_INDEX, 4, NvAttributes.PPWRITE | NvAttributes.WRITE_STCLEAR))
    make_and_load(chip, signing_key())
    for entity, value in ((EntityType.NV, NV_INDEX), (EntityType.COUNTER, 0)):
        body = entity.to_bytes(2, "big") + value.to_bytes(4, "big") + bytes(20)
        assert len(chip.send(build_message(0x00C1, Ordinal.OSAP, body))) == 54
    permanent, volatile = chip.engine.permanent_state(), chip.engine.volatile_state()
    chip.persist_result = Failed()
    assert chip.code(command(chip)) == ReturnCode.IOERROR
    assert chip.engine.permanent_state() == permanent
    assert chip.engine.volatile_state() == volatile
    chip.persist_result = Done()
    assert chip.code(command(chip)) == ReturnCode.SUCCESS
    assert chip.engine.permanent_state() != permanent


def test_a_failed_persist_gives_the_code_that_the_daemon_names() -> None:
    chip = make_chip()
    assert isinstance(chip.engine.execute(ENABLE_PRESENCE, 0), Persist)
    assert chip.engine.resume(Failed(ReturnCode.NOSPACE)) == error_response(ReturnCode.NOSPACE)


def test_a_failed_persist_ends_the_session_that_the_command_named() -> None:
    chip = make_owned_chip()
    session = chip.run(tss12.oiap())
    assert session.handle in chip.run(tss12.handles(ResourceType.AUTH))
    chip.persist_result = Failed()
    command = _owner_disable(session.handle, session.nonce_even)
    assert chip.send(command) == error_response(ReturnCode.IOERROR)
    assert session.handle not in chip.run(tss12.handles(ResourceType.AUTH))


def _owner_disable(handle: int, nonce_even: bytes) -> bytes:
    """OwnerSetDisable(TRUE) under an OIAP session, nonceOdd zero."""
    digest = hashlib.sha1(Ordinal.OWNER_SET_DISABLE.to_bytes(4, "big") + b"\x01").digest()
    auth = hmac.digest(OWNER_AUTH, digest + nonce_even + bytes(20) + b"\x00", "sha1")
    body = b"\x01" + handle.to_bytes(4, "big") + bytes(20) + b"\x00" + auth
    return build_message(0x00C2, Ordinal.OWNER_SET_DISABLE, body)


def test_a_bug_in_a_handler_becomes_failure_mode_and_not_an_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chip = make_chip()

    def broken(_command: bytes, _locality: int) -> bytes:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(chip.engine._dispatcher, "run", broken)
        assert chip.send(PCR_READ_0) == error_response(ReturnCode.FAILEDSELFTEST)
    assert isinstance(chip.engine.fault, RuntimeError)
    assert chip.send(PCR_READ_0) == error_response(ReturnCode.FAILEDSELFTEST)
    assert chip.run(tss12.manufacturer()) == chip.profile.manufacturer
    assert chip.handle(PowerOn()) == 0
    chip.run(tss12.startup())
    assert chip.run(tss12.pcr_read(0)) == bytes(20)


def test_two_engines_from_the_same_seeds_answer_alike() -> None:
    one, two = make_chip(), make_chip()
    for chip in (one, two):
        chip.run(tss12.oiap())
        chip.run(tss12.get_random(32))
        chip.run(tss12.extend(1, b"d" * 20))
    assert one.log == two.log
    assert one.engine.permanent_state() == two.engine.permanent_state()
    assert one.engine.volatile_state() == two.engine.volatile_state()


def test_a_restart_of_the_daemon_is_not_a_reset() -> None:
    chip = make_owned_chip()
    chip.run(tss12.extend(7, b"m" * 20))
    session = chip.run(tss12.oiap())
    pcr = chip.run(tss12.pcr_read(7))
    chip.restart()
    assert chip.run(tss12.pcr_read(7)) == pcr
    command = _owner_disable(session.handle, session.nonce_even)
    assert chip.send(command)[6:10] == bytes(4)
    assert chip.run(tss12.permanent_flags()).disable


def test_power_off_loses_pcrs_and_keeps_the_owner() -> None:
    chip = make_owned_chip()
    chip.run(tss12.extend(7, b"m" * 20))
    chip.power_cycle()
    assert chip.run(tss12.pcr_read(7)) == bytes(20)
    assert chip.run(tss12.is_owned())


def test_power_on_wants_startup_again() -> None:
    chip = make_chip()
    assert chip.handle(PowerOn()) == 0
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.INVALID_POSTINIT
    chip.run(tss12.startup())
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.SUCCESS


def test_capping_extends_pcrs_0_to_7_and_no_other() -> None:
    chip = make_chip()
    before = [chip.run(tss12.pcr_read(i)) for i in range(24)]
    assert chip.handle(CapPcrs(b"c" * 20)) == 0
    after = [chip.run(tss12.pcr_read(i)) for i in range(24)]
    assert [i for i in range(24) if before[i] != after[i]] == list(range(8))
    assert len(set(after[:8])) == 1


@pytest.mark.parametrize(("index", "value"), [(24, bytes(20)), (-1, bytes(20)), (3, b"short")])
def test_a_pcr_that_cannot_be_set_is_refused(index: int, value: bytes) -> None:
    chip = make_chip()
    assert chip.handle(SetPcr(index, value)) == ReturnCode.BADINDEX


def test_a_pcr_is_set_from_outside() -> None:
    chip = make_chip()
    assert chip.handle(SetPcr(4, b"h" * 20)) == 0
    assert chip.run(tss12.pcr_read(4)) == b"h" * 20


def test_a_dynamic_launch_measures_into_pcr_17_and_is_remembered() -> None:
    chip = make_chip()
    assert chip.run(tss12.pcr_read(17)) == b"\xff" * 20
    before = chip.persisted
    assert chip.handle(HashStart()) == 0
    assert chip.persisted == before + 1
    assert chip.handle(HashData(b"launched ")) == 0
    assert chip.handle(HashData(b"code")) == 0
    assert chip.handle(HashEnd()) == 0
    digest = hashlib.sha1(bytes(20) + hashlib.sha1(b"launched code").digest()).digest()
    assert chip.run(tss12.pcr_read(17)) == digest
    assert [chip.run(tss12.pcr_read(i)) for i in range(18, 23)] == [bytes(20)] * 5
    assert chip.engine.is_established
    chip.power_cycle()
    assert chip.engine.is_established


@pytest.mark.parametrize("event", [HashData(b"x"), HashEnd()])
def test_hash_data_without_a_start_is_failure_mode(event: HashData | HashEnd) -> None:
    chip = make_chip()
    assert chip.handle(event) == ReturnCode.SHA_THREAD
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.FAILEDSELFTEST


def test_hash_start_before_startup_is_failure_mode() -> None:
    chip = make_chip(startup=None)
    assert chip.handle(HashStart()) == ReturnCode.INVALID_POSTINIT
    assert chip.code(tss12.startup()) == ReturnCode.FAILEDSELFTEST
    assert chip.code(tss12.get_test_result()) == ReturnCode.SUCCESS


def test_a_failed_persist_of_an_event_undoes_it() -> None:
    chip = make_chip()
    chip.persist_result = Failed()
    step = chip.engine.handle(HashStart())
    assert isinstance(step, Persist)
    assert chip.engine.resume(Failed()) == EventDone(ReturnCode.IOERROR)
    assert not chip.engine.is_established
    assert chip.run(tss12.pcr_read(17)) == b"\xff" * 20


def test_a_hash_sequence_whose_start_was_undone_takes_no_data() -> None:
    chip = make_chip()
    chip.persist_result = Failed()
    assert chip.handle(HashStart()) == ReturnCode.IOERROR
    chip.persist_result = Done()
    assert chip.handle(HashData(b"code")) == ReturnCode.SHA_THREAD


def test_a_hash_sequence_of_any_length_takes_no_memory() -> None:
    chip = make_chip()
    assert chip.handle(HashStart()) == 0
    chunk = HashData(bytes(1 << 20))
    tracemalloc.start()
    for _ in range(8):
        assert chip.handle(chunk) == 0
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20
    assert chip.handle(HashEnd()) == 0
    measured = hashlib.sha1(bytes(8 << 20)).digest()
    assert chip.run(tss12.pcr_read(17)) == hashlib.sha1(bytes(20) + measured).digest()


def test_a_bug_in_an_event_ends_the_event_in_failure_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chip = make_chip()

    def broken(_tpm: object, _data: bytes) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(pcrs, "hash_data", broken)
        assert chip.engine.handle(HashData(b"x")) == EventDone(ReturnCode.FAILEDSELFTEST)
    assert isinstance(chip.engine.fault, RuntimeError)
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.FAILEDSELFTEST


def test_a_failed_effect_is_no_success_whatever_code_the_daemon_gives() -> None:
    chip = make_chip()
    assert isinstance(chip.engine.execute(ENABLE_PRESENCE, 0), Persist)
    assert chip.engine.resume(Failed(0)) == error_response(ReturnCode.IOERROR)
    assert not chip.run(tss12.permanent_flags()).physical_presence_cmd_enable


def test_a_state_that_is_being_persisted_does_not_show_in_representations() -> None:
    chip = make_chip()
    assert isinstance(chip.engine.execute(ENABLE_PRESENCE, 0), Persist)
    assert "VTPM12" not in repr(chip.engine._pending)


def test_the_platforms_presence_counts_once_hardware_presence_is_enabled() -> None:
    chip = make_chip()
    assert chip.handle(PhysicalPresence(asserted=True)) == 0
    assert chip.code(tss12.physical_disable()) == ReturnCode.BAD_PRESENCE
    chip.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.HW_ENABLE))
    assert chip.code(tss12.physical_disable()) == ReturnCode.SUCCESS
    assert chip.run(tss12.permanent_flags()).disable


def test_volatile_version_moves_with_changes_and_rests_with_reads() -> None:
    chip = make_chip()
    chip.run(tss12.self_test_full())
    version = chip.engine.volatile_version
    chip.run(tss12.pcr_read(1))
    chip.run(tss12.manufacturer())
    assert chip.engine.volatile_version == version
    chip.run(tss12.extend(1, bytes(20)))
    assert chip.engine.volatile_version > version


def test_volatile_version_moves_with_the_outcome_of_self_tests() -> None:
    chip = make_chip()
    version = chip.engine.volatile_version
    unknown = build_message(0x00C1, 0x00FFFFFF)
    assert chip.send(unknown) == error_response(ReturnCode.BAD_ORDINAL)
    assert chip.engine.volatile_version > version


def test_a_chip_without_endorsement_key_can_be_manufactured() -> None:
    chip = make_chip(Profile(make_ek=False))
    assert chip.code(tss12.read_pubek(random=chip.client_random)) == ReturnCode.NO_ENDORSEMENT


def test_save_state_and_startup_state_bring_pcrs_back_but_not_resettable_ones() -> None:
    chip = make_chip()
    chip.run(tss12.extend(2, b"s" * 20))
    chip.run(tss12.extend(16, b"s" * 20))
    pcr = chip.run(tss12.pcr_read(2))
    chip.run(tss12.save_state())
    chip.power_cycle(StartupType.STATE)
    assert chip.run(tss12.pcr_read(2)) == pcr
    assert chip.run(tss12.pcr_read(16)) == bytes(20)


def test_any_command_after_save_state_drops_the_saved_state() -> None:
    chip = make_chip()
    chip.run(tss12.save_state())
    chip.run(tss12.pcr_read(0))
    chip.power_cycle(None)
    with pytest.raises(TpmError) as error:
        chip.run(tss12.startup(StartupType.STATE))
    assert error.value.code == ReturnCode.FAILEDSELFTEST
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.FAILEDSELFTEST
    # In failure mode the chip says who it is and what is wrong, and only TPM_Init helps.
    assert chip.code(tss12.manufacturer()) == ReturnCode.SUCCESS
    assert chip.code(tss12.get_test_result()) == ReturnCode.SUCCESS
    assert chip.code(tss12.startup()) == ReturnCode.INVALID_POSTINIT


def test_restore_refuses_bytes_that_are_no_state() -> None:
    chip = make_chip()
    with pytest.raises(WireError):
        Tpm12Engine.restore(chip._world(), chip.profile, b"not a state at all")


def test_what_save_state_kept_has_the_contexts_of_the_deprecated_commands() -> None:
    chip = make_owned_chip()
    session, (_, key) = chip.run(tss12.oiap()), make_and_load(chip, signing_key())
    old_key = chip.run(tss12.save_key_context(key))
    old = chip.run(tss12.save_auth_context(session.handle))
    chip.run(tss12.save_state())
    chip.power_cycle(StartupType.STATE)
    assert chip.run(tss12.load_key_context(old_key)) == key
    assert chip.run(tss12.load_auth_context(old)) == session.handle
