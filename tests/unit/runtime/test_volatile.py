# SPDX-License-Identifier: Apache-2.0
"""Volatile memory: the last whole store is what the next process finds."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from daemons.runtime.errors import DaemonError
from daemons.runtime.volatile import VolatileMemory


@contextmanager
def held(memory: VolatileMemory) -> Iterator[int]:
    """What the supervisor has: its own descriptor for the same memory."""
    fd = os.dup(memory.fd)
    try:
        yield fd
    finally:
        os.close(fd)


def empty_memfd() -> int:
    return os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def test_a_new_memory_holds_nothing() -> None:
    memory = VolatileMemory.create("test")
    assert memory.load() is None
    memory.close()


def test_an_empty_memfd_becomes_a_memory_that_holds_nothing() -> None:
    memory = VolatileMemory.adopt(empty_memfd())
    assert memory.load() is None
    memory.store(b"x")
    assert memory.load() == b"x"
    memory.close()


def test_the_next_process_finds_what_was_stored_last() -> None:
    memory = VolatileMemory.create("test")
    for n in range(5):
        memory.store(b"state %d" % n * n)
    with held(memory) as fd:
        memory.close()
        again = VolatileMemory.adopt(os.dup(fd))
        assert again.load() == b"state 4" * 4
        again.store(b"later")
        again.close()
        third = VolatileMemory.adopt(os.dup(fd))
        assert third.load() == b"later"
        third.close()


def test_a_store_torn_at_any_byte_leaves_the_one_before() -> None:
    before, after = b"before" * 10, b"after!" * 11
    memory = VolatileMemory.create("test", capacity_bytes=256)
    memory.store(b"older")
    memory.store(before)
    size = os.fstat(memory.fd).st_size
    old = os.pread(memory.fd, size, 0)
    memory.store(after)
    new = os.pread(memory.fd, size, 0)
    memory.close()
    # The order of the writes is data, then header; whatever their order, no mix may be believed.
    changed = [i for i in range(size) if old[i] != new[i]]
    assert changed
    for cut in range(len(changed)):
        for order in (changed, changed[::-1]):
            torn = bytearray(old)
            for i in order[:cut]:
                torn[i] = new[i]
            fd = empty_memfd()
            os.write(fd, torn)
            found = VolatileMemory.adopt(fd)
            assert found.load() == before
            found.close()


def test_too_much_is_refused_and_what_was_stored_stays() -> None:
    memory = VolatileMemory.create("test", capacity_bytes=100)
    memory.store(bytes(100))
    with pytest.raises(DaemonError, match="101 bytes, there is room for 100"):
        memory.store(bytes(101))
    assert memory.load() == bytes(100)
    memory.close()


def test_clearing_forgets_and_leaves_no_trace() -> None:
    memory = VolatileMemory.create("test")
    memory.store(b"secret" * 100)
    memory.store(b"secret")
    memory.clear()
    assert memory.load() is None
    assert b"secret" not in os.pread(memory.fd, os.fstat(memory.fd).st_size, 0)
    memory.store(b"new")
    assert memory.load() == b"new"
    memory.close()


def test_nobody_can_shrink_a_memory_under_its_user() -> None:
    memory = VolatileMemory.create("test")
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 0)
    memory.close()


def test_a_memory_made_with_another_capacity_is_taken_as_it_is() -> None:
    memory = VolatileMemory.create("test", capacity_bytes=5000)
    memory.store(b"x" * 5000)
    with held(memory) as fd:
        again = VolatileMemory.adopt(os.dup(fd))
        assert again.load() == b"x" * 5000
        again.close()
    memory.close()


def _foreign(content: bytes, seals: int = 0) -> int:
    fd = empty_memfd()
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def _pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(_pipe, id="a pipe"),
        pytest.param(lambda: os.open("/dev/null", os.O_RDWR), id="a device"),
        pytest.param(lambda: _foreign(b"short"), id="too short for a header"),
        pytest.param(lambda: _foreign(bytes(mmap.PAGESIZE)), id="no magic"),
        pytest.param(
            lambda: _foreign(struct.pack("=8sI", b"vTPMvol1", 0xFFFFFFFF)), id="capacity that lies"
        ),
        pytest.param(lambda: _foreign(b"x", fcntl.F_SEAL_WRITE), id="sealed against writing"),
    ],
)
def test_a_descriptor_that_is_no_memory_of_ours_is_refused_and_left_alone(
    make: type[int],
) -> None:
    fd = make()
    with pytest.raises(DaemonError):
        VolatileMemory.adopt(fd)
    os.close(fd)
