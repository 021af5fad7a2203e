# SPDX-License-Identifier: Apache-2.0
"""How sessions are used: nonces, the continue flag, when they end, what they are bound to, and how
secrets are encrypted under them (Part 1, authorization protocols and ADIP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import (
    AdipScheme,
    EntityType,
    MigrationScheme,
    NvAttributes,
    NvIndex,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    SetCapabilityArea,
    StartupType,
    Tag,
)
from protocol.tpm12.delegation import FamilyOperation
from protocol.tpm12.keys import Key
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection
from protocol.tpm12.resources import NvAttributesWord, NvDataPublic
from protocol.tpm12.transport import TransportAttributes
from protocol.tpm12.wire import U32
from tests.conformance.machines import World
from tests.conformance.script import (
    DIGEST,
    KEYS,
    MIGRATION_AUTH,
    SRK,
    USAGE_AUTH,
    Auth,
    Chapter,
    Script,
    message,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12
from tpmcore.tpm12.primitives import aes128_ctr

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
NEW_AUTH: Final = b"another secret------"
COUNTER_AUTH: Final = b"secret of a counter-"
AREA_AUTH: Final = b"secret of the area--"
AREA: Final = 0x00012345
READ_PUBEK: Final = Ordinal.OWNER_READ_PUBEK


def _gone(tpm: Script, *auths: Auth) -> None:
    """Require that sessions are not there any more."""
    for auth in auths:
        tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle, code=RC.INVALID_AUTHHANDLE)


def _there(tpm: Script, *auths: Auth) -> None:
    """Require that sessions are there, and end them."""
    for auth in auths:
        tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle)


def _block(auth: Auth) -> bytes:
    """Return an authorization block of a session whose HMAC is of no account."""
    return U32.write(auth.session.handle) + bytes(20) + b"\1" + bytes(20)


def _area(size: int = 8) -> NvDataPublic:
    anywhere = PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))
    attributes = NvAttributesWord(NvAttributes.AUTHREAD | NvAttributes.AUTHWRITE)
    return NvDataPublic(AREA, anywhere, anywhere, attributes, False, False, False, size)


def _encrypt_aes(auth: Auth, secret: bytes, *, nonce: bytes = b"") -> bytes:
    """Encrypt a secret with AES, with the last nonce of the TPM or another one."""
    counter = (nonce or auth.session.nonce_even)[:16]
    return aes128_ctr(auth.session.shared_secret[:16], counter, secret)


def _make_counter(tpm: Script) -> None:
    auth = tpm.osap_owner()
    tpm.call(Ordinal.CREATE_COUNTER, tpm.encrypt(auth, COUNTER_AUTH), b"abcd", auth=[auth])


# --- nonces and the continue flag -----------------------------------------------------------------


@case(OWNED, Ordinal.OWNER_READ_PUBEK)
def commands_that_are_refused_before_their_session_is_looked_at(tpm: Script) -> None:
    auth = tpm.oiap(keep=True)
    block = _block(auth)
    # Too many bytes, too few, a wrong tag, and a state in which the command is refused.
    long = message(READ_PUBEK, block + b"\0", Tag.RQU_AUTH1_COMMAND)
    tpm.raw(long, code=RC.BAD_PARAM_SIZE)
    tpm.raw(message(READ_PUBEK, block[:-1], Tag.RQU_AUTH1_COMMAND), code=RC.BAD_PARAM_SIZE)
    tpm.raw(message(READ_PUBEK, block * 2, Tag.RQU_AUTH2_COMMAND), code=RC.BADTAG)
    tpm.call(Ordinal.OWNER_SET_DISABLE, True, auth=[auth])
    tpm.raw(message(READ_PUBEK, block, Tag.RQU_AUTH1_COMMAND), code=RC.DISABLED)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[auth])
    tpm.call(READ_PUBEK, auth=[auth])
    _there(tpm, auth)


@case(OWNED, Ordinal.OWNER_READ_PUBEK)
def a_command_that_is_sent_twice(tpm: Script) -> None:
    auth = tpm.oiap(keep=True)
    tpm.call(READ_PUBEK, auth=[auth])
    # The nonce is another one now.
    tpm.raw(tpm.log[-1].command, code=RC.AUTHFAIL)
    _gone(tpm, auth)


@case(OWNED, Ordinal.OWNER_READ_PUBEK)
def sessions_that_are_continued_and_others(tpm: Script) -> None:
    for auth in (tpm.oiap(), tpm.osap_owner()):
        tpm.call(READ_PUBEK, auth=[auth])
        _gone(tpm, auth)
    for auth in (tpm.oiap(keep=True), tpm.osap_owner(keep=True)):
        tpm.call(READ_PUBEK, auth=[auth])
        tpm.call(READ_PUBEK, auth=[auth])
        _there(tpm, auth)


@case(OWNED, Ordinal.CERTIFY_KEY)
def one_session_in_both_blocks_that_is_continued(tpm: Script) -> None:
    signing, certified = tpm.load("sign"), tpm.load("sign-der")
    auth = tpm.oiap(USAGE_AUTH, keep=True)
    tpm.call(Ordinal.CERTIFY_KEY, signing, certified, DIGEST, auth=[auth, auth])
    # The second block is the later one, so its nonce is that of the session.
    tpm.call(Ordinal.SIGN, signing, DIGEST, auth=[auth])
    _there(tpm, auth)


# --- what a session is for ------------------------------------------------------------------------


@case(
    World.UNOWNED,
    Ordinal.DIR_WRITE_AUTH,
    Ordinal.DELEGATE_MANAGE,
    Ordinal.NV_READ_VALUE,
    Ordinal.NV_WRITE_VALUE,
    Ordinal.SET_CAPABILITY,
)
def sessions_of_an_owner_who_is_not_there(tpm: Script) -> None:
    read_pubek = (U32.write(4), b"\1")
    requests: tuple[tuple[Ordinal, Sequence[object]], ...] = (
        (Ordinal.DIR_WRITE_AUTH, (0, DIGEST)),
        (Ordinal.DELEGATE_MANAGE, (0, FamilyOperation.CREATE, b"f")),
        (Ordinal.NV_WRITE_VALUE, (NvIndex.DIR, 0, DIGEST)),
        (Ordinal.SET_CAPABILITY, (SetCapabilityArea.PERM_FLAGS, *read_pubek)),
    )
    for ordinal, values in requests:
        tpm.call(ordinal, *values, auth=[tpm.no_session()], code=RC.INVALID_AUTHHANDLE)
        tpm.call(ordinal, *values, auth=[tpm.oiap()], code=RC.AUTHFAIL)
    reading = (NvIndex.DIR, 0, 20)
    tpm.call(Ordinal.NV_READ_VALUE, *reading, auth=[tpm.no_session()], code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.OWNER_READ_PUBEK, Ordinal.DISABLE_PUBEK_READ)
def sessions_that_do_not_authorize_the_owner(tpm: Script) -> None:
    for ordinal in (READ_PUBEK, Ordinal.DISABLE_PUBEK_READ):
        tpm.call(ordinal, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
        tpm.call(ordinal, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
        tpm.call(ordinal, auth=[tpm.no_session()], code=RC.INVALID_AUTHHANDLE)
    # A transport session authorizes its own commands only, and ends for having been named.
    transport = tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    auth = Auth(transport.channel, transport.auth_data)
    tpm.call(READ_PUBEK, auth=[auth], code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.OSAP, Ordinal.TICK_STAMP_BLOB)
def sessions_bound_to_one_key(tpm: Script) -> None:
    stamp = Ordinal.TICK_STAMP_BLOB
    key, again, other = tpm.load("sign"), tpm.load("sign"), tpm.load("legacy")
    tpm.call(stamp, other, DIGEST, DIGEST, auth=[tpm.osap_key(key, USAGE_AUTH)], code=RC.AUTHFAIL)
    tpm.call(stamp, key, DIGEST, DIGEST, auth=[tpm.osap_owner()], code=RC.AUTHFAIL)
    # It is bound to the key, not to the handle.
    tpm.call(stamp, again, DIGEST, DIGEST, auth=[tpm.osap_key(key, USAGE_AUTH)])
    by_handle = tpm.osap(EntityType.KEYHANDLE, SRK, SRK_AUTH)
    by_name = tpm.osap(EntityType.SRK, 0, SRK_AUTH)
    for auth in (by_handle, by_name):
        tpm.call(Ordinal.LOAD_KEY2, SRK, tpm.wrapped("bind"), auth=[auth])


# --- when sessions end ----------------------------------------------------------------------------


@case(OWNED, Ordinal.FLUSH_SPECIFIC, Ordinal.EVICT_KEY)
def sessions_of_a_key_that_goes(tpm: Script) -> None:
    for flush in (True, False):
        key, again, other = tpm.load("sign"), tpm.load("sign"), tpm.load("bind")
        bound, same = tpm.osap_key(key, USAGE_AUTH), tpm.osap_key(again, USAGE_AUTH)
        free = tpm.oiap(USAGE_AUTH), tpm.osap_key(other, USAGE_AUTH), tpm.osap_owner()
        if flush:
            tpm.call(Ordinal.FLUSH_SPECIFIC, key, ResourceType.KEY)
        else:
            tpm.call(Ordinal.EVICT_KEY, key)
        # A session is bound to the key and not to its slot, so those of the copy end too.
        _gone(tpm, bound, same)
        _there(tpm, *free)


@case(OWNED, Ordinal.SAVE_CONTEXT, Ordinal.SAVE_KEY_CONTEXT)
def sessions_of_a_key_that_is_saved(tpm: Script) -> None:
    key = tpm.load("sign")
    auth = tpm.osap_key(key, USAGE_AUTH)
    tpm.run(tss12.save_context(key, ResourceType.KEY))
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[auth])
    auth = tpm.osap_key(key, USAGE_AUTH)
    blob = tpm.run(tss12.save_key_context(key))
    key = tpm.run(tss12.load_key_context(blob))
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[auth])


@case(OWNED, Ordinal.NV_DEFINE_SPACE)
def sessions_of_an_area_that_goes(tpm: Script) -> None:
    define = Ordinal.NV_DEFINE_SPACE
    for size in (8, 0):
        auth = tpm.osap_owner()
        tpm.call(define, _area(), tpm.encrypt(auth, AREA_AUTH), auth=[auth])
        bound = tpm.osap(EntityType.NV, AREA, AREA_AUTH)
        tpm.call(Ordinal.NV_WRITE_VALUE_AUTH, AREA, 0, b"x", auth=[bound])
        bound, free = tpm.osap(EntityType.NV, AREA, AREA_AUTH), tpm.oiap(AREA_AUTH)
        auth = tpm.osap_owner()
        tpm.call(define, _area(size), tpm.encrypt(auth, AREA_AUTH), auth=[auth])
        _gone(tpm, bound)
        _there(tpm, free)


@case(OWNED, Ordinal.RELEASE_COUNTER, Ordinal.RELEASE_COUNTER_OWNER)
def sessions_of_a_counter_that_goes(tpm: Script) -> None:
    for ordinal, secret in (
        (Ordinal.RELEASE_COUNTER, COUNTER_AUTH),
        (Ordinal.RELEASE_COUNTER_OWNER, OWNER_AUTH),
    ):
        _make_counter(tpm)
        bound, free = tpm.osap(EntityType.COUNTER, 0, COUNTER_AUTH), tpm.oiap(COUNTER_AUTH)
        tpm.call(ordinal, 0, auth=[tpm.oiap(secret)])
        _gone(tpm, bound)
        _there(tpm, free)


@case(OWNED, Ordinal.CHANGE_AUTH_OWNER)
def sessions_of_the_owner_whose_secret_changes(tpm: Script) -> None:
    bound, free, key = tpm.osap_owner(), tpm.oiap(), tpm.osap_key()
    auth = tpm.osap_owner(keep=True)
    secret = tpm.encrypt(auth, NEW_AUTH)
    tpm.call(Ordinal.CHANGE_AUTH_OWNER, 4, secret, EntityType.OWNER, auth=[auth])
    _gone(tpm, auth, bound)
    _there(tpm, free, key)


@case(OWNED, Ordinal.OWNER_CLEAR)
def sessions_of_an_owner_who_goes(tpm: Script) -> None:
    sessions = [tpm.oiap(), tpm.osap_owner(), tpm.osap_key()]
    transport = tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    saved = tpm.run(tss12.save_context(tpm.oiap().session.handle, ResourceType.AUTH))
    tpm.call(Ordinal.OWNER_CLEAR, auth=[tpm.oiap(keep=True)])
    tpm.capability(5, 0x10D)
    _gone(tpm, *sessions)
    handle = transport.channel.handle
    flush = Ordinal.FLUSH_SPECIFIC
    tpm.call(flush, handle, ResourceType.TRANS, code=RC.INVALID_AUTHHANDLE)
    count = int.from_bytes(saved[26:30], "big")
    tpm.call(flush, count, ResourceType.CONTEXT, code=RC.BAD_PARAMETER)


@case(OWNED, Ordinal.STARTUP)
def sessions_and_the_power(tpm: Script) -> None:
    auth = tpm.oiap(keep=True)
    tpm.power_cycle()
    _gone(tpm, auth)
    auth, bound = tpm.oiap(), tpm.osap_owner()
    tpm.call(Ordinal.SAVE_STATE)
    tpm.power_cycle(StartupType.STATE)
    for session in (auth, bound):
        tpm.call(READ_PUBEK, auth=[session])


@case(OWNED, Ordinal.RESET)
def sessions_and_a_reset(tpm: Script) -> None:
    key = tpm.load("sign")
    sessions = [tpm.oiap(), tpm.osap_owner(), tpm.osap_key()]
    transport = tpm.run(tss12.establish_transport(TransportAttributes(0), random=tpm.random))
    tpm.call(Ordinal.EXTEND, 3, DIGEST)
    tpm.call(Ordinal.RESET)
    _gone(tpm, *sessions)
    tpm.call(Ordinal.PCR_READ, 3)
    tpm.flags()
    tpm.run(tss12.through(transport, tss12.pcr_read(3)))
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])


@case(OWNED, Ordinal.CREATE_WRAP_KEY, Ordinal.CREATE_COUNTER, Ordinal.NV_DEFINE_SPACE)
def sessions_that_encrypted_a_secret(tpm: Script) -> None:
    wrapped = tpm.osap_key(keep=True)
    secrets = tpm.encrypt(wrapped, USAGE_AUTH), bytes(20)
    tpm.call(Ordinal.CREATE_WRAP_KEY, SRK, *secrets, KEYS["sign"], auth=[wrapped])
    counter = tpm.osap_owner(keep=True)
    tpm.call(Ordinal.CREATE_COUNTER, tpm.encrypt(counter, NEW_AUTH), b"abcd", auth=[counter])
    area = tpm.osap_owner(keep=True)
    tpm.call(Ordinal.NV_DEFINE_SPACE, _area(), tpm.encrypt(area, NEW_AUTH), auth=[area])
    sealing = tpm.osap_key(keep=True)
    tpm.call(Ordinal.SEAL, SRK, tpm.encrypt(sealing, NEW_AUTH), b"", b"data", auth=[sealing])
    hiding = tpm.osap_key(keep=True)
    tpm.call(Ordinal.SEALX, SRK, tpm.encrypt(hiding, NEW_AUTH), b"", b"data", auth=[hiding])
    _gone(tpm, wrapped, counter, area, sealing, hiding)


@case(OWNED, Ordinal.MAKE_IDENTITY, Ordinal.CHANGE_AUTH)
def two_sessions_one_of_which_encrypted_a_secret(tpm: Script) -> None:
    auth, entity = tpm.osap_key(keep=True), tpm.oiap(USAGE_AUTH, keep=True)
    values = (4, tpm.encrypt(auth, NEW_AUTH), EntityType.KEY, tpm.wrapped("sign").enc_data)
    tpm.call(Ordinal.CHANGE_AUTH, SRK, *values, auth=[auth, entity])
    _gone(tpm, auth, entity)
    srk, owner = tpm.oiap(SRK_AUTH, keep=True), tpm.osap_owner(keep=True)
    secret, template = tpm.encrypt(owner, NEW_AUTH), tss12.identity_template()
    tpm.call(Ordinal.MAKE_IDENTITY, secret, DIGEST, template, auth=[srk, owner])
    _gone(tpm, srk, owner)


# --- encrypted secrets ----------------------------------------------------------------------------


@case(OWNED, Ordinal.CREATE_COUNTER, Ordinal.NV_DEFINE_SPACE)
def secrets_of_the_owners_encrypted_with_aes(tpm: Script) -> None:
    owner = EntityType.OWNER, ReservedHandle.OWNER, OWNER_AUTH
    auth = tpm.osap(*owner, adip=AdipScheme.AES128_CTR)
    tpm.call(Ordinal.CREATE_COUNTER, _encrypt_aes(auth, COUNTER_AUTH), b"abcd", auth=[auth])
    tpm.call(Ordinal.INCREMENT_COUNTER, 0, auth=[tpm.oiap(COUNTER_AUTH)])
    auth = tpm.osap(*owner, adip=AdipScheme.AES128_CTR)
    tpm.call(Ordinal.NV_DEFINE_SPACE, _area(), _encrypt_aes(auth, AREA_AUTH), auth=[auth])
    tpm.call(Ordinal.NV_WRITE_VALUE_AUTH, AREA, 0, b"x", auth=[tpm.oiap(AREA_AUTH)])
    auth = tpm.osap(*owner, adip=AdipScheme.AES128_CTR)
    # What is encrypted in the wrong way becomes another secret.
    tpm.call(Ordinal.CREATE_COUNTER, tpm.encrypt(auth, NEW_AUTH), b"efgh", auth=[auth])
    release = Ordinal.RELEASE_COUNTER
    tpm.call(release, 1, auth=[tpm.oiap(NEW_AUTH)], code=RC.AUTHFAIL)


def _migrate(tpm: Script, key: Key) -> None:
    """Use the migration secret of a key."""
    target = tpm.wrapped("storage").public_key
    permission = tpm.run(
        tss12.authorize_migration_key(
            MigrationScheme.REWRAP, target, owner_auth=OWNER_AUTH, random=tpm.random
        )
    )
    tpm.run(
        tss12.create_migration_blob(
            SRK,
            key.enc_data,
            scheme=MigrationScheme.REWRAP,
            permission=permission,
            parent_auth=SRK_AUTH,
            migration_auth=MIGRATION_AUTH,
            random=tpm.random,
        )
    )


@case(OWNED, Ordinal.CREATE_WRAP_KEY)
def an_aes_counter_that_carries(tpm: Script) -> None:
    # nonceOdd is the initial counter of the second secret, whose last four bytes are the second
    # block.
    nonce = bytes(12) + b"\xff" * 4 + bytes(4)
    session = tpm.osap(EntityType.SRK, SRK, SRK_AUTH, adip=AdipScheme.AES128_CTR)
    auth = replace(session, nonce_odd=nonce)
    secrets = _encrypt_aes(auth, USAGE_AUTH), _encrypt_aes(auth, MIGRATION_AUTH, nonce=nonce)
    template = KEYS["sign-migratable"]
    made = tpm.call(Ordinal.CREATE_WRAP_KEY, SRK, *secrets, template, auth=[auth])
    _migrate(tpm, getattr(made, "wrapped_key", template))


@case(OWNED, Ordinal.CREATE_WRAP_KEY)
def both_secrets_of_a_key_encrypted(tpm: Script) -> None:
    for adip in AdipScheme:
        nonce = tpm.random.random(20)
        auth = replace(tpm.osap(EntityType.SRK, SRK, SRK_AUTH, adip=adip), nonce_odd=nonce)
        if adip is AdipScheme.XOR:
            first = tpm.encrypt(auth, USAGE_AUTH)
            second = tpm.encrypt(auth, MIGRATION_AUTH, nonce=nonce)
        else:
            first = _encrypt_aes(auth, USAGE_AUTH)
            second = _encrypt_aes(auth, MIGRATION_AUTH, nonce=nonce)
        template = KEYS["sign-migratable"]
        made = tpm.call(Ordinal.CREATE_WRAP_KEY, SRK, first, second, template, auth=[auth])
        key = getattr(made, "wrapped_key", template)
        handle = tpm.run(tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=tpm.random))
        tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
        _migrate(tpm, key)
