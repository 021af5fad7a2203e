# SPDX-License-Identifier: Apache-2.0
"""New secrets for keys, sealed data, the owner and the SRK."""

from __future__ import annotations

import dataclasses

import pytest

from protocol.tpm12.constants import (
    EntityType,
    Ordinal,
    ProtocolId,
    ReservedHandle,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.stored import StoredData
from protocol.tpm12.wire import SIZED, U16, U32, Reader
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    MIGRATION_AUTH,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    load,
    make_and_load,
    make_key,
    signing_key,
    storage_key,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import Failed
from tpmcore.tss12.conversation import Conversation, execute, nothing
from tpmcore.tss12.sessions import encrypt_secret, oiap, osap_key, osap_owner, pair, prove

NEW_AUTH = b"new and better secre"
BLOB_AUTH = b"secret of the blob--"
ZERO = bytes(20)


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


def _change(
    chip: Chip,
    enc_data: bytes,
    *,
    entity_type: int = EntityType.KEY,
    old_auth: bytes = USAGE_AUTH,
    parent: int = SRK,
    parent_auth: bytes = SRK_AUTH,
    protocol_id: int = ProtocolId.ADCP,
) -> Conversation[bytes]:
    first, second = yield from pair(
        osap_key(parent, parent_auth, random=chip.client_random), oiap()
    )
    return (
        yield from execute(
            Ordinal.CHANGE_AUTH,
            Reader.sized,
            handles=U32.write(parent),
            parameters=U16.write(protocol_id)
            + encrypt_secret(first, NEW_AUTH)
            + U16.write(entity_type)
            + SIZED.write(enc_data),
            auths=(
                prove(first, chip.client_random),
                prove(second, chip.client_random, secret=old_auth),
            ),
        )
    )


def _seal(chip: Chip) -> StoredData:
    return chip.run(
        tss12.seal(
            SRK,
            parent_auth=SRK_AUTH,
            blob_auth=BLOB_AUTH,
            data=b"data",
            pcr_info=tss12.pcr_info({16: ZERO}),
            random=chip.client_random,
        )
    )


def _unseal_code(
    chip: Chip, blob: StoredData, blob_auth: bytes, *, srk_auth: bytes = SRK_AUTH
) -> int:
    return chip.code(
        tss12.unseal(
            SRK, blob, parent_auth=srk_auth, blob_auth=blob_auth, random=chip.client_random
        )
    )


# ChangeAuth


def test_key_with_a_changed_secret_is_used_with_the_new_one_only(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    enc_data = chip.run(_change(chip, key.enc_data))
    before, after = keychain.decrypt_with_srk(key.enc_data), keychain.decrypt_with_srk(enc_data)
    assert after == before[:1] + NEW_AUTH + before[21:]
    handle = load(chip, dataclasses.replace(key, enc_data=enc_data))
    for key_auth, code in ((NEW_AUTH, ReturnCode.SUCCESS), (USAGE_AUTH, ReturnCode.AUTHFAIL)):
        sign = tss12.sign(handle, ZERO, key_auth=key_auth, random=chip.client_random)
        assert chip.code(sign) == code


def test_sealed_data_with_a_changed_secret_is_released_with_the_new_one_only(chip: Chip) -> None:
    blob = _seal(chip)
    change = _change(chip, blob.enc_data, entity_type=EntityType.DATA, old_auth=BLOB_AUTH)
    changed = dataclasses.replace(blob, enc_data=chip.run(change))
    assert _unseal_code(chip, changed, NEW_AUTH) == ReturnCode.SUCCESS
    assert _unseal_code(chip, changed, BLOB_AUTH) == ReturnCode.AUTH2FAIL
    assert _unseal_code(chip, blob, BLOB_AUTH) == ReturnCode.SUCCESS


def test_both_sessions_end_and_the_answer_is_proved_with_the_old_secret(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    chip.run(_change(chip, key.enc_data))  # the client checks both response HMACs
    response = next(r for c, r in reversed(chip.log) if c[6:10] == U32.write(Ordinal.CHANGE_AUTH))
    assert (response[-21], response[-62]) == (0, 0)
    assert chip.run(tss12.handles(ResourceType.AUTH)) == []


def test_parent_need_not_be_the_srk(chip: Chip) -> None:
    _, parent = make_and_load(chip, storage_key())
    key = make_key(chip, signing_key(), parent=parent, parent_auth=USAGE_AUTH)
    change = _change(chip, key.enc_data, parent=parent, parent_auth=USAGE_AUTH)
    changed = dataclasses.replace(key, enc_data=chip.run(change))
    handle = load(chip, changed, parent=parent, parent_auth=USAGE_AUTH)
    sign = tss12.sign(handle, ZERO, key_auth=NEW_AUTH, random=chip.client_random)
    assert chip.code(sign) == ReturnCode.SUCCESS


def test_both_secrets_are_wanted(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    wrong_old = _change(chip, key.enc_data, old_auth=WRONG_AUTH)
    assert chip.code(wrong_old) == ReturnCode.AUTH2FAIL
    wrong_parent = _change(chip, key.enc_data, parent_auth=WRONG_AUTH)
    assert chip.code(wrong_parent) == ReturnCode.AUTHFAIL
    migration = _change(chip, key.enc_data, old_auth=MIGRATION_AUTH)
    assert chip.code(migration) == ReturnCode.AUTH2FAIL


@pytest.mark.parametrize("entity_type", [0, 1, 2, 4, 6, 0x0B, 0x0605])
def test_only_keys_and_data_have_secrets_to_change(chip: Chip, entity_type: int) -> None:
    # Judged before the parent is looked up.
    change = _change(chip, b"", entity_type=entity_type)
    assert chip.code(change) == ReturnCode.WRONG_ENTITYTYPE


def test_protocol_is_judged_after_the_kind_of_sessions_and_before_the_secrets(
    chip: Chip,
) -> None:
    key = make_key(chip, signing_key())
    change = _change(chip, key.enc_data, protocol_id=5, parent_auth=WRONG_AUTH)
    assert chip.code(change) == ReturnCode.BAD_PARAMETER

    def wrong_sessions(first_oiap: bool) -> Conversation[bytes]:
        kinds = [oiap(), osap_key(SRK, SRK_AUTH, random=chip.client_random)]
        one, two = yield from pair(*(kinds if first_oiap else [kinds[1], kinds[0]]))
        if not first_oiap:
            two = yield from osap_key(SRK, SRK_AUTH, random=chip.client_random)
        return (
            yield from execute(
                Ordinal.CHANGE_AUTH,
                Reader.sized,
                handles=U32.write(SRK),
                parameters=U16.write(5) + ZERO + U16.write(5) + SIZED.write(key.enc_data),
                auths=(
                    prove(one, chip.client_random, secret=SRK_AUTH),
                    prove(two, chip.client_random, secret=USAGE_AUTH),
                ),
            )
        )

    for first_oiap in (True, False):
        assert chip.code(wrong_sessions(first_oiap)) == ReturnCode.BAD_MODE


def test_only_storage_keys_are_parents(chip: Chip) -> None:
    key, handle = make_and_load(chip, signing_key())
    change = _change(chip, key.enc_data, parent=handle, parent_auth=USAGE_AUTH)
    assert chip.code(change) == ReturnCode.INVALID_KEYUSAGE


@pytest.mark.parametrize("entity_type", [EntityType.KEY, EntityType.DATA])
def test_what_is_not_the_parents_ciphertext_does_not_decrypt(
    chip: Chip, entity_type: EntityType
) -> None:
    for enc_data in (b"", b"\x01" * 256, b"\x01" * 255):
        change = _change(chip, enc_data, entity_type=entity_type)
        assert chip.code(change) == ReturnCode.DECRYPT_ERROR


def test_key_is_no_data_and_data_is_no_key(chip: Chip) -> None:
    key, blob = make_key(chip, signing_key()), _seal(chip)
    change = _change(chip, key.enc_data, entity_type=EntityType.DATA)
    # Their layouts are the same, and a fixed key has tpmProof where data has it: only the payload
    # type tells them apart.
    assert chip.code(change) == ReturnCode.INVALID_STRUCTURE
    change = _change(chip, blob.enc_data, old_auth=BLOB_AUTH)
    assert chip.code(change) == ReturnCode.INVALID_STRUCTURE


def test_data_of_another_tpm_keeps_its_secret() -> None:
    blob = _seal(make_owned_chip(seed="one"))
    other = make_owned_chip(seed="two")
    change = _change(other, blob.enc_data, entity_type=EntityType.DATA, old_auth=BLOB_AUTH)
    assert other.code(change) == ReturnCode.AUTHFAIL


def test_plaintext_that_is_cut_is_refused(chip: Chip) -> None:
    blob = _seal(chip)
    plain = keychain.decrypt_with_srk(blob.enc_data)
    enc_data = keychain.encrypt_oaep(keychain.srk_modulus(), plain[:-1])
    for entity_type in (EntityType.KEY, EntityType.DATA):
        change = _change(chip, enc_data, entity_type=entity_type, old_auth=BLOB_AUTH)
        assert chip.code(change) == ReturnCode.BAD_PARAM_SIZE


# ChangeAuthOwner


def _change_owner(
    chip: Chip,
    *,
    entity_type: int = EntityType.OWNER,
    owner_auth: bytes = OWNER_AUTH,
    protocol_id: int = ProtocolId.ADCP,
) -> Conversation[None]:
    session = yield from osap_owner(owner_auth, random=chip.client_random)
    return (
        yield from execute(
            Ordinal.CHANGE_AUTH_OWNER,
            nothing,
            parameters=U16.write(protocol_id)
            + encrypt_secret(session, NEW_AUTH)
            + U16.write(entity_type),
            auths=(prove(session, chip.client_random),),
        )
    )


def _is_owner(chip: Chip, owner_auth: bytes) -> bool:
    read = tss12.owner_read_internal_pub(
        ReservedHandle.EK, owner_auth=owner_auth, random=chip.client_random
    )
    return chip.code(read) == ReturnCode.SUCCESS


def test_owner_with_a_changed_secret_is_known_by_the_new_one_for_good(chip: Chip) -> None:
    chip.run(_change_owner(chip))
    assert _is_owner(chip, NEW_AUTH)
    assert not _is_owner(chip, OWNER_AUTH)
    chip.power_cycle()
    assert _is_owner(chip, NEW_AUTH)


def test_srk_with_a_changed_secret_still_has_its_children_and_blobs(chip: Chip) -> None:
    blob, key = _seal(chip), make_key(chip, signing_key())
    chip.run(_change_owner(chip, entity_type=EntityType.SRK))
    assert _unseal_code(chip, blob, BLOB_AUTH) == ReturnCode.AUTHFAIL
    assert _unseal_code(chip, blob, BLOB_AUTH, srk_auth=NEW_AUTH) == ReturnCode.SUCCESS
    chip.power_cycle()
    handle = load(chip, key, parent_auth=NEW_AUTH)
    sign = tss12.sign(handle, ZERO, key_auth=USAGE_AUTH, random=chip.client_random)
    assert chip.code(sign) == ReturnCode.SUCCESS
    assert _is_owner(chip, OWNER_AUTH)


def test_other_sessions_of_the_owner_end_with_his_secret(chip: Chip) -> None:
    chip.run(osap_owner(OWNER_AUTH, random=chip.client_random))
    bound_to_srk = chip.run(osap_key(SRK, SRK_AUTH, random=chip.client_random))
    unbound = chip.run(oiap())
    chip.run(_change_owner(chip))
    left = chip.run(tss12.handles(ResourceType.AUTH))
    assert sorted(left) == sorted([bound_to_srk.handle, unbound.handle])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"owner_auth": WRONG_AUTH}, ReturnCode.AUTHFAIL),
        ({"owner_auth": WRONG_AUTH, "protocol_id": 5}, ReturnCode.AUTHFAIL),
        ({"protocol_id": 5}, ReturnCode.BAD_PARAMETER),
        ({"protocol_id": 5, "entity_type": 5}, ReturnCode.BAD_PARAMETER),
        ({"entity_type": 1}, ReturnCode.WRONG_ENTITYTYPE),
        ({"entity_type": 5}, ReturnCode.WRONG_ENTITYTYPE),
    ],
)
def test_change_of_the_owner_that_is_refused_changes_nothing(
    chip: Chip, changes: dict[str, object], code: ReturnCode
) -> None:
    durable = chip.durable
    assert chip.code(_change_owner(chip, **changes)) == code  # type: ignore[arg-type]
    assert chip.durable == durable
    assert _is_owner(chip, OWNER_AUTH)


def test_change_of_the_owner_wants_a_session_that_can_encrypt(chip: Chip) -> None:
    def conversation() -> Conversation[None]:
        session = yield from oiap()
        return (
            yield from execute(
                Ordinal.CHANGE_AUTH_OWNER,
                nothing,
                parameters=U16.write(ProtocolId.ADCP) + ZERO + U16.write(EntityType.OWNER),
                auths=(prove(session, chip.client_random, secret=OWNER_AUTH),),
            )
        )

    assert chip.code(conversation()) == ReturnCode.BAD_MODE


def test_change_that_cannot_be_made_durable_is_not_made(chip: Chip) -> None:
    chip.persist_result = Failed()
    assert chip.code(_change_owner(chip)) == ReturnCode.IOERROR
    assert _is_owner(chip, OWNER_AUTH)
    assert not _is_owner(chip, NEW_AUTH)
