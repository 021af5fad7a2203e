# SPDX-License-Identifier: Apache-2.0
"""What a look at the page may move, for every record and every byte."""

from __future__ import annotations

import itertools

import pytest

from protocol.tpmif import exchange
from protocol.tpmif.exchange import Look, LookTable, Outstanding, look
from protocol.tpmif.page import PageState

TABLES = [exchange.BACKEND, exchange.FRONTEND]


@pytest.mark.parametrize("table", TABLES)
def test_every_record_and_state_is_decided(table: LookTable) -> None:
    assert set(table) == set(itertools.product(Outstanding, PageState))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("outstanding", Outstanding)
def test_a_byte_that_is_no_state_moves_nothing(table: LookTable, outstanding: Outstanding) -> None:
    for byte in range(4, 256):
        assert look(table, outstanding, byte) == (outstanding, Look.NOTHING)


@pytest.mark.parametrize("outstanding", Outstanding)
@pytest.mark.parametrize("state", [PageState.IDLE, PageState.FINISH])
def test_the_backend_ignores_the_states_that_only_it_may_write(
    outstanding: Outstanding, state: PageState
) -> None:
    assert look(exchange.BACKEND, outstanding, state) == (outstanding, Look.NOTHING)


@pytest.mark.parametrize("outstanding", Outstanding)
@pytest.mark.parametrize("state", [PageState.SUBMIT, PageState.CANCEL])
def test_the_frontend_ignores_the_states_that_only_it_may_write(
    outstanding: Outstanding, state: PageState
) -> None:
    assert look(exchange.FRONTEND, outstanding, state) == (outstanding, Look.NOTHING)


def test_the_backend_starts_something_only_on_submit_with_nothing_outstanding() -> None:
    starts = [row for row, (_, then) in exchange.BACKEND.items() if then is Look.TAKE_REQUEST]
    assert starts == [(Outstanding.NONE, PageState.SUBMIT)]


def test_the_frontend_takes_nothing_that_it_did_not_ask_for() -> None:
    for state in PageState:
        row = look(exchange.FRONTEND, Outstanding.NONE, state)
        assert row == (Outstanding.NONE, Look.NOTHING)


def test_a_backend_with_nothing_outstanding_acknowledges_cancel_once() -> None:
    row = look(exchange.BACKEND, Outstanding.NONE, PageState.CANCEL)
    assert row == (Outstanding.NONE, Look.ACKNOWLEDGE)
    # What it writes then is IDLE, which ends the matter on both sides.
    for table in TABLES:
        assert look(table, Outstanding.NONE, PageState.IDLE) == (Outstanding.NONE, Look.NOTHING)
