# SPDX-License-Identifier: Apache-2.0
"""Logs of transport sessions, and who signs them (Part 3, 24.3)."""

from __future__ import annotations

from typing import Final, TypeVar

from protocol.tpm12.constants import (
    EntityType,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.transport import TransportAttributes
from tests.conformance.cases_delegation import make_key_blob, new_family, open_dsap
from tests.conformance.cases_transport import ENCRYPT, LOG, NONE, open_transport, over
from tests.conformance.comparison import anything
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, SRK, USAGE_AUTH, Auth, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12
from tpmcore.tss12 import Conversation, TransportSession

T = TypeVar("T")

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED


@case(OWNED, Ordinal.RELEASE_TRANSPORT_SIGNED)
def a_log_is_signed(tpm: Script) -> None:
    session = open_transport(tpm, LOG)
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
        session = open_transport(tpm, attributes)
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
    session = open_transport(tpm, LOG)
    auth = [tpm.oiap(USAGE_AUTH), Auth(session.channel, session.auth_data)]
    release = Ordinal.RELEASE_TRANSPORT_SIGNED
    tpm.call(release, identity, DIGEST, auth=auth, code=RC.INVALID_KEYUSAGE)
    session = open_transport(tpm, LOG)
    auth = [Auth(session.channel, session.auth_data)]
    tpm.call(release, tpm.load("sign"), DIGEST, auth=auth, code=RC.AUTHFAIL)
    session = open_transport(tpm, LOG)
    auth = [Auth(session.channel, session.auth_data)]
    tpm.call(release, tpm.load("sign-open"), DIGEST, auth=auth)
    auth = [Auth(session.channel, session.auth_data)]
    tpm.call(release, tpm.load("sign-open"), DIGEST, auth=auth, code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.RELEASE_TRANSPORT_SIGNED, Ordinal.EXECUTE_TRANSPORT)
def a_log_of_every_kind_of_handle(tpm: Script) -> None:
    for attributes in (LOG, LOG | ENCRYPT):
        session = open_transport(tpm, attributes)
        names = ("sign", "sign-info-open", "storage-open")
        keys = {name: tpm.load(name) for name in names}
        for name, handle in keys.items():
            session.keys[handle] = tpm.wrapped(name).public_key
        for reserved in (SRK, ReservedHandle.EK):
            session.keys[reserved] = tpm.run(
                tss12.owner_read_internal_pub(reserved, owner_auth=OWNER_AUTH, random=tpm.random)
            )

        def inside(conversation: Conversation[T], session: TransportSession = session) -> T:
            # Contexts are the product's own business, and of another size.
            masks = {"wrapped_rsp": anything}
            return tpm.run(tss12.through(session, conversation), masks=masks)

        for locality in (0, 1):
            tpm.locality = locality
            inside(tss12.pcr_read(3))
        tpm.locality = 0
        # None, one and two keys; sessions; a handle that comes back; handles of other kinds.
        inside(
            tss12.certify_key(
                keys["sign"],
                keys["sign-info-open"],
                cert_auth=USAGE_AUTH,
                key_auth=USAGE_AUTH,
                random=tpm.random,
            )
        )
        bound = inside(tss12.osap_key(keys["sign"], USAGE_AUTH, random=tpm.random))
        inside(tss12.flush_specific(bound.handle, ResourceType.AUTH))
        loaded = inside(
            tss12.load_key2(SRK, tpm.wrapped("bind"), parent_auth=SRK_AUTH, random=tpm.random)
        )
        session.keys[loaded] = tpm.wrapped("bind").public_key
        blob = inside(tss12.save_context(loaded, ResourceType.KEY))
        again = inside(tss12.load_context(blob))
        session.keys[again] = session.keys[loaded]
        inside(tss12.flush_specific(again, ResourceType.KEY))
        inside(
            tss12.owner_read_internal_pub(
                ReservedHandle.EK, owner_auth=OWNER_AUTH, random=tpm.random
            )
        )
        session_handle = inside(tss12.oiap()).handle
        saved = inside(tss12.save_context(session_handle, ResourceType.AUTH))
        inside(tss12.terminate_handle(inside(tss12.load_context(saved))))
        inside(tss12.flush_specific(loaded, ResourceType.KEY))
        tpm.run(
            tss12.release_transport_signed(
                session,
                keys["sign-info-open"],
                tpm.wrapped("sign-info-open").public_key,
                anti_replay=DIGEST,
                key_auth=None,
            )
        )
        for handle in keys.values():
            tpm.run(tss12.flush_specific(handle, ResourceType.KEY))


@case(OWNED, Ordinal.RELEASE_TRANSPORT_SIGNED)
def logs_and_keys_that_are_not_there(tpm: Script) -> None:
    release = Ordinal.RELEASE_TRANSPORT_SIGNED

    def refused(handle: int, code: ReturnCode, key: Auth | None = None) -> None:
        session = tpm.run(tss12.establish_transport(LOG, random=tpm.random))
        auth = [key or tpm.oiap(USAGE_AUTH), Auth(session.channel, session.auth_data)]
        tpm.call(release, handle, DIGEST, auth=auth, code=code)
        # Its session ends whatever was wrong.
        over(tpm, session)

    refused(7, RC.INVALID_KEYHANDLE)
    refused(ReservedHandle.EK, RC.KEYNOTFOUND)
    refused(ReservedHandle.OWNER, RC.INVALID_RESOURCE)
    key, bound = tpm.load("sign"), tpm.load("sign-bound")
    refused(key, RC.INVALID_AUTHHANDLE, tpm.no_session())
    refused(key, RC.AUTHFAIL, tpm.osap_owner())
    # Its usage is judged after that there is a session for it, its scheme before.
    legacy, der = tpm.load("legacy"), tpm.load("sign-der")
    refused(legacy, RC.INVALID_KEYUSAGE)
    refused(legacy, RC.INVALID_AUTHHANDLE, tpm.no_session())
    refused(der, RC.INAPPROPRIATE_SIG, tpm.no_session())
    tpm.locality = 1
    refused(bound, RC.BAD_LOCALITY)
    tpm.locality = 0
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    refused(bound, RC.WRONGPCRVAL)
    # The transport session is looked for before anything else.
    auth = [tpm.oiap(USAGE_AUTH), tpm.no_session()]
    tpm.call(release, 7, DIGEST, auth=auth, code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.RELEASE_TRANSPORT_SIGNED)
def a_log_for_a_key_without_authorization(tpm: Script) -> None:
    release = Ordinal.RELEASE_TRANSPORT_SIGNED
    session = tpm.run(tss12.establish_transport(NONE, random=tpm.random))
    auth = [Auth(session.channel, session.auth_data)]
    tpm.call(release, tpm.load("sign-open"), DIGEST, auth=auth, code=RC.BAD_MODE)
    over(tpm, session)


@case(OWNED, Ordinal.RELEASE_TRANSPORT_SIGNED)
def a_log_with_one_wrong_session(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(LOG, random=tpm.random))
    auth = [Auth(session.channel, session.auth_data, spoil=True)]
    release = Ordinal.RELEASE_TRANSPORT_SIGNED
    tpm.call(release, tpm.load("sign-open"), DIGEST, auth=auth, code=RC.AUTHFAIL)
    over(tpm, session)


@case(OWNED, Ordinal.RELEASE_TRANSPORT_SIGNED)
def a_log_signed_for_a_delegate(tpm: Script) -> None:
    family, key = new_family(tpm), tpm.load("sign")
    for per1, code in ((0x1FFFFFFF & ~(1 << 20), RC.AUTHFAIL), (1 << 20, RC.SUCCESS)):
        blob = make_key_blob(tpm, key, family, per1).encode()
        delegate = open_dsap(tpm, EntityType.DEL_KEY_BLOB, blob, key=key)
        session = tpm.run(tss12.establish_transport(LOG, random=tpm.random))
        auth = [delegate, Auth(session.channel, session.auth_data)]
        tpm.call(Ordinal.RELEASE_TRANSPORT_SIGNED, key, DIGEST, auth=auth, code=code)


@case(OWNED, Ordinal.RELEASE_TRANSPORT_SIGNED)
def a_session_whose_log_is_signed_ends(tpm: Script) -> None:
    session = tpm.run(tss12.establish_transport(LOG, random=tpm.random))
    key_auth = tpm.oiap(USAGE_AUTH, keep=True)
    auth = [key_auth, Auth(session.channel, session.auth_data, keep=True)]
    tpm.call(Ordinal.RELEASE_TRANSPORT_SIGNED, tpm.load("sign"), DIGEST, auth=auth)
    over(tpm, session)
    # That of the key goes on, as it was asked to.
    tpm.call(Ordinal.TERMINATE_HANDLE, key_auth.session.handle)
