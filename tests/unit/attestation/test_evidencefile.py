# SPDX-License-Identifier: Apache-2.0
"""The evidence file is read strictly: one content, one file."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import given
from hypothesis import strategies as st

from protocol.attestation.eventlog import parse_event_log, replay
from protocol.attestation.evidencefile import (
    LIMIT_BYTES,
    BadEvidence,
    decode,
    decode_proof,
    encode,
    encode_proof,
)
from protocol.attestation.verdict import Expectations, LinkName
from protocol.attestation.verification import verify
from protocol.errors import WireError
from tests.unit.attestation.signer import LOG, extended, log_bytes, make, prove_ek, sha1

WHOLE = encode(make())


def test_what_was_written_is_read() -> None:
    assert decode(WHOLE) == make()
    assert decode_proof(encode_proof(prove_ek())) == prove_ek()


def test_parts_that_are_missing_are_null_and_not_left_out() -> None:
    fields = json.loads(WHOLE)
    for key in ("guest_quote", "freshness"):
        decode(dump({**fields, key: None}))
        with pytest.raises(BadEvidence, match="missing"):
            decode(dump({name: value for name, value in fields.items() if name != key}))


def dump(fields: object) -> bytes:
    return json.dumps(fields, indent=1).encode() + b"\n"


def put(*path: str, value: object) -> Callable[[Any], None]:
    def change(fields: dict[str, Any]) -> None:
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("format", value="vtpm-ek-proof"),
        put("version", value=2),
        put("version", value=True),
        put("version", value="1"),
        put("unknown", value=None),
        put("vtpm", "unknown", value=1),
        put("nonce", value="00" * 19),
        put("nonce", value="00" * 19 + "0G"),
        put("nonce", value=["00" * 20]),
        put("nonce", value=("AB" * 20)),
        put("group", value=[]),
        put("group", "uuid", value="no uuid"),
        put("group", "uuid", value="{6ba7b810-9dad-41d1-80b4-00c04fd430c8}"),
        put("group", "agent_modulus", value="AAAA"),
        put("group", "list", value="AAAA"),
        put("group", "selections", value="AAE="),
        put("hardware", "flags", value=-1),
        put("hardware", "flags", value=1 << 32),
        put("hardware", "flags", value=1.0),
        put("hardware", "hashes", value=["00" * 20] * 33),
        put("hardware", "certificates", value=["AAAA"] * 9),
        put("hardware", "pcrs", value={}),
        put("hardware", "pcrs", value={"24": "00" * 20}),
        put("hardware", "pcrs", value={"01": "00" * 20}),
        put("hardware", "pcrs", value={"1": "00" * 20, "0": "00" * 20}),
        put("vtpm", "label", value="\x1b[2J"),
        put("vtpm", "label", value="\ud800"),
        put("vtpm", "label", value="x" * 1025),
        put("vtpm", "locality", value=5),
        put("vtpm", "hardware_start", value=[24]),
        put("vtpm", "event_log", value="AAA"),
        put("vtpm", "event_log", value="AAB="),
        put("vtpm", "ek", value="AAAA"),
        put("freshness", value="always"),
        put("guest_quote", value={}),
    ],
)
def test_what_is_not_as_it_is_written_is_refused(change: Callable[[Any], None]) -> None:
    fields = json.loads(WHOLE)
    change(fields)
    with pytest.raises(BadEvidence):
        decode(dump(fields))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        WHOLE + b"\n",
        WHOLE + WHOLE,
        b" " + WHOLE,
        WHOLE[:-1],
        WHOLE.replace(b'"version": 1', b'"version": 1, "version": 1'),
        WHOLE.replace(b'"version": 1', b'"version":  1'),
        WHOLE.replace(b"nv", b"n\\u0076"),
        WHOLE.replace(b"nv", "nü".encode()),
        b"9" * 10_000,
        b" " * (LIMIT_BYTES + 1),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_bytes_that_are_no_such_file_are_refused(data: bytes) -> None:
    with pytest.raises(BadEvidence):
        decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_log_or_refused(data: bytes) -> None:
    try:
        events = parse_event_log(data)
    except WireError:
        return
    again = b"".join(
        struct.pack("<II20sI", each.pcr, each.kind, each.digest, len(each.data)) + each.data
        for each in events
    )
    assert again == data


def test_a_log_is_replayed_as_extends_in_its_order() -> None:
    events = parse_event_log(log_bytes())
    assert [(each.pcr, each.kind, each.data) for each in events] == [
        (each.pcr, each.kind, each.data) for each in LOG
    ]
    values = replay(events, {7: b"s" * 20})
    # the event of type 3 (EV_NO_ACTION) is not extended
    assert values[0] == extended(bytes(20), sha1(b"a CRTM version"))
    assert values[7] == extended(b"s" * 20, sha1(bytes(4)))
    assert values[3] == bytes(20)
    assert values[17] == b"\xff" * 20
    assert values[23] == bytes(20)


def test_evidence_of_the_first_version_is_read_and_verified() -> None:
    """Of a real stack: written once, to be read by all later releases."""
    folder = Path(__file__).parents[2] / "golden/evidence-1"
    data = (folder / "evidence").read_bytes()
    evidence = decode(data)
    agent = load_pem_public_key((folder / "agent.pub").read_bytes())
    assert isinstance(agent, RSAPublicKey)
    expected = Expectations(
        nonce=bytes.fromhex((folder / "nonce").read_text()),
        at=datetime(2026, 12, 24, tzinfo=UTC),
        authorities=[load_pem_x509_certificate((folder / "ca.crt").read_bytes())],
        agent_modulus=agent.public_numbers().n.to_bytes(256, "big"),
        label="web1",
        required=frozenset(LinkName),
    )
    result = verify(evidence, expected)
    assert result.verdict == "verified"
    proof = decode_proof((folder / "ek-proof").read_bytes())
    assert proof == evidence.ek_proof
    assert encode(evidence) == data
