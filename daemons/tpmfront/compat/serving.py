# SPDX-License-Identifier: Apache-2.0
"""The second half of `process`, which imports all that it takes to serve."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import trio

from daemons.runtime.daemon import run_daemon
from daemons.runtime.notify import Notifier
from daemons.tpmfront.compat.background import Background
from daemons.tpmfront.compat.daemon import Surroundings, serve
from daemons.tpmfront.compat.heldsignals import HeldSignals
from daemons.tpmfront.compat.logfile import LogFile
from daemons.tpmfront.compat.options import CompatOptions
from daemons.tpmfront.compat.places import Channels


def run_until_end(
    options: CompatOptions,
    channels: Channels,
    *,
    lock: int,
    manager: Path,
    logfile: LogFile,
    held: HeldSignals,
) -> NoReturn:
    """Serve, and end the process; with --daemon this is another process from here on.

    Args:
        options: of the command line.
        channels: its sockets; the caller closes them.
        lock: of the folder; the caller closes it.
        manager: its socket.
        logfile: of this process.
        held: signals, since before there were sockets.
    """
    background = Background.enter(held) if options.is_daemon else Background.stay()
    notifier = Notifier.from_environ()
    surroundings = Surroundings(manager, lock, notifier, logfile.log, logfile.emit, background.done)

    async def main() -> None:
        # run_daemon heeds them now, each as a stop.
        if held.send_again():
            await trio.sleep_forever()
        await serve(options, channels, surroundings)

    run_daemon(main, log=logfile.log, notifier=notifier)
