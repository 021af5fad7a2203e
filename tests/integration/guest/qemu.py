# SPDX-License-Identifier: Apache-2.0
"""A guest for a test: a QEMU process with a TPM TIS device at a swtpm control channel.

    with running_guest(image, folder, control, disk=disk) as guest:
        guest.start_tcsd()
        guest.run("tpm_takeownership -y -z")
        guest.reboot()

No guest outlives its test: it is ended by pid. What its console and QEMU said is in the message of
what went wrong.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.guest.image import Image
from tests.integration.guest.line import Line, LineError
from tests.integration.guest.qmp import Qmp, QmpError

BOOT_LIMIT_S = 120.0
SCRIPT_LIMIT_S = 120.0
END_LIMIT_S = 30.0
MIGRATION_LIMIT_S = 60.0
MEMORY_MIB = 192
DISK = "disk"
"""Name of the block device, in QEMU."""

_KERNEL_OPTIONS = " ".join(
    (
        "console=ttyS0 quiet",
        # IMA leaves out what is on a tmpfs, so the first file system is none.
        "rootfstype=ramfs ima_policy=tcb ima_hash=sha1",
        # The check counts ticks, and an emulated processor that waits for its host misses some.
        "no_timer_check",
        # Dear on an emulated processor, together a third of the time of a boot.
        "cryptomgr.notests nokaslr no5lvl mitigations=off",
    )
)
_PCR = re.compile(r"^PCR-(\d\d): ((?:[0-9A-F]{2} ?){20})\s*$", re.MULTILINE)
_SHOWN_BYTES = 4096


class GuestError(AssertionError):
    """A guest, or its QEMU, did not do what it should."""


class Guest:
    """A QEMU process and what runs in it; made by `running_guest`."""

    def __init__(
        self,
        image: Image,
        folder: Path,
        control: Path,
        *,
        disk: Path | None = None,
        snapshot: str | None = None,
        incoming: bool = False,
    ) -> None:
        """Start QEMU; `wait_ready` waits for the guest.

        Args:
            image: what it boots.
            folder: for console and messages; short, since a socket is in it, too.
            control: socket of the TPM's control channel.
            disk: a qcow2 image, from `make_disk`. Needed for snapshots.
            snapshot: go on from this one, which is on the disk, instead of booting.
            incoming: wait for another guest's `migrate_to` instead of booting.
        """
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.uptime_s = 0.0
        ours, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)
        self._line, self._qmp = Line(ours[0]), Qmp(ours[1])
        port, monitor = (end.fileno() for end in theirs)
        command = [
            *("qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max"),
            *("-m", str(MEMORY_MIB), "-nodefaults", "-display", "none"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
            *("-append", _KERNEL_OPTIONS),
            *("-chardev", f"socket,id=tpm-control,path={control}"),
            *("-tpmdev", "emulator,id=tpm,chardev=tpm-control", "-device", "tpm-tis,tpmdev=tpm"),
            *("-chardev", f"file,id=console,path={folder / 'console'},append=on"),
            *("-chardev", f"socket,id=line,fd={port}", "-chardev", f"socket,id=qmp,fd={monitor}"),
            *("-serial", "chardev:console", "-serial", "chardev:line"),
            *("-mon", "chardev=qmp,mode=control"),
            *(_disk(disk) if disk else ()),
            *(("-loadvm", snapshot) if snapshot else ()),
            *(("-incoming", "defer") if incoming else ()),
        ]
        with (folder / "qemu.stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=(port, monitor),
            )
        for end in theirs:
            end.close()

    def negotiate(self) -> None:
        """Wait until QEMU takes commands.

        Raises:
            GuestError: it does not, for instance because it refuses the TPM.
        """
        with self._explained():
            self._qmp.negotiate()

    def wait_ready(self, limit_s: float = BOOT_LIMIT_S) -> None:
        """Wait until the guest's first process runs, after a start or a reboot.

        Raises:
            GuestError: it took longer, or QEMU has ended.
        """
        with self._explained():
            self.uptime_s = self._line.wait_ready(limit_s)

    def run(self, script: str, *, fails: bool = False, limit_s: float = SCRIPT_LIMIT_S) -> str:
        """Run a script of busybox's sh in the guest and return what it wrote.

        Args:
            fails: whether it is to end with an exit code other than 0.

        Raises:
            GuestError: it ended the other way or took too long, or QEMU has ended.
        """
        return self._run(script, fails, limit_s).decode(errors="replace")

    def read(self, path: str) -> bytes:
        """Return the content of a file of the guest.

        Raises:
            GuestError: it cannot be read.
        """
        return self._run(f"cat {path}", fails=False, limit_s=SCRIPT_LIMIT_S)

    def pcrs(self) -> dict[int, bytes]:
        """Return the PCRs as the guest's kernel shows them."""
        text = self.read("/sys/class/tpm/tpm0/pcrs").decode()
        return {int(index): bytes.fromhex(value) for index, value in _PCR.findall(text)}

    def start_tcsd(self) -> None:
        """Start the guest's TSS daemon; its store is on the disk. It returns when tools can come.

        Raises:
            GuestError: it does not come up.
        """
        self.run("tcsd")

    def reboot(self) -> None:
        """Reboot by the guest's kernel, which resets the machine, and wait until it is up."""
        with self._explained():
            self._line.send("sync; reboot -f", SCRIPT_LIMIT_S)
        self.wait_ready()

    def power_off(self) -> None:
        """Switch off by the guest's kernel, and wait until QEMU has ended.

        Raises:
            GuestError: it ended with an error, or does not end.
        """
        with self._explained():
            self._line.send("sync; poweroff -f", SCRIPT_LIMIT_S)
        self._wait_end()

    def kill(self) -> None:
        """End QEMU as a crash does."""
        self.process.kill()
        self.process.wait()

    def save(self, snapshot: str) -> None:
        """Write the whole machine, its TPM included, into a snapshot on its disk.

        Raises:
            GuestError: QEMU refuses, for instance because the TPM gives no state.
        """
        self._job("snapshot-save", tag=snapshot, vmstate=DISK, devices=[DISK])

    def load(self, snapshot: str) -> None:
        """Go back to a snapshot, in the same QEMU.

        Raises:
            GuestError: QEMU refuses, for instance because the TPM does not take its state.
        """
        self._qmp_run("stop")
        self._job("snapshot-load", tag=snapshot, vmstate=DISK, devices=[DISK])
        self._qmp_run("cont")

    def migrate_to(self, target: Guest) -> None:
        """Have the machine go on in another QEMU, which was started as `incoming`; this one ends.

        Raises:
            GuestError: it does not arrive, or goes on here.
        """
        uri = f"unix:{self.folder / 'migration'}"
        for side in (target, self):
            side._qmp_run(
                "migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}]
            )
        target._qmp_run("migrate-incoming", uri=uri)
        self._qmp_run("migrate", uri=uri)
        # The target first: it knows why it does not take a machine, the source at most that.
        for side in (target, self):
            side._wait_migrated()
        self._qmp_run("quit")
        self._wait_end()

    def go_on_here(self) -> None:
        """Have the machine go on after a migration that did not arrive, as libvirt does."""
        # QEMU may not notice: what it sent has been taken off its hands.
        with contextlib.suppress(GuestError):
            self._wait_migrated()
        self._qmp_run("cont")

    def why_not_migratable(self) -> list[str]:
        """Return QEMU's reasons against moving or saving this machine; none if it can."""
        reasons: list[str] = self._qmp_run("query-migrate").get("blocked-reasons", [])
        return reasons

    def close(self) -> None:
        """End QEMU if it still runs: in order if it takes the signal, else by force."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._line.close()
        self._qmp.close()

    def _run(self, script: str, fails: bool, limit_s: float) -> bytes:
        with self._explained():
            code, output = self._line.run(script, limit_s)
            if bool(code) != fails:
                text = output.decode(errors="replace")
                raise GuestError(f"{script}: exit code {code}\n{text}")
        return output

    def _qmp_run(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        with self._explained():
            return self._qmp.execute(command, **arguments)

    def _job(self, command: str, **arguments: object) -> None:
        """Run one of QEMU's jobs to its end, and dismiss it."""
        name = command
        self._qmp_run(command, job_id=name, **arguments)
        with self._explained():
            self._qmp.wait_event(
                "JOB_STATUS_CHANGE", MIGRATION_LIMIT_S, id=name, status="concluded"
            )
            (job,) = (job for job in self._qmp.execute("query-jobs") if job["id"] == name)
            self._qmp.execute("job-dismiss", id=name)
            if "error" in job:
                raise GuestError(f"{command}: {job['error']}")

    def _wait_migrated(self) -> None:
        with self._explained():
            status = ""
            while status not in ("completed", "failed"):
                status = self._qmp.wait_event("MIGRATION", MIGRATION_LIMIT_S)["status"]
            if status == "failed":
                reason = self._qmp.execute("query-migrate").get("error-desc", "no reason given")
                raise GuestError(f"the migration failed: {reason}")

    def _wait_end(self) -> None:
        with self._explained():
            try:
                code = self.process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                raise GuestError(f"QEMU has not ended after {END_LIMIT_S:g} s") from None
            if code:
                raise GuestError(f"QEMU ended with exit code {code}")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Add to what goes wrong what console and QEMU said."""
        try:
            yield
        except (GuestError, LineError, QmpError) as error:
            said = "".join(
                f"\n--- {name} ---\n{_tail(self.folder / name)}"
                for name in ("console", "qemu.stderr")
            )
            raise GuestError(f"{error}{said}") from error


def make_disk(path: Path, size: str = "64M") -> Path:
    """Make an empty disk, which the guest formats at its first boot; return its path."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), size], check=True)
    return path


@contextlib.contextmanager
def running_guest(
    image: Image,
    folder: Path,
    control: Path,
    *,
    disk: Path | None = None,
    snapshot: str | None = None,
    incoming: bool = False,
    wait: bool = True,
) -> Iterator[Guest]:
    """Give a guest that is up, and end it; see `Guest`.

    One that goes on from a snapshot runs at once, one that is `incoming` when it has come.

    Args:
        wait: False to boot several at a time, and to call `wait_ready` for each.
    """
    guest = Guest(image, folder, control, disk=disk, snapshot=snapshot, incoming=incoming)
    try:
        guest.negotiate()
        if wait and snapshot is None and not incoming:
            guest.wait_ready()
        yield guest
    finally:
        guest.close()


def _disk(path: Path) -> tuple[str, ...]:
    return (
        *("-blockdev", f"driver=qcow2,node-name={DISK},file.driver=file,file.filename={path}"),
        *("-device", f"virtio-blk-pci,drive={DISK}"),
    )


def _tail(path: Path) -> str:
    data = path.read_bytes() if path.exists() else b""
    return data[-_SHOWN_BYTES:].decode(errors="replace")
