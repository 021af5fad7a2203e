# SPDX-License-Identifier: Apache-2.0
"""The two tables that are the chip.

`TRANSITIONS` is the command machine (TIS 1.2, state diagram of the command FIFO): one FIFO and one
command, owned by the active locality. `ARBITRATION` says what a write to ACCESS does, by how the
writer stands to the active locality. What is not in them has no effect.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from protocol.tis.registers import Access, Sts

# --- the command machine --------------------------------------------------------------------------


class State(enum.Enum):
    """States of the command machine; those of TIS 1.2, with what decides a transition made
    visible."""

    IDLE = "idle"
    READY = "ready"
    RECEPTION = "reception"  # Expect = 1
    RECEIVED = "received"  # Reception with Expect = 0: tpmGo is allowed
    EXECUTION = "execution"
    ABORTING = "aborting"  # still executing; Ready afterwards
    SWITCHING = "switching"  # still executing; the active locality changes afterwards
    COMPLETION = "completion"  # dataAvail = 1
    DRAINED = "drained"  # Completion with all bytes read: responseRetry is allowed
    HASH_BUSY = "hash-busy"  # the TPM works on HASH_START or HASH_DATA
    HASHING = "hashing"  # between HASH_START and HASH_END
    HASH_ENDING = "hash-ending"  # the TPM works on HASH_END, or on a hash command without a start

    # By identity: Enum's own hashes the name in Python, which is felt in every register access.
    __hash__ = object.__hash__


class Event(enum.Enum):
    """What happens to the command machine; writes count only from the active locality."""

    COMMAND_READY = "commandReady written"
    GO = "tpmGo written"
    RETRY = "responseRetry written"
    FIFO_WRITE = "FIFO written"
    FIFO_READ = "FIFO read"
    ALL_RECEIVED = "last byte of the command came"
    ALL_READ = "last byte of the response went"
    FINISHED = "command finished"
    LEAVE = "active locality relinquishes or is seized"
    STAY = "seize withdrawn"
    HASH_START = "HASH_START written"
    HASH_DATA = "HASH_DATA written, no locality active"
    HASH_END = "HASH_END written"
    EVENT_DONE = "TPM took the hash command"
    EVENT_FAILED = "TPM refused the hash command"

    __hash__ = object.__hash__


class Action(enum.Enum):
    """What a transition does besides changing the state."""

    NOTHING = "nothing"
    CLEAR = "clear the FIFO"
    BECOME_READY = "clear the FIFO, commandReady interrupt"
    BEGIN_STORE = "store bytes, stsValid interrupt"
    STORE = "store bytes"
    RUN = "have the command executed"
    CANCEL = "ask for an early end"
    DELIVER = "show the response, dataAvail and stsValid interrupt"
    TAKE = "give bytes"
    SIGNAL_VALID = "stsValid interrupt"
    REWIND = "start of the response again"
    HAND_OVER = "let the next locality have the chip"
    HASH_START = "clear the FIFO, locality 4 active, HASH_START to the TPM"
    HASH_DATA = "bytes to the TPM"
    HASH_END = "HASH_END to the TPM"
    HASH_RELEASE = "locality 4 inactive, next locality"
    WAIT = "hold the access until the TPM is free"
    ABORT_AND_WAIT = "ask for an early end, hold the access until the TPM is free"


TRANSITIONS: Final[Mapping[tuple[State, Event], tuple[State, Action]]] = {
    (State.IDLE, Event.COMMAND_READY): (State.READY, Action.BECOME_READY),
    (State.READY, Event.COMMAND_READY): (State.READY, Action.CLEAR),
    (State.READY, Event.FIFO_WRITE): (State.RECEPTION, Action.BEGIN_STORE),
    (State.READY, Event.LEAVE): (State.IDLE, Action.CLEAR),
    (State.RECEPTION, Event.COMMAND_READY): (State.READY, Action.BECOME_READY),
    (State.RECEPTION, Event.FIFO_WRITE): (State.RECEPTION, Action.STORE),
    (State.RECEPTION, Event.ALL_RECEIVED): (State.RECEIVED, Action.NOTHING),
    (State.RECEPTION, Event.LEAVE): (State.IDLE, Action.CLEAR),
    (State.RECEIVED, Event.COMMAND_READY): (State.READY, Action.BECOME_READY),
    (State.RECEIVED, Event.GO): (State.EXECUTION, Action.RUN),
    (State.RECEIVED, Event.LEAVE): (State.IDLE, Action.CLEAR),
    (State.EXECUTION, Event.COMMAND_READY): (State.ABORTING, Action.CANCEL),
    (State.EXECUTION, Event.FINISHED): (State.COMPLETION, Action.DELIVER),
    (State.EXECUTION, Event.LEAVE): (State.SWITCHING, Action.CANCEL),
    (State.ABORTING, Event.FINISHED): (State.READY, Action.BECOME_READY),
    (State.ABORTING, Event.LEAVE): (State.SWITCHING, Action.NOTHING),
    (State.SWITCHING, Event.FINISHED): (State.IDLE, Action.HAND_OVER),
    (State.SWITCHING, Event.STAY): (State.ABORTING, Action.NOTHING),
    (State.COMPLETION, Event.COMMAND_READY): (State.READY, Action.BECOME_READY),
    (State.COMPLETION, Event.FIFO_READ): (State.COMPLETION, Action.TAKE),
    (State.COMPLETION, Event.ALL_READ): (State.DRAINED, Action.SIGNAL_VALID),
    (State.COMPLETION, Event.RETRY): (State.COMPLETION, Action.REWIND),
    (State.COMPLETION, Event.LEAVE): (State.IDLE, Action.CLEAR),
    (State.DRAINED, Event.COMMAND_READY): (State.READY, Action.BECOME_READY),
    (State.DRAINED, Event.RETRY): (State.COMPLETION, Action.REWIND),
    (State.DRAINED, Event.LEAVE): (State.IDLE, Action.CLEAR),
    # Active locality IDLE: LEAVE has nothing to clear, but it must be allowed.
    (State.IDLE, Event.LEAVE): (State.IDLE, Action.NOTHING),
    # The hash sequence of a dynamic launch. It cannot be left but by HASH_END: the processor sends
    # it as one, so LEAVE has no row in its states.
    (State.IDLE, Event.HASH_START): (State.HASH_BUSY, Action.HASH_START),
    (State.READY, Event.HASH_START): (State.HASH_BUSY, Action.HASH_START),
    (State.RECEPTION, Event.HASH_START): (State.HASH_BUSY, Action.HASH_START),
    (State.RECEIVED, Event.HASH_START): (State.HASH_BUSY, Action.HASH_START),
    (State.COMPLETION, Event.HASH_START): (State.HASH_BUSY, Action.HASH_START),
    (State.DRAINED, Event.HASH_START): (State.HASH_BUSY, Action.HASH_START),
    (State.HASHING, Event.HASH_START): (State.HASH_BUSY, Action.HASH_START),
    (State.EXECUTION, Event.HASH_START): (State.ABORTING, Action.ABORT_AND_WAIT),
    (State.ABORTING, Event.HASH_START): (State.ABORTING, Action.WAIT),
    (State.SWITCHING, Event.HASH_START): (State.SWITCHING, Action.WAIT),
    (State.HASH_BUSY, Event.HASH_START): (State.HASH_BUSY, Action.WAIT),
    (State.HASH_ENDING, Event.HASH_START): (State.HASH_ENDING, Action.WAIT),
    (State.HASHING, Event.HASH_DATA): (State.HASH_BUSY, Action.HASH_DATA),
    (State.HASH_BUSY, Event.HASH_DATA): (State.HASH_BUSY, Action.WAIT),
    (State.HASH_ENDING, Event.HASH_DATA): (State.HASH_ENDING, Action.WAIT),
    (State.SWITCHING, Event.HASH_DATA): (State.SWITCHING, Action.WAIT),
    (State.HASHING, Event.HASH_END): (State.HASH_ENDING, Action.HASH_END),
    (State.HASH_BUSY, Event.HASH_END): (State.HASH_BUSY, Action.WAIT),
    (State.HASH_ENDING, Event.HASH_END): (State.HASH_ENDING, Action.WAIT),
    (State.SWITCHING, Event.HASH_END): (State.SWITCHING, Action.WAIT),
    (State.ABORTING, Event.HASH_END): (State.ABORTING, Action.WAIT),
    (State.EXECUTION, Event.HASH_END): (State.EXECUTION, Action.WAIT),
    # Without a start the TPM must hear of it all the same: it goes into failure mode.
    (State.IDLE, Event.HASH_DATA): (State.HASH_ENDING, Action.HASH_DATA),
    (State.IDLE, Event.HASH_END): (State.HASH_ENDING, Action.HASH_END),
    (State.READY, Event.HASH_END): (State.HASH_ENDING, Action.HASH_END),
    (State.RECEPTION, Event.HASH_END): (State.HASH_ENDING, Action.HASH_END),
    (State.RECEIVED, Event.HASH_END): (State.HASH_ENDING, Action.HASH_END),
    (State.COMPLETION, Event.HASH_END): (State.HASH_ENDING, Action.HASH_END),
    (State.DRAINED, Event.HASH_END): (State.HASH_ENDING, Action.HASH_END),
    (State.HASH_BUSY, Event.EVENT_DONE): (State.HASHING, Action.NOTHING),
    (State.HASH_BUSY, Event.EVENT_FAILED): (State.IDLE, Action.HASH_RELEASE),
    (State.HASH_ENDING, Event.EVENT_DONE): (State.IDLE, Action.HASH_RELEASE),
    (State.HASH_ENDING, Event.EVENT_FAILED): (State.IDLE, Action.HASH_RELEASE),
}

STATUS_BYTE: Final[Mapping[State, int]] = {
    State.IDLE: 0,
    State.READY: int(Sts.COMMAND_READY),
    State.RECEPTION: int(Sts.VALID | Sts.EXPECT),
    State.RECEIVED: int(Sts.VALID),
    State.EXECUTION: 0,
    State.ABORTING: 0,
    State.SWITCHING: 0,
    State.COMPLETION: int(Sts.VALID | Sts.DATA_AVAIL),
    State.DRAINED: int(Sts.VALID),
    State.HASH_BUSY: 0,
    State.HASHING: 0,
    State.HASH_ENDING: 0,
}
"""Lowest byte of STS. Ready is 0x40 without stsValid, by which drivers recognise an abort."""

EXECUTING: Final = frozenset((State.EXECUTION, State.ABORTING, State.SWITCHING))
"""The TPM works on a command."""

HASH_STATES: Final = frozenset((State.HASH_BUSY, State.HASHING, State.HASH_ENDING))

UNSETTLED: Final = HASH_STATES | {State.SWITCHING}
"""If no locality is active in these, none can become active yet."""

# --- arbitration of the localities ----------------------------------------------------------------


class AccessWrite(enum.Enum):
    """The bit of ACCESS that a write acts on."""

    REQUEST = Access.REQUEST_USE
    RELINQUISH = Access.ACTIVE_LOCALITY
    SEIZE = Access.SEIZE

    __hash__ = object.__hash__


class Holder(enum.Enum):
    """Who has the chip, seen by the locality that writes."""

    NOBODY = "nobody"
    NOBODY_YET = "nobody, but the chip is not free yet"
    SELF = "the writer"
    LOWER = "a locality below the writer"
    HIGHER = "a locality above the writer"

    __hash__ = object.__hash__


class Ruling(enum.Enum):
    """What a write to ACCESS does."""

    NOTHING = "nothing"
    GRANT = "active at once"
    GRANT_SEIZED = "active at once, localityChange interrupt"
    QUEUE = "requestUse stays set until it is granted"
    RELEASE = "gives the chip up"
    WITHDRAW = "its request and seize are dropped"
    AIM = "gets the chip when the aborted command has ended"
    PREEMPT = "takes the chip from its holder"


ARBITRATION: Final[Mapping[tuple[AccessWrite, Holder], Ruling]] = {
    (AccessWrite.REQUEST, Holder.NOBODY): Ruling.GRANT,
    (AccessWrite.REQUEST, Holder.NOBODY_YET): Ruling.QUEUE,
    (AccessWrite.REQUEST, Holder.SELF): Ruling.NOTHING,
    (AccessWrite.REQUEST, Holder.LOWER): Ruling.QUEUE,
    (AccessWrite.REQUEST, Holder.HIGHER): Ruling.QUEUE,
    (AccessWrite.RELINQUISH, Holder.NOBODY): Ruling.WITHDRAW,
    (AccessWrite.RELINQUISH, Holder.NOBODY_YET): Ruling.WITHDRAW,
    (AccessWrite.RELINQUISH, Holder.SELF): Ruling.RELEASE,
    (AccessWrite.RELINQUISH, Holder.LOWER): Ruling.WITHDRAW,
    (AccessWrite.RELINQUISH, Holder.HIGHER): Ruling.WITHDRAW,
    (AccessWrite.SEIZE, Holder.NOBODY): Ruling.GRANT_SEIZED,
    (AccessWrite.SEIZE, Holder.NOBODY_YET): Ruling.AIM,
    (AccessWrite.SEIZE, Holder.SELF): Ruling.NOTHING,
    (AccessWrite.SEIZE, Holder.LOWER): Ruling.PREEMPT,
    (AccessWrite.SEIZE, Holder.HIGHER): Ruling.NOTHING,
}
