# SPDX-License-Identifier: Apache-2.0
"""Gathering evidence: from a TPM in this process, whose parent signs by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, cast

import pytest

from daemons.runtime.config.options import Guest, Identity, VtpmOptions
from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmctl.attest import Order, gather, prove_ek
from daemons.vtpmctl.tpmstream import GuestTpm, TpmRefused
from protocol.attestation.evidencefile import decode, encode
from protocol.attestation.verdict import LinkName, Outcome
from protocol.attestation.verification import verify
from protocol.manager.management import GroupPolicy
from protocol.tpm12.pcr import PcrSelection
from tests.unit.attestation.signer import (
    AGENT_KEY,
    AIK_CHAIN,
    AIK_KEY,
    GROUP,
    HARDWARE,
    LABEL,
    NONCE,
    VTPM,
    Event,
    approve,
    encoded_list,
    expectations,
    identifying,
    log_bytes,
    modulus,
    quote,
    sha1,
)
from tests.unit.tpm12.world import OWNER_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import Done, EffectResult, ParentQuote
from tpmcore.errors import TpmError
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation

T = TypeVar("T")
APPROVED = approve()
POLICY = GroupPolicy(
    GROUP,
    modulus(AGENT_KEY),
    modulus(AIK_KEY),
    APPROVED.signature,
    APPROVED.config_list,
    APPROVED.selections,
)


def parent(effect: ParentQuote) -> EffectResult:
    """Answer as the manager does, for a vTPM with the signer's uuid and label."""
    said = {
        1: VTPM.bytes,
        2: sha1(LABEL.encode()),
        4: modulus(AGENT_KEY) + encoded_list(APPROVED),
        8: modulus(AGENT_KEY),
        0x100: b"VMFRcounter",
    }
    hashed = b"".join(sha1(said[flag]) for flag in said if effect.flags & flag)
    known = {**HARDWARE, **identifying(APPROVED, LABEL)}
    indices = PcrSelection.decode(effect.pcr_selection).indices
    values = {index: known.get(index, bytes(20)) for index in indices}
    external = sha1(effect.flags.to_bytes(4, "little") + effect.extern_data + hashed)
    row = b"".join(values[index] for index in indices)
    return Done(quote(AIK_KEY, values, external) + hashed + row)


class Tpm:
    """A guest's TPM, as `GuestTpm` has it."""

    def __init__(self, chip: Chip, before: Callable[[str], None] = lambda _: None) -> None:
        self._chip = chip
        self._before = before

    async def run(self, what: str, conversation: Conversation[T]) -> T:
        self._before(what)
        try:
            return self._chip.run(conversation)
        except TpmError as error:
            raise TpmRefused(what, error.code) from error


@pytest.fixture
def chip() -> Chip:
    """Give a vTPM in its first run, with an owner."""
    made = make_owned_chip(Profile(has_parent=True))
    made.parent = parent
    return made


def order(
    pcrs: str = "0-15", log: bytes | None = None, started: frozenset[int] = frozenset()
) -> Order:
    guest = Guest("g1", Identity(VTPM, 1000), VtpmOptions(hwinitpcr=started))
    first, last = map(int, pcrs.split("-"))
    return Order(
        guest=guest,
        label=LABEL,
        nonce=NONCE,
        owner_auth=Secret(OWNER_AUTH),
        pcrs=PcrSelection.of(range(first, last + 1)),
        event_log=log,
        aik_certificates=AIK_CHAIN,
    )


async def test_what_is_gathered_is_verified(chip: Chip) -> None:
    events = (Event(4, 13, b"loader"), Event(2, 13, b"option ROM"))
    for event in events:
        chip.run(tss12.extend(event.pcr, event.measured))
    tpm = cast(GuestTpm, Tpm(chip))
    evidence = await gather(tpm, POLICY, order(log=log_bytes(events)))
    assert decode(encode(evidence)) == evidence
    result = verify(evidence, expectations(label=LABEL, vtpm=VTPM))
    absent = [link.name for link in result.links if link.outcome is not Outcome.OK]
    assert absent == [LinkName.GUEST_QUOTE]
    assert result.is_verified
    assert evidence.freshness == "counter"
    # what a verifier needs to find the configuration, and to see who it is about
    assert evidence.hardware.pcrs.by_index.keys() == {*HARDWARE, 3, 20, 21, 22, 23}


async def test_pcrs_that_begin_with_the_hardwares_are_told_where_a_log_needs_it(
    chip: Chip,
) -> None:
    # as hwinitpcr does at power-on
    values = list(chip.engine._tpm.stclear.pcrs)
    values[1] = HARDWARE[1]
    chip.engine._tpm.stclear.pcrs[:] = values
    event = Event(1, 13, b"settings")
    chip.run(tss12.extend(1, event.measured))
    tpm = cast(GuestTpm, Tpm(chip))
    started = frozenset({1, 3})
    evidence = await gather(tpm, POLICY, order(log=log_bytes([event]), started=started))
    # the hardware's PCR 3 is zero, as any other PCR begins
    assert evidence.hardware_start == (1,)
    assert verify(evidence, expectations()).is_verified
    assert (await gather(tpm, POLICY, order(started=started))).hardware_start == ()


async def test_a_guest_that_boots_meanwhile_is_read_again(chip: Chip) -> None:
    moves = 2

    def extend(what: str) -> None:
        nonlocal moves
        if what == "have its PCRs vouched for" and moves:
            moves -= 1
            chip.run(tss12.extend(4, hashlib.sha1(b"%d" % moves).digest()))

    tpm = cast(GuestTpm, Tpm(chip, extend))
    evidence = await gather(tpm, POLICY, order())
    assert verify(evidence, expectations()).link(LinkName.HARDWARE_QUOTE).outcome is Outcome.OK
    moves = 100
    with pytest.raises(DaemonError, match="change all the time"):
        await gather(tpm, POLICY, order())


async def test_a_log_about_pcrs_that_are_not_to_be_quoted_is_noticed_at_once(chip: Chip) -> None:
    tpm = cast(GuestTpm, Tpm(chip))
    log = log_bytes([Event(9, 13, b"kernel")])
    with pytest.raises(DaemonError, match="PCR 9 as well"):
        await gather(tpm, POLICY, order("0-7", log))
    with pytest.raises(DaemonError, match="no event log"):
        await gather(tpm, POLICY, order(log=b"no log"))
    assert not [command for command, _ in chip.log if command[6:10] == b"\x20\0\0\x16"]


async def test_a_later_run_gives_no_proof_of_its_endorsement_key(chip: Chip) -> None:
    tpm = cast(GuestTpm, Tpm(chip))
    kept = await prove_ek(tpm, POLICY, b"n" * 20, Secret(OWNER_AUTH))
    chip.power_cycle()
    with pytest.raises(TpmRefused, match="DISABLED_CMD"):
        await prove_ek(tpm, POLICY, b"n" * 20, Secret(OWNER_AUTH))
    evidence = await gather(tpm, POLICY, order())
    assert evidence.ek_proof is None
    assert verify(evidence, expectations()).link(LinkName.EK).outcome is Outcome.NOT_PRESENT
    with_kept = replace(order(), ek_proof=kept)
    proven = verify(await gather(tpm, POLICY, with_kept), expectations())
    assert proven.link(LinkName.EK).outcome is Outcome.OK
