# SPDX-License-Identifier: Apache-2.0
"""The two state formats: canonical, strict, complete."""

from __future__ import annotations

import pytest

from protocol.errors import WireError
from protocol.tpm12.constants import (
    COUNT_ID_ILLEGAL,
    EncScheme,
    KeyUsage,
    NvAttributes,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import Key
from protocol.tpm12.resources import NvDataPublic
from protocol.tpm12.wire import Structure
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.nv import NvDefineSpaceRequest, NvReadValueResponse, NvWriteValueRequest
from tpmcore.tpm12.stateformat import (
    decode_permanent,
    decode_volatile,
    encode_permanent,
    encode_volatile,
)
from tpmcore.tpm12.storage import SealRequest

NV_PUBLIC = (
    "0018 00010000 0003000000 1f" + "00" * 20 + "0003000000 1f" + "00" * 20 + "0017 00000001"
    "000000 00000004"
)
SIGNING_KEY = Key.template(
    KeyUsage.SIGNING, enc_scheme=EncScheme.NONE, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1
)


def _full_chip() -> Chip:
    """A chip with something in every section that exists without NV areas and counters."""
    chip = make_owned_chip()
    chip.run(tss12.extend(4, b"f" * 20))
    chip.run(tss12.oiap())
    return chip


def test_the_permanent_state_is_canonical() -> None:
    state = _full_chip().engine.permanent_state()
    assert encode_permanent(decode_permanent(state)) == state


def test_the_permanent_state_begins_with_magic_and_version() -> None:
    assert make_chip().engine.permanent_state()[:12] == b"VTPM12PS" + bytes.fromhex("0001 0002")
    assert make_chip().engine.volatile_state()[:12] == b"VTPM12VS" + bytes.fromhex("0001 0002")


@pytest.mark.parametrize("stride", [1, 7])
def test_every_truncation_of_a_permanent_state_is_refused(stride: int) -> None:
    state = _full_chip().engine.permanent_state()
    for length in range(0, len(state), stride):
        with pytest.raises(WireError):
            decode_permanent(state[:length])


def test_every_truncation_of_a_volatile_state_is_refused_or_lacks_a_whole_section() -> None:
    chip = _full_chip()
    permanent = decode_permanent(chip.engine.permanent_state())
    state = chip.engine.volatile_state()
    accepted = []
    for length in range(len(state)):
        try:
            decode_volatile(state[:length], permanent, 0)
        except WireError:
            continue
        accepted.append(length)
    # Only behind PCRs, where the optional sections begin, a cut can fall between two sections.
    sessions_bytes, fresh_ek_bytes = 6 + 67, 6 + 32
    before_ek = len(state) - fresh_ek_bytes
    assert accepted == [before_ek - sessions_bytes, before_ek]


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"X"), (8, b"\x00\x02"), (10, b"\x00\x03"), (12, b"\x00\x63"), (12, b"\x00\x00")],
)
def test_wrong_magic_version_or_section_is_refused(offset: int, value: bytes) -> None:
    state = _full_chip().engine.permanent_state()
    changed = state[:offset] + value + state[offset + len(value) :]
    with pytest.raises(WireError):
        decode_permanent(changed)


def test_trailing_bytes_and_a_repeated_section_are_refused() -> None:
    state = make_chip().engine.permanent_state()
    with pytest.raises(WireError):
        decode_permanent(state + b"\x00")
    first_section = state[12 : 12 + 6 + 22]
    with pytest.raises(WireError):
        decode_permanent(state[:12] + first_section + state[12:])


def test_a_key_whose_primes_do_not_make_its_modulus_is_refused() -> None:
    chip = make_owned_chip()
    state = bytearray(chip.engine.permanent_state())
    srk = decode_permanent(bytes(state)).srk
    assert srk is not None
    at = bytes(state).index(srk.private.q.to_bytes(128, "big"))
    state[at + 127] ^= 2
    with pytest.raises(WireError, match="primes"):
        decode_permanent(bytes(state))


def test_ticks_do_not_run_backwards_when_the_clock_starts_anew() -> None:
    chip = make_chip()
    chip.ticks.advance(50)
    volatile = chip.engine.volatile_state()
    permanent = decode_permanent(chip.durable)
    now_us = 5_000
    state = decode_volatile(volatile, permanent, now_us)
    assert now_us - state.stany.tick_base_us == 50_000_000


def test_secrets_do_not_show_in_representations() -> None:
    chip = make_owned_chip()
    permanent = decode_permanent(chip.engine.permanent_state())
    assert permanent.owner_auth is not None
    shown = repr(permanent) + repr(permanent.srk) + repr(permanent.ek)
    assert permanent.owner_auth.decode() not in shown
    assert str(permanent.srk and permanent.srk.private.p) not in shown


@pytest.mark.parametrize(
    "shown",
    [
        SealRequest(0, bytes(20), b"", b"in the clear"),
        NvWriteValueRequest(0, 0, b"in the clear"),
        NvReadValueResponse(b"in the clear"),
        NvDefineSpaceRequest(
            NvDataPublic.decode(bytes.fromhex(NV_PUBLIC)), b"secret in the clear!"
        ),
    ],
    ids=lambda shown: type(shown).__name__,
)
def test_what_clients_keep_secret_does_not_show_in_representations(shown: Structure) -> None:
    assert b"in the clear" in shown.encode()
    assert "in the clear" not in repr(shown)


def test_keys_and_sessions_of_another_owner_do_not_come_back_with_a_volatile_state() -> None:
    chip = make_owned_chip()
    chip.run(tss12.extend(3, b"k" * 20))
    key = chip.run(
        tss12.create_wrap_key(
            ReservedHandle.SRK,
            SIGNING_KEY,
            parent_auth=SRK_AUTH,
            usage_auth=bytes(20),
            random=chip.client_random,
        )
    )
    chip.run(
        tss12.load_key2(ReservedHandle.SRK, key, parent_auth=SRK_AUTH, random=chip.client_random)
    )
    chip.run(tss12.oiap())
    before_the_clear = chip.engine.volatile_state()
    chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    # Killed after the cleared state was saved and before the volatile one was kept.
    permanent = decode_permanent(chip.durable)
    state = decode_volatile(before_the_clear, permanent, chip.ticks.now_us)
    assert state.stclear.keys == {}
    assert state.stany.sessions == {}
    assert state.stclear.pcrs[3] != bytes(20)


def test_a_clear_that_was_saved_reaches_the_volatile_state_from_before_it() -> None:
    chip = make_owned_chip()
    auth = b"counter-secret-test!"
    made = chip.run(
        tss12.create_counter(
            owner_auth=OWNER_AUTH, counter_auth=auth, label=b"test", random=chip.client_random
        )
    )
    chip.run(tss12.increment_counter(made.count_id, counter_auth=auth, random=chip.client_random))
    session = chip.run(tss12.oiap())
    chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
    wrong = tss12.owner_set_disable(True, owner_auth=bytes(20), random=chip.client_random)
    assert chip.code(wrong) == ReturnCode.AUTHFAIL
    before_the_clear = chip.engine.volatile_state()
    chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    permanent = decode_permanent(chip.durable)
    state = decode_volatile(before_the_clear, permanent, chip.ticks.now_us)
    after_the_clear = chip.engine.volatile_state()
    # That OwnerClear was audited happened after it.
    after = decode_volatile(after_the_clear, permanent, chip.ticks.now_us)
    state.stany.audit_digest = after.stany.audit_digest
    # The count of saved contexts goes on, and the tick session.
    assert encode_volatile(state, permanent, chip.ticks.now_us) == after_the_clear


def test_a_released_counter_stays_the_last_of_its_boot_after_a_kill() -> None:
    chip = make_owned_chip()
    auth = b"counter-secret-test!"
    made = chip.run(
        tss12.create_counter(
            owner_auth=OWNER_AUTH, counter_auth=auth, label=b"test", random=chip.client_random
        )
    )
    chip.run(tss12.increment_counter(made.count_id, counter_auth=auth, random=chip.client_random))
    before = chip.engine.volatile_state()
    chip.run(tss12.release_counter(made.count_id, counter_auth=auth, random=chip.client_random))
    state = decode_volatile(before, decode_permanent(chip.durable), chip.ticks.now_us)
    assert state.stclear.count_id == COUNT_ID_ILLEGAL


def test_a_volatile_lock_of_an_area_that_was_deleted_is_forgotten() -> None:
    chip = make_chip()
    attributes = NvAttributes.PPWRITE | NvAttributes.WRITE_STCLEAR
    chip.run(tss12.nv_define_space(0x10030, 4, attributes))
    chip.run(tss12.nv_write_value(0x10030, b""))
    with_lock = chip.engine.volatile_state()
    chip.run(tss12.nv_delete_space(0x10030))
    state = decode_volatile(with_lock, decode_permanent(chip.durable), chip.ticks.now_us)
    assert state.stclear.pcrs[0] == bytes(20)


def test_the_volatile_state_is_canonical() -> None:
    """What is written in one stroke is what the declared layouts read."""
    chip = _full_chip()
    chip.assert_presence()
    chip.run(tss12.disable_force_clear())
    chip.code(tss12.owner_clear(owner_auth=b"w" * 20, random=chip.client_random))
    chip.run(tss12.oiap())
    written = chip.engine.volatile_state()
    permanent = decode_permanent(chip.engine.permanent_state())
    read = decode_volatile(written, permanent, chip.ticks.now_us)
    assert encode_volatile(read, permanent, chip.ticks.now_us) == written
    assert read.stclear.flags.disable_force_clear
    assert read.stclear.failure_count == 1
