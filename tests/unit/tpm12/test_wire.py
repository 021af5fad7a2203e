# SPDX-License-Identifier: Apache-2.0
"""Encodings that are kept: only of what cannot change, down to its last field. Reading that is
compiled from a layout does what the layout says."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import types
import typing
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.tpm12.constants import KeyUsage
from protocol.tpm12.delegation import (
    DelegateKeyBlob,
    DelegateOwnerBlob,
    DelegatePublic,
    DelegateType,
    Delegations,
)
from protocol.tpm12.keys import Key, KeyParms
from protocol.tpm12.pcr import (
    LOCALITY_SELECTION,
    PcrInfo,
    PcrInfoLong,
    PcrInfoShort,
    PcrSelection,
)
from protocol.tpm12.resources import NvAttributesWord, NvDataPublic
from protocol.tpm12.wire import (
    BOOL,
    REST,
    SIZED,
    U8,
    U16,
    U32,
    U64,
    BadKeyProperty,
    BadVersion,
    FixedBytes,
    ListOf,
    Nested,
    Reader,
    SizedStruct,
    Structure,
    WireError,
)
from tpmcore.tpm12.state import PermanentFlags
from tpmcore.tpm12.table import TABLE  # noqa: F401  # so that every structure is imported

_ONLY_READ = frozenset({"_StclearRecord"})
"""Frozen around something that is not; they are never encoded."""


_RELEASE = PcrInfoShort(PcrSelection(b"\x01\x02\x03"), 0x1F, bytes(range(20)))
_DELEGATED = DelegatePublic(7, _RELEASE, Delegations(DelegateType.KEY, 0x40), 1, 2)
_EXACT: dict[type[Structure], Structure] = {
    DelegateKeyBlob: DelegateKeyBlob(_DELEGATED, bytes(20), bytes(range(20)), b"area", b"secret"),
    DelegateOwnerBlob: DelegateOwnerBlob(_DELEGATED, bytes(20), b"area", b"secret"),
    KeyParms: KeyParms.for_rsa(),
    PcrInfo: PcrInfo(_RELEASE.pcr_selection, bytes(20), bytes(range(20))),
    PcrInfoLong: PcrInfoLong(
        1, 0x1F, _RELEASE.pcr_selection, PcrSelection(), bytes(20), bytes(range(20))
    ),
    PcrInfoShort: _RELEASE,
    DelegatePublic: _DELEGATED,
    NvDataPublic: NvDataPublic(
        0x10050, _RELEASE, _RELEASE, NvAttributesWord(4), False, True, False, 32
    ),
}
"""One of each kind whose bytes are kept as they are read."""


def _structures(kind: type[Structure] = Structure) -> Iterator[type[Structure]]:
    for derived in kind.__subclasses__():
        # With slots a dataclass is made twice; only one of the two has the name.
        if getattr(sys.modules[derived.__module__], derived.__name__, None) is derived:
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
                fixed = (bool, int, bytes, UUID, type(None), Ellipsis)
                assert ours or leaf in fixed, (kind, name, leaf)


def test_every_kind_that_keeps_what_was_read_is_tried() -> None:
    assert {kind for kind in _structures() if kind.is_exact} == _EXACT.keys()


@given(
    kind=st.sampled_from(sorted(_EXACT, key=lambda kind: kind.__name__)),
    changes=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 4),
    tail=st.binary(max_size=8),
)
def test_what_is_kept_as_it_was_read_is_what_would_be_written(
    kind: type[Structure], changes: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    data = bytearray(_EXACT[kind].encode())
    for at, byte in changes:
        data[at % len(data)] = byte
    try:
        value = kind.decode(bytes(data[: len(data) - cut] + tail))
    except WireError:
        return
    assert value.encode_once() == value.encode()


def _value_of(wire: object) -> object:
    """Return something for a field, or None if its wire type is none of the common ones."""
    match wire:
        case FixedBytes():
            return bytes(range(wire.size % 256)).ljust(wire.size)
        case Nested():
            return _sample_of(wire.kind)
        case SizedStruct():
            return _sample_of(wire.kind)
        case ListOf():
            element = _value_of(wire.element)
            return None if element is None else (element, element)
    if wire is BOOL:
        return True
    if wire in (U8, U16, U32, U64, LOCALITY_SELECTION):
        return 1
    return b"abc" if wire in (SIZED, REST) else None


def _sample_of(kind: type[Structure]) -> Structure | None:
    """Return one of a kind, or None if it holds something that `_value_of` does not know."""
    if kind in _SAMPLES:
        return _SAMPLES[kind]
    try:
        values = [_value_of(wire) for _, wire in kind.layout()]
    except TypeError:
        return None
    return None if None in values else kind(*values)


_SAMPLES: dict[type[Structure], Structure] = {
    PcrSelection: _RELEASE.pcr_selection,
    Delegations: _DELEGATED.permissions,
    KeyParms: KeyParms.for_rsa(),
}
_COMPILED = sorted(
    {kind for kind in _structures() if not kind.reads_itself() and _sample_of(kind) is not None},
    key=lambda kind: (kind.__module__, kind.__name__),
)


def _outcome(read: Callable[[Reader], Structure], data: bytes, end: int) -> tuple[object, int]:
    """Return what was read or what was wrong with it, and how far the cursor came."""
    reader = Reader(data, 1, end)
    try:
        value: object = read(reader)
    except WireError as error:
        return (type(error), error.field, error.offset, error.reason), 0
    assert isinstance(value, Structure)
    return (value, getattr(value, "_encoded", None)), reader.position


def test_nothing_is_derived_from_a_structure() -> None:
    # It would inherit the function that was compiled to read its base.
    assert {kind.__bases__ for kind in _structures()} == {(Structure,)}


def test_most_kinds_are_compared_below() -> None:
    assert len(_COMPILED) > 150


@pytest.mark.parametrize("kind", _COMPILED, ids=lambda kind: kind.__name__)
def test_compiled_reading_is_reading_field_by_field(kind: type[Structure]) -> None:
    sample = _sample_of(kind)
    assert sample is not None
    encoded = sample.encode()
    assert kind.decode(encoded) == sample
    # The structure neither begins where the bytes do, nor ends there.
    before, behind = b"\xff", b"\xfe\xfd"
    end = len(before + encoded)
    inputs = [(before + encoded + behind, shorter) for shorter in range(len(before), end + 1)]
    for at in range(len(encoded)):
        for byte in {0, 1, 2, 0xFF, max(encoded[at] - 1, 0), min(encoded[at] + 1, 0xFF)}:
            changed = encoded[:at] + bytes((byte,)) + encoded[at + 1 :]
            inputs.append((before + changed + behind, end))
    for data, end in inputs:
        each = _outcome(lambda reader: kind.read_each(reader, len(before)), data, end)
        assert _outcome(kind.read, data, end) == each


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("01010000", WireError),
        ("01020000", BadVersion),
        ("03000000", BadKeyProperty),
        ("00280001", BadKeyProperty),
        ("01010000 0010 ff", WireError),
        ("01010000 0010 ff000000", BadKeyProperty),
        ("01010000 0010 00000000", WireError),
    ],
)
def test_a_key_that_is_cut_in_its_head_is_judged_as_far_as_it_goes(
    data: str, error: type[WireError]
) -> None:
    with pytest.raises(WireError) as refused:
        Key.decode(bytes.fromhex(data))
    assert type(refused.value) is error


def test_the_digest_of_a_public_key_is_that_of_its_structure() -> None:
    key = Key.template(KeyUsage.BIND, enc_scheme=3, sig_scheme=1).with_public(b"modulus", None)
    assert key.public_key_digest() == hashlib.sha1(key.public_key.encode()).digest()
