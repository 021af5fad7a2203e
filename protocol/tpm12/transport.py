# SPDX-License-Identifier: Apache-2.0
"""Structures of transport sessions (Part 2, 13)."""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar

from protocol.tpm12.constants import StructureTag, tested_as_number
from protocol.tpm12.records import record
from protocol.tpm12.resources import CurrentTicks
from protocol.tpm12.wire import DIGEST, U16, U32, Prefix, Structure, tag_prefix


@tested_as_number
class TransportAttributes(enum.IntFlag):
    """TPM_TRANSPORT_ATTRIBUTES (13.1)."""

    ENCRYPT = 1
    LOG = 2
    EXCLUSIVE = 4


@record
class TransportPublic(Structure):
    """TPM_TRANSPORT_PUBLIC (13.2), 12 bytes.

    Attributes:
        trans_attributes: bits of TransportAttributes.
        alg_id, enc_scheme: looked at only with ENCRYPT.
    """

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.TRANSPORT_PUBLIC)
    trans_attributes: Annotated[int, U32]
    alg_id: Annotated[int, U32]
    enc_scheme: Annotated[int, U16]


@record(repr=False)
class TransportAuth(Structure):
    """TPM_TRANSPORT_AUTH (13.6), 22 bytes: what the client encrypts to the TPM."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.TRANSPORT_AUTH)
    auth_data: Annotated[bytes, DIGEST]


@record
class TransportLogIn(Structure):
    """TPM_TRANSPORT_LOG_IN (13.4), 42 bytes."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.TRANSPORT_LOG_IN)
    parameters: Annotated[bytes, DIGEST]
    pub_key_hash: Annotated[bytes, DIGEST]


@record
class TransportLogOut(Structure):
    """TPM_TRANSPORT_LOG_OUT (13.5), 58 bytes."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.TRANSPORT_LOG_OUT)
    current_ticks: CurrentTicks
    parameters: Annotated[bytes, DIGEST]
    locality: Annotated[int, U32]
