# SPDX-License-Identifier: Apache-2.0
"""The life of a daemon process: start, orderly stop, exit code.

A stop is asked for by SIGTERM, SIGINT, SIGHUP, or end of file on the supervisor's pipe, which
closes even when the supervisor is killed. Each cancels the main task; what must not be torn apart
is shielded where it happens (commits). For a daemon that has a configuration SIGHUP means: read it
again. As long as the event loop turns, the supervisor's watchdog hears of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import NoReturn

import trio

from daemons.runtime.ending import log_end
from daemons.runtime.errors import DaemonError, ExitCode, RefusedToStart
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier

SUPERVISOR = "supervisor"
"""Name of the inherited descriptor whose end of file means: shut down."""

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def run_daemon(
    main: Callable[[], Awaitable[None]],
    *,
    log: Log,
    notifier: Notifier | None = None,
    inherited: Mapping[str, Sequence[int]] | None = None,
    on_hangup: Callable[[], None] | None = None,
) -> NoReturn:
    """Run `main` until it returns, fails or is told to stop, then end the process.

    Exit codes are those of `ExitCode`: 0 if `main` returned or was stopped, that of a `DaemonError`
    that it raised (logged as one line), 1 for anything else (an OSError as one line, the rest with
    its traceback).

    Args:
        main: the daemon; its one nursery owns everything.
        log: where the reason of a failure goes.
        notifier: the supervisor, which is told the reason too; None: there is none.
        inherited: descriptors by name; those named "supervisor" are watched.
        on_hangup: called for SIGHUP, which is a stop without it.
    """
    _harden()
    _raise_descriptor_limit()
    notifier = notifier or Notifier(None)
    try:
        trio.run(_watched, main, notifier, (inherited or {}).get(SUPERVISOR, ()), on_hangup)
    except BaseException as error:
        sys.exit(_report(error, log, notifier))
    sys.exit(ExitCode.OK)


def end_before_start(error: DaemonError, log: Log, notifier: Notifier | None = None) -> NoReturn:
    """End the process for a reason found before `run_daemon`, in the same way.

    Args:
        error: the reason.
        log: where it goes.
        notifier: the supervisor; None: whoever the environment says.
    """
    sys.exit(_report(error, log, notifier or Notifier.from_environ()))


def _harden() -> None:
    """Keep secrets in memory out of core files and away from debuggers of the same user."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Best effort: a process that may be dumped is no reason not to start.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _raise_descriptor_limit() -> None:
    """Take what the system grants: a peer that opens connections must meet our own limits first,
    which know whose turn it is to be refused, and not the kernel's, which shut everybody out."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _watched(
    main: Callable[[], Awaitable[None]],
    notifier: Notifier,
    supervisor_fds: Sequence[int],
    on_hangup: Callable[[], None] | None,
) -> None:
    async with trio.open_nursery() as nursery:
        # Outside of what a stop cancels: the last save of a daemon may take longer than the
        # watchdog allows.
        if notifier.watchdog_s is not None:
            nursery.start_soon(_ping, notifier, notifier.watchdog_s / 2)
        await _supervised(main, supervisor_fds, on_hangup)
        nursery.cancel_scope.cancel()


async def _ping(notifier: Notifier, interval_s: float) -> None:
    while True:
        notifier.alive()
        await trio.sleep(interval_s)


async def _supervised(
    main: Callable[[], Awaitable[None]],
    supervisor_fds: Sequence[int],
    on_hangup: Callable[[], None] | None,
) -> None:
    async with trio.open_nursery() as nursery:
        # Before main, so that a signal during its start is not lost.
        await nursery.start(_heed_signals, nursery.cancel_scope, on_hangup)
        for fd in supervisor_fds:
            nursery.start_soon(_stop_on_eof, fd, nursery.cancel_scope)
        await main()
        nursery.cancel_scope.cancel()


async def _heed_signals(
    scope: trio.CancelScope,
    on_hangup: Callable[[], None] | None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    heeded = {signal.SIGTERM, signal.SIGINT}
    # Not if nohup ignored it. An ignored SIGINT, as a script's background jobs have it, is taken
    # back: whoever sends one means us.
    if on_hangup is not None or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heeded.add(signal.SIGHUP)
    with trio.open_signal_receiver(*heeded) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP and on_hangup is not None:
                on_hangup()
            else:
                scope.cancel()


async def _stop_on_eof(fd: int, scope: trio.CancelScope) -> None:
    while True:
        await trio.lowlevel.wait_readable(fd)
        if not os.read(fd, 64):
            scope.cancel()
            return


def _report(error: BaseException, log: Log, notifier: Notifier) -> ExitCode:
    """Say why the daemon ends and return the exit code: the gravest among what was raised
    together."""
    worst = ExitCode.OK
    for leaf in _leaves(error):
        match leaf:
            case DaemonError():
                reason, code = str(leaf), leaf.exit_code
            case OSError():
                reason, code = str(leaf), ExitCode.FAILED
            case _:
                traceback.print_exception(leaf)
                reason, code = f"unexpected {type(leaf).__name__}", ExitCode.FAILED
        refused = isinstance(leaf, RefusedToStart)
        log_end(log, reason, is_refusal=refused)
        if code > worst:
            # What `systemctl status` shows of a daemon that is gone.
            notifier.status(f"{'refused' if refused else 'failed'}: {reason}")
            worst = code
    return worst


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
