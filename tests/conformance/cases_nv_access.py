# SPDX-License-Identifier: Apache-2.0
"""What reads and writes of NV areas refuse (Part 3, 20.2 to 20.5)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import EntityType, NvIndex, Ordinal, ReturnCode, StartupType
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection
from tests.conformance.machines import World
from tests.conformance.nv_areas import (
    ANYWHERE,
    AREA_AUTH,
    AT_RESET,
    ELSEWHERE,
    INDEX,
    NV,
    define_area,
    describe_area,
    lock_nv,
    read_area,
    write_area,
)
from tests.conformance.script import DIGEST, Auth, Chapter, Script

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
WRITE, READ = Ordinal.NV_WRITE_VALUE, Ordinal.NV_READ_VALUE
WRITE_AUTH, READ_AUTH = Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH
THERE: Final = PcrInfoShort(PcrSelection(bytes(3)), 2, bytes(20))
BOTH_WRONG: Final = PcrInfoShort(ELSEWHERE.pcr_selection, 2, DIGEST)
OWNER: Final = NV.OWNERWRITE | NV.OWNERREAD
SECRET: Final = NV.AUTHWRITE | NV.AUTHREAD
PRESENCE: Final = NV.PPWRITE | NV.PPREAD


def _write(tpm: Script, data: bytes, code: ReturnCode = RC.SUCCESS, *, index: int = INDEX) -> None:
    tpm.call(WRITE_AUTH, index, 0, data, auth=[tpm.oiap(AREA_AUTH)], code=code)


def _read(tpm: Script, size: int, code: ReturnCode = RC.SUCCESS, *, index: int = INDEX) -> None:
    tpm.call(READ_AUTH, index, 0, size, auth=[tpm.oiap(AREA_AUTH)], code=code)


@case(OWNED, WRITE, READ)
def owner_areas_with_a_session_that_is_wrong(tpm: Script) -> None:
    lock_nv(tpm)
    define_area(tpm, INDEX, 8, OWNER)
    for auth, code in (
        (tpm.no_session(), RC.INVALID_AUTHHANDLE),
        (tpm.osap_key(), RC.AUTHFAIL),
        (tpm.osap(EntityType.NV, INDEX, AREA_AUTH), RC.AUTHFAIL),
        (tpm.oiap(AREA_AUTH), RC.AUTHFAIL),
    ):
        write_area(tpm, b"x", code, auth=auth)
    for auth, code in (
        (tpm.no_session(), RC.INVALID_AUTHHANDLE),
        (tpm.osap_key(), RC.AUTHFAIL),
        (tpm.osap(EntityType.NV, INDEX, AREA_AUTH), RC.AUTHFAIL),
        (tpm.oiap(AREA_AUTH), RC.AUTHFAIL),
    ):
        read_area(tpm, 1, code, auth=auth)
    read_area(tpm, 8, auth=tpm.oiap())


@case(OWNED, WRITE_AUTH, READ_AUTH)
def areas_with_a_secret_and_a_session_that_is_wrong(tpm: Script) -> None:
    define_area(tpm, INDEX, 8, SECRET)
    define_area(tpm, INDEX + 1, 8, SECRET)

    def wrong() -> tuple[tuple[Auth, ReturnCode], ...]:
        return (
            (tpm.no_session(AREA_AUTH), RC.INVALID_AUTHHANDLE),
            (tpm.osap_key(), RC.AUTHFAIL),
            (tpm.osap_owner(), RC.AUTHFAIL),
            (tpm.osap(EntityType.NV, INDEX + 1, AREA_AUTH), RC.AUTHFAIL),
        )

    for auth, code in wrong():
        tpm.call(WRITE_AUTH, INDEX, 0, b"\xff", auth=[auth], code=code)
    for auth, code in wrong():
        tpm.call(READ_AUTH, INDEX, 0, 8, auth=[auth], code=code)
    _read(tpm, 8)
    tpm.call(READ_AUTH, INDEX, 0, 8, auth=[tpm.osap(EntityType.NV, INDEX, AREA_AUTH)])


@case(OWNED, WRITE, READ, WRITE_AUTH, READ_AUTH)
def areas_by_who_may_use_them(tpm: Script) -> None:
    """Send each of the six forms to each kind of area, before the lock and after."""
    kinds = (0, OWNER, SECRET, PRESENCE)
    for locked in (False, True):
        for number, read in enumerate(kinds):
            for other, write in enumerate(kinds):
                index = INDEX + 16 * number + other
                if not locked:
                    reads, writes = (NV.OWNERREAD | NV.AUTHREAD | NV.PPREAD), 0xFF
                    define_area(tpm, index, 4, read & reads | (write & writes or NV.WRITEDEFINE))
                _try_every_form(tpm, index, read, write, locked=locked)
        lock_nv(tpm)


def _try_every_form(tpm: Script, index: int, read: int, write: int, *, locked: bool) -> None:
    def code(kind: int, *, owner: bool) -> ReturnCode:
        if owner:
            return RC.SUCCESS if kind == OWNER else RC.AUTH_CONFLICT
        if kind == SECRET or (locked and kind == OWNER):
            return RC.AUTH_CONFLICT
        return RC.BAD_PRESENCE if locked and kind == PRESENCE else RC.SUCCESS

    read_area(tpm, 4, code(read, owner=False), index=index)
    read_area(tpm, 4, code(read, owner=True), index=index, auth=tpm.oiap())
    _read(tpm, 4, RC.SUCCESS if read == SECRET else RC.AUTH_CONFLICT, index=index)
    write_area(tpm, b"some", code(write, owner=False), index=index)
    write_area(tpm, b"more", code(write, owner=True), index=index, auth=tpm.oiap())
    _write(tpm, b"data", RC.SUCCESS if write == SECRET else RC.AUTH_CONFLICT, index=index)


@case(OWNED, WRITE, READ)
def special_indices(tpm: Script) -> None:
    for locked in (False, True):
        # Index 0 takes no data and gives none.
        write_area(tpm, b"x", RC.BADINDEX, index=0)
        write_area(tpm, b"x", RC.BADINDEX, index=0, auth=tpm.oiap())
        write_area(tpm, b"", RC.AUTHFAIL, index=0, auth=tpm.oiap(spoil=True))
        read_area(tpm, 0, RC.BADINDEX, index=0)
        _write(tpm, b"", RC.BADINDEX, index=0)
        _read(tpm, 0, RC.BADINDEX, index=0)
        write_area(tpm, b"", index=0, auth=tpm.oiap())
        tpm.flags()
        for index in (NvIndex.LOCK, NvIndex.TRIAL, INDEX):
            write_area(tpm, b"x", RC.BADINDEX, index=index)
            read_area(tpm, 1, RC.BADINDEX, index=index)
            _write(tpm, b"x", RC.BADINDEX, index=index)
            _read(tpm, 1, RC.BADINDEX, index=index)
        # The DIR belongs to the owner, once there is a lock.
        _write(tpm, DIGEST, RC.BADINDEX, index=NvIndex.DIR)
        _read(tpm, 20, RC.BADINDEX, index=NvIndex.DIR)
        code = RC.AUTH_CONFLICT if locked else RC.SUCCESS
        write_area(tpm, DIGEST, code, index=NvIndex.DIR)
        write_area(tpm, b"", code, index=NvIndex.DIR)
        write_area(tpm, bytes(20), index=NvIndex.DIR, auth=tpm.oiap())
        write_area(tpm, b"", index=NvIndex.DIR, auth=tpm.oiap())
        wrong = tpm.oiap(spoil=True)
        write_area(tpm, DIGEST, RC.AUTHFAIL, index=NvIndex.DIR, auth=wrong)
        for data, offset in ((bytes(19), 0), (bytes(19), 1), (bytes(21), 0), (DIGEST, 1)):
            values = {"index": NvIndex.DIR, "offset": offset}
            write_area(tpm, data, RC.NOT_FULLWRITE, auth=tpm.oiap(), **values)
        for size, offset in ((20, 0), (0, 0), (0, 20), (1, 19), (7, 3)):
            read_area(tpm, size, index=NvIndex.DIR, offset=offset)
        for size, offset in ((21, 0), (1, 20), (0, 21), (2, 19)):
            read_area(tpm, size, RC.NOSPACE, index=NvIndex.DIR, offset=offset)
        lock_nv(tpm)


@case(UNOWNED, WRITE, READ)
def the_dir_without_an_owner(tpm: Script) -> None:
    write_area(tpm, DIGEST, index=NvIndex.DIR)
    read_area(tpm, 20, index=NvIndex.DIR)
    lock_nv(tpm)
    write_area(tpm, bytes(20), RC.AUTH_CONFLICT, index=NvIndex.DIR)
    read_area(tpm, 20, index=NvIndex.DIR)


@case(OWNED, WRITE)
def the_dir_while_disabled_or_deactivated(tpm: Script) -> None:
    lock_nv(tpm)
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    write_area(tpm, DIGEST, RC.DISABLED, index=NvIndex.DIR, auth=tpm.oiap())
    read_area(tpm, 20, index=NvIndex.DIR)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED)
    write_area(tpm, DIGEST, RC.DEACTIVATED, index=NvIndex.DIR, auth=tpm.oiap())
    read_area(tpm, 20, index=NvIndex.DIR)


@case(OWNED, WRITE, READ, WRITE_AUTH, READ_AUTH)
def sizes_and_offsets(tpm: Script) -> None:
    lock_nv(tpm)
    tpm.presence()
    define_area(tpm, INDEX, 8, PRESENCE)
    define_area(tpm, INDEX + 1, 8, SECRET)
    for offset, size, fits in (
        (0, 8, True),
        (7, 1, True),
        (3, 5, True),
        (8, 1, False),
        (7, 2, False),
        (0, 9, False),
        (0x7FFFFFFF, 1, False),
    ):
        code, data = RC.SUCCESS if fits else RC.NOSPACE, bytes(range(size))
        write_area(tpm, data, code, offset=offset)
        read_area(tpm, size, code, offset=offset)
        auth = tpm.oiap(AREA_AUTH)
        tpm.call(WRITE_AUTH, INDEX + 1, offset, data, auth=[auth], code=code)
        auth = tpm.oiap(AREA_AUTH)
        tpm.call(READ_AUTH, INDEX + 1, offset, size, auth=[auth], code=code)
    read_area(tpm, 8)
    _read(tpm, 8, index=INDEX + 1)


@case(OWNED, WRITE, WRITE_AUTH)
def areas_that_are_written_whole(tpm: Script) -> None:
    lock_nv(tpm)
    tpm.presence()
    define_area(tpm, INDEX, 8, PRESENCE | NV.WRITEALL)
    define_area(tpm, INDEX + 1, 8, SECRET | NV.WRITEALL)
    for data, code in (
        (bytes(7), RC.NOT_FULLWRITE),
        (bytes(9), RC.NOSPACE),
        (bytes(8), RC.SUCCESS),
        (b"", RC.SUCCESS),
    ):
        write_area(tpm, data, code)
        _write(tpm, data, code, index=INDEX + 1)
    write_area(tpm, bytes(7), RC.NOSPACE, offset=2)
    write_area(tpm, bytes(7), RC.NOT_FULLWRITE, offset=1)
    read_area(tpm, 8)


@case(OWNED, WRITE, WRITE_AUTH)
def locks_on_writing(tpm: Script) -> None:
    lock_nv(tpm)
    tpm.presence()
    locks = (NV.WRITE_STCLEAR, NV.WRITEDEFINE, NV.GLOBALLOCK)
    for number, lock in enumerate(locks):
        define_area(tpm, INDEX + number, 4, PRESENCE | lock)
        define_area(tpm, INDEX + 8 + number, 4, SECRET | lock)
    define_area(tpm, INDEX + 3, 4, PRESENCE)
    define_area(tpm, INDEX + 11, 4, SECRET)
    for number in range(4):
        # Sizes of zero lock what has the attribute, and only that.
        write_area(tpm, b"", index=INDEX + number)
        _write(tpm, b"", index=INDEX + 8 + number)
        describe_area(tpm, INDEX + number)
        code = RC.AREA_LOCKED if number < 2 else RC.SUCCESS
        write_area(tpm, b"x", code, index=INDEX + number)
        _write(tpm, b"x", code, index=INDEX + 8 + number)
        # Locked is also what would lock it again.
        write_area(tpm, b"", code, index=INDEX + number)
    write_area(tpm, b"", index=0)
    for index in (INDEX + 2, INDEX + 10):
        code = RC.AREA_LOCKED
        (write_area if index < INDEX + 8 else _write)(tpm, b"x", code, index=index)
    tpm.power_cycle()
    tpm.presence()
    for number in range(4):
        code = RC.AREA_LOCKED if locks[number : number + 1] == (NV.WRITEDEFINE,) else RC.SUCCESS
        write_area(tpm, b"y", code, index=INDEX + number)
        _write(tpm, b"y", code, index=INDEX + 8 + number)
        describe_area(tpm, INDEX + number)


@case(OWNED, READ, READ_AUTH)
def locks_on_reading(tpm: Script) -> None:
    lock_nv(tpm)
    tpm.presence()
    define_area(tpm, INDEX, 4, PRESENCE | NV.READ_STCLEAR)
    define_area(tpm, INDEX + 1, 4, SECRET | NV.READ_STCLEAR)
    define_area(tpm, INDEX + 2, 4, PRESENCE)
    for index, write, read in (
        (INDEX, write_area, read_area),
        (INDEX + 1, _write, _read),
        (INDEX + 2, write_area, read_area),
    ):
        code = RC.SUCCESS if index == INDEX + 2 else RC.DISABLED_CMD
        read(tpm, 0, index=index)
        describe_area(tpm, index)
        read(tpm, 1, code, index=index)
        read(tpm, 0, code, index=index)
        # A write opens it again, also one of nothing.
        write(tpm, b"x", index=index)
        read(tpm, 1, index=index)
        read(tpm, 0, index=index)
        write(tpm, b"", index=index)
        read(tpm, 1, index=index)
        read(tpm, 0, index=index)
    tpm.power_cycle()
    tpm.presence()
    read_area(tpm, 1)
    _read(tpm, 1, index=INDEX + 1)


@case(OWNED, WRITE, READ)
def locks_and_saved_states(tpm: Script) -> None:
    lock_nv(tpm)
    tpm.presence()
    define_area(tpm, INDEX, 4, PRESENCE | NV.WRITE_STCLEAR)
    define_area(tpm, INDEX + 1, 4, PRESENCE | NV.READ_STCLEAR)
    define_area(tpm, INDEX + 2, 4, PRESENCE | NV.GLOBALLOCK)
    write_area(tpm, b"")
    read_area(tpm, 0, index=INDEX + 1)
    write_area(tpm, b"", index=0)
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    tpm.flags()
    write_area(tpm, b"x", RC.AREA_LOCKED)
    read_area(tpm, 1, RC.DISABLED_CMD, index=INDEX + 1)
    write_area(tpm, b"x", RC.AREA_LOCKED, index=INDEX + 2)


@case(OWNED, WRITE, READ, WRITE_AUTH, READ_AUTH)
def conditions_of_areas(tpm: Script) -> None:
    lock_nv(tpm)
    tpm.presence()
    for number, info in enumerate((AT_RESET, ELSEWHERE, THERE, BOTH_WRONG)):
        code = (RC.SUCCESS, RC.WRONGPCRVAL, RC.BAD_LOCALITY, RC.WRONGPCRVAL)[number]
        # Reading and writing are bound each for itself.
        define_area(tpm, INDEX, 4, PRESENCE, write=info)
        write_area(tpm, b"x", code)
        read_area(tpm, 1)
        define_area(tpm, INDEX, 4, PRESENCE, read=info)
        write_area(tpm, b"x")
        read_area(tpm, 1, code)
        define_area(tpm, INDEX, 4, SECRET, read=ANYWHERE, write=info)
        _write(tpm, b"x", code)
        _read(tpm, 1)
        define_area(tpm, INDEX, 4, SECRET, read=info)
        _write(tpm, b"x")
        _read(tpm, 1, code)


@case(NEW, WRITE, READ)
def conditions_of_areas_before_the_lock(tpm: Script) -> None:
    permission = PRESENCE | NV.WRITE_STCLEAR | NV.READ_STCLEAR | NV.GLOBALLOCK | NV.WRITEDEFINE
    both = BOTH_WRONG
    define_area(tpm, INDEX, 4, permission, owner=False, read=both, write=both)
    write_area(tpm, b"")
    write_area(tpm, b"", index=0)
    read_area(tpm, 0)
    # Nothing of this is enforced yet.
    write_area(tpm, b"x")
    read_area(tpm, 4)
    write_area(tpm, b"y")
    describe_area(tpm)
    lock_nv(tpm)
    tpm.presence()
    write_area(tpm, b"x", RC.AREA_LOCKED)
    read_area(tpm, 4, RC.WRONGPCRVAL)


@case(OWNED, WRITE_AUTH, READ_AUTH)
def conditions_of_areas_with_a_secret_before_the_lock(tpm: Script) -> None:
    permission = SECRET | PRESENCE
    define_area(tpm, INDEX, 4, permission)
    _write(tpm, b"x", RC.BAD_PRESENCE)
    _read(tpm, 1, RC.BAD_PRESENCE)
    define_area(tpm, INDEX, 4, SECRET, read=ELSEWHERE, write=ELSEWHERE)
    _write(tpm, b"x", RC.WRONGPCRVAL)
    _read(tpm, 1, RC.WRONGPCRVAL)
    define_area(tpm, INDEX, 4, SECRET | NV.GLOBALLOCK | NV.READ_STCLEAR)
    write_area(tpm, b"", index=0)
    _write(tpm, b"x", RC.AREA_LOCKED)
    _read(tpm, 0)
    _read(tpm, 1, RC.DISABLED_CMD)


@case(OWNED, WRITE, READ)
def uses_of_areas_with_two_faults(tpm: Script) -> None:
    lock_nv(tpm)
    locks = NV.WRITE_STCLEAR | NV.READ_STCLEAR | NV.WRITEALL
    define_area(tpm, INDEX, 4, PRESENCE | locks, read=ELSEWHERE, write=ELSEWHERE)
    define_area(tpm, INDEX + 1, 4, OWNER | locks)
    wrong = tpm.oiap(spoil=True)
    write_area(tpm, b"x", RC.AUTH_CONFLICT, auth=wrong)
    wrong = tpm.oiap(spoil=True)
    read_area(tpm, 9, RC.AUTH_CONFLICT, auth=wrong)
    write_area(tpm, b"x", RC.BAD_PRESENCE)
    read_area(tpm, 9, RC.BAD_PRESENCE)
    tpm.presence()
    write_area(tpm, b"x", RC.WRONGPCRVAL)
    read_area(tpm, 9, RC.WRONGPCRVAL)
    # Presence is asked for before the locks, and they before the size.
    write_area(tpm, b"", index=INDEX + 1, auth=tpm.oiap())
    read_area(tpm, 0, index=INDEX + 1, auth=tpm.oiap())
    write_area(tpm, bytes(9), RC.AREA_LOCKED, index=INDEX + 1, auth=tpm.oiap())
    read_area(tpm, 9, RC.DISABLED_CMD, index=INDEX + 1, auth=tpm.oiap())
    wrong = tpm.oiap(spoil=True)
    write_area(tpm, bytes(9), RC.AUTHFAIL, index=INDEX + 1, auth=wrong)
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    write_area(tpm, b"x", RC.DISABLED, index=INDEX + 1, auth=tpm.no_session())
    read_area(tpm, 1, RC.DISABLED, index=INDEX + 1, auth=tpm.no_session())
    write_area(tpm, b"x", RC.DISABLED, index=INDEX + 1)
    write_area(tpm, b"x", RC.BADINDEX, index=INDEX + 2, auth=tpm.no_session())


@case(OWNED, WRITE_AUTH, READ_AUTH)
def uses_of_areas_with_a_secret_and_two_faults(tpm: Script) -> None:
    permission = PRESENCE | NV.WRITE_STCLEAR | NV.READ_STCLEAR
    define_area(tpm, INDEX, 4, SECRET | permission, read=ELSEWHERE, write=ELSEWHERE)
    define_area(tpm, INDEX + 1, 4, PRESENCE)
    wrong = tpm.oiap(AREA_AUTH, spoil=True)
    tpm.call(WRITE_AUTH, INDEX + 1, 0, b"x", auth=[wrong], code=RC.AUTH_CONFLICT)
    wrong = tpm.oiap(AREA_AUTH, spoil=True)
    tpm.call(READ_AUTH, INDEX + 1, 0, 1, auth=[wrong], code=RC.AUTH_CONFLICT)
    wrong = tpm.oiap(AREA_AUTH, spoil=True)
    tpm.call(WRITE_AUTH, INDEX, 0, b"x", auth=[wrong], code=RC.AUTHFAIL)
    wrong = tpm.oiap(AREA_AUTH, spoil=True)
    tpm.call(READ_AUTH, INDEX, 0, 1, auth=[wrong], code=RC.AUTHFAIL)
    _write(tpm, bytes(9), RC.BAD_PRESENCE)
    _read(tpm, 9, RC.BAD_PRESENCE)
    tpm.presence()
    _write(tpm, bytes(9), RC.WRONGPCRVAL)
    _read(tpm, 9, RC.WRONGPCRVAL)


@case(OWNED, WRITE)
def writes_of_a_tpm_with_an_owner_are_not_counted(tpm: Script) -> None:
    define_area(tpm, INDEX, 4, PRESENCE)
    for count in range(66):
        write_area(tpm, bytes((count,)))


@case(OWNED, READ)
def reading_as_owner_before_the_lock(tpm: Script) -> None:
    define_area(tpm, INDEX, 4, OWNER)
    read_area(tpm, 4, auth=tpm.oiap())
    read_area(tpm, 4, RC.AUTHFAIL, auth=tpm.oiap(spoil=True))


@case(OWNED, READ)
def reading_the_dir_as_owner(tpm: Script) -> None:
    lock_nv(tpm)
    read_area(tpm, 20, index=NvIndex.DIR, auth=tpm.oiap())
    read_area(tpm, 20, RC.AUTHFAIL, index=NvIndex.DIR, auth=tpm.oiap(spoil=True))


@case(OWNED, WRITE, READ)
def general_purpose_input_and_output(tpm: Script) -> None:
    lock_nv(tpm)
    define_area(tpm, 0x00011601, 1, OWNER)
    write_area(tpm, b"\1", index=0x00011601, auth=tpm.oiap())
    read_area(tpm, 1, index=0x00011601, auth=tpm.oiap())
