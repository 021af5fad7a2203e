# SPDX-License-Identifier: Apache-2.0
"""Opening authorization sessions (Part 3, chapter 18)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_FIPS: Final = "no command sets the flag FIPS, and new chips do not have it set"
_POINTER: Final = "every change of the tables sets the owner pointer back to the owner"
_SEALED: Final = "only the TPM can give an area that does not decrypt the right integrity digest"

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.OIAP: (ErrorPath(RC.RESOURCES, "no slot is free", "sessions_until_there_is_no_slot"),),
    Ordinal.OSAP: (
        ErrorPath(RC.NOSRK, "on a key, without an owner", "osap_without_an_owner"),
        ErrorPath(RC.NOSRK, "on the owner, without one", "osap_without_an_owner"),
        ErrorPath(RC.NOSRK, "on the SRK, without an owner", "osap_without_an_owner"),
        ErrorPath(RC.RESOURCES, "no slot is free", "osap_sessions_until_there_is_no_slot"),
        ErrorPath(RC.INAPPROPRIATE_ENC, "the ADIP scheme is unknown", "osap_entities"),
        ErrorPath(RC.INAPPROPRIATE_ENC, "XOR under FIPS", untried=_FIPS),
        ErrorPath(RC.BAD_HANDLE, "on the operator", "osap_entities"),
        ErrorPath(RC.INVALID_KEYHANDLE, "the key is not loaded", "osap_entities"),
        ErrorPath(RC.KEYNOTFOUND, "the key is the EK", "osap_entities"),
        ErrorPath(RC.INVALID_RESOURCE, "the key is a reserved handle", "osap_entities"),
        ErrorPath(RC.BAD_COUNTER, "the counter does not exist", "osap_entities"),
        ErrorPath(
            RC.BAD_COUNTER,
            "the counter does not exist, without an owner",
            "osap_on_a_counter_without_an_owner",
        ),
        ErrorPath(RC.BADINDEX, "the area does not exist", "osap_entities"),
        ErrorPath(
            RC.BADINDEX,
            "the area does not exist, without an owner",
            "osap_on_an_area_without_an_owner",
        ),
        ErrorPath(RC.BAD_PARAMETER, "on something else", "osap_entities"),
        ErrorPath(RC.BADINDEX, "the owner pointer's row or family is gone", untried=_POINTER),
        ErrorPath(RC.DISABLED_CMD, "the owner pointer's family is disabled", untried=_POINTER),
        ErrorPath(RC.FAMILYCOUNT, "the owner pointer's row is stale", untried=_POINTER),
    ),
    Ordinal.DSAP: (
        ErrorPath(RC.WRONG_ENTITYTYPE, "no owner blob", "delegated_sessions_that_are_refused"),
        ErrorPath(RC.WRONG_ENTITYTYPE, "no key blob", "delegated_sessions_that_are_refused"),
        ErrorPath(
            RC.WRONG_ENTITYTYPE,
            "a key blob where an owner blob is due",
            "delegated_sessions_that_are_refused",
        ),
        ErrorPath(
            RC.BAD_PARAM_SIZE,
            "the number of a row is too short",
            "numbers_of_rows_that_are_too_short",
        ),
        ErrorPath(
            RC.BAD_PARAM_SIZE,
            "the number of a row is too long",
            "a_number_of_a_row_with_more_behind_it",
        ),
        ErrorPath(RC.BADINDEX, "the row is empty", "rows_that_are_not_there"),
        ErrorPath(RC.BADINDEX, "there is no such row", "rows_that_are_not_there"),
        *[
            ErrorPath(code, f"{condition}, {way}", "delegations_of_a_family_that_changes")
            for code, condition in (
                (RC.BADINDEX, "the family is gone"),
                (RC.DISABLED_CMD, "the family is disabled"),
                (RC.FAMILYCOUNT, "the verification count is another one"),
            )
            for way in ("by row", "by owner blob", "by key blob")
        ],
        ErrorPath(RC.AUTHFAIL, "an owner blob was changed", "delegated_sessions_that_are_refused"),
        ErrorPath(RC.AUTHFAIL, "a key blob was changed", "delegated_sessions_that_are_refused"),
        ErrorPath(
            RC.INVALID_KEYHANDLE,
            "the key is not loaded",
            "delegated_sessions_on_keys_that_are_not_there",
        ),
        ErrorPath(
            RC.KEYNOTFOUND, "the key is the EK", "delegated_sessions_on_keys_that_are_not_there"
        ),
        ErrorPath(
            RC.INVALID_RESOURCE,
            "the key is a reserved handle",
            "delegated_sessions_on_keys_that_are_not_there",
        ),
        ErrorPath(
            RC.KEYNOTFOUND,
            "the key is not the one that was delegated",
            "delegated_sessions_on_keys_that_are_not_there",
        ),
        ErrorPath(RC.BAD_DELEGATE, "the sensitive area is none", untried=_SEALED),
        ErrorPath(
            RC.BAD_PARAMETER,
            "with something else than a row or blob",
            "delegated_sessions_that_are_refused",
        ),
        ErrorPath(RC.RESOURCES, "no slot is free", "delegated_sessions_that_are_refused"),
        ErrorPath(
            RC.INAPPROPRIATE_ENC,
            "the ADIP scheme is unknown",
            "delegated_sessions_that_are_refused",
        ),
        ErrorPath(RC.INAPPROPRIATE_ENC, "XOR under FIPS", untried=_FIPS),
    ),
    Ordinal.SET_OWNER_POINTER: (
        ErrorPath(RC.BAD_PARAMETER, "to neither owner nor row", "rows_that_are_not_there"),
        ErrorPath(RC.BADINDEX, "the row is empty", "rows_that_are_not_there"),
        ErrorPath(RC.BADINDEX, "there is no such row", "rows_that_are_not_there"),
        ErrorPath(RC.BADINDEX, "the family is gone", "delegations_of_a_family_that_changes"),
        ErrorPath(
            RC.DISABLED_CMD, "the family is disabled", "delegations_of_a_family_that_changes"
        ),
        ErrorPath(RC.FAMILYCOUNT, "the row is stale", "delegations_of_a_family_that_changes"),
    ),
}
