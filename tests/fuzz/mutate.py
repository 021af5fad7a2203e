# SPDX-License-Identifier: Apache-2.0
"""Where commands come from: seeds of the corpus, fields made anew, and bytes turned over."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from protocol.errors import WireError
from protocol.tpm12.constants import Ordinal, Tag
from protocol.tpm12.framing import HEADER_BYTES, build_message, parse_header
from protocol.tpm12.wire import Reader, Structure
from tests.fuzz.corpus import ROWS
from tests.fuzz.dice import Dice
from tests.fuzz.sign import AUTH_BYTES
from tests.fuzz.values import Values
from tpmcore.tpm12.command import Command

Seeds = Mapping[int, Sequence[tuple[int, bytes]]]

_SHA1_THREAD = (Ordinal.SHA1_UPDATE, Ordinal.SHA1_COMPLETE, Ordinal.SHA1_COMPLETE_EXTEND)
_TRANSPORT_THREAD = (
    Ordinal.EXECUTE_TRANSPORT,
    Ordinal.EXECUTE_TRANSPORT,
    Ordinal.EXECUTE_TRANSPORT,
    Ordinal.RELEASE_TRANSPORT_SIGNED,
)
_FOLLOWERS: Mapping[int, tuple[Ordinal, ...]] = {
    Ordinal.SHA1_START: _SHA1_THREAD,
    Ordinal.SHA1_UPDATE: _SHA1_THREAD,
    Ordinal.SAVE_CONTEXT: (Ordinal.LOAD_CONTEXT,),
    Ordinal.SAVE_AUTH_CONTEXT: (Ordinal.LOAD_AUTH_CONTEXT,),
    Ordinal.SAVE_KEY_CONTEXT: (Ordinal.LOAD_KEY_CONTEXT,),
    Ordinal.CREATE_COUNTER: (Ordinal.INCREMENT_COUNTER, Ordinal.RELEASE_COUNTER),
    Ordinal.SAVE_STATE: (Ordinal.SAVE_STATE,),
    Ordinal.ESTABLISH_TRANSPORT: _TRANSPORT_THREAD,
    Ordinal.EXECUTE_TRANSPORT: _TRANSPORT_THREAD,
    Ordinal.DAA_JOIN: (Ordinal.DAA_JOIN,),
    Ordinal.DAA_SIGN: (Ordinal.DAA_SIGN,),
}
"""What only makes sense soon after a success of something else."""
_WRAP_PERCENT = 85
_BLOBS = 40
_KEPT_COMMANDS = 4
_LATELY_PERCENT = 30
_FAVOURITES = 10
_RESERVED = 0x40
_MAX_BYTES = 5000
_TAGS = (0x00C1, 0x00C2, 0x00C3, 0x00C4, 0x0000, 0xFFFF)
_SIZES = (0, 1, 9, 10, 0x7FFFFFFF, 0xFFFFFFFF)
_LENGTHS = (0, 1, 2, 0x14, 0xFF, 0x100, 0x101, 0x1000, 0x7FFFFFFF, 0xFFFFFFFF)


class Mutator:
    """Makes commands; `values` says what the chip has and gave out.

    Args:
        seeds: (return code, command) by ordinal.
        own: the same of this very chip, whose keys and blobs it takes.
    """

    def __init__(self, dice: Dice, seeds: Seeds, own: Seeds) -> None:
        self.dice = dice
        self.values = Values(dice)
        self._blobs: deque[bytes] = deque(maxlen=_BLOBS)
        self._lately: dict[int, deque[tuple[int, bytes]]] = {}
        self._seeds = seeds
        self._own = own
        self._followers: tuple[Ordinal, ...] = ()
        self._ordinals = sorted(ROWS)
        # Some ordinals more often than others, in each run different ones, so that they meet.
        self._favourites = [dice.pick(self._ordinals) for _ in range(_FAVOURITES)]
        self._turns: tuple[Callable[[bytearray], None], ...] = (
            self._flip_bit,
            self._set_byte,
            self._set_length,
            self._truncate,
            self._extend,
            self._splice,
            self._set_tag,
            self._set_ordinal,
            self._set_handle,
        )

    def remember(self, command: bytes, response: bytes) -> None:
        """Keep what succeeded, as a seed, and what it gave out, to be sent back."""
        ordinal = parse_header(command).code
        self._followers = _FOLLOWERS.get(ordinal, self._followers)
        self._lately.setdefault(ordinal, deque(maxlen=_KEPT_COMMANDS)).append((0, command))
        body = response[HEADER_BYTES:]
        if len(body) > 20:
            self._blobs.append(body)
            self._blobs.append(body[4 : 4 + int.from_bytes(body[:4], "big")])
            self.values.blobs = self._blobs

    def command(self) -> bytes:
        """Return a command of any quality, still to be signed."""
        dice = self.dice
        choice = dice.below(100)
        if choice < 2:
            return dice.bytes(dice.below(200))
        ordinal = dice.pick(self._favourites if dice.chance(50) else self._ordinals)
        if self._followers and dice.chance(40):
            ordinal = dice.pick(self._followers)
            if ordinal not in ROWS or dice.chance(20):
                self._followers = ()
                ordinal = dice.pick(self._ordinals)
        if ordinal == Ordinal.EXECUTE_TRANSPORT and dice.chance(_WRAP_PERCENT):
            return self.wrapped()
        seed = self._seed(ordinal)
        if seed is None or choice < 8:
            seed = self._blank(ROWS[ordinal])
        if choice < 50:
            seed = self._with_new_fields(seed)
        if 40 <= choice < 65:
            seed = self._turned(seed)
        return seed

    def changed(self, command: bytes) -> bytes:
        """Return a command with other fields, or with bytes turned over."""
        return (self._with_new_fields if self.dice.chance(50) else self._turned)(command)

    def released(self) -> bytes:
        """Return ReleaseTransportSigned, still to be signed."""
        seed = self._seed(Ordinal.RELEASE_TRANSPORT_SIGNED)
        assert seed is not None
        return self._with_new_fields(seed) if self.dice.chance(20) else seed

    def wrapped(self) -> bytes:
        """Return ExecuteTransport around a command of any quality, still to be signed."""
        inside = self.command()[: _MAX_BYTES - AUTH_BYTES - 4]
        size = len(inside).to_bytes(4, "big")
        body = size + inside + bytes(AUTH_BYTES)
        return _message(Tag.RQU_AUTH1_COMMAND, Ordinal.EXECUTE_TRANSPORT, body)

    def _seed(self, ordinal: int) -> bytes | None:
        vectors: Sequence[tuple[int, bytes]] = self._seeds.get(ordinal, ())
        if not vectors or (ordinal in self._own and self.dice.chance(60)):
            vectors = self._own.get(ordinal, ())
        if ordinal in self._lately and self.dice.chance(_LATELY_PERCENT):
            vectors = self._lately[ordinal]
        if not vectors:
            return None
        # Every second time one that succeeded, if there is one.
        if self.dice.chance(50):
            vectors = [vector for vector in vectors if vector[0] == 0] or vectors
        command = self.dice.pick(vectors)[1]
        for start in range(HEADER_BYTES, HEADER_BYTES + ROWS[ordinal].handles_in // 4 * 4, 4):
            known = int.from_bytes(command[start : start + 4], "big")
            there = known >> 24 == _RESERVED or known in self.values.handles
            if self.dice.chance(15 if there else 85):
                handle = self.values.handle().to_bytes(4, "big")
                command = command[:start] + handle + command[start + 4 :]
        return command

    def _blank(self, row: Command) -> bytes:
        """Return a command of an ordinal made of its layout alone."""
        count = self.dice.pick(sorted(row.auth_blocks))
        request = self.values.blank(row.request)
        body = self.dice.bytes(self.dice.below(100)) if request is None else _encode(request)
        return _message(Tag.RQU_COMMAND + count, row.ordinal, body + bytes(AUTH_BYTES * count))

    def _with_new_fields(self, command: bytes) -> bytes:
        """Return the command with one or two fields of its parameters changed."""
        if len(command) < HEADER_BYTES:
            return command
        header = parse_header(command)
        row = ROWS.get(header.code)
        if row is None:
            return command
        reader = Reader(command, HEADER_BYTES)
        try:
            request = row.request.read(reader)
        except WireError:
            return command
        body = _encode(self.values.change(request))
        return _message(header.tag, header.code, body + reader.rest())

    def _turned(self, command: bytes) -> bytes:
        """Return the command with some bytes turned over, mostly with a right size again."""
        data = bytearray(command)
        for _ in range(1 + self.dice.below(3)):
            self.dice.pick(self._turns)(data)
        if len(data) >= 6:
            size = self.dice.pick(_SIZES) if self.dice.chance(3) else len(data)
            data[2:6] = size.to_bytes(4, "big")
        return bytes(data[:_MAX_BYTES])

    def _place(self, data: bytearray, width: int = 1) -> int:
        """Return an offset behind the header."""
        return HEADER_BYTES + self.dice.below(max(1, len(data) - HEADER_BYTES - width + 1))

    def _flip_bit(self, data: bytearray) -> None:
        place = self._place(data)
        if place < len(data):
            data[place] ^= 1 << self.dice.below(8)

    def _set_byte(self, data: bytearray) -> None:
        place = self._place(data)
        if place < len(data):
            data[place] = self.dice.pick((0, 1, 0x7F, 0x80, 0xFF))

    def _set_length(self, data: bytearray) -> None:
        """Change four bytes that look like a length, or any."""
        places = [
            place
            for place in range(HEADER_BYTES, len(data) - 3)
            if 0 < int.from_bytes(data[place : place + 4], "big") <= len(data)
        ]
        place = self.dice.pick(places) if places else self._place(data, 4)
        if place + 4 <= len(data):
            old = int.from_bytes(data[place : place + 4], "big")
            new = (old + self.dice.pick((-1, 1))) % 2**32
            if self.dice.chance(40):
                new = self.dice.pick(_LENGTHS)
            data[place : place + 4] = new.to_bytes(4, "big")

    def _truncate(self, data: bytearray) -> None:
        del data[self._place(data) :]

    def _extend(self, data: bytearray) -> None:
        size = 4096 if self.dice.chance(5) else self.dice.below(64)
        data += self.dice.bytes(size)

    def _splice(self, data: bytearray) -> None:
        """Put a piece of another seed, or of what the chip gave out, somewhere."""
        other = self._seed(self.dice.pick(self._ordinals)) or b""
        if self._blobs and self.dice.chance(50):
            other = self.dice.pick(self._blobs)
        start = self.dice.below(len(other) + 1)
        piece = other[start : start + self.dice.below(300)]
        place = self._place(data)
        data[place : place + self.dice.pick((0, len(piece)))] = piece

    def _set_tag(self, data: bytearray) -> None:
        data[:2] = self.dice.pick(_TAGS).to_bytes(2, "big")

    def _set_ordinal(self, data: bytearray) -> None:
        data[6:10] = self.dice.pick(tuple(Ordinal)).to_bytes(4, "big")

    def _set_handle(self, data: bytearray) -> None:
        place = HEADER_BYTES if self.dice.chance(70) else self._place(data, 4)
        data[place : place + 4] = self.values.handle().to_bytes(4, "big")


def _encode(request: Structure) -> bytes:
    """Return the wire form, or nothing of what has none."""
    try:
        return request.encode()
    except (ValueError, OverflowError, struct.error, TypeError, AttributeError):
        return b""


def _message(tag: int, ordinal: int, body: bytes) -> bytes:
    return build_message(tag & 0xFFFF, ordinal, body[:_MAX_BYTES])
