# SPDX-License-Identifier: Apache-2.0
"""Identity keys (Part 3, chapter 15)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import KeyFlags, KeyUsage, Ordinal, ReservedHandle, ReturnCode
from protocol.tpm12.keys import Key, KeyParms
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, SRK, USAGE_AUTH, Auth, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
IDENTITY_AUTH: Final = b"secret of identity--"


def _identity(
    tpm: Script,
    template: Key,
    code: ReturnCode = RC.SUCCESS,
    *,
    owner: Auth | None = None,
    srk: Auth | None = None,
    srk_needed: bool = True,
) -> None:
    owner = owner or tpm.osap_owner()
    secret = IDENTITY_AUTH
    if owner.session.shared_secret:
        secret = tpm.encrypt(owner, IDENTITY_AUTH)
    auth = [srk or tpm.oiap(SRK_AUTH), owner] if srk_needed else [owner]
    tpm.call(Ordinal.MAKE_IDENTITY, secret, DIGEST, template, auth=auth, code=code)


@case(OWNED, Ordinal.MAKE_IDENTITY)
def making_identities(tpm: Script) -> None:
    template = tss12.identity_template()
    _identity(tpm, template)
    _identity(tpm, template, RC.AUTH2FAIL, owner=tpm.osap_owner(spoil=True))
    _identity(tpm, template, RC.AUTHFAIL, srk=tpm.oiap(SRK_AUTH, spoil=True))
    _identity(tpm, template, RC.AUTHFAIL, srk_needed=False)
    _identity(tpm, template, RC.BAD_MODE, owner=tpm.oiap())
    _identity(tpm, replace(template, key_flags=KeyFlags.MIGRATABLE), RC.INVALID_KEYUSAGE)
    for parms in (
        KeyParms.for_rsa(sig_scheme=2, bits=1024),
        KeyParms.for_rsa(sig_scheme=3),
        KeyParms.for_rsa(enc_scheme=3, sig_scheme=2),
    ):
        _identity(tpm, replace(template, algorithm_parms=parms), RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.MAKE_IDENTITY)
def making_identities_of_another_usage(tpm: Script) -> None:
    template = replace(tss12.identity_template(), key_usage=KeyUsage.SIGNING)
    _identity(tpm, template, RC.INVALID_KEYUSAGE)


@case(OWNED, Ordinal.MAKE_IDENTITY)
def making_an_identity_with_one_wrong_session(tpm: Script) -> None:
    template = tss12.identity_template()
    _identity(tpm, template, RC.AUTHFAIL, owner=tpm.osap_owner(spoil=True), srk_needed=False)


@case(OWNED, Ordinal.ACTIVATE_IDENTITY)
def activating_an_identity(tpm: Script) -> None:
    made = tpm.run(
        tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=IDENTITY_AUTH,
            label_digest=DIGEST,
            random=tpm.random,
        )
    )
    handle = tpm.run(tss12.load_key2(SRK, made.key, parent_auth=SRK_AUTH, random=tpm.random))
    ek = tpm.run(
        tss12.owner_read_internal_pub(ReservedHandle.EK, owner_auth=OWNER_AUTH, random=tpm.random)
    )
    symmetric = bytes.fromhex("00000006 00ff 0010") + bytes(16)
    digest = made.key.public_key.digest()

    def activate(
        plain: bytes,
        code: ReturnCode,
        *,
        key: int = handle,
        id_bad: bool = False,
        bad: bool = False,
    ) -> None:
        secret = IDENTITY_AUTH if key == handle else USAGE_AUTH
        auth = [tpm.oiap(secret, spoil=id_bad), tpm.oiap(spoil=bad)]
        blob = tss12.encrypt_oaep(ek, plain) if plain else bytes(256)
        tpm.call(Ordinal.ACTIVATE_IDENTITY, key, blob, auth=auth, code=code)

    contents = symmetric + digest
    activate(contents, RC.SUCCESS)
    activate(symmetric + DIGEST, RC.BAD_PARAMETER)
    activate(b"", RC.DECRYPT_ERROR)
    activate(contents, RC.AUTHFAIL, bad=True)
    activate(contents, RC.AUTH2FAIL, id_bad=True)
    activate(contents, RC.BAD_PARAMETER, key=tpm.load("sign"))
    activate(contents, RC.INVALID_KEYHANDLE, key=17)
    inner = b"\0\x2b" + symmetric + digest + b"\0\3\0\0\0\x1f" + bytes(20)
    for kind, plain, code in (
        (1, inner, RC.SUCCESS),
        (2, inner, RC.BAD_TYPE),
        (1, b"\0\x2b" + symmetric + DIGEST + inner[-26:], RC.BAD_PARAMETER),
        (1, inner[:-21] + b"\2" + bytes(20), RC.BAD_LOCALITY),
        (1, inner[:-26] + b"\0\3\1\0\0\x1f" + DIGEST, RC.WRONGPCRVAL),
    ):
        head = b"\0\x0c" + kind.to_bytes(2, "big") + len(plain).to_bytes(4, "big")
        activate(head + plain, code)
