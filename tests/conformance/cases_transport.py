# SPDX-License-Identifier: Apache-2.0
"""Transport sessions (Part 3, chapter 24)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Algorithm, EncScheme, Ordinal, ResourceType, ReturnCode
from protocol.tpm12.transport import TransportAttributes, TransportPublic
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, SRK, USAGE_AUTH, Auth, Chapter, Script, message
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12
from tpmcore.tss12 import TransportSession

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
NONE: Final = TransportAttributes(0)
LOG: Final = TransportAttributes.LOG
ENCRYPT: Final = TransportAttributes.ENCRYPT
EXCLUSIVE: Final = TransportAttributes.EXCLUSIVE


def _open(
    tpm: Script,
    attributes: TransportAttributes = NONE,
    *,
    alg_id: Algorithm = Algorithm.MGF1,
    enc_scheme: EncScheme = EncScheme.NONE,
) -> TransportSession:
    key = tpm.load("storage")
    return tpm.run(
        tss12.establish_transport(
            attributes,
            random=tpm.random,
            enc_handle=key,
            enc_key=tpm.wrapped("storage").public_key,
            key_auth=USAGE_AUTH,
            alg_id=alg_id,
            enc_scheme=enc_scheme,
        )
    )


@case(OWNED, Ordinal.ESTABLISH_TRANSPORT, Ordinal.EXECUTE_TRANSPORT)
def commands_in_the_clear(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    masks = {"wrapped_rsp": bytes.hex}
    tpm.run(tss12.through(session, tss12.extend(3, DIGEST)), masks=masks)
    tpm.run(tss12.through(session, tss12.pcr_read(3)), masks=masks)
    read = tss12.through(session, tss12.pcr_read(99))
    tpm.fails(read, Ordinal.EXECUTE_TRANSPORT, RC.BADINDEX)
    tpm.run(tss12.through(session, tss12.get_random(20)))
    tpm.run(tss12.through(session, tss12.pcr_read(3), keep=False))
    read = tss12.through(session, tss12.pcr_read(3))
    tpm.fails(read, Ordinal.EXECUTE_TRANSPORT, RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.ESTABLISH_TRANSPORT, Ordinal.EXECUTE_TRANSPORT)
def commands_in_secret(tpm: Script) -> None:
    for algorithm, scheme in (
        (Algorithm.MGF1, EncScheme.NONE),
        (Algorithm.AES128, EncScheme.SYM_CTR),
        (Algorithm.AES128, EncScheme.SYM_OFB),
    ):
        session = _open(tpm, ENCRYPT, alg_id=algorithm, enc_scheme=scheme)
        tpm.run(tss12.through(session, tss12.pcr_read(3)))
        tpm.run(
            tss12.through(
                session,
                tss12.owner_set_disable(False, owner_auth=OWNER_AUTH, random=tpm.random),
            )
        )
        tpm.call(Ordinal.FLUSH_SPECIFIC, session.channel.handle, ResourceType.TRANS)


@case(OWNED, Ordinal.RELEASE_TRANSPORT_SIGNED)
def a_log_is_signed(tpm: Script) -> None:
    session = _open(tpm, LOG)
    tpm.run(tss12.through(session, tss12.pcr_read(3)))
    key = tpm.load("sign")
    tpm.run(
        tss12.release_transport_signed(
            session,
            key,
            tpm.wrapped("sign").public_key,
            anti_replay=DIGEST,
            key_auth=USAGE_AUTH,
        )
    )
    read = tss12.through(session, tss12.pcr_read(3))
    tpm.fails(read, Ordinal.EXECUTE_TRANSPORT, RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.RELEASE_TRANSPORT_SIGNED)
def logs_that_are_not_signed(tpm: Script) -> None:
    release = Ordinal.RELEASE_TRANSPORT_SIGNED
    key, bind, der = tpm.load("sign"), tpm.load("bind"), tpm.load("sign-der")

    def refused(
        handle: int, code: ReturnCode, attributes: TransportAttributes = LOG, **spoil: bool
    ) -> None:
        session = _open(tpm, attributes)
        channel = Auth(session.channel, session.auth_data, spoil=spoil.get("two", False))
        auth = [tpm.oiap(USAGE_AUTH, spoil=spoil.get("one", False)), channel]
        tpm.call(release, handle, DIGEST, auth=auth, code=code)

    refused(key, RC.AUTHFAIL, one=True)
    refused(key, RC.AUTH2FAIL, two=True)
    refused(key, RC.BAD_MODE, NONE)
    refused(bind, RC.INAPPROPRIATE_SIG)
    refused(der, RC.INAPPROPRIATE_SIG)
    refused(tpm.load("storage"), RC.INAPPROPRIATE_SIG)
    refused(7, RC.INVALID_KEYHANDLE)


@case(OWNED, Ordinal.ESTABLISH_TRANSPORT)
def sessions_that_cannot_be_established(tpm: Script) -> None:
    establish = Ordinal.ESTABLISH_TRANSPORT
    clear = TransportPublic(0, Algorithm.MGF1, EncScheme.NONE)
    encrypted = TransportPublic(ENCRYPT, Algorithm.MGF1, EncScheme.NONE)
    open_handle = 0x40000003
    tpm.call(establish, open_handle, encrypted, bytes(20), code=RC.BAD_SCHEME)
    tpm.call(establish, open_handle, clear, bytes(19), code=RC.BAD_PARAM_SIZE)
    tpm.call(establish, open_handle, clear, bytes(20), auth=[tpm.oiap()], code=RC.BADTAG)
    key, sign = tpm.load("storage"), tpm.load("sign")
    auth = [tpm.oiap(USAGE_AUTH)]
    tpm.call(establish, key, clear, bytes(256), auth=auth, code=RC.DECRYPT_ERROR)
    tpm.call(establish, key, clear, bytes(256), code=RC.AUTHFAIL)
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(establish, key, clear, bytes(256), auth=[wrong], code=RC.AUTHFAIL)
    auth = [tpm.oiap(USAGE_AUTH)]
    tpm.call(establish, sign, clear, bytes(128), auth=auth, code=RC.INVALID_KEYUSAGE)
    tpm.call(establish, 7, clear, bytes(128), code=RC.INVALID_KEYHANDLE)
    public = tpm.wrapped("storage").public_key
    secret = tss12.encrypt_oaep(public, b"\0\x1e" + bytes(20))
    auth = [tpm.oiap(USAGE_AUTH)]
    tpm.call(establish, key, clear, secret, auth=auth, code=RC.INVALID_STRUCTURE)
    secret = tss12.encrypt_oaep(public, b"\0\x1d" + bytes(20))
    for algorithm, scheme, code in (
        (Algorithm.SHA, EncScheme.NONE, RC.BAD_KEY_PROPERTY),
        (Algorithm.AES128, EncScheme.NONE, RC.INAPPROPRIATE_ENC),
    ):
        bad = TransportPublic(ENCRYPT, algorithm, scheme)
        auth = [tpm.oiap(USAGE_AUTH)]
        tpm.call(establish, key, bad, secret, auth=auth, code=code)


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def an_exclusive_session_ends_with_another_command(tpm: Script) -> None:
    session = _open(tpm, EXCLUSIVE)
    tpm.run(tss12.through(session, tss12.pcr_read(3)))
    tpm.call(Ordinal.PCR_READ, 3)
    read = tss12.through(session, tss12.pcr_read(3))
    tpm.fails(read, Ordinal.EXECUTE_TRANSPORT, RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def commands_that_cannot_be_wrapped(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    inner = tss12.establish_transport(NONE, random=tpm.random)
    wrapped = tss12.through(session, inner)
    tpm.fails(wrapped, Ordinal.EXECUTE_TRANSPORT, RC.NO_WRAP_TRANSPORT)


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def a_wrapped_command_with_a_wrong_hmac(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    read = message(Ordinal.PCR_READ, bytes(4))
    auth = Auth(session.channel, session.auth_data, spoil=True)
    tpm.call(Ordinal.EXECUTE_TRANSPORT, read, auth=[auth], code=RC.AUTHFAIL)


@case(OWNED, Ordinal.RELEASE_TRANSPORT_SIGNED)
def logs_signed_by_the_wrong_kind_of_key(tpm: Script) -> None:
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
    session = _open(tpm, LOG)
    auth = [tpm.oiap(USAGE_AUTH), Auth(session.channel, session.auth_data)]
    release = Ordinal.RELEASE_TRANSPORT_SIGNED
    tpm.call(release, identity, DIGEST, auth=auth, code=RC.INVALID_KEYUSAGE)
    session = _open(tpm, LOG)
    auth = [Auth(session.channel, session.auth_data)]
    tpm.call(release, tpm.load("sign"), DIGEST, auth=auth, code=RC.AUTHFAIL)
    session = _open(tpm, LOG)
    auth = [Auth(session.channel, session.auth_data)]
    tpm.call(release, tpm.load("sign-open"), DIGEST, auth=auth)
    auth = [Auth(session.channel, session.auth_data)]
    tpm.call(release, tpm.load("sign-open"), DIGEST, auth=auth, code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def wrapped_bytes_that_are_no_command(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    auth = Auth(session.channel, session.auth_data)
    tpm.call(Ordinal.EXECUTE_TRANSPORT, b"short", auth=[auth], code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def a_wrapped_ordinal_that_does_not_exist(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    auth = Auth(session.channel, session.auth_data)
    unknown = message(0x1234)
    tpm.call(Ordinal.EXECUTE_TRANSPORT, unknown, auth=[auth], code=RC.BAD_PARAMETER)
