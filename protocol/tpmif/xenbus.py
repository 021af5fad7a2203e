# SPDX-License-Identifier: Apache-2.0
"""The xenbus handshake of both halves, as tables.

Each side owns one `state` node and watches the other's. A table is keyed by (own state, event),
the event being what the peer wrote into its node or something of one's own, and gives the next own
state and what is to be done. `advance` is the only reader, and refuses what is not in the table.
The own state is all that decides: there is no "connected" flag beside it (mini-os' backend keeps
one, and unmaps twice when connecting fails at the last step).

A normal life, frontend first:

    1 Initialising                      admits the uuid, 2 InitWait with feature-protocol-v2
    grants the page, 3 Initialised      maps it, 4 Connected with ready, looks at the page
    4 Connected                         requests and responses
    5 Closing                           5 Closing, still mapped
    6 Closed                            unmaps, 2 InitWait: ready for 3 again, same device record
    end of file, or 0 Unknown           frees the device

Source: Xen io/xenbus.h for the states; mini-os tpmback.c and tpmfront.c and Linux xen-tpmfront.c
for the moves. Stricter than theirs: a state that means nothing at that point is refused instead of
logged, and a frontend has to wait for InitWait before its keys are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from protocol.errors import WireError
from protocol.tpmif.errors import TpmifError


class XenbusState(IntEnum):
    """`enum xenbus_state`. A node that cannot be read counts as UNKNOWN. Source: io/xenbus.h."""

    UNKNOWN = 0
    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8


class Own(Enum):
    """Events that do not come from the peer's node."""

    ADMITTED = "admitted"  # backend: the uuid may be served
    REFUSED = "refused"  # backend: it may not
    MAPPED = "mapped"  # backend: page mapped, channel bound
    MAP_FAILED = "map failed"  # backend: a key was missing or wrong, or mapping failed
    CLOSE = "close"  # frontend: shut the device down
    WITHDRAWN = "withdrawn"  # frontend: the keys of the connection are gone
    END = "end"  # either: the connection ended


class Action(Enum):
    """What goes with a move. The new own state is written to the node after it, if it changed."""

    NONE = "none"
    OPEN = "open"  # backend: write feature-protocol-v2 together with the state
    REFUSE = "refuse"  # backend: say why, in state Closed, then free the device
    CONNECT = "connect"  # backend: check keys, map; ends in MAPPED or MAP_FAILED
    READY = "ready"  # backend: write ready together with the state, look at the page
    FAIL = "fail"  # backend: say why together with the state
    DISCONNECT = "disconnect"  # backend: unmap; what still runs is cancelled, its response dropped
    FREE = "free"  # backend: unmap if mapped, forget the device
    OFFER = "offer"  # frontend: grant the page, write the keys together with the state
    USE = "use"  # frontend: check feature-protocol-v2; requests may be made
    RELEASE = "release"  # frontend: the backend has unmapped; the page may be freed
    LOST = "lost"  # frontend: the device is of no use any more


Event: TypeAlias = XenbusState | Own
Table: TypeAlias = Mapping[tuple[XenbusState, Event], tuple[XenbusState, Action]]

# The events are IntEnum and Enum members: XenbusState.UNKNOWN (0) and so on never equal an Own.
_S: Final = XenbusState

BACKEND: Final[Table] = MappingProxyType(
    {
        # Not admitted yet: an early frontend is looked at again after ADMITTED.
        (_S.INITIALISING, _S.INITIALISING): (_S.INITIALISING, Action.NONE),
        (_S.INITIALISING, _S.INITIALISED): (_S.INITIALISING, Action.NONE),
        (_S.INITIALISING, _S.CONNECTED): (_S.INITIALISING, Action.NONE),
        (_S.INITIALISING, _S.UNKNOWN): (_S.UNKNOWN, Action.FREE),
        (_S.INITIALISING, Own.ADMITTED): (_S.INIT_WAIT, Action.OPEN),
        (_S.INITIALISING, Own.REFUSED): (_S.UNKNOWN, Action.REFUSE),
        (_S.INITIALISING, Own.END): (_S.UNKNOWN, Action.FREE),
        # Waiting for a frontend, the first time or after a close.
        (_S.INIT_WAIT, _S.INITIALISING): (_S.INIT_WAIT, Action.NONE),
        (_S.INIT_WAIT, _S.INITIALISED): (_S.INIT_WAIT, Action.CONNECT),
        (_S.INIT_WAIT, _S.CONNECTED): (_S.INIT_WAIT, Action.CONNECT),
        (_S.INIT_WAIT, _S.CLOSING): (_S.CLOSING, Action.NONE),
        (_S.INIT_WAIT, _S.CLOSED): (_S.INIT_WAIT, Action.NONE),
        (_S.INIT_WAIT, _S.UNKNOWN): (_S.UNKNOWN, Action.FREE),
        (_S.INIT_WAIT, Own.MAPPED): (_S.CONNECTED, Action.READY),
        (_S.INIT_WAIT, Own.MAP_FAILED): (_S.CLOSED, Action.FAIL),
        (_S.INIT_WAIT, Own.END): (_S.UNKNOWN, Action.FREE),
        # In use.
        (_S.CONNECTED, _S.INITIALISING): (_S.CONNECTED, Action.NONE),
        (_S.CONNECTED, _S.INITIALISED): (_S.CONNECTED, Action.NONE),
        (_S.CONNECTED, _S.CONNECTED): (_S.CONNECTED, Action.NONE),
        (_S.CONNECTED, _S.CLOSING): (_S.CLOSING, Action.NONE),
        (_S.CONNECTED, _S.CLOSED): (_S.INIT_WAIT, Action.DISCONNECT),
        (_S.CONNECTED, _S.UNKNOWN): (_S.UNKNOWN, Action.FREE),
        (_S.CONNECTED, Own.END): (_S.UNKNOWN, Action.FREE),
        # The frontend is closing; the page is still mapped if it was.
        (_S.CLOSING, _S.INITIALISING): (_S.CLOSING, Action.NONE),
        (_S.CLOSING, _S.CLOSING): (_S.CLOSING, Action.NONE),
        (_S.CLOSING, _S.CLOSED): (_S.INIT_WAIT, Action.DISCONNECT),
        (_S.CLOSING, _S.UNKNOWN): (_S.UNKNOWN, Action.FREE),
        (_S.CLOSING, Own.END): (_S.UNKNOWN, Action.FREE),
        # Connecting failed; a later 3 or 4 tries again.
        (_S.CLOSED, _S.INITIALISING): (_S.CLOSED, Action.NONE),
        (_S.CLOSED, _S.INITIALISED): (_S.CLOSED, Action.CONNECT),
        (_S.CLOSED, _S.CONNECTED): (_S.CLOSED, Action.CONNECT),
        (_S.CLOSED, _S.CLOSING): (_S.CLOSING, Action.NONE),
        (_S.CLOSED, _S.CLOSED): (_S.INIT_WAIT, Action.NONE),
        (_S.CLOSED, _S.UNKNOWN): (_S.UNKNOWN, Action.FREE),
        (_S.CLOSED, Own.MAPPED): (_S.CONNECTED, Action.READY),
        (_S.CLOSED, Own.MAP_FAILED): (_S.CLOSED, Action.FAIL),
        (_S.CLOSED, Own.END): (_S.UNKNOWN, Action.FREE),
    }
)

FRONTEND: Final[Table] = MappingProxyType(
    {
        # Waiting for the backend to know the device.
        (_S.INITIALISING, _S.INITIALISING): (_S.INITIALISING, Action.NONE),
        (_S.INITIALISING, _S.INIT_WAIT): (_S.INITIALISED, Action.OFFER),
        (_S.INITIALISING, _S.CLOSING): (_S.UNKNOWN, Action.LOST),
        (_S.INITIALISING, _S.CLOSED): (_S.UNKNOWN, Action.LOST),
        (_S.INITIALISING, _S.UNKNOWN): (_S.UNKNOWN, Action.LOST),
        (_S.INITIALISING, Own.END): (_S.UNKNOWN, Action.LOST),
        # Waiting for it to map the page.
        (_S.INITIALISED, _S.INITIALISING): (_S.INITIALISED, Action.NONE),
        (_S.INITIALISED, _S.INIT_WAIT): (_S.INITIALISED, Action.NONE),
        (_S.INITIALISED, _S.INITIALISED): (_S.INITIALISED, Action.NONE),
        (_S.INITIALISED, _S.CONNECTED): (_S.CONNECTED, Action.USE),
        (_S.INITIALISED, _S.CLOSING): (_S.UNKNOWN, Action.LOST),
        (_S.INITIALISED, _S.CLOSED): (_S.UNKNOWN, Action.LOST),
        (_S.INITIALISED, _S.UNKNOWN): (_S.UNKNOWN, Action.LOST),
        (_S.INITIALISED, Own.CLOSE): (_S.CLOSING, Action.NONE),
        (_S.INITIALISED, Own.END): (_S.UNKNOWN, Action.LOST),
        # In use.
        (_S.CONNECTED, _S.CONNECTED): (_S.CONNECTED, Action.NONE),
        (_S.CONNECTED, _S.CLOSING): (_S.UNKNOWN, Action.LOST),
        (_S.CONNECTED, _S.CLOSED): (_S.UNKNOWN, Action.LOST),
        (_S.CONNECTED, _S.UNKNOWN): (_S.UNKNOWN, Action.LOST),
        (_S.CONNECTED, Own.CLOSE): (_S.CLOSING, Action.NONE),
        (_S.CONNECTED, Own.END): (_S.UNKNOWN, Action.LOST),
        # Shutting down: 5 and 6 are written back to back, the page stays until 2, 6 or the end.
        (_S.CLOSING, Own.WITHDRAWN): (_S.CLOSED, Action.NONE),
        (_S.CLOSED, _S.INITIALISING): (_S.CLOSED, Action.NONE),
        (_S.CLOSED, _S.INITIALISED): (_S.CLOSED, Action.NONE),
        (_S.CLOSED, _S.CONNECTED): (_S.CLOSED, Action.NONE),
        (_S.CLOSED, _S.CLOSING): (_S.CLOSED, Action.NONE),
        (_S.CLOSED, _S.INIT_WAIT): (_S.INITIALISING, Action.RELEASE),
        (_S.CLOSED, _S.CLOSED): (_S.INITIALISING, Action.RELEASE),
        (_S.CLOSED, _S.UNKNOWN): (_S.UNKNOWN, Action.LOST),
        (_S.CLOSED, Own.END): (_S.UNKNOWN, Action.LOST),
    }
)


def advance(table: Table, own: XenbusState, event: Event) -> tuple[XenbusState, Action]:
    """Return the next own state and what to do.

    Raises:
        WireError: the peer wrote a state that is not expected.
        TpmifError: an event of one's own is not possible in this state.
    """
    row = table.get((own, event))
    if row is not None:
        return row
    if isinstance(event, XenbusState):
        raise WireError("state", 0, f"{event} {event.name} is not expected in {own} {own.name}")
    raise TpmifError(f"{event.value} is not possible in state {own} {own.name}")
