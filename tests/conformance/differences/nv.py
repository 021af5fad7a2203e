# SPDX-License-Identifier: Apache-2.0
"""Non-volatile storage (Part 3, chapter 20)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code

_NO_OWNER: Final = (
    "A definition in the name of an owner who is not there is AUTHFAIL, whatever session is named "
    "(Part 3, 20.1); libtpms looks at the session first."
)
_FAILED_DEFINITION: Final = (
    "A definition that is refused is no failure of the TPM, also where it would have replaced an "
    "area (Part 3, 20.1); libtpms goes into failure mode."
)

DECLARED: Final[tuple[Declared, ...]] = (
    code(
        "defining_what_cannot_be",
        Ordinal.NV_DEFINE_SPACE,
        "NOSPACE",
        "SIZE",
        "An area for which there is no room is NOSPACE (Part 3, 20.1).",
    ),
    code(
        "definitions_by_an_owner_who_is_not_there",
        Ordinal.NV_DEFINE_SPACE,
        "AUTHFAIL",
        "BAD_MODE",
        _NO_OWNER,
        times=2,
    ),
    *[
        code(case, Ordinal.NV_DEFINE_SPACE, ours, "FAIL", _FAILED_DEFINITION)
        for case, ours in (
            ("an_area_that_is_defined_again_with_a_conflict", "AUTH_CONFLICT"),
            ("an_area_that_is_defined_again_for_everybody", "PER_NOWRITE"),
            ("an_area_that_is_defined_again_and_does_not_fit", "NOSPACE"),
        )
    ],
    code(
        "sessions_on_areas_that_are_defined_again",
        Ordinal.NV_WRITE_VALUE_AUTH,
        "SUCCESS",
        "INVALID_AUTHHANDLE",
        "A new definition ends the sessions on the old area (Part 3, 20.1); libtpms ends those on "
        "every area.",
    ),
    *[
        code(
            "areas_with_a_secret_and_a_session_that_is_wrong",
            ordinal,
            "AUTHFAIL",
            "SUCCESS",
            "An OSAP session serves the one entity that it was opened on (Part 1, 8.4); libtpms "
            "takes a session on one area for every area.",
        )
        for ordinal in (Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH)
    ],
    code(
        "writes_of_a_tpm_with_an_owner_are_not_counted",
        Ordinal.NV_WRITE_VALUE,
        "SUCCESS",
        "MAXNVWRITES",
        "Writes are counted while there is no owner (Part 3, 20.2); libtpms counts every write "
        "without authorization.",
        times=2,
    ),
    code(
        "reading_as_owner_before_the_lock",
        Ordinal.NV_READ_VALUE,
        "AUTHFAIL",
        "SUCCESS",
        "The owner's authorization may be checked before nvLocked too (Part 3, 20.4); libtpms does "
        "not look at it when it reads.",
    ),
    Declared(
        "general_purpose_input_and_output",
        Ordinal.NV_READ_VALUE,
        "data",
        "01",
        "00",
        "What is at the other end of a pin is the platform's business (PC Client, GPIO): here it "
        "is what was written, in libtpms nothing.",
    ),
    code(
        "defining_with_the_write_locality_alone",
        Ordinal.NV_DEFINE_SPACE,
        "SUCCESS",
        "PER_NOWRITE",
        "Whether an area can be written follows from pcrInfoWrite (Part 3, 20.1); libtpms looks at "
        "pcrInfoRead.",
    ),
)
