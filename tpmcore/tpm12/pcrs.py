# SPDX-License-Identifier: Apache-2.0
"""Integrity collection (Part 3, chapter 16) without the quotes, and the hash sequence of locality
4.

PCR attributes are those of the PC Client specification for TPM 1.2.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from protocol.tpm12.constants import PCR_COUNT, Ordinal, ReturnCode
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, U32, Structure
from tpmcore.errors import TpmError
from tpmcore.tpm12.command import NO_AUTH, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import Context
from tpmcore.tpm12.state import ONES_DIGEST, ZERO_DIGEST, SelfTest
from tpmcore.tpm12.tpm import Tpm

D_CRTM_PCR: Final = 17
HASH_SEQUENCE_PCRS: Final = range(17, 23)


@record
class PcrAttributes:
    """TPM_PCR_ATTRIBUTES (Part 2, 8.7): masks of the localities that may reset and extend."""

    reset_localities: int
    extend_localities: int


_ANY: Final = 0x1F
_ATTRIBUTES: Final = (
    *(PcrAttributes(0, _ANY) for _ in range(16)),
    PcrAttributes(_ANY, _ANY),
    PcrAttributes(0x10, 0x1C),
    PcrAttributes(0x10, 0x1C),
    PcrAttributes(0x10, 0x0C),
    PcrAttributes(0x14, 0x0E),
    PcrAttributes(0x04, 0x04),
    PcrAttributes(0x04, 0x04),
    PcrAttributes(_ANY, _ANY),
)
RESETTABLE: Final = tuple(i for i in range(PCR_COUNT) if _ATTRIBUTES[i].reset_localities)


def initial_pcrs() -> list[bytes]:
    """Return the values after TPM_Init: those of a dynamic launch all ones, the others zero."""
    return [ONES_DIGEST if i in HASH_SEQUENCE_PCRS else ZERO_DIGEST for i in range(PCR_COUNT)]


@record
class ExtendRequest(Structure):
    """pcrNum u32, inDigest 20."""

    pcr_num: Annotated[int, U32]
    in_digest: Annotated[bytes, DIGEST]


@record
class PcrValueResponse(Structure):
    """A PCR value, 20 bytes."""

    out_digest: Annotated[bytes, DIGEST]


def extend(ctx: Context, request: ExtendRequest) -> PcrValueResponse:
    """Fold a digest into a PCR (16.1)."""
    tpm = ctx.tpm
    index = request.pcr_num
    if index >= PCR_COUNT:
        raise TpmError(ReturnCode.BADINDEX)
    pcrs = tpm.stclear.pcrs
    allowed = _ATTRIBUTES[index].extend_localities >> ctx.locality & 1
    # Between HASH_START and the first measurement PCR 17 belongs to locality 4 alone.
    if index == D_CRTM_PCR and pcrs[index] == ZERO_DIGEST and ctx.locality != 4:
        allowed = 0
    if not allowed:
        raise TpmError(ReturnCode.BAD_LOCALITY)
    value = hashlib.sha1(pcrs[index] + request.in_digest).digest()
    pcrs[index] = value
    # 16.1, 5: a disabled or deactivated TPM extends, but does not tell the value.
    if tpm.permanent.flags.disable or tpm.stclear.flags.deactivated:
        value = ZERO_DIGEST
    return PcrValueResponse(value)


@record
class PcrReadRequest(Structure):
    """pcrIndex u32."""

    pcr_index: Annotated[int, U32]


def pcr_read(ctx: Context, request: PcrReadRequest) -> PcrValueResponse:
    """Give a PCR's value (16.2)."""
    if request.pcr_index >= PCR_COUNT:
        raise TpmError(ReturnCode.BADINDEX)
    return PcrValueResponse(ctx.tpm.stclear.pcrs[request.pcr_index])


@record
class PcrResetRequest(Structure):
    """pcrSelection."""

    pcr_selection: PcrSelection


def pcr_reset(ctx: Context, request: PcrResetRequest) -> Nothing:
    """Reset all selected PCRs, or none if one of them may not be (16.4)."""
    tpm = ctx.tpm
    indices = request.pcr_selection.indices
    if not indices:
        raise TpmError(ReturnCode.INVALID_PCR_INFO)
    for index in indices:
        localities = _ATTRIBUTES[index].reset_localities
        if not localities:
            raise TpmError(ReturnCode.NOTRESETABLE)
        if not localities >> ctx.locality & 1:
            raise TpmError(ReturnCode.NOTLOCAL)
    for index in indices:
        zero = tpm.stany.tos_present or index not in HASH_SEQUENCE_PCRS
        tpm.stclear.pcrs[index] = ZERO_DIGEST if zero else ONES_DIGEST
    return NOTHING


def hash_start(tpm: Tpm) -> None:
    """Begin a dynamic launch (4.10.4): established flag, TOSPresent, PCRs 17-22 zero.

    Raises:
        TpmError: INVALID_POSTINIT before Startup, with the TPM then in failure mode.
    """
    if tpm.stany.post_initialise:
        tpm.self_test = SelfTest.FAILED
        raise TpmError(ReturnCode.INVALID_POSTINIT)
    tpm.end_exclusive_transport()
    tpm.permanent.flags.tpm_established = True
    tpm.stany.tos_present = True
    for index in HASH_SEQUENCE_PCRS:
        tpm.stclear.pcrs[index] = ZERO_DIGEST
    tpm.hash_sequence = hashlib.sha1()


def hash_data(tpm: Tpm, data: bytes) -> None:
    """Take bytes of the launched code.

    Raises:
        TpmError: SHA_THREAD without hash_start, with the TPM then in failure mode.
    """
    if tpm.hash_sequence is None:
        tpm.self_test = SelfTest.FAILED
        raise TpmError(ReturnCode.SHA_THREAD)
    tpm.hash_sequence.update(data)


def hash_end(tpm: Tpm) -> None:
    """Put the measurement into PCR 17 as value zero extended.

    Raises:
        TpmError: as hash_data.
    """
    if tpm.hash_sequence is None:
        tpm.self_test = SelfTest.FAILED
        raise TpmError(ReturnCode.SHA_THREAD)
    digest = tpm.hash_sequence.digest()
    tpm.hash_sequence = None
    tpm.stclear.pcrs[D_CRTM_PCR] = hashlib.sha1(ZERO_DIGEST + digest).digest()


COMMANDS = (
    Command(
        Ordinal.EXTEND,
        source="3:16.1",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=ExtendRequest,
        response=PcrValueResponse,
        handler=extend,
    ),
    Command(
        Ordinal.PCR_READ,
        source="3:16.2",
        auth_blocks=NO_AUTH,
        gate=Gate.ENABLED_ACTIVATED,
        request=PcrReadRequest,
        response=PcrValueResponse,
        handler=pcr_read,
        volatile=False,
    ),
    Command(
        Ordinal.PCR_RESET,
        source="3:16.4",
        auth_blocks=NO_AUTH,
        gate=Gate.ALWAYS,
        request=PcrResetRequest,
        response=Nothing,
        handler=pcr_reset,
    ),
)
