# SPDX-License-Identifier: Apache-2.0
"""Sessions with delegated authority, and what they may do (Part 3, chapters 18.3 and 18.4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import (
    EntityType,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.delegation import DelegateType, FamilyOperation
from protocol.tpm12.wire import U32
from tests.conformance.cases_delegation import (
    CREATE_OWNER,
    DELEGATE_AUTH,
    MANAGE,
    OWNER_READ,
    READ_PUBEK,
    delegate_owner,
    load_row,
    make_key_blob,
    make_owner_blob,
    manage,
    new_family,
    open_dsap,
    public_info,
)
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, PCR_16, SRK, USAGE_AUTH, Chapter, Script
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
DSAP = Ordinal.DSAP
POINT = Ordinal.SET_OWNER_POINTER
ROW, OWNER_BLOB, KEY_BLOB = (
    EntityType.DEL_ROW,
    EntityType.DEL_OWNER_BLOB,
    EntityType.DEL_KEY_BLOB,
)
EVERY_BIT: Final = 0xFFFFFFFF
EVERY_KEY_BIT: Final = 0x1FFFFFFF


# --- opening --------------------------------------------------------------------------------------


@case(OWNED, Ordinal.DSAP)
def delegated_sessions_that_are_refused(tpm: Script) -> None:
    family, key = new_family(tpm), tpm.load("sign")
    owner, per_key = make_owner_blob(tpm, family), make_key_blob(tpm, key, family)
    damaged = replace(owner, integrity_digest=bytes(20)).encode()
    tpm.call(DSAP, OWNER_BLOB, 0, DIGEST, damaged, code=RC.AUTHFAIL)
    damaged = replace(per_key, integrity_digest=bytes(20)).encode()
    tpm.call(DSAP, KEY_BLOB, key, DIGEST, damaged, code=RC.AUTHFAIL)
    # The blob is judged before the key.
    tpm.call(DSAP, KEY_BLOB, 77, DIGEST, damaged, code=RC.AUTHFAIL)
    for kind in (OWNER_BLOB, KEY_BLOB):
        tpm.call(DSAP, kind, key, DIGEST, b"garbage", code=RC.WRONG_ENTITYTYPE)
    tpm.call(DSAP, OWNER_BLOB, key, DIGEST, per_key.encode(), code=RC.WRONG_ENTITYTYPE)
    tpm.call(DSAP, KEY_BLOB, key, DIGEST, owner.encode() + b"\0", code=RC.WRONG_ENTITYTYPE)
    for other in (0, 1, 2, 4, 6, 0x0A, 0x0B, 0x40):
        tpm.call(DSAP, other, key, DIGEST, owner.encode(), code=RC.BAD_PARAMETER)
    whole, other_scheme = owner.encode(), 0x0500 | OWNER_BLOB
    tpm.call(DSAP, other_scheme, 0, DIGEST, whole, code=RC.INAPPROPRIATE_ENC)
    for _ in range(16):
        tpm.oiap()
    tpm.call(DSAP, OWNER_BLOB, 0, DIGEST, whole, code=RC.RESOURCES)
    # What is delegated is judged before the slots, the scheme after them.
    tpm.call(DSAP, OWNER_BLOB, 0, DIGEST, b"garbage", code=RC.WRONG_ENTITYTYPE)
    tpm.call(DSAP, other_scheme, 0, DIGEST, whole, code=RC.RESOURCES)


@case(OWNED, Ordinal.DSAP)
def delegated_sessions_on_keys_that_are_not_there(tpm: Script) -> None:
    blob = make_key_blob(tpm, tpm.load("sign"), new_family(tpm)).encode()
    for handle, code in (
        (77, RC.INVALID_KEYHANDLE),
        (ReservedHandle.EK, RC.KEYNOTFOUND),
        (ReservedHandle.OWNER, RC.INVALID_RESOURCE),
        (tpm.load("sign-der"), RC.KEYNOTFOUND),
        (SRK, RC.KEYNOTFOUND),
    ):
        tpm.call(DSAP, KEY_BLOB, handle, DIGEST, blob, code=code)


@case(OWNED, Ordinal.DSAP, Ordinal.SET_OWNER_POINTER)
def delegations_of_a_family_that_changes(tpm: Script) -> None:
    family, key = new_family(tpm), tpm.load("sign")
    owner = make_owner_blob(tpm, family)
    load_row(tpm, 0, owner)
    per_key = make_key_blob(tpm, key, family).encode()
    ways = ((ROW, 0, U32.write(0)), (OWNER_BLOB, 0, owner.encode()), (KEY_BLOB, key, per_key))

    def refused(code: ReturnCode) -> None:
        for kind, handle, value in ways:
            tpm.call(DSAP, kind, handle, DIGEST, value, code=code)
        tpm.call(POINT, ROW, 0, code=code)

    delegate_owner(tpm, public_info(family), increment=True)
    refused(RC.FAMILYCOUNT)
    # That the family is disabled is found before that the delegation is stale or was changed.
    manage(tpm, family, FamilyOperation.ENABLE, b"\0", auth=tpm.oiap())
    refused(RC.DISABLED_CMD)
    damaged = replace(owner, integrity_digest=bytes(20)).encode()
    tpm.call(DSAP, OWNER_BLOB, 0, DIGEST, damaged, code=RC.DISABLED_CMD)
    manage(tpm, family, FamilyOperation.INVALIDATE, b"", auth=tpm.oiap())
    refused(RC.BADINDEX)


@case(OWNED, Ordinal.DSAP, Ordinal.SET_OWNER_POINTER)
def rows_that_are_not_there(tpm: Script) -> None:
    for row in (0, 3, 4, 0xFFFFFFFF):
        tpm.call(DSAP, ROW, 0, DIGEST, U32.write(row), code=RC.BADINDEX)
        tpm.call(POINT, ROW, row, code=RC.BADINDEX)
    for kind in (0, 1, 4, 7, 9, 0x0602, 0x0608):
        tpm.call(POINT, kind, 0, code=RC.BAD_PARAMETER)
    tpm.call(POINT, EntityType.OWNER, 0)


@case(OWNED, Ordinal.DSAP)
def numbers_of_rows_that_are_too_short(tpm: Script) -> None:
    for value in (b"", b"\0\0"):
        tpm.call(DSAP, ROW, 0, DIGEST, value, code=RC.BAD_PARAM_SIZE)


@case(OWNED, Ordinal.DSAP)
def a_number_of_a_row_with_more_behind_it(tpm: Script) -> None:
    tpm.call(DSAP, ROW, 0, DIGEST, bytes(5), code=RC.BAD_PARAM_SIZE)


# --- use ------------------------------------------------------------------------------------------


@case(OWNED, Ordinal.OWNER_READ_PUBEK, Ordinal.DISABLE_PUBEK_READ)
def delegations_that_do_not_permit_it(tpm: Script) -> None:
    family, key = new_family(tpm), tpm.load("sign")
    blob = make_owner_blob(tpm, family, EVERY_BIT & ~READ_PUBEK).encode()
    tpm.call(OWNER_READ, auth=[open_dsap(tpm, OWNER_BLOB, blob)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.DISABLE_PUBEK_READ, auth=[open_dsap(tpm, OWNER_BLOB, blob)])
    blob = make_owner_blob(tpm, family).encode()
    disable = Ordinal.DISABLE_PUBEK_READ
    tpm.call(disable, auth=[open_dsap(tpm, OWNER_BLOB, blob)], code=RC.AUTHFAIL)
    # What a key delegates is nothing of the owner's, and the reverse.
    per_key = make_key_blob(tpm, key, family, EVERY_KEY_BIT).encode()
    auth = open_dsap(tpm, KEY_BLOB, per_key, key=key)
    tpm.call(OWNER_READ, auth=[auth], code=RC.AUTHFAIL)
    auth = open_dsap(tpm, OWNER_BLOB, make_owner_blob(tpm, family, EVERY_BIT).encode())
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[auth], code=RC.AUTHFAIL)


@case(OWNED, Ordinal.CHANGE_AUTH_OWNER, Ordinal.GET_CAPABILITY_OWNER)
def what_nobody_may_delegate(tpm: Script) -> None:
    blob = make_owner_blob(tpm, new_family(tpm), EVERY_BIT).encode()
    for ordinal, values in (
        (Ordinal.CHANGE_AUTH_OWNER, (4, bytes(20), EntityType.OWNER)),
        (Ordinal.GET_CAPABILITY_OWNER, ()),
        (Ordinal.CMK_SET_RESTRICTIONS, (0,)),
    ):
        auth = open_dsap(tpm, OWNER_BLOB, blob)
        tpm.call(ordinal, *values, auth=[auth], code=RC.AUTHFAIL)


@case(OWNED, Ordinal.OWNER_READ_PUBEK)
def delegations_for_other_localities(tpm: Script) -> None:
    family = new_family(tpm)
    blob = delegate_owner(tpm, public_info(family, localities=2)).encode()
    auth = open_dsap(tpm, OWNER_BLOB, blob)
    tpm.call(OWNER_READ, auth=[auth], code=RC.BAD_LOCALITY)
    tpm.locality = 1
    tpm.call(OWNER_READ, auth=[open_dsap(tpm, OWNER_BLOB, blob)])


@case(OWNED, Ordinal.OWNER_READ_PUBEK, Ordinal.TICK_STAMP_BLOB)
def delegations_for_other_pcrs(tpm: Script) -> None:
    family, key = new_family(tpm), tpm.load("sign")
    limits = {16: bytes(20)}
    blob = delegate_owner(tpm, public_info(family, release=limits)).encode()
    auth = tpm.osap_key(key, USAGE_AUTH)
    public = public_info(family, 1 << 27, kind=DelegateType.KEY, release=limits)
    values = (key, public, tpm.encrypt(auth, DELEGATE_AUTH))
    made = tpm.call(Ordinal.DELEGATE_CREATE_KEY_DELEGATION, *values, auth=[auth])
    per_key = getattr(made, "blob", b"")

    def use(code: ReturnCode) -> None:
        tpm.call(OWNER_READ, auth=[open_dsap(tpm, OWNER_BLOB, blob)], code=code)
        auth = open_dsap(tpm, KEY_BLOB, per_key, key=key)
        tpm.call(Ordinal.TICK_STAMP_BLOB, key, DIGEST, DIGEST, auth=[auth], code=code)

    use(RC.SUCCESS)
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    # They do not matter to opening a session.
    use(RC.WRONGPCRVAL)
    tpm.call(Ordinal.PCR_RESET, PCR_16)
    use(RC.SUCCESS)


@case(OWNED, Ordinal.DSAP, Ordinal.SIGN)
def delegations_of_a_key_that_is_bound_to_other_pcrs(tpm: Script) -> None:
    key = tpm.load("sign-bound")
    blob = make_key_blob(tpm, key, new_family(tpm)).encode()
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    auth = open_dsap(tpm, KEY_BLOB, blob, key=key)
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[auth], code=RC.WRONGPCRVAL)
    tpm.call(Ordinal.PCR_RESET, PCR_16)
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[open_dsap(tpm, KEY_BLOB, blob, key=key)])


@case(OWNED, Ordinal.DSAP, Ordinal.CREATE_COUNTER)
def secrets_encrypted_under_delegated_sessions(tpm: Script) -> None:
    blob = make_owner_blob(tpm, new_family(tpm), 1 << 4).encode()
    auth = open_dsap(tpm, OWNER_BLOB, blob, keep=True)
    secret = b"secret of a counter-"
    tpm.call(Ordinal.CREATE_COUNTER, tpm.encrypt(auth, secret), b"abcd", auth=[auth])
    tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle, code=RC.INVALID_AUTHHANDLE)
    tpm.call(Ordinal.INCREMENT_COUNTER, 0, auth=[tpm.oiap(secret)])


# --- when they end --------------------------------------------------------------------------------


@case(OWNED, Ordinal.DELEGATE_MANAGE, Ordinal.DELEGATE_LOAD_OWNER_DELEGATION)
def delegated_sessions_end_with_the_tables(tpm: Script) -> None:
    family = new_family(tpm)
    blob = make_owner_blob(tpm, family)

    def ended() -> None:
        tpm.call(OWNER_READ, auth=[auth], code=RC.INVALID_AUTHHANDLE)

    for operation, data in ((1, b"\x42"), (2, b"\1"), (3, b"\0")):
        auth = open_dsap(tpm, OWNER_BLOB, blob.encode())
        manage(tpm, family, operation, data, auth=tpm.oiap())
        ended()
    # Also where the operation itself is refused, but not where it is not the owner's.
    for operation, data, code in (
        (1, b"", RC.BAD_PARAM_SIZE),
        (3, b"", RC.BAD_PARAM_SIZE),
        (9, b"\1", RC.BAD_PARAMETER),
    ):
        auth = open_dsap(tpm, OWNER_BLOB, blob.encode())
        manage(tpm, family, operation, data, code, auth=tpm.oiap())
        ended()
    auth = open_dsap(tpm, OWNER_BLOB, blob.encode(), keep=True)
    manage(tpm, family, 3, b"\0", RC.AUTHFAIL, auth=tpm.oiap(spoil=True))
    manage(tpm, 99, 3, b"\0", RC.BADINDEX, auth=tpm.oiap())
    tpm.call(OWNER_READ, auth=[auth])
    load_row(tpm, 0, blob)
    ended()
    auth = open_dsap(tpm, OWNER_BLOB, blob.encode())
    delegate_owner(tpm, public_info(family))
    tpm.call(OWNER_READ, auth=[replace(auth, keep=True)])
    delegate_owner(tpm, public_info(family), increment=True)
    ended()


@case(OWNED, Ordinal.DELEGATE_MANAGE)
def other_sessions_outlive_a_change_of_the_tables(tpm: Script) -> None:
    family = new_family(tpm)
    free, bound = tpm.oiap(), tpm.osap_key()
    manage(tpm, family, FamilyOperation.ADMIN, b"\0", auth=tpm.oiap())
    tpm.call(OWNER_READ, auth=[free])
    tpm.call(Ordinal.LOAD_KEY2, SRK, tpm.wrapped("sign"), auth=[bound])


@case(OWNED, Ordinal.DELEGATE_MANAGE)
def an_owners_session_outlives_a_change_of_the_tables(tpm: Script) -> None:
    family = new_family(tpm)
    bound = tpm.osap_owner(keep=True)
    # The session that authorized it goes on, too, if it is asked to.
    manage(tpm, family, FamilyOperation.ADMIN, b"\0", auth=bound)
    tpm.call(OWNER_READ, auth=[bound])


@case(OWNED, Ordinal.DELEGATE_MANAGE, Ordinal.LOAD_CONTEXT)
def a_saved_delegated_session_of_a_disabled_family(tpm: Script) -> None:
    family = new_family(tpm)
    blob = make_owner_blob(tpm, family).encode()
    auth = open_dsap(tpm, OWNER_BLOB, blob)
    saved = tpm.run(tss12.save_context(auth.session.handle, ResourceType.AUTH))
    auth.session.handle = tpm.run(tss12.load_context(saved))
    tpm.call(OWNER_READ, auth=[replace(auth, keep=True)])
    saved = tpm.run(tss12.save_context(auth.session.handle, ResourceType.AUTH))
    manage(tpm, family, FamilyOperation.ENABLE, b"\0", auth=tpm.oiap())
    tpm.call(Ordinal.LOAD_CONTEXT, 0, False, saved, code=RC.RESOURCEMISSING)


@case(OWNED, Ordinal.DELEGATE_MANAGE)
def a_delegate_who_manages_loses_his_session(tpm: Script) -> None:
    family = new_family(tpm)
    blob = make_owner_blob(tpm, family, MANAGE).encode()
    auth = open_dsap(tpm, OWNER_BLOB, blob, keep=True)
    manage(tpm, family, FamilyOperation.ADMIN, b"\1", auth=auth)
    tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle, code=RC.INVALID_AUTHHANDLE)
    auth = open_dsap(tpm, OWNER_BLOB, blob, keep=True)
    manage(tpm, 0, FamilyOperation.CREATE, b"\1", auth=auth)
    tpm.call(Ordinal.DELEGATE_READ_TABLE)


# --- the owner pointer ----------------------------------------------------------------------------


@case(OWNED, Ordinal.SET_OWNER_POINTER)
def the_owner_pointer_to_a_stale_row(tpm: Script) -> None:
    family = new_family(tpm)
    load_row(tpm, 0, make_owner_blob(tpm, family))
    delegate_owner(tpm, public_info(family), increment=True)
    tpm.call(POINT, ROW, 0, code=RC.FAMILYCOUNT)


@case(OWNED, Ordinal.SET_OWNER_POINTER, Ordinal.OSAP)
def sessions_of_the_owner_by_way_of_a_row(tpm: Script) -> None:
    family, other = new_family(tpm), new_family(tpm)
    load_row(tpm, 0, make_owner_blob(tpm, family, READ_PUBEK | MANAGE | CREATE_OWNER))
    tpm.call(POINT, ROW, 0)
    by_row = EntityType.OWNER, ReservedHandle.OWNER, DELEGATE_AUTH
    tpm.call(OWNER_READ, auth=[tpm.osap(*by_row)])
    tpm.call(Ordinal.DISABLE_PUBEK_READ, auth=[tpm.osap(*by_row)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.DISABLE_PUBEK_READ, auth=[tpm.oiap(DELEGATE_AUTH)], code=RC.AUTHFAIL)
    tpm.call(OWNER_READ, auth=[tpm.osap_owner()], code=RC.AUTHFAIL)
    flag = FamilyOperation.ADMIN
    manage(tpm, other, flag, b"\1", RC.DELEGATE_FAMILY, auth=tpm.oiap(DELEGATE_AUTH))
    manage(tpm, other, flag, b"\1", RC.DELEGATE_FAMILY, auth=tpm.osap(*by_row))
    auth = tpm.osap(*by_row, keep=True)
    manage(tpm, family, flag, b"\1", auth=auth)
    tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle, code=RC.INVALID_AUTHHANDLE)
    # The change set the pointer back.
    tpm.call(OWNER_READ, auth=[tpm.oiap()])


@case(OWNED, Ordinal.SET_OWNER_POINTER)
def the_owner_pointer_and_the_power(tpm: Script) -> None:
    load_row(tpm, 0, make_owner_blob(tpm, new_family(tpm)))
    tpm.call(POINT, ROW, 0)
    tpm.call(OWNER_READ, auth=[tpm.oiap(DELEGATE_AUTH)])
    tpm.power_cycle()
    tpm.call(OWNER_READ, auth=[tpm.oiap()])
    # The row is there still.
    tpm.call(POINT, ROW, 0)
    tpm.call(OWNER_READ, auth=[tpm.oiap(DELEGATE_AUTH)])


@case(OWNED, Ordinal.SET_OWNER_POINTER)
def the_owner_pointer_to_a_row_for_other_pcrs(tpm: Script) -> None:
    family = new_family(tpm)
    load_row(tpm, 0, delegate_owner(tpm, public_info(family, release={16: DIGEST})))
    load_row(tpm, 1, delegate_owner(tpm, public_info(family, localities=2)))
    tpm.call(POINT, ROW, 0)
    tpm.call(OWNER_READ, auth=[tpm.oiap(DELEGATE_AUTH)], code=RC.WRONGPCRVAL)
    tpm.call(POINT, ROW, 1)
    tpm.call(OWNER_READ, auth=[tpm.oiap(DELEGATE_AUTH)], code=RC.BAD_LOCALITY)
    tpm.locality = 1
    tpm.call(OWNER_READ, auth=[tpm.oiap(DELEGATE_AUTH)])
