# SPDX-License-Identifier: Apache-2.0
"""The command `vtpmctl trace`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, assert_never

import click
import trio

from daemons.runtime.control import Fields
from daemons.runtime.errors import DaemonError
from daemons.runtime.standardstreams import hold_standard_descriptors
from daemons.vtpmctl.attribution import Attributed
from daemons.vtpmctl.guests import check_known
from daemons.vtpmctl.options import dir_option, find_host, system_option
from daemons.vtpmctl.output import Output, Sink
from daemons.vtpmctl.pcapng import Capture
from daemons.vtpmctl.trace import Connected, Dropped, Entry, Lost, follow
from daemons.vtpmctl.tracetext import ProcessNames, json_object, line, packets

EXAMPLE = """\b
Example:
  vtpmctl trace --guest g1
  vtpmctl trace --guest g1 --command Seal --command Unseal
  vtpmctl trace --guest g1 --json | jq 'select(.result != "SUCCESS")'
  vtpmctl trace --guest g1 --pcap - | wireshark -k -i -
"""

WAIT_S: Final = 1.0
"""After so long without a vtpm it is said that one is waited for."""
_STDOUT: Final = Path("-")
_STDOUT_FD: Final = 1
_STDERR_FD: Final = 2
_MODE: Final = 0o600


@click.command("trace", epilog=EXAMPLE)
@click.option("--guest", required=True, metavar="NAME", help="Whose TPM.")
@click.option(
    "--pcap",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a capture file for Wireshark as well; - is standard output, and then nothing else "
    "is written there.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="End after so many commands."
)
@click.option(
    "--command",
    "commands",
    multiple=True,
    metavar="COMMAND",
    help="Only this command: PCR_READ, PcrRead or TPM_ORD_PcrRead. May be repeated.",
)
@dir_option
@system_option
def trace_command(
    guest: str,
    pcap: Path | None,
    as_json: bool,
    count: int | None,
    commands: tuple[str, ...],
    root: Path | None,
    system: bool,
) -> None:
    """Show the commands that a guest's TPM executes, until Ctrl-C.

    Each with its parameters, result, time taken, locality and client. No secret is shown or
    written: of authorization data, nonces, keys and whatever is sealed, stored or random only the
    length is. A vtpm that is restarted is picked up again; its guest notices nothing of all this.
    """

    async def run() -> None:
        host = await find_host(root, system=system)
        check_known(host, guest)
        with contextlib.ExitStack() as stack:
            captured = None
            if pcap is not None:
                captured = stack.enter_context(Output.of(stack.enter_context(_open_capture(pcap))))
            view = View(
                guest,
                None if pcap == _STDOUT else stack.enter_context(Output.of(_STDOUT_FD)),
                stack.enter_context(Output.of(_STDERR_FD)),
                as_json=as_json,
                captured=captured,
                commands=commands,
                count=count,
            )
            await watch(view, host.control_socket(guest), host.front_control_socket(guest))

    hold_standard_descriptors()
    try:
        trio.run(run)
    except BaseExceptionGroup as group:
        _raise_plain(group)
    except (DaemonError, OSError) as error:
        _refuse(error)


class View:
    """Shows what happens."""

    def __init__(
        self,
        guest: str,
        out: Sink | None,
        remarks: Sink,
        *,
        as_json: bool,
        captured: Sink | None = None,
        commands: Sequence[str] = (),
        count: int | None = None,
        names: ProcessNames | None = None,
    ) -> None:
        """Args:
        guest: its name.
        out: where commands are shown, if anywhere.
        remarks: where it is said what there is to be said beside them.
        as_json: objects instead of text.
        captured: where a capture file goes.
        commands: names of those that are wanted; none: all are.
        count: how many are wanted; None: all.
        names: of processes.
        """
        self._guest = guest
        self._out = out
        self._remarks = remarks
        self._as_json = as_json
        self._captured = captured
        self._capture = Capture(guest)
        self._commands = frozenset(map(plain_name, commands))
        self._left = count
        self._names = names or ProcessNames()
        self._was_lost = False

    async def begin(self) -> None:
        """Write what comes before everything else.

        Raises:
            OSError: it cannot be written.
        """
        if self._captured is not None:
            await self._captured.write(self._capture.beginning())

    async def show(self, entry: Entry) -> bool:
        """Show something; whether more is wanted.

        Raises:
            OSError: it cannot be written.
        """
        match entry:
            case Attributed():
                return await self._show_command(entry)
            case Connected():
                again = " again" if self._was_lost else ""
                await self._remark(f"watching guest {self._guest}{again}", {"event": "connected"})
            case Lost():
                self._was_lost = True
                text = f"the vtpm of guest {self._guest} is gone; waiting for it"
                await self._remark(text, {"event": "lost"})
            case Dropped(count):
                await self._remark(f"{count} commands are missing here", {"dropped": count})
            case _:
                assert_never(entry)
        return True

    async def show_waiting(self) -> None:
        """Say that there is nothing to be shown yet."""
        await self._remark(f"waiting for the vtpm of guest {self._guest}", None)

    async def _show_command(self, one: Attributed) -> bool:
        name = plain_name(one.traced.description.command)
        if self._commands and name not in self._commands:
            return True
        if self._captured is not None:
            await self._captured.write(packets(self._capture, one, self._names))
        if self._as_json:
            await self._write(json.dumps(json_object(one, self._names, self._guest)))
        else:
            await self._write(line(one, self._names))
        if self._left is not None:
            self._left -= 1
        return self._left != 0

    async def _remark(self, text: str, fields: Fields | None) -> None:
        if self._as_json and fields is not None:
            await self._write(json.dumps({"guest": self._guest, **fields}))
        else:
            await self._remarks.write(f"{text}\n".encode())

    async def _write(self, text: str) -> None:
        if self._out is not None:
            await self._out.write(f"{text}\n".encode())


async def watch(view: View, vtpm: Path, front: Path) -> None:
    """Show what happens until enough was seen, or SIGINT or SIGTERM comes.

    Args:
        view: shows it.
        vtpm: control socket of the guest's vtpm.
        front: of its tpmfront.

    Raises:
        DaemonError: a daemon does not want to tell; in a group, as is OSError of a view.
    """
    send, entries = trio.open_memory_channel[Entry](0)
    async with trio.open_nursery() as nursery:
        await nursery.start(_end_by_signal, nursery.cancel_scope)
        await view.begin()
        nursery.start_soon(follow, vtpm, front, send)
        entry: Entry | None = None
        with trio.move_on_after(WAIT_S):
            entry = await entries.receive()
        if entry is None:
            await view.show_waiting()
            entry = await entries.receive()
        while await view.show(entry):
            entry = await entries.receive()
        nursery.cancel_scope.cancel()


async def _end_by_signal(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return


@contextlib.contextmanager
def _open_capture(path: Path) -> Iterator[int]:
    """Open a new file, a named pipe that is there, or standard output, and give its descriptor.

    Raises:
        DaemonError: there is a file already.
        OSError: it cannot be made.
    """
    if path == _STDOUT:
        yield _STDOUT_FD
        return
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, _MODE)
    except FileExistsError as error:
        if not stat.S_ISFIFO(path.stat().st_mode):
            raise _is_there(path) from error
        descriptor = os.open(path, flags)
        # What was looked at may not be what was opened, in a folder that others write to.
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _is_there(path) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_there(path: Path) -> DaemonError:
    return DaemonError(f"{path} is there already; nothing was written")


def plain_name(name: str) -> str:
    """Return a command's name as all its spellings have in common: "TPM_ORD_PcrRead" is
    "pcrread"."""
    return name.upper().removeprefix("TPM_").removeprefix("ORD_").replace("_", "").lower()


def _raise_plain(group: BaseExceptionGroup[BaseException]) -> None:
    """Raise what a group is about, if it is one thing that a person should know.

    Raises:
        click.ClickException: a daemon or a file said so.
        BrokenPipeError: whoever read us is gone, which click knows how to handle.
        BaseExceptionGroup: anything else.
    """
    ours, others = group.split((DaemonError, OSError))
    if others is not None or ours is None:
        raise group
    first: BaseException = ours
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    _refuse(first)


def _refuse(error: BaseException) -> None:
    if isinstance(error, BrokenPipeError):
        raise error
    raise click.ClickException(str(error)) from error
