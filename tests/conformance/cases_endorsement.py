# SPDX-License-Identifier: Apache-2.0
"""The endorsement key (Part 3, chapter 14, and its deprecated readers)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import (
    EncScheme,
    NvAttributes,
    NvIndex,
    Ordinal,
    ReservedHandle,
    ReturnCode,
)
from protocol.tpm12.keys import KeyParms, RsaKeyParms
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection
from protocol.tpm12.resources import NvAttributesWord, NvDataPublic
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, Chapter, Script

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
SYMMETRIC_PARMS: Final = bytes.fromhex("00000080 00000080 00000000")  # key, block, no IV
EK_PARMS: Final = KeyParms.for_rsa(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1)
_UNFIT: Final = (
    KeyParms(6, 1, 1, SYMMETRIC_PARMS),
    KeyParms.for_rsa(enc_scheme=3, bits=1024),
    KeyParms(1, 3, 1, RsaKeyParms(2048, 3, b"").encode()),
    KeyParms.for_rsa(enc_scheme=2),
)
ANYWHERE: Final = PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))


@case(NEW, Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, Ordinal.READ_PUBEK)
def endorsement_key_is_made_once(tpm: Script) -> None:
    tpm.call(Ordinal.READ_PUBEK, DIGEST, code=RC.NO_ENDORSEMENT)
    tpm.call(Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, DIGEST, EK_PARMS)
    tpm.call(Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, DIGEST, EK_PARMS, code=RC.DISABLED_CMD)
    tpm.flags()
    tpm.call(Ordinal.READ_PUBEK, DIGEST)


@case(NEW, Ordinal.CREATE_ENDORSEMENT_KEY_PAIR)
def endorsement_key_of_another_kind(tpm: Script) -> None:
    for parms in _UNFIT:
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
    for parms in _UNFIT:
        tpm.call(Ordinal.CREATE_REVOCABLE_EK, DIGEST, parms, True, DIGEST, code=RC.BAD_KEY_PROPERTY)
    body = DIGEST + EK_PARMS.encode() + b"\2" + DIGEST
    tpm.call(Ordinal.CREATE_REVOCABLE_EK, body=body, code=RC.BAD_PARAMETER)
    tpm.flags()
    tpm.call(Ordinal.READ_PUBEK, DIGEST, code=RC.NO_ENDORSEMENT)


@case(UNOWNED, Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, Ordinal.CREATE_REVOCABLE_EK)
def another_endorsement_key_of_another_kind(tpm: Script) -> None:
    parms = _UNFIT[0]
    tpm.call(Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, DIGEST, parms, code=RC.DISABLED_CMD)
    values = (DIGEST, parms, True, DIGEST)
    tpm.call(Ordinal.CREATE_REVOCABLE_EK, *values, code=RC.DISABLED_CMD)


@case(NEW, Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, Ordinal.READ_PUBEK)
def endorsement_key_is_described_as_it_is_used(tpm: Script) -> None:
    # The scheme to sign with is not kept, the exponent stays as it was written.
    parms = KeyParms.for_rsa(enc_scheme=3, sig_scheme=2, exponent=b"\1\0\1")
    tpm.call(Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, DIGEST, parms)
    tpm.call(Ordinal.READ_PUBEK, DIGEST)


@case(UNOWNED, Ordinal.REVOKE_TRUST)
def permanent_endorsement_key_cannot_be_revoked(tpm: Script) -> None:
    tpm.call(Ordinal.REVOKE_TRUST, DIGEST, code=RC.PERMANENTEK)
    tpm.presence()
    tpm.call(Ordinal.REVOKE_TRUST, DIGEST, code=RC.PERMANENTEK)


def _define(tpm: Script, index: int, permission: int) -> None:
    word, size = NvAttributesWord(permission), 0 if index == NvIndex.LOCK else 4
    public = NvDataPublic(index, ANYWHERE, ANYWHERE, word, False, False, False, size)
    tpm.call(Ordinal.NV_DEFINE_SPACE, public, DIGEST)


def _revoke(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.REVOKE_TRUST, DIGEST)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.flags()
    tpm.capability(0x0D, b"")


@case(NEW, Ordinal.REVOKE_TRUST)
def revoked_trust_takes_areas_along(tpm: Script) -> None:
    values = (DIGEST, EK_PARMS, False, DIGEST)
    tpm.call(Ordinal.CREATE_REVOCABLE_EK, *values, masks={"output_ek_reset": bytes.hex})
    _define(tpm, 0x00012345, NvAttributes.PPWRITE)
    _define(tpm, 0x00012346, NvAttributes.OWNERWRITE)
    _define(tpm, 0x00012347, NvAttributes.AUTHWRITE)
    _define(tpm, 0x1000F000, NvAttributes.OWNERREAD | NvAttributes.PPWRITE)
    _define(tpm, NvIndex.LOCK, 0)
    _revoke(tpm)
    # NV is not locked any more: no presence is needed.
    tpm.presence(asserted=False)
    _define(tpm, 0x1000F001, NvAttributes.PPWRITE)
    tpm.owner_installed()


@case(NEW, Ordinal.REVOKE_TRUST)
def revoked_trust_takes_areas_of_nobody_along(tpm: Script) -> None:
    values = (DIGEST, EK_PARMS, False, DIGEST)
    tpm.call(Ordinal.CREATE_REVOCABLE_EK, *values, masks={"output_ek_reset": bytes.hex})
    _define(tpm, 0x1000F001, NvAttributes.PPWRITE)
    _revoke(tpm)


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


@case(OWNED, Ordinal.OWNER_READ_INTERNAL_PUB)
def owner_reads_internal_public_keys_with_the_wrong_session(tpm: Script) -> None:
    read = Ordinal.OWNER_READ_INTERNAL_PUB
    ek = ReservedHandle.EK
    tpm.call(read, ek, auth=[tpm.osap_owner()])
    tpm.call(read, ek, auth=[tpm.no_session()], code=RC.INVALID_AUTHHANDLE)
    tpm.call(read, ek, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    for handle in (0x40000001, 0x40000005, 0x55, tpm.load("sign")):
        tpm.call(read, handle, auth=[tpm.oiap()], code=RC.BAD_PARAMETER)
    tpm.call(read, 0x55, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)


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
