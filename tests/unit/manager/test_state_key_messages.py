# SPDX-License-Identifier: Apache-2.0
"""STATE_KEY_NEW and STATE_KEY_OPEN: what is sent, and what is not taken for an answer."""

import pytest
import trio

from daemons.vtpm.manager_client import ManagerCommands
from daemons.vtpm.store import ManagerLost
from protocol.errors import WireError
from protocol.manager.constants import ManagerCode, ManagerTag, VtpmOrdinal
from protocol.manager.framing import (
    ManagerRefused,
    error_response,
    parse_request,
    success_response,
)
from protocol.manager.statekeys import (
    DESCRIPTOR_MAX_BYTES,
    StateKey,
    decode_descriptor,
    decode_state_key_new_response,
    decode_state_key_open_response,
    encode_state_key_new,
    encode_state_key_open,
)

KEY = bytes(range(32))


@pytest.mark.parametrize("size_bytes", [1, 100, DESCRIPTOR_MAX_BYTES])
def test_a_new_key_travels_with_its_descriptor(size_bytes: int) -> None:
    descriptor = bytes([size_bytes % 256]) * size_bytes
    response = success_response(StateKey(KEY, descriptor).encode())
    assert decode_state_key_new_response(response) == StateKey(KEY, descriptor)
    request = parse_request(encode_state_key_open(descriptor))
    assert (request.tag, request.ordinal) == (ManagerTag.REQ, VtpmOrdinal.STATE_KEY_OPEN)
    assert decode_descriptor(request.body) == descriptor


def test_the_request_for_a_new_key_is_only_a_header() -> None:
    request = parse_request(encode_state_key_new())
    assert (request.tag, request.ordinal) == (ManagerTag.REQ, VtpmOrdinal.STATE_KEY_NEW)
    assert request.body == b""


@pytest.mark.parametrize("size_bytes", [0, 31, 32, 32 + DESCRIPTOR_MAX_BYTES + 1])
def test_an_answer_without_key_and_descriptor_is_none(size_bytes: int) -> None:
    with pytest.raises(WireError):
        decode_state_key_new_response(success_response(bytes(size_bytes)))


@pytest.mark.parametrize("size_bytes", [0, 31, 33])
def test_an_opened_key_has_32_bytes(size_bytes: int) -> None:
    with pytest.raises(WireError):
        decode_state_key_open_response(success_response(bytes(size_bytes)))


@pytest.mark.parametrize("size_bytes", [0, DESCRIPTOR_MAX_BYTES + 1])
def test_a_descriptor_of_another_length_is_neither_sent_nor_taken(size_bytes: int) -> None:
    with pytest.raises(WireError):
        encode_state_key_open(bytes(size_bytes))
    with pytest.raises(WireError):
        decode_descriptor(bytes(size_bytes))


def test_a_refusal_is_no_key() -> None:
    with pytest.raises(ManagerRefused):
        decode_state_key_new_response(error_response(ManagerCode.AUTHFAIL))
    with pytest.raises(ManagerRefused):
        decode_state_key_open_response(error_response(ManagerCode.AUTHFAIL))


def commands(response: bytes) -> tuple[ManagerCommands, list[bytes]]:
    """Return the commands over a manager that always answers the same, and what it was asked."""
    asked: list[bytes] = []

    async def transact(request: bytes) -> bytes:
        asked.append(request)
        await trio.lowlevel.checkpoint()
        return response

    return ManagerCommands(transact), asked


async def test_keys_do_not_show_themselves() -> None:
    manager, asked = commands(success_response(StateKey(KEY, b"descriptor").encode()))
    key, descriptor = await manager.state_key_new()
    assert (bytes(key), descriptor) == (KEY, b"descriptor")
    assert asked == [encode_state_key_new()]
    opener, asked = commands(success_response(KEY))
    opened = await opener.state_key_open(descriptor)
    assert bytes(opened) == KEY
    assert asked == [encode_state_key_open(descriptor)]
    for shown in (repr(key), str(key), repr(opened), repr(StateKey(KEY, descriptor))):
        assert repr(KEY) not in shown
        assert KEY.hex() not in shown


async def test_an_answer_that_makes_no_sense_is_a_manager_lost() -> None:
    with pytest.raises(ManagerLost, match="STATE_KEY_NEW"):
        await commands(success_response(KEY))[0].state_key_new()
    with pytest.raises(ManagerLost, match="STATE_KEY_OPEN"):
        await commands(success_response(b"short"))[0].state_key_open(b"descriptor")
    with pytest.raises(ManagerRefused):
        await commands(error_response(ManagerCode.AUTHFAIL))[0].state_key_open(b"descriptor")


async def test_nothing_is_asked_for_what_cannot_be_a_descriptor() -> None:
    manager, asked = commands(success_response(KEY))
    with pytest.raises(WireError):
        await manager.state_key_open(b"")
    assert asked == []
