# SPDX-License-Identifier: Apache-2.0
"""Admin startup and state (Part 3, chapter 3), and TPM_Init."""

from __future__ import annotations

from typing import Annotated

from protocol.tpm12.constants import COUNT_ID_NULL, Ordinal, ReturnCode, StartupType
from protocol.tpm12.records import record
from protocol.tpm12.wire import U16, Structure, WireError
from tpmcore.engine import Duration
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.pcrs import RESETTABLE, initial_pcrs
from tpmcore.tpm12.state import SelfTest, StanyState, StclearState
from tpmcore.tpm12.stateformat import VolatileState, decode_volatile, encode_volatile
from tpmcore.tpm12.tpm import Tpm


def power_on(tpm: Tpm) -> None:
    """Do what TPM_Init does: everything volatile is lost and a new tick session begins (4.13.1)."""
    for area in tpm.permanent.nv.values():
        area.read_st_clear = area.write_st_clear = False
    tpm.stclear = StclearState(pcrs=initial_pcrs())
    tpm.stany = StanyState(tick_nonce=tpm.new_nonce(), tick_base_us=tpm.world.ticks.ticks_us())
    tpm.self_test = SelfTest.LIMITED
    tpm.sha1_thread = None
    tpm.hash_sequence = None


@record
class StartupRequest(Structure):
    """startupType u16."""

    startup_type: Annotated[int, U16]


def startup(ctx: Context, request: StartupRequest) -> Nothing:
    """Take the TPM out of postInitialise (3.2)."""
    tpm = ctx.tpm
    if tpm.self_test is SelfTest.FAILED:
        raise _failed(tpm)
    if request.startup_type == StartupType.CLEAR:
        _clear(tpm)
    elif request.startup_type == StartupType.STATE:
        _restore_saved(tpm)
    elif request.startup_type == StartupType.DEACTIVATED:
        tpm.end_all_sessions()
        tpm.stclear.flags.deactivated = True
        tpm.stclear.keys = dict(tpm.permanent.owner_evict_keys)
    else:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    tpm.stany.tos_present = False
    tpm.stany.transport_exclusive = 0
    tpm.stany.post_initialise = False
    tpm.permanent.saved_state = b""
    return NOTHING


def _failed(tpm: Tpm) -> TpmError:
    """Enter failure mode, started up, so that GetTestResult and GetCapability answer (4.16)."""
    tpm.self_test = SelfTest.FAILED
    tpm.stany.post_initialise = False
    return TpmError(ReturnCode.FAILEDSELFTEST)


def _clear(tpm: Tpm) -> None:
    """Startup(ST_CLEAR): STCLEAR and STANY data start anew, the tick session goes on (4.13.2)."""
    permanent, before = tpm.permanent, tpm.stany
    tpm.stclear = StclearState(pcrs=initial_pcrs(), count_id=COUNT_ID_NULL)
    tpm.stclear.flags.deactivated = permanent.flags.deactivated
    tpm.stclear.keys = dict(permanent.owner_evict_keys)
    tpm.stany = StanyState(tick_nonce=before.tick_nonce, tick_base_us=before.tick_base_us)
    for area in permanent.nv.values():
        area.read_st_clear = area.write_st_clear = False


def _restore_saved(tpm: Tpm) -> None:
    """Startup(ST_STATE): what SaveState kept, with resettable PCRs at their initial values."""
    before = tpm.stany
    if not tpm.permanent.saved_state:
        raise _failed(tpm)
    try:
        state = decode_volatile(
            tpm.permanent.saved_state, tpm.permanent, tpm.world.ticks.ticks_us()
        )
    except WireError:
        raise _failed(tpm) from None
    tpm.stclear, tpm.stany = state.stclear, state.stany
    tpm.stany.tick_nonce, tpm.stany.tick_base_us = before.tick_nonce, before.tick_base_us
    initial = initial_pcrs()
    for index in RESETTABLE:
        tpm.stclear.pcrs[index] = initial[index]


def save_state(ctx: Context, _request: Nothing) -> Nothing:
    """Keep the volatile state for a Startup(ST_STATE); any other ordinal but Startup drops it
    (3.3)."""
    tpm = ctx.tpm
    if ctx.transport is not None:
        # The response of ExecuteTransport would not fit the state that was saved.
        raise TpmError(ReturnCode.NO_WRAP_TRANSPORT)
    state = VolatileState(tpm.stclear, tpm.stany, tpm.self_test, tpm.hardware_presence)
    tpm.permanent.saved_state = encode_volatile(state, tpm.permanent, tpm.world.ticks.ticks_us())
    return NOTHING


COMMANDS = (
    Command(
        Ordinal.STARTUP,
        source="3:3.2",
        auth_blocks=NO_AUTH,
        gate=Gate.STARTUP,
        request=StartupRequest,
        response=Nothing,
        handler=startup,
        persists=True,
    ),
    Command(
        Ordinal.SAVE_STATE,
        source="3:3.3",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=Nothing,
        response=Nothing,
        handler=save_state,
        duration=Duration.MEDIUM,
        persists=True,
        volatile=False,
    ),
)
