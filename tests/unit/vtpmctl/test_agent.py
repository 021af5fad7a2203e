# SPDX-License-Identifier: Apache-2.0
"""Files of operators and agents, PCR values, and what an agent keeps to itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.agent import Agent, Escrow, PendingRegistration
from daemons.vtpmctl.documents import check_absent
from daemons.vtpmctl.exchanges import Registered, Registration, SignedList
from daemons.vtpmctl.pcrs import (
    composite_of,
    configurations,
    format_pcrs,
    read_pcrs_file,
    selection_of,
)
from protocol.manager.approval import check_config_list
from protocol.tpm12.constants import SigScheme
from protocol.tpm12.keys import KeyParms, PubKey
from tests.unit.manager.fakes import rsa_key

GROUP, OTHER = UUID(int=1), UUID(int=2)
VALUES = {index: bytes([index]) * 20 for index in range(24)}
BOOT = selection_of("0-7")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    return Agent.generate(tmp_path_factory.mktemp("agent") / "agent.pem", None)


def signed(agent: Agent) -> SignedList:
    approved = [(BOOT, composite_of(BOOT, VALUES))]
    return agent.sign_list(GROUP, 3, approved, ["a:b:c"], [bytes(20)])


# --- files ---------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written_and_is_private(agent: Agent, tmp_path: Path) -> None:
    document = signed(agent)
    document.write(tmp_path / "list.json")
    assert SignedList.read(tmp_path / "list.json") == document
    assert (tmp_path / "list.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(DaemonError, match="is there already"):
        document.write(tmp_path / "list.json")
    with pytest.raises(DaemonError, match="nothing was done"):
        check_absent(tmp_path / "list.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "vtpm-escrow"}, "not a vtpm-signed-list"),
        ({"version": 2}, "version 2; this program knows 1"),
        ({"version": True}, "version True"),
        ({"more": 1}, "unknown field 'more'"),
        ({"signature": None}, "signature"),
        ({"signature": "00"}, "1 bytes, must be 256"),
        ({"signature": "xy"}, "signature"),
        ({"sequence": -1}, "sequence"),
        ({"sequence": 1 << 64}, "sequence"),
        ({"sequence": True}, "sequence"),
        ({"group": "x"}, "group"),
        ({"kernels": "00"}, "kernels: must be a list"),
        ({"kernels": [7]}, "kernels"),
        ({"configurations": [{"pcrs": "0"}]}, "configurations"),
        ({"configurations": [{"pcrs": "24", "composite": "00" * 20}]}, "PCR 24"),
        ({"configurations": [{"pcrs": "none", "composite": "00" * 20}]}, "no PCR"),
        ({"configurations": [{"pcrs": "0", "composite": "00" * 20, "x": 1}]}, "nothing else"),
    ],
)
def test_a_file_that_is_not_as_it_must_be_is_refused_by_field(
    agent: Agent, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(signed(agent).to_json() | change))
    with pytest.raises(DaemonError, match=reason):
        SignedList.read(path)


def test_a_missing_field_and_what_is_no_object_are_refused(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    fields = signed(agent).to_json()
    for name in fields:
        path.write_text(json.dumps({key: fields[key] for key in fields if key != name}))
        with pytest.raises(DaemonError, match=str(path)):
            SignedList.read(path)
    for content in (b"", b"[]", b"\xff", b"[" * 100_000, b'"x"'):
        path.write_bytes(content)
        with pytest.raises(DaemonError, match="not"):
            SignedList.read(path)


# --- PCR values ----------------------------------------------------------------------------------


def test_pcr_values_are_read_as_printed_and_as_linux_prints_them(tmp_path: Path) -> None:
    ours, linux = tmp_path / "ours", tmp_path / "linux"
    ours.write_text(format_pcrs(VALUES) + "\n")
    linux.write_text("".join(f"PCR-{i:02}: {v.hex(' ').upper()} \n" for i, v in VALUES.items()))
    assert read_pcrs_file(ours) == read_pcrs_file(linux) == VALUES


@pytest.mark.parametrize(
    "line", ["PCR-24: " + "00" * 20, "PCR-01: 00", "PCR-01: " + "0" * 41, "garbage", "PCR-00: 0"]
)
def test_a_line_that_is_no_pcr_value_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pcrs.txt"
    path.write_text(f"PCR-00: {'11' * 20}\n\n{line}\n")
    with pytest.raises(DaemonError, match="line 3 is not"):
        read_pcrs_file(path)


def test_a_configuration_is_given_by_values_by_composite_or_by_files(tmp_path: Path) -> None:
    path, other = tmp_path / "pcrs.txt", tmp_path / "other.txt"
    path.write_text(format_pcrs(VALUES))
    other.write_text(format_pcrs({**VALUES, 4: bytes(20)}))
    encoded = bytes.fromhex("0003 110000 00000028") + VALUES[0] + VALUES[4]
    composite = hashlib.sha1(encoded).digest()
    values = (VALUES[0] + VALUES[4]).hex()
    found = configurations(
        ["0,4", f"4,0={values}", f"0,4=composite:{composite.hex()}"], [path, other]
    )
    assert [each for _, each in found] == [
        composite,
        composite_of(selection_of("0,4"), {**VALUES, 4: bytes(20)}),
        composite,
        composite,
    ]


@pytest.mark.parametrize("text", ["0-7", "24=00", "none", "0=0011", "0,1=" + "00" * 20, "0=xy"])
def test_a_configuration_without_its_values_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"values|PCR|hexadecimal"):
        configurations([text], [])


def test_a_file_without_a_pcr_that_counts_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pcrs.txt"
    path.write_text(format_pcrs({0: bytes(20)}))
    with pytest.raises(DaemonError, match=r"no value for PCR 1-2"):
        configurations(["0-2"], [path])


# --- the agent -----------------------------------------------------------------------------------


def test_what_an_agent_signs_is_what_the_manager_verifies(agent: Agent) -> None:
    document = signed(agent)
    hashed = (hashlib.sha1(b"a:b:c").digest(), bytes(20))
    assert document.config_list.kernels == hashed
    check_config_list(
        agent.modulus,
        document.signature,
        GROUP,
        document.config_list,
        document.selections,
        xen_form=False,
    )


def test_a_key_that_is_no_agents_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(DaemonError, match="no private key"):
        Agent.load(path, None)


def test_what_an_agent_keeps_opens_for_it_for_the_group_and_as_what_it_is_only(
    agent: Agent, tmp_path: Path
) -> None:
    request, pending = agent.begin_registration(GROUP, BOOT)
    assert isinstance(request, Registration)
    stranger = Agent.generate(tmp_path / "stranger.pem", None)
    parms = KeyParms.for_rsa(sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1)
    modulus = rsa_key(5).public_key().public_numbers().n.to_bytes(256, "big")
    aik, expected = PubKey(parms, modulus), (BOOT, composite_of(BOOT, VALUES))
    answer = Registered(GROUP, request.exchange, bytes(32), bytes(256))

    def finish(by: Agent, kept: PendingRegistration) -> str:
        with pytest.raises(DaemonError) as refusal:
            by.finish_registration(kept, replace(answer, group=kept.group), aik, expected)
        return str(refusal.value)

    # It opens: what is refused then is the quote.
    assert "the quote does not verify" in finish(agent, pending)
    assert "of another agent" in finish(stranger, pending)
    own = replace(pending, agent=hashlib.sha1(stranger.modulus).digest())
    assert "was changed" in finish(stranger, own)
    assert "was changed" in finish(agent, replace(pending, group=OTHER))
    for field in ("salt", "nonce", "sealed"):
        data = getattr(pending, field)
        for at in range(0, len(data), 7):
            changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            assert "was changed" in finish(agent, replace(pending, **{field: changed}))
    # a file of one kind is not one of another
    pending.write(tmp_path / "pending.json")
    with pytest.raises(DaemonError, match="not a vtpm-escrow"):
        Escrow.read(tmp_path / "pending.json")
    assert "secret" not in repr(pending)
