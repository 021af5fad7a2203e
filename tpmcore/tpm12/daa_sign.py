# SPDX-License-Identifier: Apache-2.0
"""The stages of TPM_DAA_Sign (Part 3, 26.2): proving a credential without showing it."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import KeyUsage, ResourceType
from protocol.tpm12.daa import DaaTpm
from protocol.tpm12.wire import DIGEST_BYTES
from tpmcore.errors import TpmError
from tpmcore.tpm12 import daa_blobs, daa_math
from tpmcore.tpm12.daa_session import DaaSession
from tpmcore.tpm12.daa_stages import (
    DATA0,
    DATA1,
    NOTHING,
    R0,
    R1,
    R2,
    R4,
    Protocol,
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
    require_digest,
    require_issuer,
    require_size,
    respond,
    sha1,
    then_output,
)


def _sign_context(session: DaaSession) -> bytes:
    return sha1(session.tpm_specific.encode_once())


def _begin_sign(data0: bytes) -> DaaSession:
    """Sign 0: settings of the issuer whose credential is used."""
    return DaaSession(0, issuer=read_issuer(data0))


def _load_settings(step: Step) -> bytes:
    """Sign 1: take in what Join gave out last."""
    session = step.session
    plain = daa_blobs.unseal(step.tpm, ResourceType.DAA_TPM, step.data0)
    session.tpm_specific = DaaTpm.decode(plain)
    require_issuer(session)
    session.digest_context = _sign_context(session)
    return NOTHING


def _what_is_signed(step: Step) -> bytes:
    """Sign 10: either a digest of the host's, or one of the TPM's own identity keys."""
    selector, session = step.data0, step.session
    if selector == b"\x01":
        require_size(step.data1, DIGEST_BYTES, DATA1)
        signed = step.data1
    elif selector == b"\x00":
        key = step.tpm.stclear.keys.get(int.from_bytes(step.data1, "big"))
        require_size(step.data1, 4, DATA1)
        if key is None or key.body.public.key_usage != KeyUsage.IDENTITY:
            raise TpmError(DATA1)
        signed = key.body.public.pub_key
    else:
        raise TpmError(DATA0)
    session.digest = sha1(session.digest, selector, signed)
    return session.digest


def _open_v(step: Step, resource_type: ResourceType, digest: bytes) -> int:
    """Return v0 or v1 from inputData0."""
    value = daa_blobs.unseal(step.tpm, resource_type, step.data0)
    require_digest(value, digest, DATA0)
    return int.from_bytes(value, "big")


def _sign_sum(step: Step) -> int:
    v0 = _open_v(step, ResourceType.DAA_V0, step.session.tpm_specific.digest_v0)
    return daa_math.response(R2(step), step.challenge, v0)


def _sign_s2(step: Step) -> bytes:
    return daa_math.to_bytes(daa_math.low1(_sign_sum(step)))


def _sign_carry(step: Step) -> bytes:
    step.scratch = daa_math.high1(_sign_sum(step))
    return NOTHING


def _sign_s3(step: Step) -> bytes:
    v1 = _open_v(step, ResourceType.DAA_V1, step.session.tpm_specific.digest_v1)
    return daa_math.to_bytes(daa_math.response(R4(step), step.challenge, v1) + step.scratch)


SIGN: Final = Protocol(
    begin=_begin_sign,
    stages={
        1: _load_settings,
        2: commit,
        3: raise_base("digest_r1", R1),
        4: raise_base("digest_s0", R2),
        5: then_output(raise_base("digest_s1", R4)),
        6: check_w,
        7: pseudonym,
        8: commit_pseudonym,
        9: challenge,
        10: _what_is_signed,
        11: respond(R0, f0),
        12: respond(R1, f1),
        13: _sign_s2,
        14: _sign_carry,
        15: _sign_s3,
    },
    context=_sign_context,
    context_from=2,
    issuer_from=2,
)
