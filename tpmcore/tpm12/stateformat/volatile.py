# SPDX-License-Identifier: Apache-2.0
"""The volatile state: what a running TPM would lose without power."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Annotated, Final

from protocol.errors import WireError
from protocol.tpm12.constants import COUNT_ID_ILLEGAL, COUNT_ID_NULL, ReservedHandle, StructureTag
from protocol.tpm12.records import record
from protocol.tpm12.wire import (
    BOOL,
    DIGEST,
    DIGEST_BYTES,
    U8,
    U16,
    U32,
    U64,
    FixedBytes,
    ListOf,
    Nested,
    Reader,
    Structure,
)
from tpmcore.tpm12.state import (
    ZERO_DIGEST,
    PermanentState,
    SelfTest,
    StanyState,
    StclearFlags,
    StclearState,
)
from tpmcore.tpm12.stateformat.frame import (
    MAX_LIST,
    check_there,
    head,
    join_sections,
    split_sections,
)
from tpmcore.tpm12.stateformat.keys import read_keys, write_keys
from tpmcore.tpm12.stateformat.sessions import (
    pack_session,
    read_daa_sessions,
    read_delegated,
    read_sessions,
    read_transports,
    write_delegated,
    write_transports,
)

VOLATILE_MAGIC: Final = b"VTPM12VS"
_HEAD: Final = head(VOLATILE_MAGIC)
# The same bytes as _StclearRecord, _StanyRecord and _ClockRecord, which read them: these three are
# written at every Extend, and the declared layouts cost ten times as much.
_PACK_STCLEAR = struct.Struct(">H5?20sI?IIQ").pack
_PACK_STANY = struct.Struct(">??20sI20s20sQ").pack
_PACK_CLOCK = struct.Struct(">Q8sB?").pack
_U64_MASK = (1 << 64) - 1
_FINGERPRINT_BYTES = 32


@record(repr=False)
class _StclearRecord(Structure):
    """TPM_STCLEAR_FLAGS and the small fields of TPM_STCLEAR_DATA.

    lockout_until_us is by the clock of `_ClockRecord`.
    """

    flags: StclearFlags
    context_nonce_key: Annotated[bytes, DIGEST]
    count_id: Annotated[int, U32]
    disable_reset_lock: Annotated[bool, BOOL]
    deferred_physical_presence: Annotated[int, U32]
    failure_count: Annotated[int, U32]
    lockout_until_us: Annotated[int, U64]


@record(repr=False)
class _StanyRecord(Structure):
    """TPM_STANY_FLAGS and the small fields of TPM_STANY_DATA; tick_base_us in two's complement."""

    post_initialise: Annotated[bool, BOOL]
    tos_present: Annotated[bool, BOOL]
    context_nonce_session: Annotated[bytes, DIGEST]
    context_count: Annotated[int, U32]
    audit_digest: Annotated[bytes, DIGEST]
    tick_nonce: Annotated[bytes, DIGEST]
    tick_base_us: Annotated[int, U64]


@record
class _ClockRecord(Structure):
    """The tick source at the moment of encoding, the self tests, the platform's presence signal.

    owner_period tells whether keys and sessions belong to the owner of the permanent state: a
    daemon can be killed after it saved one state and before it kept the other.
    """

    now_us: Annotated[int, U64]
    owner_period: Annotated[bytes, FixedBytes(8)]
    self_test: Annotated[int, U8]
    hardware_presence: Annotated[bool, BOOL]


@record
class _NvLockRecord(Structure):
    """Volatile locks of one NV area."""

    index: Annotated[int, U32]
    read_st_clear: Annotated[bool, BOOL]
    write_st_clear: Annotated[bool, BOOL]


_NV_LOCKS: Final = ListOf(Nested(_NvLockRecord), U16, MAX_LIST)
_CONTEXTS: Final = ListOf(U32, U16, MAX_LIST)
# Section numbers.
_V_STCLEAR, _V_STANY, _V_CLOCK, _V_PCRS, _V_SESSIONS = 1, 2, 3, 4, 5
_V_CONTEXTS, _V_KEYS, _V_NV_LOCKS, _V_TRANSPORTS = 6, 7, 8, 9
_V_DAA_SESSIONS = 10  # since 1.1
_V_DELEGATED = 12  # since 1.1
_V_FRESH_EK, _V_DEPRECATED = 13, 14  # since 1.2


def _owner_period(state: PermanentState) -> bytes:
    """Return 8 bytes that change with every owner: from tpmProof, which every owner gets anew."""
    return hashlib.sha256(b"owner period" + state.tpm_proof).digest()[:8]


@dataclass(slots=True, repr=False)
class VolatileState:
    """Everything that a restart of the daemon must not lose.

    Attributes:
        fresh_ek: see `Tpm.fresh_ek`; what SaveState keeps has none, as it outlives the run.
    """

    stclear: StclearState
    stany: StanyState
    self_test: SelfTest
    hardware_presence: bool
    fresh_ek: bytes = b""


def encode_volatile(state: VolatileState, permanent: PermanentState, now_us: int) -> bytes:
    """Return the volatile state, secrets in the clear.

    Args:
        permanent: holds the NV areas whose volatile locks are part of this.
        now_us: the tick source now.
    """
    stclear, stany = state.stclear, state.stany
    flags = stclear.flags
    sections = [
        (
            _V_STCLEAR,
            _PACK_STCLEAR(
                StructureTag.STCLEAR_FLAGS,
                flags.deactivated,
                flags.disable_force_clear,
                flags.physical_presence,
                flags.physical_presence_lock,
                flags.b_global_lock,
                stclear.context_nonce_key,
                stclear.count_id,
                stclear.disable_reset_lock,
                stclear.deferred_physical_presence,
                stclear.failure_count,
                stclear.lockout_until_us,
            ),
        ),
        (
            _V_STANY,
            _PACK_STANY(
                stany.post_initialise,
                stany.tos_present,
                stany.context_nonce_session,
                stany.context_count,
                stany.audit_digest,
                stany.tick_nonce,
                stany.tick_base_us & _U64_MASK,
            ),
        ),
        (
            _V_CLOCK,
            _PACK_CLOCK(now_us, _owner_period(permanent), state.self_test, state.hardware_presence),
        ),
        (_V_PCRS, b"".join(stclear.pcrs)),
    ]
    if stany.sessions:
        sections.append((_V_SESSIONS, b"".join([pack_session(s) for s in stany.sessions.values()])))
    if stany.context_list:
        sections.append((_V_CONTEXTS, _CONTEXTS.write(tuple(stany.context_list))))
    keys = [key for key in stclear.keys.values() if not key.owner_evict]
    if keys:
        sections.append((_V_KEYS, write_keys(keys)))
    locks = tuple(
        [
            _NvLockRecord(index, area.read_st_clear, area.write_st_clear)
            for index, area in permanent.nv.items()
            if area.read_st_clear or area.write_st_clear
        ]
    )
    if locks:
        sections.append((_V_NV_LOCKS, _NV_LOCKS.write(locks)))
    if stany.transports:
        sections.append((_V_TRANSPORTS, write_transports(stany)))
    if stany.daa_sessions:
        daa_sessions = [session.encode() for session in stany.daa_sessions.values()]
        sections.append((_V_DAA_SESSIONS, b"".join(daa_sessions)))
    delegated = [s for s in stany.sessions.values() if s.delegation is not None]
    if delegated or stclear.owner_reference != ReservedHandle.OWNER:
        sections.append((_V_DELEGATED, write_delegated(stclear, delegated)))
    if state.fresh_ek:
        sections.append((_V_FRESH_EK, state.fresh_ek))
    if stany.deprecated_nonce != ZERO_DIGEST:
        old = [count for count, deprecated in stany.context_list.items() if deprecated]
        sections.append((_V_DEPRECATED, stany.deprecated_nonce + _CONTEXTS.write(tuple(old))))
    return _HEAD + join_sections(sections)


_VOLATILE_SECTIONS: Final = frozenset(
    {
        _V_STCLEAR,
        _V_STANY,
        _V_CLOCK,
        _V_PCRS,
        _V_SESSIONS,
        _V_CONTEXTS,
        _V_KEYS,
        _V_NV_LOCKS,
        _V_DELEGATED,
        _V_TRANSPORTS,
        _V_DAA_SESSIONS,
        _V_FRESH_EK,
        _V_DEPRECATED,
    }
)


def decode_volatile(data: bytes, permanent: PermanentState, now_us: int) -> VolatileState:
    """Read what encode_volatile wrote; sets the volatile locks of the NV areas of `permanent`.

    Raises:
        WireError: the bytes do not form a volatile state.
    """
    _, sections = split_sections(VOLATILE_MAGIC, data, _VOLATILE_SECTIONS)
    for required in (_V_STCLEAR, _V_STANY, _V_CLOCK, _V_PCRS):
        if required not in sections:
            raise WireError("section", len(data), f"section {required} is missing")
    clock = _ClockRecord.decode(sections[_V_CLOCK])
    # The same clock goes on; after a reboot or on another machine it starts elsewhere, and what was
    # relative to the old one is moved, so that ticks never run backwards.
    shift_us = 0 if now_us >= clock.now_us else now_us - clock.now_us
    small = _StclearRecord.decode(sections[_V_STCLEAR])
    pcrs = sections[_V_PCRS]
    stclear = StclearState(
        small.flags,
        context_nonce_key=small.context_nonce_key,
        count_id=small.count_id,
        disable_reset_lock=small.disable_reset_lock,
        deferred_physical_presence=small.deferred_physical_presence,
        failure_count=small.failure_count,
        lockout_until_us=max(0, small.lockout_until_us + shift_us),
    )
    if len(pcrs) != 20 * len(stclear.pcrs):
        raise WireError("pcrs", 0, f"{len(pcrs)} bytes")
    stclear.pcrs = [pcrs[i : i + 20] for i in range(0, len(pcrs), 20)]
    if _V_KEYS in sections:
        stclear.keys = read_keys(sections[_V_KEYS], owner_evict=False)
    any_record = _StanyRecord.decode(sections[_V_STANY])
    stany = StanyState(
        any_record.post_initialise,
        tos_present=any_record.tos_present,
        context_nonce_session=any_record.context_nonce_session,
        context_count=any_record.context_count,
        context_list=_read_contexts(sections.get(_V_CONTEXTS)),
        audit_digest=any_record.audit_digest,
        sessions=read_sessions(sections.get(_V_SESSIONS, b"")),
        daa_sessions=read_daa_sessions(sections.get(_V_DAA_SESSIONS, b"")),
        tick_nonce=any_record.tick_nonce,
        tick_base_us=_signed(any_record.tick_base_us) + shift_us,
    )
    if _V_TRANSPORTS in sections:
        read_transports(sections[_V_TRANSPORTS], stany)
    read_delegated(sections.get(_V_DELEGATED), stclear, stany)
    if _V_DEPRECATED in sections:
        _read_deprecated(sections[_V_DEPRECATED], stany)
    if clock.owner_period != _owner_period(permanent):
        _forget_owner_period(stclear, stany)
    _catch_up(stclear, stany, permanent)
    _apply_locks(sections.get(_V_NV_LOCKS), permanent)
    try:
        self_test = SelfTest(clock.self_test)
    except ValueError as error:
        raise WireError("selfTest", 0, str(error)) from error
    fresh_ek = _read_fresh_ek(sections.get(_V_FRESH_EK), permanent)
    return VolatileState(stclear, stany, self_test, clock.hardware_presence, fresh_ek)


def _read_fresh_ek(data: bytes | None, permanent: PermanentState) -> bytes:
    """Return the fingerprint of an EK made in this run; empty if it is not the EK that is there."""
    if data is None:
        return b""
    if len(data) != _FINGERPRINT_BYTES:
        raise WireError("freshEk", 0, f"{len(data)} bytes, must be {_FINGERPRINT_BYTES}")
    ek = permanent.ek
    return data if ek is not None and ek.fingerprint() == data else b""


def _forget_owner_period(stclear: StclearState, stany: StanyState) -> None:
    """Do to a volatile state what the clear actions do (4.14): the permanent one is past them."""
    stclear.keys.clear()
    stclear.context_nonce_key = ZERO_DIGEST
    stclear.count_id = COUNT_ID_NULL
    stclear.deferred_physical_presence = 0
    stclear.failure_count = stclear.lockout_until_us = 0
    stclear.disable_reset_lock = False
    stclear.owner_reference = ReservedHandle.OWNER
    stany.sessions.clear()
    stany.daa_sessions.clear()
    stany.transports.clear()
    stany.transport_exclusive = 0
    stany.context_list.clear()
    stany.context_nonce_session = stany.deprecated_nonce = ZERO_DIGEST
    stany.audit_digest = ZERO_DIGEST


def _catch_up(stclear: StclearState, stany: StanyState, permanent: PermanentState) -> None:
    """Undo contradictions to a permanent state that is one command ahead."""
    # Pinned since: the volatile state still has the key as one that anybody may evict.
    stclear.keys |= permanent.owner_evict_keys
    counters, count_id = permanent.counters, stclear.count_id
    if count_id < len(counters) and not counters[count_id].valid:
        stclear.count_id = COUNT_ID_ILLEGAL
    reference = stclear.owner_reference
    row = permanent.delegate_rows.get(reference)
    if reference != ReservedHandle.OWNER and not (row and permanent.upholds(row.public)):
        stclear.owner_reference = ReservedHandle.OWNER
    for handle, session in list(stany.sessions.items()):
        if session.delegation is not None and not permanent.upholds(session.delegation):
            del stany.sessions[handle]


def _signed(value: int) -> int:
    """Undo two's complement: a tick session may have begun before the clock's zero."""
    return value - (1 << 64) if value >> 63 else value


def _read_contexts(data: bytes | None) -> dict[int, bool]:
    if data is None:
        return {}
    reader = Reader(data)
    contexts = _CONTEXTS.read(reader, "contexts")
    reader.finish("contexts")
    check_there(contexts, "contexts")
    if len(set(contexts)) != len(contexts):
        raise WireError("contexts", 0, "a count stands twice")
    return dict.fromkeys(contexts, False)


def _read_deprecated(data: bytes, stany: StanyState) -> None:
    reader = Reader(data)
    stany.deprecated_nonce = reader.take(DIGEST_BYTES, "deprecatedNonce")
    old = _CONTEXTS.read(reader, "deprecated")
    reader.finish("deprecated")
    if stany.deprecated_nonce == ZERO_DIGEST:
        raise WireError("deprecated", 0, "there is no nonce")
    if len(set(old)) != len(old):
        raise WireError("deprecated", 0, "a count stands twice")
    if not stany.context_list.keys() >= set(old):
        raise WireError("deprecated", 0, "a context is not among the saved ones")
    stany.context_list |= dict.fromkeys(old, True)


def _apply_locks(data: bytes | None, permanent: PermanentState) -> None:
    locks: tuple[_NvLockRecord, ...] = ()
    if data is not None:
        reader = Reader(data)
        locks = _NV_LOCKS.read(reader, "locks")
        reader.finish("locks")
        check_there(locks, "locks")
    if len({lock.index for lock in locks}) != len(locks):
        raise WireError("locks", 0, "an index stands twice")
    if not all(lock.read_st_clear or lock.write_st_clear for lock in locks):
        raise WireError("locks", 0, "an area is not locked")
    for area in permanent.nv.values():
        area.read_st_clear = area.write_st_clear = False
    for lock in locks:
        locked = permanent.nv.get(lock.index)
        # Deleted since: the permanent state may be one command ahead of this one.
        if locked is not None:
            locked.read_st_clear = lock.read_st_clear
            locked.write_st_clear = lock.write_st_clear
