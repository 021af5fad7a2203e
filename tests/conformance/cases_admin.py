# SPDX-License-Identifier: Apache-2.0
"""Administration, ordinals that are not there, and framing (Part 3, chapter 9; Part 1)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode, Tag
from tests.conformance.machines import World
from tests.conformance.script import Chapter, Script, message
from tests.unit.tpm12.world import OWNER_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
UNOWNED, OWNED = World.UNOWNED, World.OWNED


@case(OWNED, Ordinal.RESET_LOCK_VALUE)
def lock_value_is_reset_by_the_owner(tpm: Script) -> None:
    tpm.call(Ordinal.RESET_LOCK_VALUE, auth=[tpm.oiap()])
    tpm.call(Ordinal.RESET_LOCK_VALUE, auth=[tpm.osap_owner()])


@case(OWNED, Ordinal.RESET_LOCK_VALUE)
def lock_value_and_a_wrong_secret(tpm: Script) -> None:
    tpm.call(Ordinal.RESET_LOCK_VALUE, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    # Without a lockout there is nothing that the failure could bar.
    tpm.call(Ordinal.RESET_LOCK_VALUE, auth=[tpm.oiap()])
    tpm.call(Ordinal.RESET_LOCK_VALUE, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
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
