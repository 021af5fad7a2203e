# SPDX-License-Identifier: Apache-2.0
"""Taking and giving up ownership (Part 3, chapter 6)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import (
    EncScheme,
    KeyFlags,
    KeyUsage,
    Ordinal,
    ReservedHandle,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import Key, KeyParms
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, Auth, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
SYMMETRIC_PARMS: Final = bytes.fromhex("00000080 00000080 00000000")  # key, block, no IV


def _ownership(
    tpm: Script,
    code: ReturnCode,
    *,
    template: Key | None = None,
    protocol: int = 5,
    owner: bytes = OWNER_AUTH,
    srk: bytes = SRK_AUTH,
    garbled: bool = False,
    auth: Auth | None = None,
) -> None:
    pubek = tpm.run(tss12.read_pubek(random=tpm.random))
    sealed_owner = tss12.encrypt_oaep(pubek, owner)
    sealed_srk = tss12.encrypt_oaep(pubek, srk)
    if garbled:
        sealed_owner = bytes(256)
    tpm.call(
        Ordinal.TAKE_OWNERSHIP,
        protocol,
        sealed_owner,
        sealed_srk,
        template or tss12.srk_template(),
        auth=[auth or tpm.oiap()],
        code=code,
    )
    tpm.owner_installed()


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_is_taken(tpm: Script) -> None:
    tpm.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=tpm.random))
    tpm.owner_installed()
    tpm.flags()
    tpm.run(tss12.osap_key(ReservedHandle.SRK, SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.READ_PUBEK, DIGEST, code=RC.DISABLED_CMD)


@case(NEW, Ordinal.TAKE_OWNERSHIP)
def ownership_without_an_endorsement_key(tpm: Script) -> None:
    tpm.call(
        Ordinal.TAKE_OWNERSHIP,
        5,
        bytes(256),
        bytes(256),
        tss12.srk_template(),
        auth=[tpm.oiap()],
        code=RC.NO_ENDORSEMENT,
    )


@case(OWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_twice(tpm: Script) -> None:
    tpm.call(
        Ordinal.TAKE_OWNERSHIP,
        5,
        bytes(256),
        bytes(256),
        tss12.srk_template(),
        auth=[tpm.oiap()],
        code=RC.OWNER_SET,
    )


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_where_it_is_not_allowed(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.SET_OWNER_INSTALL, False)
    _ownership(tpm, RC.INSTALL_DISABLED)


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_with_bad_parameters(tpm: Script) -> None:
    _ownership(tpm, RC.BAD_PARAMETER, protocol=4)
    _ownership(tpm, RC.DECRYPT_ERROR, garbled=True)
    _ownership(tpm, RC.BAD_KEY_PROPERTY, owner=b"short")
    _ownership(tpm, RC.BAD_KEY_PROPERTY, srk=b"short")


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_with_a_wrong_hmac(tpm: Script) -> None:
    _ownership(tpm, RC.AUTHFAIL, auth=tpm.oiap(spoil=True))


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_with_an_unfit_srk(tpm: Script) -> None:
    template = tss12.srk_template()
    _ownership(tpm, RC.INVALID_KEYUSAGE, template=replace(template, key_usage=KeyUsage.SIGNING))
    _ownership(tpm, RC.INVALID_KEYUSAGE, template=replace(template, key_flags=KeyFlags.MIGRATABLE))
    for parms in (
        KeyParms.for_rsa(enc_scheme=EncScheme.RSAESPKCSV15),
        KeyParms.for_rsa(enc_scheme=3, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1),
        KeyParms.for_rsa(enc_scheme=3, bits=1024),
        KeyParms.for_rsa(enc_scheme=3, exponent=b"\1\0\1"),
    ):
        _ownership(tpm, RC.BAD_KEY_PROPERTY, template=replace(template, algorithm_parms=parms))


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_with_a_symmetric_srk(tpm: Script) -> None:
    template = replace(tss12.srk_template(), algorithm_parms=KeyParms(6, 1, 1, SYMMETRIC_PARMS))
    _ownership(tpm, RC.BAD_KEY_PROPERTY, template=template)


@case(OWNED, Ordinal.OWNER_CLEAR)
def owner_clears(tpm: Script) -> None:
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.owner_installed()
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap(keep=True)])
    tpm.owner_installed()
    tpm.flags()
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()], code=RC.DISABLED)


@case(OWNED, Ordinal.DISABLE_OWNER_CLEAR, Ordinal.OWNER_CLEAR)
def owner_clear_can_be_disabled(tpm: Script) -> None:
    tpm.call(Ordinal.DISABLE_OWNER_CLEAR, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.DISABLE_OWNER_CLEAR, auth=[tpm.oiap()])
    tpm.flags()
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()], code=RC.CLEAR_DISABLED)
    tpm.power_cycle()
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()], code=RC.CLEAR_DISABLED)
    tpm.presence()
    tpm.call(Ordinal.FORCE_CLEAR)
    tpm.flags()


@case(OWNED, Ordinal.FORCE_CLEAR, Ordinal.DISABLE_FORCE_CLEAR)
def force_clear_needs_presence_and_can_be_disabled(tpm: Script) -> None:
    tpm.call(Ordinal.FORCE_CLEAR, code=RC.BAD_PRESENCE)
    tpm.presence()
    tpm.call(Ordinal.DISABLE_FORCE_CLEAR)
    tpm.flags()
    tpm.call(Ordinal.FORCE_CLEAR, code=RC.CLEAR_DISABLED)
    tpm.owner_installed()
    tpm.power_cycle()
    tpm.presence()
    tpm.call(Ordinal.FORCE_CLEAR)
    tpm.owner_installed()
    tpm.flags()


@case(UNOWNED, Ordinal.FORCE_CLEAR)
def force_clear_without_an_owner(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.FORCE_CLEAR)
    tpm.flags()
