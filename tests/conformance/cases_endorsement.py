# SPDX-License-Identifier: Apache-2.0
"""The endorsement key (Part 3, chapter 14, and its deprecated readers)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import EncScheme, Ordinal, ReservedHandle, ReturnCode
from protocol.tpm12.keys import KeyParms, RsaKeyParms
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, Chapter, Script

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
SYMMETRIC_PARMS: Final = bytes.fromhex("00000080 00000080 00000000")  # key, block, no IV
EK_PARMS: Final = KeyParms.for_rsa(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1)


@case(NEW, Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, Ordinal.READ_PUBEK)
def endorsement_key_is_made_once(tpm: Script) -> None:
    tpm.call(Ordinal.READ_PUBEK, DIGEST, code=RC.NO_ENDORSEMENT)
    tpm.call(Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, DIGEST, EK_PARMS)
    tpm.call(Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, DIGEST, EK_PARMS, code=RC.DISABLED_CMD)
    tpm.flags()
    tpm.call(Ordinal.READ_PUBEK, DIGEST)


@case(NEW, Ordinal.CREATE_ENDORSEMENT_KEY_PAIR)
def endorsement_key_of_another_kind(tpm: Script) -> None:
    for parms in (
        KeyParms(6, 1, 1, SYMMETRIC_PARMS),
        KeyParms.for_rsa(enc_scheme=3, bits=1024),
        KeyParms(1, 3, 1, RsaKeyParms(2048, 3, b"").encode()),
        KeyParms.for_rsa(enc_scheme=2),
    ):
        tpm.call(Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, DIGEST, parms, code=RC.BAD_KEY_PROPERTY)
    tpm.call(Ordinal.READ_PUBEK, DIGEST, code=RC.NO_ENDORSEMENT)


@case(NEW, Ordinal.CREATE_REVOCABLE_EK, Ordinal.REVOKE_TRUST)
def revocable_endorsement_key(tpm: Script) -> None:
    tpm.call(Ordinal.REVOKE_TRUST, DIGEST, code=RC.AUTHFAIL)
    tpm.call(
        Ordinal.CREATE_REVOCABLE_EK,
        DIGEST,
        EK_PARMS,
        False,
        DIGEST,
        masks={"output_ek_reset": bytes.hex},
    )
    tpm.flags()
    tpm.call(Ordinal.REVOKE_TRUST, bytes(20), code=RC.AUTHFAIL)
    tpm.call(Ordinal.REVOKE_TRUST, DIGEST, code=RC.BAD_PRESENCE)
    tpm.call(Ordinal.CREATE_REVOCABLE_EK, DIGEST, EK_PARMS, True, DIGEST, code=RC.DISABLED_CMD)
    tpm.presence()
    tpm.call(Ordinal.REVOKE_TRUST, DIGEST)
    tpm.flags()
    # The clear actions leave the chip disabled and, from the next start on, deactivated.
    tpm.call(Ordinal.READ_PUBEK, DIGEST, code=RC.DISABLED)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.READ_PUBEK, DIGEST, code=RC.NO_ENDORSEMENT)
    tpm.call(Ordinal.CREATE_REVOCABLE_EK, DIGEST, EK_PARMS, True, DIGEST)
    tpm.call(Ordinal.READ_PUBEK, DIGEST)


@case(NEW, Ordinal.CREATE_REVOCABLE_EK)
def revocable_endorsement_key_of_another_kind(tpm: Script) -> None:
    parms = KeyParms.for_rsa(enc_scheme=3, bits=1024)
    tpm.call(Ordinal.CREATE_REVOCABLE_EK, DIGEST, parms, True, DIGEST, code=RC.BAD_KEY_PROPERTY)


@case(UNOWNED, Ordinal.REVOKE_TRUST)
def permanent_endorsement_key_cannot_be_revoked(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.REVOKE_TRUST, DIGEST, code=RC.PERMANENTEK)


@case(OWNED, Ordinal.OWNER_READ_INTERNAL_PUB)
def owner_reads_internal_public_keys(tpm: Script) -> None:
    for handle in (ReservedHandle.EK, ReservedHandle.SRK):
        tpm.call(Ordinal.OWNER_READ_INTERNAL_PUB, handle, auth=[tpm.oiap()])
    tpm.call(Ordinal.OWNER_READ_INTERNAL_PUB, 0x40000001, auth=[tpm.oiap()], code=RC.BAD_PARAMETER)
    tpm.call(
        Ordinal.OWNER_READ_INTERNAL_PUB,
        ReservedHandle.EK,
        auth=[tpm.oiap(spoil=True)],
        code=RC.AUTHFAIL,
    )


@case(OWNED, Ordinal.OWNER_READ_PUBEK, Ordinal.DISABLE_PUBEK_READ, Ordinal.READ_PUBEK)
def reading_the_endorsement_key_with_an_owner(tpm: Script) -> None:
    tpm.call(Ordinal.READ_PUBEK, DIGEST, code=RC.DISABLED_CMD)
    tpm.call(Ordinal.OWNER_READ_PUBEK, auth=[tpm.oiap()])
    tpm.call(Ordinal.OWNER_READ_PUBEK, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.SET_CAPABILITY, 1, b"\0\0\0\4", b"\1", auth=[tpm.oiap()])
    tpm.call(Ordinal.READ_PUBEK, DIGEST)
    tpm.call(Ordinal.DISABLE_PUBEK_READ, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.DISABLE_PUBEK_READ, auth=[tpm.oiap()])
    tpm.flags()
    tpm.call(Ordinal.READ_PUBEK, DIGEST, code=RC.DISABLED_CMD)
