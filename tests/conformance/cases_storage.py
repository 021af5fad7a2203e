# SPDX-License-Identifier: Apache-2.0
"""Sealing and binding (Part 3, chapter 10)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.pcr import PcrInfo
from protocol.tpm12.stored import StoredData
from tests.conformance.machines import World
from tests.conformance.script import (
    AT_RESET,
    DIGEST,
    PCR_16,
    SRK,
    USAGE_AUTH,
    Auth,
    Chapter,
    Script,
    release_info,
)
from tests.unit.tpm12.keychain import encrypt_pkcs1v15
from tests.unit.tpm12.world import SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
BLOB_AUTH: Final = b"secret of the blob--"
NO_INFO: Final = b""


def _seal(
    tpm: Script,
    data: bytes = b"the secret",
    info: bytes = NO_INFO,
    *,
    parent: int = SRK,
    auth: Auth | None = None,
    code: ReturnCode = RC.SUCCESS,
    ordinal: Ordinal = Ordinal.SEAL,
) -> StoredData | None:
    auth = auth or tpm.osap_key(parent, SRK_AUTH if parent == SRK else USAGE_AUTH)
    secret = tpm.encrypt(auth, BLOB_AUTH) if auth.session.shared_secret else BLOB_AUTH
    response = tpm.call(ordinal, parent, secret, info, data, auth=[auth], code=code)
    blob = getattr(response, "sealed_data", None)
    assert blob is None or isinstance(blob, StoredData)
    return blob


def _unseal(
    tpm: Script,
    blob: StoredData,
    code: ReturnCode = RC.SUCCESS,
    *,
    parent: int = SRK,
    auth: list[Auth] | None = None,
) -> None:
    if auth is None:
        auth = [
            tpm.oiap(SRK_AUTH if parent == SRK else USAGE_AUTH),
            tpm.oiap(BLOB_AUTH),
        ]
    tpm.call(Ordinal.UNSEAL, parent, blob, auth=auth, code=code)


def _made(blob: StoredData | None) -> StoredData:
    assert blob is not None
    return blob


@case(OWNED, Ordinal.SEAL, Ordinal.UNSEAL)
def sealing_and_unsealing(tpm: Script) -> None:
    for data in (b"x", bytes(149)):
        _unseal(tpm, _made(_seal(tpm, data)))
    _seal(tpm, bytes(150), code=RC.BAD_DATASIZE)
    _seal(tpm, b"", code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.SEAL, Ordinal.UNSEAL)
def sealing_to_pcrs_in_the_old_form(tpm: Script) -> None:
    info = PcrInfo(PCR_16, AT_RESET, bytes(20))
    blob = _made(_seal(tpm, info=info.encode()))
    _unseal(tpm, blob)
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    _unseal(tpm, blob, RC.WRONGPCRVAL)
    tpm.call(Ordinal.PCR_RESET, PCR_16)
    _unseal(tpm, blob)


@case(OWNED, Ordinal.SEAL, Ordinal.UNSEAL)
def sealing_to_pcrs_and_localities(tpm: Script) -> None:
    blob = _made(_seal(tpm, info=release_info(localities=0x02).encode()))
    _unseal(tpm, blob, RC.BAD_LOCALITY)
    tpm.locality = 1
    _unseal(tpm, blob)
    tpm.locality = 0
    _seal(tpm, info=b"garbage", code=RC.BADINDEX)
    _unseal(tpm, _made(_seal(tpm, info=release_info(DIGEST).encode())), RC.WRONGPCRVAL)


@case(OWNED, Ordinal.SEAL)
def sealing_with_the_wrong_key_or_session(tpm: Script) -> None:
    _seal(tpm, auth=tpm.osap_key(spoil=True), code=RC.AUTHFAIL)
    _seal(tpm, auth=tpm.oiap(SRK_AUTH), code=RC.BAD_MODE)
    _seal(tpm, auth=tpm.osap_owner(), code=RC.AUTHFAIL)
    _seal(tpm, parent=tpm.load("sign"), code=RC.INVALID_KEYUSAGE)
    _seal(tpm, parent=tpm.load("storage-migratable"), code=RC.INVALID_KEYUSAGE)
    _seal(tpm, parent=0x55, auth=tpm.osap_key(), code=RC.INVALID_KEYHANDLE)
    for handle in range(0x40000001, 0x40000006):
        _seal(tpm, parent=handle, auth=tpm.osap_key(), code=RC.INVALID_RESOURCE)
    _seal(tpm, parent=0x40000006, auth=tpm.osap_key(), code=RC.KEYNOTFOUND)


@case(OWNED, Ordinal.UNSEAL)
def unsealing_what_is_wrong(tpm: Script) -> None:
    blob = _made(_seal(tpm))
    flipped = bytes((blob.enc_data[0] ^ 1, *blob.enc_data[1:]))
    _unseal(tpm, replace(blob, enc_data=flipped), RC.NOTSEALED_BLOB)
    _unseal(tpm, replace(blob, enc_data=b"short"), RC.NOTSEALED_BLOB)
    _unseal(tpm, blob, RC.AUTHFAIL, auth=[tpm.oiap(SRK_AUTH, spoil=True), tpm.oiap(BLOB_AUTH)])
    _unseal(tpm, blob, RC.AUTH2FAIL, auth=[tpm.oiap(SRK_AUTH), tpm.oiap(BLOB_AUTH, spoil=True)])
    _unseal(tpm, blob, RC.AUTHFAIL, auth=[tpm.oiap(BLOB_AUTH)])
    _unseal(tpm, blob, RC.INVALID_KEYUSAGE, parent=tpm.load("sign"))
    _unseal(tpm, blob, RC.INVALID_KEYUSAGE, parent=tpm.load("storage-migratable"))
    _unseal(tpm, blob, RC.NOTSEALED_BLOB, parent=tpm.load("storage"))
    info = release_info()
    _unseal(tpm, replace(blob, is_12=True, seal_info=info), RC.NOTSEALED_BLOB)


@case(OWNED, Ordinal.UNSEAL)
def unsealing_what_is_neither_form(tpm: Script) -> None:
    blob = _made(_seal(tpm)).encode()
    body = SRK.to_bytes(4, "big") + b"\0\x99" + blob[2:]
    tpm.call(
        Ordinal.UNSEAL,
        body=body,
        auth=[tpm.oiap(SRK_AUTH), tpm.oiap(BLOB_AUTH)],
        code=RC.BAD_VERSION,
    )


@case(OWNED, Ordinal.SEAL, Ordinal.UNSEAL)
def sealing_below_a_key_that_needs_no_secret(tpm: Script) -> None:
    parent = tpm.load("storage-open")
    blob = _made(_seal(tpm, parent=parent))
    _unseal(tpm, blob, parent=parent, auth=[tpm.oiap(BLOB_AUTH)])


@case(OWNED, Ordinal.UNSEAL)
def unsealing_with_one_wrong_session(tpm: Script) -> None:
    parent = tpm.load("storage-open")
    blob = _made(_seal(tpm, parent=parent))
    _unseal(tpm, blob, RC.AUTHFAIL, parent=parent, auth=[tpm.oiap(BLOB_AUTH, spoil=True)])


@case(OWNED, Ordinal.SEALX, Ordinal.UNSEAL)
def sealx_and_back(tpm: Script) -> None:
    for info in (None, release_info()):
        blob = tpm.run(
            tss12.sealx(
                SRK,
                parent_auth=SRK_AUTH,
                blob_auth=BLOB_AUTH,
                data=b"hidden on its way",
                pcr_info=info,
                random=tpm.random,
            )
        )
        tpm.run(
            tss12.unseal(SRK, blob, parent_auth=SRK_AUTH, blob_auth=BLOB_AUTH, random=tpm.random),
            masks={"secret": len},
        )
        _unseal(tpm, blob, RC.BAD_MODE)
        _unseal(tpm, blob, RC.AUTHFAIL, auth=[tpm.oiap(BLOB_AUTH)])


@case(OWNED, Ordinal.SEALX)
def sealx_errors(tpm: Script) -> None:
    sealx = Ordinal.SEALX
    _seal(tpm, b"", ordinal=sealx, code=RC.BAD_PARAMETER)
    _seal(tpm, info=PcrInfo(PCR_16, AT_RESET, bytes(20)).encode(), ordinal=sealx, code=RC.BADINDEX)
    _seal(tpm, bytes(150), ordinal=sealx, code=RC.BAD_DATASIZE)
    _seal(tpm, ordinal=sealx, auth=tpm.osap_key(spoil=True), code=RC.AUTHFAIL)
    _seal(tpm, ordinal=sealx, auth=tpm.oiap(SRK_AUTH), code=RC.BAD_MODE)
    _seal(tpm, ordinal=sealx, parent=tpm.load("sign"), code=RC.INVALID_KEYUSAGE)
    _seal(tpm, ordinal=sealx, parent=tpm.load("storage-migratable"), code=RC.INVALID_KEYUSAGE)


@case(OWNED, Ordinal.UNBIND)
def unbinding(tpm: Script) -> None:
    for name in ("bind", "bind-pkcs", "legacy"):
        handle = tpm.load(name)
        public = tpm.wrapped(name).public_key
        bound = tss12.bind(public, b"bound")
        if name != "bind":
            bound = encrypt_pkcs1v15(public.key, b"\1\1\0\0\2bound")
        tpm.call(Ordinal.UNBIND, handle, bound, auth=[tpm.oiap(USAGE_AUTH)])
        wrong = tpm.oiap(USAGE_AUTH, spoil=True)
        tpm.call(Ordinal.UNBIND, handle, bound, auth=[wrong], code=RC.AUTHFAIL)
        tpm.call(Ordinal.UNBIND, handle, bound, code=RC.AUTHFAIL)
        tpm.call(Ordinal.UNBIND, handle, b"", auth=[tpm.oiap(USAGE_AUTH)], code=RC.BAD_PARAMETER)
    handle = tpm.load("bind-open")
    bound = tss12.bind(tpm.wrapped("bind-open").public_key, b"bound")
    tpm.call(Ordinal.UNBIND, handle, bound)


@case(OWNED, Ordinal.UNBIND)
def unbinding_what_is_wrong(tpm: Script) -> None:
    handle = tpm.load("bind-open")
    public = tpm.wrapped("bind-open").public_key
    tpm.call(Ordinal.UNBIND, handle, bytes(128), code=RC.DECRYPT_ERROR)
    tpm.call(Ordinal.UNBIND, handle, b"short", code=RC.DECRYPT_ERROR)
    for plain, code in (
        (b"\1\2\0\0\2data", RC.BAD_VERSION),
        (b"\1\1\0\0\1data", RC.INVALID_STRUCTURE),
        (b"\1\1\0\0\2", RC.SUCCESS),
    ):
        tpm.call(Ordinal.UNBIND, handle, tss12.encrypt_oaep(public, plain), code=code)
    sign = tpm.load("sign-open")
    tpm.call(Ordinal.UNBIND, sign, bytes(128), code=RC.INVALID_KEYUSAGE)
    tpm.call(Ordinal.UNBIND, 99, bytes(128), code=RC.INVALID_KEYHANDLE)
