# SPDX-License-Identifier: Apache-2.0
"""What `make install` leaves behind, and what `make uninstall` does not; the wheel."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from daemons.runtime.config.folder import load_machine
from daemons.runtime.config.options import Machine
from tests.integration.machine import ROOT
from tests.integration.suite_machine import suite_machine

COMMANDS = ("hwtpm", "vtpmmgr", "vtpm", "tpmfront", "vtpmctl")
READ_PUBEK = bytes.fromhex("00c1 0000001e 0000007c") + bytes(20)
PACKAGES = {"protocol", "tpmcore", "daemons"}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-s", "-C", ROOT, *arguments], capture_output=True, text=True, timeout=100
    )


def listing(folder: Path) -> set[str]:
    """Every file and folder below one."""
    return {
        os.path.join(path, name)
        for path, folders, files in os.walk(folder)
        for name in [*folders, *files]
    }


def test_nothing_that_is_installed_names_the_checkout_or_the_staging_folder(
    installed: Path,
) -> None:
    names = (str(ROOT).encode(), str(installed).encode())
    found = [
        path
        for path in installed.rglob("*")
        if path.is_file() and any(name in path.read_bytes() for name in names)
    ]
    links = [path for path in installed.rglob("*") if path.is_symlink()]
    assert found == []
    assert [link for link in links if str(ROOT) in str(link.readlink())] == []


def test_what_is_installed_belongs_to_root_and_only_root_may_change_it(installed: Path) -> None:
    for path in installed.rglob("*"):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid()), path
        assert path.is_symlink() or not status.st_mode & 0o022, path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_starts_by_its_own_interpreter(installed: Path, command: str) -> None:
    script = (installed / "opt/vtpm-suite/bin" / command).read_text()
    assert script.startswith("#!/opt/vtpm-suite/bin/python -I\n")
    assert (installed / "usr/local/bin" / command).readlink() == Path(
        f"/opt/vtpm-suite/bin/{command}"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_manual_and_completions(installed: Path, command: str) -> None:
    share = installed / "usr/local/share"
    assert (share / "man/man1" / f"{command}.1").is_file()
    assert (share / "bash-completion/completions" / command).is_file()
    assert (share / "fish/vendor_completions.d" / f"{command}.fish").is_file()
    assert (share / "zsh/site-functions" / f"_{command}").is_file()


def test_the_installed_dependencies_are_the_locked_ones(installed: Path) -> None:
    locked = dict(
        re.findall(r"^([a-z0-9-]+)==([^ ]+)", (ROOT / "requirements.lock").read_text(), re.M)
    )
    (site,) = installed.glob("opt/vtpm-suite/lib/python*/site-packages")
    found = {
        distribution.metadata["Name"].lower().replace("_", "-"): distribution.version
        for distribution in importlib.metadata.distributions(path=[str(site)])
    }
    assert found.pop("vtpm-suite") == importlib.metadata.version("vtpm-suite")
    assert {"trio", "cryptography", "click", "construct", "gmpy2", "apsw"} <= found.keys()
    assert {name: locked.get(name) for name in found} == found
    assert not {"pytest", "mypy", "pip", "setuptools"} & found.keys()


def test_a_second_install_replaces_the_first_and_an_uninstall_takes_all(run_dir: Path) -> None:
    options = (f"DESTDIR={run_dir}", "PREFIX=/srv/tpms", "LOCAL=/usr")
    (run_dir / "etc/vtpm").mkdir(parents=True)
    (run_dir / "etc/vtpm/vtpm.toml").write_text("# the operator's\n")
    before = listing(run_dir)
    assert make("install", *options).returncode == 0
    first = listing(run_dir)
    (stray,) = run_dir.glob("srv/tpms/lib/python*/site-packages/daemons/__init__.py")
    unit = (run_dir / "usr/lib/systemd/system/vtpm@.service").read_text()
    assert "ExecStart=/srv/tpms/bin/vtpm " in unit
    assert not re.search("@[a-z]+@", unit)
    stray.unlink()
    assert make("install", *options).returncode == 0
    assert listing(run_dir) == first

    assert make("uninstall", *options).returncode == 0
    assert listing(run_dir) == before
    assert (run_dir / "etc/vtpm/vtpm.toml").read_text() == "# the operator's\n"
    again = make("uninstall", *options)
    assert again.returncode != 0
    assert "nothing is installed" in again.stderr


def test_the_example_of_the_configuration_says_what_is_the_default_anyway(
    installed: Path, run_dir: Path
) -> None:
    """Also where its comment signs are taken away."""
    example = (installed / "etc/vtpm/vtpm.toml").read_text()
    (run_dir / "vtpm.toml").write_text(re.sub("^# ([a-z_]+ = )", r"\1", example, flags=re.M))
    assert (run_dir / "vtpm.toml").read_text().count(" = ") >= 5
    assert load_machine(run_dir) == Machine()


def test_a_prefix_with_other_things_in_it_is_left_alone(run_dir: Path) -> None:
    (run_dir / "usr/local/bin").mkdir(parents=True)
    (run_dir / "usr/local/bin/mine").touch()
    before = listing(run_dir)
    done = make("install", f"DESTDIR={run_dir}", "PREFIX=/usr/local")
    assert done.returncode != 0
    assert "a folder of the suite's own" in done.stderr
    assert listing(run_dir) == before


def test_an_uninstall_of_a_running_suite_leaves_state_for_the_next_install(
    run_dir: Path, installed: Path
) -> None:
    """In a machine where it was used: guests, credentials, enabled units."""
    places = ("/opt", "/usr/local", "/etc", "/var/lib", "/run/vtpm")
    secret = "text:an uninstalled owner"
    with suite_machine(
        run_dir, installed, ("g1", "g2"), etc={"vtpm/credentials/owner-auth": secret}
    ) as suite:

        def files() -> set[str]:
            return set(suite.run("find", *places, check=False).splitlines())

        state = {path for path in files() if path.startswith(("/etc/vtpm", "/var/lib/vtpm"))}
        suite.start()
        key = suite.exchange("g1", READ_PUBEK)
        assert key[6:10] == bytes(4)
        used = {path for path in files() if path.startswith(("/etc/vtpm", "/var/lib/vtpm"))}
        assert state < used

        suite.run("make", "-s", "-C", "/mnt/source", "uninstall")

        left = files()
        assert {path for path in left if path.startswith(("/opt/", "/usr/local/"))} == set()
        assert not [path for path in left if "/etc/systemd" in path and "tpm" in path]
        assert "/run/vtpm" not in left
        # All of the state but the markers of running daemons, which a stop removes.
        kept = {path for path in left if path.startswith(("/etc/vtpm", "/var/lib/vtpm"))}
        gone = {Path(path).name for path in used - kept}
        assert gone <= {"running", "manager.db-wal", "manager.db-shm"}
        assert suite.path("/etc/vtpm/credentials/owner-auth").read_text() == secret
        kinds = "--type=service,socket,target"
        listed = suite.run("systemctl", "list-units", "--all", "--no-legend", kinds, "*tpm*")
        assert [line for line in listed.splitlines() if "not-found" not in line] == []

        suite.run("make", "-s", "-C", "/mnt/source", "install")
        suite.start()
        assert suite.exchange("g1", READ_PUBEK) == key


@pytest.fixture(scope="module")
def wheel(module_dir: Path) -> Path:
    """The wheel, built from a copy of what a source distribution has."""
    copy = module_dir / "source"
    for package in sorted(PACKAGES):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, copy / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(module_dir), str(copy))
    (found,) = module_dir.glob("*.whl")
    return found


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-index"]
    subprocess.run([*command, "--disable-pip-version-check"], check=True)


def test_the_wheel_has_the_three_packages_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    (metadata,) = tops - PACKAGES
    assert tops - {metadata} == PACKAGES
    assert f"{metadata}/licenses/LICENSE" in names
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.timeout(300)
def test_the_wheel_works_in_an_environment_of_its_own(
    wheel: Path, installed: Path, module_dir: Path
) -> None:
    """As pipx makes one. Its dependencies come from where `make install` put the locked ones."""
    place = module_dir / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    (locked,) = installed.glob("opt/vtpm-suite/lib/python*/site-packages")
    ours = shutil.ignore_patterns("vtpm_suite*", *PACKAGES, "__pycache__")
    shutil.copytree(locked, site, ignore=ours, dirs_exist_ok=True)
    command = [sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "install"]
    # With its dependencies looked for: what the wheel says that it needs is there.
    subprocess.run([*command, "--quiet", "--no-index", str(wheel)], check=True)
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(module_dir)}
    for name in COMMANDS:
        for option, says in (("--help", "Usage: "), ("--version", "0.1.0")):
            done = subprocess.run(
                [place / "bin" / name, option],
                check=True,
                capture_output=True,
                text=True,
                env=environ,
                cwd=module_dir,
            )
            assert says in done.stdout
    where = subprocess.run(
        [place / "bin/python", "-c", "import daemons; print(daemons.__file__)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=module_dir,
    )
    assert where.stdout.startswith(str(place))
