# SPDX-License-Identifier: Apache-2.0
"""The start of swtpm's command line: stopped before it serves, refused, and twice on one folder.

But for the last tests, which have a manager, what is asked for does not come to a TPM: the manager
takes connections and says nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.stack import Stack, running_stack
from tests.integration.swtpm_link import (
    GET_TICKS,
    LIMIT_S,
    STARTED,
    Link,
    ask,
    code_of,
    connect,
    end,
    ioctl,
    make_link,
    wait_for,
)
from tests.integration.waiting import wait_until

STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]

# Found by the name sitecustomize: the module that imports all the rest is found when somebody has
# written to the pipe.
SLOW_IMPORT = """\
import sys


class Waiting:
    def find_spec(self, name, path, target=None):
        if name == "daemons.tpmfront.compat.serving":
            with open({pipe!r}, "rb", buffering=0) as pipe:
                pipe.read(1)


sys.meta_path.insert(0, Waiting())
"""


@pytest.fixture
def link(run_dir: Path) -> Iterator[Link]:
    """The link, with a manager that says nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as manager:
        manager.bind(str(run_dir / "manager"))
        manager.listen()
        yield make_link(run_dir / "bin", run_dir / "manager")


@pytest.fixture
def folder(run_dir: Path) -> Path:
    """Of a TPM."""
    made = run_dir / "D"
    made.mkdir()
    return made


def line_of(folder: Path) -> tuple[str, ...]:
    """Return the command line of a TPM with two sockets beside its state."""
    return (
        *("socket", "--tpmstate", f"dir={folder}", "--ctrl", f"type=unixio,path={folder}/ctrl"),
        *("--server", f"type=unixio,path={folder}/sock", *STARTED),
    )


@contextlib.contextmanager
def started(link: Link, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Give a process, whose standard error can be read; it is gone afterwards."""
    process = subprocess.Popen(
        ["swtpm", *words],
        env=link.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@contextlib.contextmanager
def slow_import(link: Link, folder: Path) -> Iterator[int]:
    """Have the link stop between its sockets and the rest; give what to write to, to go on."""
    folder.mkdir()
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    (folder / "sitecustomize.py").write_text(SLOW_IMPORT.format(pipe=str(pipe)))
    link.environ["PYTHONPATH"] = str(folder)
    fd = os.open(pipe, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def wait_second(first: int) -> int:
    """Return the process that a start in the background goes on in, by its first one.

    It has a session of its own; what the first one runs before for a moment has not.
    """
    found: list[int] = []

    def is_there() -> bool:
        words = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        for child in map(int, words):
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(child) == child:
                    found.append(child)
        return bool(found)

    wait_until(is_there, "the second process")
    return found[0]


def nothing_left(folder: Path) -> bool:
    """Whether there is neither socket."""
    return not (folder / "sock").exists() and not (folder / "ctrl").exists()


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_as_soon_as_the_socket_is_there(
    link: Link, folder: Path, number: signal.Signals
) -> None:
    with started(link, *line_of(folder)) as process:
        wait_for(folder / "sock")
        process.send_signal(number)
        assert process.communicate(timeout=LIMIT_S)[1] == ""
        assert process.returncode == 0
    assert nothing_left(folder)


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_before_the_rest_is_imported(
    link: Link, folder: Path, run_dir: Path, number: signal.Signals
) -> None:
    with (
        slow_import(link, run_dir / "lib") as go_on,
        started(link, *line_of(folder)) as process,
    ):
        wait_for(folder / "ctrl")
        process.send_signal(number)
        process.send_signal(number)
        os.write(go_on, b"x")
        assert process.communicate(timeout=LIMIT_S)[1] == ""
        assert process.returncode == 0
    assert nothing_left(folder)


def test_a_hangup_that_nohup_ignores_stops_nothing(link: Link, folder: Path, run_dir: Path) -> None:
    with (
        slow_import(link, run_dir / "lib") as go_on,
        subprocess.Popen(
            ["nohup", "swtpm", *line_of(folder)],
            env=link.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            wait_for(folder / "ctrl")
            process.send_signal(signal.SIGHUP)
            os.write(go_on, b"x")
            # It has got as far as to ask its manager.
            wait_until(lambda: bool(peers_of(link.manager)), "a connection")
            assert process.poll() is None
        finally:
            process.terminate()
        assert process.wait(LIMIT_S) == 0


def peers_of(path: Path) -> list[str]:
    """Return the connections that wait at or were accepted from a Unix socket."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return [one for one in lines if one.endswith(f" {path}")][1:]


@pytest.mark.parametrize("number", STOPS)
def test_a_start_in_the_background_is_given_up_before_it_forks(
    link: Link, folder: Path, run_dir: Path, number: signal.Signals
) -> None:
    with (
        slow_import(link, run_dir / "lib") as go_on,
        started(link, *line_of(folder), "--daemon") as process,
    ):
        wait_for(folder / "ctrl")
        process.send_signal(number)
        os.write(go_on, b"x")
        assert process.communicate(timeout=LIMIT_S)[1] == ""
        # Nobody is told that there is a TPM.
        assert process.returncode == -number
    assert nothing_left(folder)


@pytest.mark.parametrize("number", STOPS)
def test_a_start_in_the_background_is_given_up_while_it_is_waited_for(
    link: Link, folder: Path, number: signal.Signals
) -> None:
    with started(link, *line_of(folder), "--daemon") as process:
        second = wait_second(process.pid)
        pidfd = os.pidfd_open(second)
        try:
            process.send_signal(number)
            assert process.communicate(timeout=LIMIT_S)[1] == ""
            assert process.returncode == -number
            # The first one has waited for it.
            assert nothing_left(folder)
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def test_a_second_process_that_is_killed_fails_the_start(link: Link, folder: Path) -> None:
    with started(link, *line_of(folder), "--daemon") as process:
        os.kill(wait_second(process.pid), signal.SIGKILL)
        # It has said nothing, not even that its manager does not answer.
        assert process.communicate(timeout=LIMIT_S)[1] == ""
        assert process.returncode == 1


def test_of_two_starts_on_one_folder_one_has_its_sockets(link: Link, folder: Path) -> None:
    with started(link, *line_of(folder)) as one, started(link, *line_of(folder)) as other:
        wait_until(lambda: _has_ended(one) or _has_ended(other), "an end")
        refused, serving = (one, other) if _has_ended(one) else (other, one)
        reason = f"{folder} is in use by another process"
        assert reason in refused.communicate(timeout=LIMIT_S)[1]
        assert refused.returncode == 1
        for name in ("sock", "ctrl"):
            wait_for(folder / name)
            connect(folder / name).close()
        serving.terminate()
        assert serving.communicate(timeout=LIMIT_S)[1] == ""
        assert serving.returncode == 0
    assert nothing_left(folder)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_start_without_standard_streams_keeps_what_it_opens(
    stack: Stack, run_dir: Path, folder: Path, closed: str
) -> None:
    link = make_link(run_dir / "bin", stack.root / "run" / "vtpmmgr.sock")
    line, pid = line_of(folder), run_dir / "pid"
    words = ["swtpm", *line, "--daemon", "--pid", f"file={pid}"]
    script = f'exec "$@" {closed}'
    done = subprocess.run(["sh", "-c", script, "sh", *words], env=link.environment, timeout=LIMIT_S)
    assert done.returncode == 0
    number = int(pid.read_text())
    try:
        assert "is in use by another process" in link.run(*line, fails=True).stderr
        assert code_of(ask(folder / "sock", GET_TICKS)) == 0
    finally:
        end(number)
    assert nothing_left(folder)
    assert (folder / ".vtpm.lock").read_text().startswith("/tmp/vtpm-swtpm-")


def test_the_log_of_a_start_without_standard_error_says_why_it_fails(
    link: Link, folder: Path, run_dir: Path
) -> None:
    words = ["swtpm", *line_of(folder), "--log", f"file={run_dir}/log"]
    environ = {**link.environment, "VTPM_MANAGER": str(run_dir / "nowhere")}
    script = 'exec "$@" 2>&-'
    done = subprocess.run(["sh", "-c", script, "sh", *words], env=environ, timeout=LIMIT_S)
    assert done.returncode == 1
    assert "no manager at" in (run_dir / "log").read_text()


def test_what_the_system_refuses_is_said_in_a_line(link: Link, folder: Path, run_dir: Path) -> None:
    (folder / ".vtpm.lock").symlink_to("nowhere")
    refused = link.run(*line_of(folder), "--log", f"file={run_dir}/log", fails=True)
    assert refused.stderr == (
        f"swtpm: Could not lock access to {folder}: Too many levels of symbolic links\n"
    )
    (link_up := run_dir / "loop").symlink_to(link_up)
    words = [*line_of(folder), "--tpmstate", f"dir={link_up}/state"]
    refused = link.run(*words, fails=True)
    assert len(refused.stderr.splitlines()) == 1


def _has_ended(process: subprocess.Popen[str]) -> bool:
    return process.poll() is not None


@pytest.mark.parametrize("reason", ["no manager at", "Could not open UnixIO socket", "No such dir"])
def test_a_refusal_before_the_sockets_is_in_the_log_as_well(
    link: Link, folder: Path, run_dir: Path, reason: str
) -> None:
    line = list(line_of(folder))
    match reason:
        case "no manager at":
            link = Link(link.path, run_dir / "nowhere")
        case "No such dir":
            line += ["--tpmstate", f"dir={run_dir}/nowhere"]
        case _:
            line += ["--server", f"type=unixio,path={run_dir}/nowhere/sock"]
    log = run_dir / "log"
    refused = link.run(*line, "--log", f"file={log},prefix=tpm: ", fails=True)
    (said,) = refused.stderr.splitlines()
    assert said.startswith(f"swtpm: {reason}") or said.endswith("No such directory")
    (logged,) = log.read_text().splitlines()
    assert logged.startswith("tpm: swtpm error: failed reason=")
    assert said.removeprefix("swtpm: ") in logged
    with log.open("ab") as file:
        fd = file.fileno()
        link.run(*line, "--log", f"fd={fd}", pass_fds=[fd], fails=True)
    assert len(log.read_text().splitlines()) == 2
    # Once, where the two are one; and also where the log cannot be had, or is off.
    assert link.run(*line, "--log", "fd=2", fails=True).stderr == refused.stderr
    assert link.run(*line, "--log", "file=-", fails=True).stderr == refused.stderr
    not_logged = link.run(*line, "--log", f"file={run_dir}/nowhere/log", fails=True)
    assert not_logged.stderr == (
        "swtpm: Could not open logfile for writing: No such file or directory\n"
    )
    assert nothing_left(folder)


@pytest.fixture(scope="module")
def stack(module_dir: Path) -> Iterator[Stack]:
    """A stack whose manager admits this user's TPMs."""
    with running_stack(module_dir) as found:
        yield found


def test_a_folder_that_is_served_keeps_its_sockets(
    stack: Stack, run_dir: Path, folder: Path
) -> None:
    link = make_link(run_dir / "bin", stack.root / "run" / "vtpmmgr.sock")
    line = line_of(folder)
    with link.daemon(*line, pid=run_dir / "pid"):
        refused = link.run(*line, fails=True)
        assert f"{folder} is in use by another process" in refused.stderr
        assert code_of(ask(folder / "sock", GET_TICKS)) == 0
        # At once, while it is about to end.
        ioctl(folder / "ctrl", "-s")
        with link.daemon(*line, pid=run_dir / "pid2"):
            assert code_of(ask(folder / "sock", GET_TICKS)) == 0
            assert "0x17fff" in ioctl(folder / "ctrl", "-c")
    assert nothing_left(folder)
