# SPDX-License-Identifier: Apache-2.0
"""What the platform and the operator send: startup, tests, presence, enabling, capabilities,
auditing."""

from __future__ import annotations

from collections.abc import Iterator

from bench.ordinals.chip import SECRET, TimedChip, template
from bench.ordinals.routine import Routine, Rsa, routine
from protocol.tpm12.constants import (
    CapabilityProperty,
    KeyUsage,
    Ordinal,
    PhysicalPresenceFlags,
    ReservedHandle,
    SetCapabilityArea,
)
from tpmcore import tss12
from tpmcore.engine import HashData, HashEnd, HashStart, KeySource, PowerOn

_READ_SRK_PUB = 17
"""Number of readSRKPub among the permanent flags."""
_LAUNCH_LOCALITY = 3


def routines(keys: KeySource) -> Iterator[Routine]:
    """Give the routines."""
    yield from _starts(keys)
    chip = TimedChip(keys)
    chip.assert_presence()
    yield from _opt_in_without_owner(chip)
    owned = TimedChip(keys)
    owned.assert_presence()
    owned.take_ownership()
    yield from _opt_in(owned)
    yield from _tests_and_capabilities(owned)
    yield from _auditing(owned)


def _starts(keys: KeySource) -> Iterator[Routine]:
    chip = TimedChip(keys)
    chip.assert_presence()
    chip.take_ownership()
    chip.run(tss12.set_operator_auth(SECRET))
    run, random = chip.run, chip.client_random

    def start() -> None:
        chip.handle(PowerOn())
        chip.start()

    def deactivate() -> None:
        start()
        run(tss12.set_temp_deactivated(operator_auth=SECRET, random=random))

    def disable_force_clear() -> None:
        start()
        run(tss12.tsc_physical_presence(PhysicalPresenceFlags.PRESENT))
        run(tss12.disable_force_clear())

    yield routine(chip, start, Ordinal.STARTUP, CONTINUE_SELF_TEST=(Rsa.SELF_TEST,))
    yield routine(chip, deactivate, Ordinal.SET_TEMP_DEACTIVATED)
    yield routine(chip, disable_force_clear, Ordinal.DISABLE_FORCE_CLEAR)

    saving = TimedChip(keys)

    def save() -> None:
        saving.run(tss12.save_state())
        saving.run(tss12.pcr_read(0))

    yield routine(saving, save, Ordinal.SAVE_STATE)


def _opt_in_without_owner(chip: TimedChip) -> Iterator[Routine]:
    run = chip.run

    def owner_install() -> None:
        run(tss12.set_owner_install(False))
        run(tss12.set_owner_install(True))

    yield routine(chip, owner_install, Ordinal.SET_OWNER_INSTALL)


def _opt_in(chip: TimedChip) -> Iterator[Routine]:
    run, random = chip.run, chip.client_random
    secrets = iter(range(1, 1 << 32))

    def owner_disable() -> None:
        for disable in (True, False):
            run(tss12.owner_set_disable(disable, owner_auth=SECRET, random=random))

    def physical() -> None:
        run(tss12.physical_disable())
        run(tss12.physical_enable())

    def deactivate() -> None:
        run(tss12.physical_set_deactivated(True))
        run(tss12.physical_set_deactivated(False))

    def presence() -> None:
        run(tss12.tsc_physical_presence(PhysicalPresenceFlags.NOTPRESENT))
        run(tss12.tsc_physical_presence(PhysicalPresenceFlags.PRESENT))

    def establishment() -> None:
        for event in (HashStart(), HashData(b"measured"), HashEnd()):
            chip.handle(event)
        chip.locality = _LAUNCH_LOCALITY
        run(tss12.tsc_reset_establishment_bit())
        chip.locality = 0

    yield routine(chip, owner_disable, Ordinal.OWNER_SET_DISABLE)
    yield routine(chip, physical, Ordinal.PHYSICAL_ENABLE, Ordinal.PHYSICAL_DISABLE)
    yield routine(chip, deactivate, Ordinal.PHYSICAL_SET_DEACTIVATED)
    yield routine(
        chip,
        lambda: run(tss12.set_operator_auth(next(secrets).to_bytes(20, "big"))),
        Ordinal.SET_OPERATOR_AUTH,
    )
    yield routine(chip, presence, Ordinal.TSC_PHYSICAL_PRESENCE)
    yield routine(chip, establishment, Ordinal.TSC_RESET_ESTABLISHMENT_BIT)


def _tests_and_capabilities(chip: TimedChip) -> Iterator[Routine]:
    run, random = chip.run, chip.client_random

    def set_capability() -> None:
        for value in (b"\x01", b"\x00"):
            area = SetCapabilityArea.PERM_FLAGS
            run(tss12.set_capability(area, _READ_SRK_PUB, value, owner_auth=SECRET, random=random))

    yield routine(chip, lambda: run(tss12.self_test_full()), SELF_TEST_FULL=(Rsa.SELF_TEST,))
    yield routine(chip, lambda: run(tss12.get_test_result()), Ordinal.GET_TEST_RESULT)
    yield routine(
        chip,
        lambda: run(tss12.get_property(CapabilityProperty.MAX_AUTHSESS)),
        Ordinal.GET_CAPABILITY,
    )
    yield routine(
        chip,
        lambda: run(tss12.get_capability_owner(owner_auth=SECRET, random=random)),
        Ordinal.GET_CAPABILITY_OWNER,
    )
    yield routine(chip, set_capability, Ordinal.SET_CAPABILITY)
    yield routine(
        chip,
        lambda: run(tss12.reset_lock_value(owner_auth=SECRET, random=random)),
        Ordinal.RESET_LOCK_VALUE,
    )


def _auditing(chip: TimedChip) -> Iterator[Routine]:
    run, random = chip.run, chip.client_random
    srk = ReservedHandle.SRK
    key = run(
        tss12.create_wrap_key(
            srk,
            template(KeyUsage.SIGNING),
            parent_auth=SECRET,
            usage_auth=SECRET,
            random=random,
        )
    )
    handle = run(tss12.load_key2(srk, key, parent_auth=SECRET, random=random))

    def status() -> None:
        for audited in (True, False):
            run(
                tss12.set_ordinal_audit_status(
                    Ordinal.PCR_READ, audited, owner_auth=SECRET, random=random
                )
            )

    def signed() -> object:
        return run(
            tss12.get_audit_digest_signed(
                handle, close=False, anti_replay=SECRET, key_auth=SECRET, random=random
            )
        )

    yield routine(chip, status, Ordinal.SET_ORDINAL_AUDIT_STATUS)
    yield routine(chip, lambda: run(tss12.get_audit_digest()), Ordinal.GET_AUDIT_DIGEST)
    yield routine(chip, signed, GET_AUDIT_DIGEST_SIGNED=(Rsa.SIGN,))
