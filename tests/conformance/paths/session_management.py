# SPDX-License-Identifier: Apache-2.0
"""Session and key management, and eviction (Part 3, chapters 21 and 22)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_UNFIT: Final = "keys_that_may_not_stay_for_what_they_are"
_ABSENT: Final = "contexts_of_what_is_not_there"
_NONE: Final = "contexts_that_are_none"
_GONE: Final = "contexts_of_sessions_whose_entity_is_gone"
_OTHER_KEY: Final = "contexts_of_sessions_on_another_key"
_FREE: Final = (
    "the handle of a saved session is free until it is loaded, unless a random one hits it"
)

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.KEY_CONTROL_OWNER: (
        ErrorPath(RC.BAD_PARAMETER, "bitValue is not a BOOL", "whether_a_key_stays_is_no_boolean"),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "keys_that_stay"),
        ErrorPath(RC.INVALID_KEYHANDLE, "the key is not loaded", _UNFIT),
        ErrorPath(RC.INVALID_KEYHANDLE, "the key is the SRK", _UNFIT),
        ErrorPath(RC.INVALID_KEYHANDLE, "the key is the EK", _UNFIT),
        ErrorPath(RC.INVALID_KEYHANDLE, "the key is a reserved handle", _UNFIT),
        ErrorPath(RC.INVALID_KEYUSAGE, "a migration key", "keys_that_may_not_stay"),
        ErrorPath(RC.BAD_PARAMETER, "pubKey is of another key", "keys_that_stay"),
        ErrorPath(RC.BAD_MODE, "another bitName", "keys_that_stay"),
        ErrorPath(RC.NOSPACE, "as many keys stay as may", "keys_that_stay_until_there_is_no_room"),
        ErrorPath(RC.BAD_PARAMETER, "PCRs bind its parents", _UNFIT),
        ErrorPath(RC.BAD_PARAMETER, "the key is volatile", "keys_that_stay"),
    ),
    Ordinal.SAVE_CONTEXT: (
        ErrorPath(RC.INVALID_RESOURCE, "a resourceType that is not saved", "contexts_of_keys"),
        *[
            ErrorPath(RC.INVALID_RESOURCE, f"{kind} with this handle is not there", _ABSENT)
            for kind in ("a key", "a session", "a transport session", "a DAA session")
        ],
        ErrorPath(RC.INVALID_RESOURCE, "the key is the SRK", _ABSENT),
        ErrorPath(RC.INVALID_RESOURCE, "the handle is that of another kind", _ABSENT),
        ErrorPath(RC.OWNER_CONTROL, "the owner keeps the key in the TPM", "keys_that_stay"),
        ErrorPath(
            RC.TOOMANYCONTEXTS,
            "contextCount is at its end, after 2^32 - 2 contexts",
            "test_limits.py::test_the_count_of_contexts_ends_where_it_has_no_next",
        ),
        ErrorPath(
            RC.CONTEXT_GAP,
            "an older context is too far back",
            untried="the distance may be as large as contextCount gets",
        ),
        ErrorPath(
            RC.NOCONTEXTSPACE, "the list is full: session", "contexts_until_the_list_is_full"
        ),
        ErrorPath(
            RC.NOCONTEXTSPACE,
            "the list is full: transport session",
            "contexts_until_the_list_is_full",
        ),
    ),
    Ordinal.LOAD_CONTEXT: (
        ErrorPath(RC.BAD_PARAMETER, "keepHandle is not a BOOL", _NONE),
        *[
            ErrorPath(RC.BADCONTEXT, f"the blob {fault}", _NONE)
            for fault in ("is empty", "has a wrong tag", "ends early", "has something behind it")
        ],
        ErrorPath(
            RC.INVALID_RESOURCE,
            "a resourceType that is not saved",
            "contexts_of_resources_that_are_none",
        ),
        ErrorPath(
            RC.BADCONTEXT,
            "a resourceType that it is not of",
            "contexts_of_one_kind_as_another",
        ),
        *[
            ErrorPath(RC.BADCONTEXT, f"{field} was changed", "contexts_that_were_changed")
            for field in ("the handle", "the label", "contextCount", "integrityDigest")
        ],
        ErrorPath(RC.BADCONTEXT, "the sensitive area was changed", "a_damaged_context"),
        *[
            ErrorPath(
                RC.BADCONTEXT, f"{kind} saved under another owner", "contexts_of_another_owner"
            )
            for kind in ("a key", "a session")
        ],
        ErrorPath(RC.BADCONTEXT, "a session saved before Startup", "contexts_of_osap_sessions"),
        ErrorPath(
            RC.BADCONTEXT,
            "a transport session saved before Startup",
            "contexts_of_transport_sessions",
        ),
        *[
            ErrorPath(
                RC.BADCONTEXT, f"{kind}, saved before Startup", "contexts_of_keys_and_the_power"
            )
            for kind in ("a volatile key", "a key whose parents PCRs bind")
        ],
        ErrorPath(RC.BADCONTEXT, "the session was loaded before", "contexts_of_sessions"),
        ErrorPath(
            RC.BADCONTEXT,
            "the transport session was loaded before",
            "contexts_of_transport_sessions",
        ),
        ErrorPath(RC.BADCONTEXT, "the context was flushed", "flushing_a_saved_context"),
        ErrorPath(RC.BAD_HANDLE, "OSAP on a key: no such key", _OTHER_KEY),
        ErrorPath(
            RC.NOSRK,
            "OSAP on the SRK: there is none",
            untried="the command itself needs an owner, who has an SRK",
        ),
        ErrorPath(RC.RESOURCEMISSING, "OSAP on a key: another key", _OTHER_KEY),
        ErrorPath(RC.RESOURCEMISSING, "OSAP on a key: the SRK is given", _OTHER_KEY),
        ErrorPath(
            RC.RESOURCEMISSING,
            "OSAP on the owner: his secret changed",
            "contexts_of_sessions_whose_entity_changed",
        ),
        ErrorPath(RC.RESOURCEMISSING, "OSAP on a counter: another one is given", _GONE),
        ErrorPath(RC.RESOURCEMISSING, "OSAP on a counter that is gone", _GONE),
        ErrorPath(
            RC.RESOURCEMISSING,
            "OSAP on an area that is gone",
            "contexts_of_sessions_whose_area_is_gone",
        ),
        ErrorPath(
            RC.RESOURCEMISSING,
            "DSAP of a family that is disabled",
            "a_saved_delegated_session_of_a_disabled_family",
        ),
        ErrorPath(RC.BAD_HANDLE, "the handle of a key is to be kept and taken", "contexts_of_keys"),
        ErrorPath(RC.BAD_HANDLE, "the handle of a session is to be kept and taken", untried=_FREE),
        ErrorPath(RC.NOSPACE, "no key slot is free", "contexts_of_keys_that_find_no_place"),
        ErrorPath(RC.RESOURCES, "no session slot is free", "contexts_that_find_no_place"),
        ErrorPath(
            RC.RESOURCES,
            "no transport session slot is free",
            "contexts_of_transport_sessions_that_find_no_place",
        ),
        ErrorPath(RC.RESOURCES, "no DAA session slot is free", "contexts_of_daa_sessions"),
        ErrorPath(RC.BADCONTEXT, "the DAA session was loaded before", "contexts_of_daa_sessions"),
    ),
    Ordinal.FLUSH_SPECIFIC: (
        ErrorPath(RC.BAD_PARAMETER, "KEY: not loaded", "flushing"),
        ErrorPath(RC.BAD_PARAMETER, "KEY: the SRK", "flushing"),
        ErrorPath(RC.KEY_OWNER_CONTROL, "KEY: the owner keeps it in the TPM", "keys_that_stay"),
        ErrorPath(RC.INVALID_AUTHHANDLE, "AUTH: no such session", "flushing"),
        ErrorPath(
            RC.INVALID_AUTHHANDLE, "AUTH: a transport session", "flushing_transport_sessions"
        ),
        ErrorPath(RC.INVALID_AUTHHANDLE, "TRANS: no such session", "flushing_transport_sessions"),
        ErrorPath(
            RC.BAD_PARAMETER,
            "DAA_TPM: no such session",
            "flushing_a_daa_session_that_is_not_there",
        ),
        ErrorPath(RC.BAD_PARAMETER, "CONTEXT: no such saved session", "flushing"),
        ErrorPath(RC.INVALID_RESOURCE, "another resourceType", "flushing"),
    ),
}
