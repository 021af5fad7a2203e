# SPDX-License-Identifier: Apache-2.0
"""Startup, saved states and self tests (Part 3, chapters 3 and 4)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import (
    CapabilityArea,
    CapabilityProperty,
    EntityType,
    NvAttributes,
    Ordinal,
    PhysicalPresenceFlags,
    ResourceType,
    ReturnCode,
    StartupType,
)
from protocol.tpm12.transport import TransportAttributes
from tests.conformance.comparison import size
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, USAGE_AUTH, Auth, Chapter, Script, message
from tests.unit.tpm12.world import OWNER_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, OWNED = World.NEW, World.OWNED
INDEX: Final = 0x00012345
COUNTER_AUTH: Final = b"secret of a counter-"


@case(NEW, Ordinal.STARTUP, start_up=False)
def startup_clear_once(tpm: Script) -> None:
    tpm.call(Ordinal.PCR_READ, 0, code=RC.INVALID_POSTINIT)
    tpm.call(Ordinal.STARTUP, StartupType.CLEAR)
    tpm.call(Ordinal.STARTUP, StartupType.CLEAR, code=RC.INVALID_POSTINIT)
    for pcr in range(24):
        tpm.call(Ordinal.PCR_READ, pcr)
    tpm.flags()


@case(NEW, Ordinal.STARTUP, start_up=False)
def startup_of_an_unknown_type(tpm: Script) -> None:
    for number in (0, 4, 0xFFFF):
        tpm.power_cycle(None)
        tpm.call(Ordinal.STARTUP, number, code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.STARTUP, StartupType.CLEAR)


@case(NEW, Ordinal.STARTUP, start_up=False)
def startup_with_bad_framing(tpm: Script) -> None:
    tpm.raw(message(Ordinal.STARTUP, b"\0"), code=RC.BAD_PARAM_SIZE)
    tpm.call(Ordinal.STARTUP, StartupType.CLEAR)


@case(NEW, Ordinal.STARTUP, start_up=False)
def startup_deactivated(tpm: Script) -> None:
    tpm.call(Ordinal.STARTUP, StartupType.DEACTIVATED)
    tpm.flags()
    tpm.call(Ordinal.PCR_READ, 0, code=RC.DEACTIVATED)
    tpm.call(Ordinal.EXTEND, 0, DIGEST)
    tpm.call(Ordinal.OIAP)
    tpm.power_cycle()
    tpm.call(Ordinal.PCR_READ, 0)
    tpm.flags()


@case(NEW, Ordinal.STARTUP, start_up=False)
def startup_state_without_a_saved_state(tpm: Script) -> None:
    tpm.call(Ordinal.STARTUP, StartupType.STATE, code=RC.FAILEDSELFTEST)
    tpm.call(Ordinal.PCR_READ, 0, code=RC.FAILEDSELFTEST)
    tpm.call(Ordinal.GET_TEST_RESULT)
    # It counts as started up, and only the power ends the failure.
    tpm.call(Ordinal.STARTUP, StartupType.CLEAR, code=RC.INVALID_POSTINIT)
    tpm.power_cycle()
    tpm.call(Ordinal.PCR_READ, 0)


@case(NEW, Ordinal.SAVE_STATE, Ordinal.STARTUP)
def saved_state_comes_back(tpm: Script) -> None:
    tpm.call(Ordinal.EXTEND, 3, DIGEST)
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    tpm.call(Ordinal.DISABLE_FORCE_CLEAR)
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    for pcr in range(24):
        tpm.call(Ordinal.PCR_READ, pcr)
    tpm.flags()


@case(NEW, Ordinal.SAVE_STATE, Ordinal.STARTUP)
def saved_state_is_void_after_another_command(tpm: Script) -> None:
    tpm.call(Ordinal.SAVE_STATE)
    tpm.call(Ordinal.GET_TICKS)
    tpm.power_cycle(None)
    tpm.call(Ordinal.STARTUP, StartupType.STATE, code=RC.FAILEDSELFTEST)


@case(NEW, Ordinal.SAVE_STATE, Ordinal.STARTUP)
def saved_state_serves_once(tpm: Script) -> None:
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    tpm.power_cycle(None)
    tpm.call(Ordinal.STARTUP, StartupType.STATE, code=RC.FAILEDSELFTEST)


@case(NEW, Ordinal.SAVE_STATE)
def startup_clear_ignores_a_saved_state(tpm: Script) -> None:
    tpm.call(Ordinal.EXTEND, 3, DIGEST)
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle()
    tpm.call(Ordinal.PCR_READ, 3)


@case(NEW, Ordinal.SAVE_STATE, Ordinal.STARTUP)
def startup_that_is_refused_keeps_the_saved_state(tpm: Script) -> None:
    tpm.call(Ordinal.EXTEND, 3, DIGEST)
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(None)
    tpm.call(Ordinal.STARTUP, 9, code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.STARTUP, StartupType.STATE)
    tpm.call(Ordinal.PCR_READ, 3)


@case(NEW, Ordinal.SAVE_STATE)
def startup_of_another_kind_drops_the_saved_state(tpm: Script) -> None:
    for kind in (StartupType.CLEAR, StartupType.DEACTIVATED):
        tpm.call(Ordinal.SAVE_STATE)
        tpm.power_cycle(kind)
        tpm.power_cycle(None)
        tpm.call(Ordinal.STARTUP, StartupType.STATE, code=RC.FAILEDSELFTEST)
        tpm.power_cycle()


@case(NEW, Ordinal.SAVE_STATE)
def saved_state_is_void_after_a_command_that_fails(tpm: Script) -> None:
    for command in (message(0x12345), message(Ordinal.PCR_READ, bytes(3))):
        tpm.call(Ordinal.SAVE_STATE)
        tpm.probe(command)
        tpm.power_cycle(None)
        tpm.call(Ordinal.STARTUP, StartupType.STATE, code=RC.FAILEDSELFTEST)
        tpm.power_cycle()


@case(OWNED, Ordinal.SAVE_STATE)
def saving_the_state_inside_a_transport_session(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    save = tss12.through(session, tss12.save_state())
    tpm.fails(save, Ordinal.SAVE_STATE, RC.NO_WRAP_TRANSPORT)
    tpm.power_cycle(None)
    tpm.call(Ordinal.STARTUP, StartupType.STATE, code=RC.FAILEDSELFTEST)


def _counter(tpm: Script) -> int:
    made = tpm.run(
        tss12.create_counter(
            label=b"test", counter_auth=COUNTER_AUTH, owner_auth=OWNER_AUTH, random=tpm.random
        )
    )
    return made.count_id


def _increment(tpm: Script, counter: int, code: ReturnCode = RC.SUCCESS) -> None:
    auth = [tpm.oiap(COUNTER_AUTH)]
    tpm.call(Ordinal.INCREMENT_COUNTER, counter, auth=auth, code=code)


def _locked_area(tpm: Script) -> None:
    """Define an area, and lock it for writing and the TPM for good."""
    permission = NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD | NvAttributes.WRITE_STCLEAR
    tpm.run(tss12.nv_define_space(INDEX, 4, permission, owner_auth=OWNER_AUTH, random=tpm.random))
    tpm.run(tss12.nv_lock())
    tpm.run(tss12.nv_write_value(INDEX, b"", owner_auth=OWNER_AUTH, random=tpm.random))


def _write(tpm: Script, code: ReturnCode = RC.SUCCESS) -> None:
    tpm.call(Ordinal.NV_WRITE_VALUE, INDEX, 0, b"data", auth=[tpm.oiap()], code=code)


def _fill(tpm: Script) -> tuple[int, int, int, Auth, Auth]:
    """Bring about volatile state of every kind.

    Returns: handle of a key, two counters of which the second is active, sessions on owner and key.
    """
    _locked_area(tpm)
    counters = _counter(tpm), _counter(tpm)
    _increment(tpm, counters[1])
    tpm.call(Ordinal.TSC_PHYSICAL_PRESENCE, PhysicalPresenceFlags.PRESENT)
    handle = tpm.load("sign")
    owner = tpm.oiap(keep=True)
    key = tpm.osap(EntityType.KEYHANDLE, handle, USAGE_AUTH, keep=True)
    tpm.call(Ordinal.EXTEND, 1, DIGEST)
    tpm.call(Ordinal.EXTEND, 23, DIGEST)
    return handle, *counters, owner, key


def _room(tpm: Script) -> None:
    """Compare what is loaded, open and active."""
    tpm.capability(CapabilityArea.HANDLE, ResourceType.KEY, size)
    tpm.capability(CapabilityArea.HANDLE, ResourceType.AUTH, size)
    tpm.capability(CapabilityArea.HANDLE, ResourceType.CONTEXT)
    tpm.capability(CapabilityArea.PROPERTY, CapabilityProperty.ACTIVE_COUNTER)
    tpm.call(Ordinal.PCR_READ, 1)
    tpm.call(Ordinal.PCR_READ, 23)
    tpm.flags()


@case(OWNED, Ordinal.SAVE_STATE, Ordinal.STARTUP)
def saved_state_has_keys_sessions_and_locks(tpm: Script) -> None:
    handle, idle, active, owner, key = _fill(tpm)
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    _room(tpm)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[key])
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[owner])
    _write(tpm, RC.AREA_LOCKED)
    _increment(tpm, idle, RC.BAD_COUNTER)
    _increment(tpm, active)
    tpm.call(Ordinal.PHYSICAL_ENABLE)


@case(OWNED, Ordinal.SAVE_STATE, Ordinal.STARTUP, Ordinal.LOAD_CONTEXT)
def saved_state_has_transport_sessions_and_saved_contexts(tpm: Script) -> None:
    transport = tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    session = tpm.run(tss12.oiap())
    blob = tpm.run(tss12.save_context(session.handle, ResourceType.AUTH))
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    tpm.capability(CapabilityArea.HANDLE, ResourceType.TRANS, size)
    tpm.capability(CapabilityArea.HANDLE, ResourceType.CONTEXT)
    tpm.run(tss12.through(transport, tss12.pcr_read(1)))
    tpm.call(Ordinal.LOAD_CONTEXT, session.handle, False, blob)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[Auth(session, OWNER_AUTH)])


@case(OWNED, Ordinal.STARTUP)
def startup_clear_begins_anew(tpm: Script) -> None:
    handle, idle, _active, owner, _key = _fill(tpm)
    tpm.call(Ordinal.DISABLE_FORCE_CLEAR)
    tpm.power_cycle()
    _room(tpm)
    tpm.call(Ordinal.SIGN, handle, DIGEST, code=RC.INVALID_KEYHANDLE)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[owner], code=RC.INVALID_AUTHHANDLE)
    _write(tpm)
    _increment(tpm, idle)
    tpm.call(Ordinal.PHYSICAL_ENABLE, code=RC.BAD_PRESENCE)


@case(OWNED, Ordinal.STARTUP)
def startup_clear_voids_saved_sessions_and_keeps_the_owners_keys(tpm: Script) -> None:
    handle = tpm.load("sign")
    public = tpm.wrapped("sign").public_key
    tpm.run(tss12.key_control_owner(handle, public, True, owner_auth=OWNER_AUTH, random=tpm.random))
    tpm.load("bind")
    session = tpm.run(tss12.oiap())
    blob = tpm.run(tss12.save_context(session.handle, ResourceType.AUTH))
    tpm.power_cycle()
    _room(tpm)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(Ordinal.LOAD_CONTEXT, session.handle, False, blob, code=RC.BADCONTEXT)


@case(OWNED, Ordinal.STARTUP, Ordinal.SAVE_STATE)
def startup_and_saving_the_state_are_audited(tpm: Script) -> None:
    for ordinal in (Ordinal.STARTUP, Ordinal.SAVE_STATE):
        auth = [tpm.oiap()]
        tpm.call(Ordinal.SET_ORDINAL_AUDIT_STATUS, ordinal, True, auth=auth)
    tpm.power_cycle()
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0x98)
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0x98)


@case(NEW, Ordinal.SELF_TEST_FULL, Ordinal.CONTINUE_SELF_TEST, Ordinal.GET_TEST_RESULT)
def self_tests_succeed(tpm: Script) -> None:
    for ordinal in (Ordinal.CONTINUE_SELF_TEST, Ordinal.SELF_TEST_FULL):
        tpm.power_cycle()
        tpm.call(Ordinal.GET_TEST_RESULT)
        tpm.call(ordinal)
        tpm.call(Ordinal.GET_TEST_RESULT)


@case(OWNED, Ordinal.SELF_TEST_FULL, Ordinal.CONTINUE_SELF_TEST, Ordinal.GET_TEST_RESULT)
def self_tests_while_disabled_and_deactivated(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.SET_TEMP_DEACTIVATED)
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    for ordinal in (Ordinal.SELF_TEST_FULL, Ordinal.CONTINUE_SELF_TEST, Ordinal.GET_TEST_RESULT):
        tpm.call(ordinal)
