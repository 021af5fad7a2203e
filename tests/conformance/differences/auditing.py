# SPDX-License-Identifier: Apache-2.0
"""Auditing (Part 3, chapter 8)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import KEY_LOCALITY

DECLARED: Final[tuple[Declared, ...]] = (
    code(
        "audit_digest_signed_with_a_bound_key",
        Ordinal.GET_AUDIT_DIGEST_SIGNED,
        "BAD_LOCALITY",
        "WRONGPCRVAL",
        KEY_LOCALITY,
    ),
    *[
        code(
            "audit_status_of_an_ordinal_that_is_not_there",
            Ordinal.SET_ORDINAL_AUDIT_STATUS,
            "BADINDEX",
            theirs,
            "An ordinal that is not implemented is BADINDEX (Part 3, 8.3); libtpms looks only at "
            "its number.",
            times=times,
        )
        for theirs, times in (("BAD_PARAMETER", 2), ("SUCCESS", 1))
    ],
    Declared(
        "audit_digest_closed",
        Ordinal.GET_AUDIT_DIGEST_SIGNED,
        "audit_digest",
        "True",
        "False",
        "The response of a closing command has the digest from before (Part 3, 8.2); libtpms gives "
        "zeros. Compared is whether it is other than zero.",
    ),
)
