# SPDX-License-Identifier: Apache-2.0
"""State folders: nothing between old and new, on a disk that forgets and fails, and on the real
one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.files import Files, OsFiles, StateFolder, WriteFailed
from tests.faulty_disk import FaultyDisk, power_cuts

FOLDER = Path("/state")
IMAGE = FOLDER / "image"


def _as_files(disk: FaultyDisk) -> Files:
    return disk


def test_a_power_cut_during_replace_leaves_the_old_or_the_new_content() -> None:
    before = FaultyDisk.holding({IMAGE: b"old"})
    seen = set()
    for case in power_cuts(
        before, lambda disk: StateFolder(FOLDER, disk).replace("image", b"new!")
    ):
        found = StateFolder(FOLDER, case.disk).read("image", 100)
        assert found in ({b"new!"} if case.completed else {b"old", b"new!"}), case
        seen.add(found)
    assert seen == {b"old", b"new!"}


def test_a_power_cut_during_the_first_replace_leaves_nothing_or_the_content() -> None:
    for case in power_cuts(
        FaultyDisk(), lambda disk: StateFolder(FOLDER, disk).replace("image", b"x")
    ):
        found = StateFolder(FOLDER, case.disk).read("image", 100)
        assert found in ({b"x"} if case.completed else {None, b"x"}), case


def test_a_returned_overwrite_survives_every_power_cut() -> None:
    for before in (FaultyDisk(), FaultyDisk.holding({IMAGE: b"longer than the new"})):
        cases = list(
            power_cuts(before, lambda d: StateFolder(FOLDER, d).overwrite("image", b"new"))
        )
        assert any(not case.completed for case in cases)
        for case in cases:
            if case.completed:
                assert StateFolder(FOLDER, case.disk).read("image", 100) == b"new", case


def test_a_returned_remove_survives_every_power_cut() -> None:
    before = FaultyDisk.holding({IMAGE: b"old"})
    for case in power_cuts(before, lambda disk: StateFolder(FOLDER, disk).remove("image")):
        found = StateFolder(FOLDER, case.disk).read("image", 100)
        assert found in ({None} if case.completed else {None, b"old"}), case


@pytest.mark.parametrize("error_number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_replace_that_fails_for_certain_has_changed_nothing(error_number: int) -> None:
    steps = FaultyDisk.holding({IMAGE: b"old"})
    StateFolder(FOLDER, steps).replace("image", b"new")
    outcomes = []
    for step in range(1, steps.steps + 1):
        disk = FaultyDisk.holding({IMAGE: b"old"})
        disk.fail_at(step, error_number)
        with pytest.raises(WriteFailed) as raised:
            StateFolder(FOLDER, disk).replace("image", b"new")
        assert raised.value.errno == error_number
        outcomes.append(raised.value.certain)
        if raised.value.certain:
            assert disk.contents() == {IMAGE: b"old"}, disk.journal
    before_rename = [entry.startswith("rename") for entry in steps.journal].index(True)
    assert all(outcomes[:before_rename])
    assert not any(outcomes[before_rename + 1 :])
    assert outcomes[before_rename] is (error_number != errno.EIO)


def test_a_full_disk_leaves_the_old_content_and_works_again_when_there_is_room() -> None:
    disk = FaultyDisk.holding({IMAGE: b"old"})
    disk.fail_at(2, errno.ENOSPC, stays=True)
    folder = StateFolder(FOLDER, disk)
    with pytest.raises(WriteFailed) as raised:
        folder.replace("image", b"new")
    assert raised.value.certain
    assert folder.read("image", 10) == b"old"
    disk.mend()
    folder.replace("image", b"new")
    assert folder.read("image", 10) == b"new"


def test_an_overwrite_that_could_not_open_the_file_says_that_it_is_untouched() -> None:
    disk = FaultyDisk()
    disk.fail_at(1, errno.ENOSPC)
    with pytest.raises(WriteFailed) as raised:
        StateFolder(FOLDER, disk).overwrite("image", b"new")
    assert raised.value.certain
    assert disk.contents() == {}


def test_an_overwrite_that_failed_half_way_is_not_certain() -> None:
    disk = FaultyDisk.holding({IMAGE: b"old content"})
    disk.fail_at(1, errno.ENOSPC)
    with pytest.raises(WriteFailed) as raised:
        StateFolder(FOLDER, disk).overwrite("image", b"new content")
    assert not raised.value.certain


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc/passwd", ".lock", "-x", "a\n", "a" * 65, "ä", "a\0"]
)
def test_a_name_that_could_leave_the_folder_is_refused(name: str) -> None:
    folder = StateFolder(FOLDER, FaultyDisk())
    with pytest.raises(ValueError, match="not a name"):
        folder.read(name, 10)
    with pytest.raises(ValueError, match="not a name"):
        folder.replace(name, b"x")


def test_the_fake_disk_and_the_real_one_agree(tmp_path: Path) -> None:
    def round_trip(files: Files, path: Path) -> list[object]:
        folder = StateFolder(path, files)
        seen: list[object] = [folder.read("a", 10)]
        folder.replace("a", b"one")
        seen.append(folder.read("a", 10))
        folder.replace("a", b"")
        seen.append(folder.read("a", 10))
        folder.overwrite("b", b"a longer content")
        folder.overwrite("b", b"short")
        seen.append(folder.read("b", 10))
        folder.remove("b")
        folder.remove("b")
        seen.append(folder.read("b", 10))
        folder.lock()
        with pytest.raises(RefusedToStart):
            StateFolder(path, files).lock()
        folder.close()
        StateFolder(path, files).lock().close()
        return seen

    on_fake = round_trip(_as_files(FaultyDisk()), FOLDER)
    assert on_fake == [None, b"one", b"", b"short", None]
    assert round_trip(OsFiles(), tmp_path / "state") == on_fake


def test_folders_are_0700_and_files_0600_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        folder = StateFolder(tmp_path / "deep" / "state").lock()
        folder.replace("a", b"x")
        folder.overwrite("b", b"x")
    finally:
        os.umask(old)
    assert (folder.path.stat().st_mode & 0o777) == 0o700
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in folder.path.iterdir()}
    assert modes == {".lock": 0o600, "a": 0o600, "b": 0o600}
    folder.close()


class SyncedFolders(OsFiles):
    """The real disk, noting which folders were flushed."""

    def __init__(self) -> None:
        self.synced: list[Path] = []

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.synced.append(path)


def test_the_name_of_a_new_folder_and_of_its_new_parents_is_durable(tmp_path: Path) -> None:
    files = SyncedFolders()
    StateFolder(tmp_path / "a" / "b" / "state", files)
    assert files.synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    files.synced.clear()
    StateFolder(tmp_path / "a" / "b" / "state", files)
    assert files.synced == []


def test_an_open_folder_is_closed_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    StateFolder(tmp_path)
    assert (tmp_path.stat().st_mode & 0o777) == 0o700


def test_a_link_or_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(RefusedToStart, match="not a folder"):
            StateFolder(tmp_path / name)


def test_a_link_in_place_of_a_file_is_neither_read_nor_written(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"theirs")
    folder = StateFolder(tmp_path / "state")
    (folder.path / "a").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        folder.read("a", 10)
    with pytest.raises(WriteFailed):
        folder.overwrite("a", b"mine")
    assert target.read_bytes() == b"theirs"


def test_a_named_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    os.mkfifo(folder.path / "a")
    with pytest.raises(OSError, match="not a regular file"):
        folder.read("a", 10)


def test_a_file_longer_than_its_limit_is_refused(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.replace("a", bytes(101))
    assert folder.read("a", 101) == bytes(101)
    with pytest.raises(RefusedToStart, match="longer than the 100 bytes"):
        folder.read("a", 100)


def test_a_locked_folder_is_refused_to_a_second_process_and_says_so(tmp_path: Path) -> None:
    with (
        StateFolder(tmp_path / "state").lock() as first,
        pytest.raises(DaemonError, match="in use by another process"),
    ):
        StateFolder(first.path).lock()
    StateFolder(first.path).lock().close()
