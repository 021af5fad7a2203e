# SPDX-License-Identifier: Apache-2.0
"""Where the manager is, and that it can be reached, as far as that can be said soon.

What is refused before the sockets are there, libvirt shows to who starts the machine; later than
that QEMU says no more than that its TPM went away, and the log has the reason.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from daemons.runtime.config.folder import load_machine
from daemons.runtime.config.options import DEFAULT_MANAGER
from daemons.tpmfront.compat.errors import Refusal

MANAGER_VARIABLE: Final = "VTPM_MANAGER"


def find_manager(config: Path, environ: Mapping[str, str]) -> Path:
    """Return the manager's socket.

    Args:
        config: folder of vtpm.toml, which need not exist.
        environ: VTPM_MANAGER counts first.

    Raises:
        BadConfig: the configuration has a mistake.
    """
    named = environ.get(MANAGER_VARIABLE, "")
    if named:
        return Path(named)
    if not config.is_dir():
        return DEFAULT_MANAGER
    return load_machine(config).compat.manager


def check_socket(manager: Path) -> None:
    """See that there is a manager's socket which this process may connect to.

    Raises:
        Refusal: there is not, or it may not.
    """
    try:
        manager.stat()
    except OSError as error:
        raise no_manager(manager, error) from None
    if not os.access(manager, os.W_OK, effective_ids=True):
        raise no_manager(manager, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def no_manager(manager: Path, error: Exception) -> Refusal:
    """Return what to say of a manager that cannot be reached.

    Args:
        manager: its socket.
        error: why.
    """
    reason = error.strerror if isinstance(error, OSError) else str(error) or "no answer"
    return Refusal(
        f"no manager at {manager} ({reason}): start it (systemctl start vtpmmgr, or vtpmctl up), "
        f"or say where it is by {MANAGER_VARIABLE} in the environment"
    )
