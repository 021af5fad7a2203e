# SPDX-License-Identifier: Apache-2.0
"""What a TPM says of itself (Part 3, chapter 7)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Annotated, Final

from protocol.tpm12.constants import (
    COUNT_ID_ILLEGAL,
    COUNT_ID_NULL,
    Algorithm,
    CapabilityArea,
    CapabilityFlag,
    CapabilityProperty,
    Ordinal,
    ProtocolId,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.keys import KeyParms
from protocol.tpm12.records import record
from protocol.tpm12.resources import CapVersionInfo
from protocol.tpm12.wire import (
    SIZED,
    U32,
    VERSION_1_1,
    BadKeyProperty,
    FixedBytes,
    Structure,
    WireError,
)
from tpmcore.errors import TpmError
from tpmcore.tpm12 import selftest, transport_cipher
from tpmcore.tpm12.command import AUTH1, NO_AUTH, Command, Gate, Nothing
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.lockout import THRESHOLD
from tpmcore.tpm12.state import SelfTest
from tpmcore.tpm12.tpm import Tpm

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_TRUE: Final = b"\x01"
_FALSE: Final = b"\x00"

SPEC_LEVEL: Final = 2
ERRATA_REVISION: Final = 3
PROTOCOL_IDS: Final = frozenset(
    {
        ProtocolId.OIAP,
        ProtocolId.OSAP,
        ProtocolId.ADIP,
        ProtocolId.ADCP,
        ProtocolId.OWNER,
        ProtocolId.DSAP,
        ProtocolId.TRANSPORT,
    }
)
DIR_COUNT: Final = 1
CONTEXT_DISTANCE: Final = 0xFFFFFFFF
STARTUP_EFFECT: Final = 0x54
"""Startup(CLEAR) zeroes the audit digest, drops keys and hash threads (Part 2, 21.2)."""
DA_ACTION_TIMEOUT: Final = 0x1


@record
class GetCapabilityRequest(Structure):
    """capArea u32, subCap sized."""

    cap_area: Annotated[int, U32]
    sub_cap: Annotated[bytes, SIZED]


@record
class GetCapabilityResponse(Structure):
    """resp sized."""

    resp: Annotated[bytes, SIZED]


def _bool(value: bool) -> bytes:
    return _TRUE if value else _FALSE


def _sub_u16(sub_cap: bytes) -> int:
    if len(sub_cap) != 2:
        raise TpmError(ReturnCode.BAD_MODE)
    return int(_U16.unpack(sub_cap)[0])


def _sub_u32(sub_cap: bytes) -> int:
    if len(sub_cap) != 4:
        raise TpmError(ReturnCode.BAD_MODE)
    return int(_U32.unpack(sub_cap)[0])


def _u32s(*values: int) -> bytes:
    return b"".join([_U32.pack(value) for value in values])


def _handle_list(handles: list[int]) -> bytes:
    """Return TPM_KEY_HANDLE_LIST: u16 count, u32 each."""
    return _U16.pack(len(handles)) + _u32s(*handles)


def firmware_version(tpm: Tpm) -> bytes:
    """Return TPM_VERSION: 1.2 and the firmware's revision."""
    return bytes((1, 2, *tpm.profile.firmware))


def version_info(tpm: Tpm) -> CapVersionInfo:
    """Return TPM_CAP_VERSION_INFO."""
    return CapVersionInfo(
        firmware_version(tpm), SPEC_LEVEL, ERRATA_REVISION, tpm.profile.manufacturer, 0
    )


def _active_counter(tpm: Tpm) -> int:
    """Return the active countID; none also if the active one was released (25.4)."""
    count_id = tpm.stclear.count_id
    return COUNT_ID_NULL if count_id == COUNT_ID_ILLEGAL else count_id


_PROPERTIES: Final[Mapping[int, Callable[[Tpm], bytes]]] = {
    CapabilityProperty.PCR: lambda tpm: _u32s(len(tpm.stclear.pcrs)),
    CapabilityProperty.DIR: lambda _tpm: _u32s(DIR_COUNT),
    CapabilityProperty.MANUFACTURER: lambda tpm: tpm.profile.manufacturer,
    CapabilityProperty.KEYS: lambda tpm: _u32s(tpm.free_key_slots),
    CapabilityProperty.MIN_COUNTER: lambda _tpm: _u32s(0),
    CapabilityProperty.AUTHSESS: lambda tpm: _u32s(tpm.free_session_slots),
    CapabilityProperty.TRANSESS: lambda tpm: _u32s(tpm.free_transport_slots),
    CapabilityProperty.COUNTERS: lambda tpm: _u32s(
        sum(not counter.valid for counter in tpm.permanent.counters)
    ),
    CapabilityProperty.MAX_AUTHSESS: lambda tpm: _u32s(tpm.profile.max_sessions),
    CapabilityProperty.MAX_TRANSESS: lambda tpm: _u32s(tpm.profile.max_transports),
    CapabilityProperty.MAX_COUNTERS: lambda tpm: _u32s(tpm.profile.max_counters),
    CapabilityProperty.MAX_KEYS: lambda tpm: _u32s(tpm.profile.max_keys),
    CapabilityProperty.OWNER: lambda tpm: _bool(tpm.is_owned),
    CapabilityProperty.CONTEXT: lambda tpm: _u32s(
        tpm.profile.max_saved_contexts - len(tpm.stany.context_list)
    ),
    CapabilityProperty.MAX_CONTEXT: lambda tpm: _u32s(tpm.profile.max_saved_contexts),
    CapabilityProperty.FAMILYROWS: lambda tpm: _u32s(tpm.profile.family_rows),
    CapabilityProperty.TIS_TIMEOUT: lambda tpm: _u32s(*tpm.profile.timeouts_us),
    CapabilityProperty.STARTUP_EFFECT: lambda _tpm: _u32s(STARTUP_EFFECT),
    CapabilityProperty.DELEGATE_ROW: lambda tpm: _u32s(tpm.profile.delegate_rows),
    CapabilityProperty.MAX_DAASESS: lambda tpm: _u32s(tpm.profile.max_daa_sessions),
    CapabilityProperty.DAASESS: lambda tpm: _u32s(tpm.free_daa_slots),
    CapabilityProperty.CONTEXT_DIST: lambda _tpm: _u32s(CONTEXT_DISTANCE),
    CapabilityProperty.DAA_INTERRUPT: lambda _tpm: _TRUE,
    CapabilityProperty.SESSIONS: lambda tpm: _u32s(
        tpm.free_session_slots + tpm.free_transport_slots
    ),
    CapabilityProperty.MAX_SESSIONS: lambda tpm: _u32s(
        tpm.profile.max_sessions + tpm.profile.max_transports
    ),
    CapabilityProperty.CMK_RESTRICTION: lambda tpm: _u32s(tpm.permanent.restrict_delegate),
    CapabilityProperty.DURATION: lambda tpm: _u32s(*tpm.profile.durations_us),
    CapabilityProperty.ACTIVE_COUNTER: lambda tpm: _u32s(_active_counter(tpm)),
    CapabilityProperty.MAX_NV_AVAILABLE: lambda tpm: _u32s(tpm.free_nv_bytes),
    CapabilityProperty.INPUT_BUFFER: lambda tpm: _u32s(tpm.profile.input_buffer_bytes),
}


def _ord(tpm: Tpm, sub_cap: bytes) -> bytes:
    # Imported late: the table is made of all families, this one among them.
    from tpmcore.tpm12.table import table_for

    return _bool(_sub_u32(sub_cap) in table_for(tpm.profile))


def _alg(_tpm: Tpm, sub_cap: bytes) -> bytes:
    return _bool(_sub_u32(sub_cap) == Algorithm.RSA)


def _pid(_tpm: Tpm, sub_cap: bytes) -> bytes:
    return _bool(_sub_u16(sub_cap) in PROTOCOL_IDS)


def _flag(tpm: Tpm, sub_cap: bytes) -> bytes:
    which = _sub_u32(sub_cap)
    if which == CapabilityFlag.PERMANENT:
        return tpm.permanent.flags.encode()
    if which == CapabilityFlag.VOLATILE:
        return tpm.stclear.flags.encode()
    raise TpmError(ReturnCode.BAD_MODE)


def _property(tpm: Tpm, sub_cap: bytes) -> bytes:
    answer = _PROPERTIES.get(_sub_u32(sub_cap))
    if answer is None:
        raise TpmError(ReturnCode.BAD_MODE)
    return answer(tpm)


def _check_loaded(tpm: Tpm, sub_cap: bytes) -> bytes:
    try:
        parms = KeyParms.decode(sub_cap)
    except BadKeyProperty:
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY) from None
    except WireError:
        raise TpmError(ReturnCode.BAD_MODE) from None
    return _bool(parms.algorithm_id == Algorithm.RSA and tpm.free_key_slots > 0)


def _key_status(tpm: Tpm, sub_cap: bytes) -> bytes:
    key = tpm.stclear.keys.get(_sub_u32(sub_cap))
    if key is None:
        raise TpmError(ReturnCode.INVALID_KEYHANDLE)
    return _bool(key.owner_evict)


def _sym_mode(_tpm: Tpm, sub_cap: bytes) -> bytes:
    """No symmetric mode is offered to callers."""
    _sub_u32(sub_cap)
    return _FALSE


def _trans_alg(_tpm: Tpm, sub_cap: bytes) -> bytes:
    """Algorithms that encrypt transport sessions."""
    return _bool(_sub_u32(sub_cap) in transport_cipher.SCHEMES)


def _trans_es(_tpm: Tpm, sub_cap: bytes) -> bytes:
    """Modes of the block cipher that encrypts transport sessions."""
    return _bool(_sub_u16(sub_cap) in transport_cipher.SCHEMES[Algorithm.AES128])


def _nv_index(tpm: Tpm, sub_cap: bytes) -> bytes:
    area = tpm.permanent.nv.get(_sub_u32(sub_cap))
    if area is None:
        raise TpmError(ReturnCode.BADINDEX)
    return area.current_public().encode()


def _handle(tpm: Tpm, sub_cap: bytes) -> bytes:
    lists: Mapping[int, list[int]] = {
        ResourceType.KEY: list(tpm.stclear.keys),
        ResourceType.AUTH: list(tpm.stany.sessions),
        ResourceType.TRANS: list(tpm.stany.transports),
        ResourceType.COUNTER: [
            i for i, counter in enumerate(tpm.permanent.counters) if counter.valid
        ],
        ResourceType.DAA_TPM: list(tpm.stany.daa_sessions),
        ResourceType.CONTEXT: list(tpm.stany.context_list),
    }
    handles = lists.get(_sub_u32(sub_cap))
    if handles is None:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    return _handle_list(handles)


def _auth_encrypt(_tpm: Tpm, sub_cap: bytes) -> bytes:
    return _bool(_sub_u32(sub_cap) in (Algorithm.XOR, Algorithm.AES128))


def _select_size(_tpm: Tpm, sub_cap: bytes) -> bytes:
    """TPM_SELECT_SIZE: major u8, minor u8, reqSize u16; version 1.1 knew 16 PCRs."""
    if len(sub_cap) != 4:
        raise TpmError(ReturnCode.BAD_MODE)
    major, minor, size = sub_cap[0], sub_cap[1], _sub_u16(sub_cap[2:])
    if major != 1 or minor not in (1, 2):
        raise TpmError(ReturnCode.BAD_PARAMETER)
    return _bool(1 <= size <= (2 if minor == 1 else 3))


def _da_logic(tpm: Tpm, sub_cap: bytes) -> bytes:
    """TPM_DA_INFO, or the limited form if the owner wants details hidden (Part 2, 21.10)."""
    _sub_u16(sub_cap)
    lockout = tpm.lockout
    seconds = lockout.seconds_left
    state = b"\x01" if seconds else b"\x00"
    action = b"\x00\x39" + _u32s(DA_ACTION_TIMEOUT)
    if tpm.permanent.flags.disable_full_da_logic_info:
        return b"\x00\x38" + state + action + _u32s(0)
    counts = _U16.pack(min(lockout.count, 0xFFFF)) + _U16.pack(THRESHOLD)
    return b"\x00\x37" + state + counts + action + _u32s(seconds, 0)


_AREAS: Final[Mapping[int, Callable[[Tpm, bytes], bytes]]] = {
    CapabilityArea.ORD: _ord,
    CapabilityArea.ALG: _alg,
    CapabilityArea.PID: _pid,
    CapabilityArea.FLAG: _flag,
    CapabilityArea.PROPERTY: _property,
    CapabilityArea.VERSION: lambda _tpm, _sub: VERSION_1_1.value,
    CapabilityArea.KEY_HANDLE: lambda tpm, _sub: _handle_list(list(tpm.stclear.keys)),
    CapabilityArea.CHECK_LOADED: _check_loaded,
    CapabilityArea.SYM_MODE: _sym_mode,
    CapabilityArea.KEY_STATUS: _key_status,
    CapabilityArea.NV_LIST: lambda tpm, _sub: _u32s(*tpm.permanent.nv),
    CapabilityArea.NV_INDEX: _nv_index,
    CapabilityArea.TRANS_ALG: _trans_alg,
    CapabilityArea.HANDLE: _handle,
    CapabilityArea.TRANS_ES: _trans_es,
    CapabilityArea.AUTH_ENCRYPT: _auth_encrypt,
    CapabilityArea.SELECT_SIZE: _select_size,
    CapabilityArea.DA_LOGIC: _da_logic,
    CapabilityArea.VERSION_VAL: lambda tpm, _sub: version_info(tpm).encode(),
}

# What is told before the self tests and after one that failed.
_WITHOUT_SELF_TEST: Final = frozenset(
    {CapabilityArea.VERSION, CapabilityArea.VERSION_VAL, CapabilityArea.MFR}
)
_PROPERTIES_WITHOUT_SELF_TEST: Final = frozenset(
    _U32.pack(name)
    for name in (
        CapabilityProperty.MANUFACTURER,
        CapabilityProperty.DURATION,
        CapabilityProperty.TIS_TIMEOUT,
    )
)


def get_capability(ctx: Context, request: GetCapabilityRequest) -> GetCapabilityResponse:
    """Answer one question (7.1)."""
    tpm = ctx.tpm
    area, sub_cap = request.cap_area, request.sub_cap
    if tpm.self_test is not SelfTest.FULL and not (
        area in _WITHOUT_SELF_TEST
        or (area == CapabilityArea.PROPERTY and sub_cap in _PROPERTIES_WITHOUT_SELF_TEST)
    ):
        # For any other ordinal the dispatcher does so; of this one it depends on the question.
        if tpm.self_test is SelfTest.LIMITED:
            selftest.run_all(tpm)
        if tpm.self_test is SelfTest.FAILED:
            raise TpmError(ReturnCode.FAILEDSELFTEST)
    answer = _AREAS.get(area)
    if answer is None:
        raise TpmError(ReturnCode.BAD_MODE)
    return GetCapabilityResponse(answer(tpm, sub_cap))


@record
class GetCapabilityOwnerResponse(Structure):
    """version 4, non_volatile_flags u32, volatile_flags u32."""

    version: Annotated[bytes, FixedBytes(4)]
    non_volatile_flags: Annotated[int, U32]
    volatile_flags: Annotated[int, U32]


def _flag_bits(flags: Structure) -> int:
    """Return the bools of a flags structure as a word, the first one as bit 0."""
    names = [name for name, _ in flags.layout()]
    return sum(1 << i for i, name in enumerate(names) if getattr(flags, name))


def get_capability_owner(ctx: Context, _request: Nothing) -> GetCapabilityOwnerResponse:
    """Give all flags to the owner (7.3); what the --status options of tpm-tools ask."""
    ctx.authorize_owner()
    tpm = ctx.tpm
    return GetCapabilityOwnerResponse(
        firmware_version(tpm), _flag_bits(tpm.permanent.flags), _flag_bits(tpm.stclear.flags)
    )


COMMANDS = (
    Command(
        Ordinal.GET_CAPABILITY,
        source="3:7.1",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS_AND_FAILED,
        request=GetCapabilityRequest,
        response=GetCapabilityResponse,
        handler=get_capability,
        volatile=False,
    ),
    Command(
        Ordinal.GET_CAPABILITY_OWNER,
        source="3:7.3",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=Nothing,
        response=GetCapabilityOwnerResponse,
        handler=get_capability_owner,
    ),
)
