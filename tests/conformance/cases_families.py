# SPDX-License-Identifier: Apache-2.0
"""Families of delegations: who manages them, with an owner and without (Part 3, 19.1 and 19.4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import EntityType, Ordinal, ReturnCode
from protocol.tpm12.delegation import DelegateOwnerBlob, DelegateSensitive
from protocol.tpm12.wire import U32
from tests.conformance.cases_delegation import (
    CREATE_OWNER,
    DELEGATE_AUTH,
    LOAD_OWNER,
    MANAGE,
    OPERATION,
    OWNER_READ,
    READ_PUBEK,
    UPDATE,
    load_row,
    make_owner_blob,
    manage,
    new_family,
    open_dsap,
    public_info,
)
from tests.conformance.machines import World
from tests.conformance.script import Auth, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED


@case(OWNED, Ordinal.DELEGATE_MANAGE, Ordinal.DELEGATE_READ_TABLE)
def families_of_the_owner(tpm: Script) -> None:
    manage(tpm, 0, OPERATION.CREATE, b"\x41", auth=tpm.oiap())
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    manage(tpm, 1, OPERATION.ENABLE, b"\1", auth=tpm.oiap())
    manage(tpm, 1, OPERATION.ADMIN, b"\1", auth=tpm.osap_owner())
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    manage(tpm, 1, OPERATION.ENABLE, b"\0", auth=tpm.oiap())
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    manage(tpm, 0, OPERATION.CREATE, b"\x42", RC.AUTHFAIL, auth=tpm.oiap(spoil=True))
    manage(tpm, 0, OPERATION.CREATE, b"\x42", RC.AUTHFAIL)
    manage(tpm, 7, OPERATION.ENABLE, b"\1", RC.BADINDEX, auth=tpm.oiap())
    manage(tpm, 0, OPERATION.CREATE, b"\1\2", RC.BAD_PARAM_SIZE, auth=tpm.oiap())
    manage(tpm, 1, OPERATION.ENABLE, b"", RC.BAD_PARAM_SIZE, auth=tpm.oiap())
    manage(tpm, 1, OPERATION.ADMIN, b"\1\1", RC.BAD_PARAM_SIZE, auth=tpm.oiap())
    manage(tpm, 1, 9, b"\1", RC.BAD_PARAMETER, auth=tpm.oiap())
    manage(tpm, 1, OPERATION.INVALIDATE, b"", auth=tpm.oiap())
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    manage(tpm, 1, OPERATION.ENABLE, b"\1", RC.BADINDEX, auth=tpm.oiap())


@case(OWNED, Ordinal.DELEGATE_MANAGE)
def a_family_flag_that_is_no_boolean(tpm: Script) -> None:
    family = new_family(tpm, enable=False)
    for operation in (OPERATION.ENABLE, OPERATION.ADMIN):
        manage(tpm, family, operation, b"\2", RC.BAD_PARAMETER, auth=tpm.oiap())


@case(NEW, Ordinal.DELEGATE_MANAGE)
def families_without_an_owner(tpm: Script) -> None:
    manage(tpm, 0, OPERATION.CREATE, b"\x41")
    manage(tpm, 1, OPERATION.ENABLE, b"\1")
    manage(tpm, 1, OPERATION.ADMIN, b"\1")
    manage(tpm, 1, OPERATION.ENABLE, b"\0", RC.DELEGATE_LOCK)
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    for label in range(15):
        manage(tpm, 0, OPERATION.CREATE, bytes((label,)))
    manage(tpm, 0, OPERATION.CREATE, b"\x41", RC.RESOURCES)
    tpm.call(Ordinal.DELEGATE_READ_TABLE)


@case(OWNED, Ordinal.DELEGATE_MANAGE, Ordinal.DELEGATE_CREATE_OWNER_DELEGATION)
def a_delegate_manages_only_its_own_family(tpm: Script) -> None:
    family, other = new_family(tpm), new_family(tpm)
    blob = make_owner_blob(tpm, family, MANAGE | CREATE_OWNER | READ_PUBEK).encode()
    auth = open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    manage(tpm, other, OPERATION.ENABLE, b"\1", RC.DELEGATE_FAMILY, auth=auth)
    auth = open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    values = (False, public_info(other), tpm.encrypt(auth, DELEGATE_AUTH))
    delegate = Ordinal.DELEGATE_CREATE_OWNER_DELEGATION
    tpm.call(delegate, *values, auth=[auth], code=RC.DELEGATE_FAMILY)
    auth = open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    values = (False, public_info(family, 1 << 8), tpm.encrypt(auth, DELEGATE_AUTH))
    tpm.call(delegate, *values, auth=[auth], code=RC.AUTHFAIL)
    auth = open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    values = (False, public_info(family), tpm.encrypt(auth, DELEGATE_AUTH))
    tpm.call(delegate, *values, auth=[auth])


@case(
    OWNED,
    Ordinal.DELEGATE_MANAGE,
    Ordinal.DELEGATE_LOAD_OWNER_DELEGATION,
    Ordinal.DELEGATE_UPDATE_VERIFICATION,
)
def delegates_and_the_families_of_others(tpm: Script) -> None:
    family, other = new_family(tpm), new_family(tpm)
    blob = make_owner_blob(tpm, family, MANAGE | UPDATE | LOAD_OWNER).encode()
    theirs = make_owner_blob(tpm, other)
    load_row(tpm, 1, theirs)

    def delegate() -> list[Auth]:
        return [open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)]

    load, update = Ordinal.DELEGATE_LOAD_OWNER_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION
    code = RC.DELEGATE_FAMILY
    for operation in (OPERATION.ENABLE, OPERATION.ADMIN, OPERATION.INVALIDATE):
        manage(tpm, other, operation, b"\1", code, auth=delegate()[0])
    tpm.call(load, 0, theirs, auth=delegate(), code=code)
    tpm.call(update, theirs.encode(), auth=delegate(), code=code)
    tpm.call(update, U32.write(1), auth=delegate(), code=code)
    # With his own family a delegate may do what was delegated.
    ours = make_owner_blob(tpm, family)
    tpm.call(update, ours.encode(), auth=delegate())
    tpm.call(load, 0, ours, auth=delegate())
    tpm.call(update, U32.write(0), auth=delegate())
    manage(tpm, family, OPERATION.ADMIN, b"\1", auth=delegate()[0])
    tpm.call(Ordinal.DELEGATE_READ_TABLE)


def _clear_blob(family: int, sensitive: bytes = b"") -> DelegateOwnerBlob:
    """Return what is loaded into a row while there is no owner whose keys could protect it."""
    public = replace(public_info(family), verification_count=1)
    secret = sensitive or DelegateSensitive(DELEGATE_AUTH).encode()
    return DelegateOwnerBlob(public, bytes(20), b"", secret)


@case(NEW, Ordinal.DELEGATE_LOAD_OWNER_DELEGATION)
def rows_without_an_owner(tpm: Script) -> None:
    load = Ordinal.DELEGATE_LOAD_OWNER_DELEGATION
    manage(tpm, 0, OPERATION.CREATE, b"\x41")
    tpm.call(load, 0, _clear_blob(1), code=RC.DISABLED_CMD)
    tpm.call(load, 0, _clear_blob(2), code=RC.BADINDEX)
    manage(tpm, 1, OPERATION.ENABLE, b"\1")
    tpm.call(load, 4, _clear_blob(1), code=RC.BADINDEX)
    bad_tag = _clear_blob(1, b"\0\x27" + bytes(20))
    tpm.call(load, 0, bad_tag, code=RC.INVALID_STRUCTURE)
    tpm.call(load, 4, bad_tag, code=RC.INVALID_STRUCTURE)
    manage(tpm, 1, OPERATION.ENABLE, b"\1", RC.AUTHFAIL, auth=tpm.oiap())
    tpm.call(load, 3, _clear_blob(1))
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    manage(tpm, 1, OPERATION.ADMIN, b"\1")
    tpm.call(load, 0, _clear_blob(1), code=RC.DELEGATE_LOCK)
    for operation in (OPERATION.ENABLE, OPERATION.ADMIN, OPERATION.INVALIDATE):
        manage(tpm, 1, operation, b"\0", RC.DELEGATE_LOCK)


@case(NEW, Ordinal.DELEGATE_LOAD_OWNER_DELEGATION, Ordinal.DELEGATE_MANAGE)
def tables_that_were_written_too_often_without_an_owner(tpm: Script) -> None:
    manage(tpm, 0, OPERATION.CREATE, b"\x41")
    for _ in range(62):
        manage(tpm, 1, OPERATION.ENABLE, b"\1")
    tpm.call(Ordinal.DELEGATE_LOAD_OWNER_DELEGATION, 0, _clear_blob(1))
    load = Ordinal.DELEGATE_LOAD_OWNER_DELEGATION
    tpm.call(load, 0, _clear_blob(1), code=RC.MAXNVWRITES)
    manage(tpm, 1, OPERATION.ENABLE, b"\1", RC.MAXNVWRITES)
    manage(tpm, 0, OPERATION.CREATE, b"\1", RC.MAXNVWRITES)
    tpm.call(Ordinal.DELEGATE_READ_TABLE)


@case(UNOWNED, Ordinal.DELEGATE_LOAD_OWNER_DELEGATION)
def a_row_from_before_there_was_an_owner(tpm: Script) -> None:
    manage(tpm, 0, OPERATION.CREATE, b"\x41")
    manage(tpm, 1, OPERATION.ENABLE, b"\1")
    tpm.call(Ordinal.DELEGATE_LOAD_OWNER_DELEGATION, 2, _clear_blob(1))
    tpm.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
    tpm.call(OWNER_READ, auth=[open_dsap(tpm, EntityType.DEL_ROW, U32.write(2))])
    # Its blob has no integrity digest, which counts now.
    load = Ordinal.DELEGATE_LOAD_OWNER_DELEGATION
    tpm.call(load, 0, _clear_blob(1), auth=[tpm.oiap()], code=RC.AUTHFAIL)


@case(OWNED, Ordinal.DELEGATE_MANAGE)
def the_lock_of_a_family_does_not_bind_the_owner(tpm: Script) -> None:
    family = new_family(tpm, enable=False)
    manage(tpm, family, OPERATION.ADMIN, b"\1", auth=tpm.oiap())
    manage(tpm, family, OPERATION.ENABLE, b"\1", auth=tpm.oiap())
    manage(tpm, family, OPERATION.ADMIN, b"\0", auth=tpm.oiap())
    for operation in (OPERATION.ENABLE, OPERATION.ADMIN):
        for data in (b"", b"\1\1"):
            manage(tpm, family, operation, data, RC.BAD_PARAM_SIZE, auth=tpm.oiap())
    # The family is looked for before the session is verified.
    manage(tpm, 99, OPERATION.ENABLE, b"\1", RC.BADINDEX, auth=tpm.oiap(spoil=True))
    manage(tpm, family, OPERATION.ENABLE, b"", RC.AUTHFAIL, auth=tpm.oiap(spoil=True))
    tpm.call(Ordinal.DELEGATE_READ_TABLE)
