# SPDX-License-Identifier: Apache-2.0
"""The stages of TPM_DAA_Join (Part 3, 26.1): getting a credential from an issuer."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import ResourceType, ReturnCode
from protocol.tpm12.daa import (
    SIZE_MODULUS,
    SIZE_NE,
    SIZE_R2,
    SIZE_V0,
    SIZE_V1,
)
from tpmcore.errors import TpmError
from tpmcore.tpm12 import daa_blobs, daa_math
from tpmcore.tpm12.daa_session import (
    JOIN_U0_BYTES,
    JOIN_U1_BYTES,
    NO_DIGEST,
    DaaSession,
)
from tpmcore.tpm12.daa_stages import (
    DATA0,
    DATA1,
    NOTHING,
    R0,
    R1,
    R2,
    R3,
    Protocol,
    Stage,
    Step,
    challenge,
    check_w,
    commit,
    commit_pseudonym,
    f0,
    f1,
    pseudonym,
    raise_base,
    read_issuer,
    require_size,
    respond,
    sha1,
    then_output,
)
from tpmcore.tpm12.rsa import RsaError, verify_sha1

ISSUER_EXPONENT: Final = 65537
"""Public exponent of every key of an issuer's chain (26.1)."""


def _u0(step: Step) -> int:
    return int.from_bytes(step.session.join_u0, "big")


def _u1(step: Step) -> int:
    return int.from_bytes(step.session.join_u1, "big")


def _join_context(session: DaaSession) -> bytes:
    return sha1(
        session.tpm_specific.encode_once(), session.join_u0, session.join_u1, session.digest_n0
    )


def _sealed(stage: Stage) -> Stage:
    """Do a stage of Join that changes what digest_context is over."""

    def sealing(step: Step) -> bytes:
        output = stage(step)
        step.session.digest_context = _join_context(step.session)
        return output

    return sealing


def _begin_join(data0: bytes) -> DaaSession:
    """Join 0: count of the keys in the issuer's chain."""
    require_size(data0, 4, DATA0)
    count = int.from_bytes(data0, "big")
    if not count:
        raise TpmError(DATA0)
    session = DaaSession(0)
    session.tpm_specific = session.tpm_specific.having(count=count)
    session.digest_context = _join_context(session)
    return session


def _issuer_key(step: Step) -> bytes:
    """Join 1: follow the issuer's chain of keys, the first of which everything is bound to."""
    session, specific = step.session, step.session.tpm_specific
    require_size(step.data0, SIZE_MODULUS, DATA0)
    if session.digest_n0 == NO_DIGEST:
        session.digest_n0 = sha1(step.data0)
        seed = daa_blobs.secrets_of(step.tpm).seed
        specific = specific.having(rekey=sha1(seed, session.digest_n0))
    else:
        _verify_issuer(step, step.data0)
    session.scratch = step.data0
    session.tpm_specific = specific.having(count=specific.count - 1)
    step.repeats = session.tpm_specific.count > 0
    return NOTHING


def _verify_issuer(step: Step, signed: bytes) -> None:
    """Check inputData1 as a signature of the key in the scratch."""
    require_size(step.data1, SIZE_MODULUS, DATA1)
    try:
        verify_sha1(step.scratch, ISSUER_EXPONENT, sha1(signed), step.data1)
    except RsaError:
        raise TpmError(ReturnCode.DAA_ISSUER_VALIDITY) from None


def _issuer_settings(step: Step) -> bytes:
    """Join 2: take the issuer's settings, signed by the last key of the chain."""
    session = step.session
    issuer = read_issuer(step.data0)
    _verify_issuer(step, session.digest_n0 + step.data0)
    session.issuer = issuer
    session.tpm_specific = session.tpm_specific.having(digest_issuer=sha1(step.data0))
    step.take_scratch()
    return NOTHING


def _blinding(step: Step) -> bytes:
    """Join 3: choose u0 and u1, which hide f from the issuer; count makes one f of many."""
    session = step.session
    require_size(step.data0, 4, DATA0)
    count = int.from_bytes(step.data0, "big")
    session.tpm_specific = session.tpm_specific.having(count=count)
    session.join_u0 = step.tpm.random(JOIN_U0_BYTES)
    session.join_u1 = step.tpm.random(JOIN_U1_BYTES)
    return NOTHING


def _join_commitment(step: Step) -> bytes:
    """Join 7: give U, and remember what the endorsement key will be asked to vouch for."""
    session = step.session
    raise_base("digest_s1", _u1)(step)
    count = session.tpm_specific.count.to_bytes(4, "big")
    session.digest = sha1(session.scratch, count, session.digest_n0)
    return step.take_scratch()


def _prove_endorsement(step: Step) -> bytes:
    """Join 8: decrypt what only this TPM can."""
    session = step.session
    require_size(step.data0, SIZE_NE, DATA0)
    ek = step.tpm.permanent.ek
    if ek is None:
        raise TpmError(ReturnCode.NO_ENDORSEMENT)
    try:
        plain = ek.private.decrypt_oaep(step.data0)
    except RsaError:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from None
    output = sha1(session.digest, plain)
    session.digest = NO_DIGEST
    return output


def _s2(step: Step) -> int:
    """Return the sum that s2 is the low part of, and what is carried into s3 the high one."""
    return daa_math.response(R2(step), step.challenge, _u0(step))


def _join_s2(step: Step) -> bytes:
    return daa_math.low1(_s2(step)).to_bytes(SIZE_R2, "big")


def _join_carry(step: Step) -> bytes:
    step.scratch = daa_math.high1(_s2(step))
    return step.session.digest


def _join_s3(step: Step) -> bytes:
    value = daa_math.response(R3(step), step.challenge, _u1(step)) + step.scratch
    step.take_scratch()
    return daa_math.to_bytes(value)


def _credential_v0(step: Step) -> bytes:
    """Join 22: add u0 to the issuer's part of the credential, and give the low part of it out."""
    require_size(step.data0, SIZE_V0, DATA0)
    total = int.from_bytes(step.data0, "big") + _u0(step)
    v0 = daa_math.low1(total).to_bytes(SIZE_V0, "big")
    session = step.session
    session.tpm_specific = session.tpm_specific.having(digest_v0=sha1(v0))
    step.scratch = daa_math.high1(total)
    return daa_blobs.seal(step.tpm, ResourceType.DAA_V0, v0)


def _credential_v1(step: Step) -> bytes:
    """Join 23: likewise u1, with the carry."""
    require_size(step.data0, SIZE_V1, DATA0)
    total = int.from_bytes(step.data0, "big") + _u1(step) + step.scratch
    if total.bit_length() > 8 * SIZE_V1:
        raise TpmError(DATA0)
    v1 = total.to_bytes(SIZE_V1, "big")
    session = step.session
    session.tpm_specific = session.tpm_specific.having(digest_v1=sha1(v1))
    step.take_scratch()
    return daa_blobs.seal(step.tpm, ResourceType.DAA_V1, v1)


def _own_settings(step: Step) -> bytes:
    """Join 24: give out what Sign has to know, for whoever keeps it."""
    return daa_blobs.seal(step.tpm, ResourceType.DAA_TPM, step.session.tpm_specific.encode())


JOIN: Final = Protocol(
    begin=_begin_join,
    stages={
        1: _sealed(_issuer_key),
        2: _sealed(_issuer_settings),
        3: _sealed(_blinding),
        4: raise_base("digest_r0", f0, first=True),
        5: raise_base("digest_r1", f1),
        6: raise_base("digest_s0", _u0),
        7: _join_commitment,
        8: _prove_endorsement,
        9: commit,
        10: raise_base("digest_r1", R1),
        11: raise_base("digest_s0", R2),
        12: then_output(raise_base("digest_s1", R3)),
        13: check_w,
        14: pseudonym,
        15: commit_pseudonym,
        16: challenge,
        17: respond(R0, f0),
        18: respond(R1, f1),
        19: _join_s2,
        20: _join_carry,
        21: _join_s3,
        22: _sealed(_credential_v0),
        23: _sealed(_credential_v1),
        24: _own_settings,
    },
    context=_join_context,
    context_from=1,
    issuer_from=3,
)
