# SPDX-License-Identifier: Apache-2.0
"""Structures about PCRs (Part 2, 8)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Self

from protocol.tpm12.compiled import SIZED_U16
from protocol.tpm12.constants import LOCALITY_ALL, PCR_COUNT, StructureTag
from protocol.tpm12.records import record
from protocol.tpm12.wire import (
    DIGEST,
    DIGEST_BYTES,
    U8,
    BadPcrSelection,
    BadTag,
    Prefix,
    Reader,
    Structure,
    tag_prefix,
)

MAX_SELECT_BYTES = PCR_COUNT // 8


class _Select:
    """Bit map of PCRs behind its length, a u16; more than three bytes are BadPcrSelection."""

    format = SIZED_U16
    bounds = (0, MAX_SELECT_BYTES)

    def read(self, reader: Reader, field: str) -> bytes:
        """Take length and bytes."""
        start = reader.position
        size = reader.u16("sizeOfSelect")
        if size > MAX_SELECT_BYTES:
            raise BadPcrSelection("sizeOfSelect", start, f"{size}, at most {MAX_SELECT_BYTES}")
        return reader.take(size, field)

    def write(self, value: bytes) -> bytes:
        """Give length and bytes."""
        return len(value).to_bytes(2, "big") + value


@record
class PcrSelection(Structure):
    """TPM_PCR_SELECTION (8.1).

    Attributes:
        select: 0 to 3 bytes as given; PCR n is bit n % 8 of byte n // 8.
    """

    select: Annotated[bytes, _Select()] = b""

    @classmethod
    def of(cls, indices: Iterable[int]) -> Self:
        """Make a three-byte selection."""
        select = bytearray(MAX_SELECT_BYTES)
        for index in indices:
            select[index // 8] |= 1 << (index % 8)
        return cls(bytes(select))

    @property
    def indices(self) -> list[int]:
        """Selected PCRs, ascending."""
        return [i for i in range(len(self.select) * 8) if self.select[i // 8] >> (i % 8) & 1]

    @property
    def is_empty(self) -> bool:
        """True if no bit is set."""
        return not any(self.select)


def composite_encoding(selection: PcrSelection, pcrs: Sequence[bytes]) -> bytes:
    """Return TPM_PCR_COMPOSITE (8.2) of the current values."""
    values = b"".join([pcrs[i] for i in selection.indices])
    return selection.encode() + len(values).to_bytes(4, "big") + values


def composite_hash(selection: PcrSelection, pcrs: Sequence[bytes]) -> bytes:
    """Return SHA-1 of the composite, or 20 zero bytes if nothing is selected (Part 1, 4.10.2)."""
    if selection.is_empty:
        return bytes(DIGEST_BYTES)
    return hashlib.sha1(composite_encoding(selection, pcrs)).digest()


class _LocalityByte:
    """A locality selection, 1 to 0x1F (8.6); anything else is an invalid structure."""

    format = "B"
    bounds = (1, LOCALITY_ALL)

    def read(self, reader: Reader, field: str) -> int:
        """Take and check the byte."""
        value = reader.u8(field)
        if not 0 < value <= LOCALITY_ALL:
            raise BadTag(field, reader.position - 1, f"locality selection {value:#04x}")
        return value

    def write(self, value: int) -> bytes:
        """Give the byte."""
        return U8.write(value)


LOCALITY_SELECTION = _LocalityByte()


@record
class PcrInfo(Structure):
    """TPM_PCR_INFO (8.3); note that the release digest comes first."""

    is_exact: ClassVar[bool] = True
    pcr_selection: PcrSelection
    digest_at_release: Annotated[bytes, DIGEST]
    digest_at_creation: Annotated[bytes, DIGEST]


@record
class PcrInfoLong(Structure):
    """TPM_PCR_INFO_LONG (8.4)."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.PCR_INFO_LONG)
    is_exact: ClassVar[bool] = True
    locality_at_creation: Annotated[int, LOCALITY_SELECTION]
    locality_at_release: Annotated[int, LOCALITY_SELECTION]
    creation_selection: PcrSelection
    release_selection: PcrSelection
    digest_at_creation: Annotated[bytes, DIGEST]
    digest_at_release: Annotated[bytes, DIGEST]


@record
class PcrInfoShort(Structure):
    """TPM_PCR_INFO_SHORT (8.5)."""

    is_exact: ClassVar[bool] = True
    pcr_selection: PcrSelection
    locality_at_release: Annotated[int, LOCALITY_SELECTION]
    digest_at_release: Annotated[bytes, DIGEST]


def release_of(info: PcrInfo | PcrInfoLong) -> PcrInfoShort:
    """Return what must hold at release (conversion rules of Part 1, 2.3)."""
    if isinstance(info, PcrInfoLong):
        return PcrInfoShort(
            info.release_selection, info.locality_at_release, info.digest_at_release
        )
    return PcrInfoShort(info.pcr_selection, LOCALITY_ALL, info.digest_at_release)
