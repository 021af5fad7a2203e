# SPDX-License-Identifier: Apache-2.0
"""Evidence by the parent of a vTPM: TPM_ORD_DeepQuote and TPM_ORD_ParentSignEK of Xen.

What comes back is signed by the parent, so nothing in it can be checked here but its shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.tpm12.constants import Ordinal
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST_BYTES, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, Session
from tpmcore.tss12.sessions import with_secret

SIGNATURE_BYTES: Final = 256


@record
class ParentEvidence:
    """Answer of the parent.

    Attributes:
        signature: by the parent's identity key, 256 bytes.
        hashes: one per flag that was set, lowest flag first, 20 bytes each.
        pcr_values: of the parent's selected PCRs, ascending, 20 bytes each.
    """

    signature: bytes
    hashes: tuple[bytes, ...]
    pcr_values: tuple[bytes, ...]


def deep_quote(
    extern_data: bytes,
    vtpm_selection: PcrSelection,
    parent_selection: PcrSelection,
    *,
    flags: int = 0,
    owner_auth: bytes,
    random: RandomSource,
    session: Session | None = None,
) -> Conversation[ParentEvidence]:
    """Have the parent vouch for PCRs of the vTPM and of its own.

    Args:
        extern_data: nonce of who asks, 20 bytes.
        flags: extraInfoFlags: what else the parent is to vouch for.
    """
    return with_secret(
        Ordinal.DEEP_QUOTE,
        _evidence(flags.bit_count(), parent_selection),
        owner_auth,
        random=random,
        parameters=(
            extern_data + vtpm_selection.encode() + parent_selection.encode() + U32.write(flags)
        ),
        session=session,
    )


def parent_sign_ek(
    extern_data: bytes,
    parent_selection: PcrSelection,
    *,
    owner_auth: bytes,
    random: RandomSource,
    session: Session | None = None,
) -> Conversation[ParentEvidence]:
    """Have the parent vouch that the endorsement key was made in this run of the vTPM.

    Args:
        extern_data: nonce of who asks, 20 bytes.
    """
    return with_secret(
        Ordinal.PARENT_SIGN_EK,
        _evidence(0, parent_selection),
        owner_auth,
        random=random,
        parameters=extern_data + parent_selection.encode(),
        session=session,
    )


def _evidence(hash_count: int, selection: PcrSelection) -> Callable[[Reader], ParentEvidence]:
    def parse(reader: Reader) -> ParentEvidence:
        return ParentEvidence(
            reader.take(SIGNATURE_BYTES, "signature"),
            _digests(reader, hash_count, "hashes"),
            _digests(reader, len(selection.indices), "pcrValues"),
        )

    return parse


def _digests(reader: Reader, count: int, field: str) -> tuple[bytes, ...]:
    return tuple([reader.take(DIGEST_BYTES, field) for _ in range(count)])
