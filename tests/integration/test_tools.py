# SPDX-License-Identifier: Apache-2.0
"""The real tools on real stacks: what a user of a TPM 1.2 types, through tcsd."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from protocol.tpm12.constants import NvAttributes
from tests.integration.log_search import SEARCH
from tests.integration.stack import Stack, running_stack, transact
from tests.integration.tcsd import Tcsd, running_tcsd
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tss12 import Conversation

T = TypeVar("T")

WELL_KNOWN = bytes(20)


def _talk(stack: Stack, guest: str, conversation: Conversation[T]) -> T:
    with stack.connect(guest) as client:
        return tss12.run_sync(lambda command: transact(client, command), conversation)


@pytest.fixture
def open_dir(run_dir: Path) -> Path:
    """A folder that user tss can pass."""
    run_dir.chmod(0o755)
    return run_dir


@pytest.fixture
def two_guests(open_dir: Path) -> Iterator[Stack]:
    """Two guests whose chips have no endorsement key yet, so that tpm_createek has work to do."""
    with running_stack(open_dir, ("g1", "g2"), ("--ek", "none")) as stack:
        yield stack


class Owner:
    """How the tools learn the owner's secret: the well-known one, or a password."""

    def __init__(self, tcsd: Tcsd, password: str | None = None) -> None:
        self._tcsd = tcsd
        self._password = password

    def take_ownership(self) -> None:
        """Install the owner and make an identity key, then set the password if there is one.

        The tools for identity keys know no SRK but one with the well-known secret, and then no
        owner but a well-known one either.
        """
        self._tcsd.run("tpm_takeownership", "-y", "-z")
        self._tcsd.run("tpm_mkaik", "-z", "aik.blob", "aik.pub")
        if self._password is not None:
            answers = [self._password, self._password]
            self._tcsd.run_typing("tpm_changeownerauth", "-o", "-z", answers=answers)

    def define_area(self) -> None:
        """Define NV index 0x10000, 32 bytes, for the owner."""
        area = ("-i", "0x10000", "-s", "32", "-p", "OWNERWRITE|OWNERREAD")
        owner = "-y" if self._password is None else f"--pwdo={self._password}"
        self._tcsd.run("tpm_nvdefine", *area, owner)

    @property
    def option(self) -> str:
        """The option of tpm_nvread and tpm_nvwrite."""
        return "-z" if self._password is None else f"--password={self._password}"

    def clear(self) -> None:
        """Remove the owner."""
        if self._password is None:
            self._tcsd.run("tpm_clear", "-z")
        else:
            self._tcsd.run_typing("tpm_clear", answers=[self._password])


def _round_of_tools(tcsd: Tcsd, secret: str) -> None:
    """Every tool of the round but those that set and clear the owner."""
    (tcsd.folder / "secret").write_text(secret)
    (tcsd.folder / "nonce").write_bytes(b"n" * 20)
    assert "all pass" in _ascii_of_hex(tcsd.run("tpm_selftest"))
    assert re.search(r"Chip Version: +1\.2\.", tcsd.run("tpm_version"))
    tcsd.run("tpm_sealdata", "-z", "-i", "secret", "-o", "sealed", "-p", "0", "-p", "7")
    assert secret not in (tcsd.folder / "sealed").read_text()
    assert tcsd.run("tpm_unsealdata", "-z", "-i", "sealed") == secret
    tcsd.run("tpm_mkuuid", "uuid")
    tcsd.run("tpm_loadkey", "aik.blob", "uuid")
    tcsd.run("tpm_getpcrhash", "uuid", "hash", "values", "0", "1", "2")
    tcsd.run("tpm_getquote", "uuid", "nonce", "quote", "0", "1", "2")
    assert (tcsd.folder / "quote").stat().st_size >= 256


def _ascii_of_hex(output: str) -> str:
    """tpm_selftest shows the test result as words of hex."""
    words = output.split(":", 1)[1].split()
    return bytes.fromhex("".join(words)).decode()


def test_every_tool_works_for_two_guests_at_once_with_different_owners(
    two_guests: Stack, open_dir: Path
) -> None:
    with (
        running_tcsd(two_guests.tpm_socket("g1"), open_dir / "t1") as one,
        running_tcsd(two_guests.tpm_socket("g2"), open_dir / "t2") as two,
    ):
        for tcsd in (one, two):
            tcsd.run("tpm_createek")
        keys = [tcsd.run("tpm_getpubek") for tcsd in (one, two)]
        assert keys[0] != keys[1]
        first, second = Owner(one), Owner(two, SEARCH.password("second owner"))
        for owner in (first, second):
            owner.take_ownership()
        # The owner of the one is nobody to the other.
        two.run("tpm_nvdefine", "-i", "0x10000", "-s", "32", "-p", "OWNERWRITE", "-y", fails=True)
        rounds = ((one, first, "first"), (two, second, "other"))
        for tcsd, owner, data in rounds:
            owner.define_area()
            (tcsd.folder / "data").write_text(data)
            tcsd.run("tpm_nvwrite", "-i", "0x10000", owner.option, "-f", "data", "-s", "5")
        for tcsd, owner, data in rounds:
            assert data in tcsd.run("tpm_nvread", "-i", "0x10000", owner.option, "-s", "5")
            assert "0x00020002" in tcsd.run("tpm_nvinfo")
            _round_of_tools(tcsd, f"sealed for the {data} guest")
        # What one guest sealed is nothing to the other.
        (two.folder / "foreign").write_bytes((one.folder / "sealed").read_bytes())
        two.run("tpm_unsealdata", "-z", "-i", "foreign", fails=True)
        first.clear()
        assert not _talk(two_guests, "g1", tss12.is_owned())
        assert _talk(two_guests, "g2", tss12.is_owned())
        second.clear()
        assert not _talk(two_guests, "g2", tss12.is_owned())


def test_stop_and_start_keeps_everything_but_the_pcrs(open_dir: Path) -> None:
    random = SeededRandom("client")
    with (
        running_stack(open_dir) as stack,
        running_tcsd(stack.tpm_socket("g1"), open_dir / "t") as tcsd,
    ):
        tcsd.run("tpm_takeownership", "-y", "-z")
        (tcsd.folder / "secret").write_text("kept")
        tcsd.run("tpm_sealdata", "-z", "-i", "secret", "-o", "sealed", "-p", "0", "-p", "7")
        tcsd.run("tpm_mkaik", "-z", "aik.blob", "aik.pub")
        _talk(
            stack,
            "g1",
            tss12.nv_define_space(
                0x10020,
                8,
                NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD,
                owner_auth=WELL_KNOWN,
                area_auth=WELL_KNOWN,
                random=random,
            ),
        )
        _talk(
            stack,
            "g1",
            tss12.nv_write_value(0x10020, b"durable!", owner_auth=WELL_KNOWN, random=random),
        )
        counter = _talk(
            stack,
            "g1",
            tss12.create_counter(
                label=b"test", counter_auth=WELL_KNOWN, owner_auth=WELL_KNOWN, random=random
            ),
        )
        for _ in range(3):
            value = _talk(
                stack,
                "g1",
                tss12.increment_counter(counter.count_id, counter_auth=WELL_KNOWN, random=random),
            )
        measured = _talk(stack, "g1", tss12.extend(7, b"m" * 20))
        assert _talk(stack, "g1", tss12.pcr_read(7)) == measured
        # The blob is bound to the PCRs as they were: not now, and again after a reset.
        tcsd.run("tpm_unsealdata", "-z", "-i", "sealed", fails=True)
        assert stack.stop() == os.EX_OK
    with (
        running_stack(open_dir) as stack,
        running_tcsd(stack.tpm_socket("g1"), open_dir / "t") as tcsd,
    ):
        assert _talk(stack, "g1", tss12.is_owned())
        assert [_talk(stack, "g1", tss12.pcr_read(i)) for i in range(17)] == [bytes(20)] * 17
        assert tcsd.run("tpm_unsealdata", "-z", "-i", "sealed") == "kept"
        tcsd.run("tpm_mkuuid", "uuid")
        tcsd.run("tpm_loadkey", "aik.blob", "uuid")
        data = _talk(
            stack,
            "g1",
            tss12.nv_read_value(0x10020, 8, owner_auth=WELL_KNOWN, random=random),
        )
        assert data == b"durable!"
        assert _talk(stack, "g1", tss12.read_counter(counter.count_id)).counter == value.counter
        _talk(stack, "g1", tss12.extend(0, b"e" * 20))
        tcsd.run("tpm_unsealdata", "-z", "-i", "sealed", fails=True)


def test_a_chip_with_an_endorsement_key_refuses_a_second_one(open_dir: Path) -> None:
    with (
        running_stack(open_dir) as stack,
        running_tcsd(stack.tpm_socket("g1"), open_dir / "t") as tcsd,
    ):
        before = tcsd.run("tpm_getpubek")
        tcsd.run("tpm_createek", fails=True)
        assert tcsd.run("tpm_getpubek") == before


def test_wrong_secrets_lock_out_and_the_lock_does_not_stop_what_needs_no_secret(
    open_dir: Path,
) -> None:
    random = SeededRandom("client")
    with (
        running_stack(open_dir) as stack,
        running_tcsd(stack.tpm_socket("g1"), open_dir / "t") as tcsd,
    ):
        tcsd.run("tpm_takeownership", "-y", "-z")
        codes = []
        for _ in range(8):
            try:
                _talk(stack, "g1", tss12.owner_clear(owner_auth=b"guess" * 4, random=random))
            except TpmError as error:
                codes.append(error.code)
        assert codes[:6] == [1] * 6
        assert 0x803 in codes[6:]
        assert "Chip Version" in tcsd.run("tpm_version")
        assert _talk(stack, "g1", tss12.is_owned())
