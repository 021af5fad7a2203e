# SPDX-License-Identifier: Apache-2.0
"""A client of the chip that is being fuzzed, who knows all of its secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.tpm12.constants import ReservedHandle
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.transport import TransportAttributes
from tests.fuzz.dice import Dice
from tpmcore import tss12
from tpmcore.tpm12.tpm import Tpm
from tpmcore.tss12 import Conversation

Talk = Callable[["Client"], Conversation[None]]

SRK: Final = ReservedHandle.SRK
SECRET: Final = bytes(20)
"""Of everything that a client makes; `tests.fuzz.chips` tells it the signer."""


class DiceRandom:
    """A RandomSource that gives what dice give."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice

    def random(self, size_bytes: int) -> bytes:
        """Return the next bytes."""
        return self._dice.bytes(size_bytes)

    def stir(self, data: bytes) -> None:
        """Take no notice."""


class Client:
    """Who knows all secrets of a chip.

    Args:
        tpm: gives its insides, which are others after a power cycle.
    """

    def __init__(self, tpm: Callable[[], Tpm], dice: Dice) -> None:
        self._tpm = tpm
        self.dice = dice
        self.random = DiceRandom(dice)

    @property
    def tpm(self) -> Tpm:
        """The insides of the chip."""
        return self._tpm()

    @property
    def owner(self) -> bytes:
        """The owner's secret; zeros without an owner."""
        return self.tpm.permanent.owner_auth or SECRET

    @property
    def srk(self) -> bytes:
        """The storage root key's secret; zeros without one."""
        srk = self.tpm.permanent.srk
        return SECRET if srk is None else srk.usage_auth

    def public(self, handle: int) -> PubKey:
        """Return the public part of a key that is loaded or the chip's own.

        Raises:
            KeyError: there is none.
        """
        permanent = self.tpm.permanent
        if handle == ReservedHandle.EK and permanent.ek is not None:
            return permanent.ek.public_key()
        if handle == SRK and permanent.srk is not None:
            return permanent.srk.public.public_key
        return self.tpm.stclear.keys[handle].body.public.public_key

    def make(self, template: Key) -> Conversation[Key]:
        """Have a key made below the storage root key."""
        return tss12.create_wrap_key(
            SRK,
            template,
            parent_auth=self.srk,
            usage_auth=SECRET,
            migration_auth=SECRET,
            random=self.random,
        )

    def load(self, key: Key) -> Conversation[int]:
        """Load such a key."""
        return tss12.load_key2(SRK, key, parent_auth=self.srk, random=self.random)

    def make_and_load(self, template: Key) -> Conversation[tuple[Key, int]]:
        """Have a key made, and load it."""
        key = yield from self.make(template)
        return key, (yield from self.load(key))


def inside_of_transport(client: Client, talk: Talk) -> Conversation[None]:
    """Have a talk in a transport session that encrypts, logs or is exclusive, or more of that."""
    session = yield from tss12.establish_transport(
        TransportAttributes(client.dice.below(8)),
        random=client.random,
        enc_handle=SRK,
        enc_key=client.public(SRK),
        key_auth=client.srk,
    )
    session.keys = LoadedKeys(client)
    yield from tss12.through(session, talk(client))


class LoadedKeys(dict[int, PubKey]):
    """The public parts of all keys that are loaded when they are asked for."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    def __missing__(self, handle: int) -> PubKey:
        return self._client.public(handle)
