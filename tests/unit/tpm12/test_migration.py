# SPDX-License-Identifier: Apache-2.0
"""Keys that go from one chip to another."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Final

import pytest

from protocol.tpm12.constants import (
    Algorithm,
    EncScheme,
    KeyUsage,
    MigrationScheme,
    Ordinal,
    ResourceType,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import Key, KeyParms, PubKey
from protocol.tpm12.migration import MigrationKeyAuth
from protocol.tpm12.wire import SIZED, U16, U32
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    MIGRATABLE,
    MIGRATION_AUTH,
    NO_AUTH,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    binding_key,
    load,
    load_code,
    make_and_load,
    make_key,
    sha1,
    signing_key,
    storage_key,
    verifies,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, key_pair, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tss12 import Conversation, MigrationBlob
from tpmcore.tss12.conversation import execute
from tpmcore.tss12.migration import read_blob
from tpmcore.tss12.sessions import oiap, osap_key, pair, prove

DIGEST: Final = b"what is to be signed"
OTHER_SERIAL: Final = 500
EXPONENT: Final = 65537


def make_other_chip(seed: str, serial: int) -> Chip:
    """Make an owned chip that shares no key with those of `make_owned_chip`."""
    chip = make_chip(seed=seed)
    chip.keys.made = serial
    chip.run(
        tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=chip.client_random)
    )
    return chip


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


@pytest.fixture
def other() -> Chip:
    """The chip that keys go to; its SRK is key OTHER_SERIAL + 1."""
    return make_other_chip("other", OTHER_SERIAL)


def migrate_template(*, auth_data_usage: int = 1) -> Key:
    """Describe the key of a migration authority."""
    return Key.template(
        KeyUsage.MIGRATE,
        enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1,
        sig_scheme=SigScheme.NONE,
        auth_data_usage=auth_data_usage,
    )


def srk_pub(chip: Chip) -> PubKey:
    """Return the public part of a chip's storage root key."""
    return chip.run(
        tss12.owner_read_internal_pub(SRK, owner_auth=OWNER_AUTH, random=chip.client_random)
    )


def permit(
    chip: Chip, key: PubKey, scheme: MigrationScheme = MigrationScheme.MIGRATE
) -> MigrationKeyAuth:
    """Have the owner permit migration to a key."""
    return chip.run(
        tss12.authorize_migration_key(scheme, key, owner_auth=OWNER_AUTH, random=chip.client_random)
    )


def _create(
    chip: Chip,
    enc_data: bytes,
    permission: MigrationKeyAuth,
    *,
    scheme: MigrationScheme = MigrationScheme.MIGRATE,
    parent: int = SRK,
    parent_auth: bytes | None = SRK_AUTH,
    migration_auth: bytes = MIGRATION_AUTH,
) -> Conversation[MigrationBlob]:
    return tss12.create_migration_blob(
        parent,
        enc_data,
        scheme=scheme,
        permission=permission,
        parent_auth=parent_auth,
        migration_auth=migration_auth,
        random=chip.client_random,
    )


def _convert(
    chip: Chip, blob: MigrationBlob, *, parent: int = SRK, parent_auth: bytes | None = SRK_AUTH
) -> Conversation[bytes]:
    return tss12.convert_migration_blob(
        parent, blob, parent_auth=parent_auth, random=chip.client_random
    )


def _move(chip: Chip, other: Chip, key: Key) -> Key:
    """Migrate a key to another chip and return it as it loads there."""
    blob = chip.run(_create(chip, key.enc_data, permit(chip, srk_pub(other))))
    return dataclasses.replace(key, enc_data=other.run(_convert(other, blob)))


def _signs(chip: Chip, key: Key, *, auth: bytes = USAGE_AUTH) -> bool:
    handle = load(chip, key)
    sign = tss12.sign(handle, DIGEST, key_auth=auth, random=chip.client_random)
    return verifies(key.pub_key, DIGEST, chip.run(sign))


# From chip to chip


@pytest.mark.parametrize("bits", [512, 1024, 2048])
def test_migrated_key_signs_on_the_other_chip(chip: Chip, other: Chip, bits: int) -> None:
    key = make_key(chip, signing_key(bits=bits, flags=MIGRATABLE))
    assert load_code(other, key) == ReturnCode.DECRYPT_ERROR
    moved = _move(chip, other, key)
    assert _signs(other, moved)
    assert load_code(chip, moved) == ReturnCode.DECRYPT_ERROR


def test_migrated_key_keeps_its_migration_secret_and_goes_on(chip: Chip, other: Chip) -> None:
    third = make_other_chip("third", 600)
    moved = _move(chip, other, make_key(chip, signing_key(flags=MIGRATABLE)))
    permission = permit(other, srk_pub(third))
    wrong = _create(other, moved.enc_data, permission, migration_auth=WRONG_AUTH)
    assert other.code(wrong) == ReturnCode.AUTH2FAIL
    assert _signs(third, _move(other, third, moved))


def test_key_passes_through_a_migration_authority(chip: Chip, other: Chip) -> None:
    authority = make_other_chip("authority", 700)
    authority_key, handle = make_and_load(authority, migrate_template())
    key = make_key(chip, signing_key(flags=MIGRATABLE))
    blob = chip.run(_create(chip, key.enc_data, permit(chip, authority_key.public_key)))
    assert other.code(_convert(other, blob)) == ReturnCode.DECRYPT_ERROR
    passed_on = authority.run(
        tss12.migrate_key(
            handle,
            srk_pub(other),
            blob.data,
            authority_auth=USAGE_AUTH,
            random=authority.client_random,
        )
    )
    enc_data = other.run(_convert(other, MigrationBlob(blob.random, passed_on)))
    assert _signs(other, dataclasses.replace(key, enc_data=enc_data))


def test_rewrapped_key_loads_below_the_other_parent_as_it_is(chip: Chip, other: Chip) -> None:
    key = make_key(chip, signing_key(flags=MIGRATABLE))
    permission = permit(chip, srk_pub(other), MigrationScheme.REWRAP)
    blob = chip.run(_create(chip, key.enc_data, permission, scheme=MigrationScheme.REWRAP))
    assert blob.random == b""
    assert _signs(other, dataclasses.replace(key, enc_data=blob.data))


def test_storage_key_takes_its_children_along(chip: Chip, other: Chip) -> None:
    parent, parent_handle = make_and_load(chip, storage_key(flags=MIGRATABLE))
    child = make_key(
        chip, signing_key(flags=MIGRATABLE), parent=parent_handle, parent_auth=USAGE_AUTH
    )
    handle = load(other, _move(chip, other, parent))
    assert load_code(other, child, parent=handle, parent_auth=USAGE_AUTH) == ReturnCode.SUCCESS


def test_key_migrates_below_any_storage_key_without_authorization(chip: Chip, other: Chip) -> None:
    """Both parents need no authorization, so only the key's own migration secret is proved."""
    free = storage_key(flags=MIGRATABLE, auth_data_usage=NO_AUTH)
    _, source = make_and_load(chip, free)
    target_key, target = make_and_load(other, free)
    key = make_key(chip, signing_key(flags=MIGRATABLE), parent=source, parent_auth=USAGE_AUTH)
    create = _create(
        chip,
        key.enc_data,
        permit(chip, target_key.public_key),
        parent=source,
        parent_auth=None,
    )
    enc_data = other.run(_convert(other, chip.run(create), parent=target, parent_auth=None))
    moved = dataclasses.replace(key, enc_data=enc_data)
    assert load_code(other, moved, parent=target, parent_auth=USAGE_AUTH) == ReturnCode.SUCCESS


# The bytes


def _mgf1(seed: bytes, length: int) -> bytes:
    mask = b"".join(hashlib.sha1(seed + bytes([0, 0, 0, i])).digest() for i in range(10))
    return mask[:length]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def test_blob_has_the_layout_of_the_specification(chip: Chip) -> None:
    """The destination is the chip's own SRK, whose private key the test knows."""
    key = make_key(chip, signing_key(bits=2048, flags=MIGRATABLE))
    blob = chip.run(_create(chip, key.enc_data, permit(chip, srk_pub(chip))))
    block = _xor(keychain.decrypt_with_srk(blob.data), blob.random)
    assert len(block) == 198
    seed = _xor(block[:20], _mgf1(block[20:], 20))
    data = _xor(block[20:], _mgf1(seed, 178))
    prime = key_pair(chip.keys.made, 2048, EXPONENT)[0].to_bytes(128)
    private = bytes.fromhex("00000080") + prime
    assert seed == private[:20]
    assert (
        data
        == b"".join(
            (
                MIGRATION_AUTH,  # pHash
                b"\x01",  # end of the padding
                b"\x03",  # payload TPM_PT_MIGRATE
                USAGE_AUTH,
                sha1(key.encode()[: -4 - 256]),  # pubDataDigest
                bytes.fromhex("00000070"),  # partPrivKeyLen
                private[20:],
            )
        )
    )


def test_rewrapping_changes_nothing_but_the_wrapper(chip: Chip) -> None:
    key = make_key(chip, signing_key(flags=MIGRATABLE))
    permission = permit(chip, srk_pub(chip), MigrationScheme.REWRAP)
    blob = chip.run(_create(chip, key.enc_data, permission, scheme=MigrationScheme.REWRAP))
    plain = keychain.decrypt_with_srk(blob.data)
    assert plain == keychain.decrypt_with_srk(key.enc_data)


def test_permission_is_an_hash_with_the_proof_of_this_owner(chip: Chip, other: Chip) -> None:
    key = srk_pub(other)
    permission = permit(chip, key)
    assert permission.migration_key == key
    assert permission.migration_scheme == MigrationScheme.MIGRATE
    # tpmProof stands first in section 2 of the permanent state, behind the flags.
    proof = chip.durable[12 + 6 + 22 + 6 :][:20]
    assert permission.digest == sha1(key.encode(), bytes.fromhex("0001"), proof)


# CreateMigrationBlob refuses


def test_key_that_is_not_migratable_stays(chip: Chip, other: Chip) -> None:
    key = make_key(chip, signing_key())
    permission = permit(chip, srk_pub(other))
    assert chip.code(_create(chip, key.enc_data, permission)) == ReturnCode.AUTH2FAIL


@pytest.mark.parametrize(
    ("parent_auth", "migration_auth", "code"),
    [
        (WRONG_AUTH, MIGRATION_AUTH, ReturnCode.AUTHFAIL),
        (SRK_AUTH, WRONG_AUTH, ReturnCode.AUTH2FAIL),
        (None, MIGRATION_AUTH, ReturnCode.AUTHFAIL),
    ],
)
def test_both_secrets_are_needed(
    chip: Chip, other: Chip, parent_auth: bytes | None, migration_auth: bytes, code: ReturnCode
) -> None:
    key = make_key(chip, signing_key(flags=MIGRATABLE))
    create = _create(
        chip,
        key.enc_data,
        permit(chip, srk_pub(other)),
        parent_auth=parent_auth,
        migration_auth=migration_auth,
    )
    assert chip.code(create) == code
    assert chip.run(tss12.handles(ResourceType.AUTH)) == []


def test_wrong_migration_secret_alone_is_an_authfail(chip: Chip, other: Chip) -> None:
    _, parent = make_and_load(chip, storage_key(flags=MIGRATABLE, auth_data_usage=NO_AUTH))
    key = make_key(chip, signing_key(flags=MIGRATABLE), parent=parent, parent_auth=USAGE_AUTH)
    create = _create(
        chip,
        key.enc_data,
        permit(chip, srk_pub(other)),
        parent=parent,
        parent_auth=None,
        migration_auth=WRONG_AUTH,
    )
    assert chip.code(create) == ReturnCode.AUTHFAIL


def test_migration_secret_is_not_proved_under_osap(chip: Chip, other: Chip) -> None:
    key = make_key(chip, signing_key(flags=MIGRATABLE))
    permission = permit(chip, srk_pub(other))

    def create() -> Conversation[MigrationBlob]:
        one, two = yield from pair(oiap(), osap_key(SRK, SRK_AUTH, random=chip.client_random))
        return (
            yield from execute(
                Ordinal.CREATE_MIGRATION_BLOB,
                read_blob,
                handles=U32.write(SRK),
                parameters=U16.write(1) + permission.encode() + SIZED.write(key.enc_data),
                auths=(
                    prove(one, chip.client_random, secret=SRK_AUTH),
                    prove(two, chip.client_random),
                ),
            )
        )

    assert chip.code(create()) == ReturnCode.BAD_MODE


def test_parent_must_be_a_storage_key(chip: Chip, other: Chip) -> None:
    key, handle = make_and_load(chip, binding_key())
    permission = permit(chip, srk_pub(other))
    create = _create(chip, key.enc_data, permission, parent=handle, parent_auth=USAGE_AUTH)
    assert chip.code(create) == ReturnCode.INVALID_KEYUSAGE
    convert = _convert(chip, MigrationBlob(b"", b""), parent=handle, parent_auth=USAGE_AUTH)
    assert chip.code(convert) == ReturnCode.INVALID_KEYUSAGE


def test_what_is_no_wrapped_key_is_refused(chip: Chip, other: Chip) -> None:
    permission = permit(chip, srk_pub(other))
    assert chip.code(_create(chip, b"", permission)) == ReturnCode.DECRYPT_ERROR
    assert chip.code(_create(chip, bytes(256), permission)) == ReturnCode.DECRYPT_ERROR
    garbage = keychain.encrypt_oaep(keychain.srk_modulus(), b"no key")
    assert chip.code(_create(chip, garbage, permission)) == ReturnCode.BAD_PARAM_SIZE


@pytest.mark.parametrize("payload", [2, 3, 6, 7, 8])
def test_only_a_key_that_no_authority_controls_migrates(
    chip: Chip, other: Chip, payload: int
) -> None:
    key = keychain.craft_key(signing_key(flags=MIGRATABLE), payload=payload)
    permission = permit(chip, srk_pub(other))
    assert chip.code(_create(chip, key.enc_data, permission)) == ReturnCode.BAD_MIGRATION


def test_permission_must_be_of_this_owner_and_unchanged(chip: Chip, other: Chip) -> None:
    key = make_key(chip, signing_key(flags=MIGRATABLE))
    permission = permit(chip, srk_pub(other))
    for forged in (
        dataclasses.replace(permission, migration_scheme=MigrationScheme.REWRAP),
        dataclasses.replace(permission, migration_key=srk_pub(chip)),
        permit(other, srk_pub(other)),
    ):
        assert chip.code(_create(chip, key.enc_data, forged)) == ReturnCode.MIGRATEFAIL


@pytest.mark.parametrize("scheme", [3, 4, 5])
def test_other_migration_types_are_refused(chip: Chip, other: Chip, scheme: int) -> None:
    key = make_key(chip, signing_key(flags=MIGRATABLE))
    permission = permit(chip, srk_pub(other))
    create = _create(chip, key.enc_data, permission, scheme=MigrationScheme(scheme))
    assert chip.code(create) == ReturnCode.BAD_PARAMETER


# ConvertMigrationBlob refuses


def test_parent_secret_is_needed_to_take_a_key_in(chip: Chip) -> None:
    nothing = MigrationBlob(b"", b"")
    assert chip.code(_convert(chip, nothing, parent_auth=WRONG_AUTH)) == ReturnCode.AUTHFAIL
    assert chip.code(_convert(chip, nothing, parent_auth=None)) == ReturnCode.AUTHFAIL


def test_mask_must_fit_and_be_the_right_one(chip: Chip, other: Chip) -> None:
    key = make_key(chip, signing_key(flags=MIGRATABLE))
    blob = chip.run(_create(chip, key.enc_data, permit(chip, srk_pub(other))))
    for random, code in (
        (b"", ReturnCode.BAD_PARAMETER),
        (blob.random + b"\0", ReturnCode.BAD_PARAMETER),
        (bytes(len(blob.random)), ReturnCode.DECRYPT_ERROR),
    ):
        assert other.code(_convert(other, MigrationBlob(random, blob.data))) == code


def _inner(message: bytes) -> MigrationBlob:
    """Return an inner block with zeros as mask and seed, for the SRK of the test chips."""
    data = bytes(20) + b"\x01" + message
    masked = _xor(data, _mgf1(bytes(20), len(data)))
    block = _mgf1(masked, 20) + masked
    return MigrationBlob(bytes(len(block)), keychain.encrypt_oaep(keychain.srk_modulus(), block))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        # payload, usageAuth, pubDataDigest, partPrivKeyLen; the seed says a length of zero
        ("03" + "00" * 40 + "00000000", ReturnCode.BAD_PARAM_SIZE),
        ("03" + "00" * 39, ReturnCode.BAD_PARAM_SIZE),
        ("03" + "00" * 40 + "00000001", ReturnCode.BAD_PARAM_SIZE),
        ("", ReturnCode.BAD_PARAM_SIZE),
    ],
)
def test_what_is_no_migrating_key_inside_is_refused(
    chip: Chip, message: str, code: ReturnCode
) -> None:
    assert chip.code(_convert(chip, _inner(bytes.fromhex(message)))) == code


@pytest.mark.parametrize("length", [0, 40])
def test_block_that_is_too_short_is_refused(chip: Chip, length: int) -> None:
    data = keychain.encrypt_oaep(keychain.srk_modulus(), bytes(length))
    blob = MigrationBlob(bytes(length), data)
    assert chip.code(_convert(chip, blob)) == ReturnCode.DECRYPT_ERROR


# AuthorizeMigrationKey refuses


def _pub(
    *,
    bits: int = 2048,
    claimed_bits: int | None = None,
    enc_scheme: int = EncScheme.RSAESOAEP_SHA1_MGF1,
    exponent: bytes = b"",
) -> PubKey:
    p, q = key_pair(901, bits, EXPONENT)
    parms = KeyParms.for_rsa(enc_scheme=enc_scheme, bits=claimed_bits or bits, exponent=exponent)
    return PubKey(parms, (p * q).to_bytes(bits // 8))


def _authorize_code(chip: Chip, key: PubKey, *, owner_auth: bytes = OWNER_AUTH) -> int:
    return chip.code(
        tss12.authorize_migration_key(
            MigrationScheme.MIGRATE, key, owner_auth=owner_auth, random=chip.client_random
        )
    )


@pytest.mark.parametrize(
    "key",
    [
        _pub(bits=1024),
        _pub(bits=1024, claimed_bits=2048),
        _pub(exponent=bytes.fromhex("03")),
        _pub(exponent=bytes(8) + bytes.fromhex("010001")),
        PubKey(KeyParms(Algorithm.AES128, 1, 1, b""), b""),
    ],
    ids=["short", "shorter than it says", "exponent", "long exponent", "not RSA"],
)
def test_weak_key_is_not_trusted_even_if_the_owner_would(chip: Chip, key: PubKey) -> None:
    assert _authorize_code(chip, key) == ReturnCode.BAD_KEY_PROPERTY
    assert _authorize_code(chip, key, owner_auth=WRONG_AUTH) == ReturnCode.BAD_KEY_PROPERTY


def test_permission_needs_the_owner(chip: Chip) -> None:
    key = _pub(enc_scheme=EncScheme.RSAESPKCSV15)
    assert _authorize_code(chip, key, owner_auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert _authorize_code(chip, key) == ReturnCode.INAPPROPRIATE_ENC


def test_longer_key_of_an_authority_is_accepted(chip: Chip) -> None:
    """A key of 3072 bits, longer than any of the TPM's own."""
    key = _pub(bits=3072, exponent=bytes.fromhex("010001"))
    migrating = make_key(chip, signing_key(flags=MIGRATABLE))
    blob = chip.run(_create(chip, migrating.enc_data, permit(chip, key)))
    assert len(blob.data) == 384


# MigrateKey refuses


def _migrate_code(
    chip: Chip,
    handle: int,
    data: bytes,
    *,
    destination: PubKey | None = None,
    authority_auth: bytes | None = USAGE_AUTH,
) -> int:
    return chip.code(
        tss12.migrate_key(
            handle,
            destination or _pub(),
            data,
            authority_auth=authority_auth,
            random=chip.client_random,
        )
    )


def test_authority_secret_is_needed_to_pass_a_key_on(chip: Chip) -> None:
    key, handle = make_and_load(chip, migrate_template())
    data = keychain.encrypt_oaep(key.pub_key, b"anything")
    assert _migrate_code(chip, handle, data, authority_auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert _migrate_code(chip, handle, data, authority_auth=None) == ReturnCode.AUTHFAIL
    assert _migrate_code(chip, handle, data) == ReturnCode.SUCCESS


def test_free_authority_key_passes_keys_on_for_anybody(chip: Chip) -> None:
    key, handle = make_and_load(chip, migrate_template(auth_data_usage=NO_AUTH))
    data = keychain.encrypt_oaep(key.pub_key, b"anything")
    assert _migrate_code(chip, handle, data, authority_auth=None) == ReturnCode.SUCCESS


def test_only_the_key_of_an_authority_passes_keys_on(chip: Chip) -> None:
    for handle, auth in ((SRK, SRK_AUTH), (make_and_load(chip, binding_key())[1], USAGE_AUTH)):
        code = _migrate_code(chip, handle, b"", authority_auth=auth)
        assert code == ReturnCode.INVALID_KEYUSAGE


@pytest.mark.parametrize(
    ("destination", "code"),
    [
        (_pub(bits=512), ReturnCode.ENCRYPT_ERROR),
        (_pub(enc_scheme=EncScheme.NONE), ReturnCode.INAPPROPRIATE_ENC),
        (_pub(enc_scheme=EncScheme.RSAESPKCSV15), ReturnCode.SUCCESS),
        (_pub(exponent=bytes.fromhex("02")), ReturnCode.ENCRYPT_ERROR),
        (_pub(exponent=b"\xff" * 9), ReturnCode.BAD_KEY_PROPERTY),
        (PubKey(_pub().algorithm_parms, b""), ReturnCode.ENCRYPT_ERROR),
        (PubKey(_pub().algorithm_parms, b"\xfe" * 256), ReturnCode.ENCRYPT_ERROR),
        (PubKey(KeyParms(Algorithm.AES128, 1, 1, b""), b"k" * 16), ReturnCode.BAD_KEY_PROPERTY),
    ],
)
def test_destination_must_be_a_key_that_the_blob_fits(
    chip: Chip, destination: PubKey, code: ReturnCode
) -> None:
    key, handle = make_and_load(chip, migrate_template())
    data = keychain.encrypt_oaep(key.pub_key, b"x" * 100)
    assert _migrate_code(chip, handle, data, destination=destination) == code


def test_what_was_not_encrypted_for_the_authority_is_refused(chip: Chip) -> None:
    _, handle = make_and_load(chip, migrate_template())
    for data in (b"", bytes(256), keychain.encrypt_oaep(keychain.srk_modulus(), b"x")):
        assert _migrate_code(chip, handle, data) == ReturnCode.DECRYPT_ERROR
