# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl doctor`: every finding, brought about."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from daemons.runtime.control import Fields, serve_control
from daemons.runtime.errors import DaemonError
from daemons.runtime.marker import MARKER_NAME
from daemons.vtpmctl.doctor import reach
from daemons.vtpmctl.doctor.configuration import check_configuration
from daemons.vtpmctl.doctor.examination import examine
from daemons.vtpmctl.doctor.finding import Finding, Verdict, fail, findings_json
from daemons.vtpmctl.doctor.host import (
    DISK_FULL_BYTES,
    DISK_LOW_BYTES,
    INODES_LOW,
    check_clock,
    check_disk,
    check_kernel,
    check_python,
    look_at_disk,
)
from daemons.vtpmctl.doctor.places import (
    check_folders,
    check_locks,
    check_sockets,
    check_users,
    lock_holders,
    newest_state,
)
from daemons.vtpmctl.doctor.services import check_daemons, check_freshness, check_units
from daemons.vtpmctl.site import FolderRule, Kind, Premises, SocketRule, UnitState
from daemons.vtpmctl.status import Status, gather_status
from protocol.tis.framing import REPLY_HEADER, ReplyKind, decode_request
from protocol.tis.registers import Access
from tests.unit.vtpmctl.sites import ANSWERS, QUIET, UUID, FakeSite, answering, daemon

OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL


def only(findings: Iterable[Finding]) -> Finding:
    """Return the one finding that there must be."""
    (finding,) = findings
    return finding


def expect(finding: Finding, verdict: Verdict, says: str) -> None:
    """See that a finding says something, and what to do unless all is well."""
    assert finding.verdict is verdict, finding
    assert says in finding.what, finding
    assert bool(finding.remedy) == (verdict is not OK), finding


# --- the report ----------------------------------------------------------------------------------


def test_a_finding_is_one_line_with_its_remedy_and_cannot_redraw_the_terminal() -> None:
    finding = fail("daemons", "vtpm-g1 says \x1b[2J\nfake", "restart it")
    assert finding.line == "[fail] daemons: vtpm-g1 says ?[2J?fake -> restart it"
    assert findings_json([finding]) == [
        {
            "check": "daemons",
            "verdict": "fail",
            "what": "vtpm-g1 says \x1b[2J\nfake",
            "remedy": "restart it",
        }
    ]


# --- the machine ---------------------------------------------------------------------------------


def test_python() -> None:
    expect(check_python((3, 11, 2)), OK, "3.11.2")
    expect(check_python((4, 0, 0)), OK, "4.0.0")
    expect(check_python((3, 10, 9)), FAIL, "3.10.9 is older than 3.11")


def _lack() -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def test_features_of_the_kernel() -> None:
    expect(only(check_kernel({"a": lambda: None}, {"b": (lambda: None, "r")})), OK, "has a, b")
    expect(only(check_kernel({"memfd sealing": _lack}, {})), FAIL, "no memfd sealing")
    expect(only(check_kernel({}, {"/dev/vtpmx": (_lack, "r")})), WARN, "no /dev/vtpmx")


def test_what_nothing_runs_without_is_here() -> None:
    assert [one for one in check_kernel() if one.verdict is FAIL] == []


def test_room_on_the_disk(tmp_path: Path) -> None:
    plenty = DISK_LOW_BYTES, INODES_LOW
    expect(check_disk(tmp_path, *plenty), OK, "256 MiB free")
    expect(check_disk(tmp_path, DISK_LOW_BYTES, None), OK, "256 MiB free")
    expect(check_disk(tmp_path, DISK_LOW_BYTES - 1, None), WARN, "MiB free")
    expect(check_disk(tmp_path, DISK_FULL_BYTES - 1, None), FAIL, "MiB free")
    expect(check_disk(tmp_path, DISK_LOW_BYTES, INODES_LOW - 1), FAIL, "99 files")
    # A folder that is not there yet will be where the one above is.
    assert str(tmp_path / "a/b") in look_at_disk(tmp_path / "a/b").what


def test_the_clock(tmp_path: Path) -> None:
    slot = tmp_path / "slot0"
    expect(check_clock(2e9, (slot, 2e9), 1e9), OK, "2033-05-18")
    expect(check_clock(2e9, None, 2.1e9), FAIL, "before this program was installed")
    expect(check_clock(2e9, (slot, 2e9 + 100), 1e9), WARN, "was written 100 s after that")


# --- places --------------------------------------------------------------------------------------


def test_owners_and_modes(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    rule = FolderRule(folder, 0o077, uid=os.geteuid())
    expect(only(check_folders([rule])), OK, "1 have the owner and mode")
    folder.chmod(0o750)
    finding = only(check_folders([rule]))
    expect(finding, FAIL, "has mode 0750")
    assert finding.remedy == f"chmod 700 {folder}"
    folder.chmod(0o700)
    expect(only(check_folders([replace(rule, uid=54321)])), FAIL, "belongs to uid")
    expect(only(check_folders([replace(rule, uid=None, owner="daemon")])), FAIL, "belongs to uid")


def test_folders_that_are_missing_or_links(tmp_path: Path) -> None:
    missing = FolderRule(tmp_path / "missing", 0)
    expect(only(check_folders([missing])), FAIL, "is missing")
    assert list(check_folders([replace(missing, must_be_there=False)])) == []
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    expect(only(check_folders([FolderRule(link, 0)])), FAIL, "is a link")
    under_a_file = tmp_path / "file"
    under_a_file.touch()
    expect(only(check_folders([FolderRule(under_a_file / "x", 0)])), WARN, "cannot be looked at")


def test_files_of_secrets_have_findings_of_their_own(tmp_path: Path) -> None:
    secret = tmp_path / "owner"
    secret.touch(0o600)
    rule = FolderRule(secret, 0o077, secret=True)
    assert only(check_folders([rule])).check == "secrets"
    secret.chmod(0o644)
    finding = only(check_folders([rule]))
    expect(finding, FAIL, "0644")
    assert (finding.check, finding.remedy) == ("secrets", f"chmod 600 {secret}")


def test_users_and_groups() -> None:
    expect(only(check_users(["root"], ["root"])), OK, "2 users and groups exist")
    user, group = check_users(["vtpm-none"], ["vtpm-none"])
    expect(user, FAIL, "no user vtpm-none")
    expect(group, FAIL, "no group vtpm-none")


@contextmanager
def listening(path: Path, mode: int = 0o600) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        path.chmod(mode)
        listener.listen()
        yield


def test_sockets_of_a_daemon_that_runs(run_dir: Path) -> None:
    path = run_dir / "control.sock"
    rule = SocketRule(path, "hwtpm", 0o077, is_stream=True)
    ready = [daemon(Kind.HWTPM)]
    expect(only(check_sockets([rule], ready)), FAIL, "is missing, hwtpm runs")
    path.touch()
    expect(only(check_sockets([rule], ready)), FAIL, "is not a socket")
    path.unlink()
    with listening(path):
        expect(only(check_sockets([rule], ready)), OK, "1 are there")
        wrong_kind = replace(rule, is_stream=False)
        expect(only(check_sockets([wrong_kind], ready)), FAIL, "does not take connections")
        path.chmod(0o666)
        expect(only(check_sockets([rule], ready)), FAIL, "has mode 0666")
        path.chmod(0o600)
    expect(only(check_sockets([rule], ready)), FAIL, "Connection refused")
    under_a_file = replace(rule, path=Path(__file__) / "x.sock")
    expect(only(check_sockets([under_a_file], ready)), WARN, "cannot be looked at")


def test_a_socket_that_we_may_not_use(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_dir / "control.sock"

    class Closed(socket.socket):
        def connect(self, _address: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with listening(path):
        monkeypatch.setattr(socket, "socket", Closed)
        rule = SocketRule(path, "hwtpm", 0, is_stream=True)
        expect(only(check_sockets([rule], [daemon(Kind.HWTPM)])), WARN, "may not be used by us")


def test_a_socket_that_a_killed_daemon_left(run_dir: Path) -> None:
    path = run_dir / "control.sock"
    rule = SocketRule(path, "hwtpm", 0o077, is_stream=True)
    gone = [daemon(Kind.HWTPM, state="stopped")]
    assert list(check_sockets([rule], gone)) == []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        listener.setblocking(False)
        assert list(check_sockets([rule], gone)) == []
        # Who listens for a daemon that is not there is not made to start it.
        with pytest.raises(BlockingIOError):
            listener.accept()
    expect(only(check_sockets([rule], gone)), WARN, "is left over")


def test_locks(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.touch()
    runs, stopped = daemon(Kind.HWTPM), daemon(Kind.HWTPM, state="stopped")
    stat = lock.stat()
    device = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}"

    def held_by(pid: int, where: str = device) -> str:
        return f"1: FLOCK  ADVISORY  WRITE {pid} {where}:{stat.st_ino} 0 EOF\n"

    def found(daemon_row: object, locks: str) -> Finding:
        assert daemon_row in (runs, stopped)
        rows = [runs if daemon_row is runs else stopped]
        return only(check_locks([(lock, "hwtpm")], rows, lock_holders(locks)))

    expect(found(runs, held_by(os.getpid())), OK, "1 state folders")
    expect(found(stopped, ""), OK, "1 state folders")
    expect(found(stopped, held_by(4711)), FAIL, "is held by process 4711, which is not hwtpm")
    expect(found(runs, held_by(4711)), FAIL, "is held by process 4711")
    # The same number on another file system is another file.
    expect(found(stopped, held_by(4711, "7f:7f")), OK, "1 state folders")
    (tmp_path / MARKER_NAME).touch()
    expect(found(runs, held_by(os.getpid())), OK, "1 state folders")
    expect(found(stopped, ""), WARN, "was killed and does not run")


def test_who_has_a_lock_is_the_kernels_word(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with lock.open("w") as file:
        assert lock_holders()(lock) is None
        fcntl.flock(file, fcntl.LOCK_EX)
        assert lock_holders()(lock) == os.getpid()
    assert lock_holders()(tmp_path / "none") is None


# --- configuration -------------------------------------------------------------------------------


def premises(folder: Path) -> Premises:
    """Return premises with nothing in them."""
    return Premises(
        folders=(),
        sockets=(),
        locks=(),
        state=folder,
        configuration=folder,
        tis=folder,
        locality=2,
        fronts=(),
    )


def test_the_configuration(tmp_path: Path) -> None:
    guest = tmp_path / "guests.d/g1.toml"
    expect(only(check_configuration(tmp_path / "none", [])), FAIL, "none")
    expect(only(check_configuration(tmp_path, [])), OK, "without mistakes, with 0 guests")
    running = [daemon(Kind.VTPM, guest="g1"), daemon(Kind.FRONT, guest="g1")]
    _, finding = check_configuration(tmp_path, running)
    expect(finding, FAIL, "guest g1 runs without being configured")
    guest.parent.mkdir()
    guest.write_text(f'uuid = "{UUID}"\nuid = 1000\nlable = "x"\n')
    expect(only(check_configuration(tmp_path, running)), FAIL, "did you mean label?")
    guest.write_text(f'uuid = "{UUID}"\nuid = 1000\n')
    expect(only(check_configuration(tmp_path, running)), OK, "with 1 guests")


def test_the_newest_file_of_a_state(tmp_path: Path) -> None:
    files = [tmp_path / "slot0", tmp_path / "slot1"]
    for age, file in enumerate(files):
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    rules = tuple(FolderRule(path, 0, secret=True) for path in (*files, tmp_path / "none"))
    assert newest_state(replace(premises(tmp_path), folders=rules)) == (files[0], 1000)
    assert newest_state(premises(tmp_path)) is None


# --- services ------------------------------------------------------------------------------------


def test_units() -> None:
    unit = UnitState("vtpmmgr.service", "loaded", "active", "enabled", "success", 0)
    expect(only(check_units([unit])), OK, "1 are installed")
    expect(only(check_units([replace(unit, load="not-found")])), FAIL, "is not-found")
    failed = replace(unit, active="failed", result="exit-code", exit_status=1)
    expect(only(check_units([failed])), FAIL, "failed: exit-code, exit code 1")
    expect(only(check_units([replace(unit, file_state="disabled")])), WARN, "is disabled")


async def suite(folder: Path, **changed: Fields) -> Status:
    answers = {kind: {**answer, **changed.get(kind.value, {})} for kind, answer in ANSWERS.items()}
    async with answering(folder, answers) as rows:
        return await gather_status(FakeSite(rows))


async def test_daemons_that_serve(run_dir: Path) -> None:
    expect(only(check_daemons(await suite(run_dir))), OK, "4 of 4 serve")


async def test_a_daemon_that_says_that_it_waits(run_dir: Path) -> None:
    waiting = {"state": "starting", "waiting_for": "no manager"}
    findings = list(check_daemons(await suite(run_dir, vtpm=waiting)))
    expect(findings[0], FAIL, "vtpm-g1 says starting: no manager")
    expect(findings[-1], OK, "3 of 4 serve")


async def test_a_guest_whose_daemons_serve_without_a_manager(run_dir: Path) -> None:
    findings = list(check_daemons(await suite(run_dir, vtpm={"manager_connected": False})))
    expect(findings[-1], FAIL, "guest g1: no manager")


@pytest.mark.parametrize(
    ("state", "says"),
    [("refused to start", "refused to start (exit code 3)"), ("stopped", "is stopped")],
)
async def test_a_daemon_that_does_not_run(state: str, says: str) -> None:
    row = daemon(Kind.HWTPM, state=state, note="exit code 3")
    expect(only(check_daemons(await gather_status(FakeSite((row,))))), FAIL, says)


async def test_a_daemon_that_does_not_answer(run_dir: Path) -> None:
    row = daemon(Kind.HWTPM, run_dir / "none.sock")
    finding = only(check_daemons(await gather_status(FakeSite((row,)))))
    expect(finding, FAIL, "hwtpm does not answer")


async def test_freshness(run_dir: Path) -> None:
    expect(only(check_freshness(await suite(run_dir))), OK, "sequence 9 is bound")
    saving = await suite(run_dir, vtpmmgr={"waiting_saves": 2})
    expect(only(check_freshness(saving)), OK, "2 saves are under way")
    behind = await suite(run_dir, vtpmmgr={"bound_sequence": 8})
    expect(only(check_freshness(behind)), FAIL, "the database is at 9, the hardware TPM at 8")
    expect(only(check_freshness(Status("", (), ()))), FAIL, "nobody can tell")


# --- reach ---------------------------------------------------------------------------------------


async def serve_once(path: Path, answer: bytes, kind: int = socket.SOCK_STREAM) -> trio.Event:
    """Answer the first message at a socket, from a thread of its own."""
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(os.fspath(path))
    listener.listen()
    done = trio.Event()

    def serve() -> None:
        with listener, listener.accept()[0] as peer:
            request = peer.recv(4096)
            if kind == socket.SOCK_SEQPACKET:
                tag = getattr(decode_request(request), "tag")  # noqa: B009 - a read has one
                peer.send(REPLY_HEADER.pack(ReplyKind.VALUE, len(answer), tag) + answer)
            elif answer:
                peer.sendall(answer)

    async def run() -> None:
        await trio.to_thread.run_sync(serve)
        done.set()

    trio.lowlevel.spawn_system_task(run)
    return done


async def test_the_chip(run_dir: Path) -> None:
    expect(await reach.check_chip(run_dir, 2), FAIL, "is not reached")
    path = run_dir / "locality2.sock"
    for access, verdict, says in (
        (Access.VALID, OK, "answers at locality 2"),
        (Access.NOT_ESTABLISHED, FAIL, "the chip is not ready"),
    ):
        done = await serve_once(path, bytes([access]), socket.SOCK_SEQPACKET)
        expect(await reach.check_chip(run_dir, 2), verdict, says)
        await done.wait()
        path.unlink()


async def test_a_chip_or_a_tpm_that_never_answers(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as chip:
        chip.bind(os.fspath(run_dir / "locality2.sock"))
        chip.listen()
        expect(await reach.check_chip(run_dir, 2), FAIL, "does not answer")
    with listening(run_dir / "tpm.sock"):
        expect(await reach.check_guest("g1", run_dir / "tpm.sock"), FAIL, "no answer within")


async def test_the_manager(run_dir: Path, nursery: trio.Nursery) -> None:
    control = run_dir / "control.sock"
    expect(await reach.check_manager(control), FAIL, "nobody answers")

    async def probe(_args: Fields) -> Fields:
        if is_lost:
            raise DaemonError("hardware TPM: the chip hung up")
        return {}

    await nursery.start(partial(serve_control, control, {"probe-hardware": probe}, log=QUIET))
    is_lost = False
    expect(await reach.check_manager(control), OK, "answers")
    is_lost = True
    expect(await reach.check_manager(control), FAIL, "the chip hung up")


async def test_a_guest(run_dir: Path) -> None:
    path = run_dir / "tpm.sock"
    expect(await reach.check_guest("g1", path), FAIL, "No such file")
    success = bytes.fromhex("00c4 0000001e 00000000") + bytes(20)
    for answer, verdict, says in (
        (success, OK, "g1: its TPM answers"),
        (bytes.fromhex("00c4 0000000a 00000009"), FAIL, "return code 0x9"),
        (bytes.fromhex("00c4 00000001 00000000"), FAIL, "response of 1 bytes"),
        (b"", FAIL, "hung up"),
    ):
        done = await serve_once(path, answer)
        expect(await reach.check_guest("g1", path), verdict, says)
        await done.wait()
        path.unlink()


# --- all of it -----------------------------------------------------------------------------------


async def test_a_suite_that_nobody_runs_is_one_failure_and_the_rest_is_looked_at(
    tmp_path: Path,
) -> None:
    class Nobody(FakeSite):
        async def daemons(self) -> tuple[()]:
            raise DaemonError("nobody answers")

    told: list[str] = []
    findings = await examine(Nobody((), premises(tmp_path)), told.append)
    fails = [finding for finding in findings if finding.verdict is FAIL]
    assert {finding.check for finding in fails} == {"daemons"}
    assert {"disk", "clock", "kernel"} <= {finding.check for finding in findings}
    assert told == ["the machine", "the daemons"]


async def test_premises_that_cannot_be_had_end_it() -> None:
    class Nowhere(FakeSite):
        async def premises(self) -> Premises:
            raise DaemonError("there is no systemctl on this machine")

    findings = await examine(Nowhere(()), lambda _what: None)
    expect(findings[-1], FAIL, "there is no systemctl")
