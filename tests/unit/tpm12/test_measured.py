# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the engine measures every ordinal, each where it succeeds."""

from __future__ import annotations

from bench.ordinals import all_routines
from tests.unit.tpm12.world import FixedKeys
from tpmcore.tpm12.table import table_for
from tpmcore.tpm12.world import Profile


def test_every_ordinal_is_measured_where_it_succeeds() -> None:
    measured = set()
    for routine in all_routines(FixedKeys()):
        routine.chip.timed = routine.measures.keys()
        # A refusal raises; and a routine can be repeated.
        for _ in range(2):
            routine.run()
        assert routine.chip.samples_us.keys() >= routine.measures.keys()
        routine.chip.timed = ()
        measured |= {name.split()[0] for name in routine.measures}
    table = table_for(Profile(maintenance_commands=True))
    assert measured == {row.ordinal.name for row in table.values()}
