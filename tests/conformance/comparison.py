# SPDX-License-Identifier: Apache-2.0
"""What of two responses must be equal.

Tag, size and return code are compared exactly, then the response field by field, then
continueAuthSession of each authorization block (its nonce and HMAC are checked by the client that
sent the command). A field that is random by its nature is masked: MASKS names it by ordinal and
path, and says what of it is compared still; everything that is not named is compared exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.errors import WireError
from protocol.tpm12.constants import Ordinal, ReturnCode, StructureTag
from protocol.tpm12.framing import HEADER_BYTES, parse_header
from protocol.tpm12.wire import Reader, Structure
from tests.conformance.script import Exchange, Mask
from tpmcore.tpm12.certify import CertifyKey2Response
from tpmcore.tpm12.table import TABLE
from tpmcore.tss12.conversation import RESPONSE_AUTH_BYTES


def anything(_value: bytes) -> object:
    """Compare nothing: the field is the product's own business."""
    return None


def size(value: bytes) -> object:
    """Compare the size of a random field."""
    return len(value)


def error_or_size(value: bytes) -> object:
    """Compare a wrapped response exactly if it is an error, otherwise its size."""
    return value.hex() if len(value) == HEADER_BYTES else len(value)


_SELF_TESTS: Final[Mapping[bytes, str]] = {
    b"self tests: only those that Startup needs": "limited",
    b"Shutdown 00000001\n": "limited",
    b"self tests: all passed": "full",
    b"Shutdown 00000002\n": "full",
    b"self tests: failed": "failed",
    b"Shutdown 00000003\n": "failed",
}


def self_tests(value: bytes) -> object:
    """Compare how far the self tests have come; each product has words of its own."""
    return _SELF_TESTS.get(value, value)


_ANY_SIZE: Final = frozenset({anything, self_tests})
"""Masks of what is of another size on each product."""

_CERTIFY_INFO2: Final = StructureTag.CERTIFY_INFO2.to_bytes(2, "big")
_TICKS: Final[Mapping[str, Mask]] = {"current_ticks": size, "tick_nonce": size}

MASKS: Final[Mapping[int, Mapping[str, Mask]]] = {
    Ordinal.OIAP: {"auth_handle": size, "nonce_even": size},
    Ordinal.OSAP: {"auth_handle": size, "nonce_even": size, "nonce_even_osap": size},
    Ordinal.DSAP: {"auth_handle": size, "nonce_even": size, "nonce_even_dsap": size},
    Ordinal.GET_RANDOM: {"random_bytes": size},
    Ordinal.GET_TEST_RESULT: {"out_data": self_tests},
    Ordinal.TAKE_OWNERSHIP: {"srk_pub.pub_key": size},
    Ordinal.CREATE_WRAP_KEY: {"wrapped_key.pub_key": size, "wrapped_key.enc_data": size},
    Ordinal.LOAD_KEY: {"inkey_handle": size},
    Ordinal.LOAD_KEY2: {"inkey_handle": size},
    Ordinal.GET_PUB_KEY: {"pub_key.key": size},
    Ordinal.SEAL: {"sealed_data.enc_data": size},
    Ordinal.SEALX: {"sealed_data.enc_data": size},
    Ordinal.SIGN: {"sig": size},
    Ordinal.QUOTE: {"sig": size},
    Ordinal.QUOTE2: {"sig": size, "version_info": size},
    Ordinal.CERTIFY_KEY: {
        "certify_info.pubkey_digest": size,
        "out_data": size,
    },
    Ordinal.CERTIFY_KEY2: {"certify_info.pubkey_digest": size, "out_data": size},
    Ordinal.CREATE_ENDORSEMENT_KEY_PAIR: {"pub_endorsement_key.key": size, "checksum": size},
    Ordinal.CREATE_REVOCABLE_EK: {
        "pub_endorsement_key.key": size,
        "checksum": size,
        "output_ek_reset": size,
    },
    Ordinal.READ_PUBEK: {"pub_endorsement_key.key": size, "checksum": size},
    Ordinal.OWNER_READ_INTERNAL_PUB: {"public_portion.key": size},
    Ordinal.OWNER_READ_PUBEK: {"public_portion.key": size},
    Ordinal.MAKE_IDENTITY: {
        "id_key.pub_key": size,
        "id_key.enc_data": size,
        "identity_binding": size,
    },
    Ordinal.CHANGE_AUTH: {"out_data": size},
    Ordinal.SAVE_CONTEXT: {"context_blob": anything},
    Ordinal.SAVE_KEY_CONTEXT: {"context_blob": anything},
    Ordinal.SAVE_AUTH_CONTEXT: {"context_blob": anything},
    Ordinal.LOAD_CONTEXT: {"handle": size},
    Ordinal.LOAD_KEY_CONTEXT: {"handle": size},
    Ordinal.LOAD_AUTH_CONTEXT: {"handle": size},
    Ordinal.GET_TICKS: {f"current_time.{name}": mask for name, mask in _TICKS.items()},
    Ordinal.TICK_STAMP_BLOB: {
        **{f"current_ticks.{name}": mask for name, mask in _TICKS.items()},
        "sig": size,
    },
    Ordinal.DAA_JOIN: {"output_data": anything},
    Ordinal.DAA_SIGN: {"output_data": anything},
    Ordinal.CREATE_MIGRATION_BLOB: {"random": size, "out_data": size},
    Ordinal.CONVERT_MIGRATION_BLOB: {"out_data": size},
    Ordinal.MIGRATE_KEY: {"out_data": size},
    Ordinal.AUTHORIZE_MIGRATION_KEY: {
        "out_data.migration_key.key": size,
        "out_data.digest": size,
    },
    Ordinal.CMK_APPROVE_MA: {"out_data": size},
    Ordinal.CMK_CREATE_TICKET: {"out_data": size},
    Ordinal.CMK_CREATE_KEY: {"wrapped_key.pub_key": size, "wrapped_key.enc_data": size},
    Ordinal.CMK_CREATE_BLOB: {"random": size, "out_data": size},
    Ordinal.CMK_CONVERT_MIGRATION: {"out_data": size},
    Ordinal.CHANGE_AUTH_ASYM_START: {
        "certify_info.pubkey_digest": size,
        "certify_info.data": size,
        "sig": size,
        "eph_handle": size,
        "temp_key.pub_key": size,
        "temp_key.enc_data": size,
    },
    Ordinal.CHANGE_AUTH_ASYM_FINISH: {
        "out_data": size,
        "salt_nonce": size,
        "change_proof": size,
    },
    Ordinal.DELEGATE_CREATE_OWNER_DELEGATION: {"blob": anything},
    Ordinal.DELEGATE_CREATE_KEY_DELEGATION: {"blob": anything},
    Ordinal.DELEGATE_UPDATE_VERIFICATION: {"output_data": anything},
    Ordinal.ESTABLISH_TRANSPORT: {
        "trans_handle": size,
        **{f"current_ticks.{name}": mask for name, mask in _TICKS.items()},
        "trans_nonce_even": size,
    },
    Ordinal.EXECUTE_TRANSPORT: {"current_ticks": size, "wrapped_rsp": error_or_size},
    Ordinal.RELEASE_TRANSPORT_SIGNED: {
        **{f"current_ticks.{name}": mask for name, mask in _TICKS.items()},
        "signature": size,
    },
    Ordinal.GET_AUDIT_DIGEST_SIGNED: {"sig": size},
}
"""Fields that are random or keyed with something random, and what of them is compared."""


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not equal, as it was found.

    Attributes:
        field: "code", "tag", "size", "continue", "structure", or the path of a field.
        ours: on the engine; the name of a return code, a number, hex.
        theirs: on the reference.
    """

    ordinal: int
    field: str
    ours: str
    theirs: str


def differences(ours: Sequence[Exchange], theirs: Sequence[Exchange]) -> list[Difference]:
    """Compare two runs of one case.

    Steps are compared pairwise; what differs in several of them is found as often. Where the codes
    of two responses differ, the rest of that step is left out, since what a client does next
    depends on the code.
    """
    found: list[Difference] = []
    steps = sorted({exchange.step for exchange in ours})
    for step in steps:
        mine = [exchange for exchange in ours if exchange.step == step]
        other = [exchange for exchange in theirs if exchange.step == step]
        for one, two in zip(mine, other, strict=False):
            here = _compare(one, two)
            found += here
            if any(difference.field == "code" for difference in here):
                break
        else:
            if len(mine) != len(other):
                last = mine[min(len(mine), len(other)) - 1]
                counts = (str(len(mine)), str(len(other)))
                found.append(Difference(last.ordinal, "commands", *counts))
    return found


def _compare(ours: Exchange, theirs: Exchange) -> list[Difference]:
    one, two = parse_header(ours.response), parse_header(theirs.response)
    if one.code != two.code:
        return [Difference(ours.ordinal, "code", code_name(one.code), code_name(two.code))]
    if one.tag != two.tag:
        return [Difference(ours.ordinal, "tag", hex(one.tag), hex(two.tag))]
    if one.code != ReturnCode.SUCCESS or ours.response == theirs.response:
        return []
    mine, other = _fields(ours), _fields(theirs)
    what = f" of {ours.command[10:].hex(' ', 4)}" if ours.ordinal == Ordinal.GET_CAPABILITY else ""
    return [
        Difference(ours.ordinal, name + what, mine.get(name, "-"), other.get(name, "-"))
        for name in dict.fromkeys((*mine, *other))
        if mine.get(name) != other.get(name)
    ]


def code_name(code: int) -> str:
    """Return the name of a return code, or its number."""
    return ReturnCode(code).name if code in set(ReturnCode) else hex(code)


def _fields(exchange: Exchange) -> dict[str, str]:
    """Return what of a successful response is compared, by field."""
    response = exchange.response
    masks = {**MASKS.get(exchange.ordinal, {}), **exchange.masks}
    count = max(0, parse_header(response).tag - 0xC4)
    end = len(response) - RESPONSE_AUTH_BYTES * count
    fields = {
        f"continue {n + 1}": str(response[end + RESPONSE_AUTH_BYTES * n + 20]) for n in range(count)
    }
    reader = Reader(response, HEADER_BYTES, end)
    try:
        parsed = _response(exchange).read(reader)
        reader.finish()
    except WireError:
        return {**fields, "structure": response[HEADER_BYTES:end].hex()}
    if _ANY_SIZE.isdisjoint(masks.values()):
        fields["size"] = str(len(response))
    _flatten(parsed, "", masks, fields)
    return fields


def _response(exchange: Exchange) -> type[Structure]:
    """Return what a response is; that of CertifyKey has two forms."""
    body = exchange.response[HEADER_BYTES:]
    if exchange.ordinal == Ordinal.CERTIFY_KEY and body[:2] == _CERTIFY_INFO2:
        return CertifyKey2Response
    return TABLE[exchange.ordinal].response


def _flatten(value: object, path: str, masks: Mapping[str, Mask], out: dict[str, str]) -> None:
    mask = masks.get(path)
    if dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            name = f"{path}.{each.name}" if path else each.name
            _flatten(getattr(value, each.name), name, masks, out)
        return
    if mask is not None:
        encoded = value if isinstance(value, bytes) else b"n" if isinstance(value, int) else b""
        out[path] = str(mask(encoded))
    elif isinstance(value, bytes):
        out[path] = value.hex()
    else:
        out[path] = str(value)
