# SPDX-License-Identifier: Apache-2.0
"""Daemons of a stack are ended, and others take their place, while guests run."""

from __future__ import annotations

import os
import signal
from typing import Any

import trio

from daemons.runtime.control import control_request
from daemons.vtpmctl.layout import Layout
from tests.integration.stack import Stack

LIMIT_S = 60.0
_POLL_S = 0.02


def replace_daemons(stack: Stack, *names: str, by: signal.Signals = signal.SIGKILL) -> None:
    """End daemons by a signal, all at once, and return when the next ones serve.

    Args:
        names: as `Stack.daemon` has them.

    Raises:
        trio.TooSlowError: they do not.
    """
    trio.run(_replace, stack, names, by)


async def _replace(stack: Stack, names: tuple[str, ...], by: signal.Signals) -> None:
    rows = await _rows(stack)
    before = {name: rows[name]["pid"] for name in names}
    for pid in before.values():
        os.kill(pid, by)
    with trio.fail_after(LIMIT_S):
        while True:
            rows = await _rows(stack)
            if all(
                rows[name]["state"] == "ready" and rows[name]["pid"] not in (None, pid)
                for name, pid in before.items()
            ):
                return
            await trio.sleep(_POLL_S)


async def _rows(stack: Stack) -> dict[str, dict[str, Any]]:
    """What the supervisor knows of its daemons; from its socket, as a command takes longer."""
    status = await control_request(Layout(stack.root).control_socket, "status")
    daemons = status["daemons"]
    assert isinstance(daemons, list)
    return {str(row["daemon"]): row for row in daemons if isinstance(row, dict)}
