# SPDX-License-Identifier: Apache-2.0
"""The installed units as files: they verify, shut their daemons in, and use what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = "usr/local/lib/systemd/system"
DAEMONS = ("hwtpm", "vtpmmgr", "vtpm", "tpmfront")
EXPOSURE_LIMIT = 15  # tenths: 1.5
DEVICE_EXPOSURE_LIMIT = 20


def unit_files(installed: Path, folder: Path) -> list[Path]:
    """Copy the units to where they can be looked at; templates become instance g1."""
    made = []
    for path in (installed / UNITS).iterdir():
        made.append(folder / path.name.replace("@.", "@g1."))
        shutil.copy(path, made[-1])
    return made


def unit_of(daemon: str, folder: Path) -> Path:
    (unit,) = (path for path in folder.glob("*.service") if path.stem.partition("@")[0] == daemon)
    return unit


def test_the_units_verify(installed: Path, run_dir: Path) -> None:
    paths = unit_files(installed, run_dir)
    # systemd-analyze looks whether the commands are there, which is where they will be.
    for path in paths:
        path.write_text(path.read_text().replace("/opt/", f"{installed}/opt/"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True
    )
    ours = [line for line in done.stderr.splitlines() if re.search("vtpm|hwtpm|tpmfront", line)]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("daemon", DAEMONS)
def test_what_is_exposed_to_a_daemon_is_little(installed: Path, run_dir: Path, daemon: str) -> None:
    unit_files(installed, run_dir)
    command = ("systemd-analyze", "security", "--offline=true", "--no-pager")
    done = subprocess.run(
        [*command, f"--threshold={EXPOSURE_LIMIT}", unit_of(daemon, run_dir)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout


def test_what_is_exposed_to_the_unit_that_makes_devices_is_bounded(
    installed: Path, run_dir: Path
) -> None:
    """It begins with the right to make a device, which weighs much by itself."""
    unit_files(installed, run_dir)
    command = ("systemd-analyze", "security", "--offline=true", "--no-pager")
    unit = unit_of("tpmfront-proxy", run_dir)
    done = subprocess.run(
        [*command, f"--threshold={DEVICE_EXPOSURE_LIMIT}", unit], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout


def test_a_daemon_without_its_sandbox_would_be_noticed(installed: Path, run_dir: Path) -> None:
    unit_files(installed, run_dir)
    unit = unit_of("vtpm", run_dir)
    text = unit.read_text()
    unit.write_text("".join(f"{line}\n" for line in text.splitlines() if "Call" not in line))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_LIMIT}", unit],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0


@pytest.mark.parametrize("daemon", DAEMONS)
def test_every_option_in_a_unit_is_one_of_its_command(
    installed: Path, run_dir: Path, daemon: str
) -> None:
    unit_files(installed, run_dir)
    used = set(re.findall(r" (--[a-z-]+)", unit_of(daemon, run_dir).read_text()))
    usage = subprocess.run(
        [installed / "opt/vtpm-suite/bin/python", "-Im", f"daemons.{daemon}", "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert used
    assert {option for option in used if not re.search(rf"^ +.*{option}\b", usage, re.M)} == set()


def test_every_listener_of_a_daemon_is_made_for_it(installed: Path, run_dir: Path) -> None:
    """And by the name under which the daemon looks for it."""
    wanted = {
        "hwtpm": {*(f"locality{number}" for number in range(5)), "control"},
        "vtpmmgr": {"backend", "control", "admin"},
        "vtpm": {"backend", "control"},
        "tpmfront": {"tpm", "ctrl", "control"},
    }
    unit_files(installed, run_dir)
    # An optional one, which its service does not ask for.
    optional = (run_dir / "tpmfront-tcp@g1.socket").read_text()
    assert "FileDescriptorName=tcp\n" in optional
    assert "Service=tpmfront@%i.service\n" in optional
    for daemon, names in wanted.items():
        sockets = " ".join(re.findall("^Sockets=(.*)$", unit_of(daemon, run_dir).read_text(), re.M))
        found = set()
        for unit in sockets.replace("%i", "g1").split():
            path = run_dir / unit
            if not path.exists():
                path = run_dir / re.sub("@.*[.]", "@g1.", unit)
            text = path.read_text()
            found.add(
                re.findall("^FileDescriptorName=(.*)$", text, re.M)[0].replace(
                    "%i", unit.partition("@")[2].removesuffix(".socket")
                )
            )
            assert f"Service={daemon}" in text
        assert found == names
