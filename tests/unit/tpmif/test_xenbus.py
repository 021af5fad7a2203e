# SPDX-License-Identifier: Apache-2.0
"""The handshake tables: every pair of state and event is decided."""

from __future__ import annotations

import itertools

import pytest

from protocol.errors import WireError
from protocol.tpmif import xenbus
from protocol.tpmif.errors import TpmifError
from protocol.tpmif.xenbus import Action, Own, Table, XenbusState, advance

EVENTS: tuple[xenbus.Event, ...] = (*XenbusState, *Own)
S = XenbusState


@pytest.mark.parametrize("table", [xenbus.BACKEND, xenbus.FRONTEND])
def test_every_pair_is_a_row_or_the_one_error_of_whose_fault_it_is(table: Table) -> None:
    for own, event in itertools.product(XenbusState, EVENTS):
        try:
            following, action = advance(table, own, event)
        except WireError:
            assert isinstance(event, XenbusState)
            assert (own, event) not in table
        except TpmifError:
            assert isinstance(event, Own)
            assert (own, event) not in table
        else:
            assert isinstance(following, XenbusState)
            assert isinstance(action, Action)


@pytest.mark.parametrize("table", [xenbus.BACKEND, xenbus.FRONTEND])
def test_a_device_that_is_gone_stays_gone(table: Table) -> None:
    assert not [row for row in table if row[0] is S.UNKNOWN]


@pytest.mark.parametrize("table", [xenbus.BACKEND, xenbus.FRONTEND])
def test_no_side_goes_to_a_state_that_it_has_no_rows_for(table: Table) -> None:
    states = {own for own, _ in table}
    assert {following for following, _ in table.values()} == states | {S.UNKNOWN}


@pytest.mark.parametrize("own", [S.INITIALISING, S.INIT_WAIT, S.CONNECTED, S.CLOSING, S.CLOSED])
def test_the_backend_frees_the_device_in_every_state_when_the_frontend_is_gone(
    own: XenbusState,
) -> None:
    assert advance(xenbus.BACKEND, own, S.UNKNOWN) == (S.UNKNOWN, Action.FREE)
    assert advance(xenbus.BACKEND, own, Own.END) == (S.UNKNOWN, Action.FREE)


@pytest.mark.parametrize("own", [S.INITIALISING, S.INITIALISED, S.CONNECTED, S.CLOSED])
def test_the_frontend_is_lost_in_every_state_when_the_backend_is_gone(own: XenbusState) -> None:
    assert advance(xenbus.FRONTEND, own, S.UNKNOWN) == (S.UNKNOWN, Action.LOST)
    assert advance(xenbus.FRONTEND, own, Own.END) == (S.UNKNOWN, Action.LOST)


@pytest.mark.parametrize("peer", [S.INIT_WAIT, S.RECONFIGURING, S.RECONFIGURED])
@pytest.mark.parametrize("own", XenbusState)
def test_the_backend_refuses_states_that_a_frontend_never_has(
    own: XenbusState, peer: XenbusState
) -> None:
    with pytest.raises(WireError):
        advance(xenbus.BACKEND, own, peer)


@pytest.mark.parametrize("peer", [S.RECONFIGURING, S.RECONFIGURED])
@pytest.mark.parametrize("own", XenbusState)
def test_the_frontend_refuses_states_that_a_backend_never_has(
    own: XenbusState, peer: XenbusState
) -> None:
    with pytest.raises(WireError):
        advance(xenbus.FRONTEND, own, peer)


def test_the_backend_says_connected_only_after_mapping() -> None:
    to_connected = {
        row for row, (following, _) in xenbus.BACKEND.items() if following is S.CONNECTED
    }
    from_outside = {row for row in to_connected if row[0] is not S.CONNECTED}
    assert from_outside == {(S.INIT_WAIT, Own.MAPPED), (S.CLOSED, Own.MAPPED)}


def test_the_backend_unmaps_exactly_where_it_may_have_mapped() -> None:
    unmapping = {row for row, (_, action) in xenbus.BACKEND.items() if action is Action.DISCONNECT}
    assert unmapping == {(S.CONNECTED, S.CLOSED), (S.CLOSING, S.CLOSED)}
