# SPDX-License-Identifier: Apache-2.0
"""Certification of keys: what is signed, and which keys certify and are certified."""

from __future__ import annotations

import dataclasses
import hmac

import pytest

from protocol.tpm12.attestation import CertifyInfo, CertifyInfo2
from protocol.tpm12.constants import KeyUsage, ReturnCode, SigScheme
from protocol.tpm12.keys import Key
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong, PcrSelection
from protocol.tpm12.wire import U32
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    MIGRATABLE,
    NO_AUTH,
    PUBLIC_FREE,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    binding_key,
    craft_key,
    load,
    make_and_load,
    sha1,
    signing_key,
    storage_key,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tss12.conversation import Conversation

ZERO = bytes(20)
NONCE = b"antireplay of tests!"


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


def _certify(
    chip: Chip,
    cert: int,
    key: int,
    *,
    second: bool = False,
    cert_auth: bytes | None = USAGE_AUTH,
    key_auth: bytes | None = USAGE_AUTH,
    migration_pub_digest: bytes = ZERO,
) -> Conversation[tss12.Certification]:
    if second:
        return tss12.certify_key2(
            key,
            cert,
            key_auth=key_auth,
            cert_auth=cert_auth,
            migration_pub_digest=migration_pub_digest,
            random=chip.client_random,
        )
    return tss12.certify_key(
        cert, key, cert_auth=cert_auth, key_auth=key_auth, random=chip.client_random
    )


def _identity(chip: Chip) -> tuple[Key, int]:
    identity = chip.run(
        tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=USAGE_AUTH,
            label_digest=ZERO,
            random=chip.client_random,
        )
    )
    return identity.key, load(chip, identity.key)


def test_raw_certification_verifies_byte_by_byte(chip: Chip) -> None:
    cert, cert_handle = make_and_load(chip, signing_key(auth_data_usage=NO_AUTH))
    key, handle = make_and_load(chip, signing_key(auth_data_usage=PUBLIC_FREE))
    response = chip.send(
        bytes.fromhex("00c1 00000026 00000032")
        + cert_handle.to_bytes(4, "big")
        + handle.to_bytes(4, "big")
        + NONCE
    )
    info = (
        bytes.fromhex(
            "01010000"  # version
            "0010 00000000 03"  # usage SIGNING, no flags, authDataUsage
            "00000001 0001 0002"  # RSA, no encryption, SHA-1 signatures
            "0000000c 00000400 00000002 00000000"  # 1024 bits, 2 primes, default exponent
        )
        + sha1(key.pub_key)
        + NONCE
        + bytes.fromhex("00 00000000")  # parentPCRStatus, no PCRInfo
    )
    assert response[10 : 10 + len(info)] == info
    rest = response[10 + len(info) :]
    assert rest[:4].hex() == "00000080"
    assert keychain.verifies(cert.pub_key, sha1(info), rest[4:])


def test_raw_certification_of_the_newer_command_verifies_byte_by_byte(chip: Chip) -> None:
    cert, cert_handle = make_and_load(chip, signing_key(auth_data_usage=NO_AUTH))
    key, handle = make_and_load(chip, signing_key(auth_data_usage=NO_AUTH, flags=MIGRATABLE))
    response = chip.send(
        bytes.fromhex("00c1 0000003a 00000033")
        + handle.to_bytes(4, "big")
        + cert_handle.to_bytes(4, "big")
        + b"d" * 20
        + NONCE
    )
    info = (
        bytes.fromhex(
            "0029 00 01"  # tag, fill, payload ASYM
            "0010 00000002 00"  # usage SIGNING, migratable, authDataUsage
            "00000001 0001 0002 0000000c 00000400 00000002 00000000"
        )
        + sha1(key.pub_key)
        + NONCE
        + bytes.fromhex("00 00000000 00000000")  # status, no PCRInfo, no migration authority
    )
    assert response[10 : 10 + len(info)] == info
    assert keychain.verifies(cert.pub_key, sha1(info), response[14 + len(info) :])


@pytest.mark.parametrize("second", [False, True])
def test_both_secrets_are_wanted(chip: Chip, second: bool) -> None:
    _, cert = make_and_load(chip, signing_key())
    _, key = make_and_load(chip, signing_key())
    assert chip.code(_certify(chip, cert, key, second=second)) == ReturnCode.SUCCESS
    first, other = ReturnCode.AUTHFAIL, ReturnCode.AUTH2FAIL
    if second:
        first, other = other, first
    wrong_cert = _certify(chip, cert, key, second=second, cert_auth=WRONG_AUTH)
    wrong_key = _certify(chip, cert, key, second=second, key_auth=WRONG_AUTH)
    assert chip.code(wrong_cert) == first
    assert chip.code(wrong_key) == other


@pytest.mark.parametrize(
    ("cert_usage", "key_usage", "with_key", "code"),
    [
        (NO_AUTH, 1, True, ReturnCode.SUCCESS),
        (NO_AUTH, 1, False, ReturnCode.AUTHFAIL),
        (NO_AUTH, NO_AUTH, False, ReturnCode.SUCCESS),
        (NO_AUTH, PUBLIC_FREE, False, ReturnCode.SUCCESS),
        (PUBLIC_FREE, NO_AUTH, False, ReturnCode.AUTHFAIL),
        (1, 1, True, ReturnCode.AUTHFAIL),
    ],
)
def test_certify_key_without_the_certifying_keys_session(
    chip: Chip, cert_usage: int, key_usage: int, with_key: bool, code: ReturnCode
) -> None:
    _, cert = make_and_load(chip, signing_key(auth_data_usage=cert_usage))
    _, key = make_and_load(chip, signing_key(auth_data_usage=key_usage))
    key_auth = USAGE_AUTH if with_key else None
    conversation = _certify(chip, cert, key, cert_auth=None, key_auth=key_auth)
    assert chip.code(conversation) == code


@pytest.mark.parametrize(
    ("cert_usage", "key_usage", "with_cert", "code"),
    [
        (1, NO_AUTH, True, ReturnCode.SUCCESS),
        (1, PUBLIC_FREE, True, ReturnCode.SUCCESS),
        (1, 1, True, ReturnCode.AUTHFAIL),
        (1, NO_AUTH, False, ReturnCode.AUTHFAIL),
        (PUBLIC_FREE, NO_AUTH, False, ReturnCode.AUTHFAIL),
        (NO_AUTH, PUBLIC_FREE, False, ReturnCode.SUCCESS),
    ],
)
def test_certify_key2_without_the_certified_keys_session(
    chip: Chip, cert_usage: int, key_usage: int, with_cert: bool, code: ReturnCode
) -> None:
    _, cert = make_and_load(chip, signing_key(auth_data_usage=cert_usage))
    _, key = make_and_load(chip, signing_key(auth_data_usage=key_usage))
    cert_auth = USAGE_AUTH if with_cert else None
    conversation = _certify(chip, cert, key, second=True, cert_auth=cert_auth, key_auth=None)
    assert chip.code(conversation) == code


def test_wrong_secret_of_the_only_session_is_the_first_failure(chip: Chip) -> None:
    _, cert = make_and_load(chip, signing_key(auth_data_usage=NO_AUTH))
    _, key = make_and_load(chip, signing_key(auth_data_usage=NO_AUTH))
    one = _certify(chip, cert, key, cert_auth=None, key_auth=WRONG_AUTH)
    two = _certify(chip, cert, key, second=True, cert_auth=WRONG_AUTH, key_auth=None)
    assert chip.code(one) == ReturnCode.AUTHFAIL
    assert chip.code(two) == ReturnCode.AUTHFAIL


@pytest.mark.parametrize("second", [False, True])
def test_keys_that_do_not_certify(chip: Chip, second: bool) -> None:
    _, key = make_and_load(chip, signing_key())
    _, der = make_and_load(chip, signing_key(SigScheme.RSASSAPKCS1V15_DER))
    _, storage = make_and_load(chip, storage_key())
    for cert in (der, storage):
        # The scheme is judged before any secret.
        conversation = _certify(chip, cert, key, second=second, cert_auth=WRONG_AUTH)
        assert chip.code(conversation) == ReturnCode.BAD_KEY_PROPERTY


@pytest.mark.parametrize("second", [False, True])
def test_keys_of_most_usages_are_certified(chip: Chip, second: bool) -> None:
    _, cert = make_and_load(chip, signing_key(SigScheme.RSASSAPKCS1V15_INFO))
    for template in (storage_key(), binding_key(), binding_key(legacy=True), signing_key()):
        _, key = make_and_load(chip, template)
        result = chip.run(_certify(chip, cert, key, second=second))
        assert result.info.key_usage == template.key_usage
    migrate = dataclasses.replace(storage_key(), key_usage=KeyUsage.MIGRATE)
    _, key = make_and_load(chip, migrate)
    code = chip.code(_certify(chip, cert, key, second=second))
    assert code == ReturnCode.INVALID_KEYUSAGE


@pytest.mark.parametrize("second", [False, True])
def test_storage_root_key_is_certified(chip: Chip, second: bool) -> None:
    cert, handle = make_and_load(chip, signing_key())
    result = chip.run(_certify(chip, handle, SRK, second=second, key_auth=SRK_AUTH))
    assert result.info.pubkey_digest == sha1(keychain.srk_modulus())
    assert not result.info.parent_pcr_status
    assert keychain.verifies(cert.pub_key, result.signed, result.signature)


@pytest.mark.parametrize("second", [False, True])
def test_identity_certifies_no_key_that_may_migrate(chip: Chip, second: bool) -> None:
    _, identity = _identity(chip)
    _, fixed = make_and_load(chip, signing_key())
    _, migratable = make_and_load(chip, signing_key(flags=MIGRATABLE))
    assert chip.code(_certify(chip, identity, fixed, second=second)) == ReturnCode.SUCCESS
    code = chip.code(_certify(chip, identity, migratable, second=second))
    assert code == ReturnCode.MIGRATEFAIL


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (tss12.pcr_info({10: ZERO}), CertifyInfo),
        (tss12.pcr_info_long({10: ZERO}), CertifyInfo),
        (tss12.pcr_info_long({10: ZERO}, localities=0x01), CertifyInfo2),
        (tss12.pcr_info({16: ZERO}), CertifyInfo2),
    ],
    ids=["old", "new", "locality", "pcr 16"],
)
def test_older_structure_certifies_what_it_can_express(
    chip: Chip, info: PcrInfo | PcrInfoLong, expected: type
) -> None:
    cert, cert_handle = make_and_load(chip, signing_key())
    _, key = make_and_load(chip, signing_key(pcr_info=info))
    result = chip.run(_certify(chip, cert_handle, key))
    assert isinstance(result.info, expected)
    assert keychain.verifies(cert.pub_key, result.signed, result.signature)
    selection = info.pcr_selection if isinstance(info, PcrInfo) else info.release_selection
    if expected is CertifyInfo:
        # digestAtCreation stays secret
        wanted = PcrInfo(selection, info.digest_at_release, ZERO).encode()
    else:
        locality = info.locality_at_release if isinstance(info, PcrInfoLong) else 0x1F
        wanted = selection.encode() + bytes([locality]) + info.digest_at_release
    assert result.info.pcr_info == wanted


def test_newer_command_tells_the_release_condition_in_the_short_form(chip: Chip) -> None:
    info = tss12.pcr_info({10: ZERO})
    _, cert = make_and_load(chip, signing_key())
    _, key = make_and_load(chip, signing_key(pcr_info=info))
    result = chip.run(_certify(chip, cert, key, second=True))
    short = info.pcr_selection.encode() + b"\x1f" + info.digest_at_release
    assert result.info.pcr_info == short


def test_certified_keys_pcrs_may_be_ignored_if_its_flags_say_so(chip: Chip) -> None:
    info = PcrInfo(PcrSelection.of([10]), b"w" * 20, ZERO)
    _, cert = make_and_load(chip, signing_key())
    for flags, code in ((0, ReturnCode.WRONGPCRVAL), (0x08, ReturnCode.SUCCESS)):
        _, key = make_and_load(chip, signing_key(pcr_info=info, flags=flags))
        assert chip.code(_certify(chip, cert, key)) == code
        assert chip.code(_certify(chip, cert, key, second=True)) == code
        assert chip.code(_certify(chip, key, cert)) == ReturnCode.WRONGPCRVAL


def test_children_of_a_pcr_bound_parent_carry_the_mark_and_so_do_theirs(chip: Chip) -> None:
    _, cert = make_and_load(chip, signing_key())
    _, bound = make_and_load(chip, storage_key(pcr_info=tss12.pcr_info({10: ZERO})))
    _, child = make_and_load(chip, storage_key(), parent=bound, parent_auth=USAGE_AUTH)
    _, grandchild = make_and_load(chip, signing_key(), parent=child, parent_auth=USAGE_AUTH)
    for key, marked in ((cert, False), (bound, False), (child, True), (grandchild, True)):
        assert chip.run(_certify(chip, cert, key)).info.parent_pcr_status == marked
        assert chip.run(_certify(chip, cert, key, second=True)).info.parent_pcr_status == marked


def test_key_whose_migration_an_authority_controls(chip: Chip) -> None:
    genuine, _ = make_and_load(chip, signing_key())
    tpm_proof = keychain.decrypt_with_srk(genuine.enc_data)[21:41]
    authority = b"digest of authority!"
    template = signing_key(flags=MIGRATABLE | 0x10)
    public = craft_key(template)
    pubkey = public.algorithm_parms.encode() + U32.write(128) + public.pub_key
    migration_auth = hmac.digest(tpm_proof, b"\x00\x33" + authority + sha1(pubkey), "sha1")
    key = load(chip, craft_key(template, payload=6, migration_auth=migration_auth))
    _, identity = _identity(chip)
    result = chip.run(_certify(chip, identity, key, second=True, migration_pub_digest=authority))
    assert isinstance(result.info, CertifyInfo2)
    assert result.info.payload_type == 6
    assert result.info.migration_authority == sha1(authority, b"\x06")
    other = _certify(chip, identity, key, second=True, migration_pub_digest=ZERO)
    assert chip.code(other) == ReturnCode.MA_SOURCE
    # The older command knows nothing of authorities.
    assert chip.code(_certify(chip, identity, key)) == ReturnCode.INVALID_KEYUSAGE
