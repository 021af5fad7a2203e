# SPDX-License-Identifier: Apache-2.0
"""Which raw TPM 1.2 commands a vTPM may send to the hardware TPM.

Source: Xen vtpmmgr, pass-through of tags 0x00C1-0x00C3. The bytes go on unchanged and the answer
comes back unchanged, so only commands that take no session and no key can be let through. Extend
needs the ADMIN right, and leaves PCRs 20-23 alone, in which quotes identify who asked for them.
"""

from __future__ import annotations

import enum
from typing import Final, assert_never

from protocol.manager.constants import ManagerCode, PassThroughTag
from protocol.manager.framing import Request

PASS_THROUGH_TAGS: Final = frozenset(tag.value for tag in PassThroughTag)
GET_RANDOM_REQUEST_BYTES: Final = 14
EXTEND_REQUEST_BYTES: Final = 34
IDENTIFYING_PCRS: Final = range(20, 24)


class PassThroughOrdinal(enum.IntEnum):
    """Ordinals that may pass (TPM Main Part 2, ordinals)."""

    EXTEND = 0x00000014
    PCR_READ = 0x00000015
    GET_RANDOM = 0x00000046


def judge(request: Request, *, admin: bool) -> ManagerCode:
    """Return SUCCESS if a request with a TPM 1.2 tag may go on, else the code to answer.

    Args:
        admin: whether the vTPM has the ADMIN right.
    """
    try:
        ordinal = PassThroughOrdinal(request.ordinal)
    except ValueError:
        return ManagerCode.DISABLED_CMD
    match ordinal:
        case PassThroughOrdinal.EXTEND:
            return _judge_extend(request) if admin else ManagerCode.DISABLED_CMD
        case PassThroughOrdinal.PCR_READ:
            return ManagerCode.SUCCESS
        case PassThroughOrdinal.GET_RANDOM:
            if request.size_bytes != GET_RANDOM_REQUEST_BYTES:
                return ManagerCode.BAD_PARAMETER
            return ManagerCode.SUCCESS
        case _:
            assert_never(ordinal)


def _judge_extend(request: Request) -> ManagerCode:
    if request.size_bytes != EXTEND_REQUEST_BYTES:
        return ManagerCode.BAD_PARAMETER
    if int.from_bytes(request.body[:4], "big") in IDENTIFYING_PCRS:
        return ManagerCode.DISABLED_CMD
    return ManagerCode.SUCCESS
