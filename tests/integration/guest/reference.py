# SPDX-License-Identifier: Apache-2.0
"""swtpm's TPM 1.2 at a control channel, which QEMU knows best: what ours is compared with."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def running_swtpm(folder: Path) -> Iterator[Path]:
    """Give the control socket of a swtpm, whose state is in the folder.

    It ends with its QEMU: one guest, one swtpm.
    """
    folder.mkdir(exist_ok=True)
    control = folder / "ctrl.sock"
    control.unlink(missing_ok=True)
    # Made here: whoever connects before swtpm has started waits, and is not refused.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(control))
        listener.listen()
        process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpmstate", f"dir={folder}"),
                *("--ctrl", f"type=unixio,fd={listener.fileno()}"),
                *("--log", f"file={folder / 'swtpm.log'}"),
            ],
            pass_fds=(listener.fileno(),),
            stdin=subprocess.DEVNULL,
        )
    try:
        yield control
    finally:
        process.terminate()
        process.wait()
