# SPDX-License-Identifier: Apache-2.0
"""A full disk under each daemon that keeps state: a small tmpfs, filled to the last byte.

Mounting takes root, as the tests with tcsd do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import trio

from protocol.tpm12.constants import NvAttributes, ReturnCode
from tests.integration.stack import Stack, running_stack, transact
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tss12 import Conversation

T = TypeVar("T")

AREA = 0x10060
SIZE = 600
LARGE = 0x10061
LARGE_SIZE = 12_000
LOG_LIMIT = 200
STUCK_S = 2.0
FREED_S = 30.0


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Put a tmpfs of that size over a folder that does not exist yet."""
    folder.mkdir(parents=True, mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", os.fspath(folder)],
        check=True,
    )
    try:
        yield
    finally:
        subprocess.run(["umount", os.fspath(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until not a byte more fits; return the file to remove."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for block in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(block))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return filler


def _talk(stack: Stack, conversation: Conversation[T]) -> T:
    with stack.connect("g1") as client:
        return tss12.run_sync(lambda command: transact(client, command), conversation)


def _write(stack: Stack, content: bytes) -> int:
    try:
        _talk(stack, tss12.nv_write_value(AREA, content * SIZE))
    except TpmError as error:
        return error.code
    return ReturnCode.SUCCESS


def _content(stack: Stack) -> bytes:
    data = _talk(stack, tss12.nv_read_value(AREA, SIZE))
    assert len(set(data)) == 1
    return data[:1]


def _define(stack: Stack) -> None:
    _talk(stack, tss12.nv_define_space(AREA, SIZE, NvAttributes.PPWRITE | NvAttributes.PPREAD))
    assert _write(stack, b"1") == ReturnCode.SUCCESS


def _define_large(stack: Stack) -> int:
    """Define an area that makes the image pages longer; nothing can be written in place."""
    attributes = NvAttributes.PPWRITE | NvAttributes.PPREAD
    try:
        _talk(stack, tss12.nv_define_space(LARGE, LARGE_SIZE, attributes))
    except TpmError as error:
        return error.code
    return ReturnCode.SUCCESS


def test_a_full_disk_under_the_vtpm_is_a_tpm_error_and_changes_nothing(run_dir: Path) -> None:
    path = run_dir / "state" / "guests" / "g1"
    with small_disk(path, "96k"):
        with running_stack(run_dir) as stack:
            _define(stack)
            measured = _talk(stack, tss12.extend(9, b"m" * 20))
            filler = fill(path)
            assert _define_large(stack) == ReturnCode.IOERROR
            assert _talk(stack, tss12.nv_list()) == [AREA]
            assert _content(stack) == b"1"
            assert _talk(stack, tss12.pcr_read(9)) == measured
            filler.unlink()
            assert _define_large(stack) == ReturnCode.SUCCESS
            assert _write(stack, b"2") == ReturnCode.SUCCESS
        with running_stack(run_dir) as stack:
            assert _talk(stack, tss12.nv_list()) == [AREA, LARGE]
            assert _content(stack) == b"2"


def test_a_full_disk_under_the_manager_is_a_tpm_error_and_changes_nothing(run_dir: Path) -> None:
    path = run_dir / "state" / "vtpmmgr"
    with small_disk(path, "512k"):
        with running_stack(run_dir) as stack:
            _define(stack)
            measured = _talk(stack, tss12.extend(9, b"m" * 20))
            filler = fill(path)
            kept = 1
            # Its log may have room for some more commits.
            while (code := _write(stack, bytes([kept + 1]))) == ReturnCode.SUCCESS:
                kept += 1
                assert kept < LOG_LIMIT
            assert code == ReturnCode.IOERROR
            if kept > 1:
                assert _content(stack) == bytes([kept])
            assert _talk(stack, tss12.pcr_read(9)) == measured
            filler.unlink()
            assert _write(stack, b"z") == ReturnCode.SUCCESS
        with running_stack(run_dir) as stack:
            assert _content(stack) == b"z"


async def test_a_full_disk_under_the_chip_holds_the_save_until_there_is_room(
    run_dir: Path,
) -> None:
    """After the manager's commit there is no error any more: it tries until the chip is bound."""
    path = run_dir / "state" / "hwtpm"
    with small_disk(path, "96k"):
        with running_stack(run_dir) as stack:
            await trio.to_thread.run_sync(_define, stack)
            filler = fill(path)
            codes: list[int] = []

            def write() -> None:
                codes.append(_write(stack, b"2"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, write)
                await trio.sleep(STUCK_S)
                assert codes == []
                filler.unlink()
                nursery.cancel_scope.deadline = trio.current_time() + FREED_S
            assert codes == [ReturnCode.SUCCESS]
        with running_stack(run_dir) as stack:
            assert _content(stack) == b"2"
