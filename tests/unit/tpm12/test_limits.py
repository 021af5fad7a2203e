# SPDX-License-Identifier: Apache-2.0
"""Sessions, keys and NV up to the last slot and byte of a TPM as it is sold, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from protocol.tpm12.constants import (
    CapabilityArea,
    CapabilityProperty,
    EntityType,
    NvAttributes,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.keys import Key
from protocol.tpm12.resources import ContextBlob
from protocol.tpm12.wire import SIZED, U32, Reader
from tests.unit.tpm12.keychain import (
    USAGE_AUTH,
    load,
    load_code,
    make_key,
    sha1,
    signing_key,
    verifies,
)
from tests.unit.tpm12.tunnel import PLAIN, open_tunnel
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tss12 import Conversation, Session
from tpmcore.tss12.sessions import prove

PROPERTY = CapabilityProperty
LEAST_SESSIONS, LEAST_KEYS = 16, 20
AREA_OVERHEAD_BYTES = 91
"""What an area costs beside its data: TPM_NV_DATA_PUBLIC and its secret."""
OWNED_AREA = NvAttributes.OWNERREAD | NvAttributes.OWNERWRITE
AREA = 0x00010000
MESSAGE = sha1(b"a message")


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


def _property(chip: Chip, name: CapabilityProperty) -> int:
    return chip.run(tss12.get_property(name))


def _countdown(chip: Chip, free: CapabilityProperty, whole: CapabilityProperty) -> Iterator[int]:
    """Count until nothing is free; the answer must be one less each time around."""
    left = _property(chip, whole)
    while left:
        assert _property(chip, free) == left
        yield left
        left -= 1
    assert _property(chip, free) == 0


@dataclass
class Signer:
    """A loaded key and what is known of it."""

    key: Key
    handle: int

    def signs(self, chip: Chip, session: Session | None = None) -> None:
        """Sign with it, under a session of its own or one that stays."""
        signature = chip.run(
            tss12.sign(
                self.handle,
                MESSAGE,
                key_auth=USAGE_AUTH,
                random=chip.client_random,
                session=session,
            )
        )
        assert verifies(self.key.pub_key, MESSAGE, signature)


@pytest.fixture
def signer(chip: Chip) -> Signer:
    key = make_key(chip, signing_key())
    return Signer(key, load(chip, key))


class TestSessions:
    """Authorization sessions, of both kinds in turn."""

    def _open(self, chip: Chip, signer: Signer, number: int) -> Session:
        return chip.run(self._opening(chip, signer, number))

    def _opening(self, chip: Chip, signer: Signer, number: int) -> Conversation[Session]:
        if number % 2:
            return tss12.oiap()
        random = chip.client_random
        return tss12.osap(EntityType.KEYHANDLE, signer.handle, USAGE_AUTH, random=random)

    def _fill(self, chip: Chip, signer: Signer) -> list[Session]:
        return [
            self._open(chip, signer, left)
            for left in _countdown(chip, PROPERTY.AUTHSESS, PROPERTY.MAX_AUTHSESS)
        ]

    def _assert_full(self, chip: Chip, signer: Signer, sessions: list[Session]) -> None:
        for number in range(2):
            code = chip.code(self._opening(chip, signer, number))
            assert code == ReturnCode.RESOURCES
        # Every one of them is alive.
        for session in sessions:
            signer.signs(chip, session)
        handles = chip.run(tss12.handles(ResourceType.AUTH))
        assert sorted(handles) == sorted([session.handle for session in sessions])

    def test_all_slots_can_be_used_at_once(self, chip: Chip, signer: Signer) -> None:
        whole = _property(chip, PROPERTY.SESSIONS)
        sessions = self._fill(chip, signer)
        assert len(sessions) >= LEAST_SESSIONS
        assert _property(chip, PROPERTY.SESSIONS) == whole - len(sessions)
        self._assert_full(chip, signer, sessions)
        chip.restart()
        self._assert_full(chip, signer, sessions)

    def test_a_flush_makes_room_for_one(self, chip: Chip, signer: Signer) -> None:
        sessions = self._fill(chip, signer)
        gone = sessions.pop(3)
        chip.run(tss12.flush_specific(gone.handle, ResourceType.AUTH))
        assert _property(chip, PROPERTY.AUTHSESS) == 1
        sessions.append(self._open(chip, signer, 0))
        self._assert_full(chip, signer, sessions)

    def test_a_use_without_continue_makes_room_for_one(self, chip: Chip, signer: Signer) -> None:
        sessions = self._fill(chip, signer)
        last = sessions.pop()
        chip.run(_sign_and_end(chip, signer, last))
        assert not last.is_open
        assert _property(chip, PROPERTY.AUTHSESS) == 1
        sessions.append(self._open(chip, signer, 1))
        self._assert_full(chip, signer, sessions)

    def test_an_error_makes_room_for_one(self, chip: Chip, signer: Signer) -> None:
        sessions = self._fill(chip, signer)
        wrong = Session(sessions[0].handle, sessions[0].protocol, bytes(20), bytes(20))
        sign = tss12.sign(
            signer.handle, MESSAGE, key_auth=bytes(20), random=chip.client_random, session=wrong
        )
        assert chip.code(sign) == ReturnCode.AUTHFAIL
        del sessions[0]
        sessions.append(self._open(chip, signer, 1))
        self._assert_full(chip, signer, sessions)

    @pytest.mark.parametrize("deprecated", [False, True])
    def test_saved_ones_make_room_and_come_back_when_there_is_room(
        self, chip: Chip, signer: Signer, deprecated: bool
    ) -> None:
        sessions = self._fill(chip, signer)
        outside = []
        for session in sessions[:4]:
            save = (
                tss12.save_auth_context(session.handle)
                if deprecated
                else tss12.save_context(session.handle, ResourceType.AUTH)
            )
            outside.append((session, chip.run(save)))
        assert _property(chip, PROPERTY.AUTHSESS) == 4
        others = [self._open(chip, signer, number) for number in range(4)]
        self._assert_full(chip, signer, sessions[4:] + others)
        for session, blob in outside:
            back = (
                tss12.load_auth_context(blob)
                if deprecated
                else tss12.load_context(blob, entity_handle=signer.handle)
            )
            assert chip.code(back) == ReturnCode.RESOURCES
            chip.run(tss12.flush_specific(others.pop().handle, ResourceType.AUTH))
            back = (
                tss12.load_auth_context(blob)
                if deprecated
                else tss12.load_context(blob, entity_handle=signer.handle)
            )
            assert chip.run(back) == session.handle
        self._assert_full(chip, signer, sessions)

    def test_two_sessions_for_one_command_need_two_slots(self, chip: Chip, signer: Signer) -> None:
        sessions = self._fill(chip, signer)
        area = tss12.nv_define_space(
            AREA, 8, OWNED_AREA, owner_auth=OWNER_AUTH, random=chip.client_random
        )
        assert chip.code(area) == ReturnCode.RESOURCES
        chip.run(tss12.flush_specific(sessions[0].handle, ResourceType.AUTH))
        area = tss12.nv_define_space(
            AREA, 8, OWNED_AREA, owner_auth=OWNER_AUTH, random=chip.client_random
        )
        chip.run(area)

    def test_a_reset_and_a_power_cycle_empty_all_slots(self, chip: Chip, signer: Signer) -> None:
        whole = len(self._fill(chip, signer))
        chip.run(tss12.reset())
        assert len(self._fill(chip, signer)) == whole
        chip.power_cycle()
        assert _property(chip, PROPERTY.AUTHSESS) == whole


def _sign_and_end(chip: Chip, signer: Signer, session: Session) -> Conversation[bytes]:
    """Sign under a session that is not to continue."""
    return tss12.execute(
        Ordinal.SIGN,
        Reader.sized,
        handles=U32.write(signer.handle),
        parameters=SIZED.write(MESSAGE),
        auths=(prove(session, chip.client_random, secret=USAGE_AUTH),),
    )


class TestTransports:
    """Transport sessions have slots of their own."""

    def test_all_slots_can_be_used_and_a_flush_makes_room(self, chip: Chip) -> None:
        tunnels = [
            open_tunnel(chip, PLAIN)
            for _ in _countdown(chip, PROPERTY.TRANSESS, PROPERTY.MAX_TRANSESS)
        ]
        full = tss12.establish_transport(PLAIN, random=chip.client_random)
        assert chip.code(full) == ReturnCode.RESOURCES
        for tunnel in tunnels:
            assert chip.run(tss12.through(tunnel, tss12.pcr_read(0))) == bytes(20)
        handle = tunnels[0].channel.handle
        chip.run(tss12.flush_specific(handle, ResourceType.TRANS))
        open_tunnel(chip, PLAIN)
        assert _property(chip, PROPERTY.TRANSESS) == 0


class TestSavedContexts:
    """Sessions outside of the TPM, which it remembers."""

    def test_the_list_can_be_filled_and_goes_on_after_a_flush(self, chip: Chip) -> None:
        blobs = []
        for _ in _countdown(chip, PROPERTY.CONTEXT, PROPERTY.MAX_CONTEXT):
            session = chip.run(tss12.oiap())
            blobs.append((session, chip.run(tss12.save_context(session.handle, ResourceType.AUTH))))
        last = chip.run(tss12.oiap())
        save = tss12.save_context(last.handle, ResourceType.AUTH)
        assert chip.code(save) == ReturnCode.NOCONTEXTSPACE
        assert chip.run(tss12.handles(ResourceType.AUTH)) == [last.handle]
        oldest = chip.run(tss12.handles(ResourceType.CONTEXT))[0]
        chip.run(tss12.flush_specific(oldest, ResourceType.CONTEXT))
        chip.run(tss12.save_context(last.handle, ResourceType.AUTH))
        assert chip.code(tss12.load_context(blobs[0][1])) == ReturnCode.BADCONTEXT
        session, blob = blobs[1]
        assert chip.run(tss12.load_context(blob)) == session.handle
        assert _property(chip, PROPERTY.CONTEXT) == 1

    def test_the_count_of_contexts_ends_where_it_has_no_next(self, chip: Chip) -> None:
        # It takes 2^32 - 2 contexts to get there.
        chip.engine._tpm.stany.context_count = 0xFFFFFFFE
        last = chip.run(tss12.oiap())
        blob = chip.run(tss12.save_context(last.handle, ResourceType.AUTH))
        assert ContextBlob.decode(blob).context_count == 0xFFFFFFFF
        session = chip.run(tss12.oiap())
        for restarted in (False, True):
            if restarted:
                chip.restart()
            save = tss12.save_context(session.handle, ResourceType.AUTH)
            assert chip.code(save) == ReturnCode.TOOMANYCONTEXTS
            assert chip.run(tss12.handles(ResourceType.AUTH)) == [session.handle]
        assert chip.run(tss12.load_context(blob)) == last.handle


class TestKeys:
    """Key slots."""

    def _fill(self, chip: Chip) -> list[Signer]:
        signers = []
        for _ in _countdown(chip, PROPERTY.KEYS, PROPERTY.MAX_KEYS):
            key = make_key(chip, signing_key())
            signers.append(Signer(key, load(chip, key)))
        return signers

    def _assert_full(self, chip: Chip, signers: list[Signer]) -> None:
        assert _property(chip, PROPERTY.KEYS) == 0
        assert not self._says_that_one_can_be_loaded(chip)
        for signer in signers:
            signer.signs(chip)
        handles = chip.run(tss12.handles(ResourceType.KEY))
        assert sorted(handles) == sorted([signer.handle for signer in signers])

    def _says_that_one_can_be_loaded(self, chip: Chip) -> bool:
        parms = signing_key().algorithm_parms.encode()
        answer = chip.run(tss12.get_capability(CapabilityArea.CHECK_LOADED, parms))
        return answer == b"\x01"

    def test_all_slots_can_be_used_at_once(self, chip: Chip) -> None:
        assert self._says_that_one_can_be_loaded(chip)
        signers = self._fill(chip)
        assert len(signers) >= LEAST_KEYS
        self._assert_full(chip, signers)
        assert load_code(chip, signers[0].key) == ReturnCode.NOSPACE
        chip.restart()
        self._assert_full(chip, signers)

    def test_a_flush_makes_room_for_one(self, chip: Chip) -> None:
        signers = self._fill(chip)
        another = make_key(chip, signing_key())
        for evict in (
            tss12.flush_specific(signers[0].handle, ResourceType.KEY),
            tss12.evict_key(signers[1].handle),
        ):
            assert load_code(chip, another) == ReturnCode.NOSPACE
            chip.run(evict)
            assert self._says_that_one_can_be_loaded(chip)
            signers.append(Signer(another, load(chip, another)))
        self._assert_full(chip, signers[2:])

    def test_more_keys_than_slots_take_turns(self, chip: Chip) -> None:
        signers = self._fill(chip)
        blobs = [chip.run(tss12.save_context(s.handle, ResourceType.KEY)) for s in signers]
        # A saved key stays where it is until it is flushed.
        self._assert_full(chip, signers)
        assert chip.code(tss12.load_context(blobs[0])) == ReturnCode.NOSPACE
        for signer in signers:
            chip.run(tss12.flush_specific(signer.handle, ResourceType.KEY))
        others = self._fill(chip)
        for signer, other, blob in zip(signers, others, blobs, strict=True):
            assert chip.code(tss12.load_context(blob)) == ReturnCode.NOSPACE
            out = chip.run(tss12.save_key_context(other.handle))
            signer.handle = chip.run(tss12.load_context(blob))
            signer.signs(chip)
            assert chip.code(tss12.load_key_context(out)) == ReturnCode.RESOURCES
        self._assert_full(chip, signers)

    def test_a_power_cycle_empties_all_slots_and_the_blobs_load_again(self, chip: Chip) -> None:
        signers = self._fill(chip)
        chip.power_cycle()
        assert _property(chip, PROPERTY.KEYS) == len(signers)
        for signer in signers:
            signer.handle = load(chip, signer.key)
        self._assert_full(chip, signers)

    def test_the_storage_root_key_takes_no_slot(self, chip: Chip) -> None:
        whole = _property(chip, PROPERTY.MAX_KEYS)
        assert _property(chip, PROPERTY.KEYS) == whole
        assert ReservedHandle.SRK not in chip.run(tss12.handles(ResourceType.KEY))


class TestNv:
    """The room for NV areas, to the last byte."""

    def _define(self, chip: Chip, index: int, size: int) -> Conversation[None]:
        random = chip.client_random
        return tss12.nv_define_space(index, size, OWNED_AREA, owner_auth=OWNER_AUTH, random=random)

    def _write(self, chip: Chip, index: int, data: bytes, offset: int = 0) -> Conversation[None]:
        random = chip.client_random
        return tss12.nv_write_value(
            index, data, offset=offset, owner_auth=OWNER_AUTH, random=random
        )

    def _read(self, chip: Chip, index: int, size: int, offset: int = 0) -> Conversation[bytes]:
        random = chip.client_random
        return tss12.nv_read_value(index, size, offset=offset, owner_auth=OWNER_AUTH, random=random)

    def _fill(self, chip: Chip) -> dict[int, int]:
        """Define areas until there is no byte left; their sizes by index."""
        sizes: dict[int, int] = {}
        free = _property(chip, PROPERTY.MAX_NV_AVAILABLE)
        while free:
            index = AREA + len(sizes)
            size = min(3000, free - AREA_OVERHEAD_BYTES)
            left = free - AREA_OVERHEAD_BYTES - size
            if 0 < left <= AREA_OVERHEAD_BYTES:
                size -= AREA_OVERHEAD_BYTES + 1
            chip.run(self._define(chip, index, size))
            sizes[index] = size
            free -= AREA_OVERHEAD_BYTES + size
            assert _property(chip, PROPERTY.MAX_NV_AVAILABLE) == free
        return sizes

    def _data(self, index: int, size: int) -> bytes:
        return (index.to_bytes(4, "big") * (size // 4 + 1))[:size]

    def _assert_full(self, chip: Chip, sizes: dict[int, int]) -> None:
        assert _property(chip, PROPERTY.MAX_NV_AVAILABLE) == 0
        assert chip.code(self._define(chip, AREA + 500, 1)) == ReturnCode.NOSPACE
        assert sorted(chip.run(tss12.nv_list())) == sorted(sizes)
        for index, size in sizes.items():
            for start in range(0, size, 1024):
                part = min(1024, size - start)
                data = chip.run(self._read(chip, index, part, start))
                assert data == self._data(index, size)[start : start + part]

    def test_the_last_byte_can_be_used_and_one_more_cannot(self, chip: Chip) -> None:
        free = _property(chip, PROPERTY.MAX_NV_AVAILABLE)
        whole = free - AREA_OVERHEAD_BYTES
        assert chip.code(self._define(chip, AREA, whole + 1)) == ReturnCode.NOSPACE
        assert chip.run(tss12.nv_list()) == []
        chip.run(self._define(chip, AREA, whole))
        assert _property(chip, PROPERTY.MAX_NV_AVAILABLE) == 0
        chip.run(self._write(chip, AREA, b"!", whole - 1))
        assert chip.code(self._write(chip, AREA, b"!", whole)) == ReturnCode.NOSPACE
        assert chip.run(self._read(chip, AREA, 2, whole - 2)) == b"\xff!"

    def test_a_full_tpm_keeps_everything_and_goes_on_after_a_release(self, chip: Chip) -> None:
        sizes = self._fill(chip)
        for index, size in sizes.items():
            data = self._data(index, size)
            for start in range(0, size, 1024):
                chip.run(self._write(chip, index, data[start : start + 1024], start))
        self._assert_full(chip, sizes)
        chip.restart()
        self._assert_full(chip, sizes)
        chip.power_cycle()
        self._assert_full(chip, sizes)

        released = AREA + 1
        chip.run(self._define(chip, released, 0))
        assert _property(chip, PROPERTY.MAX_NV_AVAILABLE) == AREA_OVERHEAD_BYTES + sizes[released]
        too_large = self._define(chip, released, sizes[released] + 1)
        assert chip.code(too_large) == ReturnCode.NOSPACE
        assert released not in chip.run(tss12.nv_list())
        chip.run(self._define(chip, released, sizes[released]))
        # What was there before does not shine through.
        assert chip.run(self._read(chip, released, 8)) == b"\xff" * 8
        chip.run(self._write(chip, released, self._data(released, sizes[released])[:1024]))
        rest = self._data(released, sizes[released])[1024:]
        for start in range(0, len(rest), 1024):
            chip.run(self._write(chip, released, rest[start : start + 1024], 1024 + start))
        self._assert_full(chip, sizes)

    def test_an_area_is_replaced_by_one_that_only_fits_in_its_place(self, chip: Chip) -> None:
        sizes = self._fill(chip)
        index = AREA + 1
        chip.run(self._define(chip, index, sizes[index]))
        assert _property(chip, PROPERTY.MAX_NV_AVAILABLE) == 0
        assert chip.code(self._define(chip, index, sizes[index] + 1)) == ReturnCode.NOSPACE
