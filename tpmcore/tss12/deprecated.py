# SPDX-License-Identifier: Apache-2.0
"""The data integrity register of TPM 1.1 (Part 3, 27.3)."""

from __future__ import annotations

from protocol.tpm12.constants import Ordinal
from protocol.tpm12.wire import U32
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, Session, execute, nothing
from tpmcore.tss12.sessions import with_secret


def dir_write_auth(
    contents: bytes,
    *,
    owner_auth: bytes,
    random: RandomSource,
    index: int = 0,
    session: Session | None = None,
) -> Conversation[None]:
    """Write a register (27.3.1); contents are 20 bytes."""
    return with_secret(
        Ordinal.DIR_WRITE_AUTH,
        nothing,
        owner_auth,
        random=random,
        parameters=U32.write(index) + contents,
        session=session,
    )


def dir_read(index: int = 0) -> Conversation[bytes]:
    """Read a register, 20 bytes (27.3.2)."""
    return execute(
        Ordinal.DIR_READ,
        lambda reader: reader.take(20, "dirContents"),
        parameters=U32.write(index),
    )
