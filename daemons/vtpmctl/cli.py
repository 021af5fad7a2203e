# SPDX-License-Identifier: Apache-2.0
"""Command line of `vtpmctl`: its subcommands, and where each of them is."""

from __future__ import annotations

import click

from daemons.runtime.subcommands import DeferringGroup

EXAMPLE = """\b
Example:
  vtpmctl up --dir /srv/vtpm --guest g1
  vtpmctl guest add g2 --dir /srv/vtpm
  vtpmctl status --watch
  vtpmctl doctor
"""


@click.group(cls=DeferringGroup, epilog=EXAMPLE)
@click.version_option(package_name="vtpm-suite")
def main() -> None:
    """Run a vTPM stack and look after it."""


main.defer(
    "daemons.vtpmctl",
    {
        "aik": (
            "aik_cli:aik_group",
            "Identity keys (AIKs) in a guest's TPM, which vtpmctl attest can quote with.",
        ),
        "attest": (
            "attest_cli:attest_command",
            "Gather evidence about a guest's TPM, for vtpmctl verify.",
        ),
        "ca": (
            "ca_cli:ca_group",
            "A Privacy CA: certificates for endorsement keys and for identity keys.",
        ),
        "config": ("config_cli:config_group", "Look at the configuration."),
        "doctor": (
            "doctor.cli:doctor_command",
            "Look for what keeps a suite from serving, and say what to do about it.",
        ),
        "group": (
            "group_cli:group_group",
            "Groups of vTPMs: who decides about them, and what was decided.",
        ),
        "guest": ("guest_cli:guest_group", "Add, remove, start and stop guests."),
        "hwtpm": ("hwtpm_cli:hwtpm_group", "Handle the hardware TPM."),
        "manager": (
            "manager_cli:manager_group",
            "The manager itself: its state, its keys, the hardware TPM that it uses.",
        ),
        "manufacture": (
            "manufacture_cli:manufacture_command",
            "Do for a guest's TPM what its maker does: an endorsement key if it has none, "
            "certificates of it and of the platform where software looks for them, an owner.",
        ),
        "prove-ek": (
            "attest_cli:prove_ek_command",
            "Have the hardware TPM sign that a guest's endorsement key was made on this machine.",
        ),
        "reload": (
            "config_cli:reload_command",
            "Have all daemons read the configuration again, after a check.",
        ),
        "saa": (
            "saa_cli:saa_group",
            "A System Approval Agent: who decides which PCRs and labels a group may have.",
        ),
        "status": (
            "status_cli:status_command",
            "Show the daemons and the guests of a running suite.",
        ),
        "trace": (
            "trace_cli:trace_command",
            "Show the commands that a guest's TPM executes, until Ctrl-C.",
        ),
        "up": (
            "up_cli:up_command",
            "Run hwtpm, vtpmmgr and a vTPM with its front for each guest, in the foreground.",
        ),
        "verify": ("verify_cli:verify_command", "Verify evidence of vtpmctl attest."),
        "vtpm": (
            "vtpm_cli:vtpm_group",
            "vTPMs as the manager knows them; guests are `vtpmctl guest`.",
        ),
    },
)
