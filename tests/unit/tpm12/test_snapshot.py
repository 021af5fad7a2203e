# SPDX-License-Identifier: Apache-2.0
"""What an operator is shown of a TPM: true, and without the TPM's noticing."""

from __future__ import annotations

import pytest

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.framing import build_message, error_response
from protocol.tpm12.transport import TransportAttributes
from tests.unit.tpm12.test_transport import is_alive
from tests.unit.tpm12.tunnel import open_tunnel
from tests.unit.tpm12.world import make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import HashEnd, HashStart, Persist, PowerOn
from tpmcore.tpm12.pcrs import initial_pcrs

DIGEST = bytes(range(20))


def test_a_new_tpm_has_no_owner_and_the_pcrs_of_a_power_on() -> None:
    snapshot = make_chip().engine.snapshot()
    (bank,) = snapshot.banks
    assert not snapshot.owned
    assert (bank.algorithm, bank.changed) == ("sha1", ())
    assert list(bank.values) == initial_pcrs()
    assert {"enabled", "activated"} <= set(snapshot.flags)


def test_an_owner_and_what_was_measured_are_seen() -> None:
    chip = make_owned_chip()
    chip.run(tss12.extend(10, DIGEST))
    value = chip.run(tss12.extend(2, DIGEST))
    snapshot = chip.engine.snapshot()
    (bank,) = snapshot.banks
    assert snapshot.owned
    assert bank.changed == (2, 10)
    assert bank.values[2] == value


def test_a_dynamic_launch_is_seen() -> None:
    chip = make_chip()
    chip.handle(HashStart())
    chip.handle(HashEnd())
    snapshot = chip.engine.snapshot()
    assert "established" in snapshot.flags
    assert 17 in snapshot.banks[0].changed


def test_a_tpm_that_waits_for_startup_or_is_switched_off_says_so() -> None:
    chip = make_chip()
    chip.handle(PowerOn())
    assert "waits for Startup" in chip.engine.snapshot().flags
    chip.run(tss12.startup())
    chip.assert_presence()
    chip.send(build_message(0x00C1, Ordinal.PHYSICAL_DISABLE))
    flags = chip.engine.snapshot().flags
    assert "disabled" in flags
    assert "enabled" not in flags
    assert "physical presence" in flags


def test_looking_changes_nothing_and_leaves_an_exclusive_transport_session_alone() -> None:
    chip = make_owned_chip()
    transport = open_tunnel(chip, TransportAttributes.EXCLUSIVE)
    engine = chip.engine
    before = (engine.permanent_state(), engine.volatile_state(), engine.volatile_version)
    made = chip.keys.made
    for _ in range(3):
        assert "exclusive transport" in engine.snapshot().flags
        engine.exchange(b"", b"")
    assert (engine.permanent_state(), engine.volatile_state(), engine.volatile_version) == before
    assert chip.keys.made == made
    assert is_alive(chip, transport)


def test_a_snapshot_can_be_had_while_a_save_is_pending() -> None:
    chip = make_chip()
    command = build_message(0x00C1, Ordinal.TSC_PHYSICAL_PRESENCE, b"\0\x20")
    assert isinstance(chip.engine.execute(command, 0), Persist)
    assert not chip.engine.snapshot().owned


@pytest.mark.parametrize(
    ("command", "response", "names", "refused"),
    [
        ("00c1 0000000e 00000015 00000000", 0, ("PCR_READ", "SUCCESS"), False),
        ("00c2 0000000a 00000018", ReturnCode.AUTHFAIL, ("UNSEAL", "AUTHFAIL"), True),
        ("00c1 0000000a 00000014", ReturnCode.BAD_LOCALITY, ("EXTEND", "BAD_LOCALITY"), True),
        ("00c1 0000000a 00000014", ReturnCode.BADINDEX, ("EXTEND", "BADINDEX"), False),
        ("00c1 0000000a 12345678", 0x1234, ("0x12345678", "0x1234"), False),
        ("", ReturnCode.BAD_PARAM_SIZE, ("0x0", "BAD_PARAM_SIZE"), False),
    ],
)
def test_commands_and_codes_have_names(
    command: str, response: int, names: tuple[str, str], refused: bool
) -> None:
    exchange = make_chip().engine.exchange(bytes.fromhex(command), error_response(response))
    assert ((exchange.command, exchange.code), exchange.refused) == (names, refused)
