# SPDX-License-Identifier: Apache-2.0
"""Capabilities: every area and property, and every field that can be set (Part 3, chapter 7)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import CapabilityArea, CapabilityProperty, Ordinal, ReturnCode
from tests.conformance.comparison import anything, size
from tests.conformance.machines import World
from tests.conformance.script import Chapter, Script

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
AREA = CapabilityArea
TRUE: Final = b"\1"
FALSE: Final = b"\0"

_PRODUCT: Final = {
    CapabilityProperty.MANUFACTURER,
    CapabilityProperty.TIS_TIMEOUT,
    CapabilityProperty.DURATION,
    CapabilityProperty.KEYS,
    CapabilityProperty.MAX_KEYS,
    CapabilityProperty.CONTEXT,
    CapabilityProperty.MAX_CONTEXT,
    CapabilityProperty.MAX_NV_AVAILABLE,
}
"""Sizes and names that each product chooses; only their length is compared."""


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_of_every_ordinal(tpm: Script) -> None:
    for ordinal in [*range(0x100), 0x4000000A, 0x4000000B, 0x40000000]:
        tpm.capability(AREA.ORD, ordinal)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_of_every_property(tpm: Script) -> None:
    for prop in CapabilityProperty:
        tpm.capability(AREA.PROPERTY, prop, size if prop in _PRODUCT else None)


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_of_every_property_of_a_new_chip(tpm: Script) -> None:
    for prop in CapabilityProperty:
        tpm.capability(AREA.PROPERTY, prop, size if prop in _PRODUCT else None)
    for number in (0, 0x100, 0x105, 0x106, 0x108, 0x118, 0x121, 0x125, 0x200):
        tpm.call(Ordinal.GET_CAPABILITY, AREA.PROPERTY, number.to_bytes(4, "big"), code=RC.BAD_MODE)


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_of_algorithms_and_protocols(tpm: Script) -> None:
    for number in range(8):
        tpm.capability(AREA.SYM_MODE, number)
        tpm.capability(AREA.PID, number.to_bytes(2, "big"))
    for area in (AREA.ALG, AREA.TRANS_ALG, AREA.AUTH_ENCRYPT):
        for number in range(12):
            tpm.capability(area, number)
    for number in range(8):
        tpm.capability(AREA.TRANS_ES, number.to_bytes(2, "big"))


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_flags_versions_and_lists(tpm: Script) -> None:
    tpm.flags()
    tpm.call(Ordinal.GET_CAPABILITY, AREA.FLAG, b"\0\0\1\x0a", code=RC.BAD_MODE)
    tpm.capability(AREA.VERSION, b"")
    tpm.capability(AREA.VERSION_VAL, b"", anything)
    tpm.capability(AREA.NV_LIST, b"")
    tpm.capability(AREA.KEY_HANDLE, b"")
    for kind in (1, 2, 4, 5, 6, 8):
        tpm.capability(AREA.HANDLE, kind)
    for kind in (0, 3, 7, 9, 99):
        tpm.call(
            Ordinal.GET_CAPABILITY, AREA.HANDLE, kind.to_bytes(4, "big"), code=RC.BAD_PARAMETER
        )


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_of_loaded_keys(tpm: Script) -> None:
    tpm.load("sign")
    handle = tpm.load("storage")
    tpm.capability(AREA.KEY_HANDLE, b"", size)
    tpm.capability(AREA.HANDLE, 1, size)
    tpm.capability(AREA.KEY_STATUS, handle)
    tpm.call(Ordinal.GET_CAPABILITY, AREA.KEY_STATUS, b"\0\0\0\7", code=RC.INVALID_KEYHANDLE)
    parms = tpm.wrapped("sign").algorithm_parms
    tpm.capability(AREA.CHECK_LOADED, parms.encode())


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_of_select_sizes(tpm: Script) -> None:
    for major, minor, size_bytes in ((1, 1, 2), (1, 1, 3), (1, 2, 3), (1, 2, 4), (1, 2, 0)):
        tpm.capability(AREA.SELECT_SIZE, bytes((major, minor, 0, size_bytes)))


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_areas_that_do_not_exist(tpm: Script) -> None:
    for area in (0, 0x0A, 0x0B, 0x0E, 0x0F, 0x13, 0x16, 0x1B, 0x100):
        tpm.call(Ordinal.GET_CAPABILITY, area, bytes(4), code=RC.BAD_MODE)


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_sub_caps_of_the_wrong_length(tpm: Script) -> None:
    tpm.call(Ordinal.GET_CAPABILITY, AREA.PID, bytes(4), code=RC.BAD_MODE)
    for area in (AREA.ORD, AREA.ALG, AREA.FLAG, AREA.PROPERTY, AREA.HANDLE):
        tpm.call(Ordinal.GET_CAPABILITY, area, b"\0\0", code=RC.BAD_MODE)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_of_nv_index(tpm: Script) -> None:
    tpm.call(Ordinal.GET_CAPABILITY, AREA.NV_INDEX, b"\0\1\2\3", code=RC.BADINDEX)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_of_attack_logic(tpm: Script) -> None:
    tpm.capability(AREA.DA_LOGIC, b"\0\2", anything)


@case(OWNED, Ordinal.GET_CAPABILITY_OWNER)
def capability_for_the_owner(tpm: Script) -> None:
    tpm.call(Ordinal.GET_CAPABILITY_OWNER, auth=[tpm.oiap()], masks={"version": size})
    tpm.call(Ordinal.GET_CAPABILITY_OWNER, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.presence()
    tpm.call(Ordinal.DISABLE_FORCE_CLEAR)
    tpm.call(Ordinal.GET_CAPABILITY_OWNER, auth=[tpm.osap_owner()], masks={"version": size})


def _set(
    tpm: Script,
    area: int,
    sub: int,
    value: bytes,
    code: ReturnCode = RC.SUCCESS,
    *,
    owner: bool = False,
) -> None:
    tpm.call(
        Ordinal.SET_CAPABILITY,
        area,
        sub.to_bytes(4, "big"),
        value,
        auth=[tpm.oiap()] if owner else [],
        code=code,
    )


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_permanent_flags_as_owner(tpm: Script) -> None:
    _set(tpm, 1, 1, TRUE, owner=True)
    tpm.flags()
    _set(tpm, 1, 1, FALSE, owner=True)
    for sub in (4, 17, 20):
        _set(tpm, 1, sub, TRUE, RC.AUTHFAIL)
        _set(tpm, 1, sub, TRUE, owner=True)
        tpm.flags()
        _set(tpm, 1, sub, FALSE, owner=True)
    for sub, right, wrong in ((5, TRUE, FALSE), (6, FALSE, TRUE)):
        _set(tpm, 1, sub, right, RC.AUTHFAIL)
        _set(tpm, 1, sub, wrong, RC.BAD_PARAMETER, owner=True)
        _set(tpm, 1, sub, right, owner=True)
    tpm.flags()
    tpm.call(
        Ordinal.SET_CAPABILITY,
        1,
        b"\0\0\0\1",
        TRUE,
        auth=[tpm.oiap(spoil=True)],
        code=RC.AUTHFAIL,
    )


@case(UNOWNED, Ordinal.SET_CAPABILITY)
def setting_permanent_flags_with_presence(tpm: Script) -> None:
    for sub in (1, 2, 3):
        _set(tpm, 1, sub, TRUE, RC.AUTHFAIL)
    tpm.presence()
    _set(tpm, 1, 2, FALSE)
    tpm.flags()
    _set(tpm, 1, 3, TRUE)
    tpm.flags()
    _set(tpm, 1, 1, TRUE)
    _set(tpm, 1, 2, TRUE, RC.DISABLED)
    _set(tpm, 1, 3, TRUE, RC.DISABLED)
    _set(tpm, 1, 1, FALSE)
    tpm.flags()


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_ownership_with_an_owner(tpm: Script) -> None:
    tpm.presence()
    _set(tpm, 1, 2, FALSE, RC.OWNER_SET)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_what_cannot_be_set(tpm: Script) -> None:
    tpm.presence()
    for sub in (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 22, 99):
        _set(tpm, 1, sub, TRUE, RC.BAD_PARAMETER, owner=True)
    for sub in (*range(1, 23), 24):
        _set(tpm, 2, sub, bytes(4), RC.BAD_PARAMETER, owner=True)
    for area, subs in ((3, (1, 3, 4, 5)), (4, (1, 2, 3, 4, 5, 7)), (5, (1, 2, 3))):
        for sub in subs:
            _set(tpm, area, sub, TRUE if area != 4 else bytes(4), RC.BAD_PARAMETER, owner=True)
    for sub in (1, 2, 3, 4, 5, 6):
        _set(tpm, 6, sub, bytes(4), RC.BAD_PARAMETER, owner=True)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_an_unknown_area(tpm: Script) -> None:
    _set(tpm, 99, 1, TRUE, RC.BAD_PARAMETER, owner=True)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_with_values_of_the_wrong_size(tpm: Script) -> None:
    _set(tpm, 1, 1, bytes(4), RC.BAD_PARAMETER, owner=True)
    _set(tpm, 1, 1, b"\2", RC.BAD_PARAMETER, owner=True)
    _set(tpm, 2, 23, TRUE, RC.BAD_PARAMETER, owner=True)
    tpm.flags()


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_volatile_state(tpm: Script) -> None:
    _set(tpm, 3, 2, FALSE, RC.BAD_PARAMETER)
    _set(tpm, 3, 2, TRUE)
    tpm.flags()
    _set(tpm, 4, 6, b"\0\0\0\1", RC.BAD_PRESENCE)
    tpm.presence()
    _set(tpm, 4, 6, b"\0\0\0\1")
    tpm.presence(asserted=False)
    _set(tpm, 4, 6, bytes(4))


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_by_locality(tpm: Script) -> None:
    for locality in (0, 1, 2):
        tpm.locality = locality
        _set(tpm, 1, 18, FALSE, RC.BAD_LOCALITY)
        _set(tpm, 5, 4, FALSE, RC.BAD_LOCALITY)
    for locality in (3, 4):
        tpm.locality = locality
        _set(tpm, 1, 18, FALSE)
        _set(tpm, 1, 18, TRUE, RC.BAD_PARAMETER)
        _set(tpm, 5, 4, FALSE)
        _set(tpm, 5, 4, TRUE, RC.BAD_PARAMETER)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_permanent_data(tpm: Script) -> None:
    _set(tpm, 2, 23, b"\0\0\0\1", RC.AUTHFAIL)
    _set(tpm, 2, 23, b"\0\0\0\1", owner=True)
    tpm.capability(AREA.PROPERTY, CapabilityProperty.CMK_RESTRICTION)
    _set(tpm, 2, 25, bytes(4), owner=True)
