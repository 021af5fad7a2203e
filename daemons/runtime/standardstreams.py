# SPDX-License-Identifier: Apache-2.0
"""Descriptors 0 to 2, which whoever starts a process may have closed."""

from __future__ import annotations

import os
from typing import Final

_STREAMS: Final = range(3)


def hold_standard_descriptors() -> None:
    """Lead those of descriptors 0 to 2 that are closed nowhere; else what is opened next gets their
    numbers, and what is written for people goes there."""
    for fd in _STREAMS:
        try:
            os.fstat(fd)
        except OSError:
            # It gets the lowest number that is free; and children have it, as any stream.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), True)
