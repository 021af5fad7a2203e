# SPDX-License-Identifier: Apache-2.0
"""Admin testing (Part 3, chapter 4)."""

from __future__ import annotations

from typing import Annotated, Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.records import record
from protocol.tpm12.wire import SIZED, Structure
from tpmcore.engine import Duration
from tpmcore.errors import TpmError
from tpmcore.tpm12 import selftest
from tpmcore.tpm12.command import NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.state import SelfTest
from tpmcore.tpm12.tpm import Tpm

_RESULTS: Final = {
    SelfTest.LIMITED: b"self tests: only those that Startup needs",
    SelfTest.FULL: b"self tests: all passed",
    SelfTest.FAILED: b"self tests: failed",
}


def self_test_full(ctx: Context, _request: Nothing) -> Nothing:
    """Run every self test (4.1)."""
    _run(ctx.tpm)
    return NOTHING


def _run(tpm: Tpm) -> None:
    if not selftest.run_all(tpm):
        raise TpmError(ReturnCode.FAILEDSELFTEST)


def continue_self_test(ctx: Context, _request: Nothing) -> Nothing:
    """Run the self tests that are still to be run, or all if FIPS or TPMpost wants it (4.2)."""
    flags = ctx.tpm.permanent.flags
    if flags.fips or flags.tpm_post or ctx.tpm.self_test is not SelfTest.FULL:
        _run(ctx.tpm)
    return NOTHING


@record
class GetTestResultResponse(Structure):
    """outData sized; tells nothing that would single out one TPM."""

    out_data: Annotated[bytes, SIZED]


def get_test_result(ctx: Context, _request: Nothing) -> GetTestResultResponse:
    """Say how the self tests ended (4.3)."""
    return GetTestResultResponse(_RESULTS[ctx.tpm.self_test])


COMMANDS = (
    Command(
        Ordinal.SELF_TEST_FULL,
        source="3:4.1",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=Nothing,
        response=Nothing,
        handler=self_test_full,
        duration=Duration.LONG,
    ),
    Command(
        Ordinal.CONTINUE_SELF_TEST,
        source="3:4.2",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=Nothing,
        response=Nothing,
        handler=continue_self_test,
        duration=Duration.LONG,
    ),
    Command(
        Ordinal.GET_TEST_RESULT,
        source="3:4.3",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS_AND_FAILED,
        request=Nothing,
        response=GetTestResultResponse,
        handler=get_test_result,
        volatile=False,
    ),
)
