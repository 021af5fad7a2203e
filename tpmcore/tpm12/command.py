# SPDX-License-Identifier: Apache-2.0
"""One row of the dispatch table: every fact about an ordinal that the dispatcher needs."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from protocol.tpm12.constants import Ordinal
from protocol.tpm12.records import record
from protocol.tpm12.wire import Structure
from tpmcore.engine import Duration, ParentQuote

if TYPE_CHECKING:
    from tpmcore.tpm12.context import Context
    from tpmcore.tpm12.state import PermanentState


class Gate(enum.Enum):
    """When a command is allowed; each but ALWAYS_AND_FAILED and STARTUP also means: not in failure
    mode."""

    ALWAYS = "started up; disabled, deactivated or without owner does not matter"
    ALWAYS_AND_FAILED = "as ALWAYS, and in failure mode"
    ENABLED = "not disabled"
    ACTIVATED = "not deactivated"
    ENABLED_ACTIVATED = "neither disabled nor deactivated"
    OWNED = "has an owner"
    OPERATIONAL = "neither disabled nor deactivated, has an owner"
    HANDLER = "the handler checks for itself (NV, SetCapability)"
    STARTUP = "only before Startup"

    # Each command asks three times whether its gate is in a set; enum's own hashes the name.
    __hash__ = object.__hash__


@record
class Nothing(Structure):
    """No parameters."""


NOTHING = Nothing()


@record
class Awaiting:
    """What a handler returns that has checked everything and needs its parent's quote to go on.

    Attributes:
        effect: what the parent is asked.
        finish: makes the response from what the parent gave; it may still raise TpmError.
    """

    effect: ParentQuote
    finish: Callable[[bytes], Structure]


@record
class Command:
    """A row.

    Attributes:
        source: part:section of the specification.
        auth_blocks: allowed numbers of authorization blocks (0, 1, 2 for tags C1, C2, C3).
        gate: when it is allowed.
        request: its parameters; the first `handles_in` bytes are outside the parameter digest.
        response: type of what the handler returns; the first `handles_out` bytes are not digested.
        handler: gets the context and the request, returns the response (or `Awaiting`, if it is not
            wrappable) or raises TpmError.
        duration: where it runs, see Duration. A private-key operation is SHORT: a thread's two
            switches cost 0.35 to 0.7 ms more, which is twice the operation itself.
        persists: may change the permanent state.
        persists_in: of a command that persists only in some states: whether it may in this one.
        volatile: may change volatile state even without authorization blocks.
        owner_bit, key_bit: delegation bits that a DSAP session needs (Part 2, 20.2).
        audited: audited by default; None if it may never be.
        wrappable: may be wrapped in ExecuteTransport.
        stops_for_lockout: refused while a dictionary attack is being slowed down.
    """

    ordinal: Ordinal
    source: str
    auth_blocks: frozenset[int]
    gate: Gate
    request: type[Structure]
    response: type[Structure]
    handler: Callable[[Context, Any], Structure | Awaiting]
    handles_in: int = 0
    handles_out: int = 0
    duration: Duration = Duration.SHORT
    persists: bool = False
    persists_in: Callable[[PermanentState], bool] | None = None
    volatile: bool = True
    owner_bit: int | None = None
    key_bit: int | None = None
    audited: bool | None = False
    wrappable: bool = True
    stops_for_lockout: bool = True

    def may_persist(self, permanent: PermanentState) -> bool:
        """Whether it may change this permanent state."""
        return self.persists and (self.persists_in is None or self.persists_in(permanent))


NO_AUTH = frozenset({0})
AUTH1 = frozenset({1})
AUTH2 = frozenset({2})
AUTH0_OR_1 = frozenset({0, 1})
AUTH1_OR_2 = frozenset({1, 2})
AUTH_ANY = frozenset({0, 1, 2})
