# SPDX-License-Identifier: Apache-2.0
"""Monotonic counters (Part 3, chapter 25). A countID is the number of a slot."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

from protocol.tpm12.constants import (
    COUNT_ID_ILLEGAL,
    COUNT_ID_NULL,
    Ordinal,
    ProtocolId,
    ReturnCode,
)
from protocol.tpm12.records import record
from protocol.tpm12.resources import CounterValue
from protocol.tpm12.wire import DIGEST, U32, FixedBytes, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH1, NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import OSAP_ONLY, Context, Entity
from tpmcore.tpm12.state import Counter, EntityKind
from tpmcore.tpm12.tpm import Tpm

MAX_VALUE: Final = 0xFFFFFFFF


@record
class CreateCounterRequest(Structure):
    """encAuth 20, label 4."""

    enc_auth: Annotated[bytes, DIGEST]
    label: Annotated[bytes, FixedBytes(4)]


@record
class CreateCounterResponse(Structure):
    """countID u32, counterValue."""

    count_id: Annotated[int, U32]
    counter_value: CounterValue


def create_counter(ctx: Context, request: CreateCounterRequest) -> CreateCounterResponse:
    """Make a counter that begins above every value there ever was (25.1)."""
    counters = ctx.tpm.permanent.counters
    ctx.authorize_owner(0, OSAP_ONLY)
    auth = ctx.decrypt_secret(0, request.enc_auth)
    value = max([counter.value for counter in counters]) + 1
    free = [i for i, counter in enumerate(counters) if not counter.valid]
    if not free or value > MAX_VALUE:
        raise TpmError(ReturnCode.RESOURCES)
    ctx.end_session(0)
    counter = Counter(True, request.label, value, auth, ctx.tpm.new_nonce())
    counters[free[0]] = counter
    return CreateCounterResponse(free[0], _value(counter))


def _value(counter: Counter) -> CounterValue:
    return CounterValue(counter.label, counter.value)


def _find(tpm: Tpm, count_id: int) -> Counter:
    counters = tpm.permanent.counters
    if count_id >= len(counters) or not counters[count_id].valid:
        raise TpmError(ReturnCode.BAD_COUNTER)
    return counters[count_id]


def _authorize(ctx: Context, counter: Counter) -> None:
    ctx.authorize(0, Entity(EntityKind.COUNTER, counter.auth, counter.entity_digest))


@record
class CounterRequest(Structure):
    """countID u32."""

    count_id: Annotated[int, U32]


@record
class CounterResponse(Structure):
    """counterValue."""

    counter_value: CounterValue


def increment_counter(ctx: Context, request: CounterRequest) -> CounterResponse:
    """Add one; the first counter incremented after Startup(CLEAR) is the only one (25.2)."""
    stclear = ctx.tpm.stclear
    if stclear.count_id not in (COUNT_ID_NULL, request.count_id):
        raise TpmError(ReturnCode.BAD_COUNTER)
    counter = _find(ctx.tpm, request.count_id)
    _authorize(ctx, counter)
    if counter.value >= MAX_VALUE:
        # A counter never goes back: one that is at its end can only be released.
        raise TpmError(ReturnCode.BAD_COUNTER)
    stclear.count_id = request.count_id
    counter = replace(counter, value=counter.value + 1)
    ctx.tpm.permanent.counters[request.count_id] = counter
    return CounterResponse(_value(counter))


def read_counter(ctx: Context, request: CounterRequest) -> CounterResponse:
    """Return label and value (25.3)."""
    return CounterResponse(_value(_find(ctx.tpm, request.count_id)))


def release_counter(ctx: Context, request: CounterRequest) -> Nothing:
    """Give a counter up with its own secret (25.4)."""
    counter = _find(ctx.tpm, request.count_id)
    _authorize(ctx, counter)
    if ctx.session_of(0).protocol != ProtocolId.OIAP:
        # The session was bound to what is gone now.
        ctx.end_session(0)
    _release(ctx.tpm, request.count_id, counter)
    return NOTHING


def release_counter_owner(ctx: Context, request: CounterRequest) -> Nothing:
    """Give a counter up with the owner's secret (25.5)."""
    ctx.authorize_owner()
    _release(ctx.tpm, request.count_id, _find(ctx.tpm, request.count_id))
    return NOTHING


def _release(tpm: Tpm, count_id: int, counter: Counter) -> None:
    """Free a slot (4.12)."""
    tpm.end_entity_sessions(EntityKind.COUNTER, counter.entity_digest)
    tpm.permanent.counters[count_id] = counter.released()
    if tpm.stclear.count_id == count_id:
        tpm.stclear.count_id = COUNT_ID_ILLEGAL


COMMANDS = (
    Command(
        Ordinal.CREATE_COUNTER,
        source="3:25.1",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CreateCounterRequest,
        response=CreateCounterResponse,
        handler=create_counter,
        persists=True,
        owner_bit=4,
    ),
    Command(
        Ordinal.INCREMENT_COUNTER,
        source="3:25.2",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CounterRequest,
        response=CounterResponse,
        handler=increment_counter,
        persists=True,
    ),
    Command(
        Ordinal.READ_COUNTER,
        source="3:25.3",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=CounterRequest,
        response=CounterResponse,
        handler=read_counter,
        volatile=False,
    ),
    Command(
        Ordinal.RELEASE_COUNTER,
        source="3:25.4",
        auth_blocks=AUTH1,
        gate=Gate.ENABLED_ACTIVATED,
        request=CounterRequest,
        response=Nothing,
        handler=release_counter,
        persists=True,
    ),
    Command(
        Ordinal.RELEASE_COUNTER_OWNER,
        source="3:25.5",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=CounterRequest,
        response=Nothing,
        handler=release_counter_owner,
        persists=True,
        owner_bit=3,
    ),
)
