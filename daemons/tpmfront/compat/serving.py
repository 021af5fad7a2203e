# SPDX-License-Identifier: Apache-2.0
"""The second half of `process`, which imports all that it takes to serve."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NoReturn

from daemons.runtime.daemon import run_daemon
from daemons.runtime.notify import Notifier
from daemons.tpmfront.compat.background import Background
from daemons.tpmfront.compat.daemon import Surroundings, serve
from daemons.tpmfront.compat.logfile import open_log
from daemons.tpmfront.compat.options import CompatOptions
from daemons.tpmfront.compat.places import Channels


def run_until_end(options: CompatOptions, channels: Channels, manager: Path) -> NoReturn:
    """Serve, and end the process; with --daemon this is another process from here on.

    Args:
        options: of the command line.
        channels: its sockets; the caller closes them.
        manager: its socket.

    Raises:
        BadLine, DaemonError: before there is anything to undo.
    """
    logfile = open_log(options.log)
    background = Background.enter() if options.is_daemon else Background.stay()
    notifier = Notifier.from_environ()
    surroundings = Surroundings(manager, notifier, logfile.log, logfile.emit, background.done)
    run_daemon(partial(serve, options, channels, surroundings), log=logfile.log, notifier=notifier)
