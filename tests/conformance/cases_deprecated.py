# SPDX-License-Identifier: Apache-2.0
"""Deprecated commands without a chapter of their own: the register of TPM 1.1 and the old LoadKey
(Part 3, 27.3 and 27.5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode, Tag
from protocol.tpm12.framing import HEADER_BYTES
from protocol.tpm12.keys import Key, KeyParms
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, SRK, USAGE_AUTH, Chapter, Script, message
from tests.unit.tpm12.world import SRK_AUTH

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
UNOWNED, OWNED = World.UNOWNED, World.OWNED
WRITE, READ = Ordinal.DIR_WRITE_AUTH, Ordinal.DIR_READ


@case(UNOWNED, WRITE, READ)
def the_register_without_an_owner(tpm: Script) -> None:
    tpm.call(READ, 0)
    tpm.call(WRITE, 0, DIGEST, auth=[tpm.oiap()], code=RC.AUTHFAIL)
    tpm.call(READ, 0)


@case(OWNED, WRITE, READ)
def the_register_outlives_its_owner(tpm: Script) -> None:
    for index in (1, 0xFFFFFFFF):
        tpm.call(READ, index, code=RC.BADINDEX)
    # The owner is judged before the index.
    tpm.call(WRITE, 1, DIGEST, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(WRITE, 0, DIGEST, auth=[tpm.no_session()], code=RC.INVALID_AUTHHANDLE)
    tpm.call(WRITE, 0, DIGEST, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    tpm.call(WRITE, 0, DIGEST, auth=[tpm.osap_owner()])
    tpm.call(READ, 0)
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap()])
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(READ, 0)


@case(OWNED, Ordinal.LOAD_KEY)
def loading_in_the_old_form_what_is_wrong(tpm: Script) -> None:
    key = tpm.wrapped("sign")
    flipped = bytes((key.enc_data[0] ^ 1, *key.enc_data[1:]))

    def load(value: Key, code: ReturnCode, parent: int = SRK) -> None:
        secret = SRK_AUTH if parent == SRK else USAGE_AUTH
        tpm.call(Ordinal.LOAD_KEY, parent, value, auth=[tpm.oiap(secret)], code=code)

    tpm.call(Ordinal.LOAD_KEY, SRK, key, code=RC.AUTHFAIL)
    load(replace(key, enc_data=flipped), RC.DECRYPT_ERROR)
    load(replace(key, enc_data=b""), RC.DECRYPT_ERROR)
    load(key, RC.DECRYPT_ERROR, parent=tpm.load("storage"))
    load(key, RC.INVALID_KEYUSAGE, parent=tpm.load("sign"))
    load(replace(key, auth_data_usage=0), RC.AUTHFAIL)
    load(replace(key, key_flags=2), RC.AUTHFAIL)
    load(replace(key, algorithm_parms=KeyParms.for_rsa(bits=1024)), RC.BAD_KEY_PROPERTY)
    load(replace(key, pub_key=tpm.wrapped("sign-der").pub_key), RC.BAD_PARAMETER)
    # The parent's use is judged before the properties, these before what is encrypted.
    unfit = replace(key, algorithm_parms=KeyParms.for_rsa(bits=1024), enc_data=flipped)
    load(unfit, RC.INVALID_KEYUSAGE, parent=tpm.load("bind"))
    load(unfit, RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.LOAD_KEY)
def keys_in_the_old_form_until_there_is_no_slot(tpm: Script) -> None:
    key = tpm.wrapped("sign")
    handles = [tpm.load("sign") for _ in range(20)]
    tpm.call(Ordinal.LOAD_KEY, SRK, key, auth=[tpm.oiap(SRK_AUTH)], code=RC.NOSPACE)
    tpm.call(Ordinal.EVICT_KEY, handles[3])
    loaded = tpm.call(Ordinal.LOAD_KEY, SRK, key, auth=[tpm.oiap(SRK_AUTH)])
    handle = getattr(loaded, "inkey_handle", 0)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])


@case(UNOWNED)
def deleted_ordinals_with_sessions(tpm: Script) -> None:
    for tag in (Tag.RQU_AUTH1_COMMAND, Tag.RQU_AUTH2_COMMAND):
        command = message(Ordinal.CERTIFY_SELF_TEST, bytes(90), tag)
        assert len(tpm.raw(command, code=RC.BAD_ORDINAL)) == HEADER_BYTES


@case(OWNED, Ordinal.EVICT_KEY)
def evicting_what_is_no_loaded_key(tpm: Script) -> None:
    for handle in (0x99, SRK, 0x40000006, 0x40000001):
        tpm.call(Ordinal.EVICT_KEY, handle, code=RC.INVALID_KEYHANDLE)
