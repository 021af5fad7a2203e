# SPDX-License-Identifier: Apache-2.0
"""What the stages of DAA refuse, and what becomes of their sessions (Part 3, chapter 26).

A stage can be tried only after those before it, so a case runs a Join or a Sign up to its stage for
every fault. Outputs are random: they are verified by the case rather than compared. That the
reference passes our issuer and verifier shows that those two are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar, cast

from protocol.tpm12.constants import CapabilityArea, Ordinal, ResourceType, ReturnCode
from tests.conformance.cases_contexts import load_context, save_context
from tests.conformance.cases_endorsement import EK_PARMS
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, SRK, Chapter, Script
from tests.unit.tpm12.daa_issuer import (
    JOIN_END,
    SIGN_END,
    Host,
    Joining,
    Signing,
    issuer,
    wide,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, SeededRandom
from tpmcore import tss12
from tpmcore.tss12 import Conversation

T = TypeVar("T")

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
JOIN, SIGN = Ordinal.DAA_JOIN, Ordinal.DAA_SIGN
DATA0, DATA1 = RC.DAA_INPUT_DATA0, RC.DAA_INPUT_DATA1
GOOD: Final = b"<as it should be>"
WRONG: Final = b"not what the issuer gave"
"""A base or modulus of nobody. As a number it is odd, so that its digest is all that is wrong."""


class _Scripted:
    """What a host of the issuer's model needs of a chip, on the machine of a script."""

    def __init__(self, tpm: Script) -> None:
        self._tpm = tpm
        self.client_random: SeededRandom = tpm.random

    def run(self, conversation: Conversation[T]) -> T:
        """Run a conversation."""
        return self._tpm.run(conversation)


def _join(tpm: Script) -> Joining:
    return Joining(cast(Chip, _Scripted(tpm)), issuer())


def _joined(tpm: Script, *, u2: bytes | None = None, u3: bytes | None = None) -> Joining:
    """Return a Join that is through, with an issuer's part of the credential of its own."""
    join = _join(tpm)
    join.u2, join.u3 = u2 or join.u2, u3 or join.u3
    join.run(0, JOIN_END)
    return join


def _sign(tpm: Script, join: Joining) -> Signing:
    blobs = (join.done[22], join.done[23], join.done[24])
    return Signing(cast(Chip, _Scripted(tpm)), issuer(), blobs=blobs)


def _sessions(tpm: Script) -> None:
    """Compare how many DAA sessions there are."""
    tpm.capability(CapabilityArea.HANDLE, ResourceType.DAA_TPM, lambda resp: resp[:2])


def _stage(
    tpm: Script, ordinal: Ordinal, handle: int, stage: int, data0: bytes, data1: bytes
) -> Conversation[bytes]:
    send = tss12.daa_join if ordinal == JOIN else tss12.daa_sign
    return send(handle, stage, data0, data1, owner_auth=OWNER_AUTH, random=tpm.random)


@dataclass(frozen=True, slots=True, repr=False)
class Fault:
    """What is sent in a stage, and the code that it ends in; GOOD is what belongs there."""

    stage: int
    data0: bytes
    data1: bytes
    code: ReturnCode


def _refuse(tpm: Script, host: Host, fault: Fault) -> None:
    """Run a Join or Sign up to a stage with a fault; it is refused and ends the session."""
    ordinal = JOIN if isinstance(host, Joining) else SIGN
    host.run(0, fault.stage - 1)
    if fault.stage == 1 and ordinal == JOIN:
        cast(Joining, host).first_key()
    good = host.inputs(fault.stage)
    data0, data1 = (
        right if sent == GOOD else sent
        for sent, right in zip((fault.data0, fault.data1), good, strict=True)
    )
    tpm.fails(_stage(tpm, ordinal, host.handle, fault.stage, data0, data1), ordinal, fault.code)
    if fault.stage:
        again = _stage(tpm, ordinal, host.handle, fault.stage, *good)
        tpm.fails(again, ordinal, RC.BAD_HANDLE)
    _sessions(tpm)


def _join_refuses(tpm: Script, faults: Sequence[Fault]) -> None:
    for fault in faults:
        _refuse(tpm, _join(tpm), fault)


@case(OWNED, JOIN, SIGN)
def a_join_and_a_sign_that_verify(tpm: Script) -> None:
    join = _joined(tpm)
    join.check()
    sizes = [len(join.done[stage]) for stage in range(22)]
    assert sizes[:14] == [4, 0, 0, 0, 0, 0, 0, 256, 20, 0, 0, 0, 256, 0]
    # Numbers without leading zeros.
    assert max(sizes[14:16]) <= 256
    assert (sizes[16], sizes[19], sizes[20]) == (20, 128, 20)
    sign = _sign(tpm, join)
    sign.run(0, SIGN_END)
    sign.check(*join.credential())
    # The pseudonym is that of the Join.
    assert sign.done[7] == join.done[14]
    _sessions(tpm)


# --- Join -----------------------------------------------------------------------------------------


@case(OWNED, JOIN)
def joins_with_another_issuer(tpm: Script) -> None:
    other = replace(issuer(), w=wide(3)).settings[:-1] + b"\0"
    _join_refuses(
        tpm,
        (
            Fault(0, b"", b"", DATA0),
            Fault(0, bytes(3), b"", DATA0),
            Fault(0, bytes(4), b"", DATA0),
            Fault(1, b"k" * 255, GOOD, DATA0),
            Fault(1, GOOD, b"s" * 255, DATA1),
            Fault(1, GOOD, b"s" * 256, RC.DAA_ISSUER_VALIDITY),
            Fault(1, b"k" * 256, GOOD, RC.DAA_ISSUER_VALIDITY),
            Fault(2, b"", GOOD, DATA0),
            Fault(2, b"\0\x2e" + bytes(146), GOOD, DATA0),
            Fault(2, b"\0\x2f" + bytes(145), GOOD, DATA0),
            Fault(2, GOOD, b"s" * 255, DATA1),
            Fault(2, GOOD, b"s" * 256, RC.DAA_ISSUER_VALIDITY),
            Fault(2, other, GOOD, RC.DAA_ISSUER_VALIDITY),
            Fault(3, bytes(3), b"", DATA0),
            Fault(3, bytes(5), b"", DATA0),
        ),
    )


@case(OWNED, JOIN)
def joins_with_other_bases(tpm: Script) -> None:
    for stage in (4, 5, 6, 7, 9, 10, 11, 12):
        _join_refuses(tpm, (Fault(stage, WRONG, GOOD, DATA0), Fault(stage, GOOD, WRONG, DATA1)))


@case(OWNED, JOIN)
def joins_that_prove_nothing(tpm: Script) -> None:
    _join_refuses(
        tpm,
        (
            Fault(8, b"x" * 255, b"", DATA0),
            Fault(8, b"x" * 256, b"", RC.DECRYPT_ERROR),
            Fault(13, WRONG, GOOD, DATA0),
            Fault(13, GOOD, bytes(255), DATA1),
            Fault(13, GOOD, wide(2), RC.DAA_WRONG_W),
            Fault(14, WRONG, b"", DATA0),
            Fault(15, WRONG, b"", DATA0),
            Fault(16, b"c" * 19, b"", DATA0),
            Fault(16, b"c" * 21, b"", DATA0),
        ),
    )


@case(OWNED, JOIN)
def joins_with_parts_of_another_size(tpm: Script) -> None:
    _join_refuses(
        tpm,
        (
            Fault(22, b"u" * 127, b"", DATA0),
            Fault(22, b"u" * 129, b"", DATA0),
            Fault(23, b"u" * 191, b"", DATA0),
            Fault(23, b"u" * 193, b"", DATA0),
        ),
    )


# --- Sign -----------------------------------------------------------------------------------------


@case(OWNED, SIGN)
def signs_with_another_issuer(tpm: Script) -> None:
    join = _joined(tpm)
    settings = issuer().settings
    changed = join.done[24][:-1] + bytes((join.done[24][-1] ^ 1,))
    for fault in (
        Fault(0, b"", b"", DATA0),
        Fault(0, settings[:-1], b"", DATA0),
        Fault(0, settings + b"\0", b"", DATA0),
        Fault(0, b"\0\x2e" + settings[2:], b"", DATA0),
        Fault(1, b"", b"", DATA0),
        Fault(1, changed, b"", DATA0),
        Fault(1, join.done[22], b"", DATA0),
    ):
        _refuse(tpm, _sign(tpm, join), fault)


@case(OWNED, SIGN)
def a_sign_with_the_credential_of_another_issuer(tpm: Script) -> None:
    sign = _sign(tpm, _joined(tpm))
    sign.issuer = replace(issuer(), gamma=wide(5))
    sign.run(0, 0)
    settings = _stage(tpm, SIGN, sign.handle, 1, *sign.inputs(1))
    tpm.fails(settings, SIGN, RC.DAA_ISSUER_SETTINGS)


@case(OWNED, SIGN)
def signs_with_other_bases(tpm: Script) -> None:
    join = _joined(tpm)
    for stage in (2, 3, 4, 5):
        _refuse(tpm, _sign(tpm, join), Fault(stage, WRONG, GOOD, DATA0))
        _refuse(tpm, _sign(tpm, join), Fault(stage, GOOD, WRONG, DATA1))


@case(OWNED, SIGN)
def signs_of_nothing(tpm: Script) -> None:
    join = _joined(tpm)
    no_identity = tpm.load("sign").to_bytes(4, "big")
    for fault in (
        Fault(6, WRONG, GOOD, DATA0),
        Fault(6, GOOD, bytes(255), DATA1),
        Fault(6, GOOD, wide(2), RC.DAA_WRONG_W),
        Fault(7, WRONG, b"", DATA0),
        Fault(8, WRONG, b"", DATA0),
        Fault(9, b"c" * 19, b"", DATA0),
        Fault(10, b"", GOOD, DATA0),
        Fault(10, b"\1\1", GOOD, DATA0),
        Fault(10, b"\2", GOOD, DATA0),
        Fault(10, b"\1", b"m" * 19, DATA1),
        Fault(10, b"\0", bytes(3), DATA1),
        Fault(10, b"\0", b"\0\0\0\1", DATA1),
        Fault(10, b"\0", no_identity, DATA1),
    ):
        _refuse(tpm, _sign(tpm, join), fault)


@case(OWNED, SIGN)
def signs_with_parts_of_another_credential(tpm: Script) -> None:
    join, other = _joined(tpm), _joined(tpm, u2=b"2" * 128, u3=b"\0" + b"3" * 191)
    v0, v1 = other.done[22], other.done[23]
    for fault in (
        Fault(13, b"", b"", DATA0),
        Fault(13, join.done[23], b"", DATA0),
        Fault(13, v0, b"", DATA0),
        Fault(14, b"", b"", DATA0),
        Fault(14, join.done[23], b"", DATA0),
        Fault(14, v0, b"", DATA0),
        Fault(15, b"", b"", DATA0),
        Fault(15, join.done[22], b"", DATA0),
        Fault(15, v1, b"", DATA0),
    ):
        _refuse(tpm, _sign(tpm, join), fault)


@case(OWNED, SIGN)
def signing_an_identity_of_this_tpm(tpm: Script) -> None:
    sign = _sign(tpm, _joined(tpm))
    sign.selected = (b"\0", tpm.load("identity").to_bytes(4, "big"))
    sign.run(0, SIGN_END)
    _sessions(tpm)


# --- both -----------------------------------------------------------------------------------------


@case(OWNED, JOIN, SIGN)
def stages_of_no_session(tpm: Script) -> None:
    for ordinal in (JOIN, SIGN):
        tpm.fails(_stage(tpm, ordinal, 7, 1, b"", b""), ordinal, RC.BAD_HANDLE)
        tpm.fails(_stage(tpm, ordinal, SRK, 25, b"", b""), ordinal, RC.BAD_HANDLE)
        start = bytes.fromhex("00000002") if ordinal == JOIN else issuer().settings
        begin = (0, 0, start, b"")
        tpm.call(ordinal, *begin, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
        tpm.call(ordinal, *begin, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
        tpm.call(ordinal, *begin, auth=[tpm.no_session()], code=RC.INVALID_AUTHHANDLE)
    _sessions(tpm)


@case(OWNED, JOIN, SIGN)
def stages_out_of_order(tpm: Script) -> None:
    for stage in (1, 3, 25, 255):
        join = _join(tpm)
        join.run(0, 1)
        tpm.fails(_stage(tpm, JOIN, join.handle, stage, b"", b""), JOIN, RC.DAA_STAGE)
        _sessions(tpm)
    for stage in (2, 16, 25):
        sign = Signing(cast(Chip, _Scripted(tpm)), issuer())
        sign.run(0, 0)
        tpm.fails(_stage(tpm, SIGN, sign.handle, stage, b"", b""), SIGN, RC.DAA_STAGE)
        _sessions(tpm)


@case(OWNED, JOIN, SIGN)
def stages_of_the_other_command(tpm: Script) -> None:
    join = _join(tpm)
    join.run(0, 1)
    good = issuer().r0, issuer().n
    tpm.fails(_stage(tpm, SIGN, join.handle, 2, *good), SIGN, RC.DAA_TPM_SETTINGS)
    sign = Signing(cast(Chip, _Scripted(tpm)), issuer())
    sign.run(0, 0)
    tpm.fails(_stage(tpm, JOIN, sign.handle, 1, bytes(256), b""), JOIN, RC.DAA_TPM_SETTINGS)
    _sessions(tpm)


@case(OWNED, JOIN, SIGN)
def a_session_and_a_wrong_secret(tpm: Script) -> None:
    for ordinal in (JOIN, SIGN):
        host: Host = _join(tpm)
        if ordinal == SIGN:
            host = Signing(cast(Chip, _Scripted(tpm)), issuer())
        host.run(0, 0)
        values = (host.handle, 1, bytes(256), b"")
        tpm.call(ordinal, *values, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
        # Not only the authorization session is over.
        tpm.fails(_stage(tpm, ordinal, host.handle, 1, b"", b""), ordinal, RC.BAD_HANDLE)
        _sessions(tpm)


@case(OWNED, JOIN, SIGN)
def daa_sessions_until_there_is_no_slot(tpm: Script) -> None:
    for _ in range(2):
        _join(tpm).run(0, 0)
    start = bytes.fromhex("00000002")
    tpm.fails(_stage(tpm, JOIN, 0, 0, start, b""), JOIN, RC.RESOURCES)
    tpm.fails(_stage(tpm, SIGN, 0, 0, issuer().settings, b""), SIGN, RC.RESOURCES)
    # The slots are looked at before the input.
    tpm.fails(_stage(tpm, JOIN, 0, 0, b"", b""), JOIN, RC.RESOURCES)


@case(OWNED, JOIN, Ordinal.SAVE_CONTEXT, Ordinal.LOAD_CONTEXT)
def contexts_of_daa_sessions(tpm: Script) -> None:
    join, other, third = _join(tpm), _join(tpm), _join(tpm)
    join.run(0, 2)
    blob = save_context(tpm, join.handle, ResourceType.DAA_TPM)
    other.run(0, 0)
    third.run(0, 0)
    tpm.call(Ordinal.FLUSH_SPECIFIC, third.handle, ResourceType.DAA_TPM)
    join.handle = load_context(tpm, blob)
    load_context(tpm, blob, RC.BADCONTEXT)
    join.run(3, 5)
    blob = save_context(tpm, join.handle, ResourceType.DAA_TPM)
    third.run(0, 0)
    load_context(tpm, blob, RC.RESOURCES)
    for handle in (other.handle, third.handle):
        tpm.call(Ordinal.FLUSH_SPECIFIC, handle, ResourceType.DAA_TPM)
    _sessions(tpm)


# --- when they are void ---------------------------------------------------------------------------


def _void(tpm: Script, join: Joining) -> None:
    """Require that the chip does not know the blobs of a Join any more."""
    _refuse(tpm, _sign(tpm, join), Fault(1, GOOD, GOOD, DATA0))


def _take_ownership(tpm: Script) -> None:
    tpm.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=tpm.random))


@case(OWNED, Ordinal.SET_CAPABILITY, SIGN)
def blobs_from_before_new_secrets(tpm: Script) -> None:
    join = _joined(tpm)
    area, daa_proof = 2, (25).to_bytes(4, "big")
    tpm.call(Ordinal.SET_CAPABILITY, area, daa_proof, b"\0\0\0\1", auth=[tpm.oiap()])
    _void(tpm, join)


@case(World.NEW, Ordinal.REVOKE_TRUST, Ordinal.CREATE_REVOCABLE_EK, SIGN)
def blobs_from_before_another_endorsement_key(tpm: Script) -> None:
    def endorse() -> None:
        masks = {"output_ek_reset": bytes.hex}
        values = (DIGEST, EK_PARMS, False, DIGEST)
        tpm.call(Ordinal.CREATE_REVOCABLE_EK, *values, masks=masks)
        _take_ownership(tpm)

    endorse()
    join = _joined(tpm)
    tpm.presence()
    tpm.call(Ordinal.REVOKE_TRUST, DIGEST)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    endorse()
    _void(tpm, join)


@case(OWNED, Ordinal.FORCE_CLEAR, SIGN)
def sessions_end_with_the_ownership_and_blobs_do_not(tpm: Script) -> None:
    join = _joined(tpm)
    _join(tpm).run(0, 0)
    _sessions(tpm)
    tpm.presence()
    tpm.call(Ordinal.FORCE_CLEAR)
    _sessions(tpm)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    _take_ownership(tpm)
    _sign(tpm, join).run(0, 1)
