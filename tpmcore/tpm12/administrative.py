# SPDX-License-Identifier: Apache-2.0
"""Administrative functions (Part 3, chapter 9): ResetLockValue; the two others are optional."""

from __future__ import annotations

from protocol.tpm12.constants import Ordinal, ReturnCode
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH1, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context


def reset_lock_value(ctx: Context, _request: Nothing) -> Nothing:
    """Forget failed authorizations and end the lockout (9.3).

    One wrong try during a lockout closes this way out until the lockout has ended.
    """
    lockout, stclear = ctx.tpm.lockout, ctx.tpm.stclear
    if lockout.is_active and stclear.disable_reset_lock:
        raise TpmError(ReturnCode.AUTHFAIL)
    try:
        ctx.authorize_owner()
    except TpmError as error:
        if error.code == ReturnCode.AUTHFAIL and lockout.is_active:
            stclear.disable_reset_lock = True
        raise
    lockout.reset()
    return NOTHING


COMMANDS = (
    Command(
        Ordinal.RESET_LOCK_VALUE,
        source="3:9.3",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=Nothing,
        response=Nothing,
        handler=reset_lock_value,
        owner_bit=17,
        stops_for_lockout=False,
    ),
)
