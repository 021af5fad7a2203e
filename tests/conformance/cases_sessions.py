# SPDX-License-Identifier: Apache-2.0
"""Sessions, changed secrets, contexts, eviction (Part 3, chapters 17, 18, 21, 22 and 27)."""

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


@case(OWNED, Ordinal.FLUSH_SPECIFIC)
def flushing(tpm: Script) -> None:
    flush = Ordinal.FLUSH_SPECIFIC
    key = tpm.load("sign")
    auth = tpm.osap_key(key, USAGE_AUTH)
    tpm.call(flush, key, ResourceType.KEY)
    tpm.call(flush, key, ResourceType.KEY, code=RC.BAD_PARAMETER)
    tpm.call(flush, auth.session.handle, ResourceType.AUTH, code=RC.INVALID_AUTHHANDLE)
    tpm.call(flush, SRK, ResourceType.KEY, code=RC.BAD_PARAMETER)
    tpm.call(flush, 0x1234, ResourceType.CONTEXT, code=RC.BAD_PARAMETER)
    for kind in (0, 3, 6, 7, 9, 10, 99):
        tpm.call(flush, 0x1234, kind, code=RC.INVALID_RESOURCE)


@case(OWNED, Ordinal.EVICT_KEY, Ordinal.TERMINATE_HANDLE, Ordinal.RESET)
def the_old_ways_to_flush(tpm: Script) -> None:
    key = tpm.load("sign")
    tpm.call(Ordinal.EVICT_KEY, key)
    tpm.call(Ordinal.EVICT_KEY, key, code=RC.INVALID_KEYHANDLE)
    auth = tpm.oiap()
    tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle)
    tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle, code=RC.INVALID_AUTHHANDLE)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[auth], code=RC.INVALID_AUTHHANDLE)
    auth = tpm.oiap()
    kept = tpm.load("sign")
    tpm.call(Ordinal.RESET)
    tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle, code=RC.INVALID_AUTHHANDLE)
    tpm.call(Ordinal.GET_PUB_KEY, kept, auth=[tpm.oiap(USAGE_AUTH)])


@case(OWNED, Ordinal.LOAD_KEY2)
def keys_until_there_is_no_slot(tpm: Script) -> None:
    key = tpm.wrapped("sign")
    handles = [tpm.load("sign") for _ in range(20)]
    tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)], code=RC.NOSPACE)
    tpm.call(Ordinal.FLUSH_SPECIFIC, handles[7], ResourceType.KEY)
    tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)])


def _context(tpm: Script, handle: int, kind: int, code: ReturnCode = RC.SUCCESS) -> bytes:
    saved = tpm.call(Ordinal.SAVE_CONTEXT, handle, kind, LABEL, code=code)
    blob = getattr(saved, "context_blob", b"")
    assert isinstance(blob, bytes)
    return blob


def _load_context(
    tpm: Script, blob: bytes, code: ReturnCode = RC.SUCCESS, *, entity: int = 0, keep: bool = False
) -> int:
    loaded = tpm.call(Ordinal.LOAD_CONTEXT, entity, keep, blob, code=code)
    handle = getattr(loaded, "handle", 0)
    assert isinstance(handle, int)
    return handle


@case(OWNED, Ordinal.SAVE_CONTEXT, Ordinal.LOAD_CONTEXT)
def contexts_of_keys(tpm: Script) -> None:
    key = tpm.load("sign")
    blob = _context(tpm, key, ResourceType.KEY)
    _load_context(tpm, blob, RC.BAD_HANDLE, keep=True)
    tpm.call(Ordinal.FLUSH_SPECIFIC, key, ResourceType.KEY)
    handle = _load_context(tpm, blob, keep=True)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    again = _load_context(tpm, blob)
    tpm.call(Ordinal.SIGN, again, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    _context(tpm, 0x99, ResourceType.KEY, RC.INVALID_RESOURCE)
    for kind in (3, 5, 6, 7, 9, 99):
        _context(tpm, key, kind, RC.INVALID_RESOURCE)


@case(OWNED, Ordinal.SAVE_CONTEXT, Ordinal.LOAD_CONTEXT)
def contexts_of_sessions(tpm: Script) -> None:
    auth = tpm.oiap()
    blob = _context(tpm, auth.session.handle, ResourceType.AUTH)
    tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle, code=RC.INVALID_AUTHHANDLE)
    auth.session.handle = _load_context(tpm, blob)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[auth])
    _load_context(tpm, blob, RC.BADCONTEXT)
    _context(tpm, auth.session.handle, ResourceType.AUTH, RC.INVALID_RESOURCE)


@case(OWNED, Ordinal.SAVE_CONTEXT, Ordinal.LOAD_CONTEXT)
def contexts_of_osap_sessions(tpm: Script) -> None:
    key = tpm.load("sign")
    auth = tpm.osap_key(key, USAGE_AUTH)
    blob = _context(tpm, auth.session.handle, ResourceType.AUTH)
    _load_context(tpm, blob, RC.BAD_HANDLE, entity=0x77)
    auth.session.handle = _load_context(tpm, blob, entity=key)
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[auth])
    owner = tpm.osap_owner()
    blob = _context(tpm, owner.session.handle, ResourceType.AUTH)
    tpm.capability(5, 0x112, len)
    tpm.power_cycle()
    _load_context(tpm, blob, RC.BADCONTEXT)


@case(OWNED, Ordinal.FLUSH_SPECIFIC)
def flushing_a_saved_context(tpm: Script) -> None:
    auth = tpm.oiap()
    blob = _context(tpm, auth.session.handle, ResourceType.AUTH)
    # tag, resourceType, handle and label come before contextCount.
    count = int.from_bytes(blob[26:30], "big")
    tpm.call(Ordinal.FLUSH_SPECIFIC, count, ResourceType.CONTEXT)
    _load_context(tpm, blob, RC.BADCONTEXT)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def a_damaged_context(tpm: Script) -> None:
    blob = bytearray(_context(tpm, tpm.load("sign"), ResourceType.KEY))
    blob[-1] ^= 1
    _load_context(tpm, bytes(blob), RC.BADCONTEXT)


@case(OWNED, Ordinal.SAVE_KEY_CONTEXT, Ordinal.LOAD_KEY_CONTEXT)
def old_contexts_of_keys(tpm: Script) -> None:
    key = tpm.load("sign")
    saved = tpm.call(Ordinal.SAVE_KEY_CONTEXT, key)
    loaded = tpm.call(Ordinal.LOAD_KEY_CONTEXT, getattr(saved, "context_blob", b""))
    handle = getattr(loaded, "handle", 0)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(Ordinal.SAVE_KEY_CONTEXT, 0x99, code=RC.INVALID_KEYHANDLE)


@case(OWNED, Ordinal.SAVE_AUTH_CONTEXT, Ordinal.LOAD_AUTH_CONTEXT)
def old_contexts_of_sessions(tpm: Script) -> None:
    auth = tpm.oiap()
    saved = tpm.call(Ordinal.SAVE_AUTH_CONTEXT, auth.session.handle)
    loaded = tpm.call(Ordinal.LOAD_AUTH_CONTEXT, getattr(saved, "context_blob", b""))
    auth.session.handle = getattr(loaded, "handle", 0)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[auth])
    tpm.call(Ordinal.SAVE_AUTH_CONTEXT, 0x99, code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.KEY_CONTROL_OWNER)
def keys_that_stay(tpm: Script) -> None:
    control = Ordinal.KEY_CONTROL_OWNER
    key = tpm.load("sign")
    public = tpm.wrapped("sign").public_key
    other = tpm.wrapped("sign-der").public_key
    tpm.call(control, key, public, 1, True, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(control, key, other, 1, True, auth=[tpm.oiap()], code=RC.BAD_PARAMETER)
    tpm.call(control, key, public, 2, True, auth=[tpm.oiap()], code=RC.BAD_MODE)
    tpm.call(control, 0x99, public, 1, True, auth=[tpm.oiap()], code=RC.INVALID_KEYHANDLE)
    volatile = tpm.load("sign-volatile")
    tpm.call(
        control,
        volatile,
        tpm.wrapped("sign-volatile").public_key,
        1,
        True,
        auth=[tpm.oiap()],
        code=RC.BAD_PARAMETER,
    )
    tpm.call(control, key, public, 1, True, auth=[tpm.oiap()])
    tpm.call(control, key, public, 1, True, auth=[tpm.oiap()])
    tpm.call(Ordinal.FLUSH_SPECIFIC, key, ResourceType.KEY, code=RC.KEY_OWNER_CONTROL)
    tpm.call(Ordinal.EVICT_KEY, key, code=RC.KEY_OWNER_CONTROL)
    _context(tpm, key, ResourceType.KEY, RC.OWNER_CONTROL)
    tpm.power_cycle()
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(control, key, public, 1, False, auth=[tpm.oiap()])
    tpm.call(Ordinal.EVICT_KEY, key)


@case(OWNED, Ordinal.OSAP)
def osap_sessions_until_there_is_no_slot(tpm: Script) -> None:
    for _ in range(16):
        tpm.osap_owner()
    tpm.call(Ordinal.OSAP, EntityType.OWNER, 0, DIGEST, code=RC.RESOURCES)


@case(OWNED, Ordinal.SAVE_CONTEXT, Ordinal.LOAD_CONTEXT)
def contexts_that_find_no_place(tpm: Script) -> None:
    blob = _context(tpm, tpm.oiap().session.handle, ResourceType.AUTH)
    for _ in range(16):
        tpm.oiap()
    _load_context(tpm, blob, RC.RESOURCES)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_of_keys_that_find_no_place(tpm: Script) -> None:
    blob = _context(tpm, tpm.load("sign"), ResourceType.KEY)
    for _ in range(19):
        tpm.load("sign")
    _load_context(tpm, blob, RC.NOSPACE)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_of_sessions_whose_entity_changed(tpm: Script) -> None:
    saved = tpm.osap(EntityType.SRK, SRK, SRK_AUTH)
    blob = _context(tpm, saved.session.handle, ResourceType.AUTH)
    auth = tpm.osap_owner()
    other = _context(tpm, tpm.osap_owner().session.handle, ResourceType.AUTH)
    secret = tpm.encrypt(auth, NEW_AUTH)
    tpm.call(Ordinal.CHANGE_AUTH_OWNER, 4, secret, EntityType.OWNER, auth=[auth])
    _load_context(tpm, other, RC.RESOURCEMISSING, entity=0x40000001)
    _load_context(tpm, blob, entity=SRK)


@case(OWNED, Ordinal.LOAD_KEY_CONTEXT, Ordinal.LOAD_AUTH_CONTEXT)
def old_contexts_of_the_other_kind(tpm: Script) -> None:
    saved = tpm.call(Ordinal.SAVE_KEY_CONTEXT, tpm.load("sign"))
    blob = getattr(saved, "context_blob", b"")
    tpm.call(Ordinal.LOAD_AUTH_CONTEXT, blob, code=RC.BAD_PARAMETER)
    saved = tpm.call(Ordinal.SAVE_AUTH_CONTEXT, tpm.oiap().session.handle)
    blob = getattr(saved, "context_blob", b"")
    tpm.call(Ordinal.LOAD_KEY_CONTEXT, blob, code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.RESET, Ordinal.LOAD_CONTEXT)
def saved_contexts_outlive_a_reset(tpm: Script) -> None:
    blob = _context(tpm, tpm.oiap().session.handle, ResourceType.AUTH)
    tpm.call(Ordinal.RESET)
    _load_context(tpm, blob)


@case(OWNED, Ordinal.RESET, Ordinal.LOAD_AUTH_CONTEXT, Ordinal.LOAD_KEY_CONTEXT)
def old_contexts_die_with_a_reset(tpm: Script) -> None:
    saved = tpm.call(Ordinal.SAVE_AUTH_CONTEXT, tpm.oiap().session.handle)
    session = getattr(saved, "context_blob", b"")
    saved = tpm.call(Ordinal.SAVE_KEY_CONTEXT, tpm.load("sign"))
    key = getattr(saved, "context_blob", b"")
    tpm.call(Ordinal.RESET)
    tpm.call(Ordinal.LOAD_AUTH_CONTEXT, session, code=RC.BADCONTEXT)
    tpm.call(Ordinal.LOAD_KEY_CONTEXT, key, code=RC.BADCONTEXT)


@case(OWNED, Ordinal.KEY_CONTROL_OWNER)
def keys_that_may_not_stay(tpm: Script) -> None:
    public = tpm.wrapped("migrate").public_key
    values = (tpm.load("migrate"), public, 1, True)
    tpm.call(Ordinal.KEY_CONTROL_OWNER, *values, auth=[tpm.oiap()], code=RC.INVALID_KEYUSAGE)
    values = (SRK, public, 1, True)
    tpm.call(Ordinal.KEY_CONTROL_OWNER, *values, auth=[tpm.oiap()], code=RC.INVALID_KEYHANDLE)
