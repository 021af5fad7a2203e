# SPDX-License-Identifier: Apache-2.0
"""Slot files: what is written is what the format says, and nothing else is read."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from daemons.vtpm.image import (
    ASTRAY,
    KEPT_VOLATILE,
    MAX_STATE_BYTES,
    Content,
    HashKey,
    open_image,
    parse_slot,
    seal_image,
)
from protocol.errors import WireError
from tests.unit.vtpm.fakes import GUEST, CountingRandom

GOLDEN_KEPT = bytes.fromhex(
    "7654504d696d670a00010001000000018a3f6a525c1f4f0e9d7c0a3b1c2d4e5f000000000000"
    "00070a1321c6e2b691abff336cef000000159fde1541655009e942499335bfead095b586540d"
    "61e1ca92a267d112e14e5a0f8dc3e183dd"
)
GOLDEN_KEPT_KEY = bytes.fromhex("f9fcdd9f9a6b212b9e1a79ec15dcb29f069d4aaf54aae54180aac1254619c898")
GOLDEN_ASTRAY = bytes.fromhex(
    "7654504d696d670a00010002000000038a3f6a525c1f4f0e9d7c0a3b1c2d4e5f000000000000"
    "00070a1321c6e2b691abff336cef000000359fde1541655009e942499335bf32fb731c9e73ef"
    "4971f61794774e4925b0ab36727951a1bd46eb58822895a732d382f86006ef8fa9e2e9e9481c"
    "8d30b8c0f6f7f6120166cc"
)


@given(state=st.binary(max_size=3000), sequence=st.integers(1, 2**64 - 1))
def test_an_image_opens_with_its_key_and_says_whose_and_which_it_is(
    state: bytes, sequence: int
) -> None:
    slot, record = seal_image(Content(state), GUEST, sequence, CountingRandom())
    assert open_image(slot, record.key) == Content(state)
    header = parse_slot(slot)
    assert (header.uuid, header.sequence, header.state_bytes) == (GUEST, sequence, len(state))
    assert record.matches(slot)


def test_the_layout_is_the_documented_one() -> None:
    slot, record = seal_image(Content(b"permanent state"), GUEST, 7, CountingRandom())
    expected = (
        bytes.fromhex("7654504d696d670a")  # magic
        + bytes.fromhex("0001")  # major
        + bytes.fromhex("0000")  # minor
        + bytes.fromhex("00000000")  # flags
        + bytes.fromhex("8a3f6a525c1f4f0e9d7c0a3b1c2d4e5f")  # uuid
        + bytes.fromhex("0000000000000007")  # sequence
        + slot[40:52]  # nonce
        + bytes.fromhex("0000000f")  # length
    )
    assert slot[:56] == expected
    assert slot[56:] == AESGCM(record.key).encrypt(slot[40:52], b"permanent state", expected)
    assert record.encode() == hashlib.sha256(slot).digest() + record.key
    assert len(record.encode()) == 64


def test_every_image_has_a_key_and_a_nonce_of_its_own() -> None:
    random = CountingRandom()
    sealed = [seal_image(Content(b"same"), GUEST, 1, random) for _ in range(20)]
    assert len({record.key for _, record in sealed}) == 20
    assert len({slot[40:52] for slot, _ in sealed}) == 20


def test_a_key_never_ends_in_the_twelve_zero_bytes_that_the_manager_would_cut_off() -> None:
    class Unlucky:
        def __init__(self) -> None:
            self.draws = 0

        def random(self, size_bytes: int) -> bytes:
            self.draws += 1
            return bytes(size_bytes) if self.draws == 1 else b"\x01" * size_bytes

        def stir(self, data: bytes) -> None:
            raise AssertionError(data)

    _, record = seal_image(Content(b""), GUEST, 1, Unlucky())
    assert any(record.key[-12:])


def test_a_record_of_zeros_is_no_image_and_comes_back_as_it_was_otherwise() -> None:
    _, record = seal_image(Content(b"x"), GUEST, 1, CountingRandom())
    assert HashKey.decode(bytes(64)) is None
    assert HashKey.decode(record.encode()) == record
    with pytest.raises(WireError):
        HashKey.decode(bytes(52))


def test_a_record_shows_its_hash_and_hides_its_key() -> None:
    _, record = seal_image(Content(b"x"), GUEST, 1, CountingRandom())
    assert record.digest.hex() in repr(record)
    assert record.key.hex() not in repr(record)
    assert repr(record.key) not in repr(record)


def test_kept_volatile_state_comes_back_beside_the_permanent_one() -> None:
    for volatile in (b"", b"volatile"):
        content = Content(b"permanent", volatile)
        slot, record = seal_image(content, GUEST, 1, CountingRandom())
        assert open_image(slot, record.key) == content
        assert (slot[10:16], parse_slot(slot).flags) == (bytes.fromhex("0001 00000001"), 1)


def test_an_image_of_minor_version_1_is_read_for_ever() -> None:
    assert parse_slot(GOLDEN_KEPT).sequence == 7
    assert open_image(GOLDEN_KEPT, GOLDEN_KEPT_KEY) == Content(b"permanent", b"volatile")


def test_kept_volatile_state_of_another_permanent_one_says_of_which() -> None:
    content = Content(b"permanent", b"volatile", hashlib.sha256(b"another").digest())
    slot, record = seal_image(content, GUEST, 7, CountingRandom())
    assert (slot, record.key) == (GOLDEN_ASTRAY, GOLDEN_KEPT_KEY)
    assert open_image(GOLDEN_ASTRAY, GOLDEN_KEPT_KEY) == content
    assert (slot[10:16], parse_slot(slot).flags) == (bytes.fromhex("0002 00000003"), 3)
    with pytest.raises(WireError, match="31 bytes of volatile part"):
        Content.decode(b"\0\0\0\1p" + bytes(31), KEPT_VOLATILE | ASTRAY)


@pytest.mark.parametrize("plain", [b"", b"\0\0\0", b"\0\0\0\x04abc", b"\xff\xff\xff\xffabc"])
def test_kept_state_whose_parts_do_not_fit_is_refused(plain: bytes) -> None:
    with pytest.raises(WireError, match="ends at"):
        Content.decode(plain, KEPT_VOLATILE)


def test_content_hides_what_it_holds() -> None:
    shown = repr(Content(b"permanent", b"volatile"))
    assert shown == "Content(permanent=<9 bytes>, volatile=<8 bytes>)"


def test_a_slot_cut_at_any_length_or_with_a_tail_is_refused() -> None:
    slot, record = seal_image(Content(b"state"), GUEST, 1, CountingRandom())
    for length in range(len(slot)):
        with pytest.raises(WireError):
            open_image(slot[:length], record.key)
    with pytest.raises(WireError, match="too long"):
        open_image(slot + b"\0", record.key)


def test_a_slot_with_any_one_bit_changed_is_refused() -> None:
    slot, record = seal_image(Content(b"state"), GUEST, 1, CountingRandom())
    for bit in range(len(slot) * 8):
        changed = bytearray(slot)
        changed[bit // 8] ^= 1 << bit % 8
        assert not record.matches(bytes(changed))
        with pytest.raises(WireError):
            open_image(bytes(changed), record.key)


@pytest.mark.parametrize(
    ("offset", "replacement", "field"),
    [
        (0, b"XTPMimg\n", "magic"),
        (8, b"\x00\x02\x00\x00", "version"),
        (8, b"\x00\x01\x00\x03", "version"),
        (12, b"\x00\x00\x00\x01", "flags"),  # not in minor version 0
        (8, b"\x00\x01\x00\x01\x00\x00\x00\x03", "flags"),  # not in minor version 1
        (8, b"\x00\x01\x00\x02\x00\x00\x00\x02", "flags"),  # of what is not kept
        (8, b"\x00\x01\x00\x02\x00\x00\x00\x04", "flags"),
        (32, bytes(8), "sequence"),
        (52, b"\xff\xff\xff\xff", "length"),
    ],
)
def test_a_header_that_this_version_does_not_know_is_named(
    offset: int, replacement: bytes, field: str
) -> None:
    slot, _ = seal_image(Content(b"state"), GUEST, 1, CountingRandom())
    changed = slot[:offset] + replacement + slot[offset + len(replacement) :]
    with pytest.raises(WireError) as raised:
        parse_slot(changed)
    assert raised.value.field == field


@given(st.binary(max_size=400))
def test_any_bytes_are_an_image_or_the_one_error(data: bytes) -> None:
    with pytest.raises(WireError):
        open_image(data, bytes(32))


def test_a_state_beyond_the_limit_is_not_written() -> None:
    with pytest.raises(ValueError, match="holds"):
        seal_image(Content(bytes(MAX_STATE_BYTES + 1)), GUEST, 1, CountingRandom())
