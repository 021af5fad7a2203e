# SPDX-License-Identifier: Apache-2.0
"""Structures of sealed and bound data (Part 2, 9)."""

from __future__ import annotations

import hashlib
from typing import Annotated, ClassVar, Self

from protocol.tpm12.constants import PayloadType, StructureTag
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong
from protocol.tpm12.records import record
from protocol.tpm12.wire import (
    DIGEST,
    REST,
    SIZED,
    U8,
    VERSION_1_1,
    BadVersion,
    Prefix,
    Reader,
    Structure,
)

_VERSION = b"\x01\x01\x00\x00"
_TAG12 = StructureTag.STORED_DATA12.to_bytes(2, "big")


@record
class StoredData(Structure):
    """TPM_STORED_DATA (9.1) and TPM_STORED_DATA12 (9.2).

    Attributes:
        is_12: which of the two.
        entity_type: the `et` of a TPM_STORED_DATA12: 0, or the ADIP scheme of a sealx; 0 otherwise.
        seal_info: None, PcrInfo in the older form, PcrInfoLong in the newer.
        enc_data: encrypted TPM_SEALED_DATA.
    """

    is_12: bool
    entity_type: int
    seal_info: PcrInfo | PcrInfoLong | None
    enc_data: bytes = b""

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take either form; anything else is BadVersion."""
        start = reader.position
        head = reader.take(4, "version")
        is_12 = head[:2] == _TAG12
        if not is_12 and head[:2] != _VERSION[:2]:
            raise BadVersion("version", start, f"neither 1.1 nor a STORED_DATA12: {head.hex()}")
        info = reader.sized("sealInfo")
        seal_info: PcrInfo | PcrInfoLong | None = None
        if info:
            seal_info = PcrInfoLong.decode(info) if is_12 else PcrInfo.decode(info)
        entity_type = int.from_bytes(head[2:], "big") if is_12 else 0
        return cls(is_12, entity_type, seal_info, reader.sized("encData"))

    def encode_public(self) -> bytes:
        """Return the structure through sealInfo, which is what storedDigest covers."""
        head = _TAG12 + self.entity_type.to_bytes(2, "big") if self.is_12 else _VERSION
        info = b"" if self.seal_info is None else self.seal_info.encode_once()
        return head + SIZED.write(info)

    def encode(self) -> bytes:
        """Return the wire form."""
        return self.encode_public() + SIZED.write(self.enc_data)

    def stored_digest(self) -> bytes:
        """Return SHA-1 of the structure without encDataSize and encData."""
        return hashlib.sha1(self.encode_public()).digest()


@record
class SealedData(Structure):
    """TPM_SEALED_DATA (9.3): the plaintext of a sealed blob, 65 bytes and the data."""

    payload: Annotated[int, U8]
    auth_data: Annotated[bytes, DIGEST]
    tpm_proof: Annotated[bytes, DIGEST]
    stored_digest: Annotated[bytes, DIGEST]
    data: Annotated[bytes, SIZED]

    def __repr__(self) -> str:
        return f"SealedData(payload={self.payload}, <secret>)"


@record
class BoundData(Structure):
    """TPM_BOUND_DATA (9.5): version, payload type 2, the rest is data."""

    prefix: ClassVar[Prefix | None] = VERSION_1_1
    payload: Annotated[int, U8]
    data: Annotated[bytes, REST]

    @property
    def is_bind(self) -> bool:
        """True if the payload type is that of bound data."""
        return self.payload == PayloadType.BIND

    def __repr__(self) -> str:
        return f"BoundData(payload={self.payload}, <secret>)"
