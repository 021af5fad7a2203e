# SPDX-License-Identifier: Apache-2.0
"""Cryptographic functions (Part 3, chapter 13)."""

from __future__ import annotations

from collections import Counter
from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.cases_key_use import USES
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import KEY_LOCALITY, ONE_SESSION

DECLARED: Final[tuple[Declared, ...]] = (
    code(
        "certifying_with_one_wrong_session",
        Ordinal.CERTIFY_KEY,
        "AUTHFAIL",
        "AUTH2FAIL",
        ONE_SESSION,
    ),
    code(
        "certifying_in_the_new_form_with_one_wrong_session",
        Ordinal.CERTIFY_KEY2,
        "AUTHFAIL",
        "AUTH2FAIL",
        ONE_SESSION,
    ),
    *[
        code(
            "certifying_keys_whose_pcrs_do_not_matter_for_reading",
            ordinal,
            "SUCCESS",
            "WRONGPCRVAL",
            "pcrIgnoredOnRead frees the key that is certified from its PCRs (Part 3, 13.8 and "
            "13.9); libtpms always looks at them.",
        )
        for ordinal in (Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2)
    ],
    *[
        code(
            "keys_at_the_wrong_locality",
            ordinal,
            "BAD_LOCALITY",
            "WRONGPCRVAL",
            KEY_LOCALITY,
            times=times,
        )
        for ordinal, times in sorted(Counter(use.ordinal for use in USES).items())
    ],
)
