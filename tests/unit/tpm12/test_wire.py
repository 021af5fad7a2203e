# SPDX-License-Identifier: Apache-2.0
"""Encodings that are kept: only of what cannot change, down to its last field."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator

import pytest

from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.wire import Structure
from tpmcore.tpm12.state import PermanentFlags
from tpmcore.tpm12.table import TABLE  # noqa: F401  # so that every structure is imported

_ONLY_READ = frozenset({"_StclearRecord"})
"""Frozen around something that is not; they are never encoded."""


def _structures(kind: type[Structure] = Structure) -> Iterator[type[Structure]]:
    for derived in kind.__subclasses__():
        yield derived
        yield from _structures(derived)


def _leaves(hint: object) -> Iterator[object]:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union, tuple):
        for part in typing.get_args(hint):
            yield from _leaves(part)
    else:
        yield hint


def test_encoding_is_kept_and_is_the_same() -> None:
    selection = PcrSelection.of([1, 9])
    assert selection.encode_once() == selection.encode()
    assert selection.encode_once() is selection.encode_once()
    other = dataclasses.replace(selection, select=b"\x01\x00\x00")
    assert other.encode_once() == other.encode() != selection.encode_once()
    assert PcrSelection(selection.select) == selection


def test_structure_that_can_change_keeps_no_encoding() -> None:
    with pytest.raises(TypeError, match="PermanentFlags"):
        PermanentFlags().encode_once()


def test_what_is_in_a_frozen_structure_cannot_change_either() -> None:
    frozen = [
        kind for kind in _structures() if kind.is_frozen() and kind.__name__ not in _ONLY_READ
    ]
    assert len(frozen) > 100
    for kind in frozen:
        for name, hint in typing.get_type_hints(kind).items():
            for leaf in _leaves(hint):
                if typing.get_origin(leaf) is typing.ClassVar or name == "_encoded":
                    continue
                ours = isinstance(leaf, type) and issubclass(leaf, Structure) and leaf.is_frozen()
                assert ours or leaf in (bool, int, bytes, type(None), Ellipsis), (kind, name, leaf)
