# SPDX-License-Identifier: Apache-2.0
"""Conversations with a TPM, and the one place where commands are built and responses are checked.

A conversation is a generator that yields a command, is sent the response, and returns its result.
Who runs it decides what lies between: the TIS driver, an engine in the same process, a socket.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from protocol.errors import WireError
from protocol.tpm12.constants import Ordinal, ProtocolId, ResourceType, ReturnCode, Tag
from protocol.tpm12.framing import HEADER_BYTES, build_message, parse_header
from protocol.tpm12.records import record
from protocol.tpm12.wire import U32, Reader
from tpmcore.errors import TpmError
from tpmcore.tss12.errors import ResponseError

T = TypeVar("T")

Conversation: TypeAlias = Generator[bytes, bytes, T]
"""Yields command bytes, is sent response bytes, returns the result."""

RESPONSE_AUTH_BYTES: Final = 41

_REQUEST_TAGS: Final = (Tag.RQU_COMMAND, Tag.RQU_AUTH1_COMMAND, Tag.RQU_AUTH2_COMMAND)
_RESPONSE_TAGS: Final = (Tag.RSP_COMMAND, Tag.RSP_AUTH1_COMMAND, Tag.RSP_AUTH2_COMMAND)


def run_sync(send: Callable[[bytes], bytes], conversation: Conversation[T]) -> T:
    """Run a conversation over a transport that blocks.

    Args:
        send: takes a command, returns the response.
        conversation: what to run; it is closed in any case.

    Raises:
        TpmError: the TPM answered a command with an error.
        ResponseError: a response does not authenticate.
        WireError: a response does not parse.
    """
    try:
        command = next(conversation)
        while True:
            command = conversation.send(send(command))
    except StopIteration as finished:
        result: T = finished.value
        return result
    finally:
        conversation.close()


async def converse(send: Callable[[bytes], Awaitable[bytes]], conversation: Conversation[T]) -> T:
    """Run a conversation over a transport that is awaited; as run_sync otherwise."""
    try:
        command = next(conversation)
        while True:
            command = conversation.send(await send(command))
    except StopIteration as finished:
        result: T = finished.value
        return result
    finally:
        conversation.close()


@dataclass(slots=True, repr=False)
class Session:
    """An authorization session that is open in the TPM.

    Attributes:
        handle: what the TPM calls it.
        nonce_even: last nonce that the TPM sent, 20 bytes; rolls with each use.
        shared_secret: OSAP: 20 bytes; empty for OIAP.
        is_open: False once the TPM ended it, or an error made it doubtful; then it is of no use any
            more and a new one must be opened.
    """

    handle: int
    protocol: ProtocolId
    nonce_even: bytes
    shared_secret: bytes = b""
    is_open: bool = True


@record(repr=False)
class Authorization:
    """One authorization block that is going to be sent.

    Attributes:
        secret: HMAC key: an entity's secret under OIAP, the shared secret under OSAP; 20 bytes.
        nonce_odd: 20 fresh bytes of ours.
        keep: whether the session is to stay open (continueAuthSession).
        answer_secret: HMAC key of the response where it is not `secret`; None if it is.
    """

    session: Session
    secret: bytes
    nonce_odd: bytes
    keep: bool = False
    answer_secret: bytes | None = None


def nothing(_reader: Reader) -> None:
    """Parse the parameters of a response that has none."""


def execute(
    ordinal: Ordinal,
    parse: Callable[[Reader], T],
    *,
    handles: bytes = b"",
    parameters: bytes = b"",
    auths: Sequence[Authorization] = (),
    handles_out: int = 0,
) -> Conversation[T]:
    """Send one command and check its response (Part 3, 1.1; Part 1, chapter on authorization).

    Sessions that are not kept are closed whatever happens. After any error none of the sessions
    named is usable: the TPM ends them for most errors, and for the others they are flushed here.

    Args:
        parse: reads the response parameters; they must fill the response exactly.
        handles: leading parameters outside the parameter digest.
        parameters: the others.
        handles_out: leading bytes of the response outside the digest.

    Raises:
        TpmError: a return code other than success.
        ResponseError: a response HMAC is wrong.
        WireError: the response does not parse.
    """
    digest = hashlib.sha1(U32.write(ordinal) + parameters).digest() if auths else b""
    blocks: list[bytes] = []
    for auth in auths:
        session = auth.session
        flag = _flag(auth.keep)
        mac = hmac.digest(auth.secret, digest + session.nonce_even + auth.nonce_odd + flag, "sha1")
        blocks += (U32.write(session.handle), auth.nonce_odd, flag, mac)
    command = build_message(
        _REQUEST_TAGS[len(auths)], ordinal, b"".join((handles, parameters, *blocks))
    )
    response = yield command
    try:
        end = _check(response, ordinal, auths, handles_out)
    except (TpmError, ResponseError, WireError):
        for auth in auths:
            yield from close_session(auth.session)
        raise
    for auth in auths:
        if auth.session.is_open and not auth.keep:
            yield from close_session(auth.session)
    reader = Reader(response, HEADER_BYTES, end)
    result = parse(reader)
    reader.finish(ordinal.name)
    return result


def close_session(session: Session) -> Conversation[None]:
    """End a session, whatever state it is in; a session that the TPM no longer has is fine."""
    session.is_open = False
    is_transport = session.protocol == ProtocolId.TRANSPORT
    resource_type = ResourceType.TRANS if is_transport else ResourceType.AUTH
    command = build_message(
        Tag.RQU_COMMAND,
        Ordinal.FLUSH_SPECIFIC,
        U32.write(session.handle) + U32.write(resource_type),
    )
    with suppress(TpmError):
        _check((yield command), Ordinal.FLUSH_SPECIFIC, (), 0)


def _flag(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _check(
    response: bytes, ordinal: Ordinal, auths: Sequence[Authorization], handles_out: int
) -> int:
    """Verify a response, roll the nonces, and return where its parameters end."""
    header = parse_header(response)
    if header.size != len(response):
        raise WireError("paramSize", 2, f"{header.size}, but {len(response)} bytes came")
    if header.code != ReturnCode.SUCCESS:
        raise TpmError(header.code)
    if header.tag != _RESPONSE_TAGS[len(auths)]:
        raise WireError("tag", 0, f"{header.tag:#06x} does not answer {len(auths)} authorizations")
    end = len(response) - RESPONSE_AUTH_BYTES * len(auths)
    if end < HEADER_BYTES + handles_out:
        raise WireError("response", end, "no room for the authorization blocks")
    if not auths:
        return end
    digest = hashlib.sha1(
        U32.write(ReturnCode.SUCCESS)
        + U32.write(ordinal)
        + response[HEADER_BYTES + handles_out : end]
    ).digest()
    reader = Reader(response, end)
    for auth in auths:
        nonce_even = reader.take(20, "nonceEven")
        continues = reader.boolean("continueAuthSession")
        key = auth.secret if auth.answer_secret is None else auth.answer_secret
        expected = hmac.digest(key, digest + nonce_even + auth.nonce_odd + _flag(continues), "sha1")
        if not hmac.compare_digest(expected, reader.take(20, "resAuth")):
            raise ResponseError(f"response HMAC of {ordinal.name} does not verify")
        auth.session.nonce_even = nonce_even
        auth.session.is_open = continues
    return end
