# SPDX-License-Identifier: Apache-2.0
"""Asking the TPM about itself, and setting its flags (Part 3, 7; Part 2, 21)."""

from __future__ import annotations

from protocol.errors import WireError
from protocol.tpm12.constants import (
    CapabilityArea,
    CapabilityFlag,
    CapabilityProperty,
    Ordinal,
    ResourceType,
    SetCapabilityArea,
)
from protocol.tpm12.records import record
from protocol.tpm12.resources import CapVersionInfo, NvDataPublic
from protocol.tpm12.wire import SIZED, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, Session, execute, nothing
from tpmcore.tss12.sessions import with_optional_secret, with_secret


def get_capability(area: CapabilityArea, sub_cap: bytes = b"") -> Conversation[bytes]:
    """Return the raw answer of GetCapability (7.1)."""
    return execute(
        Ordinal.GET_CAPABILITY, Reader.sized, parameters=U32.write(area) + SIZED.write(sub_cap)
    )


def _u32(data: bytes, field: str) -> int:
    reader = Reader(data)
    value = reader.u32(field)
    reader.finish(field)
    return value


def _u32s(data: bytes, number: int, field: str) -> tuple[int, ...]:
    reader = Reader(data)
    values = tuple(reader.u32(field) for _ in range(number))
    reader.finish(field)
    return values


def get_property(name: CapabilityProperty) -> Conversation[int]:
    """Return a property that is one u32."""
    data = yield from get_capability(CapabilityArea.PROPERTY, U32.write(name))
    return _u32(data, name.name)


def pcr_count() -> Conversation[int]:
    """Return the number of PCRs."""
    return get_property(CapabilityProperty.PCR)


def input_buffer() -> Conversation[int]:
    """Return the size of the largest command, in bytes."""
    return get_property(CapabilityProperty.INPUT_BUFFER)


def max_nv_available() -> Conversation[int]:
    """Return the free NV room in bytes."""
    return get_property(CapabilityProperty.MAX_NV_AVAILABLE)


def active_counter() -> Conversation[int]:
    """Return the countID that may be incremented in this boot; COUNT_ID_NULL if none is chosen."""
    return get_property(CapabilityProperty.ACTIVE_COUNTER)


def timeouts_us() -> Conversation[tuple[int, int, int, int]]:
    """Return TIS timeouts A, B, C, D in microseconds."""
    data = yield from get_capability(
        CapabilityArea.PROPERTY, U32.write(CapabilityProperty.TIS_TIMEOUT)
    )
    a, b, c, d = _u32s(data, 4, "TIS_TIMEOUT")
    return a, b, c, d


def durations_us() -> Conversation[tuple[int, int, int]]:
    """Return the durations of short, medium and long commands in microseconds."""
    data = yield from get_capability(
        CapabilityArea.PROPERTY, U32.write(CapabilityProperty.DURATION)
    )
    short, medium, long = _u32s(data, 3, "DURATION")
    return short, medium, long


def manufacturer() -> Conversation[bytes]:
    """Return the four bytes that name the manufacturer."""
    return get_capability(CapabilityArea.PROPERTY, U32.write(CapabilityProperty.MANUFACTURER))


def is_owned() -> Conversation[bool]:
    """Say whether an owner is installed."""
    data = yield from get_capability(CapabilityArea.PROPERTY, U32.write(CapabilityProperty.OWNER))
    reader = Reader(data)
    owned = reader.boolean("OWNER")
    reader.finish("OWNER")
    return owned


def is_implemented(ordinal: int) -> Conversation[bool]:
    """Say whether the TPM knows an ordinal."""
    data = yield from get_capability(CapabilityArea.ORD, U32.write(ordinal))
    reader = Reader(data)
    known = reader.boolean("ORD")
    reader.finish("ORD")
    return known


def handles(resource_type: ResourceType) -> Conversation[list[int]]:
    """Return the handles of what is loaded; for CONTEXT the counts of saved session contexts."""
    data = yield from get_capability(CapabilityArea.HANDLE, U32.write(resource_type))
    reader = Reader(data)
    loaded = [reader.u32("handle") for _ in range(reader.u16("loaded"))]
    reader.finish("HANDLE")
    return loaded


def version_info() -> Conversation[CapVersionInfo]:
    """Return version, level and vendor (21.6); what the vendor appends is left out."""
    data = yield from get_capability(CapabilityArea.VERSION_VAL)
    reader = Reader(data)
    info = CapVersionInfo.read(reader)
    reader.take(info.vendor_specific_size, "vendorSpecific")
    reader.finish("VERSION_VAL")
    return info


@record
class PermanentFlagsInfo:
    """TPM_PERMANENT_FLAGS as told by the TPM (Part 2, 7.1); older revisions have fewer flags."""

    disable: bool
    ownership: bool
    deactivated: bool
    read_pubek: bool
    disable_owner_clear: bool
    allow_maintenance: bool
    physical_presence_lifetime_lock: bool
    physical_presence_hw_enable: bool
    physical_presence_cmd_enable: bool
    cekp_used: bool
    tpm_post: bool
    tpm_post_lock: bool
    fips: bool
    operator: bool
    enable_revoke_ek: bool
    nv_locked: bool = False
    read_srk_pub: bool = False
    tpm_established: bool = False
    maintenance_done: bool = False
    disable_full_da_logic_info: bool = False


_FLAGS_OF_REVISION_62 = 15
_FLAGS_OF_REVISION_103 = 20


def permanent_flags() -> Conversation[PermanentFlagsInfo]:
    """Return the permanent flags."""
    data = yield from get_capability(CapabilityArea.FLAG, U32.write(CapabilityFlag.PERMANENT))
    reader = Reader(data)
    reader.u16("tag")
    if not _FLAGS_OF_REVISION_62 <= reader.remaining <= _FLAGS_OF_REVISION_103:
        raise WireError("PERMANENT_FLAGS", 2, f"{reader.remaining} flags")
    return PermanentFlagsInfo(*[reader.boolean() for _ in range(reader.remaining)])


@record
class StclearFlagsInfo:
    """TPM_STCLEAR_FLAGS as told by the TPM (Part 2, 7.2)."""

    deactivated: bool
    disable_force_clear: bool
    physical_presence: bool
    physical_presence_lock: bool
    b_global_lock: bool


def stclear_flags() -> Conversation[StclearFlagsInfo]:
    """Return the flags of this boot."""
    data = yield from get_capability(CapabilityArea.FLAG, U32.write(CapabilityFlag.VOLATILE))
    reader = Reader(data)
    reader.u16("tag")
    flags = StclearFlagsInfo(*[reader.boolean() for _ in range(5)])
    reader.finish("STCLEAR_FLAGS")
    return flags


def nv_list() -> Conversation[list[int]]:
    """Return the defined NV indices."""
    data = yield from get_capability(CapabilityArea.NV_LIST)
    reader = Reader(data)
    indices = []
    while reader.remaining:
        indices.append(reader.u32("nvIndex"))
    return indices


def nv_public(index: int) -> Conversation[NvDataPublic]:
    """Return the public part of an NV area; TpmError BADINDEX if there is none."""
    data = yield from get_capability(CapabilityArea.NV_INDEX, U32.write(index))
    return NvDataPublic.decode(data)


def set_capability(
    area: SetCapabilityArea,
    sub_cap: int,
    value: bytes,
    *,
    owner_auth: bytes | None = None,
    random: RandomSource | None = None,
    session: Session | None = None,
) -> Conversation[None]:
    """Set a flag or value of the TPM (7.2).

    Args:
        value: one byte in the flag areas, four in the data areas.
        owner_auth: None for what needs physical presence, a locality or nothing.
    """
    return with_optional_secret(
        Ordinal.SET_CAPABILITY,
        nothing,
        owner_auth,
        random=random,
        session=session,
        parameters=U32.write(area) + SIZED.write(U32.write(sub_cap)) + SIZED.write(value),
    )


@record
class OwnerCapability:
    """Answer of GetCapabilityOwner; bit n is the n-th flag of each structure.

    Attributes:
        version: TPM_VERSION, 4 bytes.
    """

    version: bytes
    non_volatile_flags: int
    volatile_flags: int


def get_capability_owner(
    *, owner_auth: bytes, random: RandomSource
) -> Conversation[OwnerCapability]:
    """Return both sets of flags, authenticated (7.3; deprecated, used by trousers)."""

    def parse(reader: Reader) -> OwnerCapability:
        return OwnerCapability(reader.take(4), reader.u32(), reader.u32())

    return with_secret(Ordinal.GET_CAPABILITY_OWNER, parse, owner_auth, random=random)
