# SPDX-License-Identifier: Apache-2.0
"""Delegation: families, rows, blobs, DSAP (Part 3, chapters 18.3 and 19)."""

from __future__ import annotations

from collections.abc import Mapping
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
from protocol.tpm12.wire import SIZED, U32
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
CREATE_OWNER: Final = 1 << 1
MANAGE: Final = 1 << 2
UPDATE: Final = 1 << 5
LOAD_OWNER: Final = 1 << 24
CREATE_KEY: Final = 1 << 7
SIGN: Final = 1 << 14
OWNER_READ: Final = Ordinal.OWNER_READ_PUBEK


def public_info(
    family: int,
    per1: int = READ_PUBEK,
    *,
    kind: int = DelegateType.OWNER,
    release: Mapping[int, bytes] | None = None,
    localities: int = 0x1F,
) -> DelegatePublic:
    """Return what a delegation of some bits is limited to."""
    info = tss12.pcr_info_short(release, localities=localities)
    return DelegatePublic(0x5A, info, Delegations(kind, per1), family, 0)


def new_family(tpm: Script, *, enable: bool = True) -> int:
    """Make a family of the owner's and return its id."""
    return tpm.run(
        tss12.create_family(0x41, owner_auth=OWNER_AUTH, random=tpm.random, enable=enable)
    )


def delegate_owner(
    tpm: Script, public: DelegatePublic, *, increment: bool = False
) -> DelegateOwnerBlob:
    """Delegate commands of the owner to whoever has DELEGATE_AUTH."""
    return tpm.run(
        tss12.create_owner_delegation(
            public,
            owner_auth=OWNER_AUTH,
            delegate_auth=DELEGATE_AUTH,
            random=tpm.random,
            increment=increment,
        )
    )


def make_owner_blob(tpm: Script, family: int, per1: int = READ_PUBEK) -> DelegateOwnerBlob:
    """Delegate commands of the owner without further limits."""
    return delegate_owner(tpm, public_info(family, per1))


def make_key_blob(
    tpm: Script, handle: int, family: int, per1: int = SIGN, *, secret: bytes = USAGE_AUTH
) -> DelegateKeyBlob:
    """Delegate commands of a loaded key to whoever has DELEGATE_AUTH."""
    return tpm.run(
        tss12.create_key_delegation(
            handle,
            public_info(family, per1, kind=DelegateType.KEY),
            key_auth=secret,
            delegate_auth=DELEGATE_AUTH,
            random=tpm.random,
        )
    )


def load_row(tpm: Script, row: int, blob: DelegateOwnerBlob) -> None:
    """Put a delegation into a row of the table."""
    tpm.run(tss12.load_owner_delegation(row, blob, owner_auth=OWNER_AUTH, random=tpm.random))


def open_dsap(
    tpm: Script,
    kind: EntityType,
    value: bytes,
    *,
    key: int = 0,
    secret: bytes = DELEGATE_AUTH,
    keep: bool = False,
) -> Auth:
    """Open a session with delegated authority."""
    session = tpm.run(tss12.dsap(kind, value, secret, random=tpm.random, key_handle=key))
    return Auth(session, keep=keep)


def manage(
    tpm: Script,
    family: int,
    operation: int,
    data: bytes,
    code: ReturnCode = RC.SUCCESS,
    *,
    auth: Auth | None = None,
) -> None:
    """Do an operation on a family, as owner if there is a session."""
    blocks = [auth] if auth else []
    tpm.call(Ordinal.DELEGATE_MANAGE, family, operation, data, auth=blocks, code=code)


@case(OWNED, Ordinal.DELEGATE_CREATE_OWNER_DELEGATION, Ordinal.DSAP)
def owner_delegation_by_blob(tpm: Script) -> None:
    family = new_family(tpm)
    blob = make_owner_blob(tpm, family).encode()
    tpm.call(OWNER_READ, auth=[open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)])
    wrong = open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob, secret=WRONG_AUTH)
    tpm.call(OWNER_READ, auth=[wrong], code=RC.AUTHFAIL)
    other = open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    tpm.call(Ordinal.DISABLE_PUBEK_READ, auth=[other], code=RC.AUTHFAIL)
    create = Ordinal.DELEGATE_CREATE_OWNER_DELEGATION
    auth = tpm.osap_owner()
    tpm.call(create, True, public_info(family), tpm.encrypt(auth, DELEGATE_AUTH), auth=[auth])
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    tpm.call(Ordinal.DSAP, EntityType.DEL_OWNER_BLOB, 0, DIGEST, blob, code=RC.FAMILYCOUNT)


@case(OWNED, Ordinal.DELEGATE_CREATE_OWNER_DELEGATION)
def owner_delegations_that_cannot_be(tpm: Script) -> None:
    create = Ordinal.DELEGATE_CREATE_OWNER_DELEGATION
    family = new_family(tpm)
    wrong = tpm.osap_owner(spoil=True)
    tpm.call(create, False, public_info(family), bytes(20), auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(create, False, public_info(family), bytes(20), auth=[tpm.oiap()], code=RC.BAD_MODE)
    tpm.call(create, False, public_info(9), bytes(20), auth=[tpm.osap_owner()], code=RC.BADINDEX)
    public = public_info(family, kind=DelegateType.KEY)
    tpm.call(create, False, public, bytes(20), auth=[tpm.osap_owner()], code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.DELEGATE_CREATE_KEY_DELEGATION, Ordinal.DSAP)
def key_delegation_by_blob(tpm: Script) -> None:
    family, key, other = new_family(tpm), tpm.load("sign"), tpm.load("sign-der")
    blob = make_key_blob(tpm, key, family).encode()
    tpm.call(
        Ordinal.SIGN, key, DIGEST, auth=[open_dsap(tpm, EntityType.DEL_KEY_BLOB, blob, key=key)]
    )
    auth = open_dsap(tpm, EntityType.DEL_KEY_BLOB, blob, key=key)
    tpm.call(Ordinal.GET_PUB_KEY, key, auth=[auth], code=RC.AUTHFAIL)
    dsap = Ordinal.DSAP
    tpm.call(dsap, EntityType.DEL_KEY_BLOB, other, DIGEST, blob, code=RC.KEYNOTFOUND)
    tpm.call(dsap, EntityType.DEL_KEY_BLOB, 77, DIGEST, blob, code=RC.INVALID_KEYHANDLE)
    tpm.call(dsap, 1, key, DIGEST, blob, code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.DELEGATE_CREATE_KEY_DELEGATION)
def key_delegations_that_cannot_be(tpm: Script) -> None:
    create = Ordinal.DELEGATE_CREATE_KEY_DELEGATION
    family, key = new_family(tpm), tpm.load("sign")
    public = public_info(family, SIGN, kind=DelegateType.KEY)
    wrong = tpm.osap_key(key, USAGE_AUTH, spoil=True)
    tpm.call(create, key, public, bytes(20), auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(create, key, public, bytes(20), auth=[tpm.oiap(USAGE_AUTH)], code=RC.BAD_MODE)
    for bad, code in (
        (public_info(9, SIGN, kind=DelegateType.KEY), RC.BADINDEX),
        (public_info(family), RC.BAD_PARAMETER),
    ):
        tpm.call(create, key, bad, bytes(20), auth=[tpm.osap_key(key, USAGE_AUTH)], code=code)
    auth = tpm.osap_key(key, USAGE_AUTH)
    tpm.call(create, 77, public, bytes(20), auth=[auth], code=RC.INVALID_KEYHANDLE)


@case(OWNED, Ordinal.DELEGATE_LOAD_OWNER_DELEGATION, Ordinal.SET_OWNER_POINTER)
def owner_delegation_by_row(tpm: Script) -> None:
    load = Ordinal.DELEGATE_LOAD_OWNER_DELEGATION
    family = new_family(tpm)
    blob = make_owner_blob(tpm, family)
    tpm.call(load, 0, blob, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(load, 0, blob, code=RC.AUTHFAIL)
    tpm.call(load, 4, blob, auth=[tpm.oiap()], code=RC.BADINDEX)
    damaged = replace(blob, integrity_digest=bytes(20))
    tpm.call(load, 0, damaged, auth=[tpm.oiap()], code=RC.AUTHFAIL)
    tpm.call(load, 0, blob, auth=[tpm.oiap()])
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    tpm.call(OWNER_READ, auth=[open_dsap(tpm, EntityType.DEL_ROW, U32.write(0))])
    tpm.call(Ordinal.DSAP, EntityType.DEL_ROW, 0, DIGEST, U32.write(1), code=RC.BADINDEX)
    point = Ordinal.SET_OWNER_POINTER
    tpm.call(point, EntityType.DEL_ROW, 3, code=RC.BADINDEX)
    tpm.call(point, EntityType.SRK, 0, code=RC.BAD_PARAMETER)
    tpm.call(point, EntityType.DEL_ROW, 0)
    tpm.call(OWNER_READ, auth=[tpm.oiap(DELEGATE_AUTH)])
    tpm.call(OWNER_READ, auth=[tpm.oiap()], code=RC.AUTHFAIL)
    tpm.call(point, EntityType.OWNER, ReservedHandle.OWNER)
    tpm.call(OWNER_READ, auth=[tpm.oiap()])
    manage(tpm, family, OPERATION.ENABLE, b"\0", auth=tpm.oiap())
    tpm.call(point, EntityType.DEL_ROW, 0, code=RC.DISABLED_CMD)
    tpm.call(Ordinal.DSAP, EntityType.DEL_ROW, 0, DIGEST, U32.write(0), code=RC.DISABLED_CMD)
    tpm.call(load, 1, blob, auth=[tpm.oiap()], code=RC.DISABLED_CMD)


@case(OWNED, Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION)
def verifying_and_updating(tpm: Script) -> None:
    verify, update = Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION
    family, key = new_family(tpm), tpm.load("sign")
    owner, per_key = make_owner_blob(tpm, family), make_key_blob(tpm, key, family)
    load_row(tpm, 0, owner)
    for blob in (owner, per_key):
        tpm.call(verify, blob.encode())
        damaged = replace(blob, integrity_digest=bytes(20)).encode()
        tpm.call(verify, damaged, code=RC.AUTHFAIL)
        tpm.call(update, damaged, auth=[tpm.oiap()], code=RC.AUTHFAIL)
    tpm.call(verify, b"\0\0", code=RC.BAD_PARAMETER)
    delegate_owner(tpm, public_info(family), increment=True)
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
    manage(tpm, family, OPERATION.ENABLE, b"\0", auth=tpm.oiap())
    tpm.call(verify, owner.encode(), code=RC.DISABLED_CMD)
    manage(tpm, family, OPERATION.INVALIDATE, b"", auth=tpm.oiap())
    tpm.call(verify, owner.encode(), code=RC.BADINDEX)


# --- what is wrong with a structure ---------------------------------------------------------------


def _damaged(public: bytes) -> tuple[tuple[bytes, ReturnCode], ...]:
    """Return forms of a TPM_DELEGATE_PUBLIC without PCRs that do not parse, and the codes."""
    # tag 2, rowLabel 1; pcrInfo: sizeOfSelect 2, select 3, locality 1, digest 20;
    # permissions: tag 2, delegateType 4, per1 4, per2 4; familyID 4, verificationCount 4.
    return (
        (b"\0\x1c" + public[2:], RC.INVALID_STRUCTURE),
        (public[:29] + b"\0\x1b" + public[31:], RC.INVALID_STRUCTURE),
        (public[:31] + U32.write(3) + public[35:], RC.BAD_PARAMETER),
        (public[:31] + U32.write(DelegateType.KEY) + b"\xff" * 4 + public[39:], RC.BAD_PARAMETER),
        (public[:39] + U32.write(1) + public[43:], RC.BAD_PARAMETER),
        (public[:3] + b"\0\4" + bytes(4) + public[8:], RC.INVALID_PCR_INFO),
    )


@case(OWNED, Ordinal.DELEGATE_CREATE_OWNER_DELEGATION, Ordinal.DELEGATE_CREATE_KEY_DELEGATION)
def delegations_of_what_is_no_public_part(tpm: Script) -> None:
    family, key = new_family(tpm), U32.write(tpm.load("sign"))
    by_owner, by_key = (
        Ordinal.DELEGATE_CREATE_OWNER_DELEGATION,
        Ordinal.DELEGATE_CREATE_KEY_DELEGATION,
    )
    for public, code in _damaged(public_info(family).encode()):
        body = public + bytes(20)
        tpm.call(by_owner, body=b"\0" + body, auth=[tpm.osap_owner()], code=code)
        tpm.call(by_key, body=key + body, auth=[tpm.osap_owner()], code=code)
    body = b"\2" + public_info(family).encode() + bytes(20)
    tpm.call(by_owner, body=body, auth=[tpm.osap_owner()], code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.DELEGATE_LOAD_OWNER_DELEGATION)
def rows_of_what_is_no_owner_blob(tpm: Script) -> None:
    load = Ordinal.DELEGATE_LOAD_OWNER_DELEGATION
    blob = make_owner_blob(tpm, new_family(tpm)).encode()
    body = bytes(4) + SIZED.write(b"\0\x27" + blob[2:])
    tpm.call(load, body=body, auth=[tpm.oiap()], code=RC.INVALID_STRUCTURE)


@case(OWNED, Ordinal.DELEGATE_LOAD_OWNER_DELEGATION)
def a_blob_of_another_size_than_it_says(tpm: Script) -> None:
    blob = make_owner_blob(tpm, new_family(tpm)).encode()
    body = bytes(4) + U32.write(len(blob) + 1) + blob
    load = Ordinal.DELEGATE_LOAD_OWNER_DELEGATION
    tpm.call(load, body=body, auth=[tpm.oiap()], code=RC.BAD_PARAM_SIZE)


# --- delegates ------------------------------------------------------------------------------------


@case(OWNED, Ordinal.DELEGATE_CREATE_KEY_DELEGATION)
def a_delegate_of_a_key_passes_it_on(tpm: Script) -> None:
    create = Ordinal.DELEGATE_CREATE_KEY_DELEGATION
    family, other, key = new_family(tpm), new_family(tpm), tpm.load("sign")
    blob = make_key_blob(tpm, key, family, SIGN | CREATE_KEY).encode()
    for to, per1, code in (
        (other, SIGN, RC.DELEGATE_FAMILY),
        (family, SIGN | 1, RC.AUTHFAIL),
        (family, SIGN, RC.SUCCESS),
    ):
        auth = open_dsap(tpm, EntityType.DEL_KEY_BLOB, blob, key=key)
        public = public_info(to, per1, kind=DelegateType.KEY)
        secret = tpm.encrypt(auth, WRONG_AUTH)
        made = tpm.call(create, key, public, secret, auth=[auth], code=code)
    passed = getattr(made, "blob", b"")
    auth = open_dsap(tpm, EntityType.DEL_KEY_BLOB, passed, key=key, secret=WRONG_AUTH)
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[auth])


@case(OWNED, Ordinal.DELEGATE_CREATE_KEY_DELEGATION)
def key_delegations_of_keys_that_are_not_there(tpm: Script) -> None:
    create = Ordinal.DELEGATE_CREATE_KEY_DELEGATION
    public = public_info(new_family(tpm), SIGN, kind=DelegateType.KEY)
    for handle, code in (
        (77, RC.INVALID_KEYHANDLE),
        (ReservedHandle.EK, RC.KEYNOTFOUND),
        (ReservedHandle.OWNER, RC.INVALID_RESOURCE),
    ):
        tpm.call(create, handle, public, bytes(20), auth=[tpm.osap_owner()], code=code)
    key = tpm.load("sign")
    tpm.call(create, key, public, bytes(20), auth=[tpm.no_session()], code=RC.INVALID_AUTHHANDLE)
    tpm.call(create, key, public, bytes(20), auth=[tpm.osap_owner()], code=RC.AUTHFAIL)
    owner = Ordinal.DELEGATE_CREATE_OWNER_DELEGATION
    values = (False, public_info(1), bytes(20))
    tpm.call(owner, *values, auth=[tpm.osap_key()], code=RC.AUTHFAIL)


@case(OWNED, Ordinal.DELEGATE_CREATE_KEY_DELEGATION)
def a_key_that_is_bound_to_other_pcrs_is_delegated(tpm: Script) -> None:
    family, key = new_family(tpm), tpm.load("sign-bound")
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    auth = tpm.osap_key(key, USAGE_AUTH)
    public = public_info(family, SIGN, kind=DelegateType.KEY)
    values = (key, public, tpm.encrypt(auth, DELEGATE_AUTH))
    tpm.call(Ordinal.DELEGATE_CREATE_KEY_DELEGATION, *values, auth=[auth])


@case(OWNED, Ordinal.DELEGATE_CREATE_OWNER_DELEGATION, Ordinal.DELEGATE_CREATE_KEY_DELEGATION)
def delegations_of_a_disabled_family(tpm: Script) -> None:
    family, key = new_family(tpm, enable=False), tpm.load("sign")
    blob = make_owner_blob(tpm, family).encode()
    make_key_blob(tpm, key, family)
    # What was delegated comes alive with the family.
    tpm.call(Ordinal.DSAP, EntityType.DEL_OWNER_BLOB, 0, DIGEST, blob, code=RC.DISABLED_CMD)
    manage(tpm, family, OPERATION.ENABLE, b"\1", auth=tpm.oiap())
    tpm.call(OWNER_READ, auth=[open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)])


@case(OWNED, Ordinal.DELEGATE_CREATE_OWNER_DELEGATION, Ordinal.DELEGATE_CREATE_KEY_DELEGATION)
def sessions_that_delegated_are_over(tpm: Script) -> None:
    family, key = new_family(tpm), tpm.load("sign")
    owner, per_key = tpm.osap_owner(keep=True), tpm.osap_key(key, USAGE_AUTH, keep=True)
    values = (False, public_info(family), tpm.encrypt(owner, DELEGATE_AUTH))
    tpm.call(Ordinal.DELEGATE_CREATE_OWNER_DELEGATION, *values, auth=[owner])
    public = public_info(family, SIGN, kind=DelegateType.KEY)
    secret = tpm.encrypt(per_key, DELEGATE_AUTH)
    tpm.call(Ordinal.DELEGATE_CREATE_KEY_DELEGATION, key, public, secret, auth=[per_key])
    for auth in (owner, per_key):
        handle = auth.session.handle
        tpm.call(Ordinal.TERMINATE_HANDLE, handle, code=RC.INVALID_AUTHHANDLE)


# --- verification ---------------------------------------------------------------------------------


@case(OWNED, Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION)
def delegations_of_a_family_that_is_gone(tpm: Script) -> None:
    verify, update = Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION
    family = new_family(tpm)
    owner = make_owner_blob(tpm, family)
    per_key = make_key_blob(tpm, tpm.load("sign"), family)
    load_row(tpm, 0, owner)
    manage(tpm, family, OPERATION.INVALIDATE, b"", auth=tpm.oiap())
    for blob in (owner, per_key):
        tpm.call(verify, blob.encode(), code=RC.BADINDEX)
        tpm.call(update, blob.encode(), auth=[tpm.oiap()], code=RC.BADINDEX)
        damaged = replace(blob, integrity_digest=bytes(20)).encode()
        tpm.call(verify, damaged, code=RC.BADINDEX)
        tpm.call(update, damaged, auth=[tpm.oiap()], code=RC.AUTHFAIL)
    tpm.call(update, U32.write(0), auth=[tpm.oiap()], code=RC.BADINDEX)
    load = Ordinal.DELEGATE_LOAD_OWNER_DELEGATION
    tpm.call(load, 1, owner, auth=[tpm.oiap()], code=RC.BADINDEX)
    # An id does not come back.
    manage(tpm, 0, OPERATION.CREATE, b"\x41", auth=tpm.oiap())
    tpm.call(Ordinal.DELEGATE_READ_TABLE)


@case(OWNED, Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION)
def blobs_of_neither_kind(tpm: Script) -> None:
    verify, update = Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION
    blob = make_owner_blob(tpm, new_family(tpm)).encode()
    for data, code in (
        (b"", RC.BAD_PARAM_SIZE),
        (b"\0", RC.BAD_PARAM_SIZE),
        (blob[:10], RC.BAD_PARAM_SIZE),
        (blob[:-1], RC.BAD_PARAM_SIZE),
        (b"\0\x2b" + blob[2:], RC.BAD_PARAMETER),
    ):
        tpm.call(verify, data, code=code)
        tpm.call(update, data, auth=[tpm.oiap()], code=code)


@case(OWNED, Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION)
def blobs_with_more_behind_them(tpm: Script) -> None:
    verify, update = Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION
    data = make_owner_blob(tpm, new_family(tpm)).encode() + b"\0"
    tpm.call(verify, data, code=RC.BAD_PARAM_SIZE)
    tpm.call(update, data, auth=[tpm.oiap()], code=RC.BAD_PARAM_SIZE)
