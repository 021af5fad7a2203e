# SPDX-License-Identifier: Apache-2.0
"""Session and key management, and eviction (Part 3, chapters 21 and 22)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import CONTEXT, context_of_another_key

DECLARED: Final[tuple[Declared, ...]] = (
    code(
        "contexts_of_keys",
        Ordinal.FLUSH_SPECIFIC,
        "SUCCESS",
        "BAD_PARAMETER",
        "A refused LoadContext changes nothing (Part 3, 21.3); libtpms drops the loaded key whose "
        "handle it was asked to keep.",
    ),
    context_of_another_key("a_damaged_context"),
    context_of_another_key("contexts_of_another_owner", times=2),
    *[
        code(case, Ordinal.LOAD_CONTEXT, "BADCONTEXT", theirs, CONTEXT, times=times)
        for case, theirs, times in (
            ("contexts_of_one_kind_as_another", "INVALID_STRUCTURE", 1),
            ("contexts_that_are_none", "INVALID_STRUCTURE", 1),
            ("contexts_that_are_none", "BAD_PARAM_SIZE", 4),
        )
    ],
    code(
        "an_old_context_of_a_key_that_stays",
        Ordinal.SAVE_KEY_CONTEXT,
        "OWNER_CONTROL",
        "SUCCESS",
        "A key that the owner keeps in the TPM is not moved out (Part 3, 27.8.1); libtpms does not "
        "look.",
    ),
    code(
        "flushing_a_daa_session_that_is_not_there",
        Ordinal.FLUSH_SPECIFIC,
        "BAD_PARAMETER",
        "BAD_HANDLE",
        "A handle of no resource of its type is BAD_PARAMETER (Part 3, 22.1).",
    ),
    code(
        "whether_a_key_stays_is_no_boolean",
        Ordinal.KEY_CONTROL_OWNER,
        "BAD_PARAMETER",
        "SUCCESS",
        "A BOOL is 0 or 1, anything else is BAD_PARAMETER (Part 2, 2.2.2); libtpms takes it for "
        "TRUE.",
    ),
    code(
        "saved_contexts_outlive_a_reset",
        Ordinal.LOAD_CONTEXT,
        "SUCCESS",
        "BADCONTEXT",
        "TPM_Reset leaves what TPM_SaveContext saved (Part 3, 27.9); libtpms forgets every saved "
        "session.",
    ),
    code(
        "old_contexts_die_with_a_reset",
        Ordinal.LOAD_KEY_CONTEXT,
        "BADCONTEXT",
        "SUCCESS",
        "TPM_Reset ends what TPM_SaveKeyContext saved, as it does the sessions of "
        "TPM_SaveAuthContext (Part 3, 27.9); libtpms forgets sessions only.",
    ),
    code(
        "a_context_that_found_no_place_before",
        Ordinal.LOAD_CONTEXT,
        "SUCCESS",
        "BADCONTEXT",
        "A refused LoadContext changes nothing (Part 3, 21.3); libtpms strikes the blob off the "
        "list before it looks for a slot.",
    ),
)
