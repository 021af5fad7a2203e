# SPDX-License-Identifier: Apache-2.0
"""docs/conformance.md is what its command writes, and accounts for every ordinal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.document import (
    COMPARED_ELSEWHERE,
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


def test_every_ordinal_succeeds_in_a_case_or_is_compared_elsewhere() -> None:
    found = tried()
    succeeded = {
        number
        for number, tries in found.items()
        if any(code == ReturnCode.SUCCESS for _name, code in tries)
    }

    missing = set(TABLE) - succeeded - set(COMPARED_ELSEWHERE) - set(NOT_COMPARED)
    assert {Ordinal(number).name for number in missing} == set()


def test_every_error_path_is_tried_as_often_as_it_is_listed_or_says_why_not() -> None:
    found = tried()
    units = Path(__file__).parents[1] / "unit" / "tpm12"
    wrong: list[str] = []
    for number, paths in PATHS.items():
        listed = Counter((path.case, path.code) for path in paths if path.case)
        for (case, code), times in listed.items():
            module, _, name = case.partition("::")
            there = (
                f"def {name}(" in (units / module).read_text()
                if name
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
