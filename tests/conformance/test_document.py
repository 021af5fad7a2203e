# SPDX-License-Identifier: Apache-2.0
"""docs/conformance.md is what its command writes, and accounts for every ordinal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.cases import CASES
from tests.conformance.choices import CHOICES
from tests.conformance.deviations import DEVIATIONS
from tests.conformance.differences import DECLARED
from tests.conformance.document import (
    LEFT_OUT,
    NOT_COMPARED,
    PATH,
    document,
    tried,
)
from tests.conformance.paths import PATHS
from tpmcore.tpm12.table import EVERYTHING, TABLE


def test_the_document_is_what_its_command_writes() -> None:
    assert PATH.read_text() == document(), "run make conformance-doc"


def test_every_ordinal_is_answered_or_left_out_with_a_reason() -> None:
    assert set(EVERYTHING) | set(LEFT_OUT) == set(Ordinal)
    assert set(EVERYTHING) & set(LEFT_OUT) == set()


def test_every_ordinal_succeeds_in_a_case_or_says_why_not() -> None:
    found = tried()
    succeeded = {
        number
        for number, tries in found.items()
        if any(code == ReturnCode.SUCCESS for _name, code in tries)
    }

    missing = set(TABLE) - succeeded - set(NOT_COMPARED)
    assert {Ordinal(number).name for number in missing} == set()


UNITS = Path(__file__).parents[1] / "unit" / "tpm12"


def is_unit_test(name: str) -> bool:
    """Whether `test_module.py::test_name` is there."""
    module, _, function = name.partition("::")
    return f"def {function}(" in (UNITS / module).read_text()


def test_every_known_deviation_of_libtpms_is_shown_and_the_differences_fit() -> None:
    cases = {case.name for case in CASES}
    declared = {entry.case for entry in DECLARED}
    wrong: list[str] = []
    for deviation in DEVIATIONS:
        for name in deviation.shown_by:
            if "::" in name:
                shown = is_unit_test(name)
            else:
                shown = name in cases and (deviation.as_libtpms or name in declared)
            if not shown:
                wrong.append(f"{deviation.subject}: {name}")

    assert wrong == []
    assert all(deviation.shown_by for deviation in DEVIATIONS)


def test_every_choice_says_why_and_is_shown() -> None:
    cases = {case.name for case in CASES}
    wrong = [
        f"{choice.subject}: {name}"
        for choice in CHOICES
        for name in choice.shown_by
        if not (is_unit_test(name) if "::" in name else name in cases)
    ]

    assert wrong == []
    assert all(choice.reason and choice.shown_by for choice in CHOICES)


def test_every_error_path_is_tried_as_often_as_it_is_listed_or_says_why_not() -> None:
    found = tried()
    wrong: list[str] = []
    for number, paths in PATHS.items():
        listed = Counter((path.case, path.code) for path in paths if path.case)
        for (case, code), times in listed.items():
            there = (
                is_unit_test(case)
                if "::" in case
                else found.get(number, Counter())[case, code] >= times
            )
            if not there:
                wrong.append(f"{Ordinal(number).name}: {case} does not end in {code.name} {times}x")
        wrong += [
            f"{Ordinal(number).name}: {path.when}: a case or a reason"
            for path in paths
            if bool(path.case) == bool(path.untried)
        ]

    assert wrong == []
