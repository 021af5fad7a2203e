# SPDX-License-Identifier: Apache-2.0
"""Whose a traced command was."""

from __future__ import annotations

from dataclasses import replace

from daemons.runtime.tracing import ClientIdentity, ClientSpan, TracedCommand
from daemons.vtpmctl.attribution import Attributed, Attribution
from tests.unit.vtpmctl.traced import ANN, BOB, FRONT, READ


def _at(ended_ns: int) -> TracedCommand:
    return replace(READ, ended_ns=ended_ns)


def _clients(*attributed: Attributed) -> list[ClientIdentity | None]:
    return [one.client for one in attributed]


def test_a_command_is_of_the_client_in_whose_span_it_ended() -> None:
    attribution = Attribution()
    attribution.front_begins(FRONT.pid)
    assert list(attribution.add_command(_at(15))) == []
    assert _clients(*attribution.add_span(ClientSpan(ANN, 10, 20))) == [ANN]
    assert list(attribution.add_span(ClientSpan(BOB, 20, 30))) == []
    assert _clients(*attribution.add_command(_at(25))) == [BOB]


def test_a_command_whose_span_is_missing_is_of_nobody_and_takes_nobody_elses() -> None:
    attribution = Attribution()
    attribution.front_begins(FRONT.pid)
    told = [
        *attribution.add_command(_at(5)),
        *attribution.add_command(_at(25)),
        *attribution.add_span(ClientSpan(ANN, 10, 20)),
        *attribution.add_span(ClientSpan(BOB, 30, 40)),
        *attribution.add_command(_at(35)),
    ]
    assert _clients(*told) == [None, None, BOB]


def test_spans_without_a_command_disturb_nobody() -> None:
    attribution = Attribution()
    attribution.front_begins(FRONT.pid)
    for start in range(0, 100, 10):
        assert list(attribution.add_span(ClientSpan(ANN, start, start + 10))) == []
    assert list(attribution.add_span(ClientSpan(BOB, 100, 110))) == []
    assert _clients(*attribution.add_command(_at(105))) == [BOB]


def test_nobody_waits_for_a_front_that_does_not_tell() -> None:
    attribution = Attribution()
    assert _clients(*attribution.add_command(_at(5))) == [None]
    attribution.front_begins(FRONT.pid + 1)
    assert _clients(*attribution.add_command(_at(6))) == [None]
    assert _clients(*attribution.add_command(replace(READ, front=None))) == [None]
    attribution.front_begins(FRONT.pid)
    assert list(attribution.add_command(_at(7))) == []
    assert attribution.is_waiting
    assert _clients(*attribution.front_ends()) == [None]
    assert not attribution.is_waiting


def test_commands_stay_in_order_while_one_waits() -> None:
    attribution = Attribution()
    attribution.front_begins(FRONT.pid)
    waiting, itself = _at(15), replace(READ, front=None, ended_ns=16)
    assert [*attribution.add_command(waiting), *attribution.add_command(itself)] == []
    told = list(attribution.add_span(ClientSpan(ANN, 10, 20)))
    assert [one.traced for one in told] == [waiting, itself]
    assert _clients(*told) == [ANN, None]
