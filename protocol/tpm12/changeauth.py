# SPDX-License-Identifier: Apache-2.0
"""The structure in which a new secret travels, encrypted for an ephemeral key (Part 2, 5.12)."""

from __future__ import annotations

from typing import Annotated

from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, Structure


@record
class ChangeAuthValidate(Structure):
    """TPM_CHANGEAUTH_VALIDATE, 40 bytes.

    Attributes:
        nonce: by which the client recognizes the TPM's proof.
    """

    new_auth_secret: Annotated[bytes, DIGEST]
    nonce: Annotated[bytes, DIGEST]

    def __repr__(self) -> str:
        return "ChangeAuthValidate(<secret>)"
