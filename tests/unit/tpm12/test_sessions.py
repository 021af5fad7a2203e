# SPDX-License-Identifier: Apache-2.0
"""Opening sessions: slots, entities, secrets."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from protocol.tpm12.constants import Ordinal, ReservedHandle, ResourceType, ReturnCode, Tag
from protocol.tpm12.framing import build_message
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.world import Profile

NONCE_ODD_OSAP = b"o" * 20


def _osap(chip: Chip, entity_type: int, value: int) -> bytes:
    body = entity_type.to_bytes(2, "big") + value.to_bytes(4, "big") + NONCE_ODD_OSAP
    return chip.send(build_message(Tag.RQU_COMMAND, Ordinal.OSAP, body))


def _code(response: bytes) -> int:
    return int.from_bytes(response[6:10], "big")


def test_sessions_end_with_the_slots_and_come_back_when_one_is_flushed() -> None:
    chip = make_chip(Profile(max_sessions=16))
    sessions = [chip.run(tss12.oiap()) for _ in range(16)]
    assert len({session.handle for session in sessions}) == 16
    assert chip.code(tss12.oiap()) == ReturnCode.RESOURCES
    chip.run(tss12.close_session(sessions[3]))
    assert chip.code(tss12.oiap()) == ReturnCode.SUCCESS


def test_osap_without_an_owner_is_nosrk() -> None:
    assert _code(_osap(make_chip(), 0x0002, 0x40000001)) == ReturnCode.NOSRK


@pytest.mark.parametrize(
    ("entity_type", "value", "code"),
    [
        (0x0003, 0, ReturnCode.BAD_PARAMETER),
        (0x00FF, 0, ReturnCode.BAD_PARAMETER),
        (0x0001, 0x1234, ReturnCode.INVALID_KEYHANDLE),
        (0x0001, 0x40000001, ReturnCode.INVALID_RESOURCE),
        (0x0001, 0x40000004, ReturnCode.BAD_HANDLE),
        (0x0001, 0x40000006, ReturnCode.KEYNOTFOUND),
        (0x000B, 0x10, ReturnCode.BADINDEX),
        (0x000A, 0, ReturnCode.BAD_COUNTER),
        (0x0102, 0, ReturnCode.INAPPROPRIATE_ENC),
    ],
)
def test_osap_on_what_is_not_there(entity_type: int, value: int, code: int) -> None:
    chip = make_owned_chip()
    assert _code(_osap(chip, entity_type, value)) == code
    assert chip.run(tss12.handles(ResourceType.AUTH)) == []


def test_the_shared_secret_of_osap_authorizes_and_the_owners_secret_does_not() -> None:
    chip = make_owned_chip()
    for right in (False, True):
        response = _osap(chip, 0x0002, 0x40000001)
        handle, nonce_even, nonce_even_osap = response[10:14], response[14:34], response[34:54]
        shared = hmac.digest(OWNER_AUTH, nonce_even_osap + NONCE_ODD_OSAP, "sha1")
        digest = hashlib.sha1(Ordinal.OWNER_SET_DISABLE.to_bytes(4, "big") + b"\x00").digest()
        key = shared if right else OWNER_AUTH
        auth = hmac.digest(key, digest + nonce_even + bytes(20) + b"\x00", "sha1")
        body = b"\x00" + handle + bytes(20) + b"\x00" + auth
        answer = chip.send(build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.OWNER_SET_DISABLE, body))
        assert _code(answer) == (ReturnCode.SUCCESS if right else ReturnCode.AUTHFAIL)


def test_a_session_on_the_srk_is_none_on_the_owner() -> None:
    chip = make_owned_chip()
    response = _osap(chip, 0x0004, 0x40000000)
    assert _code(response) == ReturnCode.SUCCESS
    body = b"\x00" + response[10:14] + bytes(20) + b"\x00" + bytes(20)
    answer = chip.send(build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.OWNER_SET_DISABLE, body))
    assert _code(answer) == ReturnCode.AUTHFAIL


def test_osap_is_judged_in_the_reference_order() -> None:
    chip = make_owned_chip(Profile(max_sessions=1))
    assert _code(_osap(chip, 0x0101, 0x1234)) == ReturnCode.INAPPROPRIATE_ENC
    chip.run(tss12.oiap())
    assert _code(_osap(chip, 0x0101, 0x1234)) == ReturnCode.RESOURCES


DATA_AUTH = b"secret-of-some-data!"


def _unseal(chip: Chip, sealed: bytes, session: tss12.Session, keep: tuple[bool, bool]) -> bytes:
    """Unseal with one OIAP session for the storage root key and for the data."""
    digest = hashlib.sha1(Ordinal.UNSEAL.to_bytes(4, "big") + sealed).digest()
    body = ReservedHandle.SRK.to_bytes(4, "big") + sealed
    for secret, nonce_odd, continues in zip(
        (SRK_AUTH, DATA_AUTH), (b"1" * 20, b"2" * 20), keep, strict=True
    ):
        flag = b"\x01" if continues else b"\x00"
        mac = hmac.digest(secret, digest + session.nonce_even + nonce_odd + flag, "sha1")
        body += session.handle.to_bytes(4, "big") + nonce_odd + flag + mac
    return chip.send(build_message(Tag.RQU_AUTH2_COMMAND, Ordinal.UNSEAL, body))


@pytest.mark.parametrize("keep", [(True, True), (True, False), (False, True), (False, False)])
def test_one_session_in_both_blocks_goes_on_if_both_say_so_and_with_the_last_nonce(
    keep: tuple[bool, bool],
) -> None:
    chip = make_owned_chip()
    sealed = chip.run(
        tss12.seal(
            ReservedHandle.SRK,
            parent_auth=SRK_AUTH,
            blob_auth=DATA_AUTH,
            data=b"data",
            pcr_info=None,
            random=chip.client_random,
        )
    ).encode()
    session = chip.run(tss12.oiap())
    response = _unseal(chip, sealed, session, keep)
    assert _code(response) == ReturnCode.SUCCESS
    digest = hashlib.sha1(bytes(4) + Ordinal.UNSEAL.to_bytes(4, "big") + response[10:18]).digest()
    flag = b"\x01" if all(keep) else b"\x00"
    blocks = (response[18:59], response[59:100])
    for block, secret, nonce_odd in zip(
        blocks, (SRK_AUTH, DATA_AUTH), (b"1" * 20, b"2" * 20), strict=True
    ):
        assert block[20:21] == flag
        expected = hmac.digest(secret, digest + block[:20] + nonce_odd + flag, "sha1")
        assert block[21:] == expected
    assert chip.run(tss12.handles(ResourceType.AUTH)) == ([session.handle] if all(keep) else [])
    if all(keep):
        session.nonce_even = blocks[1][:20]
        assert _code(_unseal(chip, sealed, session, keep)) == ReturnCode.SUCCESS
        # The error of one block ends the session for both.
        assert _code(_unseal(chip, sealed, session, keep)) == ReturnCode.AUTHFAIL
        assert chip.run(tss12.handles(ResourceType.AUTH)) == []
