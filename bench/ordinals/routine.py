# SPDX-License-Identifier: Apache-2.0
"""What is repeated to measure commands, and the RSA work that is known to be in each."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bench.ordinals.chip import TimedChip
from protocol.tpm12.constants import Ordinal


class Rsa(enum.Enum):
    """An RSA operation of 2048 bits, and the two of the self test together.

    For a loaded key the library has computed before what it needs (blinding values, Montgomery
    forms), which costs as much as the operation. Those with "a new key" are with one that is made
    by the command, so building it and all this is in them. The engine keeps the public keys that it
    was given last, so those of a routine are new to it once.
    """

    SIGN = "sign with a loaded key"
    DECRYPT = "decrypt OAEP with a loaded key"
    SIGN_WITH_NEW = "sign with a new key"
    DECRYPT_WITH_NEW = "decrypt OAEP with a new key"
    ENCRYPT = "encrypt OAEP with a key that was used before"
    VERIFY = "verify with a key that was used before"
    SELF_TEST = "build a key of 1024 bits, sign and decrypt with it"

    @property
    def is_private(self) -> bool:
        """Whether it needs the private part."""
        return self not in (Rsa.ENCRYPT, Rsa.VERIFY)


class Behind(enum.Enum):
    """What ran before a command, and so what of it the processor's caches still hold."""

    COMMAND = "another command"
    FIRST_USE = "a millisecond of RSA, and another command"
    POWERS = "all exponentiations of DAA, and another command"


Power: TypeAlias = Callable[[], object]
"""A modular exponentiation of DAA with its operands."""


@dataclass(frozen=True, slots=True)
class Work:
    """What of a command is not the engine's: operations, each as often as it is in the command."""

    rsa: tuple[Rsa, ...] = ()
    powers: tuple[Power, ...] = ()


@dataclass(frozen=True, slots=True)
class Routine:
    """Something that can be repeated for ever.

    Attributes:
        measures: the commands in it that it is there for, by their names in the table.
        heavy: it takes many milliseconds, so fewer repetitions must do.
        behind: what runs before its commands.
    """

    chip: TimedChip
    run: Callable[[], object]
    measures: Mapping[str, Work]
    heavy: bool = False
    behind: Behind = Behind.COMMAND


def routine(
    chip: TimedChip,
    run: Callable[[], object],
    *plain: Ordinal,
    behind: Behind = Behind.COMMAND,
    **with_rsa: tuple[Rsa, ...],
) -> Routine:
    """Make a routine.

    Args:
        plain: ordinals without RSA in them.
        behind: see Routine.
        with_rsa: the others by name, and the operations in them.
    """
    works = {name: Work(rsa) for name, rsa in with_rsa.items()}
    return Routine(chip, run, {ordinal.name: Work() for ordinal in plain} | works, behind=behind)
