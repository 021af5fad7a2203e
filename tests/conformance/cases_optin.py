# SPDX-License-Identifier: Apache-2.0
"""Opt-in and physical presence (Part 3, chapter 5; TIS)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal, PhysicalPresenceFlags, ReturnCode
from tests.conformance.machines import World
from tests.conformance.script import Chapter, Script, message

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
PP = PhysicalPresenceFlags
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
OPERATOR_AUTH: Final = b"operator's secret---"


@case(UNOWNED, Ordinal.SET_OWNER_INSTALL)
def owner_install_needs_presence(tpm: Script) -> None:
    tpm.call(Ordinal.SET_OWNER_INSTALL, False, code=RC.BAD_PRESENCE)
    tpm.flags()
    tpm.presence()
    tpm.call(Ordinal.SET_OWNER_INSTALL, False)
    tpm.flags()
    tpm.raw(message(Ordinal.SET_OWNER_INSTALL, b"\2"), code=RC.BAD_PARAMETER)
    tpm.power_cycle()
    tpm.flags()


@case(OWNED, Ordinal.SET_OWNER_INSTALL)
def owner_install_with_an_owner_does_nothing(tpm: Script) -> None:
    tpm.call(Ordinal.SET_OWNER_INSTALL, False)
    tpm.flags()


@case(OWNED, Ordinal.OWNER_SET_DISABLE)
def owner_disables_and_enables(tpm: Script) -> None:
    tpm.call(Ordinal.OWNER_SET_DISABLE, True, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.flags()
    tpm.call(Ordinal.OWNER_SET_DISABLE, True, auth=[tpm.oiap()])
    tpm.flags()
    tpm.call(Ordinal.PCR_READ, 0, code=RC.DISABLED)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[tpm.osap_owner()])
    tpm.call(Ordinal.PCR_READ, 0)


@case(UNOWNED, Ordinal.OWNER_SET_DISABLE)
def disable_without_an_owner(tpm: Script) -> None:
    tpm.call(Ordinal.OWNER_SET_DISABLE, True, auth=[tpm.oiap()], code=RC.NOSRK)


@case(NEW, Ordinal.PHYSICAL_ENABLE, Ordinal.PHYSICAL_DISABLE)
def physical_disable_and_enable(tpm: Script) -> None:
    tpm.call(Ordinal.PHYSICAL_DISABLE, code=RC.BAD_PRESENCE)
    tpm.call(Ordinal.PHYSICAL_ENABLE, code=RC.BAD_PRESENCE)
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    tpm.flags()
    tpm.call(Ordinal.PHYSICAL_DISABLE, code=RC.DISABLED)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.flags()


@case(NEW, Ordinal.PHYSICAL_SET_DEACTIVATED)
def physical_set_deactivated_at_the_next_startup(tpm: Script) -> None:
    tpm.call(Ordinal.PHYSICAL_SET_DEACTIVATED, True, code=RC.BAD_PRESENCE)
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_SET_DEACTIVATED, True)
    tpm.flags()
    tpm.call(Ordinal.PCR_READ, 0)
    tpm.power_cycle()
    tpm.flags()
    tpm.call(Ordinal.PCR_READ, 0, code=RC.DEACTIVATED)
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_SET_DEACTIVATED, False)
    tpm.power_cycle()
    tpm.call(Ordinal.PCR_READ, 0)


@case(NEW, Ordinal.PHYSICAL_SET_DEACTIVATED)
def physical_set_deactivated_while_disabled(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    tpm.call(Ordinal.PHYSICAL_SET_DEACTIVATED, True, code=RC.DISABLED)


@case(NEW, Ordinal.SET_TEMP_DEACTIVATED)
def temporarily_deactivated_with_presence(tpm: Script) -> None:
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, code=RC.BAD_PRESENCE)
    tpm.presence()
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED)
    tpm.flags()
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, code=RC.DEACTIVATED)
    tpm.power_cycle()
    tpm.flags()


@case(OWNED, Ordinal.SET_TEMP_DEACTIVATED, Ordinal.SET_OPERATOR_AUTH)
def temporarily_deactivated_by_the_operator(tpm: Script) -> None:
    operator = OPERATOR_AUTH
    tpm.call(Ordinal.SET_OPERATOR_AUTH, operator, code=RC.BAD_PRESENCE)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[tpm.oiap(operator)], code=RC.NOOPERATOR)
    tpm.presence()
    tpm.call(Ordinal.SET_OPERATOR_AUTH, operator)
    tpm.flags()
    tpm.presence(asserted=False)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[tpm.oiap(operator, spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[tpm.osap_owner()], code=RC.BAD_MODE)
    tpm.flags()
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[tpm.oiap(operator)])
    tpm.flags()


@case(NEW, Ordinal.TSC_PHYSICAL_PRESENCE)
def physical_presence_combinations(tpm: Script) -> None:
    for bits in (0, 0x400, 0x8000, 0x28, 0x300 | 0x8, 0x240, 0x120, PP.PRESENT | PP.LOCK):
        tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, bits, code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.CMD_ENABLE)
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.PRESENT | PP.NOTPRESENT, code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.PRESENT | PP.LOCK, code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.PRESENT)
    tpm.flags()
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.NOTPRESENT)
    tpm.flags()
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.NOTPRESENT | PP.LOCK)
    tpm.flags()
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.PRESENT, code=RC.BAD_PARAMETER)
    tpm.power_cycle()
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.PRESENT)


@case(NEW, Ordinal.TSC_PHYSICAL_PRESENCE)
def physical_presence_for_a_lifetime(tpm: Script) -> None:
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.CMD_DISABLE | PP.HW_ENABLE)
    tpm.flags()
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.PRESENT, code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.CMD_ENABLE | PP.HW_DISABLE | PP.LIFETIME_LOCK)
    tpm.flags()
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.CMD_DISABLE, code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PP.PRESENT)
    tpm.power_cycle()
    tpm.flags()


@case(NEW, Ordinal.TSC_RESET_ESTABLISHMENT_BIT)
def establishment_bit_by_locality(tpm: Script) -> None:
    for locality in (0, 1, 2):
        tpm.locality = locality
        tpm.call(Ordinal.TSC_RESET_ESTABLISHMENT_BIT, code=RC.BAD_LOCALITY)
    for locality in (3, 4):
        tpm.locality = locality
        tpm.call(Ordinal.TSC_RESET_ESTABLISHMENT_BIT)
    tpm.flags()
