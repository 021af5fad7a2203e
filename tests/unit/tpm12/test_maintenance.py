# SPDX-License-Identifier: Apache-2.0
"""Maintenance: a chip becomes another one, and all that keeps it from doing so."""

from __future__ import annotations

import dataclasses
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from protocol.tpm12.constants import EncScheme, Ordinal, ReturnCode, SigScheme, Tag
from protocol.tpm12.framing import build_message
from protocol.tpm12.keys import Key, KeyParms, PubKey
from protocol.tpm12.pcr import PcrInfo, PcrSelection
from protocol.tpm12.wire import U32
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    MIGRATABLE,
    SRK,
    WRONG_AUTH,
    load_code,
    make_key,
    sha1,
    signing_key,
    storage_key,
)
from tests.unit.tpm12.test_migration import srk_pub
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, key_pair, make_chip
from tpmcore import tss12
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation, MaintenanceArchive

PROFILE: Final = Profile(maintenance_commands=True)
ANTI_REPLAY: Final = b"antireplay of tests!"
EXPONENT: Final = 65537
MAKER_SERIAL: Final = 920
ORDINALS: Final = (
    Ordinal.CREATE_MAINTENANCE_ARCHIVE,
    Ordinal.LOAD_MAINTENANCE_ARCHIVE,
    Ordinal.KILL_MAINTENANCE_FEATURE,
    Ordinal.LOAD_MANU_MAINT_PUB,
    Ordinal.READ_MANU_MAINT_PUB,
)


def _maker() -> rsa.RSAPrivateKey:
    """Return the manufacturer's key."""
    p, q = key_pair(MAKER_SERIAL, 2048, EXPONENT)
    d = pow(EXPONENT, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(EXPONENT, p * q)
    ).private_key()


def _maker_pub(
    *,
    bits: int = 2048,
    enc_scheme: int = EncScheme.RSAESOAEP_SHA1_MGF1,
    sig_scheme: int = SigScheme.NONE,
    exponent: bytes = b"",
) -> PubKey:
    p, q = key_pair(MAKER_SERIAL, bits, EXPONENT)
    parms = KeyParms.for_rsa(
        enc_scheme=enc_scheme, sig_scheme=sig_scheme, bits=bits, exponent=exponent
    )
    return PubKey(parms, (p * q).to_bytes(bits // 8))


def _sign(archive: bytes) -> bytes:
    return _maker().sign(sha1(archive), padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))


def _make(seed: str, serial: int, owner_auth: bytes, *, keyed: bool = True) -> Chip:
    chip = make_chip(PROFILE, seed=seed)
    chip.keys.made = serial
    chip.run(
        tss12.take_ownership(owner_auth=owner_auth, srk_auth=SRK_AUTH, random=chip.client_random)
    )
    if keyed:
        chip.run(tss12.load_manu_maint_pub(_maker_pub(), ANTI_REPLAY))
    return chip


NEW_OWNER: Final = b"owner of the new TPM"


@pytest.fixture
def chip() -> Chip:
    """Its SRK is key 2, that of the other chip another one."""
    return _make("chip", 1, OWNER_AUTH)


@pytest.fixture
def other() -> Chip:
    """The chip that becomes the first one."""
    return _make("other", 500, NEW_OWNER)


def _create(
    chip: Chip, *, generate_random: bool = True, owner_auth: bytes = OWNER_AUTH
) -> Conversation[MaintenanceArchive]:
    return tss12.create_maintenance_archive(
        generate_random=generate_random, owner_auth=owner_auth, random=chip.client_random
    )


def _load(
    chip: Chip,
    key: Key,
    mask: bytes,
    *,
    signature: bytes | None = None,
    owner_auth: bytes = NEW_OWNER,
) -> Conversation[None]:
    archive = key.encode()
    return tss12.load_maintenance_archive(
        archive,
        _sign(archive) if signature is None else signature,
        mask,
        owner_auth=owner_auth,
        random=chip.client_random,
    )


def _open(archive: MaintenanceArchive) -> bytes:
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), b"TCPA")
    return _maker().decrypt(archive.key.enc_data, oaep)


def _pass_on(archive: MaintenanceArchive, target: Chip, *, mask: bytes = b"") -> Key:
    """Do the manufacturer's part: encrypt for another chip's SRK.

    Args:
        mask: what to mask it with instead, or empty.
    """
    masked = _open(archive)
    if mask:
        masked = _xor(_xor(masked, archive.random), mask)
    pub = target.run(
        tss12.owner_read_internal_pub(SRK, owner_auth=NEW_OWNER, random=target.client_random)
    )
    return dataclasses.replace(archive.key, enc_data=keychain.encrypt_oaep(pub.key, masked))


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _mgf1(seed: bytes, length: int) -> bytes:
    return b"".join(sha1(seed, U32.write(i)) for i in range(10))[:length]


# Presence


def test_commands_are_there_only_if_the_profile_has_them() -> None:
    for profile, present in ((Profile(), False), (PROFILE, True)):
        chip = make_chip(profile)
        for ordinal in ORDINALS:
            assert chip.run(tss12.is_implemented(ordinal)) == present
            response = chip.send(bytes.fromhex("00c1 0000000a") + U32.write(ordinal))
            refused = response[6:] == U32.write(ReturnCode.BAD_ORDINAL)
            assert refused != present


# From chip to chip


@pytest.mark.parametrize("masked_by_secret", [False, True])
def test_chip_becomes_the_other_one(chip: Chip, other: Chip, masked_by_secret: bool) -> None:
    key = make_key(chip, signing_key())
    assert load_code(other, key) == ReturnCode.DECRYPT_ERROR
    archive = chip.run(_create(chip))
    assert chip.run(tss12.permanent_flags()).maintenance_done
    mask = _mgf1(NEW_OWNER, 198) if masked_by_secret else b""
    passed_on = _pass_on(archive, other, mask=mask)
    other.run(_load(other, passed_on, b"" if masked_by_secret else archive.random))
    assert other.run(tss12.permanent_flags()).maintenance_done
    # Cleared on the way, so it is disabled.
    other.assert_presence()
    other.run(tss12.physical_enable())
    assert srk_pub(other) == srk_pub(chip)
    # The SRK has the secret of the owner of the archive, and its keys are at home here.
    assert load_code(other, key, parent_auth=OWNER_AUTH) == ReturnCode.SUCCESS
    other.restart()
    assert load_code(other, key, parent_auth=OWNER_AUTH) == ReturnCode.SUCCESS


def test_archive_has_the_layout_of_the_specification(chip: Chip) -> None:
    random = chip.run(_create(chip))
    by_secret = chip.run(_create(chip, generate_random=False))
    assert len(random.random) == 198
    assert by_secret.random == b""
    block = _xor(_open(random), random.random)
    assert block == _xor(_open(by_secret), _mgf1(OWNER_AUTH, 198))
    seed = _xor(block[:20], _mgf1(block[20:], 20))
    data = _xor(block[20:], _mgf1(seed, 178))
    prime = bytes.fromhex("00000080") + key_pair(2, 2048, EXPONENT)[0].to_bytes(128)
    proof = chip.durable[12 + 6 + 22 + 6 :][:20]
    public = random.key.encode()[: -4 - 256]
    assert seed == prime[:20]
    assert data == b"".join(
        (OWNER_AUTH, b"\x01\x04", proof, sha1(public), bytes.fromhex("00000070"), prime[20:])
    )


# The manufacturer's key


def test_manufacturer_key_is_loaded_once_for_ever() -> None:
    chip = _make("chip", 1, OWNER_AUTH, keyed=False)
    read = tss12.read_manu_maint_pub
    assert chip.code(read(ANTI_REPLAY)) == ReturnCode.KEYNOTFOUND
    assert chip.code(_create(chip)) == ReturnCode.KEYNOTFOUND
    checksum = chip.run(tss12.load_manu_maint_pub(_maker_pub(), ANTI_REPLAY))
    assert checksum == sha1(_maker_pub().encode(), ANTI_REPLAY)
    again = tss12.load_manu_maint_pub(_maker_pub(), ANTI_REPLAY)
    assert chip.code(again) == ReturnCode.DISABLED_CMD
    chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    chip.power_cycle()
    chip.assert_presence()
    chip.run(tss12.physical_enable())
    chip.run(tss12.physical_set_deactivated(False))
    chip.power_cycle()
    assert chip.run(read(ANTI_REPLAY)) == checksum


@pytest.mark.parametrize(
    "key",
    [
        _maker_pub(bits=1024),
        _maker_pub(enc_scheme=EncScheme.RSAESPKCSV15),
        _maker_pub(sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1),
        _maker_pub(exponent=bytes.fromhex("03")),
        PubKey(KeyParms(6, 1, 1, bytes.fromhex("00000080 00000080 00000000")), bytes(16)),
    ],
)
def test_manufacturer_key_must_be_a_strong_one(key: PubKey) -> None:
    chip = _make("chip", 1, OWNER_AUTH, keyed=False)
    load = tss12.load_manu_maint_pub(key, ANTI_REPLAY)
    assert chip.code(load) == ReturnCode.BAD_KEY_PROPERTY
    assert chip.code(tss12.read_manu_maint_pub(ANTI_REPLAY)) == ReturnCode.KEYNOTFOUND


def test_another_manufacturer_is_refused_before_its_key_is_looked_at() -> None:
    chip = _make("chip", 1, OWNER_AUTH)
    again = tss12.load_manu_maint_pub(_maker_pub(bits=1024), ANTI_REPLAY)
    assert chip.code(again) == ReturnCode.DISABLED_CMD


# Refusals


def test_generate_random_is_a_boolean(chip: Chip) -> None:
    session = chip.run(tss12.oiap())
    block = U32.write(session.handle) + bytes(41)
    ordinal = Ordinal.CREATE_MAINTENANCE_ARCHIVE
    response = chip.send(build_message(Tag.RQU_AUTH1_COMMAND, ordinal, b"\2" + block))
    assert response[6:10] == U32.write(ReturnCode.BAD_PARAMETER)
    assert not chip.run(tss12.permanent_flags()).maintenance_done


@pytest.mark.parametrize(
    ("ordinal", "parameters"),
    [
        (Ordinal.CREATE_MAINTENANCE_ARCHIVE, b"\1"),
        (Ordinal.LOAD_MAINTENANCE_ARCHIVE, bytes(12)),
        (Ordinal.KILL_MAINTENANCE_FEATURE, b""),
    ],
)
def test_a_session_on_a_key_is_no_session_of_the_owner(
    chip: Chip, ordinal: Ordinal, parameters: bytes
) -> None:
    before = chip.durable
    session = chip.run(tss12.osap_key(SRK, SRK_AUTH, random=chip.client_random))
    command = tss12.execute(
        ordinal,
        lambda reader: reader.rest(),
        parameters=parameters,
        auths=(tss12.prove(session, chip.client_random),),
    )
    assert chip.code(command) == ReturnCode.AUTHFAIL
    assert chip.durable == before


def test_what_stands_against_an_archive_is_found_in_order(chip: Chip) -> None:
    archive = chip.run(_create(chip))

    def load(chip: Chip, owner_auth: bytes) -> int:
        wrong = _load(chip, archive.key, b"", signature=b"", owner_auth=owner_auth)
        return chip.code(wrong)

    unkeyed = _make("third", 600, OWNER_AUTH, keyed=False)
    for each in (chip, unkeyed):
        each.run(tss12.kill_maintenance_feature(owner_auth=OWNER_AUTH, random=each.client_random))
    assert load(unkeyed, WRONG_AUTH) == ReturnCode.KEYNOTFOUND
    assert load(chip, WRONG_AUTH) == ReturnCode.DISABLED_CMD
    again = _make("fourth", 700, OWNER_AUTH)
    assert load(again, WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert load(again, OWNER_AUTH) == ReturnCode.BAD_SIGNATURE


def test_owner_may_end_maintenance(chip: Chip) -> None:
    def kill(owner_auth: bytes) -> Conversation[None]:
        return tss12.kill_maintenance_feature(owner_auth=owner_auth, random=chip.client_random)

    assert chip.code(kill(WRONG_AUTH)) == ReturnCode.AUTHFAIL
    archive = chip.run(_create(chip))
    chip.run(kill(OWNER_AUTH))
    chip.power_cycle()
    for owner_auth in (OWNER_AUTH, WRONG_AUTH):
        create = _create(chip, owner_auth=owner_auth)
        assert chip.code(create) == ReturnCode.DISABLED_CMD
        load = _load(chip, archive.key, b"", owner_auth=owner_auth)
        assert chip.code(load) == ReturnCode.DISABLED_CMD


def test_what_was_done_for_one_owner_is_not_told_the_next(chip: Chip) -> None:
    chip.run(_create(chip))
    chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    assert not chip.run(tss12.permanent_flags()).maintenance_done


def test_archives_need_the_owner(chip: Chip) -> None:
    assert chip.code(_create(chip, owner_auth=WRONG_AUTH)) == ReturnCode.AUTHFAIL
    assert not chip.run(tss12.permanent_flags()).maintenance_done
    archive = chip.run(_create(chip))
    load = _load(chip, archive.key, b"", owner_auth=WRONG_AUTH)
    assert chip.code(load) == ReturnCode.AUTHFAIL


def test_archive_is_not_taken_without_the_manufacturer(chip: Chip, other: Chip) -> None:
    archive = chip.run(_create(chip))
    before = other.durable
    passed_on = _pass_on(archive, other)
    for signature in (b"", _sign(b"something else")):
        load = _load(other, passed_on, archive.random, signature=signature)
        assert other.code(load) == ReturnCode.BAD_SIGNATURE
    assert other.durable == before
    unkeyed = _make("third", 600, NEW_OWNER, keyed=False)
    load = _load(unkeyed, passed_on, archive.random)
    assert unkeyed.code(load) == ReturnCode.KEYNOTFOUND


def test_archive_must_hold_a_root_key_for_this_chip(chip: Chip, other: Chip) -> None:
    archive = chip.run(_create(chip))
    good = _pass_on(archive, other)
    bound = PcrInfo(PcrSelection.of([1]), bytes(20), bytes(20))
    foreign = key_pair(930, 2048, EXPONENT)
    before = other.durable
    for key, mask, code in (
        (archive.key, archive.random, ReturnCode.DECRYPT_ERROR),
        (good, b"", ReturnCode.DECRYPT_ERROR),
        (good, archive.random[1:], ReturnCode.BAD_PARAMETER),
        (dataclasses.replace(good, pcr_info=bound), archive.random, ReturnCode.INVALID_KEYUSAGE),
        (storage_key(flags=MIGRATABLE), archive.random, ReturnCode.INVALID_KEYUSAGE),
        (signing_key(), archive.random, ReturnCode.INVALID_KEYUSAGE),
        (dataclasses.replace(good, auth_data_usage=0), archive.random, ReturnCode.AUTHFAIL),
        (
            dataclasses.replace(good, pub_key=(foreign[0] * foreign[1]).to_bytes(256)),
            archive.random,
            ReturnCode.BAD_PARAMETER,
        ),
        (
            dataclasses.replace(good, pub_key=b"\0" + good.pub_key),
            archive.random,
            ReturnCode.BAD_PARAMETER,
        ),
    ):
        assert other.code(_load(other, key, mask)) == code
    assert other.durable == before


def test_migration_blob_is_no_archive(chip: Chip, other: Chip) -> None:
    """The same form, masked and encrypted for the right key, with another payload type."""
    archive = chip.run(_create(chip))
    block = _xor(_open(archive), archive.random)
    seed = _xor(block[:20], _mgf1(block[20:], 20))
    data = bytearray(_xor(block[20:], _mgf1(seed, 178)))
    data[21] = 3
    masked = _xor(bytes(data), _mgf1(seed, 178))
    block = _xor(seed, _mgf1(masked, 20)) + masked
    pub = other.run(
        tss12.owner_read_internal_pub(SRK, owner_auth=NEW_OWNER, random=other.client_random)
    )
    forged = dataclasses.replace(archive.key, enc_data=keychain.encrypt_oaep(pub.key, block))
    assert other.code(_load(other, forged, bytes(198))) == ReturnCode.BAD_MIGRATION
