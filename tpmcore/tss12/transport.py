# SPDX-License-Identifier: Apache-2.0
"""Running any conversation inside of a transport session (Part 3, 24).

`establish_transport` opens a session, `through` runs a conversation's commands in it, one
ExecuteTransport each, and `release_transport_signed` ends it and checks the signature over the log.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from protocol.errors import WireError
from protocol.tpm12.attestation import SignInfo
from protocol.tpm12.constants import (
    Algorithm,
    EncScheme,
    EntityType,
    Ordinal,
    ProtocolId,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    Tag,
)
from protocol.tpm12.framing import HEADER_BYTES, build_message, parse_header
from protocol.tpm12.keys import PubKey
from protocol.tpm12.records import record
from protocol.tpm12.resources import CurrentTicks
from protocol.tpm12.transport import (
    TransportAttributes,
    TransportAuth,
    TransportLogIn,
    TransportLogOut,
    TransportPublic,
)
from protocol.tpm12.wire import SIZED, U32, U64, Reader
from tpmcore.engine import RandomSource
from tpmcore.errors import TpmError
from tpmcore.tpm12.transport_cipher import REQUEST, RESPONSE, crypt
from tpmcore.tss12.conversation import (
    RESPONSE_AUTH_BYTES,
    Authorization,
    Conversation,
    Session,
    close_session,
    execute,
)
from tpmcore.tss12.errors import ResponseError
from tpmcore.tss12.publickey import encrypt_oaep, verify_signature
from tpmcore.tss12.sessions import oiap, prove, with_optional_secret

T = TypeVar("T")

_REQUEST_AUTH_BYTES: Final = 45

HANDLES_IN: Final[Mapping[int, int]] = {
    **dict.fromkeys(
        (
            Ordinal.CHANGE_AUTH,
            Ordinal.CHANGE_AUTH_ASYM_START,
            Ordinal.CMK_CREATE_KEY,
            Ordinal.QUOTE,
            Ordinal.SEAL,
            Ordinal.UNSEAL,
            Ordinal.CMK_CREATE_BLOB,
            Ordinal.UNBIND,
            Ordinal.CREATE_WRAP_KEY,
            Ordinal.LOAD_KEY,
            Ordinal.GET_PUB_KEY,
            Ordinal.EVICT_KEY,
            Ordinal.KEY_CONTROL_OWNER,
            Ordinal.CMK_CONVERT_MIGRATION,
            Ordinal.MIGRATE_KEY,
            Ordinal.CREATE_MIGRATION_BLOB,
            Ordinal.DAA_JOIN,
            Ordinal.CONVERT_MIGRATION_BLOB,
            Ordinal.DAA_SIGN,
            Ordinal.SIGN,
            Ordinal.SEALX,
            Ordinal.QUOTE2,
            Ordinal.LOAD_KEY2,
            Ordinal.ACTIVATE_IDENTITY,
            Ordinal.GET_AUDIT_DIGEST_SIGNED,
            Ordinal.TERMINATE_HANDLE,
            Ordinal.SAVE_KEY_CONTEXT,
            Ordinal.SAVE_AUTH_CONTEXT,
            Ordinal.SAVE_CONTEXT,
            Ordinal.LOAD_CONTEXT,
            Ordinal.FLUSH_SPECIFIC,
            Ordinal.DELEGATE_CREATE_KEY_DELEGATION,
            Ordinal.ESTABLISH_TRANSPORT,
            Ordinal.RELEASE_TRANSPORT_SIGNED,
            Ordinal.TICK_STAMP_BLOB,
        ),
        4,
    ),
    **dict.fromkeys(
        (Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2, Ordinal.CHANGE_AUTH_ASYM_FINISH), 8
    ),
    Ordinal.OSAP: 26,
    Ordinal.DSAP: 30,
}
"""Leading bytes of a request that are outside of digests and encryption; 0 for all others."""

HANDLES_OUT: Final[Mapping[int, int]] = {
    Ordinal.OIAP: 24,
    Ordinal.OSAP: 44,
    Ordinal.DSAP: 44,
    Ordinal.LOAD_KEY2: 4,
    Ordinal.LOAD_KEY_CONTEXT: 4,
    Ordinal.LOAD_AUTH_CONTEXT: 4,
    Ordinal.LOAD_CONTEXT: 4,
    Ordinal.ESTABLISH_TRANSPORT: 4,
}
"""As HANDLES_IN, of a response."""

_NO_KEY: Final = frozenset(
    {
        Ordinal.OSAP,
        Ordinal.DAA_JOIN,
        Ordinal.DAA_SIGN,
        Ordinal.TERMINATE_HANDLE,
        Ordinal.SAVE_AUTH_CONTEXT,
        Ordinal.LOAD_CONTEXT,
    }
)
_ONE_KEY: Final = frozenset({Ordinal.CHANGE_AUTH_ASYM_FINISH, Ordinal.OWNER_READ_INTERNAL_PUB})
"""The second handle of the one is no key in a slot; that of the other is digested, and logged."""

_KEY_BY_TYPE: Final = frozenset({Ordinal.FLUSH_SPECIFIC, Ordinal.SAVE_CONTEXT})


@dataclass(slots=True, repr=False)
class TransportSession:
    """A transport session that is open in the TPM.

    Attributes:
        channel: handle, nonce, and whether it is still open.
        keys: public keys of the handles that logged commands name.
        digest: what the log must come to, computed here from what was sent and received.
        ticks: tick counter of the TPM at the last response.
    """

    channel: Session
    public: TransportPublic
    auth_data: bytes
    random: RandomSource
    tick_rate: int
    tick_nonce: bytes
    keys: dict[int, PubKey] = field(default_factory=dict)
    digest: bytes = bytes(20)
    ticks: int = 0

    @property
    def logs(self) -> bool:
        """Whether commands are logged."""
        return bool(self.public.trans_attributes & TransportAttributes.LOG)

    @property
    def encrypts(self) -> bool:
        """Whether parameters are encrypted."""
        return bool(self.public.trans_attributes & TransportAttributes.ENCRYPT)

    def log_in(self, parameters: bytes, pub_key_hash: bytes) -> None:
        """Log a request."""
        self._log(TransportLogIn(parameters, pub_key_hash).encode())

    def log_out(self, ticks: int, parameters: bytes, locality: int) -> None:
        """Log a response."""
        current = CurrentTicks(ticks, self.tick_rate, self.tick_nonce)
        self._log(TransportLogOut(current, parameters, locality).encode())

    def _log(self, entry: bytes) -> None:
        if self.logs:
            self.digest = _sha1(self.digest + entry)


def establish_transport(
    attributes: TransportAttributes,
    *,
    random: RandomSource,
    enc_handle: int = ReservedHandle.TRANSPORT,
    enc_key: PubKey | None = None,
    key_auth: bytes | None = None,
    alg_id: Algorithm = Algorithm.MGF1,
    enc_scheme: EncScheme = EncScheme.NONE,
) -> Conversation[TransportSession]:
    """Open a transport session with a new secret (24.1).

    Args:
        attributes: ENCRYPT needs a key.
        enc_handle: a loaded storage key, or TRANSPORT to send the secret in the clear.
        enc_key: its public part.
        key_auth: its secret; None sends no authorization.
    """
    public = TransportPublic(attributes, alg_id, enc_scheme)
    auth_data = random.random(20)
    secret = auth_data
    if enc_key is not None:
        secret = encrypt_oaep(enc_key, TransportAuth(auth_data).encode())
    parameters = public.encode() + SIZED.write(secret)

    def parse(reader: Reader) -> TransportSession:
        handle = reader.u32()
        start = reader.position
        locality = reader.u32()
        ticks = CurrentTicks.read(reader)
        nonce_even = reader.take(20)
        transport = TransportSession(
            Session(handle, ProtocolId.TRANSPORT, nonce_even),
            public,
            auth_data,
            random,
            ticks.tick_rate,
            ticks.tick_nonce,
        )
        ordinal = U32.write(Ordinal.ESTABLISH_TRANSPORT)
        transport.log_in(_sha1(ordinal + parameters), bytes(20))
        answer = U32.write(ReturnCode.SUCCESS) + ordinal + reader.since(start)
        transport.log_out(ticks.current_ticks, _sha1(answer), locality)
        transport.ticks = ticks.current_ticks
        return transport

    return with_optional_secret(
        Ordinal.ESTABLISH_TRANSPORT,
        parse,
        key_auth,
        random=random,
        handles=U32.write(enc_handle),
        parameters=parameters,
        handles_out=4,
    )


def through(
    transport: TransportSession, conversation: Conversation[T], *, keep: bool = True
) -> Conversation[T]:
    """Run a conversation's commands inside of a transport session.

    Args:
        keep: False ends the session with the first command.

    Raises:
        TpmError: as the conversation; also an error of ExecuteTransport itself, after which the
            session is over.
        ResponseError: a response of ExecuteTransport does not authenticate.
    """
    try:
        command = next(conversation)
        while True:
            response = yield from execute_transport(transport, command, keep=keep)
            command = conversation.send(response)
    except StopIteration as finished:
        result: T = finished.value
        return result
    finally:
        conversation.close()


def execute_transport(
    transport: TransportSession, command: bytes, *, keep: bool = True
) -> Conversation[bytes]:
    """Run one command, given in the clear, and return its response in the clear (24.2)."""
    channel = transport.channel
    auth = prove(channel, transport.random, secret=transport.auth_data, keep=keep)
    header = parse_header(command)
    ordinal = U32.write(header.code)
    start = HEADER_BYTES + HANDLES_IN.get(header.code, 0)
    end = len(command) - _REQUEST_AUTH_BYTES * (header.tag - Tag.RQU_COMMAND)
    digest_in = _sha1(ordinal + command[start:end])
    transport.log_in(digest_in, _key_hash(transport, command))
    wrapped = command
    if transport.encrypts:
        hidden = _crypt(transport, auth, REQUEST, command[start:end])
        wrapped = command[:start] + hidden + command[end:]

    response = yield _request(wrapped, auth, digest_in)

    try:
        body = _success_body(response)
    except (TpmError, WireError):
        yield from close_session(channel)
        raise
    ticks, locality, wrapped_response = body.u64(), body.u32(), body.sized()
    nonce_even, flag, res_auth = body.take(20), body.take(1), body.take(20)
    body.finish("ExecuteTransport")
    channel.nonce_even = nonce_even
    clear, parameters = _open_response(transport, auth, header.code, wrapped_response)
    digest_out = _sha1(clear[6:10] + ordinal + parameters)
    out_param_digest = _sha1(
        U32.write(ReturnCode.SUCCESS)
        + U32.write(Ordinal.EXECUTE_TRANSPORT)
        + U64.write(ticks)
        + U32.write(locality)
        + U32.write(len(clear))
        + digest_out
    )
    expected = hmac.digest(
        transport.auth_data, out_param_digest + nonce_even + auth.nonce_odd + flag, "sha1"
    )
    if not hmac.compare_digest(expected, res_auth):
        yield from close_session(channel)
        raise ResponseError("response HMAC of EXECUTE_TRANSPORT does not verify")
    channel.is_open = flag == b"\x01"
    transport.ticks = ticks
    transport.log_out(ticks, digest_out, locality)
    return clear


def _request(wrapped: bytes, auth: Authorization, digest_in: bytes) -> bytes:
    size = U32.write(len(wrapped))
    in_param_digest = _sha1(U32.write(Ordinal.EXECUTE_TRANSPORT) + size + digest_in)
    flag = b"\x01" if auth.keep else b"\x00"
    mac = hmac.digest(
        auth.secret, in_param_digest + auth.session.nonce_even + auth.nonce_odd + flag, "sha1"
    )
    block = U32.write(auth.session.handle) + auth.nonce_odd + flag + mac
    return build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.EXECUTE_TRANSPORT, size + wrapped + block)


def _success_body(response: bytes) -> Reader:
    header = parse_header(response)
    if header.size != len(response):
        raise WireError("paramSize", 2, f"{header.size}, but {len(response)} bytes came")
    if header.code != ReturnCode.SUCCESS:
        raise TpmError(header.code)
    return Reader(response, HEADER_BYTES)


def _open_response(
    transport: TransportSession, auth: Authorization, ordinal: int, response: bytes
) -> tuple[bytes, bytes]:
    """Return a wrapped response in the clear, and its parameters."""
    header = parse_header(response)
    if header.code != ReturnCode.SUCCESS:
        return response, b""
    start = HEADER_BYTES + HANDLES_OUT.get(ordinal, 0)
    end = len(response) - RESPONSE_AUTH_BYTES * (header.tag - Tag.RSP_COMMAND)
    parameters = response[start:end]
    if transport.encrypts:
        parameters = _crypt(transport, auth, RESPONSE, parameters)
    return response[:start] + parameters + response[end:], parameters


def _crypt(
    transport: TransportSession, auth: Authorization, direction: bytes, data: bytes
) -> bytes:
    nonces = transport.channel.nonce_even + auth.nonce_odd
    return crypt(transport.public, transport.auth_data, nonces, direction, data)


def _key_hash(transport: TransportSession, command: bytes) -> bytes:
    """Return pubKeyHash of a command, all of whose keys are in `keys`."""
    if not transport.logs:
        return bytes(20)
    handles = _logged_handles(command)
    digests = [_sha1(SIZED.write(transport.keys[handle].key)) for handle in handles]
    return _sha1(b"".join(digests)) if digests else bytes(20)


def _logged_handles(command: bytes) -> list[int]:
    ordinal = parse_header(command).code
    reader = Reader(command, HEADER_BYTES)
    if ordinal in _KEY_BY_TYPE:
        handle = reader.u32()
        return [handle] if reader.u32() == ResourceType.KEY else []
    if ordinal == Ordinal.DSAP:
        is_key = reader.u16() & 0xFF == EntityType.DEL_KEY_BLOB
        return [reader.u32()] if is_key else []
    if ordinal in _NO_KEY:
        return []
    if ordinal in _ONE_KEY:
        return [reader.u32()]
    return [reader.u32() for _ in range(HANDLES_IN.get(ordinal, 0) // 4)]


@record
class SignedLog:
    """Answer of ReleaseTransportSigned, whose signature was checked.

    Attributes:
        digest: transDigest.
        signed: digest that the signature is over.
    """

    locality: int
    ticks: CurrentTicks
    signature: bytes
    digest: bytes
    signed: bytes


def release_transport_signed(
    transport: TransportSession,
    key_handle: int,
    key: PubKey,
    *,
    anti_replay: bytes,
    key_auth: bytes | None,
) -> Conversation[SignedLog]:
    """End a session and have its log signed (24.3).

    Args:
        key: public part of the signing key; the signature is checked with it.
        key_auth: its secret; None sends no authorization for it.

    Raises:
        ResponseError: the signature is not over the log that was kept here.
    """
    random = transport.random
    last = prove(transport.channel, random, secret=transport.auth_data)
    auths: tuple[Authorization, ...] = (last,)
    if key_auth is not None:
        session = yield from oiap()
        auths = (prove(session, random, secret=key_auth), last)

    def parse(reader: Reader) -> tuple[int, CurrentTicks, bytes]:
        return reader.u32(), CurrentTicks.read(reader), reader.sized()

    locality, ticks, signature = yield from execute(
        Ordinal.RELEASE_TRANSPORT_SIGNED,
        parse,
        handles=U32.write(key_handle),
        parameters=anti_replay,
        auths=auths,
    )
    released = _sha1(U32.write(Ordinal.RELEASE_TRANSPORT_SIGNED) + anti_replay)
    transport.log_out(ticks.current_ticks, released, locality)
    signed = _sha1(SignInfo(b"TRAN", anti_replay, transport.digest).encode())
    verify_signature(key, signed, signature)
    return SignedLog(locality, ticks, signature, transport.digest, signed)


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()
