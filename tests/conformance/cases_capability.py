# SPDX-License-Identifier: Apache-2.0
"""Capabilities: every area and property, and each way to ask wrongly (Part 3, 7.1 and 7.3)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import (
    Algorithm,
    CapabilityArea,
    CapabilityProperty,
    NvAttributes,
    NvIndex,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    StartupType,
)
from protocol.tpm12.keys import KeyParms
from protocol.tpm12.transport import TransportAttributes
from tests.conformance.comparison import size
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
AREA = CapabilityArea
INDEX: Final = 0x00012345
RSA: Final = KeyParms.for_rsa(enc_scheme=3).encode()

_PRODUCT: Final = {
    CapabilityProperty.MANUFACTURER,
    CapabilityProperty.TIS_TIMEOUT,
    CapabilityProperty.DURATION,
    CapabilityProperty.KEYS,
    CapabilityProperty.MAX_KEYS,
    CapabilityProperty.CONTEXT,
    CapabilityProperty.MAX_CONTEXT,
    CapabilityProperty.MAX_NV_AVAILABLE,
}
"""Sizes and names that each product chooses; only their length is compared."""

_IN_FAILURE_MODE: Final = {
    CapabilityProperty.MANUFACTURER,
    CapabilityProperty.TIS_TIMEOUT,
    CapabilityProperty.DURATION,
}


def _version_info(value: bytes) -> object:
    """Compare a TPM_CAP_VERSION_INFO but for the revision and the vendor's name."""
    return value[:4].hex(), value[6:9].hex(), value[13:].hex()


def _refused(tpm: Script, area: int, sub_cap: bytes | int, code: ReturnCode) -> None:
    sub = sub_cap.to_bytes(4, "big") if isinstance(sub_cap, int) else sub_cap
    tpm.call(Ordinal.GET_CAPABILITY, area, sub, code=code)


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_of_every_ordinal(tpm: Script) -> None:
    for ordinal in [*range(0x100), 0x4000000A, 0x4000000B, 0x40000000]:
        tpm.capability(AREA.ORD, ordinal)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_of_every_property(tpm: Script) -> None:
    for prop in CapabilityProperty:
        tpm.capability(AREA.PROPERTY, prop, size if prop in _PRODUCT else None)


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_of_every_property_of_a_new_chip(tpm: Script) -> None:
    for prop in CapabilityProperty:
        tpm.capability(AREA.PROPERTY, prop, size if prop in _PRODUCT else None)
    for number in (0, 0x100, 0x105, 0x106, 0x108, 0x118, 0x121, 0x125, 0x200):
        _refused(tpm, AREA.PROPERTY, number, RC.BAD_MODE)


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_of_algorithms_and_protocols(tpm: Script) -> None:
    for number in range(8):
        tpm.capability(AREA.SYM_MODE, number)
        tpm.capability(AREA.PID, number.to_bytes(2, "big"))
    for area in (AREA.ALG, AREA.TRANS_ALG, AREA.AUTH_ENCRYPT):
        for number in range(12):
            tpm.capability(area, number)
    for number in range(8):
        tpm.capability(AREA.TRANS_ES, number.to_bytes(2, "big"))


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_flags_versions_and_lists(tpm: Script) -> None:
    tpm.flags()
    for number in (0x107, 0x10A):
        _refused(tpm, AREA.FLAG, number, RC.BAD_MODE)
    # Whatever subCap is, these four do not look at it.
    for sub_cap in (b"", b"\0", bytes(4), bytes(7)):
        tpm.capability(AREA.VERSION, sub_cap)
        tpm.capability(AREA.VERSION_VAL, sub_cap, _version_info)
        tpm.capability(AREA.NV_LIST, sub_cap)
        tpm.capability(AREA.KEY_HANDLE, sub_cap)
    for kind in (1, 2, 4, 5, 6, 8):
        tpm.capability(AREA.HANDLE, kind)
    for kind in (0, 3, 7, 9, 0xA, 99):
        _refused(tpm, AREA.HANDLE, kind, RC.BAD_PARAMETER)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_of_loaded_keys(tpm: Script) -> None:
    tpm.load("sign")
    handle = tpm.load("storage")
    tpm.capability(AREA.KEY_HANDLE, b"", size)
    tpm.capability(AREA.HANDLE, 1, size)
    tpm.capability(AREA.KEY_STATUS, handle)
    public = tpm.wrapped("storage").public_key
    tpm.run(tss12.key_control_owner(handle, public, True, owner_auth=OWNER_AUTH, random=tpm.random))
    tpm.capability(AREA.KEY_STATUS, handle)
    for unknown in (7, ReservedHandle.SRK, ReservedHandle.EK):
        _refused(tpm, AREA.KEY_STATUS, unknown, RC.INVALID_KEYHANDLE)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_to_load_another_key(tpm: Script) -> None:
    for bits in (512, 1024, 2048):
        tpm.capability(AREA.CHECK_LOADED, KeyParms.for_rsa(bits=bits).encode())
    _refused(tpm, AREA.CHECK_LOADED, b"\0\0\0\x0b" + RSA[4:], RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_to_load_a_key_that_is_not_for_rsa(tpm: Script) -> None:
    for algorithm in (Algorithm.SHA, Algorithm.AES128):
        parms = KeyParms(algorithm, 1, 1, b"").encode()
        tpm.call(Ordinal.GET_CAPABILITY, AREA.CHECK_LOADED, parms)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_to_load_a_key_that_does_not_parse(tpm: Script) -> None:
    for parms in (b"", RSA[:-1]):
        _refused(tpm, AREA.CHECK_LOADED, parms, RC.BAD_MODE)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_to_load_a_key_with_a_tail(tpm: Script) -> None:
    _refused(tpm, AREA.CHECK_LOADED, RSA + b"\0", RC.BAD_MODE)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_of_what_is_open(tpm: Script) -> None:
    """Compare the room for sessions, counters and contexts, each before and after taking some."""
    properties = (
        CapabilityProperty.AUTHSESS,
        CapabilityProperty.TRANSESS,
        CapabilityProperty.SESSIONS,
        CapabilityProperty.COUNTERS,
        CapabilityProperty.ACTIVE_COUNTER,
        CapabilityProperty.DAASESS,
    )
    secret = b"secret of a counter-"
    for _ in range(2):
        for prop in properties:
            tpm.capability(AREA.PROPERTY, prop)
        tpm.run(tss12.oiap())
        tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
        made = tpm.run(
            tss12.create_counter(
                label=b"test", counter_auth=secret, owner_auth=OWNER_AUTH, random=tpm.random
            )
        )
        session = tpm.run(tss12.oiap())
        tpm.run(tss12.save_context(session.handle, ResourceType.AUTH))
        tpm.capability(AREA.HANDLE, ResourceType.AUTH, size)
        tpm.capability(AREA.HANDLE, ResourceType.TRANS, size)
        tpm.capability(AREA.HANDLE, ResourceType.COUNTER)
        tpm.capability(AREA.HANDLE, ResourceType.CONTEXT)
    tpm.call(Ordinal.INCREMENT_COUNTER, made.count_id, auth=[tpm.oiap(secret)])
    tpm.capability(AREA.PROPERTY, CapabilityProperty.ACTIVE_COUNTER)
    tpm.call(Ordinal.RELEASE_COUNTER, made.count_id, auth=[tpm.oiap(secret)])
    tpm.capability(AREA.PROPERTY, CapabilityProperty.ACTIVE_COUNTER)


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_of_select_sizes(tpm: Script) -> None:
    for major, minor, size_bytes in ((1, 1, 2), (1, 1, 3), (1, 2, 3), (1, 2, 4), (1, 2, 0)):
        tpm.capability(AREA.SELECT_SIZE, bytes((major, minor, 0, size_bytes)))
    tpm.capability(AREA.SELECT_SIZE, b"\1\2\1\0")
    for version in (b"\2\1", b"\0\2", b"\1\0", b"\1\3"):
        _refused(tpm, AREA.SELECT_SIZE, version + b"\0\3", RC.BAD_PARAMETER)


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_of_a_select_size_of_the_wrong_length(tpm: Script) -> None:
    for sub_cap in (b"", b"\1\2\0", b"\1\2\0\3\0"):
        _refused(tpm, AREA.SELECT_SIZE, sub_cap, RC.BAD_MODE)


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_areas_that_do_not_exist(tpm: Script) -> None:
    for area in (0, 0x0A, 0x0B, 0x0E, 0x0F, 0x13, 0x16, 0x1B, 0x100, 0xFFFFFFFF):
        _refused(tpm, area, 0, RC.BAD_MODE)
    _refused(tpm, AREA.MFR, 0, RC.BAD_MODE)


_U32_AREAS: Final = (
    AREA.ORD,
    AREA.ALG,
    AREA.FLAG,
    AREA.PROPERTY,
    AREA.SYM_MODE,
    AREA.KEY_STATUS,
    AREA.NV_INDEX,
    AREA.TRANS_ALG,
    AREA.HANDLE,
    AREA.AUTH_ENCRYPT,
)


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_sub_caps_of_the_wrong_length(tpm: Script) -> None:
    for area in _U32_AREAS:
        for wrong in (b"", b"\0\1", b"\0\0\0\1\0"):
            _refused(tpm, area, wrong, RC.BAD_MODE)
    for area in (AREA.PID, AREA.TRANS_ES):
        for wrong in (b"", b"\1", b"\0\0\0\1"):
            _refused(tpm, area, wrong, RC.BAD_MODE)


@case(NEW, Ordinal.GET_CAPABILITY)
def capability_of_attack_logic_with_a_sub_cap_of_the_wrong_length(tpm: Script) -> None:
    for wrong in (b"", b"\1", b"\0\0\0\1"):
        _refused(tpm, AREA.DA_LOGIC, wrong, RC.BAD_MODE)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_of_nv_index(tpm: Script) -> None:
    permission = NvAttributes.OWNERREAD | NvAttributes.OWNERWRITE | NvAttributes.WRITE_STCLEAR
    info = tss12.pcr_info_short({16: DIGEST}, localities=0b110)
    for index in (INDEX, INDEX - 1):
        tpm.run(
            tss12.nv_define_space(
                index,
                4,
                permission,
                pcr_info_read=info,
                owner_auth=OWNER_AUTH,
                random=tpm.random,
            )
        )
    tpm.capability(AREA.NV_INDEX, INDEX)
    tpm.capability(AREA.NV_LIST)
    tpm.run(tss12.nv_lock())
    tpm.run(tss12.nv_write_value(INDEX, b"", owner_auth=OWNER_AUTH, random=tpm.random))
    tpm.capability(AREA.NV_INDEX, INDEX)
    for index in (INDEX + 1, NvIndex.DIR, 0, NvIndex.LOCK):
        _refused(tpm, AREA.NV_INDEX, index, RC.BADINDEX)


@case(OWNED, Ordinal.GET_CAPABILITY)
def capability_of_attack_logic(tpm: Script) -> None:
    for entity in (0, 1, 0xFFFF):
        tpm.capability(AREA.DA_LOGIC, entity.to_bytes(2, "big"))
    for _ in range(2):
        tpm.call(Ordinal.OWNER_SET_DISABLE, True, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.capability(AREA.DA_LOGIC, b"\0\2")
    tpm.call(Ordinal.SET_CAPABILITY, 1, b"\0\0\0\x14", b"\1", auth=[tpm.oiap()])
    tpm.capability(AREA.DA_LOGIC, b"\0\2")


@case(NEW, Ordinal.GET_CAPABILITY, start_up=False)
def capability_in_failure_mode(tpm: Script) -> None:
    tpm.call(Ordinal.STARTUP, StartupType.STATE, code=RC.FAILEDSELFTEST)
    tpm.capability(AREA.VERSION)
    tpm.capability(AREA.VERSION_VAL, b"", _version_info)
    for prop in CapabilityProperty:
        if prop in _IN_FAILURE_MODE:
            tpm.capability(AREA.PROPERTY, prop, size)
        else:
            _refused(tpm, AREA.PROPERTY, prop, RC.FAILEDSELFTEST)
    for sub_cap in (0, b"", b"\0\1"):
        _refused(tpm, AREA.PROPERTY, sub_cap, RC.FAILEDSELFTEST)
    for area in CapabilityArea:
        if area not in (AREA.VERSION, AREA.VERSION_VAL, AREA.PROPERTY, AREA.MFR):
            _refused(tpm, area, 1, RC.FAILEDSELFTEST)
    _refused(tpm, AREA.MFR, 0, RC.BAD_MODE)
    _refused(tpm, 0, 0, RC.FAILEDSELFTEST)


@case(OWNED, Ordinal.GET_CAPABILITY_OWNER)
def capability_for_the_owner(tpm: Script) -> None:
    tpm.call(Ordinal.GET_CAPABILITY_OWNER, auth=[tpm.oiap()], masks={"version": size})
    tpm.call(Ordinal.GET_CAPABILITY_OWNER, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.GET_CAPABILITY_OWNER, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    tpm.presence()
    tpm.call(Ordinal.DISABLE_FORCE_CLEAR)
    tpm.call(Ordinal.GET_CAPABILITY_OWNER, auth=[tpm.osap_owner()], masks={"version": size})
