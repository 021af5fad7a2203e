# SPDX-License-Identifier: Apache-2.0
"""The command `vtpmctl doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from daemons.runtime.errors import ExitCode
from daemons.vtpmctl.doctor.examination import examine
from daemons.vtpmctl.doctor.finding import Finding, Verdict, findings_json
from daemons.vtpmctl.options import ask, dir_option, find_site, system_option

EXAMPLE = """\b
Example:
  vtpmctl doctor
  vtpmctl doctor --system --json | jq '.findings[] | select(.verdict != "ok")'
"""


@click.command("doctor", epilog=EXAMPLE)
@dir_option
@system_option
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def doctor_command(root: Path | None, system: bool, as_json: bool) -> None:
    """Look for what keeps a suite from serving, and say what to do about it.

    One line per finding: [ok], [warn] or [fail], what was found, and the remedy. The exit code is 1
    if anything fails. Each guest's TPM executes one PCRRead.
    """
    looking_at = "the machine"

    def tell(what: str) -> None:
        nonlocal looking_at
        looking_at = what

    async def look() -> list[Finding]:
        return await examine(await find_site(root, system=system), tell)

    findings = ask(look, lambda: f"looking at {looking_at}")
    fails = sum(finding.verdict is Verdict.FAIL for finding in findings)
    if as_json:
        report = {"version": 1, "healthy": not fails, "findings": findings_json(findings)}
        click.echo(json.dumps(report, indent=2))
    else:
        for finding in findings:
            click.echo(finding.line)
    if fails:
        raise click.exceptions.Exit(ExitCode.FAILED)
