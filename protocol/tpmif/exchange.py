# SPDX-License-Identifier: Apache-2.0
"""The life of one request on the page, as tables for both halves.

Only the frontend writes SUBMIT and CANCEL, only the backend IDLE and FINISH, but the memory does
not enforce it. So each half goes by its own record of what is outstanding, and a look at the page
can only move that record along a row below; a state that the peer had no right to write, and a
byte that is no state at all, move nothing. The two sides may write at the same moment (CANCEL
against FINISH); the last writer wins, and both outcomes have a row.

Source: Xen io/tpmif.h; the transitions that follow from the races are derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from protocol.tpmif.page import PageState


class Outstanding(IntEnum):
    """A half's own record. (Integers, because hashing them is what a look mostly costs.)"""

    NONE = 0
    REQUEST = 1
    CANCEL = 2  # a request whose cancellation was asked for


class Look(IntEnum):
    """What follows from a look at the page."""

    NOTHING = 0
    TAKE_REQUEST = 1  # backend: copy it out and execute it
    CANCEL_REQUEST = 2  # backend: tell who executes it
    ACKNOWLEDGE = 3  # backend: nothing runs, write IDLE so that nobody waits for ever
    TAKE_RESPONSE = 4  # frontend: copy it out
    CANCELLED = 5  # frontend: there will be no response


LookTable: TypeAlias = Mapping[tuple[int, int], tuple[Outstanding, Look]]  # (record, state)

_O: Final = Outstanding
_P: Final = PageState

BACKEND: Final[LookTable] = MappingProxyType(
    {
        (_O.NONE, _P.IDLE): (_O.NONE, Look.NOTHING),
        (_O.NONE, _P.SUBMIT): (_O.REQUEST, Look.TAKE_REQUEST),
        (_O.NONE, _P.FINISH): (_O.NONE, Look.NOTHING),
        # Cancel crossed our FINISH, or was written for no reason. IDLE ends it: no ping-pong.
        (_O.NONE, _P.CANCEL): (_O.NONE, Look.ACKNOWLEDGE),
        (_O.REQUEST, _P.IDLE): (_O.REQUEST, Look.NOTHING),  # ours to write: ignored
        (_O.REQUEST, _P.SUBMIT): (_O.REQUEST, Look.NOTHING),  # spurious, or a second SUBMIT
        (_O.REQUEST, _P.FINISH): (_O.REQUEST, Look.NOTHING),  # ours to write: ignored
        (_O.REQUEST, _P.CANCEL): (_O.CANCEL, Look.CANCEL_REQUEST),
        (_O.CANCEL, _P.IDLE): (_O.CANCEL, Look.NOTHING),
        (_O.CANCEL, _P.SUBMIT): (_O.CANCEL, Look.NOTHING),  # not allowed before our answer
        (_O.CANCEL, _P.FINISH): (_O.CANCEL, Look.NOTHING),
        (_O.CANCEL, _P.CANCEL): (_O.CANCEL, Look.NOTHING),
    }
)

FRONTEND: Final[LookTable] = MappingProxyType(
    {
        (_O.NONE, _P.IDLE): (_O.NONE, Look.NOTHING),
        (_O.NONE, _P.SUBMIT): (_O.NONE, Look.NOTHING),  # ours to write: ignored
        (_O.NONE, _P.FINISH): (_O.NONE, Look.NOTHING),  # FINISH without SUBMIT
        (_O.NONE, _P.CANCEL): (_O.NONE, Look.NOTHING),
        (_O.REQUEST, _P.IDLE): (_O.NONE, Look.CANCELLED),  # the backend may abort by itself
        (_O.REQUEST, _P.SUBMIT): (_O.REQUEST, Look.NOTHING),
        (_O.REQUEST, _P.FINISH): (_O.NONE, Look.TAKE_RESPONSE),
        (_O.REQUEST, _P.CANCEL): (_O.REQUEST, Look.NOTHING),  # ours to write: ignored
        (_O.CANCEL, _P.IDLE): (_O.NONE, Look.CANCELLED),
        (_O.CANCEL, _P.SUBMIT): (_O.CANCEL, Look.NOTHING),
        (_O.CANCEL, _P.FINISH): (_O.NONE, Look.TAKE_RESPONSE),  # finished all the same: usual
        (_O.CANCEL, _P.CANCEL): (_O.CANCEL, Look.NOTHING),
    }
)


def look(table: LookTable, outstanding: Outstanding, state: int) -> tuple[Outstanding, Look]:
    """Return the next record and what follows from a state byte (0 to 255) on the page.

    A byte above 3 is like a spurious notification: it changes nothing.
    """
    row = table.get((outstanding, state))
    return (outstanding, Look.NOTHING) if row is None else row
