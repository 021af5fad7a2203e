# SPDX-License-Identifier: Apache-2.0
"""Giving up ownership, and what a clear takes along (Part 3, 6.2 to 6.5)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import (
    CapabilityArea,
    CapabilityProperty,
    EntityType,
    NvAttributes,
    Ordinal,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.keys import Key
from protocol.tpm12.transport import TransportAttributes
from tests.conformance.cases_delegation import load_row, make_owner_blob, new_family
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, SRK, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NV = NvAttributes
UNOWNED, OWNED = World.UNOWNED, World.OWNED
AREA = CapabilityArea
AREA_AUTH: Final = b"secret of the area--"
COUNTER_AUTH: Final = b"secret of a counter-"
OPERATOR_AUTH: Final = b"operator's secret---"

_AREAS: Final = {
    0x00010001: NV.OWNERREAD | NV.OWNERWRITE,
    0x00010002: NV.AUTHREAD | NV.OWNERWRITE,
    0x00010003: NV.AUTHREAD | NV.AUTHWRITE,
    0x00010004: NV.PPREAD | NV.PPWRITE,
    0x10010005: NV.OWNERREAD | NV.OWNERWRITE,
    0x00011600: NV.PPWRITE,
    0x00011601: NV.PPWRITE,
}
"""By index; one with the D bit and two of the GPIO range are among them."""


@case(OWNED, Ordinal.OWNER_CLEAR)
def owner_clears(tpm: Script) -> None:
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    tpm.owner_installed()
    tpm.flags()
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap(keep=True)])
    tpm.owner_installed()
    tpm.flags()
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()], code=RC.DISABLED)


@case(OWNED, Ordinal.DISABLE_OWNER_CLEAR, Ordinal.OWNER_CLEAR)
def owner_clear_can_be_disabled(tpm: Script) -> None:
    tpm.call(Ordinal.DISABLE_OWNER_CLEAR, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.DISABLE_OWNER_CLEAR, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    tpm.flags()
    tpm.call(Ordinal.DISABLE_OWNER_CLEAR, auth=[tpm.oiap()])
    tpm.flags()
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()], code=RC.CLEAR_DISABLED)
    # The HMAC is judged first.
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.owner_installed()
    tpm.power_cycle()
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()], code=RC.CLEAR_DISABLED)
    tpm.presence()
    tpm.call(Ordinal.FORCE_CLEAR)
    tpm.flags()


@case(OWNED, Ordinal.FORCE_CLEAR, Ordinal.DISABLE_FORCE_CLEAR)
def force_clear_needs_presence_and_can_be_disabled(tpm: Script) -> None:
    tpm.call(Ordinal.FORCE_CLEAR, code=RC.BAD_PRESENCE)
    tpm.presence()
    tpm.call(Ordinal.DISABLE_FORCE_CLEAR)
    tpm.flags()
    tpm.call(Ordinal.FORCE_CLEAR, code=RC.CLEAR_DISABLED)
    tpm.presence(asserted=False)
    # Presence is judged first.
    tpm.call(Ordinal.FORCE_CLEAR, code=RC.BAD_PRESENCE)
    tpm.owner_installed()
    tpm.power_cycle()
    tpm.presence()
    tpm.call(Ordinal.FORCE_CLEAR)
    tpm.owner_installed()
    tpm.flags()


@case(UNOWNED, Ordinal.FORCE_CLEAR)
def force_clear_without_an_owner(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.FORCE_CLEAR)
    tpm.flags()


def _counter(tpm: Script) -> int:
    made = tpm.run(
        tss12.create_counter(
            label=b"test", counter_auth=COUNTER_AUTH, owner_auth=OWNER_AUTH, random=tpm.random
        )
    )
    return made.count_id


def _set(tpm: Script, field: int, value: bytes) -> None:
    auth = [tpm.oiap()]
    tpm.call(Ordinal.SET_CAPABILITY, 1, field.to_bytes(4, "big"), value, auth=auth)


def _fill(tpm: Script) -> None:
    """Bring about what a clear is to take along, and what it is to leave."""
    for index, permission in _AREAS.items():
        tpm.run(
            tss12.nv_define_space(
                index,
                4,
                permission,
                area_auth=AREA_AUTH,
                owner_auth=OWNER_AUTH,
                random=tpm.random,
            )
        )
    tpm.run(tss12.nv_lock())
    tpm.run(tss12.dir_write_auth(DIGEST, owner_auth=OWNER_AUTH, random=tpm.random))
    counter = _counter(tpm)
    _counter(tpm)
    for _ in range(3):
        tpm.call(Ordinal.INCREMENT_COUNTER, counter, auth=[tpm.oiap(COUNTER_AUTH)])
    tpm.run(tss12.create_family(0x41, owner_auth=OWNER_AUTH, random=tpm.random))
    for ordinal, audited in ((Ordinal.EXTEND, True), (Ordinal.OWNER_CLEAR, False)):
        tpm.call(Ordinal.SET_ORDINAL_AUDIT_STATUS, ordinal, audited, auth=[tpm.oiap()])
    tpm.call(Ordinal.CMK_SET_RESTRICTIONS, 1 << 31, auth=[tpm.oiap()])
    tpm.presence()
    tpm.call(Ordinal.SET_OPERATOR_AUTH, OPERATOR_AUTH)
    for field, value in ((6, b"\0"), (17, b"\1"), (20, b"\1")):
        _set(tpm, field, value)
    tpm.call(Ordinal.SET_CAPABILITY, 4, b"\0\0\0\6", b"\0\0\0\1")
    tpm.call(Ordinal.EXTEND, 1, DIGEST)


def _occupy(tpm: Script) -> bytes:
    """Load keys, one of them for good, and open sessions; return the context of a key."""
    handle = tpm.load("sign")
    public = tpm.wrapped("sign").public_key
    tpm.run(tss12.key_control_owner(handle, public, True, owner_auth=OWNER_AUTH, random=tpm.random))
    other = tpm.load("bind")
    tpm.oiap()
    tpm.osap_owner()
    tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    session = tpm.run(tss12.oiap())
    tpm.run(tss12.save_context(session.handle, ResourceType.AUTH))
    return tpm.run(tss12.save_context(other, ResourceType.KEY))


def _compare(tpm: Script) -> None:
    """Compare what a clear left, as far as a disabled chip tells it, then the rest."""
    tpm.owner_installed()
    tpm.flags()
    for kind in (1, 2, 4, 5, 6, 8):
        tpm.capability(AREA.HANDLE, kind)
    for prop in (
        CapabilityProperty.COUNTERS,
        CapabilityProperty.ACTIVE_COUNTER,
        CapabilityProperty.CMK_RESTRICTION,
        CapabilityProperty.AUTHSESS,
        CapabilityProperty.TRANSESS,
    ):
        tpm.capability(AREA.PROPERTY, prop)
    tpm.capability(AREA.NV_LIST)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    tpm.call(Ordinal.DIR_READ, 0)
    tpm.call(Ordinal.PCR_READ, 1)
    tpm.call(Ordinal.READ_COUNTER, 0, code=RC.BAD_COUNTER)
    tpm.call(Ordinal.READ_PUBEK, DIGEST)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[tpm.oiap(OPERATOR_AUTH)], code=RC.NOOPERATOR)


def _begin_anew(tpm: Script, before: Key, context: bytes) -> None:
    """Take ownership with the same secrets: what was made before is void all the same."""
    tpm.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.LOAD_KEY2, SRK, before, auth=[tpm.oiap(SRK_AUTH)], code=RC.DECRYPT_ERROR)
    tpm.call(Ordinal.LOAD_CONTEXT, 0, False, context, code=RC.BADCONTEXT)
    auth = tpm.osap_owner()
    tpm.call(Ordinal.CREATE_COUNTER, tpm.encrypt(auth, COUNTER_AUTH), b"test", auth=[auth])


@case(OWNED, Ordinal.OWNER_CLEAR)
def owner_clears_all_of_the_period(tpm: Script) -> None:
    _fill(tpm)
    key = tpm.wrapped("sign")
    context = _occupy(tpm)
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.osap_owner()])
    _compare(tpm)
    _begin_anew(tpm, key, context)


@case(OWNED, Ordinal.FORCE_CLEAR)
def force_clear_takes_all_of_the_period(tpm: Script) -> None:
    _fill(tpm)
    _occupy(tpm)
    tpm.call(Ordinal.FORCE_CLEAR)
    _compare(tpm)
    tpm.power_cycle()
    tpm.flags()
    tpm.call(Ordinal.PCR_READ, 1, code=RC.DEACTIVATED)


@case(UNOWNED, Ordinal.FORCE_CLEAR)
def force_clear_counts_writes_without_an_owner_anew(tpm: Script) -> None:
    index = 0x00010003
    tpm.run(tss12.nv_define_space(index, 8, NV.PPWRITE))
    for count in range(63):
        tpm.call(Ordinal.NV_WRITE_VALUE, index, 0, bytes((count,)))
    tpm.call(Ordinal.NV_WRITE_VALUE, index, 0, b"x", code=RC.MAXNVWRITES)
    tpm.presence()
    tpm.call(Ordinal.FORCE_CLEAR)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.NV_WRITE_VALUE, index, 0, b"x")


@case(OWNED, Ordinal.FORCE_CLEAR, Ordinal.SET_CAPABILITY)
def force_clear_takes_deferred_presence(tpm: Script) -> None:
    field, defer = (4, b"\0\0\0\6"), b"\0\0\0\1"
    tpm.presence()
    tpm.call(Ordinal.SET_CAPABILITY, *field, defer)
    tpm.call(Ordinal.FORCE_CLEAR)
    tpm.presence(asserted=False)
    # Only what is set already may be set without presence.
    tpm.call(Ordinal.SET_CAPABILITY, *field, defer, code=RC.BAD_PRESENCE)


@case(UNOWNED, Ordinal.FORCE_CLEAR, Ordinal.TAKE_OWNERSHIP)
def force_clear_lets_ownership_be_taken(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.SET_OWNER_INSTALL, False)
    tpm.call(Ordinal.FORCE_CLEAR)
    tpm.flags()
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=tpm.random))


@case(OWNED, Ordinal.FORCE_CLEAR, Ordinal.SET_OWNER_POINTER)
def force_clear_sets_the_owner_pointer_back(tpm: Script) -> None:
    load_row(tpm, 0, make_owner_blob(tpm, new_family(tpm)))
    tpm.call(Ordinal.SET_OWNER_POINTER, EntityType.DEL_ROW, 0)
    tpm.presence()
    tpm.call(Ordinal.FORCE_CLEAR)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.OWNER_READ_PUBEK, auth=[tpm.oiap()])
    tpm.call(Ordinal.OWNER_READ_PUBEK, auth=[tpm.osap_owner()])
