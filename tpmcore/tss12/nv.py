# SPDX-License-Identifier: Apache-2.0
"""Non-volatile storage (Part 3, 20)."""

from __future__ import annotations

from protocol.tpm12.constants import NvAttributes, NvIndex, Ordinal
from protocol.tpm12.pcr import PcrInfoShort
from protocol.tpm12.resources import NvAttributesWord, NvDataPublic
from protocol.tpm12.wire import SIZED, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, Session, execute, nothing
from tpmcore.tss12.integrity import pcr_info_short
from tpmcore.tss12.sessions import (
    encrypt_secret,
    osap_owner,
    prove,
    with_optional_secret,
    with_secret,
)


def nv_define_space(
    index: int,
    size_bytes: int,
    permission: NvAttributes,
    *,
    owner_auth: bytes | None = None,
    area_auth: bytes = bytes(20),
    pcr_info_read: PcrInfoShort | None = None,
    pcr_info_write: PcrInfoShort | None = None,
    random: RandomSource | None = None,
) -> Conversation[None]:
    """Define an NV area, or delete it with size 0 (20.1).

    Args:
        owner_auth: None for a TPM without owner (physical presence) or with nvLocked FALSE.
        area_auth: the area's secret, 20 bytes; without owner_auth it travels in the clear.
        pcr_info_read: what reading needs, see pcr_info_short; None for no restriction.
        pcr_info_write: what writing needs.

    Raises:
        ValueError: owner_auth without a random source.
    """
    public = NvDataPublic(
        index,
        pcr_info_read or pcr_info_short(),
        pcr_info_write or pcr_info_short(),
        NvAttributesWord(permission),
        False,
        False,
        False,
        size_bytes,
    ).encode()
    if owner_auth is None:
        yield from execute(Ordinal.NV_DEFINE_SPACE, nothing, parameters=public + area_auth)
        return
    if random is None:
        raise ValueError("authorization needs a random source")
    session = yield from osap_owner(owner_auth, random=random)
    yield from execute(
        Ordinal.NV_DEFINE_SPACE,
        nothing,
        parameters=public + encrypt_secret(session, area_auth),
        auths=(prove(session, random),),
    )


def nv_delete_space(
    index: int, *, owner_auth: bytes | None = None, random: RandomSource | None = None
) -> Conversation[None]:
    """Delete an NV area (20.1, size 0)."""
    return nv_define_space(index, 0, NvAttributes(0), owner_auth=owner_auth, random=random)


def nv_lock() -> Conversation[None]:
    """Enforce NV permissions from now on (20.1, index 0xFFFFFFFF); for ever."""
    return nv_define_space(NvIndex.LOCK, 0, NvAttributes(0))


def nv_write_value(
    index: int,
    data: bytes,
    *,
    offset: int = 0,
    owner_auth: bytes | None = None,
    random: RandomSource | None = None,
    session: Session | None = None,
) -> Conversation[None]:
    """Write to an area as owner, or without authorization (20.2).

    Args:
        data: empty sets the write locks of the area.
        session: an open session of the owner to use and keep.
    """
    return with_optional_secret(
        Ordinal.NV_WRITE_VALUE,
        nothing,
        owner_auth,
        random=random,
        session=session,
        parameters=U32.write(index) + U32.write(offset) + SIZED.write(data),
    )


def nv_write_value_auth(
    index: int,
    data: bytes,
    *,
    offset: int = 0,
    area_auth: bytes,
    random: RandomSource,
    session: Session | None = None,
) -> Conversation[None]:
    """Write to an area with its own secret (20.3); session as in nv_write_value."""
    return with_secret(
        Ordinal.NV_WRITE_VALUE_AUTH,
        nothing,
        area_auth,
        random=random,
        session=session,
        parameters=U32.write(index) + U32.write(offset) + SIZED.write(data),
    )


def nv_read_value(
    index: int,
    size_bytes: int,
    *,
    offset: int = 0,
    owner_auth: bytes | None = None,
    random: RandomSource | None = None,
    session: Session | None = None,
) -> Conversation[bytes]:
    """Read from an area as owner, or without authorization (20.4)."""
    return with_optional_secret(
        Ordinal.NV_READ_VALUE,
        Reader.sized,
        owner_auth,
        random=random,
        session=session,
        parameters=U32.write(index) + U32.write(offset) + U32.write(size_bytes),
    )


def nv_read_value_auth(
    index: int,
    size_bytes: int,
    *,
    offset: int = 0,
    area_auth: bytes,
    random: RandomSource,
    session: Session | None = None,
) -> Conversation[bytes]:
    """Read from an area with its own secret (20.5)."""
    return with_secret(
        Ordinal.NV_READ_VALUE_AUTH,
        Reader.sized,
        area_auth,
        random=random,
        session=session,
        parameters=U32.write(index) + U32.write(offset) + U32.write(size_bytes),
    )
