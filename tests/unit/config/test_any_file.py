# SPDX-License-Identifier: Apache-2.0
"""Whatever is in the files: a configuration or findings, and nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from daemons.runtime.config.folder import examine
from daemons.runtime.config.options import MACHINE_TABLES, Identity, VtpmOptions
from daemons.runtime.config.schema import names_of
from daemons.runtime.config.text import toml_text

VALUES = st.booleans() | st.integers(-(2**64), 2**64) | st.text() | st.lists(st.text(), max_size=20)
TABLES = st.dictionaries(
    st.sampled_from([*MACHINE_TABLES, "other"]),
    st.dictionaries(
        st.sampled_from([name for table in MACHINE_TABLES.values() for name in names_of(table)]),
        VALUES,
    ),
)
KEYS = st.dictionaries(
    st.sampled_from([*names_of(Identity), *names_of(VtpmOptions), "front", "other"]), VALUES
)


def _examined(machine: bytes, guest: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        (folder / "guests.d").mkdir()
        (folder / "vtpm.toml").write_bytes(machine)
        (folder / "guests.d" / "g1.toml").write_bytes(guest)
        examination = examine(folder, {"vtpm-g1": 901}.get)
        if not examination.findings:
            assert list(examination.configuration.guests) == ["g1"]
        for finding in examination.findings:
            assert str(finding).startswith(str(folder))
            assert len(str(finding).splitlines()) == 1


@given(machine=st.binary(max_size=200), guest=st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_findings(machine: bytes, guest: bytes) -> None:
    _examined(machine, guest)


@given(tables=TABLES, keys=KEYS)
@settings(max_examples=300)
def test_any_values_of_known_keys_are_values_or_findings(
    tables: dict[str, dict[str, bool | int | str | list[str]]],
    keys: dict[str, bool | int | str | list[str]],
) -> None:
    _examined(toml_text("any", {}, tables).encode(), toml_text("any", keys, {}).encode())
