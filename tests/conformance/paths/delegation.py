# SPDX-License-Identifier: Apache-2.0
"""Delegation (Part 3, chapter 19)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_ENDED: Final = "disabling a family ends the sessions that it delegated, saved ones too"
_SEALED: Final = "only the TPM can give an area that does not decrypt the right integrity digest"
_DAMAGED: Final = "delegations_of_what_is_no_public_part"
_OTHERS: Final = "delegates_and_the_families_of_others"
_GONE: Final = "delegations_of_a_family_that_is_gone"

_PUBLIC_PART: Final = (
    ErrorPath(RC.INVALID_STRUCTURE, "wrong tag of the public part", _DAMAGED),
    ErrorPath(RC.INVALID_STRUCTURE, "wrong tag of the permissions", _DAMAGED),
    ErrorPath(RC.BAD_PARAMETER, "a delegateType that does not exist", _DAMAGED),
    ErrorPath(RC.BAD_PARAMETER, "permissions of a key that do not exist", _DAMAGED),
    ErrorPath(RC.BAD_PARAMETER, "a reserved bit of per2", _DAMAGED),
    ErrorPath(RC.INVALID_PCR_INFO, "a PCR selection of four bytes", _DAMAGED),
)

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.DELEGATE_MANAGE: (
        ErrorPath(RC.BADINDEX, "the family does not exist", "families_of_the_owner"),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "families_of_the_owner"),
        ErrorPath(RC.AUTHFAIL, "a session, and no owner", "rows_without_an_owner"),
        ErrorPath(RC.DELEGATE_FAMILY, "DSAP of another family", _OTHERS),
        ErrorPath(
            RC.DELEGATE_FAMILY,
            "OIAP by an owner pointer to another family",
            "sessions_of_the_owner_by_way_of_a_row",
        ),
        ErrorPath(
            RC.DELEGATE_FAMILY,
            "OSAP by an owner pointer to another family",
            "sessions_of_the_owner_by_way_of_a_row",
        ),
        ErrorPath(RC.AUTHFAIL, "no session, and an owner", "families_of_the_owner"),
        ErrorPath(RC.DELEGATE_LOCK, "no owner, and the family is locked", "rows_without_an_owner"),
        ErrorPath(
            RC.MAXNVWRITES,
            "no owner, and 64 writes were done",
            "tables_that_were_written_too_often_without_an_owner",
        ),
        ErrorPath(RC.RESOURCES, "CREATE: no row is free", "families_without_an_owner"),
        ErrorPath(RC.BAD_PARAM_SIZE, "CREATE: not one byte", "families_of_the_owner"),
        *[
            ErrorPath(
                RC.BAD_PARAM_SIZE,
                f"{name}: not one byte",
                "the_lock_of_a_family_does_not_bind_the_owner",
            )
            for name in ("ENABLE", "ADMIN")
        ],
        *[
            ErrorPath(RC.BAD_PARAMETER, f"{name}: not a BOOL", "a_family_flag_that_is_no_boolean")
            for name in ("ENABLE", "ADMIN")
        ],
        ErrorPath(RC.BAD_PARAMETER, "the operation does not exist", "families_of_the_owner"),
    ),
    Ordinal.DELEGATE_CREATE_KEY_DELEGATION: (
        *_PUBLIC_PART,
        ErrorPath(
            RC.INVALID_KEYHANDLE,
            "the key is not loaded",
            "key_delegations_of_keys_that_are_not_there",
        ),
        ErrorPath(
            RC.KEYNOTFOUND, "the key is the EK", "key_delegations_of_keys_that_are_not_there"
        ),
        ErrorPath(
            RC.INVALID_RESOURCE,
            "the key is a reserved handle",
            "key_delegations_of_keys_that_are_not_there",
        ),
        ErrorPath(
            RC.INVALID_AUTHHANDLE,
            "the session does not exist",
            "key_delegations_of_keys_that_are_not_there",
        ),
        ErrorPath(RC.BAD_MODE, "the session is an OIAP session", "key_delegations_that_cannot_be"),
        ErrorPath(
            RC.AUTHFAIL,
            "an OSAP session on something else",
            "key_delegations_of_keys_that_are_not_there",
        ),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "key_delegations_that_cannot_be"),
        ErrorPath(RC.BADINDEX, "the family does not exist", "key_delegations_that_cannot_be"),
        ErrorPath(RC.DELEGATE_FAMILY, "DSAP of another family", "a_delegate_of_a_key_passes_it_on"),
        ErrorPath(RC.DISABLED_CMD, "DSAP of a disabled family", untried=_ENDED),
        ErrorPath(
            RC.AUTHFAIL,
            "DSAP, more permissions than it has",
            "a_delegate_of_a_key_passes_it_on",
        ),
        ErrorPath(
            RC.BAD_PARAMETER,
            "permissions of the owner's commands",
            "key_delegations_that_cannot_be",
        ),
    ),
    Ordinal.DELEGATE_CREATE_OWNER_DELEGATION: (
        *_PUBLIC_PART,
        ErrorPath(RC.BAD_PARAMETER, "increment is not a BOOL", _DAMAGED),
        ErrorPath(
            RC.BAD_MODE, "the session is an OIAP session", "owner_delegations_that_cannot_be"
        ),
        ErrorPath(
            RC.AUTHFAIL,
            "an OSAP session on something else",
            "key_delegations_of_keys_that_are_not_there",
        ),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "owner_delegations_that_cannot_be"),
        ErrorPath(RC.BADINDEX, "the family does not exist", "owner_delegations_that_cannot_be"),
        ErrorPath(
            RC.DELEGATE_FAMILY,
            "DSAP of another family",
            "a_delegate_manages_only_its_own_family",
        ),
        ErrorPath(RC.DISABLED_CMD, "DSAP of a disabled family", untried=_ENDED),
        ErrorPath(
            RC.AUTHFAIL,
            "DSAP, more permissions than it has",
            "a_delegate_manages_only_its_own_family",
        ),
        ErrorPath(
            RC.BAD_PARAMETER, "permissions of a key's commands", "owner_delegations_that_cannot_be"
        ),
    ),
    Ordinal.DELEGATE_LOAD_OWNER_DELEGATION: (
        ErrorPath(RC.INVALID_STRUCTURE, "wrong tag of the blob", "rows_of_what_is_no_owner_blob"),
        ErrorPath(
            RC.BAD_PARAM_SIZE,
            "blobSize is not the size of the blob",
            "a_blob_of_another_size_than_it_says",
        ),
        ErrorPath(RC.BADINDEX, "the family does not exist", _GONE),
        ErrorPath(RC.DISABLED_CMD, "the family is disabled", "owner_delegation_by_row"),
        ErrorPath(RC.AUTHFAIL, "no session, and an owner", "owner_delegation_by_row"),
        ErrorPath(
            RC.AUTHFAIL,
            "a session, and no owner",
            "test_delegation.py::test_without_an_owner_a_row_is_loaded_in_the_clear",
        ),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "owner_delegation_by_row"),
        ErrorPath(RC.DELEGATE_FAMILY, "DSAP of another family", _OTHERS),
        ErrorPath(RC.AUTHFAIL, "the blob was changed", "owner_delegation_by_row"),
        ErrorPath(RC.INVALID_STRUCTURE, "the sensitive area is none", untried=_SEALED),
        ErrorPath(RC.DELEGATE_LOCK, "no owner, and the family is locked", "rows_without_an_owner"),
        ErrorPath(
            RC.MAXNVWRITES,
            "no owner, and 64 writes were done",
            "tables_that_were_written_too_often_without_an_owner",
        ),
        ErrorPath(
            RC.INVALID_STRUCTURE,
            "no owner, wrong tag of the sensitive area",
            "rows_without_an_owner",
        ),
        ErrorPath(RC.BADINDEX, "there is no such row", "owner_delegation_by_row"),
        ErrorPath(RC.BADINDEX, "there is no such row, without an owner", "rows_without_an_owner"),
    ),
    Ordinal.DELEGATE_READ_TABLE: (),
    Ordinal.DELEGATE_UPDATE_VERIFICATION: (
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "verifying_and_updating"),
        ErrorPath(RC.BADINDEX, "the row is empty", "verifying_and_updating"),
        ErrorPath(RC.BAD_PARAM_SIZE, "no room for a tag", "blobs_of_neither_kind"),
        ErrorPath(RC.BAD_PARAM_SIZE, "the blob ends early", "blobs_of_neither_kind"),
        ErrorPath(RC.BAD_PARAM_SIZE, "something is behind the blob", "blobs_with_more_behind_them"),
        ErrorPath(RC.BAD_PARAMETER, "a blob of neither kind", "blobs_of_neither_kind"),
        ErrorPath(RC.AUTHFAIL, "an owner blob was changed", "verifying_and_updating"),
        ErrorPath(RC.AUTHFAIL, "a key blob was changed", "verifying_and_updating"),
        ErrorPath(RC.BADINDEX, "the family of an owner blob is gone", _GONE),
        ErrorPath(RC.BADINDEX, "the family of a key blob is gone", _GONE),
        ErrorPath(RC.BADINDEX, "the family of a row is gone", _GONE),
        ErrorPath(RC.DELEGATE_FAMILY, "DSAP of another family, for a blob", _OTHERS),
        ErrorPath(RC.DELEGATE_FAMILY, "DSAP of another family, for a row", _OTHERS),
        ErrorPath(RC.DISABLED_CMD, "DSAP of a disabled family", untried=_ENDED),
    ),
    Ordinal.DELEGATE_VERIFY_DELEGATION: (
        ErrorPath(RC.BAD_PARAM_SIZE, "no room for a tag", "blobs_of_neither_kind"),
        ErrorPath(RC.BAD_PARAM_SIZE, "the blob ends early", "blobs_of_neither_kind"),
        ErrorPath(RC.BAD_PARAM_SIZE, "something is behind the blob", "blobs_with_more_behind_them"),
        ErrorPath(RC.BAD_PARAMETER, "a blob of neither kind", "blobs_of_neither_kind"),
        ErrorPath(RC.BADINDEX, "the family of an owner blob is gone", _GONE),
        ErrorPath(RC.BADINDEX, "the family of a key blob is gone", _GONE),
        ErrorPath(RC.DISABLED_CMD, "the family is disabled", "verifying_and_updating"),
        ErrorPath(RC.FAMILYCOUNT, "the owner blob is stale", "verifying_and_updating"),
        ErrorPath(RC.FAMILYCOUNT, "the key blob is stale", "verifying_and_updating"),
        ErrorPath(RC.AUTHFAIL, "an owner blob was changed", "verifying_and_updating"),
        ErrorPath(RC.AUTHFAIL, "a key blob was changed", "verifying_and_updating"),
        ErrorPath(RC.BAD_PARAMETER, "the sensitive area is none", untried=_SEALED),
    ),
}
