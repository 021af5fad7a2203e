# SPDX-License-Identifier: Apache-2.0
"""What a check finds."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from daemons.runtime.control import Json


class Verdict(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """Works, but not as it should, or not for long, or could not be looked at."""
    FAIL = "fail"
    """Something does not work because of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        check: what was looked at, one or two words.
        verdict: how bad it is.
        what: what was found.
        remedy: what to do; "" if nothing is to be done.
    """

    check: str
    verdict: Verdict
    what: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """Return it as people see it."""
        mark = f"[{self.verdict.value}]".ljust(6)
        text = f"{mark} {self.check}: {self.what}"
        shown = f"{text} -> {self.remedy}" if self.remedy else text
        # It may quote what a daemon said, and a daemon what a peer said.
        return "".join(letter if letter.isprintable() else "?" for letter in shown)


def findings_json(findings: Iterable[Finding]) -> list[Json]:
    """Return the documented objects."""
    return [
        {
            "check": finding.check,
            "verdict": finding.verdict.value,
            "what": finding.what,
            "remedy": finding.remedy,
        }
        for finding in findings
    ]


def ok(check: str, what: str) -> Finding:
    """Return a finding that everything is as it should be."""
    return Finding(check, Verdict.OK, what)


def warn(check: str, what: str, remedy: str) -> Finding:
    """Return a finding that something should be looked at."""
    return Finding(check, Verdict.WARN, what, remedy)


def fail(check: str, what: str, remedy: str) -> Finding:
    """Return a finding that something does not work."""
    return Finding(check, Verdict.FAIL, what, remedy)
