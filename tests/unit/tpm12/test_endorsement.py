# SPDX-License-Identifier: Apache-2.0
"""The endorsement key: made once, read by whom it may concern, revoked by who holds the secret."""

from __future__ import annotations

import pytest

from protocol.tpm12.constants import (
    EncScheme,
    NvAttributes,
    Ordinal,
    ReservedHandle,
    ReturnCode,
    SetCapabilityArea,
    SigScheme,
    Tag,
)
from protocol.tpm12.framing import build_message
from protocol.tpm12.keys import KeyParms, RsaKeyParms
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import sha1
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.world import Profile

NO_EK = Profile(make_ek=False)
NONCE = b"antireplay of tests!"
RESET = b"secret to revoke it!"
OAEP = EncScheme.RSAESOAEP_SHA1_MGF1


def _send(chip: Chip, ordinal: Ordinal, body: bytes) -> bytes:
    return chip.send(build_message(Tag.RQU_COMMAND, ordinal, body))


def _code(response: bytes) -> int:
    return int.from_bytes(response[6:10], "big")


def _create_code(chip: Chip, parms: KeyParms, ordinal: Ordinal) -> int:
    tail = b"" if ordinal == Ordinal.CREATE_ENDORSEMENT_KEY_PAIR else b"\x00" + RESET
    return _code(_send(chip, ordinal, NONCE + parms.encode() + tail))


@pytest.mark.parametrize("exponent", ["", "010001"])
def test_key_is_told_as_it_was_asked_for_with_a_checksum_over_the_nonce(exponent: str) -> None:
    chip = make_chip(NO_EK)
    parms = KeyParms.for_rsa(
        enc_scheme=OAEP,
        sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1,
        exponent=bytes.fromhex(exponent),
    )
    response = _send(chip, Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, NONCE + parms.encode())
    size = f"{len(exponent) // 2:08x}"
    head = bytes.fromhex(
        "00000001 0003 0001"  # RSA, OAEP, no signatures whatever was asked
        + f"{12 + len(exponent) // 2:08x}"
        + "00000800 00000002"  # 2048 bits, 2 primes
        + size
        + exponent
        + "00000100"  # size of the modulus
    )
    pubkey = response[10:-20]
    assert pubkey == head + keychain.ek_modulus()
    assert response[-20:] == sha1(pubkey, NONCE)
    assert _send(chip, Ordinal.READ_PUBEK, NONCE)[10:] == response[10:]


def test_key_that_no_response_could_tell_is_not_made() -> None:
    chip = make_chip(NO_EK)
    parms = KeyParms.for_rsa(enc_scheme=OAEP, exponent=b"\x01\x00\x01".ljust(4000, b"\x00"))
    code = _create_code(chip, parms, Ordinal.CREATE_ENDORSEMENT_KEY_PAIR)
    assert code == ReturnCode.BAD_KEY_PROPERTY
    assert _code(_send(chip, Ordinal.READ_PUBEK, NONCE)) == ReturnCode.NO_ENDORSEMENT


def test_key_of_the_factory_is_like_one_that_was_asked_for() -> None:
    made, bought = make_chip(NO_EK), make_chip()
    made.run(tss12.create_endorsement_key_pair(random=made.client_random))
    assert made.run(tss12.read_pubek(random=made.client_random)) == bought.run(
        tss12.read_pubek(random=bought.client_random)
    )
    assert made.run(tss12.permanent_flags()).cekp_used
    assert not bought.run(tss12.permanent_flags()).cekp_used
    for chip in (made, bought):
        assert not chip.run(tss12.permanent_flags()).enable_revoke_ek


def test_key_is_durable_before_it_is_told() -> None:
    chip = make_chip(NO_EK)
    key = chip.run(tss12.create_endorsement_key_pair(random=chip.client_random))
    chip.power_cycle()
    assert chip.run(tss12.read_pubek(random=chip.client_random)) == key


def test_there_is_one_endorsement_key_in_the_life_of_a_chip() -> None:
    chip = make_chip()
    parms = KeyParms.for_rsa(enc_scheme=OAEP)
    for ordinal in (Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, Ordinal.CREATE_REVOCABLE_EK):
        assert _create_code(chip, parms, ordinal) == ReturnCode.DISABLED_CMD


@pytest.mark.parametrize(
    "ordinal", [Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, Ordinal.CREATE_REVOCABLE_EK]
)
@pytest.mark.parametrize(
    "parms",
    [
        KeyParms.for_rsa(enc_scheme=OAEP, bits=1024),
        KeyParms.for_rsa(enc_scheme=OAEP, bits=4096),
        KeyParms.for_rsa(enc_scheme=EncScheme.NONE),
        KeyParms.for_rsa(enc_scheme=EncScheme.RSAESPKCSV15),
        KeyParms.for_rsa(enc_scheme=OAEP, exponent=b"\x02"),
        KeyParms(1, OAEP, 1, RsaKeyParms(2048, 3, b"").encode()),
        KeyParms(6, 1, 1, bytes.fromhex("00000080 00000080 00000000")),
    ],
    ids=["1024", "4096", "no encryption", "pkcs1", "exponent 2", "3 primes", "AES"],
)
def test_key_of_other_properties_is_not_made(ordinal: Ordinal, parms: KeyParms) -> None:
    chip = make_chip(NO_EK)
    assert _create_code(chip, parms, ordinal) == ReturnCode.BAD_KEY_PROPERTY
    assert chip.code(tss12.read_pubek(random=chip.client_random)) == ReturnCode.NO_ENDORSEMENT


# Revocable keys


def test_secret_to_revoke_is_the_callers_or_the_chips() -> None:
    chip = make_chip(NO_EK)
    key = chip.run(tss12.create_revocable_ek(ek_reset=RESET, random=chip.client_random))
    assert key.ek_reset == RESET
    assert chip.run(tss12.permanent_flags()).enable_revoke_ek
    chip = make_chip(NO_EK)
    key = chip.run(tss12.create_revocable_ek(random=chip.client_random))
    assert key.ek_reset not in (RESET, bytes(20))
    chip.assert_presence()
    assert chip.code(tss12.revoke_trust(key.ek_reset)) == ReturnCode.SUCCESS


def test_revoking_wants_a_revocable_key_its_secret_and_somebody_present() -> None:
    chip = make_chip()
    chip.assert_presence()
    assert chip.code(tss12.revoke_trust(bytes(20))) == ReturnCode.PERMANENTEK
    chip = make_chip(NO_EK)
    key = chip.run(tss12.create_revocable_ek(ek_reset=RESET, random=chip.client_random))
    assert chip.code(tss12.revoke_trust(bytes(20))) == ReturnCode.AUTHFAIL
    assert chip.code(tss12.revoke_trust(RESET)) == ReturnCode.BAD_PRESENCE
    assert chip.run(tss12.read_pubek(random=chip.client_random)) == key.public


def test_revoking_removes_the_key_the_owner_and_what_hangs_on_them() -> None:
    chip = make_chip(NO_EK)
    chip.run(tss12.create_revocable_ek(ek_reset=RESET, random=chip.client_random))
    for index in (0x10010, 0x10020 | 0x10000000):
        owner_only = NvAttributes.OWNERREAD | NvAttributes.OWNERWRITE
        chip.run(tss12.nv_define_space(index, 4, owner_only))
    chip.run(tss12.nv_lock())
    chip.run(
        tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=chip.client_random)
    )
    chip.assert_presence()
    chip.run(tss12.revoke_trust(RESET))
    flags = chip.run(tss12.permanent_flags())
    assert (flags.disable, flags.deactivated, flags.nv_locked, flags.cekp_used) == (
        True,
        True,
        False,
        False,
    )
    assert not chip.run(tss12.is_owned())
    assert chip.run(tss12.nv_list()) == []
    chip.run(tss12.physical_enable())
    assert chip.code(tss12.read_pubek(random=chip.client_random)) == ReturnCode.NO_ENDORSEMENT
    chip.power_cycle()
    assert not chip.run(tss12.is_owned())


def test_revoked_key_makes_room_for_another() -> None:
    chip = make_chip(NO_EK)
    old = chip.run(tss12.create_revocable_ek(ek_reset=RESET, random=chip.client_random))
    chip.assert_presence()
    chip.run(tss12.revoke_trust(RESET))
    chip.run(tss12.physical_enable())
    new = chip.run(tss12.create_endorsement_key_pair(random=chip.client_random))
    assert new != old.public
    assert chip.code(tss12.revoke_trust(RESET)) == ReturnCode.PERMANENTEK


# Reading


def test_without_a_key_there_is_nothing_to_read() -> None:
    chip = make_chip(NO_EK)
    assert chip.code(tss12.read_pubek(random=chip.client_random)) == ReturnCode.NO_ENDORSEMENT


def test_owner_reads_the_public_parts_of_ek_and_srk() -> None:
    chip = make_owned_chip()
    for handle, modulus in (
        (ReservedHandle.EK, keychain.ek_modulus()),
        (ReservedHandle.SRK, keychain.srk_modulus()),
    ):
        key = chip.run(
            tss12.owner_read_internal_pub(handle, owner_auth=OWNER_AUTH, random=chip.client_random)
        )
        assert key.key == modulus
    key = chip.run(tss12.owner_read_pubek(owner_auth=OWNER_AUTH, random=chip.client_random))
    assert key.key == keychain.ek_modulus()


def test_owner_reads_no_other_key_and_nobody_else_reads_any() -> None:
    chip = make_owned_chip()

    def read(handle: int, owner_auth: bytes) -> int:
        return chip.code(
            tss12.owner_read_internal_pub(
                ReservedHandle(handle), owner_auth=owner_auth, random=chip.client_random
            )
        )

    assert read(ReservedHandle.OWNER, OWNER_AUTH) == ReturnCode.BAD_PARAMETER
    assert read(ReservedHandle.OWNER, SRK_AUTH) == ReturnCode.AUTHFAIL
    assert read(ReservedHandle.EK, SRK_AUTH) == ReturnCode.AUTHFAIL
    conversation = tss12.owner_read_pubek(owner_auth=SRK_AUTH, random=chip.client_random)
    assert chip.code(conversation) == ReturnCode.AUTHFAIL


def test_owner_opens_the_endorsement_key_to_all_and_closes_it_again() -> None:
    chip = make_owned_chip()
    read_pubek = 4
    chip.run(
        tss12.set_capability(
            SetCapabilityArea.PERM_FLAGS,
            read_pubek,
            b"\x01",
            owner_auth=OWNER_AUTH,
            random=chip.client_random,
        )
    )
    assert chip.code(tss12.read_pubek(random=chip.client_random)) == ReturnCode.SUCCESS
    wrong = tss12.disable_pubek_read(owner_auth=SRK_AUTH, random=chip.client_random)
    assert chip.code(wrong) == ReturnCode.AUTHFAIL
    assert chip.code(tss12.read_pubek(random=chip.client_random)) == ReturnCode.SUCCESS
    chip.run(tss12.disable_pubek_read(owner_auth=OWNER_AUTH, random=chip.client_random))
    chip.power_cycle()
    assert chip.code(tss12.read_pubek(random=chip.client_random)) == ReturnCode.DISABLED_CMD
