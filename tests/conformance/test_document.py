# SPDX-License-Identifier: Apache-2.0
"""docs/conformance.md is what its command writes, and accounts for every ordinal."""

from __future__ import annotations

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.document import (
    COMPARED_ELSEWHERE,
    LEFT_OUT,
    NOT_COMPARED,
    PATH,
    document,
    tried,
)
from tpmcore.tpm12.table import TABLE, table_for
from tpmcore.tpm12.world import Profile


def test_the_document_is_what_its_command_writes() -> None:
    assert PATH.read_text() == document(), "run make conformance-doc"


def test_every_ordinal_is_answered_or_left_out_with_a_reason() -> None:
    everything = table_for(Profile(maintenance_commands=True))

    assert set(everything) | set(LEFT_OUT) == set(Ordinal)
    assert set(everything) & set(LEFT_OUT) == set()


def test_every_ordinal_succeeds_in_a_case_or_is_compared_elsewhere() -> None:
    found = tried()
    succeeded = {number for number, (_, codes) in found.items() if ReturnCode.SUCCESS in codes}

    missing = set(TABLE) - succeeded - set(COMPARED_ELSEWHERE) - set(NOT_COMPARED)
    assert {Ordinal(number).name for number in missing} == set()
