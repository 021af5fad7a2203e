# SPDX-License-Identifier: Apache-2.0
"""FlushSpecific, EvictKey, Terminate_Handle and Reset (Part 3, 22 and 27)."""

from __future__ import annotations

import pytest

from protocol.tpm12.constants import (
    CapabilityProperty,
    EncScheme,
    EntityType,
    KeyUsage,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import Key
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12

KEY_AUTH = b"key-secret-of-tests!"
SIGNING = Key.template(
    KeyUsage.SIGNING, enc_scheme=EncScheme.NONE, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1
)


@pytest.fixture
def chip() -> Chip:
    """A chip with an owner."""
    return make_owned_chip()


def make_key(chip: Chip, template: Key = SIGNING) -> Key:
    """Make a key below the SRK."""
    return chip.run(
        tss12.create_wrap_key(
            ReservedHandle.SRK,
            template,
            parent_auth=SRK_AUTH,
            usage_auth=KEY_AUTH,
            random=chip.client_random,
        )
    )


def load(chip: Chip, key: Key) -> int:
    """Load a key below the SRK."""
    return chip.run(
        tss12.load_key2(ReservedHandle.SRK, key, parent_auth=SRK_AUTH, random=chip.client_random)
    )


def sessions(chip: Chip) -> list[int]:
    """Return the open sessions."""
    return chip.run(tss12.handles(ResourceType.AUTH))


class TestFlushingKeys:
    """TPM_FlushSpecific with TPM_RT_KEY, and EvictKey."""

    def test_the_key_and_the_sessions_on_it_are_gone(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip))
        free = chip.run(tss12.oiap())
        chip.run(tss12.osap_key(handle, KEY_AUTH, random=chip.client_random))
        owner = chip.run(tss12.osap_owner(OWNER_AUTH, random=chip.client_random))
        chip.run(tss12.flush_specific(handle, ResourceType.KEY))
        assert chip.run(tss12.handles(ResourceType.KEY)) == []
        assert sorted(sessions(chip)) == sorted([free.handle, owner.handle])
        attempt = tss12.sign(handle, bytes(20), key_auth=KEY_AUTH, random=chip.client_random)
        assert chip.code(attempt) == ReturnCode.INVALID_KEYHANDLE

    @pytest.mark.parametrize("handle", [0, 0x12345678, ReservedHandle.SRK, ReservedHandle.EK])
    def test_what_is_not_loaded_cannot_be_flushed(self, chip: Chip, handle: int) -> None:
        flush = tss12.flush_specific(handle, ResourceType.KEY)
        assert chip.code(flush) == ReturnCode.BAD_PARAMETER
        assert chip.code(tss12.evict_key(handle)) == ReturnCode.INVALID_KEYHANDLE

    def test_evict_key_does_the_same(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip))
        chip.run(tss12.osap_key(handle, KEY_AUTH, random=chip.client_random))
        chip.run(tss12.evict_key(handle))
        assert chip.run(tss12.handles(ResourceType.KEY)) == []
        assert sessions(chip) == []

    def test_a_key_of_the_owner_stays(self, chip: Chip) -> None:
        key = make_key(chip)
        handle = load(chip, key)
        chip.run(
            tss12.key_control_owner(
                handle, key.public_key, True, owner_auth=OWNER_AUTH, random=chip.client_random
            )
        )
        flush = tss12.flush_specific(handle, ResourceType.KEY)
        assert chip.code(flush) == ReturnCode.KEY_OWNER_CONTROL
        assert chip.code(tss12.evict_key(handle)) == ReturnCode.KEY_OWNER_CONTROL
        assert chip.run(tss12.handles(ResourceType.KEY)) == [handle]


class TestFlushingSessions:
    """TPM_FlushSpecific with TPM_RT_AUTH, and Terminate_Handle."""

    def test_the_session_is_gone(self, chip: Chip) -> None:
        one, two = chip.run(tss12.oiap()), chip.run(tss12.oiap())
        chip.run(tss12.flush_specific(one.handle, ResourceType.AUTH))
        assert sessions(chip) == [two.handle]
        chip.run(tss12.terminate_handle(two.handle))
        assert sessions(chip) == []

    def test_an_unknown_session_is_an_invalid_handle(self, chip: Chip) -> None:
        invalid = ReturnCode.INVALID_AUTHHANDLE
        assert chip.code(tss12.flush_specific(1, ResourceType.AUTH)) == invalid
        assert chip.code(tss12.flush_specific(1, ResourceType.TRANS)) == invalid
        assert chip.code(tss12.terminate_handle(1)) == invalid

    def test_works_on_a_disabled_chip_without_owner(self) -> None:
        chip = make_chip()
        session = chip.run(tss12.oiap())
        chip.assert_presence()
        chip.run(tss12.physical_disable())
        chip.run(tss12.flush_specific(session.handle, ResourceType.AUTH))
        assert sessions(chip) == []


class TestFlushingOthers:
    """The other resource types."""

    def test_a_flushed_context_can_never_be_loaded(self, chip: Chip) -> None:
        session = chip.run(tss12.oiap())
        blob = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
        (count,) = chip.run(tss12.handles(ResourceType.CONTEXT))
        chip.run(tss12.flush_specific(count, ResourceType.CONTEXT))
        assert chip.run(tss12.handles(ResourceType.CONTEXT)) == []
        assert chip.code(tss12.load_context(blob)) == ReturnCode.BADCONTEXT
        again = tss12.flush_specific(count, ResourceType.CONTEXT)
        assert chip.code(again) == ReturnCode.BAD_PARAMETER

    @pytest.mark.parametrize(
        ("resource", "code"),
        [
            (ResourceType.DAA_TPM, ReturnCode.BAD_PARAMETER),
            (ResourceType.HASH, ReturnCode.INVALID_RESOURCE),
            (ResourceType.COUNTER, ReturnCode.INVALID_RESOURCE),
            (ResourceType.DELEGATE, ReturnCode.INVALID_RESOURCE),
        ],
    )
    def test_other_types_are_refused(self, chip: Chip, resource: ResourceType, code: int) -> None:
        assert chip.code(tss12.flush_specific(1, resource)) == code


class TestReset:
    """TPM_Reset ends sessions and nothing else."""

    def test_all_sessions_end_and_keys_and_pcrs_stay(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip))
        chip.run(tss12.oiap())
        chip.run(tss12.osap(EntityType.SRK, 0, SRK_AUTH, random=chip.client_random))
        pcr = chip.run(tss12.extend(10, bytes(20)))
        chip.run(tss12.reset())
        assert sessions(chip) == []
        assert chip.run(tss12.handles(ResourceType.KEY)) == [handle]
        assert chip.run(tss12.pcr_read(10)) == pcr

    def test_contexts_of_save_context_stay_good(self, chip: Chip) -> None:
        session = chip.run(tss12.oiap())
        blob = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
        key = load(chip, make_key(chip))
        key_blob = chip.run(tss12.save_context(key, ResourceType.KEY))
        chip.run(tss12.flush_specific(key, ResourceType.KEY))
        chip.run(tss12.reset())
        assert chip.run(tss12.load_context(blob)) == session.handle
        assert chip.run(tss12.load_context(key_blob)) == key

    @pytest.mark.parametrize("restarted", [False, True])
    def test_sessions_of_the_deprecated_command_are_lost(self, chip: Chip, restarted: bool) -> None:
        before = chip.run(tss12.get_property(CapabilityProperty.CONTEXT))
        sessions = [chip.run(tss12.oiap()) for _ in range(3)]
        old = [chip.run(tss12.save_auth_context(session.handle)) for session in sessions[:2]]
        new = chip.run(tss12.save_context(sessions[2].handle, ResourceType.AUTH))
        if restarted:
            chip.restart()
        assert chip.run(tss12.load_auth_context(old[1])) == sessions[1].handle
        old[1] = chip.run(tss12.save_auth_context(sessions[1].handle))
        chip.run(tss12.reset())
        if restarted:
            chip.restart()
        # Their places in the list of saved contexts are free again.
        assert chip.run(tss12.get_property(CapabilityProperty.CONTEXT)) == before - 1
        for blob in old:
            assert chip.code(tss12.load_auth_context(blob)) == ReturnCode.BADCONTEXT
            assert chip.code(tss12.load_context(blob)) == ReturnCode.BADCONTEXT
        assert chip.run(tss12.load_context(new)) == sessions[2].handle

    @pytest.mark.parametrize("restarted", [False, True])
    def test_keys_of_the_deprecated_command_are_lost(self, chip: Chip, restarted: bool) -> None:
        key = load(chip, make_key(chip))
        old = chip.run(tss12.save_key_context(key))
        assert chip.run(tss12.load_key_context(old)) == key
        chip.run(tss12.reset())
        if restarted:
            chip.restart()
        assert chip.run(tss12.handles(ResourceType.KEY)) == [key]
        for _ in range(2):
            assert chip.code(tss12.load_key_context(old)) == ReturnCode.BADCONTEXT
            assert chip.code(tss12.load_context(old)) == ReturnCode.BADCONTEXT
            # A blob that is made now does not bring the older ones back.
            again = chip.run(tss12.save_key_context(key))
            assert chip.run(tss12.load_key_context(again)) == key

    def test_keys_of_the_deprecated_command_are_lost_without_power(self, chip: Chip) -> None:
        key = load(chip, make_key(chip))
        old = chip.run(tss12.save_key_context(key))
        chip.power_cycle()
        assert chip.code(tss12.load_key_context(old)) == ReturnCode.BADCONTEXT

    def test_either_command_loads_what_the_other_has_saved(self, chip: Chip) -> None:
        session, key = chip.run(tss12.oiap()), load(chip, make_key(chip))
        old = chip.run(tss12.save_auth_context(session.handle))
        assert chip.run(tss12.load_context(old)) == session.handle
        new = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
        assert chip.run(tss12.load_auth_context(new)) == session.handle
        old_key = chip.run(tss12.save_key_context(key))
        assert chip.run(tss12.load_context(old_key)) == key
