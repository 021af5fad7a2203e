# SPDX-License-Identifier: Apache-2.0
"""Capabilities (Part 3, chapter 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import CapabilityArea, CapabilityProperty, Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode
AREA = CapabilityArea

_FREE: Final = frozenset({AREA.VERSION, AREA.VERSION_VAL, AREA.PROPERTY, AREA.MFR})
_FREE_PROPERTIES: Final = frozenset(
    {
        CapabilityProperty.MANUFACTURER,
        CapabilityProperty.TIS_TIMEOUT,
        CapabilityProperty.DURATION,
    }
)
_LENGTH_CASES: Final = {
    AREA.CHECK_LOADED: "capability_to_load_a_key_that_does_not_parse",
    AREA.SELECT_SIZE: "capability_of_a_select_size_of_the_wrong_length",
    AREA.DA_LOGIC: "capability_of_attack_logic_with_a_sub_cap_of_the_wrong_length",
}
_ANY_LENGTH: Final = frozenset(
    {AREA.VERSION, AREA.KEY_HANDLE, AREA.NV_LIST, AREA.VERSION_VAL, AREA.MFR}
)

_GET: Final = (
    *[
        ErrorPath(RC.FAILEDSELFTEST, f"{area.name} in failure mode", "capability_in_failure_mode")
        for area in AREA
        if area not in _FREE
    ],
    *[
        ErrorPath(
            RC.FAILEDSELFTEST,
            f"PROPERTY {prop.name} in failure mode",
            "capability_in_failure_mode",
        )
        for prop in CapabilityProperty
        if prop not in _FREE_PROPERTIES
    ],
    ErrorPath(
        RC.FAILEDSELFTEST,
        "PROPERTY with a subCap of the wrong length in failure mode",
        "capability_in_failure_mode",
    ),
    ErrorPath(RC.BAD_MODE, "unknown capArea", "capability_areas_that_do_not_exist"),
    ErrorPath(
        RC.BAD_MODE,
        "MFR: the manufacturer has no questions of its own",
        "capability_areas_that_do_not_exist",
    ),
    ErrorPath(RC.BAD_MODE, "FLAG: unknown flags", "capability_flags_versions_and_lists"),
    ErrorPath(
        RC.BAD_MODE,
        "PROPERTY: unknown property",
        "capability_of_every_property_of_a_new_chip",
    ),
    *[
        ErrorPath(
            RC.BAD_MODE,
            f"{area.name}: subCap of the wrong length",
            _LENGTH_CASES.get(area, "capability_sub_caps_of_the_wrong_length"),
        )
        for area in AREA
        if area not in _ANY_LENGTH
    ],
    ErrorPath(
        RC.BAD_MODE,
        "CHECK_LOADED: bytes behind the parameters",
        "capability_to_load_a_key_with_a_tail",
    ),
    ErrorPath(
        RC.BAD_KEY_PROPERTY,
        "CHECK_LOADED: unknown algorithm",
        "capability_to_load_another_key",
    ),
    ErrorPath(
        RC.INVALID_KEYHANDLE, "KEY_STATUS: the key is not loaded", "capability_of_loaded_keys"
    ),
    ErrorPath(RC.INVALID_KEYHANDLE, "KEY_STATUS: of the SRK", "capability_of_loaded_keys"),
    ErrorPath(RC.INVALID_KEYHANDLE, "KEY_STATUS: of the EK", "capability_of_loaded_keys"),
    ErrorPath(RC.BADINDEX, "NV_INDEX: not defined", "capability_of_nv_index"),
    ErrorPath(RC.BADINDEX, "NV_INDEX: the DIR", "capability_of_nv_index"),
    ErrorPath(RC.BADINDEX, "NV_INDEX: index 0", "capability_of_nv_index"),
    ErrorPath(RC.BADINDEX, "NV_INDEX: the lock", "capability_of_nv_index"),
    ErrorPath(
        RC.BAD_PARAMETER,
        "HANDLE: resource that has no list",
        "capability_flags_versions_and_lists",
    ),
    ErrorPath(
        RC.BAD_PARAMETER,
        "SELECT_SIZE: major version is not 1",
        "capability_of_select_sizes",
    ),
    ErrorPath(
        RC.BAD_PARAMETER,
        "SELECT_SIZE: minor version is neither 1 nor 2",
        "capability_of_select_sizes",
    ),
)

_ALONE: Final = "setting_each_field_without_anything"
_PRESENT: Final = "setting_each_field_with_presence_alone"
_OWNER: Final = "setting_each_field_as_owner_alone"
_DISABLED: Final = "setting_each_field_while_disabled"
_DEACTIVATED: Final = "setting_each_field_while_deactivated"
_LOCALITY: Final = "setting_by_locality"
_SIZES: Final = "setting_with_sizes_that_are_wrong"
_UNSETTABLE: Final = "setting_what_cannot_be_set"

_OWNERS_FIELDS: Final = (
    "readPubek",
    "disableOwnerClear",
    "allowMaintenance",
    "readSRKPub",
    "disableFullDALogicInfo",
    "restrictDelegate",
)
_STATE_FIELDS: Final = (
    "readPubek",
    "disableOwnerClear",
    "allowMaintenance",
    "readSRKPub",
    "restrictDelegate",
    "disableForceClear",
    "TOSPresent",
)

_SET: Final = (
    ErrorPath(RC.AUTHFAIL, "wrong HMAC", "setting_permanent_flags_as_owner"),
    ErrorPath(RC.AUTHFAIL, "the session is on a key", "setting_with_a_session_on_a_key"),
    ErrorPath(RC.BAD_PARAMETER, "unknown capArea", "setting_an_unknown_area"),
    ErrorPath(
        RC.BAD_PARAMETER,
        "subCap of the wrong length",
        "setting_with_a_sub_cap_of_the_wrong_size",
    ),
    ErrorPath(RC.BAD_PARAMETER, "PERM_FLAGS: value of the wrong length", _SIZES),
    ErrorPath(RC.BAD_PARAMETER, "PERM_DATA: value of the wrong length", _SIZES),
    ErrorPath(RC.BAD_PARAMETER, "STCLEAR_FLAGS: value of the wrong length", _SIZES),
    ErrorPath(RC.BAD_PARAMETER, "STCLEAR_DATA: value of the wrong length", _SIZES),
    ErrorPath(RC.BAD_PARAMETER, "STANY_FLAGS: value of the wrong length", _SIZES),
    ErrorPath(
        RC.BAD_PARAMETER,
        "a flag's value is no BOOL",
        "setting_a_flag_to_what_is_no_boolean",
    ),
    *[
        ErrorPath(RC.BAD_PARAMETER, f"{area}: field that cannot be set", _UNSETTABLE)
        for area in (
            "PERM_FLAGS",
            "PERM_DATA",
            "STCLEAR_FLAGS",
            "STCLEAR_DATA",
            "STANY_FLAGS",
            "STANY_DATA",
            "VENDOR",
        )
    ],
    ErrorPath(RC.AUTHFAIL, "disable: neither owner nor presence", _ALONE),
    ErrorPath(RC.OWNER_SET, "ownership: there is an owner", _PRESENT),
    ErrorPath(
        RC.AUTHFAIL,
        "ownership: no physical presence",
        "setting_each_field_without_anything_nor_an_owner",
    ),
    ErrorPath(RC.AUTHFAIL, "deactivated: no physical presence, but the owner", _OWNER),
    *[ErrorPath(RC.AUTHFAIL, f"{name}: not the owner", _PRESENT) for name in _OWNERS_FIELDS],
    ErrorPath(
        RC.AUTHFAIL,
        "daaProof: not the owner",
        "setting_new_daa_secrets_without_the_owner",
    ),
    ErrorPath(
        RC.BAD_PARAMETER,
        "disableOwnerClear: to FALSE",
        "setting_permanent_flags_as_owner",
    ),
    ErrorPath(
        RC.BAD_PARAMETER,
        "allowMaintenance: to TRUE",
        "setting_permanent_flags_as_owner",
    ),
    ErrorPath(RC.BAD_LOCALITY, "tpmEstablished: not from locality 3 or 4", _LOCALITY),
    ErrorPath(RC.BAD_PARAMETER, "tpmEstablished: to TRUE", _LOCALITY),
    ErrorPath(RC.BAD_LOCALITY, "TOSPresent: not from locality 3 or 4", _LOCALITY),
    ErrorPath(RC.BAD_PARAMETER, "TOSPresent: to TRUE", _LOCALITY),
    ErrorPath(RC.BAD_PARAMETER, "disableForceClear: to FALSE", "setting_volatile_state"),
    ErrorPath(
        RC.BAD_PRESENCE,
        "deferredPhysicalPresence: a first bit without physical presence",
        "setting_deferred_presence",
    ),
    ErrorPath(
        RC.BAD_PRESENCE,
        "deferredPhysicalPresence: another bit without physical presence",
        "setting_deferred_presence",
    ),
    *[ErrorPath(RC.DISABLED, f"{name}: disabled", _DISABLED) for name in _STATE_FIELDS],
    ErrorPath(RC.DISABLED, "deactivated: disabled", _DISABLED),
    ErrorPath(
        RC.DISABLED,
        "ownership: disabled",
        "setting_ownership_while_disabled_or_deactivated",
    ),
    *[ErrorPath(RC.DEACTIVATED, f"{name}: deactivated", _DEACTIVATED) for name in _STATE_FIELDS],
    ErrorPath(
        RC.DEACTIVATED,
        "ownership: deactivated",
        "setting_ownership_while_disabled_or_deactivated",
    ),
)

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.GET_CAPABILITY: _GET,
    Ordinal.SET_CAPABILITY: _SET,
    Ordinal.GET_CAPABILITY_OWNER: (
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "capability_for_the_owner"),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", "capability_for_the_owner"),
        ErrorPath(RC.AUTHFAIL, "through a delegation of all there is", "what_no_delegate_may"),
    ),
}
