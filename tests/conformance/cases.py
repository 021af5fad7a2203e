# SPDX-License-Identifier: Apache-2.0
"""All cases, joined from the chapters."""

from __future__ import annotations

from typing import Final

from tests.conformance import (
    cases_admin,
    cases_capability,
    cases_crypto,
    cases_ownership,
)
from tests.conformance.script import Case

CASES: Final[tuple[Case, ...]] = tuple(
    case
    for chapter in (
        cases_admin.CHAPTER,
        cases_ownership.CHAPTER,
        cases_capability.CHAPTER,
        cases_crypto.CHAPTER,
    )
    for case in chapter.cases
)
