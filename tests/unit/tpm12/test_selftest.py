# SPDX-License-Identifier: Apache-2.0
"""Self tests and failure mode (Part 3, 4)."""

from __future__ import annotations

import pytest

from protocol.tpm12.constants import CapabilityArea, CapabilityProperty, ReturnCode
from protocol.tpm12.wire import U32
from tests.unit.tpm12.world import Chip, FixedKeys, ManualTicks, SeededRandom, make_chip
from tpmcore import tss12
from tpmcore.engine import PowerOn
from tpmcore.tpm12 import selftest
from tpmcore.tpm12.rsa import PrivateKey
from tpmcore.tpm12.state import Counter, PermanentFlags, PermanentState, SelfTest
from tpmcore.tpm12.tpm import Tpm
from tpmcore.tpm12.world import Profile, World


class StuckRandom(SeededRandom):
    """A generator that can be made to give the same byte for ever."""

    stuck = False

    def random(self, size_bytes: int) -> bytes:
        """Return the next bytes, or the same ones."""
        return b"\x55" * size_bytes if self.stuck else super().random(size_bytes)


@pytest.fixture
def chip() -> Chip:
    """A chip whose generator can get stuck."""
    chip = make_chip()
    chip.random = StuckRandom("stuck")
    chip.power_cycle()
    return chip


def stick(chip: Chip) -> None:
    """Break the generator."""
    assert isinstance(chip.random, StuckRandom)
    chip.random.stuck = True


@pytest.mark.parametrize("name", list(selftest.TESTS))
def test_each_test_passes_on_a_sound_engine(name: str) -> None:
    assert selftest.TESTS[name](_tpm())


def test_a_failing_test_means_failure_mode_and_the_rest_is_not_run() -> None:
    tpm = _tpm()
    ran: list[str] = []

    def record(name: str, result: bool) -> bool:
        ran.append(name)
        return result

    tests = {
        "good": lambda _tpm: record("good", True),
        "bad": lambda _tpm: record("bad", False),
        "later": lambda _tpm: record("later", True),
    }
    assert not selftest.run_all(tpm, tests)
    assert tpm.self_test is SelfTest.FAILED
    assert ran == ["good", "bad"]


def test_a_wrong_rsa_result_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivateKey, "sign_sha1_digest", lambda _self, _digest: bytes(128))
    assert not selftest.TESTS["RSA"](_tpm())


def test_results_are_told_in_words() -> None:
    chip = make_chip()
    assert b"only those" in chip.run(tss12.get_test_result())
    chip.run(tss12.continue_self_test())
    assert b"passed" in chip.run(tss12.get_test_result())
    chip.run(tss12.self_test_full())
    assert b"passed" in chip.run(tss12.get_test_result())


def test_a_command_that_needs_tested_functions_runs_the_tests_first() -> None:
    chip = make_chip()
    chip.run(tss12.extend(0, bytes(20)))
    assert b"only those" in chip.run(tss12.get_test_result())
    chip.run(tss12.pcr_read(0))
    assert b"passed" in chip.run(tss12.get_test_result())


def test_what_a_capability_tells_decides_whether_the_tests_are_run_first() -> None:
    untested = [
        tss12.get_capability(CapabilityArea.VERSION),
        tss12.get_capability(CapabilityArea.VERSION_VAL),
        tss12.get_property(CapabilityProperty.MANUFACTURER),
        tss12.get_capability(CapabilityArea.PROPERTY, U32.write(CapabilityProperty.DURATION)),
        tss12.get_capability(CapabilityArea.PROPERTY, U32.write(CapabilityProperty.TIS_TIMEOUT)),
    ]
    chip = make_chip()
    for question in untested:
        assert chip.code(question) == ReturnCode.SUCCESS
        assert b"only those" in chip.run(tss12.get_test_result())
    chip.run(tss12.get_property(CapabilityProperty.PCR))
    assert b"passed" in chip.run(tss12.get_test_result())


def test_a_capability_of_a_chip_that_turns_out_broken_is_refused(chip: Chip) -> None:
    stick(chip)
    question = tss12.get_property(CapabilityProperty.PCR)
    assert chip.code(question) == ReturnCode.FAILEDSELFTEST
    assert b"failed" in chip.run(tss12.get_test_result())


@pytest.mark.parametrize("command", [tss12.self_test_full, tss12.continue_self_test])
def test_a_stuck_generator_fails_the_test_and_the_chip_stays_failed(
    chip: Chip, command: object
) -> None:
    stick(chip)
    assert callable(command)
    assert chip.code(command()) == ReturnCode.FAILEDSELFTEST
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.FAILEDSELFTEST
    assert chip.code(tss12.self_test_full()) == ReturnCode.FAILEDSELFTEST
    assert b"failed" in chip.run(tss12.get_test_result())
    assert chip.code(tss12.get_capability(CapabilityArea.VERSION)) == ReturnCode.SUCCESS


def test_a_stuck_generator_fails_the_first_command_that_would_use_it(chip: Chip) -> None:
    stick(chip)
    assert chip.code(tss12.oiap()) == ReturnCode.FAILEDSELFTEST


def test_failure_mode_ends_with_the_power(chip: Chip) -> None:
    stick(chip)
    chip.code(tss12.self_test_full())
    chip.random = SeededRandom("sound")
    chip.power_cycle()
    chip.run(tss12.self_test_full())
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.SUCCESS


def test_failure_mode_survives_a_restart_of_the_daemon(chip: Chip) -> None:
    stick(chip)
    chip.code(tss12.self_test_full())
    chip.restart()
    assert chip.code(tss12.pcr_read(0)) == ReturnCode.FAILEDSELFTEST


def test_startup_in_failure_mode_is_refused(chip: Chip) -> None:
    stick(chip)
    chip.handle(PowerOn())
    assert chip.code(tss12.get_random(1)) == ReturnCode.FAILEDSELFTEST
    assert chip.code(tss12.startup()) == ReturnCode.FAILEDSELFTEST


def _tpm() -> Tpm:
    world = World(SeededRandom("self test"), ManualTicks(), FixedKeys())
    secrets = (bytes(20), bytes(16), bytes(16))
    return Tpm(world, Profile(), PermanentState(PermanentFlags(), *secrets, [Counter()]))
