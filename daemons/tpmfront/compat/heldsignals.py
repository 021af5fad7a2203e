# SPDX-License-Identifier: Apache-2.0
"""Signals that ask for a stop while nobody heeds them: noted, and sent again when somebody does.

From before the sockets are made until they are removed a signal must not end the process, which
would leave their files. Between the two stops of that time, when `run_daemon` runs, they mean what
they mean there; trio gives the handlers of before back, so that its end is covered as well.

Blocking them would not do: a child would inherit that, and a thread that trio keeps would not.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

_STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class HeldSignals:
    """They are held from when this is made."""

    def __init__(self) -> None:
        self._noted: list[int] = []
        # As in `run_daemon`: nohup's wish counts, and that of a script's background job does not.
        self._held = [
            number
            for number in _STOPS
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
        ]
        self.give_to(self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted.append(number)

    def give_to(self, handler: Callable[[int, FrameType | None], None]) -> None:
        """Have another handler for them from now on, also for those that were noted."""
        for number in self._held:
            signal.signal(number, handler)
        self.send_again()

    def send_again(self) -> bool:
        """Send those that were noted to the handlers that there are now; whether there were any."""
        noted, self._noted = self._noted, []
        for number in noted:
            signal.raise_signal(number)
        return bool(noted)
