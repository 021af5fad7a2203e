# SPDX-License-Identifier: Apache-2.0
"""docs/attestation.md, typed as it stands there, with real daemons; only folders are the test's.

A line of a `console` block that begins with `$ ` is a command (two blanks continue one that ends in
a backslash), the others are what it prints, `...` being any lines. Digests, uuids and nonces count
as equal. All commands run in one shell, but for the first two: the stack, and the owner of the
guest's TPM, who takes it through tcsd.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.x509 import load_der_x509_certificate

from tests.integration.stack import Stack, running_stack
from tests.integration.tcsd import running_tcsd

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/attestation.md"
DOCUMENT_DIR = "/srv/vtpm"
ELLIPSIS = "..."
GUEST = "web1"
LIMIT_S = 400.0

_VARYING = (
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b[0-9a-f]{40}\b"), "DIGEST"),
)


@dataclass(frozen=True, slots=True)
class Typed:
    """A command and what the page says that it prints."""

    command: str
    output: tuple[str, ...]


def _typed() -> Iterator[Typed]:
    """Give the commands of all console blocks."""
    text = DOCUMENT.read_text()
    for block in re.findall(r"^```console [^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        command, output = "", list[str]()
        # A command goes on where its line ends in a backslash.
        for line in block.replace("\\\n  ", "").splitlines():
            if line.startswith("$ "):
                if command:
                    yield Typed(command, tuple(output))
                command, output = line[2:], []
            else:
                output.append(line)
        yield Typed(command, tuple(output))


def _alike(line: str) -> str:
    for pattern, name in _VARYING:
        line = pattern.sub(name, line)
    return line


def _prints(shown: str, output: Sequence[str]) -> bool:
    """Whether lines that were shown are those of the page."""
    pattern = "".join(
        r"(?:.*\n)*" if line == ELLIPSIS else re.escape(_alike(line)) + r"\n" for line in output
    )
    return re.fullmatch(pattern, _alike(shown)) is not None


def _environment() -> dict[str, str]:
    commands = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}


def _type_all(typed: Sequence[Typed], stack: Stack, folder: Path) -> None:
    """Type commands into one shell and hold what they print against the page."""
    script = "".join(
        f"{each.command.replace(DOCUMENT_DIR, os.fspath(stack.root))}\nprintf '\\0'\n"
        for each in typed
    )
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
    )
    shown = done.stdout.split("\0")
    for each, found in zip(typed, shown, strict=False):
        assert _prints(found, each.output), f"$ {each.command}\n{found}"
    assert len(shown) == len(typed) + 1, done.stdout


def _vtpmctl(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        ["vtpmctl", *arguments],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.timeout(600)
def test_the_walk_prints_what_the_page_says(run_dir: Path) -> None:
    up, own, *walk = _typed()
    assert up.command == f"vtpmctl up --dir {DOCUMENT_DIR} --guest {GUEST}"
    assert own.command == "tpm_takeownership -y -z"
    run_dir.chmod(0o755)
    root, folder = run_dir / "s", run_dir / "t"
    root.mkdir(mode=0o755)
    walked = run_dir / "w"
    walked.mkdir()
    with running_stack(root, guests=(GUEST,)) as stack:
        assert _prints(stack.ready_text, up.output)
        with running_tcsd(stack.tpm_socket(GUEST), folder) as tcsd:
            assert _prints(tcsd.run(*own.command.split()), own.output)
        _type_all(walk, stack, walked)
        _check_by_hand(walked)
        _after_the_walk(stack, walked)
    # whatever is secret is its owner's alone
    for name in ("agent.pem", "ca/ca.key", "session.key", "web1.session"):
        assert (walked / name).stat().st_mode & 0o777 == 0o600, name
    assert (walked / "ca").stat().st_mode & 0o777 == 0o700


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


def _quoted_info(pcrs: dict[str, str], external: bytes) -> bytes:
    """Return TPM_QUOTE_INFO over PCRs, from its definition (TPM Main Part 2, 8.2 and 11.3)."""
    mask = sum(1 << int(index) for index in pcrs).to_bytes(3, "little")
    values = b"".join(bytes.fromhex(pcrs[index]) for index in sorted(pcrs, key=int))
    composite = _sha1(b"\0\x03" + mask + len(values).to_bytes(4, "big") + values)
    return b"\x01\x01\0\0QUOT" + composite + external


def _check_by_hand(folder: Path) -> None:
    """Verify evidence of the walk with nothing of ours: JSON, bytes, `cryptography`, openssl."""
    found = json.loads((folder / "web1-2.evidence").read_text())
    hardware, group, vtpm = found["hardware"], found["group"], found["vtpm"]
    inside, proof, nonce = found["guest_quote"], vtpm["ek_proof"], bytes.fromhex(found["nonce"])

    def key(modulus: str) -> RSAPublicKey:
        number = int.from_bytes(base64.b64decode(modulus), "big")
        return RSAPublicNumbers(65537, number).public_key()

    def verify(modulus: str, signature: str, data: bytes, algorithm: HashAlgorithm) -> None:
        key(modulus).verify(base64.b64decode(signature), data, PKCS1v15(), algorithm)

    # the deep quote: PCR info of the vTPM at locality 0, then the manager's hashes, then PCRs
    mask = sum(1 << int(index) for index in vtpm["pcrs"]).to_bytes(3, "little")
    info = _quoted_info(vtpm["pcrs"], b"")[8:]
    asked = _sha1(bytes(4) + b"DQUT" + nonce + b"\0\x03" + mask + b"\x01" + info)
    uuid, label = UUID(vtpm["uuid"]).bytes, _sha1(vtpm["label"].encode())
    agent, listed = base64.b64decode(group["agent_modulus"]), base64.b64decode(group["list"])
    said = [uuid, label, agent + listed, agent, b"VMFRnv"]
    assert hardware["hashes"] == [_sha1(each).hex() for each in said]
    flags = hardware["flags"].to_bytes(4, "little")
    external = _sha1(flags + asked + b"".join(_sha1(each) for each in said))
    info = _quoted_info(hardware["pcrs"], external)
    verify(hardware["aik_modulus"], hardware["signature"], info, SHA1())
    # the proof of the endorsement key
    external = _sha1(bytes(4) + _sha1(base64.b64decode(vtpm["ek"]) + bytes.fromhex(proof["nonce"])))
    info = _quoted_info(proof["pcrs"], external)
    verify(hardware["aik_modulus"], proof["signature"], info, SHA1())
    # PCR 23 names group and vTPM
    value = bytes(20)
    for named in (UUID(group["uuid"]).bytes, uuid):
        value = _sha1(value + named + bytes(4))
    assert proof["pcrs"]["23"] == hardware["pcrs"]["23"] == value.hex()
    # the guest's own quote, and the agent's list
    verify(inside["aik_modulus"], inside["signature"], _quoted_info(inside["pcrs"], nonce), SHA1())
    approved = b"vTPM CFG2" + UUID(group["uuid"]).bytes + listed
    approved += base64.b64decode(group["selections"])
    verify(group["agent_modulus"], group["list_signature"], approved, SHA256())
    # certificates
    for name in ("aik.crt", "web1-aik.crt", "hw-ek.crt", "web1-ek.crt"):
        subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", "ca/ca.crt", name],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    leaf = load_der_x509_certificate(base64.b64decode(hardware["certificates"][0]))
    assert leaf.public_key() == key(hardware["aik_modulus"])


def _after_the_walk(stack: Stack, folder: Path) -> None:
    """What the page tells without typing it: a log, restarts, another configuration."""
    events = [(4, 0xD, b"boot loader"), (8, 0xD, b"kernel"), (4, 0x5, b"an action")]
    log = b""
    for pcr, kind, data in events:
        digest = _measure(stack, pcr, data)
        log += struct.pack("<II20sI", pcr, kind, digest, len(data)) + data
    (folder / "log").write_bytes(log)
    where = ("--guest", GUEST, "--dir", os.fspath(stack.root))
    anchors = ("--ca-cert", "ca/ca.crt", "--agent-pub", "agent.pub")
    nonce = os.urandom(20).hex()
    asked = ("--nonce", nonce, "--aik-cert", "aik.crt", "--event-log", "log")
    _vtpmctl(folder, "attest", *where, *asked, "--out", "logged.evidence")
    judged = ("verify", "logged.evidence", "--nonce", nonce, *anchors)
    shown = _vtpmctl(folder, *judged, "--require", "event-log")
    assert "3 events, the data of 3 is measured itself" in shown

    # a guest that was stopped and started says no more that its endorsement key is its own
    _vtpmctl(folder, "guest", "restart", GUEST, "--dir", os.fspath(stack.root))
    refused = _vtpmctl(folder, "prove-ek", *where, "--out", "late.ek-proof", code=1)
    assert refused == ""
    nonce = os.urandom(20).hex()
    bare = ("--nonce", nonce, "--aik-cert", "aik.crt")
    _vtpmctl(folder, "attest", *where, *bare, "--out", "late.evidence")
    judged = ("verify", "late.evidence", "--nonce", nonce, *anchors)
    assert "verified, without event-log, ek, guest-quote" in _vtpmctl(folder, *judged)
    _vtpmctl(folder, *judged, "--require", "ek", code=1)
    # what was kept proves it still
    kept = ("--ek-proof", "web1.ek-proof", "--out", "kept.evidence")
    _vtpmctl(folder, "attest", *where, *bare, *kept)
    judged = ("verify", "kept.evidence", "--nonce", nonce, *anchors)
    assert "made by this vTPM under list 1" in _vtpmctl(folder, *judged, "--require", "ek")


def _measure(stack: Stack, pcr: int, data: bytes) -> bytes:
    """Extend a PCR with the digest of data, as firmware does (TPM_Extend); gives the digest."""
    digest = hashlib.sha1(data).digest()
    command = bytes.fromhex("00c1 00000022 00000014") + struct.pack(">I", pcr) + digest
    response = stack.transact(GUEST, command)
    assert response[6:10] == bytes(4)
    return digest
