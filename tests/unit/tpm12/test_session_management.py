# SPDX-License-Identifier: Apache-2.0
"""Owner-evict keys, and contexts saved and loaded (Part 3, 21 and 27)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.tpm12.constants import (
    EncScheme,
    EntityType,
    KeyFlags,
    KeyUsage,
    NvAttributes,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import Key
from protocol.tpm12.resources import ContextBlob
from tests.unit.tpm12.test_eviction import KEY_AUTH, SIGNING, load, make_key, sessions
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation, Session
from tpmcore.tss12.conversation import nothing

NV_INDEX = 0x00010000
FLEETING = replace(SIGNING, key_flags=KeyFlags.IS_VOLATILE)


@pytest.fixture
def chip() -> Chip:
    """A chip with an owner."""
    return make_owned_chip()


def pin(chip: Chip, handle: int, key: Key, value: bool = True) -> Conversation[None]:
    """Set or clear OWNER_EVICT."""
    return tss12.key_control_owner(
        handle, key.public_key, value, owner_auth=OWNER_AUTH, random=chip.client_random
    )


def sign(chip: Chip, handle: int, session: Session | None = None) -> Conversation[bytes]:
    """Sign something."""
    return tss12.sign(
        handle, bytes(20), key_auth=KEY_AUTH, random=chip.client_random, session=session
    )


def keys(chip: Chip) -> list[int]:
    """Return the loaded keys."""
    return chip.run(tss12.handles(ResourceType.KEY))


class TestOwnerEvict:
    """TPM_KeyControlOwner."""

    def test_a_pinned_key_survives_power_off_under_its_handle(self, chip: Chip) -> None:
        key = make_key(chip)
        handle = load(chip, key)
        other = load(chip, key)
        chip.run(pin(chip, handle, key))
        chip.power_cycle()
        assert keys(chip) == [handle]
        assert other not in keys(chip)
        chip.run(sign(chip, handle))

    def test_an_unpinned_key_stays_until_power_off(self, chip: Chip) -> None:
        key = make_key(chip)
        handle = load(chip, key)
        chip.run(pin(chip, handle, key))
        chip.run(pin(chip, handle, key, False))
        assert keys(chip) == [handle]
        chip.restart()
        assert keys(chip) == [handle]
        chip.power_cycle()
        assert keys(chip) == []

    def test_a_key_whose_pinning_was_saved_is_pinned_after_a_kill(self, chip: Chip) -> None:
        key = make_key(chip)
        handle = load(chip, key)
        before = chip.engine.volatile_state()
        chip.run(pin(chip, handle, key))
        # Killed after the permanent state was saved and before the volatile one was kept.
        chip.engine = Tpm12Engine.restore(chip._world(), chip.profile, chip.durable, before)
        flushed = chip.code(tss12.flush_specific(handle, ResourceType.KEY))
        assert flushed == ReturnCode.KEY_OWNER_CONTROL

    def test_setting_what_is_set_is_a_success(self, chip: Chip) -> None:
        key = make_key(chip)
        handle = load(chip, key)
        chip.run(pin(chip, handle, key, False))
        chip.run(pin(chip, handle, key))
        chip.run(pin(chip, handle, key))
        chip.power_cycle()
        assert keys(chip) == [handle]

    def test_a_pinned_key_cannot_be_swapped_out(self, chip: Chip) -> None:
        key = make_key(chip)
        handle = load(chip, key)
        chip.run(pin(chip, handle, key))
        save = tss12.save_context(handle, ResourceType.KEY)
        assert chip.code(save) == ReturnCode.OWNER_CONTROL
        assert chip.code(tss12.save_key_context(handle)) == ReturnCode.OWNER_CONTROL
        assert keys(chip) == [handle]

    def test_the_owner_goes_and_takes_the_key_along(self, chip: Chip) -> None:
        key = make_key(chip)
        chip.run(pin(chip, load(chip, key), key))
        chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
        chip.power_cycle()
        assert keys(chip) == []

    def test_room_for_other_keys_is_kept(self) -> None:
        chip = make_owned_chip(Profile(max_keys=4))
        key = make_key(chip)
        for _ in range(2):
            chip.run(pin(chip, load(chip, key), key))
        third = load(chip, key)
        assert chip.code(pin(chip, third, key)) == ReturnCode.NOSPACE
        assert third in keys(chip)

    def test_refusals_in_the_order_of_the_table(self, chip: Chip) -> None:
        key, other = make_key(chip), make_key(chip)
        handle = load(chip, key)
        wrong = tss12.key_control_owner(
            0, key.public_key, True, owner_auth=bytes(20), random=chip.client_random
        )
        assert chip.code(wrong) == ReturnCode.AUTHFAIL
        for unknown in (1, ReservedHandle.SRK, ReservedHandle.EK):
            assert chip.code(pin(chip, unknown, key)) == ReturnCode.INVALID_KEYHANDLE
        assert chip.code(pin(chip, handle, other)) == ReturnCode.BAD_PARAMETER
        migration = make_key(
            chip,
            Key.template(
                KeyUsage.MIGRATE,
                enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1,
                sig_scheme=SigScheme.NONE,
            ),
        )
        attempt = pin(chip, load(chip, migration), migration)
        assert chip.code(attempt) == ReturnCode.INVALID_KEYUSAGE
        unknown_bit = tss12.execute(
            Ordinal.KEY_CONTROL_OWNER,
            nothing,
            handles=handle.to_bytes(4, "big"),
            parameters=key.public_key.encode() + bytes.fromhex("00000002 01"),
            auths=(tss12.prove(chip.run(tss12.oiap()), chip.client_random, secret=OWNER_AUTH),),
        )
        assert chip.code(unknown_bit) == ReturnCode.BAD_MODE
        fleeting = make_key(chip, FLEETING)
        attempt = pin(chip, load(chip, fleeting), fleeting)
        assert chip.code(attempt) == ReturnCode.BAD_PARAMETER

    def test_a_key_bound_to_pcrs_by_its_parent_is_refused(self, chip: Chip) -> None:
        info = tss12.pcr_info({16: chip.run(tss12.pcr_read(16))})
        parent = make_key(
            chip,
            Key.template(
                KeyUsage.STORAGE,
                enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1,
                sig_scheme=SigScheme.NONE,
                pcr_info=info,
            ),
        )
        parent_handle = load(chip, parent)
        child = chip.run(
            tss12.create_wrap_key(
                parent_handle,
                SIGNING,
                parent_auth=KEY_AUTH,
                usage_auth=KEY_AUTH,
                random=chip.client_random,
            )
        )
        handle = chip.run(
            tss12.load_key2(parent_handle, child, parent_auth=KEY_AUTH, random=chip.client_random)
        )
        assert chip.code(pin(chip, handle, child)) == ReturnCode.BAD_PARAMETER


class TestKeyContexts:
    """SaveContext and LoadContext of keys."""

    def test_a_key_stays_and_its_blob_loads_again_and_again(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip))
        blob = chip.run(tss12.save_context(handle, ResourceType.KEY, label=b"0123456789abcdef"))
        parsed = ContextBlob.decode(blob)
        assert (parsed.resource_type, parsed.handle) == (ResourceType.KEY, handle)
        assert (parsed.label, parsed.context_count) == (b"0123456789abcdef", 0)
        assert keys(chip) == [handle]
        second = chip.run(tss12.load_context(blob))
        third = chip.run(tss12.load_context(blob))
        assert len({handle, second, third}) == 3
        for loaded in (second, third):
            chip.run(sign(chip, loaded))
        assert chip.run(tss12.handles(ResourceType.CONTEXT)) == []

    def test_the_old_handle_comes_back_if_it_is_free(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip))
        blob = chip.run(tss12.save_context(handle, ResourceType.KEY))
        keep = tss12.load_context(blob, keep_handle=True)
        assert chip.code(keep) == ReturnCode.BAD_HANDLE
        chip.run(tss12.flush_specific(handle, ResourceType.KEY))
        assert chip.run(tss12.load_context(blob, keep_handle=True)) == handle

    def test_a_reloaded_key_survives_a_restart_under_its_new_handle(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip))
        blob = chip.run(tss12.save_context(handle, ResourceType.KEY))
        second = chip.run(tss12.load_context(blob))
        chip.restart()
        assert sorted(keys(chip)) == sorted([handle, second])
        chip.run(sign(chip, second))

    def test_a_blob_of_an_ordinary_key_survives_power_off(self, chip: Chip) -> None:
        blob = chip.run(tss12.save_context(load(chip, make_key(chip)), ResourceType.KEY))
        chip.power_cycle()
        chip.run(sign(chip, chip.run(tss12.load_context(blob))))

    def test_a_blob_of_a_volatile_key_does_not(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip, FLEETING))
        blob = chip.run(tss12.save_context(handle, ResourceType.KEY))
        chip.run(tss12.load_context(blob))
        chip.power_cycle()
        assert chip.code(tss12.load_context(blob)) == ReturnCode.BADCONTEXT
        assert keys(chip) == []

    def test_no_slot_is_no_space(self) -> None:
        chip = make_owned_chip(Profile(max_keys=2))
        handle = load(chip, make_key(chip))
        blob = chip.run(tss12.save_context(handle, ResourceType.KEY))
        chip.run(tss12.load_context(blob))
        assert chip.code(tss12.load_context(blob)) == ReturnCode.NOSPACE
        assert chip.code(tss12.load_key_context(blob)) == ReturnCode.RESOURCES

    def test_a_new_owner_ends_all_blobs(self, chip: Chip) -> None:
        blob = chip.run(tss12.save_context(load(chip, make_key(chip)), ResourceType.KEY))
        chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
        chip.assert_presence()
        chip.run(tss12.physical_enable())
        chip.run(
            tss12.take_ownership(
                owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=chip.client_random
            )
        )
        assert chip.code(tss12.load_context(blob)) == ReturnCode.BADCONTEXT

    def test_two_blobs_of_one_key_look_different(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip))
        one, two = (
            ContextBlob.decode(chip.run(tss12.save_context(handle, ResourceType.KEY)))
            for _ in range(2)
        )
        assert one.sensitive_data[:16] != two.sensitive_data[:16]

    def test_every_flipped_byte_is_noticed(self, chip: Chip) -> None:
        blob = chip.run(tss12.save_context(load(chip, make_key(chip)), ResourceType.KEY))
        # Around the fields and a stride through the ciphertext; the type has its own code.
        for position in [0, 1, *range(6, 90), *range(90, len(blob), 37)]:
            damaged = bytearray(blob)
            damaged[position] ^= 0x01
            assert chip.code(tss12.load_context(bytes(damaged))) == ReturnCode.BADCONTEXT
        assert len(keys(chip)) == 1

    def test_every_truncation_is_noticed(self, chip: Chip) -> None:
        blob = chip.run(tss12.save_context(load(chip, make_key(chip)), ResourceType.KEY))
        for size in [*range(70), len(blob) - 1]:
            assert chip.code(tss12.load_context(blob[:size])) == ReturnCode.BADCONTEXT
        assert chip.code(tss12.load_context(blob + b"\0")) == ReturnCode.BADCONTEXT

    def test_another_resource_type_is_refused(self, chip: Chip) -> None:
        blob = chip.run(tss12.save_context(load(chip, make_key(chip)), ResourceType.KEY))
        parsed = ContextBlob.decode(blob)
        hashing = replace(parsed, resource_type=ResourceType.HASH).encode()
        assert chip.code(tss12.load_context(hashing)) == ReturnCode.INVALID_RESOURCE
        session = replace(parsed, resource_type=ResourceType.AUTH).encode()
        assert chip.code(tss12.load_context(session)) == ReturnCode.BADCONTEXT
        assert chip.code(tss12.load_key_context(session)) == ReturnCode.BAD_PARAMETER
        assert chip.code(tss12.load_auth_context(blob)) == ReturnCode.BAD_PARAMETER

    @pytest.mark.parametrize(
        "resource", [ResourceType.KEY, ResourceType.AUTH, ResourceType.TRANS, ResourceType.HASH]
    )
    def test_what_is_not_there_cannot_be_saved(self, chip: Chip, resource: ResourceType) -> None:
        for handle in (1, ReservedHandle.SRK):
            save = tss12.save_context(handle, resource)
            assert chip.code(save) == ReturnCode.INVALID_RESOURCE


class TestSessionContexts:
    """SaveContext and LoadContext of sessions."""

    def test_a_session_leaves_and_returns_once(self, chip: Chip) -> None:
        session = chip.run(tss12.oiap())
        blob = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
        assert sessions(chip) == []
        assert chip.run(tss12.handles(ResourceType.CONTEXT)) == [1]
        assert chip.run(tss12.load_context(blob)) == session.handle
        assert chip.run(tss12.handles(ResourceType.CONTEXT)) == []
        assert chip.code(tss12.load_context(blob)) == ReturnCode.BADCONTEXT
        chip.run(
            tss12.owner_read_internal_pub(
                ReservedHandle.SRK, owner_auth=OWNER_AUTH, random=chip.client_random
            )
        )
        chip.run(
            tss12.increment_counter(  # uses the session that came back
                _counter(chip), counter_auth=KEY_AUTH, random=chip.client_random, session=session
            )
        )
        assert session.is_open

    def test_an_osap_session_on_a_key_finds_it_by_handle(self, chip: Chip) -> None:
        key = make_key(chip)
        handle, second = load(chip, key), load(chip, make_key(chip))
        session = chip.run(tss12.osap_key(handle, KEY_AUTH, random=chip.client_random))
        blob = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
        missing = ReturnCode.RESOURCEMISSING
        assert chip.code(tss12.load_context(blob)) == ReturnCode.BAD_HANDLE
        assert chip.code(tss12.load_context(blob, entity_handle=second)) == missing
        srk = tss12.load_context(blob, entity_handle=ReservedHandle.SRK)
        assert chip.code(srk) == missing
        chip.run(tss12.load_context(blob, entity_handle=handle))
        chip.run(sign(chip, handle, session))

    def test_sessions_on_owner_srk_counter_and_area_return(self, chip: Chip) -> None:
        count_id = _counter(chip)
        chip.run(
            tss12.nv_define_space(
                NV_INDEX,
                4,
                NvAttributes.AUTHWRITE,
                owner_auth=OWNER_AUTH,
                random=chip.client_random,
            )
        )
        random = chip.client_random
        for opened, entity in (
            (tss12.osap_owner(OWNER_AUTH, random=random), 0),
            (tss12.osap_key(ReservedHandle.SRK, SRK_AUTH, random=random), ReservedHandle.SRK),
            (tss12.osap(EntityType.COUNTER, count_id, KEY_AUTH, random=random), count_id),
            (tss12.osap(EntityType.NV, NV_INDEX, bytes(20), random=random), NV_INDEX),
        ):
            session = chip.run(opened)
            blob = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
            loaded = tss12.load_context(blob, entity_handle=entity)
            assert chip.run(loaded) == session.handle

    def test_sessions_on_what_is_gone_do_not_return(self, chip: Chip) -> None:
        count_id = _counter(chip)
        session = chip.run(
            tss12.osap(EntityType.COUNTER, count_id, KEY_AUTH, random=chip.client_random)
        )
        blob = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
        chip.run(tss12.release_counter(count_id, counter_auth=KEY_AUTH, random=chip.client_random))
        _counter(chip)
        attempt = tss12.load_context(blob, entity_handle=count_id)
        assert chip.code(attempt) == ReturnCode.RESOURCEMISSING
        owner = chip.run(tss12.osap_owner(OWNER_AUTH, random=chip.client_random))
        blob = chip.run(tss12.save_context(owner.handle, ResourceType.AUTH))
        chip.run(
            tss12.change_auth_owner(
                entity_type=EntityType.OWNER,
                owner_auth=OWNER_AUTH,
                new_auth=bytes(20),
                random=chip.client_random,
            )
        )
        assert chip.code(tss12.load_context(blob)) == ReturnCode.RESOURCEMISSING

    def test_startup_clear_ends_all_session_blobs(self, chip: Chip) -> None:
        session = chip.run(tss12.oiap())
        blob = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
        chip.power_cycle()
        assert chip.code(tss12.load_context(blob)) == ReturnCode.BADCONTEXT

    def test_a_restart_of_the_daemon_does_not(self, chip: Chip) -> None:
        session = chip.run(tss12.oiap())
        blob = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
        chip.restart()
        assert chip.run(tss12.load_context(blob)) == session.handle

    def test_a_blob_for_which_there_is_no_slot_stays_good(self) -> None:
        chip = make_owned_chip(Profile(max_sessions=2))
        session = chip.run(tss12.oiap())
        blob = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
        others = [chip.run(tss12.oiap()) for _ in range(2)]
        assert chip.code(tss12.load_context(blob)) == ReturnCode.RESOURCES
        assert chip.code(tss12.load_auth_context(blob)) == ReturnCode.RESOURCES
        chip.run(tss12.flush_specific(others[0].handle, ResourceType.AUTH))
        assert chip.run(tss12.load_context(blob)) == session.handle

    def test_as_many_can_be_outside_as_the_profile_says(self) -> None:
        chip = make_owned_chip(Profile(max_saved_contexts=16))
        blobs = []
        for _ in range(16):
            session = chip.run(tss12.oiap())
            blobs.append(chip.run(tss12.save_context(session.handle, ResourceType.AUTH)))
        session = chip.run(tss12.oiap())
        save = tss12.save_context(session.handle, ResourceType.AUTH)
        assert chip.code(save) == ReturnCode.NOCONTEXTSPACE
        assert sessions(chip) == [session.handle]
        chip.run(tss12.load_context(blobs[5]))
        chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
        counts = chip.run(tss12.handles(ResourceType.CONTEXT))
        assert counts == [*range(1, 6), *range(7, 17), 17]


class TestDeprecatedContexts:
    """The four commands that trousers swaps with."""

    def test_a_key_moves_out_and_in(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip))
        session = chip.run(tss12.osap_key(handle, KEY_AUTH, random=chip.client_random))
        blob = chip.run(tss12.save_key_context(handle))
        assert keys(chip) == []
        assert chip.run(tss12.load_key_context(blob)) == handle
        chip.run(sign(chip, handle, session))
        assert chip.code(tss12.save_key_context(1)) == ReturnCode.INVALID_KEYHANDLE

    def test_a_key_that_moved_out_does_not_return_after_power_off(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip))
        old = chip.run(tss12.save_key_context(handle))
        handle = load(chip, make_key(chip))
        new = chip.run(tss12.save_context(handle, ResourceType.KEY))
        chip.power_cycle()
        # Neither with the nonce of that boot gone nor with one of this boot.
        assert chip.code(tss12.load_key_context(old)) == ReturnCode.BADCONTEXT
        handle = chip.run(tss12.load_context(new))
        fresh = chip.run(tss12.save_key_context(handle))
        assert chip.code(tss12.load_key_context(old)) == ReturnCode.BADCONTEXT
        assert chip.run(tss12.load_key_context(fresh)) == handle

    def test_a_session_moves_out_and_in_once(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip))
        session = chip.run(tss12.osap_key(handle, KEY_AUTH, random=chip.client_random))
        blob = chip.run(tss12.save_auth_context(session.handle))
        assert sessions(chip) == []
        assert chip.run(tss12.load_auth_context(blob)) == session.handle
        chip.run(sign(chip, handle, session))
        assert chip.code(tss12.load_auth_context(blob)) == ReturnCode.BADCONTEXT
        assert chip.code(tss12.save_auth_context(1)) == ReturnCode.INVALID_AUTHHANDLE

    def test_a_session_whose_key_is_gone_does_not_return(self, chip: Chip) -> None:
        handle = load(chip, make_key(chip))
        session = chip.run(tss12.osap_key(handle, KEY_AUTH, random=chip.client_random))
        blob = chip.run(tss12.save_auth_context(session.handle))
        chip.run(tss12.flush_specific(handle, ResourceType.KEY))
        assert chip.code(tss12.load_auth_context(blob)) == ReturnCode.RESOURCEMISSING

    def test_sessions_on_every_entity_return(self, chip: Chip) -> None:
        count_id = _counter(chip)
        random = chip.client_random
        chip.run(
            tss12.nv_define_space(
                NV_INDEX, 4, NvAttributes.AUTHWRITE, owner_auth=OWNER_AUTH, random=random
            )
        )
        for opened in (
            tss12.oiap(),
            tss12.osap_owner(OWNER_AUTH, random=random),
            tss12.osap_key(ReservedHandle.SRK, SRK_AUTH, random=random),
            tss12.osap(EntityType.COUNTER, count_id, KEY_AUTH, random=random),
            tss12.osap(EntityType.NV, NV_INDEX, bytes(20), random=random),
        ):
            session = chip.run(opened)
            blob = chip.run(tss12.save_auth_context(session.handle))
            assert chip.run(tss12.load_auth_context(blob)) == session.handle

    def test_swapping_serves_more_sessions_than_there_are_slots(self) -> None:
        chip = make_owned_chip(Profile(max_sessions=2))
        outside = []
        for _ in range(5):
            session = chip.run(tss12.oiap())
            outside.append((session, chip.run(tss12.save_auth_context(session.handle))))
        for session, blob in outside:
            assert chip.run(tss12.load_auth_context(blob)) == session.handle
            chip.run(tss12.terminate_handle(session.handle))


def _counter(chip: Chip) -> int:
    """Make a counter with KEY_AUTH and return its countID."""
    return chip.run(
        tss12.create_counter(
            owner_auth=OWNER_AUTH, counter_auth=KEY_AUTH, label=b"test", random=chip.client_random
        )
    ).count_id
