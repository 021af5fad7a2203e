# SPDX-License-Identifier: Apache-2.0
"""A machine boots with a vTPM: what firmware and kernel measured is in it and can be replayed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemons.vtpm.factory import DURATIONS_US
from protocol.attestation.eventlog import parse_event_log, replay
from protocol.tpm12.constants import PCR_COUNT
from tests.integration.guest.image import INIT, Image
from tests.integration.guest.measurements import parse_measurements, replay_measurements
from tests.integration.guest.qemu import Guest, running_guest
from tests.integration.guest.reference import running_swtpm
from tests.integration.stack import Stack, running_stack
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12

FIRMWARE_PCRS = range(8)
IMA_PCR = 10
TPM_FOLDER = "/sys/class/tpm/tpm0"


@dataclass(frozen=True, slots=True)
class Boot:
    """What a booted guest shows of its TPM.

    Attributes:
        pcrs: as its kernel reads them.
        event_log: the firmware's.
        ima_list: the kernel's.
        shown: other files of the kernel's driver, by name.
    """

    pcrs: Mapping[int, bytes]
    event_log: bytes
    ima_list: bytes
    shown: Mapping[str, str]


def look(guest: Guest) -> Boot:
    """Read everything; the list before the PCRs, so that nothing new stands in these alone."""
    ima_list = guest.read("/sys/kernel/security/ima/binary_runtime_measurements")
    return Boot(
        guest.pcrs(),
        guest.read("/sys/kernel/security/tpm0/binary_bios_measurements"),
        ima_list,
        {
            name: guest.read(f"{TPM_FOLDER}/{name}").decode()
            for name in ("caps", "durations", "enabled", "active", "owned", "pubek")
        },
    )


@dataclass(frozen=True, slots=True)
class Boots:
    """The same machine, booted with two TPMs.

    Attributes:
        stack: which the first one is on, as guest g1; it still runs.
    """

    stack: Stack
    ours: Boot
    swtpm: Boot


@pytest.fixture(scope="module")
def boots(module_dir: Path, image: Image) -> Iterator[Boots]:
    with ExitStack() as context:
        stack = context.enter_context(running_stack(module_dir))
        controls = {
            "ours": stack.control_socket("g1"),
            "swtpm": context.enter_context(running_swtpm(module_dir / "s")),
        }
        guests = {
            name: context.enter_context(
                running_guest(image, module_dir / name, control, wait=False)
            )
            for name, control in controls.items()
        }
        for guest in guests.values():
            guest.wait_ready()
        yield Boots(stack, look(guests["ours"]), look(guests["swtpm"]))


def test_the_firmwares_log_replays_to_the_pcrs(boots: Boots) -> None:
    events = parse_event_log(boots.ours.event_log)
    assert {event.pcr for event in events if event.is_extended} >= set(FIRMWARE_PCRS)
    replayed = replay(events, {})
    assert len(boots.ours.pcrs) == PCR_COUNT
    for index in FIRMWARE_PCRS:
        assert boots.ours.pcrs[index] == replayed[index] != bytes(20), index


def test_the_kernels_list_replays_to_pcr_10_and_stands_on_the_firmwares(boots: Boots) -> None:
    entries = parse_measurements(boots.ours.ima_list)
    assert {entry.pcr for entry in entries} == {IMA_PCR}
    assert replay_measurements(entries) == boots.ours.pcrs[IMA_PCR]
    firmware = b"".join(boots.ours.pcrs[index] for index in FIRMWARE_PCRS)
    assert entries[0].name == "boot_aggregate"
    assert entries[0].file_digest == hashlib.sha1(firmware).digest()
    measured = {entry.name: entry.file_digest for entry in entries}
    assert measured["/init"] == hashlib.sha1(INIT.read_bytes()).digest()
    assert "/bin/busybox" in measured


def test_the_kernels_driver_shows_what_the_tpm_is(boots: Boots) -> None:
    shown = boots.ours.shown
    assert "TCG version: 1.2" in shown["caps"]
    assert [shown[name].strip() for name in ("enabled", "active", "owned")] == ["1", "1", "0"]
    durations = " ".join(map(str, DURATIONS_US))
    assert shown["durations"].strip() == f"{durations} [original]"
    # The kernel's words of the TPM are the TPM's own.
    key = tss12.run_sync(
        lambda command: boots.stack.transact("g1", command),
        tss12.read_pubek(random=SeededRandom("pubek")),
    )
    modulus = "".join(shown["pubek"].partition("Modulus:")[2].split())
    assert bytes.fromhex(modulus[:512]) == key.key


def test_the_same_boot_measures_the_same_on_swtpm(boots: Boots) -> None:
    assert boots.ours.event_log == boots.swtpm.event_log
    for index in range(IMA_PCR):
        assert boots.ours.pcrs[index] == boots.swtpm.pcrs[index], index
