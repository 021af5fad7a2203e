# SPDX-License-Identifier: Apache-2.0
"""What a manager may do with one vTPM, so that no two managers ever serve it.

    create             export             receipt
    ABSENT ----> HELD -------> LEAVING ---------> GONE          the source's side
                  ^             |                  |
                  +-------------+                  | import     (it comes back)
                   cancel                          v
    ABSENT --------------------------------> ARRIVING           the target's side
             import                                |
                                                   | release
                                                   v
                                                ARRIVED --- export ---> LEAVING

A manager serves a vTPM in HELD and ARRIVED only. Between source and target:

    source    target     who may serve   how it goes on
    --------  ---------  --------------  ---------------------------------------------------------
    HELD      ABSENT     source
    LEAVING   ABSENT     nobody          import the package, or cancel
    LEAVING   ARRIVING   nobody          give the receipt to the source, or cancel at the source
    GONE      ARRIVING   nobody          give the release to the target
    GONE      ARRIVED    target
    HELD      ARRIVING   source          cancelled: the target never gets a release; abandon there

CANCEL needs no word of the target: what makes the target live is the release, which only the source
makes, only in LEAVING, and only with the move's secret, which CANCEL destroys. ABANDON is by force:
of ARRIVING while the source is GONE it gives up the only copy; of GONE it lets the uuid be used
again.

HELD and ARRIVED differ in one thing: the latter knows by which move it came, so that a release that
is given a second time, because the answer was lost, is a success.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, Protocol, TypeVar
from uuid import UUID

from daemons.vtpmmgr.records import MoveRecord, VtpmRecord
from daemons.vtpmmgr.rows import Record
from protocol.manager.moving import MoveState

R = TypeVar("R", bound=Record)


class Standing(enum.Enum):
    """How a manager stands to a vTPM."""

    ABSENT = enum.auto()
    HELD = enum.auto()
    LEAVING = enum.auto()
    GONE = enum.auto()
    ARRIVING = enum.auto()
    ARRIVED = enum.auto()


class Event(enum.Enum):
    """What somebody wants."""

    CREATE = enum.auto()
    """VTPM_NEW, or the first save of a vTPM of the configuration."""
    SERVE = enum.auto()
    """A vTPM asks for its key data, or replaces it."""
    DELETE = enum.auto()
    """VTPM_DEL."""
    EXPORT = enum.auto()
    RECEIPT = enum.auto()
    """MOVE_RELEASE."""
    CANCEL = enum.auto()
    IMPORT = enum.auto()
    RELEASE = enum.auto()
    """MOVE_ACTIVATE."""
    ABANDON = enum.auto()


class Action(enum.Enum):
    """What is to be done; all of it, and the new standing, in one commit."""

    MAKE = enum.auto()
    GIVE = enum.auto()
    REMOVE = enum.auto()
    PACK = enum.auto()
    """Take the key data out of service, make the package and keep it."""
    PACK_AGAIN = enum.auto()
    """Give the package that was made; it must be for the same target."""
    LET_GO = enum.auto()
    """Destroy data and secret, make the release and keep it."""
    LET_GO_AGAIN = enum.auto()
    """Give the release that was made; it must be for the same receipt."""
    TAKE_BACK = enum.auto()
    """Put the key data into service again, destroy the secret."""
    TAKE_IN = enum.auto()
    """Keep the contents of the package, with a fresh challenge."""
    TAKE_IN_AGAIN = enum.auto()
    """Give the receipt that was made; it must be of the same package."""
    GO_LIVE = enum.auto()
    """Put the key data into service, destroy secret and challenge."""
    BE_LIVE = enum.auto()
    """Nothing; it must be the move by which it came."""
    FORGET = enum.auto()


TRANSITIONS: Final[Mapping[tuple[Standing, Event], tuple[Standing, Action]]] = {
    (Standing.ABSENT, Event.CREATE): (Standing.HELD, Action.MAKE),
    (Standing.ABSENT, Event.IMPORT): (Standing.ARRIVING, Action.TAKE_IN),
    (Standing.HELD, Event.SERVE): (Standing.HELD, Action.GIVE),
    (Standing.HELD, Event.DELETE): (Standing.ABSENT, Action.REMOVE),
    (Standing.HELD, Event.EXPORT): (Standing.LEAVING, Action.PACK),
    (Standing.LEAVING, Event.EXPORT): (Standing.LEAVING, Action.PACK_AGAIN),
    (Standing.LEAVING, Event.RECEIPT): (Standing.GONE, Action.LET_GO),
    (Standing.LEAVING, Event.CANCEL): (Standing.HELD, Action.TAKE_BACK),
    (Standing.GONE, Event.RECEIPT): (Standing.GONE, Action.LET_GO_AGAIN),
    (Standing.GONE, Event.IMPORT): (Standing.ARRIVING, Action.TAKE_IN),
    (Standing.GONE, Event.ABANDON): (Standing.ABSENT, Action.FORGET),
    (Standing.ARRIVING, Event.IMPORT): (Standing.ARRIVING, Action.TAKE_IN_AGAIN),
    (Standing.ARRIVING, Event.RELEASE): (Standing.ARRIVED, Action.GO_LIVE),
    (Standing.ARRIVING, Event.ABANDON): (Standing.ABSENT, Action.FORGET),
    (Standing.ARRIVED, Event.SERVE): (Standing.ARRIVED, Action.GIVE),
    (Standing.ARRIVED, Event.DELETE): (Standing.ABSENT, Action.REMOVE),
    (Standing.ARRIVED, Event.EXPORT): (Standing.LEAVING, Action.PACK),
    (Standing.ARRIVED, Event.RELEASE): (Standing.ARRIVED, Action.BE_LIVE),
}
"""Whatever is not here is refused and changes nothing."""

_OF_STATE: Final = {
    MoveState.LEAVING: Standing.LEAVING,
    MoveState.GONE: Standing.GONE,
    MoveState.ARRIVING: Standing.ARRIVING,
    MoveState.ARRIVED: Standing.ARRIVED,
}


class NotNow(Exception):
    """The event has no place in this standing."""


def standing_of(*, is_held: bool, state: int | None) -> Standing:
    """Return how a manager stands to a vTPM.

    Args:
        is_held: whether its key data is in service.
        state: number of the MoveState that is noted, None if none is.

    Raises:
        ValueError: the two do not go together; no commit leaves them so.
    """
    if state is None:
        return Standing.HELD if is_held else Standing.ABSENT
    standing = _OF_STATE[MoveState(state)]
    if is_held != (standing is Standing.ARRIVED):
        raise ValueError(f"{standing.name} and {'' if is_held else 'not '}in service")
    return standing


def advance(standing: Standing, event: Event) -> tuple[Standing, Action]:
    """Return the next standing and what is to be done; NotNow if the event has no place here."""
    try:
        return TRANSITIONS[standing, event]
    except KeyError:
        raise NotNow(f"{event.name} while {standing.name}") from None


class _View(Protocol):
    """A ledger, or a transaction on one."""

    def get(self, kind: type[R], key: bytes) -> R | None:
        """Return a record."""


def standing_in(view: _View, vtpm: UUID) -> Standing:
    """Return how the manager stands to a vTPM in this state of its records."""
    move = view.get(MoveRecord, vtpm.bytes)
    is_held = view.get(VtpmRecord, vtpm.bytes) is not None
    return standing_of(is_held=is_held, state=None if move is None else move.state)
