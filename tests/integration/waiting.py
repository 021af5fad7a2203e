# SPDX-License-Identifier: Apache-2.0
"""Waiting for what tells nobody that it has happened."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

LIMIT_S = 60.0
"""Only reached when something is broken, on a busy machine too."""
POLL_S = 0.02


def wait_until(holds: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Look again and again until something holds.

    Args:
        holds: whether it does.
        what: is waited for, for the message.
        limit_s: how long to look.

    Raises:
        AssertionError: it does not; the message says what.
    """
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not in {limit_s:g} s"
        select.select([], [], [], POLL_S)
