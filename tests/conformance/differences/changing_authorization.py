# SPDX-License-Identifier: Apache-2.0
"""Changing authorization (Part 3, chapter 17)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code

DECLARED: Final[tuple[Declared, ...]] = (
    code(
        "changing_secrets_of_something_else",
        Ordinal.CHANGE_AUTH,
        "INVALID_STRUCTURE",
        "SUCCESS",
        "The payload of sealed data is SEAL (Part 2, 9.3); libtpms changes the secret of a key as "
        "that of data.",
    ),
)
