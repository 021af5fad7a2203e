# SPDX-License-Identifier: Apache-2.0
"""Transport sessions (Part 3, chapter 24): commands inside of commands, hidden and logged.

ExecuteTransport carries one complete command. Its header, handles and authorization blocks are in
the clear, its parameters may be encrypted; it is judged by the same dispatcher, as if it had come
alone, and its errors are answers inside of a success. An error of ExecuteTransport itself ends the
session.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Annotated, Final

from protocol.tpm12.attestation import SignInfo
from protocol.tpm12.constants import (
    Algorithm,
    AuthDataUsage,
    EncScheme,
    KeyUsage,
    Ordinal,
    ReservedHandle,
    ReturnCode,
    SigScheme,
    Tag,
)
from protocol.tpm12.framing import HEADER_BYTES, parse_header
from protocol.tpm12.records import record
from protocol.tpm12.resources import CurrentTicks
from protocol.tpm12.transport import TransportAttributes, TransportAuth, TransportPublic
from protocol.tpm12.wire import DIGEST, DIGEST_BYTES, SIZED, U32, U64, Structure
from tpmcore.errors import GateError, TpmError
from tpmcore.tpm12 import transport_log
from tpmcore.tpm12.command import AUTH0_OR_1, AUTH1, AUTH1_OR_2, Command, Gate
from tpmcore.tpm12.context import ANY_SESSION, BOOL_BYTES, Context
from tpmcore.tpm12.parsing import decode_plaintext
from tpmcore.tpm12.primitives import hmac_sha1
from tpmcore.tpm12.rsa import RsaError
from tpmcore.tpm12.state import KeyBody, TransportSession
from tpmcore.tpm12.ticks import current_ticks
from tpmcore.tpm12.tpm import Tpm
from tpmcore.tpm12.transport_cipher import REQUEST, RESPONSE, SCHEMES, crypt

_ENCRYPTING_USAGES: Final = frozenset({KeyUsage.STORAGE, KeyUsage.LEGACY})
_DIGEST_SCHEMES: Final = frozenset({SigScheme.RSASSAPKCS1V15_SHA1, SigScheme.RSASSAPKCS1V15_INFO})

_REQUEST_AUTH_BYTES: Final = 45
_RESPONSE_AUTH_BYTES: Final = 41
_REQUEST_TAGS: Final = (Tag.RQU_COMMAND, Tag.RQU_AUTH1_COMMAND, Tag.RQU_AUTH2_COMMAND)

_ENVELOPE_BYTES: Final = HEADER_BYTES + 8 + 4 + 4 + _RESPONSE_AUTH_BYTES
"""What the response of ExecuteTransport has around the wrapped one."""

_SUCCESS: Final = int(ReturnCode.SUCCESS)
_ORDINAL: Final = int(Ordinal.EXECUTE_TRANSPORT)
# What is digested of ExecuteTransport (4.7): of the wrapped command there is its own digest.
_EXECUTING: Final = struct.Struct(">II20s").pack
"""Ordinal, wrappedCmdSize, H1."""
_EXECUTED: Final = struct.Struct(">IIQII20s").pack
"""Return code, ordinal, currentTicks, locality, wrappedRspSize, H2."""
_OUT_HEAD: Final = struct.Struct(">II").pack
"""Return code and ordinal."""


@record(repr=False)
class EstablishTransportRequest(Structure):
    """encHandle u32, transPublic, secret sized."""

    enc_handle: Annotated[int, U32]
    trans_public: TransportPublic
    secret: Annotated[bytes, SIZED]


@record
class EstablishTransportResponse(Structure):
    """transHandle u32, locality u32, currentTicks, transNonceEven 20."""

    trans_handle: Annotated[int, U32]
    locality: Annotated[int, U32]
    current_ticks: CurrentTicks
    trans_nonce_even: Annotated[bytes, DIGEST]


def establish_transport(
    ctx: Context, request: EstablishTransportRequest
) -> EstablishTransportResponse:
    """Open a transport session (24.1)."""
    tpm, public = ctx.tpm, request.trans_public
    is_encrypted = bool(public.trans_attributes & TransportAttributes.ENCRYPT)
    if request.enc_handle == ReservedHandle.TRANSPORT:
        if ctx.auths:
            raise GateError(ReturnCode.BADTAG)
        if is_encrypted:
            # The secret came in the clear, so whoever listens could decrypt.
            raise TpmError(ReturnCode.BAD_SCHEME)
        if len(request.secret) != DIGEST_BYTES:
            raise TpmError(ReturnCode.BAD_PARAM_SIZE)
        auth_data = request.secret
    else:
        key = ctx.key(request.enc_handle)
        if key.public.key_usage not in _ENCRYPTING_USAGES:
            raise TpmError(ReturnCode.INVALID_KEYUSAGE)
        ctx.authorize_key_if_present(0, key, present=ctx.auth_count == 1)
        auth_data = _decrypt_auth_data(key, request.secret)
    if is_encrypted:
        _check_scheme(tpm, public)
    transport = tpm.open_transport(TransportSession(0, public, auth_data, tpm.new_nonce()))
    if transport.has(TransportAttributes.EXCLUSIVE):
        tpm.stany.transport_exclusive = transport.handle
    ticks = current_ticks(tpm)
    response = EstablishTransportResponse(
        transport.handle, ctx.locality, ticks, transport.nonce_even
    )
    if transport.has(TransportAttributes.LOG):
        ordinal = U32.write(Ordinal.ESTABLISH_TRANSPORT)
        parameters = public.encode() + SIZED.write(request.secret)
        transport_log.log_in(transport, _sha1(ordinal + parameters), transport_log.NO_KEYS)
        answer = U32.write(ReturnCode.SUCCESS) + ordinal + response.encode()[4:]
        transport_log.log_out(transport, ticks, _sha1(answer), ctx.locality)
    return response


def _decrypt_auth_data(key: KeyBody, secret: bytes) -> bytes:
    is_oaep = key.public.algorithm_parms.enc_scheme == EncScheme.RSAESOAEP_SHA1_MGF1
    decrypt = key.private.decrypt_oaep if is_oaep else key.private.decrypt_pkcs1v15
    try:
        plain = decrypt(secret)
    except RsaError as error:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from error
    return decode_plaintext(TransportAuth, plain).auth_data


def _check_scheme(tpm: Tpm, public: TransportPublic) -> None:
    # 24.1, 5: XOR with a mask is no encryption that FIPS knows.
    if public.alg_id == Algorithm.MGF1 and tpm.permanent.flags.fips:
        raise TpmError(ReturnCode.INAPPROPRIATE_ENC)
    schemes = SCHEMES.get(public.alg_id)
    if schemes is None:
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)
    if public.enc_scheme not in schemes:
        raise TpmError(ReturnCode.INAPPROPRIATE_ENC)


@record(repr=False)
class ExecuteTransportRequest(Structure):
    """wrappedCmd sized."""

    wrapped_cmd: Annotated[bytes, SIZED]


@record(repr=False)
class ExecuteTransportResponse(Structure):
    """currentTicks u64, locality u32, wrappedRsp sized."""

    current_ticks: Annotated[int, U64]
    locality: Annotated[int, U32]
    wrapped_rsp: Annotated[bytes, SIZED]


def execute_transport(ctx: Context, request: ExecuteTransportRequest) -> ExecuteTransportResponse:
    """Run the command inside (24.2)."""
    transport = _find_transport(ctx, 0)
    try:
        return _execute(ctx, transport, request.wrapped_cmd)
    except TpmError:
        ctx.tpm.end_transport(transport.handle)
        raise


def _execute(ctx: Context, transport: TransportSession, command: bytes) -> ExecuteTransportResponse:
    tpm, block = ctx.tpm, ctx.auths[0]
    row, start, end = _parse_wrapped(ctx, command)
    encrypts = transport.has(TransportAttributes.ENCRYPT)
    logs = transport.has(TransportAttributes.LOG)
    public, auth_data = transport.public, transport.auth_data
    if encrypts:
        nonces = transport.nonce_even + block.nonce_odd
        clear = crypt(public, auth_data, nonces, REQUEST, command[start:end])
        command = command[:start] + clear + command[end:]
    digest_in = _sha1(U32.write(row.ordinal) + command[start:end])
    _authorize(ctx, 0, transport, _sha1(_EXECUTING(_ORDINAL, len(command), digest_in)))
    if not row.wrappable:
        raise TpmError(ReturnCode.NO_WRAP_TRANSPORT)
    if logs:
        keys = transport_log.key_handles(row, command)
        transport_log.log_in(transport, digest_in, transport_log.key_hash(ctx, keys))
    # Rolled before the command runs, so that a context of this session that it saves does not
    # bring the old nonce, and with it this command, to life again.
    transport.nonce_even = block.nonce_even = tpm.new_nonce()

    max_response_bytes = tpm.profile.input_buffer_bytes - _ENVELOPE_BYTES
    response = ctx.dispatcher.run_wrapped(row, command, ctx.locality, transport, max_response_bytes)

    header = parse_header(response)
    start, end = HEADER_BYTES, len(response)
    if header.code == ReturnCode.SUCCESS:
        start += row.handles_out
        end -= _RESPONSE_AUTH_BYTES * (header.tag - Tag.RSP_COMMAND)
    clear = response[start:end]
    digest_out = _sha1(_OUT_HEAD(header.code, row.ordinal) + clear)
    ticks = current_ticks(tpm)
    if logs:
        transport_log.log_out(transport, ticks, digest_out, ctx.locality)
    if encrypts:
        nonces = transport.nonce_even + block.nonce_odd
        hidden = crypt(public, auth_data, nonces, RESPONSE, clear)
        response = response[:start] + hidden + response[end:]
    ctx.audited_as = digest_in, digest_out
    executed = _EXECUTED(
        _SUCCESS, _ORDINAL, ticks.current_ticks, ctx.locality, len(response), digest_out
    )
    ctx.out_param_digest = _sha1(executed)
    if tpm.stany.transports.get(transport.handle) is not transport:
        # The command ended the session that it came in.
        block.ends = True
    elif not block.continue_session:
        tpm.end_transport(transport.handle)
    return ExecuteTransportResponse(ticks.current_ticks, ctx.locality, response)


def _parse_wrapped(ctx: Context, command: bytes) -> tuple[Command, int, int]:
    """Return the row of a wrapped command, and where its parameters begin and end.

    Raises:
        TpmError: BAD_PARAMETER.
    """
    if len(command) < HEADER_BYTES:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    header = parse_header(command)
    row = ctx.dispatcher.row_of(header.code)
    if row is None or header.size != len(command) or header.tag not in _REQUEST_TAGS:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    start = HEADER_BYTES + row.handles_in
    end = len(command) - _REQUEST_AUTH_BYTES * (header.tag - Tag.RQU_COMMAND)
    if end < start:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    return row, start, end


@record
class ReleaseTransportSignedRequest(Structure):
    """keyHandle u32, antiReplay 20."""

    key_handle: Annotated[int, U32]
    anti_replay: Annotated[bytes, DIGEST]


@record
class ReleaseTransportSignedResponse(Structure):
    """locality u32, currentTicks, signature sized."""

    locality: Annotated[int, U32]
    current_ticks: CurrentTicks
    signature: Annotated[bytes, SIZED]


def release_transport_signed(
    ctx: Context, request: ReleaseTransportSignedRequest
) -> ReleaseTransportSignedResponse:
    """End a session and sign its log (24.3); it ends whatever comes of the signature."""
    tpm, last = ctx.tpm, ctx.auth_count - 1
    transport = _find_transport(ctx, last)
    tpm.end_transport(transport.handle)
    ctx.end_session(last)
    key = ctx.key(request.key_handle)
    if key.public.algorithm_parms.sig_scheme not in _DIGEST_SCHEMES:
        raise TpmError(ReturnCode.INAPPROPRIATE_SIG)
    if last == 0 and key.public.auth_data_usage != AuthDataUsage.NEVER:
        raise TpmError(ReturnCode.AUTHFAIL)
    if last == 1:
        ctx.require_session(0, ANY_SESSION)
    if key.public.key_usage != KeyUsage.SIGNING:
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    if last == 1:
        ctx.authorize_key(0, key)
    _authorize(ctx, last, transport, ctx.in_param_digest)
    if not transport.has(TransportAttributes.LOG):
        raise TpmError(ReturnCode.BAD_MODE)
    ticks = current_ticks(tpm)
    transport_log.log_out(transport, ticks, ctx.in_param_digest, ctx.locality)
    info = SignInfo(b"TRAN", request.anti_replay, transport.digest)
    signature = key.private.sign_sha1_digest(_sha1(info.encode()))
    return ReleaseTransportSignedResponse(ctx.locality, ticks, signature)


def _find_transport(ctx: Context, index: int) -> TransportSession:
    """Return the transport session of an authorization block; any other that is exclusive ends.

    Raises:
        TpmError: INVALID_AUTHHANDLE.
    """
    tpm, handle = ctx.tpm, ctx.auths[index].handle
    if tpm.stany.transport_exclusive not in (0, handle):
        tpm.end_exclusive_transport()
    transport = tpm.stany.transports.get(handle)
    if transport is None:
        raise TpmError(ReturnCode.INVALID_AUTHHANDLE)
    return transport


def _authorize(ctx: Context, index: int, transport: TransportSession, digest: bytes) -> None:
    """Verify the authorization block of a transport session; a wrong one is no attack on a key's
    secret, and the lockout does not count it (4.7).

    Raises:
        TpmError: AUTHFAIL for the first block, AUTH2FAIL for the second.
    """
    block = ctx.auths[index]
    data = digest + transport.nonce_even + block.nonce_odd + BOOL_BYTES[block.continue_session]
    if not hmac.compare_digest(hmac_sha1(transport.auth_data, data), block.auth):
        raise TpmError(ReturnCode.AUTHFAIL if index == 0 else ReturnCode.AUTH2FAIL)
    block.session = transport
    block.hmac_key = transport.auth_data


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


COMMANDS = (
    Command(
        Ordinal.ESTABLISH_TRANSPORT,
        source="3:24.1",
        auth_blocks=AUTH0_OR_1,
        gate=Gate.OPERATIONAL,
        request=EstablishTransportRequest,
        response=EstablishTransportResponse,
        handler=establish_transport,
        handles_in=4,
        handles_out=4,
        key_bit=21,
        wrappable=False,
    ),
    # Its flags for the state are those of the wrapped command, see Dispatcher.effective_row.
    Command(
        Ordinal.EXECUTE_TRANSPORT,
        source="3:24.2",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=ExecuteTransportRequest,
        response=ExecuteTransportResponse,
        handler=execute_transport,
        wrappable=False,
    ),
    Command(
        Ordinal.RELEASE_TRANSPORT_SIGNED,
        source="3:24.3",
        auth_blocks=AUTH1_OR_2,
        gate=Gate.OPERATIONAL,
        request=ReleaseTransportSignedRequest,
        response=ReleaseTransportSignedResponse,
        handler=release_transport_signed,
        handles_in=4,
        key_bit=20,
        wrappable=False,
    ),
)
