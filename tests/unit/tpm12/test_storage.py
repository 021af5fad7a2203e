# SPDX-License-Identifier: Apache-2.0
"""Keys below the storage root key: making, loading, reading and using them to bind."""

from __future__ import annotations

import dataclasses

import pytest

from protocol.tpm12.constants import (
    EncScheme,
    KeyUsage,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    SetCapabilityArea,
    SigScheme,
)
from protocol.tpm12.keys import Key, KeyParms
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong, PcrSelection
from protocol.tpm12.wire import U32, Reader
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    MIGRATABLE,
    MIGRATION_AUTH,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    binding_key,
    craft_key,
    load,
    load_code,
    make_and_load,
    make_key,
    sha1,
    signing_key,
    storage_key,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, key_pair, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.world import Profile
from tpmcore.tss12.conversation import Conversation, execute
from tpmcore.tss12.sessions import oiap, prove

ZERO = bytes(20)
PUB_KEY_OFFSET = 4 + 2 + 4 + 1 + 24 + 4 + 4
"""Of the modulus in a TPM_KEY without PCR binding and with the default exponent."""


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


def _create_code(
    chip: Chip, template: Key, *, parent: int = SRK, parent_auth: bytes = SRK_AUTH
) -> int:
    return chip.code(
        tss12.create_wrap_key(
            parent,
            template,
            parent_auth=parent_auth,
            usage_auth=USAGE_AUTH,
            random=chip.client_random,
        )
    )


def _sign_code(chip: Chip, handle: int) -> int:
    return chip.code(tss12.sign(handle, ZERO, key_auth=USAGE_AUTH, random=chip.client_random))


# CreateWrapKey


def test_wrapped_key_is_laid_out_as_the_specification_says(chip: Chip) -> None:
    encoded = make_key(chip, signing_key(bits=2048, flags=MIGRATABLE)).encode()
    assert len(encoded) == 559
    assert encoded[:35].hex() == (
        "01010000"  # version
        "0010"  # keyUsage SIGNING
        "00000002"  # keyFlags migratable
        "01"  # authDataUsage
        "00000001 0001 0002"  # RSA, no encryption, SHA-1 signatures
        "0000000c 00000800 00000002 00000000"  # 2048 bits, 2 primes, exponent left out
    ).replace(" ", "")
    assert encoded[35:43].hex() == "0000000000000100"  # no PCRInfo; size of the modulus
    modulus = encoded[43 : 43 + 256]
    assert encoded[299:303].hex() == "00000100"
    private = keychain.decrypt_with_srk(encoded[303:])
    assert len(private) == 193
    assert private[0] == 1  # payload ASYM
    assert private[1:21] == USAGE_AUTH
    assert private[21:41] == MIGRATION_AUTH  # masked with nonceOdd on its way
    assert private[41:61] == sha1(encoded[:299])
    assert private[61:65].hex() == "00000080"
    assert int.from_bytes(modulus, "big") % int.from_bytes(private[65:], "big") == 0


def test_key_that_is_not_migratable_has_a_secret_of_the_tpm_in_place_of_the_callers(
    chip: Chip,
) -> None:
    one = keychain.decrypt_with_srk(make_key(chip, signing_key()).enc_data)
    two = keychain.decrypt_with_srk(make_key(chip, signing_key()).enc_data)
    assert one[21:41] == two[21:41]
    assert one[21:41] not in (MIGRATION_AUTH, ZERO)


@pytest.mark.parametrize("exponent", [b"", b"\x01\x00\x01", b"\x03"])
def test_exponent_stays_as_it_was_written(chip: Chip, exponent: bytes) -> None:
    template = dataclasses.replace(
        signing_key(),
        algorithm_parms=KeyParms.for_rsa(
            sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1, bits=1024, exponent=exponent
        ),
    )
    key, handle = make_and_load(chip, template)
    assert key.algorithm_parms == template.algorithm_parms
    public = chip.run(tss12.get_pub_key(handle, key_auth=USAGE_AUTH, random=chip.client_random))
    assert public.encode() == template.algorithm_parms.encode() + U32.write(128) + key.pub_key


def test_tpm_fills_in_the_creation_values_of_a_pcr_binding(chip: Chip) -> None:
    value = chip.run(tss12.extend(10, b"m" * 20))
    info = PcrInfo(PcrSelection.of([10]), b"r" * 20, b"c" * 20)
    made = make_key(chip, signing_key(pcr_info=info)).pcr_info
    composite = sha1(b"\x00\x03\x00\x04\x00", U32.write(20), value)
    assert made == dataclasses.replace(info, digest_at_creation=composite)


def test_newer_pcr_binding_gets_the_locality_too(chip: Chip) -> None:
    info = PcrInfoLong(
        0x01, 0x1F, PcrSelection.of([10]), PcrSelection.of([11]), b"c" * 20, b"r" * 20
    )
    chip.locality = 3
    made = make_key(chip, signing_key(pcr_info=info))
    composite = sha1(b"\x00\x03\x00\x04\x00", U32.write(20), ZERO)
    assert made.is_key12
    assert made.pcr_info == dataclasses.replace(
        info, locality_at_creation=0x08, digest_at_creation=composite
    )


def test_create_wrap_key_ends_its_session(chip: Chip) -> None:
    make_key(chip, signing_key())
    response = _response(chip, Ordinal.CREATE_WRAP_KEY)
    assert response[-21] == 0
    assert chip.run(tss12.handles(ResourceType.AUTH)) == []


def test_making_and_loading_keys_changes_nothing_permanent(chip: Chip) -> None:
    persisted = chip.persisted
    make_and_load(chip, signing_key())
    assert chip.persisted == persisted


@pytest.mark.parametrize(
    "template",
    [
        keychain.storage_key(),
        dataclasses.replace(signing_key(), key_flags=0x12),
        dataclasses.replace(signing_key(), key_flags=0x10),
        Key.template(
            KeyUsage.IDENTITY,
            enc_scheme=EncScheme.NONE,
            sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1,
        ),
        Key.template(
            KeyUsage.AUTHCHANGE,
            enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1,
            sig_scheme=SigScheme.NONE,
        ),
    ],
    ids=["below migratable", "authority, migratable", "authority", "identity", "authchange"],
)
def test_usages_that_create_wrap_key_does_not_make(
    chip: Chip, template: Key, request: pytest.FixtureRequest
) -> None:
    parent, parent_auth = int(SRK), SRK_AUTH
    if "below migratable" in request.node.name:
        _, parent = make_and_load(chip, storage_key(flags=MIGRATABLE))
        parent_auth = USAGE_AUTH
    code = _create_code(chip, template, parent=parent, parent_auth=parent_auth)
    assert code == ReturnCode.INVALID_KEYUSAGE


def test_migratable_parent_may_have_migratable_children(chip: Chip) -> None:
    _, parent = make_and_load(chip, storage_key(flags=MIGRATABLE))
    template = signing_key(flags=MIGRATABLE)
    _, child = make_and_load(chip, template, parent=parent, parent_auth=USAGE_AUTH)
    assert _sign_code(chip, child) == ReturnCode.SUCCESS


def test_only_storage_keys_are_parents(chip: Chip) -> None:
    key, handle = make_and_load(chip, signing_key())
    code = _create_code(chip, signing_key(), parent=handle, parent_auth=USAGE_AUTH)
    assert code == ReturnCode.INVALID_KEYUSAGE
    assert load_code(chip, key, parent=handle, parent_auth=USAGE_AUTH) == (
        ReturnCode.INVALID_KEYUSAGE
    )


def test_key_of_unsuitable_schemes_is_refused_before_its_parents_usage(chip: Chip) -> None:
    _, handle = make_and_load(chip, signing_key())
    template = dataclasses.replace(signing_key(), key_usage=KeyUsage.BIND)
    code = _create_code(chip, template, parent=handle, parent_auth=USAGE_AUTH)
    assert code == ReturnCode.BAD_KEY_PROPERTY


def test_create_wrap_key_with_a_wrong_secret_makes_no_key(chip: Chip) -> None:
    made = chip.keys.made
    assert _create_code(chip, signing_key(), parent_auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert chip.keys.made == made


def test_create_wrap_key_wants_a_session_that_can_encrypt_secrets(chip: Chip) -> None:
    def conversation() -> Conversation[bytes]:
        session = yield from oiap()
        return (
            yield from execute(
                Ordinal.CREATE_WRAP_KEY,
                Reader.rest,
                handles=U32.write(SRK),
                parameters=ZERO + ZERO + signing_key().encode(),
                auths=(prove(session, chip.client_random, secret=SRK_AUTH),),
            )
        )

    assert chip.code(conversation()) == ReturnCode.BAD_MODE


@pytest.mark.parametrize(
    ("handle", "code"),
    [
        (0, ReturnCode.INVALID_KEYHANDLE),
        (0x12345678, ReturnCode.INVALID_KEYHANDLE),
        (ReservedHandle.OWNER, ReturnCode.INVALID_RESOURCE),
        (ReservedHandle.ADMIN, ReturnCode.INVALID_RESOURCE),
        (ReservedHandle.EK, ReturnCode.KEYNOTFOUND),
    ],
)
def test_handle_that_is_no_key(chip: Chip, handle: int, code: ReturnCode) -> None:
    assert chip.code(tss12.get_pub_key(handle, key_auth=None)) == code


# LoadKey2


def test_loaded_key_has_a_handle_of_its_own_and_works(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    one, two = load(chip, key), load(chip, key)
    assert one != two
    assert 0 not in (one, two)
    assert one >> 24 != 0x40
    assert _sign_code(chip, one) == ReturnCode.SUCCESS
    assert _sign_code(chip, two) == ReturnCode.SUCCESS


def test_handle_is_digested_by_load_key_and_not_by_load_key2(chip: Chip) -> None:
    key = make_key(chip, signing_key())

    def conversation(ordinal: Ordinal, handles_out: int) -> Conversation[int]:
        session = yield from oiap()
        return (
            yield from execute(
                ordinal,
                Reader.u32,
                handles=U32.write(SRK),
                parameters=key.encode(),
                auths=(prove(session, chip.client_random, secret=SRK_AUTH),),
                handles_out=handles_out,
            )
        )

    for ordinal, digested, not_digested in (
        (Ordinal.LOAD_KEY, 0, 4),
        (Ordinal.LOAD_KEY2, 4, 0),
    ):
        handle = chip.run(conversation(ordinal, digested))
        assert _sign_code(chip, handle) == ReturnCode.SUCCESS
        with pytest.raises(tss12.ResponseError):
            chip.run(conversation(ordinal, not_digested))


def test_loaded_keys_survive_a_restart_and_are_gone_with_the_power(chip: Chip) -> None:
    key, handle = make_and_load(chip, signing_key())
    chip.restart()
    assert _sign_code(chip, handle) == ReturnCode.SUCCESS
    chip.power_cycle()
    assert _sign_code(chip, handle) == ReturnCode.INVALID_KEYHANDLE
    assert _sign_code(chip, load(chip, key)) == ReturnCode.SUCCESS


def test_parent_that_needs_no_secret_may_be_given_none(chip: Chip) -> None:
    _, parent = make_and_load(chip, storage_key(auth_data_usage=keychain.NO_AUTH))
    child = make_key(chip, signing_key(), parent=parent, parent_auth=USAGE_AUTH)
    assert load_code(chip, child, parent=parent, parent_auth=None) == ReturnCode.SUCCESS
    assert load_code(chip, child, parent=parent, parent_auth=WRONG_AUTH) == ReturnCode.AUTHFAIL


def test_parent_that_needs_a_secret_gets_it(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    assert load_code(chip, key, parent_auth=None) == ReturnCode.AUTHFAIL
    assert load_code(chip, key, parent_auth=WRONG_AUTH) == ReturnCode.AUTHFAIL


def test_no_more_keys_are_loaded_than_there_are_slots() -> None:
    chip = make_owned_chip(Profile(max_keys=3))
    key = make_key(chip, signing_key())
    handles = [load(chip, key) for _ in range(3)]
    assert load_code(chip, key) == ReturnCode.NOSPACE
    chip.run(tss12.flush_specific(handles[1], ResourceType.KEY))
    assert load_code(chip, key) == ReturnCode.SUCCESS


def test_key_of_another_tpm_does_not_load_even_under_the_same_parent() -> None:
    key = make_key(make_owned_chip(seed="one"), signing_key())
    other = make_owned_chip(seed="two")
    assert load_code(other, key) == ReturnCode.INVALID_KEYUSAGE


def test_migratable_key_loads_wherever_its_parent_is() -> None:
    key = make_key(make_owned_chip(seed="one"), signing_key(flags=MIGRATABLE))
    other = make_owned_chip(seed="two")
    assert _sign_code(other, load(other, key)) == ReturnCode.SUCCESS


def test_key_does_not_load_under_another_parent(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    _, parent = make_and_load(chip, storage_key())
    assert load_code(chip, key, parent=parent, parent_auth=USAGE_AUTH) == ReturnCode.DECRYPT_ERROR


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"key_flags": 0}, ReturnCode.AUTHFAIL),
        ({"auth_data_usage": 0}, ReturnCode.AUTHFAIL),
        ({"is_key12": True}, ReturnCode.AUTHFAIL),
        ({"pcr_info": PcrInfo(PcrSelection.of([0]), ZERO, ZERO)}, ReturnCode.AUTHFAIL),
        (
            {"algorithm_parms": KeyParms.for_rsa(sig_scheme=3, bits=1024)},
            ReturnCode.AUTHFAIL,
        ),
        ({"key_usage": KeyUsage.BIND}, ReturnCode.BAD_KEY_PROPERTY),
        ({"pub_key": b""}, ReturnCode.BAD_PARAMETER),
        ({"pub_key": b"\x81" * 128}, ReturnCode.BAD_PARAMETER),
        ({"enc_data": b""}, ReturnCode.DECRYPT_ERROR),
        ({"enc_data": b"\x01" * 256}, ReturnCode.DECRYPT_ERROR),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_key_that_was_changed_does_not_load(
    chip: Chip, changed: dict[str, object], code: ReturnCode
) -> None:
    key = make_key(chip, signing_key(flags=MIGRATABLE))
    assert load_code(chip, dataclasses.replace(key, **changed)) == code  # type: ignore[arg-type]
    assert load_code(chip, key) == ReturnCode.SUCCESS


_PLAIN = signing_key(flags=MIGRATABLE)


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (craft_key(_PLAIN), ReturnCode.SUCCESS),
        (craft_key(_PLAIN, payload=6), ReturnCode.SUCCESS),
        (craft_key(_PLAIN, payload=7), ReturnCode.SUCCESS),
        (craft_key(_PLAIN, payload=0), ReturnCode.INVALID_STRUCTURE),
        (craft_key(_PLAIN, payload=2), ReturnCode.INVALID_STRUCTURE),
        (craft_key(_PLAIN, payload=3), ReturnCode.INVALID_STRUCTURE),
        (craft_key(_PLAIN, payload=5), ReturnCode.INVALID_STRUCTURE),
        (craft_key(_PLAIN, payload=8), ReturnCode.INVALID_STRUCTURE),
        (craft_key(_PLAIN, cut=60), ReturnCode.BAD_PARAM_SIZE),
        (craft_key(_PLAIN, cut=0), ReturnCode.BAD_PARAM_SIZE),
        (craft_key(_PLAIN, tail=b"\x00"), ReturnCode.BAD_PARAM_SIZE),
        (craft_key(_PLAIN, prime=b""), ReturnCode.BAD_PARAMETER),
        (craft_key(_PLAIN, prime=b"\x01"), ReturnCode.BAD_PARAMETER),
        (craft_key(_PLAIN, prime=b"\x03" * 64), ReturnCode.BAD_PARAMETER),
        (craft_key(_PLAIN, digest=ZERO), ReturnCode.AUTHFAIL),
        (craft_key(signing_key()), ReturnCode.INVALID_KEYUSAGE),
        (craft_key(signing_key(), migration_auth=ZERO), ReturnCode.INVALID_KEYUSAGE),
        (
            craft_key(dataclasses.replace(tss12.identity_template(), key_flags=MIGRATABLE)),
            ReturnCode.INVALID_KEYUSAGE,
        ),
        (
            craft_key(
                Key.template(
                    KeyUsage.AUTHCHANGE,
                    enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1,
                    sig_scheme=SigScheme.NONE,
                    bits=1024,
                    flags=MIGRATABLE,
                )
            ),
            ReturnCode.INVALID_KEYUSAGE,
        ),
    ],
    ids=[
        "good",
        "restricted",
        "external",
        "payload 0",
        "payload bind",
        "payload migrate",
        "payload seal",
        "payload cmk migrate",
        "cut",
        "empty",
        "longer",
        "no prime",
        "prime 1",
        "not a factor",
        "digest",
        "not migratable",
        "not migratable, zero proof",
        "migratable identity",
        "authchange",
    ],
)
def test_key_that_was_wrapped_outside_is_judged_like_any_other(
    chip: Chip, key: Key, code: ReturnCode
) -> None:
    assert load_code(chip, key) == code
    loaded = chip.run(tss12.handles(ResourceType.KEY))
    assert len(loaded) == (1 if code == ReturnCode.SUCCESS else 0)


def test_key_whose_stated_length_is_not_that_of_its_modulus_does_not_load(chip: Chip) -> None:
    p, q = key_pair(900, 1024, 65537)
    short = (p * q).to_bytes(128, "big")
    key = craft_key(signing_key(bits=2048, flags=MIGRATABLE), modulus=short, prime=p.to_bytes(64))
    assert load_code(chip, key) == ReturnCode.BAD_PARAMETER


def test_pcr_binding_is_checked_when_the_key_is_used_and_not_when_it_is_loaded(
    chip: Chip,
) -> None:
    info = tss12.pcr_info({16: ZERO})
    _, handle = make_and_load(chip, signing_key(pcr_info=info))
    assert _sign_code(chip, handle) == ReturnCode.SUCCESS
    chip.run(tss12.extend(16, b"x" * 20))
    assert _sign_code(chip, handle) == ReturnCode.WRONGPCRVAL
    _, other = make_and_load(chip, signing_key(pcr_info=info))
    assert _sign_code(chip, other) == ReturnCode.WRONGPCRVAL
    chip.run(tss12.pcr_reset([16]))
    assert _sign_code(chip, handle) == ReturnCode.SUCCESS


def test_pcr_binding_of_the_parent_is_checked_when_a_child_is_loaded(chip: Chip) -> None:
    _, parent = make_and_load(chip, storage_key(pcr_info=tss12.pcr_info({16: ZERO})))
    child = make_key(chip, signing_key(), parent=parent, parent_auth=USAGE_AUTH)
    chip.run(tss12.extend(16, b"x" * 20))
    assert load_code(chip, child, parent=parent, parent_auth=USAGE_AUTH) == ReturnCode.WRONGPCRVAL


def test_key_of_one_locality_is_refused_at_another(chip: Chip) -> None:
    info = tss12.pcr_info_long({}, localities=0x04)
    _, handle = make_and_load(chip, signing_key(pcr_info=info))
    assert _sign_code(chip, handle) == ReturnCode.BAD_LOCALITY
    chip.locality = 2
    assert _sign_code(chip, handle) == ReturnCode.SUCCESS


# GetPubKey


def test_public_key_is_parameters_and_modulus_as_stored(chip: Chip) -> None:
    key, handle = make_and_load(chip, signing_key(bits=2048))
    chip.run(tss12.get_pub_key(handle, key_auth=USAGE_AUTH, random=chip.client_random))
    body = _response(chip, Ordinal.GET_PUB_KEY)[10:-41]
    assert len(body) == 284
    assert body[:24] == key.encode()[11:35]
    assert body[24:].hex() == "00000100" + key.pub_key.hex()


@pytest.mark.parametrize(
    ("auth_data_usage", "code"),
    [
        (1, ReturnCode.AUTHFAIL),
        (keychain.NO_AUTH, ReturnCode.SUCCESS),
        (keychain.PUBLIC_FREE, ReturnCode.SUCCESS),
    ],
)
def test_public_key_without_authorization(
    chip: Chip, auth_data_usage: int, code: ReturnCode
) -> None:
    _, handle = make_and_load(chip, signing_key(auth_data_usage=auth_data_usage))
    assert chip.code(tss12.get_pub_key(handle, key_auth=None)) == code


def test_public_part_of_the_srk_is_given_only_when_the_owner_allows_it(chip: Chip) -> None:
    def read(key_auth: bytes) -> int:
        return chip.code(tss12.get_pub_key(SRK, key_auth=key_auth, random=chip.client_random))

    assert read(SRK_AUTH) == ReturnCode.INVALID_KEYHANDLE
    assert read(WRONG_AUTH) == ReturnCode.AUTHFAIL
    read_srk_pub = 17
    chip.run(
        tss12.set_capability(
            SetCapabilityArea.PERM_FLAGS,
            read_srk_pub,
            b"\x01",
            owner_auth=OWNER_AUTH,
            random=chip.client_random,
        )
    )
    public = chip.run(tss12.get_pub_key(SRK, key_auth=SRK_AUTH, random=chip.client_random))
    assert public.key == keychain.srk_modulus()


def test_pcr_binding_may_be_ignored_for_reading_the_public_part(chip: Chip) -> None:
    info = tss12.pcr_info({16: b"other value of a PCR"})
    for flags, code in ((0, ReturnCode.WRONGPCRVAL), (0x08, ReturnCode.SUCCESS)):
        _, handle = make_and_load(chip, signing_key(pcr_info=info, flags=flags))
        read = tss12.get_pub_key(handle, key_auth=USAGE_AUTH, random=chip.client_random)
        assert chip.code(read) == code
        assert _sign_code(chip, handle) == ReturnCode.WRONGPCRVAL


# UnBind


def _unbind(chip: Chip, handle: int, data: bytes) -> bytes:
    return chip.run(tss12.unbind(handle, data, key_auth=USAGE_AUTH, random=chip.client_random))


def _unbind_code(chip: Chip, handle: int, data: bytes, key_auth: bytes | None = USAGE_AUTH) -> int:
    return chip.code(tss12.unbind(handle, data, key_auth=key_auth, random=chip.client_random))


BOUND = bytes.fromhex("01010000 02")  # TPM_BOUND_DATA: version, payload BIND


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("data", [b"hello", b""])
def test_data_bound_with_oaep_comes_back_without_its_header(
    chip: Chip, legacy: bool, data: bytes
) -> None:
    key, handle = make_and_load(chip, binding_key(legacy=legacy))
    assert _unbind(chip, handle, keychain.encrypt_oaep(key.pub_key, BOUND + data)) == data


def test_data_bound_with_pkcs1_needs_the_header_unless_the_key_is_legacy(chip: Chip) -> None:
    key, handle = make_and_load(chip, binding_key(EncScheme.RSAESPKCSV15))
    legacy, legacy_handle = make_and_load(chip, binding_key(EncScheme.RSAESPKCSV15, legacy=True))
    bound = keychain.encrypt_pkcs1v15(key.pub_key, BOUND + b"hello")
    assert _unbind(chip, handle, bound) == b"hello"
    raw = keychain.encrypt_pkcs1v15(legacy.pub_key, b"hello")
    assert _unbind(chip, legacy_handle, raw) == b"hello"
    raw = keychain.encrypt_pkcs1v15(key.pub_key, b"hello to all of you")
    assert _unbind_code(chip, handle, raw) == ReturnCode.BAD_VERSION


@pytest.mark.parametrize(
    ("plain", "code"),
    [
        ("0101000005aa", ReturnCode.INVALID_STRUCTURE),  # payload SEAL
        ("0102000002aa", ReturnCode.BAD_VERSION),
        ("01010304 02aa", ReturnCode.SUCCESS),  # revision numbers do not count
        ("01010000", ReturnCode.BAD_PARAM_SIZE),
        ("", ReturnCode.BAD_PARAM_SIZE),
    ],
)
def test_bound_data_of_another_form_is_refused(chip: Chip, plain: str, code: ReturnCode) -> None:
    key, handle = make_and_load(chip, binding_key())
    data = keychain.encrypt_oaep(key.pub_key, bytes.fromhex(plain))
    assert _unbind_code(chip, handle, data) == code


@pytest.mark.parametrize("enc_scheme", [EncScheme.RSAESOAEP_SHA1_MGF1, EncScheme.RSAESPKCSV15])
def test_unbind_tells_that_a_ciphertext_does_not_decode(chip: Chip, enc_scheme: EncScheme) -> None:
    _, handle = make_and_load(chip, binding_key(enc_scheme, legacy=True))
    for data in (b"\x01" * 128, b"\xff" * 128, b"\x01" * 127, b"\x01" * 129):
        assert _unbind_code(chip, handle, data) == ReturnCode.DECRYPT_ERROR


def test_unbind_refuses_nothing_before_it_looks_for_the_key(chip: Chip) -> None:
    assert _unbind_code(chip, 0x12345678, b"") == ReturnCode.BAD_PARAMETER
    assert _unbind_code(chip, 0x12345678, b"a") == ReturnCode.INVALID_KEYHANDLE


def test_unbind_wants_the_secret_and_a_binding_key(chip: Chip) -> None:
    key, handle = make_and_load(chip, binding_key())
    data = keychain.encrypt_oaep(key.pub_key, BOUND)
    assert _unbind_code(chip, handle, data, WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert _unbind_code(chip, handle, data, None) == ReturnCode.AUTHFAIL
    _, signing = make_and_load(chip, signing_key())
    assert _unbind_code(chip, signing, data) == ReturnCode.INVALID_KEYUSAGE


def test_two_blocks_are_not_taken_where_one_is_allowed(chip: Chip) -> None:
    key = make_key(chip, signing_key())
    handle = load(chip, key)
    command = bytearray(next(c for c, _ in chip.log if c[6:10] == U32.write(Ordinal.LOAD_KEY2)))
    command[1] = 0xC3
    assert chip.send(bytes(command))[6:10] == U32.write(ReturnCode.BADTAG)
    assert _sign_code(chip, handle) == ReturnCode.SUCCESS


def _response(chip: Chip, ordinal: Ordinal) -> bytes:
    """Return the last response to an ordinal."""
    return next(r for c, r in reversed(chip.log) if c[6:10] == U32.write(ordinal))
