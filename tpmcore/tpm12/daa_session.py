# SPDX-License-Identifier: Apache-2.0
"""What a TPM holds for direct anonymous attestation: its secrets, and sessions of Join and Sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from protocol.tpm12.daa import SIZE_MODULUS, SIZE_Q, DaaIssuer, DaaTpm
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST, DIGEST_BYTES, U8, U32, FixedBytes, Structure

JOIN_U0_BYTES: Final = 128
JOIN_U1_BYTES: Final = 138
BLOB_KEY_BYTES: Final = 16
LAST_STAGE: Final = 24
"""Of Join; Sign ends before."""

NO_DIGEST: Final = bytes(DIGEST_BYTES)
NO_SCRATCH: Final = bytes(SIZE_MODULUS)
NO_ISSUER: Final = DaaIssuer(
    NO_DIGEST, NO_DIGEST, NO_DIGEST, NO_DIGEST, NO_DIGEST, NO_DIGEST, bytes(SIZE_Q)
)
NO_TPM: Final = DaaTpm(NO_DIGEST, NO_DIGEST, NO_DIGEST, NO_DIGEST, 0)


@record(repr=False)
class DaaSecrets(Structure):
    """The DAA fields of TPM_PERMANENT_DATA (Part 2, 7.4), 56 bytes.

    Attributes:
        proof: daaProof, authenticates TPM_DAA_BLOBs.
        seed: tpmDAASeed, all rekeys come from it.
        blob_key: daaBlobKey, encrypts TPM_DAA_BLOBs.
    """

    proof: Annotated[bytes, DIGEST]
    seed: Annotated[bytes, DIGEST]
    blob_key: Annotated[bytes, FixedBytes(BLOB_KEY_BYTES)]


@dataclass(slots=True, repr=False)
class DaaSession(Structure):
    """A Join or Sign that is under way, 841 bytes.

    Holds TPM_DAA_ISSUER, TPM_DAA_TPM, TPM_DAA_CONTEXT and TPM_DAA_JOINDATA (Part 2, 22.3 to 22.6).

    Attributes:
        stage: the one that must come next; never 0.
        digest_context: digest over tpm_specific, and in Join over join_u0, join_u1 and digest_n0.
            It also tells a Join from a Sign: the stages of one are refused to the other.
        digest: of the challenge, later the number c of the proof.
        context_seed: the random numbers r0 to r4 are derived from it.
        scratch: a number between two stages; zero for none.
        digest_n0: Join: digest of the issuer's first key; zeros until it came.
    """

    handle: Annotated[int, U32]
    stage: Annotated[int, U8] = 1
    issuer: DaaIssuer = NO_ISSUER
    tpm_specific: DaaTpm = NO_TPM
    digest_context: Annotated[bytes, DIGEST] = NO_DIGEST
    digest: Annotated[bytes, DIGEST] = NO_DIGEST
    context_seed: Annotated[bytes, DIGEST] = NO_DIGEST
    scratch: Annotated[bytes, FixedBytes(SIZE_MODULUS)] = NO_SCRATCH
    join_u0: Annotated[bytes, FixedBytes(JOIN_U0_BYTES)] = bytes(JOIN_U0_BYTES)
    join_u1: Annotated[bytes, FixedBytes(JOIN_U1_BYTES)] = bytes(JOIN_U1_BYTES)
    digest_n0: Annotated[bytes, DIGEST] = NO_DIGEST
