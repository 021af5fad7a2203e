# SPDX-License-Identifier: Apache-2.0
"""Evidence as hardware TPM, manager, agent and guest would make it, signed by hand.

Nothing of what verifies is used here, except to hold the parts: every digest is put together from
bytes as the specifications have them.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import NameOID, ObjectIdentifier

from protocol.attestation.evidence import (
    EkProof,
    Evidence,
    GuestQuote,
    HardwareQuote,
    Pcrs,
    SignedList,
)
from protocol.attestation.verdict import Expectations
from protocol.manager.management import ConfigList
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrSelection
from tests.unit.manager.fakes import rsa_key

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
NONCE = bytes(range(20))
GROUP = UUID("6ba7b810-9dad-41d1-80b4-00c04fd430c8")
VTPM = UUID("7c9e6679-7425-40de-944b-e07fc1f90ae7")
LABEL = "guest1_u:vm_r:vtpm_t"
WILD = "*:vm_r:vtpm_t"
CONFIGURATION = (0, 1, 2, 7, 17)

AIK_KEY, AGENT_KEY, CA_KEY, EK_KEY, GUEST_KEY, OTHER_KEY = (rsa_key(number) for number in range(6))
FLAGS = 0x10F


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


def modulus(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_numbers().n.to_bytes(256, "big")


def extended(start: bytes, *digests: bytes) -> bytes:
    for digest in digests:
        start = sha1(start + digest)
    return start


def select(indices: Sequence[int]) -> bytes:
    """Encode a TPM_PCR_SELECTION."""
    number = sum(1 << index for index in indices)
    return b"\0\x03" + number.to_bytes(3, "little")


def composite(values: Mapping[int, bytes]) -> bytes:
    """Return the hash of a TPM_PCR_COMPOSITE."""
    chosen = b"".join(values[index] for index in sorted(values))
    return sha1(select(sorted(values)) + struct.pack(">I", len(chosen)) + chosen)


def quote(key: rsa.RSAPrivateKey, values: Mapping[int, bytes], external: bytes) -> bytes:
    """Sign as TPM_Quote does."""
    info = b"\x01\x01\0\0QUOT" + composite(values) + external
    return key.sign(info, PKCS1v15(), hashes.SHA1())


def pubkey(key: rsa.RSAPrivateKey) -> bytes:
    """Encode the TPM_PUBKEY of an endorsement key: RSA, OAEP, no signatures, 2048 bits, 2 primes,
    default exponent."""
    head = bytes.fromhex("00000001 0003 0001 0000000c 00000800 00000002 00000000 00000100")
    return head + modulus(key)


def sign_list(
    config_list: ConfigList, selections: Sequence[bytes], *, group: UUID = GROUP
) -> SignedList:
    """Sign a list as an agent does."""
    encoded = struct.pack(">QI", config_list.sequence, len(config_list.configurations))
    encoded += b"".join(config_list.configurations)
    encoded += struct.pack(">I", len(config_list.kernels)) + b"".join(config_list.kernels)
    message = b"vTPM CFG2" + group.bytes + encoded + b"".join(selections)
    return SignedList(
        config_list,
        tuple(PcrSelection(each[2:]) for each in selections),
        AGENT_KEY.sign(message, PKCS1v15(), hashes.SHA256()),
    )


def encoded_list(approved: SignedList) -> bytes:
    return approved.config_list.encode()


def identifying(approved: SignedList, label: str, start: bytes = b"\xff" * 20) -> dict[int, bytes]:
    """Return PCRs 20-23 as the manager sets them for the vTPM."""
    return {
        20: extended(start, sha1(modulus(AGENT_KEY))),
        21: extended(start, sha1(encoded_list(approved))),
        22: extended(start, sha1(label.encode())),
        23: extended(bytes(20), GROUP.bytes + bytes(4), VTPM.bytes + bytes(4)),
    }


@dataclass(frozen=True)
class Event:
    pcr: int
    kind: int
    data: bytes
    digest: bytes | None = None

    @property
    def measured(self) -> bytes:
        return sha1(self.data) if self.digest is None else self.digest


LOG = (
    Event(0, 0x8, b"a CRTM version"),
    Event(4, 0xD, b"boot loader", sha1(b"what it measured")),
    Event(0, 0x3, b"not extended"),
    Event(7, 0x4, b"\0\0\0\0"),
    Event(5, 0x5, b"an action"),
)


def log_bytes(events: Sequence[Event] = LOG) -> bytes:
    """Encode a log as the kernel shows it."""
    return b"".join(
        struct.pack("<II20sI", each.pcr, each.kind, each.measured, len(each.data)) + each.data
        for each in events
    )


HARDWARE = {index: sha1(b"hardware %d" % index) for index in CONFIGURATION}


def guest_pcrs() -> dict[int, bytes]:
    """Return PCRs 0-7 of the vTPM; 1 began with the hardware's value."""
    values = {index: bytes(20) for index in range(8)}
    values[1] = HARDWARE[1]
    for event in LOG:
        if event.kind != 3:
            values[event.pcr] = extended(values[event.pcr], event.measured)
    return values


# --- certificates --------------------------------------------------------------------------------

AIK_OID, EK_OID = ObjectIdentifier("2.23.133.8.3"), ObjectIdentifier("2.23.133.8.1")


def uri(key: rsa.RSAPrivateKey) -> str:
    encoded = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = base64.urlsafe_b64encode(hashlib.sha256(encoded).digest()).decode().rstrip("=")
    return f"ni:///sha-256;{digest}"


@cache
def certificate(
    subject: rsa.RSAPrivateKey,
    usage: ObjectIdentifier | None,
    *,
    names: tuple[str, ...] = (),
    by: rsa.RSAPrivateKey = CA_KEY,
    issuer: str = "A CA",
    is_ca: bool = False,
    days: int = 365,
    path_length: int | None = None,
    start: datetime | None = None,
) -> x509.Certificate:
    """Make a certificate without the code under test."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A CA" if is_ca else "x")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(subject.public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=10) if start is None else start)
        .not_valid_after(NOW - timedelta(days=10) + timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_ca, path_length), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if names:
        found = x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(each) for each in names]
        )
        builder = builder.add_extension(found, critical=False)
    return builder.sign(by, hashes.SHA256())


def der(of: x509.Certificate) -> bytes:
    return of.public_bytes(serialization.Encoding.DER)


CA = certificate(CA_KEY, None, is_ca=True)
AIK_CHAIN = (der(certificate(AIK_KEY, AIK_OID)),)
URN = f"urn:uuid:{VTPM}"
EK_CHAIN = (der(certificate(EK_KEY, EK_OID, names=(URN,))),)
GUEST_CHAIN = (der(certificate(GUEST_KEY, AIK_OID, names=(uri(EK_KEY), URN))),)


# --- all together --------------------------------------------------------------------------------


def approve(sequence: int = 3, labels: Sequence[str] = (LABEL,)) -> SignedList:
    """Sign a list with the present configuration, and another."""
    present = composite(HARDWARE)
    other = sha1(b"another machine")
    return sign_list(
        ConfigList(sequence, (other, present), tuple(sha1(each.encode()) for each in labels)),
        [select(range(4)), select(CONFIGURATION)],
    )


def prove_ek(approved: SignedList | None = None, **changes: bytes) -> EkProof:
    """Answer ParentSignEK, as it was under an earlier list."""
    then = approve(sequence=2, labels=("earlier:r:t",)) if approved is None else approved
    values = {**HARDWARE, **identifying(then, "earlier:r:t")}
    del values[22]
    nonce = changes.get("nonce", b"n" * 20)
    asked = sha1(pubkey(EK_KEY) + nonce)
    signature = quote(AIK_KEY, values, sha1(bytes(4) + asked))
    return EkProof(PubKey.decode(pubkey(EK_KEY)), nonce, Pcrs.of(values), signature, then)


def make(
    *,
    approved: SignedList | None = None,
    label: str = LABEL,
    proven_label: str | None = None,
    flags: int = FLAGS,
    mode: str = "nv",
    hardware: Mapping[int, bytes] | None = None,
    guest: Mapping[int, bytes] | None = None,
    start: bytes = b"\xff" * 20,
    key: rsa.RSAPrivateKey = AIK_KEY,
    nonce: bytes = NONCE,
) -> Evidence:
    """Make evidence with every part; what is said differently is signed all the same."""
    current = approve() if approved is None else approved
    seen = proven_label or label
    values = (
        {**HARDWARE, **identifying(current, seen, start)} if hardware is None else dict(hardware)
    )
    inner = guest_pcrs() if guest is None else dict(guest)
    said = {
        1: sha1(VTPM.bytes),
        2: sha1(sha1(seen.encode())),
        4: sha1(modulus(AGENT_KEY) + encoded_list(current)),
        8: sha1(modulus(AGENT_KEY)),
        0x100: sha1(b"VMFR" + mode.encode()),
    }
    hashed = tuple(said[flag] for flag in said if flags & flag)
    asked = sha1(bytes(4) + b"DQUT" + nonce + select(sorted(inner)) + b"\x01" + composite(inner))
    external = sha1(flags.to_bytes(4, "little") + asked + b"".join(hashed))
    return Evidence(
        nonce=nonce,
        group=GROUP,
        agent_modulus=modulus(AGENT_KEY),
        approved=current,
        hardware=HardwareQuote(
            modulus(key), AIK_CHAIN, flags, hashed, Pcrs.of(values), quote(key, values, external)
        ),
        vtpm=VTPM,
        label=label,
        locality=0,
        pcrs=Pcrs.of(inner),
        hardware_start=(1,),
        event_log=log_bytes(),
        ek=PubKey.decode(pubkey(EK_KEY)),
        ek_certificates=EK_CHAIN,
        ek_proof=prove_ek(),
        guest_quote=GuestQuote(
            modulus(GUEST_KEY), GUEST_CHAIN, Pcrs.of(inner), quote(GUEST_KEY, inner, nonce)
        ),
        freshness=mode,
    )


def expectations(**changes: object) -> Expectations:
    """Return what a verifier expects who knows agent and CA."""
    known = Expectations(nonce=NONCE, at=NOW, authorities=(CA,), agent_modulus=modulus(AGENT_KEY))
    return replace(known, **changes)  # type: ignore[arg-type]  # one of its fields, by name
