# SPDX-License-Identifier: Apache-2.0
"""Delegation (Part 3, chapter 19): giving single commands of owner or key to others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.delegation import (
    DelegateKeyBlob,
    DelegateOwnerBlob,
    DelegatePublic,
    DelegateSensitive,
    DelegateType,
    FamilyFlags,
    FamilyOperation,
    FamilyTableEntry,
)
from protocol.tpm12.records import record
from protocol.tpm12.wire import BOOL, DIGEST, SIZED, U32, Reader, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12 import delegation_table as table
from tpmcore.tpm12.command import AUTH0_OR_1, AUTH1, NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import OSAP_ONLY, Context
from tpmcore.tpm12.parsing import decode_plaintext
from tpmcore.tpm12.state import MAX_NO_OWNER_WRITES, ZERO_DIGEST, DelegateRow
from tpmcore.tpm12.tpm import Tpm

FIRST_VERIFICATION_COUNT: Final = 1
_MAX_U32: Final = 0xFFFFFFFF
_ROW_NUMBER_BYTES: Final = 4


@record
class ManageRequest(Structure):
    """familyID u32, opCode u32, opData sized."""

    family_id: Annotated[int, U32]
    op_code: Annotated[int, U32]
    op_data: Annotated[bytes, SIZED]


@record
class ManageResponse(Structure):
    """retData sized."""

    ret_data: Annotated[bytes, SIZED]


def manage(ctx: Context, request: ManageRequest) -> ManageResponse:
    """Create, enable, lock or remove a family (19.1)."""
    tpm = ctx.tpm
    creates = request.op_code == FamilyOperation.CREATE
    family = None if creates else table.find_family(tpm, request.family_id)
    if ctx.auths:
        ctx.authorize_owner()
        if family is not None:
            _check_same_family(ctx, family.family_id)
    elif tpm.is_owned:
        raise TpmError(ReturnCode.AUTHFAIL)
    else:
        _check_ownerless(tpm, family)
    # 19.1, 4: before the operation, so even where that is refused.
    table.tables_changed(ctx)
    answer = _create(tpm, request.op_data) if family is None else _change(tpm, family, request)
    if not ctx.auths:
        tpm.permanent.no_owner_nv_write += 1
    return ManageResponse(answer)


def _check_same_family(ctx: Context, family_id: int) -> None:
    """Keep delegates to their own family."""
    delegation = ctx.auths[0].delegation
    if delegation is not None and delegation.family_id != family_id:
        raise TpmError(ReturnCode.DELEGATE_FAMILY)


def _check_ownerless(tpm: Tpm, family: FamilyTableEntry | None) -> None:
    """Check what protects the tables and their memory while there is no owner."""
    if family is not None and family.flags & FamilyFlags.ADMIN_LOCK:
        raise TpmError(ReturnCode.DELEGATE_LOCK)
    if tpm.permanent.no_owner_nv_write >= MAX_NO_OWNER_WRITES:
        raise TpmError(ReturnCode.MAXNVWRITES)


def _create(tpm: Tpm, op_data: bytes) -> bytes:
    permanent = tpm.permanent
    free = [row for row in range(tpm.profile.family_rows) if row not in permanent.families]
    if not free or permanent.last_family_id == _MAX_U32:
        raise TpmError(ReturnCode.RESOURCES)
    if len(op_data) != 1:
        raise TpmError(ReturnCode.BAD_PARAM_SIZE)
    permanent.last_family_id += 1
    family = FamilyTableEntry(op_data[0], permanent.last_family_id, FIRST_VERIFICATION_COUNT, 0)
    permanent.families[free[0]] = family
    return U32.write(family.family_id)


def _change(tpm: Tpm, family: FamilyTableEntry, request: ManageRequest) -> bytes:
    if request.op_code == FamilyOperation.INVALIDATE:
        families = tpm.permanent.families
        # Its delegate rows stay, and are of no use: an id never comes back.
        for row, other in list(families.items()):
            if other.family_id == family.family_id:
                del families[row]
        return b""
    flag = _FLAG_OF.get(request.op_code)
    if flag is None:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    if len(request.op_data) != 1:
        raise TpmError(ReturnCode.BAD_PARAM_SIZE)
    if request.op_data not in (b"\x00", b"\x01"):
        raise TpmError(ReturnCode.BAD_PARAMETER)
    flags = family.flags | flag if request.op_data == b"\x01" else family.flags & ~flag
    table.store_family(tpm, replace(family, flags=flags))
    return b""


_FLAG_OF: Final[Mapping[int, FamilyFlags]] = {
    FamilyOperation.ENABLE: FamilyFlags.ENABLED,
    FamilyOperation.ADMIN: FamilyFlags.ADMIN_LOCK,
}


@record
class CreateKeyDelegationRequest(Structure):
    """keyHandle u32, publicInfo TPM_DELEGATE_PUBLIC, delAuth 20."""

    key_handle: Annotated[int, U32]
    public_info: DelegatePublic
    del_auth: Annotated[bytes, DIGEST]


@record
class BlobResponse(Structure):
    """blob sized."""

    blob: Annotated[bytes, SIZED]


def create_key_delegation(ctx: Context, request: CreateKeyDelegationRequest) -> BlobResponse:
    """Delegate commands of a key (19.2); its PCRs are looked at when the delegation is used."""
    tpm, public = ctx.tpm, request.public_info
    key = ctx.find_key(request.key_handle)
    ctx.authorize_key(0, key, OSAP_ONLY)
    family = _check_new(ctx, public, DelegateType.KEY)
    ctx.end_session(0)
    public = public.at_count(family.verification_count)
    blob = DelegateKeyBlob(
        public,
        ZERO_DIGEST,
        table.pub_key_digest(key),
        *table.encrypt_secret(tpm, ctx.decrypt_secret(0, request.del_auth)),
    )
    return BlobResponse(table.authenticate(tpm, public, blob.encode()))


def _check_new(ctx: Context, public: DelegatePublic, kind: DelegateType) -> FamilyTableEntry:
    """Return the family of a delegation that is to be made; a delegate may only pass on what he
    has."""
    family = table.find_family(ctx.tpm, public.family_id)
    held = ctx.auths[0].delegation
    if held is not None:
        _check_same_family(ctx, public.family_id)
        table.find_enabled_family(ctx.tpm, public.family_id)
        if public.permissions.per1 & ~held.permissions.per1:
            raise TpmError(ReturnCode.AUTHFAIL)
    if public.permissions.delegate_type != kind:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    return family


@record
class CreateOwnerDelegationRequest(Structure):
    """increment bool, publicInfo TPM_DELEGATE_PUBLIC, delAuth 20."""

    increment: Annotated[bool, BOOL]
    public_info: DelegatePublic
    del_auth: Annotated[bytes, DIGEST]


def create_owner_delegation(ctx: Context, request: CreateOwnerDelegationRequest) -> BlobResponse:
    """Delegate commands of the owner; if wanted, make all older delegations of the family stale
    (19.3)."""
    tpm = ctx.tpm
    ctx.authorize_owner(0, OSAP_ONLY)
    family = _check_new(ctx, request.public_info, DelegateType.OWNER)
    auth_value = ctx.decrypt_secret(0, request.del_auth)
    if request.increment:
        if family.verification_count == _MAX_U32:
            raise TpmError(ReturnCode.FAMILYCOUNT)
        family = replace(family, verification_count=family.verification_count + 1)
        table.store_family(tpm, family)
        table.tables_changed(ctx)
    ctx.end_session(0)
    public = request.public_info.at_count(family.verification_count)
    blob = DelegateOwnerBlob(public, ZERO_DIGEST, *table.encrypt_secret(tpm, auth_value))
    return BlobResponse(table.authenticate(tpm, public, blob.encode()))


class _SizedOwnerBlob:
    """TPM_DELEGATE_OWNER_BLOB behind a u32 length that it must fill exactly."""

    def read(self, reader: Reader, field: str) -> DelegateOwnerBlob:
        """Take length and blob."""
        return DelegateOwnerBlob.decode(reader.sized(field))

    def write(self, value: DelegateOwnerBlob) -> bytes:
        """Give length and blob."""
        return SIZED.write(value.encode())


@record(repr=False)
class LoadOwnerDelegationRequest(Structure):
    """index u32, blob sized TPM_DELEGATE_OWNER_BLOB."""

    index: Annotated[int, U32]
    blob: Annotated[DelegateOwnerBlob, _SizedOwnerBlob()]


def load_owner_delegation(ctx: Context, request: LoadOwnerDelegationRequest) -> Nothing:
    """Put an owner delegation into a row (19.4); without an owner its secret is in the clear."""
    tpm, blob = ctx.tpm, request.blob
    family = table.find_enabled_family(tpm, blob.public.family_id)
    if ctx.auths:
        ctx.authorize_owner()
        _check_same_family(ctx, family.family_id)
        table.check_integrity(tpm, blob)
        auth_value = table.unseal(tpm, blob, ReturnCode.INVALID_STRUCTURE)
    elif tpm.is_owned:
        raise TpmError(ReturnCode.AUTHFAIL)
    else:
        _check_ownerless(tpm, family)
        auth_value = decode_plaintext(DelegateSensitive, blob.sensitive_area).auth_value
    if request.index >= tpm.profile.delegate_rows:
        raise TpmError(ReturnCode.BADINDEX)
    table.tables_changed(ctx)
    tpm.permanent.delegate_rows[request.index] = DelegateRow(blob.public, auth_value)
    if not ctx.auths:
        tpm.permanent.no_owner_nv_write += 1
    return NOTHING


@record
class ReadTableResponse(Structure):
    """familyTable sized, delegateTable sized."""

    family_table: Annotated[bytes, SIZED]
    delegate_table: Annotated[bytes, SIZED]


def read_table(ctx: Context, _request: Nothing) -> ReadTableResponse:
    """Tell both tables, without secrets (19.5)."""
    permanent = ctx.tpm.permanent
    families = [family.encode() for _, family in sorted(permanent.families.items())]
    rows = [
        U32.write(number) + row.public.encode()
        for number, row in sorted(permanent.delegate_rows.items())
    ]
    return ReadTableResponse(b"".join(families), b"".join(rows))


@record
class UpdateVerificationRequest(Structure):
    """inputData sized."""

    input_data: Annotated[bytes, SIZED]


@record
class UpdateVerificationResponse(Structure):
    """outputData sized."""

    output_data: Annotated[bytes, SIZED]


def update_verification(
    ctx: Context, request: UpdateVerificationRequest
) -> UpdateVerificationResponse:
    """Bring a row or blob to the verification count of its family (19.6)."""
    tpm, data = ctx.tpm, request.input_data
    ctx.authorize_owner()
    if len(data) == _ROW_NUMBER_BYTES:
        number = int.from_bytes(data, "big")
        row = table.find_row(tpm, number)
        updated = DelegateRow(_updated(ctx, row.public), row.auth_value)
        tpm.permanent.delegate_rows[number] = updated
        return UpdateVerificationResponse(b"")
    blob = table.decode_either(data)
    table.check_integrity(tpm, blob)
    return UpdateVerificationResponse(table.with_public(tpm, blob, _updated(ctx, blob.public)))


def _updated(ctx: Context, public: DelegatePublic) -> DelegatePublic:
    family = table.find_family(ctx.tpm, public.family_id)
    _check_same_family(ctx, family.family_id)
    if ctx.auths[0].delegation is not None:
        table.find_enabled_family(ctx.tpm, family.family_id)
    return public.at_count(family.verification_count)


@record
class VerifyDelegationRequest(Structure):
    """delegation sized."""

    delegation: Annotated[bytes, SIZED]


def verify_delegation(ctx: Context, request: VerifyDelegationRequest) -> Nothing:
    """Tell whether a blob could be used now (19.7)."""
    blob = table.decode_either(request.delegation)
    table.check_current(ctx.tpm, blob.public)
    table.check_integrity(ctx.tpm, blob)
    table.unseal(ctx.tpm, blob, ReturnCode.BAD_PARAMETER)
    return NOTHING


COMMANDS: Final = (
    Command(
        Ordinal.DELEGATE_MANAGE,
        source="3:19.1",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.ENABLED_ACTIVATED,
        request=ManageRequest,
        response=ManageResponse,
        handler=manage,
        persists=True,
        owner_bit=2,
    ),
    Command(
        Ordinal.DELEGATE_CREATE_KEY_DELEGATION,
        source="3:19.2",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CreateKeyDelegationRequest,
        response=BlobResponse,
        handler=create_key_delegation,
        handles_in=4,
        key_bit=7,
    ),
    Command(
        Ordinal.DELEGATE_CREATE_OWNER_DELEGATION,
        source="3:19.3",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CreateOwnerDelegationRequest,
        response=BlobResponse,
        handler=create_owner_delegation,
        persists=True,
        owner_bit=1,
    ),
    Command(
        Ordinal.DELEGATE_LOAD_OWNER_DELEGATION,
        source="3:19.4",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.ENABLED_ACTIVATED,
        request=LoadOwnerDelegationRequest,
        response=Nothing,
        handler=load_owner_delegation,
        persists=True,
        owner_bit=24,
    ),
    Command(
        Ordinal.DELEGATE_READ_TABLE,
        source="3:19.5",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=Nothing,
        response=ReadTableResponse,
        handler=read_table,
        volatile=False,
    ),
    Command(
        Ordinal.DELEGATE_UPDATE_VERIFICATION,
        source="3:19.6",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=UpdateVerificationRequest,
        response=UpdateVerificationResponse,
        handler=update_verification,
        persists=True,
        owner_bit=5,
    ),
    Command(
        Ordinal.DELEGATE_VERIFY_DELEGATION,
        source="3:19.7",
        auth_blocks=NO_AUTH,
        gate=Gate.OPERATIONAL,
        request=VerifyDelegationRequest,
        response=Nothing,
        handler=verify_delegation,
        volatile=False,
    ),
)
