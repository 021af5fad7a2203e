# SPDX-License-Identifier: Apache-2.0
"""`make install` and `make uninstall`: an environment of its own under the prefix, and the units.

    python systemd/install.py install|uninstall [--destdir DIR] [--prefix DIR] [--local DIR]

| what                                       | where                                              |
|--------------------------------------------|----------------------------------------------------|
| interpreter, packages, commands            | PREFIX, by default /opt/vtpm-suite                 |
| list of all that was made                  | PREFIX/installed-files                             |
| links to the commands                      | LOCAL/bin, by default /usr/local/bin               |
| units, sysusers.d, tmpfiles.d              | LOCAL/lib/systemd/system, .../sysusers.d, ...      |
| manuals, completions                       | LOCAL/share                                        |
| example of the configuration               | /etc/vtpm/vtpm.toml, if there is none; it stays    |

Nothing is downloaded and nothing of the checkout is used afterwards: dependencies are copied out of
the environment that `make setup` made of requirements.lock, which is the one that the tests ran in.
With a DESTDIR everything is put below it, and the running system is left alone. Without one, users
and folders are made and systemd is told.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
PACKAGES = ("protocol", "tpmcore", "daemons")
PROJECT = "vtpm-suite"
MANIFEST = "installed-files"
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
"""What ProtectHome= hides."""
UNIT_KINDS = (".service", ".socket", ".target")
CONFIG = Path("/etc/vtpm/vtpm.toml")
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Target:
    """Where to install.

    Attributes:
        destdir: what everything is put below; "/" is the running system.
        prefix: of the environment, as it will be seen.
        local: of what other programs look for in fixed folders, likewise.
    """

    destdir: Path
    prefix: Path
    local: Path

    def at(self, path: Path) -> Path:
        """Return where a path is that is seen without the destdir."""
        return self.destdir / path.relative_to("/")

    @property
    def is_live(self) -> bool:
        """Whether a systemd that is running has to be told."""
        return self.destdir == Path("/") and Path("/run/systemd/system").is_dir()


class Recorder:
    """Makes files and folders, and knows which were not there before."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._made: list[str] = []

    def folder(self, path: Path) -> Path:
        """Make a folder and those above it; return where it is."""
        place = self._target.at(path)
        if path == path.parent:  # the destdir itself
            place.mkdir(parents=True, exist_ok=True)
        elif not place.is_dir():
            self.folder(path.parent)
            place.mkdir(mode=0o755)
            place.chmod(0o755)
            self._made.append(f"{path}/")
        return place

    def file(self, path: Path, content: bytes, mode: int = 0o644) -> None:
        """Write a file anew."""
        place = self.folder(path.parent) / path.name
        place.unlink(missing_ok=True)
        place.write_bytes(content)
        place.chmod(mode)
        self._made.append(str(path))

    def link(self, path: Path, to: Path) -> None:
        """Make a symbolic link."""
        place = self.folder(path.parent) / path.name
        place.unlink(missing_ok=True)
        place.symlink_to(to)
        self._made.append(str(path))

    def found_below(self, path: Path) -> None:
        """Note everything below a folder that something else has made."""
        for folder, folders, files in os.walk(self._target.at(path)):
            here = path / Path(folder).relative_to(self._target.at(path))
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            self._made += [f"{here / name}/" for name in folders if name not in links]
            self._made += [str(here / name) for name in [*files, *links]]

    def write_manifest(self) -> None:
        """Write down what was made."""
        path = self._target.prefix / MANIFEST
        lines = sorted({*self._made, str(path), f"{self._target.prefix}/"})
        self._target.at(path).write_text("".join(f"{line}\n" for line in lines))


def install(target: Target) -> None:
    """Install, in place of what an earlier version installed there."""
    place = target.at(target.prefix)
    if (place / MANIFEST).exists():
        _remove_files(target)
    if place.is_dir() and any(place.iterdir()):
        sys.exit(f"{place} has other things in it: PREFIX must be a folder of the suite's own")
    _check_interpreter()
    recorder = Recorder(target)
    recorder.folder(target.prefix)
    _make_environment(target)
    _write_commands(target, recorder)
    recorder.found_below(target.prefix)
    for command in _commands():
        recorder.link(target.local / "bin" / command, target.prefix / "bin" / command)
    _write_units(target, recorder)
    _write_documents(target, recorder)
    recorder.write_manifest()
    _write_example(target)
    if target.is_live:
        _run("systemd-sysusers", str(target.local / "lib/sysusers.d/vtpm.conf"))
        _run("systemd-tmpfiles", "--create", str(target.local / "lib/tmpfiles.d/vtpm.conf"))
        _run("systemctl", "daemon-reload")


def _check_interpreter() -> None:
    """See that the daemons' users can run the interpreter, in units that hide home folders."""
    path = _interpreter().resolve()
    closed = [folder for folder in path.parents if not folder.stat().st_mode & 0o001]
    hidden = [folder for folder in HOMES if path.is_relative_to(folder)]
    for folder in (*closed, *hidden):
        sys.exit(
            f"{path} is of no use to the daemons, {folder} is closed to them: run `make setup` "
            "anew with another PYTHON="
        )


def _make_environment(target: Target) -> None:
    """Make the virtual environment with all packages, for the place where it will be."""
    place = target.at(target.prefix)
    venv.EnvBuilder(symlinks=True).create(place)
    for activation in ("activate", "activate.csh", "activate.fish", "Activate.ps1"):
        (place / "bin" / activation).unlink()
    # It would name this environment as the one that it was made by.
    config = place / "pyvenv.cfg"
    kept = [line for line in config.read_text().splitlines() if not line.startswith("command")]
    config.write_text("".join(f"{line}\n" for line in kept))
    for name in ("python", "python3", f"python3.{sys.version_info.minor}"):
        link = place / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(_interpreter())
    site = place / _site_packages()
    for name in sorted(_closure(PROJECT) - {PROJECT}):
        _copy_distribution(name, site)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(_wheel(Path(folder))) as wheel:
        wheel.extractall(site)
    for path in site.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    compileall.compile_dir(site, quiet=1, stripdir=str(target.destdir), workers=2)


def _interpreter() -> Path:
    """Return the interpreter that the environment of `make setup` was made with."""
    return Path(sys.base_prefix) / "bin" / f"python{_version()}"


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _site_packages() -> Path:
    return Path("lib") / f"python{_version()}" / "site-packages"


def _wheel(folder: Path) -> Path:
    """Build the wheel of the suite from a copy, so that the checkout stays as it is."""
    copy = folder / "source"
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SOURCE / package, copy / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, copy)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    _run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(copy))
    (wheel,) = folder.glob("*.whl")
    return wheel


def _closure(name: str) -> set[str]:
    """Return the distributions that one needs at run time, itself among them."""
    found: set[str] = set()
    wanted = [name]
    while wanted:
        one = wanted.pop()
        if one not in found:
            found.add(one)
            wanted += _requirements(one)
    return found


def _requirements(name: str) -> Iterator[str]:
    for requirement in importlib.metadata.requires(name) or ():
        match = _REQUIREMENT.match(requirement)
        # What is under a condition is for other systems or an extra; what of that is needed here
        # the environment has.
        _, conditional, condition = requirement.partition(";")
        if match and "extra" not in condition and (not conditional or _is_there(match[0])):
            yield match[0].lower().replace("_", "-")


def _is_there(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _copy_distribution(name: str, site: Path) -> None:
    distribution = importlib.metadata.distribution(name)
    for file in distribution.files or ():
        # Not what lies outside (commands), nor compiled code, which names the other place.
        if file.parts[0] == ".." or "__pycache__" in file.parts:
            continue
        place = site / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(str(distribution.locate_file(file))), place)


def _commands() -> dict[str, str]:
    """Return the module and function of each command."""
    points = importlib.metadata.distribution(PROJECT).entry_points
    return {point.name: point.value for point in points.select(group="console_scripts")}


def _write_commands(target: Target, recorder: Recorder) -> None:
    for command, value in _commands().items():
        module, _, function = value.partition(":")
        # Isolated: neither the caller's folder nor its environment say what is imported.
        script = (
            f"#!{target.prefix}/bin/python -I\n"
            f"import sys\nfrom {module} import {function}\n"
            f'if __name__ == "__main__":\n    sys.exit({function}())\n'
        )
        recorder.file(target.prefix / "bin" / command, script.encode(), 0o755)


def _write_units(target: Target, recorder: Recorder) -> None:
    folder = SOURCE / "systemd"
    sandbox = (folder / "sandbox.conf").read_text()
    for unit in _units():
        text = (folder / unit).read_text().replace("@sandbox@\n", sandbox)
        text = text.replace("@prefix@", str(target.prefix))
        text = text.replace("@python@", str(_interpreter().resolve()))
        text = text.replace("@pythonlib@", f"{sys.base_prefix}/lib")
        recorder.file(target.local / "lib/systemd/system" / unit, text.encode())
    for kind in ("sysusers", "tmpfiles"):
        content = (folder / f"vtpm.{kind}").read_bytes()
        recorder.file(target.local / f"lib/{kind}.d/vtpm.conf", content)


def _write_documents(target: Target, recorder: Recorder) -> None:
    share = target.local / "share"
    for page in sorted((SOURCE / "man").glob("*.[1-9]")):
        recorder.file(share / f"man/man{page.suffix[1]}" / page.name, page.read_bytes())
    for script in sorted((SOURCE / "completions").iterdir()):
        recorder.file(share / _completion_path(script), script.read_bytes())


def _completion_path(script: Path) -> Path:
    """Return where a shell looks for its completions, below share."""
    if script.suffix == ".bash":
        return Path("bash-completion/completions") / script.stem
    if script.suffix == ".fish":
        return Path("fish/vendor_completions.d") / script.name
    return Path("zsh/site-functions") / script.name


def _write_example(target: Target) -> None:
    example, place = SOURCE / "systemd" / CONFIG.name, target.at(CONFIG)
    if example.exists() and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(example, place)
        place.chmod(0o644)


def uninstall(target: Target) -> None:
    """Take away what was installed; state in /var/lib/vtpm and /etc/vtpm stays, and so do users."""
    if not (target.at(target.prefix) / MANIFEST).exists():
        sys.exit(f"{target.at(target.prefix)}: nothing is installed there")
    if target.is_live:
        # The chip by name, as it goes last: a target is gone before what belongs to it. Then what
        # somebody may have started without the target.
        _run("systemctl", "stop", "vtpm.target", "hwtpm.service")
        _run("systemctl", "stop", *(unit.replace("@.", "@*.") for unit in _units()))
        # A template stands for all of its instances.
        _run("systemctl", "disable", "--quiet", *_units())
    _remove_files(target)
    if target.is_live:
        _run("systemctl", "daemon-reload")
        for folder, _, _ in os.walk("/run/vtpm", topdown=False):
            _remove_if_empty(Path(folder))


def _units() -> list[str]:
    return [
        path.name for path in sorted((SOURCE / "systemd").glob("*.*")) if path.suffix in UNIT_KINDS
    ]


def _remove_files(target: Target) -> None:
    manifest = target.at(target.prefix) / MANIFEST
    lines = manifest.read_text().splitlines()
    for line in lines:
        if not line.endswith("/"):
            target.at(Path(line)).unlink(missing_ok=True)
    # Longest first: what is below goes before what is above.
    for line in sorted((line for line in lines if line.endswith("/")), key=len, reverse=True):
        _remove_if_empty(target.at(Path(line)))


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()) and not folder.is_mount():
        folder.rmdir()


def _run(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}")
    return done.stdout


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description="Install the vTPM suite, or take it away.")
    parser.add_argument("action", choices=["install", "uninstall"])
    parser.add_argument("--destdir", default="/", help="put everything below it [/]")
    parser.add_argument("--prefix", default="/opt/vtpm-suite")
    parser.add_argument("--local", default="/usr/local")
    arguments = parser.parse_args()
    os.umask(0o022)
    target = Target(
        Path(arguments.destdir or "/").absolute(), Path(arguments.prefix), Path(arguments.local)
    )
    if not (target.prefix.is_absolute() and target.local.is_absolute()):
        parser.error("--prefix and --local are absolute paths")
    (install if arguments.action == "install" else uninstall)(target)


if __name__ == "__main__":
    main()
