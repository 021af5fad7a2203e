# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl status`: what the supervisor says of the processes and what each daemon says of
itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from daemons.runtime.control import Fields, Json, control_request
from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.layout import Layout

_TIMEOUT_S = 5.0
_COLUMNS = ("daemon", "pid", "state", "restarts", "guest", "uuid", "note")


async def gather_status(layout: Layout) -> Fields:
    """Return the supervisor's status, with each daemon's own answer as "detail" (None: no answer).

    Raises:
        DaemonError: no supervisor runs in this folder.
    """
    status = await control_request(layout.control_socket, "status", timeout_s=_TIMEOUT_S)
    daemons = status.get("daemons")
    if not isinstance(daemons, list):
        raise DaemonError(f"{layout.control_socket}: a status without daemons")
    rows = [row for row in daemons if isinstance(row, dict)]
    async with trio.open_nursery() as nursery:
        for row in rows:
            nursery.start_soon(_add_detail, row)
    return {"daemons": list[Json](rows)}


async def _add_detail(row: dict[str, Json]) -> None:
    control = row.get("control")
    row["detail"] = None
    if isinstance(control, str) and row.get("pid") is not None:
        try:
            row["detail"] = dict(
                await control_request(Path(control), "status", timeout_s=_TIMEOUT_S)
            )
        except DaemonError as error:
            row["detail"] = {"error": str(error)}


def format_table(status: Fields) -> str:
    """Return the status as a table, one line per daemon."""
    daemons = status["daemons"]
    rows: list[Sequence[str]] = [[column.upper() for column in _COLUMNS]]
    if isinstance(daemons, list):
        rows += [
            ["-" if row.get(column) in (None, "") else str(row[column]) for column in _COLUMNS]
            for row in daemons
            if isinstance(row, dict)
        ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
