# SPDX-License-Identifier: Apache-2.0
"""The supervisor with small programs in place of the daemons: restarts, refusals, order of
stopping."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import UUID

import pytest
import trio

from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Level, Log
from daemons.vtpmctl.child import Child, ChildState, RestartPolicy
from daemons.vtpmctl.plan import ChildSpec, Guest, Stage
from daemons.vtpmctl.process import ForkServer
from daemons.vtpmctl.supervisor import Supervisor

G1 = Guest("g1", UUID(int=1))
G2 = Guest("g2", UUID(int=2))
LIMIT_S = 60.0
WATCHDOG_S = 4.0
"""More than a daemon stands still on a busy machine."""

SMALL_DAEMON = "tests.integration.small_daemon"


class Lab:
    """Makes specs whose programs write to one journal."""

    def __init__(self, folder: Path, forkserver_socket: socket.socket) -> None:
        self.folder = folder
        self.forkserver_socket = forkserver_socket
        self.journal_path = folder / "journal"
        self.journal_path.touch()
        self.stderr_path = folder / "stderr"
        self.log_lines: list[str] = []
        self.log = Log("vtpmctl", level=Level.DEBUG, sink=self.log_lines.append)

    def spec(
        self,
        name: str,
        code: str = "",
        *,
        stage: Stage = Stage.HARDWARE,
        guest: Guest | None = None,
        volatile: bool = False,
    ) -> ChildSpec:
        args = (code, str(self.journal_path))
        return ChildSpec(name, SMALL_DAEMON, args, stage, guest=guest, volatile=volatile)

    def supervisor(self, *specs: ChildSpec, policy: RestartPolicy | None = None) -> Supervisor:
        return Supervisor(
            specs,
            forkserver=ForkServer(self.forkserver_socket),
            notify=self.folder,
            log=self.log,
            policy=policy,
        )

    @property
    def journal(self) -> list[str]:
        return self.journal_path.read_text().splitlines()


@pytest.fixture
def lab(run_dir: Path) -> Iterator[Lab]:
    # Not forked off this process: the test runner has threads.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = (
        "import socket, sys\n"
        "from daemons.vtpmctl.forkserver import serve\n"
        "serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])\n"
    )
    lab = Lab(run_dir, ours)
    with (
        lab.stderr_path.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", program, str(theirs.fileno()), SMALL_DAEMON],
            pass_fds=[theirs.fileno()],
            stderr=stderr,
        ) as server,
    ):
        theirs.close()
        with ours:
            yield lab
        assert server.wait(LIMIT_S) == 0
    sys.stderr.write(lab.stderr_path.read_text())


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[dict[str, Child]]:
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            try:
                yield {child.spec.name: child for child in supervisor.children}
            finally:
                supervisor.stop()


async def test_daemons_are_stopped_from_the_front_to_the_hardware(lab: Lab) -> None:
    supervisor = lab.supervisor(
        lab.spec("hwtpm", stage=Stage.HARDWARE),
        lab.spec("vtpmmgr", stage=Stage.MANAGER),
        lab.spec("vtpm-g1", stage=Stage.VTPM, guest=G1),
        lab.spec("tpmfront-g1", stage=Stage.FRONT, guest=G1),
    )
    async with running(supervisor) as children:
        for child in children.values():
            await child.ready.wait()
    assert lab.journal == ["stop tpmfront-g1", "stop vtpm-g1", "stop vtpmmgr", "stop hwtpm"]
    assert {child.state for child in children.values()} == {ChildState.STOPPED}


async def test_a_stop_in_the_first_moment_of_a_daemon_is_not_lost(run_dir: Path) -> None:
    """SIGTERM between the fork and the daemon's own dispositions waits for these."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = (
        "import os, signal, socket, sys\n"
        "from daemons.vtpmctl.forkserver import serve\n"
        "fork = os.fork\n"
        "def fork_and_signal():\n"
        "    pid = fork()\n"
        "    if pid == 0:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return pid\n"
        "os.fork = fork_and_signal\n"
        "serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(theirs.fileno()), SMALL_DAEMON],
        pass_fds=[theirs.fileno()],
    ) as server:
        theirs.close()
        with ours, trio.fail_after(LIMIT_S):
            forkserver = ForkServer(ours)
            async with trio.open_nursery() as nursery:
                await nursery.start(forkserver.run)
                process = await forkserver.spawn(
                    name="early",
                    module=SMALL_DAEMON,
                    args=("", ""),
                    fds={},
                    notify=run_dir,
                    watchdog_s=LIMIT_S,
                )
                assert await process.wait() == -signal.SIGTERM
                nursery.cancel_scope.cancel()
        assert server.wait(LIMIT_S) == 0


async def test_a_killed_daemon_comes_back_with_its_memory(lab: Lab) -> None:
    counts = """
memory = fds["volatile"][0]
starts = int(os.pread(memory, 10, 0) or b"0") + 1
os.pwrite(memory, b"%d" % starts, 0)
note("start %d" % starts)
"""
    supervisor = lab.supervisor(lab.spec("hwtpm", counts, volatile=True))
    async with running(supervisor) as children:
        child = children["hwtpm"]
        for round_number in range(1, 4):
            await child.wait_state(ChildState.READY)
            assert lab.journal == [f"start {n}" for n in range(1, round_number + 1)]
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            await child.wait_state(ChildState.STARTING)
        await child.wait_state(ChildState.READY)
        assert child.restarts == 3


async def test_a_refusal_is_reported_once_and_the_other_guest_is_served(lab: Lab) -> None:
    supervisor = lab.supervisor(
        lab.spec("hwtpm"),
        lab.spec("vtpm-g1", 'note("refused"); sys.exit(3)', stage=Stage.VTPM, guest=G1),
        lab.spec("tpmfront-g1", stage=Stage.FRONT, guest=G1),
        lab.spec("vtpm-g2", stage=Stage.VTPM, guest=G2),
        lab.spec("tpmfront-g2", stage=Stage.FRONT, guest=G2),
    )
    probed = []

    async def probe(guest: Guest) -> None:
        if guest is G1:
            await trio.sleep_forever()
        probed.append(guest)

    async with running(supervisor) as children:
        outcome = await supervisor.wait_outcome([G1, G2], probe)
        assert outcome.serving == (G2,)
        assert outcome.refused == {G1: "vtpm-g1"}
        await children["tpmfront-g1"].ended.wait()
        assert children["vtpm-g1"].state is ChildState.REFUSED
        assert children["vtpm-g1"].restarts == 0
        await children["vtpm-g2"].wait_state(ChildState.READY)
    assert probed == [G2]
    assert lab.journal.count("refused") == 1
    assert sum("refused to start" in line for line in lab.log_lines if "error" in line) == 1


async def test_without_hardware_no_guest_is_served(lab: Lab) -> None:
    supervisor = lab.supervisor(
        lab.spec("hwtpm", "sys.exit(3)"),
        lab.spec("vtpm-g1", stage=Stage.VTPM, guest=G1),
        lab.spec("tpmfront-g1", stage=Stage.FRONT, guest=G1),
    )

    async def probe(_guest: Guest) -> None:
        await trio.sleep_forever()

    async with running(supervisor):
        outcome = await supervisor.wait_outcome([G1], probe)
    assert outcome.serving == ()
    assert outcome.refused == {G1: "hwtpm"}


async def test_a_daemon_that_fails_again_and_again_is_started_with_growing_pauses(lab: Lab) -> None:
    supervisor = lab.supervisor(lab.spec("hwtpm", "sys.exit(1)"))
    async with running(supervisor) as children:
        child = children["hwtpm"]
        while child.restarts < 3:
            await child.wait_state(ChildState.STARTING)
            await child.wait_state(ChildState.PAUSED)
        assert not child.refused.is_set()
    pauses = [
        line.split("restart_in_s=")[1].strip() for line in lab.log_lines if "restart_in_s" in line
    ]
    assert pauses[:3] == ["0", "0.1", "0.2"]


async def test_a_daemon_that_ignores_sigterm_is_killed_after_the_deadline(lab: Lab) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    policy = RestartPolicy(stop_deadline_s=0.2)
    supervisor = lab.supervisor(lab.spec("hwtpm", deaf), policy=policy)
    with pytest.raises(ExceptionGroup) as raised:
        async with running(supervisor) as children:
            await children["hwtpm"].ready.wait()
    assert raised.group_contains(DaemonError, match="had to be killed: hwtpm")
    assert children["hwtpm"].state is ChildState.STOPPED


async def test_a_daemon_that_falls_silent_is_killed_and_started_again(lab: Lab) -> None:
    """By SIGSTOP, after one sign of life; its successor is left alone as long as it gives them."""
    beats = """
import threading
note(str(notifier.watchdog_s))
notifier.alive()  # before it is ready: its time runs from the first sign on
def beat():
    while True:
        threading.Event().wait(0.05)
        notifier.alive()
threading.Thread(target=beat, daemon=True).start()
"""
    policy = RestartPolicy(watchdog_s=WATCHDOG_S)
    supervisor = lab.supervisor(lab.spec("vtpm-g1", beats), policy=policy)
    async with running(supervisor) as children:
        child = children["vtpm-g1"]
        await child.wait_state(ChildState.READY)
        hung = child.pid
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        await child.wait_state(ChildState.STARTING)
        await child.wait_state(ChildState.READY)
        assert child.pid != hung
        assert child.restarts == 1
        with pytest.raises(ProcessLookupError):
            os.kill(hung, 0)
    assert sum("hangs, is killed" in line for line in lab.log_lines) == 1
    assert lab.journal[:2] == [str(WATCHDOG_S)] * 2


async def test_a_daemon_is_not_hung_because_its_supervisor_was(lab: Lab) -> None:
    """What it said in the meantime lies unread when the time is over, and counts."""
    policy = RestartPolicy(watchdog_s=WATCHDOG_S)
    supervisor = lab.supervisor(lab.spec("vtpm-g1", "notifier.alive()"), policy=policy)
    async with running(supervisor) as children:
        child = children["vtpm-g1"]
        await child.wait_state(ChildState.READY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as late:
            late.connect(str(lab.folder / "vtpm-g1"))
            # The loop of the supervisor stands still beyond the limit.
            select.select([], [], [], WATCHDOG_S + 0.5)
            late.send(b"WATCHDOG=1")
        with trio.move_on_after(0.2):
            await child.wait_state(ChildState.PAUSED)
        assert child.state is ChildState.READY
        assert child.restarts == 0


async def test_why_a_daemon_refused_is_kept_from_its_last_words(lab: Lab) -> None:
    refuses = 'notifier.status("refused: image does not match"); sys.exit(3)'
    supervisor = lab.supervisor(lab.spec("vtpm-g1", refuses))
    async with running(supervisor) as children:
        await children["vtpm-g1"].refused.wait()
        assert children["vtpm-g1"].note == "refused: image does not match"


async def test_a_stop_during_a_pause_does_not_wait_for_it(lab: Lab) -> None:
    policy = RestartPolicy(first_pause_s=3600, longest_pause_s=3600)
    supervisor = lab.supervisor(lab.spec("hwtpm", "sys.exit(1)"), policy=policy)
    async with running(supervisor) as children:
        child = children["hwtpm"]
        while child.restarts < 1:
            await child.wait_state(ChildState.STARTING)
            await child.wait_state(ChildState.PAUSED)
    assert children["hwtpm"].state is ChildState.STOPPED


async def test_descriptors_and_status_lines_of_a_daemon_reach_both_sides(lab: Lab) -> None:
    shows = """
import json
def target(fd):
    return os.readlink(f"/proc/self/fd/{fd}")
note(json.dumps({name: [target(fd) for fd in many] for name, many in fds.items()}))
notifier.status("taking ownership")
"""
    supervisor = lab.supervisor(lab.spec("hwtpm", shows, volatile=True))
    async with running(supervisor) as children:
        child = children["hwtpm"]
        await child.ready.wait()
        assert child.note == "taking ownership"
    seen = json.loads(lab.journal[0])
    assert seen.keys() == {"supervisor", "volatile"}
    assert seen["supervisor"][0].startswith("pipe:")
    assert seen["volatile"] == ["/memfd:hwtpm (deleted)"]


def test_the_daemons_of_a_killed_supervisor_end(lab: Lab) -> None:
    program = f"""
import sys, trio
from pathlib import Path
from daemons.runtime.log import Log
from daemons.vtpmctl.plan import ChildSpec, Stage
from daemons.vtpmctl.process import ForkServer
from daemons.vtpmctl.supervisor import Supervisor
async def main(forkserver):
    spec = ChildSpec("hwtpm", "{SMALL_DAEMON}", ("", {str(lab.journal_path)!r}), Stage.HARDWARE)
    folder = Path({str(lab.folder)!r})
    supervisor = Supervisor([spec], forkserver=forkserver, notify=folder, log=Log("vtpmctl"))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.children[0].ready.wait()
        sys.stdout.write(f"{{supervisor.children[0].pid}}\\n")
        sys.stdout.flush()
        await trio.sleep_forever()
with ForkServer.start(["{SMALL_DAEMON}"]) as forkserver:
    trio.run(main, forkserver)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        with open_pidfd(pid) as pidfd:
            process.kill()
            process.wait()
            assert select.select([pidfd], [], [], LIMIT_S)[0]
    assert lab.journal == ["orphan hwtpm"]


def test_without_the_fork_server_the_stack_ends_and_says_why(lab: Lab) -> None:
    lab.forkserver_socket.shutdown(socket.SHUT_RDWR)

    async def main() -> None:
        supervisor = lab.supervisor(lab.spec("hwtpm"))
        with trio.fail_after(LIMIT_S):
            await supervisor.run()

    with pytest.raises(ExceptionGroup) as raised:
        trio.run(main)
    assert raised.group_contains(DaemonError, match="process that starts the daemons has ended")


async def test_a_daemon_is_shown_under_its_name_and_has_nothing_open_but_its_own(lab: Lab) -> None:
    shows = """
note(open("/proc/self/comm").read().strip())
note(open("/proc/self/cmdline").read().strip("\\0"))
names = sorted(os.listdir("/proc/self/fd"))  # one of them was the listing itself
note(" ".join(name for name in names if os.path.lexists("/proc/self/fd/" + name)))
note(os.readlink("/proc/self/fd/0"))
note(str(os.getpgid(0) == os.getpid()))
"""
    supervisor = lab.supervisor(
        lab.spec("first"), lab.spec("vtpm-g1", shows, volatile=True), lab.spec("last")
    )
    async with running(supervisor) as children:
        await children["vtpm-g1"].ready.wait()
    assert lab.journal[:5] == ["vtpm-g1", "vtpm-g1", "0 1 2 3 4", "/dev/null", "True"]


async def test_a_daemon_with_a_bug_ends_with_exit_code_1_and_its_traceback(
    lab: Lab,
) -> None:
    supervisor = lab.supervisor(lab.spec("hwtpm", "1 / 0"))
    async with running(supervisor) as children:
        await children["hwtpm"].wait_state(ChildState.PAUSED)
    assert any('ended by="exit code 1"' in line for line in lab.log_lines)
    assert "ZeroDivisionError" in lab.stderr_path.read_text()


@contextmanager
def open_pidfd(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)
