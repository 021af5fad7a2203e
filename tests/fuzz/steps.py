# SPDX-License-Identifier: Apache-2.0
"""What a fuzzer does to a TPM, step by step, and the text form that findings are kept in.

One step is one line: kind, number, bytes in hex. Lines that begin with `#` and empty ones do not
count; the first step of a file chooses the chip (`chip 0 6f776e6564` is "owned").
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Kind(enum.Enum):
    """Kinds of steps; what number and data are."""

    CHIP = "chip"
    """data: name of a prepared chip."""
    SEND = "send"
    """number: locality; data: command."""
    ANSWERED = "answered"
    """number: return code of the last command. Of a finding that is kept, so that it cannot come to
    nothing unnoticed when handles or nonces change."""
    POWER_CYCLE = "power-cycle"
    """number: startup type; 0 for none."""
    POWER_ON = "power-on"
    """TPM_Init without a new process; number as for POWER_CYCLE."""
    RESTART = "restart"
    """The daemon is killed and takes both states up again."""
    FAIL_PERSIST = "fail-persist"
    """The next persist fails; number: code, 0 for none."""
    ADVANCE = "advance"
    """number: seconds."""
    HASH_START = "hash-start"
    HASH_DATA = "hash-data"
    HASH_END = "hash-end"
    PRESENCE = "presence"
    """number: 1 if asserted."""
    CAP_PCRS = "cap-pcrs"
    """data: digest."""
    SET_PCR = "set-pcr"
    """number: index; data: value."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step; see Kind."""

    kind: Kind
    number: int = 0
    data: bytes = b""

    @property
    def line(self) -> str:
        """The text form."""
        return f"{self.kind.value} {self.number} {self.data.hex()}".rstrip()


def send(command: bytes, locality: int = 0) -> Step:
    """Return the step of a command."""
    return Step(Kind.SEND, locality, command)


def write_steps(steps: Iterable[Step]) -> str:
    """Return a file of steps."""
    return "".join([f"{step.line}\n" for step in steps])


def read_steps(text: str) -> list[Step]:
    """Parse a file of steps.

    Raises:
        ValueError: a line is none.
    """
    steps = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            kind, number, *data = line.split()
            steps.append(Step(Kind(kind), int(number), bytes.fromhex("".join(data))))
    return steps
