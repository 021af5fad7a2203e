# SPDX-License-Identifier: Apache-2.0
"""Slowing down dictionary attacks: the specification leaves the scheme to the vendor, this is
libtpms'.

One counter for all secrets. The sixth failure locks every authorized command out for one second,
each further one for twice as long as the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tpmcore.tpm12.tpm import Tpm

THRESHOLD: Final = 5
MAX_DOUBLINGS: Final = 24
"""Bounds the lockout at half a year, so that the arithmetic and an honest owner stay sane."""


class Lockout:
    """Failure counter and lockout of one TPM; its numbers live in the volatile state."""

    def __init__(self, tpm: Tpm) -> None:
        self._tpm = tpm

    @property
    def count(self) -> int:
        """Failures since the last reset."""
        return self._tpm.stclear.failure_count

    @property
    def seconds_left(self) -> int:
        """Seconds until authorized commands are served again, 0 if they are."""
        until_us = self._tpm.stclear.lockout_until_us
        if not until_us:
            return 0
        left_us = until_us - self._tpm.world.ticks.ticks_us()
        return max(0, (left_us + 999_999) // 1_000_000)

    @property
    def is_active(self) -> bool:
        """True while authorized commands are refused."""
        return self._tpm.stclear.lockout_until_us > 0 and self.seconds_left > 0

    def record_failure(self) -> None:
        """Count a wrong HMAC."""
        stclear = self._tpm.stclear
        if not self.is_active:
            # A reset that was refused is refused for the rest of its own lockout only.
            stclear.disable_reset_lock = False
        stclear.failure_count += 1
        excess = stclear.failure_count - THRESHOLD - 1
        if excess >= 0:
            lockout_us = 1_000_000 << min(excess, MAX_DOUBLINGS)
            stclear.lockout_until_us = self._tpm.world.ticks.ticks_us() + lockout_us

    def reset(self) -> None:
        """Forget all failures (ResetLockValue, Startup(CLEAR), clear actions)."""
        stclear = self._tpm.stclear
        stclear.failure_count = 0
        stclear.lockout_until_us = 0
        stclear.disable_reset_lock = False
