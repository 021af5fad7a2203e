# SPDX-License-Identifier: Apache-2.0
"""Giving root's privileges up for good, once what takes them is done."""

from __future__ import annotations

import os
import pwd

from daemons.runtime.errors import DaemonError


def become_user(name: str) -> None:
    """Be this user with its main group only; nothing leads back, and no capability is left.

    Raises:
        DaemonError: there is no such user, or we may not become it.
    """
    try:
        user = pwd.getpwnam(name)
    except KeyError as error:
        raise DaemonError(f"there is no user {name}") from error
    if os.getresuid() == (user.pw_uid,) * 3:
        return
    try:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except PermissionError as error:
        raise DaemonError(f"to become user {name} takes root") from error
