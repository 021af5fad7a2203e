# SPDX-License-Identifier: Apache-2.0
"""The clock of a TPM's tick session."""

from __future__ import annotations

import time


class MonotonicTicks:
    """A `TickSource`: CLOCK_MONOTONIC, which goes on over restarts of the daemon and begins anew
    with the machine."""

    def ticks_us(self) -> int:
        """Return microseconds since some moment of this boot."""
        return time.monotonic_ns() // 1000
