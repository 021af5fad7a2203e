# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl verify`: what it prints, and what its exit code says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from daemons.vtpmctl.cli import main
from protocol.attestation.evidencefile import encode
from protocol.attestation.identity import identity_key
from protocol.attestation.verdict import LinkName
from tests.unit.attestation.signer import (
    AGENT_KEY,
    AIK_KEY,
    CA,
    HARDWARE,
    LABEL,
    NONCE,
    NOW,
    OTHER_KEY,
    VTPM,
    guest_pcrs,
    make,
    modulus,
)

AT = f"{NOW:%Y-%m-%d}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a verifier's files."""
    (tmp_path / "evidence").write_bytes(encode(make()))
    (tmp_path / "ca.crt").write_bytes(CA.public_bytes(Encoding.PEM))
    for name, key in (("agent.pub", AGENT_KEY), ("other.pub", OTHER_KEY)):
        encoded = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / name).write_bytes(encoded)
    (tmp_path / "aik.pub").write_bytes(identity_key(modulus(AIK_KEY)).encode())
    return tmp_path


def verify(folder: Path, *options: str, nonce: bytes = NONCE, file: str = "evidence") -> Result:
    paths = [str(folder / word) if (folder / word).exists() else word for word in (file, *options)]
    return CliRunner().invoke(main, ["verify", *paths, "--nonce", nonce.hex(), "--at", AT])


ANCHORS = ("--ca-cert", "ca.crt", "--agent-pub", "agent.pub")


def test_evidence_that_holds_is_verified_with_a_line_for_each_link(folder: Path) -> None:
    done = verify(folder, *ANCHORS)
    assert done.exit_code == 0, done.output
    *links, verdict = done.output.splitlines()
    assert [line.split()[:2] for line in links] == [[name.value, "ok"] for name in LinkName]
    assert verdict == "verified"


@pytest.mark.parametrize(
    ("options", "broken"),
    [
        ((), "aik"),
        (("--ca-cert", "ca.crt"), "agent"),
        (("--ca-cert", "ca.crt", "--agent-pub", "other.pub"), "agent"),
        ((*ANCHORS, "--label", "other"), "label"),
        ((*ANCHORS, "--uuid", "00000000-0000-0000-0000-000000000001"), "vtpm"),
        ((*ANCHORS, "--min-sequence", "4"), "policy"),
        ((*ANCHORS, "--freshness", "counter"), "freshness"),
        ((*ANCHORS, "--expect-hw-pcr", "0=" + "00" * 20), "hardware-pcrs"),
        ((*ANCHORS, "--expect-pcr", "4=" + "00" * 20), "guest-pcrs"),
        ((*ANCHORS, "--at", "2031-01-01"), "aik"),
    ],
)
def test_the_verdict_names_the_link_that_breaks(
    folder: Path, options: tuple[str, ...], broken: str
) -> None:
    at = () if "--at" not in options else options[-2:]
    paths = [str(folder / word) if (folder / word).exists() else word for word in options]
    arguments = ["verify", str(folder / "evidence"), "--nonce", NONCE.hex(), "--at", AT, *paths]
    done = CliRunner().invoke(main, [*arguments, *at])
    assert done.exit_code == 1, done.output
    assert done.output.splitlines()[-1].startswith(f"NOT verified: {broken} ")


def test_what_is_expected_and_found_is_verified(folder: Path) -> None:
    done = verify(
        folder,
        *ANCHORS,
        *("--label", LABEL, "--uuid", str(VTPM), "--min-sequence", "3", "--freshness", "nv"),
        *("--expect-hw-pcr", f"17={HARDWARE[17].hex()}"),
        *("--expect-pcr", f"4={guest_pcrs()[4].hex()}", "--require", "event-log"),
    )
    assert done.exit_code == 0, done.output


def test_an_aik_may_be_known_and_a_link_may_be_waived_by_name(folder: Path) -> None:
    known = verify(folder, "--aik-pub", "aik.pub", "--agent-pub", "agent.pub")
    assert known.exit_code == 0, known.output
    waived = verify(folder, "--without", "aik", "--without", "agent")
    assert waived.exit_code == 0
    assert waived.output.splitlines()[-1].startswith("verified, without aik, agent")


def test_the_answer_in_json_has_every_link(folder: Path) -> None:
    done = verify(folder, *ANCHORS, "--json", nonce=bytes(20))
    assert done.exit_code == 1
    answer = json.loads(done.output)
    assert answer["verified"] is False
    assert answer["broken"] == "nonce"
    assert answer["vtpm"] == str(VTPM)
    assert [link["name"] for link in answer["links"]] == [name.value for name in LinkName]
    assert answer["links"][0] == {
        "name": "nonce",
        "outcome": "FAILED",
        "counts": True,
        "detail": "the evidence is over another nonce",
    }


@pytest.mark.parametrize(
    "options",
    [
        ("--ca-cert", "evidence"),
        ("--ca-cert", "nothing"),
        ("--agent-pub", "ca.crt"),
        ("--aik-pub", "agent.pub"),
        ("--expect-pcr", "24=" + "00" * 20),
        ("--expect-pcr", "4=00"),
        ("--expect-pcr", "4=" + "00" * 20, "--expect-pcr", "4=" + "01" * 20),
        ("--require", "magic"),
        ("--freshness", "always"),
    ],
)
def test_what_cannot_be_read_is_not_judged(folder: Path, options: tuple[str, ...]) -> None:
    done = verify(folder, *options)
    assert done.exit_code == 2
    assert "verified" not in done.output


def test_evidence_that_cannot_be_read_is_not_judged(folder: Path) -> None:
    assert verify(folder, *ANCHORS, file="aik.pub").exit_code == 2
    assert verify(folder, *ANCHORS, file="missing").exit_code == 2
    assert verify(folder, *ANCHORS, nonce=bytes(19)).exit_code == 2
