# SPDX-License-Identifier: Apache-2.0
"""Deprecated commands and deleted ordinals (Part 3, chapters 27 and 28)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.key_use import of_key
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_OLD_KEYS: Final = "old_contexts_of_keys_that_are_refused"
_OLD_SESSIONS: Final = "old_contexts_of_sessions_that_are_refused"
_KIND: Final = "old_contexts_of_the_other_kind"
_LOADING: Final = "loading_in_the_old_form_what_is_wrong"
_UNAUTHORIZED: Final = "sessions_that_do_not_authorize_the_owner"
_DELEGATED: Final = "delegations_that_do_not_permit_it"
_DELETED: Final = (ErrorPath(RC.BAD_ORDINAL, "always", "deleted_and_unimplemented_ordinals"),)
_COUNT: Final = "it takes 2^32 - 2 contexts"
_START: Final = "changing_a_secret_without_the_parent_knowing"
_FINISH: Final = "changes_without_the_parent_that_are_refused"

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.EVICT_KEY: (
        *[
            ErrorPath(RC.INVALID_KEYHANDLE, when, "evicting_what_is_no_loaded_key")
            for when in ("not loaded", "the SRK", "the EK", "a reserved handle")
        ],
        ErrorPath(RC.KEY_OWNER_CONTROL, "the owner keeps it in the TPM", "keys_that_stay"),
    ),
    Ordinal.TERMINATE_HANDLE: (
        ErrorPath(RC.INVALID_AUTHHANDLE, "no such session", "the_old_ways_to_flush"),
        ErrorPath(RC.INVALID_AUTHHANDLE, "a transport session", "flushing_transport_sessions"),
    ),
    Ordinal.SAVE_KEY_CONTEXT: (
        ErrorPath(RC.INVALID_KEYHANDLE, "not loaded", _OLD_KEYS),
        ErrorPath(RC.INVALID_KEYHANDLE, "the SRK", _OLD_KEYS),
        ErrorPath(RC.INVALID_KEYHANDLE, "the EK", _OLD_KEYS),
        ErrorPath(
            RC.OWNER_CONTROL,
            "the owner keeps it in the TPM",
            "an_old_context_of_a_key_that_stays",
        ),
    ),
    Ordinal.LOAD_KEY_CONTEXT: (
        ErrorPath(RC.BAD_PARAMETER, "the blob is of a session", _KIND),
        ErrorPath(RC.BADCONTEXT, "the blob was changed", _OLD_KEYS),
        *[
            ErrorPath(
                RC.BADCONTEXT, f"{kind}, saved before Startup", "contexts_of_keys_and_the_power"
            )
            for kind in ("a volatile key", "a key whose parents PCRs bind", "any other key")
        ],
        ErrorPath(RC.RESOURCES, "no slot is free", _OLD_KEYS),
    ),
    Ordinal.SAVE_AUTH_CONTEXT: (
        ErrorPath(RC.INVALID_AUTHHANDLE, "no such session", "old_contexts_of_sessions"),
        ErrorPath(RC.TOOMANYCONTEXTS, "contextCount is at its end", untried=_COUNT),
        ErrorPath(RC.NOCONTEXTSPACE, "the list is full", "contexts_until_the_list_is_full"),
    ),
    Ordinal.LOAD_AUTH_CONTEXT: (
        ErrorPath(RC.BAD_PARAMETER, "the blob is of a key", _KIND),
        ErrorPath(RC.BADCONTEXT, "the blob was changed", _OLD_SESSIONS),
        ErrorPath(RC.BADCONTEXT, "it was loaded before", _OLD_SESSIONS),
        ErrorPath(RC.BADCONTEXT, "it was saved before Startup", _OLD_SESSIONS),
        ErrorPath(RC.RESOURCEMISSING, "OSAP on a key that is not loaded", _OLD_SESSIONS),
        ErrorPath(RC.RESOURCES, "no slot is free", _OLD_SESSIONS),
    ),
    Ordinal.DIR_WRITE_AUTH: (
        ErrorPath(RC.AUTHFAIL, "there is no owner", "the_register_without_an_owner"),
        ErrorPath(
            RC.INVALID_AUTHHANDLE,
            "the session does not exist",
            "the_register_outlives_its_owner",
        ),
        ErrorPath(
            RC.AUTHFAIL, "an OSAP session on something else", "the_register_outlives_its_owner"
        ),
        ErrorPath(
            RC.AUTHFAIL, "DSAP without the permission", "every_command_of_the_owner_by_its_bit"
        ),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "data_integrity_register"),
        ErrorPath(RC.BADINDEX, "another register", "data_integrity_register"),
    ),
    Ordinal.DIR_READ: (
        ErrorPath(RC.BADINDEX, "another register", "the_register_outlives_its_owner"),
    ),
    Ordinal.RESET: (),
    Ordinal.OWNER_READ_PUBEK: (
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session does not exist", _UNAUTHORIZED),
        ErrorPath(RC.INVALID_AUTHHANDLE, "a transport session", _UNAUTHORIZED),
        ErrorPath(RC.AUTHFAIL, "an OSAP session on something else", _UNAUTHORIZED),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _UNAUTHORIZED),
        ErrorPath(RC.AUTHFAIL, "the same bytes a second time", "a_command_that_is_sent_twice"),
        ErrorPath(RC.AUTHFAIL, "DSAP without the permission", _DELEGATED),
        ErrorPath(RC.AUTHFAIL, "DSAP with a key blob", _DELEGATED),
        ErrorPath(RC.WRONGPCRVAL, "DSAP for other PCRs", "delegations_for_other_pcrs"),
        ErrorPath(RC.BAD_LOCALITY, "DSAP for other localities", "delegations_for_other_localities"),
        ErrorPath(
            RC.AUTHFAIL,
            "the owner's own secret while the pointer is to a row",
            "sessions_of_the_owner_by_way_of_a_row",
        ),
        ErrorPath(
            RC.WRONGPCRVAL,
            "an owner pointer to a row for other PCRs",
            "the_owner_pointer_to_a_row_for_other_pcrs",
        ),
        ErrorPath(
            RC.BAD_LOCALITY,
            "an owner pointer to a row for other localities",
            "the_owner_pointer_to_a_row_for_other_pcrs",
        ),
    ),
    Ordinal.DISABLE_PUBEK_READ: (
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session does not exist", _UNAUTHORIZED),
        ErrorPath(RC.AUTHFAIL, "an OSAP session on something else", _UNAUTHORIZED),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _UNAUTHORIZED),
        ErrorPath(RC.AUTHFAIL, "DSAP without the permission", _DELEGATED),
        *[
            ErrorPath(
                RC.AUTHFAIL,
                f"{kind} by an owner pointer to a row without the permission",
                "sessions_of_the_owner_by_way_of_a_row",
            )
            for kind in ("OSAP", "OIAP")
        ],
    ),
    Ordinal.LOAD_KEY: (
        *of_key("the parent"),
        ErrorPath(RC.AUTHFAIL, "C1, and the parent needs a session", _LOADING),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is no storage key", _LOADING),
        ErrorPath(RC.BAD_KEY_PROPERTY, "schemes that do not fit its usage", _LOADING),
        ErrorPath(RC.DECRYPT_ERROR, "encData was changed", _LOADING),
        ErrorPath(RC.DECRYPT_ERROR, "there is no encData", _LOADING),
        ErrorPath(RC.DECRYPT_ERROR, "encData is below another parent", _LOADING),
        ErrorPath(RC.BAD_PARAMETER, "the modulus is of another key", _LOADING),
        ErrorPath(RC.AUTHFAIL, "authDataUsage was changed", _LOADING),
        ErrorPath(RC.AUTHFAIL, "keyFlags were changed", _LOADING),
        ErrorPath(RC.NOSPACE, "no slot is free", "keys_in_the_old_form_until_there_is_no_slot"),
    ),
    Ordinal.CHANGE_AUTH_ASYM_START: (
        *of_key("the identity"),
        ErrorPath(RC.INVALID_KEYUSAGE, "the key is no identity", _START),
        ErrorPath(RC.AUTHFAIL, "C1, and the identity needs a session", _START),
        ErrorPath(RC.BAD_KEY_PROPERTY, "fewer than 512 bits", _START),
        ErrorPath(RC.BAD_KEY_PROPERTY, "an encryption scheme other than OAEP", _START),
        ErrorPath(RC.BAD_KEY_PROPERTY, "not RSA", "ephemeral_keys_that_cannot_be"),
        ErrorPath(RC.NOSPACE, "no slot is free", "an_ephemeral_key_that_finds_no_slot"),
    ),
    Ordinal.CHANGE_AUTH_ASYM_FINISH: (
        *of_key("the parent"),
        ErrorPath(RC.AUTHFAIL, "C1, and the parent needs a session", _FINISH),
        ErrorPath(RC.AUTHFAIL, "the SRK, and its own secret", "a_secret_below_the_root_changes"),
        ErrorPath(RC.WRONG_ENTITYTYPE, "the secret of the owner", _FINISH),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is no storage key", _FINISH),
        ErrorPath(RC.DECRYPT_ERROR, "encData does not decrypt", _FINISH),
        ErrorPath(RC.INVALID_KEYHANDLE, "the ephemeral key is gone", _START),
        ErrorPath(RC.BAD_PARAMETER, "the key is no ephemeral one", _FINISH),
        ErrorPath(RC.DECRYPT_ERROR, "encNewAuth does not decrypt", _FINISH),
        ErrorPath(RC.AUTHFAIL, "newAuthLink is not of the old secret", _FINISH),
    ),
    Ordinal.CERTIFY_SELF_TEST: _DELETED,
    Ordinal.GET_CAPABILITY_SIGNED: _DELETED,
    Ordinal.GET_AUDIT_EVENT: _DELETED,
    Ordinal.GET_AUDIT_EVENT_SIGNED: _DELETED,
    Ordinal.GET_ORDINAL_AUDIT_STATUS: _DELETED,
}
