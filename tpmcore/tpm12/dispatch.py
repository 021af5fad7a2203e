# SPDX-License-Identifier: Apache-2.0
"""From command bytes to response bytes: the checks common to all ordinals, in the reference order.

The order is that of libtpms (0.2 of the engine reference): header, ordinal, parameters, gate, tag,
authorization blocks, and only then the handler. A refusal before the handler touches no session; an
error from there on ends the sessions that the command names (Part 1, 4.1.6).

A command inside a transport session goes the same way from the parameters on (`run_wrapped`, called
by ExecuteTransport); what comes before is judged once, for the outer command.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from hashlib import sha1
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode, Tag
from protocol.tpm12.framing import HEADER_BYTES, build_message, error_response
from protocol.tpm12.records import record
from protocol.tpm12.transport import TransportAttributes
from protocol.tpm12.wire import Reader, WireError
from tpmcore.engine import Done, EffectResult
from tpmcore.errors import EngineFault, GateError, TpmError
from tpmcore.tpm12 import audit_trail, selftest
from tpmcore.tpm12.command import Awaiting, Command, Gate
from tpmcore.tpm12.context import BOOL_BYTES, AuthBlock, Context
from tpmcore.tpm12.parsing import parse_code
from tpmcore.tpm12.primitives import hmac_sha1
from tpmcore.tpm12.rsa import RsaError
from tpmcore.tpm12.state import SelfTest, TransportSession
from tpmcore.tpm12.tpm import Tpm

_HEADER = struct.Struct(">HII").unpack_from
_U32 = struct.Struct(">I").pack
_OUT_DIGEST_HEAD = struct.Struct(">II").pack
"""Return code and ordinal."""

MAX_LOCALITY: Final = 4

_AUTH_COUNT: Final[Mapping[int, int]] = {
    Tag.RQU_COMMAND: 0,
    Tag.RQU_AUTH1_COMMAND: 1,
    Tag.RQU_AUTH2_COMMAND: 2,
}

_NEEDS_ENABLED: Final = frozenset({Gate.ENABLED, Gate.ENABLED_ACTIVATED, Gate.OPERATIONAL})
_NEEDS_ACTIVATED: Final = frozenset({Gate.ACTIVATED, Gate.ENABLED_ACTIVATED, Gate.OPERATIONAL})
_NEEDS_OWNER: Final = frozenset({Gate.OWNED, Gate.OPERATIONAL})
_WHEN_FAILED: Final = frozenset({Gate.ALWAYS_AND_FAILED, Gate.STARTUP})

# Every command asks for these, and to get a member from its enumeration takes as long as a call.
_STARTUP_GATE: Final = Gate.STARTUP
_RQU_COMMAND: Final = int(Tag.RQU_COMMAND)
_SUCCESS: Final = int(ReturnCode.SUCCESS)
_RSP_TAGS: Final = (Tag.RSP_COMMAND, Tag.RSP_AUTH1_COMMAND, Tag.RSP_AUTH2_COMMAND)
"""By the number of authorization blocks."""
_NOT_TESTED: Final = SelfTest.LIMITED
_TEST_FAILED: Final = SelfTest.FAILED
_EXECUTE_TRANSPORT: Final = int(Ordinal.EXECUTE_TRANSPORT)
_STARTUP: Final = int(Ordinal.STARTUP)
_SAVE_STATE: Final = int(Ordinal.SAVE_STATE)

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

_USES_SHA1_THREAD: Final = frozenset(
    {Ordinal.SHA1_UPDATE, Ordinal.SHA1_COMPLETE, Ordinal.SHA1_COMPLETE_EXTEND}
)

_KEEPS_EXCLUSIVE_TRANSPORT: Final = frozenset(
    {Ordinal.EXECUTE_TRANSPORT, Ordinal.RELEASE_TRANSPORT_SIGNED}
)
"""They look at their own handle first; every other ordinal ends the exclusive session."""

_WRAPPED_ORDINAL_AT: Final = HEADER_BYTES + 4 + 6
_WRAPPED_HEADER_END: Final = _WRAPPED_ORDINAL_AT + 4


@record(repr=False)
class Suspended:
    """A command that everything was checked of and that waits for its parent TPM.

    Attributes:
        audited: whether its success goes into the audit digest.
        max_response_bytes: longest response that it may have.
    """

    context: Context
    command: bytes
    awaiting: Awaiting
    audited: bool
    max_response_bytes: int


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

    def effective_row(self, command: bytes) -> Command | None:
        """Return the row that tells what a command may do to the state and how long it may take:
        that of the wrapped command if there is one."""
        if len(command) < HEADER_BYTES:
            return None
        ordinal = _HEADER(command)[2]
        row = self._table.get(ordinal)
        if (
            ordinal == _EXECUTE_TRANSPORT
            and row is not None
            and len(command) >= _WRAPPED_HEADER_END
        ):
            wrapped = int.from_bytes(command[_WRAPPED_ORDINAL_AT:_WRAPPED_HEADER_END], "big")
            return self._table.get(wrapped, row)
        return row

    def row_of(self, ordinal: int) -> Command | None:
        """Return the row of an ordinal."""
        return self._table.get(ordinal)

    def rows(self) -> Collection[Command]:
        """Return all rows."""
        return self._table.values()

    def audits(self, command: bytes, row: Command) -> bool:
        """Whether a success will be audited.

        Args:
            row: its effective row; the command around a wrapped one counts too.
        """
        if audit_trail.is_audited(self._tpm, row):
            return True
        if _HEADER(command)[2] == row.ordinal:
            return False
        outer = self.row(command)
        return outer is not None and audit_trail.is_audited(self._tpm, outer)

    def run(self, command: bytes, locality: int) -> bytes | Suspended:
        """Execute one command of any content.

        Returns:
            The response; or a command that has to wait for the parent TPM, see `finish`. Persisting
            is the engine's business: it compares the state before and after.

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
        if tpm.self_test is _NOT_TESTED and ordinal not in _NEEDS_NO_SELF_TEST:
            selftest.run_all(tpm)
        # For ExecuteTransport the wrapped ordinal decides.
        if tpm.sha1_thread is not None and ordinal != _EXECUTE_TRANSPORT:
            self._keep_or_drop_sha1_thread(ordinal, None)
        permanent, stany = tpm.permanent, tpm.stany
        if permanent.saved_state and ordinal != _STARTUP:
            permanent.saved_state = b""
        if stany.transport_exclusive and ordinal not in _KEEPS_EXCLUSIVE_TRANSPORT:
            tpm.end_exclusive_transport()
        stany.locality_modifier = locality
        row = self._table.get(ordinal)
        if row is None:
            return error_response(ReturnCode.BAD_ORDINAL)
        return self._judge(row, tag, command, locality, None, tpm.profile.input_buffer_bytes)

    def run_wrapped(
        self,
        row: Command,
        command: bytes,
        locality: int,
        transport: TransportSession,
        max_response_bytes: int,
    ) -> bytes:
        """Execute the command that an ExecuteTransport carries.

        Args:
            row: its row.
            command: in the clear, with a header that was checked.
            transport: the session it came in.
            max_response_bytes: what fits into the response of ExecuteTransport.
        """
        if self._tpm.sha1_thread is not None:
            self._keep_or_drop_sha1_thread(row.ordinal, transport)
        response = self._judge(
            row, _HEADER(command)[0], command, locality, transport, max_response_bytes
        )
        if isinstance(response, Suspended):
            raise EngineFault(f"{row.ordinal.name} waits for the parent in a transport session")
        return response

    def finish(self, suspended: Suspended, result: EffectResult) -> bytes:
        """Go on with a command once the parent TPM has answered; nothing ran in between.

        A refusal of the parent is the command's own: same code, and its sessions end.

        Raises:
            EngineFault: a broken invariant.
        """
        context = suspended.context
        try:
            if not isinstance(result, Done):
                # Nor may a code of 0 make a success of what was not done.
                raise TpmError(result.code or ReturnCode.IOERROR)
            body = suspended.awaiting.finish(result.data).encode()
            self._admit(context, body, suspended.audited, suspended.max_response_bytes)
        except TpmError as error:
            self._end_named_sessions(context.auths, error.code)
            return error_response(error.code)
        return self._respond(context, body)

    def _keep_or_drop_sha1_thread(self, ordinal: int, transport: TransportSession | None) -> None:
        """Apply step 2b of the reference order: only the SHA-1 commands keep the thread, and only
        where it was started."""
        tpm = self._tpm
        if ordinal not in _USES_SHA1_THREAD or tpm.sha1_transport is not transport:
            tpm.sha1_thread = tpm.sha1_transport = None

    def _judge(
        self,
        row: Command,
        tag: int,
        command: bytes,
        locality: int,
        transport: TransportSession | None,
        max_response_bytes: int,
    ) -> bytes | Suspended:
        """Apply the reference order from step 4 on, and run the handler."""
        tpm = self._tpm
        reader = Reader(command, HEADER_BYTES)
        try:
            request = row.request.read(reader)
            body_end = reader.position
            self._check_gate(row, tag)
            auth_count = _AUTH_COUNT.get(tag)
            if auth_count is None or auth_count not in row.auth_blocks:
                return error_response(ReturnCode.BADTAG)
            auths = [AuthBlock.read(reader)] if auth_count else []
            if auth_count == 2:
                auths.append(AuthBlock.read(reader))
            reader.finish()
        except WireError as error:
            return error_response(parse_code(error))
        except TpmError as error:
            return error_response(error.code)
        in_param_digest = b""
        # As it is before: SetOrdinalAuditStatus may change it for itself (4.6).
        audited = audit_trail.is_audited(tpm, row)
        if auths or audited:
            parameters = command[HEADER_BYTES + row.handles_in : body_end]
            in_param_digest = sha1(_U32(row.ordinal) + parameters).digest()
        context = Context(tpm, row, locality, auths, in_param_digest, self, transport)
        try:
            if audited and row.ordinal == _SAVE_STATE:
                # In what is saved there can be nothing of the response (4.6).
                audit_trail.record_input(tpm, in_param_digest)
                audited = False
            answer = row.handler(context, request)
            if isinstance(answer, Awaiting):
                return Suspended(context, command, answer, audited, max_response_bytes)
            body = answer.encode()
            self._admit(context, body, audited, max_response_bytes)
        except GateError as error:
            return error_response(error.code)
        except TpmError as error:
            self._end_named_sessions(auths, error.code)
            return error_response(error.code)
        except RsaError:
            # A loaded key whose factors are no primes: its maker's fault and no broken invariant.
            self._end_named_sessions(auths, ReturnCode.BAD_KEY_PROPERTY)
            return error_response(ReturnCode.BAD_KEY_PROPERTY)
        return self._respond(context, body)

    def _admit(self, context: Context, body: bytes, audited: bool, max_response_bytes: int) -> None:
        """Let a response body pass if it fits, digest it, and audit the success.

        Raises:
            TpmError: SIZE, AUDITFAIL_SUCCESSFUL.
        """
        auths = context.auths
        if HEADER_BYTES + len(body) + 41 * len(auths) > max_response_bytes:
            raise TpmError(ReturnCode.SIZE)
        if (auths or audited) and not context.out_param_digest:
            row = context.command
            answered = _OUT_DIGEST_HEAD(_SUCCESS, row.ordinal) + body[row.handles_out :]
            context.out_param_digest = sha1(answered).digest()
        if audited:
            _audit(context)

    def _check_gate(self, row: Command, tag: int) -> None:
        """Apply step 5 of the reference order."""
        tpm = self._tpm
        gate = row.gate
        if tag != _RQU_COMMAND and row.stops_for_lockout and tpm.lockout.is_active:
            raise TpmError(ReturnCode.DEFEND_LOCK_RUNNING)
        if tpm.self_test is _TEST_FAILED and gate not in _WHEN_FAILED:
            raise TpmError(ReturnCode.FAILEDSELFTEST)
        if tpm.stany.post_initialise != (gate is _STARTUP_GATE):
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

    def _respond(self, context: Context, body: bytes) -> bytes:
        """Build the response of a success: roll nonces, authenticate, end sessions (4.1.4,
        4.1.5)."""
        auths = context.auths
        if not auths:
            return build_message(_RSP_TAGS[0], _SUCCESS, body)
        tpm = self._tpm
        if len(auths) == 2 and auths[0].handle == auths[1].handle:
            # One session for both: it goes on only if both blocks say so, and with the last nonce.
            auths[0].ends = auths[1].ends = not (auths[0].continues and auths[1].continues)
        parts = [body]
        for block in auths:
            session = block.session
            if session is None:
                ordinal = context.command.ordinal
                raise EngineFault(f"{ordinal.name} succeeded with an unchecked authorization")
            session.nonce_even = nonce_even = block.nonce_even or tpm.new_nonce()
            continues = block.continues
            flag = BOOL_BYTES[continues]
            digest = context.out_param_digest + nonce_even + block.nonce_odd + flag
            parts += (nonce_even, flag, hmac_sha1(block.hmac_key, digest))
            if not continues:
                tpm.stany.sessions.pop(session.handle, None)
        return build_message(_RSP_TAGS[len(auths)], _SUCCESS, b"".join(parts))


def _audit(context: Context) -> None:
    """Put a success into the audit digest (4.6).

    Raises:
        TpmError: AUDITFAIL_SUCCESSFUL.
    """
    tpm, transport = context.tpm, context.transport
    if context.audited_as is not None:
        event_in, event_out = context.audited_as
    elif transport is not None and transport.has(TransportAttributes.ENCRYPT):
        # Parameters that were encrypted on their way do not get out by way of the digest.
        ordinal = _U32(context.command.ordinal)
        event_in = sha1(ordinal).digest()
        event_out = sha1(bytes(4) + ordinal).digest()
    else:
        event_in, event_out = context.in_param_digest, context.out_param_digest
    audit_trail.record_both(tpm, event_in, event_out)


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
