# SPDX-License-Identifier: Apache-2.0
"""Timing ticks (Part 3, chapter 23)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode, StartupType
from protocol.tpm12.keys import PubKey
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, USAGE_AUTH, Chapter, Script
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, OWNED = World.NEW, World.OWNED


@case(NEW, Ordinal.GET_TICKS)
def ticks(tpm: Script) -> None:
    tpm.call(Ordinal.GET_TICKS)


@case(OWNED, Ordinal.TICK_STAMP_BLOB)
def stamping_with_a_key(tpm: Script) -> None:
    key = tpm.load("sign")
    tpm.call(Ordinal.TICK_STAMP_BLOB, key, DIGEST, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(
        Ordinal.TICK_STAMP_BLOB,
        key,
        DIGEST,
        DIGEST,
        auth=[tpm.oiap(USAGE_AUTH, spoil=True)],
        code=RC.AUTHFAIL,
    )
    tpm.call(Ordinal.TICK_STAMP_BLOB, key, DIGEST, DIGEST, code=RC.AUTHFAIL)
    tpm.call(Ordinal.TICK_STAMP_BLOB, tpm.load("sign-open"), DIGEST, DIGEST)
    tpm.call(Ordinal.TICK_STAMP_BLOB, 77, DIGEST, DIGEST, code=RC.INVALID_KEYHANDLE)
    bind = tpm.load("bind-open")
    tpm.call(Ordinal.TICK_STAMP_BLOB, bind, DIGEST, DIGEST, code=RC.INVALID_KEYUSAGE)
    der = tpm.load("sign-der")
    tpm.call(
        Ordinal.TICK_STAMP_BLOB,
        der,
        DIGEST,
        DIGEST,
        auth=[tpm.oiap(USAGE_AUTH)],
        code=RC.INAPPROPRIATE_SIG,
    )


@case(NEW, Ordinal.GET_TICKS)
def ticks_of_a_tick_session(tpm: Script) -> None:
    first, second = tpm.run(tss12.get_ticks()), tpm.run(tss12.get_ticks())
    assert second.current_ticks >= first.current_ticks
    assert (second.tick_nonce, second.tick_rate) == (first.tick_nonce, first.tick_rate)
    tpm.call(Ordinal.SAVE_STATE)
    for startup in (StartupType.STATE, StartupType.CLEAR):
        # It begins with the power, whatever the kind of startup.
        tpm.power_cycle(startup)
        now = tpm.run(tss12.get_ticks())
        assert now.tick_nonce not in (first.tick_nonce, second.tick_nonce)
        second = now


@case(OWNED, Ordinal.TICK_STAMP_BLOB)
def stamps_of_every_kind_of_key(tpm: Script) -> None:
    for name in ("sign", "sign-info-open", "legacy", "identity"):
        auth = None if name == "sign-info-open" else USAGE_AUTH
        stamp = tpm.run(
            tss12.tick_stamp_blob(
                tpm.load(name), DIGEST, anti_replay=DIGEST, key_auth=auth, random=tpm.random
            )
        )
        public: PubKey = tpm.wrapped(name).public_key
        tss12.verify_signature(public, stamp.signed, stamp.signature)


@case(OWNED, Ordinal.TICK_STAMP_BLOB)
def stamping_with_two_faults(tpm: Script) -> None:
    stamp = Ordinal.TICK_STAMP_BLOB
    # In this order: the session, the usage of the key, its scheme.
    for name in ("bind", "sign-der"):
        wrong = tpm.oiap(USAGE_AUTH, spoil=True)
        tpm.call(stamp, tpm.load(name), DIGEST, DIGEST, auth=[wrong], code=RC.AUTHFAIL)
    auth = [tpm.oiap(USAGE_AUTH)]
    tpm.call(stamp, tpm.load("storage"), DIGEST, DIGEST, auth=auth, code=RC.INVALID_KEYUSAGE)
