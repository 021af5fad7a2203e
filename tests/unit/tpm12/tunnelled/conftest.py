# SPDX-License-Identifier: Apache-2.0
"""Puts `Chip.run` of the tests in this folder into transport sessions."""

from __future__ import annotations

from typing import Final, TypeVar

import pytest

from tests.unit.tpm12.tunnel import Tunnels
from tests.unit.tpm12.world import Chip
from tpmcore.tss12 import Conversation

T = TypeVar("T")

DIRECT_ONLY: Final = frozenset(
    {
        # They look for a command in the log of what the chip was sent.
        "test_both_sessions_end_and_the_answer_is_proved_with_the_old_secret",
        "test_scheme_info_signs_the_nonce_too_and_so_wants_a_session",
        "test_blob_without_pcrs_is_of_version_1_1_and_laid_out_as_the_specification_says",
        "test_seal_ends_its_session",
        "test_unseal_of_a_sealx_blob_ends_the_parents_session",
        "test_create_wrap_key_ends_its_session",
        "test_public_key_is_parameters_and_modulus_as_stored",
        "test_two_blocks_are_not_taken_where_one_is_allowed",
        # SaveState cannot be wrapped.
        "test_only_the_first_incremented_counter_moves_in_a_boot",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what cannot be done in a transport session."""
    items[:] = [
        item
        for item in items
        if "tunnelled" not in item.nodeid or item.name.partition("[")[0] not in DIRECT_ONLY
    ]


@pytest.fixture(autouse=True)
def tunnels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tunnels:
    """Transport sessions for all chips of one test."""
    tunnels = Tunnels(request.module.MODE)

    def run(chip: Chip, conversation: Conversation[T], *, locality: int | None = None) -> T:
        return tunnels.run(chip, conversation, locality=locality)

    monkeypatch.setattr(Chip, "run", run)
    return tunnels
