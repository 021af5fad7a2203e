# SPDX-License-Identifier: Apache-2.0
"""Transport sessions of tests: opening them, and sending all that a test does through them."""

from __future__ import annotations

from typing import Final, TypeVar

from protocol.tpm12.constants import Algorithm, EncScheme, KeyUsage, ReservedHandle, SigScheme
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.transport import TransportAttributes
from tests.unit.tpm12.keychain import srk_modulus
from tests.unit.tpm12.world import SRK_AUTH, Chip
from tpmcore import tss12
from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.state import SelfTest
from tpmcore.tss12 import Conversation, TransportSession

T = TypeVar("T")

ENCRYPT: Final = TransportAttributes.ENCRYPT
LOG: Final = TransportAttributes.LOG
EXCLUSIVE: Final = TransportAttributes.EXCLUSIVE
PLAIN: Final = TransportAttributes(0)

MODES: Final = (
    (Algorithm.MGF1, EncScheme.NONE),
    (Algorithm.AES128, EncScheme.SYM_CTR),
    (Algorithm.AES128, EncScheme.SYM_OFB),
)


def srk_public() -> PubKey:
    """Return the public part of the storage root key of every owned test chip."""
    template = Key.template(
        KeyUsage.STORAGE,
        enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1,
        sig_scheme=SigScheme.NONE,
    )
    return PubKey(template.algorithm_parms, srk_modulus())


def open_tunnel(
    chip: Chip,
    attributes: TransportAttributes = ENCRYPT,
    mode: tuple[Algorithm, EncScheme] = MODES[0],
) -> TransportSession:
    """Open a transport session, its secret encrypted to the SRK if it is to encrypt."""
    if not attributes & ENCRYPT:
        return chip.run(tss12.establish_transport(attributes, random=chip.client_random))
    transport = chip.run(_encrypted(chip, attributes, mode, srk_public(), SRK_AUTH))
    transport.keys[ReservedHandle.SRK] = srk_public()
    return transport


def _encrypted(
    chip: Chip,
    attributes: TransportAttributes,
    mode: tuple[Algorithm, EncScheme],
    srk: PubKey,
    srk_auth: bytes,
) -> Conversation[TransportSession]:
    return tss12.establish_transport(
        attributes,
        random=chip.client_random,
        enc_handle=ReservedHandle.SRK,
        enc_key=srk,
        key_auth=srk_auth,
        alg_id=mode[0],
        enc_scheme=mode[1],
    )


class Tunnels:
    """A `Chip.run` that sends everything through one encrypted transport session per engine.

    What the TPM refuses to execute in a transport session at all (before it has an owner, while it
    is disabled or slows down an attack) is sent as it is.
    """

    def __init__(self, mode: tuple[Algorithm, EncScheme]) -> None:
        self._mode = mode
        self._open: list[tuple[Tpm12Engine, TransportSession]] = []
        self.used = 0

    def run(self, chip: Chip, conversation: Conversation[T], *, locality: int | None = None) -> T:
        """Do what Chip.run does."""
        before = chip.locality
        if locality is not None:
            chip.locality = locality
        try:
            if not _is_operational(chip.engine):
                return tss12.run_sync(chip.send, conversation)
            self.used += 1
            return tss12.run_sync(chip.send, tss12.through(self._tunnel(chip), conversation))
        finally:
            chip.locality = before

    def _tunnel(self, chip: Chip) -> TransportSession:
        for engine, transport in self._open:
            if engine is chip.engine and transport.channel.is_open:
                return transport
        srk = chip.engine._tpm.permanent.srk
        assert srk is not None
        opening = _encrypted(chip, ENCRYPT, self._mode, srk.public.public_key, srk.usage_auth)
        transport = tss12.run_sync(chip.send, opening)
        self._open.append((chip.engine, transport))
        return transport


def _is_operational(engine: Tpm12Engine) -> bool:
    tpm = engine._tpm
    return (
        tpm.is_owned
        and not tpm.permanent.flags.disable
        and not tpm.stclear.flags.deactivated
        and not tpm.stany.post_initialise
        and tpm.self_test is not SelfTest.FAILED
        and not tpm.lockout.is_active
    )
