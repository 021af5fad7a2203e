# SPDX-License-Identifier: Apache-2.0
"""Records are frozen dataclasses in everything but what they cost."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable

import pytest

from protocol.tpm12.records import maker_of, record


@record
class Point:
    x: int
    y: int
    z: int = 7
    is_far: bool = False


@record(repr=False)
class Secret:
    a: bytes
    b: bytes
    c: bytes


@record
class Pair:
    x: int
    y: int = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Plain:
    x: int
    y: int
    z: int = 7
    is_far: bool = False


def test_it_is_made_as_any_dataclass_is() -> None:
    for made in (Point(1, 2), Point(y=2, x=1), Point(1, 2, 7, is_far=False)):
        assert type(made) is Point
        assert dataclasses.astuple(made) == (1, 2, 7, False)
        assert made == Point(1, 2)
        assert made != Point(1, 3)
        assert hash(made) == hash(Plain(1, 2))
    assert repr(Point(1, 2)) == "Point(x=1, y=2, z=7, is_far=False)"
    assert dataclasses.replace(Point(1, 2), y=5) == Point(1, 5)


def test_what_its_maker_makes_is_no_different() -> None:
    made = maker_of(Point)(1, 2, 7, False)
    assert type(made) is Point
    assert made == Point(1, 2)
    assert maker_of(Pair) is Pair
    assert maker_of(Plain) is Plain


@pytest.mark.parametrize("value", [Point(1, 2), maker_of(Point)(1, 2), Pair(1)])
def test_it_cannot_change(value: Point | Pair) -> None:
    before = dataclasses.astuple(value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.x = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del value.x
    assert dataclasses.astuple(value) == before
    assert not hasattr(value, "__dict__")


def test_what_was_copied_cannot_change_either() -> None:
    for copied in (copy.copy(Point(1, 2)), pickle.loads(pickle.dumps(Point(1, 2)))):
        assert copied == Point(1, 2)
        with pytest.raises(dataclasses.FrozenInstanceError):
            copied.x = 3  # type: ignore[misc]


def test_a_wrong_call_is_refused() -> None:
    ways: list[Callable[..., Point]] = [Point, maker_of(Point)]
    for make in ways:
        with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'y'"):
            make(1)
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            make(1, 2, w=3)


def test_repr_can_be_left_out() -> None:
    assert "a=" not in repr(Secret(b"1", b"2", b"3"))


def test_what_is_more_than_its_fields_is_refused() -> None:
    with pytest.raises(TypeError, match="Listing is more than its fields"):

        @record
        class Listing:
            x: int
            y: list[int] = dataclasses.field(default_factory=list)

    with pytest.raises(TypeError, match="Checked is more than its fields"):

        @record
        class Checked:
            x: int

            def __post_init__(self) -> None: ...


def test_nothing_can_be_derived_from_one() -> None:
    with pytest.raises(TypeError, match="Nearer is derived from a record"):

        class Nearer(Point):
            __slots__ = ()
