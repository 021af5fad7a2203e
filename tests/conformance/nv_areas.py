# SPDX-License-Identifier: Apache-2.0
"""NV areas in cases: what they are, and the commands that define, write and read them."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import NvAttributes, NvIndex, Ordinal, ReturnCode
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection, composite_hash
from protocol.tpm12.resources import NvAttributesWord, NvDataPublic
from tests.conformance.script import DIGEST, Auth, Script

RC = ReturnCode
NV: Final = NvAttributes
AREA_AUTH: Final = b"secret of the area--"
INDEX: Final = 0x00012345
ANYWHERE: Final = PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))
PCR_16: Final = PcrSelection.of([16])
AT_RESET: Final = PcrInfoShort(PCR_16, 0x1F, composite_hash(PCR_16, [bytes(20)] * 24))
ELSEWHERE: Final = PcrInfoShort(PCR_16, 0x1F, DIGEST)


def public_area(
    index: int,
    size: int,
    permission: int,
    read: PcrInfoShort = ANYWHERE,
    write: PcrInfoShort = ANYWHERE,
) -> NvDataPublic:
    """Return the public part of an area to be."""
    return NvDataPublic(index, read, write, NvAttributesWord(permission), False, False, False, size)


def define_area(
    tpm: Script,
    index: int,
    size: int,
    permission: int,
    code: ReturnCode = RC.SUCCESS,
    *,
    owner: bool = True,
    auth: Auth | None = None,
    read: PcrInfoShort = ANYWHERE,
    write: PcrInfoShort = ANYWHERE,
) -> None:
    """Define an area as owner, or without anybody's authorization."""
    public = public_area(index, size, permission, read, write)
    if not owner:
        tpm.call(Ordinal.NV_DEFINE_SPACE, public, AREA_AUTH, code=code)
        return
    auth = auth or tpm.osap_owner()
    secret = tpm.encrypt(auth, AREA_AUTH) if auth.session.shared_secret else AREA_AUTH
    tpm.call(Ordinal.NV_DEFINE_SPACE, public, secret, auth=[auth], code=code)


def lock_nv(tpm: Script) -> None:
    """Set nvLocked."""
    define_area(tpm, NvIndex.LOCK, 0, 0, owner=False)


def describe_area(tpm: Script, index: int = INDEX) -> None:
    """Compare what is told of an area, and which there are."""
    tpm.capability(0x11, index)
    tpm.capability(0x0D, b"")


def list_areas(tpm: Script) -> None:
    """Compare which areas there are, in whatever order they are told."""
    tpm.capability(0x0D, b"", _each)


def _each(listed: bytes) -> object:
    return sorted(listed[i : i + 4].hex() for i in range(0, len(listed), 4))


def write_area(
    tpm: Script,
    data: bytes,
    code: ReturnCode = RC.SUCCESS,
    *,
    index: int = INDEX,
    offset: int = 0,
    auth: Auth | None = None,
) -> None:
    """Write without authorization, or with a session of the owner."""
    tpm.call(Ordinal.NV_WRITE_VALUE, index, offset, data, auth=[auth] if auth else [], code=code)


def read_area(
    tpm: Script,
    size: int,
    code: ReturnCode = RC.SUCCESS,
    *,
    index: int = INDEX,
    offset: int = 0,
    auth: Auth | None = None,
) -> None:
    """Read without authorization, or with a session of the owner."""
    tpm.call(Ordinal.NV_READ_VALUE, index, offset, size, auth=[auth] if auth else [], code=code)
