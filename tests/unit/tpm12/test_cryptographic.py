# SPDX-License-Identifier: Apache-2.0
"""Hashing, signing, random numbers."""

from __future__ import annotations

import hashlib

import pytest

from protocol.tpm12.constants import EncScheme, Ordinal, ReturnCode, SigScheme, Tag
from protocol.tpm12.framing import build_message
from protocol.tpm12.wire import SIZED, U32
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
from tests.unit.tpm12.world import SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.world import Profile

DIGEST = bytes(range(20))


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


def _sign(chip: Chip, handle: int, area: bytes, key_auth: bytes | None = USAGE_AUTH) -> bytes:
    return chip.run(tss12.sign(handle, area, key_auth=key_auth, random=chip.client_random))


def _sign_code(chip: Chip, handle: int, area: bytes, key_auth: bytes | None = USAGE_AUTH) -> int:
    return chip.code(tss12.sign(handle, area, key_auth=key_auth, random=chip.client_random))


# Hashing


@pytest.mark.parametrize("blocks", [0, 1, 63])
@pytest.mark.parametrize("last", [0, 1, 63, 64])
def test_hash_is_sha1_of_all_the_pieces(blocks: int, last: int) -> None:
    chip = make_chip()
    data, tail = b"a" * 64 * blocks, b"b" * last
    chip.run(tss12.sha1_start())
    chip.run(tss12.sha1_update(data))
    chip.run(tss12.sha1_update(data))
    digest = chip.run(tss12.sha1_complete(tail))
    assert digest == hashlib.sha1(data + data + tail).digest()


@pytest.mark.parametrize(("buffer", "most"), [(4096, 4032), (4088, 4032), (3072, 3008)])
def test_piece_is_as_long_as_the_buffer_allows(buffer: int, most: int) -> None:
    chip = make_chip(Profile(input_buffer_bytes=buffer))
    assert chip.run(tss12.sha1_start()) == most
    chip.run(tss12.sha1_update(b"a" * most))
    assert chip.run(tss12.sha1_complete()) == hashlib.sha1(b"a" * most).digest()


def test_hash_commands_want_a_thread() -> None:
    chip = make_chip()
    for conversation in (
        tss12.sha1_update(b""),
        tss12.sha1_complete(b""),
        tss12.sha1_complete_extend(16, b""),
    ):
        assert chip.code(conversation) == ReturnCode.SHA_THREAD


def test_piece_that_is_not_whole_blocks_ends_the_thread() -> None:
    chip = make_chip()
    chip.run(tss12.sha1_start())
    assert chip.code(tss12.sha1_update(b"a" * 63)) == ReturnCode.SHA_ERROR
    assert chip.code(tss12.sha1_update(b"a" * 64)) == ReturnCode.SHA_THREAD


def test_last_piece_that_is_longer_than_a_block_ends_the_thread() -> None:
    chip = make_chip()
    chip.run(tss12.sha1_start())
    assert chip.code(tss12.sha1_complete(b"a" * 65)) == ReturnCode.SHA_ERROR
    assert chip.code(tss12.sha1_complete(b"")) == ReturnCode.SHA_THREAD


def test_any_other_command_ends_the_thread_and_a_second_start_begins_anew() -> None:
    chip = make_chip()
    chip.run(tss12.sha1_start())
    chip.run(tss12.get_random(1))
    assert chip.code(tss12.sha1_complete(b"")) == ReturnCode.SHA_THREAD
    chip.run(tss12.sha1_start())
    chip.run(tss12.sha1_update(b"a" * 64))
    chip.run(tss12.sha1_start())
    assert chip.run(tss12.sha1_complete(b"b")) == hashlib.sha1(b"b").digest()


def test_hash_goes_into_a_pcr() -> None:
    chip = make_chip()
    chip.run(tss12.sha1_start())
    result = chip.run(tss12.sha1_complete_extend(10, b"abc"))
    assert result.digest == hashlib.sha1(b"abc").digest()
    assert result.pcr == sha1(bytes(20), result.digest)
    assert chip.run(tss12.pcr_read(10)) == result.pcr


@pytest.mark.parametrize(
    ("index", "code"), [(24, ReturnCode.BADINDEX), (17, ReturnCode.BAD_LOCALITY)]
)
def test_thread_ends_even_if_the_pcr_may_not_be_extended(index: int, code: ReturnCode) -> None:
    chip = make_chip()
    chip.run(tss12.sha1_start())
    assert chip.code(tss12.sha1_complete_extend(index, b"abc")) == code
    assert chip.code(tss12.sha1_complete(b"")) == ReturnCode.SHA_THREAD


def test_thread_does_not_survive_a_restart() -> None:
    chip = make_chip()
    chip.run(tss12.sha1_start())
    chip.restart()
    assert chip.code(tss12.sha1_complete(b"")) == ReturnCode.SHA_THREAD


# Sign


def test_scheme_sha1_signs_a_digest(chip: Chip) -> None:
    key, handle = make_and_load(chip, signing_key(bits=2048))
    assert keychain.verifies(key.pub_key, DIGEST, _sign(chip, handle, DIGEST))
    for size in (19, 21):
        assert _sign_code(chip, handle, b"a" * size) == ReturnCode.BAD_PARAMETER


def test_scheme_der_signs_the_area_as_it_is(chip: Chip) -> None:
    key, handle = make_and_load(chip, signing_key(SigScheme.RSASSAPKCS1V15_DER))
    for size in (1, 20, 117):
        signature = _sign(chip, handle, b"a" * size)
        assert keychain.signed_block(key.pub_key, signature) == b"a" * size
    assert _sign_code(chip, handle, b"a" * 118) == ReturnCode.BAD_PARAMETER


def test_scheme_info_signs_the_nonce_too_and_so_wants_a_session(chip: Chip) -> None:
    template = signing_key(SigScheme.RSASSAPKCS1V15_INFO, auth_data_usage=keychain.NO_AUTH)
    key, handle = make_and_load(chip, template)
    signature = _sign(chip, handle, b"any length")
    command = next(c for c, _ in reversed(chip.log) if c[6:10] == U32.write(Ordinal.SIGN))
    nonce_odd = command[-41:-21]
    info = b"\x00\x05SIGN" + nonce_odd + U32.write(10) + b"any length"
    assert keychain.verifies(key.pub_key, sha1(info), signature)
    assert _sign_code(chip, handle, b"any length", None) == ReturnCode.BAD_PARAMETER


def test_legacy_key_signs(chip: Chip) -> None:
    key, handle = make_and_load(chip, binding_key(legacy=True))
    assert keychain.verifies(key.pub_key, DIGEST, _sign(chip, handle, DIGEST))


def test_key_without_secret_signs_for_anybody_with_or_without_a_session(chip: Chip) -> None:
    key, handle = make_and_load(chip, signing_key(auth_data_usage=keychain.NO_AUTH))
    signature = _sign(chip, handle, DIGEST, None)
    assert keychain.verifies(key.pub_key, DIGEST, signature)
    assert _sign(chip, handle, DIGEST) == signature
    assert _sign_code(chip, handle, DIGEST, WRONG_AUTH) == ReturnCode.AUTHFAIL


def test_key_with_a_secret_signs_for_nobody_else(chip: Chip) -> None:
    _, handle = make_and_load(chip, signing_key())
    assert _sign_code(chip, handle, DIGEST, None) == ReturnCode.AUTHFAIL
    assert _sign_code(chip, handle, DIGEST, WRONG_AUTH) == ReturnCode.AUTHFAIL
    _, public_free = make_and_load(chip, signing_key(auth_data_usage=keychain.PUBLIC_FREE))
    assert _sign_code(chip, public_free, DIGEST, None) == ReturnCode.AUTHFAIL


def test_keys_that_do_not_sign(chip: Chip) -> None:
    _, binding = make_and_load(chip, binding_key(EncScheme.RSAESPKCSV15))
    assert _sign_code(chip, binding, DIGEST) == ReturnCode.INVALID_KEYUSAGE
    assert _sign_code(chip, SRK, DIGEST, SRK_AUTH) == ReturnCode.INVALID_KEYUSAGE


def test_nothing_is_not_signed_whatever_the_key(chip: Chip) -> None:
    _, binding = make_and_load(chip, binding_key())
    assert _sign_code(chip, binding, b"") == ReturnCode.BAD_PARAMETER


def test_raw_sign_command_gets_a_signature_that_the_library_takes(chip: Chip) -> None:
    key, handle = make_and_load(chip, signing_key(auth_data_usage=keychain.NO_AUTH))
    command = bytes.fromhex(
        "00c1"  # tag: no authorization
        "00000026"  # paramSize
        "0000003c"  # ordinal: Sign
        + handle.to_bytes(4, "big").hex()  # keyHandle
        + "00000014"  # areaToSignSize
        + DIGEST.hex()
    )
    response = chip.send(command)
    assert response[:14].hex() == (
        "00c4"  # tag
        "0000008e"  # paramSize
        "00000000"  # success
        "00000080"  # sigSize
    )
    assert keychain.verifies(key.pub_key, DIGEST, response[14:])


# Random numbers


@pytest.mark.parametrize("size", [0, 1, 20, 32, 4081, 4082])
def test_random_bytes_are_as_many_as_asked(size: int) -> None:
    assert len(make_chip().run(tss12.get_random(size))) == size


@pytest.mark.parametrize("size", [4083, 0xFFFFFFFF])
def test_random_bytes_are_no_more_than_a_response_holds(size: int) -> None:
    chip = make_chip()
    assert len(chip.run(tss12.get_random(size))) == 4082
    assert len(chip.log[-1][1]) == 4096


def test_random_bytes_come_from_the_source_and_do_not_repeat() -> None:
    one, two = make_chip(seed="a"), make_chip(seed="b")
    assert one.run(tss12.get_random(32)) != one.run(tss12.get_random(32))
    assert one.run(tss12.get_random(32)) != two.run(tss12.get_random(32))


@pytest.mark.parametrize("data", [b"", b"entropy", b"a" * 300])
def test_stirred_bytes_go_into_the_source(data: bytes) -> None:
    chip = make_chip()
    command = build_message(Tag.RQU_COMMAND, Ordinal.STIR_RANDOM, SIZED.write(data))
    assert chip.send(command) == bytes.fromhex("00c40000000a00000000")
    assert chip.random.stirred == data
