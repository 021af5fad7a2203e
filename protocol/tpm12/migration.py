# SPDX-License-Identifier: Apache-2.0
"""Structures about migration (Part 2, 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from protocol.tpm12.constants import StructureTag
from protocol.tpm12.wire import DIGEST, Prefix, Structure, tag_prefix


@dataclass(frozen=True, slots=True)
class CmkMigAuth(Structure):
    """TPM_CMK_MIGAUTH, 42 bytes: what the migrationAuth of a certified migratable key is an HMAC
    of."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.CMK_MIGAUTH)
    msa_digest: Annotated[bytes, DIGEST]
    pub_key_digest: Annotated[bytes, DIGEST]
