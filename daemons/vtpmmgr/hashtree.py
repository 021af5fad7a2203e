# SPDX-License-Identifier: Apache-2.0
"""One digest over all records, updated in O(log n) when some of them change.

A binary trie over SHA-256 of the record's name: at depth d the tree branches on bit d of that key,
and a subtree that holds one record is that record's leaf. So the shape, and with it the root,
depends on the set of records only, not on the order in which they came; and because keys are
hashes, no choice of names makes it deep at a price that matters (each extra level doubles the work
of finding such a name).

    empty  = 32 zero bytes
    leaf   = SHA-256(00 || key 32 || digest of the record 32)
    branch = SHA-256(01 || left 32 || right 32)

The tree is immutable: a change gives a new tree that shares all untouched branches with the old
one. A commit that fails has nothing to undo. About 350 bytes of memory for each record.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

DIGEST_BYTES: Final = 32
EMPTY_ROOT: Final = bytes(DIGEST_BYTES)


class _Leaf:
    __slots__ = ("digest", "hash", "key")

    def __init__(self, key: bytes, digest: bytes) -> None:
        self.key = key
        self.digest = digest
        self.hash = hashlib.sha256(b"\x00" + key + digest).digest()


class _Branch:
    # Invariant: at least two leaves below; one side may be empty while their keys still agree.
    __slots__ = ("hash", "left", "right")

    def __init__(self, left: _Tree, right: _Tree) -> None:
        self.left = left
        self.right = right
        self.hash = hashlib.sha256(b"\x01" + _hash(left) + _hash(right)).digest()


_Tree = _Leaf | _Branch | None


def _hash(tree: _Tree) -> bytes:
    return EMPTY_ROOT if tree is None else tree.hash


def _bit(key: bytes, depth: int) -> int:
    return key[depth >> 3] >> (7 - (depth & 7)) & 1


def _join(left: _Tree, right: _Tree) -> _Tree:
    """Return the branch over two subtrees, or the one leaf if there is only one."""
    if left is None and (right is None or isinstance(right, _Leaf)):
        return right
    if right is None and isinstance(left, _Leaf):
        return left
    return _Branch(left, right)


def _build(leaves: list[_Leaf], depth: int) -> _Tree:
    if not leaves:
        return None
    if len(leaves) == 1:
        return leaves[0]
    # sorted by key: those with bit 0 come first
    middle = bisect.bisect_left(leaves, 1, key=lambda leaf: _bit(leaf.key, depth))
    return _Branch(_build(leaves[:middle], depth + 1), _build(leaves[middle:], depth + 1))


def _put(tree: _Tree, new: _Leaf, depth: int) -> _Tree:
    if tree is None:
        return new
    if isinstance(tree, _Leaf):
        if tree.key == new.key:
            return new
        return _build(sorted((tree, new), key=lambda leaf: leaf.key), depth)
    if _bit(new.key, depth):
        return _Branch(tree.left, _put(tree.right, new, depth + 1))
    return _Branch(_put(tree.left, new, depth + 1), tree.right)


def _remove(tree: _Tree, key: bytes, depth: int) -> _Tree:
    if tree is None:
        return None
    if isinstance(tree, _Leaf):
        return None if tree.key == key else tree
    if _bit(key, depth):
        return _join(tree.left, _remove(tree.right, key, depth + 1))
    return _join(_remove(tree.left, key, depth + 1), tree.right)


@dataclass(frozen=True, slots=True, repr=False)
class HashTree:
    """An immutable map from 32-byte keys to 32-byte digests with a digest over all of it."""

    _top: _Tree = None

    @classmethod
    def build(cls, items: Iterable[tuple[bytes, bytes]]) -> HashTree:
        """Return the tree over (key, digest) pairs in any order; ValueError if one comes twice."""
        leaves = sorted((_Leaf(key, digest) for key, digest in items), key=lambda leaf: leaf.key)
        for one, other in itertools.pairwise(leaves):
            if one.key == other.key:
                raise ValueError(f"key {one.key.hex()} comes twice")
        return cls(_build(leaves, 0))

    @property
    def root(self) -> bytes:
        """The digest over everything, 32 bytes; zeros if there is nothing."""
        return _hash(self._top)

    def get(self, key: bytes) -> bytes | None:
        """Return the digest stored under a key, None if there is none."""
        tree, depth = self._top, 0
        while isinstance(tree, _Branch):
            tree = tree.right if _bit(key, depth) else tree.left
            depth += 1
        return tree.digest if tree is not None and tree.key == key else None

    def with_changes(self, changes: Mapping[bytes, bytes | None]) -> HashTree:
        """Return the tree with each key of `changes` at its digest, or gone where that is None."""
        top = self._top
        for key, digest in changes.items():
            top = _remove(top, key, 0) if digest is None else _put(top, _Leaf(key, digest), 0)
        return HashTree(top)
