# SPDX-License-Identifier: Apache-2.0
"""The file of evidence about a guest's TPM, and that of a proof that is kept until then.

JSON, so that people can look into it, and canonical, so that there is one file for one content: a
file that is not byte for byte what `encode` writes is refused. Hence whatever is unknown, repeated,
missing, or behind the end is refused too. Digests, nonces and uuids are hexadecimal, everything
else that is bytes is base64. docs/formats.md has the table of all keys.

Nothing in here is judged but its shape; `verification` judges.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Final, TypeVar
from uuid import UUID

from protocol.attestation.evidence import (
    FRESHNESS_MODES,
    EkProof,
    Evidence,
    GuestQuote,
    HardwareQuote,
    Pcrs,
    SignedList,
)
from protocol.errors import WireError
from protocol.manager.management import (
    MODULUS_BYTES,
    SIGNATURE_BYTES,
    ConfigList,
    decode_selections,
)
from protocol.tpm12.constants import PCR_COUNT
from protocol.tpm12.keys import PubKey
from protocol.tpm12.wire import DIGEST_BYTES

FORMAT: Final = "vtpm-evidence"
PROOF_FORMAT: Final = "vtpm-ek-proof"
VERSION: Final = 1
LIMIT_BYTES: Final = 4 * 1024 * 1024
"""Longest file: a log of 2 MiB, and lists of thousands of configurations."""

_CERTIFICATES_LIMIT: Final = 8
_LABEL_LIMIT: Final = 1024

T = TypeVar("T")
Json = str | int | bool | None | list["Json"] | dict[str, "Json"]


class BadEvidence(Exception):
    """Bytes that are no evidence file; the message says where."""


def encode(evidence: Evidence) -> bytes:
    """Return the file."""
    proof, guest = evidence.ek_proof, evidence.guest_quote
    return _dump(
        {
            "format": FORMAT,
            "version": VERSION,
            "nonce": evidence.nonce.hex(),
            "group": {
                "uuid": str(evidence.group),
                "agent_modulus": _base64(evidence.agent_modulus),
                **_list_fields(evidence.approved),
            },
            "hardware": {
                "aik_modulus": _base64(evidence.hardware.aik_modulus),
                "certificates": _base64s(evidence.hardware.certificates),
                "flags": evidence.hardware.flags,
                "hashes": [each.hex() for each in evidence.hardware.hashes],
                "pcrs": _pcr_fields(evidence.hardware.pcrs),
                "signature": _base64(evidence.hardware.signature),
            },
            "vtpm": {
                "uuid": str(evidence.vtpm),
                "label": evidence.label,
                "locality": evidence.locality,
                "pcrs": _pcr_fields(evidence.pcrs),
                "hardware_start": list(evidence.hardware_start),
                "event_log": _maybe(evidence.event_log, _base64),
                "ek": _maybe(evidence.ek, _key),
                "ek_certificates": _base64s(evidence.ek_certificates),
                "ek_proof": None if proof is None else _proof_fields(proof),
            },
            "guest_quote": None
            if guest is None
            else {
                "aik_modulus": _base64(guest.aik_modulus),
                "certificates": _base64s(guest.certificates),
                "pcrs": _pcr_fields(guest.pcrs),
                "signature": _base64(guest.signature),
            },
            "freshness": evidence.freshness,
        }
    )


def encode_proof(proof: EkProof) -> bytes:
    """Return the file in which a proof is kept until evidence needs it."""
    return _dump({"format": PROOF_FORMAT, "version": VERSION, **_proof_fields(proof)})


def decode(data: bytes) -> Evidence:
    """Return the evidence in a file.

    Raises:
        BadEvidence: it is none, or of another version.
    """
    return _decode(data, FORMAT, _evidence, encode)


def decode_proof(data: bytes) -> EkProof:
    """Return the proof in a file of its own.

    Raises:
        BadEvidence: it is none, or of another version.
    """
    return _decode(data, PROOF_FORMAT, _proof, encode_proof)


class _Object:
    """An object of the file, and where it is."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise BadEvidence(f"{path or 'file'}: no object")
        self._value = value
        self.path = path

    def get(self, key: str) -> object:
        """Return a value that must be there."""
        if key not in self._value:
            raise BadEvidence(f"{self.of(key)}: missing")
        return self._value[key]

    def of(self, key: str) -> str:
        """Return the place of a key."""
        return f"{self.path}.{key}" if self.path else key

    def child(self, key: str) -> _Object:
        """Return an object in it."""
        return _Object(self.get(key), self.of(key))

    def optional(self, key: str, read: Callable[[_Object], T]) -> T | None:
        """Return what an object in it means, None for null."""
        return None if self.get(key) is None else read(self.child(key))

    def text(self, key: str, limit: int) -> str:
        """Return a string."""
        value = self.get(key)
        # printable: it may be shown on a terminal, and has no halves of surrogates
        if not isinstance(value, str) or len(value) > limit or not value.isprintable():
            raise BadEvidence(f"{self.of(key)}: no text of at most {limit} printable characters")
        return value

    def number(self, key: str, limit: int) -> int:
        """Return a number from 0 to below the limit."""
        return _checked_number(self.get(key), limit, self.of(key))

    def items(self, key: str, limit: int) -> list[object]:
        """Return a list."""
        value = self.get(key)
        if not isinstance(value, list) or len(value) > limit:
            raise BadEvidence(f"{self.of(key)}: no list of at most {limit}")
        return value

    def blob(self, key: str, size: int | None = None) -> bytes:
        """Return bytes in base64, of a certain length if one is given."""
        return _unbase64(self.get(key), self.of(key), size)

    def digest(self, key: str) -> bytes:
        """Return 20 bytes in hexadecimal."""
        return _unhex(self.get(key), self.of(key))

    def uuid(self, key: str) -> UUID:
        """Return a uuid."""
        try:
            return UUID(self.text(key, 36))
        except ValueError:
            raise BadEvidence(f"{self.of(key)}: no uuid") from None

    def blobs(self, key: str) -> tuple[bytes, ...]:
        """Return certificates."""
        place = self.of(key)
        return tuple(_unbase64(each, place, None) for each in self.items(key, _CERTIFICATES_LIMIT))

    def pcrs(self, key: str) -> Pcrs:
        """Return PCRs by index."""
        child = self.child(key)
        found = {}
        for index in range(PCR_COUNT):
            name = str(index)
            if name in child._value:
                found[index] = child.digest(name)
        if not found or len(found) != len(child._value):
            raise BadEvidence(f"{self.of(key)}: PCRs by index, at least one")
        return Pcrs.of(found)

    def key(self, key: str) -> PubKey:
        """Return a TPM_PUBKEY."""
        data = self.blob(key)
        try:
            return PubKey.decode(data)
        except WireError as error:
            raise BadEvidence(f"{self.of(key)}: {error}") from None


def _decode(
    data: bytes, kind: str, read: Callable[[_Object], T], encode: Callable[[T], bytes]
) -> T:
    if len(data) > LIMIT_BYTES:
        raise BadEvidence(f"longer than {LIMIT_BYTES} bytes")
    try:
        # RecursionError: thousands of brackets in a row
        top = _Object(json.loads(data.decode("ascii")), "")
    except (ValueError, RecursionError):
        raise BadEvidence("no JSON") from None
    if top.get("format") != kind:
        raise BadEvidence(f"format: not {kind}")
    if top.get("version") != VERSION:
        raise BadEvidence(f"version: only {VERSION} is known")
    found = read(top)
    if encode(found) != data:
        raise BadEvidence("not as it is written: something is unknown, repeated or spelt otherwise")
    return found


def _evidence(top: _Object) -> Evidence:
    group, hardware, vtpm = top.child("group"), top.child("hardware"), top.child("vtpm")
    start = vtpm.of("hardware_start")
    return Evidence(
        nonce=top.digest("nonce"),
        group=group.uuid("uuid"),
        agent_modulus=group.blob("agent_modulus", MODULUS_BYTES),
        approved=_signed_list(group),
        hardware=HardwareQuote(
            hardware.blob("aik_modulus", MODULUS_BYTES),
            hardware.blobs("certificates"),
            hardware.number("flags", 1 << 32),
            tuple(_unhex(each, hardware.of("hashes")) for each in hardware.items("hashes", 32)),
            hardware.pcrs("pcrs"),
            hardware.blob("signature", SIGNATURE_BYTES),
        ),
        vtpm=vtpm.uuid("uuid"),
        label=vtpm.text("label", _LABEL_LIMIT),
        locality=vtpm.number("locality", 5),
        pcrs=vtpm.pcrs("pcrs"),
        hardware_start=tuple(
            _checked_number(each, PCR_COUNT, start)
            for each in vtpm.items("hardware_start", PCR_COUNT)
        ),
        event_log=None if vtpm.get("event_log") is None else vtpm.blob("event_log"),
        ek=None if vtpm.get("ek") is None else vtpm.key("ek"),
        ek_certificates=vtpm.blobs("ek_certificates"),
        ek_proof=vtpm.optional("ek_proof", _proof),
        guest_quote=top.optional("guest_quote", _guest_quote),
        freshness=None if top.get("freshness") is None else _mode(top, "freshness"),
    )


def _mode(fields: _Object, key: str) -> str:
    mode = fields.text(key, 16)
    if mode not in FRESHNESS_MODES:
        raise BadEvidence(f"{fields.of(key)}: not one of {', '.join(FRESHNESS_MODES)}")
    return mode


def _proof(fields: _Object) -> EkProof:
    return EkProof(
        fields.key("ek"),
        fields.digest("nonce"),
        fields.pcrs("pcrs"),
        fields.blob("signature", SIGNATURE_BYTES),
        _signed_list(fields),
    )


def _guest_quote(fields: _Object) -> GuestQuote:
    return GuestQuote(
        fields.blob("aik_modulus", MODULUS_BYTES),
        fields.blobs("certificates"),
        fields.pcrs("pcrs"),
        fields.blob("signature", SIGNATURE_BYTES),
    )


def _signed_list(fields: _Object) -> SignedList:
    try:
        return SignedList(
            ConfigList.decode(fields.blob("list")),
            decode_selections(fields.blob("selections")),
            fields.blob("list_signature"),
        )
    except WireError as error:
        raise BadEvidence(f"{fields.of('list')}: {error}") from None


def _list_fields(approved: SignedList) -> dict[str, Json]:
    return {
        "list": _base64(approved.config_list.encode()),
        "selections": _base64(b"".join([each.encode() for each in approved.selections])),
        "list_signature": _base64(approved.signature),
    }


def _proof_fields(proof: EkProof) -> dict[str, Json]:
    return {
        "ek": _key(proof.ek),
        "nonce": proof.nonce.hex(),
        "pcrs": _pcr_fields(proof.pcrs),
        "signature": _base64(proof.signature),
        **_list_fields(proof.approved),
    }


def _pcr_fields(pcrs: Pcrs) -> dict[str, Json]:
    return {str(index): value.hex() for index, value in pcrs.values}


def _dump(fields: Mapping[str, Json]) -> bytes:
    return json.dumps(fields, indent=1).encode("ascii") + b"\n"


def _key(key: PubKey) -> str:
    return _base64(key.encode())


def _maybe(value: T | None, write: Callable[[T], str]) -> str | None:
    return None if value is None else write(value)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _base64s(blobs: tuple[bytes, ...]) -> list[Json]:
    return [_base64(each) for each in blobs]


def _unbase64(value: object, place: str, size: int | None) -> bytes:
    if not isinstance(value, str):
        raise BadEvidence(f"{place}: no base64")
    try:
        data = base64.b64decode(value, validate=True)
    except binascii.Error:
        raise BadEvidence(f"{place}: no base64") from None
    if size is not None and len(data) != size:
        raise BadEvidence(f"{place}: {len(data)} bytes, must be {size}")
    return data


def _unhex(value: object, place: str) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != DIGEST_BYTES:
        raise BadEvidence(f"{place}: no {DIGEST_BYTES} bytes in hexadecimal")
    return data


def _checked_number(value: object, limit: int, place: str) -> int:
    # a boolean is an int to Python
    if type(value) is not int or not 0 <= value < limit:
        raise BadEvidence(f"{place}: no number below {limit}")
    return value
