# SPDX-License-Identifier: Apache-2.0
"""Monotonic counters (Part 3, 25)."""

from __future__ import annotations

from protocol.tpm12.constants import Ordinal
from protocol.tpm12.records import record
from protocol.tpm12.resources import CounterValue
from protocol.tpm12.wire import U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, Session, execute, nothing
from tpmcore.tss12.sessions import encrypt_secret, osap_owner, prove, with_secret


@record
class NewCounter:
    """A counter that was just made."""

    count_id: int
    value: CounterValue


def create_counter(
    *, owner_auth: bytes, counter_auth: bytes, label: bytes, random: RandomSource
) -> Conversation[NewCounter]:
    """Make a counter (25.1); it begins one above the highest value any counter ever had.

    Args:
        counter_auth: its secret, 20 bytes.
        label: 4 bytes.
    """

    def parse(reader: Reader) -> NewCounter:
        return NewCounter(reader.u32("countID"), CounterValue.read(reader))

    session = yield from osap_owner(owner_auth, random=random)
    return (
        yield from execute(
            Ordinal.CREATE_COUNTER,
            parse,
            parameters=encrypt_secret(session, counter_auth) + label,
            auths=(prove(session, random),),
        )
    )


def increment_counter(
    count_id: int, *, counter_auth: bytes, random: RandomSource, session: Session | None = None
) -> Conversation[CounterValue]:
    """Add one (25.2); the first counter incremented is the only one until Startup(CLEAR)."""
    return with_secret(
        Ordinal.INCREMENT_COUNTER,
        CounterValue.read,
        counter_auth,
        random=random,
        session=session,
        parameters=U32.write(count_id),
    )


def read_counter(count_id: int) -> Conversation[CounterValue]:
    """Return label and value (25.3)."""
    return execute(Ordinal.READ_COUNTER, CounterValue.read, parameters=U32.write(count_id))


def release_counter(
    count_id: int, *, counter_auth: bytes, random: RandomSource
) -> Conversation[None]:
    """Give a counter up, with its own secret (25.4)."""
    return with_secret(
        Ordinal.RELEASE_COUNTER,
        nothing,
        counter_auth,
        random=random,
        parameters=U32.write(count_id),
    )


def release_counter_owner(
    count_id: int, *, owner_auth: bytes, random: RandomSource
) -> Conversation[None]:
    """Give a counter up as owner (25.5)."""
    return with_secret(
        Ordinal.RELEASE_COUNTER_OWNER,
        nothing,
        owner_auth,
        random=random,
        parameters=U32.write(count_id),
    )
