# SPDX-License-Identifier: Apache-2.0
"""Storage functions (Part 3, chapter 10)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import KEY_LOCALITY, ONE_SESSION, SYMMETRIC

_TOO_LARGE: Final = "Data that does not fit below the key's modulus is BAD_DATASIZE (Part 3, 10.1)."
_WHOLE_INFO: Final = (
    "The size before a PCR structure is the size of that structure (Part 2, 9.1 and 10.2); libtpms "
    "ignores bytes behind it."
)

DECLARED: Final[tuple[Declared, ...]] = (
    code("seal_errors", Ordinal.SEAL, "BAD_DATASIZE", "ENCRYPT_ERROR", _TOO_LARGE),
    code("sealx_errors", Ordinal.SEALX, "BAD_DATASIZE", "ENCRYPT_ERROR", _TOO_LARGE),
    *[
        code(
            "sealing_to_what_does_not_parse",
            ordinal,
            "BADINDEX",
            "SUCCESS",
            _WHOLE_INFO,
            times=times,
        )
        for ordinal, times in ((Ordinal.SEAL, 2), (Ordinal.SEALX, 1))
    ],
    code(
        "unsealing_what_does_not_parse",
        Ordinal.UNSEAL,
        "BAD_PARAM_SIZE",
        "NOTSEALED_BLOB",
        _WHOLE_INFO,
    ),
    code("unsealing_with_one_wrong_session", Ordinal.UNSEAL, "AUTHFAIL", "AUTH2FAIL", ONE_SESSION),
    code(
        "keys_bound_to_localities",
        Ordinal.SIGN,
        "BAD_LOCALITY",
        "WRONGPCRVAL",
        KEY_LOCALITY,
    ),
    *[
        code(case, Ordinal.FLUSH_SPECIFIC, "INVALID_AUTHHANDLE", "SUCCESS", SYMMETRIC, times=21)
        for case in (
            "keys_of_no_allowed_property_cannot_be_made",
            "keys_of_no_allowed_property_cannot_be_loaded",
        )
    ],
    code(
        "keys_of_no_allowed_property_cannot_be_made",
        Ordinal.CREATE_WRAP_KEY,
        "BAD_KEY_PROPERTY",
        "INVALID_KEYUSAGE",
        "What a key is made of is judged before what it is for (Part 3, 10.4); libtpms does not "
        "look at the length and the exponent of an AUTHCHANGE key.",
        times=9,
    ),
    Declared(
        "keys_of_no_allowed_property_cannot_be_loaded",
        Ordinal.LOAD_KEY2,
        "code",
        "BAD_KEY_PROPERTY",
        "AUTHFAIL",
        "A key that this TPM would not make is not loaded either (Part 3, 10.5, "
        "TPM_BAD_KEY_PROPERTY); libtpms looks at schemes only, then whether the exponent has an "
        "inverse for the prime that is in the key, and at the digest of the rest.",
        or_else="BAD_PARAMETER",
        times=42,
    ),
    *[
        code("keys_with_bytes_behind_their_pcr_info", *found, _WHOLE_INFO)
        for found in (
            (Ordinal.CREATE_WRAP_KEY, "BAD_PARAM_SIZE", "SUCCESS"),
            (Ordinal.LOAD_KEY2, "BAD_PARAM_SIZE", "DECRYPT_ERROR"),
        )
    ],
)
