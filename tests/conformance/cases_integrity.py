# SPDX-License-Identifier: Apache-2.0
"""PCRs and quotes (Part 3, chapter 16)."""

from __future__ import annotations

from functools import partial
from typing import Final

from protocol.tpm12.constants import PCR_COUNT, Ordinal, ReturnCode, StartupType
from protocol.tpm12.pcr import PcrSelection
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, USAGE_AUTH, Chapter, Script
from tests.unit.tpm12.keychain import signed_block

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, OWNED = World.NEW, World.OWNED


@case(NEW, Ordinal.EXTEND, Ordinal.PCR_READ)
def extending_by_locality(tpm: Script) -> None:
    for locality in range(5):
        tpm.locality = locality
        for pcr in range(16, 24):
            allowed = {17: {2, 3, 4}, 18: {2, 3, 4}, 19: {2, 3}, 20: {1, 2, 3}, 21: {2}, 22: {2}}
            code = RC.SUCCESS if locality in allowed.get(pcr, set(range(5))) else RC.BAD_LOCALITY
            tpm.call(Ordinal.EXTEND, pcr, DIGEST, code=code)
    for pcr in range(24):
        tpm.call(Ordinal.PCR_READ, pcr)
    for pcr in (24, 255, 0xFFFFFFFF):
        tpm.call(Ordinal.EXTEND, pcr, DIGEST, code=RC.BADINDEX)
        tpm.call(Ordinal.PCR_READ, pcr, code=RC.BADINDEX)


@case(NEW, Ordinal.EXTEND)
def extending_while_disabled(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    tpm.call(Ordinal.EXTEND, 1, DIGEST)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.PCR_READ, 1)


@case(NEW, Ordinal.PCR_RESET)
def resetting_pcrs_by_locality(tpm: Script) -> None:
    tpm.call(Ordinal.PCR_RESET, PcrSelection(), code=RC.INVALID_PCR_INFO)
    tpm.call(Ordinal.PCR_RESET, PcrSelection(bytes(3)), code=RC.INVALID_PCR_INFO)
    tpm.call(Ordinal.PCR_RESET, PcrSelection.of([0, 16]), code=RC.NOTRESETABLE)
    for locality in range(5):
        tpm.locality = locality
        for pcr in range(16, 24):
            allowed = {17: {4}, 18: {4}, 19: {4}, 20: {2, 4}, 21: {2}, 22: {2}}
            code = RC.SUCCESS if locality in allowed.get(pcr, set(range(5))) else RC.NOTLOCAL
            tpm.call(Ordinal.PCR_RESET, PcrSelection.of([pcr]), code=code)
    for pcr in range(16, 24):
        tpm.call(Ordinal.PCR_READ, pcr)


@case(NEW, Ordinal.PCR_RESET)
def pcr_selection_that_is_too_long(tpm: Script) -> None:
    tpm.call(Ordinal.PCR_RESET, body=b"\0\4\0\0\1\0", code=RC.INVALID_PCR_INFO)
    tpm.call(Ordinal.PCR_RESET, body=b"\0\3\0\0", code=RC.BAD_PARAM_SIZE)


@case(NEW, Ordinal.PCR_RESET)
def pcrs_are_reset_together_or_not_at_all(tpm: Script) -> None:
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    tpm.call(Ordinal.PCR_RESET, PcrSelection.of([16, 21]), code=RC.NOTLOCAL)
    tpm.call(Ordinal.PCR_RESET, PcrSelection.of([15, 16]), code=RC.NOTRESETABLE)
    # What can never be reset is found before what cannot be from here.
    tpm.call(Ordinal.PCR_RESET, PcrSelection.of([15, 21]), code=RC.NOTRESETABLE)
    tpm.call(Ordinal.PCR_READ, 16)
    tpm.call(Ordinal.PCR_RESET, PcrSelection.of([16, 23]))
    tpm.call(Ordinal.PCR_READ, 16)
    for index in range(16):
        tpm.call(Ordinal.PCR_RESET, PcrSelection.of([index]), code=RC.NOTRESETABLE)


@case(NEW, Ordinal.PCR_RESET)
def pcrs_are_reset_while_disabled_or_deactivated(tpm: Script) -> None:
    tpm.presence()
    for switch in (Ordinal.PHYSICAL_DISABLE, Ordinal.PHYSICAL_ENABLE, Ordinal.SET_TEMP_DEACTIVATED):
        tpm.call(switch)
        tpm.call(Ordinal.EXTEND, 16, DIGEST)
        tpm.call(Ordinal.PCR_RESET, PcrSelection.of([16]))
        tpm.call(Ordinal.EXTEND, 2, DIGEST)


def _read_all(tpm: Script) -> None:
    for index in range(PCR_COUNT):
        tpm.call(Ordinal.PCR_READ, index)


@case(NEW, Ordinal.EXTEND)
def pcrs_of_a_dynamic_launch(tpm: Script) -> None:
    for index in (0, 16, 23):
        tpm.call(Ordinal.EXTEND, index, DIGEST)
    tpm.machine.hash_start()
    _read_all(tpm)
    # Before the first measurement PCR 17 is for locality 4 alone.
    for locality in (2, 3):
        tpm.locality = locality
        tpm.call(Ordinal.EXTEND, 17, DIGEST, code=RC.BAD_LOCALITY)
        tpm.call(Ordinal.EXTEND, 18, DIGEST)
    tpm.machine.hash_end(b"the code that is launched")
    _read_all(tpm)
    tpm.flags()
    for locality in (2, 3, 4):
        tpm.locality = locality
        tpm.call(Ordinal.EXTEND, 17, DIGEST)
    _read_all(tpm)


@case(OWNED, Ordinal.PCR_RESET, Ordinal.EXTEND)
def pcrs_are_reset_to_zero_during_a_dynamic_launch(tpm: Script) -> None:
    tpm.machine.hash_start()
    tpm.machine.hash_end(b"the code that is launched")
    launched = PcrSelection.of([17, 18, 19, 20])
    tpm.locality = 4
    tpm.call(Ordinal.PCR_RESET, launched)
    _read_all(tpm)
    tpm.locality = 2
    tpm.call(Ordinal.EXTEND, 17, DIGEST, code=RC.BAD_LOCALITY)
    tpm.locality = 4
    tpm.call(Ordinal.EXTEND, 17, DIGEST)
    # Once the launch is over, a reset gives all ones again.
    tpm.locality = 3
    tpm.call(Ordinal.SET_CAPABILITY, 5, b"\0\0\0\4", b"\0")
    tpm.locality = 4
    tpm.call(Ordinal.PCR_RESET, launched)
    tpm.locality = 2
    tpm.call(Ordinal.PCR_RESET, PcrSelection.of([21, 22]))
    _read_all(tpm)
    tpm.call(Ordinal.EXTEND, 17, DIGEST)
    tpm.power_cycle()
    _read_all(tpm)


@case(NEW, Ordinal.PCR_RESET)
def a_dynamic_launch_is_over_with_the_next_startup(tpm: Script) -> None:
    tpm.machine.hash_start()
    tpm.machine.hash_end(b"the code that is launched")
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    _read_all(tpm)
    tpm.locality = 4
    tpm.call(Ordinal.PCR_RESET, PcrSelection.of([17, 20]))
    _read_all(tpm)


@case(OWNED, Ordinal.QUOTE, Ordinal.QUOTE2)
def quoting(tpm: Script) -> None:
    key = tpm.load("sign")
    for selection in (PcrSelection.of([0, 16]), PcrSelection.of([]), PcrSelection(b"\1")):
        tpm.call(Ordinal.QUOTE, key, DIGEST, selection, auth=[tpm.oiap(USAGE_AUTH)])
        for version in (False, True):
            auth = tpm.oiap(USAGE_AUTH)
            tpm.call(Ordinal.QUOTE2, key, DIGEST, selection, version, auth=[auth])
    selection = PcrSelection.of([0])
    tpm.locality = 3
    tpm.call(Ordinal.QUOTE2, tpm.load("sign-open"), DIGEST, selection, False)
    for name in ("sign-info", "legacy", "identity"):
        handle = tpm.load(name)
        block = {"sig": partial(signed_block, tpm.wrapped(name).pub_key)}
        auth = tpm.oiap(USAGE_AUTH)
        tpm.call(Ordinal.QUOTE, handle, DIGEST, selection, auth=[auth], masks=block)
        auth = tpm.osap_key(handle, USAGE_AUTH)
        tpm.call(Ordinal.QUOTE2, handle, DIGEST, selection, False, auth=[auth], masks=block)


@case(OWNED, Ordinal.QUOTE)
def quoting_nothing_at_all(tpm: Script) -> None:
    tpm.call(Ordinal.QUOTE, tpm.load("sign-open"), DIGEST, PcrSelection())


@case(OWNED, Ordinal.QUOTE, Ordinal.QUOTE2)
def quoting_errors(tpm: Script) -> None:
    key, der, bind = tpm.load("sign"), tpm.load("sign-der"), tpm.load("bind")
    for ordinal, more in ((Ordinal.QUOTE, ()), (Ordinal.QUOTE2, (False,))):
        values = (DIGEST, PcrSelection.of([0]), *more)
        tpm.call(ordinal, key, *values, code=RC.AUTHFAIL)
        wrong = tpm.oiap(USAGE_AUTH, spoil=True)
        tpm.call(ordinal, key, *values, auth=[wrong], code=RC.AUTHFAIL)
        tpm.call(ordinal, der, *values, auth=[tpm.oiap(USAGE_AUTH)], code=RC.INAPPROPRIATE_SIG)
        tpm.call(ordinal, bind, *values, auth=[tpm.oiap(USAGE_AUTH)], code=RC.INAPPROPRIATE_SIG)
        tpm.call(ordinal, 9, *values, auth=[tpm.oiap(USAGE_AUTH)], code=RC.INVALID_KEYHANDLE)


@case(OWNED, Ordinal.QUOTE, Ordinal.QUOTE2)
def quotes_that_do_not_parse(tpm: Script) -> None:
    key = tpm.load("sign-open").to_bytes(4, "big")
    long = key + DIGEST + b"\0\4" + bytes(4)
    tpm.call(Ordinal.QUOTE, body=long, code=RC.INVALID_PCR_INFO)
    tpm.call(Ordinal.QUOTE2, body=long + b"\0", code=RC.INVALID_PCR_INFO)
    body = key + DIGEST + b"\0\1\1\2"
    tpm.call(Ordinal.QUOTE2, body=body, code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.QUOTE, Ordinal.QUOTE2)
def quoting_with_two_faults(tpm: Script) -> None:
    der = tpm.load("sign-der")
    for ordinal, more in ((Ordinal.QUOTE, ()), (Ordinal.QUOTE2, (False,))):
        values = (der, DIGEST, PcrSelection.of([0]), *more)
        tpm.call(ordinal, *values, code=RC.AUTHFAIL)
        tpm.call(ordinal, *values, auth=[tpm.oiap(USAGE_AUTH, spoil=True)], code=RC.AUTHFAIL)
