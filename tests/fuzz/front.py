# SPDX-License-Identifier: Apache-2.0
"""Mutated commands at the front socket of a real `vtpmctl up`, beside a client that behaves."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode, Tag
from protocol.tpm12.framing import HEADER_BYTES, build_message, parse_header
from tests.fuzz.corpus import read_seeds
from tests.fuzz.dice import Dice
from tests.fuzz.mutate import Mutator
from tests.integration.stack import Stack, StackError, running_stack, transact

PROMPT_S: Final = 30.0
"""What is no hang, on a busy machine too; a light command takes a tenth of a millisecond."""
ASK_EVERY: Final = 20
_LINE_BYTES: Final = 4096
_PCR_READ: Final = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, bytes(4))


class _Attacker:
    """Sends what the mutator makes, over connections that may end."""

    def __init__(self, stack: Stack, mutator: Mutator, dice: Dice) -> None:
        self._stack = stack
        self._mutator = mutator
        self._dice = dice
        self._client: socket.socket | None = None
        self.sent = bytearray()

    def attack(self) -> None:
        """Send one command, sometimes cut, doubled or with a length that lies."""
        command = self._mutator.command()
        self.sent = bytearray(command)
        if self._client is None:
            self._client = self._stack.connect("g1")
            self._client.settimeout(PROMPT_S)
        choice = self._dice.below(100)
        try:
            if choice < 5:
                self._client.sendall(command[: self._dice.below(len(command) + 1)])
                self.close()
            elif choice < 10 or not _is_framed(command):
                # What is answered, and how often, depends on the bytes; that it ends is the point.
                self._client.sendall(command * 2)
                self._client.shutdown(socket.SHUT_WR)
                while self._client.recv(_LINE_BYTES):
                    pass
                self.close()
            else:
                response = transact(self._client, command)
                if parse_header(response).code == ReturnCode.SUCCESS:
                    self._mutator.remember(command, response)
        except (BrokenPipeError, ConnectionResetError, StackError):
            # It hung up, which is its right unless it does so with everybody.
            self.close()

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _is_framed(command: bytes) -> bool:
    return HEADER_BYTES <= len(command) == int.from_bytes(command[2:6], "big") <= _LINE_BYTES


def attack_front(stack: Stack, seed: str, commands: int) -> str:
    """Attack the guest "g1" of a stack.

    Returns: what is wrong, or nothing.
    """
    dice = Dice(f"{seed}/front")
    attacker = _Attacker(stack, Mutator(dice, read_seeds(), {}), dice)
    pids = [stack.pid(name) for name in ("vtpm-g1", "tpmfront-g1")]
    try:
        with stack.connect("g1") as other, stack.connect("g2") as neighbour:
            for number in range(commands):
                try:
                    attacker.attack()
                except TimeoutError:
                    return f"command {number} hangs: {attacker.sent.hex()}"
                if number % ASK_EVERY == 0:
                    for client in (other, neighbour):
                        started = time.monotonic()
                        transact(client, _PCR_READ)
                        if time.monotonic() - started > PROMPT_S:
                            return f"another client waited after command {number}"
    except (OSError, StackError) as error:
        return f"a client that behaves was not served: {error}; last {attacker.sent.hex()}"
    finally:
        attacker.close()
    if [stack.pid(name) for name in ("vtpm-g1", "tpmfront-g1")] != pids:
        return "a daemon was restarted"
    return ""


def fuzz_front(seed: str, commands: int, folder: Path) -> list[str]:
    """Start a stack, attack it and return what was found."""
    path = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    try:
        with running_stack(path, ("g1", "g2")) as stack:
            wrong = attack_front(stack, seed, commands)
            log = stack.stderr()
    finally:
        shutil.rmtree(path)
    if not wrong and "failure mode" in log:
        wrong = "the log tells of a fault"
    if not wrong:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{seed}-front.log").write_text(f"{wrong}\n{log}")
    return [wrong]
