# SPDX-License-Identifier: Apache-2.0
"""What the stages of TPM_DAA_Join and TPM_DAA_Sign have in common (Part 3, chapter 26).

A session holds what is known between two stages; the host repeats the issuer's public parameters
when they are wanted, and their digests tell that they are the same. A stage is a function; the ones
that differ only in a base or a secret are made by `raise_base` and `respond`. The tables from the
number of a stage to what it does are in `daa_join` and `daa_sign`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from protocol.tpm12.constants import ReturnCode
from protocol.tpm12.daa import (
    SIZE_MODULUS,
    SIZE_R0,
    SIZE_R1,
    SIZE_R2,
    SIZE_R3,
    SIZE_R4,
    SIZE_W,
    DaaIssuer,
)
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST_BYTES, WireError
from tpmcore.errors import TpmError
from tpmcore.tpm12 import daa_math
from tpmcore.tpm12.daa_session import NO_SCRATCH, DaaSession
from tpmcore.tpm12.tpm import Tpm

DATA0: Final = ReturnCode.DAA_INPUT_DATA0
DATA1: Final = ReturnCode.DAA_INPUT_DATA1
NOTHING: Final = b""


@dataclass(slots=True, repr=False)
class Step:
    """One stage being executed.

    Attributes:
        repeats: set by a stage that comes again.
    """

    tpm: Tpm
    session: DaaSession
    data0: bytes
    data1: bytes
    repeats: bool = False

    @property
    def scratch(self) -> int:
        """The scratch as a number."""
        return int.from_bytes(self.session.scratch, "big")

    @scratch.setter
    def scratch(self, value: int) -> None:
        self.session.scratch = value.to_bytes(SIZE_MODULUS, "big")

    def take_scratch(self) -> bytes:
        """Return the scratch and clear it."""
        scratch, self.session.scratch = self.session.scratch, NO_SCRATCH
        return scratch

    @property
    def q(self) -> int:
        """The order of gamma; not 0, see read_issuer."""
        return int.from_bytes(self.session.issuer.generic_q, "big")

    @property
    def challenge(self) -> int:
        """The number c of the proof."""
        return int.from_bytes(self.session.digest, "big")

    @property
    def modulus_n(self) -> int:
        """The issuer's modulus, which is inputData1."""
        require_digest(self.data1, self.session.issuer.digest_n, DATA1)
        return _modulus(self.data1, DATA1)

    @property
    def gamma(self) -> int:
        """The modulus of the pseudonym, which is inputData0."""
        require_digest(self.data0, self.session.issuer.digest_gamma, DATA0)
        return _modulus(self.data0, DATA0)


Stage: TypeAlias = Callable[[Step], bytes]
Secret: TypeAlias = Callable[[Step], int]


def sha1(*parts: bytes) -> bytes:
    """Return SHA-1 over the concatenation."""
    return hashlib.sha1(b"".join(parts)).digest()


def require_digest(data: bytes, digest: bytes, code: ReturnCode) -> None:
    """Require that data has a digest, else raise TpmError with the code."""
    if not hmac.compare_digest(sha1(data), digest):
        raise TpmError(code)


def require_issuer(session: DaaSession) -> None:
    """Require that the TPM's settings were made for the issuer in the session."""
    require_digest(
        session.issuer.encode_once(),
        session.tpm_specific.digest_issuer,
        ReturnCode.DAA_ISSUER_SETTINGS,
    )


def require_size(data: bytes, size_bytes: int, code: ReturnCode) -> None:
    """Require a length, else raise TpmError with the code."""
    if len(data) != size_bytes:
        raise TpmError(code)


def _modulus(data: bytes, code: ReturnCode) -> int:
    value = daa_math.modulus(data)
    if value is None:
        raise TpmError(code)
    return value


def read_issuer(data: bytes) -> DaaIssuer:
    """Read TPM_DAA_ISSUER from inputData0; a q of 0 would leave nothing to compute with."""
    try:
        issuer = DaaIssuer.decode(data)
    except WireError:
        raise TpmError(DATA0) from None
    if not any(issuer.generic_q):
        raise TpmError(DATA0)
    return issuer


# --- the numbers that stages compute with ---------------------------------------------------------


def _f(step: Step) -> int:
    specific = step.session.tpm_specific
    return daa_math.secret_f(specific.rekey, specific.count, step.q)


def f0(step: Step) -> int:
    """Return the low 104 bits of f."""
    return daa_math.low0(_f(step))


def f1(step: Step) -> int:
    """Return what of f is above f0."""
    return daa_math.high0(_f(step))


def _r(k: int, size_bytes: int) -> Secret:
    return lambda step: daa_math.random_r(k, size_bytes, step.session.context_seed)


R0: Final = _r(0, SIZE_R0)
R1: Final = _r(1, SIZE_R1)
R2: Final = _r(2, SIZE_R2)
R3: Final = _r(3, SIZE_R3)
R4: Final = _r(4, SIZE_R4)


# --- stages that Join and Sign share --------------------------------------------------------------


def raise_base(base: str, secret: Secret, *, first: bool = False) -> Stage:
    """Multiply the scratch by a power of one of the issuer's four bases; the first one sets it.

    Args:
        base: which digest of the issuer's settings inputData0 must have.
    """

    def stage(step: Step) -> bytes:
        require_digest(step.data0, getattr(step.session.issuer, base), DATA0)
        n = step.modulus_n
        factor = 1 if first else step.scratch
        value = int.from_bytes(step.data0, "big")
        step.scratch = daa_math.times_power(factor, value, secret(step), n)
        return NOTHING

    return stage


def then_output(stage: Stage) -> Stage:
    """Do a stage, give out the scratch and clear it."""

    def ending(step: Step) -> bytes:
        stage(step)
        return step.take_scratch()

    return ending


def commit(step: Step) -> bytes:
    """Join 9, Sign 2: begin the commitment to what will be proved, with new random numbers."""
    step.session.context_seed = step.tpm.new_nonce()
    return raise_base("digest_r0", R0, first=True)(step)


def check_w(step: Step) -> bytes:
    """Join 13, Sign 6: take the base of the pseudonym, which must be of order q."""
    gamma = step.gamma
    require_size(step.data1, SIZE_W, DATA1)
    w = int.from_bytes(step.data1, "big")
    if not daa_math.has_order(w, step.q, gamma):
        raise TpmError(ReturnCode.DAA_WRONG_W)
    step.scratch = w
    return NOTHING


def pseudonym(step: Step) -> bytes:
    """Join 14, Sign 7: give E."""
    return daa_math.to_bytes(daa_math.power(step.scratch, _f(step), step.gamma))


def commit_pseudonym(step: Step) -> bytes:
    """Join 15, Sign 8: give E1."""
    r = daa_math.joined_r(R0(step), R1(step), step.q)
    output = daa_math.to_bytes(daa_math.power(step.scratch, r, step.gamma))
    step.take_scratch()
    return output


def challenge(step: Step) -> bytes:
    """Join 16, Sign 9: mix a number of the TPM's into the challenge."""
    require_size(step.data0, DIGEST_BYTES, DATA0)
    nonce = step.tpm.new_nonce()
    step.session.digest = sha1(step.data0, nonce)
    return nonce


def respond(r: Secret, secret: Secret) -> Stage:
    """Give r + c * secret."""
    return lambda step: daa_math.to_bytes(daa_math.response(r(step), step.challenge, secret(step)))


@record
class Protocol:
    """Join or Sign.

    Attributes:
        begin: stage 0: makes the session from inputData0.
        stages: all others by number; the last one ends the session.
        context: what digest_context must be, from stage `context_from` on.
        issuer_from: the stage from which on the TPM's settings must be for the issuer's.
    """

    begin: Callable[[bytes], DaaSession]
    stages: Mapping[int, Stage]
    context: Callable[[DaaSession], bytes]
    context_from: int
    issuer_from: int

    def run(self, tpm: Tpm, session: DaaSession, data0: bytes, data1: bytes) -> bytes:
        """Do the stage that a session waits for; after the last one the session is gone.

        Returns:
            outputData.

        Raises:
            TpmError: any of the DAA codes, DECRYPT_ERROR; the caller ends the session.
        """
        stage = session.stage
        if stage >= self.context_from and not hmac.compare_digest(
            self.context(session), session.digest_context
        ):
            raise TpmError(ReturnCode.DAA_TPM_SETTINGS)
        if stage >= self.issuer_from:
            require_issuer(session)
        act = self.stages.get(stage)
        if act is None:
            raise TpmError(ReturnCode.DAA_STAGE)
        step = Step(tpm, session, data0, data1)
        output = act(step)
        if stage == len(self.stages):
            del tpm.stany.daa_sessions[session.handle]
        elif not step.repeats:
            session.stage += 1
        return output
