# SPDX-License-Identifier: Apache-2.0
"""Where the engine answers otherwise than the reference, on purpose.

The reference is libtpms 0.9.2. Each entry names the case that shows it and the rule of the
specification that decides for the engine. A difference that is not here fails its case; an entry
that its case does not show any more fails too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.comparison import Difference


@dataclass(frozen=True, slots=True)
class Declared:
    """A difference that stays.

    Attributes:
        case: name of the case that shows it.
        reason: the rule that decides.
    """

    case: str
    ordinal: int
    field: str
    ours: str
    theirs: str
    reason: str

    @property
    def difference(self) -> Difference:
        """What the comparison finds."""
        return Difference(self.ordinal, self.field, self.ours, self.theirs)


DECLARED: Final[tuple[Declared, ...]] = ()
