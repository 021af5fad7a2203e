# SPDX-License-Identifier: Apache-2.0
"""Certified migratable keys (Part 3, 11.5 to 11.10)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import KEY_LOCALITY, OWNERS_PERMISSION, SYMMETRIC

DECLARED: Final[tuple[Declared, ...]] = (
    *[
        code(
            "certified_keys_and_parents_of_another_locality",
            ordinal,
            "BAD_LOCALITY",
            "WRONGPCRVAL",
            KEY_LOCALITY,
        )
        for ordinal in (
            Ordinal.CMK_CREATE_KEY,
            Ordinal.CMK_CREATE_BLOB,
            Ordinal.CMK_CONVERT_MIGRATION,
        )
    ],
    *[
        code(case, Ordinal.FLUSH_SPECIFIC, "INVALID_AUTHHANDLE", "SUCCESS", SYMMETRIC)
        for case in (
            "certified_keys_with_unfit_properties",
            "a_ticket_for_a_key_that_is_not_for_rsa",
            "a_certified_conversion_of_a_key_that_is_not_for_rsa",
        )
    ],
    code(
        "certified_migration_without_permission",
        Ordinal.CMK_CREATE_BLOB,
        "MIGRATEFAIL",
        "AUTHFAIL",
        OWNERS_PERMISSION,
        times=2,
    ),
    *[
        code(
            "certified_migrations_with_a_list_and_a_tail",
            ordinal,
            ours,
            theirs,
            "What is sized holds its structure and nothing else, a tail is BAD_PARAM_SIZE (Part 2, "
            "2.1); libtpms does not look behind the list.",
        )
        for ordinal, ours, theirs in (
            (Ordinal.CMK_CREATE_BLOB, "BAD_PARAM_SIZE", "SUCCESS"),
            (Ordinal.CMK_CONVERT_MIGRATION, "BAD_PARAM_SIZE", "BAD_PARAMETER"),
        )
    ],
    code(
        "certified_migrations_with_a_list_that_does_not_parse",
        Ordinal.FLUSH_SPECIFIC,
        "SUCCESS",
        "INVALID_AUTHHANDLE",
        "What does not parse is refused before a session is looked at, and ends none (Part 1, "
        "8.1); libtpms parses the list after the HMAC.",
        times=2,
    ),
    code(
        "a_certified_migration_to_what_is_no_authority",
        Ordinal.CMK_CREATE_BLOB,
        "MA_AUTHORITY",
        "MA_TICKET_SIGNATURE",
        "A destination that is no authority of the list is MA_AUTHORITY (Part 3, 11.9).",
    ),
    code(
        "a_certified_migration_with_a_false_ticket",
        Ordinal.CMK_CREATE_BLOB,
        "MA_AUTHORITY",
        "MA_TICKET_SIGNATURE",
        "A sigTicket of no authority of the list is MA_AUTHORITY (Part 3, 11.9).",
        times=2,
    ),
    code(
        "a_certified_conversion_with_a_false_ticket",
        Ordinal.CMK_CONVERT_MIGRATION,
        "MA_AUTHORITY",
        "MA_TICKET_SIGNATURE",
        "A sigTicket of no authority of the list is MA_AUTHORITY (Part 3, 11.10).",
        times=2,
    ),
)
