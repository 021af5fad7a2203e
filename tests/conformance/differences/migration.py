# SPDX-License-Identifier: Apache-2.0
"""Migration (Part 3, 11.1 to 11.4)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import (
    KEY_LOCALITY,
    ONE_SESSION,
    OWNERS_PERMISSION,
    SYMMETRIC,
)

DECLARED: Final[tuple[Declared, ...]] = (
    *[
        code(
            "migration_with_keys_of_another_locality",
            ordinal,
            "BAD_LOCALITY",
            "WRONGPCRVAL",
            KEY_LOCALITY,
        )
        for ordinal in (
            Ordinal.CREATE_MIGRATION_BLOB,
            Ordinal.CONVERT_MIGRATION_BLOB,
            Ordinal.MIGRATE_KEY,
        )
    ],
    code(
        "migration_with_one_wrong_session",
        Ordinal.CREATE_MIGRATION_BLOB,
        "AUTHFAIL",
        "AUTH2FAIL",
        ONE_SESSION,
    ),
    *[
        code(
            case,
            ordinal,
            "BAD_MIGRATION",
            "INVALID_STRUCTURE",
            "Data of another payload type is BAD_MIGRATION (Part 3, 11.1 and 11.2); libtpms does "
            "not parse what no key has.",
            times=5,
        )
        for case, ordinal in (
            ("migration_of_what_is_no_plain_key", Ordinal.CREATE_MIGRATION_BLOB),
            ("conversions_that_are_refused", Ordinal.CONVERT_MIGRATION_BLOB),
        )
    ],
    *[
        code(case, Ordinal.FLUSH_SPECIFIC, "INVALID_AUTHHANDLE", "SUCCESS", SYMMETRIC)
        for case in (
            "authorizing_keys_that_are_unfit",
            "an_authority_with_a_target_that_cannot_encrypt",
        )
    ],
    code(
        "migration_without_permission",
        Ordinal.CREATE_MIGRATION_BLOB,
        "MIGRATEFAIL",
        "AUTHFAIL",
        OWNERS_PERMISSION,
        times=4,
    ),
)
