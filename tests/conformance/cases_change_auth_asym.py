# SPDX-License-Identifier: Apache-2.0
"""The old way to change a secret without the parent knowing it (Part 3, chapter 27.4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import EntityType, Ordinal, ReturnCode
from protocol.tpm12.keys import KeyParms
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, KEYS, SRK, USAGE_AUTH, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
NEW_AUTH: Final = b"another secret------"


@case(OWNED, Ordinal.CHANGE_AUTH_ASYM_START, Ordinal.CHANGE_AUTH_ASYM_FINISH)
def changing_a_secret_without_the_parent_knowing(tpm: Script) -> None:
    made = tpm.run(
        tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=USAGE_AUTH,
            label_digest=DIGEST,
            random=tpm.random,
        )
    )
    identity = tpm.run(tss12.load_key2(SRK, made.key, parent_auth=SRK_AUTH, random=tpm.random))
    start = Ordinal.CHANGE_AUTH_ASYM_START
    parms = KeyParms.for_rsa(enc_scheme=3, bits=1024)
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(start, identity, DIGEST, parms, auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(start, identity, DIGEST, parms, code=RC.AUTHFAIL)
    sign = tpm.load("sign")
    tpm.call(start, sign, DIGEST, parms, auth=[tpm.oiap(USAGE_AUTH)], code=RC.INVALID_KEYUSAGE)
    ephemeral = tpm.run(
        tss12.change_auth_asym_start(
            identity, made.key.public_key, identity_auth=USAGE_AUTH, random=tpm.random
        )
    )
    parent = tpm.load("storage-open")
    child = tpm.run(
        tss12.create_wrap_key(
            parent, KEYS["sign"], parent_auth=USAGE_AUTH, usage_auth=USAGE_AUTH, random=tpm.random
        )
    )
    enc_data = tpm.run(
        tss12.change_auth_asym_finish(
            parent,
            ephemeral,
            child.enc_data,
            parent_auth=USAGE_AUTH,
            old_auth=USAGE_AUTH,
            new_auth=NEW_AUTH,
            random=tpm.random,
        )
    )
    changed = replace(child, enc_data=enc_data)
    handle = tpm.run(tss12.load_key2(parent, changed, parent_auth=None))
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(NEW_AUTH)])
    small = KeyParms.for_rsa(enc_scheme=3, bits=256)
    for bad in (small, KeyParms.for_rsa(enc_scheme=1, bits=1024)):
        auth = [tpm.oiap(USAGE_AUTH)]
        tpm.call(start, identity, DIGEST, bad, auth=auth, code=RC.BAD_KEY_PROPERTY)
    finish = tss12.change_auth_asym_finish(
        parent,
        ephemeral,
        child.enc_data,
        parent_auth=USAGE_AUTH,
        old_auth=USAGE_AUTH,
        new_auth=NEW_AUTH,
        random=tpm.random,
    )
    tpm.fails(finish, Ordinal.CHANGE_AUTH_ASYM_FINISH, RC.INVALID_KEYHANDLE)


@case(OWNED, Ordinal.CHANGE_AUTH_ASYM_FINISH)
def changes_without_the_parent_that_are_refused(tpm: Script) -> None:
    made = tpm.run(
        tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=USAGE_AUTH,
            label_digest=DIGEST,
            random=tpm.random,
        )
    )
    identity = tpm.run(tss12.load_key2(SRK, made.key, parent_auth=SRK_AUTH, random=tpm.random))
    ephemeral = tpm.run(
        tss12.change_auth_asym_start(
            identity, made.key.public_key, identity_auth=USAGE_AUTH, random=tpm.random
        )
    )
    parent, sign = tpm.load("storage-open"), tpm.load("sign")
    child = tpm.run(
        tss12.create_wrap_key(
            parent, KEYS["sign"], parent_auth=USAGE_AUTH, usage_auth=USAGE_AUTH, random=tpm.random
        )
    )
    public = ephemeral.key.public_key
    sealed = tss12.encrypt_oaep(public, NEW_AUTH + DIGEST)
    key_type = EntityType.KEY
    for values, spoil, code in (
        ((parent, ephemeral.handle, key_type, DIGEST, sealed, child.enc_data), True, RC.AUTHFAIL),
        ((parent, ephemeral.handle, key_type, DIGEST, sealed, child.enc_data), False, RC.AUTHFAIL),
        (
            (parent, ephemeral.handle, EntityType.OWNER, DIGEST, sealed, child.enc_data),
            False,
            RC.WRONG_ENTITYTYPE,
        ),
        (
            (sign, ephemeral.handle, key_type, DIGEST, sealed, child.enc_data),
            False,
            RC.INVALID_KEYUSAGE,
        ),
        ((parent, ephemeral.handle, key_type, DIGEST, sealed, bytes(256)), False, RC.DECRYPT_ERROR),
        ((parent, sign, key_type, DIGEST, sealed, child.enc_data), False, RC.BAD_PARAMETER),
        (
            (parent, ephemeral.handle, key_type, DIGEST, bytes(128), child.enc_data),
            False,
            RC.DECRYPT_ERROR,
        ),
    ):
        auth = [tpm.oiap(USAGE_AUTH, spoil=spoil)]
        tpm.call(Ordinal.CHANGE_AUTH_ASYM_FINISH, *values, auth=auth, code=code)
