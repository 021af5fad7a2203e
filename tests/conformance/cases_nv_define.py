# SPDX-License-Identifier: Apache-2.0
"""What TPM_NV_DefineSpace refuses, and what of it outlives what (Part 3, 20.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from protocol.tpm12.constants import EntityType, NvIndex, Ordinal, ResourceType, ReturnCode
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection
from tests.conformance.machines import World
from tests.conformance.nv_areas import (
    AREA_AUTH,
    INDEX,
    NV,
    define_area,
    describe_area,
    list_areas,
    lock_nv,
    public_area,
    read_area,
    write_area,
)
from tests.conformance.script import Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
D_INDEX: Final = 0x1000F001
GPIO: Final = 0x00011600


def _unparsed_areas() -> Iterator[tuple[bytes, ReturnCode]]:
    """Give definitions that do not parse, with the code of what is wrong."""
    good = public_area(INDEX, 8, NV.OWNERWRITE).encode()
    read, write, attributes, flags = 6, 32, 58, 64

    def put(position: int, value: bytes) -> bytes:
        return good[:position] + value + good[position + len(value) :]

    yield put(0, b"\0\x19"), RC.INVALID_STRUCTURE
    yield put(attributes, b"\0\x18"), RC.INVALID_STRUCTURE
    for info in (read, write):
        yield put(info, b"\0\4"), RC.INVALID_PCR_INFO
        for locality in (b"\0", b"\x20", b"\xff"):
            yield put(info + 5, locality), RC.INVALID_STRUCTURE
    for flag in range(3):
        yield put(flags + flag, b"\2"), RC.BAD_PARAMETER


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_that_do_not_parse(tpm: Script) -> None:
    for public, code in _unparsed_areas():
        tpm.call(
            Ordinal.NV_DEFINE_SPACE, body=public + bytes(20), auth=[tpm.osap_owner()], code=code
        )
        tpm.call(Ordinal.NV_DEFINE_SPACE, body=public + bytes(20), code=code)
    tpm.capability(0x0D, b"")


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_with_the_flags_of_locks_set(tpm: Script) -> None:
    # They must be booleans, and are ignored.
    encoded = public_area(INDEX, 8, NV.OWNERWRITE | NV.WRITE_STCLEAR | NV.WRITEDEFINE).encode()
    auth = tpm.osap_owner()
    body = encoded[:64] + b"\1\1\1" + encoded[67:] + tpm.encrypt(auth, AREA_AUTH)
    tpm.call(Ordinal.NV_DEFINE_SPACE, body=body, auth=[auth])
    describe_area(tpm)
    lock_nv(tpm)
    write_area(tpm, b"x", auth=tpm.oiap())


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_by_the_owner_with_a_session_that_is_wrong(tpm: Script) -> None:
    for _locked in (False, True):
        define_area(tpm, INDEX, 8, NV.OWNERWRITE, RC.INVALID_AUTHHANDLE, auth=tpm.no_session())
        define_area(tpm, INDEX, 8, NV.OWNERWRITE, RC.BAD_MODE, auth=tpm.oiap())
        define_area(tpm, INDEX, 8, NV.OWNERWRITE, RC.AUTHFAIL, auth=tpm.osap_key())
        define_area(tpm, INDEX, 8, NV.OWNERWRITE, RC.AUTHFAIL, auth=tpm.osap_owner(spoil=True))
        tpm.capability(0x0D, b"")
        lock_nv(tpm)


@case(UNOWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_by_an_owner_who_is_not_there(tpm: Script) -> None:
    for _locked in (False, True):
        define_area(tpm, INDEX, 8, NV.OWNERWRITE, RC.AUTHFAIL, auth=tpm.oiap())
        lock_nv(tpm)


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_of_indices_that_are_not_for_areas(tpm: Script) -> None:
    for _locked in (False, True):
        define_area(tpm, 0, 8, NV.OWNERWRITE, RC.BADINDEX)
        define_area(tpm, NvIndex.DIR, 20, NV.OWNERWRITE, RC.BADINDEX)
        for bit in (0x01000000, 0x02000000, 0x04000000, 0x08000000):
            define_area(tpm, bit | INDEX, 8, NV.OWNERWRITE, RC.BADINDEX)
        # With a session this is no lock, with or without a size.
        for size in (0, 8):
            define_area(tpm, NvIndex.LOCK, size, NV.OWNERWRITE, RC.BADINDEX)
        define_area(tpm, NvIndex.LOCK, 8, 0, RC.BADINDEX, owner=False)
        tpm.flags()
        lock_nv(tpm)
    define_area(tpm, D_INDEX, 8, NV.OWNERWRITE, RC.BADINDEX)
    # What else the upper bits say is the user's business.
    for index in (0x80012345, 0x40012345, 0x20012345, 0xE0FFFFFF, 1, 0x00FFFFFF):
        define_area(tpm, index, 4, NV.OWNERWRITE)
    tpm.capability(0x0D, b"")


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_of_every_attribute(tpm: Script) -> None:
    # One of these bits alone makes an area that is not everybody's to write.
    enough = (NV.OWNERWRITE, NV.AUTHWRITE, NV.WRITEDEFINE, NV.PPWRITE)
    for bit in range(32):
        code = RC.SUCCESS if 1 << bit in enough else RC.PER_NOWRITE
        define_area(tpm, INDEX + bit, 4, 1 << bit, code)
    define_area(tpm, INDEX + 32, 4, 0, RC.PER_NOWRITE)
    for read in (0, NV.OWNERREAD, NV.AUTHREAD, NV.PPREAD, NV.READ_STCLEAR):
        for write in enough:
            define_area(tpm, INDEX + 33, 4, read | write)
            describe_area(tpm, INDEX + 33)
    write = NV.OWNERWRITE | NV.AUTHWRITE
    define_area(tpm, INDEX + 34, 4, write, RC.AUTH_CONFLICT)
    read = NV.OWNERREAD | NV.AUTHREAD
    define_area(tpm, INDEX + 34, 4, read | NV.PPWRITE, RC.AUTH_CONFLICT)
    tpm.capability(0x0D, b"")


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_with_two_faults(tpm: Script) -> None:
    lock_nv(tpm)
    conflict = NV.OWNERWRITE | NV.AUTHWRITE
    wrong = tpm.osap_owner(spoil=True)
    define_area(tpm, D_INDEX, 8, conflict, RC.BADINDEX, auth=wrong)
    wrong = tpm.osap_owner(spoil=True)
    define_area(tpm, INDEX, 8, conflict, RC.AUTHFAIL, auth=wrong)
    define_area(tpm, 0x01012345, 8, conflict, RC.AUTH_CONFLICT)
    define_area(tpm, 0x01012345, 8, NV.OWNERREAD, RC.PER_NOWRITE)
    define_area(tpm, 0x01012345, 0, NV.OWNERWRITE, RC.BADINDEX)
    define_area(tpm, INDEX, 0, NV.OWNERREAD, RC.PER_NOWRITE)
    # Without a session: presence, then the owner, then the size.
    define_area(tpm, INDEX, 0, NV.PPWRITE, RC.BAD_PRESENCE, owner=False)
    tpm.presence()
    define_area(tpm, INDEX, 0, NV.PPWRITE, RC.OWNER_SET, owner=False)
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    define_area(tpm, 0, 8, NV.PPWRITE, RC.DISABLED, owner=False)


@case(UNOWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_without_an_owner(tpm: Script) -> None:
    lock_nv(tpm)
    define_area(tpm, INDEX, 8, NV.PPWRITE, RC.BAD_PRESENCE, owner=False)
    tpm.presence()
    define_area(tpm, INDEX, 0, NV.PPWRITE, RC.BAD_DATASIZE, owner=False)
    define_area(tpm, INDEX, 8, NV.PPWRITE, owner=False)
    describe_area(tpm)
    # Defined again, and not deleted.
    define_area(tpm, INDEX, 4, NV.PPWRITE, owner=False)
    define_area(tpm, INDEX, 0, NV.PPWRITE, RC.BAD_DATASIZE, owner=False)
    describe_area(tpm)
    define_area(tpm, INDEX + 1, 8, NV.AUTHREAD, RC.PER_NOWRITE, owner=False)


@case(NEW, Ordinal.NV_DEFINE_SPACE)
def definitions_before_the_lock(tpm: Script) -> None:
    # Sizes of zero delete, and are refused where there is nothing to delete.
    define_area(tpm, INDEX, 0, NV.PPWRITE, RC.BAD_PARAM_SIZE, owner=False)
    define_area(tpm, INDEX, 8, NV.PPWRITE, owner=False)
    define_area(tpm, INDEX, 0, NV.PPWRITE, owner=False)
    tpm.capability(0x0D, b"")
    for index in (D_INDEX, INDEX):
        define_area(tpm, index, 8, NV.PPWRITE | NV.GLOBALLOCK | NV.WRITE_STCLEAR, owner=False)
        write_area(tpm, b"", index=index)
    write_area(tpm, b"", index=0)
    # The locks do not hold yet.
    for index in (D_INDEX, INDEX):
        define_area(tpm, index, 4, NV.PPWRITE, owner=False)
    define_area(tpm, D_INDEX, 0, NV.PPWRITE, owner=False)
    tpm.capability(0x0D, b"")
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    define_area(tpm, INDEX, 4, NV.PPWRITE, owner=False)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED)
    define_area(tpm, INDEX, 4, NV.PPWRITE, owner=False)


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_while_disabled_or_deactivated(tpm: Script) -> None:
    lock_nv(tpm)
    tpm.presence()
    auth = tpm.osap_owner(keep=True)
    for switch, code in (
        (Ordinal.PHYSICAL_DISABLE, RC.DISABLED),
        (Ordinal.PHYSICAL_ENABLE, RC.SUCCESS),
        (Ordinal.SET_TEMP_DEACTIVATED, RC.DEACTIVATED),
    ):
        tpm.call(switch)
        define_area(tpm, INDEX, 8, NV.OWNERWRITE, code)
        if code:
            # The lock too.
            define_area(tpm, NvIndex.LOCK, 0, 0, code, owner=False)
    tpm.call(Ordinal.FLUSH_SPECIFIC, auth.session.handle, ResourceType.AUTH)


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_of_areas_that_are_locked(tpm: Script) -> None:
    lock_nv(tpm)
    locks = NV.OWNERWRITE | NV.GLOBALLOCK, NV.OWNERWRITE | NV.WRITE_STCLEAR
    for offset, permission in enumerate((*locks, NV.OWNERWRITE | NV.WRITEDEFINE)):
        define_area(tpm, INDEX + offset, 8, permission)
        write_area(tpm, b"", index=INDEX + offset, auth=tpm.oiap())
    write_area(tpm, b"", index=0)
    for offset in (0, 1):
        define_area(tpm, INDEX + offset, 4, NV.OWNERWRITE, RC.AREA_LOCKED)
        define_area(tpm, INDEX + offset, 0, NV.OWNERWRITE, RC.AREA_LOCKED)
    # Locked for good means until it is defined again.
    define_area(tpm, INDEX + 2, 8, NV.OWNERWRITE | NV.WRITEDEFINE)
    write_area(tpm, b"x", index=INDEX + 2, auth=tpm.oiap())
    tpm.power_cycle()
    for offset in (0, 1):
        define_area(tpm, INDEX + offset, 4, NV.OWNERWRITE)
    list_areas(tpm)


# What follows a failed redefinition, the old area being gone, is in a unit test: here the reference
# is in failure mode.


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def an_area_that_is_defined_again_with_a_conflict(tpm: Script) -> None:
    define_area(tpm, INDEX, 8, NV.OWNERWRITE)
    define_area(tpm, INDEX, 8, NV.OWNERWRITE | NV.AUTHWRITE, RC.AUTH_CONFLICT)


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def an_area_that_is_defined_again_for_everybody(tpm: Script) -> None:
    define_area(tpm, INDEX, 8, NV.OWNERWRITE)
    define_area(tpm, INDEX, 8, NV.OWNERREAD, RC.PER_NOWRITE)


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def an_area_that_is_defined_again_and_does_not_fit(tpm: Script) -> None:
    define_area(tpm, INDEX, 8, NV.OWNERWRITE)
    define_area(tpm, INDEX, 0x100000, NV.OWNERWRITE, RC.NOSPACE)


@case(OWNED, Ordinal.NV_DEFINE_SPACE, Ordinal.OSAP)
def sessions_on_areas_that_are_defined_again(tpm: Script) -> None:
    define_area(tpm, INDEX, 8, NV.AUTHWRITE)
    define_area(tpm, INDEX + 1, 8, NV.AUTHWRITE)
    gone = tpm.osap(EntityType.NV, INDEX, AREA_AUTH)
    kept = tpm.osap(EntityType.NV, INDEX + 1, AREA_AUTH)
    define_area(tpm, INDEX, 8, NV.AUTHWRITE)
    write = Ordinal.NV_WRITE_VALUE_AUTH
    tpm.call(write, INDEX, 0, b"x", auth=[gone], code=RC.INVALID_AUTHHANDLE)
    tpm.call(write, INDEX + 1, 0, b"x", auth=[kept])
    tpm.call(Ordinal.OSAP, EntityType.NV, INDEX + 2, bytes(20), code=RC.BADINDEX)


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_on_trial(tpm: Script) -> None:
    lock_nv(tpm)
    trial = NvIndex.TRIAL
    define_area(tpm, trial, 64, NV.OWNERWRITE)
    define_area(tpm, trial, 64, NV.OWNERREAD, RC.PER_NOWRITE)
    define_area(tpm, trial, 0, NV.OWNERWRITE, RC.BAD_PARAM_SIZE)
    write_area(tpm, b"x", RC.BADINDEX, index=trial, auth=tpm.oiap())
    tpm.call(Ordinal.GET_CAPABILITY, 0x11, trial.to_bytes(4, "big"), code=RC.BADINDEX)
    tpm.capability(0x0D, b"")


@case(NEW, Ordinal.NV_DEFINE_SPACE)
def definitions_without_an_owner_are_counted(tpm: Script) -> None:
    for count in range(31):
        define_area(tpm, INDEX, 4, NV.PPWRITE, owner=False)
        write_area(tpm, bytes((count,)))
    define_area(tpm, INDEX + 1, 4, NV.PPWRITE, owner=False)
    define_area(tpm, INDEX + 2, 4, NV.PPWRITE, owner=False)
    define_area(tpm, INDEX + 3, 4, NV.PPWRITE, RC.MAXNVWRITES, owner=False)
    write_area(tpm, b"\xfe", RC.MAXNVWRITES)
    # The lock is no write of an area, and clearing the owner begins the count anew.
    lock_nv(tpm)
    tpm.presence()
    tpm.call(Ordinal.FORCE_CLEAR)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    define_area(tpm, INDEX + 3, 4, NV.PPWRITE, owner=False)
    tpm.capability(0x0D, b"")


@case(OWNED, Ordinal.OWNER_CLEAR, Ordinal.NV_DEFINE_SPACE)
def areas_that_outlive_the_owner(tpm: Script) -> None:
    permissions = (
        NV.OWNERWRITE,
        NV.OWNERREAD | NV.PPWRITE,
        NV.AUTHWRITE,
        NV.AUTHREAD | NV.PPWRITE,
        NV.PPWRITE | NV.PPREAD,
        NV.WRITEDEFINE,
    )
    for offset, permission in enumerate(permissions):
        define_area(tpm, INDEX + offset, 4, permission)
        define_area(tpm, D_INDEX + offset, 4, permission)
    define_area(tpm, GPIO, 4, NV.PPWRITE)
    define_area(tpm, GPIO + 1, 4, NV.PPWRITE)
    lock_nv(tpm)
    write_area(tpm, b"kept", index=NvIndex.DIR, auth=tpm.oiap(), code=RC.NOT_FULLWRITE)
    write_area(tpm, bytes(range(20)), index=NvIndex.DIR, auth=tpm.oiap())
    tpm.capability(0x0D, b"")
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()])
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.capability(0x0D, b"")
    read_area(tpm, 20, index=NvIndex.DIR)
    tpm.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=tpm.random))
    define_area(tpm, D_INDEX, 4, NV.OWNERWRITE, RC.BADINDEX)
    define_area(tpm, D_INDEX, 0, NV.OWNERWRITE, RC.BADINDEX)
    write_area(tpm, b"new", index=D_INDEX, auth=tpm.oiap())


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def definitions_for_one_locality(tpm: Script) -> None:
    there = PcrInfoShort(PcrSelection(bytes(3)), 2, bytes(20))
    define_area(tpm, INDEX, 8, NV.OWNERREAD, read=there, write=there)
    describe_area(tpm)
    lock_nv(tpm)
    write_area(tpm, b"x", RC.BAD_LOCALITY)
    tpm.locality = 1
    write_area(tpm, b"x")
    read_area(tpm, 1, auth=tpm.oiap())
