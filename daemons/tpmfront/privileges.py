# SPDX-License-Identifier: Apache-2.0
"""Giving root's privileges up for good, once what takes them is done."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import Final

from daemons.runtime.errors import DaemonError

_STATUS: Final = Path("/proc/self/status")


def become_user(name: str) -> None:
    """Be this user with its main group only; nothing leads back, and no capability is left.

    Who is that already needs no right for it; who is so in part is made so in full, or refused.

    Raises:
        DaemonError: there is no such user, it is root, we may not become it, or it would keep a
            capability.
    """
    try:
        user = pwd.getpwnam(name)
    except KeyError as error:
        raise DaemonError(f"there is no user {name}") from error
    uid, gid = user.pw_uid, user.pw_gid
    if uid == 0:
        raise DaemonError(f"user {name} is root, who gives nothing up")
    try:
        # It takes a right even if it changes nothing.
        if set(os.getgroups()) - {gid}:
            os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except PermissionError as error:
        raise DaemonError(f"to become user {name} takes root") from error
    # Those of root have gone with its uid; those that came otherwise have not.
    if capabilities := _permitted_capabilities():
        raise DaemonError(
            f"user {name} keeps capabilities that it was started with ({capabilities:#x})"
        )


def _permitted_capabilities() -> int:
    """Return as bits what this process may have in effect (capabilities(7))."""
    found = re.search(r"^CapPrm:\t([0-9a-f]+)$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1], 16)
