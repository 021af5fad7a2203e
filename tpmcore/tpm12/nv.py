# SPDX-License-Identifier: Apache-2.0
"""Non-volatile storage (Part 3, chapter 20).

While nvLocked is FALSE, as on a new chip, only the separation of AUTHREAD and AUTHWRITE and the
counter of writes without an owner are enforced; the other checks begin with nvLocked.
"""

from __future__ import annotations

from typing import Annotated, Final

from protocol.tpm12.constants import (
    LOCALITY_ALL,
    NV_INDEX_D_BIT,
    NV_INDEX_RESERVED_BITS,
    NvAttributes,
    NvIndex,
    Ordinal,
    ReturnCode,
)
from protocol.tpm12.records import record
from protocol.tpm12.resources import NvDataPublic
from protocol.tpm12.wire import DIGEST, SIZED, U32, Structure
from tpmcore.errors import GateError, TpmError
from tpmcore.tpm12.command import AUTH0_OR_1, AUTH1, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import OSAP_ONLY, Context, Entity
from tpmcore.tpm12.state import MAX_NO_OWNER_WRITES, NV_AREA_OVERHEAD_BYTES, EntityKind, NvArea
from tpmcore.tpm12.tpm import Tpm

_DIR_BYTES: Final = 20
_ERASED: Final = b"\xff"
_UNDEFINABLE: Final = frozenset({NvIndex.LOCK, NvIndex.INDEX0, NvIndex.DIR})
_SOME_WRITE: Final = (
    NvAttributes.OWNERWRITE
    | NvAttributes.AUTHWRITE
    | NvAttributes.WRITEDEFINE
    | NvAttributes.PPWRITE
)


@record(repr=False)
class NvDefineSpaceRequest(Structure):
    """pubInfo TPM_NV_DATA_PUBLIC, encAuth 20."""

    pub_info: NvDataPublic
    enc_auth: Annotated[bytes, DIGEST]


def nv_define_space(ctx: Context, request: NvDefineSpaceRequest) -> Nothing:
    """Define, redefine or delete an area, or lock the NV storage (20.1)."""
    tpm = ctx.tpm
    public, size = request.pub_info, request.pub_info.data_size
    index = public.nv_index
    locked = tpm.permanent.flags.nv_locked
    if locked:
        _require_operating(tpm)
    if index == NvIndex.LOCK and not ctx.auths:
        if size:
            raise TpmError(ReturnCode.BADINDEX)
        tpm.permanent.flags.nv_locked = True
        return NOTHING
    if index == NvIndex.INDEX0 or (locked and index & NV_INDEX_D_BIT):
        raise TpmError(ReturnCode.BADINDEX)
    if ctx.auths:
        if not tpm.is_owned:
            # 20.1: before anything about the session.
            raise TpmError(ReturnCode.AUTHFAIL)
        ctx.authorize_owner(0, OSAP_ONLY)
        auth_value = ctx.decrypt_secret(0, request.enc_auth)
        ctx.end_session(0)
    else:
        if locked:
            _check_definition_without_owner(ctx, size)
        _check_write_count(tpm)
        auth_value = request.enc_auth
    existing = tpm.permanent.nv.get(index)
    if existing is not None:
        if locked:
            _check_redefinable(tpm, existing)
        # The old area is gone even if the new definition fails below (20.1, 6b).
        _delete(tpm, existing)
        _count_write(ctx)
        if not size:
            return NOTHING
    _check_definition(public)
    # Before the area is made: the size is the caller's and may be 4 GiB.
    if NV_AREA_OVERHEAD_BYTES + size > tpm.free_nv_bytes:
        raise TpmError(ReturnCode.NOSPACE)
    if index == NvIndex.TRIAL:
        return NOTHING
    tpm.permanent.nv[index] = NvArea(public, auth_value, tpm.new_nonce(), _ERASED * size)
    if existing is None:
        _count_write(ctx)
    return NOTHING


def _require_operating(tpm: Tpm) -> None:
    """Refuse a disabled or deactivated TPM; sessions named by the command stay alive."""
    if tpm.permanent.flags.disable:
        raise GateError(ReturnCode.DISABLED)
    if tpm.stclear.flags.deactivated:
        raise GateError(ReturnCode.DEACTIVATED)


def _check_definition_without_owner(ctx: Context, size: int) -> None:
    ctx.require_presence()
    if ctx.tpm.is_owned:
        raise TpmError(ReturnCode.OWNER_SET)
    if not size:
        raise TpmError(ReturnCode.BAD_DATASIZE)


def _check_write_count(tpm: Tpm) -> None:
    """Refuse the 65th write without an owner: NV memory wears out."""
    if tpm.permanent.no_owner_nv_write >= MAX_NO_OWNER_WRITES:
        raise TpmError(ReturnCode.MAXNVWRITES)


def _count_write(ctx: Context) -> None:
    if not ctx.auths:
        ctx.tpm.permanent.no_owner_nv_write += 1


def _check_redefinable(tpm: Tpm, area: NvArea) -> None:
    attributes = area.public.permission.attributes
    if attributes & NvAttributes.GLOBALLOCK and tpm.stclear.flags.b_global_lock:
        raise TpmError(ReturnCode.AREA_LOCKED)
    if attributes & NvAttributes.WRITE_STCLEAR and area.write_st_clear:
        raise TpmError(ReturnCode.AREA_LOCKED)


def _delete(tpm: Tpm, area: NvArea) -> None:
    tpm.end_entity_sessions(EntityKind.NV, area.entity_digest)
    del tpm.permanent.nv[area.public.nv_index]


def _check_definition(public: NvDataPublic) -> None:
    """Check attributes, index and size of a definition (20.1, 7 to 9)."""
    attributes = public.permission.attributes
    for owner, auth in (
        (NvAttributes.OWNERWRITE, NvAttributes.AUTHWRITE),
        (NvAttributes.OWNERREAD, NvAttributes.AUTHREAD),
    ):
        if attributes & owner and attributes & auth:
            raise TpmError(ReturnCode.AUTH_CONFLICT)
    anywhere = public.pcr_info_write.locality_at_release == LOCALITY_ALL
    if not attributes & _SOME_WRITE and anywhere:
        raise TpmError(ReturnCode.PER_NOWRITE)
    if public.nv_index in _UNDEFINABLE or public.nv_index & NV_INDEX_RESERVED_BITS:
        raise TpmError(ReturnCode.BADINDEX)
    if not public.data_size:
        raise TpmError(ReturnCode.BAD_PARAM_SIZE)


@record(repr=False)
class NvWriteValueRequest(Structure):
    """nvIndex u32, offset u32, data sized."""

    nv_index: Annotated[int, U32]
    offset: Annotated[int, U32]
    data: Annotated[bytes, SIZED]


def nv_write_value(ctx: Context, request: NvWriteValueRequest) -> Nothing:
    """Write as owner, with physical presence, or freely, as the area says (20.2)."""
    tpm = ctx.tpm
    flags = tpm.permanent.flags
    index, data = request.nv_index, request.data
    is_dir = index == NvIndex.DIR
    area = tpm.permanent.nv.get(index)
    if area is None and not is_dir and index != NvIndex.INDEX0:
        raise TpmError(ReturnCode.BADINDEX)
    attributes = 0 if area is None else area.public.permission.attributes
    owner_controlled = is_dir or attributes & NvAttributes.OWNERWRITE
    if flags.nv_locked and owner_controlled:
        _require_operating(tpm)
    if ctx.auths:
        if not owner_controlled and index != NvIndex.INDEX0:
            raise TpmError(ReturnCode.AUTH_CONFLICT)
        ctx.authorize_owner()
    elif flags.nv_locked and owner_controlled:
        raise TpmError(ReturnCode.AUTH_CONFLICT)
    if index == NvIndex.INDEX0:
        if data:
            raise TpmError(ReturnCode.BADINDEX)
        tpm.stclear.flags.b_global_lock = True
        return NOTHING
    counted = not ctx.auths and not tpm.is_owned
    if counted:
        _check_write_count(tpm)
    before = tpm.permanent.auth_dir if area is None else (area.data, area.write_define_locked)
    if area is None:
        _write_dir(tpm, request)
    else:
        if attributes & NvAttributes.AUTHWRITE:
            raise TpmError(ReturnCode.AUTH_CONFLICT)
        if flags.nv_locked:
            _check_presence(ctx, attributes & NvAttributes.PPWRITE)
            _check_write_locks(tpm, area)
            ctx.check_release(area.public.pcr_info_write)
        _write(area, request)
    after = tpm.permanent.auth_dir if area is None else (area.data, area.write_define_locked)
    if counted and after != before:
        # Only what wears the memory counts.
        tpm.permanent.no_owner_nv_write += 1
    return NOTHING


def nv_write_value_auth(ctx: Context, request: NvWriteValueRequest) -> Nothing:
    """Write with the area's own secret (20.3); here everything is checked even before nvLocked."""
    area = _area(ctx, request.nv_index)
    attributes = area.public.permission.attributes
    if not attributes & NvAttributes.AUTHWRITE:
        raise TpmError(ReturnCode.AUTH_CONFLICT)
    _authorize_area(ctx, area)
    _check_presence(ctx, attributes & NvAttributes.PPWRITE)
    ctx.check_release(area.public.pcr_info_write)
    _check_write_locks(ctx.tpm, area)
    _write(area, request)
    return NOTHING


def _area(ctx: Context, index: int) -> NvArea:
    area = ctx.tpm.permanent.nv.get(index)
    if area is None:
        raise TpmError(ReturnCode.BADINDEX)
    return area


def _authorize_area(ctx: Context, area: NvArea) -> None:
    ctx.authorize(0, Entity(EntityKind.NV, area.auth_value, area.entity_digest))


def _check_presence(ctx: Context, needed: int) -> None:
    if needed:
        ctx.require_presence()


def _check_write_locks(tpm: Tpm, area: NvArea) -> None:
    attributes = area.public.permission.attributes
    if (
        (attributes & NvAttributes.WRITEDEFINE and area.write_define_locked)
        or (attributes & NvAttributes.GLOBALLOCK and tpm.stclear.flags.b_global_lock)
        or (attributes & NvAttributes.WRITE_STCLEAR and area.write_st_clear)
    ):
        raise TpmError(ReturnCode.AREA_LOCKED)


def _write(area: NvArea, request: NvWriteValueRequest) -> None:
    """Store data, or set the write locks if there is none (20.2, 11 and 12)."""
    data, offset = request.data, request.offset
    if not data:
        # Both whatever the attributes are; a lock counts only with its attribute.
        area.write_st_clear = True
        area.write_define_locked = True
    else:
        end = offset + len(data)
        if end > len(area.data):
            raise TpmError(ReturnCode.NOSPACE)
        whole = len(data) == len(area.data)
        if area.public.permission.attributes & NvAttributes.WRITEALL and not whole:
            raise TpmError(ReturnCode.NOT_FULLWRITE)
        area.data = area.data[:offset] + data + area.data[end:]
    area.read_st_clear = False


def _write_dir(tpm: Tpm, request: NvWriteValueRequest) -> None:
    if not request.data:
        return
    if request.offset or len(request.data) != _DIR_BYTES:
        raise TpmError(ReturnCode.NOT_FULLWRITE)
    tpm.permanent.auth_dir = request.data


@record
class NvReadValueRequest(Structure):
    """nvIndex u32, offset u32, dataSize u32."""

    nv_index: Annotated[int, U32]
    offset: Annotated[int, U32]
    data_size: Annotated[int, U32]


@record(repr=False)
class NvReadValueResponse(Structure):
    """data sized."""

    data: Annotated[bytes, SIZED]


def nv_read_value(ctx: Context, request: NvReadValueRequest) -> NvReadValueResponse:
    """Read as owner, with physical presence, or freely, as the area says (20.4)."""
    tpm = ctx.tpm
    if request.nv_index == NvIndex.DIR:
        if ctx.auths:
            ctx.authorize_owner()
        return NvReadValueResponse(_slice(tpm.permanent.auth_dir, request))
    area = _area(ctx, request.nv_index)
    attributes = area.public.permission.attributes
    locked = tpm.permanent.flags.nv_locked
    if locked and attributes & NvAttributes.OWNERREAD:
        _require_operating(tpm)
    if ctx.auths:
        if not attributes & NvAttributes.OWNERREAD:
            raise TpmError(ReturnCode.AUTH_CONFLICT)
        ctx.authorize_owner()
    elif attributes & NvAttributes.AUTHREAD or (locked and attributes & NvAttributes.OWNERREAD):
        raise TpmError(ReturnCode.AUTH_CONFLICT)
    if locked:
        _check_presence(ctx, attributes & NvAttributes.PPREAD)
        _check_read_lock(area)
        ctx.check_release(area.public.pcr_info_read)
    return NvReadValueResponse(_read(area, request))


def nv_read_value_auth(ctx: Context, request: NvReadValueRequest) -> NvReadValueResponse:
    """Read with the area's own secret (20.5); here everything is checked even before nvLocked."""
    area = _area(ctx, request.nv_index)
    attributes = area.public.permission.attributes
    if not attributes & NvAttributes.AUTHREAD:
        raise TpmError(ReturnCode.AUTH_CONFLICT)
    _authorize_area(ctx, area)
    _check_presence(ctx, attributes & NvAttributes.PPREAD)
    ctx.check_release(area.public.pcr_info_read)
    _check_read_lock(area)
    return NvReadValueResponse(_read(area, request))


def _check_read_lock(area: NvArea) -> None:
    if area.public.permission.attributes & NvAttributes.READ_STCLEAR and area.read_st_clear:
        raise TpmError(ReturnCode.DISABLED_CMD)


def _read(area: NvArea, request: NvReadValueRequest) -> bytes:
    """Return data, or set the read lock if none is wanted (20.4, 7 and 8)."""
    if not request.data_size:
        area.read_st_clear = True
        return b""
    return _slice(area.data, request)


def _slice(data: bytes, request: NvReadValueRequest) -> bytes:
    end = request.offset + request.data_size
    if end > len(data):
        raise TpmError(ReturnCode.NOSPACE)
    return data[request.offset : end]


COMMANDS = (
    Command(
        Ordinal.NV_DEFINE_SPACE,
        source="3:20.1",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.HANDLER,
        request=NvDefineSpaceRequest,
        response=Nothing,
        handler=nv_define_space,
        persists=True,
        owner_bit=14,
    ),
    Command(
        Ordinal.NV_WRITE_VALUE,
        source="3:20.2",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.HANDLER,
        request=NvWriteValueRequest,
        response=Nothing,
        handler=nv_write_value,
        persists=True,
        owner_bit=27,
    ),
    # The two with the area's secret need no owner by the specification; libtpms asks for one. The
    # specification wins, since OSAP on an area is open without an owner too.
    Command(
        Ordinal.NV_WRITE_VALUE_AUTH,
        source="3:20.3",
        auth_blocks=AUTH1,
        gate=Gate.ENABLED_ACTIVATED,
        request=NvWriteValueRequest,
        response=Nothing,
        handler=nv_write_value_auth,
        persists=True,
    ),
    Command(
        Ordinal.NV_READ_VALUE,
        source="3:20.4",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.HANDLER,
        request=NvReadValueRequest,
        response=NvReadValueResponse,
        handler=nv_read_value,
        owner_bit=25,
    ),
    Command(
        Ordinal.NV_READ_VALUE_AUTH,
        source="3:20.5",
        auth_blocks=AUTH1,
        gate=Gate.ENABLED_ACTIVATED,
        request=NvReadValueRequest,
        response=NvReadValueResponse,
        handler=nv_read_value_auth,
    ),
)
