# SPDX-License-Identifier: Apache-2.0
"""Holds a description against the message: nothing that is hidden may be seen anywhere in it.

What is hidden is found here in another way than by the description itself: the parameters are
parsed into objects, and every field of bytes counts that is not in the short list below. Where it
stood in the message plays no part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from protocol.errors import WireError
from protocol.tpm12.constants import Algorithm, ReturnCode, Tag
from protocol.tpm12.framing import HEADER_BYTES, parse_header
from protocol.tpm12.keys import KeyParms
from protocol.tpm12.wire import Reader, Structure
from tpmcore.engine import Description, Field
from tpmcore.tpm12.table import EVERYTHING

SHOWN: Final = frozenset(
    {"in_digest", "out_digest", "digest_at_creation", "digest_at_release", "pcr_values", "select"}
)
SHOWN_IF_SHORT: Final = frozenset({"sub_cap", "resp"})
SHORTEST_BYTES: Final = 8
"""Shorter ones would be found by chance."""

_COMMAND_AUTH_BYTES: Final = 45
_RESPONSE_AUTH_BYTES: Final = 41


def check_description(description: Description, command: bytes, response: bytes) -> None:
    """See that a description of these bytes has their shape and none of their secrets."""
    for message, shown in (
        (command, description.shown_command),
        (response, description.shown_response),
    ):
        assert len(shown) == len(message)
        if len(message) >= HEADER_BYTES:
            assert shown[:HEADER_BYTES] == message[:HEADER_BYTES]
        else:
            assert not any(shown)
        assert all(one in (0, other) for one, other in zip(shown, message, strict=True))
    if len(response) >= HEADER_BYTES and parse_header(response).code == ReturnCode.SUCCESS:
        # What was executed has parsed, so that hiding all of it would be a fault as well.
        row = EVERYTHING[parse_header(command).code]
        assert bool(description.parameters) == bool(dataclasses.fields(row.request))  # type: ignore[arg-type]
        assert bool(description.results) == bool(dataclasses.fields(row.response))  # type: ignore[arg-type]
        assert len(description.sessions) >= parse_header(command).tag - Tag.RQU_COMMAND
    words = "\n".join(words_of((*description.parameters, *description.results)))
    seen = description.shown_command + b"|" + description.shown_response
    for secret in hidden_values(command, response):
        assert secret not in seen
        assert secret.hex() not in words


def words_of(fields: tuple[Field, ...]) -> Iterator[str]:
    """Give all words of fields."""
    for field in fields:
        if isinstance(field.value, str):
            yield field.value
        else:
            yield from words_of(field.value)


def hidden_values(command: bytes, response: bytes) -> Iterator[bytes]:
    """Give every value in two messages that nobody may see."""
    row = EVERYTHING.get(parse_header(command).code) if len(command) >= HEADER_BYTES else None
    if row is None:
        return
    count = parse_header(command).tag - Tag.RQU_COMMAND
    yield from _hidden_in(command, row.request, count, _COMMAND_AUTH_BYTES)
    if len(response) >= HEADER_BYTES and parse_header(response).code == ReturnCode.SUCCESS:
        count = parse_header(response).tag - Tag.RSP_COMMAND
        yield from _hidden_in(response, row.response, count, _RESPONSE_AUTH_BYTES)


def _hidden_in(
    message: bytes, kind: type[Structure], auth_count: int, auth_bytes: int
) -> Iterator[bytes]:
    auths = len(message) - auth_count * auth_bytes
    if auth_count not in (0, 1, 2) or auths < HEADER_BYTES:
        return
    reader = Reader(message, HEADER_BYTES, auths)
    try:
        value = kind.read(reader)
        reader.finish()
    except WireError:
        # Not to be seen at all, if there is enough of it to be told from chance.
        body = message[HEADER_BYTES:]
        if len(set(body)) >= SHORTEST_BYTES:
            yield body
        return
    for start in range(auths, len(message), auth_bytes):
        block = message[start : start + auth_bytes]
        nonce = block[4:24] if auth_bytes == _COMMAND_AUTH_BYTES else block[:20]
        yield from _worth(nonce)
        yield from _worth(block[-20:])
    yield from _hidden_fields(value)


def _hidden_fields(value: Structure) -> Iterator[bytes]:
    # Structure itself is no dataclass, only everything derived from it is.
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        one = getattr(value, field.name)
        match one:
            case Structure():
                yield from _hidden_fields(one)
            case tuple():
                for part in one:
                    yield from _worth(part)
            case bytes() if field.name in SHOWN:
                pass
            case bytes() if field.name in SHOWN_IF_SHORT and len(one) in (1, 2, 4):
                pass
            case bytes() if field.name == "parms" and isinstance(value, KeyParms):
                if value.algorithm_id == Algorithm.RSA:
                    yield from _worth(value.rsa.exponent)
                else:
                    yield from _worth(one)
            case bytes() if field.name in ("wrapped_cmd", "wrapped_rsp"):
                yield from _worth(one[HEADER_BYTES : HEADER_BYTES + 20])
            case bytes() if field.name == "pcr_info":
                pass  # digests of PCRs, or noise
            case bytes():
                yield from _worth(one)


def _worth(value: bytes) -> Iterator[bytes]:
    """Give a value if it can be told from chance."""
    if len(value) >= SHORTEST_BYTES and len(set(value)) > 2:
        yield value
