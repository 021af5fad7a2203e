# SPDX-License-Identifier: Apache-2.0
"""Quotes: what is signed, by which keys, and who may ask."""

from __future__ import annotations

import pytest

from protocol.tpm12.constants import Ordinal, ReturnCode, SigScheme
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.wire import U32
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    binding_key,
    make_and_load,
    sha1,
    signing_key,
)
from tests.unit.tpm12.world import SRK_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tss12.conversation import Conversation

ZERO = bytes(20)
NONCE = b"nonce of the verifie"


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


def _quote(
    chip: Chip, handle: int, *, key_auth: bytes | None = USAGE_AUTH, second: bool = False
) -> Conversation[tss12.Quote] | Conversation[tss12.Quote2]:
    ask = tss12.quote2 if second else tss12.quote
    return ask(
        handle,
        external_data=NONCE,
        selection=PcrSelection.of([10]),
        key_auth=key_auth,
        random=chip.client_random,
    )


def _request(ordinal: Ordinal, handle: int, rest: str) -> bytes:
    body = ordinal.to_bytes(4, "big") + handle.to_bytes(4, "big") + NONCE + bytes.fromhex(rest)
    return b"\x00\xc1" + (6 + len(body)).to_bytes(4, "big") + body


@pytest.mark.parametrize("scheme", [SigScheme.RSASSAPKCS1V15_SHA1, SigScheme.RSASSAPKCS1V15_INFO])
def test_raw_quote_verifies_byte_by_byte(chip: Chip, scheme: SigScheme) -> None:
    key, handle = make_and_load(chip, signing_key(scheme, auth_data_usage=keychain.NO_AUTH))
    value = chip.run(tss12.extend(10, b"m" * 20))
    response = chip.send(_request(Ordinal.QUOTE, handle, "0003 010400"))
    composite = bytes.fromhex("0003 010400 00000028") + ZERO + value
    assert response[10 : 10 + len(composite)] == composite
    rest = response[10 + len(composite) :]
    assert rest[:4].hex() == "00000080"
    info = bytes.fromhex("01010000") + b"QUOT" + sha1(composite) + NONCE
    assert keychain.verifies(key.pub_key, sha1(info), rest[4:])


@pytest.mark.parametrize(
    ("version", "version_info"),
    [
        # TPM_CAP_VERSION_INFO: tag, version 1.2.1.0, level 2, errata 3, vendor, nothing more
        ("01", bytes.fromhex("0030 01020100 0002 03") + b"VTPM" + bytes(2)),
        ("00", b""),
    ],
)
def test_raw_quote2_verifies_byte_by_byte(chip: Chip, version: str, version_info: bytes) -> None:
    key, handle = make_and_load(chip, signing_key(auth_data_usage=keychain.NO_AUTH))
    value = chip.run(tss12.extend(10, b"m" * 20))
    chip.locality = 2
    response = chip.send(_request(Ordinal.QUOTE2, handle, "0003 000400" + version))
    composite = bytes.fromhex("0003 000400 00000014") + value
    info_short = bytes.fromhex("0003 000400 04") + sha1(composite)
    body = info_short + U32.write(len(version_info)) + version_info + bytes.fromhex("00000080")
    assert response[10 : 10 + len(body)] == body
    signed = bytes.fromhex("0036") + b"QUT2" + NONCE + info_short + version_info
    assert keychain.verifies(key.pub_key, sha1(signed), response[10 + len(body) :])


@pytest.mark.parametrize("select", ["0000", "000100", "0003000000"])
def test_quote_of_no_pcr_has_composite_hash_zero(chip: Chip, select: str) -> None:
    key, handle = make_and_load(chip, signing_key(auth_data_usage=keychain.NO_AUTH))
    response = chip.send(_request(Ordinal.QUOTE, handle, select))
    data = bytes.fromhex(select + "00000000")
    assert response[10 : 10 + len(data)] == data
    info = bytes.fromhex("01010000") + b"QUOT" + ZERO + NONCE
    assert keychain.verifies(key.pub_key, sha1(info), response[14 + len(data) :])


def test_selection_of_more_than_the_pcrs_is_refused(chip: Chip) -> None:
    _, handle = make_and_load(chip, signing_key(auth_data_usage=keychain.NO_AUTH))
    response = chip.send(_request(Ordinal.QUOTE, handle, "0004 01000000"))
    assert response[6:10] == U32.write(ReturnCode.INVALID_PCR_INFO)


@pytest.mark.parametrize("second", [False, True])
def test_quote_wants_the_keys_secret(chip: Chip, second: bool) -> None:
    _, handle = make_and_load(chip, signing_key())
    assert chip.code(_quote(chip, handle, second=second)) == ReturnCode.SUCCESS
    for wrong in (None, WRONG_AUTH):
        conversation = _quote(chip, handle, key_auth=wrong, second=second)
        assert chip.code(conversation) == ReturnCode.AUTHFAIL


@pytest.mark.parametrize("second", [False, True])
def test_keys_that_do_not_quote(chip: Chip, second: bool) -> None:
    _, der = make_and_load(chip, signing_key(SigScheme.RSASSAPKCS1V15_DER))
    _, binding = make_and_load(chip, binding_key())
    for handle, key_auth in ((der, USAGE_AUTH), (binding, USAGE_AUTH), (SRK, SRK_AUTH)):
        conversation = _quote(chip, handle, key_auth=key_auth, second=second)
        assert chip.code(conversation) == ReturnCode.INAPPROPRIATE_SIG


@pytest.mark.parametrize("second", [False, True])
def test_legacy_key_quotes(chip: Chip, second: bool) -> None:
    _, handle = make_and_load(chip, binding_key(legacy=True))
    assert chip.code(_quote(chip, handle, second=second)) == ReturnCode.SUCCESS
