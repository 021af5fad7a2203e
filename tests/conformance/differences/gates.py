# SPDX-License-Identifier: Apache-2.0
"""What is judged before the own checks of an ordinal: state, tag, size, owner."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import CONTEXT, UNKNOWN_AREA

_STATE_FIRST: Final = (
    "The state is judged before the tag and the rest of the framing, and Startup was done (Part 3, "
    "3.2)."
)
_AREA_FREE: Final = "The secret of an area serves without an owner (Part 3, 20.3 and 20.5)."

DECLARED: Final[tuple[Declared, ...]] = (
    code(
        "every_ordinal_without_an_owner",
        Ordinal.LOAD_KEY_CONTEXT,
        "BADCONTEXT",
        "DECRYPT_ERROR",
        CONTEXT,
    ),
    *[
        code(case, Ordinal.SET_CAPABILITY, "BAD_PARAMETER", "BAD_MODE", UNKNOWN_AREA)
        for case in (
            "every_ordinal_without_an_owner",
            "every_ordinal_while_disabled",
            "every_ordinal_while_deactivated",
        )
    ],
    *[
        code("every_ordinal_without_an_owner", ordinal, "BADINDEX", "NOSRK", _AREA_FREE)
        for ordinal in (Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH)
    ],
    code(
        "every_ordinal_with_the_wrong_tag",
        Ordinal.STARTUP,
        "INVALID_POSTINIT",
        "BADTAG",
        _STATE_FIRST,
        times=2,
    ),
    code(
        "every_ordinal_with_too_few_or_too_many_bytes",
        Ordinal.STARTUP,
        "INVALID_POSTINIT",
        "BAD_PARAM_SIZE",
        _STATE_FIRST,
    ),
)
