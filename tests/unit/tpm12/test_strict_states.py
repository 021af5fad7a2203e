# SPDX-License-Identifier: Apache-2.0
"""States that no TPM writes are refused, one thing wrong with each."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from protocol.errors import WireError
from protocol.tpm12.constants import NvAttributes, Ordinal, ResourceType
from tests.unit.tpm12.tunnel import PLAIN, open_tunnel
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.stateformat import decode_permanent, decode_volatile
from tpmcore.tpm12.world import Profile

HEAD = 12
SESSION = 67
OIAP_SECRET, OIAP_ADIP = 26, 66
"""Where they are in a session record."""
EK, DATA, COUNTERS, PINNED, SAVED, AUDIT = 4, 5, 6, 8, 9, 12
SESSIONS, CONTEXTS, KEYS, LOCKS, TRANSPORTS, DAA, DELEGATED, DEPRECATED = 5, 6, 7, 8, 9, 10, 12, 14
Change = Callable[[bytes], bytes]


def _split(state: bytes) -> dict[int, bytes]:
    sections: dict[int, bytes] = {}
    at = HEAD
    while at < len(state):
        number, length = struct.unpack_from(">HI", state, at)
        sections[number] = state[at + 6 : at + 6 + length]
        at += 6 + length
    return sections


def _changed(state: bytes, number: int, change: Change) -> bytes:
    """Return a state with one section changed, or made of nothing if there is none."""
    sections = _split(state)
    sections[number] = change(sections.get(number, b""))
    parts = [struct.pack(">HI", n, len(data)) + data for n, data in sorted(sections.items())]
    return state[:HEAD] + b"".join(parts)


def _put(at: int, value: str) -> Change:
    new = bytes.fromhex(value)
    return lambda data: data[:at] + new + data[at + len(new) :]


def _be(value: str) -> Change:
    return lambda _data: bytes.fromhex(value)


@pytest.fixture(scope="module")
def running() -> Chip:
    """A chip with a session, a transport session, a saved session and a locked area."""
    chip = make_owned_chip()
    chip.run(tss12.save_auth_context(chip.run(tss12.oiap()).handle))
    chip.run(tss12.oiap())
    open_tunnel(chip, PLAIN)
    chip.run(
        tss12.nv_define_space(
            0x10030,
            4,
            NvAttributes.OWNERWRITE | NvAttributes.WRITE_STCLEAR,
            owner_auth=OWNER_AUTH,
            random=chip.client_random,
        )
    )
    write = tss12.nv_write_value(0x10030, b"", owner_auth=OWNER_AUTH, random=chip.client_random)
    chip.run(write)
    return chip


def _read(chip: Chip, volatile: bytes) -> None:
    decode_volatile(volatile, decode_permanent(chip.durable), chip.ticks.now_us)


def test_the_states_that_are_changed_below_are_good_and_have_these_sections(running: Chip) -> None:
    volatile = running.engine.volatile_state()
    _read(running, _changed(volatile, SESSIONS, lambda data: data))
    assert {SESSIONS, CONTEXTS, LOCKS, TRANSPORTS, DEPRECATED} <= set(_split(volatile))
    assert {EK, DATA, COUNTERS, AUDIT} <= set(_split(running.durable))


@pytest.mark.parametrize(
    ("number", "change"),
    [
        pytest.param(SESSIONS, lambda data: data * 2, id="a session twice"),
        pytest.param(SESSIONS, _put(0, "00000000"), id="a session with handle 0"),
        pytest.param(SESSIONS, _put(0, "40000001"), id="a session with a reserved handle"),
        pytest.param(SESSIONS, _put(OIAP_SECRET, "01"), id="OIAP with a secret"),
        pytest.param(SESSIONS, _put(OIAP_SECRET + 20, "01"), id="OIAP with an entity"),
        pytest.param(SESSIONS, _put(5, "01"), id="OIAP with a kind of entity"),
        pytest.param(SESSIONS, _put(OIAP_ADIP, "09"), id="OIAP with an unknown scheme"),
        pytest.param(SESSIONS, _put(OIAP_ADIP, "06"), id="OIAP with a scheme"),
        pytest.param(SESSIONS, _be(""), id="no sessions"),
        pytest.param(CONTEXTS, _be("0000"), id="no contexts"),
        pytest.param(KEYS, _be("0000"), id="no keys"),
        pytest.param(LOCKS, _be("0000"), id="no locks"),
        pytest.param(LOCKS, _be("0002 00010030 0001 00010030 0001"), id="an area locked twice"),
        pytest.param(LOCKS, _be("0001 00010030 0000"), id="an area that is not locked"),
        pytest.param(TRANSPORTS, _be("00000000 0000"), id="no transport sessions"),
        pytest.param(TRANSPORTS, _put(6, "00000000"), id="a transport session with handle 0"),
        pytest.param(TRANSPORTS, _put(6, "40ffffff"), id="a transport session reserved"),
        pytest.param(DAA, _be(""), id="no DAA sessions"),
        pytest.param(DELEGATED, _be("40000001 0000"), id="nothing delegated"),
        pytest.param(DEPRECATED, _put(0, "00" * 20), id="no nonce of deprecated contexts"),
        pytest.param(
            DEPRECATED,
            lambda data: data[:20] + b"\0\2" + data[22:] * 2,
            id="a deprecated context twice",
        ),
    ],
)
def test_a_volatile_state_that_no_tpm_writes_is_refused(
    running: Chip, number: int, change: Change
) -> None:
    volatile = running.engine.volatile_state()
    with pytest.raises(WireError):
        _read(running, _changed(volatile, number, change))


def test_a_handle_is_of_one_kind_of_session(running: Chip) -> None:
    volatile = running.engine.volatile_state()
    handle = _split(volatile)[SESSIONS][:4]
    with pytest.raises(WireError, match="twice"):
        _read(running, _changed(volatile, TRANSPORTS, lambda data: data[:6] + handle + data[10:]))


@pytest.mark.parametrize(
    ("number", "change"),
    [
        pytest.param(DATA, _put(44, "00000041"), id="more writes than are allowed"),
        pytest.param(EK, lambda ek: ek[:-25] + bytes(5) + ek[-20:], id="a damaged prime"),
        pytest.param(EK, lambda ek: ek[:-21] + b"\2" + ek[-20:], id="an even prime"),
        pytest.param(
            EK, lambda ek: ek[:-280] + b"\0" + ek[-279:], id="a prime with zeros in front"
        ),
        pytest.param(PINNED, _be("0000"), id="no pinned keys"),
        pytest.param(SAVED, _be(""), id="no saved state"),
    ],
)
def test_a_permanent_state_that_no_tpm_writes_is_refused(
    running: Chip, number: int, change: Change
) -> None:
    with pytest.raises(WireError):
        decode_permanent(_changed(running.durable, number, change))


def _restore(chip: Chip, permanent: bytes, profile: Profile | None = None) -> Tpm12Engine:
    return Tpm12Engine.restore(chip._world(), profile or chip.profile, permanent)


@pytest.mark.parametrize(
    ("ordinal", "audited"),
    [
        pytest.param(0xDEAD, True, id="an unknown ordinal"),
        pytest.param(Ordinal.TAKE_OWNERSHIP, True, id="the default, on"),
        pytest.param(Ordinal.EXTEND, False, id="the default, off"),
        pytest.param(Ordinal.GET_AUDIT_DIGEST, True, id="one that cannot be audited"),
    ],
)
def test_an_audit_status_that_is_not_kept_is_refused(ordinal: int, audited: bool) -> None:
    chip = make_chip()
    status = struct.pack(">IHI?", 0, 1, ordinal, audited)
    with pytest.raises(WireError, match="audit"):
        _restore(chip, _changed(chip.durable, AUDIT, lambda _data: status))


def test_the_audit_status_of_a_maintenance_command_is_kept_while_it_is_switched_off() -> None:
    chip = make_chip()
    status = struct.pack(">IHI?", 0, 1, Ordinal.KILL_MAINTENANCE_FEATURE, False)
    permanent = _changed(chip.durable, AUDIT, lambda _data: status)
    assert _restore(chip, permanent).permanent_state() == permanent


@pytest.mark.parametrize("slots", [0, 7, 9])
def test_counter_slots_are_as_many_as_the_profile_has(slots: int) -> None:
    chip = make_chip()
    with pytest.raises(WireError, match="slots"):
        _restore(chip, chip.durable, Profile(max_counters=slots))


def test_saved_sessions_have_a_handle_that_they_can_come_back_under(running: Chip) -> None:
    handles = running.run(tss12.handles(ResourceType.AUTH))
    assert all(handle and handle >> 24 != 0x40 for handle in handles)
