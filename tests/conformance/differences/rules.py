# SPDX-License-Identifier: Apache-2.0
"""Rules that decide for the engine in several chapters, and the differences that come with them."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared

ONE_SESSION: Final = (
    "A wrong HMAC in the only session of a command is AUTHFAIL; AUTH2FAIL is for the second "
    "(Part 1, 8.1.1)."
)
KEY_LOCALITY: Final = (
    "A key that is not for this locality is BAD_LOCALITY (Part 1, 4.8); libtpms takes it for a PCR "
    "mismatch."
)
SYMMETRIC: Final = (
    "A known algorithm that the key may not have is found by the command's own checks, after which "
    "the sessions that it names end (Part 3, 6.1, 10.4 and chapter 11); libtpms refuses it while "
    "it parses."
)
OWNERS_PERMISSION: Final = (
    "A migrationKeyAuth that this owner did not make is MIGRATEFAIL (Part 3, 11.1 and 11.9)."
)
UNKNOWN_AREA: Final = "An unknown capArea is BAD_PARAMETER (Part 3, 7.2)."
CONTEXT: Final = "Whatever is wrong with a context, the answer is BADCONTEXT (Part 3, 21.3)."

FLAGS_AREA: Final = "00000004 00000004 00000108"
"""What GetCapability is asked for the permanent flags: area, size of subCap, subCap."""

_CLEARED: Final = (
    "The clear actions give allowMaintenance its default, TRUE (Part 3, 6.2); libtpms gives FALSE."
)


def cleared(case: str, ours: str, theirs: str) -> Declared:
    """The permanent flags after a clear, as GetCapability gives them."""
    field = f"resp of {FLAGS_AREA}"
    return Declared(case, Ordinal.GET_CAPABILITY, field, ours, theirs, _CLEARED)


def context_of_another_key(case: str, *, times: int = 1) -> Declared:
    """A context that libtpms decrypts to noise, whose padding is good once in 256 times."""
    codes = ("BADCONTEXT", "DECRYPT_ERROR")
    return Declared(
        case,
        Ordinal.LOAD_CONTEXT,
        "code",
        *codes,
        CONTEXT,
        or_else="INVALID_STRUCTURE",
        times=times,
    )
