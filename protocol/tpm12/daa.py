# SPDX-License-Identifier: Apache-2.0
"""Structures of direct anonymous attestation (Part 2, 22)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from protocol.tpm12.constants import StructureTag
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, U32, FixedBytes, Prefix, Structure, tag_prefix

# Sizes in bytes (Part 2, 22.1).
SIZE_R0: Final = 43
SIZE_R1: Final = 43
SIZE_R2: Final = 128
SIZE_R3: Final = 168
SIZE_R4: Final = 219
SIZE_V0: Final = 128
SIZE_V1: Final = 192
SIZE_NE: Final = 256
SIZE_W: Final = 256
SIZE_MODULUS: Final = 256
SIZE_Q: Final = 26
# Powers by which long numbers are cut in two, in bits (Part 2, 22.2).
POWER0: Final = 104
POWER1: Final = 1024


@record
class DaaIssuer(Structure):
    """TPM_DAA_ISSUER (22.3), 148 bytes: what an issuer's public parameters hash to, and q."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.DAA_ISSUER)
    digest_r0: Annotated[bytes, DIGEST]
    digest_r1: Annotated[bytes, DIGEST]
    digest_s0: Annotated[bytes, DIGEST]
    digest_s1: Annotated[bytes, DIGEST]
    digest_n: Annotated[bytes, DIGEST]
    digest_gamma: Annotated[bytes, DIGEST]
    generic_q: Annotated[bytes, FixedBytes(SIZE_Q)]


@record(repr=False)
class DaaTpm(Structure):
    """TPM_DAA_TPM (22.4), 86 bytes: what a TPM knows of itself towards one issuer."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.DAA_TPM)
    digest_issuer: Annotated[bytes, DIGEST]
    digest_v0: Annotated[bytes, DIGEST]
    digest_v1: Annotated[bytes, DIGEST]
    rekey: Annotated[bytes, DIGEST]
    count: Annotated[int, U32]

    # Written out, as in Key: dataclasses.replace takes three times as long.

    def having(
        self,
        *,
        digest_issuer: bytes | None = None,
        digest_v0: bytes | None = None,
        digest_v1: bytes | None = None,
        rekey: bytes | None = None,
        count: int | None = None,
    ) -> DaaTpm:
        """Return a copy in which what is given is another."""
        return DaaTpm(
            self.digest_issuer if digest_issuer is None else digest_issuer,
            self.digest_v0 if digest_v0 is None else digest_v0,
            self.digest_v1 if digest_v1 is None else digest_v1,
            self.rekey if rekey is None else rekey,
            self.count if count is None else count,
        )
