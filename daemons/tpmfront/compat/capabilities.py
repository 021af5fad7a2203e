# SPDX-License-Identifier: Apache-2.0
"""What --print-capabilities, --print-states and --version tell, in swtpm's form."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Final

STATE_NAME: Final = "vtpm"
"""The folder of the image, in that of --tpmstate."""
LEVEL: Final = "0.11.0"
"""The release of swtpm whose command line and control channel this is."""

_FEATURES: Final = (
    "tpm-1.2",
    "flags-opt-startup",
    "flags-opt-disable-auto-shutdown",
    "ctrl-opt-terminate",
    "cmdarg-seccomp",
    "cmdarg-key-fd",
    "cmdarg-pwd-fd",
    "cmdarg-print-states",
    "nvram-backend-dir",
    "tpmstate-opt-lock",
    "systemd-notify",
)
"""Names of swtpm's; tpm-2.0 and what belongs to it, cmdarg-chroot, cmdarg-pcap, cmdarg-print-info
and nvram-backend-file are missing. So is cmdarg-migration, though the option is taken: libvirt
reads it as leave to migrate over a storage that two machines share, and their managers share no
keys."""


def capabilities() -> str:
    """Return the JSON of --print-capabilities."""
    return json.dumps({"type": "swtpm", "features": _FEATURES, "version": LEVEL})


def states(folder: Path) -> str:
    """Return the JSON of --print-states.

    Args:
        folder: of --tpmstate.
    """
    sizes = [path.stat().st_size for path in (folder / STATE_NAME).glob("slot*")]
    # Of the two slots one is current; which one only the manager knows.
    found = [{"name": "permall", "size": max(sizes)}] if sizes else []
    return json.dumps({"type": "swtpm", "states": found})


def version() -> str:
    """Return the line of --version."""
    ours = importlib.metadata.version("vtpm-suite")
    return f"TPM emulator version {LEVEL}, by vTPM suite {ours}"
