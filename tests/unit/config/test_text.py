# SPDX-License-Identifier: Apache-2.0
"""Writing configuration files: what is written is read again, and files are whole or absent."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.runtime.config.text import TomlValue, make_file, remove_file, toml_text
from daemons.runtime.files import WriteFailed

WORDS = st.text()


@given(
    word=WORDS, words=st.lists(WORDS), number=st.integers(-(2**63), 2**63 - 1), flag=st.booleans()
)
def test_what_is_written_is_what_is_read(
    word: str, words: list[str], number: int, flag: bool
) -> None:
    keys: dict[str, TomlValue] = {"a": word, "b-c": words, "d_e": number}
    text = toml_text("comment", keys, {"front": {"stream": flag}})
    assert tomllib.loads(text) == {**keys, "front": {"stream": flag}}


def test_a_file_is_made_once_with_its_mode_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "g1.toml"
    (tmp_path / f".g1.toml.{os.getpid()}.new").write_text("of a crash")
    assert make_file(path, "first", 0o644)
    assert not make_file(path, "second", 0o600)
    assert path.read_text() == "first"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]
    assert remove_file(path)
    assert not remove_file(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match="No such file") as caught:
        make_file(tmp_path / "nowhere" / "g1.toml", "text", 0o644)
    assert caught.value.filename == str(tmp_path / "nowhere" / "g1.toml")
