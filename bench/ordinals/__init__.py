# SPDX-License-Identifier: Apache-2.0
"""Every ordinal that the engine answers, in a routine that it succeeds in.

Start reading at `routine`; the other modules hold the routines, by subject.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.ordinals import daa, keys, migration, ownership, platform, sessions, stores
from bench.ordinals.routine import Routine
from tpmcore.engine import KeySource

_SUBJECTS = (stores, platform, ownership, sessions, keys, migration, daa)


def all_routines(keys: KeySource) -> Iterator[Routine]:
    """Give the routines of every subject."""
    for subject in _SUBJECTS:
        yield from subject.routines(keys)
