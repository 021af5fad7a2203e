# SPDX-License-Identifier: Apache-2.0
"""Tables and files of a run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One operation, both peers, microseconds."""

    name: str
    ours_median_us: float
    ours_p99_us: float
    swtpm_median_us: float
    swtpm_p99_us: float
    promise: str
    kept: bool | None

    @property
    def ratio(self) -> float:
        """Our median by swtpm's."""
        return self.ours_median_us / self.swtpm_median_us


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least this share of all do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def make_row(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    target: float | None,
    limit_ms: float | None,
) -> Row:
    """Summarize the samples of one operation."""
    median = statistics.median(ours)
    ratio = median / statistics.median(theirs)
    promise, kept = "", None
    if target is not None:
        promise, kept = f"<= {target:g}x", ratio <= target
    elif limit_ms is not None:
        promise, kept = f"<= {limit_ms:g} ms", median <= limit_ms * 1000
    return Row(
        name,
        median,
        percentile(ours, 0.99),
        statistics.median(theirs),
        percentile(theirs, 0.99),
        promise,
        kept,
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| command | ours median us | p99 | swtpm median us | p99 | ratio | promise |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        kept = "" if row.kept is None else (", kept" if row.kept else ", MISSED")
        lines.append(
            f"| {row.name} | {row.ours_median_us:.0f} | {row.ours_p99_us:.0f} "
            f"| {row.swtpm_median_us:.0f} | {row.swtpm_p99_us:.0f} | {row.ratio:.2f} "
            f"| {row.promise}{kept} |"
        )
    return "\n".join(lines)


def write_files(
    folder: Path, placements: Mapping[str, Sequence[Row]], facts: Mapping[str, float]
) -> None:
    """Write the run as `results.md` and `results.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"## {name}\n\n{table(rows)}\n" for name, rows in placements.items()]
    parts.append(facts_table(facts))
    (folder / "results.md").write_text("\n".join(parts))
    data = {
        "placements": {
            name: [asdict(row) | {"ratio": row.ratio} for row in rows]
            for name, rows in placements.items()
        },
        "facts": dict(facts),
    }
    (folder / "results.json").write_text(json.dumps(data, indent=2) + "\n")


def facts_table(facts: Mapping[str, float]) -> str:
    """Return single figures as a Markdown table."""
    lines = ["| figure | value |", "|---|---:|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in facts.items()]
    return "\n".join(lines) + "\n"
