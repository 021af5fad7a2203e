# SPDX-License-Identifier: Apache-2.0
"""Direct anonymous attestation (Part 3, chapter 26)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code

DECLARED: Final[tuple[Declared, ...]] = (
    code(
        "a_sign_with_the_credential_of_another_issuer",
        Ordinal.DAA_SIGN,
        "DAA_ISSUER_SETTINGS",
        "SUCCESS",
        "Stage 1 compares digestIssuer of the blob with the settings (Part 3, 26.2); libtpms does "
        "so in the next stage.",
    ),
)
