# SPDX-License-Identifier: Apache-2.0
"""PCRs and quotes (Part 3, chapter 16)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.pcr import PcrSelection
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, USAGE_AUTH, Chapter, Script

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
    tpm.call(Ordinal.QUOTE, tpm.load("sign-info"), DIGEST, selection, auth=[tpm.oiap(USAGE_AUTH)])


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
