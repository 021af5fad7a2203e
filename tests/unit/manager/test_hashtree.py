# SPDX-License-Identifier: Apache-2.0
"""The digest over all records."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.vtpmmgr.hashtree import EMPTY_ROOT, HashTree

# Keys that share long prefixes, so that subtrees with one empty side come up.
KEYS = st.integers(0, 31).map(lambda n: bytes([n >> 3, 0, n & 7]) + bytes(29))
DIGESTS = st.binary(min_size=32, max_size=32)
MAPS = st.dictionaries(KEYS, DIGESTS, max_size=20)


def naive_root(items: dict[bytes, bytes], depth: int = 0) -> bytes:
    """The definition in the module's docstring, word for word."""
    if not items:
        return bytes(32)
    if len(items) == 1:
        ((key, digest),) = items.items()
        return hashlib.sha256(b"\x00" + key + digest).digest()
    sides: tuple[dict[bytes, bytes], dict[bytes, bytes]] = {}, {}
    for key, digest in items.items():
        sides[int.from_bytes(key, "big") >> (255 - depth) & 1][key] = digest
    left, right = (naive_root(side, depth + 1) for side in sides)
    return hashlib.sha256(b"\x01" + left + right).digest()


@given(MAPS)
def test_the_root_is_that_of_the_definition(items: dict[bytes, bytes]) -> None:
    assert HashTree.build(items.items()).root == naive_root(items)


@given(MAPS, st.lists(st.dictionaries(KEYS, st.none() | DIGESTS, max_size=5), max_size=5))
def test_after_any_changes_the_tree_is_as_if_built_from_what_is_left(
    items: dict[bytes, bytes], changes: list[dict[bytes, bytes | None]]
) -> None:
    tree = HashTree.build(items.items())
    expected = dict(items)
    for change in changes:
        tree = tree.with_changes(change)
        for key, digest in change.items():
            if digest is None:
                expected.pop(key, None)
            else:
                expected[key] = digest
    assert tree.root == naive_root(expected)
    assert {key: tree.get(key) for key in expected} == expected


def test_a_change_leaves_the_older_tree_as_it_was() -> None:
    old = HashTree.build([(bytes(32), b"a" * 32)])
    root = old.root
    new = old.with_changes({bytes(32): b"b" * 32, b"\xff" * 32: b"c" * 32})
    assert old.root == root != new.root
    assert old.get(b"\xff" * 32) is None


def test_nothing_has_the_empty_root() -> None:
    assert HashTree().root == EMPTY_ROOT == HashTree.build([]).root
    assert HashTree().get(bytes(32)) is None


def test_a_key_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        HashTree.build([(bytes(32), b"a" * 32), (bytes(32), b"a" * 32)])
