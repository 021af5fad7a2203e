# SPDX-License-Identifier: Apache-2.0
"""Admin opt-in (Part 3, chapter 5) and physical presence (TIS ordinals)."""

from __future__ import annotations

from typing import Annotated, Final

from protocol.tpm12.constants import Ordinal, PhysicalPresenceFlags, ReturnCode
from protocol.tpm12.records import record
from protocol.tpm12.wire import BOOL, DIGEST, U16, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import (
    AUTH0_OR_1,
    AUTH1,
    NO_AUTH,
    NOTHING,
    Command,
    Gate,
    Nothing,
)
from tpmcore.tpm12.context import OIAP_ONLY, Context, Entity
from tpmcore.tpm12.state import EntityKind, PermanentFlags
from tpmcore.tpm12.tpm import Tpm


@record
class StateRequest(Structure):
    """One bool."""

    state: Annotated[bool, BOOL]


def set_owner_install(ctx: Context, request: StateRequest) -> Nothing:
    """Allow or forbid TakeOwnership (5.1); with an owner it succeeds and does nothing."""
    if ctx.tpm.is_owned:
        return NOTHING
    ctx.require_presence()
    ctx.tpm.permanent.flags.ownership = request.state
    return NOTHING


def owner_set_disable(ctx: Context, request: StateRequest) -> Nothing:
    """Disable or enable with the owner's secret (5.2)."""
    ctx.authorize_owner()
    ctx.tpm.permanent.flags.disable = request.state
    return NOTHING


def physical_enable(ctx: Context, _request: Nothing) -> Nothing:
    """Enable with physical presence (5.3)."""
    ctx.require_presence()
    ctx.tpm.permanent.flags.disable = False
    return NOTHING


def physical_disable(ctx: Context, _request: Nothing) -> Nothing:
    """Disable with physical presence (5.4)."""
    ctx.require_presence()
    ctx.tpm.permanent.flags.disable = True
    return NOTHING


def physical_set_deactivated(ctx: Context, request: StateRequest) -> Nothing:
    """Set what the next Startup(CLEAR) takes as deactivated (5.5)."""
    ctx.require_presence()
    ctx.tpm.permanent.flags.deactivated = request.state
    return NOTHING


def set_temp_deactivated(ctx: Context, _request: Nothing) -> Nothing:
    """Deactivate until the next Startup(CLEAR), with presence or the operator's secret (5.6)."""
    tpm = ctx.tpm
    if ctx.auth_count:
        if not tpm.permanent.flags.operator:
            raise TpmError(ReturnCode.NOOPERATOR)
        operator = Entity(EntityKind.OPERATOR, tpm.permanent.operator_auth)
        ctx.authorize(0, operator, OIAP_ONLY)
    else:
        ctx.require_presence()
    tpm.stclear.flags.deactivated = True
    return NOTHING


@record(repr=False)
class SetOperatorAuthRequest(Structure):
    """operatorAuth 20, in the clear."""

    operator_auth: Annotated[bytes, DIGEST]


def set_operator_auth(ctx: Context, request: SetOperatorAuthRequest) -> Nothing:
    """Set the operator's secret (5.7)."""
    ctx.require_presence()
    ctx.tpm.permanent.operator_auth = request.operator_auth
    ctx.tpm.permanent.flags.operator = True
    return NOTHING


@record
class PhysicalPresenceRequest(Structure):
    """physicalPresence u16, bits of PhysicalPresenceFlags."""

    physical_presence: Annotated[int, U16]


_PP = PhysicalPresenceFlags
_LIFETIME: Final = (
    _PP.HW_DISABLE | _PP.CMD_DISABLE | _PP.LIFETIME_LOCK | _PP.HW_ENABLE | _PP.CMD_ENABLE
)
_ASSERTION: Final = _PP.NOTPRESENT | _PP.PRESENT | _PP.LOCK


def tsc_physical_presence(ctx: Context, request: PhysicalPresenceRequest) -> Nothing:
    """Choose who may assert physical presence, for the chip's lifetime, or assert it (Part 3,
    6.6)."""
    bits = request.physical_presence
    # As a number: ~ of flags has only the bits that have a name, and these are the others.
    if bits & ~int(_LIFETIME | _ASSERTION):
        raise TpmError(ReturnCode.BAD_PARAMETER)
    if bits & _LIFETIME:
        _set_lifetime(ctx.tpm.permanent.flags, bits)
    elif bits & _ASSERTION:
        _set_assertion(ctx, bits)
    else:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    return NOTHING


def _set_lifetime(flags: PermanentFlags, bits: int) -> None:
    contradictory = (bits & _PP.HW_ENABLE and bits & _PP.HW_DISABLE) or (
        bits & _PP.CMD_ENABLE and bits & _PP.CMD_DISABLE
    )
    if flags.physical_presence_lifetime_lock or bits & _ASSERTION or contradictory:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    if bits & _PP.HW_ENABLE:
        flags.physical_presence_hw_enable = True
    if bits & _PP.HW_DISABLE:
        flags.physical_presence_hw_enable = False
    if bits & _PP.CMD_ENABLE:
        flags.physical_presence_cmd_enable = True
    if bits & _PP.CMD_DISABLE:
        flags.physical_presence_cmd_enable = False
    if bits & _PP.LIFETIME_LOCK:
        flags.physical_presence_lifetime_lock = True


def _set_assertion(ctx: Context, bits: int) -> None:
    volatile = ctx.tpm.stclear.flags
    present = bool(bits & _PP.PRESENT)
    if (
        not ctx.tpm.permanent.flags.physical_presence_cmd_enable
        or (present and bits & _PP.LOCK)
        or (present and bits & _PP.NOTPRESENT)
        or volatile.physical_presence_lock
    ):
        raise TpmError(ReturnCode.BAD_PARAMETER)
    volatile.physical_presence = present
    if bits & _PP.LOCK:
        volatile.physical_presence_lock = True


def tsc_reset_establishment_bit(ctx: Context, _request: Nothing) -> Nothing:
    """Forget that a dynamic launch happened; localities 3 and 4 only (TIS 1.2, 11.3)."""
    reset_established(ctx.tpm, ctx.locality)
    return NOTHING


def reset_established(tpm: Tpm, locality: int) -> None:
    """Forget that a dynamic launch happened.

    Raises:
        TpmError: BAD_LOCALITY but from localities 3 and 4.
    """
    if locality not in (3, 4):
        raise TpmError(ReturnCode.BAD_LOCALITY)
    tpm.permanent.flags.tpm_established = False


COMMANDS = (
    Command(
        Ordinal.SET_OWNER_INSTALL,
        source="3:5.1",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=StateRequest,
        response=Nothing,
        handler=set_owner_install,
        persists=True,
        audited=True,
    ),
    Command(
        Ordinal.OWNER_SET_DISABLE,
        source="3:5.2",
        auth_blocks=AUTH1,
        gate=Gate.OWNED,
        request=StateRequest,
        response=Nothing,
        handler=owner_set_disable,
        persists=True,
        owner_bit=13,
        audited=True,
    ),
    Command(
        Ordinal.PHYSICAL_ENABLE,
        source="3:5.3",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=Nothing,
        response=Nothing,
        handler=physical_enable,
        persists=True,
        audited=True,
    ),
    Command(
        Ordinal.PHYSICAL_DISABLE,
        source="3:5.4",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED,
        request=Nothing,
        response=Nothing,
        handler=physical_disable,
        persists=True,
        audited=True,
    ),
    Command(
        Ordinal.PHYSICAL_SET_DEACTIVATED,
        source="3:5.5",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED,
        request=StateRequest,
        response=Nothing,
        handler=physical_set_deactivated,
        persists=True,
        audited=True,
    ),
    Command(
        Ordinal.SET_TEMP_DEACTIVATED,
        source="3:5.6",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.ACTIVATED,
        request=Nothing,
        response=Nothing,
        handler=set_temp_deactivated,
        audited=True,
    ),
    Command(
        Ordinal.SET_OPERATOR_AUTH,
        source="3:5.7",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=SetOperatorAuthRequest,
        response=Nothing,
        handler=set_operator_auth,
        persists=True,
    ),
    Command(
        Ordinal.TSC_PHYSICAL_PRESENCE,
        source="3:6.6",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=PhysicalPresenceRequest,
        response=Nothing,
        handler=tsc_physical_presence,
        persists=True,
    ),
    Command(
        Ordinal.TSC_RESET_ESTABLISHMENT_BIT,
        source="3:6.7",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=Nothing,
        response=Nothing,
        handler=tsc_reset_establishment_bit,
        persists=True,
    ),
)
