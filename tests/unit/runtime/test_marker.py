# SPDX-License-Identifier: Apache-2.0
"""The marker of a running daemon: there after every end but an orderly stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from daemons.runtime.errors import DaemonError
from daemons.runtime.files import StateFolder
from daemons.runtime.log import Log
from daemons.runtime.marker import RunMarker, read_boot_id
from tests.faulty_disk import FaultyDisk

FOLDER = Path("/state")


def _marker(
    disk: FaultyDisk, boot_id: bytes = b"this boot", lines: list[str] | None = None
) -> RunMarker:
    log = Log("test", sink=([] if lines is None else lines).append)
    return RunMarker(StateFolder(FOLDER, disk), boot_id, log)


async def _stop(marker: RunMarker) -> None:
    with trio.CancelScope() as scope, marker.removed_by_stop():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()


def test_a_marker_of_this_boot_tells_that_the_daemon_was_killed() -> None:
    disk = FaultyDisk()
    assert not _marker(disk).is_left_over()
    _marker(disk).set()
    assert _marker(disk.restarted()).is_left_over()


def test_a_marker_of_another_boot_tells_nothing() -> None:
    disk = FaultyDisk()
    _marker(disk, b"an earlier boot").set()
    assert not _marker(disk).is_left_over()
    _marker(disk).set()
    assert _marker(disk).is_left_over()


async def test_an_orderly_stop_removes_the_marker() -> None:
    disk = FaultyDisk()
    marker = _marker(disk)
    marker.set()
    await _stop(marker)
    assert not _marker(disk.restarted()).is_left_over()


async def test_a_stop_before_the_daemon_served_leaves_the_marker_of_one_that_was_killed() -> None:
    disk = FaultyDisk()
    _marker(disk).set()
    await _stop(_marker(disk))
    assert _marker(disk).is_left_over()


async def test_a_daemon_that_fails_leaves_the_marker_although_its_other_tasks_are_cancelled() -> (
    None
):
    disk = FaultyDisk()
    marker = _marker(disk)
    marker.set()

    async def fail() -> None:
        raise OSError("the disk is gone")

    async def live() -> None:
        with marker.removed_by_stop():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail)

    with pytest.raises(ExceptionGroup):
        await live()
    assert _marker(disk).is_left_over()


async def test_a_marker_that_cannot_be_removed_is_reported_and_the_stop_goes_on() -> None:
    disk, lines = FaultyDisk(), list[str]()
    marker = _marker(disk, lines=lines)
    marker.set()
    disk.fail_at(1, 5, stays=True)
    await _stop(marker)
    assert ["marker" in line for line in lines] == [True]
    disk.mend()
    assert _marker(disk).is_left_over()


def test_the_boot_id_has_36_characters() -> None:
    assert len(read_boot_id({})) == 36


def test_the_boot_id_that_a_service_manager_gives_is_the_kernels() -> None:
    kernels = read_boot_id({})
    given = kernels.decode().replace("-", "")
    assert read_boot_id({"VTPM_BOOT_ID": given}) == kernels
    with pytest.raises(DaemonError, match="VTPM_BOOT_ID"):
        read_boot_id({"VTPM_BOOT_ID": "yesterday"})
