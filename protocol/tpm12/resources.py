# SPDX-License-Identifier: Apache-2.0
"""Structures of NV areas, counters, ticks, contexts and capabilities (Part 2, 13, 18, 19, 21)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from protocol.tpm12.constants import StructureTag
from protocol.tpm12.pcr import PcrInfoShort
from protocol.tpm12.records import record
from protocol.tpm12.wire import (
    BOOL,
    DIGEST,
    SIZED,
    U8,
    U16,
    U32,
    U64,
    FixedBytes,
    Prefix,
    Structure,
    tag_prefix,
)


@record
class NvAttributesWord(Structure):
    """TPM_NV_ATTRIBUTES (19.2); bits of NvAttributes."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.NV_ATTRIBUTES)
    attributes: Annotated[int, U32]


@record
class NvDataPublic(Structure):
    """TPM_NV_DATA_PUBLIC (19.3)."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.NV_DATA_PUBLIC)
    is_exact: ClassVar[bool] = True
    nv_index: Annotated[int, U32]
    pcr_info_read: PcrInfoShort
    pcr_info_write: PcrInfoShort
    permission: NvAttributesWord
    b_read_st_clear: Annotated[bool, BOOL]
    b_write_st_clear: Annotated[bool, BOOL]
    b_write_define: Annotated[bool, BOOL]
    data_size: Annotated[int, U32]


@record
class CounterValue(Structure):
    """TPM_COUNTER_VALUE (5.13), 10 bytes."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.COUNTER_VALUE)
    label: Annotated[bytes, FixedBytes(4)]
    counter: Annotated[int, U32]


@record
class CurrentTicks(Structure):
    """TPM_CURRENT_TICKS (15.1), 32 bytes; tick_rate is microseconds per tick."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.CURRENT_TICKS)
    current_ticks: Annotated[int, U64]
    tick_rate: Annotated[int, U16]
    tick_nonce: Annotated[bytes, DIGEST]


@record(repr=False)
class ContextBlob(Structure):
    """TPM_CONTEXT_BLOB (18.1)."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.CONTEXT_BLOB)
    resource_type: Annotated[int, U32]
    handle: Annotated[int, U32]
    label: Annotated[bytes, FixedBytes(16)]
    context_count: Annotated[int, U32]
    integrity_digest: Annotated[bytes, DIGEST]
    additional_data: Annotated[bytes, SIZED]
    sensitive_data: Annotated[bytes, SIZED]


@record(repr=False)
class ContextSensitive(Structure):
    """TPM_CONTEXT_SENSITIVE (18.2): the plaintext of a saved context."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.CONTEXT_SENSITIVE)
    context_nonce: Annotated[bytes, DIGEST]
    internal_data: Annotated[bytes, SIZED]


@record
class CapVersionInfo(Structure):
    """TPM_CAP_VERSION_INFO (21.6), 15 bytes."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.CAP_VERSION_INFO)
    version: Annotated[bytes, FixedBytes(4)]
    spec_level: Annotated[int, U16]
    errata_rev: Annotated[int, U8]
    vendor_id: Annotated[bytes, FixedBytes(4)]
    vendor_specific_size: Annotated[int, U16]
