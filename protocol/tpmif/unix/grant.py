# SPDX-License-Identifier: Apache-2.0
"""Granting and mapping pages: a memfd that can never change its size.

A mapped file that is cut off kills the process that touches the missing page (SIGBUS). So the
backend maps only what carries the seals SHRINK, GROW and SEAL, which the kernel accepts on nothing
but a memfd made for it, and whose size is exactly the pages that were promised.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

from protocol.errors import WireError
from protocol.tpmif.page import PAGE_SIZE, memory_size

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Mapping:
    """Pages that are mapped until `close`.

    The descriptor is not kept: the mapping holds the memory.
    """

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self._map = mmap.mmap(descriptor, size_bytes)

    def memory(self) -> memoryview:
        """Return a view; it has to be released before `close`."""
        return memoryview(self._map)

    def close(self) -> None:
        """Undo the mapping."""
        self._map.close()


def make_grant(extra_pages: int) -> tuple[int, Mapping]:
    """Return the descriptor of new, zeroed, sealed pages, which is the caller's, and a mapping."""
    size_bytes = memory_size(extra_pages)
    descriptor = os.memfd_create("tpmif", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size_bytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return descriptor, Mapping(descriptor, size_bytes)
    except BaseException:
        os.close(descriptor)
        raise


def map_grant(descriptor: int, pages: int) -> Mapping:
    """Map pages that a peer granted. The descriptor stays the caller's.

    Raises:
        WireError: not a memfd, a seal is missing, another size, or it cannot be mapped.
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        raise WireError("grant", 0, f"no memfd: {error.strerror}") from None
    if seals & _SEALS != _SEALS:
        raise WireError("grant", 0, f"seals {seals:#x}, needed {_SEALS:#x}")
    # From here on the size cannot change.
    size_bytes = os.fstat(descriptor).st_size
    if size_bytes != pages * PAGE_SIZE:
        raise WireError("grant", 0, f"{size_bytes} bytes for {pages} pages of {PAGE_SIZE}")
    try:
        return Mapping(descriptor, size_bytes)
    except OSError as error:  # sealed against writing, or out of memory
        raise WireError("grant", 0, f"cannot be mapped: {error.strerror}") from None
