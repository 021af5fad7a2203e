# SPDX-License-Identifier: Apache-2.0
"""Ticks and time stamps (Part 3, 23)."""

from __future__ import annotations

import pytest

from protocol.tpm12.constants import EncScheme, KeyUsage, ReservedHandle, ReturnCode, SigScheme
from protocol.tpm12.keys import Key
from tests.unit.tpm12.world import SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12

KEY_AUTH = b"key-secret-of-tests!"
NONCE = b"nonce-of-the-client!"
DIGEST = b"digest-to-be-stamped"


@pytest.fixture
def chip() -> Chip:
    """A chip with an owner."""
    return make_owned_chip()


def load(chip: Chip, template: Key) -> tuple[Key, int]:
    """Make a key below the SRK and load it."""
    key = chip.run(
        tss12.create_wrap_key(
            ReservedHandle.SRK,
            template,
            parent_auth=SRK_AUTH,
            usage_auth=KEY_AUTH,
            random=chip.client_random,
        )
    )
    handle = chip.run(
        tss12.load_key2(ReservedHandle.SRK, key, parent_auth=SRK_AUTH, random=chip.client_random)
    )
    return key, handle


def signing(scheme: SigScheme, auth_data_usage: int = 1) -> Key:
    """Describe a signing key."""
    return Key.template(
        KeyUsage.SIGNING,
        enc_scheme=EncScheme.NONE,
        sig_scheme=scheme,
        auth_data_usage=auth_data_usage,
    )


def test_ticks_are_the_microseconds_since_power_on() -> None:
    chip = make_chip()
    before = chip.run(tss12.get_ticks())
    chip.ticks.advance(1.5)
    after = chip.run(tss12.get_ticks())
    assert after.current_ticks - before.current_ticks == 1_500_000
    assert after.tick_rate == 1
    assert after.tick_nonce == before.tick_nonce


def test_a_power_cycle_begins_a_new_tick_session_and_a_restart_does_not() -> None:
    chip = make_chip()
    chip.ticks.advance(5)
    first = chip.run(tss12.get_ticks())
    chip.restart()
    assert chip.run(tss12.get_ticks()) == first
    chip.power_cycle()
    again = chip.run(tss12.get_ticks())
    assert again.tick_nonce != first.tick_nonce
    assert again.current_ticks == 0


@pytest.mark.parametrize("scheme", [SigScheme.RSASSAPKCS1V15_SHA1, SigScheme.RSASSAPKCS1V15_INFO])
def test_a_stamp_is_signed_over_nonce_digest_and_ticks(chip: Chip, scheme: SigScheme) -> None:
    key, handle = load(chip, signing(scheme))
    stamp = chip.run(
        tss12.tick_stamp_blob(
            handle, DIGEST, anti_replay=NONCE, key_auth=KEY_AUTH, random=chip.client_random
        )
    )
    tss12.verify_signature(key.public_key, stamp.signed, stamp.signature)
    assert stamp.ticks == chip.run(tss12.get_ticks())


def test_a_key_without_authorization_stamps_without_one(chip: Chip) -> None:
    key, handle = load(chip, signing(SigScheme.RSASSAPKCS1V15_SHA1, 0))
    stamp = chip.run(tss12.tick_stamp_blob(handle, DIGEST, anti_replay=NONCE, key_auth=None))
    tss12.verify_signature(key.public_key, stamp.signed, stamp.signature)


def test_stamping_is_refused_without_the_right_key_or_secret(chip: Chip) -> None:
    def code(handle: int, auth: bytes | None) -> int:
        return chip.code(
            tss12.tick_stamp_blob(
                handle, DIGEST, anti_replay=NONCE, key_auth=auth, random=chip.client_random
            )
        )

    _, handle = load(chip, signing(SigScheme.RSASSAPKCS1V15_SHA1))
    assert code(handle, None) == ReturnCode.AUTHFAIL
    assert code(handle, bytes(20)) == ReturnCode.AUTHFAIL
    assert code(0x12345678, KEY_AUTH) == ReturnCode.INVALID_KEYHANDLE
    assert code(ReservedHandle.SRK, SRK_AUTH) == ReturnCode.INVALID_KEYUSAGE
    _, der = load(chip, signing(SigScheme.RSASSAPKCS1V15_DER))
    assert code(der, KEY_AUTH) == ReturnCode.INAPPROPRIATE_SIG
