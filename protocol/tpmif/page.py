# SPDX-License-Identifier: Apache-2.0
"""The shared page of protocol v2, byte for byte, over any writable memory.

| offset | size | field            | written by                           |
|--------|------|------------------|--------------------------------------|
| 0      | 4    | `length`         | front before SUBMIT, back before FINISH |
| 4      | 1    | `state`          | both, see `PageState`                |
| 5      | 1    | `locality`       | front                                |
| 6      | 1    | `pad`            | front, zero                          |
| 7      | 1    | `nr_extra_pages` | front                                |
| 8      | 4n   | `extra_pages`    | front                                |
| 8 + 4n | rest | packet           | both                                 |

Source: Xen public header io/tpmif.h, `struct tpmif_shared_page`. Its comment puts the list at 16;
the structure, and everybody who uses it, at 8. Integers are little-endian here, which is the
native order of every machine Xen runs on.

The other side writes this memory whenever it likes. So each field is fetched once, the state
before the length (the mirror image of how they are written), packets are copied out in one go,
and only the copies are looked at. Python cannot issue memory barriers; the order holds because
x86 keeps stores in order and because each state change is followed by a system call (the
notification) on the writing side and preceded by one on the reading side.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from protocol.errors import WireError

PAGE_SIZE: Final = 4096
HEADER: Final = Struct("<IBBBB")  # length, state, locality, pad, nr_extra_pages
HEADER_SIZE: Final = 8
STATE_OFFSET: Final = 4
LOCALITY_OFFSET: Final = 5
EXTRA_COUNT_OFFSET: Final = 7
GRANT_SIZE: Final = 4
MAX_EXTRA_PAGES: Final = 255  # nr_extra_pages is one byte
MAX_LOCALITY: Final = 255  # the byte on the page; hardware TPMs have 0 to 4

_LENGTH: Final = Struct("<I")


class PageState(IntEnum):
    """`enum tpmif_state`. Source: io/tpmif.h."""

    IDLE = 0  # no content, or the request was cancelled; written by the backend
    SUBMIT = 1  # request ready, backend working; written by the frontend
    FINISH = 2  # response ready; written by the backend
    CANCEL = 3  # cancel requested, backend still working; written by the frontend


def capacity_bytes(extra_pages: int) -> int:
    """Return the largest packet with that many extra pages: 4088, 8180, 12272, ... 1047548."""
    return PAGE_SIZE * (extra_pages + 1) - HEADER_SIZE - GRANT_SIZE * extra_pages


def memory_size(extra_pages: int) -> int:
    """Return the size in bytes of the page with its extra pages behind it."""
    return PAGE_SIZE * (extra_pages + 1)


class Request(NamedTuple):
    """What the header said when a request was taken. (A tuple, made in a third of the time.)

    `length` is the claim of the frontend, 0 to 2^32-1, not yet compared with the capacity.
    """

    length: int
    locality: int
    extra_pages: int


class SharedPage:
    """One shared page and the extra pages mapped directly behind it.

    Grant references are page numbers in the memory: the shared page is 0, extra page i is i + 1.

    Args:
        memory: writable, of bytes, 4096 times one to 256. Stays with the caller, who may release
            it after `release`.
    """

    __slots__ = ("_memory", "granted_extra_pages")

    def __init__(self, memory: memoryview) -> None:
        pages, rest = divmod(memory.nbytes, PAGE_SIZE)
        if rest or not 1 <= pages <= MAX_EXTRA_PAGES + 1:
            raise WireError("grant", 0, f"{memory.nbytes} bytes are not 1 to 256 pages of 4096")
        if memory.readonly:
            raise WireError("grant", 0, "memory is read-only")
        self._memory = memory
        # Number of pages behind the first; fixed for the life of the mapping.
        self.granted_extra_pages = pages - 1

    @property
    def state(self) -> int:
        """The state byte, fetched once. Not a `PageState`: the peer may have written 0 to 255."""
        return self._memory[STATE_OFFSET]

    @state.setter
    def state(self, value: PageState) -> None:
        self._memory[STATE_OFFSET] = value

    def put_request(self, packet: bytes, locality: int, extra_pages: int) -> None:
        """Write packet and header of a request, the state last.

        The caller has checked length, locality and number of extra pages against their limits.
        """
        memory = self._memory
        offset = HEADER_SIZE
        if extra_pages:
            offset += GRANT_SIZE * extra_pages
            memory[HEADER_SIZE:offset] = _grant_list(extra_pages)
        memory[offset : offset + len(packet)] = packet
        _LENGTH.pack_into(memory, 0, len(packet))
        memory[LOCALITY_OFFSET] = locality
        memory[EXTRA_COUNT_OFFSET] = extra_pages
        memory[STATE_OFFSET] = PageState.SUBMIT

    def take_request(self) -> Request:
        """Fetch the header once, after the caller has seen the state.

        Raises:
            WireError: more extra pages than were granted, or grant references that are not the
                page numbers 1 to n in order. There is no place for an answer then.
        """
        length, _, locality, _, extra_pages = HEADER.unpack_from(self._memory)
        if extra_pages:
            self._check_extra_pages(extra_pages)
        return Request(length, locality, extra_pages)

    def _check_extra_pages(self, extra_pages: int) -> None:
        if extra_pages > self.granted_extra_pages:
            raise WireError(
                "nr_extra_pages",
                EXTRA_COUNT_OFFSET,
                f"{extra_pages} pages used, {self.granted_extra_pages} granted",
            )
        end = HEADER_SIZE + GRANT_SIZE * extra_pages
        if bytes(self._memory[HEADER_SIZE:end]) != _grant_list(extra_pages):
            raise WireError("extra_pages", HEADER_SIZE, f"not the page numbers 1 to {extra_pages}")

    def extra_pages(self) -> int:
        """Fetch `nr_extra_pages` once, as the peer left it."""
        return self._memory[EXTRA_COUNT_OFFSET]

    def copy_packet(self, length: int, extra_pages: int) -> bytes:
        """Copy a packet out once. `length` is at most `capacity_bytes(extra_pages)`."""
        offset = HEADER_SIZE + GRANT_SIZE * extra_pages
        return bytes(self._memory[offset : offset + length])

    def put_response(self, packet: bytes, extra_pages: int) -> None:
        """Write a response that fits, its length, and the state FINISH last."""
        offset = HEADER_SIZE + GRANT_SIZE * extra_pages
        memory = self._memory
        memory[offset : offset + len(packet)] = packet
        _LENGTH.pack_into(memory, 0, len(packet))
        memory[STATE_OFFSET] = PageState.FINISH

    def response_length(self) -> int:
        """Fetch `length` once: 0 to 2^32-1, to be compared with the capacity by the caller."""
        length: int = _LENGTH.unpack_from(self._memory)[0]
        return length

    def release(self) -> None:
        """Let go of the memory, so that the mapping can be closed."""
        self._memory.release()


def _grant_list(extra_pages: int) -> bytes:
    return Struct(f"<{extra_pages}I").pack(*range(1, extra_pages + 1))
