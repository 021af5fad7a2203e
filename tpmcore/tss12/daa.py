# SPDX-License-Identifier: Apache-2.0
"""Direct anonymous attestation, one stage at a time (Part 3, chapter 26)."""

from __future__ import annotations

from protocol.tpm12.constants import Ordinal
from protocol.tpm12.wire import SIZED, U8, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, Session
from tpmcore.tss12.sessions import with_secret


def daa_join(
    handle: int,
    stage: int,
    input_data0: bytes = b"",
    input_data1: bytes = b"",
    *,
    owner_auth: bytes,
    random: RandomSource,
    session: Session | None = None,
) -> Conversation[bytes]:
    """Do one stage of a Join (26.1).

    Args:
        handle: what stage 0 returned, 4 bytes big-endian; of no meaning in stage 0.
        session: an open session of the owner's to use and keep.

    Returns: outputData.
    """
    return _stage(
        Ordinal.DAA_JOIN, handle, stage, input_data0, input_data1, owner_auth, random, session
    )


def daa_sign(
    handle: int,
    stage: int,
    input_data0: bytes = b"",
    input_data1: bytes = b"",
    *,
    owner_auth: bytes,
    random: RandomSource,
    session: Session | None = None,
) -> Conversation[bytes]:
    """Do one stage of a Sign (26.2); as daa_join."""
    return _stage(
        Ordinal.DAA_SIGN, handle, stage, input_data0, input_data1, owner_auth, random, session
    )


def _stage(
    ordinal: Ordinal,
    handle: int,
    stage: int,
    input_data0: bytes,
    input_data1: bytes,
    owner_auth: bytes,
    random: RandomSource,
    session: Session | None,
) -> Conversation[bytes]:
    return with_secret(
        ordinal,
        Reader.sized,
        owner_auth,
        random=random,
        handles=U32.write(handle),
        parameters=U8.write(stage) + SIZED.write(input_data0) + SIZED.write(input_data1),
        session=session,
    )
