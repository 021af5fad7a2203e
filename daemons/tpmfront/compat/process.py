# SPDX-License-Identifier: Apache-2.0
"""From a command line to a process that serves, in the order in which swtpm goes about it.

What is imported here is what it takes to have the sockets: see `places`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from daemons.runtime.config.options import CONFIG_FOLDER
from daemons.runtime.errors import DaemonError, ExitCode
from daemons.runtime.standardstreams import hold_standard_descriptors
from daemons.tpmfront.compat import keys
from daemons.tpmfront.compat.command_line import CommandLine
from daemons.tpmfront.compat.errors import BadLine, UnreadableLine
from daemons.tpmfront.compat.folderlock import locked
from daemons.tpmfront.compat.heldsignals import HeldSignals
from daemons.tpmfront.compat.logfile import LogFile, open_log
from daemons.tpmfront.compat.managerplace import check_socket, find_manager
from daemons.tpmfront.compat.options import Interface
from daemons.tpmfront.compat.places import open_channels

CONFIG_VARIABLE: Final = "VTPM_CONFIG"
_STDERR: Final = 2


def run(
    interface: Interface,
    words: Sequence[str],
    usage: Callable[[], str],
    environ: Mapping[str, str],
    show: Callable[[str], None],
) -> NoReturn:
    """Do what a command line asks for, and end the process: 0, or 1 whatever went wrong.

    Args:
        interface: of the command.
        words: behind it.
        usage: gives what is printed for --help and with a command line that cannot be read.
        environ: of the process.
        show: prints a text on standard output.
    """
    # Before anything is opened: going to the background lets them go.
    hold_standard_descriptors()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until there is something to undo, Ctrl-C ends it without a word.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    logfile = None
    try:
        line = CommandLine(interface, words)
        if line.has("help"):
            show(usage())
            sys.exit(ExitCode.OK)
        if line.runas is not None:
            _become(line.runas)
        logfile = open_log(line.log())
        if line.has("print-capabilities") or line.has("print-states"):
            _print(line, show)
        _serve(line, logfile, environ)
    except (BadLine, DaemonError, OSError) as error:
        if logfile is not None:
            logfile.refuse(error)
        # Also where the log is elsewhere, unlike swtpm: libvirt shows it to who starts a machine.
        told = f"swtpm: {error}\n"
        if isinstance(error, UnreadableLine):
            told += f"{usage()}\n"
        with contextlib.suppress(OSError):  # nobody may be reading
            os.write(_STDERR, told.encode("utf-8", "backslashreplace"))
        sys.exit(ExitCode.FAILED)


def _serve(line: CommandLine, logfile: LogFile, environ: Mapping[str, str]) -> NoReturn:
    """Raises:
    BadLine, DaemonError: with nothing left behind but the file of the lock.
    """
    options = line.options(environ)
    for _name, key in options.keys:
        keys.check(key)
    if not options.state.is_dir():
        raise BadLine(f"{options.state}: No such directory")
    manager = find_manager(Path(environ.get(CONFIG_VARIABLE) or CONFIG_FOLDER), environ)
    check_socket(manager)
    with locked(options.state) as lock:
        held = HeldSignals()
        with open_channels(options) as channels:
            from daemons.tpmfront.compat.serving import run_until_end

            run_until_end(options, channels, lock=lock, manager=manager, logfile=logfile, held=held)


def _print(line: CommandLine, show: Callable[[str], None]) -> NoReturn:
    from daemons.tpmfront.compat.capabilities import capabilities, states

    if line.has("print-capabilities"):
        show(capabilities())
        sys.exit(ExitCode.OK)
    folder = line.state({})
    if not folder.is_dir():
        raise BadLine(f"{folder}: No such directory")
    show(states(folder))
    sys.exit(ExitCode.OK)


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
