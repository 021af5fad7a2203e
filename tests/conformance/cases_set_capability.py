# SPDX-License-Identifier: Apache-2.0
"""Every field that SetCapability can set, who may, to what, and when (Part 3, 7.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import (
    CapabilityArea,
    CapabilityProperty,
    Ordinal,
    ReturnCode,
    SetCapabilityArea,
    StartupType,
)
from tests.conformance.machines import World
from tests.conformance.script import SRK, Chapter, Script
from tests.unit.tpm12.world import SRK_AUTH

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
UNOWNED, OWNED = World.UNOWNED, World.OWNED
AREA = SetCapabilityArea
TRUE: Final = b"\1"
FALSE: Final = b"\0"
ONE: Final = b"\0\0\0\1"

_FIELDS: Final[Mapping[tuple[int, int], bytes]] = {
    (AREA.PERM_FLAGS, 1): TRUE,
    (AREA.PERM_FLAGS, 2): FALSE,
    (AREA.PERM_FLAGS, 3): TRUE,
    (AREA.PERM_FLAGS, 4): TRUE,
    (AREA.PERM_FLAGS, 5): TRUE,
    (AREA.PERM_FLAGS, 6): FALSE,
    (AREA.PERM_FLAGS, 17): TRUE,
    (AREA.PERM_FLAGS, 18): FALSE,
    (AREA.PERM_FLAGS, 20): TRUE,
    (AREA.PERM_DATA, 23): ONE,
    (AREA.STCLEAR_FLAGS, 2): TRUE,
    (AREA.STCLEAR_DATA, 6): ONE,
    (AREA.STANY_FLAGS, 4): FALSE,
}
"""Every field that can be set, but daaProof, with a value that may be set."""


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
def setting_volatile_state(tpm: Script) -> None:
    _set(tpm, 3, 2, FALSE, RC.BAD_PARAMETER)
    _set(tpm, 3, 2, TRUE)
    tpm.flags()
    _set(tpm, 4, 6, b"\0\0\0\1", RC.BAD_PRESENCE)
    tpm.presence()
    _set(tpm, 4, 6, b"\0\0\0\1")
    tpm.presence(asserted=False)
    _set(tpm, 4, 6, bytes(4))


def _set_each(
    tpm: Script, codes: Mapping[tuple[int, int], ReturnCode], *, owner: bool = False
) -> None:
    """Set each field to a value that is right: those that are refused first, disable last."""
    for field in sorted(_FIELDS, key=lambda field: (field not in codes, field == (1, 1))):
        code = codes.get(field, RC.SUCCESS)
        _set(tpm, *field, _FIELDS[field], code, owner=owner)
    tpm.flags()
    tpm.capability(CapabilityArea.PROPERTY, CapabilityProperty.CMK_RESTRICTION)


_OWNERS: Final = ((1, 4), (1, 5), (1, 6), (1, 17), (1, 20), (2, 23))
"""Fields that want the owner and nothing else will do."""

_BY_LOCALITY: Final = {(1, 18): RC.BAD_LOCALITY, (5, 4): RC.BAD_LOCALITY}


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_each_field_without_anything(tpm: Script) -> None:
    _set_each(
        tpm,
        {
            **dict.fromkeys(_OWNERS, RC.AUTHFAIL),
            **_BY_LOCALITY,
            (1, 1): RC.AUTHFAIL,
            (1, 2): RC.OWNER_SET,
            (1, 3): RC.AUTHFAIL,
            (4, 6): RC.BAD_PRESENCE,
        },
    )


@case(UNOWNED, Ordinal.SET_CAPABILITY)
def setting_each_field_without_anything_nor_an_owner(tpm: Script) -> None:
    _set_each(
        tpm,
        {
            **dict.fromkeys(_OWNERS, RC.AUTHFAIL),
            **_BY_LOCALITY,
            **dict.fromkeys(((1, 1), (1, 2), (1, 3)), RC.AUTHFAIL),
            (4, 6): RC.BAD_PRESENCE,
        },
    )


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_each_field_with_presence_alone(tpm: Script) -> None:
    tpm.presence()
    _set_each(tpm, {**dict.fromkeys(_OWNERS, RC.AUTHFAIL), **_BY_LOCALITY, (1, 2): RC.OWNER_SET})


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_each_field_as_owner_alone(tpm: Script) -> None:
    refused = {**_BY_LOCALITY, (1, 2): RC.OWNER_SET, (1, 3): RC.AUTHFAIL, (4, 6): RC.BAD_PRESENCE}
    # The chip is disabled by the first that succeeds, and enabled again for the others.
    for (area, sub), value in _FIELDS.items():
        _set(tpm, area, sub, value, refused.get((area, sub), RC.SUCCESS), owner=True)
        _set(tpm, 1, 1, FALSE, owner=True)
    tpm.flags()


_WHILE_DISABLED: Final = (*_OWNERS[:4], (2, 23), (1, 3), (3, 2), (5, 4))
"""Fields that cannot be set while disabled, but for ownership, which wants no owner."""


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_each_field_while_disabled(tpm: Script) -> None:
    tpm.presence()
    _set(tpm, 1, 1, TRUE)
    tpm.locality = 3
    _set_each(
        tpm,
        {**dict.fromkeys(_WHILE_DISABLED, RC.DISABLED), (1, 2): RC.OWNER_SET},
        owner=True,
    )


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_each_field_while_deactivated(tpm: Script) -> None:
    tpm.power_cycle(StartupType.DEACTIVATED)
    tpm.presence()
    tpm.locality = 3
    refused = dict.fromkeys(_WHILE_DISABLED, RC.DEACTIVATED) | {(1, 2): RC.OWNER_SET}
    del refused[1, 3]
    _set_each(tpm, refused, owner=True)


@case(UNOWNED, Ordinal.SET_CAPABILITY)
def setting_ownership_while_disabled_or_deactivated(tpm: Script) -> None:
    tpm.presence()
    _set(tpm, 1, 1, TRUE)
    _set(tpm, 1, 2, FALSE, RC.DISABLED)
    _set(tpm, 1, 1, FALSE)
    tpm.power_cycle(StartupType.DEACTIVATED)
    tpm.presence()
    _set(tpm, 1, 2, FALSE, RC.DEACTIVATED)
    tpm.flags()


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_with_two_faults_at_once(tpm: Script) -> None:
    tpm.presence()
    _set(tpm, 1, 1, TRUE)
    # The owner's HMAC comes before all that the parameters say, they before who may set the field,
    # that before the value, and that before being disabled.
    wrong = tpm.oiap(spoil=True)
    tpm.call(Ordinal.SET_CAPABILITY, 6, ONE, ONE, auth=[wrong], code=RC.AUTHFAIL)
    _set(tpm, 1, 4, bytes(4), RC.BAD_PARAMETER)
    _set(tpm, 1, 5, FALSE, RC.AUTHFAIL)
    _set(tpm, 1, 5, FALSE, RC.BAD_PARAMETER, owner=True)
    _set(tpm, 5, 4, TRUE, RC.BAD_LOCALITY)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_a_value_of_the_wrong_kind_while_disabled(tpm: Script) -> None:
    tpm.presence()
    _set(tpm, 1, 1, TRUE)
    _set(tpm, 3, 2, FALSE, RC.BAD_PARAMETER)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_with_a_session_on_a_key(tpm: Script) -> None:
    values = (1, b"\0\0\0\1", TRUE)
    tpm.call(Ordinal.SET_CAPABILITY, *values, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    tpm.flags()


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_what_cannot_be_set(tpm: Script) -> None:
    tpm.presence()
    for area, subs in (
        (AREA.PERM_FLAGS, (0, *range(7, 17), 19, 21, 99)),
        (AREA.STCLEAR_FLAGS, (0, 1, 3, 4, 5, 6)),
        (AREA.STANY_FLAGS, (0, 1, 2, 3, 5)),
    ):
        for sub in subs:
            _set(tpm, area, sub, TRUE, RC.BAD_PARAMETER, owner=True)
    for area, subs in (
        (AREA.PERM_DATA, (*range(23), 24, 26)),
        (AREA.STCLEAR_DATA, (0, 1, 2, 3, 4, 5, 7)),
        (AREA.STANY_DATA, (*range(8),)),
        (AREA.VENDOR, (0, 1, 2)),
    ):
        for sub in subs:
            _set(tpm, area, sub, ONE, RC.BAD_PARAMETER, owner=True)
    tpm.flags()


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_an_unknown_area(tpm: Script) -> None:
    for area in (0, 8, 99):
        _set(tpm, area, 1, TRUE, RC.BAD_PARAMETER, owner=True)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_with_sizes_that_are_wrong(tpm: Script) -> None:
    for value in (b"", b"\0\0", bytes(4)):
        _set(tpm, 1, 1, value, RC.BAD_PARAMETER, owner=True)
        _set(tpm, 3, 2, value, RC.BAD_PARAMETER)
    tpm.locality = 3
    _set(tpm, 5, 4, bytes(4), RC.BAD_PARAMETER)
    for value in (b"", FALSE, bytes(5)):
        _set(tpm, 2, 23, value, RC.BAD_PARAMETER, owner=True)
        _set(tpm, 4, 6, value, RC.BAD_PARAMETER)
    tpm.flags()


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_with_a_sub_cap_of_the_wrong_size(tpm: Script) -> None:
    for sub_cap in (b"", b"\0\1", b"\0\0\0\1\0"):
        auth = [tpm.oiap()]
        tpm.call(Ordinal.SET_CAPABILITY, 1, sub_cap, TRUE, auth=auth, code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_a_flag_to_what_is_no_boolean(tpm: Script) -> None:
    _set(tpm, 1, 1, b"\2", RC.BAD_PARAMETER, owner=True)
    # Who may set it is judged first.
    _set(tpm, 1, 4, b"\2", RC.AUTHFAIL)
    _set(tpm, 1, 18, b"\2", RC.BAD_LOCALITY)
    tpm.flags()


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
def setting_the_restrictions_of_delegation(tpm: Script) -> None:
    for value in (ONE, b"\xf8\0\0\0", b"\xff\xff\xff\xff", bytes(4)):
        _set(tpm, 2, 23, value, owner=True)
        tpm.capability(CapabilityArea.PROPERTY, CapabilityProperty.CMK_RESTRICTION)
        tpm.power_cycle()
        tpm.capability(CapabilityArea.PROPERTY, CapabilityProperty.CMK_RESTRICTION)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_new_daa_secrets(tpm: Script) -> None:
    for value in (b"", FALSE, ONE, bytes(20)):
        _set(tpm, 2, 25, value, owner=True)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_new_daa_secrets_without_the_owner(tpm: Script) -> None:
    _set(tpm, 2, 25, ONE, RC.AUTHFAIL)
    tpm.presence()
    _set(tpm, 2, 25, ONE, RC.AUTHFAIL)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_deferred_presence(tpm: Script) -> None:
    _set(tpm, 4, 6, ONE, RC.BAD_PRESENCE)
    _set(tpm, 4, 6, bytes(4))
    tpm.presence()
    _set(tpm, 4, 6, ONE)
    tpm.presence(asserted=False)
    # What is set stays settable, and can be cleared.
    _set(tpm, 4, 6, ONE)
    _set(tpm, 4, 6, b"\0\0\0\3", RC.BAD_PRESENCE)
    _set(tpm, 4, 6, bytes(4))
    _set(tpm, 4, 6, ONE, RC.BAD_PRESENCE)


@case(OWNED, Ordinal.SET_CAPABILITY)
def setting_what_other_commands_then_see(tpm: Script) -> None:
    """Compare the effect of each flag on the command that it is for."""
    _set(tpm, 1, 17, TRUE, owner=True)
    tpm.call(Ordinal.GET_PUB_KEY, SRK, auth=[tpm.oiap(SRK_AUTH)])
    _set(tpm, 1, 5, TRUE, owner=True)
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()], code=RC.CLEAR_DISABLED)
    _set(tpm, 3, 2, TRUE)
    tpm.presence()
    tpm.call(Ordinal.FORCE_CLEAR, code=RC.CLEAR_DISABLED)
    _set(tpm, 1, 3, TRUE)
    tpm.call(Ordinal.PCR_READ, 0)
    tpm.power_cycle()
    tpm.call(Ordinal.PCR_READ, 0, code=RC.DEACTIVATED)
