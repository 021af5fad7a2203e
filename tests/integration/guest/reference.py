# SPDX-License-Identifier: Apache-2.0
"""swtpm's TPM 1.2 at a control channel, which QEMU knows best: what ours is compared with."""

from __future__ import annotations

import contextlib
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

START_LIMIT_S = 20.0
_POLL_S = 0.005


@contextlib.contextmanager
def running_swtpm(folder: Path) -> Iterator[Path]:
    """Give the control socket of a swtpm, whose state is in the folder.

    It ends with its QEMU: one guest, one swtpm.

    Raises:
        AssertionError: it does not come up.
    """
    folder.mkdir(exist_ok=True)
    control = folder / "ctrl.sock"
    control.unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            *("swtpm", "socket", "--tpmstate", f"dir={folder}"),
            *("--ctrl", f"type=unixio,path={control}", "--log", f"file={folder / 'swtpm.log'}"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        waited_s = 0.0
        while not control.exists():
            assert process.poll() is None, "swtpm ended"
            assert waited_s < START_LIMIT_S, "swtpm does not listen"
            select.select([], [], [], _POLL_S)
            waited_s += _POLL_S
        yield control
    finally:
        process.terminate()
        process.wait()
