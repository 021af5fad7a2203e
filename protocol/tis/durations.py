# SPDX-License-Identifier: Apache-2.0
"""How long a driver waits: timeouts A to D of the interface, and the duration class of every TPM
1.2 ordinal.

The chip reports its own figures in two properties; both Xen's and Linux's drivers correct the same
mistakes in them, and so does this module.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol.errors import WireError

UNKNOWN_DURATION_S: Final = 120.0
"""For ordinals without a class, and for a class that the chip reports as 0."""

TIMEOUT_PROPERTY: Final = 0x115
DURATION_PROPERTY: Final = 0x120

_TIMEOUTS: Final = struct.Struct(">4I")
_DURATIONS: Final = struct.Struct(">3I")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts of the interface in seconds (TIS 5.6; the defaults are those of TPM 1.2).

    Attributes:
        a_s: ACCESS valid, locality granted.
        b_s: commandReady after it was written, abort.
        c_s: stsValid, dataAvail between bursts.
        d_s: burstCount not zero.
    """

    a_s: float = 0.75
    b_s: float = 2.0
    c_s: float = 0.75
    d_s: float = 0.75


class DurationClass(enum.Enum):
    """Classes of TPM_CAP_PROP_DURATION, in its order."""

    SHORT = 0
    MEDIUM = 1
    LONG = 2


@dataclass(frozen=True, slots=True)
class Durations:
    """Longest execution in seconds per class; until the chip was asked the longest for all."""

    short_s: float = UNKNOWN_DURATION_S
    medium_s: float = UNKNOWN_DURATION_S
    long_s: float = UNKNOWN_DURATION_S

    def of(self, ordinal: int) -> float:
        """Return how long a command with this ordinal may take, in seconds."""
        match duration_class(ordinal):
            case DurationClass.SHORT:
                return self.short_s
            case DurationClass.MEDIUM:
                return self.medium_s
            case DurationClass.LONG:
                return self.long_s
            case None:
                return UNKNOWN_DURATION_S


def decode_timeouts(data: bytes, defaults: Timeouts = Timeouts()) -> Timeouts:
    """Return the timeouts from the value of property 0x115.

    Args:
        data: 16 bytes, A to D in microseconds. If A is below 1000 all four are taken as
        milliseconds; a zero
            keeps the default.
        defaults: what a zero stands for.

    Raises:
        WireError: another length.
    """
    if len(data) != _TIMEOUTS.size:
        raise WireError("timeouts", 0, f"{len(data)} bytes, should be {_TIMEOUTS.size}")
    values = _TIMEOUTS.unpack(data)
    per_second = 1e3 if 0 < values[0] < 1000 else 1e6
    given = [value / per_second for value in values]
    return Timeouts(
        given[0] or defaults.a_s,
        given[1] or defaults.b_s,
        given[2] or defaults.c_s,
        given[3] or defaults.d_s,
    )


def decode_durations(data: bytes) -> Durations:
    """Return the durations from the value of property 0x120.

    Args:
        data: 12 bytes, short, medium, long in microseconds. If short is below 10 ms the chip meant
        other units:
            short becomes 1 s and the other two are multiplied by 1000. A zero becomes 120 s.

    Raises:
        WireError: another length.
    """
    if len(data) != _DURATIONS.size:
        raise WireError("durations", 0, f"{len(data)} bytes, should be {_DURATIONS.size}")
    short, medium, long = _DURATIONS.unpack(data)
    if 0 < short < 10_000:
        short, medium, long = 1_000_000, medium * 1000, long * 1000
    return Durations(*(value / 1e6 or UNKNOWN_DURATION_S for value in (short, medium, long)))


def duration_class(ordinal: int) -> DurationClass | None:
    """Return the class of an ordinal, None for one that has none."""
    return _CLASSES.get(ordinal)


def _expand(*items: int | range) -> list[int]:
    return [n for item in items for n in (item if isinstance(item, range) else (item,))]


# fmt: off
_SHORT: Final = _expand(
    10, 11, 16, 17, 20, 21, 25, 26, 28, 29, range(33, 36), range(43, 49), 63, 64, 70, 71, 84,
    range(90, 95), 101, 102, range(110, 118), range(124, 127), range(128, 131), 133, 140, 141, 150,
    153, 154, range(160, 164), 181, 186, 200, range(204, 210), range(219, 225), 230, 240,
    0x4000_000A, 0x4000_000B,  # TSC_PhysicalPresence, TSC_ResetEstablishmentBit
)
_MEDIUM: Final = _expand(
    12, 15, 18, range(22, 25), 27, 30, 32, 36, 37, 40, 42, 50, 51, range(60, 63), 65, 82, 100, 122,
    131, 134, 151, 152, 180, range(182, 186), 210, range(212, 215), 216, 232, 242,
)
_LONG: Final = _expand(13, 14, 19, 31, 41, 49, 80, 83, 120, 121, 127, 170, 231)
# fmt: on

_CLASSES: Final[Mapping[int, DurationClass]] = {
    **dict.fromkeys(_SHORT, DurationClass.SHORT),
    **dict.fromkeys(_MEDIUM, DurationClass.MEDIUM),
    **dict.fromkeys(_LONG, DurationClass.LONG),
}
