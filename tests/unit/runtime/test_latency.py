# SPDX-License-Identifier: Apache-2.0
"""Latencies: the figures are those of the last durations, and of no others."""

from __future__ import annotations

from daemons.runtime.latency import RING, Latencies


def filled(*durations_us: int) -> Latencies:
    latencies = Latencies()
    for duration_us in durations_us:
        latencies.note(duration_us * 1000)
    return latencies


def test_nothing_noted_gives_zeros() -> None:
    assert Latencies().statistics().fields() == {
        "samples": 0,
        "median_us": 0.0,
        "p99_us": 0.0,
        "longest_us": 0.0,
    }


def test_one_duration_is_all_figures() -> None:
    found = filled(7).statistics()
    assert (found.samples, found.median_us, found.p99_us, found.longest_us) == (1, 7, 7, 7)


def test_the_median_and_the_99th_of_a_hundred_in_any_order() -> None:
    found = filled(*range(100, 0, -1)).statistics()
    assert (found.samples, found.median_us, found.p99_us, found.longest_us) == (100, 50, 99, 100)


def test_only_the_newest_count_and_all_are_counted() -> None:
    latencies = filled(*[1_000_000] * 5, *[3] * RING)
    found = latencies.statistics()
    assert latencies.count == RING + 5
    assert (found.samples, found.median_us, found.longest_us) == (RING, 3, 3)
