# SPDX-License-Identifier: Apache-2.0
"""Sealing and binding (Part 3, chapter 10)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import Final

from protocol.tpm12.constants import (
    PCR_COUNT,
    AdipScheme,
    EncScheme,
    EntityType,
    Ordinal,
    PayloadType,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong, PcrSelection, composite_hash
from protocol.tpm12.stored import SealedData, StoredData
from protocol.tpm12.wire import SIZED, U32
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
from tpmcore.tpm12.primitives import aes128_ctr

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
def seal_errors(tpm: Script) -> None:
    _seal(tpm, b"", code=RC.BAD_PARAMETER)
    _seal(tpm, bytes(150), code=RC.BAD_DATASIZE)
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


def _wrongly_bound(*, old: bool) -> tuple[bytes, ...]:
    """Return PCR structures that do not parse, in the older or the newer form."""
    selection = PCR_16.encode()
    if old:
        info = PcrInfo(PCR_16, AT_RESET, bytes(20)).encode()
        return b"garbage", info[:-1], info + b"\0", b"\0\4" + bytes(4) + bytes(40)
    info = release_info().encode()
    return (
        info[:-1],
        info + b"\0",
        info[:2] + b"\0" + info[3:],  # localityAtCreation
        info[:3] + b"\0" + info[4:],  # localityAtRelease
        info[:3] + b"\x20" + info[4:],
        info[:4] + b"\0\4" + bytes(4) + selection + bytes(40),
        info[:4] + selection + b"\0\4" + bytes(4) + bytes(40),
    )


@case(OWNED, Ordinal.SEAL, Ordinal.SEALX)
def sealing_to_what_does_not_parse(tpm: Script) -> None:
    for old in (True, False):
        for info in _wrongly_bound(old=old):
            for ordinal in (Ordinal.SEAL, Ordinal.SEALX):
                _seal(tpm, info=info, ordinal=ordinal, code=RC.BADINDEX)


@case(OWNED, Ordinal.SEAL, Ordinal.SEALX)
def sealing_with_two_faults(tpm: Script) -> None:
    sign = tpm.load("sign")
    for ordinal in (Ordinal.SEAL, Ordinal.SEALX):
        wrong = tpm.osap_key(spoil=True)
        _seal(tpm, b"", ordinal=ordinal, auth=wrong, code=RC.AUTHFAIL)
        _seal(tpm, b"", ordinal=ordinal, parent=sign, code=RC.BAD_PARAMETER)
        _seal(tpm, info=b"garbage", ordinal=ordinal, parent=sign, code=RC.INVALID_KEYUSAGE)
        _seal(tpm, bytes(150), b"garbage", ordinal=ordinal, code=RC.BADINDEX)


@case(OWNED, Ordinal.SEAL, Ordinal.UNSEAL)
def sealing_to_selections_of_every_length(tpm: Script) -> None:
    for select in (b"", b"\0", b"\1", b"\1\0", b"\0\0\1"):
        selection = PcrSelection(select)
        digest = composite_hash(selection, [bytes(20)] * PCR_COUNT)
        for info in (
            PcrInfo(selection, digest, DIGEST),
            PcrInfoLong(2, 3, selection, selection, DIGEST, digest),
        ):
            _unseal(tpm, _made(_seal(tpm, info=info.encode())))
    info = PcrInfoLong(1, 0x1F, PCR_16, PcrSelection.of([16, 17]), DIGEST, DIGEST)
    _unseal(tpm, _made(_seal(tpm, info=info.encode())), RC.WRONGPCRVAL)


def _crypt(auth: Auth, nonce_even: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt the data of Sealx and Unseal under an AES session."""
    counter = hashlib.sha1(nonce_even + auth.nonce_odd).digest()[:16]
    return aes128_ctr(auth.session.shared_secret[:16], counter, data)


@case(OWNED, Ordinal.SEAL, Ordinal.SEALX, Ordinal.UNSEAL)
def sealing_under_aes_sessions(tpm: Script) -> None:
    data, nonce_odd = b"encrypted on its way, and more than one block long", bytes(range(20))
    for ordinal in (Ordinal.SEAL, Ordinal.SEALX):
        auth = tpm.osap(EntityType.SRK, SRK, SRK_AUTH, adip=AdipScheme.AES128_CTR)
        auth = replace(auth, nonce_odd=nonce_odd)
        sent = _crypt(auth, auth.session.nonce_even, data) if ordinal is Ordinal.SEALX else data
        values = (SRK, tpm.encrypt_aes(auth, BLOB_AUTH), NO_INFO, sent)
        blob = getattr(tpm.call(ordinal, *values, auth=[auth]), "sealed_data", None)
        parent = replace(tpm.osap_key(), nonce_odd=nonce_odd)
        # The blob says how its secret leaves, whatever the session's own scheme is.
        nonce = parent.session.nonce_even
        tpm.call(
            Ordinal.UNSEAL,
            SRK,
            blob,
            auth=[parent, tpm.oiap(BLOB_AUTH)],
            masks={"secret": partial(_crypt, parent, nonce)} if ordinal is Ordinal.SEALX else {},
        )


def _sealed_outside(
    tpm: Script, blob: StoredData, *, payload: int = PayloadType.SEAL, data: bytes = b"forged"
) -> StoredData:
    """Seal data as a client can, who knows the public key but not tpmProof."""
    plain = SealedData(payload, BLOB_AUTH, bytes(20), blob.stored_digest(), data)
    return replace(blob, enc_data=tss12.encrypt_oaep(tpm.public(), plain.encode()))


@case(OWNED, Ordinal.UNSEAL)
def unsealing_what_this_tpm_did_not_seal(tpm: Script) -> None:
    empty = StoredData(False, 0, None)
    _unseal(tpm, _sealed_outside(tpm, empty), RC.NOTSEALED_BLOB)
    # A key that cannot migrate has tpmProof where sealed data has it.
    _unseal(tpm, replace(empty, enc_data=tpm.wrapped("sign").enc_data), RC.NOTSEALED_BLOB)
    short = tss12.encrypt_oaep(tpm.public(), bytes([PayloadType.SEAL]) + bytes(20))
    _unseal(tpm, replace(empty, enc_data=short), RC.NOTSEALED_BLOB)
    blob = _made(_seal(tpm, info=PcrInfo(PCR_16, AT_RESET, bytes(20)).encode()))
    other = PcrInfo(PcrSelection.of([]), AT_RESET, bytes(20))
    _unseal(tpm, replace(blob, seal_info=other), RC.NOTSEALED_BLOB)
    _unseal(tpm, replace(blob, seal_info=None), RC.NOTSEALED_BLOB)
    blob = _made(_seal(tpm, info=release_info(DIGEST).encode()))
    _unseal(tpm, replace(blob, seal_info=release_info()), RC.NOTSEALED_BLOB)
    _unseal(tpm, replace(blob, entity_type=5), RC.NOTSEALED_BLOB)


@case(OWNED, Ordinal.UNSEAL)
def unsealing_with_a_session_that_is_wrong(tpm: Script) -> None:
    blob = _made(_seal(tpm))
    parent = tpm.oiap(SRK_AUTH)
    _unseal(tpm, blob, RC.INVALID_AUTHHANDLE, auth=[parent, tpm.no_session(BLOB_AUTH)])
    # The secret of a blob is in the blob, so a session cannot be bound to it.
    _unseal(tpm, blob, RC.BAD_MODE, auth=[tpm.oiap(SRK_AUTH), tpm.osap_key()])
    parent_handle = tpm.load("storage-open")
    open_blob = _made(_seal(tpm, parent=parent_handle))
    _unseal(tpm, open_blob, RC.BAD_MODE, parent=parent_handle, auth=[tpm.osap_key(parent_handle)])


@case(OWNED, Ordinal.UNSEAL)
def unsealing_what_sealx_made_without_a_session_that_encrypts(tpm: Script) -> None:
    parent = tpm.load("storage-open")
    blob = _made(_seal(tpm, parent=parent, ordinal=Ordinal.SEALX))
    _unseal(tpm, blob, RC.AUTHFAIL, parent=parent, auth=[tpm.oiap(BLOB_AUTH)])
    both = [tpm.oiap(USAGE_AUTH), tpm.oiap(BLOB_AUTH)]
    _unseal(tpm, blob, RC.BAD_MODE, parent=parent, auth=both)


@case(OWNED, Ordinal.UNSEAL)
def sessions_of_an_unseal_that_go_on(tpm: Script) -> None:
    for ordinal in (Ordinal.SEAL, Ordinal.SEALX):
        blob = _made(_seal(tpm, ordinal=ordinal))
        both = [tpm.osap_key(keep=True), replace(tpm.oiap(BLOB_AUTH), keep=True)]
        # What hides the secret of sealx is used up, so that session ends.
        tpm.call(Ordinal.UNSEAL, SRK, blob, auth=both, masks={"secret": len})
        code = RC.SUCCESS if ordinal is Ordinal.SEAL else RC.INVALID_AUTHHANDLE
        for auth, ends in zip(both, (code, RC.SUCCESS), strict=True):
            handle = auth.session.handle
            tpm.call(Ordinal.FLUSH_SPECIFIC, handle, ResourceType.AUTH, code=ends)


@case(OWNED, Ordinal.UNSEAL)
def unsealing_what_does_not_parse(tpm: Script) -> None:
    for head, info, code in (
        (b"\1\2\0\0", b"", RC.BAD_VERSION),
        (b"\1\1\0\0", PcrInfo(PCR_16, DIGEST, DIGEST).encode() + b"\0", RC.BAD_PARAM_SIZE),
        (b"\1\1\0\0", b"\0\4" + bytes(44), RC.INVALID_PCR_INFO),
        (b"\0\x16\0\0", b"\0\7" + release_info().encode()[2:], RC.INVALID_STRUCTURE),
        (b"\0\x16\0\0", release_info(localities=0).encode(), RC.INVALID_STRUCTURE),
        (b"\0\x16\0\0", release_info(localities=0x20).encode(), RC.INVALID_STRUCTURE),
    ):
        body = U32.write(SRK) + head + SIZED.write(info) + SIZED.write(bytes(256))
        both = [tpm.oiap(SRK_AUTH), tpm.oiap(BLOB_AUTH)]
        tpm.call(Ordinal.UNSEAL, body=body, auth=both, code=code)


@case(OWNED, Ordinal.UNSEAL)
def unsealing_with_two_faults(tpm: Script) -> None:
    sign, info = tpm.load("sign"), release_info(DIGEST, localities=2)
    bound = _made(_seal(tpm, info=info.encode()))
    spoiled = replace(bound, enc_data=bytes(256))
    wrong = tpm.oiap(SRK_AUTH, spoil=True)
    _unseal(tpm, spoiled, RC.AUTHFAIL, auth=[wrong, tpm.oiap(BLOB_AUTH, spoil=True)])
    _unseal(tpm, spoiled, RC.INVALID_KEYUSAGE, parent=sign)
    # The condition of the release before the secret, the PCRs before the locality.
    both = [tpm.oiap(SRK_AUTH), tpm.oiap(BLOB_AUTH, spoil=True)]
    _unseal(tpm, bound, RC.WRONGPCRVAL, auth=both)
    _unseal(tpm, bound, RC.WRONGPCRVAL)


@case(OWNED, Ordinal.UNBIND)
def unbinding_of_every_scheme(tpm: Script) -> None:
    for name in ("bind", "legacy-oaep", "bind-pkcs"):
        handle, public = tpm.load(name), tpm.wrapped(name).public_key
        for plain, code in (
            (b"\1\1\0\0\2bound", RC.SUCCESS),
            (b"\1\1\0\0\5bound", RC.INVALID_STRUCTURE),
            (b"\1\0\0\0\2bound", RC.BAD_VERSION),
            (b"\1\1\7\7\2", RC.SUCCESS),
        ):
            padded = public.algorithm_parms.enc_scheme == EncScheme.RSAESPKCSV15
            data = (
                encrypt_pkcs1v15(public.key, plain) if padded else tss12.encrypt_oaep(public, plain)
            )
            tpm.call(Ordinal.UNBIND, handle, data, auth=[tpm.oiap(USAGE_AUTH)], code=code)
    handle = tpm.load("bind-pkcs")
    auth = [tpm.oiap(USAGE_AUTH)]
    tpm.call(Ordinal.UNBIND, handle, bytes(128), auth=auth, code=RC.DECRYPT_ERROR)
    # What a legacy key got by PKCS#1 is given out as it is.
    handle, public = tpm.load("legacy"), tpm.wrapped("legacy").public_key
    for plain in (b"any", b"\1\1\0\0\5bound"):
        data = encrypt_pkcs1v15(public.key, plain)
        tpm.call(Ordinal.UNBIND, handle, data, auth=[tpm.oiap(USAGE_AUTH)])


@case(OWNED, Ordinal.UNBIND)
def unbinding_what_is_too_short(tpm: Script) -> None:
    handle, public = tpm.load("bind-open"), tpm.wrapped("bind-open").public_key
    tpm.call(
        Ordinal.UNBIND, handle, tss12.encrypt_oaep(public, b"\1\1\0\0"), code=RC.BAD_PARAM_SIZE
    )


@case(OWNED, Ordinal.UNBIND)
def unbinding_with_two_faults(tpm: Script) -> None:
    tpm.call(Ordinal.UNBIND, 99, b"", code=RC.BAD_PARAMETER)
    sign = tpm.load("sign")
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(Ordinal.UNBIND, sign, bytes(128), auth=[wrong], code=RC.AUTHFAIL)
    right = tpm.oiap(USAGE_AUTH)
    tpm.call(Ordinal.UNBIND, sign, bytes(128), auth=[right], code=RC.INVALID_KEYUSAGE)
