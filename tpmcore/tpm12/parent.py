# SPDX-License-Identifier: Apache-2.0
"""Evidence by the parent TPM: TPM_ORD_DeepQuote and TPM_ORD_ParentSignEK of Xen's vTPM.

The parent (the machine's TPM, by way of the manager) quotes its own PCRs and, as external data, a
digest of what this TPM vouches for. This TPM signs nothing itself. Everything is checked before the
parent is asked, and its answer becomes the response as it came; so does its refusal.

They are no commands of the TCG: no bit of TPM_DELEGATIONS stands for them, so no delegation covers
them. They cannot be wrapped in a transport session, which would stay half executed while the parent
works. They can be audited.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Self

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection, composite_hash
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, U32, Reader, Structure
from tpmcore.engine import ParentQuote
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import AUTH1, Awaiting, Command, Gate
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.endorsement import checksum, existing_ek

_FIXED_DEEP_QUOTE: Final = b"DQUT"
_NO_FLAGS: Final = 0


@record
class ParentQuoteResponse(Structure):
    """What the parent gave, without a length: signature 256, then 20 bytes per hash and per PCR."""

    evidence: bytes

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take all that is left."""
        return cls(reader.take(reader.remaining, "evidence"))

    def encode(self) -> bytes:
        """Return it as it came."""
        return self.evidence


@record
class DeepQuoteRequest(Structure):
    """externData 20, vtSel of this TPM's PCRs, ptSel of the parent's, extraInfoFlags u32."""

    extern_data: Annotated[bytes, DIGEST]
    vtpm_selection: PcrSelection
    parent_selection: PcrSelection
    extra_info_flags: Annotated[int, U32]


def deep_quote(ctx: Context, request: DeepQuoteRequest) -> Awaiting:
    """Have the parent vouch for PCRs of this TPM together with its own (Xen, vTPM deep quote)."""
    ctx.authorize_owner()
    selection = request.vtpm_selection
    if not selection.select:
        raise TpmError(ReturnCode.INVALID_PCR_INFO)
    composite = composite_hash(selection, ctx.tpm.stclear.pcrs)
    info = PcrInfoShort(selection, 1 << ctx.locality, composite)
    quoted = bytes(4) + _FIXED_DEEP_QUOTE + request.extern_data + info.encode()
    effect = ParentQuote(
        hashlib.sha1(quoted).digest(), request.parent_selection.encode(), request.extra_info_flags
    )
    return Awaiting(effect, ParentQuoteResponse)


@record
class ParentSignEkRequest(Structure):
    """externData 20, ptSel of the parent's PCRs."""

    extern_data: Annotated[bytes, DIGEST]
    parent_selection: PcrSelection


def parent_sign_ek(ctx: Context, request: ParentSignEkRequest) -> Awaiting:
    """Have the parent vouch that the endorsement key was made in this run of the TPM, on this
    machine; later nobody could know any more."""
    ctx.authorize_owner()
    ek = existing_ek(ctx.tpm)
    if ctx.tpm.fresh_ek != ek.fingerprint():
        raise TpmError(ReturnCode.DISABLED_CMD)
    effect = ParentQuote(
        checksum(ek.public_key(), request.extern_data),
        request.parent_selection.encode(),
        _NO_FLAGS,
    )
    return Awaiting(effect, ParentQuoteResponse)


COMMANDS: Final = (
    Command(
        Ordinal.DEEP_QUOTE,
        source="Xen:DeepQuote",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=DeepQuoteRequest,
        response=ParentQuoteResponse,
        handler=deep_quote,
        wrappable=False,
    ),
    Command(
        Ordinal.PARENT_SIGN_EK,
        source="Xen:ParentSignEK",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=ParentSignEkRequest,
        response=ParentQuoteResponse,
        handler=parent_sign_ek,
        wrappable=False,
    ),
)
