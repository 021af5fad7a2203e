# SPDX-License-Identifier: Apache-2.0
"""What a guest boots: Debian's cloud kernel, and a first file system in memory made from this
machine's own programs: busybox, tcsd and tpm-tools with the libraries that they are linked to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

INIT = Path(__file__).with_name("init")
APPLETS = {"base64", "ifconfig", "insmod", "mke2fs", "mount", "poweroff", "reboot", "sh", "stty"}
"""Of busybox, what not every build of it has."""
PROGRAMS = ("tcsd", "tpm_takeownership", "tpm_sealdata", "tpm_unsealdata")
MODULES = (
    *("virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_legacy_dev"),
    *("virtio/virtio_pci_modern_dev", "virtio/virtio_pci", "block/virtio_blk"),
)
"""Of the guest's disk; each needs only those before it."""
OPENED_LIBRARIES = ("libgcc_s.so.1",)
"""What glibc opens when a thread ends, so that no program is linked to it."""

FOLDERS = ("bin", "dev", "disk", "etc", "lib/modules", "proc", "run", "sys", "tmp", "usr", "var")
FILES = {
    "etc/passwd": "root:x:0:0::/run:/bin/sh\ntss:x:100:100::/disk/tpm:/bin/sh\n",
    "etc/group": "root:x:0:\ntss:x:100:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/tcsd.conf": "port = 30003\nsystem_ps_file = /disk/tpm/system.data\n",
}
_LINKED = re.compile(r"(?:=> )?(/\S+) \(0x")
_KNOWN = re.compile(r"^\s*(\S+) \([^)]*x86-64[^)]*\) => (\S+)$", re.MULTILINE)
_SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_LIMIT_S = 60.0


class ImageError(AssertionError):
    """Something that the image needs is not on this machine."""


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU loads."""

    kernel: Path
    initrd: Path


def newest_kernel(boot: Path = Path("/boot")) -> Path:
    """Return Debian's cloud kernel, the newest if there are several.

    Raises:
        ImageError: there is none.
    """

    def version(path: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", path.name)]

    kernels = sorted(boot.glob("vmlinuz-*-cloud-*"), key=version)
    if not kernels:
        raise ImageError(f"no vmlinuz-*-cloud-* in {boot}: package linux-image-cloud-amd64")
    return kernels[-1]


def build_image(folder: Path) -> Image:
    """Make an image.

    Args:
        folder: where its files go; it may be removed when no guest runs from it.

    Raises:
        ImageError: a program or a module is missing.
    """
    kernel = newest_kernel()
    root = folder / "root"
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    for name, content in FILES.items():
        (root / name).write_text(content)
    shutil.copy(INIT, root / "init")
    busybox = _program("busybox")
    applets = set(_output(str(busybox), "--list").split()) - {"busybox"}
    if not applets >= APPLETS:
        raise ImageError(f"{busybox} has no {APPLETS - applets}: package busybox-static")
    shutil.copy(busybox, root / "bin/busybox")
    for applet in applets:
        (root / "bin" / applet).symlink_to("busybox")
    programs = [_program(name) for name in PROGRAMS]
    for path in {*programs, *_libraries([*programs, busybox])}:
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name, path in _modules(kernel.name.removeprefix("vmlinuz-")):
        shutil.copy(path, root / "lib/modules" / name)
    # The guest loads them in this order.
    (root / "etc/modules").write_text("".join(f"{Path(name).name}\n" for name in MODULES))
    initrd = folder / "initrd"
    _archive(root, initrd)
    shutil.rmtree(root)
    return Image(kernel, initrd)


def _modules(version: str) -> Iterator[tuple[str, Path]]:
    drivers = Path("/lib/modules", version, "kernel/drivers")
    for name in MODULES:
        path = (drivers / name).with_suffix(".ko")
        if not path.exists():
            raise ImageError(f"no kernel module {path}")
        yield path.name, path


def _program(name: str) -> Path:
    found = shutil.which(name, path=_SEARCH_PATH)
    if found is None:
        raise ImageError(f"no program {name}")
    return Path(found)


def _libraries(programs: Iterable[Path]) -> set[Path]:
    """Return what these need, the loader included, at the paths where it looks."""
    # It fails for those that are linked statically, which need nothing.
    listing = "".join(_output("ldd", str(program), check=False) for program in programs)
    known = dict(_KNOWN.findall(_output(str(_program("ldconfig")), "-p")))
    missing = set(OPENED_LIBRARIES) - set(known)
    if missing or "not found" in listing:
        raise ImageError(f"libraries are missing: {missing or listing}")
    opened = {Path(known[name]) for name in OPENED_LIBRARIES}
    return {Path(match) for match in _LINKED.findall(listing)} | opened


def _archive(root: Path, archive: Path) -> None:
    """Pack a folder as the kernel wants it; all files belong to root, in an order that is the
    same each time."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    with archive.open("wb") as output:
        # Not compressed: an emulated processor takes longer to unpack than to copy.
        subprocess.run(
            ["cpio", "--create", "--format=newc", "--owner=+0:+0", "--quiet"],
            cwd=root,
            input="\n".join(names).encode(),
            stdout=output,
            check=True,
            timeout=_LIMIT_S,
        )


def _output(*command: str, check: bool = True) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S
    )
    if check and done.returncode:
        raise ImageError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout
