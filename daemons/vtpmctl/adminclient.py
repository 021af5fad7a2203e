# SPDX-License-Identifier: Apache-2.0
"""Asking the manager over its admin socket, and what its return codes mean to an operator."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import trio

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.packetstream import HungUp, PacketStream
from protocol.errors import WireError
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.framing import ManagerRefused
from protocol.manager.management import Nothing, decode_answer, encode_management
from protocol.tpm12.wire import Structure
from tpmcore.errors import TpmError

S = TypeVar("S", bound=Structure)

ANSWER_LIMIT_S: Final = 120.0
"""A new identity is a key that the chip has to find."""
_MESSAGE_LIMIT_BYTES: Final = 1 << 20

_O = ManagementOrdinal
_C = ManagerCode

_MEANINGS: Final[Mapping[tuple[ManagementOrdinal, int], str]] = {
    (_O.GROUP_NEW, _C.FAIL): "the hardware TPM did not make the identity key; see the log",
    (_O.GROUP_NEW, _C.BAD_PARAMETER): "the agent's key is no RSA key of 2048 bits",
    (_O.GROUP_DEL, _C.FAIL): "one of its vTPMs is open, or it is group 0, which stays",
    (_O.GROUP_REGISTER, _C.FAIL): (
        "it is registered already, was not made or rekeyed since this machine started, or the "
        "request is not signed by its agent"
    ),
    (_O.GROUP_UPDATE, _C.FAIL): (
        "its sequence number is not above that of the list in force, or the keys changed meanwhile"
    ),
    (_O.GROUP_UPDATE, _C.BAD_PARAMETER): "it approves no configuration, or is no list",
    (_O.GROUP_UPDATE, _C.ENCRYPT_ERROR): "not signed by the group's agent",
    (_O.GROUP_UPDATE, _C.DECRYPT_ERROR): "not signed by the group's agent, or changed since",
    (_O.GROUP_UPDATE, _C.INAPPROPRIATE_SIG): "not signed by the group's agent",
    (_O.GROUP_RECOVER1, _C.FAIL): "the group is open, or has no agent",
    (_O.GROUP_RECOVER2, _C.FAIL): "the group is open, or this answer was not asked for",
    (_O.GROUP_RECOVER2, _C.DECRYPT_ERROR): "what the agent gave back is not the group's key",
    (_O.VTPM_NEW, _C.FAIL): "there is a vTPM with this uuid",
    (_O.VTPM_SHOW, _C.FAIL): "no open group has this vTPM",
    (_O.VTPM_EDIT, _C.FAIL): "no open group has this vTPM",
    (_O.VTPM_EDIT, _C.AUTHFAIL): "the configuration does not give it the right (guests.d: admin)",
    (_O.VTPM_DEL, _C.FAIL): "no open group has this vTPM, or it is open",
    (_O.TRANSPORT_KEY, _C.FAIL): (
        "the group has no agent yet, or the present configuration is none that was approved"
    ),
    (_O.MOVE_EXPORT, _C.FAIL): (
        "it is open, no open group has it, its group has no agent or no transport key yet, or it "
        "leaves for another target"
    ),
    (_O.MOVE_EXPORT, _C.AUTHFAIL): (
        "the approval is missing, is of another move or older than the group's list, or the group "
        "is closed; see the log"
    ),
    (_O.MOVE_EXPORT, _C.BAD_PARAMETER): "the target is not certified, or is this manager",
    **{
        (ordinal, code): "the approval is not signed by the group's agent, or was changed since"
        for ordinal in (_O.MOVE_EXPORT, _O.MOVE_IMPORT, _O.STATE_TARGET_SET)
        for code in (_C.ENCRYPT_ERROR, _C.DECRYPT_ERROR, _C.INAPPROPRIATE_SIG)
    },
    **{
        (ordinal, _C.DISABLED_CMD): "freshness is off here, so a copy could live a second time"
        for ordinal in _O
        if _O.MOVE_EXPORT <= ordinal <= _O.MOVE_ABANDON
    },
    (_O.MOVE_IMPORT, _C.FAIL): "there is a vTPM with this uuid, or it arrives by another move",
    (_O.MOVE_IMPORT, _C.BAD_PARAMETER): (
        "it is for another manager, or for a transport key that this one has no more"
    ),
    (_O.MOVE_IMPORT, _C.AUTHFAIL): "it is not of the source that was approved; see the log",
    (_O.MOVE_RELEASE, _C.FAIL): "it is not leaving",
    (_O.MOVE_RELEASE, _C.AUTHFAIL): "not a receipt of this move, or it is gone with another",
    (_O.MOVE_ACTIVATE, _C.FAIL): "it is not arriving",
    (_O.MOVE_ACTIVATE, _C.AUTHFAIL): "not a release of this import",
    (_O.MOVE_CANCEL, _C.FAIL): "it is not leaving: never was, or is gone",
    (_O.MOVE_ABANDON, _C.FAIL): "it is neither arriving nor gone",
    (_O.STATE_TARGET_SET, _C.FAIL): (
        "no vTPM of this uuid is here, or its group has no agent or no transport key yet"
    ),
    (_O.STATE_TARGET_SET, _C.AUTHFAIL): (
        "the approval is of another move, or older than the group's list; see the log"
    ),
    (_O.STATE_TARGET_SET, _C.BAD_PARAMETER): "the target is not certified, or is this manager",
    (_O.STATE_TARGET_LOCAL, _C.FAIL): "one of the two vTPMs is not here",
    (_O.STATE_TARGET_LOCAL, _C.BAD_PARAMETER): "the two are one, or of different groups",
    (_O.STATE_TARGET_CLEAR, _C.FAIL): "no vTPM of this uuid is here",
    (_O.STATE_TARGET_SHOW, _C.FAIL): "no vTPM of this uuid is here",
    (_O.COUNTER_REKEY, _C.FAIL): "freshness is not bound to a counter",
}

_IN_GENERAL: Final[Mapping[int, str]] = {
    _C.AUTHFAIL: "the group is closed",
    _C.BADINDEX: "there is no such group",
    _C.FAIL: "not now; the group has no agent yet",
    _C.BAD_ORDINAL: "not while the manager can only be recovered",
    _C.IOERROR: "the hardware TPM does not answer",
}


class Refused(DaemonError):
    """The manager answered with a return code.

    Args:
        ordinal: of the command.
        code: a `ManagerCode` or a code of the hardware TPM.
    """

    def __init__(self, ordinal: ManagementOrdinal, code: int) -> None:
        meaning = _MEANINGS.get((ordinal, code)) or _IN_GENERAL.get(code)
        try:
            name = ManagerCode(code).name
        except ValueError:
            name = "code of the hardware TPM"
        why = "" if meaning is None else f": {meaning}"
        super().__init__(f"the manager refuses {ordinal.name}, {name} ({code:#x}){why}")
        self.ordinal = ordinal
        self.code = code


class Admin:
    """A connection to the admin socket."""

    def __init__(self, stream: trio.abc.Stream, path: Path) -> None:
        self._packets = PacketStream(
            stream, path, limit_bytes=_MESSAGE_LIMIT_BYTES, limit_s=ANSWER_LIMIT_S
        )
        self._path = path

    async def send(self, ordinal: ManagementOrdinal, request: Structure) -> None:
        """Send a command whose answer has no body."""
        await self.ask(ordinal, request, Nothing)

    async def ask(self, ordinal: ManagementOrdinal, request: Structure, kind: type[S]) -> S:
        """Send a command and return the answer.

        Raises:
            Refused: it ended with a return code.
            DaemonError: no answer, or not of this protocol.
        """
        response = await self._transact(encode_management(ordinal, request))
        try:
            return decode_answer(response, kind)
        except ManagerRefused as refusal:
            raise Refused(ordinal, refusal.code) from refusal
        except WireError as error:
            raise DaemonError(f"{self._path}: no answer to {ordinal.name}: {error}") from error

    async def read_pcr(self, index: int) -> bytes:
        """Return a PCR of the hardware TPM, 20 bytes."""
        # here: see agent.Agent.begin_recovery
        from tpmcore import tss12

        try:
            return await tss12.converse(self._transact, tss12.pcr_read(index))
        except (TpmError, WireError) as error:
            raise DaemonError(f"PCR {index} cannot be read: {error}") from error

    async def _transact(self, message: bytes) -> bytes:
        try:
            return await self._packets.transact(message)
        except HungUp as error:
            if error.mid_answer:
                raise DaemonError(f"{self._path}: the manager hung up") from error
            raise DaemonError(
                f"{self._path}: the manager hung up; it hears root and its own user only"
            ) from error


@asynccontextmanager
async def open_admin(path: Path) -> AsyncIterator[Admin]:
    """Give a connection to the admin socket.

    Raises:
        DaemonError: nobody listens.
    """
    try:
        stream = await trio.open_unix_socket(os.fspath(path))
    except OSError as error:
        raise DaemonError(f"{path}: the manager does not run ({error.strerror})") from error
    async with stream:
        yield Admin(stream, path)
