# SPDX-License-Identifier: Apache-2.0
"""Taking ownership (Part 3, 6.1)."""

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
    StartupType,
)
from protocol.tpm12.keys import Key, KeyParms, RsaKeyParms
from protocol.tpm12.wire import SIZED
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
    garbled_srk: bool = False,
    auth: Auth | None = None,
) -> None:
    pubek = tpm.run(tss12.read_pubek(random=tpm.random))
    sealed_owner = bytes(256) if garbled else tss12.encrypt_oaep(pubek, owner)
    sealed_srk = bytes(256) if garbled_srk else tss12.encrypt_oaep(pubek, srk)
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


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_with_an_srk_of_the_new_form_bound_to_pcrs(tpm: Script) -> None:
    info = tss12.pcr_info_long({16: bytes(20)}, localities=0b11)
    _ownership(tpm, RC.SUCCESS, template=replace(tss12.srk_template(is_key12=True), pcr_info=info))
    _use_srk(tpm, RC.INVALID_KEYHANDLE)
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    _use_srk(tpm, RC.WRONGPCRVAL)


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_with_an_srk_of_the_old_form_bound_to_pcrs(tpm: Script) -> None:
    info = tss12.pcr_info({16: DIGEST})
    _ownership(tpm, RC.SUCCESS, template=replace(tss12.srk_template(), pcr_info=info))
    _use_srk(tpm, RC.WRONGPCRVAL)


def _use_srk(tpm: Script, code: ReturnCode) -> None:
    """Ask for the SRK's public part, which is not given out, once it is known that it is usable."""
    tpm.call(Ordinal.GET_PUB_KEY, ReservedHandle.SRK, auth=[tpm.oiap(SRK_AUTH)], code=code)


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_while_deactivated_with_an_srk_that_needs_no_secret(tpm: Script) -> None:
    pubek = tpm.run(tss12.read_pubek(random=tpm.random))
    tpm.power_cycle(StartupType.DEACTIVATED)
    tpm.run(
        tss12.take_ownership(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            pubek=pubek,
            srk_params=replace(tss12.srk_template(), auth_data_usage=0),
            random=tpm.random,
        )
    )
    tpm.power_cycle()
    tpm.owner_installed()
    # No AUTHFAIL, although there is no authorization: only that it is the SRK stands against it.
    tpm.call(Ordinal.GET_PUB_KEY, ReservedHandle.SRK, code=RC.INVALID_KEYHANDLE)


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
    _ownership(tpm, RC.DECRYPT_ERROR, garbled_srk=True)
    _ownership(tpm, RC.BAD_KEY_PROPERTY, owner=b"short")
    _ownership(tpm, RC.BAD_KEY_PROPERTY, srk=b"short")
    tpm.flags()


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_with_secrets_that_are_too_long(tpm: Script) -> None:
    _ownership(tpm, RC.BAD_KEY_PROPERTY, owner=bytes(21))
    _ownership(tpm, RC.BAD_KEY_PROPERTY, srk=bytes(21))


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_with_two_faults_at_once(tpm: Script) -> None:
    signing = replace(tss12.srk_template(), key_usage=KeyUsage.SIGNING)
    _ownership(tpm, RC.BAD_PARAMETER, protocol=4, garbled=True)
    _ownership(tpm, RC.DECRYPT_ERROR, garbled=True, auth=tpm.oiap(spoil=True))
    _ownership(tpm, RC.BAD_KEY_PROPERTY, owner=b"short", template=signing)
    _ownership(tpm, RC.AUTHFAIL, template=signing, auth=tpm.oiap(spoil=True))
    parms = KeyParms.for_rsa(enc_scheme=3, bits=1024)
    both = replace(signing, algorithm_parms=parms)
    _ownership(tpm, RC.INVALID_KEYUSAGE, template=both)
    _ownership(tpm, RC.INVALID_KEYUSAGE, template=signing, garbled_srk=True)
    tpm.presence()
    tpm.call(Ordinal.SET_OWNER_INSTALL, False)
    _ownership(tpm, RC.INSTALL_DISABLED, protocol=4)


@case(NEW, Ordinal.TAKE_OWNERSHIP)
def ownership_that_is_not_allowed_without_an_endorsement_key(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.SET_OWNER_INSTALL, False)
    values = (5, bytes(256), bytes(256), tss12.srk_template())
    tpm.call(Ordinal.TAKE_OWNERSHIP, *values, auth=[tpm.oiap()], code=RC.INSTALL_DISABLED)


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
def ownership_with_an_srk_that_is_too_long(tpm: Script) -> None:
    parms = KeyParms.for_rsa(enc_scheme=3, bits=2064)
    _ownership(
        tpm, RC.BAD_KEY_PROPERTY, template=replace(tss12.srk_template(), algorithm_parms=parms)
    )


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_with_an_srk_of_three_primes(tpm: Script) -> None:
    parms = KeyParms(1, 3, 1, RsaKeyParms(2048, 3, b"").encode())
    _ownership(
        tpm, RC.BAD_KEY_PROPERTY, template=replace(tss12.srk_template(), algorithm_parms=parms)
    )


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_with_an_srk_that_does_not_parse(tpm: Script) -> None:
    secrets = b"\0\5" + SIZED.write(bytes(256)) * 2

    def take(params: bytes, code: ReturnCode) -> None:
        body = secrets + params
        tpm.call(Ordinal.TAKE_OWNERSHIP, body=body, auth=[tpm.oiap()], code=code)

    old = tss12.srk_template().encode()
    new = tss12.srk_template(is_key12=True).encode()
    take(b"\1\2" + old[2:], RC.BAD_VERSION)
    take(b"\0\x29" + new[2:], RC.BAD_KEY_PROPERTY)
    take(new[:2] + b"\0\1" + new[4:], RC.BAD_KEY_PROPERTY)
    take(old[:6] + b"\0\0\0\x20" + old[10:], RC.BAD_KEY_PROPERTY)
    take(old[:11] + b"\0\0\0\x0b" + old[15:], RC.BAD_KEY_PROPERTY)
    selection = SIZED.write(b"\0\4" + bytes(4 + 40))
    take(old[:35] + selection + old[39:], RC.INVALID_PCR_INFO)
    locality = tss12.pcr_info_long({}, localities=0x20).encode()
    take(new[:35] + SIZED.write(locality) + new[39:], RC.INVALID_STRUCTURE)


@case(UNOWNED, Ordinal.TAKE_OWNERSHIP)
def ownership_with_a_symmetric_srk(tpm: Script) -> None:
    for parms in (KeyParms(6, 1, 1, SYMMETRIC_PARMS), KeyParms(4, 3, 1, b"")):
        template = replace(tss12.srk_template(), algorithm_parms=parms)
        _ownership(tpm, RC.BAD_KEY_PROPERTY, template=template)
