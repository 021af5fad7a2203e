# SPDX-License-Identifier: Apache-2.0
"""docs/conformance.md is what its command writes, and accounts for every ordinal."""

from __future__ import annotations

from protocol.tpm12.constants import Ordinal
from tests.conformance.document import (
    LEFT_OUT,
    PATH,
    document,
)
from tpmcore.tpm12.table import table_for
from tpmcore.tpm12.world import Profile


def test_the_document_is_what_its_command_writes() -> None:
    assert PATH.read_text() == document(), "run make conformance-doc"


def test_every_ordinal_is_answered_or_left_out_with_a_reason() -> None:
    everything = table_for(Profile(maintenance_commands=True))

    assert set(everything) | set(LEFT_OUT) == set(Ordinal)
    assert set(everything) & set(LEFT_OUT) == set()
