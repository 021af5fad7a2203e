# SPDX-License-Identifier: Apache-2.0
"""What a guest does with its TPM in these tests, by the tools of tpm-tools.

Owner and storage root have the well-known secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from protocol.tpm12 import ReturnCode
from tests.integration.guest.qemu import Guest
from tests.integration.log_search import SEARCH

FIRMWARE = range(8)
IMA = range(10, 11)
SECRET = SEARCH.password("sealed to the firmware")
OTHER = SEARCH.password("sealed to what has run")

SEALED = "/disk/sealed"
"""On the guest's disk."""
SEALED_IN_MEMORY = "/run/sealed"
"""On a tmpfs, which IMA does not measure: reading it does not change PCR 10."""

_WORKER = """
while [ ! -e /run/stop ]; do
    if [ -e /run/pause ]; then touch /run/paused; sleep 0.1; continue; fi
    rm -f /run/paused
    if [ "$(tpm_unsealdata -z -i {path})" = '{secret}' ]; then
        echo >> /run/opened
    else
        date >> /run/failed
    fi
done > /run/worker 2>&1 &
"""


def take_ownership(guest: Guest) -> None:
    """Start tcsd and become the owner of the TPM."""
    guest.start_tcsd()
    guest.run("tpm_takeownership -y -z")


def is_owned(guest: Guest) -> bool:
    """Say what the guest's kernel says."""
    return guest.read("/sys/class/tpm/tpm0/owned").strip() == b"1"


def seal(guest: Guest, secret: str, *, pcrs: range, path: str = SEALED) -> None:
    """Seal a text to the PCRs as they are now; it is on the disk when this returns."""
    chosen = " ".join(f"-p {index}" for index in pcrs)
    guest.run(
        f"echo -n '{secret}' > /run/secret; tpm_sealdata -z -i /run/secret -o {path} {chosen}"
        " && rm /run/secret && sync"
    )


def unseal(guest: Guest, *, path: str = SEALED) -> str:
    """Return what was sealed."""
    return guest.run(f"tpm_unsealdata -z -i {path}")


def unseal_is_refused(guest: Guest, *, path: str = SEALED) -> bool:
    """Say whether the TPM does not give it out because of the PCRs: the tool ends with its code."""
    said = guest.run(f"tpm_unsealdata -z -i {path} > /dev/null 2>&1; echo $?")
    return int(said) == ReturnCode.WRONGPCRVAL


def settle(guest: Guest) -> None:
    """Own the TPM and seal two secrets: one to the firmware, one to what has run in this boot.

    The second can be opened only as long as PCR 10 is as it was, and no boot makes it so again.
    """
    take_ownership(guest)
    seal(guest, SECRET, pcrs=FIRMWARE)
    assert unseal(guest) == SECRET
    # Now that all tools have been measured.
    seal(guest, OTHER, pcrs=IMA, path=SEALED_IN_MEMORY)
    assert is_settled(guest)


def is_settled(guest: Guest) -> bool:
    """Say whether tcsd, owner and PCRs go on from where they were after `settle`."""
    opened = unseal(guest), unseal(guest, path=SEALED_IN_MEMORY)
    return is_owned(guest) and opened == (SECRET, OTHER)


def run_strange_program(guest: Guest) -> None:
    """Run a program that this machine has not run before, which the kernel measures."""
    guest.run("{ cat /bin/busybox; date; } > /strange; chmod +x /strange; /strange true || true")


def new_tpm_complaints(guest: Guest) -> str:
    """Return what the guest's kernel has said about its TPM since this was called last, at level
    warning or above."""
    return guest.run("dmesg -r -c | grep '^<[0-4]>' | grep -i tpm || true")


class Worker:
    """A program of the guest that unseals all the time."""

    def __init__(self, guest: Guest, secret: str, *, path: str = SEALED) -> None:
        """Start it; tcsd runs, and the secret is sealed."""
        self._guest = guest
        guest.run("rm -f /run/stop /run/opened /run/failed; touch /run/opened /run/failed")
        guest.run(_WORKER.format(path=path, secret=secret))

    def wait_rounds(self, count: int = 2) -> None:
        """Return when it has unsealed so often from now on.

        Raises:
            AssertionError: it failed, once or more.
        """
        before = self._count("opened")
        self._guest.run(
            f'while [ ! -s /run/failed ] && [ "$(wc -l < /run/opened)" -lt {before + count} ];'
            " do sleep 0.1; done"
        )
        assert self._count("failed") == 0, self._guest.run("cat /run/worker")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have no command under way meanwhile; then see that it goes on."""
        self._guest.run("touch /run/pause; while [ ! -e /run/paused ]; do sleep 0.1; done")
        yield
        self._guest.run("rm /run/pause")
        self.wait_rounds()

    def stop(self) -> None:
        """End it and see that it never failed."""
        self.wait_rounds(1)
        self._guest.run("touch /run/stop")

    def _count(self, name: str) -> int:
        return int(self._guest.run(f"wc -l < /run/{name}"))
