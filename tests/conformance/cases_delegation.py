# SPDX-License-Identifier: Apache-2.0
"""Delegation: families, rows, blobs, DSAP (Part 3, chapters 18.3 and 19)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import EntityType, Ordinal, ReservedHandle, ReturnCode
from protocol.tpm12.delegation import (
    DelegateKeyBlob,
    DelegateOwnerBlob,
    DelegatePublic,
    DelegateType,
    Delegations,
    FamilyOperation,
)
from protocol.tpm12.wire import U32
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, USAGE_AUTH, WRONG_AUTH, Auth, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
OPERATION = FamilyOperation
DELEGATE_AUTH: Final = b"secret of a delegate"
READ_PUBEK: Final = 1 << 9
SIGN: Final = 1 << 14
OWNER_READ: Final = Ordinal.OWNER_READ_PUBEK


def _public(
    family: int, per1: int = READ_PUBEK, *, kind: int = DelegateType.OWNER, localities: int = 0x1F
) -> DelegatePublic:
    info = tss12.pcr_info_short(None, localities=localities)
    return DelegatePublic(0x5A, info, Delegations(kind, per1), family, 0)


def _family(tpm: Script, *, enable: bool = True) -> int:
    return tpm.run(
        tss12.create_family(0x41, owner_auth=OWNER_AUTH, random=tpm.random, enable=enable)
    )


def _owner_blob(tpm: Script, family: int, per1: int = READ_PUBEK) -> DelegateOwnerBlob:
    return tpm.run(
        tss12.create_owner_delegation(
            _public(family, per1),
            owner_auth=OWNER_AUTH,
            delegate_auth=DELEGATE_AUTH,
            random=tpm.random,
        )
    )


def _key_blob(tpm: Script, handle: int, family: int, per1: int = SIGN) -> DelegateKeyBlob:
    return tpm.run(
        tss12.create_key_delegation(
            handle,
            _public(family, per1, kind=DelegateType.KEY),
            key_auth=USAGE_AUTH,
            delegate_auth=DELEGATE_AUTH,
            random=tpm.random,
        )
    )


def _dsap(
    tpm: Script, kind: EntityType, value: bytes, *, key: int = 0, secret: bytes = DELEGATE_AUTH
) -> Auth:
    session = tpm.run(tss12.dsap(kind, value, secret, random=tpm.random, key_handle=key))
    return Auth(session)


def _manage(
    tpm: Script,
    family: int,
    operation: int,
    data: bytes,
    code: ReturnCode = RC.SUCCESS,
    *,
    auth: Auth | None = None,
) -> None:
    blocks = [auth] if auth else []
    tpm.call(Ordinal.DELEGATE_MANAGE, family, operation, data, auth=blocks, code=code)


@case(OWNED, Ordinal.DELEGATE_MANAGE, Ordinal.DELEGATE_READ_TABLE)
def families_of_the_owner(tpm: Script) -> None:
    _manage(tpm, 0, OPERATION.CREATE, b"\x41", auth=tpm.oiap())
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    _manage(tpm, 1, OPERATION.ENABLE, b"\1", auth=tpm.oiap())
    _manage(tpm, 1, OPERATION.ADMIN, b"\1", auth=tpm.osap_owner())
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    _manage(tpm, 1, OPERATION.ENABLE, b"\0", auth=tpm.oiap())
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    _manage(tpm, 0, OPERATION.CREATE, b"\x42", RC.AUTHFAIL, auth=tpm.oiap(spoil=True))
    _manage(tpm, 0, OPERATION.CREATE, b"\x42", RC.AUTHFAIL)
    _manage(tpm, 7, OPERATION.ENABLE, b"\1", RC.BADINDEX, auth=tpm.oiap())
    _manage(tpm, 0, OPERATION.CREATE, b"\1\2", RC.BAD_PARAM_SIZE, auth=tpm.oiap())
    _manage(tpm, 1, OPERATION.ENABLE, b"", RC.BAD_PARAM_SIZE, auth=tpm.oiap())
    _manage(tpm, 1, OPERATION.ADMIN, b"\1\1", RC.BAD_PARAM_SIZE, auth=tpm.oiap())
    _manage(tpm, 1, 9, b"\1", RC.BAD_PARAMETER, auth=tpm.oiap())
    _manage(tpm, 1, OPERATION.INVALIDATE, b"", auth=tpm.oiap())
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    _manage(tpm, 1, OPERATION.ENABLE, b"\1", RC.BADINDEX, auth=tpm.oiap())


@case(OWNED, Ordinal.DELEGATE_MANAGE)
def a_family_flag_that_is_no_boolean(tpm: Script) -> None:
    family = _family(tpm, enable=False)
    _manage(tpm, family, OPERATION.ENABLE, b"\2", RC.BAD_PARAMETER, auth=tpm.oiap())


@case(NEW, Ordinal.DELEGATE_MANAGE)
def families_without_an_owner(tpm: Script) -> None:
    _manage(tpm, 0, OPERATION.CREATE, b"\x41")
    _manage(tpm, 1, OPERATION.ENABLE, b"\1")
    _manage(tpm, 1, OPERATION.ADMIN, b"\1")
    _manage(tpm, 1, OPERATION.ENABLE, b"\0", RC.DELEGATE_LOCK)
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    for label in range(15):
        _manage(tpm, 0, OPERATION.CREATE, bytes((label,)))
    _manage(tpm, 0, OPERATION.CREATE, b"\x41", RC.RESOURCES)
    tpm.call(Ordinal.DELEGATE_READ_TABLE)


@case(OWNED, Ordinal.DELEGATE_CREATE_OWNER_DELEGATION, Ordinal.DSAP)
def owner_delegation_by_blob(tpm: Script) -> None:
    family = _family(tpm)
    blob = _owner_blob(tpm, family).encode()
    tpm.call(OWNER_READ, auth=[_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)])
    wrong = _dsap(tpm, EntityType.DEL_OWNER_BLOB, blob, secret=WRONG_AUTH)
    tpm.call(OWNER_READ, auth=[wrong], code=RC.AUTHFAIL)
    other = _dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    tpm.call(Ordinal.DISABLE_PUBEK_READ, auth=[other], code=RC.AUTHFAIL)
    create = Ordinal.DELEGATE_CREATE_OWNER_DELEGATION
    auth = tpm.osap_owner()
    tpm.call(create, True, _public(family), tpm.encrypt(auth, DELEGATE_AUTH), auth=[auth])
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    tpm.call(Ordinal.DSAP, EntityType.DEL_OWNER_BLOB, 0, DIGEST, blob, code=RC.FAMILYCOUNT)


@case(OWNED, Ordinal.DELEGATE_CREATE_OWNER_DELEGATION)
def owner_delegations_that_cannot_be(tpm: Script) -> None:
    create = Ordinal.DELEGATE_CREATE_OWNER_DELEGATION
    family = _family(tpm)
    wrong = tpm.osap_owner(spoil=True)
    tpm.call(create, False, _public(family), bytes(20), auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(create, False, _public(family), bytes(20), auth=[tpm.oiap()], code=RC.BAD_MODE)
    tpm.call(create, False, _public(9), bytes(20), auth=[tpm.osap_owner()], code=RC.BADINDEX)
    public = _public(family, kind=DelegateType.KEY)
    tpm.call(create, False, public, bytes(20), auth=[tpm.osap_owner()], code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.DELEGATE_CREATE_KEY_DELEGATION, Ordinal.DSAP)
def key_delegation_by_blob(tpm: Script) -> None:
    family, key, other = _family(tpm), tpm.load("sign"), tpm.load("sign-der")
    blob = _key_blob(tpm, key, family).encode()
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[_dsap(tpm, EntityType.DEL_KEY_BLOB, blob, key=key)])
    auth = _dsap(tpm, EntityType.DEL_KEY_BLOB, blob, key=key)
    tpm.call(Ordinal.GET_PUB_KEY, key, auth=[auth], code=RC.AUTHFAIL)
    dsap = Ordinal.DSAP
    tpm.call(dsap, EntityType.DEL_KEY_BLOB, other, DIGEST, blob, code=RC.KEYNOTFOUND)
    tpm.call(dsap, EntityType.DEL_KEY_BLOB, 77, DIGEST, blob, code=RC.INVALID_KEYHANDLE)
    tpm.call(dsap, 1, key, DIGEST, blob, code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.DELEGATE_CREATE_KEY_DELEGATION)
def key_delegations_that_cannot_be(tpm: Script) -> None:
    create = Ordinal.DELEGATE_CREATE_KEY_DELEGATION
    family, key = _family(tpm), tpm.load("sign")
    public = _public(family, SIGN, kind=DelegateType.KEY)
    wrong = tpm.osap_key(key, USAGE_AUTH, spoil=True)
    tpm.call(create, key, public, bytes(20), auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(create, key, public, bytes(20), auth=[tpm.oiap(USAGE_AUTH)], code=RC.BAD_MODE)
    for bad, code in (
        (_public(9, SIGN, kind=DelegateType.KEY), RC.BADINDEX),
        (_public(family), RC.BAD_PARAMETER),
    ):
        tpm.call(create, key, bad, bytes(20), auth=[tpm.osap_key(key, USAGE_AUTH)], code=code)
    auth = tpm.osap_key(key, USAGE_AUTH)
    tpm.call(create, 77, public, bytes(20), auth=[auth], code=RC.INVALID_KEYHANDLE)


@case(OWNED, Ordinal.DELEGATE_LOAD_OWNER_DELEGATION, Ordinal.SET_OWNER_POINTER)
def owner_delegation_by_row(tpm: Script) -> None:
    load = Ordinal.DELEGATE_LOAD_OWNER_DELEGATION
    family = _family(tpm)
    blob = _owner_blob(tpm, family)
    tpm.call(load, 0, blob, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(load, 0, blob, code=RC.AUTHFAIL)
    tpm.call(load, 4, blob, auth=[tpm.oiap()], code=RC.BADINDEX)
    damaged = replace(blob, integrity_digest=bytes(20))
    tpm.call(load, 0, damaged, auth=[tpm.oiap()], code=RC.AUTHFAIL)
    tpm.call(load, 0, blob, auth=[tpm.oiap()])
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    tpm.call(OWNER_READ, auth=[_dsap(tpm, EntityType.DEL_ROW, U32.write(0))])
    tpm.call(Ordinal.DSAP, EntityType.DEL_ROW, 0, DIGEST, U32.write(1), code=RC.BADINDEX)
    point = Ordinal.SET_OWNER_POINTER
    tpm.call(point, EntityType.DEL_ROW, 3, code=RC.BADINDEX)
    tpm.call(point, EntityType.SRK, 0, code=RC.BAD_PARAMETER)
    tpm.call(point, EntityType.DEL_ROW, 0)
    tpm.call(OWNER_READ, auth=[tpm.oiap(DELEGATE_AUTH)])
    tpm.call(OWNER_READ, auth=[tpm.oiap()], code=RC.AUTHFAIL)
    tpm.call(point, EntityType.OWNER, ReservedHandle.OWNER)
    tpm.call(OWNER_READ, auth=[tpm.oiap()])
    _manage(tpm, family, OPERATION.ENABLE, b"\0", auth=tpm.oiap())
    tpm.call(point, EntityType.DEL_ROW, 0, code=RC.DISABLED_CMD)
    tpm.call(Ordinal.DSAP, EntityType.DEL_ROW, 0, DIGEST, U32.write(0), code=RC.DISABLED_CMD)
    tpm.call(load, 1, blob, auth=[tpm.oiap()], code=RC.DISABLED_CMD)


@case(OWNED, Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION)
def verifying_and_updating(tpm: Script) -> None:
    verify, update = Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION
    family, key = _family(tpm), tpm.load("sign")
    owner, per_key = _owner_blob(tpm, family), _key_blob(tpm, key, family)
    tpm.run(tss12.load_owner_delegation(0, owner, owner_auth=OWNER_AUTH, random=tpm.random))
    for blob in (owner, per_key):
        tpm.call(verify, blob.encode())
        damaged = replace(blob, integrity_digest=bytes(20)).encode()
        tpm.call(verify, damaged, code=RC.AUTHFAIL)
        tpm.call(update, damaged, auth=[tpm.oiap()], code=RC.AUTHFAIL)
    tpm.call(verify, b"\0\0", code=RC.BAD_PARAMETER)
    tpm.run(
        tss12.create_owner_delegation(
            _public(family),
            owner_auth=OWNER_AUTH,
            delegate_auth=DELEGATE_AUTH,
            random=tpm.random,
            increment=True,
        )
    )
    for stale in (owner.encode(), per_key.encode()):
        tpm.call(verify, stale, code=RC.FAMILYCOUNT)
        tpm.call(update, stale, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
        updated = tpm.call(update, stale, auth=[tpm.oiap()])
        tpm.call(verify, getattr(updated, "output_data", b""))
    dsap = Ordinal.DSAP
    tpm.call(dsap, EntityType.DEL_ROW, 0, DIGEST, U32.write(0), code=RC.FAMILYCOUNT)
    tpm.call(update, U32.write(0), auth=[tpm.oiap()])
    tpm.call(dsap, EntityType.DEL_ROW, 0, DIGEST, U32.write(0))
    tpm.call(update, U32.write(2), auth=[tpm.oiap()], code=RC.BADINDEX)
    tpm.call(update, bytes(30), auth=[tpm.oiap()], code=RC.BAD_PARAMETER)
    _manage(tpm, family, OPERATION.ENABLE, b"\0", auth=tpm.oiap())
    tpm.call(verify, owner.encode(), code=RC.DISABLED_CMD)
    _manage(tpm, family, OPERATION.INVALIDATE, b"", auth=tpm.oiap())
    tpm.call(verify, owner.encode(), code=RC.BADINDEX)


@case(OWNED, Ordinal.DSAP)
def delegated_sessions_that_are_refused(tpm: Script) -> None:
    family, key = _family(tpm), tpm.load("sign")
    dsap = Ordinal.DSAP
    owner, per_key = _owner_blob(tpm, family), _key_blob(tpm, key, family)
    damaged = replace(owner, integrity_digest=bytes(20)).encode()
    tpm.call(dsap, EntityType.DEL_OWNER_BLOB, 0, DIGEST, damaged, code=RC.AUTHFAIL)
    damaged = replace(per_key, integrity_digest=bytes(20)).encode()
    tpm.call(dsap, EntityType.DEL_KEY_BLOB, key, DIGEST, damaged, code=RC.AUTHFAIL)
    for kind in (EntityType.DEL_OWNER_BLOB, EntityType.DEL_KEY_BLOB):
        tpm.call(dsap, kind, key, DIGEST, b"garbage", code=RC.WRONG_ENTITYTYPE)
    whole = owner.encode()
    tpm.call(
        dsap,
        0x0500 | EntityType.DEL_OWNER_BLOB,
        0,
        DIGEST,
        whole,
        code=RC.INAPPROPRIATE_ENC,
    )
    for _ in range(16):
        tpm.oiap()
    tpm.call(dsap, EntityType.DEL_OWNER_BLOB, 0, DIGEST, whole, code=RC.RESOURCES)


@case(OWNED, Ordinal.DELEGATE_MANAGE, Ordinal.DELEGATE_CREATE_OWNER_DELEGATION)
def a_delegate_manages_only_its_own_family(tpm: Script) -> None:
    manage, create = 1 << 2, 1 << 1
    family, other = _family(tpm), _family(tpm)
    blob = _owner_blob(tpm, family, manage | create | READ_PUBEK).encode()
    auth = _dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    _manage(tpm, other, OPERATION.ENABLE, b"\1", RC.DELEGATE_FAMILY, auth=auth)
    auth = _dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    values = (False, _public(other), tpm.encrypt(auth, DELEGATE_AUTH))
    delegate = Ordinal.DELEGATE_CREATE_OWNER_DELEGATION
    tpm.call(delegate, *values, auth=[auth], code=RC.DELEGATE_FAMILY)
    auth = _dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    values = (False, _public(family, 1 << 8), tpm.encrypt(auth, DELEGATE_AUTH))
    tpm.call(delegate, *values, auth=[auth], code=RC.AUTHFAIL)
    auth = _dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    values = (False, _public(family), tpm.encrypt(auth, DELEGATE_AUTH))
    tpm.call(delegate, *values, auth=[auth])


@case(OWNED, Ordinal.SET_OWNER_POINTER)
def the_owner_pointer_to_a_stale_row(tpm: Script) -> None:
    family = _family(tpm)
    blob = _owner_blob(tpm, family)
    tpm.run(tss12.load_owner_delegation(0, blob, owner_auth=OWNER_AUTH, random=tpm.random))
    auth = tpm.osap_owner()
    values = (True, _public(family), tpm.encrypt(auth, DELEGATE_AUTH))
    tpm.call(Ordinal.DELEGATE_CREATE_OWNER_DELEGATION, *values, auth=[auth])
    tpm.call(Ordinal.SET_OWNER_POINTER, EntityType.DEL_ROW, 0, code=RC.FAMILYCOUNT)


@case(OWNED, Ordinal.OWNER_READ_PUBEK)
def delegations_for_other_localities(tpm: Script) -> None:
    family = _family(tpm)
    blob = tpm.run(
        tss12.create_owner_delegation(
            _public(family, localities=2),
            owner_auth=OWNER_AUTH,
            delegate_auth=DELEGATE_AUTH,
            random=tpm.random,
        )
    ).encode()
    auth = _dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    tpm.call(OWNER_READ, auth=[auth], code=RC.BAD_LOCALITY)
    tpm.locality = 1
    tpm.call(OWNER_READ, auth=[_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)])
