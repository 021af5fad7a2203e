# SPDX-License-Identifier: Apache-2.0
"""Opt-in and physical presence (Part 3, chapter 5; TIS)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal, PhysicalPresenceFlags, ReturnCode, StartupType
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, Chapter, Script, message

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
    tpm.presence()
    tpm.call(Ordinal.SET_OWNER_INSTALL, True)
    tpm.flags()


@case(OWNED, Ordinal.SET_OWNER_INSTALL)
def owner_install_with_an_owner_does_nothing(tpm: Script) -> None:
    tpm.call(Ordinal.SET_OWNER_INSTALL, False)
    tpm.flags()


@case(OWNED, Ordinal.OWNER_SET_DISABLE)
def owner_disables_and_enables(tpm: Script) -> None:
    tpm.call(Ordinal.OWNER_SET_DISABLE, True, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.OWNER_SET_DISABLE, True, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    tpm.flags()
    tpm.call(Ordinal.OWNER_SET_DISABLE, True, auth=[tpm.oiap()])
    tpm.flags()
    tpm.call(Ordinal.PCR_READ, 0, code=RC.DISABLED)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[tpm.osap_owner()])
    tpm.call(Ordinal.PCR_READ, 0)


@case(OWNED, Ordinal.OWNER_SET_DISABLE)
def owner_enables_while_deactivated(tpm: Script) -> None:
    tpm.call(Ordinal.OWNER_SET_DISABLE, True, auth=[tpm.oiap()])
    tpm.power_cycle(StartupType.DEACTIVATED)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[tpm.oiap()])
    tpm.flags()


@case(OWNED, Ordinal.OWNER_SET_DISABLE)
def owner_disables_with_a_flag_that_is_no_boolean(tpm: Script) -> None:
    tpm.call(Ordinal.OWNER_SET_DISABLE, body=b"\2", auth=[tpm.oiap()], code=RC.BAD_PARAMETER)
    # Found before the HMAC.
    wrong = tpm.oiap(spoil=True)
    tpm.call(Ordinal.OWNER_SET_DISABLE, body=b"\2", auth=[wrong], code=RC.BAD_PARAMETER)
    tpm.flags()


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
    tpm.flags()
    tpm.presence()
    tpm.raw(message(Ordinal.PHYSICAL_SET_DEACTIVATED, b"\2"), code=RC.BAD_PARAMETER)
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
    tpm.presence(asserted=False)
    # Being disabled is found before the missing presence.
    tpm.call(Ordinal.PHYSICAL_SET_DEACTIVATED, True, code=RC.DISABLED)
    tpm.call(Ordinal.PHYSICAL_DISABLE, code=RC.DISABLED)
    tpm.call(Ordinal.PHYSICAL_ENABLE, code=RC.BAD_PRESENCE)
    tpm.flags()


@case(NEW, Ordinal.PHYSICAL_ENABLE, Ordinal.PHYSICAL_DISABLE, Ordinal.PHYSICAL_SET_DEACTIVATED)
def physical_switches_while_deactivated(tpm: Script) -> None:
    tpm.power_cycle(StartupType.DEACTIVATED)
    tpm.presence()
    for ordinal in (Ordinal.PHYSICAL_DISABLE, Ordinal.PHYSICAL_ENABLE):
        tpm.call(ordinal)
        tpm.flags()
    tpm.call(Ordinal.PHYSICAL_SET_DEACTIVATED, True)
    tpm.flags()


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
    tpm.flags()
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[tpm.oiap(operator)], code=RC.NOOPERATOR)
    # That there is no operator is found before the kind of session.
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[tpm.osap_owner()], code=RC.NOOPERATOR)
    tpm.presence()
    tpm.call(Ordinal.SET_OPERATOR_AUTH, operator)
    tpm.flags()
    tpm.presence(asserted=False)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[tpm.oiap(operator, spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[tpm.osap_owner()], code=RC.BAD_MODE)
    # The kind of session is found before the HMAC.
    spoilt = tpm.osap_owner(spoil=True)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[spoilt], code=RC.BAD_MODE)
    tpm.flags()
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[tpm.oiap(operator)])
    tpm.flags()
    tpm.power_cycle()
    tpm.flags()


@case(OWNED, Ordinal.SET_OPERATOR_AUTH, Ordinal.SET_TEMP_DEACTIVATED)
def another_operator_replaces_the_first(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.SET_OPERATOR_AUTH, OPERATOR_AUTH)
    tpm.call(Ordinal.SET_OPERATOR_AUTH, DIGEST)
    first = tpm.oiap(OPERATOR_AUTH)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[first], code=RC.AUTHFAIL)
    tpm.power_cycle()
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED, auth=[tpm.oiap(DIGEST)])
    tpm.flags()


@case(NEW, Ordinal.SET_TEMP_DEACTIVATED)
def temporarily_deactivated_while_disabled(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED)
    tpm.flags()


def _presence(tpm: Script, bits: int, code: ReturnCode = RC.SUCCESS) -> None:
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, bits, code=code)
    tpm.flags()


@case(NEW, Ordinal.TSC_PHYSICAL_PRESENCE)
def physical_presence_with_bits_that_mean_nothing(tpm: Script) -> None:
    _presence(tpm, 0, RC.BAD_PARAMETER)
    for bit in (0x1, 0x2, 0x400, 0x800, 0x1000, 0x2000, 0x4000, 0x8000):
        _presence(tpm, PP.CMD_ENABLE | bit, RC.BAD_PARAMETER)
    _presence(tpm, PP.CMD_ENABLE)
    _presence(tpm, PP.PRESENT | 0x8000, RC.BAD_PARAMETER)


@case(NEW, Ordinal.TSC_PHYSICAL_PRESENCE)
def physical_presence_for_a_lifetime_with_contradictions(tpm: Script) -> None:
    _presence(tpm, PP.HW_ENABLE | PP.HW_DISABLE, RC.BAD_PARAMETER)
    _presence(tpm, PP.CMD_ENABLE | PP.CMD_DISABLE, RC.BAD_PARAMETER)
    for assertion in (PP.PRESENT, PP.NOTPRESENT, PP.LOCK):
        _presence(tpm, PP.CMD_ENABLE | assertion, RC.BAD_PARAMETER)


@case(NEW, Ordinal.TSC_PHYSICAL_PRESENCE)
def physical_presence_that_cannot_be_asserted(tpm: Script) -> None:
    for assertion in (PP.PRESENT, PP.NOTPRESENT, PP.LOCK):
        _presence(tpm, assertion, RC.BAD_PARAMETER)
    _presence(tpm, PP.CMD_ENABLE)
    _presence(tpm, PP.PRESENT | PP.NOTPRESENT, RC.BAD_PARAMETER)
    _presence(tpm, PP.PRESENT | PP.LOCK, RC.BAD_PARAMETER)


@case(NEW, Ordinal.TSC_PHYSICAL_PRESENCE)
def physical_presence_is_asserted_and_locked(tpm: Script) -> None:
    _presence(tpm, PP.CMD_ENABLE)
    _presence(tpm, PP.PRESENT)
    _presence(tpm, PP.NOTPRESENT)
    _presence(tpm, PP.PRESENT)
    _presence(tpm, PP.NOTPRESENT | PP.LOCK)
    for assertion in (PP.PRESENT, PP.NOTPRESENT, PP.LOCK):
        _presence(tpm, assertion, RC.BAD_PARAMETER)
    # What is for a lifetime is not locked by it.
    _presence(tpm, PP.CMD_DISABLE)
    _presence(tpm, PP.CMD_ENABLE)
    tpm.power_cycle()
    _presence(tpm, PP.PRESENT)
    _presence(tpm, PP.LOCK)
    tpm.call(Ordinal.PHYSICAL_ENABLE, code=RC.BAD_PRESENCE)


@case(NEW, Ordinal.TSC_PHYSICAL_PRESENCE)
def physical_presence_counts_only_where_it_is_enabled(tpm: Script) -> None:
    _presence(tpm, PP.CMD_ENABLE)
    _presence(tpm, PP.PRESENT)
    _presence(tpm, PP.CMD_DISABLE)
    tpm.call(Ordinal.PHYSICAL_ENABLE, code=RC.BAD_PRESENCE)
    _presence(tpm, PP.CMD_ENABLE)
    tpm.call(Ordinal.PHYSICAL_ENABLE)


@case(NEW, Ordinal.TSC_PHYSICAL_PRESENCE)
def physical_presence_for_a_lifetime(tpm: Script) -> None:
    _presence(tpm, PP.CMD_DISABLE | PP.HW_ENABLE)
    _presence(tpm, PP.PRESENT, RC.BAD_PARAMETER)
    _presence(tpm, PP.CMD_ENABLE | PP.HW_DISABLE | PP.LIFETIME_LOCK)
    for bits in (PP.CMD_DISABLE, PP.CMD_ENABLE, PP.HW_ENABLE, PP.HW_DISABLE, PP.LIFETIME_LOCK):
        _presence(tpm, bits, RC.BAD_PARAMETER)
    _presence(tpm, PP.PRESENT)
    tpm.power_cycle()
    tpm.flags()
    _presence(tpm, PP.CMD_DISABLE, RC.BAD_PARAMETER)


@case(NEW, Ordinal.TSC_RESET_ESTABLISHMENT_BIT)
def establishment_bit_by_locality(tpm: Script) -> None:
    tpm.machine.hash_start()
    tpm.machine.hash_end(b"what is measured")
    tpm.flags()
    for locality in (0, 1, 2):
        tpm.locality = locality
        tpm.call(Ordinal.TSC_RESET_ESTABLISHMENT_BIT, code=RC.BAD_LOCALITY)
        tpm.flags()
    for locality in (3, 4):
        tpm.locality = locality
        tpm.call(Ordinal.TSC_RESET_ESTABLISHMENT_BIT)
        tpm.flags()
