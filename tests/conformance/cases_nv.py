# SPDX-License-Identifier: Apache-2.0
"""NV storage and monotonic counters (Part 3, chapters 20 and 25)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import EntityType, NvIndex, Ordinal, ReturnCode
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection
from tests.conformance.machines import World
from tests.conformance.nv_areas import (
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
from tests.conformance.script import DIGEST, Chapter, Script
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
COUNTER_AUTH: Final = b"secret of a counter-"


@case(OWNED, Ordinal.NV_DEFINE_SPACE, Ordinal.NV_WRITE_VALUE, Ordinal.NV_READ_VALUE)
def areas_of_the_owner(tpm: Script) -> None:
    lock_nv(tpm)
    tpm.flags()
    define_area(tpm, INDEX, 16, NV.OWNERWRITE | NV.OWNERREAD)
    describe_area(tpm)
    read_area(tpm, 16, auth=tpm.oiap())
    write_area(tpm, b"some data", offset=3, auth=tpm.oiap())
    read_area(tpm, 16, auth=tpm.osap_owner())
    read_area(tpm, 9, offset=3, auth=tpm.oiap())
    tpm.power_cycle()
    read_area(tpm, 16, auth=tpm.oiap())
    write_area(tpm, b"x", RC.AUTHFAIL, auth=tpm.oiap(spoil=True))
    read_area(tpm, 1, RC.AUTHFAIL, auth=tpm.oiap(spoil=True))
    write_area(tpm, b"x", RC.AUTH_CONFLICT)
    read_area(tpm, 1, RC.AUTH_CONFLICT)
    write_area(tpm, bytes(17), RC.NOSPACE, auth=tpm.oiap())
    write_area(tpm, b"xx", RC.NOSPACE, offset=15, auth=tpm.oiap())
    read_area(tpm, 17, RC.NOSPACE, auth=tpm.oiap())
    read_area(tpm, 2, RC.NOSPACE, offset=15, auth=tpm.oiap())
    write_area(tpm, b"x", RC.BADINDEX, index=INDEX + 1, auth=tpm.oiap())
    read_area(tpm, 1, RC.BADINDEX, index=INDEX + 1, auth=tpm.oiap())
    define_area(tpm, INDEX, 0, 0)
    read_area(tpm, 1, RC.BADINDEX, auth=tpm.oiap())
    define_area(tpm, INDEX, 0, NV.OWNERWRITE, RC.BAD_PARAM_SIZE)


@case(OWNED, Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH)
def areas_with_a_secret(tpm: Script) -> None:
    define_area(tpm, INDEX, 8, NV.AUTHWRITE | NV.AUTHREAD)
    write, read = Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH
    tpm.call(write, INDEX, 0, b"12345678", auth=[tpm.oiap(AREA_AUTH)])
    tpm.call(read, INDEX, 0, 8, auth=[tpm.osap(EntityType.NV, INDEX, AREA_AUTH)])
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH, spoil=True)], code=RC.AUTHFAIL)
    tpm.call(read, INDEX, 0, 8, auth=[tpm.oiap(AREA_AUTH, spoil=True)], code=RC.AUTHFAIL)
    tpm.call(write, INDEX, 7, b"xy", auth=[tpm.oiap(AREA_AUTH)], code=RC.NOSPACE)
    tpm.call(read, INDEX, 7, 2, auth=[tpm.oiap(AREA_AUTH)], code=RC.NOSPACE)
    tpm.call(write, 5, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.BADINDEX)
    tpm.call(read, 5, 0, 8, auth=[tpm.oiap(AREA_AUTH)], code=RC.BADINDEX)
    write_area(tpm, b"x", RC.AUTH_CONFLICT)
    read_area(tpm, 1, RC.AUTH_CONFLICT)
    define_area(tpm, INDEX + 1, 8, NV.OWNERWRITE | NV.OWNERREAD)
    tpm.call(write, INDEX + 1, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.AUTH_CONFLICT)
    tpm.call(read, INDEX + 1, 0, 8, auth=[tpm.oiap(AREA_AUTH)], code=RC.AUTH_CONFLICT)


@case(OWNED, Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH)
def areas_with_a_secret_and_conditions(tpm: Script) -> None:
    write, read = Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH
    permission = NV.AUTHWRITE | NV.AUTHREAD | NV.PPWRITE | NV.PPREAD
    define_area(tpm, INDEX, 8, permission)
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.BAD_PRESENCE)
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)], code=RC.BAD_PRESENCE)
    tpm.presence()
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)])
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)])
    define_area(tpm, INDEX, 8, NV.AUTHWRITE | NV.AUTHREAD, read=ELSEWHERE, write=ELSEWHERE)
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.WRONGPCRVAL)
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)], code=RC.WRONGPCRVAL)
    there = PcrInfoShort(PcrSelection(bytes(3)), 2, bytes(20))
    define_area(tpm, INDEX, 8, NV.AUTHWRITE | NV.AUTHREAD, read=there, write=there)
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.BAD_LOCALITY)
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)], code=RC.BAD_LOCALITY)
    tpm.locality = 1
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)])
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)])
    tpm.locality = 0
    define_area(tpm, INDEX, 8, NV.AUTHWRITE | NV.AUTHREAD | NV.READ_STCLEAR | NV.WRITE_STCLEAR)
    tpm.call(write, INDEX, 0, b"", auth=[tpm.oiap(AREA_AUTH)])
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.AREA_LOCKED)
    tpm.call(read, INDEX, 0, 0, auth=[tpm.oiap(AREA_AUTH)])
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)], code=RC.DISABLED_CMD)


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def defining_what_cannot_be(tpm: Script) -> None:
    lock_nv(tpm)
    define_area(tpm, INDEX, 8, NV.OWNERWRITE | NV.AUTHWRITE, RC.AUTH_CONFLICT)
    define_area(tpm, INDEX, 8, NV.OWNERWRITE | NV.OWNERREAD | NV.AUTHREAD, RC.AUTH_CONFLICT)
    define_area(tpm, INDEX, 8, NV.OWNERREAD, RC.PER_NOWRITE)
    define_area(tpm, 0, 8, NV.OWNERWRITE, RC.BADINDEX)
    define_area(tpm, 0x10000002, 8, NV.OWNERWRITE, RC.BADINDEX)
    define_area(tpm, 0x01000001, 8, NV.OWNERWRITE, RC.BADINDEX)
    define_area(tpm, NvIndex.LOCK, 8, NV.OWNERWRITE, RC.BADINDEX)
    define_area(tpm, INDEX, 0x100000, NV.OWNERWRITE, RC.NOSPACE)
    define_area(tpm, INDEX, 8, NV.OWNERWRITE, RC.AUTHFAIL, auth=tpm.osap_owner(spoil=True))
    define_area(tpm, INDEX, 8, NV.OWNERWRITE, RC.BAD_MODE, auth=tpm.oiap())
    define_area(tpm, INDEX, 8, NV.OWNERWRITE, RC.BAD_PRESENCE, owner=False)
    tpm.presence()
    define_area(tpm, INDEX, 8, NV.OWNERWRITE, RC.OWNER_SET, owner=False)
    define_area(tpm, NvIndex.TRIAL, 8, NV.OWNERWRITE)
    tpm.capability(0x0D, b"")


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def defining_with_the_write_locality_alone(tpm: Script) -> None:
    there = PcrInfoShort(PcrSelection(bytes(3)), 2, bytes(20))
    define_area(tpm, INDEX, 8, NV.OWNERREAD, write=there)


@case(NEW, Ordinal.NV_DEFINE_SPACE, Ordinal.NV_WRITE_VALUE, Ordinal.NV_READ_VALUE)
def areas_before_the_nv_lock(tpm: Script) -> None:
    tpm.flags()
    define_area(tpm, INDEX, 8, NV.PPWRITE | NV.PPREAD, owner=False)
    describe_area(tpm)
    write_area(tpm, b"anything")
    read_area(tpm, 8)
    define_area(tpm, 0x10000100, 8, NV.OWNERWRITE | NV.OWNERREAD, owner=False)
    write_area(tpm, b"D bit", index=0x10000100)
    define_area(tpm, INDEX + 1, 8, NV.AUTHWRITE | NV.AUTHREAD, owner=False)
    write_area(tpm, b"x", RC.AUTH_CONFLICT, index=INDEX + 1)
    read_area(tpm, 1, RC.AUTH_CONFLICT, index=INDEX + 1)
    lock_nv(tpm)
    write_area(tpm, b"x", RC.BAD_PRESENCE)
    read_area(tpm, 8, RC.BAD_PRESENCE)
    define_area(tpm, INDEX + 2, 8, NV.PPWRITE, RC.BAD_PRESENCE, owner=False)
    tpm.presence()
    write_area(tpm, b"present")
    read_area(tpm, 8)
    define_area(tpm, INDEX + 2, 8, NV.PPWRITE, owner=False)
    define_area(tpm, INDEX + 2, 0, NV.PPWRITE, RC.BAD_DATASIZE, owner=False)
    define_area(tpm, 0x10000101, 8, NV.PPWRITE, RC.BADINDEX, owner=False)
    tpm.capability(0x0D, b"")


@case(NEW, Ordinal.NV_DEFINE_SPACE)
def the_nv_lock_with_a_size(tpm: Script) -> None:
    define_area(tpm, NvIndex.LOCK, 8, 0, RC.BADINDEX, owner=False)
    tpm.flags()


@case(OWNED, Ordinal.NV_WRITE_VALUE)
def area_locks(tpm: Script) -> None:
    lock_nv(tpm)
    define_area(tpm, INDEX, 8, NV.OWNERWRITE | NV.WRITE_STCLEAR)
    write_area(tpm, b"", auth=tpm.oiap())
    write_area(tpm, b"x", RC.AREA_LOCKED, auth=tpm.oiap())
    describe_area(tpm)
    define_area(tpm, INDEX, 8, NV.OWNERWRITE, RC.AREA_LOCKED)
    define_area(tpm, INDEX + 1, 8, NV.OWNERWRITE | NV.WRITEDEFINE)
    write_area(tpm, b"", index=INDEX + 1, auth=tpm.oiap())
    write_area(tpm, b"x", RC.AREA_LOCKED, index=INDEX + 1, auth=tpm.oiap())
    define_area(tpm, INDEX + 2, 8, NV.OWNERWRITE | NV.GLOBALLOCK)
    write_area(tpm, b"x", index=INDEX + 2, auth=tpm.oiap())
    write_area(tpm, b"x", RC.BADINDEX, index=0)
    write_area(tpm, b"", index=0)
    tpm.flags()
    write_area(tpm, b"x", RC.AREA_LOCKED, index=INDEX + 2, auth=tpm.oiap())
    define_area(tpm, INDEX + 3, 8, NV.OWNERWRITE | NV.WRITEALL)
    write_area(tpm, b"x", RC.NOT_FULLWRITE, index=INDEX + 3, auth=tpm.oiap())
    write_area(tpm, b"12345678", index=INDEX + 3, auth=tpm.oiap())
    tpm.power_cycle()
    write_area(tpm, b"x", auth=tpm.oiap())
    write_area(tpm, b"x", RC.AREA_LOCKED, index=INDEX + 1, auth=tpm.oiap())
    write_area(tpm, b"x", index=INDEX + 2, auth=tpm.oiap())
    describe_area(tpm, INDEX + 1)


@case(OWNED, Ordinal.NV_READ_VALUE)
def read_locks_and_conditions(tpm: Script) -> None:
    lock_nv(tpm)
    define_area(tpm, INDEX, 8, NV.OWNERWRITE | NV.OWNERREAD | NV.READ_STCLEAR)
    read_area(tpm, 0, auth=tpm.oiap())
    read_area(tpm, 1, RC.DISABLED_CMD, auth=tpm.oiap())
    define_area(tpm, INDEX + 1, 8, NV.OWNERWRITE | NV.OWNERREAD, read=ELSEWHERE, write=ELSEWHERE)
    read_area(tpm, 1, RC.WRONGPCRVAL, index=INDEX + 1, auth=tpm.oiap())
    write_area(tpm, b"x", RC.WRONGPCRVAL, index=INDEX + 1, auth=tpm.oiap())
    there = PcrInfoShort(PcrSelection(bytes(3)), 2, bytes(20))
    define_area(tpm, INDEX + 2, 8, NV.OWNERWRITE | NV.OWNERREAD, read=there, write=there)
    read_area(tpm, 1, RC.BAD_LOCALITY, index=INDEX + 2, auth=tpm.oiap())
    write_area(tpm, b"x", RC.BAD_LOCALITY, index=INDEX + 2, auth=tpm.oiap())
    define_area(tpm, INDEX + 3, 8, NV.OWNERWRITE | NV.OWNERREAD, read=AT_RESET, write=AT_RESET)
    write_area(tpm, b"x", index=INDEX + 3, auth=tpm.oiap())
    read_area(tpm, 1, index=INDEX + 3, auth=tpm.oiap())
    define_area(tpm, INDEX + 4, 8, NV.PPWRITE | NV.PPREAD)
    read_area(tpm, 1, RC.BAD_PRESENCE, index=INDEX + 4)
    write_area(tpm, b"x", RC.BAD_PRESENCE, index=INDEX + 4)
    read_area(tpm, 1, RC.AUTH_CONFLICT, index=INDEX + 4, auth=tpm.oiap())
    write_area(tpm, b"x", RC.AUTH_CONFLICT, index=INDEX + 4, auth=tpm.oiap())
    read_area(tpm, 1, RC.BADINDEX, index=0)


@case(OWNED, Ordinal.NV_READ_VALUE, Ordinal.NV_WRITE_VALUE)
def areas_of_the_owner_while_disabled(tpm: Script) -> None:
    lock_nv(tpm)
    define_area(tpm, INDEX, 8, NV.OWNERWRITE | NV.OWNERREAD)
    define_area(tpm, INDEX + 1, 8, NV.PPWRITE)
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    read_area(tpm, 1, RC.DISABLED, auth=tpm.oiap())
    write_area(tpm, b"x", RC.DISABLED, auth=tpm.oiap())
    read_area(tpm, 1, index=INDEX + 1)
    write_area(tpm, b"x", index=INDEX + 1)
    define_area(tpm, INDEX + 2, 8, NV.OWNERWRITE, RC.DISABLED)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED)
    read_area(tpm, 1, RC.DEACTIVATED, auth=tpm.oiap())
    write_area(tpm, b"x", RC.DEACTIVATED, auth=tpm.oiap())
    define_area(tpm, INDEX + 2, 8, NV.OWNERWRITE, RC.DEACTIVATED)


@case(OWNED, Ordinal.NV_READ_VALUE, Ordinal.NV_WRITE_VALUE)
def the_dir_as_an_area(tpm: Script) -> None:
    lock_nv(tpm)
    read_area(tpm, 20, index=NvIndex.DIR)
    write_area(tpm, DIGEST, RC.AUTH_CONFLICT, index=NvIndex.DIR)
    write_area(tpm, DIGEST, index=NvIndex.DIR, auth=tpm.oiap())
    write_area(tpm, b"x", RC.NOT_FULLWRITE, index=NvIndex.DIR, auth=tpm.oiap())
    read_area(tpm, 20, index=NvIndex.DIR)
    read_area(tpm, 5, index=NvIndex.DIR, offset=15)
    read_area(tpm, 6, RC.NOSPACE, index=NvIndex.DIR, offset=15)


@case(NEW, Ordinal.NV_WRITE_VALUE)
def writes_without_an_owner_are_counted(tpm: Script) -> None:
    define_area(tpm, INDEX, 8, NV.PPWRITE, owner=False)
    for count in range(63):
        write_area(tpm, bytes((count,)))
    write_area(tpm, b"\xff", RC.MAXNVWRITES)


@case(OWNED, Ordinal.CREATE_COUNTER, Ordinal.INCREMENT_COUNTER, Ordinal.READ_COUNTER)
def counters(tpm: Script) -> None:
    auth = tpm.osap_owner()
    tpm.call(Ordinal.CREATE_COUNTER, tpm.encrypt(auth, COUNTER_AUTH), b"abcd", auth=[auth])
    auth = tpm.osap_owner()
    tpm.call(Ordinal.CREATE_COUNTER, tpm.encrypt(auth, COUNTER_AUTH), b"efgh", auth=[auth])
    wrong = tpm.osap_owner(spoil=True)
    tpm.call(Ordinal.CREATE_COUNTER, bytes(20), b"abcd", auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(Ordinal.CREATE_COUNTER, bytes(20), b"abcd", auth=[tpm.oiap()], code=RC.BAD_MODE)
    increment = Ordinal.INCREMENT_COUNTER
    wrong = tpm.oiap(COUNTER_AUTH, spoil=True)
    tpm.call(increment, 7, auth=[tpm.oiap(COUNTER_AUTH)], code=RC.BAD_COUNTER)
    tpm.call(increment, 0, auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(increment, 0, auth=[tpm.oiap(COUNTER_AUTH)])
    tpm.call(increment, 0, auth=[tpm.osap(EntityType.COUNTER, 0, COUNTER_AUTH)])
    tpm.call(increment, 1, auth=[tpm.oiap(COUNTER_AUTH)], code=RC.BAD_COUNTER)
    tpm.capability(5, 0x122)
    for count_id in (0, 1):
        tpm.call(Ordinal.READ_COUNTER, count_id)
    tpm.call(Ordinal.READ_COUNTER, 2, code=RC.BAD_COUNTER)
    tpm.call(Ordinal.READ_COUNTER, 0xFFFFFFFF, code=RC.BAD_COUNTER)
    tpm.power_cycle()
    tpm.call(increment, 1, auth=[tpm.oiap(COUNTER_AUTH)])


@case(OWNED, Ordinal.RELEASE_COUNTER, Ordinal.RELEASE_COUNTER_OWNER)
def releasing_counters(tpm: Script) -> None:
    for _ in range(2):
        auth = tpm.osap_owner()
        tpm.call(Ordinal.CREATE_COUNTER, tpm.encrypt(auth, COUNTER_AUTH), b"abcd", auth=[auth])
    release, by_owner = Ordinal.RELEASE_COUNTER, Ordinal.RELEASE_COUNTER_OWNER
    wrong = tpm.oiap(COUNTER_AUTH, spoil=True)
    tpm.call(Ordinal.INCREMENT_COUNTER, 0, auth=[tpm.oiap(COUNTER_AUTH)])
    tpm.call(release, 0, auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(release, 5, auth=[tpm.oiap(COUNTER_AUTH)], code=RC.BAD_COUNTER)
    tpm.call(release, 0, auth=[tpm.osap(EntityType.COUNTER, 0, COUNTER_AUTH, keep=True)])
    tpm.call(Ordinal.READ_COUNTER, 0, code=RC.BAD_COUNTER)
    tpm.call(Ordinal.INCREMENT_COUNTER, 1, auth=[tpm.oiap(COUNTER_AUTH)], code=RC.BAD_COUNTER)
    tpm.call(by_owner, 1, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(by_owner, 5, auth=[tpm.oiap()], code=RC.BAD_COUNTER)
    tpm.call(by_owner, 1, auth=[tpm.oiap()])
    tpm.call(Ordinal.READ_COUNTER, 1, code=RC.BAD_COUNTER)
    tpm.capability(5, 0x122)
    auth = tpm.osap_owner()
    tpm.call(Ordinal.CREATE_COUNTER, tpm.encrypt(auth, COUNTER_AUTH), b"next", auth=[auth])


@case(OWNED, Ordinal.CREATE_COUNTER)
def counters_until_there_is_no_slot(tpm: Script) -> None:
    for n in range(8):
        auth = tpm.osap_owner()
        secret = tpm.encrypt(auth, COUNTER_AUTH)
        tpm.call(Ordinal.CREATE_COUNTER, secret, bytes((n,)) * 4, auth=[auth])
    auth = tpm.osap_owner()
    tpm.call(Ordinal.CREATE_COUNTER, bytes(20), b"none", auth=[auth], code=RC.RESOURCES)
    tpm.capability(5, 0x10C)
    tpm.run(tss12.read_counter(7))


@case(OWNED, Ordinal.NV_WRITE_VALUE_AUTH)
def areas_with_a_secret_that_are_written_whole(tpm: Script) -> None:
    define_area(tpm, INDEX, 8, NV.AUTHWRITE | NV.WRITEALL)
    write = Ordinal.NV_WRITE_VALUE_AUTH
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.NOT_FULLWRITE)
    tpm.call(write, INDEX, 0, bytes(8), auth=[tpm.oiap(AREA_AUTH)])
