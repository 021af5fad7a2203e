# SPDX-License-Identifier: Apache-2.0
"""Direct anonymous attestation (Part 3, chapter 26): TPM_DAA_Join and TPM_DAA_Sign.

Both are called once per stage, 25 and 16 times for one credential and one signature. Stage 0 gives
a session its slot; an error in any later stage ends it.
"""

from __future__ import annotations

from typing import Annotated

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.records import record
from protocol.tpm12.wire import SIZED, U8, U32, Structure
from tpmcore.engine import Duration
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH1, Command, Gate
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.daa_join import JOIN
from tpmcore.tpm12.daa_sign import SIGN
from tpmcore.tpm12.daa_stages import Protocol


@record(repr=False)
class DaaRequest(Structure):
    """handle u32, stage u8, inputData0 sized, inputData1 sized."""

    handle: Annotated[int, U32]
    stage: Annotated[int, U8]
    input_data0: Annotated[bytes, SIZED]
    input_data1: Annotated[bytes, SIZED]


@record(repr=False)
class DaaResponse(Structure):
    """outputData sized; of stage 0 the handle, which is in the digest here."""

    output_data: Annotated[bytes, SIZED]


def daa_join(ctx: Context, request: DaaRequest) -> DaaResponse:
    """Do one stage of getting a credential from an issuer (26.1)."""
    return _run(ctx, request, JOIN)


def daa_sign(ctx: Context, request: DaaRequest) -> DaaResponse:
    """Do one stage of proving that there is a credential, without showing it (26.2)."""
    return _run(ctx, request, SIGN)


def _run(ctx: Context, request: DaaRequest, protocol: Protocol) -> DaaResponse:
    if not request.stage:
        ctx.authorize_owner()
        return DaaResponse(_begin(ctx, request, protocol))
    sessions = ctx.tpm.stany.daa_sessions
    try:
        ctx.authorize_owner()
        session = sessions.get(request.handle)
        if session is None:
            raise TpmError(ReturnCode.BAD_HANDLE)
        if session.stage != request.stage:
            raise TpmError(ReturnCode.DAA_STAGE)
        output = protocol.run(ctx.tpm, session, request.input_data0, request.input_data1)
    except TpmError:
        sessions.pop(request.handle, None)
        raise
    return DaaResponse(output)


def _begin(ctx: Context, request: DaaRequest, protocol: Protocol) -> bytes:
    tpm = ctx.tpm
    if tpm.free_daa_slots <= 0:
        raise TpmError(ReturnCode.RESOURCES)
    session = protocol.begin(request.input_data0)
    sessions = tpm.stany.daa_sessions
    session.handle = tpm.new_handle(sessions.__contains__)
    sessions[session.handle] = session
    return U32.write(session.handle)


COMMANDS = (
    Command(
        Ordinal.DAA_JOIN,
        source="3:26.1",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=DaaRequest,
        response=DaaResponse,
        handler=daa_join,
        handles_in=4,
        duration=Duration.MEDIUM,
        # A chip of a version without DAA gets its secrets when a Join first needs them.
        persists=True,
        persists_in=lambda permanent: permanent.daa is None,
        owner_bit=23,
    ),
    Command(
        Ordinal.DAA_SIGN,
        source="3:26.2",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=DaaRequest,
        response=DaaResponse,
        handler=daa_sign,
        handles_in=4,
        duration=Duration.MEDIUM,
        owner_bit=0,
    ),
)
