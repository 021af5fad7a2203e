# SPDX-License-Identifier: Apache-2.0
"""What every command that uses a key refuses alike: the handle, the key's binding, the session.

Each command is sent with everything else right, so that what is wrong alone decides. The rules are
those of the look-up of key handles and of the checks when a session is used, not of one chapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from protocol.tpm12.constants import (
    Algorithm,
    EncScheme,
    EntityType,
    NvAttributes,
    Ordinal,
    ReservedHandle,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.keys import KeyParms
from protocol.tpm12.pcr import PcrInfoShort, PcrSelection
from protocol.tpm12.resources import NvAttributesWord, NvDataPublic
from protocol.tpm12.stored import StoredData
from protocol.tpm12.transport import TransportPublic
from tests.conformance.machines import World
from tests.conformance.script import (
    DIGEST,
    KEYS,
    PCR_16,
    SRK,
    USAGE_AUTH,
    Auth,
    Chapter,
    Script,
)
from tests.unit.tpm12.world import SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
NOT_LOADED: Final = 0x00000055
BLOB_AUTH: Final = b"secret of the blob--"
_BLOB: Final = StoredData(False, 0, None, bytes(256))
_SELECTION: Final = PcrSelection.of([0])
_TRANSPORT: Final = TransportPublic(0, Algorithm.MGF1, EncScheme.NONE)
_EPHEMERAL: Final = KeyParms.for_rsa(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1, bits=1024)


@dataclass(slots=True)
class Keys:
    """The keys of one case: each is loaded once, since there are more uses than slots."""

    tpm: Script
    _handles: dict[str, int] = field(default_factory=dict)

    def handle(self, name: str) -> int:
        """Return the handle of a key of script.KEYS or IDENTITIES."""
        if name not in self._handles:
            self._handles[name] = self.tpm.load(name)
        return self._handles[name]


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a key by a command.

    Attributes:
        key: name of a key that serves, see script.KEYS.
        bound: name of such a key that is bound to PCR 16 being zero and to locality 0.
        values: the request's fields, of the keys and the handle.
        osap: whether the session must be an OSAP session.
        wrong: what a wrong HMAC of the key's session ends in.
        before, after: makes the other session of the command, if there is one.
    """

    ordinal: Ordinal
    key: str
    bound: str
    values: Callable[[Keys, int], Sequence[object]]
    osap: bool = False
    wrong: ReturnCode = RC.AUTHFAIL
    before: Callable[[Script], Auth] | None = None
    after: Callable[[Script], Auth] | None = None

    def send(self, keys: Keys, handle: int, auth: Auth, code: ReturnCode) -> None:
        """Send the command with a handle and the session of the key."""
        tpm = keys.tpm
        auths = [auth]
        if self.before is not None:
            auths.insert(0, self.before(tpm))
        if self.after is not None:
            auths.append(self.after(tpm))
        tpm.call(self.ordinal, *self.values(keys, handle), auth=auths, code=code)

    def session(self, tpm: Script, handle: int, *, spoil: bool = False) -> Auth:
        """Open a session for the key of a handle."""
        if self.osap:
            return tpm.osap_key(handle, USAGE_AUTH, spoil=spoil)
        return tpm.oiap(USAGE_AUTH, spoil=spoil)


def _other_key(tpm: Script) -> Auth:
    return tpm.oiap(USAGE_AUTH)


def _blob_session(tpm: Script) -> Auth:
    return tpm.oiap(BLOB_AUTH)


def _sealed(_keys: Keys, handle: int) -> Sequence[object]:
    return handle, bytes(20), b"", b"data"


def _certified_by_another(keys: Keys, handle: int) -> Sequence[object]:
    return keys.handle("sign"), handle, DIGEST


def _certified_by_another_in_the_new_form(keys: Keys, handle: int) -> Sequence[object]:
    return handle, keys.handle("sign"), bytes(20), DIGEST


USES: Final[tuple[Use, ...]] = (
    Use(Ordinal.SEAL, "storage", "storage-bound", _sealed, osap=True),
    Use(Ordinal.SEALX, "storage", "storage-bound", _sealed, osap=True),
    Use(
        Ordinal.UNSEAL,
        "storage",
        "storage-bound",
        lambda _keys, handle: (handle, _BLOB),
        after=_blob_session,
    ),
    Use(Ordinal.UNBIND, "bind", "bind-bound", lambda _keys, handle: (handle, bytes(128))),
    Use(
        Ordinal.CREATE_WRAP_KEY,
        "storage",
        "storage-bound",
        lambda _keys, handle: (handle, bytes(20), bytes(20), KEYS["sign"]),
        osap=True,
    ),
    Use(
        Ordinal.LOAD_KEY2,
        "storage",
        "storage-bound",
        lambda keys, handle: (handle, keys.tpm.wrapped("sign")),
    ),
    Use(Ordinal.GET_PUB_KEY, "sign", "sign-bound", lambda _keys, handle: (handle,)),
    Use(Ordinal.SIGN, "sign", "sign-bound", lambda _keys, handle: (handle, DIGEST)),
    Use(
        Ordinal.CERTIFY_KEY,
        "sign",
        "sign-bound",
        lambda keys, handle: (handle, keys.handle("bind"), DIGEST),
        after=_other_key,
    ),
    Use(
        Ordinal.CERTIFY_KEY,
        "sign",
        "sign-bound",
        _certified_by_another,
        wrong=RC.AUTH2FAIL,
        before=_other_key,
    ),
    Use(
        Ordinal.CERTIFY_KEY2,
        "sign",
        "sign-bound",
        _certified_by_another_in_the_new_form,
        after=_other_key,
    ),
    Use(
        Ordinal.CERTIFY_KEY2,
        "sign",
        "sign-bound",
        lambda keys, handle: (keys.handle("bind"), handle, bytes(20), DIGEST),
        wrong=RC.AUTH2FAIL,
        before=_other_key,
    ),
    Use(
        Ordinal.ACTIVATE_IDENTITY,
        "identity",
        "identity-bound",
        lambda _keys, handle: (handle, bytes(256)),
        # Its owner is judged first, and the codes follow that.
        wrong=RC.AUTH2FAIL,
        after=Script.oiap,
    ),
    Use(
        Ordinal.QUOTE,
        "sign",
        "sign-bound",
        lambda _keys, handle: (handle, DIGEST, _SELECTION),
    ),
    Use(
        Ordinal.QUOTE2,
        "sign",
        "sign-bound",
        lambda _keys, handle: (handle, DIGEST, _SELECTION, False),
    ),
    Use(
        Ordinal.CHANGE_AUTH,
        "storage",
        "storage-bound",
        lambda keys, handle: (
            handle,
            4,
            bytes(20),
            EntityType.KEY,
            keys.tpm.wrapped("sign").enc_data,
        ),
        osap=True,
        after=_other_key,
    ),
    Use(
        Ordinal.LOAD_KEY,
        "storage",
        "storage-bound",
        lambda keys, handle: (handle, keys.tpm.wrapped("sign")),
    ),
    Use(
        Ordinal.TICK_STAMP_BLOB,
        "sign",
        "sign-bound",
        lambda _keys, handle: (handle, DIGEST, DIGEST),
    ),
    Use(
        Ordinal.ESTABLISH_TRANSPORT,
        "storage",
        "storage-bound",
        lambda _keys, handle: (handle, _TRANSPORT, bytes(256)),
    ),
    Use(
        Ordinal.CHANGE_AUTH_ASYM_START,
        "identity",
        "identity-bound",
        lambda _keys, handle: (handle, DIGEST, _EPHEMERAL),
    ),
    Use(
        Ordinal.CHANGE_AUTH_ASYM_FINISH,
        "storage",
        "storage-bound",
        lambda keys, handle: (
            handle,
            keys.handle("sign"),
            EntityType.KEY,
            DIGEST,
            bytes(128),
            bytes(256),
        ),
    ),
)


@case(OWNED, *{use.ordinal for use in USES})
def keys_that_are_not_there(tpm: Script) -> None:
    keys = Keys(tpm)
    for use in USES:
        for handle, code in (
            (NOT_LOADED, RC.INVALID_KEYHANDLE),
            (ReservedHandle.EK, RC.KEYNOTFOUND),
            (ReservedHandle.OWNER, RC.INVALID_RESOURCE),
        ):
            # Whatever the session is: the handle is looked up first.
            use.send(keys, handle, tpm.osap_key(spoil=True), code)


@case(OWNED, *{use.ordinal for use in USES})
def keys_whose_pcrs_are_not_as_they_should_be(tpm: Script) -> None:
    keys = Keys(tpm)
    for use in USES:
        handle = keys.handle(use.bound)
        tpm.call(Ordinal.EXTEND, 16, DIGEST)
        use.send(keys, handle, use.session(tpm, handle), RC.WRONGPCRVAL)
        tpm.call(Ordinal.PCR_RESET, PCR_16)


@case(OWNED, *{use.ordinal for use in USES})
def keys_at_the_wrong_locality(tpm: Script) -> None:
    keys = Keys(tpm)
    for use in USES:
        handle = keys.handle(use.bound)
        tpm.locality = 1
        use.send(keys, handle, use.session(tpm, handle), RC.BAD_LOCALITY)
        tpm.locality = 0


@case(OWNED, *{use.ordinal for use in USES})
def keys_with_a_session_that_is_wrong(tpm: Script) -> None:
    keys = Keys(tpm)
    for use in USES:
        handle = keys.handle(use.key)
        use.send(keys, handle, tpm.no_session(USAGE_AUTH), RC.INVALID_AUTHHANDLE)
        if use.osap:
            use.send(keys, handle, tpm.oiap(USAGE_AUTH), RC.BAD_MODE)
        # Sessions of another key, and of another kind of entity.
        use.send(keys, handle, tpm.osap_key(SRK, SRK_AUTH), RC.AUTHFAIL)
        use.send(keys, handle, tpm.osap_owner(), RC.AUTHFAIL)
        use.send(keys, handle, use.session(tpm, handle, spoil=True), use.wrong)
        # Before the wrong HMACs are so many that they look like an attack.
        tpm.call(Ordinal.RESET_LOCK_VALUE, auth=[tpm.oiap()])


def _has_ended(tpm: Script, auth: Auth) -> None:
    handle, kind = auth.session.handle, ResourceType.AUTH
    tpm.call(Ordinal.FLUSH_SPECIFIC, handle, kind, code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.CREATE_WRAP_KEY, Ordinal.SEAL, Ordinal.SEALX, Ordinal.NV_DEFINE_SPACE)
def sessions_that_end_with_a_secret_that_was_sent(tpm: Script) -> None:
    word = NvAttributesWord(NvAttributes.OWNERWRITE)
    free = PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))
    area = NvDataPublic(0x00012345, free, free, word, False, False, False, 4)
    for ordinal, values in (
        (Ordinal.CREATE_WRAP_KEY, (SRK, bytes(20), bytes(20), KEYS["sign"])),
        (Ordinal.SEAL, (SRK, bytes(20), b"", b"data")),
        (Ordinal.SEALX, (SRK, bytes(20), b"", b"data")),
        (Ordinal.NV_DEFINE_SPACE, (area, bytes(20))),
    ):
        of_owner = ordinal is Ordinal.NV_DEFINE_SPACE
        auth = tpm.osap_owner(keep=True) if of_owner else tpm.osap_key(keep=True)
        tpm.call(ordinal, *values, auth=[auth])
        _has_ended(tpm, auth)
    owner, srk = tpm.osap_owner(keep=True), replace(tpm.oiap(SRK_AUTH), keep=True)
    template = tss12.identity_template()
    tpm.call(Ordinal.MAKE_IDENTITY, bytes(20), DIGEST, template, auth=[srk, owner])
    for auth in (srk, owner):
        _has_ended(tpm, auth)
    # A command without such a secret leaves it open.
    auth = tpm.osap_key(keep=True)
    tpm.call(Ordinal.LOAD_KEY2, SRK, tpm.wrapped("sign"), auth=[auth])
    tpm.call(Ordinal.FLUSH_SPECIFIC, auth.session.handle, ResourceType.AUTH)
