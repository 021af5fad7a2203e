# SPDX-License-Identifier: Apache-2.0
"""One difference that stays: how the tables of the chapters are written down."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.tpm12.constants import Ordinal
from tests.conformance.comparison import Difference


@dataclass(frozen=True, slots=True)
class Declared:
    """A difference that stays.

    Attributes:
        case: name of the case that shows it.
        theirs: the reference's answer.
        reason: the rule that decides.
        or_else: another answer of the reference, where its own random numbers decide which.
        times: how often the case shows it.
    """

    case: str
    ordinal: int
    field: str
    ours: str
    theirs: str
    reason: str
    or_else: str | None = None
    times: int = 1

    @property
    def differences(self) -> frozenset[Difference]:
        """What the comparison may find: one of these."""
        answers = (self.theirs,) if self.or_else is None else (self.theirs, self.or_else)
        return frozenset(
            Difference(self.ordinal, self.field, self.ours, theirs) for theirs in answers
        )

    @property
    def told(self) -> str:
        """The reference's answers, for people."""
        return self.theirs if self.or_else is None else f"{self.theirs} or {self.or_else}"


def code(
    case: str, ordinal: Ordinal, ours: str, theirs: str, reason: str, *, times: int = 1
) -> Declared:
    """A difference of return codes, by their names."""
    return Declared(case, ordinal, "code", ours, theirs, reason, times=times)
