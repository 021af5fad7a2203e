# SPDX-License-Identifier: Apache-2.0
"""Transport sessions (Part 3, chapter 24)."""

from __future__ import annotations

from typing import Final, TypeVar

from protocol.tpm12.constants import (
    Algorithm,
    EncScheme,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    Tag,
)
from protocol.tpm12.transport import TransportAttributes, TransportPublic
from protocol.tpm12.wire import SIZED, U32
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, USAGE_AUTH, Auth, Chapter, Script, message
from tests.unit.tpm12.keychain import encrypt_pkcs1v15
from tests.unit.tpm12.world import OWNER_AUTH
from tpmcore import tss12
from tpmcore.tss12 import TransportSession

T = TypeVar("T")

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
NONE: Final = TransportAttributes(0)
LOG: Final = TransportAttributes.LOG
ENCRYPT: Final = TransportAttributes.ENCRYPT
EXCLUSIVE: Final = TransportAttributes.EXCLUSIVE


def open_transport(
    tpm: Script,
    attributes: TransportAttributes = NONE,
    *,
    alg_id: Algorithm = Algorithm.MGF1,
    enc_scheme: EncScheme = EncScheme.NONE,
) -> TransportSession:
    """Open a session whose secret is encrypted with a key."""
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
        session = open_transport(tpm, ENCRYPT, alg_id=algorithm, enc_scheme=scheme)
        tpm.run(tss12.through(session, tss12.pcr_read(3)))
        tpm.run(
            tss12.through(
                session,
                tss12.owner_set_disable(False, owner_auth=OWNER_AUTH, random=tpm.random),
            )
        )
        tpm.call(Ordinal.FLUSH_SPECIFIC, session.channel.handle, ResourceType.TRANS)


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
    session = open_transport(tpm, EXCLUSIVE)
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


@case(OWNED, Ordinal.ESTABLISH_TRANSPORT)
def a_session_for_a_key_with_two_faults(tpm: Script) -> None:
    establish = Ordinal.ESTABLISH_TRANSPORT
    clear = TransportPublic(0, Algorithm.MGF1, EncScheme.NONE)
    # The use of the key is judged before its secret, and that before what it decrypts.
    sign = tpm.load("sign")
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(establish, sign, clear, bytes(128), auth=[wrong], code=RC.INVALID_KEYUSAGE)


@case(OWNED, Ordinal.ESTABLISH_TRANSPORT)
def sessions_with_schemes_that_are_not_there(tpm: Script) -> None:
    establish = Ordinal.ESTABLISH_TRANSPORT
    key = tpm.load("storage-open")
    secret = tss12.encrypt_oaep(tpm.wrapped("storage-open").public_key, b"\0\x1d" + bytes(20))
    for algorithm, scheme, code in (
        (Algorithm.MGF1, EncScheme.SYM_CTR, RC.INAPPROPRIATE_ENC),
        (Algorithm.AES128, EncScheme.RSAESPKCSV15, RC.INAPPROPRIATE_ENC),
        (Algorithm.RSA, EncScheme.NONE, RC.BAD_KEY_PROPERTY),
        (0x77, EncScheme.NONE, RC.BAD_KEY_PROPERTY),
    ):
        tpm.call(establish, key, TransportPublic(ENCRYPT, algorithm, scheme), secret, code=code)
        # What is not encrypted needs no scheme.
        tpm.call(establish, key, TransportPublic(0, algorithm, scheme), secret)
    body = U32.write(key) + b"\0\x1d" + bytes(10) + SIZED.write(secret)
    tpm.call(establish, body=body, code=RC.INVALID_STRUCTURE)
    # The secret is decrypted before the scheme is looked at.
    bad = TransportPublic(ENCRYPT, Algorithm.SHA, EncScheme.NONE)
    tpm.call(establish, key, bad, bytes(256), code=RC.DECRYPT_ERROR)


@case(OWNED, Ordinal.ESTABLISH_TRANSPORT)
def sessions_for_keys_of_every_kind(tpm: Script) -> None:
    clear = TransportPublic(0, Algorithm.MGF1, EncScheme.NONE)
    secret = b"\0\x1d" + USAGE_AUTH
    for name, auth in (("storage-open", None), ("storage", "oiap"), ("legacy-oaep", "osap")):
        key, public = tpm.load(name), tpm.wrapped(name).public_key
        blocks = []
        if auth == "oiap":
            blocks = [tpm.oiap(USAGE_AUTH)]
        elif auth == "osap":
            blocks = [tpm.osap_key(key, USAGE_AUTH)]
        values = (key, clear, tss12.encrypt_oaep(public, secret))
        tpm.call(Ordinal.ESTABLISH_TRANSPORT, *values, auth=blocks)
    key, public = tpm.load("legacy"), tpm.wrapped("legacy").public_key
    values = (key, clear, encrypt_pkcs1v15(public.key, secret))
    tpm.call(Ordinal.ESTABLISH_TRANSPORT, *values, auth=[tpm.oiap(USAGE_AUTH)])


@case(OWNED, Ordinal.ESTABLISH_TRANSPORT)
def sessions_until_there_is_no_transport_slot(tpm: Script) -> None:
    opening = Ordinal.ESTABLISH_TRANSPORT
    clear = TransportPublic(0, Algorithm.MGF1, EncScheme.NONE)
    values = (ReservedHandle.TRANSPORT, clear, bytes(20))
    for _ in range(16):
        tpm.call(opening, *values)
    tpm.call(opening, *values, code=RC.RESOURCES)
    # They are no authorization sessions.
    tpm.call(Ordinal.OIAP)


@case(OWNED, Ordinal.ESTABLISH_TRANSPORT)
def sessions_with_attributes_that_are_none(tpm: Script) -> None:
    public = TransportPublic(0xFFFFFFF8, Algorithm.MGF1, EncScheme.NONE)
    tpm.call(Ordinal.ESTABLISH_TRANSPORT, ReservedHandle.TRANSPORT, public, bytes(20))


# --- what is wrapped ------------------------------------------------------------------------------


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def commands_that_do_not_nest(tpm: Script) -> None:
    for ordinal in (Ordinal.ESTABLISH_TRANSPORT, Ordinal.EXECUTE_TRANSPORT):
        session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
        wrapped = tss12.execute_transport(session, message(ordinal, bytes(40)))
        tpm.fails(wrapped, Ordinal.EXECUTE_TRANSPORT, RC.NO_WRAP_TRANSPORT)
        over(tpm, session)


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def a_session_is_not_released_inside(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    release = message(Ordinal.RELEASE_TRANSPORT_SIGNED, bytes(40))
    wrapped = tss12.execute_transport(session, release)
    tpm.fails(wrapped, Ordinal.EXECUTE_TRANSPORT, RC.NO_WRAP_TRANSPORT)
    over(tpm, session)


def over(tpm: Script, session: TransportSession) -> None:
    """Require that a session is not there any more."""
    handle = session.channel.handle
    code = RC.INVALID_AUTHHANDLE
    tpm.call(Ordinal.FLUSH_SPECIFIC, handle, ResourceType.TRANS, code=code)


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def the_state_is_not_saved_inside(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    masks = {"wrapped_rsp": bytes.hex}
    command = message(Ordinal.SAVE_STATE)
    response = tpm.run(tss12.execute_transport(session, command), masks=masks)
    assert response == message(RC.NO_WRAP_TRANSPORT, tag=Tag.RSP_COMMAND)
    # That was an answer of the command inside, so the session goes on.
    tpm.run(tss12.through(session, tss12.pcr_read(3)))


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def errors_inside_and_outside(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    masks = {"wrapped_rsp": bytes.hex}
    for command in (
        message(Ordinal.PCR_READ, U32.write(99)),
        message(Ordinal.PCR_READ, bytes(5)),
        message(Ordinal.STARTUP, b"\0\1"),
        message(Ordinal.OWNER_READ_PUBEK),
        message(Ordinal.OWNER_READ_PUBEK, bytes(45), Tag.RQU_AUTH1_COMMAND),
        message(Ordinal.GET_PUB_KEY, U32.write(7)),
    ):
        tpm.run(tss12.execute_transport(session, command), masks=masks)
    read = message(Ordinal.PCR_READ, bytes(4))
    other = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    tpm.call(Ordinal.EXECUTE_TRANSPORT, read, auth=[tpm.no_session()], code=RC.INVALID_AUTHHANDLE)
    tpm.run(tss12.through(session, tss12.pcr_read(3)))
    tpm.run(tss12.through(other, tss12.pcr_read(3)))


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def an_authorization_session_for_a_transport_session(tpm: Script) -> None:
    read = message(Ordinal.PCR_READ, bytes(4))
    tpm.call(Ordinal.EXECUTE_TRANSPORT, read, auth=[tpm.oiap()], code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def a_logged_command_with_a_key_that_is_not_there(tpm: Script) -> None:
    session = open_transport(tpm, LOG)
    session.keys[7] = tpm.wrapped("sign").public_key
    wrapped = tss12.execute_transport(session, message(Ordinal.GET_PUB_KEY, U32.write(7)))
    tpm.fails(wrapped, Ordinal.EXECUTE_TRANSPORT, RC.INVALID_KEYHANDLE)
    over(tpm, session)


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def sessions_that_end_from_inside(tpm: Script) -> None:
    for attributes in (NONE, LOG, EXCLUSIVE):
        session = open_transport(tpm, attributes)
        flush = tss12.flush_specific(session.channel.handle, ResourceType.TRANS)
        tpm.run(tss12.through(session, flush))
        assert not session.channel.is_open
        over(tpm, session)
    session = open_transport(tpm, ENCRYPT)
    clearing = tss12.owner_clear(owner_auth=OWNER_AUTH, random=tpm.random)
    tpm.run(tss12.through(session, clearing))
    assert not session.channel.is_open
    over(tpm, session)


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def a_command_that_is_repeated_inside(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    tpm.run(tss12.through(session, tss12.pcr_read(3), keep=True))
    tpm.raw(tpm.log[-1].command, code=RC.AUTHFAIL)
    over(tpm, session)


@case(OWNED, Ordinal.SHA1_START, Ordinal.SHA1_UPDATE)
def a_hash_stays_on_its_side(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    start, update, complete = tss12.sha1_start, tss12.sha1_update, tss12.sha1_complete
    tpm.run(tss12.through(session, start()))
    tpm.run(tss12.through(session, update(bytes(64))))
    tpm.run(tss12.through(session, complete(b"x")))
    tpm.run(tss12.through(session, start()))
    tpm.call(Ordinal.SHA1_UPDATE, bytes(64), code=RC.SHA_THREAD)
    tpm.call(Ordinal.SHA1_START)
    tpm.fails(tss12.through(session, update(bytes(64))), Ordinal.EXECUTE_TRANSPORT, RC.SHA_THREAD)
    tpm.call(Ordinal.SHA1_START)
    # What is wrapped decides, not what wraps it.
    tpm.run(tss12.through(session, tss12.pcr_read(3)))
    tpm.call(Ordinal.SHA1_UPDATE, bytes(64), code=RC.SHA_THREAD)


@case(OWNED, Ordinal.EXECUTE_TRANSPORT)
def wrapped_headers_that_are_wrong(tpm: Script) -> None:
    read = message(Ordinal.PCR_READ, bytes(4))
    for wrapped in (
        message(Ordinal.PCR_READ, bytes(4), 0x00C4),
        read[:2] + U32.write(15) + read[6:],
        read[:2] + U32.write(13) + read[6:],
        message(Ordinal.GET_PUB_KEY, b"\0\0"),
        message(Ordinal.OWNER_READ_PUBEK, bytes(44), Tag.RQU_AUTH1_COMMAND),
    ):
        session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
        auth = Auth(session.channel, session.auth_data)
        tpm.call(Ordinal.EXECUTE_TRANSPORT, wrapped, auth=[auth], code=RC.BAD_PARAMETER)
        over(tpm, session)


# --- the exclusive session ------------------------------------------------------------------------


@case(OWNED, Ordinal.EXECUTE_TRANSPORT, Ordinal.ESTABLISH_TRANSPORT)
def what_ends_an_exclusive_session(tpm: Script) -> None:
    other = open_transport(tpm, NONE)

    def by_establishing() -> None:
        tpm.run(tss12.establish_transport(NONE, random=tpm.random))

    def by_another_session() -> None:
        tpm.run(tss12.through(other, tss12.pcr_read(3)))

    def by_an_unknown_ordinal() -> None:
        tpm.raw(message(0x1234), code=RC.BAD_ORDINAL)

    def by_the_hash_sequence() -> None:
        tpm.machine.hash_start()
        tpm.machine.hash_end(b"measured")

    for end in (by_establishing, by_another_session, by_an_unknown_ordinal, by_the_hash_sequence):
        session = tpm.run(tss12.establish_transport(EXCLUSIVE, random=tpm.random))
        tpm.run(tss12.through(session, tss12.pcr_read(3)))
        end()
        read = tss12.execute_transport(session, message(Ordinal.PCR_READ, bytes(4)))
        tpm.fails(read, Ordinal.EXECUTE_TRANSPORT, RC.INVALID_AUTHHANDLE)
    first = tpm.run(tss12.establish_transport(EXCLUSIVE, random=tpm.random))
    second = tpm.run(tss12.establish_transport(EXCLUSIVE, random=tpm.random))
    tpm.run(tss12.through(second, tss12.pcr_read(3)))
    read = tss12.execute_transport(first, message(Ordinal.PCR_READ, bytes(4)))
    tpm.fails(read, Ordinal.EXECUTE_TRANSPORT, RC.INVALID_AUTHHANDLE)
    # Which named another session, and ended the second.
    over(tpm, second)
