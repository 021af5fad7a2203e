# SPDX-License-Identifier: Apache-2.0
"""The files of a stack of `vtpmctl up`: made where they are missing, kept where they are there."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from daemons.runtime.config.findings import BadConfig
from daemons.runtime.config.folder import load
from daemons.runtime.errors import RefusedToStart
from daemons.runtime.log import Log
from daemons.vtpmctl.layout import Layout
from daemons.vtpmctl.stackconfig import check_ours, prepare_config

OLD = UUID("5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c")


class Lines:
    """A log to look at."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.log = Log("vtpmctl", sink=self.lines.append)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def prepare(layout: Layout, *names: str, lines: Lines | None = None) -> dict[str, UUID]:
    guests = prepare_config(layout, names, (lines or Lines()).log)
    return {guest.name: guest.identity.uuid for guest in guests}


def old_guest(layout: Layout, name: str, text: str = f"{OLD}\n") -> Path:
    """Leave what releases without a configuration left of a guest."""
    folder = layout.guest(name).state
    folder.mkdir(parents=True)
    (folder / "uuid").write_text(text)
    (layout.state / "clients.toml").write_text("[[client]]\n")
    return folder / "uuid"


def test_a_new_guest_gets_a_file_and_keeps_its_uuid(layout: Layout) -> None:
    made = prepare(layout, "g1", "g2")
    assert list(made) == ["g1", "g2"]
    assert made["g1"] != made["g2"]
    assert prepare(layout, "g2") == {"g2": made["g2"]}
    assert prepare(layout) == made
    configuration = load(layout.etc)
    assert {guest.identity.uid for guest in configuration.guests.values()} == {os.geteuid()}
    modes = [
        (guest.front.stream_mode, guest.front.control_mode)
        for guest in configuration.guests.values()
    ]
    assert modes == [(0o666, 0o666)] * 2
    for path in layout.etc.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_an_empty_folder_begins_with_one_guest(layout: Layout) -> None:
    made = prepare(layout)
    assert list(made) == ["guest1"]
    assert prepare(layout) == made


def test_no_guest_is_made_up_where_all_that_there_are_have_mistakes(layout: Layout) -> None:
    prepare(layout, "g1")
    (layout.etc / "guests.d" / "g1.toml").write_text("broken")
    with pytest.raises(BadConfig, match="g1"):
        prepare(layout)
    assert [path.name for path in (layout.etc / "guests.d").iterdir()] == ["g1.toml"]


@pytest.mark.parametrize("names", [("guest1",), ()])
def test_an_image_without_a_file_does_not_get_a_new_uuid(
    layout: Layout, names: tuple[str, ...]
) -> None:
    folder = layout.guest("guest1").state
    folder.mkdir(parents=True)
    (folder / "slot0").write_bytes(b"image")
    with pytest.raises(RefusedToStart, match="vtpmctl guest add guest1 --uuid makes it"):
        prepare(layout, *names)
    assert not (layout.etc / "guests.d" / "guest1.toml").exists()


def test_what_somebody_has_edited_stays(layout: Layout) -> None:
    prepare(layout, "g1")
    machine, guest = layout.etc / "vtpm.toml", layout.etc / "guests.d" / "g1.toml"
    machine.write_text(machine.read_text() + "seal_pcrs = 'none'\n")
    guest.write_text('admin = true\nlabel = "a"\n' + guest.read_text())
    texts = machine.read_text(), guest.read_text()
    prepare(layout, "g1", "g2")
    assert (machine.read_text(), guest.read_text()) == texts


def test_a_guest_of_an_older_release_keeps_its_uuid(layout: Layout) -> None:
    kept = old_guest(layout, "g1")
    assert prepare(layout, "g1") == {"g1": OLD}
    assert not kept.exists()
    assert not (layout.state / "clients.toml").exists()
    assert prepare(layout) == {"g1": OLD}


def test_a_crash_while_an_older_folder_is_taken_over_changes_no_uuid(layout: Layout) -> None:
    kept = old_guest(layout, "g1")
    prepare(layout, "g1")
    kept.write_text(f"{UUID(int=7)}\n")  # as if it had not been removed yet; the file counts
    assert prepare(layout, "g1") == {"g1": OLD}
    assert not kept.exists()


def test_a_copy_beside_the_guest_is_not_taken_for_a_guest(layout: Layout) -> None:
    old_guest(layout, "g1")
    copy = old_guest(layout, "g1-copy")
    no_name = old_guest(layout, "g1.copy")
    assert prepare(layout, "g1") == {"g1": OLD}
    assert copy.exists()
    copy.unlink()
    assert prepare(layout) == {"g1": OLD}
    assert no_name.exists()


def test_a_damaged_uuid_is_refused_and_not_replaced(layout: Layout) -> None:
    kept = old_guest(layout, "g1", "damaged")
    with pytest.raises(RefusedToStart, match="does not hold a uuid"):
        prepare(layout, "g1")
    assert kept.read_text() == "damaged"
    assert not (layout.etc / "guests.d" / "g1.toml").exists()


def test_a_broken_file_ends_a_start_that_names_its_guest_and_not_that_of_the_others(
    layout: Layout,
) -> None:
    prepare(layout, "g1", "g2")
    (layout.etc / "guests.d" / "g1.toml").write_text("broken")
    with pytest.raises(BadConfig, match=r"g1\.toml:1: is no TOML"):
        prepare(layout, "g1")
    lines = Lines()
    assert list(prepare(layout, lines=lines)) == ["g2"]
    assert list(prepare(layout, "g2")) == ["g2"]
    (line,) = lines.lines
    assert "guest left out" in line
    assert "g1.toml:1" in line


def test_a_guest_of_another_user_is_refused(layout: Layout) -> None:
    prepare(layout, "g1")
    path = layout.etc / "guests.d" / "g1.toml"
    path.write_text(path.read_text().replace(f"uid = {os.geteuid()}", "uid = 4711"))
    (guest,) = prepare_config(layout, ["g1"], Lines().log)
    with pytest.raises(BadConfig, match=f"uid: must be {os.geteuid()}, the user of this stack"):
        check_ours(layout, guest)
