# SPDX-License-Identifier: Apache-2.0
"""Monotonic counters: who may do what, and what outlives what (Part 3, chapter 25)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import EntityType, Ordinal, ReturnCode, StartupType
from tests.conformance.cases_delegation import make_owner_blob, new_family, open_dsap
from tests.conformance.machines import World
from tests.conformance.script import Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
COUNTER_AUTH: Final = b"secret of a counter-"
OTHER_AUTH: Final = b"secret of another---"
CREATE, INCREMENT, READ = Ordinal.CREATE_COUNTER, Ordinal.INCREMENT_COUNTER, Ordinal.READ_COUNTER
RELEASE, BY_OWNER = Ordinal.RELEASE_COUNTER, Ordinal.RELEASE_COUNTER_OWNER
ACTIVE: Final = 0x122


def _make(tpm: Script, secret: bytes = COUNTER_AUTH) -> None:
    auth = tpm.osap_owner()
    tpm.call(CREATE, tpm.encrypt(auth, secret), b"abcd", auth=[auth])


@case(OWNED, CREATE, INCREMENT, RELEASE, BY_OWNER)
def counters_with_a_session_that_is_wrong(tpm: Script) -> None:
    _make(tpm)
    _make(tpm, OTHER_AUTH)
    blob = make_owner_blob(tpm, new_family(tpm)).encode()
    tpm.call(CREATE, bytes(20), b"abcd", auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    for ordinal in (CREATE, BY_OWNER):
        values = (bytes(20), b"abcd") if ordinal == CREATE else (0,)
        tpm.call(ordinal, *values, auth=[tpm.no_session()], code=RC.INVALID_AUTHHANDLE)
        auth = open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
        tpm.call(ordinal, *values, auth=[auth], code=RC.AUTHFAIL)
    other = EntityType.COUNTER, 1, OTHER_AUTH
    for ordinal in (INCREMENT, RELEASE):
        tpm.call(ordinal, 0, auth=[tpm.no_session()], code=RC.INVALID_AUTHHANDLE)
        tpm.call(ordinal, 0, auth=[tpm.osap(*other)], code=RC.AUTHFAIL)
        # Not even the owner may.
        tpm.call(ordinal, 0, auth=[tpm.osap_owner()], code=RC.AUTHFAIL)
    tpm.call(BY_OWNER, 0, auth=[tpm.osap(*other)], code=RC.AUTHFAIL)
    # No refusal made a counter the active one, counted or released.
    tpm.capability(5, ACTIVE)
    for count_id in (0, 1):
        tpm.call(READ, count_id)


@case(OWNED, INCREMENT, RELEASE, BY_OWNER, CREATE)
def counters_with_two_faults(tpm: Script) -> None:
    for _ in range(8):
        _make(tpm)
    # Creating: the session, then the slots.
    tpm.call(CREATE, bytes(20), b"none", auth=[tpm.oiap()], code=RC.BAD_MODE)
    tpm.call(CREATE, bytes(20), b"none", auth=[tpm.osap_owner(spoil=True)], code=RC.AUTHFAIL)
    # Its own secret is judged after the counter, the owner's before it.
    for ordinal in (INCREMENT, RELEASE):
        wrong = tpm.oiap(COUNTER_AUTH, spoil=True)
        tpm.call(ordinal, 8, auth=[wrong], code=RC.BAD_COUNTER)
    tpm.call(BY_OWNER, 8, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(INCREMENT, 0, auth=[tpm.oiap(COUNTER_AUTH)])
    wrong = tpm.oiap(COUNTER_AUTH, spoil=True)
    tpm.call(INCREMENT, 1, auth=[wrong], code=RC.BAD_COUNTER)


@case(OWNED, INCREMENT)
def the_active_counter_and_the_power(tpm: Script) -> None:
    _make(tpm)
    _make(tpm)
    tpm.call(INCREMENT, 1, auth=[tpm.oiap(COUNTER_AUTH)])
    tpm.capability(5, ACTIVE)
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    tpm.capability(5, ACTIVE)
    tpm.call(INCREMENT, 0, auth=[tpm.oiap(COUNTER_AUTH)], code=RC.BAD_COUNTER)
    tpm.call(INCREMENT, 1, auth=[tpm.oiap(COUNTER_AUTH)])
    tpm.power_cycle()
    tpm.capability(5, ACTIVE)
    tpm.call(READ, 1)
    tpm.call(INCREMENT, 0, auth=[tpm.oiap(COUNTER_AUTH)])


@case(OWNED, CREATE)
def values_of_counters_never_go_back(tpm: Script) -> None:
    _make(tpm)
    for _ in range(3):
        tpm.call(INCREMENT, 0, auth=[tpm.oiap(COUNTER_AUTH)])
    tpm.call(BY_OWNER, 0, auth=[tpm.oiap()])
    _make(tpm)
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()])
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.PHYSICAL_SET_DEACTIVATED, False)
    tpm.power_cycle()
    tpm.call(READ, 0, code=RC.BAD_COUNTER)
    tpm.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=tpm.random))
    _make(tpm)


@case(OWNED, CREATE, BY_OWNER)
def counters_of_a_delegate(tpm: Script) -> None:
    family = new_family(tpm)
    blob = make_owner_blob(tpm, family, 1 << 4 | 1 << 3).encode()
    auth = open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)
    tpm.call(CREATE, tpm.encrypt(auth, COUNTER_AUTH), b"abcd", auth=[auth])
    tpm.call(INCREMENT, 0, auth=[tpm.oiap(COUNTER_AUTH)])
    tpm.call(BY_OWNER, 0, auth=[open_dsap(tpm, EntityType.DEL_OWNER_BLOB, blob)])
