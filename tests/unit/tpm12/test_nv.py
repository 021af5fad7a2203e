# SPDX-License-Identifier: Apache-2.0
"""Non-volatile storage: definition, permissions, locks, sizes (Part 3, 20)."""

from __future__ import annotations

import pytest

from protocol.tpm12.constants import (
    EntityType,
    NvAttributes,
    NvIndex,
    Ordinal,
    PhysicalPresenceFlags,
    ResourceType,
    ReturnCode,
    Tag,
)
from protocol.tpm12.framing import build_message
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import Done, Failed
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation, Session
from tpmcore.tss12.conversation import nothing

INDEX = 0x00011234
AREA_AUTH = b"area-secret-of-tests"
FREE = NvAttributes.PPWRITE
OWNED = NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD
AUTHED = NvAttributes.AUTHWRITE | NvAttributes.AUTHREAD


@pytest.fixture
def chip() -> Chip:
    """A chip with an owner and enforced NV permissions."""
    chip = make_owned_chip()
    chip.run(tss12.nv_lock())
    return chip


@pytest.fixture
def blank() -> Chip:
    """A new chip: no owner, nvLocked FALSE."""
    return make_chip()


def define(
    chip: Chip, attributes: int, size: int = 8, index: int = INDEX, **infos: object
) -> Conversation[None]:
    """Define an area as owner."""
    return tss12.nv_define_space(
        index,
        size,
        NvAttributes(attributes),
        owner_auth=OWNER_AUTH,
        area_auth=AREA_AUTH,
        random=chip.client_random,
        **infos,  # type: ignore[arg-type]
    )


def define_freely(
    attributes: int, size: int = 8, index: int = INDEX, auth: bytes = AREA_AUTH
) -> Conversation[None]:
    """Define an area without authorization."""
    return tss12.nv_define_space(index, size, NvAttributes(attributes), area_auth=auth)


def write(chip: Chip, data: bytes, index: int = INDEX, offset: int = 0) -> Conversation[None]:
    """Write as owner."""
    return tss12.nv_write_value(
        index, data, offset=offset, owner_auth=OWNER_AUTH, random=chip.client_random
    )


def read(chip: Chip, size: int, index: int = INDEX, offset: int = 0) -> Conversation[bytes]:
    """Read as owner."""
    return tss12.nv_read_value(
        index, size, offset=offset, owner_auth=OWNER_AUTH, random=chip.client_random
    )


def write_auth(chip: Chip, data: bytes, auth: bytes = AREA_AUTH) -> Conversation[None]:
    """Write with the area's secret."""
    return tss12.nv_write_value_auth(INDEX, data, area_auth=auth, random=chip.client_random)


def read_auth(chip: Chip, size: int, auth: bytes = AREA_AUTH) -> Conversation[bytes]:
    """Read with the area's secret."""
    return tss12.nv_read_value_auth(INDEX, size, area_auth=auth, random=chip.client_random)


class TestDefining:
    """TPM_NV_DefineSpace."""

    def test_a_new_area_is_all_ones_and_told_by_capability(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED, 16))
        assert chip.run(read(chip, 16)) == b"\xff" * 16
        assert chip.run(tss12.nv_list()) == [INDEX]
        public = chip.run(tss12.nv_public(INDEX))
        assert (public.nv_index, public.data_size) == (INDEX, 16)
        assert public.permission.attributes == OWNED
        assert (public.b_read_st_clear, public.b_write_st_clear) == (False, False)
        assert not public.b_write_define

    def test_the_session_ends_with_the_definition(self, chip: Chip) -> None:
        session = chip.run(tss12.osap_owner(OWNER_AUTH, random=chip.client_random))
        chip.run(
            tss12.execute(
                Ordinal.NV_DEFINE_SPACE,
                nothing,
                parameters=_public(OWNED) + tss12.encrypt_secret(session, AREA_AUTH),
                auths=(tss12.prove(session, chip.client_random, keep=True),),
            )
        )
        assert not session.is_open

    def test_an_area_survives_power_off(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED))
        chip.run(write(chip, b"durable!"))
        chip.power_cycle()
        assert chip.run(read(chip, 8)) == b"durable!"

    def test_a_definition_that_could_not_be_stored_did_not_happen(self, chip: Chip) -> None:
        chip.persist_result = Failed()
        assert chip.code(define(chip, OWNED)) == ReturnCode.IOERROR
        chip.persist_result = Done()
        assert chip.run(tss12.nv_list()) == []
        assert chip.code(read(chip, 8)) == ReturnCode.BADINDEX

    def test_size_zero_deletes(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED))
        free = chip.run(tss12.max_nv_available())
        chip.run(define(chip, 0, 0))
        assert chip.run(tss12.nv_list()) == []
        assert chip.run(tss12.max_nv_available()) > free

    def test_deleting_what_is_not_there_is_refused(self, chip: Chip) -> None:
        assert chip.code(define(chip, OWNED, 0)) == ReturnCode.BAD_PARAM_SIZE

    def test_redefining_erases_and_drops_sessions_on_the_old_area(self, chip: Chip) -> None:
        chip.run(define(chip, AUTHED))
        chip.run(write_auth(chip, b"content."))
        session = _osap_on_area(chip)
        chip.run(define(chip, AUTHED, 4))
        assert chip.run(read_auth(chip, 4)) == b"\xff" * 4
        assert session.handle not in chip.run(tss12.handles(ResourceType.AUTH))

    @pytest.mark.parametrize(
        ("attributes", "size", "code"),
        [
            (NvAttributes.OWNERWRITE | NvAttributes.AUTHWRITE, 8, ReturnCode.AUTH_CONFLICT),
            (NvAttributes.OWNERREAD, 8, ReturnCode.PER_NOWRITE),
            (OWNED, 0x100000, ReturnCode.NOSPACE),
        ],
    )
    def test_a_new_definition_that_is_refused_has_deleted_the_old_area(
        self, chip: Chip, attributes: int, size: int, code: ReturnCode
    ) -> None:
        chip.run(define(chip, OWNED))
        assert chip.code(define(chip, attributes, size)) == code
        assert chip.run(tss12.nv_list()) == []
        assert chip.code(read(chip, 1)) == ReturnCode.BADINDEX

    @pytest.mark.parametrize(
        "attributes",
        [
            NvAttributes.OWNERWRITE | NvAttributes.AUTHWRITE,
            NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD | NvAttributes.AUTHREAD,
        ],
    )
    def test_owner_and_area_secret_exclude_each_other(self, chip: Chip, attributes: int) -> None:
        assert chip.code(define(chip, attributes)) == ReturnCode.AUTH_CONFLICT
        assert chip.run(tss12.nv_list()) == []

    def test_reading_by_secret_and_writing_by_owner_may_be_mixed(self, chip: Chip) -> None:
        chip.run(define(chip, NvAttributes.OWNERWRITE | NvAttributes.AUTHREAD))
        chip.run(write(chip, b"mixed..."))
        assert chip.run(read_auth(chip, 8)) == b"mixed..."

    def test_an_area_that_everybody_could_write_is_refused(self, chip: Chip) -> None:
        assert chip.code(define(chip, NvAttributes.OWNERREAD)) == ReturnCode.PER_NOWRITE

    def test_a_locality_for_writing_is_protection_enough(self, chip: Chip) -> None:
        somewhere = tss12.pcr_info_short(localities=0x04)
        chip.run(define(chip, 0, pcr_info_write=somewhere))
        assert chip.code(tss12.nv_write_value(INDEX, b"x")) == ReturnCode.BAD_LOCALITY
        assert chip.code(tss12.nv_write_value(INDEX, b"x"), locality=2) == ReturnCode.SUCCESS

    @pytest.mark.parametrize(
        "index",
        [
            NvIndex.INDEX0,
            NvIndex.DIR,
            NvIndex.LOCK,
            0x01000000,  # reserved bit
            0x10001234,  # D bit, once locked
        ],
    )
    def test_indices_that_are_not_for_users_are_refused(self, chip: Chip, index: int) -> None:
        assert chip.code(define(chip, OWNED, index=index)) == ReturnCode.BADINDEX

    def test_more_than_there_is_room_for_is_refused_whatever_the_size(self, chip: Chip) -> None:
        assert chip.code(define(chip, OWNED, 0xFFFFFFFF)) == ReturnCode.NOSPACE
        assert chip.code(define(chip, OWNED, 30000)) == ReturnCode.NOSPACE
        assert chip.run(tss12.nv_list()) == []

    def test_the_whole_room_can_be_used(self) -> None:
        chip = make_owned_chip(Profile(nv_space_bytes=1000))
        available = chip.run(tss12.max_nv_available())
        while chip.code(define(chip, OWNED, 100, index=INDEX + available)) == 0:
            available -= 1
        assert chip.run(tss12.max_nv_available()) < 200

    def test_the_trial_index_tests_for_room_and_stores_nothing(self, chip: Chip) -> None:
        assert chip.code(define(chip, OWNED, 64, index=NvIndex.TRIAL)) == ReturnCode.SUCCESS
        assert chip.code(define(chip, OWNED, 30000, index=NvIndex.TRIAL)) == ReturnCode.NOSPACE
        assert chip.run(tss12.nv_list()) == []

    def test_a_wrong_owner_secret_defines_nothing(self, chip: Chip) -> None:
        wrong = tss12.nv_define_space(
            INDEX, 8, OWNED, owner_auth=bytes(20), random=chip.client_random
        )
        assert chip.code(wrong) == ReturnCode.AUTHFAIL
        assert chip.run(tss12.nv_list()) == []

    def test_an_oiap_session_cannot_carry_the_secret(self, chip: Chip) -> None:
        session = chip.run(tss12.oiap())
        body = tss12.execute(
            Ordinal.NV_DEFINE_SPACE,
            nothing,
            parameters=_public(OWNED) + bytes(20),
            auths=(tss12.prove(session, chip.client_random, secret=OWNER_AUTH),),
        )
        assert chip.code(body) == ReturnCode.BAD_MODE

    def test_without_owner_it_needs_presence_once_locked(self, blank: Chip) -> None:
        blank.run(tss12.nv_lock())
        assert blank.code(define_freely(FREE)) == ReturnCode.BAD_PRESENCE
        blank.assert_presence()
        assert blank.code(define_freely(FREE)) == ReturnCode.SUCCESS
        assert blank.code(define_freely(FREE, 0)) == ReturnCode.BAD_DATASIZE

    def test_with_an_owner_nobody_else_defines(self, chip: Chip) -> None:
        chip.assert_presence()
        assert chip.code(define_freely(FREE)) == ReturnCode.OWNER_SET

    def test_a_chip_without_owner_refuses_the_owner_form(self, blank: Chip) -> None:
        session = blank.run(tss12.oiap())
        body = tss12.execute(
            Ordinal.NV_DEFINE_SPACE,
            nothing,
            parameters=_public(OWNED) + bytes(20),
            auths=(tss12.prove(session, blank.client_random, secret=bytes(20)),),
        )
        assert blank.code(body) == ReturnCode.AUTHFAIL

    def test_locking_with_a_size_is_refused(self, blank: Chip) -> None:
        assert blank.code(define_freely(0, 1, NvIndex.LOCK)) == ReturnCode.BADINDEX
        assert not blank.run(tss12.permanent_flags()).nv_locked

    def test_the_lock_survives_power_off(self, blank: Chip) -> None:
        blank.run(tss12.nv_lock())
        blank.power_cycle()
        assert blank.run(tss12.permanent_flags()).nv_locked

    @pytest.mark.parametrize(
        ("offset", "value", "code"),
        [
            (1, 0x19, ReturnCode.INVALID_STRUCTURE),  # tag of the structure
            (59, 0x18, ReturnCode.INVALID_STRUCTURE),  # tag of the attributes
            (11, 0x20, ReturnCode.INVALID_STRUCTURE),  # localityAtRelease of pcrInfoRead
            (7, 0x04, ReturnCode.INVALID_PCR_INFO),  # sizeOfSelect of pcrInfoRead
            (64, 0x02, ReturnCode.BAD_PARAMETER),  # bReadSTClear is no bool
        ],
    )
    def test_a_damaged_definition_is_refused(
        self, blank: Chip, offset: int, value: int, code: int
    ) -> None:
        public = bytearray(_public(OWNED))
        public[offset] = value
        body = tss12.execute(Ordinal.NV_DEFINE_SPACE, nothing, parameters=bytes(public) + bytes(20))
        assert blank.code(body) == code


class TestDBit:
    """Areas of the manufacturer: index bit 28."""

    INDEX = 0x1000F000

    def test_is_definable_before_the_lock_only(self, blank: Chip) -> None:
        blank.run(define_freely(OWNED, index=self.INDEX))
        blank.run(tss12.nv_lock())
        blank.assert_presence()
        assert blank.code(define_freely(OWNED, index=self.INDEX)) == ReturnCode.BADINDEX
        assert blank.code(define_freely(OWNED, 0, index=self.INDEX)) == ReturnCode.BADINDEX
        assert blank.run(tss12.nv_list()) == [self.INDEX]

    def test_survives_the_owner(self, blank: Chip) -> None:
        blank.run(define_freely(OWNED, index=self.INDEX))
        blank.run(define_freely(OWNED))
        blank.run(define_freely(AUTHED, index=INDEX + 1))
        blank.run(
            tss12.take_ownership(
                owner_auth=OWNER_AUTH, srk_auth=bytes(20), random=blank.client_random
            )
        )
        blank.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=blank.client_random))
        assert blank.run(tss12.nv_list()) == [self.INDEX, INDEX + 1]


class TestUnlocked:
    """While nvLocked is FALSE most checks are off."""

    def test_owner_areas_are_open_without_authorization(self, blank: Chip) -> None:
        blank.run(define_freely(OWNED))
        blank.run(tss12.nv_write_value(INDEX, b"free"))
        assert blank.run(tss12.nv_read_value(INDEX, 4)) == b"free"
        blank.run(tss12.nv_lock())
        assert blank.code(tss12.nv_write_value(INDEX, b"x")) == ReturnCode.AUTH_CONFLICT
        assert blank.code(tss12.nv_read_value(INDEX, 4)) == ReturnCode.AUTH_CONFLICT

    def test_a_wrong_owner_secret_is_refused_before_the_lock_too(self) -> None:
        chip = make_owned_chip()
        chip.run(define_freely(OWNED))
        wrong, random = bytes(20), chip.client_random
        writing = tss12.nv_write_value(INDEX, b"x", owner_auth=wrong, random=random)
        assert chip.code(writing) == ReturnCode.AUTHFAIL
        reading = tss12.nv_read_value(INDEX, 4, owner_auth=wrong, random=random)
        assert chip.code(reading) == ReturnCode.AUTHFAIL
        assert chip.run(read(chip, 4)) == b"\xff" * 4

    def test_areas_with_a_secret_are_not(self, blank: Chip) -> None:
        blank.run(define_freely(AUTHED))
        assert blank.code(tss12.nv_write_value(INDEX, b"x")) == ReturnCode.AUTH_CONFLICT
        assert blank.code(tss12.nv_read_value(INDEX, 4)) == ReturnCode.AUTH_CONFLICT

    def test_presence_and_locks_are_not_asked_for(self, blank: Chip) -> None:
        attributes = (
            NvAttributes.PPWRITE
            | NvAttributes.PPREAD
            | NvAttributes.WRITEDEFINE
            | NvAttributes.READ_STCLEAR
        )
        blank.run(define_freely(attributes))
        blank.run(tss12.nv_write_value(INDEX, b""))
        blank.run(tss12.nv_write_value(INDEX, b"still"))
        blank.run(tss12.nv_read_value(INDEX, 0))
        assert blank.run(tss12.nv_read_value(INDEX, 5)) == b"still"

    def test_a_disabled_chip_serves_nv(self, blank: Chip) -> None:
        blank.assert_presence()
        blank.run(tss12.physical_disable())
        blank.run(define_freely(OWNED))
        blank.run(tss12.nv_write_value(INDEX, b"x"))
        assert blank.run(tss12.nv_read_value(INDEX, 1)) == b"x"

    def test_the_65th_write_without_owner_is_refused(self, blank: Chip) -> None:
        blank.run(define_freely(FREE))
        for number in range(63):
            blank.run(tss12.nv_write_value(INDEX, bytes([number])))
        assert blank.code(tss12.nv_write_value(INDEX, b"\xaa")) == ReturnCode.MAXNVWRITES
        assert blank.code(define_freely(FREE, index=INDEX + 1)) == ReturnCode.MAXNVWRITES
        assert blank.run(tss12.nv_read_value(INDEX, 1)) == bytes([62])

    def test_writing_the_same_again_costs_nothing(self, blank: Chip) -> None:
        blank.run(define_freely(FREE))
        for _ in range(100):
            blank.run(tss12.nv_write_value(INDEX, b"same"))
        assert blank.run(tss12.nv_read_value(INDEX, 4)) == b"same"

    def test_an_owner_ends_the_counting(self) -> None:
        chip = make_owned_chip()
        chip.run(define_freely(FREE))
        for number in range(100):
            chip.run(tss12.nv_write_value(INDEX, bytes([number])))
        assert chip.run(tss12.nv_read_value(INDEX, 1)) == b"\x63"


class TestOwnerAreas:
    """OWNERREAD and OWNERWRITE."""

    def test_offset_and_length_select_the_bytes(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED))
        chip.run(write(chip, b"abcdefgh"))
        chip.run(write(chip, b"XY", offset=3))
        assert chip.run(read(chip, 8)) == b"abcXYfgh"
        assert chip.run(read(chip, 3, offset=2)) == b"cXY"

    @pytest.mark.parametrize(
        ("offset", "size"), [(8, 1), (1, 8), (0, 9), (0xFFFFFFFF, 1), (0xFFFFFFFC, 8)]
    )
    def test_beyond_the_end_is_refused_and_nothing_wraps(
        self, chip: Chip, offset: int, size: int
    ) -> None:
        chip.run(define(chip, OWNED))
        assert chip.code(read(chip, size, offset=offset)) == ReturnCode.NOSPACE
        assert chip.code(write(chip, bytes(size), offset=offset)) == ReturnCode.NOSPACE
        assert chip.run(read(chip, 8)) == b"\xff" * 8

    def test_a_session_can_be_kept_for_many_writes(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED))
        session = chip.run(tss12.oiap())
        for number in range(3):
            chip.run(
                tss12.nv_write_value(
                    INDEX,
                    bytes([number]),
                    owner_auth=OWNER_AUTH,
                    random=chip.client_random,
                    session=session,
                )
            )
        assert session.is_open
        assert chip.run(read(chip, 1)) == b"\x02"

    def test_a_wrong_owner_secret_is_refused(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED))
        wrong = tss12.nv_write_value(INDEX, b"x", owner_auth=bytes(20), random=chip.client_random)
        assert chip.code(wrong) == ReturnCode.AUTHFAIL
        wrong_read = tss12.nv_read_value(INDEX, 1, owner_auth=bytes(20), random=chip.client_random)
        assert chip.code(wrong_read) == ReturnCode.AUTHFAIL
        assert chip.run(read(chip, 1)) == b"\xff"

    def test_the_areas_secret_does_not_open_them(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED))
        assert chip.code(write_auth(chip, b"x")) == ReturnCode.AUTH_CONFLICT
        assert chip.code(read_auth(chip, 1)) == ReturnCode.AUTH_CONFLICT

    def test_the_owner_secret_does_not_open_other_areas(self, chip: Chip) -> None:
        chip.run(define(chip, AUTHED))
        assert chip.code(write(chip, b"x")) == ReturnCode.AUTH_CONFLICT
        assert chip.code(read(chip, 1)) == ReturnCode.AUTH_CONFLICT

    def test_a_disabled_chip_refuses_and_keeps_the_session(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED))
        chip.assert_presence()
        session = chip.run(tss12.oiap())
        chip.run(tss12.physical_disable())
        command = build_message(
            Tag.RQU_AUTH1_COMMAND,
            Ordinal.NV_READ_VALUE,
            bytes.fromhex("00011234 00000000 00000001")  # nvIndex, offset, dataSize
            + session.handle.to_bytes(4, "big")
            + bytes(41),  # nonceOdd, continueAuthSession, auth: never looked at
        )
        assert chip.send(command)[6:] == ReturnCode.DISABLED.to_bytes(4, "big")
        assert session.handle in chip.run(tss12.handles(ResourceType.AUTH))
        assert chip.code(write(chip, b"x")) == ReturnCode.DISABLED

    def test_a_deactivated_chip_refuses(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED))
        chip.assert_presence()
        chip.run(tss12.set_temp_deactivated())
        assert chip.code(write(chip, b"x")) == ReturnCode.DEACTIVATED
        assert chip.code(read(chip, 1)) == ReturnCode.DEACTIVATED

    def test_an_unknown_index_is_refused(self, chip: Chip) -> None:
        assert chip.code(write(chip, b"x")) == ReturnCode.BADINDEX
        assert chip.code(read(chip, 1)) == ReturnCode.BADINDEX

    def test_a_write_that_could_not_be_stored_did_not_happen(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED))
        chip.run(write(chip, b"before.."))
        chip.persist_result = Failed()
        assert chip.code(write(chip, b"after...")) == ReturnCode.IOERROR
        chip.persist_result = Done()
        assert chip.run(read(chip, 8)) == b"before.."


class TestAuthAreas:
    """AUTHREAD and AUTHWRITE."""

    def test_the_secret_opens_the_area(self, chip: Chip) -> None:
        chip.run(define(chip, AUTHED))
        chip.run(write_auth(chip, b"secret!!"))
        assert chip.run(read_auth(chip, 8)) == b"secret!!"

    def test_a_wrong_secret_does_not(self, chip: Chip) -> None:
        chip.run(define(chip, AUTHED))
        assert chip.code(write_auth(chip, b"x", bytes(20))) == ReturnCode.AUTHFAIL
        assert chip.code(read_auth(chip, 1, bytes(20))) == ReturnCode.AUTHFAIL
        assert chip.run(read_auth(chip, 1)) == b"\xff"

    def test_without_authorization_it_is_closed(self, chip: Chip) -> None:
        chip.run(define(chip, AUTHED))
        assert chip.code(tss12.nv_write_value(INDEX, b"x")) == ReturnCode.AUTH_CONFLICT
        assert chip.code(tss12.nv_read_value(INDEX, 1)) == ReturnCode.AUTH_CONFLICT

    def test_an_osap_session_on_the_area_works(self, chip: Chip) -> None:
        chip.run(define(chip, AUTHED))
        session = _osap_on_area(chip)
        chip.run(
            tss12.nv_write_value_auth(
                INDEX, b"osap", area_auth=b"", random=chip.client_random, session=session
            )
        )
        assert chip.run(read_auth(chip, 4)) == b"osap"

    def test_an_osap_session_on_another_area_does_not(self, chip: Chip) -> None:
        chip.run(define(chip, AUTHED))
        chip.run(define(chip, AUTHED, index=INDEX + 1))
        session = _osap_on_area(chip, INDEX + 1)
        attempt = tss12.nv_write_value_auth(
            INDEX, b"osap", area_auth=b"", random=chip.client_random, session=session
        )
        assert chip.code(attempt) == ReturnCode.AUTHFAIL

    def test_no_owner_is_needed(self, blank: Chip) -> None:
        blank.run(define_freely(AUTHED))
        blank.run(write_auth(blank, b"ownerless"[:8]))
        assert blank.run(read_auth(blank, 8)) == b"ownerles"

    def test_unknown_index_and_the_special_ones_are_refused(self, chip: Chip) -> None:
        for index in (INDEX, NvIndex.INDEX0, NvIndex.DIR):
            attempt = tss12.nv_write_value_auth(
                index, b"x", area_auth=AREA_AUTH, random=chip.client_random
            )
            assert chip.code(attempt) == ReturnCode.BADINDEX
            attempt_read = tss12.nv_read_value_auth(
                index, 1, area_auth=AREA_AUTH, random=chip.client_random
            )
            assert chip.code(attempt_read) == ReturnCode.BADINDEX

    def test_presence_is_asked_for_even_before_the_lock(self, blank: Chip) -> None:
        blank.run(define_freely(AUTHED | NvAttributes.PPWRITE | NvAttributes.PPREAD))
        assert blank.code(write_auth(blank, b"x")) == ReturnCode.BAD_PRESENCE
        assert blank.code(read_auth(blank, 1)) == ReturnCode.BAD_PRESENCE
        blank.assert_presence()
        blank.run(write_auth(blank, b"x"))
        assert blank.run(read_auth(blank, 1)) == b"x"


class TestPresence:
    """PPREAD and PPWRITE."""

    def test_areas_that_need_presence_need_it(self, chip: Chip) -> None:
        chip.run(define(chip, NvAttributes.PPWRITE | NvAttributes.PPREAD))
        assert chip.code(tss12.nv_write_value(INDEX, b"x")) == ReturnCode.BAD_PRESENCE
        assert chip.code(tss12.nv_read_value(INDEX, 1)) == ReturnCode.BAD_PRESENCE
        chip.assert_presence()
        chip.run(tss12.nv_write_value(INDEX, b"x"))
        assert chip.run(tss12.nv_read_value(INDEX, 1)) == b"x"
        chip.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.NOTPRESENT))
        assert chip.code(tss12.nv_read_value(INDEX, 1)) == ReturnCode.BAD_PRESENCE


class TestLocks:
    """What a write or read of size 0 locks."""

    def test_writedefine_locks_for_good(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED | NvAttributes.WRITEDEFINE))
        chip.run(write(chip, b"final"))
        chip.run(write(chip, b""))
        assert chip.code(write(chip, b"x")) == ReturnCode.AREA_LOCKED
        chip.power_cycle()
        assert chip.code(write(chip, b"x")) == ReturnCode.AREA_LOCKED
        assert chip.run(tss12.nv_public(INDEX)).b_write_define
        chip.run(define(chip, OWNED | NvAttributes.WRITEDEFINE))
        chip.run(write(chip, b"again"))

    def test_write_stclear_locks_until_startup_clear(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED | NvAttributes.WRITE_STCLEAR))
        chip.run(write(chip, b""))
        assert chip.code(write(chip, b"x")) == ReturnCode.AREA_LOCKED
        assert chip.code(define(chip, OWNED)) == ReturnCode.AREA_LOCKED
        chip.restart()
        assert chip.code(write(chip, b"x")) == ReturnCode.AREA_LOCKED
        chip.power_cycle()
        chip.run(write(chip, b"x"))

    def test_without_the_attribute_size_zero_locks_nothing(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED))
        chip.run(write(chip, b""))
        chip.run(write(chip, b"x"))
        assert chip.run(read(chip, 1)) == b"x"

    def test_the_global_lock_holds_until_startup_clear(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED | NvAttributes.GLOBALLOCK))
        chip.run(define(chip, OWNED, index=INDEX + 1))
        chip.run(tss12.nv_write_value(NvIndex.INDEX0, b""))
        assert chip.run(tss12.stclear_flags()).b_global_lock
        assert chip.code(write(chip, b"x")) == ReturnCode.AREA_LOCKED
        assert chip.code(define(chip, OWNED)) == ReturnCode.AREA_LOCKED
        chip.run(write(chip, b"x", INDEX + 1))
        chip.power_cycle()
        chip.run(write(chip, b"x"))

    def test_the_global_lock_takes_no_data(self, chip: Chip) -> None:
        attempt = tss12.nv_write_value(NvIndex.INDEX0, b"x")
        assert chip.code(attempt) == ReturnCode.BADINDEX
        assert not chip.run(tss12.stclear_flags()).b_global_lock
        assert chip.code(tss12.nv_read_value(NvIndex.INDEX0, 0)) == ReturnCode.BADINDEX

    def test_read_stclear_locks_until_the_next_write(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED | NvAttributes.READ_STCLEAR))
        assert chip.run(read(chip, 0)) == b""
        assert chip.code(read(chip, 1)) == ReturnCode.DISABLED_CMD
        chip.run(write(chip, b"x"))
        assert chip.run(read(chip, 1)) == b"x"

    def test_read_stclear_locks_until_startup_clear(self, chip: Chip) -> None:
        chip.run(define(chip, AUTHED | NvAttributes.READ_STCLEAR))
        assert chip.run(read_auth(chip, 0)) == b""
        assert chip.code(read_auth(chip, 1)) == ReturnCode.DISABLED_CMD
        chip.restart()
        assert chip.code(read_auth(chip, 1)) == ReturnCode.DISABLED_CMD
        chip.power_cycle()
        assert chip.run(read_auth(chip, 1)) == b"\xff"

    def test_the_locks_hold_for_the_areas_secret_too(self, chip: Chip) -> None:
        chip.run(define(chip, AUTHED | NvAttributes.WRITEDEFINE))
        chip.run(write_auth(chip, b""))
        assert chip.code(write_auth(chip, b"x")) == ReturnCode.AREA_LOCKED

    def test_writeall_wants_the_whole_area(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED | NvAttributes.WRITEALL))
        assert chip.code(write(chip, b"1234567")) == ReturnCode.NOT_FULLWRITE
        assert chip.code(write(chip, b"1234567", offset=1)) == ReturnCode.NOT_FULLWRITE
        chip.run(write(chip, b"12345678"))
        assert chip.run(read(chip, 8)) == b"12345678"


class TestPcrs:
    """Areas bound to PCR values and localities."""

    def test_reading_follows_the_pcrs(self, chip: Chip) -> None:
        pcr = chip.run(tss12.pcr_read(16))
        chip.run(define(chip, OWNED, pcr_info_read=tss12.pcr_info_short({16: pcr})))
        chip.run(read(chip, 1))
        chip.run(tss12.extend(16, bytes(20)))
        assert chip.code(read(chip, 1)) == ReturnCode.WRONGPCRVAL
        assert chip.code(write(chip, b"x")) == ReturnCode.SUCCESS

    def test_writing_follows_the_pcrs(self, chip: Chip) -> None:
        pcr = chip.run(tss12.pcr_read(16))
        chip.run(define(chip, AUTHED, pcr_info_write=tss12.pcr_info_short({16: pcr})))
        chip.run(write_auth(chip, b"x"))
        chip.run(tss12.extend(16, bytes(20)))
        assert chip.code(write_auth(chip, b"y")) == ReturnCode.WRONGPCRVAL
        assert chip.run(read_auth(chip, 1)) == b"x"

    def test_reading_follows_the_locality(self, chip: Chip) -> None:
        chip.run(define(chip, OWNED, pcr_info_read=tss12.pcr_info_short(localities=0x02)))
        assert chip.code(read(chip, 1)) == ReturnCode.BAD_LOCALITY
        assert chip.code(read(chip, 1), locality=1) == ReturnCode.SUCCESS


class TestDir:
    """The data integrity register as index 0x10000001."""

    def test_owner_writes_everybody_reads(self, chip: Chip) -> None:
        value = bytes(range(20))
        assert chip.run(tss12.nv_read_value(NvIndex.DIR, 20)) == bytes(20)
        chip.run(write(chip, value, NvIndex.DIR))
        assert chip.run(tss12.nv_read_value(NvIndex.DIR, 5, offset=3)) == value[3:8]
        assert chip.run(read(chip, 20, NvIndex.DIR)) == value
        chip.power_cycle()
        assert chip.run(tss12.nv_read_value(NvIndex.DIR, 20)) == value

    def test_is_written_whole_by_the_owner_only(self, chip: Chip) -> None:
        attempt = tss12.nv_write_value(NvIndex.DIR, bytes(20))
        assert chip.code(attempt) == ReturnCode.AUTH_CONFLICT
        assert chip.code(write(chip, bytes(19), NvIndex.DIR)) == ReturnCode.NOT_FULLWRITE
        partial = write(chip, bytes(20), NvIndex.DIR, offset=1)
        assert chip.code(partial) == ReturnCode.NOT_FULLWRITE
        assert chip.code(write(chip, b"", NvIndex.DIR)) == ReturnCode.SUCCESS

    def test_ends_after_twenty_bytes(self, chip: Chip) -> None:
        for size, offset in ((21, 0), (1, 20), (20, 0xFFFFFFF0)):
            attempt = tss12.nv_read_value(NvIndex.DIR, size, offset=offset)
            assert chip.code(attempt) == ReturnCode.NOSPACE

    def test_is_in_no_list(self, chip: Chip) -> None:
        assert chip.run(tss12.nv_list()) == []
        assert chip.code(tss12.nv_public(NvIndex.DIR)) == ReturnCode.BADINDEX


def _osap_on_area(chip: Chip, index: int = INDEX) -> Session:
    return chip.run(tss12.osap(EntityType.NV, index, AREA_AUTH, random=chip.client_random))


def _public(attributes: int) -> bytes:
    """Return an encoded TPM_NV_DATA_PUBLIC of INDEX with 4 bytes, 71 bytes long."""
    return bytes.fromhex(
        "0018 00011234"  # tag, nvIndex
        "0003 000000 1f 0000000000000000000000000000000000000000"  # pcrInfoRead
        "0003 000000 1f 0000000000000000000000000000000000000000"  # pcrInfoWrite
        f"0017 {attributes:08x}"  # tag of TPM_NV_ATTRIBUTES, attributes
        "00 00 00 00000004"  # three flags, dataSize
    )
