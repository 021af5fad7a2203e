# SPDX-License-Identifier: Apache-2.0
"""Auditing: the digest over what audited ordinals did, its counter, and who may end it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from protocol.tpm12.constants import Ordinal, ReturnCode, SigScheme, StartupType, Tag
from protocol.tpm12.framing import build_message
from protocol.tpm12.transport import TransportAttributes
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    NO_AUTH,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    binding_key,
    load,
    make_and_load,
    signing_key,
    storage_key,
    verifies,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import Done, Failed
from tpmcore.tpm12.stateformat import decode_permanent, encode_permanent

ZERO = bytes(20)
REPLAY = b"replay nonce of test"
IDENTITY_AUTH = b"secret of identity--"
DEFAULT_ON = (
    "0d 10 1f 28 2a 2b 2c 2d 2e 2f 30 5b 5c 5d 5e 6e 6f 70 71 72 73 79 7a 7c 7d 7e 8d"  # 1.0
)
NEVER = (Ordinal.GET_AUDIT_DIGEST, Ordinal.GET_AUDIT_DIGEST_SIGNED)


def _sha1(*parts: bytes) -> bytes:
    return hashlib.sha1(b"".join(parts)).digest()


def _count(number: int) -> bytes:
    """TPM_COUNTER_VALUE: tag, label, value."""
    return bytes.fromhex("000e 00000000") + number.to_bytes(4, "big")


def _chain(digest: bytes, count: int, parameters: bytes, answer: bytes) -> bytes:
    """Chain TPM_AUDIT_EVENT_IN and _OUT over the bytes that the two parameter digests cover."""
    digest = _sha1(digest, b"\x00\x12", _sha1(parameters), _count(count))
    return _sha1(digest, b"\x00\x13", _sha1(bytes(4), answer), _count(count))


def _events(digest: bytes, count: int, command: bytes, response: bytes, auths: int = 0) -> bytes:
    """Chain a command without handles, as it was sent and answered."""
    ordinal = command[6:10]
    parameters = command[10 : len(command) - 45 * auths]
    answer = response[10 : len(response) - 41 * auths]
    return _chain(digest, count, ordinal + parameters, ordinal + answer)


def _audit(chip: Chip, ordinal: int, audited: bool, *, owner_auth: bytes = OWNER_AUTH) -> int:
    return chip.code(
        tss12.set_ordinal_audit_status(
            ordinal, audited, owner_auth=owner_auth, random=chip.client_random
        )
    )


def _digest(chip: Chip) -> bytes:
    return chip.run(tss12.get_audit_digest()).digest


def _counter(chip: Chip) -> int:
    return chip.run(tss12.get_audit_digest()).counter.counter


def _read_pubek(chip: Chip) -> tuple[bytes, bytes]:
    command = build_message(Tag.RQU_COMMAND, Ordinal.READ_PUBEK, b"n" * 20)
    return command, chip.send(command)


def _enable(chip: Chip) -> tuple[bytes, bytes]:
    chip.run(tss12.owner_set_disable(False, owner_auth=OWNER_AUTH, random=chip.client_random))
    return chip.log[-1]


@pytest.fixture
def chip() -> Chip:
    """A chip with an owner, after a power cycle: nothing is in the digest."""
    chip = make_owned_chip()
    chip.power_cycle()
    return chip


# --- what is audited -----------------------------------------------------------------------------


def test_what_is_audited_by_default_is_what_the_table_says(chip: Chip) -> None:
    listed = chip.run(tss12.get_audit_digest())
    wanted = [int(ordinal, 16) for ordinal in DEFAULT_ON.split()]
    known = [ordinal for ordinal in wanted if chip.run(tss12.is_implemented(ordinal))]
    assert list(listed.ordinals) == known
    assert not listed.more


def test_the_list_begins_at_the_ordinal_asked_for(chip: Chip) -> None:
    everything = chip.run(tss12.get_audit_digest()).ordinals
    from_0x5c = chip.run(tss12.get_audit_digest(0x5C)).ordinals
    assert from_0x5c[0] == 0x5C
    assert from_0x5c == tuple(ordinal for ordinal in everything if ordinal >= 0x5C)
    assert chip.run(tss12.get_audit_digest(0xFFFFFFFF)).ordinals == ()


def test_the_owner_says_what_is_audited_and_it_outlives_the_power(chip: Chip) -> None:
    assert _audit(chip, Ordinal.GET_RANDOM, True) == ReturnCode.SUCCESS
    assert _audit(chip, Ordinal.READ_PUBEK, False) == ReturnCode.SUCCESS
    chip.power_cycle()
    ordinals = chip.run(tss12.get_audit_digest()).ordinals
    assert Ordinal.GET_RANDOM in ordinals
    assert Ordinal.READ_PUBEK not in ordinals
    chip.run(tss12.get_random(8))
    command, response = chip.log[-1]
    assert _digest(chip) == _events(ZERO, 3, command, response)


def test_clearing_the_owner_brings_the_defaults_back_and_keeps_the_counter(chip: Chip) -> None:
    before = chip.run(tss12.get_audit_digest())
    _audit(chip, Ordinal.GET_RANDOM, True)
    _audit(chip, Ordinal.READ_PUBEK, False)
    counted = _counter(chip)
    chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    command, response = chip.log[-1]
    chip.assert_presence()
    chip.run(tss12.physical_enable())
    after = chip.run(tss12.get_audit_digest())
    assert after.ordinals == before.ordinals
    # The clear ended the chain, and begins the next one.
    begun = _events(ZERO, counted + 1, command, response, auths=1)
    assert after.digest == _events(begun, counted + 1, *chip.log[-2])
    assert after.counter.counter == counted + 1


@pytest.mark.parametrize("ordinal", NEVER)
def test_the_commands_of_the_digest_are_never_audited(chip: Chip, ordinal: Ordinal) -> None:
    assert _audit(chip, ordinal, True) == ReturnCode.BAD_PARAMETER
    assert _audit(chip, ordinal, False) == ReturnCode.SUCCESS
    assert ordinal not in chip.run(tss12.get_audit_digest()).ordinals


@pytest.mark.parametrize("audited", [True, False])
@pytest.mark.parametrize("ordinal", [0x82, 0x83, 0x8C, 0x97, 0x1234, 0xFFFFFFFF])
def test_an_ordinal_that_is_not_there_is_badindex(chip: Chip, ordinal: int, audited: bool) -> None:
    assert _audit(chip, ordinal, audited) == ReturnCode.BADINDEX


def test_only_the_owner_changes_what_is_audited(chip: Chip) -> None:
    assert _audit(chip, 0x1234, True, owner_auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert _audit(chip, Ordinal.GET_RANDOM, True, owner_auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert Ordinal.GET_RANDOM not in chip.run(tss12.get_audit_digest()).ordinals
    assert _audit(make_chip(), Ordinal.GET_RANDOM, True) == ReturnCode.NOSRK


# --- the digest ----------------------------------------------------------------------------------


def test_a_command_without_authorization_is_chained_with_both_digests() -> None:
    chip = make_chip()
    assert _digest(chip) == ZERO
    assert _counter(chip) == 0
    first = _events(ZERO, 1, *_read_pubek(chip))
    assert _digest(chip) == first
    assert _digest(chip) == first
    assert _counter(chip) == 1
    assert _digest(chip) == first
    second = _events(first, 1, *_read_pubek(chip))
    assert _digest(chip) == second
    assert _counter(chip) == 1


def test_a_command_with_authorization_is_chained_without_its_blocks(chip: Chip) -> None:
    command, response = _enable(chip)
    assert command[6:10] == Ordinal.OWNER_SET_DISABLE.to_bytes(4, "big")
    assert _digest(chip) == _events(ZERO, 2, command, response, auths=1)


def test_handles_are_in_no_event(chip: Chip) -> None:
    _audit(chip, Ordinal.LOAD_KEY2, True)
    _audit(chip, Ordinal.SET_ORDINAL_AUDIT_STATUS, False)
    key = keychain.make_key(chip, signing_key())
    before = _digest(chip)
    load(chip, key)
    command, response = chip.log[-1]
    ordinal = command[6:10]
    assert _digest(chip) == _chain(before, 2, ordinal + command[14:-45], ordinal)
    assert len(response) == 10 + 4 + 41


def test_what_is_not_audited_and_what_fails_changes_nothing(chip: Chip) -> None:
    _enable(chip)
    before = _digest(chip)
    assert before != ZERO
    chip.run(tss12.get_random(4))
    chip.run(tss12.extend(3, ZERO))
    wrong = tss12.owner_set_disable(False, owner_auth=WRONG_AUTH, random=chip.client_random)
    assert chip.code(wrong) == ReturnCode.AUTHFAIL
    assert _read_pubek(chip)[1][6:10] == ReturnCode.DISABLED_CMD.to_bytes(4, "big")
    chip.send(build_message(Tag.RQU_COMMAND, Ordinal.READ_PUBEK))
    chip.send(build_message(Tag.RQU_COMMAND, Ordinal.FORCE_CLEAR))
    assert _digest(chip) == before


def test_whether_the_status_is_set_is_audited_by_the_status_before(chip: Chip) -> None:
    _audit(chip, Ordinal.SET_ORDINAL_AUDIT_STATUS, False)
    digest = _events(ZERO, 2, *chip.log[-1], auths=1)
    assert _digest(chip) == digest
    _audit(chip, Ordinal.GET_RANDOM, True)
    _audit(chip, Ordinal.SET_ORDINAL_AUDIT_STATUS, True)
    assert _digest(chip) == digest


def test_each_chain_costs_one_write_and_the_rest_of_it_none() -> None:
    chip = make_chip()
    _read_pubek(chip)
    assert chip.persisted == 1
    for _ in range(3):
        _read_pubek(chip)
    assert chip.persisted == 1
    chip.power_cycle()
    assert _digest(chip) == ZERO
    assert _counter(chip) == 1
    digest = _events(ZERO, 2, *_read_pubek(chip))
    assert _digest(chip) == digest
    assert chip.persisted == 2


def test_the_digest_outlives_a_restart_of_the_daemon(chip: Chip) -> None:
    _enable(chip)
    before = chip.run(tss12.get_audit_digest())
    assert before.digest != ZERO
    chip.restart()
    assert chip.run(tss12.get_audit_digest()) == before


def test_a_chain_that_could_not_be_begun_durably_was_not_begun() -> None:
    chip = make_chip()
    chip.persist_result = Failed(ReturnCode.IOERROR)
    _, response = _read_pubek(chip)
    assert response[6:10] == ReturnCode.IOERROR.to_bytes(4, "big")
    chip.persist_result = Done()
    assert _digest(chip) == ZERO
    assert _counter(chip) == 0
    digest = _events(ZERO, 1, *_read_pubek(chip))
    assert _digest(chip) == digest


def test_save_state_keeps_its_own_input_and_startup_goes_on_from_it(chip: Chip) -> None:
    _audit(chip, Ordinal.SAVE_STATE, True)
    before = _digest(chip)
    chip.run(tss12.save_state())
    chip.power_cycle(StartupType.STATE)
    ordinal = Ordinal.SAVE_STATE.to_bytes(4, "big")
    assert _digest(chip) == _sha1(before, b"\x00\x12", _sha1(ordinal), _count(2))


def test_save_state_can_begin_a_chain(chip: Chip) -> None:
    _audit(chip, Ordinal.SAVE_STATE, True)
    chip.power_cycle()
    chip.run(tss12.save_state())
    chip.power_cycle(StartupType.STATE)
    ordinal = Ordinal.SAVE_STATE.to_bytes(4, "big")
    assert _digest(chip) == _sha1(ZERO, b"\x00\x12", _sha1(ordinal), _count(3))


def test_startup_is_audited_after_what_it_does(chip: Chip) -> None:
    _audit(chip, Ordinal.STARTUP, True)
    chip.power_cycle()
    command, response = chip.log[-1]
    assert _digest(chip) == _events(ZERO, 3, command, response)


def test_a_counter_at_its_end_fails_the_tpm() -> None:
    chip = make_chip()
    state = decode_permanent(chip.durable)
    state.audit_counter = 0xFFFFFFFF
    chip.durable = encode_permanent(state)
    chip.power_cycle()
    _, response = _read_pubek(chip)
    assert response[6:10] == ReturnCode.AUDITFAIL_SUCCESSFUL.to_bytes(4, "big")
    assert chip.code(tss12.get_random(4)) == ReturnCode.FAILEDSELFTEST


@pytest.mark.parametrize("encrypted", [True, False])
def test_of_a_command_in_an_encrypted_transport_session_only_the_ordinal_is_chained(
    chip: Chip, encrypted: bool
) -> None:
    _audit(chip, Ordinal.GET_RANDOM, True)
    key, handle = make_and_load(chip, storage_key())
    attributes = TransportAttributes.ENCRYPT if encrypted else TransportAttributes(0)
    transport = chip.run(
        tss12.establish_transport(
            attributes,
            random=chip.client_random,
            enc_handle=handle,
            enc_key=key.public_key,
            key_auth=USAGE_AUTH,
        )
    )
    before = _digest(chip)
    data = chip.run(tss12.through(transport, tss12.get_random(8)))
    ordinal = Ordinal.GET_RANDOM.to_bytes(4, "big")
    sent, answered = bytes.fromhex("00000008"), bytes.fromhex("00000008") + data
    if encrypted:
        sent = answered = b""
    assert _digest(chip) == _chain(before, 2, ordinal + sent, ordinal + answered)


def test_a_transport_command_that_is_audited_stands_with_the_clear_digests(chip: Chip) -> None:
    _audit(chip, Ordinal.EXECUTE_TRANSPORT, True)
    chip.power_cycle()
    transport = chip.run(
        tss12.establish_transport(TransportAttributes(0), random=chip.client_random)
    )
    before, persisted = _digest(chip), chip.persisted
    data = chip.run(tss12.through(transport, tss12.get_random(8)))
    ordinal = Ordinal.GET_RANDOM.to_bytes(4, "big")
    sent, answered = bytes.fromhex("00000008"), bytes.fromhex("00000008") + data
    assert before == ZERO
    assert _digest(chip) == _chain(before, 3, ordinal + sent, ordinal + answered)
    assert chip.persisted == persisted + 1


# --- the signed digest ---------------------------------------------------------------------------


def _signed(
    chip: Chip, handle: int, auth: bytes | None = USAGE_AUTH, *, close: bool = False
) -> tss12.Conversation[tss12.SignedAuditDigest]:
    return tss12.get_audit_digest_signed(
        handle, close=close, anti_replay=REPLAY, key_auth=auth, random=chip.client_random
    )


@pytest.mark.parametrize(
    "scheme", [SigScheme.RSASSAPKCS1V15_SHA1, SigScheme.RSASSAPKCS1V15_INFO], ids=str
)
def test_a_signing_key_signs_digest_counter_and_ordinals(chip: Chip, scheme: SigScheme) -> None:
    key, handle = make_and_load(chip, signing_key(scheme))
    open_digest = chip.run(tss12.get_audit_digest())
    signed = chip.run(_signed(chip, handle))
    listed = b"".join([ordinal.to_bytes(4, "big") for ordinal in open_digest.ordinals])
    assert signed.digest == open_digest.digest != ZERO
    assert signed.ordinal_digest == _sha1(listed)
    # TPM_SIGN_INFO: tag, "ADIG", antiReplay, length, auditDigest, counterValue, ordinalDigest.
    info = bytes.fromhex("0005") + b"ADIG" + REPLAY + bytes.fromhex("00000032")
    info += signed.digest + _count(open_digest.counter.counter) + signed.ordinal_digest
    assert verifies(key.pub_key, _sha1(info), signed.signature)
    assert _digest(chip) == open_digest.digest


def test_an_identity_ends_the_chain_and_answers_what_it_was(chip: Chip) -> None:
    identity = chip.run(
        tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=IDENTITY_AUTH,
            label_digest=ZERO,
            random=chip.client_random,
        )
    )
    handle = load(chip, identity.key)
    before = chip.run(tss12.get_audit_digest())
    signed = chip.run(_signed(chip, handle, IDENTITY_AUTH, close=True))
    assert signed.digest == before.digest != ZERO
    assert verifies(identity.key.pub_key, signed.signed, signed.signature)
    assert _digest(chip) == ZERO
    digest = _events(ZERO, before.counter.counter + 1, *_enable(chip), auths=1)
    assert _digest(chip) == digest


def test_a_key_that_needs_no_secret_signs_without_one(chip: Chip) -> None:
    _, handle = make_and_load(chip, signing_key(auth_data_usage=NO_AUTH))
    assert chip.code(_signed(chip, handle, None)) == ReturnCode.SUCCESS
    _, other = make_and_load(chip, signing_key())
    assert chip.code(_signed(chip, other, None)) == ReturnCode.AUTHFAIL


def test_a_signed_digest_that_is_refused_ends_no_chain(chip: Chip) -> None:
    _, signing = make_and_load(chip, signing_key())
    _, der = make_and_load(chip, signing_key(SigScheme.RSASSAPKCS1V15_DER))
    _, binding = make_and_load(chip, binding_key())
    _, storage = make_and_load(chip, storage_key())
    before = _digest(chip)
    assert chip.code(_signed(chip, 0x1234)) == ReturnCode.INVALID_KEYHANDLE
    assert chip.code(_signed(chip, signing, WRONG_AUTH)) == ReturnCode.AUTHFAIL
    for handle in (der, binding, storage):
        assert chip.code(_signed(chip, handle)) == ReturnCode.INVALID_KEYUSAGE
    assert chip.code(_signed(chip, SRK, SRK_AUTH)) == ReturnCode.INVALID_KEYUSAGE
    assert chip.code(_signed(chip, signing, close=True)) == ReturnCode.INVALID_KEYUSAGE
    assert _digest(chip) == before != ZERO


def test_a_legacy_key_signs_too(chip: Chip) -> None:
    key, handle = make_and_load(chip, binding_key(legacy=True))
    signed = chip.run(_signed(chip, handle))
    assert verifies(key.pub_key, signed.signed, signed.signature)


def test_the_digest_is_closed_while_the_tpm_is_disabled(chip: Chip) -> None:
    chip.run(tss12.owner_set_disable(True, owner_auth=OWNER_AUTH, random=chip.client_random))
    assert chip.code(tss12.get_audit_digest()) == ReturnCode.DISABLED


def test_status_and_counter_are_in_the_permanent_state() -> None:
    chip = make_owned_chip()
    state = decode_permanent(chip.durable)
    assert state.audit_counter == 1
    changed = replace(state, audit_counter=7, audit_status={Ordinal.GET_RANDOM: True})
    read = decode_permanent(encode_permanent(changed))
    assert read.audit_counter == 7
    assert read.audit_status == {Ordinal.GET_RANDOM: True}
