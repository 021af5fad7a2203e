# SPDX-License-Identifier: Apache-2.0
"""The interface between a TPM and the daemon that hosts it.

A daemon gives the engine a command or an event and gets a *step*: either the final answer, or an
effect that it must perform and whose result it hands to `resume`, which gives the next step. The
answer exists only after the effects are done, so a client never holds a success that a crash could
undo.

Nothing in this module assumes a TPM version beyond the ten-byte header (tag, size, code).
"""

from __future__ import annotations

import enum
from typing import Final, Protocol

from protocol.tpm12.records import record


class Duration(enum.Enum):
    """How long a command takes here: a daemon runs SHORT ones inline, others in a thread.

    SHORT is below a millisecond, which includes one RSA-2048 private operation (0.3 ms). MEDIUM
    is a few milliseconds, LONG may search for primes. These are not the classes by which a TPM's
    clients wait (PROP_DURATION): those are the specification's and far apart.
    """

    SHORT = "short"
    MEDIUM = "medium"
    LONG = "long"


@record
class Persist:
    """Make the permanent state durable.

    Attributes:
        state: the whole permanent state in its canonical format, secrets in the clear.
    """

    state: bytes

    def __repr__(self) -> str:
        return f"Persist(<{len(self.state)} bytes>)"


@record
class ParentQuote:
    """Have the parent TPM sign data of this TPM (TPM_ORD_DeepQuote, TPM_ORD_ParentSignEK of Xen).

    Attributes:
        extern_data: 20 bytes for the parent's quote.
        pcr_selection: encoded TPM_PCR_SELECTION of the parent's PCRs.
        flags: extraInfoFlags of the manager's GET_QUOTE.
    """

    extern_data: bytes
    pcr_selection: bytes
    flags: int


Effect = Persist | ParentQuote
"""Closed set; end a match over it with assert_never."""


@record
class Done:
    """The effect is performed; `data` is what it brought (empty for Persist)."""

    data: bytes = b""


@record
class Failed:
    """The effect was certainly not performed: the command ends in an error.

    After a Persist the engine goes back to the state before the command; after a ParentQuote there
    is nothing to take back.

    Attributes:
        code: return code that the client is told, if the parent gave one; None leaves it to the
            engine.
    """

    code: int | None = None


EffectResult = Done | Failed


@record
class PowerOn:
    """Hardware reset (TPM_Init): everything volatile is lost, Startup is awaited."""


@record
class HashStart:
    """Locality 4 begins the hash sequence of a dynamic launch (TIS, TPM_HASH_START)."""


@record
class HashData:
    """Bytes of the hash sequence."""

    data: bytes


@record
class HashEnd:
    """End of the hash sequence: PCR 17 gets the measurement."""


@record
class ResetEstablished:
    """The platform resets the flag that `HashStart` set, as from a locality: one of those that a
    launched environment has, 3 or 4."""

    locality: int


@record
class PhysicalPresence:
    """The platform's hardware signal of physical presence changed."""

    asserted: bool


@record
class CapPcrs:
    """Extend PCRs 0-7 with `digest` (20 bytes): the record of what was measured is gone (see DESIGN
    of restarts)."""

    digest: bytes


@record
class SetPcr:
    """Give a PCR a value from outside (`--hwinitpcr`); only between Startup and the first
    command."""

    index: int
    value: bytes


@record
class PcrBank:
    """All PCRs of one hash algorithm.

    Attributes:
        algorithm: name of the hash, such as "sha1".
        values: by PCR index, each as long as the hash.
        changed: indices whose value is not the one of a power-on, ascending.
    """

    algorithm: str
    values: tuple[bytes, ...]
    changed: tuple[int, ...]


@record
class Snapshot:
    """How a TPM is, for those who look after it.

    Attributes:
        owned: whether somebody has taken ownership.
        banks: its PCRs.
        flags: what is to be said of its state, a few words each, such as "disabled".
    """

    owned: bool
    banks: tuple[PcrBank, ...]
    flags: tuple[str, ...]


@record
class Exchange:
    """What a command and its response are called, for the log; nothing of their content.

    Attributes:
        command: name of the command, or its number.
        code: name of the return code, or its number.
        refused: whether the client was denied what only others may do (wrong authorization, locked
            out, another locality).
    """

    command: str
    code: str
    refused: bool


HEADER_BYTES: Final = 10
"""Of every command and response: u16 tag, u32 size of the whole, u32 ordinal or return code."""


@record
class Field:
    """A parameter of a command or response, for people to read.

    Attributes:
        name: that of the specification.
        value: what it is if it may be shown, else only how long it is ("<256 bytes>"); or the
            fields of a structure.
    """

    name: str
    value: str | tuple[Field, ...]


@record
class SessionUse:
    """An authorization session that a command names.

    Attributes:
        handle: as it is written.
        continues: whether the session is to go on after the command.
    """

    handle: str
    continues: bool


@record
class Description:
    """A command and its response, for those who watch. Nothing in it is secret.

    Attributes:
        command: name of the command, or its number.
        code: name of the return code, or its number.
        parameters: of the command; none of what does not parse.
        results: parameters of the response; none if it is an error.
        sessions: in the order of the command.
        shown_command: the command, as long as it was, with zeros for all that `parameters` does not
            show the value of.
        shown_response: the response, likewise.
    """

    command: str
    code: str
    parameters: tuple[Field, ...]
    results: tuple[Field, ...]
    sessions: tuple[SessionUse, ...]
    shown_command: bytes
    shown_response: bytes


def header_only(message: bytes) -> bytes:
    """Return a message of any bytes with zeros for everything that is no header."""
    if len(message) < HEADER_BYTES:
        return bytes(len(message))
    return message[:HEADER_BYTES] + bytes(len(message) - HEADER_BYTES)


Event = (
    PowerOn
    | HashStart
    | HashData
    | HashEnd
    | ResetEstablished
    | PhysicalPresence
    | CapPcrs
    | SetPcr
)


@record
class EventDone:
    """Final step of an event.

    Attributes:
        code: 0, or the TPM error that the event ended in.
    """

    code: int


Step = bytes | EventDone | Effect
"""`bytes` is the response to a command, `EventDone` the end of an event, an effect anything still
to be done."""


class RandomSource(Protocol):
    """Randomness of the TPM (nonces, keys, GetRandom)."""

    def random(self, size_bytes: int) -> bytes:
        """Return exactly `size_bytes` unpredictable bytes."""

    def stir(self, data: bytes) -> None:
        """Mix `data` in (TPM_StirRandom); never lowers the quality."""


class TickSource(Protocol):
    """A monotonic clock."""

    def ticks_us(self) -> int:
        """Return microseconds since some fixed moment; never runs backwards."""


class KeySource(Protocol):
    """Where new RSA keys come from."""

    def generate(self, bits: int, exponent: int) -> tuple[int, int]:
        """Return two primes p, q whose product has exactly `bits` bits, (p-1)(q-1) coprime to
        `exponent`."""


class Engine(Protocol):
    """One TPM. One command or event at a time; while a step is pending only `cancel` is accepted.

    No input makes `execute` raise: the worst command gets a ten-byte TPM error response. Any
    exception is a bug and leaves the engine in failure mode.
    """

    def execute(self, command: bytes, locality: int) -> Step:
        """Run one command as received (any bytes) from a locality."""

    def handle(self, event: Event) -> Step:
        """Take an event that is no command."""

    def resume(self, result: EffectResult) -> Step:
        """Go on after an effect."""

    def cancel(self) -> None:
        """Ask that the command under way ends early; may be called from any thread, may have no
        effect."""

    def duration(self, command: bytes) -> Duration:
        """Say how long this command may take; any bytes are accepted."""

    def permanent_state(self) -> bytes:
        """Return the permanent state in its canonical format."""

    def volatile_state(self) -> bytes:
        """Return what must survive a restart of the daemon: PCRs, flags, sessions, loaded keys."""

    def snapshot(self) -> Snapshot:
        """Return how the TPM is; it takes no notice of it: no ticks, sessions, audit, transports.

        May be called at any time, also while a step is pending or another thread executes: then
        some parts may be from before that command and others from after it.
        """

    def exchange(self, command: bytes, response: bytes) -> Exchange:
        """Name a command and its response; any bytes are accepted, the TPM takes no notice."""

    def describe(self, command: bytes, response: bytes) -> Description:
        """Say what a command and its response are, without their secrets.

        Any bytes are accepted, and the TPM takes no notice: it depends on nothing but these bytes.
        May be called at any time, also while a step is pending or another thread executes.
        """

    @property
    def fault(self) -> Exception | None:
        """What put the engine into failure mode, if a fault of its own did; for the daemon's log,
        without its message, which may quote a command."""

    @property
    def is_established(self) -> bool:
        """Whether there was a dynamic launch (`HashStart`) since the flag was reset."""

    @property
    def volatile_version(self) -> int:
        """A number that grows whenever `volatile_state` may have changed."""
