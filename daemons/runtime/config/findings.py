# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a configuration: each mistake with its file, its key and the reason, all of
them together."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from daemons.runtime.errors import RefusedToStart


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake.

    Attributes:
        file: where it is.
        key: the key, tables in front of it with dots; "" if it is about the whole file.
        reason: what is wrong and what would be right.
        line: where the reader says one, which is for what is no TOML.
    """

    file: Path
    key: str
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        where = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        text = f"{where}: {self.key}: {self.reason}" if self.key else f"{where}: {self.reason}"
        # Names of files and keys may hold anything; a line break must not forge a finding.
        return "".join(
            [one if one.isprintable() else one.encode("unicode_escape").decode() for one in text]
        )


class BadConfig(RefusedToStart):
    """A configuration that is not used; the message has one line for each finding.

    Attributes:
        findings: at least one, in the order of the files.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(map(str, self.findings)))


@dataclass(slots=True)
class Findings:
    """Collects what is wrong with one file.

    Attributes:
        file: its path.
        found: so far.
    """

    file: Path
    found: list[Finding] = field(default_factory=list)

    def add(self, key: str, reason: str, line: int | None = None) -> None:
        """Take note of a mistake."""
        self.found.append(Finding(self.file, key, reason, line))

    def check_known(
        self, table: Mapping[str, object], known: Iterable[str], prefix: str = ""
    ) -> None:
        """Take note of each key that is not known, with the known one that looks most like it."""
        names = list(known)
        for name in table:
            if name not in names:
                alike = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {alike[0]}?" if alike else f"known are {', '.join(names)}"
                self.add(f"{prefix}{name}", f"unknown key; {hint}")

    def table(self, content: Mapping[str, object], name: str) -> Mapping[str, object]:
        """Return a table of the content; an empty one, and a finding, if it is something else."""
        found = content.get(name, {})
        if isinstance(found, dict):
            return found
        self.add(name, f"must be a table, [{name}]")
        return {}

    def raise_any(self) -> None:
        """Raises:
        BadConfig: there are findings.
        """
        if self.found:
            raise BadConfig(self.found)
