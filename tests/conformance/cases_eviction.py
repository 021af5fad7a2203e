# SPDX-License-Identifier: Apache-2.0
"""Keys that stay, and eviction (Part 3, chapters 21.1, 22, 27.6, 27.7 and 27.9)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import (
    CapabilityArea,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    StartupType,
)
from protocol.tpm12.transport import TransportAttributes
from protocol.tpm12.wire import U32
from tests.conformance.cases_contexts import save_context
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, KEYS, SRK, USAGE_AUTH, Chapter, Script
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
CONTROL: Final = Ordinal.KEY_CONTROL_OWNER


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
    save_context(tpm, key, ResourceType.KEY, RC.OWNER_CONTROL)
    tpm.power_cycle()
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(control, key, public, 1, False, auth=[tpm.oiap()])
    tpm.call(Ordinal.EVICT_KEY, key)


@case(OWNED, Ordinal.KEY_CONTROL_OWNER)
def keys_that_may_not_stay(tpm: Script) -> None:
    public = tpm.wrapped("migrate").public_key
    values = (tpm.load("migrate"), public, 1, True)
    tpm.call(Ordinal.KEY_CONTROL_OWNER, *values, auth=[tpm.oiap()], code=RC.INVALID_KEYUSAGE)
    values = (SRK, public, 1, True)
    tpm.call(Ordinal.KEY_CONTROL_OWNER, *values, auth=[tpm.oiap()], code=RC.INVALID_KEYHANDLE)


@case(OWNED, Ordinal.FLUSH_SPECIFIC)
def flushing_a_daa_session_that_is_not_there(tpm: Script) -> None:
    tpm.call(Ordinal.FLUSH_SPECIFIC, 0x1234, ResourceType.DAA_TPM, code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.FLUSH_SPECIFIC, Ordinal.TERMINATE_HANDLE)
def flushing_transport_sessions(tpm: Script) -> None:
    flush = Ordinal.FLUSH_SPECIFIC
    tpm.call(flush, 0x1234, ResourceType.TRANS, code=RC.INVALID_AUTHHANDLE)
    for attributes in (TransportAttributes(0), TransportAttributes.EXCLUSIVE):
        session = tpm.run(tss12.establish_transport(attributes, random=tpm.random))
        handle = session.channel.handle
        if not attributes:
            # It is no authorization session.
            tpm.call(Ordinal.TERMINATE_HANDLE, handle, code=RC.INVALID_AUTHHANDLE)
            tpm.call(flush, handle, ResourceType.AUTH, code=RC.INVALID_AUTHHANDLE)
            tpm.call(flush, handle, ResourceType.TRANS)
        tpm.call(flush, handle, ResourceType.TRANS, code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.KEY_CONTROL_OWNER)
def keys_that_may_not_stay_for_what_they_are(tpm: Script) -> None:
    for handle in (0x99, SRK, ReservedHandle.EK, ReservedHandle.OWNER):
        values = (handle, tpm.wrapped("sign").public_key, 1, True)
        tpm.call(CONTROL, *values, auth=[tpm.oiap()], code=RC.INVALID_KEYHANDLE)
    parent = tpm.load("storage-bound")
    child = tpm.run(
        tss12.create_wrap_key(
            parent, KEYS["sign"], parent_auth=USAGE_AUTH, usage_auth=USAGE_AUTH, random=tpm.random
        )
    )
    key = tpm.run(tss12.load_key2(parent, child, parent_auth=USAGE_AUTH, random=tpm.random))
    values = (key, child.public_key, 1, True)
    tpm.call(CONTROL, *values, auth=[tpm.oiap()], code=RC.BAD_PARAMETER)
    # To be let go it may be anything.
    tpm.call(CONTROL, key, child.public_key, 1, False, auth=[tpm.oiap()])


@case(OWNED, Ordinal.KEY_CONTROL_OWNER)
def whether_a_key_stays_is_no_boolean(tpm: Script) -> None:
    body = U32.write(tpm.load("sign")) + tpm.wrapped("sign").public_key.encode() + U32.write(1)
    tpm.call(CONTROL, body=body + b"\2", auth=[tpm.oiap()], code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.KEY_CONTROL_OWNER)
def keys_that_stay_with_two_faults(tpm: Script) -> None:
    sign, other = tpm.wrapped("sign").public_key, tpm.wrapped("sign-der").public_key
    key, unfit = tpm.load("sign"), tpm.load("migrate")
    # In this order: the owner, the key, its usage, its public part, the bit.
    tpm.call(CONTROL, 0x99, sign, 1, True, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(CONTROL, unfit, sign, 2, True, auth=[tpm.oiap()], code=RC.INVALID_KEYUSAGE)
    tpm.call(CONTROL, key, other, 2, True, auth=[tpm.oiap()], code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.KEY_CONTROL_OWNER)
def keys_that_stay_until_there_is_no_room(tpm: Script) -> None:
    public = tpm.wrapped("sign").public_key
    keys = [tpm.load("sign") for _ in range(11)]
    for key in keys[:10]:
        tpm.call(CONTROL, key, public, 1, True, auth=[tpm.oiap()])
    tpm.call(CONTROL, keys[10], public, 1, True, auth=[tpm.oiap()], code=RC.NOSPACE)
    tpm.call(CONTROL, keys[0], public, 1, True, auth=[tpm.oiap()])
    tpm.call(CONTROL, keys[3], public, 1, False, auth=[tpm.oiap()])
    tpm.call(CONTROL, keys[10], public, 1, True, auth=[tpm.oiap()])


@case(OWNED, Ordinal.KEY_CONTROL_OWNER, Ordinal.STARTUP)
def keys_that_stay_on_a_tpm_that_starts_deactivated(tpm: Script) -> None:
    key, other = tpm.load("sign"), tpm.load("sign-der")
    public = tpm.wrapped("sign").public_key
    tpm.call(CONTROL, key, public, 1, True, auth=[tpm.oiap()])
    tpm.power_cycle(StartupType.DEACTIVATED)
    number_of_keys = (CapabilityArea.HANDLE, U32.write(ResourceType.KEY))
    tpm.call(Ordinal.GET_CAPABILITY, *number_of_keys, masks={"resp": len})
    tpm.call(Ordinal.GET_CAPABILITY, CapabilityArea.KEY_STATUS, U32.write(key))
    tpm.call(Ordinal.FLUSH_SPECIFIC, key, ResourceType.KEY, code=RC.KEY_OWNER_CONTROL)
    tpm.call(Ordinal.FLUSH_SPECIFIC, other, ResourceType.KEY, code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.KEY_CONTROL_OWNER)
def keys_that_stay_until_the_owner_goes(tpm: Script) -> None:
    public = tpm.wrapped("sign").public_key
    key = tpm.load("sign")
    tpm.call(CONTROL, key, public, 1, True, auth=[tpm.oiap()])
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(CONTROL, key, public, 1, False, auth=[tpm.oiap()])
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.power_cycle()
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], code=RC.INVALID_KEYHANDLE)
    key = tpm.load("sign")
    tpm.call(CONTROL, key, public, 1, True, auth=[tpm.oiap()])
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()])
    tpm.call(Ordinal.FLUSH_SPECIFIC, key, ResourceType.KEY, code=RC.BAD_PARAMETER)
