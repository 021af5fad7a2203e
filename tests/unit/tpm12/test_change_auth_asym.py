# SPDX-License-Identifier: Apache-2.0
"""A new secret for a key, unseen by whoever knows the secret of its parent."""

from __future__ import annotations

import dataclasses
import hmac
from typing import Final

import pytest

from protocol.tpm12.constants import (
    Algorithm,
    EncScheme,
    EntityType,
    Ordinal,
    PayloadType,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.keys import Key, KeyParms
from protocol.tpm12.stored import SealedData
from protocol.tpm12.wire import SIZED, U16, U32, Reader
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    MIGRATABLE,
    NO_AUTH,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    binding_key,
    load,
    make_and_load,
    make_key,
    sha1,
    signing_key,
    storage_key,
    verifies,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tss12 import Conversation, EphemeralKey
from tpmcore.tss12.sessions import with_secret

NEW_AUTH: Final = b"new and better secre"
NONCE: Final = b"nonce of the client!"
ZERO: Final = bytes(20)


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


def _identity(chip: Chip, *, auth_data_usage: int = 1) -> tuple[Key, int]:
    template = dataclasses.replace(tss12.identity_template(), auth_data_usage=auth_data_usage)
    identity = chip.run(
        tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=USAGE_AUTH,
            label_digest=ZERO,
            params=template,
            random=chip.client_random,
        )
    )
    return identity.key, load(chip, identity.key)


def _parms(*, bits: int = 1024, enc_scheme: int = EncScheme.RSAESOAEP_SHA1_MGF1) -> KeyParms:
    return KeyParms.for_rsa(enc_scheme=enc_scheme, bits=bits)


def _start(
    chip: Chip,
    identity: tuple[Key, int],
    *,
    auth: bytes | None = USAGE_AUTH,
    parms: KeyParms | None = None,
) -> Conversation[EphemeralKey]:
    key, handle = identity
    return tss12.change_auth_asym_start(
        handle,
        key.public_key,
        identity_auth=auth,
        parms=parms or _parms(),
        random=chip.client_random,
    )


def _finish(
    chip: Chip,
    ephemeral: EphemeralKey,
    key: Key,
    *,
    parent: int = SRK,
    parent_auth: bytes | None = OWNER_AUTH,
    old_auth: bytes = USAGE_AUTH,
) -> Conversation[bytes]:
    return tss12.change_auth_asym_finish(
        parent,
        ephemeral,
        key.enc_data,
        parent_auth=parent_auth,
        old_auth=old_auth,
        new_auth=NEW_AUTH,
        random=chip.client_random,
    )


def _handles(chip: Chip) -> list[int]:
    return chip.run(tss12.handles(ResourceType.KEY))


def _sign_code(chip: Chip, key: Key, auth: bytes, *, parent: int = SRK) -> int:
    parent_auth = SRK_AUTH if parent == SRK else USAGE_AUTH
    handle = load(chip, key, parent=parent, parent_auth=parent_auth)
    return chip.code(tss12.sign(handle, ZERO, key_auth=auth, random=chip.client_random))


# The change


@pytest.mark.parametrize("below_srk", [True, False])
def test_key_has_the_new_secret_and_the_ephemeral_key_is_gone(chip: Chip, below_srk: bool) -> None:
    parent: int = SRK
    parent_auth, wrap_auth = OWNER_AUTH, SRK_AUTH
    if not below_srk:
        parent = make_and_load(chip, storage_key())[1]
        parent_auth = wrap_auth = USAGE_AUTH
    key = make_key(chip, signing_key(), parent=parent, parent_auth=wrap_auth)
    ephemeral = chip.run(_start(chip, _identity(chip)))
    assert ephemeral.handle in _handles(chip)
    enc_data = chip.run(_finish(chip, ephemeral, key, parent=parent, parent_auth=parent_auth))
    assert ephemeral.handle not in _handles(chip)
    changed = dataclasses.replace(key, enc_data=enc_data)
    assert _sign_code(chip, changed, NEW_AUTH, parent=parent) == ReturnCode.SUCCESS
    assert _sign_code(chip, changed, USAGE_AUTH, parent=parent) == ReturnCode.AUTHFAIL


def test_only_the_secret_changes(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    ephemeral = chip.run(_start(chip, _identity(chip)))
    before = keychain.decrypt_with_srk(key.enc_data)
    after = keychain.decrypt_with_srk(chip.run(_finish(chip, ephemeral, key)))
    assert after == before[:1] + NEW_AUTH + before[21:]


def test_change_without_authorization_where_none_is_needed(chip: Chip) -> None:
    identity = _identity(chip, auth_data_usage=NO_AUTH)
    _, parent = make_and_load(chip, storage_key(auth_data_usage=NO_AUTH))
    key = make_key(chip, signing_key(), parent=parent, parent_auth=USAGE_AUTH)
    ephemeral = chip.run(_start(chip, identity, auth=None))
    chip.run(_finish(chip, ephemeral, key, parent=parent, parent_auth=None))


def test_ephemeral_key_survives_a_restart_of_the_daemon_but_no_startup(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    ephemeral = chip.run(_start(chip, _identity(chip)))
    chip.restart()
    chip.run(_finish(chip, ephemeral, key))
    ephemeral = chip.run(_start(chip, _identity(chip)))
    chip.power_cycle()
    assert chip.code(_finish(chip, ephemeral, key)) == ReturnCode.INVALID_KEYHANDLE


# The bytes


def test_identity_certifies_the_ephemeral_key(chip: Chip) -> None:
    identity_key, handle = _identity(chip)
    anti_replay = b"antireplay of tests!"
    response = chip.run(
        with_secret(
            Ordinal.CHANGE_AUTH_ASYM_START,
            Reader.rest,
            USAGE_AUTH,
            random=chip.client_random,
            handles=U32.write(handle),
            parameters=anti_replay + _parms().encode(),
        )
    )
    parms = bytes.fromhex(
        "00000001 0003 0001 0000000c"  # RSA, OAEP, no signatures, 12 bytes of parameters
        "00000400 00000002 00000000"  # 1024 bits, two primes, default exponent
    )
    eph_handle = _handles(chip)[-1]
    at = response.index(U32.write(eph_handle))
    temp_key = response[at + 4 :]
    modulus = temp_key[-132:-4]
    info = b"".join(
        (
            bytes.fromhex("01010000 0013 00000004 00"),  # 1.1, AUTHCHANGE, volatile, never
            parms,
            sha1(modulus),
            anti_replay,
            bytes.fromhex("00 00000000"),  # parentPCRStatus, no PCRs
        )
    )
    assert response.startswith(info)
    signature = response[len(info) + 4 : at]
    assert verifies(identity_key.pub_key, sha1(info), signature)
    assert temp_key == b"".join(
        (
            bytes.fromhex("01010000 0013 00000004 00"),
            parms,
            bytes.fromhex("00000000 00000080"),  # no PCRs, modulus
            modulus,
            bytes.fromhex("00000000"),  # no encData
        )
    )


def _raw_finish(
    chip: Chip,
    eph_handle: int,
    *,
    entity_type: int = EntityType.KEY,
    enc_new_auth: bytes = b"",
    enc_data: bytes = b"",
    link: bytes = ZERO,
) -> Conversation[bytes]:
    return with_secret(
        Ordinal.CHANGE_AUTH_ASYM_FINISH,
        Reader.rest,
        OWNER_AUTH,
        random=chip.client_random,
        handles=U32.write(SRK) + U32.write(eph_handle),
        parameters=U16.write(entity_type)
        + link
        + SIZED.write(enc_new_auth)
        + SIZED.write(enc_data),
    )


def test_change_is_proved_with_the_new_secret(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    ephemeral = chip.run(_start(chip, _identity(chip)))
    response = chip.run(
        _raw_finish(
            chip,
            ephemeral.handle,
            enc_new_auth=keychain.encrypt_oaep(ephemeral.key.pub_key, NEW_AUTH + NONCE),
            enc_data=key.enc_data,
            link=hmac.digest(USAGE_AUTH, NEW_AUTH, "sha1"),
        )
    )
    assert len(response) == 4 + 256 + 20 + 20
    salt, proof = response[260:280], response[280:]
    assert proof == hmac.digest(NEW_AUTH, salt + NONCE, "sha1")


# Start refuses


def test_only_an_identity_certifies_whatever_its_secret(chip: Chip) -> None:
    for template in (signing_key(bits=2048), storage_key()):
        for auth in (USAGE_AUTH, WRONG_AUTH, None):
            start = _start(chip, make_and_load(chip, template), auth=auth)
            assert chip.code(start) == ReturnCode.INVALID_KEYUSAGE


def test_secret_of_the_identity_is_needed(chip: Chip) -> None:
    identity = _identity(chip)
    for auth in (WRONG_AUTH, None):
        assert chip.code(_start(chip, identity, auth=auth)) == ReturnCode.AUTHFAIL
    assert _handles(chip) == [identity[1]]


@pytest.mark.parametrize(
    "parms",
    [
        _parms(bits=496),
        _parms(bits=4096),
        _parms(enc_scheme=EncScheme.RSAESPKCSV15),
        _parms(enc_scheme=EncScheme.NONE),
        KeyParms(Algorithm.AES128, 3, 1, b""),
    ],
)
def test_ephemeral_key_must_be_one_that_decrypts(chip: Chip, parms: KeyParms) -> None:
    start = _start(chip, _identity(chip), parms=parms)
    assert chip.code(start) == ReturnCode.BAD_KEY_PROPERTY


def test_ephemeral_key_needs_a_slot(chip: Chip) -> None:
    identity = _identity(chip)
    for _ in range(chip.profile.max_keys - 1):
        chip.run(_start(chip, identity, parms=_parms(bits=512)))
    assert chip.code(_start(chip, identity)) == ReturnCode.NOSPACE
    chip.run(tss12.flush_specific(_handles(chip)[-1], ResourceType.KEY))
    assert chip.code(_start(chip, identity)) == ReturnCode.SUCCESS


# Finish refuses


def test_below_the_root_the_owner_decides(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    ephemeral = chip.run(_start(chip, _identity(chip)))
    for auth in (SRK_AUTH, None):
        finish = _finish(chip, ephemeral, key, parent_auth=auth)
        assert chip.code(finish) == ReturnCode.AUTHFAIL
    assert ephemeral.handle in _handles(chip)


@pytest.mark.parametrize("parent_auth", [USAGE_AUTH, None])
def test_old_secret_is_needed_and_guesses_count(chip: Chip, parent_auth: bytes | None) -> None:
    """Also where the command itself needs no authorization."""
    _, parent = make_and_load(chip, storage_key(auth_data_usage=NO_AUTH))
    key = make_key(chip, signing_key(), parent=parent, parent_auth=USAGE_AUTH)
    ephemeral = chip.run(_start(chip, _identity(chip)))
    codes = []
    for old_auth in [WRONG_AUTH] * 6 + [USAGE_AUTH]:
        finish = _finish(
            chip, ephemeral, key, parent=parent, parent_auth=parent_auth, old_auth=old_auth
        )
        codes.append(chip.code(finish))
    assert codes == [ReturnCode.AUTHFAIL] * 6 + [ReturnCode.DEFEND_LOCK_RUNNING]


@pytest.mark.parametrize("entity_type", [EntityType.OWNER, EntityType.SRK, 0x0605])
def test_only_secrets_of_keys_and_sealed_data_change(chip: Chip, entity_type: int) -> None:
    finish = _raw_finish(chip, 1, entity_type=entity_type)
    assert chip.code(finish) == ReturnCode.WRONG_ENTITYTYPE


def test_sealed_data_has_the_new_secret(chip: Chip) -> None:
    blob = chip.run(
        tss12.seal(
            SRK,
            parent_auth=SRK_AUTH,
            blob_auth=USAGE_AUTH,
            data=b"sealed",
            pcr_info=None,
            random=chip.client_random,
        )
    )
    ephemeral = chip.run(_start(chip, _identity(chip)))

    def finish(kind: EntityType, old_auth: bytes) -> Conversation[bytes]:
        return tss12.change_auth_asym_finish(
            SRK,
            ephemeral,
            blob.enc_data,
            parent_auth=OWNER_AUTH,
            old_auth=old_auth,
            new_auth=NEW_AUTH,
            random=chip.client_random,
            entity_type=kind,
        )

    def unseal(enc_data: bytes, auth: bytes) -> int:
        return chip.code(
            tss12.unseal(
                SRK,
                dataclasses.replace(blob, enc_data=enc_data),
                parent_auth=SRK_AUTH,
                blob_auth=auth,
                random=chip.client_random,
            )
        )

    assert chip.code(finish(EntityType.DATA, WRONG_AUTH)) == ReturnCode.AUTHFAIL
    # It is no key, so whatever is in the places of a key's fields.
    assert chip.code(finish(EntityType.KEY, USAGE_AUTH)) != ReturnCode.SUCCESS
    changed = chip.run(finish(EntityType.DATA, USAGE_AUTH))
    assert unseal(changed, USAGE_AUTH) == ReturnCode.AUTH2FAIL
    assert unseal(changed, NEW_AUTH) == ReturnCode.SUCCESS
    assert ephemeral.handle not in _handles(chip)


def test_sealed_data_of_another_owner_keeps_its_secret(chip: Chip) -> None:
    ephemeral = chip.run(_start(chip, _identity(chip)))
    sealed = SealedData(PayloadType.SEAL, USAGE_AUTH, WRONG_AUTH, ZERO, b"data")
    enc_data = keychain.encrypt_oaep(keychain.srk_modulus(), sealed.encode())
    finish = _raw_finish(chip, ephemeral.handle, entity_type=EntityType.DATA, enc_data=enc_data)
    assert chip.code(finish) == ReturnCode.AUTHFAIL


def test_parent_must_be_a_storage_key(chip: Chip) -> None:
    key, parent = make_and_load(chip, binding_key())
    ephemeral = chip.run(_start(chip, _identity(chip)))
    finish = _finish(chip, ephemeral, key, parent=parent, parent_auth=USAGE_AUTH)
    assert chip.code(finish) == ReturnCode.INVALID_KEYUSAGE


def test_entity_must_be_a_wrapped_key(chip: Chip) -> None:
    ephemeral = chip.run(_start(chip, _identity(chip)))
    finish = _raw_finish(chip, ephemeral.handle, enc_data=bytes(256))
    assert chip.code(finish) == ReturnCode.DECRYPT_ERROR
    sealed = keychain.craft_key(signing_key(flags=MIGRATABLE), payload=5)
    finish = _raw_finish(chip, ephemeral.handle, enc_data=sealed.enc_data)
    assert chip.code(finish) == ReturnCode.INVALID_STRUCTURE


def test_ephemeral_key_must_be_one(chip: Chip) -> None:
    key, handle = make_and_load(chip, binding_key())
    for eph_handle, code in (
        (handle, ReturnCode.BAD_PARAMETER),
        (SRK, ReturnCode.BAD_PARAMETER),
        (0x12345678, ReturnCode.INVALID_KEYHANDLE),
    ):
        finish = _raw_finish(chip, eph_handle, enc_data=key.enc_data)
        assert chip.code(finish) == code


def test_new_secret_must_be_encrypted_for_the_ephemeral_key(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    ephemeral = chip.run(_start(chip, _identity(chip)))
    for encrypted, code in (
        (bytes(128), ReturnCode.DECRYPT_ERROR),
        (
            keychain.encrypt_oaep(ephemeral.key.pub_key, NEW_AUTH),
            ReturnCode.BAD_PARAM_SIZE,
        ),
    ):
        finish = _raw_finish(chip, ephemeral.handle, enc_new_auth=encrypted, enc_data=key.enc_data)
        assert chip.code(finish) == code
