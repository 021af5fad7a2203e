# SPDX-License-Identifier: Apache-2.0
"""Saved contexts, and the old commands for them (Part 3, chapters 21.2, 21.3 and 27.8)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import (
    CapabilityArea,
    EntityType,
    NvAttributes,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection
from protocol.tpm12.resources import NvAttributesWord, NvDataPublic
from protocol.tpm12.transport import TransportAttributes
from protocol.tpm12.wire import SIZED, U32
from tests.conformance.machines import World
from tests.conformance.script import (
    DIGEST,
    KEYS,
    SRK,
    USAGE_AUTH,
    Auth,
    Chapter,
    Script,
    message,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
NEW_AUTH: Final = b"another secret------"
LABEL: Final = b"label of context"


def save_context(tpm: Script, handle: int, kind: int, code: ReturnCode = RC.SUCCESS) -> bytes:
    """Save a key or session and return its blob; empty if that is refused."""
    saved = tpm.call(Ordinal.SAVE_CONTEXT, handle, kind, LABEL, code=code)
    blob = getattr(saved, "context_blob", b"")
    assert isinstance(blob, bytes)
    return blob


def load_context(
    tpm: Script, blob: bytes, code: ReturnCode = RC.SUCCESS, *, entity: int = 0, keep: bool = False
) -> int:
    """Load a blob and return the handle; 0 if that is refused."""
    loaded = tpm.call(Ordinal.LOAD_CONTEXT, entity, keep, blob, code=code)
    handle = getattr(loaded, "handle", 0)
    assert isinstance(handle, int)
    return handle


@case(OWNED, Ordinal.SAVE_CONTEXT, Ordinal.LOAD_CONTEXT)
def contexts_of_keys(tpm: Script) -> None:
    key = tpm.load("sign")
    blob = save_context(tpm, key, ResourceType.KEY)
    load_context(tpm, blob, RC.BAD_HANDLE, keep=True)
    tpm.call(Ordinal.FLUSH_SPECIFIC, key, ResourceType.KEY)
    handle = load_context(tpm, blob, keep=True)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    again = load_context(tpm, blob)
    tpm.call(Ordinal.SIGN, again, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    save_context(tpm, 0x99, ResourceType.KEY, RC.INVALID_RESOURCE)
    for kind in (3, 5, 6, 7, 9, 99):
        save_context(tpm, key, kind, RC.INVALID_RESOURCE)


@case(OWNED, Ordinal.SAVE_CONTEXT, Ordinal.LOAD_CONTEXT)
def contexts_of_sessions(tpm: Script) -> None:
    auth = tpm.oiap()
    blob = save_context(tpm, auth.session.handle, ResourceType.AUTH)
    tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle, code=RC.INVALID_AUTHHANDLE)
    auth.session.handle = load_context(tpm, blob)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[auth])
    load_context(tpm, blob, RC.BADCONTEXT)
    save_context(tpm, auth.session.handle, ResourceType.AUTH, RC.INVALID_RESOURCE)


@case(OWNED, Ordinal.SAVE_CONTEXT, Ordinal.LOAD_CONTEXT)
def contexts_of_osap_sessions(tpm: Script) -> None:
    key = tpm.load("sign")
    auth = tpm.osap_key(key, USAGE_AUTH)
    blob = save_context(tpm, auth.session.handle, ResourceType.AUTH)
    load_context(tpm, blob, RC.BAD_HANDLE, entity=0x77)
    auth.session.handle = load_context(tpm, blob, entity=key)
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[auth])
    owner = tpm.osap_owner()
    blob = save_context(tpm, owner.session.handle, ResourceType.AUTH)
    tpm.capability(5, 0x112, len)
    tpm.power_cycle()
    load_context(tpm, blob, RC.BADCONTEXT)


@case(OWNED, Ordinal.FLUSH_SPECIFIC)
def flushing_a_saved_context(tpm: Script) -> None:
    auth = tpm.oiap()
    blob = save_context(tpm, auth.session.handle, ResourceType.AUTH)
    # tag, resourceType, handle and label come before contextCount.
    count = int.from_bytes(blob[26:30], "big")
    tpm.call(Ordinal.FLUSH_SPECIFIC, count, ResourceType.CONTEXT)
    load_context(tpm, blob, RC.BADCONTEXT)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def a_damaged_context(tpm: Script) -> None:
    blob = bytearray(save_context(tpm, tpm.load("sign"), ResourceType.KEY))
    blob[-1] ^= 1
    load_context(tpm, bytes(blob), RC.BADCONTEXT)


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


@case(OWNED, Ordinal.SAVE_CONTEXT, Ordinal.LOAD_CONTEXT)
def contexts_that_find_no_place(tpm: Script) -> None:
    blob = save_context(tpm, tpm.oiap().session.handle, ResourceType.AUTH)
    for _ in range(16):
        tpm.oiap()
    load_context(tpm, blob, RC.RESOURCES)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_of_keys_that_find_no_place(tpm: Script) -> None:
    blob = save_context(tpm, tpm.load("sign"), ResourceType.KEY)
    for _ in range(19):
        tpm.load("sign")
    load_context(tpm, blob, RC.NOSPACE)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_of_sessions_whose_entity_changed(tpm: Script) -> None:
    saved = tpm.osap(EntityType.SRK, SRK, SRK_AUTH)
    blob = save_context(tpm, saved.session.handle, ResourceType.AUTH)
    auth = tpm.osap_owner()
    other = save_context(tpm, tpm.osap_owner().session.handle, ResourceType.AUTH)
    secret = tpm.encrypt(auth, NEW_AUTH)
    tpm.call(Ordinal.CHANGE_AUTH_OWNER, 4, secret, EntityType.OWNER, auth=[auth])
    load_context(tpm, other, RC.RESOURCEMISSING, entity=0x40000001)
    load_context(tpm, blob, entity=SRK)


@case(OWNED, Ordinal.LOAD_KEY_CONTEXT, Ordinal.LOAD_AUTH_CONTEXT)
def old_contexts_of_the_other_kind(tpm: Script) -> None:
    saved = tpm.call(Ordinal.SAVE_KEY_CONTEXT, tpm.load("sign"))
    blob = getattr(saved, "context_blob", b"")
    tpm.call(Ordinal.LOAD_AUTH_CONTEXT, blob, code=RC.BAD_PARAMETER)
    saved = tpm.call(Ordinal.SAVE_AUTH_CONTEXT, tpm.oiap().session.handle)
    blob = getattr(saved, "context_blob", b"")
    tpm.call(Ordinal.LOAD_KEY_CONTEXT, blob, code=RC.BAD_PARAMETER)


def save_old(tpm: Script, ordinal: Ordinal, handle: int, code: ReturnCode = RC.SUCCESS) -> bytes:
    """Save with one of the old commands."""
    blob = getattr(tpm.call(ordinal, handle, code=code), "context_blob", b"")
    assert isinstance(blob, bytes)
    return blob


@case(OWNED, Ordinal.RESET, Ordinal.LOAD_CONTEXT)
def saved_contexts_outlive_a_reset(tpm: Script) -> None:
    blob = save_context(tpm, tpm.oiap().session.handle, ResourceType.AUTH)
    tpm.call(Ordinal.RESET)
    load_context(tpm, blob)


@case(OWNED, Ordinal.RESET, Ordinal.LOAD_AUTH_CONTEXT, Ordinal.LOAD_KEY_CONTEXT)
def old_contexts_die_with_a_reset(tpm: Script) -> None:
    saved = tpm.call(Ordinal.SAVE_AUTH_CONTEXT, tpm.oiap().session.handle)
    session = getattr(saved, "context_blob", b"")
    saved = tpm.call(Ordinal.SAVE_KEY_CONTEXT, tpm.load("sign"))
    key = getattr(saved, "context_blob", b"")
    tpm.call(Ordinal.RESET)
    tpm.call(Ordinal.LOAD_AUTH_CONTEXT, session, code=RC.BADCONTEXT)
    tpm.call(Ordinal.LOAD_KEY_CONTEXT, key, code=RC.BADCONTEXT)


@case(OWNED, Ordinal.SAVE_CONTEXT)
def contexts_of_what_is_not_there(tpm: Script) -> None:
    key, auth = tpm.load("sign"), tpm.oiap()
    transport = tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    for kind in (ResourceType.KEY, ResourceType.AUTH, ResourceType.TRANS, ResourceType.DAA_TPM):
        save_context(tpm, 0x99, kind, RC.INVALID_RESOURCE)
    # A handle is looked for among those of its own kind only.
    for handle, kind in (
        (SRK, ResourceType.KEY),
        (key, ResourceType.AUTH),
        (auth.session.handle, ResourceType.KEY),
        (auth.session.handle, ResourceType.TRANS),
        (transport.channel.handle, ResourceType.AUTH),
        (transport.channel.handle, ResourceType.DAA_TPM),
    ):
        save_context(tpm, handle, kind, RC.INVALID_RESOURCE)
    tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle)


@case(OWNED, Ordinal.SAVE_CONTEXT, Ordinal.SAVE_AUTH_CONTEXT)
def contexts_until_the_list_is_full(tpm: Script) -> None:
    blobs = [save_context(tpm, tpm.oiap().session.handle, ResourceType.AUTH) for _ in range(128)]
    handle = tpm.oiap().session.handle
    save_context(tpm, handle, ResourceType.AUTH, RC.NOCONTEXTSPACE)
    save_old(tpm, Ordinal.SAVE_AUTH_CONTEXT, handle, RC.NOCONTEXTSPACE)
    transport = tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    save_context(tpm, transport.channel.handle, ResourceType.TRANS, RC.NOCONTEXTSPACE)
    # Keys have no place in the list. A place is free when a context is loaded.
    save_context(tpm, tpm.load("sign"), ResourceType.KEY)
    tpm.capability(CapabilityArea.HANDLE, ResourceType.CONTEXT)
    load_context(tpm, blobs[77])
    save_context(tpm, handle, ResourceType.AUTH)


@case(OWNED, Ordinal.SAVE_CONTEXT, Ordinal.LOAD_CONTEXT)
def contexts_of_transport_sessions(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    read = Ordinal.PCR_READ
    tpm.run(tss12.through(session, tss12.pcr_read(3)))
    blob = save_context(tpm, session.channel.handle, ResourceType.TRANS)
    auth = Auth(session.channel, session.auth_data)
    wrapped = message(read, bytes(4))
    tpm.call(Ordinal.EXECUTE_TRANSPORT, wrapped, auth=[auth], code=RC.INVALID_AUTHHANDLE)
    session.channel.handle = load_context(tpm, blob)
    session.channel.is_open = True
    tpm.run(tss12.through(session, tss12.pcr_read(3)))
    load_context(tpm, blob, RC.BADCONTEXT)
    blob = save_context(tpm, session.channel.handle, ResourceType.TRANS)
    tpm.power_cycle()
    load_context(tpm, blob, RC.BADCONTEXT)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_of_transport_sessions_that_find_no_place(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    blob = save_context(tpm, session.channel.handle, ResourceType.TRANS)
    for _ in range(16):
        tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    load_context(tpm, blob, RC.RESOURCES)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_that_were_changed(tpm: Script) -> None:
    blob = save_context(tpm, tpm.oiap().session.handle, ResourceType.AUTH)
    # tag 2, resourceType 4, handle 4, label 16, contextCount 4, integrityDigest 20.
    for at in (9, 10, 29, 30, 49):
        damaged = blob[:at] + bytes((blob[at] ^ 1,)) + blob[at + 1 :]
        load_context(tpm, damaged, RC.BADCONTEXT)
    load_context(tpm, blob)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_of_resources_that_are_none(tpm: Script) -> None:
    blob = save_context(tpm, tpm.oiap().session.handle, ResourceType.AUTH)
    for kind in (0, 3, 5, 6, 7, 9, 99):
        load_context(tpm, blob[:2] + U32.write(kind) + blob[6:], RC.INVALID_RESOURCE)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_of_one_kind_as_another(tpm: Script) -> None:
    blob = save_context(tpm, tpm.oiap().session.handle, ResourceType.AUTH)
    load_context(tpm, blob[:2] + U32.write(ResourceType.TRANS) + blob[6:], RC.BADCONTEXT)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_that_are_none(tpm: Script) -> None:
    blob = save_context(tpm, tpm.oiap().session.handle, ResourceType.AUTH)
    for data in (b"", b"\0\1", b"\0\2" + blob[2:], blob[:-1], blob + b"\0"):
        load_context(tpm, data, RC.BADCONTEXT)
    # The flag is judged while the command is read.
    body = bytes(4) + b"\2" + SIZED.write(blob)
    tpm.call(Ordinal.LOAD_CONTEXT, body=body, code=RC.BAD_PARAMETER)
    load_context(tpm, blob)


@case(OWNED, Ordinal.LOAD_CONTEXT, Ordinal.LOAD_KEY_CONTEXT)
def contexts_of_keys_and_the_power(tpm: Script) -> None:
    parent = tpm.load("storage-bound")
    child = tpm.run(
        tss12.create_wrap_key(
            parent, KEYS["sign"], parent_auth=USAGE_AUTH, usage_auth=USAGE_AUTH, random=tpm.random
        )
    )
    below = tpm.run(tss12.load_key2(parent, child, parent_auth=USAGE_AUTH, random=tpm.random))
    tied = [tpm.load("sign-volatile"), below]
    free = save_context(tpm, tpm.load("sign"), ResourceType.KEY)
    blobs = [save_context(tpm, key, ResourceType.KEY) for key in tied]
    # In this boot they are as good as others.
    for blob in blobs:
        load_context(tpm, blob)
    old = [save_old(tpm, Ordinal.SAVE_KEY_CONTEXT, key) for key in tied]
    free_old = save_old(tpm, Ordinal.SAVE_KEY_CONTEXT, tpm.load("sign"))
    tpm.power_cycle()
    for blob in blobs:
        load_context(tpm, blob, RC.BADCONTEXT)
    for blob in old:
        tpm.call(Ordinal.LOAD_KEY_CONTEXT, blob, code=RC.BADCONTEXT)
    tpm.call(Ordinal.LOAD_KEY_CONTEXT, free_old, code=RC.BADCONTEXT)
    handle = load_context(tpm, free)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_of_sessions_whose_entity_is_gone(tpm: Script) -> None:
    auth = tpm.osap_owner()
    tpm.call(Ordinal.CREATE_COUNTER, tpm.encrypt(auth, NEW_AUTH), b"abcd", auth=[auth])
    counter = tpm.osap(EntityType.COUNTER, 0, NEW_AUTH)
    blob = save_context(tpm, counter.session.handle, ResourceType.AUTH)
    load_context(tpm, blob, RC.RESOURCEMISSING, entity=1)
    counter.session.handle = load_context(tpm, blob)
    tpm.call(Ordinal.INCREMENT_COUNTER, 0, auth=[replace(counter, keep=True)])
    blob = save_context(tpm, counter.session.handle, ResourceType.AUTH)
    tpm.call(Ordinal.RELEASE_COUNTER_OWNER, 0, auth=[tpm.oiap()])
    load_context(tpm, blob, RC.RESOURCEMISSING)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_of_sessions_whose_area_is_gone(tpm: Script) -> None:
    anywhere = PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))
    attributes = NvAttributesWord(NvAttributes.AUTHREAD | NvAttributes.AUTHWRITE)
    index = 0x00012345
    for size in (8, 0):
        area = NvDataPublic(index, anywhere, anywhere, attributes, False, False, False, size)
        if not size:
            bound = tpm.osap(EntityType.NV, index, NEW_AUTH)
            blob = save_context(tpm, bound.session.handle, ResourceType.AUTH)
            bound.session.handle = load_context(tpm, blob, entity=index)
            blob = save_context(tpm, bound.session.handle, ResourceType.AUTH)
        auth = tpm.osap_owner()
        tpm.call(Ordinal.NV_DEFINE_SPACE, area, tpm.encrypt(auth, NEW_AUTH), auth=[auth])
    load_context(tpm, blob, RC.RESOURCEMISSING, entity=index)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_of_sessions_on_another_key(tpm: Script) -> None:
    key, other = tpm.load("sign"), tpm.load("bind")
    bound = tpm.osap_key(key, USAGE_AUTH)
    blob = save_context(tpm, bound.session.handle, ResourceType.AUTH)
    load_context(tpm, blob, RC.RESOURCEMISSING, entity=other)
    load_context(tpm, blob, RC.RESOURCEMISSING, entity=SRK)
    load_context(tpm, blob, RC.BAD_HANDLE, entity=0x77)
    bound.session.handle = load_context(tpm, blob, entity=key)
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[bound])
    # An OIAP session is bound to nothing.
    free = tpm.oiap()
    blob = save_context(tpm, free.session.handle, ResourceType.AUTH)
    load_context(tpm, blob, entity=0x77)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_with_two_faults(tpm: Script) -> None:
    key = tpm.load("sign")
    blob = save_context(tpm, key, ResourceType.KEY)
    for _ in range(19):
        tpm.load("sign")
    # The blob is judged before the handle, the handle before the slots.
    damaged = blob[:30] + bytes(20) + blob[50:]
    load_context(tpm, damaged, RC.BADCONTEXT, keep=True)
    load_context(tpm, blob, RC.NOSPACE)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def contexts_of_another_owner(tpm: Script) -> None:
    key = save_context(tpm, tpm.load("sign"), ResourceType.KEY)
    session = save_context(tpm, tpm.oiap().session.handle, ResourceType.AUTH)
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()])
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.PHYSICAL_SET_DEACTIVATED, False)
    tpm.power_cycle()
    tpm.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=tpm.random))
    load_context(tpm, key, RC.BADCONTEXT)
    load_context(tpm, session, RC.BADCONTEXT)


@case(OWNED, Ordinal.LOAD_AUTH_CONTEXT, Ordinal.SAVE_AUTH_CONTEXT)
def old_contexts_of_sessions_that_are_refused(tpm: Script) -> None:
    save, load = Ordinal.SAVE_AUTH_CONTEXT, Ordinal.LOAD_AUTH_CONTEXT
    blob = save_old(tpm, save, tpm.oiap().session.handle)
    tpm.call(load, blob[:30] + bytes(20) + blob[50:], code=RC.BADCONTEXT)
    tpm.call(load, blob)
    # It served.
    tpm.call(load, blob, code=RC.BADCONTEXT)
    key = tpm.load("sign")
    bound = save_old(tpm, save, tpm.osap_key(key, USAGE_AUTH).session.handle)
    tpm.call(Ordinal.FLUSH_SPECIFIC, key, ResourceType.KEY)
    tpm.call(load, bound, code=RC.RESOURCEMISSING)
    tpm.load("sign")
    tpm.call(load, bound)
    late = save_old(tpm, save, tpm.oiap().session.handle)
    for _ in range(14):
        tpm.oiap()
    tpm.call(load, late, code=RC.RESOURCES)
    tpm.power_cycle()
    tpm.call(load, late, code=RC.BADCONTEXT)


@case(OWNED, Ordinal.LOAD_KEY_CONTEXT, Ordinal.SAVE_KEY_CONTEXT)
def old_contexts_of_keys_that_are_refused(tpm: Script) -> None:
    save, load = Ordinal.SAVE_KEY_CONTEXT, Ordinal.LOAD_KEY_CONTEXT
    for handle in (0x99, SRK, ReservedHandle.EK):
        tpm.call(save, handle, code=RC.INVALID_KEYHANDLE)
    blob = save_old(tpm, save, tpm.load("sign"))
    tpm.call(load, blob[:30] + bytes(20) + blob[50:], code=RC.BADCONTEXT)
    for _ in range(20):
        tpm.load("sign")
    tpm.call(load, blob, code=RC.RESOURCES)


@case(OWNED, Ordinal.SAVE_KEY_CONTEXT)
def an_old_context_of_a_key_that_stays(tpm: Script) -> None:
    key = tpm.load("sign")
    values = (key, tpm.wrapped("sign").public_key, 1, True)
    tpm.call(Ordinal.KEY_CONTROL_OWNER, *values, auth=[tpm.oiap()])
    tpm.call(Ordinal.SAVE_KEY_CONTEXT, key, code=RC.OWNER_CONTROL)


@case(OWNED, Ordinal.LOAD_CONTEXT)
def a_context_that_found_no_place_before(tpm: Script) -> None:
    blob = save_context(tpm, tpm.oiap().session.handle, ResourceType.AUTH)
    handles = [tpm.oiap().session.handle for _ in range(16)]
    load_context(tpm, blob, RC.RESOURCES)
    tpm.call(Ordinal.FLUSH_SPECIFIC, handles[0], ResourceType.AUTH)
    load_context(tpm, blob)
