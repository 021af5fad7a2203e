# SPDX-License-Identifier: Apache-2.0
"""SHA-1 threads, random bytes, ticks (Part 3, chapters 13 and 23)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.machines import World
from tests.conformance.script import Chapter, Script

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED


@case(NEW, Ordinal.SHA1_START, Ordinal.SHA1_UPDATE, Ordinal.SHA1_COMPLETE)
def sha1_thread(tpm: Script) -> None:
    tpm.call(Ordinal.SHA1_UPDATE, bytes(64), code=RC.SHA_THREAD)
    tpm.call(Ordinal.SHA1_COMPLETE, b"", code=RC.SHA_THREAD)
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.SHA1_UPDATE, bytes(range(128)))
    tpm.call(Ordinal.SHA1_UPDATE, b"")
    tpm.call(Ordinal.SHA1_COMPLETE, b"end")
    tpm.call(Ordinal.SHA1_COMPLETE, b"", code=RC.SHA_THREAD)


@case(NEW, Ordinal.SHA1_UPDATE, Ordinal.SHA1_COMPLETE)
def sha1_with_bad_lengths(tpm: Script) -> None:
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.SHA1_UPDATE, bytes(63), code=RC.SHA_ERROR)
    tpm.call(Ordinal.SHA1_UPDATE, bytes(64), code=RC.SHA_THREAD)
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.SHA1_COMPLETE, bytes(65), code=RC.SHA_ERROR)
    tpm.call(Ordinal.SHA1_COMPLETE, b"", code=RC.SHA_THREAD)


@case(NEW, Ordinal.SHA1_START)
def sha1_thread_ends_with_another_command(tpm: Script) -> None:
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.PCR_READ, 0)
    tpm.call(Ordinal.SHA1_UPDATE, bytes(64), code=RC.SHA_THREAD)


@case(NEW, Ordinal.SHA1_COMPLETE_EXTEND)
def sha1_into_a_pcr(tpm: Script) -> None:
    tpm.call(Ordinal.SHA1_COMPLETE_EXTEND, 5, b"", code=RC.SHA_THREAD)
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.SHA1_COMPLETE_EXTEND, 5, b"measured")
    tpm.call(Ordinal.PCR_READ, 5)
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.SHA1_COMPLETE_EXTEND, 24, b"", code=RC.BADINDEX)
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.SHA1_COMPLETE_EXTEND, 18, b"", code=RC.BAD_LOCALITY)
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.SHA1_COMPLETE_EXTEND, 5, bytes(65), code=RC.SHA_ERROR)
    tpm.call(Ordinal.PCR_READ, 5)


@case(NEW, Ordinal.SHA1_UPDATE, Ordinal.SHA1_COMPLETE, Ordinal.SHA1_COMPLETE_EXTEND)
def sha1_with_two_faults(tpm: Script) -> None:
    # The length is judged before the thread is looked for, at the end of one; a block at a time,
    # the thread comes first.
    tpm.call(Ordinal.SHA1_UPDATE, bytes(63), code=RC.SHA_THREAD)
    tpm.call(Ordinal.SHA1_COMPLETE, bytes(65), code=RC.SHA_ERROR)
    tpm.call(Ordinal.SHA1_COMPLETE_EXTEND, 24, bytes(65), code=RC.SHA_ERROR)
    tpm.call(Ordinal.SHA1_COMPLETE_EXTEND, 24, b"", code=RC.SHA_THREAD)
    # The hash is finished before the PCR is looked at, so the thread is gone.
    for pcr, code in ((24, RC.BADINDEX), (18, RC.BAD_LOCALITY)):
        tpm.call(Ordinal.SHA1_START)
        tpm.call(Ordinal.SHA1_COMPLETE_EXTEND, pcr, b"", code=code)
        tpm.call(Ordinal.SHA1_COMPLETE, b"", code=RC.SHA_THREAD)


@case(NEW, Ordinal.SHA1_UPDATE)
def sha1_of_as_much_as_fits_a_command(tpm: Script) -> None:
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.SHA1_UPDATE, bytes(4032))
    tpm.call(Ordinal.SHA1_UPDATE, bytes(4033), code=RC.SHA_ERROR)


@case(NEW, Ordinal.SHA1_COMPLETE_EXTEND)
def sha1_while_disabled_or_deactivated(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.SHA1_COMPLETE_EXTEND, 5, b"measured")
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.PCR_READ, 5)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED)
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.SHA1_UPDATE, bytes(64))
    tpm.call(Ordinal.SHA1_COMPLETE, b"end")
    tpm.call(Ordinal.SHA1_START)
    tpm.call(Ordinal.SHA1_COMPLETE_EXTEND, 5, b"measured")


@case(NEW, Ordinal.GET_RANDOM, Ordinal.STIR_RANDOM)
def random_bytes(tpm: Script) -> None:
    for wanted in (0, 1, 20, 2000):
        tpm.call(Ordinal.GET_RANDOM, wanted)
    tpm.call(Ordinal.GET_RANDOM, 0xFFFFFFFF)
    tpm.call(Ordinal.STIR_RANDOM, b"")
    tpm.call(Ordinal.STIR_RANDOM, bytes(255))


@case(NEW, Ordinal.STIR_RANDOM)
def stirring_much(tpm: Script) -> None:
    tpm.call(Ordinal.STIR_RANDOM, bytes(256))
