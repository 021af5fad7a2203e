# SPDX-License-Identifier: Apache-2.0
"""The old way to change a secret without the parent knowing it (Part 3, chapter 27.4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import (
    Algorithm,
    EncScheme,
    EntityType,
    Ordinal,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import KeyParms
from protocol.tpm12.transport import TransportAttributes
from protocol.tpm12.wire import U32
from tests.conformance.comparison import anything
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, KEYS, SRK, USAGE_AUTH, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12
from tpmcore.tss12 import Conversation

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
NEW_AUTH: Final = b"another secret------"


def _ephemeral(tpm: Script) -> tss12.EphemeralKey:
    identity = tpm.load("identity")
    return tpm.run(
        tss12.change_auth_asym_start(
            identity,
            tpm.wrapped("identity").public_key,
            identity_auth=USAGE_AUTH,
            random=tpm.random,
        ),
        # The one difference of this command, which the first case shows, is not this one's.
        masks={"certify_info.parent_pcr_status": anything},
    )


@case(OWNED, Ordinal.CHANGE_AUTH_ASYM_START, Ordinal.CHANGE_AUTH_ASYM_FINISH)
def changing_a_secret_without_the_parent_knowing(tpm: Script) -> None:
    identity = tpm.load("identity")
    start = Ordinal.CHANGE_AUTH_ASYM_START
    parms = KeyParms.for_rsa(enc_scheme=3, bits=1024)
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(start, identity, DIGEST, parms, auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(start, identity, DIGEST, parms, code=RC.AUTHFAIL)
    sign = tpm.load("sign")
    tpm.call(start, sign, DIGEST, parms, auth=[tpm.oiap(USAGE_AUTH)], code=RC.INVALID_KEYUSAGE)
    ephemeral = tpm.run(
        tss12.change_auth_asym_start(
            identity,
            tpm.wrapped("identity").public_key,
            identity_auth=USAGE_AUTH,
            random=tpm.random,
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
    ephemeral = _ephemeral(tpm)
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
    guarded = tpm.load("storage")
    values = (guarded, ephemeral.handle, key_type, DIGEST, sealed, child.enc_data)
    tpm.call(Ordinal.CHANGE_AUTH_ASYM_FINISH, *values, code=RC.AUTHFAIL)


@case(OWNED, Ordinal.CHANGE_AUTH_ASYM_START)
def ephemeral_keys_that_cannot_be(tpm: Script) -> None:
    identity, start = tpm.load("identity"), Ordinal.CHANGE_AUTH_ASYM_START
    # keyLength, blockSize, ivSize
    sizes = U32.write(128) + U32.write(128) + U32.write(0)
    aes = KeyParms(Algorithm.AES128, EncScheme.SYM_CTR, SigScheme.NONE, sizes)
    auth = [tpm.oiap(USAGE_AUTH)]
    tpm.call(start, identity, DIGEST, aes, auth=auth, code=RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.CHANGE_AUTH_ASYM_START)
def ephemeral_keys_with_two_faults(tpm: Script) -> None:
    identity, start = tpm.load("identity"), Ordinal.CHANGE_AUTH_ASYM_START
    parms = KeyParms.for_rsa(enc_scheme=1, bits=1024)
    # The kind of key is judged before its secret, that before the parameters.
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(start, tpm.load("sign"), DIGEST, parms, auth=[wrong], code=RC.INVALID_KEYUSAGE)
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(start, identity, DIGEST, parms, auth=[wrong], code=RC.AUTHFAIL)


@case(OWNED, Ordinal.CHANGE_AUTH_ASYM_START)
def an_ephemeral_key_that_finds_no_slot(tpm: Script) -> None:
    identity = tpm.load("identity")
    for _ in range(19):
        tpm.load("sign")
    parms = KeyParms.for_rsa(enc_scheme=3, bits=1024)
    values = (identity, DIGEST, parms)
    start = Ordinal.CHANGE_AUTH_ASYM_START
    tpm.call(start, *values, auth=[tpm.oiap(USAGE_AUTH)], code=RC.NOSPACE)


@case(OWNED, Ordinal.CHANGE_AUTH_ASYM_FINISH)
def a_secret_below_the_root_changes(tpm: Script) -> None:
    key = tpm.wrapped("sign")
    ephemeral = _ephemeral(tpm)
    finish = Ordinal.CHANGE_AUTH_ASYM_FINISH
    values = (SRK, ephemeral.handle, EntityType.KEY, DIGEST, bytes(128), key.enc_data)
    # The secret of the root is not enough, for it is known to many.
    tpm.call(finish, *values, auth=[tpm.oiap(SRK_AUTH)], code=RC.AUTHFAIL)
    enc_data = tpm.run(
        tss12.change_auth_asym_finish(
            SRK,
            ephemeral,
            key.enc_data,
            parent_auth=OWNER_AUTH,
            old_auth=USAGE_AUTH,
            new_auth=NEW_AUTH,
            random=tpm.random,
        )
    )
    changed = replace(key, enc_data=enc_data)
    handle = tpm.run(tss12.load_key2(SRK, changed, parent_auth=SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(NEW_AUTH)])


@case(OWNED, Ordinal.CHANGE_AUTH_ASYM_FINISH)
def a_secret_of_sealed_data_changes_unseen(tpm: Script) -> None:
    blob = tpm.run(
        tss12.seal(
            SRK,
            parent_auth=SRK_AUTH,
            blob_auth=USAGE_AUTH,
            data=b"sealed",
            pcr_info=None,
            random=tpm.random,
        )
    )
    ephemeral = _ephemeral(tpm)

    def change_and_unseal() -> Conversation[bytes]:
        enc_data = yield from tss12.change_auth_asym_finish(
            SRK,
            ephemeral,
            blob.enc_data,
            parent_auth=OWNER_AUTH,
            old_auth=USAGE_AUTH,
            new_auth=NEW_AUTH,
            random=tpm.random,
            entity_type=EntityType.DATA,
        )
        changed = replace(blob, enc_data=enc_data)
        unsealing = tss12.unseal(
            SRK, changed, parent_auth=SRK_AUTH, blob_auth=NEW_AUTH, random=tpm.random
        )
        return (yield from unsealing)

    assert tpm.run(change_and_unseal()) == b"sealed"


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def a_secret_changes_unseen_inside_of_a_transport_session(tpm: Script) -> None:
    key, parent = tpm.wrapped("sign"), tpm.load("storage")
    ephemeral = _ephemeral(tpm)
    session = tpm.run(
        tss12.establish_transport(
            TransportAttributes.ENCRYPT,
            random=tpm.random,
            enc_handle=parent,
            enc_key=tpm.wrapped("storage").public_key,
            key_auth=USAGE_AUTH,
        )
    )
    finish = tss12.change_auth_asym_finish(
        SRK,
        ephemeral,
        key.enc_data,
        parent_auth=OWNER_AUTH,
        old_auth=USAGE_AUTH,
        new_auth=NEW_AUTH,
        random=tpm.random,
    )
    tpm.run(tss12.through(session, finish))
