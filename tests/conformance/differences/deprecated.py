# SPDX-License-Identifier: Apache-2.0
"""Deprecated commands and deleted ordinals (Part 3, chapters 27 and 28)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code

DECLARED: Final[tuple[Declared, ...]] = (
    Declared(
        "changing_a_secret_without_the_parent_knowing",
        Ordinal.CHANGE_AUTH_ASYM_START,
        "certify_info.parent_pcr_status",
        "False",
        "True",
        "The ephemeral key has no parent, so none that PCRs bind (Part 3, 27.4.1).",
    ),
    code(
        "ephemeral_keys_that_cannot_be",
        Ordinal.FLUSH_SPECIFIC,
        "INVALID_AUTHHANDLE",
        "SUCCESS",
        "A known algorithm that no ephemeral key may have is found by the command's own checks, "
        "after which the sessions that it names end (Part 3, 27.4.1); libtpms refuses it while it "
        "parses.",
    ),
    code(
        "a_secret_changes_unseen_inside_of_a_transport_session",
        Ordinal.EXECUTE_TRANSPORT,
        "SUCCESS",
        "AUTH2FAIL",
        "Both handles of ChangeAuthAsymFinish are outside of digests and encryption (Part 3, "
        "27.4.2); libtpms takes the second one for a parameter.",
    ),
    code(
        "a_secret_of_sealed_data_changes_unseen",
        Ordinal.CHANGE_AUTH_ASYM_FINISH,
        "SUCCESS",
        "WRONG_ENTITYTYPE",
        "encData is that of a TPM_KEY or of a TPM_STORED_DATA (Part 3, 27.4.2); libtpms changes "
        "only secrets of keys.",
    ),
    *[
        Declared(
            "deleted_ordinals_with_sessions",
            Ordinal.CERTIFY_SELF_TEST,
            "tag",
            "0xc4",
            theirs,
            "Every error has the tag of a response without sessions (Part 3, 1.1); libtpms answers "
            "an unknown ordinal with the tag that belongs to the request's.",
        )
        for theirs in ("0xc5", "0xc6")
    ],
)
