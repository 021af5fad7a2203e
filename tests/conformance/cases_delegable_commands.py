# SPDX-License-Identifier: Apache-2.0
"""Which bit of a delegation permits which command, of the owner and of a key (Part 2, 20.2).

Every command is sent twice by a delegate: with all bits but its own, which is refused before
anything else of it is looked at, and with its own bit only, which gets further. What it ends in
then is compared; the request is a sample that the command refuses for another reason, mostly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import EntityType, NvAttributes, NvIndex, Ordinal, ReturnCode
from protocol.tpm12.delegation import FamilyOperation
from protocol.tpm12.keys import KeyParms
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection
from protocol.tpm12.resources import NvAttributesWord, NvDataPublic
from protocol.tpm12.wire import SIZED, U16, U32
from tests.conformance.cases_delegation import (
    make_key_blob,
    make_owner_blob,
    new_family,
    open_dsap,
)
from tests.conformance.cases_gates import requests
from tests.conformance.machines import World
from tests.conformance.script import SRK, USAGE_AUTH, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
EVERY_BIT: Final = 0xFFFFFFFF
EVERY_KEY_BIT: Final = 0x1FFFFFFF
_ANYWHERE: Final = PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))


def _area(index: int, size: int = 8) -> NvDataPublic:
    attributes = NvAttributesWord(NvAttributes.OWNERREAD | NvAttributes.OWNERWRITE)
    return NvDataPublic(index, _ANYWHERE, _ANYWHERE, attributes, False, False, False, size)


_AREA: Final = 0x00012345
_OWNER_BODIES: Final[Mapping[int, bytes]] = {
    Ordinal.SET_CAPABILITY: U32.write(1) + SIZED.write(U32.write(4)) + SIZED.write(b"\1"),
    Ordinal.DELEGATE_MANAGE: U32.write(0) + U32.write(FamilyOperation.CREATE) + SIZED.write(b"A"),
    Ordinal.NV_DEFINE_SPACE: _area(_AREA + 1).encode() + bytes(20),
    Ordinal.NV_WRITE_VALUE: U32.write(_AREA) + U32.write(0) + SIZED.write(b"x"),
    Ordinal.NV_READ_VALUE: U32.write(_AREA) + U32.write(0) + U32.write(1),
    Ordinal.MAKE_IDENTITY: bytes(40) + tss12.identity_template().encode(),
    # An ordinal that is there, for a status that it has.
    Ordinal.SET_ORDINAL_AUDIT_STATUS: U32.write(Ordinal.EXTEND) + b"\0",
}
_KEY_BODIES: Final[Mapping[int, bytes]] = {
    Ordinal.UNBIND: SIZED.write(bytes(128)),
    Ordinal.CHANGE_AUTH: U16.write(4) + bytes(20) + U16.write(EntityType.KEY) + SIZED.write(b""),
    # The parameters of a key that cannot be made.
    Ordinal.CHANGE_AUTH_ASYM_START: bytes(20) + KeyParms.for_rsa(enc_scheme=1).encode(),
}
"""Requests, without the handle of a key, where a sample does not get as far as to its bit."""

_KEYS: Final[Mapping[int, str]] = {
    Ordinal.UNBIND: "bind",
    Ordinal.CERTIFY_KEY: "sign",
    Ordinal.CERTIFY_KEY2: "sign",
    Ordinal.ACTIVATE_IDENTITY: "identity",
    Ordinal.CHANGE_AUTH_ASYM_START: "identity",
}
"""The keys of the commands that a storage key is not good enough for, even to be refused."""

_TRIED_ELSEWHERE: Final = frozenset(
    {Ordinal.MAKE_IDENTITY, Ordinal.RELEASE_TRANSPORT_SIGNED, Ordinal.CMK_CONVERT_MIGRATION}
)
"""Here the key is the SRK, or a session of another kind is needed, or the reference differs."""


@case(OWNED, Ordinal.DSAP)
def every_command_of_the_owner_by_its_bit(tpm: Script) -> None:
    auth = tpm.osap_owner()
    tpm.call(Ordinal.NV_DEFINE_SPACE, _area(_AREA), bytes(20), auth=[auth])
    # Only then authorization matters to reading.
    tpm.call(Ordinal.NV_DEFINE_SPACE, _area(NvIndex.LOCK, 0), bytes(20))
    family = new_family(tpm)
    rows = [(row, body) for row, body in requests() if row.owner_bit is not None]
    # The last of them ends the family.
    rows.sort(key=lambda each: each[0].ordinal == Ordinal.OWNER_CLEAR)
    for row, sample in rows:
        body = _OWNER_BODIES.get(row.ordinal, sample)
        bit = 1 << (row.owner_bit or 0)
        for per1, code in ((EVERY_BIT & ~bit, RC.AUTHFAIL), (bit, None)):
            blob = make_owner_blob(tpm, family, per1).encode()
            auths = [open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)]
            if 2 in row.auth_blocks:
                auths.insert(0, tpm.oiap(SRK_AUTH))
            tpm.call(row.ordinal, body=body, auth=auths, code=code)


@case(OWNED, Ordinal.DSAP)
def every_command_of_a_key_by_its_bit(tpm: Script) -> None:
    family = new_family(tpm)
    keys = {name: tpm.load(name) for name in ("storage", "bind", "sign", "identity")}
    for row, sample in requests():
        if row.key_bit is None or row.ordinal in _TRIED_ELSEWHERE:
            continue
        key = keys[_KEYS.get(row.ordinal, "storage")]
        behind = _KEY_BODIES.get(row.ordinal, sample[4:])
        if row.ordinal in (Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2):
            behind = U32.write(key) + behind[4:]
        bit = 1 << row.key_bit
        for per1, code in ((EVERY_KEY_BIT & ~bit, RC.AUTHFAIL), (bit, None)):
            blob = make_key_blob(tpm, key, family, per1).encode()
            auths = [open_dsap(tpm, EntityType.DEL_KEY_BLOB, blob, key=key)]
            if 2 in row.auth_blocks:
                owner = row.ordinal == Ordinal.ACTIVATE_IDENTITY
                auths.append(tpm.oiap(OWNER_AUTH if owner else USAGE_AUTH))
            tpm.call(row.ordinal, body=U32.write(key) + behind, auth=auths, code=code)


@case(OWNED, Ordinal.CMK_CONVERT_MIGRATION)
def certified_migration_by_its_bit(tpm: Script) -> None:
    family, key = new_family(tpm), tpm.load("storage")
    row, sample = next(
        each for each in requests() if each[0].ordinal == Ordinal.CMK_CONVERT_MIGRATION
    )
    body = U32.write(key) + sample[4:]
    for per1, code in ((EVERY_KEY_BIT & ~(1 << 28), RC.AUTHFAIL), (1 << 28, RC.DECRYPT_ERROR)):
        blob = make_key_blob(tpm, key, family, per1).encode()
        auth = open_dsap(tpm, EntityType.DEL_KEY_BLOB, blob, key=key)
        tpm.call(row.ordinal, body=body, auth=[auth], code=code)


@case(OWNED, Ordinal.MAKE_IDENTITY)
def an_identity_by_the_bit_of_the_srk(tpm: Script) -> None:
    family = new_family(tpm)
    body = bytes(40) + tss12.identity_template().encode()
    for per1, code in ((EVERY_KEY_BIT & ~(1 << 17), RC.AUTHFAIL), (1 << 17, RC.SUCCESS)):
        blob = make_key_blob(tpm, SRK, family, per1, secret=SRK_AUTH).encode()
        auth = open_dsap(tpm, EntityType.DEL_KEY_BLOB, blob, key=SRK)
        tpm.call(Ordinal.MAKE_IDENTITY, body=body, auth=[auth, tpm.osap_owner()], code=code)
