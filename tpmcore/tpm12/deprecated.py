# SPDX-License-Identifier: Apache-2.0
"""Deprecated commands (Part 3, chapter 27) without a chapter of their own: the DIR of TPM 1.1.

Its one register is the NV index DIR, too.
"""

from __future__ import annotations

from typing import Annotated, Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, U32, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12.capability import DIR_COUNT
from tpmcore.tpm12.command import AUTH1, NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context


@record
class DirWriteAuthRequest(Structure):
    """dirIndex u32, newContents 20."""

    dir_index: Annotated[int, U32]
    new_contents: Annotated[bytes, DIGEST]


def dir_write_auth(ctx: Context, request: DirWriteAuthRequest) -> Nothing:
    """Write the data integrity register as owner (27.3.1)."""
    ctx.authorize_owner()
    _check_index(request.dir_index)
    ctx.tpm.permanent.auth_dir = request.new_contents
    return NOTHING


def _check_index(index: int) -> None:
    if index >= DIR_COUNT:
        raise TpmError(ReturnCode.BADINDEX)


@record
class DirReadRequest(Structure):
    """dirIndex u32."""

    dir_index: Annotated[int, U32]


@record
class DirReadResponse(Structure):
    """dirContents 20."""

    dir_contents: Annotated[bytes, DIGEST]


def dir_read(ctx: Context, request: DirReadRequest) -> DirReadResponse:
    """Read the data integrity register (27.3.2)."""
    _check_index(request.dir_index)
    return DirReadResponse(ctx.tpm.permanent.auth_dir)


COMMANDS: Final = (
    Command(
        Ordinal.DIR_WRITE_AUTH,
        source="3:27.3.1",
        auth_blocks=AUTH1,
        gate=Gate.ENABLED_ACTIVATED,
        request=DirWriteAuthRequest,
        response=Nothing,
        handler=dir_write_auth,
        persists=True,
        owner_bit=29,
    ),
    Command(
        Ordinal.DIR_READ,
        source="3:27.3.2",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=DirReadRequest,
        response=DirReadResponse,
        handler=dir_read,
        volatile=False,
    ),
)
