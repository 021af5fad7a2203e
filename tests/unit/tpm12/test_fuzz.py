# SPDX-License-Identifier: Apache-2.0
"""The short part of the fuzzer: the corpus as it is, some thousand mutations, all findings."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import pytest

from protocol.tpm12.constants import Ordinal
from tests.fuzz.campaign import Campaign, Failure, replay, write_finding
from tests.fuzz.chips import prepare
from tests.fuzz.corpus import ROWS, findings, read_seeds
from tests.fuzz.dice import Dice
from tests.fuzz.sign import Signer
from tests.fuzz.steps import Kind, Step, read_steps, send, write_steps
from tests.fuzz.target import Broken, Snapshot, Target

RUNS = 12


@functools.cache
def _chips() -> Mapping[str, Snapshot]:
    return prepare()


def test_every_ordinal_of_the_table_has_a_seed() -> None:
    missing = sorted(Ordinal(ordinal).name for ordinal in ROWS.keys() - read_seeds().keys())
    assert not missing, "python -m tests.fuzz.record records them from the unit tests"


@pytest.mark.parametrize("name", ["furnished", "owned", "new", "unstarted", "small"])
def test_the_corpus_breaks_no_promise(name: str) -> None:
    snapshot = _chips()[name]
    target = Target(snapshot, "corpus")
    signer = Signer(Dice(name), snapshot.secrets)
    for ordinal, vectors in read_seeds().items():
        if len(target.tpm.stany.sessions) < 2:
            target.apply(send(bytes.fromhex("00c1 0000000a 0000000a")))
        for _, command in vectors:
            target.apply(send(command))
            if ordinal != Ordinal.OIAP:
                target.apply(send(signer.sign(command, target.tpm)))


@pytest.mark.parametrize("number", range(RUNS))
def test_mutated_commands_break_no_promise(number: int, tmp_path: Path) -> None:
    campaign = Campaign(f"short {number}", _chips(), read_seeds())
    try:
        tally = campaign.run(number)
    except Failure as failure:
        path = write_finding(tmp_path, f"short-{number}", failure)
        pytest.fail(f"{failure}; steps in {path}")
    assert tally.commands


def test_what_was_found_stays_repaired() -> None:
    for name, steps in findings():
        try:
            replay(steps, _chips())
        except Broken as error:
            pytest.fail(f"{name}: {error}")


def test_a_finding_reads_back_as_it_was_written() -> None:
    steps = [Step(Kind.CHIP, 3, b"owned"), send(b"\x00\xc1", 4), Step(Kind.RESTART)]
    assert read_steps("# why\n\n" + write_steps(steps)) == steps


def test_a_fault_of_the_engine_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(_chips()["owned"], "fault")
    monkeypatch.setattr(target.tpm.world.random, "random", lambda _size: 1 / 0)
    with pytest.raises(Broken, match="ZeroDivisionError"):
        target.apply(send(bytes.fromhex("00c1 0000000a 0000000a")))


def test_a_change_that_no_flag_announces_is_noticed() -> None:
    target = Target(_chips()["owned"], "flags")
    target.tpm.stclear.pcrs[0] = b"x" * 20
    with pytest.raises(Broken, match="volatile state"):
        target.apply(send(bytes.fromhex("00c1 0000000e 00000015 00000001")))
    target = Target(_chips()["owned"], "flags")
    target.tpm.permanent.flags.fips = True
    with pytest.raises(Broken, match="permanent state"):
        target.apply(send(bytes.fromhex("00c1 0000000e 00000015 00000001")))
