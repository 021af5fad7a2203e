# SPDX-License-Identifier: Apache-2.0
"""What a chip refuses after too many wrong secrets, and who ends it (Part 3, 9.3).

On the reference the first lockout ends after a real second: a case opens its sessions before, sends
little after, and is played again if it took longer and differs.
"""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import CapabilityArea, Ordinal, ReturnCode, Tag
from protocol.tpm12.transport import TransportAttributes
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, SRK, USAGE_AUTH, Auth, Chapter, Script, message
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12
from tpmcore.tpm12.lockout import THRESHOLD

CHAPTER: Final = Chapter(within_s=1.0)
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
LOCKED: Final = RC.DEFEND_LOCK_RUNNING
RESET: Final = Ordinal.RESET_LOCK_VALUE
OWNER_READ: Final = Ordinal.OWNER_READ_PUBEK
_THRESHOLD_AND_BEFORE: Final = 8
"""Bytes of TPM_DA_INFO with tag, state, currentCount and thresholdCount; then come seconds."""


def _state(tpm: Script) -> None:
    """Compare whether there is a lockout, after how many failures."""
    tpm.capability(CapabilityArea.DA_LOGIC, b"\0\2", lambda info: info[:_THRESHOLD_AND_BEFORE])


def _fail(tpm: Script, times: int) -> None:
    sessions = [tpm.oiap(spoil=True) for _ in range(times)]
    for session in sessions:
        tpm.call(OWNER_READ, auth=[session], code=RC.AUTHFAIL)


def _lock_out(tpm: Script, *needed: Auth) -> tuple[Auth, ...]:
    """Guess until authorized commands are refused; give back the sessions needed after that."""
    _fail(tpm, THRESHOLD + 1)
    return needed


@case(OWNED, OWNER_READ, Ordinal.GET_CAPABILITY)
def the_sixth_wrong_secret_locks_out(tpm: Script) -> None:
    _state(tpm)
    _fail(tpm, THRESHOLD)
    _state(tpm)
    # Not yet; and what is right does not make the failures forgotten.
    tpm.call(OWNER_READ, auth=[tpm.oiap()])
    right = tpm.oiap(keep=True)
    _fail(tpm, 1)
    tpm.call(OWNER_READ, auth=[right], code=LOCKED)
    _state(tpm)


@case(OWNED, OWNER_READ, Ordinal.SIGN, Ordinal.PCR_READ, Ordinal.EXECUTE_TRANSPORT)
def what_a_lockout_refuses(tpm: Script) -> None:
    key, other = tpm.load("sign"), tpm.load("sign-open")
    session = tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    one, two, three = _lock_out(tpm, tpm.oiap(USAGE_AUTH), tpm.oiap(), tpm.oiap(SRK_AUTH))
    # Whose secret was guessed makes no difference, nor what else is wrong.
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[one], code=LOCKED)
    tpm.call(Ordinal.OWNER_CLEAR, auth=[two], code=LOCKED)
    tpm.call(Ordinal.LOAD_KEY2, SRK, tpm.wrapped("sign"), auth=[three], code=LOCKED)
    tpm.call(OWNER_READ, auth=[tpm.no_session()], code=LOCKED)
    tpm.raw(message(Ordinal.PCR_READ, bytes(4 + 45), Tag.RQU_AUTH1_COMMAND), code=LOCKED)
    read = tss12.through(session, tss12.pcr_read(3))
    tpm.fails(read, Ordinal.EXECUTE_TRANSPORT, LOCKED)
    # What wants no secret is served.
    tpm.call(Ordinal.PCR_READ, 0)
    tpm.call(Ordinal.SIGN, other, DIGEST)
    tpm.osap_key()
    _state(tpm)


@case(OWNED, RESET)
def a_lockout_is_ended_by_the_owner(tpm: Script) -> None:
    (right,) = _lock_out(tpm, tpm.oiap())
    tpm.call(RESET, auth=[right])
    _state(tpm)
    tpm.call(OWNER_READ, auth=[tpm.oiap()])
    # It begins to count anew.
    _fail(tpm, THRESHOLD)
    tpm.call(OWNER_READ, auth=[tpm.oiap()])


@case(OWNED, RESET)
def a_lockout_and_a_wrong_try_to_end_it(tpm: Script) -> None:
    wrong, right, again, read = _lock_out(
        tpm, tpm.oiap(spoil=True), tpm.oiap(), tpm.osap_owner(), tpm.oiap()
    )
    tpm.call(RESET, auth=[wrong], code=RC.AUTHFAIL)
    # It is the way that is closed: the secret is not looked at.
    tpm.call(RESET, auth=[right], code=RC.AUTHFAIL)
    _state(tpm)
    tpm.call(RESET, auth=[again], code=RC.AUTHFAIL)
    tpm.call(OWNER_READ, auth=[read], code=LOCKED)
    _state(tpm)


@case(OWNED, RESET)
def a_lockout_and_a_try_without_a_session(tpm: Script) -> None:
    (right,) = _lock_out(tpm, tpm.oiap())
    tpm.call(RESET, auth=[tpm.no_session()], code=RC.INVALID_AUTHHANDLE)
    tpm.call(RESET, auth=[right])


@case(OWNED, RESET)
def a_lockout_and_a_try_with_a_session_on_a_key(tpm: Script) -> None:
    on_key, right = _lock_out(tpm, tpm.osap_key(), tpm.oiap())
    tpm.call(RESET, auth=[on_key], code=RC.AUTHFAIL)
    tpm.call(RESET, auth=[right], code=RC.AUTHFAIL)
    _state(tpm)


@case(OWNED, Ordinal.STARTUP, OWNER_READ)
def a_lockout_ends_with_the_power(tpm: Script) -> None:
    (wrong,) = _lock_out(tpm, tpm.oiap(spoil=True))
    tpm.call(RESET, auth=[wrong], code=RC.AUTHFAIL)
    tpm.power_cycle()
    _state(tpm)
    tpm.call(RESET, auth=[tpm.oiap()])
    tpm.call(OWNER_READ, auth=[tpm.oiap()])


@case(OWNED, Ordinal.FORCE_CLEAR, Ordinal.TAKE_OWNERSHIP)
def a_lockout_ends_with_the_ownership(tpm: Script) -> None:
    tpm.presence()
    (wrong,) = _lock_out(tpm, tpm.oiap(spoil=True))
    tpm.call(RESET, auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(Ordinal.FORCE_CLEAR)
    _state(tpm)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=tpm.random))
