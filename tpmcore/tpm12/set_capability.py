# SPDX-License-Identifier: Apache-2.0
"""TPM_SetCapability (Part 3, 7.2): one row per field that can be set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Final

from protocol.tpm12.constants import Ordinal, ReturnCode, SetCapabilityArea
from protocol.tpm12.records import record
from protocol.tpm12.wire import SIZED, U32, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH0_OR_1, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context

LAUNCH_LOCALITIES: Final = (3, 4)


@record
class SetCapabilityRequest(Structure):
    """capArea u32, subCap sized (u32), setValue sized."""

    cap_area: Annotated[int, U32]
    sub_cap: Annotated[bytes, SIZED]
    set_value: Annotated[bytes, SIZED]


@record
class _Field:
    """A field that can be set.

    Attributes:
        needs: raises unless whoever asks may set it.
        apply: sets the value.
        only: the one value that may be set, or None.
        ignored: the value may be anything of any length.
        enabled, activated: refused when disabled, when deactivated.
    """

    needs: Callable[[Context, int], None]
    apply: Callable[[Context, int], None]
    only: int | None = None
    ignored: bool = False
    enabled: bool = True
    activated: bool = True


def _owner(ctx: Context, _value: int) -> None:
    if not ctx.auth_count:
        raise TpmError(ReturnCode.AUTHFAIL)


def _presence(ctx: Context, _value: int) -> None:
    if not ctx.tpm.physical_presence:
        raise TpmError(ReturnCode.AUTHFAIL)


def _owner_or_presence(ctx: Context, value: int) -> None:
    if not ctx.auth_count:
        _presence(ctx, value)


def _presence_without_owner(ctx: Context, value: int) -> None:
    if ctx.tpm.is_owned:
        raise TpmError(ReturnCode.OWNER_SET)
    _presence(ctx, value)


def _locality_3_or_4(ctx: Context, _value: int) -> None:
    if ctx.locality not in LAUNCH_LOCALITIES:
        raise TpmError(ReturnCode.BAD_LOCALITY)


def _nobody(_ctx: Context, _value: int) -> None:
    """Everybody may."""


def _new_presence_bits(ctx: Context, value: int) -> None:
    if value & ~ctx.tpm.stclear.deferred_physical_presence:
        ctx.require_presence()


def _permanent_flag(name: str) -> Callable[[Context, int], None]:
    def apply(ctx: Context, value: int) -> None:
        setattr(ctx.tpm.permanent.flags, name, bool(value))

    return apply


def _disable_force_clear(ctx: Context, value: int) -> None:
    ctx.tpm.stclear.flags.disable_force_clear = bool(value)


def _tos_present(ctx: Context, value: int) -> None:
    ctx.tpm.stany.tos_present = bool(value)


def _restrict_delegate(ctx: Context, value: int) -> None:
    ctx.tpm.permanent.restrict_delegate = value


def _renew_daa_secrets(ctx: Context, _value: int) -> None:
    ctx.tpm.renew_daa_secrets()


def _deferred_presence(ctx: Context, value: int) -> None:
    ctx.tpm.stclear.deferred_physical_presence = value


_AREA = SetCapabilityArea
_FIELDS: Final[Mapping[tuple[int, int], _Field]] = {
    (_AREA.PERM_FLAGS, 1): _Field(
        _owner_or_presence, _permanent_flag("disable"), enabled=False, activated=False
    ),
    (_AREA.PERM_FLAGS, 2): _Field(_presence_without_owner, _permanent_flag("ownership")),
    (_AREA.PERM_FLAGS, 3): _Field(_presence, _permanent_flag("deactivated"), activated=False),
    (_AREA.PERM_FLAGS, 4): _Field(_owner, _permanent_flag("read_pubek")),
    (_AREA.PERM_FLAGS, 5): _Field(_owner, _permanent_flag("disable_owner_clear"), only=1),
    (_AREA.PERM_FLAGS, 6): _Field(_owner, _permanent_flag("allow_maintenance"), only=0),
    (_AREA.PERM_FLAGS, 17): _Field(_owner, _permanent_flag("read_srk_pub")),
    (_AREA.PERM_FLAGS, 18): _Field(
        _locality_3_or_4,
        _permanent_flag("tpm_established"),
        only=0,
        enabled=False,
        activated=False,
    ),
    (_AREA.PERM_FLAGS, 20): _Field(
        _owner, _permanent_flag("disable_full_da_logic_info"), enabled=False, activated=False
    ),
    (_AREA.PERM_DATA, 23): _Field(_owner, _restrict_delegate),
    (_AREA.PERM_DATA, 25): _Field(
        _owner, _renew_daa_secrets, ignored=True, enabled=False, activated=False
    ),
    (_AREA.STCLEAR_FLAGS, 2): _Field(_nobody, _disable_force_clear, only=1),
    (_AREA.STCLEAR_DATA, 6): _Field(
        _new_presence_bits, _deferred_presence, enabled=False, activated=False
    ),
    (_AREA.STANY_FLAGS, 4): _Field(_locality_3_or_4, _tos_present, only=0),
}

_ONE_BYTE_AREAS: Final = frozenset({_AREA.PERM_FLAGS, _AREA.STCLEAR_FLAGS, _AREA.STANY_FLAGS})


def set_capability(ctx: Context, request: SetCapabilityRequest) -> Nothing:
    """Set one field of the TPM's flags or data."""
    if ctx.auth_count:
        ctx.authorize_owner()
    if not 1 <= request.cap_area <= _AREA.VENDOR or len(request.sub_cap) != 4:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    row = _FIELDS.get((request.cap_area, int.from_bytes(request.sub_cap, "big")))
    size = 1 if request.cap_area in _ONE_BYTE_AREAS else 4
    if row is None or not (row.ignored or len(request.set_value) == size):
        raise TpmError(ReturnCode.BAD_PARAMETER)
    value = int.from_bytes(request.set_value, "big")
    row.needs(ctx, value)
    if (size == 1 and value > 1) or (row.only is not None and value != row.only):
        raise TpmError(ReturnCode.BAD_PARAMETER)
    if row.enabled and ctx.tpm.permanent.flags.disable:
        raise TpmError(ReturnCode.DISABLED)
    if row.activated and ctx.tpm.stclear.flags.deactivated:
        raise TpmError(ReturnCode.DEACTIVATED)
    row.apply(ctx, value)
    return NOTHING


COMMANDS = (
    Command(
        Ordinal.SET_CAPABILITY,
        source="3:7.2",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.HANDLER,
        request=SetCapabilityRequest,
        response=Nothing,
        handler=set_capability,
        persists=True,
        owner_bit=12,
    ),
)
