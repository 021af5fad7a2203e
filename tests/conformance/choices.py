# SPDX-License-Identifier: Apache-2.0
"""Where the engine does otherwise than the specification says, on purpose.

What it does as libtpms, against the specification, is among the deviations of that; these are its
own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that the engine does otherwise.

    Attributes:
        subject: what it is about.
        specification: what is specified, and where.
        here: what the engine does instead.
        reason: why.
        shown_by: names of conformance cases, or unit tests (`test_module.py::test_name`, below
            tests/unit/tpm12).
    """

    subject: str
    specification: str
    here: str
    reason: str
    shown_by: tuple[str, ...]


CHOICES: Final[tuple[Choice, ...]] = (
    Choice(
        "a change that cannot be stored",
        "failure mode (Part 1, self-test)",
        "undone and answered with IOERROR; the TPM goes on",
        "What does not write is a disk that is full or gone, and no part of the TPM. Nothing was "
        "changed, so there is nothing to be protected from, and the guest can try again.",
        ("test_engine.py::test_a_failed_persist_is_an_error_and_restores_both_states",),
    ),
    Choice(
        "ChangeAuthAsymFinish without authorization, during a lockout",
        "commands without authorization go on (Part 1, dictionary attacks)",
        "DEFEND_LOCK_RUNNING",
        "newAuthLink proves the old secret. A wrong one is a guess that is counted, so that a "
        "lockout has to stop it; else this command would be the way around it.",
        ("test_change_auth_asym.py::test_old_secret_is_needed_and_guesses_count",),
    ),
    Choice(
        "CMK_CreateBlob whose sigTicket is not 20 bytes",
        "MA_AUTHORITY (Part 3, 11.9)",
        "BAD_PARAM_SIZE, as libtpms",
        "It is no ticket that could be compared: its size is wrong, and software knows this code.",
        (
            "certified_migrations_without_tickets",
            "certified_migrations_with_tickets_of_the_wrong_size",
        ),
    ),
)
