# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl verify`: evidence about a guest's TPM, judged without TPM and network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import click

from daemons.runtime.control import Json
from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.agent import read_agent_pub
from daemons.vtpmctl.answers import example
from daemons.vtpmctl.certfiles import read_certificates
from daemons.vtpmctl.documents import read_file
from daemons.vtpmctl.identities import read_pubkey
from daemons.vtpmctl.pcrs import HexParameter
from protocol.attestation.evidence import FRESHNESS_MODES, Evidence
from protocol.attestation.evidencefile import BadEvidence, decode
from protocol.attestation.verdict import Expectations, LinkName, Verification
from protocol.attestation.verification import verify
from protocol.tpm12.constants import PCR_COUNT
from protocol.tpm12.wire import DIGEST_BYTES

_PATH = click.Path(path_type=Path, dir_okay=False)
_LINKS = click.Choice([name.value for name in LinkName])
_MODES = click.Choice(FRESHNESS_MODES)


class Unreadable(click.ClickException):
    """A file is not what it must be: nothing was judged."""

    exit_code = 2


class _PcrValue(click.ParamType[tuple[int, bytes]]):
    """A PCR and its value: N=HEX."""

    name = "N=HEX"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, bytes]:
        """Read it."""
        index, _, digits = str(value).partition("=")
        data = HexParameter(DIGEST_BYTES).convert(digits, param, ctx)
        if not (index.isascii() and index.isdigit() and int(index) < PCR_COUNT):
            self.fail(f"{index!r} is no PCR", param, ctx)
        return int(index), data


EXAMPLE = example(
    "vtpmctl verify web1.evidence --nonce 5ba1c2407d9be3f86a1140c9d2e8b7f35c6a90e7 \\",
    "        --ca-cert ca.crt --agent-pub agent.pub --label web1 --require event-log",
)


@click.command("verify", epilog=EXAMPLE)
@click.argument("file", type=_PATH)
@click.option(
    "--nonce", type=HexParameter(DIGEST_BYTES), required=True, help="That was sent, 20 bytes."
)
@click.option(
    "--ca-cert",
    "ca_certs",
    type=_PATH,
    multiple=True,
    help="Privacy CAs that are trusted, PEM; may be repeated.",
)
@click.option(
    "--aik-pub", type=_PATH, help="TPM_PUBKEY of the group's identity key, instead of a CA."
)
@click.option("--agent-pub", type=_PATH, help="Key of the agent that is trusted, PEM.")
@click.option(
    "--expect-hw-pcr",
    "hardware_pcrs",
    type=_PcrValue(),
    multiple=True,
    help="Value of a PCR of the hardware TPM; may be repeated.",
)
@click.option(
    "--expect-pcr",
    "guest_pcrs",
    type=_PcrValue(),
    multiple=True,
    help="Value of a PCR of the guest's TPM; may be repeated.",
)
@click.option("--uuid", type=click.UUID, help="That the vTPM must have.")
@click.option(
    "--label", help="That the vTPM must have; *:REST if the list approves it in that form."
)
@click.option(
    "--min-sequence",
    type=click.IntRange(0, (1 << 64) - 1),
    default=0,
    help="Oldest list that is good enough.",
)
@click.option(
    "--freshness",
    "modes",
    type=_MODES,
    multiple=True,
    help="How the manager must notice older copies of its database; may be repeated.",
)
@click.option("--xen-lists", is_flag=True, help="Take lists that are signed as in Xen.")
@click.option(
    "--require",
    "required",
    type=_LINKS,
    multiple=True,
    help="A link that must be there though others can do without it; may be repeated.",
)
@click.option(
    "--without",
    "waived",
    type=_LINKS,
    multiple=True,
    help="A link that need not hold: what it proves is taken on trust; may be repeated.",
)
@click.option(
    "--at",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="When certificates must be valid, UTC, for evidence that was kept.  [default: now]",
)
@click.option("--json", "as_json", is_flag=True, help="The same, as JSON.")
@click.pass_context
def verify_command(
    context: click.Context,
    file: Path,
    nonce: bytes,
    ca_certs: Sequence[Path],
    aik_pub: Path | None,
    agent_pub: Path | None,
    hardware_pcrs: Sequence[tuple[int, bytes]],
    guest_pcrs: Sequence[tuple[int, bytes]],
    uuid: UUID | None,
    label: str | None,
    min_sequence: int,
    modes: Sequence[str],
    xen_lists: bool,
    required: Sequence[str],
    waived: Sequence[str],
    at: datetime | None,
    as_json: bool,
) -> None:
    """Verify evidence of vtpmctl attest. Needs neither a TPM nor the network.

    Prints a line for each link of the chain (ok, FAILED, not present) and a verdict. Who gives
    neither --ca-cert nor --aik-pub, or no --agent-pub, gets no good verdict unless --without says
    that aik or agent are taken on trust. Exit code 0: verified; 1: not; 2: a file cannot be read,
    or usage.
    """
    try:
        expected = Expectations(
            nonce=nonce,
            at=datetime.now(UTC) if at is None else at.replace(tzinfo=UTC),
            authorities=[each for path in ca_certs for each in read_certificates(path)],
            aik_modulus=None if aik_pub is None else read_pubkey(aik_pub).key,
            agent_modulus=None if agent_pub is None else read_agent_pub(agent_pub),
            hardware_pcrs=_by_index(hardware_pcrs),
            guest_pcrs=_by_index(guest_pcrs),
            vtpm=uuid,
            label=label,
            least_sequence=min_sequence,
            freshness=frozenset(modes or FRESHNESS_MODES),
            xen_lists=xen_lists,
            required=_links(required) | ({LinkName.FRESHNESS} if modes else frozenset()),
            waived=_links(waived),
        )
        evidence = decode(read_file(file))
    except BadEvidence as error:
        raise Unreadable(f"{file}: {error}") from error
    except DaemonError as error:
        raise Unreadable(str(error)) from error
    result = verify(evidence, expected)
    click.echo(_json(evidence, result) if as_json else _lines(result))
    context.exit(0 if result.is_verified else 1)


def _by_index(pairs: Sequence[tuple[int, bytes]]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for index, value in pairs:
        if found.setdefault(index, value) != value:
            raise click.UsageError(f"PCR {index} is expected to have two values")
    return found


def _links(names: Sequence[str]) -> frozenset[LinkName]:
    return frozenset(LinkName(name) for name in names)


def _lines(result: Verification) -> str:
    width = max(len(link.name.value) for link in result.links)
    lines = [
        f"{link.name.value.ljust(width)}  {link.outcome.value.ljust(11)}  {link.detail}".rstrip()
        for link in result.links
    ]
    return "\n".join([*lines, result.verdict])


def _json(evidence: Evidence, result: Verification) -> str:
    broken = result.broken
    links: list[Json] = [
        {
            "name": link.name.value,
            "outcome": link.outcome.value,
            "counts": link.counts,
            "detail": link.detail,
        }
        for link in result.links
    ]
    answer: dict[str, Json] = {
        "verified": result.is_verified,
        "broken": None if broken is None else broken.name.value,
        "verdict": result.verdict,
        "vtpm": str(evidence.vtpm),
        "group": str(evidence.group),
        "links": links,
    }
    return json.dumps(answer, indent=2)
