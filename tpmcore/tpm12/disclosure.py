# SPDX-License-Identifier: Apache-2.0
"""What of commands and responses may be shown to who watches a TPM, and in which words.

The rule is a list of what is shown: numbers by the name of their field, digests of PCRs, selections
of PCRs. Whatever has no place here is hidden: authorization data in every form, nonces, keys and
blobs, what is sealed, bound, signed, hashed or random, and what NV areas contain. So a field that
is added to a command stays hidden until somebody decides otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final

from protocol.tpm12.constants import (
    AdipScheme,
    Algorithm,
    AuthDataUsage,
    CapabilityArea,
    CapabilityFlag,
    CapabilityProperty,
    EncScheme,
    EntityType,
    KeyFlags,
    KeyUsage,
    MigrationScheme,
    NvAttributes,
    Ordinal,
    PayloadType,
    PhysicalPresenceFlags,
    ProtocolId,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    SetCapabilityArea,
    SigScheme,
    StartupType,
)
from protocol.tpm12.delegation import DelegateType, FamilyOperation
from protocol.tpm12.transport import TransportAttributes

Words = Callable[[int], str]
"""Says a number."""

_ADIP_SHIFT: Final = 8


def ordinal_name(ordinal: int) -> str:
    """Return the name of an ordinal, or its number."""
    return _member(Ordinal, ordinal)


def code_name(code: int) -> str:
    """Return the name of a return code, or its number."""
    return _member(ReturnCode, code)


def handle_words(handle: int) -> str:
    """Return a handle in eight digits, a reserved one by its name."""
    try:
        return ReservedHandle(handle).name
    except ValueError:
        return f"{handle:#010x}"


def _member(names: type[enum.IntEnum], number: int) -> str:
    try:
        return names(number).name
    except ValueError:
        return f"{number:#x}"


def _named(names: type[enum.IntEnum]) -> Words:
    return lambda number: _member(names, number)


def _bits(names: type[enum.IntFlag]) -> Words:
    """Say flags as "ENCRYPT|LOG", 0 as "0", unknown bits by their number."""

    def words(number: int) -> str:
        known = [flag for flag in names if int(flag) & number]
        rest = number & ~sum(int(flag) for flag in known)
        parts = [str(flag.name) for flag in known] + ([f"{rest:#x}"] if rest else [])
        return "|".join(parts) or "0"

    return words


def _boolean(number: int) -> str:
    return "true" if number else "false"


def _entity(number: int) -> str:
    """Say a TPM_ENTITY_TYPE: what it is, and how its secrets are encrypted if not by XOR."""
    name = _member(EntityType, number & 0xFF)
    scheme = number >> _ADIP_SHIFT
    return f"{name}|{_member(AdipScheme, scheme)}" if scheme else name


_DECIMAL: Final[Words] = str
_HEXADECIMAL: Final[Words] = hex

NUMBERS: Final[Mapping[str, Words]] = {
    **dict.fromkeys(
        (
            *("auth_handle", "parent_handle", "key_handle", "cert_handle", "ma_key_handle"),
            *("id_handle", "id_key_handle", "eph_handle", "inkey_handle", "enc_handle"),
            *("trans_handle", "entity_handle", "handle", "entity_value"),
        ),
        handle_words,
    ),
    **dict.fromkeys(
        (
            *("pcr_num", "pcr_index", "dir_index", "index", "offset", "data_size"),
            *("bytes_requested", "max_num_bytes", "key_length", "num_primes", "count_id"),
            *("counter", "current_ticks", "tick_rate", "stage", "family_id", "locality"),
            *("verification_count", "label", "bit_name"),
        ),
        _DECIMAL,
    ),
    **dict.fromkeys(
        (
            *("nv_index", "restriction", "per1", "per2", "extra_info_flags"),
            *("non_volatile_flags", "volatile_flags"),
            *("locality_at_creation", "locality_at_release"),
        ),
        _HEXADECIMAL,
    ),
    **dict.fromkeys(
        (
            *("add_version", "keep_handle", "increment", "state", "generate_random"),
            *("generate_reset", "close_audit", "audit_state", "more", "bit_value"),
            *("parent_pcr_status", "b_read_st_clear", "b_write_st_clear", "b_write_define"),
        ),
        _boolean,
    ),
    "algorithm_id": _named(Algorithm),
    "alg_id": _named(Algorithm),
    "attributes": _bits(NvAttributes),
    "auth_data_usage": _named(AuthDataUsage),
    "cap_area": _named(CapabilityArea),
    "SetCapabilityRequest.cap_area": _named(SetCapabilityArea),
    "delegate_type": _named(DelegateType),
    "enc_scheme": _named(EncScheme),
    "entity_type": _entity,
    "key_flags": _bits(KeyFlags),
    "key_usage": _named(KeyUsage),
    "migration_scheme": _named(MigrationScheme),
    "migration_type": _named(MigrationScheme),
    "op_code": _named(FamilyOperation),
    "ordinal_to_audit": ordinal_name,
    "payload_type": _named(PayloadType),
    "physical_presence": _bits(PhysicalPresenceFlags),
    "protocol_id": _named(ProtocolId),
    "resource_type": _named(ResourceType),
    "sig_scheme": _named(SigScheme),
    "start_ordinal": ordinal_name,
    "startup_type": _named(StartupType),
    "trans_attributes": _bits(TransportAttributes),
}
"""Words for numbers, by the name of their field, or by structure and field where that differs."""

DIGESTS: Final = frozenset(
    {"in_digest", "out_digest", "digest_at_creation", "digest_at_release", "pcr_values"}
)
"""Fields of bytes that are shown: values of PCRs, and digests over such."""

SUB_CAPABILITIES: Final[Mapping[str, Words]] = {
    CapabilityArea.ORD.name: ordinal_name,
    CapabilityArea.ALG.name: _named(Algorithm),
    CapabilityArea.PID.name: _named(ProtocolId),
    CapabilityArea.FLAG.name: _named(CapabilityFlag),
    CapabilityArea.PROPERTY.name: _named(CapabilityProperty),
    CapabilityArea.HANDLE.name: _named(ResourceType),
    CapabilityArea.KEY_HANDLE.name: handle_words,
}
"""Words for the subCap of a capability area, by the words for that area; others are numbers."""

NUMBERS_IN_BYTES: Final = frozenset({"sub_cap", "resp"})
"""Fields of bytes behind a length that are shown if they can be no more than a number: what
GetCapability is asked and what it says, which anybody may ask."""

NUMBER_BYTES: Final = frozenset({1, 2, 4})
"""Lengths of a number."""
