# SPDX-License-Identifier: Apache-2.0
"""From command bytes to response bytes: the checks common to all ordinals, in the reference order.

The order is that of libtpms (0.2 of the engine reference): header, ordinal, parameters, gate, tag,
authorization blocks, and only then the handler. A refusal before the handler touches no session; an
error from there on ends the sessions that the command names (Part 1, 4.1.6).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode, Tag
from protocol.tpm12.framing import HEADER_BYTES, build_message, error_response
from protocol.tpm12.wire import Reader, WireError
from tpmcore.errors import EngineFault, GateError, TpmError
from tpmcore.tpm12 import selftest
from tpmcore.tpm12.command import Command, Gate
from tpmcore.tpm12.context import AuthBlock, Context
from tpmcore.tpm12.parsing import parse_code
from tpmcore.tpm12.rsa import RsaError
from tpmcore.tpm12.state import SelfTest
from tpmcore.tpm12.tpm import Tpm

_HEADER = struct.Struct(">HII").unpack_from
_U32 = struct.Struct(">I").pack

MAX_LOCALITY: Final = 4

_AUTH_COUNT: Final[Mapping[int, int]] = {
    Tag.RQU_COMMAND: 0,
    Tag.RQU_AUTH1_COMMAND: 1,
    Tag.RQU_AUTH2_COMMAND: 2,
}

_NEEDS_ENABLED: Final = frozenset({Gate.ENABLED, Gate.ENABLED_ACTIVATED, Gate.OPERATIONAL})
_NEEDS_ACTIVATED: Final = frozenset({Gate.ACTIVATED, Gate.ENABLED_ACTIVATED, Gate.OPERATIONAL})
_NEEDS_OWNER: Final = frozenset({Gate.OWNED, Gate.OPERATIONAL})

_NEEDS_NO_SELF_TEST: Final = frozenset(
    {
        Ordinal.STARTUP,
        Ordinal.SHA1_START,
        Ordinal.SHA1_UPDATE,
        Ordinal.SHA1_COMPLETE,
        Ordinal.SHA1_COMPLETE_EXTEND,
        Ordinal.EXTEND,
        Ordinal.CONTINUE_SELF_TEST,
        Ordinal.GET_CAPABILITY,
        Ordinal.SELF_TEST_FULL,
        Ordinal.GET_TEST_RESULT,
        Ordinal.TSC_PHYSICAL_PRESENCE,
        Ordinal.TSC_RESET_ESTABLISHMENT_BIT,
    }
)

_KEEPS_SHA1_THREAD: Final = frozenset(
    {Ordinal.SHA1_UPDATE, Ordinal.SHA1_COMPLETE, Ordinal.SHA1_COMPLETE_EXTEND}
)


class Dispatcher:
    """Judges commands against a table and runs their handlers on one TPM."""

    def __init__(self, tpm: Tpm, table: Mapping[int, Command]) -> None:
        self._tpm = tpm
        self._table = table

    def row(self, command: bytes) -> Command | None:
        """Return the row of a command's ordinal; None if it is too short or the ordinal is
        unknown."""
        if len(command) < HEADER_BYTES:
            return None
        return self._table.get(_HEADER(command)[2])

    def run(self, command: bytes, locality: int) -> bytes:
        """Execute one command of any content.

        Returns:
            The response. Effects are the engine's business: it compares the state before and after.

        Raises:
            EngineFault: a broken invariant.
        """
        tpm = self._tpm
        if len(command) < HEADER_BYTES:
            return error_response(ReturnCode.BAD_PARAM_SIZE)
        tag, size, ordinal = _HEADER(command)
        if size != len(command) or size > tpm.profile.input_buffer_bytes:
            return error_response(ReturnCode.BAD_PARAM_SIZE)
        if not 0 <= locality <= MAX_LOCALITY:
            return error_response(ReturnCode.BAD_LOCALITY)
        if tpm.self_test is SelfTest.LIMITED and ordinal not in _NEEDS_NO_SELF_TEST:
            selftest.run_all(tpm)
        if tpm.sha1_thread is not None and ordinal not in _KEEPS_SHA1_THREAD:
            tpm.sha1_thread = None
        if tpm.permanent.saved_state and ordinal != Ordinal.STARTUP:
            tpm.permanent.saved_state = b""
        tpm.stany.locality_modifier = locality
        row = self._table.get(ordinal)
        if row is None:
            return error_response(ReturnCode.BAD_ORDINAL)
        reader = Reader(command, HEADER_BYTES)
        try:
            request = row.request.read(reader)
            body_end = reader.position
            self._check_gate(row, tag)
            auth_count = _AUTH_COUNT.get(tag)
            if auth_count is None or auth_count not in row.auth_blocks:
                return error_response(ReturnCode.BADTAG)
            auths = [_read_auth(reader) for _ in range(auth_count)]
            reader.finish()
        except WireError as error:
            return error_response(parse_code(error))
        except TpmError as error:
            return error_response(error.code)
        in_param_digest = b""
        if auths:
            parameters = command[HEADER_BYTES + row.handles_in : body_end]
            in_param_digest = hashlib.sha1(_U32(ordinal) + parameters).digest()
        context = Context(tpm, row, locality, auths, in_param_digest)
        try:
            body = row.handler(context, request).encode()
        except GateError as error:
            return error_response(error.code)
        except TpmError as error:
            self._end_named_sessions(auths, error.code)
            return error_response(error.code)
        except RsaError:
            # A loaded key whose factors are no primes: its maker's fault and no broken invariant.
            self._end_named_sessions(auths, ReturnCode.BAD_KEY_PROPERTY)
            return error_response(ReturnCode.BAD_KEY_PROPERTY)
        return self._respond(row, ordinal, body, auths)

    def _check_gate(self, row: Command, tag: int) -> None:
        """Apply step 5 of the reference order."""
        tpm = self._tpm
        gate = row.gate
        if tag != Tag.RQU_COMMAND and row.stops_for_lockout and tpm.lockout.is_active:
            raise TpmError(ReturnCode.DEFEND_LOCK_RUNNING)
        if tpm.self_test is SelfTest.FAILED and gate not in (
            Gate.ALWAYS_AND_FAILED,
            Gate.STARTUP,
        ):
            raise TpmError(ReturnCode.FAILEDSELFTEST)
        if tpm.stany.post_initialise != (gate is Gate.STARTUP):
            raise TpmError(ReturnCode.INVALID_POSTINIT)
        if gate in _NEEDS_ENABLED and tpm.permanent.flags.disable:
            raise TpmError(ReturnCode.DISABLED)
        if gate in _NEEDS_ACTIVATED and tpm.stclear.flags.deactivated:
            raise TpmError(ReturnCode.DEACTIVATED)
        if gate in _NEEDS_OWNER and not tpm.is_owned:
            raise TpmError(ReturnCode.NOSRK)

    def _end_named_sessions(self, auths: list[AuthBlock], code: int) -> None:
        if code == ReturnCode.DEFEND_LOCK_RUNNING:
            return
        for block in auths:
            self._tpm.stany.sessions.pop(block.handle, None)

    def _respond(self, row: Command, ordinal: int, body: bytes, auths: list[AuthBlock]) -> bytes:
        """Build the response of a success: roll nonces, authenticate, end sessions (4.1.4,
        4.1.5)."""
        tpm = self._tpm
        size = HEADER_BYTES + len(body) + 41 * len(auths)
        if size > tpm.profile.input_buffer_bytes:
            self._end_named_sessions(auths, ReturnCode.SIZE)
            return error_response(ReturnCode.SIZE)
        if not auths:
            return build_message(Tag.RSP_COMMAND, ReturnCode.SUCCESS, body)
        out_param_digest = hashlib.sha1(bytes(4) + _U32(ordinal) + body[row.handles_out :]).digest()
        if len(auths) == 2 and auths[0].handle == auths[1].handle:
            # One session for both: it goes on only if both blocks say so, and with the last nonce.
            continues = auths[0].continue_session and auths[1].continue_session
            auths[0].continue_session = auths[1].continue_session = continues
        parts = [body]
        for block in auths:
            session = block.session
            if session is None:
                raise EngineFault(f"{row.ordinal.name} succeeded with an unchecked authorization")
            nonce_even = tpm.new_nonce()
            flag = b"\x01" if block.continue_session else b"\x00"
            digest = out_param_digest + nonce_even + block.nonce_odd + flag
            parts += (nonce_even, flag, hmac.digest(block.hmac_key, digest, "sha1"))
            session.nonce_even = nonce_even
            if not block.continue_session:
                tpm.stany.sessions.pop(session.handle, None)
        return build_message(
            Tag.RSP_AUTH1_COMMAND if len(auths) == 1 else Tag.RSP_AUTH2_COMMAND,
            ReturnCode.SUCCESS,
            b"".join(parts),
        )


def _read_auth(reader: Reader) -> AuthBlock:
    """Read authHandle, nonceOdd, continueAuthSession, auth: 45 bytes."""
    handle = reader.u32()
    nonce_odd = reader.take(20)
    continue_session = reader.boolean()
    return AuthBlock(
        handle,
        nonce_odd,
        continue_session,
        reader.take(20),
        b"\x01" if continue_session else b"\x00",
    )


def build_table(families: tuple[tuple[Command, ...], ...]) -> dict[int, Command]:
    """Join the rows of all command families.

    Raises:
        ValueError: an ordinal is in two rows.
    """
    table: dict[int, Command] = {}
    for family in families:
        for row in family:
            if row.ordinal in table:
                raise ValueError(f"{row.ordinal.name} has two rows")
            table[row.ordinal] = row
    return table
