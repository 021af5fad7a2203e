# SPDX-License-Identifier: Apache-2.0
"""The file in which a vTPM travels: the manager's package, and the slot files of its image.

    "vTPM BNDL1" || u32 n || package || for each file: u8 n || name || u32 n || bytes

The slots need no more protection than they have: they are encrypted under the key that is in the
package, encrypted in turn, and the manager's hash says which one counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from daemons.runtime.errors import DaemonError
from daemons.runtime.files import StateFolder
from daemons.vtpmctl.documents import read_file
from protocol.errors import WireError
from protocol.manager.moving import MovePackage
from protocol.tpm12.wire import SIZED, Reader

_MAGIC: Final = b"vTPM BNDL1"
_SLOTS: Final = ("slot0", "slot1")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What is in such a file.

    Attributes:
        images: slot files by name; none for a vTPM that never saved, or whose image goes by
            itself.
    """

    package: MovePackage
    images: dict[str, bytes]

    def encode(self) -> bytes:
        """Return the file."""
        parts = [_MAGIC, SIZED.write(self.package.encode())]
        for name, data in self.images.items():
            parts += [bytes([len(name)]), name.encode(), SIZED.write(data)]
        return b"".join(parts)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what a file has.

        Raises:
            DaemonError: it is no such file.
        """
        reader = Reader(read_file(path))
        images: dict[str, bytes] = {}
        try:
            if reader.take(len(_MAGIC)) != _MAGIC:
                raise WireError("magic", 0, "not a vTPM that was exported")
            package = MovePackage.decode(reader.sized("package"))
            while reader.remaining:
                name = reader.take(reader.u8("name"), "name").decode("ascii", "replace")
                if name not in _SLOTS or name in images:
                    raise WireError("name", reader.position, f"{name!r} is no slot of an image")
                images[name] = reader.sized("slot")
        except WireError as error:
            raise DaemonError(f"{path}: {error}") from error
        return cls(package, images)


def read_images(folder: Path) -> dict[str, bytes]:
    """Return the slot files in a folder.

    Raises:
        DaemonError: one cannot be read, or somebody runs a vTPM on them.
    """
    if not folder.is_dir():
        raise DaemonError(f"{folder} is no folder of an image")
    return {name: read_file(folder / name) for name in _SLOTS if (folder / name).exists()}


def write_images(folder: Path, images: dict[str, bytes]) -> None:
    """Put slot files into a folder, which is made if it is missing.

    Doing it again does no harm, and another image is never replaced.

    Raises:
        DaemonError: there is another image, or a vTPM runs on it.
        OSError: the disk refuses.
    """
    if folder.is_dir() and (found := read_images(folder)) != images:
        # what an earlier attempt has written of ours may be there
        others = [name for name, data in found.items() if images.get(name) != data]
        if others:
            raise DaemonError(f"{folder} has another image ({', '.join(others)}); left as it is")
    with StateFolder(folder) as state:
        state.lock()
        for name, data in images.items():
            state.replace(name, data)
