# SPDX-License-Identifier: Apache-2.0
"""Ticks and time stamps (Part 3, 23)."""

from __future__ import annotations

import hashlib

from protocol.tpm12.attestation import SignInfo
from protocol.tpm12.constants import Ordinal
from protocol.tpm12.records import record
from protocol.tpm12.resources import CurrentTicks
from protocol.tpm12.wire import U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, execute
from tpmcore.tss12.sessions import with_optional_secret


def get_ticks() -> Conversation[CurrentTicks]:
    """Return the tick count of the TPM (23.1)."""
    return execute(Ordinal.GET_TICKS, CurrentTicks.read)


@record
class TickStamp:
    """Answer of TickStampBlob.

    Attributes:
        signed: digest that the signature is over.
    """

    ticks: CurrentTicks
    signature: bytes
    signed: bytes


def tick_stamp_blob(
    key_handle: int,
    digest: bytes,
    *,
    anti_replay: bytes,
    key_auth: bytes | None,
    random: RandomSource | None = None,
) -> Conversation[TickStamp]:
    """Have a key sign a digest together with the tick count (23.2)."""

    def parse(reader: Reader) -> TickStamp:
        ticks = CurrentTicks.read(reader)
        info = SignInfo(b"TSTP", anti_replay, digest + ticks.encode())
        return TickStamp(ticks, reader.sized("sig"), hashlib.sha1(info.encode()).digest())

    return with_optional_secret(
        Ordinal.TICK_STAMP_BLOB,
        parse,
        key_auth,
        random=random,
        handles=U32.write(key_handle),
        parameters=anti_replay + digest,
    )
