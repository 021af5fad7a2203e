# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl up`: a stack in the foreground, from its folder to the line that says it is ready.

Ends with 0 after SIGINT or SIGTERM when everything stopped in order, with 3 if at the start no
guest can be served because a daemon refuses, with 1 if a daemon had to be killed at the stop. A
guest that is refused while others are served is reported and left alone; the stack stays up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from daemons.runtime.control import Fields, Json, serve_control
from daemons.runtime.errors import RefusedToStart
from daemons.runtime.files import OsFiles, StateFolder
from daemons.runtime.log import Log
from daemons.runtime.secret import FILE_FORM
from daemons.vtpmctl.child import RestartPolicy
from daemons.vtpmctl.guestverbs import GuestVerbs, prepare_guest
from daemons.vtpmctl.layout import Layout
from daemons.vtpmctl.plan import Guest, UpConfig, plan_guest, plan_machine
from daemons.vtpmctl.probe import wait_tpm_answers
from daemons.vtpmctl.process import ForkServer
from daemons.vtpmctl.progress import with_progress
from daemons.vtpmctl.stackconfig import prepare_config
from daemons.vtpmctl.supervisor import Outcome, Supervisor

_LOCK_WAIT_S = 15.0
"""How long the daemons of a supervisor that was killed may take to stop."""

_LOCK_RETRY_S = 0.05


async def up(
    config: UpConfig, forkserver: ForkServer, *, log: Log, report: Callable[[str], None]
) -> None:
    """Run the stack until cancelled, then stop it in order.

    Args:
        config: what to run.
        forkserver: what starts the daemons.
        log: of the supervisor; the daemons log to standard error themselves.
        report: takes the text that tells the user that the stack is ready.

    Raises:
        RefusedToStart: the folder is taken or not ours, or no guest can be served.
        DaemonError: the folder's path is too long, or a daemon had to be killed at the end.
        OSError: a folder or file cannot be made.
    """
    layout = config.layout
    layout.check_lengths(config.guests)
    with layout.prepare():
        guests = _prepare_guests(config, log)
        specs = [*plan_machine(config)]
        for guest in guests:
            specs += plan_guest(config, guest)
        folders = [layout.hwtpm_state, layout.vtpmmgr_state]
        folders += [layout.guest(guest.name).state for guest in guests]
        await with_progress(
            lambda: "waiting for the last run's daemons to stop",
            partial(_wait_unlocked, folders, log),
        )
        supervisor = Supervisor(
            specs,
            forkserver=forkserver,
            notify=layout.notify,
            log=log,
            policy=RestartPolicy(watchdog_s=config.watchdog_s),
        )

        async def status(_args: Fields) -> Fields:
            return {**supervisor.describe(), "secret_files": _secret_files(config)}

        async def probe(guest: Guest) -> None:
            if guest.has_stream:
                await wait_tpm_answers(layout.guest(guest.name).tpm_socket, log)

        async def wait_unlocked(of_guests: Sequence[Guest]) -> None:
            await _wait_unlocked([layout.guest(one.name).state for one in of_guests], log)

        guest_verbs = GuestVerbs(config, supervisor, probe, wait_unlocked, log)
        verbs = {"status": status, **guest_verbs.handlers}

        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            try:
                serve = partial(serve_control, layout.control_socket, verbs, log=log)
                await nursery.start(serve)
                outcome = await with_progress(
                    supervisor.describe_waiting,
                    partial(supervisor.wait_outcome, guests, probe),
                )
                if not outcome.serving:
                    raise RefusedToStart(describe_refusals(outcome))
                report(describe_ready(layout, outcome))
                await trio.sleep_forever()
            finally:
                supervisor.stop()


def _secret_files(config: UpConfig) -> list[Json]:
    """Return the files that secrets of the hardware TPM are in, for `vtpmctl doctor`."""
    given = [auth for auth in (config.owner_auth, config.srk_auth) if auth is not None]
    paths = [auth.removeprefix(FILE_FORM) for auth in given if auth.startswith(FILE_FORM)]
    return [os.path.abspath(path) for path in paths]


def _prepare_guests(config: UpConfig, log: Log) -> list[Guest]:
    """Make the files and folders of the guests that are to run."""
    configured = prepare_config(config.layout, config.guests, log)
    return [prepare_guest(config, guest) for guest in configured]


async def _wait_unlocked(folders: Sequence[Path], log: Log) -> None:
    """Wait for daemons of a supervisor that was killed: they are about to stop, having lost it."""
    with trio.move_on_after(_LOCK_WAIT_S):
        for folder in folders:
            said = False
            while folder.exists() and _is_locked(folder):
                if not said:
                    log.info("waiting for the last run's daemon to stop", folder=folder)
                    said = True
                await trio.sleep(_LOCK_RETRY_S)


def _is_locked(folder: Path) -> bool:
    try:
        StateFolder(folder, OsFiles()).lock().close()
    except RefusedToStart:
        return True
    return False


def describe_refusals(outcome: Outcome) -> str:
    """Return one line that names who refused what."""
    parts = [f"{guest.name} ({daemon} refused)" for guest, daemon in outcome.refused.items()]
    return "cannot serve " + ", ".join(parts) + "; the reason is above"


def describe_ready(layout: Layout, outcome: Outcome) -> str:
    """Return what the user sees when the stack is up; its first word is "ready"."""
    served, refused = len(outcome.serving), len(outcome.refused)
    lines = [f"ready: {served} of {served + refused} guests"]
    if refused:
        lines.append(f"  {describe_refusals(outcome)}")
    for guest in outcome.serving:
        paths = layout.guest(guest.name)
        lines.append(f"  {guest.name}")
        if guest.has_stream:
            lines.append(f"    TPM byte stream        {paths.tpm_socket}")
        if guest.has_control:
            lines.append(f"    swtpm control channel  {paths.ctrl_socket}")
    example = layout.guest(outcome.serving[0].name).tpm_socket
    lines += [
        "To use it with tpm-tools, start a tcsd on it:",
        "  TCSD_USE_TCP_DEVICE=1 TCSD_TCP_DEVICE_PORT=1 \\",
        f"  TCSD_UN_SOCKET_DEVICE_PATH={example} tcsd -e -f",
        "Every local user who can reach these sockets may use the TPMs. All daemons run as one",
        "user, which separates nothing between guests: for that there are the systemd units.",
    ]
    closed = layout.closed_parent()
    if closed is not None:
        lines.append(f"But {closed} is closed to other users, such as tcsd's: give another --dir.")
    return "\n".join(lines)
