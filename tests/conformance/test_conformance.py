# SPDX-License-Identifier: Apache-2.0
"""Every case on both machines: what differs is declared, and what is declared differs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from protocol.tpm12.keys import Key
from tests.conformance.cases import CASES
from tests.conformance.comparison import differences
from tests.conformance.differences import DECLARED
from tests.conformance.machines import EngineMachine, Machine, SwtpmMachine
from tests.conformance.script import Abandoned, Case, Script

_ATTEMPTS = 10
"""Of a case that must not take long; one is enough unless the machine stalls."""


@pytest.fixture(scope="module")
def engine() -> EngineMachine:
    return EngineMachine()


@pytest.fixture(scope="module")
def reference() -> Iterator[SwtpmMachine]:
    with SwtpmMachine() as machine:
        yield machine


@pytest.fixture(scope="module")
def wrapped_keys() -> dict[tuple[str, str], Key]:
    """Keys below the SRK of the owned world, by machine and name; made once."""
    return {}


def _play(
    case: Case, machine: Machine, keys: dict[tuple[str, str], Key], *, strict: bool
) -> Script:
    machine.enter(case.world, start_up=case.start_up)
    script = Script(machine, keys, strict)
    try:
        case.play(script)
    except Abandoned:
        assert not strict
    return script


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_engine_answers_as_the_reference_but_for_what_is_declared(
    case: Case,
    engine: EngineMachine,
    reference: SwtpmMachine,
    wrapped_keys: dict[tuple[str, str], Key],
) -> None:
    declared = [entry for entry in DECLARED if entry.case == case.name]
    for _ in range(_ATTEMPTS):
        began = time.monotonic()
        ours = _play(case, engine, wrapped_keys, strict=True)
        theirs = _play(case, reference, wrapped_keys, strict=False)
        took_s = time.monotonic() - began

        found = Counter(differences(ours.log, theirs.log))
        shown = [sum(found.pop(each, 0) for each in entry.differences) for entry in declared]
        if took_s < case.within_s or (not found and shown == [entry.times for entry in declared]):
            break
    told = f"it took {took_s:.2f} s, allowed are {case.within_s:g} s"
    assert not found, told
    assert shown == [entry.times for entry in declared], told


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_tries_every_ordinal_that_it_is_about(
    case: Case, engine: EngineMachine, wrapped_keys: dict[tuple[str, str], Key]
) -> None:
    script = _play(case, engine, wrapped_keys, strict=True)

    assert set(case.ordinals) <= {tried.ordinal for tried in script.tried}


def test_every_declared_difference_belongs_to_a_case_and_names_its_rule() -> None:
    names = {case.name for case in CASES}

    assert [entry for entry in DECLARED if entry.case not in names or not entry.reason] == []


def test_case_names_are_unique() -> None:
    names = [case.name for case in CASES]

    assert len(names) == len(set(names))
