# SPDX-License-Identifier: Apache-2.0
"""Startup, saved states and self tests (Part 3, chapters 3 and 4)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode, StartupType
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, Chapter, Script, message

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW = World.NEW


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
