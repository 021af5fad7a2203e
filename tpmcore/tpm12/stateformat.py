# SPDX-License-Identifier: Apache-2.0
"""How the state of a TPM becomes bytes: two documented, versioned, canonical formats.

Both begin with 8 magic bytes, u16 major and u16 minor version, and go on with sections, each u16
number, u32 length and so many bytes, in ascending order of the numbers. Integers are big-endian. A
reader refuses another major version, a newer minor version, an unknown or repeated section, and
trailing bytes; a section that an older minor version did not have gets its default. The layouts of
the sections are the dataclasses and functions below; `docs/formats.md` has them as tables.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final

from protocol.errors import WireError
from protocol.tpm12.constants import (
    COUNT_ID_ILLEGAL,
    COUNT_ID_NULL,
    AdipScheme,
    ProtocolId,
    ReservedHandle,
    StructureTag,
)
from protocol.tpm12.delegation import DelegatePublic, FamilyTableEntry
from protocol.tpm12.keys import Key, KeyParms, PubKey
from protocol.tpm12.resources import NvDataPublic
from protocol.tpm12.transport import TransportPublic
from protocol.tpm12.wire import (
    BOOL,
    DIGEST,
    DIGEST_BYTES,
    SIZED,
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
from tpmcore.tpm12.daa_session import LAST_STAGE, DaaSecrets, DaaSession
from tpmcore.tpm12.rsa import PrivateKey
from tpmcore.tpm12.state import (
    ZERO_DIGEST,
    Counter,
    DelegateRow,
    EndorsementKey,
    EntityKind,
    KeyBody,
    LoadedKey,
    NvArea,
    PermanentFlags,
    PermanentState,
    SelfTest,
    Session,
    StanyState,
    StclearFlags,
    StclearState,
    TransportSession,
)

PERMANENT_MAGIC: Final = b"VTPM12PS"
VOLATILE_MAGIC: Final = b"VTPM12VS"
MAJOR: Final = 1
MINOR: Final = 2

_PACK_SECTION = struct.Struct(">HI").pack
_VERSION_BYTES = struct.pack(">HH", MAJOR, MINOR)
_SESSION = struct.Struct(">IBB20s20s20sB")
# The same bytes as _StclearRecord, _StanyRecord and _ClockRecord, which read them: these three are
# written at every Extend, and the declared layouts cost ten times as much.
_PACK_STCLEAR = struct.Struct(">H5?20sI?IIQ").pack
_PACK_STANY = struct.Struct(">??20sI20s20sQ").pack
_PACK_CLOCK = struct.Struct(">Q8sB?").pack
# So are these, at every change of the permanent state.
_PACK_SECRETS = struct.Struct(">20s16s16s").pack
_PACK_DATA = struct.Struct(">20s20sII").pack
_PACK_COUNTER = struct.Struct(">?4sI20s20s").pack
_PACK_AUDIT_STATUS = struct.Struct(">I?").pack
_MAX_LIST = 1 << 16
_U64_MASK = (1 << 64) - 1
_FINGERPRINT_BYTES = 32


@dataclass(frozen=True, slots=True, repr=False)
class _KeyRecord(Structure):
    """KeyBody: public TPM_KEY or TPM_KEY12, payload type, secrets, both primes."""

    public: Key
    payload: Annotated[int, U8]
    usage_auth: Annotated[bytes, DIGEST]
    migration_auth: Annotated[bytes, DIGEST]
    p: Annotated[bytes, SIZED]
    q: Annotated[bytes, SIZED]


@dataclass(frozen=True, slots=True, repr=False)
class _LoadedKeyRecord(Structure):
    """LoadedKey: handle, parentPCRStatus, key."""

    handle: Annotated[int, U32]
    parent_pcr_status: Annotated[bool, BOOL]
    body: _KeyRecord


@dataclass(frozen=True, slots=True, repr=False)
class _EkRecord(Structure):
    """EndorsementKey, and the secret of RevokeTrust."""

    parms: KeyParms
    p: Annotated[bytes, SIZED]
    q: Annotated[bytes, SIZED]
    ek_reset: Annotated[bytes, DIGEST]


@dataclass(frozen=True, slots=True, repr=False)
class _OwnerRecord(Structure):
    """Owner secret and SRK."""

    owner_auth: Annotated[bytes, DIGEST]
    srk: _KeyRecord


@dataclass(frozen=True, slots=True, repr=False)
class _SecretsRecord(Structure):
    """Secrets of this TPM and owner period."""

    tpm_proof: Annotated[bytes, DIGEST]
    context_key: Annotated[bytes, FixedBytes(16)]
    delegate_key: Annotated[bytes, FixedBytes(16)]


@dataclass(frozen=True, slots=True, repr=False)
class _DataRecord(Structure):
    """Small fields of TPM_PERMANENT_DATA."""

    operator_auth: Annotated[bytes, DIGEST]
    auth_dir: Annotated[bytes, DIGEST]
    restrict_delegate: Annotated[int, U32]
    no_owner_nv_write: Annotated[int, U32]


@dataclass(frozen=True, slots=True, repr=False)
class _CounterRecord(Structure):
    """Counter slot."""

    valid: Annotated[bool, BOOL]
    label: Annotated[bytes, FixedBytes(4)]
    value: Annotated[int, U32]
    auth: Annotated[bytes, DIGEST]
    entity_digest: Annotated[bytes, DIGEST]


@dataclass(frozen=True, slots=True, repr=False)
class _NvRecord(Structure):
    """NV area without its volatile locks."""

    public: NvDataPublic
    auth_value: Annotated[bytes, DIGEST]
    entity_digest: Annotated[bytes, DIGEST]
    write_define_locked: Annotated[bool, BOOL]
    data: Annotated[bytes, SIZED]


@dataclass(frozen=True, slots=True, repr=False)
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


@dataclass(frozen=True, slots=True, repr=False)
class _StanyRecord(Structure):
    """TPM_STANY_FLAGS and the small fields of TPM_STANY_DATA; tick_base_us in two's complement."""

    post_initialise: Annotated[bool, BOOL]
    tos_present: Annotated[bool, BOOL]
    context_nonce_session: Annotated[bytes, DIGEST]
    context_count: Annotated[int, U32]
    audit_digest: Annotated[bytes, DIGEST]
    tick_nonce: Annotated[bytes, DIGEST]
    tick_base_us: Annotated[int, U64]


@dataclass(frozen=True, slots=True)
class _ClockRecord(Structure):
    """The tick source at the moment of encoding, the self tests, the platform's presence signal.

    owner_period tells whether keys and sessions belong to the owner of the permanent state: a
    daemon can be killed after it saved one state and before it kept the other.
    """

    now_us: Annotated[int, U64]
    owner_period: Annotated[bytes, FixedBytes(8)]
    self_test: Annotated[int, U8]
    hardware_presence: Annotated[bool, BOOL]


@dataclass(frozen=True, slots=True, repr=False)
class _TransportRecord(Structure):
    """TransportSession."""

    handle: Annotated[int, U32]
    public: TransportPublic
    auth_data: Annotated[bytes, DIGEST]
    nonce_even: Annotated[bytes, DIGEST]
    digest: Annotated[bytes, DIGEST]


@dataclass(frozen=True, slots=True)
class _NvLockRecord(Structure):
    """Volatile locks of one NV area."""

    index: Annotated[int, U32]
    read_st_clear: Annotated[bool, BOOL]
    write_st_clear: Annotated[bool, BOOL]


@dataclass(frozen=True, slots=True)
class _AuditStatusRecord(Structure):
    """An ordinal whose audit status is not its default."""

    ordinal: Annotated[int, U32]
    audited: Annotated[bool, BOOL]


@dataclass(frozen=True, slots=True)
class _AuditRecord(Structure):
    """auditMonotonicCounter and ordinalAuditStatus, the latter by ascending ordinals."""

    counter: Annotated[int, U32]
    status: Annotated[
        tuple[_AuditStatusRecord, ...], ListOf(Nested(_AuditStatusRecord), U16, _MAX_LIST)
    ]


@dataclass(frozen=True, slots=True)
class _FamilyRecord(Structure):
    """A row of the family table."""

    row: Annotated[int, U32]
    family: FamilyTableEntry


@dataclass(frozen=True, slots=True, repr=False)
class _DelegateRecord(Structure):
    """A row of the delegate table."""

    row: Annotated[int, U32]
    public: DelegatePublic
    auth_value: Annotated[bytes, DIGEST]


@dataclass(frozen=True, slots=True, repr=False)
class _DelegationRecord(Structure):
    """Both delegation tables, each by ascending row numbers."""

    last_family_id: Annotated[int, U32]
    families: Annotated[tuple[_FamilyRecord, ...], ListOf(Nested(_FamilyRecord), U16, _MAX_LIST)]
    rows: Annotated[tuple[_DelegateRecord, ...], ListOf(Nested(_DelegateRecord), U16, _MAX_LIST)]


@dataclass(frozen=True, slots=True)
class _DelegatedSessionRecord(Structure):
    """What a session of section 5 may do."""

    handle: Annotated[int, U32]
    public: DelegatePublic


@dataclass(frozen=True, slots=True)
class _DelegatedRecord(Structure):
    """The owner pointer, and the sessions with delegated authority in the order of section 5."""

    owner_reference: Annotated[int, U32]
    sessions: Annotated[
        tuple[_DelegatedSessionRecord, ...],
        ListOf(Nested(_DelegatedSessionRecord), U16, _MAX_LIST),
    ]


_COUNTERS: Final = ListOf(Nested(_CounterRecord), U16, _MAX_LIST)
_NV_AREAS: Final = ListOf(Nested(_NvRecord), U16, _MAX_LIST)
_NV_LOCKS: Final = ListOf(Nested(_NvLockRecord), U16, _MAX_LIST)
_KEYS: Final = ListOf(Nested(_LoadedKeyRecord), U16, _MAX_LIST)
_CONTEXTS: Final = ListOf(U32, U16, _MAX_LIST)
_TRANSPORTS: Final = ListOf(Nested(_TransportRecord), U16, _MAX_LIST)

# Section numbers of the permanent state.
_P_FLAGS, _P_SECRETS, _P_OWNER, _P_EK, _P_DATA = 1, 2, 3, 4, 5
_P_COUNTERS, _P_NV, _P_OWNER_EVICT, _P_SAVED = 6, 7, 8, 9
_P_DAA, _P_MAINTENANCE = 10, 11  # since 1.1
_P_AUDIT, _P_DELEGATION = 12, 13  # since 1.1
# Section numbers of the volatile state.
_V_STCLEAR, _V_STANY, _V_CLOCK, _V_PCRS, _V_SESSIONS = 1, 2, 3, 4, 5
_V_CONTEXTS, _V_KEYS, _V_NV_LOCKS, _V_TRANSPORTS = 6, 7, 8, 9
_V_DAA_SESSIONS = 10  # since 1.1
_V_DELEGATED = 12  # since 1.1
_V_FRESH_EK, _V_DEPRECATED = 13, 14  # since 1.2


def _assemble(magic: bytes, sections: list[tuple[int, bytes]]) -> bytes:
    head = magic + _VERSION_BYTES
    return head + b"".join([_PACK_SECTION(number, len(data)) + data for number, data in sections])


def _sections(magic: bytes, data: bytes, known: frozenset[int]) -> tuple[int, dict[int, bytes]]:
    """Return the minor version and the sections by number."""
    reader = Reader(data)
    found = reader.take(len(magic), "magic")
    if found != magic:
        raise WireError("magic", 0, f"{magic!r} wanted, found {found!r}")
    major, minor = reader.u16("major"), reader.u16("minor")
    if major != MAJOR or minor > MINOR:
        raise WireError("version", 8, f"{major}.{minor} is not read by {MAJOR}.{MINOR}")
    sections: dict[int, bytes] = {}
    last = 0
    while reader.remaining:
        start = reader.position
        number = reader.u16("section")
        if number <= last or number not in known:
            raise WireError("section", start, f"{number} is unknown, repeated or out of order")
        sections[number] = reader.sized("section")
        last = number
    return minor, sections


def _owner_period(state: PermanentState) -> bytes:
    """Return 8 bytes that change with every owner: from tpmProof, which every owner gets anew."""
    return hashlib.sha256(b"owner period" + state.tpm_proof).digest()[:8]


def _number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _private(p: bytes, q: bytes, exponent: int) -> PrivateKey:
    return PrivateKey(int.from_bytes(p, "big"), int.from_bytes(q, "big"), exponent)


def _key_record(body: KeyBody) -> _KeyRecord:
    private = body.private
    return _KeyRecord(
        body.public,
        body.payload,
        body.usage_auth,
        body.migration_auth,
        _number(private.p),
        _number(private.q),
    )


def _key_bytes(body: KeyBody) -> bytes:
    """Return a _KeyRecord of a key that is written at each change of the permanent state."""
    if body.encoded is None:
        record = _key_record(body)
        head = record.public.encode() + U8.write(record.payload)
        body.encoded = (head, SIZED.write(record.p) + SIZED.write(record.q))
    head, tail = body.encoded
    return head + body.usage_auth + body.migration_auth + tail


def _ek_bytes(ek: EndorsementKey) -> bytes:
    """Return an _EkRecord without its last field; made once."""
    if ek.encoded is None:
        numbers = SIZED.write(_number(ek.private.p)) + SIZED.write(_number(ek.private.q))
        ek.encoded = ek.parms.encode() + numbers
    return ek.encoded


def _key_body(record: _KeyRecord) -> KeyBody:
    private = _private(record.p, record.q, record.public.algorithm_parms.rsa.exponent_value)
    if private.modulus != record.public.pub_key:
        raise WireError("key", 0, "the primes do not make the modulus")
    return KeyBody(
        record.public,
        record.payload,
        record.usage_auth,
        record.migration_auth,
        private,
        record.public.public_digest(),
    )


def encode_key(key: LoadedKey) -> bytes:
    """Return a loaded key as bytes; made once per key, since keys do not change while loaded."""
    if key.encoded is None:
        record = _LoadedKeyRecord(key.handle, key.parent_pcr_status, _key_record(key.body))
        key.encoded = record.encode()
    return key.encoded


def decode_key(data: bytes) -> LoadedKey:
    """Read what encode_key wrote.

    Raises:
        WireError: the bytes do not form a key.
    """
    record = _LoadedKeyRecord.decode(data)
    return LoadedKey(record.handle, _key_body(record.body), record.parent_pcr_status, encoded=data)


def encode_session(session: Session) -> bytes:
    """Return a session as 67 bytes and, if it has one, its delegation; the secrets of an OIAP
    session are zero."""
    delegation = session.delegation
    return _pack_session(session) + (b"" if delegation is None else delegation.encode())


def _pack_session(session: Session) -> bytes:
    return _SESSION.pack(
        session.handle,
        session.protocol,
        session.entity_kind,
        session.nonce_even,
        session.shared_secret,
        session.entity_digest,
        session.adip,
    )


def decode_session(data: bytes) -> Session:
    """Read what encode_session wrote.

    Raises:
        WireError: wrong length, or numbers that are none of ours.
    """
    reader = Reader(data)
    session = _unpack_session(reader.take(_SESSION.size, "session"))
    if reader.remaining:
        _delegate(session, DelegatePublic.read(reader))
        reader.finish("session")
    _check_delegated(session)
    return session


def _delegate(session: Session, public: DelegatePublic) -> None:
    if session.protocol != ProtocolId.DSAP:
        raise WireError("session", 0, f"{session.handle:#x} is not one of DSAP")
    session.delegation = public


def _check_delegated(session: Session) -> None:
    """Refuse a DSAP session without its limits: it could do everything."""
    if session.protocol == ProtocolId.DSAP and session.delegation is None:
        raise WireError("session", 0, f"{session.handle:#x} lacks its delegation")


def _unpack_session(data: bytes) -> Session:
    handle, protocol, kind, nonce_even, shared_secret, digest, adip = _SESSION.unpack(data)
    try:
        session = Session(handle, ProtocolId(protocol), nonce_even, entity_kind=EntityKind(kind))
        if session.protocol != ProtocolId.OIAP:
            session.shared_secret = shared_secret
            session.entity_digest = digest
            session.adip = AdipScheme(adip)
    except ValueError as error:
        raise WireError("session", 0, str(error)) from error
    return session


def _transport_record(transport: TransportSession) -> _TransportRecord:
    return _TransportRecord(
        transport.handle,
        transport.public,
        transport.auth_data,
        transport.nonce_even,
        transport.digest,
    )


def _transport(record: _TransportRecord) -> TransportSession:
    return TransportSession(
        record.handle, record.public, record.auth_data, record.nonce_even, record.digest
    )


def encode_transport(transport: TransportSession) -> bytes:
    """Return a transport session as 76 bytes."""
    return _transport_record(transport).encode()


def decode_transport(data: bytes) -> TransportSession:
    """Read what encode_transport wrote.

    Raises:
        WireError: the bytes do not form a transport session.
    """
    return _transport(_TransportRecord.decode(data))


def encode_permanent(state: PermanentState) -> bytes:
    """Return the permanent state, secrets in the clear."""
    sections = [
        (_P_FLAGS, state.flags.encode()),
        (_P_SECRETS, _PACK_SECRETS(state.tpm_proof, state.context_key, state.delegate_key)),
    ]
    if state.owner_auth is not None and state.srk is not None:
        sections.append((_P_OWNER, state.owner_auth + _key_bytes(state.srk)))
    if state.ek is not None:
        sections.append((_P_EK, _ek_bytes(state.ek) + state.ek_reset))
    data = _PACK_DATA(
        state.operator_auth, state.auth_dir, state.restrict_delegate, state.no_owner_nv_write
    )
    sections += (
        (_P_DATA, data),
        (_P_COUNTERS, _kept(state, _P_COUNTERS, tuple(state.counters), _counters_bytes)),
        (_P_NV, _list_bytes([_area_bytes(area) for area in state.nv.values()])),
    )
    if state.owner_evict_keys:
        sections.append((_P_OWNER_EVICT, _write_keys(list(state.owner_evict_keys.values()))))
    if state.saved_state:
        sections.append((_P_SAVED, state.saved_state))
    if state.daa is not None:
        sections.append((_P_DAA, state.daa.encode_once()))
    if state.manu_maint_pub is not None:
        sections.append((_P_MAINTENANCE, state.manu_maint_pub.encode_once()))
    audit = (state.audit_counter, tuple(state.audit_status.items()))
    delegation = (
        state.last_family_id,
        tuple(state.families.items()),
        tuple(state.delegate_rows.items()),
    )
    sections += (
        (_P_AUDIT, _kept(state, _P_AUDIT, audit, _audit_bytes)),
        (_P_DELEGATION, _kept(state, _P_DELEGATION, delegation, _delegation_bytes)),
    )
    return _assemble(PERMANENT_MAGIC, sections)


# What is written at every change of the permanent state, in the layout of the records that read it:
# parts that never change while they are there are encoded once.


def _kept(
    state: PermanentState,
    number: int,
    content: object,
    encode: Callable[[PermanentState], bytes],
) -> bytes:
    """Return a section, encoded anew only if it changed: comparing costs a third of encoding.

    Args:
        content: all that the section is made of, and nothing in it can change.
    """
    kept = state.kept_sections.get(number)
    if kept is None or kept[0] != content:
        kept = state.kept_sections[number] = (content, encode(state))
    return kept[1]


def _list_bytes(elements: list[bytes]) -> bytes:
    return U16.write(len(elements)) + b"".join(elements)


def _counters_bytes(state: PermanentState) -> bytes:
    """Return _CounterRecords."""
    return _list_bytes(
        [_PACK_COUNTER(c.valid, c.label, c.value, c.auth, c.entity_digest) for c in state.counters]
    )


def _area_bytes(area: NvArea) -> bytes:
    """Return an _NvRecord."""
    return b"".join(
        (
            area.public.encode_once(),
            area.auth_value,
            area.entity_digest,
            BOOL.write(area.write_define_locked),
            SIZED.write(area.data),
        )
    )


def _audit_bytes(state: PermanentState) -> bytes:
    """Return an _AuditRecord."""
    status = [_PACK_AUDIT_STATUS(*item) for item in sorted(state.audit_status.items())]
    return U32.write(state.audit_counter) + _list_bytes(status)


def _delegation_bytes(state: PermanentState) -> bytes:
    """Return a _DelegationRecord."""
    families = [
        U32.write(number) + family.encode_once()
        for number, family in sorted(state.families.items())
    ]
    rows = [
        U32.write(number) + row.public.encode_once() + row.auth_value
        for number, row in sorted(state.delegate_rows.items())
    ]
    return U32.write(state.last_family_id) + _list_bytes(families) + _list_bytes(rows)


def _write_keys(keys: list[LoadedKey]) -> bytes:
    return _list_bytes([encode_key(key) for key in keys])


def _read_keys(data: bytes, *, owner_evict: bool) -> dict[int, LoadedKey]:
    reader = Reader(data)
    records = _KEYS.read(reader, "keys")
    reader.finish("keys")
    keys = {
        r.handle: LoadedKey(r.handle, _key_body(r.body), r.parent_pcr_status, owner_evict)
        for r in records
    }
    if len(keys) != len(records):
        raise WireError("keys", 0, "a handle stands twice")
    return keys


_PERMANENT_SECTIONS: Final = frozenset(
    {
        _P_FLAGS,
        _P_SECRETS,
        _P_OWNER,
        _P_EK,
        _P_DATA,
        _P_COUNTERS,
        _P_NV,
        _P_OWNER_EVICT,
        _P_SAVED,
        _P_AUDIT,
        _P_DELEGATION,
        _P_DAA,
        _P_MAINTENANCE,
    }
)


_REQUIRED_IN_1_0: Final = (_P_FLAGS, _P_SECRETS, _P_DATA, _P_COUNTERS, _P_NV)
_REQUIRED: Final = (*_REQUIRED_IN_1_0, _P_AUDIT, _P_DELEGATION)


def decode_permanent(data: bytes) -> PermanentState:
    """Read what encode_permanent of this or an older minor version wrote.

    Raises:
        WireError: the bytes do not form a permanent state.
    """
    minor, sections = _sections(PERMANENT_MAGIC, data, _PERMANENT_SECTIONS)
    for required in _REQUIRED if minor else _REQUIRED_IN_1_0:
        if required not in sections:
            raise WireError("section", len(data), f"section {required} is missing")
    secrets = _SecretsRecord.decode(sections[_P_SECRETS])
    small = _DataRecord.decode(sections[_P_DATA])
    state = PermanentState(
        PermanentFlags.decode(sections[_P_FLAGS]),
        secrets.tpm_proof,
        secrets.context_key,
        secrets.delegate_key,
        _read_counters(sections[_P_COUNTERS]),
        operator_auth=small.operator_auth,
        auth_dir=small.auth_dir,
        restrict_delegate=small.restrict_delegate,
        no_owner_nv_write=small.no_owner_nv_write,
        nv=_read_areas(sections[_P_NV]),
        saved_state=sections.get(_P_SAVED, b""),
    )
    if _P_OWNER in sections:
        owner = _OwnerRecord.decode(sections[_P_OWNER])
        state.owner_auth = owner.owner_auth
        state.srk = _key_body(owner.srk)
    if _P_EK in sections:
        ek = _EkRecord.decode(sections[_P_EK])
        state.ek = EndorsementKey(_private(ek.p, ek.q, ek.parms.rsa.exponent_value), ek.parms)
        state.ek_reset = ek.ek_reset
    if _P_OWNER_EVICT in sections:
        state.owner_evict_keys = _read_keys(sections[_P_OWNER_EVICT], owner_evict=True)
    if _P_MAINTENANCE in sections:
        state.manu_maint_pub = PubKey.decode(sections[_P_MAINTENANCE])
    if _P_AUDIT in sections:
        audit = _AuditRecord.decode(sections[_P_AUDIT])
        state.audit_counter = audit.counter
        state.audit_status = {r.ordinal: r.audited for r in audit.status}
        _check_ascending([r.ordinal for r in audit.status], "audit")
    if _P_DELEGATION in sections:
        _read_delegation(sections[_P_DELEGATION], state)
    if _P_DAA in sections:
        state.daa = DaaSecrets.decode(sections[_P_DAA])
    return state


def _read_delegation(data: bytes, state: PermanentState) -> None:
    record = _DelegationRecord.decode(data)
    state.last_family_id = record.last_family_id
    _check_ascending([r.row for r in record.families], "families")
    _check_ascending([r.row for r in record.rows], "delegateRows")
    state.families = {r.row: r.family for r in record.families}
    if len({family.family_id for family in state.families.values()}) != len(state.families):
        raise WireError("families", 0, "an id stands twice")
    state.delegate_rows = {r.row: DelegateRow(r.public, r.auth_value) for r in record.rows}


def _check_ascending(numbers: list[int], field: str) -> None:
    if any(a >= b for a, b in pairwise(numbers)):
        raise WireError(field, 0, "not in ascending order")


def _read_counters(data: bytes) -> list[Counter]:
    reader = Reader(data)
    records = _COUNTERS.read(reader, "counters")
    reader.finish("counters")
    return [Counter(r.valid, r.label, r.value, r.auth, r.entity_digest) for r in records]


def _read_areas(data: bytes) -> dict[int, NvArea]:
    reader = Reader(data)
    records = _NV_AREAS.read(reader, "nv")
    reader.finish("nv")
    areas = {}
    for r in records:
        if len(r.data) != r.public.data_size:
            raise WireError("nv", 0, f"area {r.public.nv_index:#x} has {len(r.data)} bytes")
        areas[r.public.nv_index] = NvArea(
            r.public, r.auth_value, r.entity_digest, r.data, r.write_define_locked
        )
    if len(areas) != len(records):
        raise WireError("nv", 0, "an index stands twice")
    return areas


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
        sections.append(
            (_V_SESSIONS, b"".join([_pack_session(s) for s in stany.sessions.values()]))
        )
    if stany.context_list:
        sections.append((_V_CONTEXTS, _CONTEXTS.write(tuple(stany.context_list))))
    keys = [key for key in stclear.keys.values() if not key.owner_evict]
    if keys:
        sections.append((_V_KEYS, _write_keys(keys)))
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
        records = tuple([_transport_record(t) for t in stany.transports.values()])
        data = U32.write(stany.transport_exclusive) + _TRANSPORTS.write(records)
        sections.append((_V_TRANSPORTS, data))
    if stany.daa_sessions:
        daa_sessions = [session.encode() for session in stany.daa_sessions.values()]
        sections.append((_V_DAA_SESSIONS, b"".join(daa_sessions)))
    delegated = [s for s in stany.sessions.values() if s.delegation is not None]
    if delegated or stclear.owner_reference != ReservedHandle.OWNER:
        sections.append((_V_DELEGATED, _delegated_record(stclear, delegated).encode()))
    if state.fresh_ek:
        sections.append((_V_FRESH_EK, state.fresh_ek))
    if stany.deprecated_nonce != ZERO_DIGEST:
        old = [count for count, deprecated in stany.context_list.items() if deprecated]
        sections.append((_V_DEPRECATED, stany.deprecated_nonce + _CONTEXTS.write(tuple(old))))
    return _assemble(VOLATILE_MAGIC, sections)


def _delegated_record(stclear: StclearState, delegated: list[Session]) -> _DelegatedRecord:
    records = [
        _DelegatedSessionRecord(s.handle, s.delegation)
        for s in delegated
        if s.delegation is not None
    ]
    return _DelegatedRecord(stclear.owner_reference, tuple(records))


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
    _, sections = _sections(VOLATILE_MAGIC, data, _VOLATILE_SECTIONS)
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
        stclear.keys = _read_keys(sections[_V_KEYS], owner_evict=False)
    any_record = _StanyRecord.decode(sections[_V_STANY])
    stany = StanyState(
        any_record.post_initialise,
        tos_present=any_record.tos_present,
        context_nonce_session=any_record.context_nonce_session,
        context_count=any_record.context_count,
        context_list=_read_contexts(sections.get(_V_CONTEXTS)),
        audit_digest=any_record.audit_digest,
        sessions=_read_sessions(sections.get(_V_SESSIONS, b"")),
        daa_sessions=_read_daa_sessions(sections.get(_V_DAA_SESSIONS, b"")),
        tick_nonce=any_record.tick_nonce,
        tick_base_us=_signed(any_record.tick_base_us) + shift_us,
    )
    if _V_TRANSPORTS in sections:
        _read_transports(sections[_V_TRANSPORTS], stany)
    _read_delegated(sections.get(_V_DELEGATED), stclear, stany)
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
    if len(set(contexts)) != len(contexts):
        raise WireError("contexts", 0, "a count stands twice")
    return dict.fromkeys(contexts, False)


def _read_deprecated(data: bytes, stany: StanyState) -> None:
    reader = Reader(data)
    stany.deprecated_nonce = reader.take(DIGEST_BYTES, "deprecatedNonce")
    old = _CONTEXTS.read(reader, "deprecated")
    reader.finish("deprecated")
    if not stany.context_list.keys() >= set(old):
        raise WireError("deprecated", 0, "a context is not among the saved ones")
    stany.context_list |= dict.fromkeys(old, True)


def _read_sessions(data: bytes) -> dict[int, Session]:
    if len(data) % _SESSION.size:
        raise WireError("sessions", 0, f"{len(data)} bytes, {_SESSION.size} each")
    sessions = [
        _unpack_session(data[i : i + _SESSION.size]) for i in range(0, len(data), _SESSION.size)
    ]
    return {session.handle: session for session in sessions}


def _read_delegated(data: bytes | None, stclear: StclearState, stany: StanyState) -> None:
    if data is not None:
        record = _DelegatedRecord.decode(data)
        stclear.owner_reference = record.owner_reference
        for delegated in record.sessions:
            session = stany.sessions.get(delegated.handle)
            if session is None:
                raise WireError("delegated", 0, f"there is no session {delegated.handle:#x}")
            _delegate(session, delegated.public)
    for session in stany.sessions.values():
        _check_delegated(session)


def _read_transports(data: bytes, stany: StanyState) -> None:
    reader = Reader(data)
    stany.transport_exclusive = reader.u32("exclusive")
    records = _TRANSPORTS.read(reader, "transports")
    reader.finish("transports")
    stany.transports = {record.handle: _transport(record) for record in records}
    if len(stany.transports) != len(records):
        raise WireError("transports", 0, "a handle stands twice")
    if stany.transport_exclusive not in (0, *stany.transports):
        raise WireError("transports", 0, "the exclusive session is not among them")


def decode_daa_session(data: bytes) -> DaaSession:
    """Read what DaaSession.encode wrote.

    Raises:
        WireError: the bytes do not form a session.
    """
    reader = Reader(data)
    session = _read_daa_session(reader)
    reader.finish("daaSession")
    return session


def _read_daa_session(reader: Reader) -> DaaSession:
    session = DaaSession.read(reader)
    if not 1 <= session.stage <= LAST_STAGE:
        raise WireError("stage", 0, f"{session.stage} is no stage that a session waits for")
    return session


def _read_daa_sessions(data: bytes) -> dict[int, DaaSession]:
    reader = Reader(data)
    found: dict[int, DaaSession] = {}
    while reader.remaining:
        session = _read_daa_session(reader)
        if session.handle in found:
            raise WireError("daaSessions", reader.position, "a handle stands twice")
        found[session.handle] = session
    return found


def _apply_locks(data: bytes | None, permanent: PermanentState) -> None:
    locks: tuple[_NvLockRecord, ...] = ()
    if data is not None:
        reader = Reader(data)
        locks = _NV_LOCKS.read(reader, "locks")
        reader.finish("locks")
    for area in permanent.nv.values():
        area.read_st_clear = area.write_st_clear = False
    for lock in locks:
        locked = permanent.nv.get(lock.index)
        # Deleted since: the permanent state may be one command ahead of this one.
        if locked is not None:
            locked.read_st_clear = lock.read_st_clear
            locked.write_st_clear = lock.write_st_clear
