# SPDX-License-Identifier: Apache-2.0
"""The permanent state: everything that a TPM has without power."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Final

from protocol.errors import WireError
from protocol.tpm12.delegation import DelegatePublic, FamilyTableEntry
from protocol.tpm12.keys import KeyParms, PubKey
from protocol.tpm12.records import record
from protocol.tpm12.resources import NvDataPublic
from protocol.tpm12.wire import (
    BOOL,
    DIGEST,
    SIZED,
    U16,
    U32,
    FixedBytes,
    ListOf,
    Nested,
    Reader,
    Structure,
)
from tpmcore.tpm12.daa_session import DaaSecrets
from tpmcore.tpm12.rsa import PrivateKey, RsaError
from tpmcore.tpm12.state import (
    EK_BITS,
    MAX_NO_OWNER_WRITES,
    Counter,
    DelegateRow,
    EndorsementKey,
    NvArea,
    PermanentFlags,
    PermanentState,
)
from tpmcore.tpm12.stateformat.frame import (
    MAX_LIST,
    MINOR,
    head,
    join_sections,
    list_bytes,
    split_sections,
)
from tpmcore.tpm12.stateformat.keys import (
    KeyRecord,
    key_body,
    key_bytes,
    number_bytes,
    private_key,
    read_keys,
    write_keys,
)

PERMANENT_MAGIC: Final = b"VTPM12PS"
_HEAD: Final = head(PERMANENT_MAGIC)
# The same bytes as the records that read them: these are written at every change of the permanent
# state, and the declared layouts cost ten times as much.
_PACK_SECRETS = struct.Struct(">20s16s16s").pack
_PACK_DATA = struct.Struct(">20s20sII").pack
_PACK_COUNTER = struct.Struct(">?4sI20s20s").pack
_PACK_AUDIT_STATUS = struct.Struct(">I?").pack


@record(repr=False)
class _EkRecord(Structure):
    """EndorsementKey, and the secret of RevokeTrust."""

    parms: KeyParms
    p: Annotated[bytes, SIZED]
    q: Annotated[bytes, SIZED]
    ek_reset: Annotated[bytes, DIGEST]


@record(repr=False)
class _OwnerRecord(Structure):
    """Owner secret and SRK."""

    owner_auth: Annotated[bytes, DIGEST]
    srk: KeyRecord


@record(repr=False)
class _SecretsRecord(Structure):
    """Secrets of this TPM and owner period."""

    tpm_proof: Annotated[bytes, DIGEST]
    context_key: Annotated[bytes, FixedBytes(16)]
    delegate_key: Annotated[bytes, FixedBytes(16)]


@record(repr=False)
class _DataRecord(Structure):
    """Small fields of TPM_PERMANENT_DATA."""

    operator_auth: Annotated[bytes, DIGEST]
    auth_dir: Annotated[bytes, DIGEST]
    restrict_delegate: Annotated[int, U32]
    no_owner_nv_write: Annotated[int, U32]


@record(repr=False)
class _CounterRecord(Structure):
    """Counter slot."""

    valid: Annotated[bool, BOOL]
    label: Annotated[bytes, FixedBytes(4)]
    value: Annotated[int, U32]
    auth: Annotated[bytes, DIGEST]
    entity_digest: Annotated[bytes, DIGEST]


@record(repr=False)
class _NvRecord(Structure):
    """NV area without its volatile locks."""

    public: NvDataPublic
    auth_value: Annotated[bytes, DIGEST]
    entity_digest: Annotated[bytes, DIGEST]
    write_define_locked: Annotated[bool, BOOL]
    data: Annotated[bytes, SIZED]


@record
class _AuditStatusRecord(Structure):
    """An ordinal whose audit status is not its default."""

    ordinal: Annotated[int, U32]
    audited: Annotated[bool, BOOL]


@record
class _AuditRecord(Structure):
    """auditMonotonicCounter and ordinalAuditStatus, the latter by ascending ordinals."""

    counter: Annotated[int, U32]
    status: Annotated[
        tuple[_AuditStatusRecord, ...], ListOf(Nested(_AuditStatusRecord), U16, MAX_LIST)
    ]


@record
class _FamilyRecord(Structure):
    """A row of the family table."""

    row: Annotated[int, U32]
    family: FamilyTableEntry


@record(repr=False)
class _DelegateRecord(Structure):
    """A row of the delegate table."""

    row: Annotated[int, U32]
    public: DelegatePublic
    auth_value: Annotated[bytes, DIGEST]


@record(repr=False)
class _DelegationRecord(Structure):
    """Both delegation tables, each by ascending row numbers."""

    last_family_id: Annotated[int, U32]
    families: Annotated[tuple[_FamilyRecord, ...], ListOf(Nested(_FamilyRecord), U16, MAX_LIST)]
    rows: Annotated[tuple[_DelegateRecord, ...], ListOf(Nested(_DelegateRecord), U16, MAX_LIST)]


_COUNTERS: Final = ListOf(Nested(_CounterRecord), U16, MAX_LIST)
_NV_AREAS: Final = ListOf(Nested(_NvRecord), U16, MAX_LIST)
# Section numbers.
_P_FLAGS, _P_SECRETS, _P_OWNER, _P_EK, _P_DATA = 1, 2, 3, 4, 5
_P_COUNTERS, _P_NV, _P_OWNER_EVICT, _P_SAVED = 6, 7, 8, 9
_P_DAA, _P_MAINTENANCE = 10, 11  # since 1.1
_P_AUDIT, _P_DELEGATION = 12, 13  # since 1.1


def _ek_bytes(ek: EndorsementKey) -> bytes:
    """Return an _EkRecord without its last field; made once."""
    if ek.encoded is None:
        numbers = SIZED.write(number_bytes(ek.private.p)) + SIZED.write(number_bytes(ek.private.q))
        ek.encoded = ek.parms.encode_once() + numbers
    return ek.encoded


def encode_permanent(state: PermanentState) -> bytes:
    """Return the permanent state, secrets in the clear."""
    sections = [(_P_NV, list_bytes([_area_bytes(area) for area in state.nv.values()]))]
    if state.owner_evict_keys:
        sections.append((_P_OWNER_EVICT, write_keys(list(state.owner_evict_keys.values()))))
    if state.saved_state:
        sections.append((_P_SAVED, state.saved_state))
    return b"".join(
        (
            _HEAD,
            join_sections([(_P_FLAGS, state.flags.encode())]),
            _kept(state, _P_SECRETS, _identity(state), _identity_sections),
            _kept(state, _P_COUNTERS, tuple(state.counters), _counters_section),
            join_sections(sections),
            _kept(state, _P_DAA, _optional(state), _optional_sections),
            _kept(state, _P_DELEGATION, _delegation(state), _delegation_section),
        )
    )


# What is written at every change of the permanent state, in the layout of the records that read it.
# Parts that never change while they are there are encoded once, and runs of sections that seldom
# change are kept: to compare what they are made of costs a fourth of encoding them.


def _kept(
    state: PermanentState,
    first: int,
    content: object,
    encode: Callable[[PermanentState], bytes],
) -> bytes:
    """Return a run of sections, encoded anew only if it changed.

    Args:
        first: number of its first section.
        content: all that it is made of, and nothing in it can change.
    """
    kept = state.kept_sections.get(first)
    if kept is None or kept[0] != content:
        kept = state.kept_sections[first] = (content, encode(state))
    return kept[1]


def _identity(state: PermanentState) -> object:
    """Return what sections 2 to 5 are made of."""
    srk = state.srk
    return (
        state.tpm_proof,
        state.context_key,
        state.delegate_key,
        state.owner_auth,
        srk,
        # Of a key only these change.
        srk and (srk.usage_auth, srk.migration_auth),
        state.ek,
        state.ek_reset,
        state.operator_auth,
        state.auth_dir,
        state.restrict_delegate,
        state.no_owner_nv_write,
    )


def _identity_sections(state: PermanentState) -> bytes:
    secrets = _PACK_SECRETS(state.tpm_proof, state.context_key, state.delegate_key)
    sections = [(_P_SECRETS, secrets)]
    if state.owner_auth is not None and state.srk is not None:
        sections.append((_P_OWNER, state.owner_auth + key_bytes(state.srk)))
    if state.ek is not None:
        sections.append((_P_EK, _ek_bytes(state.ek) + state.ek_reset))
    data = _PACK_DATA(
        state.operator_auth, state.auth_dir, state.restrict_delegate, state.no_owner_nv_write
    )
    sections.append((_P_DATA, data))
    return join_sections(sections)


def _optional(state: PermanentState) -> object:
    """Return what sections 10 to 12 are made of."""
    audit_status = tuple(state.audit_status.items())
    return (state.daa, state.manu_maint_pub, state.audit_counter, audit_status)


def _optional_sections(state: PermanentState) -> bytes:
    sections = []
    if state.daa is not None:
        sections.append((_P_DAA, state.daa.encode_once()))
    if state.manu_maint_pub is not None:
        sections.append((_P_MAINTENANCE, state.manu_maint_pub.encode_once()))
    sections.append((_P_AUDIT, _audit_bytes(state)))
    return join_sections(sections)


def _delegation(state: PermanentState) -> object:
    """Return what section 13 is made of."""
    rows = tuple(state.delegate_rows.items())
    return (state.last_family_id, tuple(state.families.items()), rows)


def _counters_section(state: PermanentState) -> bytes:
    """Return the section of _CounterRecords."""
    records = [
        _PACK_COUNTER(c.valid, c.label, c.value, c.auth, c.entity_digest) for c in state.counters
    ]
    return join_sections([(_P_COUNTERS, list_bytes(records))])


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
    return U32.write(state.audit_counter) + list_bytes(status)


def _delegation_section(state: PermanentState) -> bytes:
    """Return the section with the _DelegationRecord."""
    families = [
        U32.write(number) + family.encode_once()
        for number, family in sorted(state.families.items())
    ]
    rows = [
        U32.write(number) + row.public.encode_once() + row.auth_value
        for number, row in sorted(state.delegate_rows.items())
    ]
    tables = U32.write(state.last_family_id) + list_bytes(families) + list_bytes(rows)
    return join_sections([(_P_DELEGATION, tables)])


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
    minor, sections = split_sections(PERMANENT_MAGIC, data, _PERMANENT_SECTIONS)
    for required in _REQUIRED if minor else _REQUIRED_IN_1_0:
        if required not in sections:
            raise WireError("section", len(data), f"section {required} is missing")
    secrets = _SecretsRecord.decode(sections[_P_SECRETS])
    small = _DataRecord.decode(sections[_P_DATA])
    if small.no_owner_nv_write > MAX_NO_OWNER_WRITES:
        raise WireError("noOwnerNVWrite", 0, f"{small.no_owner_nv_write} is above its limit")
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
        state.srk = key_body(owner.srk)
    if _P_EK in sections:
        ek = _EkRecord.decode(sections[_P_EK])
        state.ek = _endorsement_key(ek)
        state.ek_reset = ek.ek_reset
    if _P_OWNER_EVICT in sections:
        state.owner_evict_keys = read_keys(sections[_P_OWNER_EVICT], owner_evict=True)
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
    if minor == MINOR and encode_permanent(state) != data:
        raise WireError("state", 0, "not written as this state is written")
    return state


def _endorsement_key(record: _EkRecord) -> EndorsementKey:
    """Return the EK; nothing but its primes says what its modulus is."""
    private = private_key(record.p, record.q, record.parms.rsa.exponent_value)
    if private.n.bit_length() != EK_BITS or record.parms.rsa.key_length != EK_BITS:
        raise WireError("ek", 0, f"{private.n.bit_length()} bits, must be {EK_BITS}")
    try:
        PrivateKey.from_factor(private.n, private.p, private.exponent)
    except RsaError as error:
        raise WireError("ek", 0, str(error)) from error
    return EndorsementKey(private, record.parms)


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
