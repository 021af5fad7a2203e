# SPDX-License-Identifier: Apache-2.0
"""NV storage and monotonic counters (Part 3, chapters 20 and 25)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import EntityType, NvAttributes, NvIndex, Ordinal, ReturnCode
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection, composite_hash
from protocol.tpm12.resources import NvAttributesWord, NvDataPublic
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, Auth, Chapter, Script
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
NV = NvAttributes
AREA_AUTH: Final = b"secret of the area--"
INDEX: Final = 0x00012345
ANYWHERE: Final = PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))
PCR_16: Final = PcrSelection.of([16])
AT_RESET: Final = PcrInfoShort(PCR_16, 0x1F, composite_hash(PCR_16, [bytes(20)] * 24))
ELSEWHERE: Final = PcrInfoShort(PCR_16, 0x1F, DIGEST)
COUNTER_AUTH: Final = b"secret of a counter-"


def _public(
    index: int,
    size: int,
    permission: int,
    read: PcrInfoShort = ANYWHERE,
    write: PcrInfoShort = ANYWHERE,
) -> NvDataPublic:
    return NvDataPublic(index, read, write, NvAttributesWord(permission), False, False, False, size)


def _define(
    tpm: Script,
    index: int,
    size: int,
    permission: int,
    code: ReturnCode = RC.SUCCESS,
    *,
    owner: bool = True,
    auth: Auth | None = None,
    read: PcrInfoShort = ANYWHERE,
    write: PcrInfoShort = ANYWHERE,
) -> None:
    public = _public(index, size, permission, read, write)
    if not owner:
        tpm.call(Ordinal.NV_DEFINE_SPACE, public, AREA_AUTH, code=code)
        return
    auth = auth or tpm.osap_owner()
    secret = tpm.encrypt(auth, AREA_AUTH) if auth.session.shared_secret else AREA_AUTH
    tpm.call(Ordinal.NV_DEFINE_SPACE, public, secret, auth=[auth], code=code)


def _lock(tpm: Script) -> None:
    _define(tpm, NvIndex.LOCK, 0, 0, owner=False)


def _describe(tpm: Script, index: int = INDEX) -> None:
    tpm.capability(0x11, index)
    tpm.capability(0x0D, b"")


def _write(
    tpm: Script,
    data: bytes,
    code: ReturnCode = RC.SUCCESS,
    *,
    index: int = INDEX,
    offset: int = 0,
    auth: Auth | None = None,
) -> None:
    tpm.call(Ordinal.NV_WRITE_VALUE, index, offset, data, auth=[auth] if auth else [], code=code)


def _read(
    tpm: Script,
    size: int,
    code: ReturnCode = RC.SUCCESS,
    *,
    index: int = INDEX,
    offset: int = 0,
    auth: Auth | None = None,
) -> None:
    tpm.call(Ordinal.NV_READ_VALUE, index, offset, size, auth=[auth] if auth else [], code=code)


@case(OWNED, Ordinal.NV_DEFINE_SPACE, Ordinal.NV_WRITE_VALUE, Ordinal.NV_READ_VALUE)
def areas_of_the_owner(tpm: Script) -> None:
    _lock(tpm)
    tpm.flags()
    _define(tpm, INDEX, 16, NV.OWNERWRITE | NV.OWNERREAD)
    _describe(tpm)
    _read(tpm, 16, auth=tpm.oiap())
    _write(tpm, b"some data", offset=3, auth=tpm.oiap())
    _read(tpm, 16, auth=tpm.osap_owner())
    _read(tpm, 9, offset=3, auth=tpm.oiap())
    tpm.power_cycle()
    _read(tpm, 16, auth=tpm.oiap())
    _write(tpm, b"x", RC.AUTHFAIL, auth=tpm.oiap(spoil=True))
    _read(tpm, 1, RC.AUTHFAIL, auth=tpm.oiap(spoil=True))
    _write(tpm, b"x", RC.AUTH_CONFLICT)
    _read(tpm, 1, RC.AUTH_CONFLICT)
    _write(tpm, bytes(17), RC.NOSPACE, auth=tpm.oiap())
    _write(tpm, b"xx", RC.NOSPACE, offset=15, auth=tpm.oiap())
    _read(tpm, 17, RC.NOSPACE, auth=tpm.oiap())
    _read(tpm, 2, RC.NOSPACE, offset=15, auth=tpm.oiap())
    _write(tpm, b"x", RC.BADINDEX, index=INDEX + 1, auth=tpm.oiap())
    _read(tpm, 1, RC.BADINDEX, index=INDEX + 1, auth=tpm.oiap())
    _define(tpm, INDEX, 0, 0)
    _read(tpm, 1, RC.BADINDEX, auth=tpm.oiap())
    _define(tpm, INDEX, 0, NV.OWNERWRITE, RC.BAD_PARAM_SIZE)


@case(OWNED, Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH)
def areas_with_a_secret(tpm: Script) -> None:
    _define(tpm, INDEX, 8, NV.AUTHWRITE | NV.AUTHREAD)
    write, read = Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH
    tpm.call(write, INDEX, 0, b"12345678", auth=[tpm.oiap(AREA_AUTH)])
    tpm.call(read, INDEX, 0, 8, auth=[tpm.osap(EntityType.NV, INDEX, AREA_AUTH)])
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH, spoil=True)], code=RC.AUTHFAIL)
    tpm.call(read, INDEX, 0, 8, auth=[tpm.oiap(AREA_AUTH, spoil=True)], code=RC.AUTHFAIL)
    tpm.call(write, INDEX, 7, b"xy", auth=[tpm.oiap(AREA_AUTH)], code=RC.NOSPACE)
    tpm.call(read, INDEX, 7, 2, auth=[tpm.oiap(AREA_AUTH)], code=RC.NOSPACE)
    tpm.call(write, 5, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.BADINDEX)
    tpm.call(read, 5, 0, 8, auth=[tpm.oiap(AREA_AUTH)], code=RC.BADINDEX)
    _write(tpm, b"x", RC.AUTH_CONFLICT)
    _read(tpm, 1, RC.AUTH_CONFLICT)
    _define(tpm, INDEX + 1, 8, NV.OWNERWRITE | NV.OWNERREAD)
    tpm.call(write, INDEX + 1, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.AUTH_CONFLICT)
    tpm.call(read, INDEX + 1, 0, 8, auth=[tpm.oiap(AREA_AUTH)], code=RC.AUTH_CONFLICT)


@case(OWNED, Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH)
def areas_with_a_secret_and_conditions(tpm: Script) -> None:
    write, read = Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH
    permission = NV.AUTHWRITE | NV.AUTHREAD | NV.PPWRITE | NV.PPREAD
    _define(tpm, INDEX, 8, permission)
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.BAD_PRESENCE)
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)], code=RC.BAD_PRESENCE)
    tpm.presence()
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)])
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)])
    _define(tpm, INDEX, 8, NV.AUTHWRITE | NV.AUTHREAD, read=ELSEWHERE, write=ELSEWHERE)
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.WRONGPCRVAL)
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)], code=RC.WRONGPCRVAL)
    there = PcrInfoShort(PcrSelection(bytes(3)), 2, bytes(20))
    _define(tpm, INDEX, 8, NV.AUTHWRITE | NV.AUTHREAD, read=there, write=there)
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.BAD_LOCALITY)
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)], code=RC.BAD_LOCALITY)
    tpm.locality = 1
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)])
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)])
    tpm.locality = 0
    _define(tpm, INDEX, 8, NV.AUTHWRITE | NV.AUTHREAD | NV.READ_STCLEAR | NV.WRITE_STCLEAR)
    tpm.call(write, INDEX, 0, b"", auth=[tpm.oiap(AREA_AUTH)])
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.AREA_LOCKED)
    tpm.call(read, INDEX, 0, 0, auth=[tpm.oiap(AREA_AUTH)])
    tpm.call(read, INDEX, 0, 1, auth=[tpm.oiap(AREA_AUTH)], code=RC.DISABLED_CMD)


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def defining_what_cannot_be(tpm: Script) -> None:
    _lock(tpm)
    _define(tpm, INDEX, 8, NV.OWNERWRITE | NV.AUTHWRITE, RC.AUTH_CONFLICT)
    _define(tpm, INDEX, 8, NV.OWNERWRITE | NV.OWNERREAD | NV.AUTHREAD, RC.AUTH_CONFLICT)
    _define(tpm, INDEX, 8, NV.OWNERREAD, RC.PER_NOWRITE)
    _define(tpm, 0, 8, NV.OWNERWRITE, RC.BADINDEX)
    _define(tpm, 0x10000002, 8, NV.OWNERWRITE, RC.BADINDEX)
    _define(tpm, 0x01000001, 8, NV.OWNERWRITE, RC.BADINDEX)
    _define(tpm, NvIndex.LOCK, 8, NV.OWNERWRITE, RC.BADINDEX)
    _define(tpm, INDEX, 0x100000, NV.OWNERWRITE, RC.NOSPACE)
    _define(tpm, INDEX, 8, NV.OWNERWRITE, RC.AUTHFAIL, auth=tpm.osap_owner(spoil=True))
    _define(tpm, INDEX, 8, NV.OWNERWRITE, RC.BAD_MODE, auth=tpm.oiap())
    _define(tpm, INDEX, 8, NV.OWNERWRITE, RC.BAD_PRESENCE, owner=False)
    tpm.presence()
    _define(tpm, INDEX, 8, NV.OWNERWRITE, RC.OWNER_SET, owner=False)
    _define(tpm, NvIndex.TRIAL, 8, NV.OWNERWRITE)
    tpm.capability(0x0D, b"")


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def defining_with_the_write_locality_alone(tpm: Script) -> None:
    there = PcrInfoShort(PcrSelection(bytes(3)), 2, bytes(20))
    _define(tpm, INDEX, 8, NV.OWNERREAD, write=there)


@case(NEW, Ordinal.NV_DEFINE_SPACE, Ordinal.NV_WRITE_VALUE, Ordinal.NV_READ_VALUE)
def areas_before_the_nv_lock(tpm: Script) -> None:
    tpm.flags()
    _define(tpm, INDEX, 8, NV.PPWRITE | NV.PPREAD, owner=False)
    _describe(tpm)
    _write(tpm, b"anything")
    _read(tpm, 8)
    _define(tpm, 0x10000100, 8, NV.OWNERWRITE | NV.OWNERREAD, owner=False)
    _write(tpm, b"D bit", index=0x10000100)
    _define(tpm, INDEX + 1, 8, NV.AUTHWRITE | NV.AUTHREAD, owner=False)
    _write(tpm, b"x", RC.AUTH_CONFLICT, index=INDEX + 1)
    _read(tpm, 1, RC.AUTH_CONFLICT, index=INDEX + 1)
    _lock(tpm)
    _write(tpm, b"x", RC.BAD_PRESENCE)
    _read(tpm, 8, RC.BAD_PRESENCE)
    _define(tpm, INDEX + 2, 8, NV.PPWRITE, RC.BAD_PRESENCE, owner=False)
    tpm.presence()
    _write(tpm, b"present")
    _read(tpm, 8)
    _define(tpm, INDEX + 2, 8, NV.PPWRITE, owner=False)
    _define(tpm, INDEX + 2, 0, NV.PPWRITE, RC.BAD_DATASIZE, owner=False)
    _define(tpm, 0x10000101, 8, NV.PPWRITE, RC.BADINDEX, owner=False)
    tpm.capability(0x0D, b"")


@case(NEW, Ordinal.NV_DEFINE_SPACE)
def the_nv_lock_with_a_size(tpm: Script) -> None:
    _define(tpm, NvIndex.LOCK, 8, 0, RC.BADINDEX, owner=False)
    tpm.flags()


@case(OWNED, Ordinal.NV_WRITE_VALUE)
def area_locks(tpm: Script) -> None:
    _lock(tpm)
    _define(tpm, INDEX, 8, NV.OWNERWRITE | NV.WRITE_STCLEAR)
    _write(tpm, b"", auth=tpm.oiap())
    _write(tpm, b"x", RC.AREA_LOCKED, auth=tpm.oiap())
    _describe(tpm)
    _define(tpm, INDEX, 8, NV.OWNERWRITE, RC.AREA_LOCKED)
    _define(tpm, INDEX + 1, 8, NV.OWNERWRITE | NV.WRITEDEFINE)
    _write(tpm, b"", index=INDEX + 1, auth=tpm.oiap())
    _write(tpm, b"x", RC.AREA_LOCKED, index=INDEX + 1, auth=tpm.oiap())
    _define(tpm, INDEX + 2, 8, NV.OWNERWRITE | NV.GLOBALLOCK)
    _write(tpm, b"x", index=INDEX + 2, auth=tpm.oiap())
    _write(tpm, b"x", RC.BADINDEX, index=0)
    _write(tpm, b"", index=0)
    tpm.flags()
    _write(tpm, b"x", RC.AREA_LOCKED, index=INDEX + 2, auth=tpm.oiap())
    _define(tpm, INDEX + 3, 8, NV.OWNERWRITE | NV.WRITEALL)
    _write(tpm, b"x", RC.NOT_FULLWRITE, index=INDEX + 3, auth=tpm.oiap())
    _write(tpm, b"12345678", index=INDEX + 3, auth=tpm.oiap())
    tpm.power_cycle()
    _write(tpm, b"x", auth=tpm.oiap())
    _write(tpm, b"x", RC.AREA_LOCKED, index=INDEX + 1, auth=tpm.oiap())
    _write(tpm, b"x", index=INDEX + 2, auth=tpm.oiap())
    _describe(tpm, INDEX + 1)


@case(OWNED, Ordinal.NV_READ_VALUE)
def read_locks_and_conditions(tpm: Script) -> None:
    _lock(tpm)
    _define(tpm, INDEX, 8, NV.OWNERWRITE | NV.OWNERREAD | NV.READ_STCLEAR)
    _read(tpm, 0, auth=tpm.oiap())
    _read(tpm, 1, RC.DISABLED_CMD, auth=tpm.oiap())
    _define(tpm, INDEX + 1, 8, NV.OWNERWRITE | NV.OWNERREAD, read=ELSEWHERE, write=ELSEWHERE)
    _read(tpm, 1, RC.WRONGPCRVAL, index=INDEX + 1, auth=tpm.oiap())
    _write(tpm, b"x", RC.WRONGPCRVAL, index=INDEX + 1, auth=tpm.oiap())
    there = PcrInfoShort(PcrSelection(bytes(3)), 2, bytes(20))
    _define(tpm, INDEX + 2, 8, NV.OWNERWRITE | NV.OWNERREAD, read=there, write=there)
    _read(tpm, 1, RC.BAD_LOCALITY, index=INDEX + 2, auth=tpm.oiap())
    _write(tpm, b"x", RC.BAD_LOCALITY, index=INDEX + 2, auth=tpm.oiap())
    _define(tpm, INDEX + 3, 8, NV.OWNERWRITE | NV.OWNERREAD, read=AT_RESET, write=AT_RESET)
    _write(tpm, b"x", index=INDEX + 3, auth=tpm.oiap())
    _read(tpm, 1, index=INDEX + 3, auth=tpm.oiap())
    _define(tpm, INDEX + 4, 8, NV.PPWRITE | NV.PPREAD)
    _read(tpm, 1, RC.BAD_PRESENCE, index=INDEX + 4)
    _write(tpm, b"x", RC.BAD_PRESENCE, index=INDEX + 4)
    _read(tpm, 1, RC.AUTH_CONFLICT, index=INDEX + 4, auth=tpm.oiap())
    _write(tpm, b"x", RC.AUTH_CONFLICT, index=INDEX + 4, auth=tpm.oiap())
    _read(tpm, 1, RC.BADINDEX, index=0)


@case(OWNED, Ordinal.NV_READ_VALUE, Ordinal.NV_WRITE_VALUE)
def areas_of_the_owner_while_disabled(tpm: Script) -> None:
    _lock(tpm)
    _define(tpm, INDEX, 8, NV.OWNERWRITE | NV.OWNERREAD)
    _define(tpm, INDEX + 1, 8, NV.PPWRITE)
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    _read(tpm, 1, RC.DISABLED, auth=tpm.oiap())
    _write(tpm, b"x", RC.DISABLED, auth=tpm.oiap())
    _read(tpm, 1, index=INDEX + 1)
    _write(tpm, b"x", index=INDEX + 1)
    _define(tpm, INDEX + 2, 8, NV.OWNERWRITE, RC.DISABLED)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED)
    _read(tpm, 1, RC.DEACTIVATED, auth=tpm.oiap())
    _write(tpm, b"x", RC.DEACTIVATED, auth=tpm.oiap())
    _define(tpm, INDEX + 2, 8, NV.OWNERWRITE, RC.DEACTIVATED)


@case(OWNED, Ordinal.NV_READ_VALUE, Ordinal.NV_WRITE_VALUE)
def the_dir_as_an_area(tpm: Script) -> None:
    _lock(tpm)
    _read(tpm, 20, index=NvIndex.DIR)
    _write(tpm, DIGEST, RC.AUTH_CONFLICT, index=NvIndex.DIR)
    _write(tpm, DIGEST, index=NvIndex.DIR, auth=tpm.oiap())
    _write(tpm, b"x", RC.NOT_FULLWRITE, index=NvIndex.DIR, auth=tpm.oiap())
    _read(tpm, 20, index=NvIndex.DIR)
    _read(tpm, 5, index=NvIndex.DIR, offset=15)
    _read(tpm, 6, RC.NOSPACE, index=NvIndex.DIR, offset=15)


@case(NEW, Ordinal.NV_WRITE_VALUE)
def writes_without_an_owner_are_counted(tpm: Script) -> None:
    _define(tpm, INDEX, 8, NV.PPWRITE, owner=False)
    for count in range(63):
        _write(tpm, bytes((count,)))
    _write(tpm, b"\xff", RC.MAXNVWRITES)


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
    _define(tpm, INDEX, 8, NV.AUTHWRITE | NV.WRITEALL)
    write = Ordinal.NV_WRITE_VALUE_AUTH
    tpm.call(write, INDEX, 0, b"x", auth=[tpm.oiap(AREA_AUTH)], code=RC.NOT_FULLWRITE)
    tpm.call(write, INDEX, 0, bytes(8), auth=[tpm.oiap(AREA_AUTH)])
