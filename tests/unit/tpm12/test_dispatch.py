# SPDX-License-Identifier: Apache-2.0
"""The checks that all commands share, in the reference order, and what they do to sessions."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.tpm12.constants import Ordinal, ResourceType, ReturnCode, Tag
from protocol.tpm12.framing import HEADER_BYTES, build_message, error_response, parse_header
from protocol.tpm12.pcr import PcrSelection
from tests.unit.tpm12.keychain import USAGE_AUTH, make_and_load, signing_key
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.command import Command, Gate
from tpmcore.tpm12.rsa import PrivateKey, RsaError
from tpmcore.tpm12.table import TABLE

PCR_READ_0 = bytes.fromhex("00c1 0000000e 00000015 00000000")


def _auth_block(
    chip: Chip, parameters: bytes, ordinal: Ordinal, *, key: bytes = OWNER_AUTH, keep: bool = False
) -> bytes:
    """A right authorization block of a fresh OIAP session, nonceOdd zero."""
    session = chip.run(tss12.oiap())
    flag = b"\x01" if keep else b"\x00"
    digest = hashlib.sha1(ordinal.to_bytes(4, "big") + parameters).digest()
    auth = hmac.digest(key, digest + session.nonce_even + bytes(20) + flag, "sha1")
    return session.handle.to_bytes(4, "big") + bytes(20) + flag + auth


def _sessions(chip: Chip) -> list[int]:
    return chip.run(tss12.handles(ResourceType.AUTH))


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"\x00",
        PCR_READ_0[:9],
        PCR_READ_0[:-1],
        PCR_READ_0 + b"\x00",
        bytes.fromhex("00c1 00000000 00000015 00000000"),
        bytes.fromhex("00c1 ffffffff 00000015 00000000"),
        bytes.fromhex("00c1 00000005 00000015 00000000"),
    ],
)
def test_a_size_that_is_not_the_number_of_bytes_is_bad_param_size(command: bytes) -> None:
    assert make_chip().send(command) == error_response(ReturnCode.BAD_PARAM_SIZE)


def test_a_command_longer_than_the_input_buffer_is_refused() -> None:
    chip = make_chip()
    command = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, bytes(4090))
    assert chip.send(command) == error_response(ReturnCode.BAD_PARAM_SIZE)


@pytest.mark.parametrize("locality", [-1, 5, 255])
def test_a_locality_that_does_not_exist_is_refused(locality: int) -> None:
    chip = make_chip()
    chip.locality = locality
    assert chip.send(PCR_READ_0) == error_response(ReturnCode.BAD_LOCALITY)


@pytest.mark.parametrize("tag", [0x00C1, 0x00C2, 0x8001, 0x0000])
def test_an_unknown_ordinal_outranks_tag_and_parameters(tag: int) -> None:
    command = build_message(tag, 0x0000017A, b"anything")
    assert make_chip().send(command) == error_response(ReturnCode.BAD_ORDINAL)


def test_a_parse_error_outranks_the_gate() -> None:
    chip = make_chip(startup=None)
    short = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, b"\x00")
    assert chip.send(short) == error_response(ReturnCode.BAD_PARAM_SIZE)
    assert chip.send(PCR_READ_0) == error_response(ReturnCode.INVALID_POSTINIT)


def test_the_gate_outranks_the_tag() -> None:
    chip = make_chip(startup=None)
    wrong_tag = build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.PCR_READ, bytes(4))
    assert chip.send(wrong_tag) == error_response(ReturnCode.INVALID_POSTINIT)
    chip.run(tss12.startup())
    assert chip.send(wrong_tag) == error_response(ReturnCode.BADTAG)


@pytest.mark.parametrize("tag", [0x0000, 0x00C0, 0x00C4, 0xFFFF])
def test_a_tag_that_is_no_request_is_badtag(tag: int) -> None:
    command = build_message(tag, Ordinal.PCR_READ, bytes(4))
    assert make_chip().send(command) == error_response(ReturnCode.BADTAG)


def test_a_boolean_that_is_neither_0_nor_1_is_bad_parameter() -> None:
    chip = make_chip()
    command = build_message(Tag.RQU_COMMAND, Ordinal.SET_OWNER_INSTALL, b"\x02")
    assert chip.send(command) == error_response(ReturnCode.BAD_PARAMETER)


def test_a_pcr_selection_of_four_bytes_is_invalid_pcr_info() -> None:
    chip = make_chip()
    command = build_message(Tag.RQU_COMMAND, Ordinal.PCR_RESET, bytes.fromhex("0004 00000001"))
    assert chip.send(command) == error_response(ReturnCode.INVALID_PCR_INFO)


def test_a_refusal_before_the_handler_leaves_the_session_usable() -> None:
    chip = make_owned_chip()
    block = _auth_block(chip, b"\x01", Ordinal.OWNER_SET_DISABLE)
    trailing = build_message(
        Tag.RQU_AUTH1_COMMAND, Ordinal.OWNER_SET_DISABLE, b"\x01" + block + b"x"
    )
    assert chip.send(trailing) == error_response(ReturnCode.BAD_PARAM_SIZE)
    whole = build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.OWNER_SET_DISABLE, b"\x01" + block)
    assert parse_header(chip.send(whole)).code == ReturnCode.SUCCESS


def test_an_error_of_the_handler_ends_the_sessions_that_the_command_names() -> None:
    chip = make_owned_chip()
    block = _auth_block(chip, b"\x01", Ordinal.OWNER_SET_DISABLE, key=b"not the owner secret")
    assert len(_sessions(chip)) == 1
    command = build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.OWNER_SET_DISABLE, b"\x01" + block)
    assert chip.send(command) == error_response(ReturnCode.AUTHFAIL)
    assert _sessions(chip) == []
    assert not chip.run(tss12.permanent_flags()).disable


def test_an_unknown_session_is_invalid_authhandle() -> None:
    chip = make_owned_chip()
    body = b"\x01" + bytes.fromhex("00001234") + bytes(20) + b"\x00" + bytes(20)
    command = build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.OWNER_SET_DISABLE, body)
    assert chip.send(command) == error_response(ReturnCode.INVALID_AUTHHANDLE)


def test_a_session_that_is_continued_gets_a_new_nonce_and_a_right_response_hmac() -> None:
    chip = make_owned_chip()
    block = _auth_block(chip, b"\x00", Ordinal.OWNER_SET_DISABLE, keep=True)
    command = build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.OWNER_SET_DISABLE, b"\x00" + block)
    response = chip.send(command)
    assert response[:10] == bytes.fromhex("00c5 00000033 00000000")
    nonce_even, flag, auth = response[10:30], response[30:31], response[31:51]
    assert flag == b"\x01"
    digest = hashlib.sha1(bytes(4) + Ordinal.OWNER_SET_DISABLE.to_bytes(4, "big")).digest()
    assert auth == hmac.digest(OWNER_AUTH, digest + nonce_even + bytes(20) + flag, "sha1")
    assert _sessions(chip) == [int.from_bytes(block[:4], "big")]
    # The old nonce is used up: the same bytes again are a wrong HMAC.
    assert chip.send(command) == error_response(ReturnCode.AUTHFAIL)


def test_a_session_that_is_not_continued_is_gone() -> None:
    chip = make_owned_chip()
    block = _auth_block(chip, b"\x00", Ordinal.OWNER_SET_DISABLE)
    chip.send(build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.OWNER_SET_DISABLE, b"\x00" + block))
    assert _sessions(chip) == []


def test_a_key_that_cannot_sign_is_an_error_and_no_failure_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chip = make_owned_chip()
    _, handle = make_and_load(chip, signing_key())

    def refuse(_key: PrivateKey, _digest: bytes) -> bytes:
        # What the library says, now and then, of a key whose factors are no primes.
        raise RsaError("digest does not fit the key")

    quote = tss12.quote(
        handle,
        external_data=bytes(20),
        selection=PcrSelection.of([1]),
        key_auth=USAGE_AUTH,
        random=chip.client_random,
    )
    with monkeypatch.context() as patch:
        patch.setattr(PrivateKey, "sign_sha1_digest", refuse)
        assert chip.code(quote) == ReturnCode.BAD_KEY_PROPERTY
    assert _sessions(chip) == []
    assert chip.engine.fault is None
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.SUCCESS


def test_disabled_deactivated_and_ownerless_are_refused_by_name() -> None:
    chip = make_chip()
    chip.assert_presence()
    get_pub_key = build_message(Tag.RQU_COMMAND, Ordinal.GET_PUB_KEY, bytes.fromhex("40000000"))
    assert chip.send(get_pub_key) == error_response(ReturnCode.NOSRK)
    chip.run(tss12.set_temp_deactivated())
    assert chip.send(get_pub_key) == error_response(ReturnCode.DEACTIVATED)
    chip.run(tss12.physical_disable())
    assert chip.send(get_pub_key) == error_response(ReturnCode.DISABLED)


def test_the_sixth_wrong_authorization_locks_out_for_a_second_then_two() -> None:
    chip = make_owned_chip()

    def guess() -> int:
        return chip.code(
            tss12.owner_set_disable(True, owner_auth=b"wrong" * 4, random=chip.client_random)
        )

    assert [guess() for _ in range(6)] == [ReturnCode.AUTHFAIL] * 6
    assert guess() == ReturnCode.DEFEND_LOCK_RUNNING
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.SUCCESS
    chip.ticks.advance(1.1)
    assert guess() == ReturnCode.AUTHFAIL
    chip.ticks.advance(1.1)
    assert guess() == ReturnCode.DEFEND_LOCK_RUNNING
    chip.ticks.advance(1.1)
    assert guess() == ReturnCode.AUTHFAIL


def test_the_lockout_survives_a_restart_of_the_daemon() -> None:
    chip = make_owned_chip()
    for _ in range(6):
        chip.code(tss12.owner_set_disable(True, owner_auth=b"x" * 20, random=chip.client_random))
    chip.restart()
    code = chip.code(
        tss12.owner_set_disable(True, owner_auth=OWNER_AUTH, random=chip.client_random)
    )
    assert code == ReturnCode.DEFEND_LOCK_RUNNING


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.ordinal.name)
def test_every_row_is_refused_before_startup(row: Command) -> None:
    """With tag C1 and too few bytes a row answers a parse error; with none wanted, the gate."""
    chip = make_chip(startup=None)
    code = parse_header(chip.send(build_message(Tag.RQU_COMMAND, row.ordinal))).code
    if row.gate is Gate.STARTUP or row.request.layout():
        assert code != ReturnCode.SUCCESS
    else:
        assert code == ReturnCode.INVALID_POSTINIT


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.ordinal.name)
def test_every_row_names_its_source_and_only_tags_it_can_parse(row: Command) -> None:
    assert row.source.split(":")[0] in {"3", "TIS"}
    assert row.auth_blocks <= {0, 1, 2}
    assert row.auth_blocks
    assert row.handles_in >= 0


CHIP = make_owned_chip()


@settings(max_examples=600, deadline=None)
@given(
    ordinal=st.one_of(st.sampled_from(sorted(TABLE)), st.integers(0, 0xFFFFFFFF)),
    tag=st.sampled_from([0xC1, 0xC2, 0xC3, 0xC4, 0x8001]),
    body=st.binary(max_size=300),
    locality=st.integers(0, 5),
)
def test_any_bytes_get_a_well_formed_response_and_no_exception(
    ordinal: int, tag: int, body: bytes, locality: int
) -> None:
    CHIP.locality = locality
    response = CHIP.send(build_message(tag, ordinal, body))
    header = parse_header(response)
    assert header.size == len(response) >= HEADER_BYTES
    assert CHIP.engine.fault is None
    if header.code:
        assert response == error_response(header.code)
