# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of each daemon in turn, at random moments of NV writes and key creation.

What a client was told is there afterwards: NV contents, keys, PCRs. A command whose answer did not
come may have happened or not, but nothing in between, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from daemons.runtime.control import control_request
from daemons.vtpmctl.layout import Layout
from protocol.tpm12.constants import (
    EncScheme,
    KeyUsage,
    NvAttributes,
    ReservedHandle,
    ResourceType,
    SigScheme,
)
from protocol.tpm12.keys import Key
from tests.integration.log_search import SEARCH
from tests.integration.stack import Stack, StackError, running_stack, transact
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tss12 import Conversation

T = TypeVar("T")

ROUNDS = 50
OWNER = SEARCH.secret(b"owner of the killings"[:20])
SRK = bytes(20)
AREA = 0x10040
PCR = 10
MOMENTS_S = 0.12
"""A round's kill comes within this time of its first command, or the time that WARM_UP takes."""
WARM_UP = 8
"""Writes before the first round; the last one is followed by a key."""
RECOVERY_S = 120.0
DAEMONS = ("vtpm-g1", "vtpmmgr", "hwtpm", "tpmfront-g1")
SIGNING_KEY = Key.template(
    KeyUsage.SIGNING, enc_scheme=EncScheme.NONE, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1
)


class Unanswered(Exception):
    """The command got no answer, or an error that does not tell whether it happened."""


@dataclass(slots=True)
class Ledger:
    """What the client was told, and what it does not know.

    Attributes:
        number: content of the NV area that was acknowledged.
        tried: content whose write was not answered; None if there is none.
        pcr: PCR value that was acknowledged.
        pcr_tried: value after an extend that was not answered.
        keys: wrapped keys that were handed out.
    """

    number: int = 0
    tried: int | None = None
    pcr: bytes = bytes(20)
    pcr_tried: bytes | None = None
    keys: list[Key] = field(default_factory=list)
    writes: int = 0


class Client:
    """TPM software that keeps books; it reconnects, as tcsd's users do by hand."""

    def __init__(self, stack: Stack, ledger: Ledger) -> None:
        self.random = SeededRandom("client")
        self.ledger = ledger
        self._stack = stack
        self._socket: socket.socket | None = None

    def send(self, command: bytes) -> bytes:
        """Send one command.

        Raises:
            Unanswered: no answer came, or TPM_IOERROR or TPM_RETRY.
        """
        try:
            if self._socket is None:
                self._socket = self._stack.connect("g1")
            response = transact(self._socket, command)
        except (OSError, StackError) as error:
            self.hang_up()
            raise Unanswered(str(error)) from error
        if int.from_bytes(response[6:10], "big") in (0x1F, 0x800):
            raise Unanswered("the front could not tell")
        return response

    def run(self, conversation: Conversation[T]) -> T:
        """Run a conversation."""
        return tss12.run_sync(self.send, conversation)

    def hang_up(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def work(self, stop: Callable[[], bool]) -> None:
        """Write, extend and make keys until told to stop or until an answer is missing."""
        ledger = self.ledger
        try:
            while not stop():
                ledger.tried = ledger.number + 1
                self.run(self._write(ledger.tried))
                ledger.number, ledger.tried = ledger.tried, None
                ledger.writes += 1
                digest = hashlib.sha1(ledger.number.to_bytes(8, "big")).digest()
                ledger.pcr_tried = hashlib.sha1(ledger.pcr + digest).digest()
                ledger.pcr = self.run(tss12.extend(PCR, digest))
                assert ledger.pcr == ledger.pcr_tried
                ledger.pcr_tried = None
                if ledger.number % 8 == 0:
                    key = tss12.create_wrap_key(
                        ReservedHandle.SRK,
                        SIGNING_KEY,
                        parent_auth=SRK,
                        usage_auth=SRK,
                        random=self.random,
                    )
                    ledger.keys.append(self.run(key))
        except Unanswered:
            return

    def settle(self) -> None:
        """Look at the TPM and hold it against the books.

        Raises:
            Unanswered: it does not answer yet.
            AssertionError: something that was acknowledged is not there.
        """
        ledger = self.ledger
        for handle in self.run(tss12.handles(ResourceType.AUTH)):
            self.run(tss12.flush_specific(handle, ResourceType.AUTH))
        for handle in self.run(tss12.handles(ResourceType.KEY)):
            self.run(tss12.flush_specific(handle, ResourceType.KEY))
        read = tss12.nv_read_value(AREA, 8, owner_auth=OWNER, random=self.random)
        number = int.from_bytes(self.run(read), "big")
        assert number in {ledger.number, ledger.tried}, f"NV: {number}, {ledger}"
        ledger.number, ledger.tried = number, None
        pcr = self.run(tss12.pcr_read(PCR))
        assert pcr in {ledger.pcr, ledger.pcr_tried}, "a PCR is not as it was"
        ledger.pcr, ledger.pcr_tried = pcr, None
        for key in ledger.keys[-2:]:
            self._use(key)

    def _use(self, key: Key) -> None:
        handle = self.run(
            tss12.load_key2(ReservedHandle.SRK, key, parent_auth=SRK, random=self.random)
        )
        digest = hashlib.sha1(b"a signature").digest()
        signature = self.run(tss12.sign(handle, digest, key_auth=SRK, random=self.random))
        tss12.verify_signature(key.public_key, digest, signature)
        self.run(tss12.flush_specific(handle, ResourceType.KEY))

    def _write(self, number: int) -> Conversation[None]:
        return tss12.nv_write_value(
            AREA, number.to_bytes(8, "big"), owner_auth=OWNER, random=self.random
        )

    def provision(self) -> None:
        """Take ownership and define the area."""
        self.run(tss12.take_ownership(owner_auth=OWNER, srk_auth=SRK, random=self.random))
        self.run(
            tss12.nv_define_space(
                AREA,
                8,
                NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD,
                owner_auth=OWNER,
                area_auth=SRK,
                random=self.random,
            )
        )
        self.run(self._write(0))
        self.ledger.pcr = self.run(tss12.pcr_read(PCR))


async def _settled(client: Client) -> None:
    """Hold the TPM against the books as soon as it answers again."""
    with trio.fail_after(RECOVERY_S):
        while True:
            try:
                await trio.to_thread.run_sync(client.settle)
            except (Unanswered, TpmError) as error:
                # Sessions that a settling before this one opened may be gone; start over.
                last = error
            else:
                return
            await trio.sleep(0.05)
            if isinstance(last, TpmError) and last.code == 1:
                raise last


@pytest.mark.timeout(420)
async def test_nothing_acknowledged_is_lost_when_daemons_are_killed(run_dir: Path) -> None:
    moments = SeededRandom("moments")
    ledger = Ledger()
    with running_stack(run_dir) as stack:
        client = Client(stack, ledger)
        await trio.to_thread.run_sync(client.provision)
        # On a busy machine as many commands are to be in a round as on one that is not.
        started = trio.current_time()
        await trio.to_thread.run_sync(client.work, lambda: ledger.writes == WARM_UP)
        longest_s = max(MOMENTS_S, trio.current_time() - started)
        assert len(ledger.keys) == 1
        number = 0
        # And on until there was enough to be lost: a machine may have become slower since.
        while (
            number < ROUNDS or ledger.writes <= WARM_UP + ROUNDS or len(ledger.keys) <= ROUNDS // 10
        ):
            victim = DAEMONS[number % len(DAEMONS)]
            pid = (await _row(stack, victim))["pid"]
            delay_s = longest_s * moments.random(1)[0] / 256
            done = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, client.work, done.is_set)
                await trio.sleep(delay_s)
                os.kill(pid, signal.SIGKILL)
                await _restarted(stack, victim, pid)
                done.set()
            await _settled(client)
            number += 1
        client.hang_up()
        restarts = {daemon: (await _row(stack, daemon))["restarts"] for daemon in DAEMONS}
        assert sum(restarts.values()) == number
    # And once more after an orderly stop: the PCRs are reset, the rest is there.
    with running_stack(run_dir) as stack:
        client = Client(stack, ledger)
        ledger.pcr = bytes(20)
        await _settled(client)
        client.hang_up()


async def _row(stack: Stack, daemon: str) -> dict[str, Any]:
    """What the supervisor knows of a daemon; asked on its socket, since a process takes longer."""
    status = await control_request(Layout(stack.root).control_socket, "status")
    rows = status["daemons"]
    assert isinstance(rows, list)
    (row,) = (row for row in rows if isinstance(row, dict) and row["daemon"] == daemon)
    return dict(row)


async def _restarted(stack: Stack, victim: str, pid: int) -> None:
    """Wait until the supervisor has another process for it that is ready."""
    with trio.fail_after(RECOVERY_S):
        while True:
            row = await _row(stack, victim)
            if row["pid"] not in (None, pid) and row["state"] == "ready":
                return
            await trio.sleep(0.02)
