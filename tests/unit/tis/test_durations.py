# SPDX-License-Identifier: Apache-2.0
"""Timeouts and durations as chips report them, and the class of an ordinal."""

from __future__ import annotations

import struct

import pytest

from protocol.errors import WireError
from protocol.tis.durations import (
    DurationClass,
    Durations,
    Timeouts,
    decode_durations,
    decode_timeouts,
    duration_class,
)


def timeouts(*values: int) -> Timeouts:
    return decode_timeouts(struct.pack(">4I", *values))


def durations(*values: int) -> Durations:
    return decode_durations(struct.pack(">3I", *values))


def test_timeouts_are_microseconds() -> None:
    assert timeouts(750_000, 2_000_000, 750_000, 30_000) == Timeouts(0.75, 2.0, 0.75, 0.03)


def test_timeouts_that_can_only_be_milliseconds_are_taken_as_such() -> None:
    assert timeouts(750, 2000, 750, 30) == Timeouts(0.75, 2.0, 0.75, 0.03)


def test_a_zero_timeout_keeps_the_default() -> None:
    assert timeouts(0, 0, 0, 0) == Timeouts(0.75, 2.0, 0.75, 0.75)
    assert timeouts(0, 100_000, 0, 0) == Timeouts(0.75, 0.1, 0.75, 0.75)


def test_durations_are_microseconds() -> None:
    assert durations(1_000_000, 2_000_000, 180_000_000) == Durations(1.0, 2.0, 180.0)


def test_a_short_duration_below_ten_milliseconds_means_other_units() -> None:
    assert durations(9_999, 3_000, 180_000) == Durations(1.0, 3.0, 180.0)


def test_a_zero_duration_is_two_minutes() -> None:
    assert durations(0, 0, 0) == Durations(120.0, 120.0, 120.0)


@pytest.mark.parametrize("size", [0, 11, 13, 15, 17])
def test_another_length_is_refused(size: int) -> None:
    with pytest.raises(WireError):
        decode_timeouts(bytes(size))
    with pytest.raises(WireError):
        decode_durations(bytes(size))


@pytest.mark.parametrize(
    ("ordinal", "expected"),
    [
        (10, DurationClass.SHORT),  # OIAP
        (20, DurationClass.SHORT),  # Extend
        (23, DurationClass.MEDIUM),  # Seal
        (205, DurationClass.SHORT),  # NV_WriteValue
        (13, DurationClass.LONG),  # TakeOwnership
        (31, DurationClass.LONG),  # CreateWrapKey
        (120, DurationClass.LONG),  # CreateEndorsementKeyPair
        (0x4000000A, DurationClass.SHORT),  # TSC_PhysicalPresence
        (0x4000000B, DurationClass.SHORT),  # TSC_ResetEstablishmentBit
        (0, None),
        (243, None),
        (0x20000001, None),
    ],
)
def test_the_class_of_an_ordinal(ordinal: int, expected: DurationClass | None) -> None:
    assert duration_class(ordinal) is expected


def test_an_ordinal_without_a_class_gets_two_minutes() -> None:
    assert Durations(1.0, 2.0, 3.0).of(0x20000001) == 120.0
    assert [Durations(1.0, 2.0, 3.0).of(n) for n in (10, 23, 13)] == [1.0, 2.0, 3.0]
