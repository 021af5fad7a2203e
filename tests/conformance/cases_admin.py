# SPDX-License-Identifier: Apache-2.0
"""Startup, self-test, opt-in and physical presence (Part 3, chapters 3 to 5, 9; TIS)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal, PhysicalPresenceFlags, ReturnCode, StartupType, Tag
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, Chapter, Script, message
from tests.unit.tpm12.world import OWNER_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
PP = PhysicalPresenceFlags
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
OPERATOR_AUTH: Final = b"operator's secret---"


@case(NEW, Ordinal.STARTUP, start_up=False)
def startup_clear_once(tpm: Script) -> None:
    tpm.call(Ordinal.PCR_READ, 0, code=RC.INVALID_POSTINIT)
    tpm.call(Ordinal.STARTUP, StartupType.CLEAR)
    tpm.call(Ordinal.STARTUP, StartupType.CLEAR, code=RC.INVALID_POSTINIT)
    for pcr in range(24):
        tpm.call(Ordinal.PCR_READ, pcr)
    tpm.flags()


@case(NEW, Ordinal.STARTUP, start_up=False)
def startup_of_an_unknown_type(tpm: Script) -> None:
    tpm.call(Ordinal.STARTUP, 4, code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.STARTUP, StartupType.CLEAR)


@case(NEW, Ordinal.STARTUP, start_up=False)
def startup_with_bad_framing(tpm: Script) -> None:
    tpm.raw(message(Ordinal.STARTUP, b"\0"), code=RC.BAD_PARAM_SIZE)
    tpm.call(Ordinal.STARTUP, StartupType.CLEAR)


@case(NEW, Ordinal.STARTUP, start_up=False)
def startup_deactivated(tpm: Script) -> None:
    tpm.call(Ordinal.STARTUP, StartupType.DEACTIVATED)
    tpm.flags()
    tpm.call(Ordinal.PCR_READ, 0, code=RC.DEACTIVATED)
    tpm.power_cycle()
    tpm.call(Ordinal.PCR_READ, 0)


@case(NEW, Ordinal.STARTUP, start_up=False)
def startup_state_without_a_saved_state(tpm: Script) -> None:
    tpm.call(Ordinal.STARTUP, StartupType.STATE, code=RC.FAILEDSELFTEST)
    tpm.call(Ordinal.PCR_READ, 0, code=RC.FAILEDSELFTEST)
    tpm.call(Ordinal.GET_TEST_RESULT)


@case(NEW, Ordinal.SAVE_STATE, Ordinal.STARTUP)
def saved_state_comes_back(tpm: Script) -> None:
    tpm.call(Ordinal.EXTEND, 3, DIGEST)
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    tpm.call(Ordinal.DISABLE_FORCE_CLEAR)
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    for pcr in range(24):
        tpm.call(Ordinal.PCR_READ, pcr)
    tpm.flags()


@case(NEW, Ordinal.SAVE_STATE, Ordinal.STARTUP)
def saved_state_is_void_after_another_command(tpm: Script) -> None:
    tpm.call(Ordinal.SAVE_STATE)
    tpm.call(Ordinal.GET_TICKS)
    tpm.power_cycle(None)
    tpm.call(Ordinal.STARTUP, StartupType.STATE, code=RC.FAILEDSELFTEST)


@case(NEW, Ordinal.SAVE_STATE, Ordinal.STARTUP)
def saved_state_serves_once(tpm: Script) -> None:
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    tpm.power_cycle(None)
    tpm.call(Ordinal.STARTUP, StartupType.STATE, code=RC.FAILEDSELFTEST)


@case(NEW, Ordinal.SAVE_STATE)
def startup_clear_ignores_a_saved_state(tpm: Script) -> None:
    tpm.call(Ordinal.EXTEND, 3, DIGEST)
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle()
    tpm.call(Ordinal.PCR_READ, 3)


@case(NEW, Ordinal.SELF_TEST_FULL, Ordinal.CONTINUE_SELF_TEST, Ordinal.GET_TEST_RESULT)
def self_tests_succeed(tpm: Script) -> None:
    tpm.call(Ordinal.GET_TEST_RESULT)
    tpm.call(Ordinal.CONTINUE_SELF_TEST)
    tpm.call(Ordinal.SELF_TEST_FULL)
    tpm.call(Ordinal.GET_TEST_RESULT)


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


@case(OWNED, Ordinal.RESET_LOCK_VALUE)
def lock_value_is_reset_by_the_owner(tpm: Script) -> None:
    tpm.call(Ordinal.RESET_LOCK_VALUE, auth=[tpm.oiap()])
    tpm.call(Ordinal.RESET_LOCK_VALUE, auth=[tpm.osap_owner()])


@case(OWNED, Ordinal.RESET_LOCK_VALUE)
def lock_value_and_a_wrong_secret(tpm: Script) -> None:
    tpm.call(Ordinal.RESET_LOCK_VALUE, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    # Without a lockout there is nothing that the failure could bar.
    tpm.call(Ordinal.RESET_LOCK_VALUE, auth=[tpm.oiap()])


@case(UNOWNED)
def framing_errors(tpm: Script) -> None:
    read = message(Ordinal.PCR_READ, bytes(4))
    tpm.raw(read)
    tpm.raw(message(0x12345), code=RC.BAD_ORDINAL)
    tpm.raw(message(Ordinal.INIT), code=RC.BAD_ORDINAL)
    tpm.raw(message(Ordinal.PCR_READ, bytes(3)), code=RC.BAD_PARAM_SIZE)
    tpm.raw(message(Ordinal.PCR_READ, bytes(5)), code=RC.BAD_PARAM_SIZE)
    tpm.raw(message(Ordinal.PCR_READ, bytes(4), 0x00C0), code=RC.BADTAG)
    tpm.raw(message(Ordinal.PCR_READ, bytes(4), Tag.RSP_COMMAND), code=RC.BADTAG)
    tpm.raw(message(Ordinal.PCR_READ, bytes(4 + 45), Tag.RQU_AUTH1_COMMAND), code=RC.BADTAG)


@case(UNOWNED)
def deleted_and_unimplemented_ordinals(tpm: Script) -> None:
    for ordinal in (0x52, 0x64, 0x82, 0x83, 0x8C, 0x97, 0x9A, 0xAA, 0, 0x40000000, 0xFFFFFFFF):
        tpm.raw(message(ordinal), code=RC.BAD_ORDINAL)


@case(OWNED)
def continue_flag_that_is_no_boolean(tpm: Script) -> None:
    auth = tpm.run(tss12.oiap())
    block = auth.handle.to_bytes(4, "big") + bytes(20) + b"\2" + bytes(20)
    tpm.raw(
        message(Ordinal.OWNER_SET_DISABLE, b"\1" + block, Tag.RQU_AUTH1_COMMAND),
        code=RC.BAD_PARAMETER,
    )
    tpm.run(tss12.owner_set_disable(False, owner_auth=OWNER_AUTH, random=tpm.random))
