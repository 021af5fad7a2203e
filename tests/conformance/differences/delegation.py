# SPDX-License-Identifier: Apache-2.0
"""Delegation (Part 3, chapter 19)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code

_WHOLE: Final = (
    "A structure fills the size that is given for it; libtpms ignores what is left over."
)
_DELEGATED_END: Final = (
    "A change of the tables ends the sessions that were delegated (Part 3, 19.1); libtpms ends all "
    "OSAP sessions, of any entity."
)

DECLARED: Final[tuple[Declared, ...]] = (
    code(
        "a_family_flag_that_is_no_boolean",
        Ordinal.DELEGATE_MANAGE,
        "BAD_PARAMETER",
        "SUCCESS",
        "The new value of a flag is a BOOL, 0 or 1 (Part 3, 19.1); libtpms takes any byte but 0 as "
        "TRUE.",
        times=2,
    ),
    code(
        "a_number_of_a_row_with_more_behind_it",
        Ordinal.DSAP,
        "BAD_PARAM_SIZE",
        "BADINDEX",
        _WHOLE,
    ),
    code(
        "a_blob_of_another_size_than_it_says",
        Ordinal.DELEGATE_LOAD_OWNER_DELEGATION,
        "BAD_PARAM_SIZE",
        "SUCCESS",
        _WHOLE,
    ),
    *[
        code("blobs_with_more_behind_them", ordinal, "BAD_PARAM_SIZE", "SUCCESS", _WHOLE)
        for ordinal in (Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION)
    ],
    code(
        "a_key_that_is_bound_to_other_pcrs_is_delegated",
        Ordinal.DELEGATE_CREATE_KEY_DELEGATION,
        "SUCCESS",
        "WRONGPCRVAL",
        "PCRs of the key do not matter to delegating it, only to using it (Part 3, 19.2).",
    ),
    code(
        "other_sessions_outlive_a_change_of_the_tables",
        Ordinal.LOAD_KEY2,
        "SUCCESS",
        "INVALID_AUTHHANDLE",
        _DELEGATED_END,
    ),
    Declared(
        "an_owners_session_outlives_a_change_of_the_tables",
        Ordinal.DELEGATE_MANAGE,
        "continue 1",
        "1",
        "0",
        _DELEGATED_END,
    ),
    code(
        "an_owners_session_outlives_a_change_of_the_tables",
        Ordinal.OWNER_READ_PUBEK,
        "SUCCESS",
        "INVALID_AUTHHANDLE",
        _DELEGATED_END,
    ),
    code(
        "a_saved_delegated_session_of_a_disabled_family",
        Ordinal.LOAD_CONTEXT,
        "RESOURCEMISSING",
        "SUCCESS",
        "All DSAP sessions end with a change of the tables (Part 3, 19.1), saved ones too; libtpms "
        "loads them again.",
    ),
    code(
        "certified_migration_by_its_bit",
        Ordinal.CMK_CONVERT_MIGRATION,
        "DECRYPT_ERROR",
        "AUTHFAIL",
        "Bit 28 of a key's permissions is CMK_ConvertMigration (Part 2, 20.2.2); libtpms looks for "
        "it among those of the owner.",
    ),
)
