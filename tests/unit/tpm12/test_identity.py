# SPDX-License-Identifier: Apache-2.0
"""Identities: made for a privacy CA and activated with what it encrypted for them."""

from __future__ import annotations

import dataclasses

import pytest

from protocol.tpm12.constants import KeyUsage, Ordinal, ResourceType, ReturnCode, SigScheme
from protocol.tpm12.keys import Key, KeyParms
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.wire import U32, Reader
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    MIGRATABLE,
    NO_AUTH,
    SRK,
    WRONG_AUTH,
    load,
    make_and_load,
    sha1,
    signing_key,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tss12.conversation import Conversation, execute
from tpmcore.tss12.sessions import oiap, pair, prove

ZERO = bytes(20)
IDENTITY_AUTH = b"secret of identity--"
LABEL = b"digest of label & CA"
SESSION_KEY = bytes.fromhex("00000006 00ff 0010") + b"k" * 16  # TPM_SYMMETRIC_KEY: AES-128


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


def _make(
    chip: Chip,
    params: Key | None = None,
    *,
    owner_auth: bytes = OWNER_AUTH,
    srk_auth: bytes | None = SRK_AUTH,
) -> Conversation[tss12.Identity]:
    return tss12.make_identity(
        owner_auth=owner_auth,
        srk_auth=srk_auth,
        identity_auth=IDENTITY_AUTH,
        label_digest=LABEL,
        random=chip.client_random,
        params=params,
    )


def _loaded(chip: Chip, params: Key | None = None) -> tuple[Key, int]:
    key = chip.run(_make(chip, params)).key
    return key, load(chip, key)


def _pubkey(key: Key) -> bytes:
    return key.algorithm_parms.encode() + U32.write(len(key.pub_key)) + key.pub_key


def _activate(
    chip: Chip,
    handle: int,
    plain: bytes,
    *,
    owner_auth: bytes = OWNER_AUTH,
    identity_auth: bytes | None = IDENTITY_AUTH,
) -> int:
    return chip.code(
        tss12.activate_identity(
            handle,
            keychain.encrypt_oaep(keychain.ek_modulus(), plain),
            owner_auth=owner_auth,
            identity_auth=identity_auth,
            random=chip.client_random,
        )
    )


def _ca_contents(key: Key) -> bytes:
    """TPM_ASYM_CA_CONTENTS."""
    return SESSION_KEY + sha1(_pubkey(key))


def _ek_blob(inner: bytes, ek_type: str = "0001") -> bytes:
    """TPM_EK_BLOB."""
    return bytes.fromhex("000c" + ek_type) + U32.write(len(inner)) + inner


def _activate_blob(
    key: Key, *, digest: bytes | None = None, pcr: str = "0002 0000 1f" + "00" * 20
) -> bytes:
    """TPM_EK_BLOB with a TPM_EK_BLOB_ACTIVATE in it."""
    id_digest = sha1(_pubkey(key)) if digest is None else digest
    return _ek_blob(bytes.fromhex("002b") + SESSION_KEY + id_digest + bytes.fromhex(pcr))


# MakeIdentity


def test_new_identity_signs_whom_it_was_made_for(chip: Chip) -> None:
    identity = chip.run(_make(chip))
    contents = bytes.fromhex("01010000 00000079") + LABEL + _pubkey(identity.key)
    assert keychain.verifies(identity.key.pub_key, sha1(contents), identity.binding)


@pytest.mark.parametrize("is_key12", [False, True])
def test_identity_is_wrapped_by_the_srk_for_this_tpm(chip: Chip, is_key12: bool) -> None:
    key = chip.run(_make(chip, tss12.identity_template(is_key12=is_key12))).key
    assert key.encode()[:2].hex() == ("0028" if is_key12 else "0101")
    plain = keychain.decrypt_with_srk(key.enc_data)
    assert plain[0] == 1
    assert plain[1:21] == IDENTITY_AUTH
    assert plain[41:61] == sha1(key.encode()[:-260])
    other = keychain.decrypt_with_srk(keychain.make_key(chip, signing_key()).enc_data)
    assert plain[21:41] == other[21:41]  # tpmProof


def test_identity_quotes_and_signs_nothing_else(chip: Chip) -> None:
    key, handle = _loaded(chip)
    quote = chip.run(
        tss12.quote(
            handle,
            external_data=ZERO,
            selection=PcrSelection.of([0]),
            key_auth=IDENTITY_AUTH,
            random=chip.client_random,
        )
    )
    assert keychain.verifies(key.pub_key, quote.signed, quote.signature)
    sign = tss12.sign(handle, ZERO, key_auth=IDENTITY_AUTH, random=chip.client_random)
    assert chip.code(sign) == ReturnCode.INVALID_KEYUSAGE


def test_make_identity_ends_both_sessions(chip: Chip) -> None:
    chip.run(_make(chip))
    response = next(r for c, r in reversed(chip.log) if c[6:10] == U32.write(Ordinal.MAKE_IDENTITY))
    assert response[-21] == 0
    assert response[-62] == 0
    assert chip.run(tss12.handles(ResourceType.AUTH)) == []


def test_owner_and_srk_must_both_agree(chip: Chip) -> None:
    made = chip.keys.made
    assert chip.code(_make(chip, owner_auth=WRONG_AUTH)) == ReturnCode.AUTH2FAIL
    assert chip.code(_make(chip, srk_auth=WRONG_AUTH)) == ReturnCode.AUTHFAIL
    assert chip.code(_make(chip, srk_auth=None)) == ReturnCode.AUTHFAIL
    assert chip.code(_make(chip, srk_auth=None, owner_auth=WRONG_AUTH)) == ReturnCode.AUTHFAIL
    assert chip.keys.made == made


def test_srk_without_secret_lets_the_owner_alone_make_identities() -> None:
    chip = make_chip()
    params = dataclasses.replace(tss12.srk_template(), auth_data_usage=NO_AUTH)
    chip.run(
        tss12.take_ownership(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            srk_params=params,
            random=chip.client_random,
        )
    )
    assert chip.code(_make(chip, srk_auth=None)) == ReturnCode.SUCCESS
    assert chip.code(_make(chip, srk_auth=None, owner_auth=WRONG_AUTH)) == ReturnCode.AUTHFAIL


def test_owners_session_must_be_able_to_encrypt(chip: Chip) -> None:
    def conversation() -> Conversation[bytes]:
        srk, owner = yield from pair(oiap(), oiap())
        return (
            yield from execute(
                Ordinal.MAKE_IDENTITY,
                Reader.rest,
                parameters=ZERO + LABEL + tss12.identity_template().encode(),
                auths=(
                    prove(srk, chip.client_random, secret=SRK_AUTH),
                    prove(owner, chip.client_random, secret=OWNER_AUTH),
                ),
            )
        )

    assert chip.code(conversation()) == ReturnCode.BAD_MODE


def _identity_with(**changes: object) -> Key:
    return dataclasses.replace(tss12.identity_template(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        (_identity_with(key_flags=MIGRATABLE), ReturnCode.INVALID_KEYUSAGE),
        (signing_key(bits=2048), ReturnCode.INVALID_KEYUSAGE),
        (signing_key(bits=1024), ReturnCode.BAD_KEY_PROPERTY),
        (
            _identity_with(algorithm_parms=KeyParms.for_rsa(sig_scheme=2, bits=1024)),
            ReturnCode.BAD_KEY_PROPERTY,
        ),
        (
            _identity_with(algorithm_parms=KeyParms.for_rsa(sig_scheme=2, exponent=b"\x03")),
            ReturnCode.BAD_KEY_PROPERTY,
        ),
        (
            _identity_with(
                algorithm_parms=KeyParms.for_rsa(sig_scheme=SigScheme.RSASSAPKCS1V15_DER)
            ),
            ReturnCode.BAD_KEY_PROPERTY,
        ),
        (_identity_with(key_usage=KeyUsage.STORAGE), ReturnCode.BAD_KEY_PROPERTY),
    ],
    ids=["migratable", "signing", "short signing", "1024", "exponent", "der", "storage"],
)
def test_identity_of_other_properties_is_not_made(
    chip: Chip, params: Key, code: ReturnCode
) -> None:
    assert chip.code(_make(chip, params)) == code


def test_properties_are_judged_before_secrets_and_usage_after(chip: Chip) -> None:
    bad = _identity_with(algorithm_parms=KeyParms.for_rsa(sig_scheme=2, bits=1024))
    assert chip.code(_make(chip, bad, owner_auth=WRONG_AUTH)) == ReturnCode.BAD_KEY_PROPERTY
    migratable = _identity_with(key_flags=MIGRATABLE)
    assert chip.code(_make(chip, migratable, owner_auth=WRONG_AUTH)) == ReturnCode.AUTH2FAIL


# ActivateIdentity


@pytest.mark.parametrize("contents", [_ca_contents, _activate_blob], ids=["old", "new"])
def test_session_key_for_this_identity_is_given_out(chip: Chip, contents: object) -> None:
    assert callable(contents)
    key, handle = _loaded(chip)
    session_key = chip.run(
        tss12.activate_identity(
            handle,
            keychain.encrypt_oaep(keychain.ek_modulus(), contents(key)),
            owner_auth=OWNER_AUTH,
            identity_auth=IDENTITY_AUTH,
            random=chip.client_random,
        )
    )
    assert session_key.encode() == SESSION_KEY


def test_session_key_for_another_identity_is_not(chip: Chip) -> None:
    _, handle = _loaded(chip)
    other, _ = _loaded(chip)
    assert _activate(chip, handle, _ca_contents(other)) == ReturnCode.BAD_PARAMETER
    assert _activate(chip, handle, _activate_blob(other)) == ReturnCode.BAD_PARAMETER


def test_newer_blob_is_opened_under_its_pcrs_and_at_its_localities_only(chip: Chip) -> None:
    key, handle = _loaded(chip)
    composite = sha1(bytes.fromhex("0003 000001 00000014"), ZERO).hex()
    blob = _activate_blob(key, pcr="0003 000001 1f" + composite)
    assert _activate(chip, handle, blob) == ReturnCode.SUCCESS
    chip.run(tss12.extend(16, b"x" * 20))
    assert _activate(chip, handle, blob) == ReturnCode.WRONGPCRVAL
    blob = _activate_blob(key, pcr="0002 0000 04" + "00" * 20)
    assert _activate(chip, handle, blob) == ReturnCode.BAD_LOCALITY
    chip.locality = 2
    assert _activate(chip, handle, blob) == ReturnCode.SUCCESS


def test_both_secrets_are_wanted_and_the_owners_is_judged_first(chip: Chip) -> None:
    key, handle = _loaded(chip)
    blob = _ca_contents(key)
    assert _activate(chip, handle, blob, owner_auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert _activate(chip, handle, blob, identity_auth=WRONG_AUTH) == ReturnCode.AUTH2FAIL
    both = _activate(chip, handle, blob, owner_auth=WRONG_AUTH, identity_auth=WRONG_AUTH)
    assert both == ReturnCode.AUTHFAIL
    assert _activate(chip, 0x12345678, blob, owner_auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert _activate(chip, 0x12345678, blob) == ReturnCode.INVALID_KEYHANDLE


def test_identity_without_secret_is_activated_by_the_owner_alone(chip: Chip) -> None:
    free, free_handle = _loaded(chip, _identity_with(auth_data_usage=NO_AUTH))
    key, handle = _loaded(chip)
    code = _activate(chip, free_handle, _ca_contents(free), identity_auth=None)
    assert code == ReturnCode.SUCCESS
    code = _activate(
        chip, free_handle, _ca_contents(free), identity_auth=None, owner_auth=WRONG_AUTH
    )
    assert code == ReturnCode.AUTHFAIL
    code = _activate(chip, handle, _ca_contents(key), identity_auth=None)
    assert code == ReturnCode.AUTHFAIL


def test_only_identities_are_activated(chip: Chip) -> None:
    key, handle = make_and_load(chip, signing_key())
    code = _activate(chip, handle, _ca_contents(key), identity_auth=keychain.USAGE_AUTH)
    assert code == ReturnCode.BAD_PARAMETER
    code = _activate(chip, SRK, _ca_contents(key), identity_auth=SRK_AUTH)
    assert code == ReturnCode.BAD_PARAMETER


def test_blob_that_does_not_decrypt(chip: Chip) -> None:
    _, handle = _loaded(chip)
    for blob in (b"", b"\x01" * 255, b"\x01" * 256, b"\x01" * 257):
        conversation = tss12.activate_identity(
            handle,
            blob,
            owner_auth=OWNER_AUTH,
            identity_auth=IDENTITY_AUTH,
            random=chip.client_random,
        )
        assert chip.code(conversation) == ReturnCode.DECRYPT_ERROR


@pytest.mark.parametrize(
    ("plain", "code"),
    [
        (b"", ReturnCode.BAD_PARAM_SIZE),
        (SESSION_KEY + b"d" * 19, ReturnCode.BAD_PARAM_SIZE),
        (SESSION_KEY + b"d" * 21, ReturnCode.BAD_PARAM_SIZE),
        (_ek_blob(b"", "0002"), ReturnCode.BAD_TYPE),
        (_ek_blob(b"\x00\x2c" + SESSION_KEY), ReturnCode.INVALID_STRUCTURE),
        (_ek_blob(b"\x00\x2b" + SESSION_KEY), ReturnCode.BAD_PARAM_SIZE),
        (
            _ek_blob(b"\x00\x2b" + SESSION_KEY + ZERO + bytes.fromhex("0002 0000 00") + ZERO),
            ReturnCode.INVALID_STRUCTURE,
        ),
    ],
    ids=["empty", "short", "long", "type", "tag", "cut", "locality 0"],
)
def test_blob_of_another_form_is_refused(chip: Chip, plain: bytes, code: ReturnCode) -> None:
    _, handle = _loaded(chip)
    assert _activate(chip, handle, plain) == code
