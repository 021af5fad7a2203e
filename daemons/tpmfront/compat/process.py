# SPDX-License-Identifier: Apache-2.0
"""From a command line to a process that serves, in the order in which swtpm goes about it."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from daemons.runtime.command_line import CONFIG_FOLDER
from daemons.runtime.daemon import run_daemon
from daemons.runtime.errors import DaemonError, ExitCode
from daemons.runtime.notify import Notifier
from daemons.tpmfront.compat import keys
from daemons.tpmfront.compat.background import Background
from daemons.tpmfront.compat.capabilities import capabilities, states
from daemons.tpmfront.compat.command_line import CommandLine
from daemons.tpmfront.compat.daemon import Surroundings, serve
from daemons.tpmfront.compat.errors import BadLine, UnreadableLine
from daemons.tpmfront.compat.logfile import open_log
from daemons.tpmfront.compat.options import Interface
from daemons.tpmfront.compat.startup import find_manager

CONFIG_VARIABLE: Final = "VTPM_CONFIG"


def run(
    interface: Interface,
    words: Sequence[str],
    usage: str,
    environ: Mapping[str, str],
    show: Callable[[str], None],
) -> NoReturn:
    """Do what a command line asks for, and end the process: 0, or 1 whatever went wrong.

    Args:
        interface: of the command.
        words: behind it.
        usage: printed for --help and with a command line that cannot be read.
        environ: of the process.
        show: prints a text on standard output.
    """
    try:
        line = CommandLine(interface, words)
        if line.has("help"):
            show(usage)
            sys.exit(ExitCode.OK)
        _run(line, environ, show)
    except (BadLine, DaemonError) as error:
        sys.stderr.write(f"swtpm: {error}\n")
        if isinstance(error, UnreadableLine):
            sys.stderr.write(f"{usage}\n")
        sys.exit(ExitCode.FAILED)


def _run(line: CommandLine, environ: Mapping[str, str], show: Callable[[str], None]) -> NoReturn:
    """Raises:
    BadLine, DaemonError: before there is anything to undo.
    """
    if line.runas is not None:
        _become(line.runas)
    logfile = open_log(line.log())
    if line.has("print-capabilities"):
        show(capabilities())
        sys.exit(ExitCode.OK)
    if line.has("print-states"):
        folder = line.state({})
        if not folder.is_dir():
            raise BadLine(f"{folder}: No such directory")
        show(states(folder))
        sys.exit(ExitCode.OK)
    options = line.options(environ)
    for _name, key in options.keys:
        keys.check(key)
    if not options.state.is_dir():
        raise BadLine(f"{options.state}: No such directory")
    manager = find_manager(Path(environ.get(CONFIG_VARIABLE) or CONFIG_FOLDER), environ)
    background = Background.enter() if options.is_daemon else Background.stay()
    notifier = Notifier.from_environ()
    surroundings = Surroundings(manager, notifier, logfile.log, logfile.emit, background.done)
    run_daemon(partial(serve, options, surroundings), log=logfile.log, notifier=notifier)


def _become(user: str) -> None:
    """Become a user, for good.

    Raises:
        BadLine: there is none, or it is not ours to become.
    """
    try:
        found = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        raise BadLine(f"Error: User '{user}' does not exist") from None
    try:
        os.initgroups(found.pw_name, found.pw_gid)
        os.setgid(found.pw_gid)
        os.setuid(found.pw_uid)
    except OSError as error:
        raise BadLine(f"Error: Could not become user {user}: {error.strerror}") from None
