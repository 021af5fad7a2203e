# SPDX-License-Identifier: Apache-2.0
"""Taking an older copy of the manager's database on purpose.

The manager itself looks and decides (`vtpmmgr --accept-rollback`), as the user that it always is;
here it is given its place and the owner's secret, in memory that no other process can name.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import syslog
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import trio

from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmctl.host import ManagerCommand

_LIMIT_S: Final = 300.0
_MODULE: Final = "daemons.vtpmmgr"


@dataclass(frozen=True, slots=True)
class Side:
    """What database or hardware TPM has.

    Attributes:
        sequence: of the newest commit, None if it does not say.
        value: of the counter, None if it does not say.
    """

    sequence: int | None
    value: int | None


@dataclass(frozen=True, slots=True)
class Examination:
    """What the manager found.

    Attributes:
        mode: of freshness, as the hardware TPM has it; None if nothing there tells.
        agree: the database is the newest; there is nothing to accept.
        accepted: sequence that the database has now; None if nothing was changed.
    """

    database: Side
    chip: Side
    mode: str | None
    agree: bool
    accepted: int | None


async def examine(
    command: ManagerCommand, owner_auth: Secret, srk_auth: Secret | None
) -> Examination:
    """Say what database and hardware TPM have; nothing is changed.

    Raises:
        DaemonError: the manager refuses, its reason is on standard error by then.
    """
    return await _run(command, owner_auth, srk_auth, "--dry-run")


async def accept(
    command: ManagerCommand, owner_auth: Secret, srk_auth: Secret | None
) -> Examination:
    """Make the database that is there the newest; as `examine`."""
    done = await _run(command, owner_auth, srk_auth)
    syslog.openlog("vtpmctl", facility=syslog.LOG_AUTHPRIV)
    syslog.syslog(
        syslog.LOG_WARNING,
        f"older database of the vTPM manager accepted by uid {os.getuid()}: sequence "
        f"{done.database.sequence} instead of {done.chip.sequence}, counter {done.database.value} "
        f"instead of {done.chip.value}; it goes on as {done.accepted}",
    )
    return done


async def _run(
    command: ManagerCommand, owner_auth: Secret, srk_auth: Secret | None, *options: str
) -> Examination:
    with contextlib.ExitStack() as secrets:
        owner = secrets.enter_context(_in_memory(owner_auth))
        given = ["--owner-auth", f"file:/proc/self/fd/{owner}"]
        fds = [owner]
        if srk_auth is not None:
            fds.append(secrets.enter_context(_in_memory(srk_auth)))
            given += ["--srk-auth", f"file:/proc/self/fd/{fds[-1]}"]
        argv = [sys.executable, "-m", _MODULE, *command.arguments, *given, "--accept-rollback"]
        identity: dict[str, Any] = {}
        if command.user is not None:
            identity = {
                "user": command.user,
                "group": command.groups[0],
                "extra_groups": command.groups[1:],
            }
        try:
            with trio.fail_after(_LIMIT_S):
                done = await trio.run_process(
                    [*argv, *options],
                    capture_stdout=True,
                    check=False,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    pass_fds=tuple(fds),
                    **identity,
                )
        except trio.TooSlowError as error:
            raise DaemonError(f"the manager takes longer than {_LIMIT_S:g} s") from error
        except (KeyError, PermissionError) as error:
            raise DaemonError(f"cannot become user {command.user}: {error}") from error
    if done.returncode:
        raise DaemonError(f"the manager ended with {done.returncode}; the reason is above")
    return _decode(done.stdout)


def _decode(printed: bytes) -> Examination:
    found = json.loads(printed)
    database, chip = found["database"], found["chip"]
    return Examination(
        Side(database["sequence"], database["value"]),
        Side(chip["sequence"], chip["value"]),
        chip["mode"],
        found["agree"],
        found["accepted"],
    )


@contextlib.contextmanager
def _in_memory(secret: Secret) -> Iterator[int]:
    """Give a descriptor of memory in which a secret is in the form that --owner-auth takes."""
    fd = os.memfd_create("auth", os.MFD_CLOEXEC)
    try:
        os.write(fd, f"hash:{secret.hex()}".encode())
        yield fd
    finally:
        os.close(fd)
