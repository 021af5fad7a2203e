# SPDX-License-Identifier: Apache-2.0
"""Opening sessions, and changing secrets (Part 3, chapters 17 and 18)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import EntityType, Ordinal, ResourceType, ReturnCode
from tests.conformance.machines import World
from tests.conformance.script import (
    DIGEST,
    SRK,
    USAGE_AUTH,
    Chapter,
    Script,
)
from tests.unit.tpm12.world import SRK_AUTH

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
NEW_AUTH: Final = b"another secret------"
LABEL: Final = b"label of context"


@case(NEW, Ordinal.OIAP, Ordinal.FLUSH_SPECIFIC)
def sessions_until_there_is_no_slot(tpm: Script) -> None:
    # The reference has the same number of slots; what is told of them is compared elsewhere.
    handles = [tpm.oiap().session.handle for _ in range(16)]
    tpm.call(Ordinal.OIAP, code=RC.RESOURCES)
    tpm.call(Ordinal.FLUSH_SPECIFIC, handles[0], ResourceType.AUTH)
    tpm.call(Ordinal.OIAP)


@case(OWNED, Ordinal.OSAP)
def osap_entities(tpm: Script) -> None:
    key = tpm.load("sign")
    for kind, value in ((1, key), (1, SRK), (2, 0), (4, 0)):
        tpm.call(Ordinal.OSAP, kind, value, DIGEST)
    tpm.call(Ordinal.OSAP, 1, 12345, DIGEST, code=RC.INVALID_KEYHANDLE)
    tpm.call(Ordinal.OSAP, 1, 0x40000004, DIGEST, code=RC.BAD_HANDLE)
    tpm.call(Ordinal.OSAP, 1, 0x40000006, DIGEST, code=RC.KEYNOTFOUND)
    tpm.call(Ordinal.OSAP, 1, 0x40000001, DIGEST, code=RC.INVALID_RESOURCE)
    tpm.call(Ordinal.OSAP, 0x0A, 0, DIGEST, code=RC.BAD_COUNTER)
    tpm.call(Ordinal.OSAP, 0x0B, 0x1234, DIGEST, code=RC.BADINDEX)
    for kind in (0, 3, 5, 6, 7, 8, 9, 0x0C, 0x40):
        tpm.call(Ordinal.OSAP, kind, SRK, DIGEST, code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.OSAP, 0x0602, 0, DIGEST)
    tpm.call(Ordinal.OSAP, 0x0502, 0, DIGEST, code=RC.INAPPROPRIATE_ENC)


@case(UNOWNED, Ordinal.OSAP)
def osap_without_an_owner(tpm: Script) -> None:
    for kind in (1, 2, 4):
        tpm.call(Ordinal.OSAP, kind, SRK, DIGEST, code=RC.NOSRK)


@case(UNOWNED, Ordinal.OSAP)
def osap_on_a_counter_without_an_owner(tpm: Script) -> None:
    tpm.call(Ordinal.OSAP, 0x0A, 0, DIGEST, code=RC.BAD_COUNTER)


@case(UNOWNED, Ordinal.OSAP)
def osap_on_an_area_without_an_owner(tpm: Script) -> None:
    tpm.call(Ordinal.OSAP, 0x0B, 0x1234, DIGEST, code=RC.BADINDEX)


@case(OWNED, Ordinal.OIAP)
def a_session_ends_with_an_error(tpm: Script) -> None:
    auth = tpm.oiap(keep=True)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[auth])
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[auth])
    bad = replace(auth, spoil=True)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[bad], code=RC.AUTHFAIL)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[auth], code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.OIAP)
def the_same_session_twice_in_a_command(tpm: Script) -> None:
    key = tpm.load("storage")
    auth = tpm.oiap(USAGE_AUTH)
    tpm.call(Ordinal.CERTIFY_KEY, tpm.load("sign"), key, DIGEST, auth=[auth, auth])


@case(OWNED, Ordinal.LOAD_KEY2)
def keys_until_there_is_no_slot(tpm: Script) -> None:
    key = tpm.wrapped("sign")
    handles = [tpm.load("sign") for _ in range(20)]
    tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)], code=RC.NOSPACE)
    tpm.call(Ordinal.FLUSH_SPECIFIC, handles[7], ResourceType.KEY)
    tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)])


@case(OWNED, Ordinal.OSAP)
def osap_sessions_until_there_is_no_slot(tpm: Script) -> None:
    for _ in range(16):
        tpm.osap_owner()
    tpm.call(Ordinal.OSAP, EntityType.OWNER, 0, DIGEST, code=RC.RESOURCES)
